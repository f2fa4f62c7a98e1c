"""One step on one device: apply the plan to the slots, run the model, sample, answer.

Nothing here waits for the device: it is asked for one thing after the other, and what the host wants to know of a step
is fetched behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ramify.layers.batch import Batch
from ramify.memory.kv import KVCache
from ramify.ops.attention import AttentionBackend
from ramify.ops.kernels import Kernels
from ramify.ops.modes import Modes, OneMode
from ramify.ops.recording import Capturer, Recorder
from ramify.sampling.adjust import Adjust, Drawn
from ramify.sampling.logprobs import BLOCK, score
from ramify.sampling.sampler import Sampled
from ramify.wire.masks import Masks
from ramify.wire.plan import Plan, Row
from ramify.worker.adapters import Adapters, NoAdapters
from ramify.worker.captured import CapturedForward
from ramify.worker.forward import Forward, Model
from ramify.worker.inputs import Inputs, each_alone, make_inputs
from ramify.worker.outcome import Left, News, Outcome, Scored
from ramify.worker.pooling import NoPooler, Pooler
from ramify.worker.slots import Held, Slots
from ramify.worker.widths import as_wide, sample_each, words_for


@dataclass(frozen=True)
class Forwarded:
    """A step between forward pass and sampling. `logits_SV` are of every position that samples, row by row."""

    plan: Plan
    inputs: Inputs | None = None
    logits_SV: Tensor | None = None
    left: Left = field(default_factory=Left)


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
        capturer: Capturer | None = None,
        modes: Modes | None = None,
    ) -> None:
        self.model = model
        self.adapters, self._modes, pages = adapters or NoAdapters(), modes or OneMode(), slots.tables[0].shape[1]
        self._hidden: Forward | CapturedForward = (
            Forward(model, attention, recorder, pages, self.adapters)
            if capturer is None
            else CapturedForward(model, attention, capturer, pages, self.adapters, self._modes)
        )
        self._spare, self._closing = self._hidden.spare, self._hidden.close
        self._pooler = pooler or NoPooler()
        self._kernels = kernels
        self._staging = slots.staging
        self._adjust = Adjust(slots.sampling, slots.tokens, kernels, slots.staging)
        self.pool = pool
        self.slots = slots
        self.attention = attention

    # -- forward -----------------------------------------------------------------------------------------------------

    def forward(self, plan: Plan) -> Forwarded:
        """Everything up to the logits."""
        self._apply(plan)
        if not plan.rows:
            return Forwarded(plan)
        self.slots.write(plan.rows)
        self._modes.use(plan.invariant)
        inputs = make_inputs(plan.rows, self.slots, self.pool, self.attention, self._spare(plan.rows))
        batch = inputs.batch
        hidden_TD = self._hidden(batch)
        logits_SV = self._logits(plan, batch, hidden_TD)
        held = [self.slots.held[row.slot] for row in plan.rows]
        left = Left(held, inputs.ends_N, quiet=[index for index, row in enumerate(plan.rows) if not row.sample])
        if left.quiet:
            # The last position is enough: it attends to all before it, and one NaN in K or V of any reaches it.
            left.finite_Q = self._last(hidden_TD, plan.rows, batch, left.quiet).isfinite().all(-1)
        left.scored = self._score_prompts(plan, batch, hidden_TD)
        ends = zip(plan.rows, batch.starts, batch.lengths, strict=False)
        left.pooled = self._pooler.step(plan, [(start, end - row.count) for row, start, end in ends], hidden_TD)
        left.hidden = self._asked_for(plan, batch, hidden_TD)
        return Forwarded(plan, inputs, logits_SV, left)

    def _apply(self, plan: Plan) -> None:
        """Slots and pages, before anything of this step is written."""
        self.always(plan)
        if plan.opened:
            self.slots.open(plan.opened)
            for new in plan.opened:
                self._pooler.open(new)
        self.slots.grant(plan.grants)
        for group, pool in enumerate(self.pool.pools) if plan.copies else ():
            copies = [(copy.source, copy.target) for copy in plan.copies if copy.group == group]
            if copies:
                pool.copy(*self._staging.send(*np.array(copies).T))

    def always(self, plan: Plan) -> None:
        """Slots that a plan gives up and adapters that it moves, which it does whatever becomes of the rest of it."""
        for slot in plan.closed:
            self._close(slot)
        if plan.moved:
            self.adapters.move(plan.moved)

    def _close(self, slot: int) -> None:
        held = self.slots.held.get(slot)
        if held is not None:
            self._wipe(held)
        self.slots.close(slot)
        self._pooler.close(slot)

    def _wipe(self, held: Held) -> None:
        """Pages of a request that went wrong must not carry NaN to the next: see `KVPool`."""
        if held.broken_from is None:
            return
        first, size = held.broken_from, self.slots.page_size
        for pool, pages in zip(self.pool.pools, held.pages, strict=False):
            if pages[first // size :]:
                (others_N,) = self._staging.send(np.array(pages[first // size + 1 :], dtype=np.int64))
                pool.wipe(pages[first // size], first % size, others_N)

    def _last(self, hidden_TD: Tensor, rows: Sequence[Row], batch: Batch, which: Sequence[int]) -> Tensor:
        """Hidden states of the last positions of some rows."""
        return self._taken(hidden_TD, [batch.starts[index] + rows[index].count - 1 for index in which])

    def _taken(self, hidden_TD: Tensor, at: list[int]) -> Tensor:
        if at == list(range(len(at))):
            return hidden_TD[: len(at)]
        (at_S,) = self._staging.send(np.array(at))
        return hidden_TD[at_S]

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
        if batch.runs is not None:
            held = [self.slots.held[row.slot] for row in plan.rows if row.sample for _ in range(len(row.drafts) + 1)]
            self.adapters.compute(each_alone([each.adapter for each in held], self._staging))
        return self.model.logits(self._taken(hidden_TD, at)).float()

    def _score_prompts(self, plan: Plan, batch: Batch, hidden_TD: Tensor) -> dict[int, Scored]:
        scored = {}
        for index, row in enumerate(plan.rows):
            if row.logprobs_from >= 0:
                held = self.slots.held[row.slot]
                scored[index] = self._score_prompt(row, held, batch.starts[index], batch.lengths[index], hidden_TD)
        return scored

    def _score_prompt(self, row: Row, held: Held, start: int, length: int, hidden_TD: Tensor) -> Scored:
        """Token t is scored by the hidden state at t - 1; a block of states at a time. Prompts have exact lengths."""
        assert held.wants is not None
        first, last = row.logprobs_from, min(length, held.prompt_len - 1)
        offset = start - (length - row.count) - 1  # token index -> row of hidden_TD that predicts it
        scored, widths = Scored(first, held.wants, []), self.adapters.widths([held.adapter])
        for block in range(first, last + 1, BLOCK):
            end = min(block + BLOCK, last + 1)
            if held.adapter >= 0:
                self.adapters.compute(each_alone([held.adapter] * (end - block), self._staging))
            elif self.slots.adapted:
                self.adapters.compute(None)
            logits = as_wide(self.model.logits(hidden_TD[offset + block : offset + end]), widths, 0)
            tokens = self.slots.tokens[row.slot, block:end]
            scored.parts.append(score(logits, tokens, held.wants, self._kernels, self._staging))
        return scored

    def _asked_for(self, plan: Plan, batch: Batch, hidden_TD: Tensor) -> dict[int, Tensor]:
        """Hidden states that somebody wants to see, by row: its last ones."""
        found = {}
        for index, row in enumerate(plan.rows) if self.slots.telling else ():
            wanted, end = self.slots.held[row.slot].hidden_from, batch.lengths[index]
            count = min(row.count, end - wanted)
            if wanted >= 0 and count > 0:
                last = batch.starts[index] + row.count
                found[index] = hidden_TD[last - count : last]
        return found

    # -- sample ------------------------------------------------------------------------------------------------------

    def sample(self, forwarded: Forwarded, masks: Masks | None = None) -> Outcome:
        """Tokens of the step; slots learn them before the next step reads its inputs."""
        plan, inputs, left = forwarded.plan, forwarded.inputs, forwarded.left
        if inputs is None:
            return Outcome(plan, left, self._staging)
        for row, held in zip(plan.rows, left.held, strict=True):
            held.bound += row.count
        if forwarded.logits_SV is None:
            self.slots.lengths[inputs.slots_N] = inputs.ends_N
        else:
            self._sample(plan, inputs, forwarded.logits_SV, masks, left)
        return Outcome(plan, left, self._staging)

    def learn(self, news: News) -> None:
        """What the host has learned of a step, maybe after it had asked for later ones."""
        for slot, held, position in news.faults:
            held.broken_from = position if held.broken_from is None else min(held.broken_from, position)
            if self.slots.held.get(slot) is not held:
                self._wipe(held)  # it was given up meanwhile; its pages are nobody's until this step is settled
        for held, count in news.refused:
            held.bound -= count

    def close(self) -> None:
        self._closing()

    def _sample(self, plan: Plan, inputs: Inputs, logits_SV: Tensor, masks: Masks | None, left: Left) -> None:
        """Rows may have drafts: each of them is a position that samples, and so is the one behind the last."""
        drawn, first_of = self._drawn(plan, inputs)
        self._adjust(logits_SV, drawn)
        if masks is not None:
            # A mask is for one position. Guesses of a guided row would each need their own.
            assert not any(plan.rows[index].drafts for index in masks.rows), "a masked row has drafts"
            (rows_M,) = self._staging.send(np.array([first_of[index] for index in masks.rows]))
            (words_MW,) = self._staging.send(words_for(masks.words, logits_SV.shape[1]).view(np.int32))
            self._kernels.forbid(logits_SV, rows_M, words_MW)
        draws = not self.slots.sampling.drawing.isdisjoint(drawn.slots)
        widths = self.adapters.widths([self.slots.held[slot].adapter for slot in drawn.slots])
        sampled = sample_each(logits_SV, widths, self.slots.sampling, drawn, draws, self._kernels, self._staging)
        self.slots.tokens[drawn.slots_R, drawn.positions_R] = sampled.tokens_R
        self.slots.lengths[inputs.slots_N] = self._lengths(plan, inputs, first_of, sampled.tokens_R)
        left.tokens_S, left.broken_S = sampled.tokens_R, sampled.broken_R
        self._score_outputs(plan, first_of, sampled, widths, left)

    def _drawn(self, plan: Plan, inputs: Inputs) -> tuple[Drawn, dict[int, int]]:
        """Positions that sample, and where those of each row begin among them."""
        places: list[tuple[int, int]] = []  # row, and how far from its end
        first_of: dict[int, int] = {}
        for index, row in enumerate(plan.rows):
            if row.sample:
                first_of[index] = len(places)
                places += [(index, ahead - len(row.drafts)) for ahead in range(len(row.drafts) + 1)]
        row_S, ahead_S = self._staging.send(*np.array(places).T)
        slots = [plan.rows[index].slot for index, _ in places]
        bounds = [inputs.batch.lengths[index] + ahead for index, ahead in places]
        return Drawn(slots, bounds, inputs.slots_N[row_S], inputs.ends_N[row_S] + ahead_S), first_of

    def _lengths(self, plan: Plan, inputs: Inputs, first_of: dict[int, int], tokens_S: Tensor) -> Tensor:
        """Of the requests after this step. Drafts stand as long as each is what was drawn in its place."""
        most = max(len(row.drafts) for row in plan.rows)
        if not most:
            return inputs.ends_N
        place_NK, draft_NK = np.zeros((2, len(plan.rows), most), dtype=np.int64)
        draft_NK -= 1  # is never drawn
        for index, row in enumerate(plan.rows):
            place_NK[index, : len(row.drafts)] = first_of.get(index, 0) + np.arange(len(row.drafts))
            draft_NK[index, : len(row.drafts)] = row.drafts
        drafts = np.array([len(row.drafts) for row in plan.rows])
        place, draft, drafts_N = self._staging.send(place_NK, draft_NK, drafts)
        right_N = (tokens_S[place] == draft).long().cumprod(1).sum(1)
        return inputs.ends_N - drafts_N + right_N

    def _score_outputs(
        self, plan: Plan, first_of: dict[int, int], sampled: Sampled, widths: list[int] | None, left: Left
    ) -> None:
        for index, first in first_of.items():
            row = plan.rows[index]
            wants = self.slots.held[row.slot].wants
            if wants is not None:
                span = slice(first, first + len(row.drafts) + 1)
                tokens, logits = sampled.tokens_R[span], as_wide(sampled.scaled(span), widths, first)
                left.outputs[index] = (wants, score(logits, tokens, wants, self._kernels, self._staging))
