"""One step on one device: apply the plan to the slots, run the model, sample, answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ramify.layers.batch import Batch
from ramify.memory.kv import KVCache
from ramify.ops.attention import AttentionBackend
from ramify.ops.kernels import Kernels
from ramify.ops.recording import Recorder
from ramify.sampling.adjust import adjust
from ramify.sampling.logprobs import BLOCK, join, score
from ramify.sampling.masks import forbid
from ramify.sampling.sampler import Sampled
from ramify.wire.masks import Masks
from ramify.wire.plan import Plan, Row
from ramify.wire.result import HiddenStates, RowLogprobs, StepResult, TokenLogprobs
from ramify.worker.adapters import Adapters, NoAdapters
from ramify.worker.forward import Forward, Model
from ramify.worker.inputs import each_alone, make_batch
from ramify.worker.pooling import NoPooler, Pooler, as_bytes, not_finite
from ramify.worker.slots import Slots
from ramify.worker.widths import sample_each

Hidden = tuple[int, Tensor]  # from which position on, [P, D]
NOT_FINITE = "the model produced NaN or infinite logits for this request"


@dataclass(frozen=True)
class Forwarded:
    """A step between forward pass and sampling. `prompt` holds scored prompt tokens by row."""

    plan: Plan
    batch: Batch | None
    logits_SV: Tensor | None  # of every position that samples, row by row
    prompt: dict[int, TokenLogprobs]
    hidden: dict[int, Hidden] = field(default_factory=dict)
    silent: dict[int, Tensor] = field(default_factory=dict)  # last hidden state of rows that do not sample
    pooled: dict[int, Tensor] = field(default_factory=dict)  # what the model's head gave, by row


class Runner:
    """Owns the slots and the pool; one thread runs it, in the order of the plans."""

    def __init__(
        self,
        model: Model,
        pool: KVCache,
        slots: Slots,
        attention: AttentionBackend,
        kernels: Kernels,
        recorder: Recorder | None = None,
        pooler: Pooler | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        self.model = model
        self.adapters = adapters or NoAdapters()
        self._hidden = Forward(model, attention, recorder, slots.tables[0].shape[1], self.adapters)
        self._pooler = pooler or NoPooler()
        self._kernels = kernels
        self.pool = pool
        self.slots = slots
        self.attention = attention

    # -- forward -----------------------------------------------------------------------------------------------------

    def forward(self, plan: Plan) -> Forwarded:
        """Everything up to the logits."""
        self._apply(plan)
        if not plan.rows:
            return Forwarded(plan, None, None, {})
        for row in plan.rows:
            if row.drafts or row.given:
                self._write_known(row)
        batch = make_batch(plan.rows, self.slots, self.pool, self.attention)
        hidden_TD = self._hidden(batch)
        silent = {i: hidden_TD[batch.starts[i] + row.count - 1] for i, row in enumerate(plan.rows) if not row.sample}
        logits_SV, prompts = self._logits(plan, batch, hidden_TD), self._score_prompts(plan, batch, hidden_TD)
        ends = zip(plan.rows, batch.starts, batch.lengths, strict=True)
        pooled = self._pooler.step(plan, [(start, end - row.count) for row, start, end in ends], hidden_TD)
        return Forwarded(plan, batch, logits_SV, prompts, self._asked_for(plan, batch, hidden_TD), silent, pooled)

    def _apply(self, plan: Plan) -> None:
        """Slots and pages, before anything of this step is written."""
        self.always(plan)
        for new in plan.opened:
            self.slots.open(new)
            self._pooler.open(new)
        for grant in plan.grants:
            self.slots.grant(grant)
        for group, pool in enumerate(self.pool.pools) if plan.copies else ():
            copies = [copy for copy in plan.copies if copy.group == group]
            pool.copy([copy.source for copy in copies], [copy.target for copy in copies])

    def always(self, plan: Plan) -> None:
        """Slots that a plan gives up and adapters that it moves, which it does whatever becomes of the rest of it."""
        for slot in plan.closed:
            self._close(slot)
        if plan.moved:
            self.adapters.move(plan.moved)

    def _close(self, slot: int) -> None:
        """Pages of a request that went wrong must not carry NaN to the next: see `KVPool`."""
        held = self.slots.held.get(slot)
        if held is not None and held.broken_from is not None:
            for group, pool in enumerate(self.pool.pools):
                pages = self.slots.pages_from(slot, held.broken_from, group)
                if pages:
                    pool.wipe(pages, held.broken_from % self.slots.page_size)
        self.slots.close(slot)
        self._pooler.close(slot)

    def _write_known(self, row: Row) -> None:
        """What the host gives stands behind the last token of the slot; guesses follow until they are verified."""
        known = (*row.given, *row.drafts)
        first = int(self.slots.lengths[row.slot]) + row.count - len(known)
        self.slots.tokens[row.slot, first : first + len(known)] = torch.tensor(known)

    def _logits(self, plan: Plan, batch: Batch, hidden_TD: Tensor) -> Tensor | None:
        """fp32 logits of the last position of each row that samples, and of its drafts."""
        at = [
            batch.starts[index] + row.count - 1 - back
            for index, row in enumerate(plan.rows)
            if row.sample
            for back in range(len(row.drafts), -1, -1)
        ]
        if not at:
            return None
        if batch.runs_N3 is not None:
            slots = [row.slot for row in plan.rows if row.sample for _ in range(len(row.drafts) + 1)]
            self.adapters.compute(each_alone(self.slots.adapters[slots]))
        return self.model.logits(hidden_TD[at]).float()

    def _score_prompts(self, plan: Plan, batch: Batch, hidden_TD: Tensor) -> dict[int, TokenLogprobs]:
        scored = {}
        for index, row in enumerate(plan.rows):
            if row.logprobs_from >= 0:
                scored[index] = self._score_prompt(row, batch.starts[index], batch.lengths[index], hidden_TD)
        return scored

    def _score_prompt(self, row: Row, start: int, length: int, hidden_TD: Tensor) -> TokenLogprobs:
        """Token t is scored by the hidden state at t - 1; a block of states at a time."""
        held = self.slots.held[row.slot]
        assert held.wants is not None
        first, last = row.logprobs_from, min(length, held.prompt_len - 1)
        offset = start - (length - row.count) - 1  # token index -> row of hidden_TD that predicts it
        parts, widths = [], self.adapters.widths(self.slots.adapters[[row.slot]])
        width = None if widths is None else widths[0]
        for block in range(first, last + 1, BLOCK):
            end = min(block + BLOCK, last + 1)
            if self.slots.adapted:
                self.adapters.compute(each_alone(self.slots.adapters[[row.slot]].expand(end - block)))
            logits = self.model.logits(hidden_TD[offset + block : offset + end])[:, :width]
            parts.append(score(logits, self.slots.tokens[row.slot, block:end], held.wants, block))
        return join(parts)

    def _asked_for(self, plan: Plan, batch: Batch, hidden_TD: Tensor) -> dict[int, Hidden]:
        """Hidden states that somebody wants to see, by row."""
        found: dict[int, Hidden] = {}
        for index, row in enumerate(plan.rows) if self.slots.telling else ():
            wanted, end = self.slots.held[row.slot].hidden_from, batch.lengths[index]
            count = min(row.count, end - wanted)
            if wanted >= 0 and count > 0:
                last = batch.starts[index] + row.count
                found[index] = (end - count, hidden_TD[last - count : last])
        return found

    # -- sample ------------------------------------------------------------------------------------------------------

    def sample(self, forwarded: Forwarded, masks: Masks | None = None) -> StepResult:
        """Tokens of the step; slots learn them before the next step reads its inputs."""
        plan, batch = forwarded.plan, forwarded.batch
        tickets = [copy.ticket for copy in plan.copies]
        if batch is None:
            return StepResult(plan.step, [], {}, tickets, {})
        hidden = {index: _as_bytes(*states) for index, states in forwarded.hidden.items()}
        tokens: list[list[int]] = [[] for _ in plan.rows]
        logprobs = {index: RowLogprobs(prompt=found) for index, found in forwarded.prompt.items()}
        faults = self._broken_chunks(forwarded.silent, plan, batch)
        faults |= dict.fromkeys(not_finite(forwarded.pooled), NOT_FINITE)
        if forwarded.logits_SV is not None:
            self._sample(plan, batch, forwarded.logits_SV, masks, tokens, logprobs, faults)
        ends = [
            end - len(row.drafts) + max(len(given) - 1, 0)
            for row, end, given in zip(plan.rows, batch.lengths, tokens, strict=True)
        ]
        self.slots.lengths[[row.slot for row in plan.rows]] = torch.tensor(ends)
        return StepResult(plan.step, tokens, logprobs, tickets, faults, hidden, as_bytes(forwarded.pooled))

    def _broken_chunks(self, silent: dict[int, Tensor], plan: Plan, batch: Batch) -> dict[int, str]:
        """Pieces of prompts that went wrong. A piece that is right is published at once, so each has to be looked at.

        Its last position is enough: that attends to all before it, and one NaN in K or V of any of them reaches it.
        """
        faults = {}
        for index, hidden_D in silent.items():
            if not bool(hidden_D.isfinite().all()):
                faults[index] = NOT_FINITE
                self._break(plan.rows[index], batch.lengths[index])
        return faults

    def _sample(
        self,
        plan: Plan,
        batch: Batch,
        logits_SV: Tensor,
        masks: Masks | None,
        tokens: list[list[int]],
        logprobs: dict[int, RowLogprobs],
        faults: dict[int, str],
    ) -> None:
        rows = [
            (index, row, batch.lengths[index] - len(row.drafts) + ahead)
            for index, row in enumerate(plan.rows)
            if row.sample
            for ahead in range(len(row.drafts) + 1)
        ]
        if self.slots.sampling.special:
            for at, (_, row, position) in enumerate(rows):
                special = self.slots.sampling.special.get(row.slot)
                if special is not None:
                    adjust(logits_SV[at], special, self.slots.outputs(row.slot, position))
        if masks is not None:
            # A mask is for one position. Guesses of a guided row would each need their own.
            assert not any(plan.rows[index].drafts for index in masks.rows), "a masked row has drafts"
            place = {index: at for at, (index, _, _) in enumerate(rows)}
            forbid(logits_SV, [place[row] for row in masks.rows], masks.words)
        slots_S = torch.tensor([row.slot for _, row, _ in rows])
        positions_S = torch.tensor([position for _, _, position in rows])
        widths_S = self.adapters.widths(self.slots.adapters[slots_S]) if self.slots.adapted else None
        sampled = sample_each(logits_SV, widths_S, self.slots.sampling, slots_S, positions_S, self._kernels)
        drawn, broken = sampled.tokens_R.tolist(), sampled.broken_R.tolist()
        self.slots.tokens[slots_S, positions_S] = sampled.tokens_R
        first_of: dict[int, int] = {}
        for at, (index, row, _) in enumerate(rows):
            first = first_of.setdefault(index, at)
            if broken[at]:
                faults[index] = NOT_FINITE
                self._break(row, batch.lengths[index])
            if _still_right(row.drafts, drawn, first, at):
                tokens[index].append(drawn[at])
        self._score_outputs(plan, rows, first_of, sampled, widths_S, tokens, logprobs)

    def _break(self, row: Row, end: int) -> None:
        held = self.slots.held[row.slot]
        first = end - row.count
        held.broken_from = first if held.broken_from is None else min(first, held.broken_from)

    def _score_outputs(
        self,
        plan: Plan,
        rows: list[tuple[int, Row, int]],
        first_of: dict[int, int],
        sampled: Sampled,
        widths_S: list[int] | None,
        tokens: list[list[int]],
        logprobs: dict[int, RowLogprobs],
    ) -> None:
        for index, first in first_of.items():
            wants = self.slots.held[plan.rows[index].slot].wants
            if wants is None:
                continue
            span = slice(first, first + len(tokens[index]))
            width = None if widths_S is None else widths_S[first]
            found = score(sampled.scaled(span)[:, :width], sampled.tokens_R[span], wants, rows[first][2])
            prompt = logprobs[index].prompt if index in logprobs else None
            logprobs[index] = RowLogprobs(prompt, found)


def _as_bytes(start: int, states_PD: Tensor) -> HiddenStates:
    return HiddenStates(start, len(states_PD), states_PD.float().cpu().numpy().astype("<f4").tobytes())


def _still_right(drafts: tuple[int, ...], drawn: list[int], first: int, at: int) -> bool:
    """A token counts as long as every draft before it was what was drawn there: sampling is not changed by guessing."""
    return all(drawn[first + k] == drafts[k] for k in range(at - first))
