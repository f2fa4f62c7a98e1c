"""A generation in the shape of SGLang's `/generate`: for the native route and for `Engine`."""

from __future__ import annotations

import base64
import sys
import time
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from ramify.core.errors import BadRequest
from ramify.engine.generation import Generation
from ramify.text.tokenizer import Tokenizer
from ramify.wire.plan import LogprobsWanted
from ramify.wire.result import TokenLogprobs, join

Scored = list[Any]  # [log probability or None, token id, text or None]


@dataclass(frozen=True)
class Flat:
    """Which top log probabilities come as flat lists of one number after the other, and whether in base64."""

    prompt: bool = False
    output: bool = False
    b64: bool = False

    def __post_init__(self) -> None:
        if self.b64 and not (self.prompt or self.output):
            raise BadRequest(
                "return_flat_raw_top_logprobs_b64 requires return_flat_raw_top_logprobs",
                param="return_flat_raw_top_logprobs_b64",
            )


class Shape:
    """How much of a generation is shown: `text_in_logprobs` spells the tokens out, `prompt_ids` shows the prompt's."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        weight_version: str,
        text_in_logprobs: bool = False,
        flat: Flat = Flat(),
        prompt_ids: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._weight_version = weight_version
        self._spell = text_in_logprobs
        self._flat = flat
        self._prompt_ids = prompt_ids

    def whole(self, generation: Generation) -> dict[str, Any]:
        """Everything so far."""
        return self.part(generation, 0, len(generation.ids), generation.text)

    def part(self, generation: Generation, first: int, last: int, text: str) -> dict[str, Any]:
        """Output tokens from `first` to `last`, with `text`; what is said of the prompt comes with the first."""
        shown: dict[str, Any] = {"text": text} if self._tokenizer is not None else {}
        shown["output_ids"] = generation.ids[first:last]
        if self._prompt_ids and first == 0 and not generation.submit.vectors:
            shown["prompt_token_ids"] = generation.submit.tokens
        shown["meta_info"] = self.meta(generation, first, last)
        return shown

    def meta(self, generation: Generation, first: int, last: int) -> dict[str, Any]:
        """`meta_info` of SGLang 0.5."""
        finish = generation.finish if last == len(generation.ids) else None
        meta: dict[str, Any] = {
            "id": generation.submit.rid,
            "finish_reason": finish.to_sglang() if finish else None,
            "prompt_tokens": generation.prompt_tokens,
            "weight_version": self._weight_version,
            "num_retractions": generation.preempted,
            "completion_tokens": last,
            "cached_tokens": generation.cached,
            "reasoning_tokens": 0,
        }
        wants = generation.submit.logprobs
        if wants is not None:
            meta |= self._logprobs(generation, wants, first, last)
        if finish is not None:
            meta |= timing(generation)
            meta["cached_tokens_details"] = {"device": generation.cached, "host": 0}
            if generation.submit.hidden is not None:
                meta["hidden_states"] = hidden_states(generation)
        return meta

    def _logprobs(self, generation: Generation, wants: LogprobsWanted, first: int, last: int) -> dict[str, Any]:
        of_prompt = self._prompt_logprobs(generation, wants) if first == 0 else {"input_token_logprobs": []}
        return {**of_prompt, **self._output_logprobs(generation, wants, first, last)}

    def _prompt_logprobs(self, generation: Generation, wants: LogprobsWanted) -> dict[str, Any]:
        prompt = generation.prompt_logprobs
        shown: dict[str, Any] = {"input_token_logprobs": self._prompt(generation, wants, prompt)}
        if wants.top and self._flat.prompt:
            shown |= self._flattened("input", prompt, wants.start == 0, slice(None), wants.top)
        elif wants.top:
            shown["input_top_logprobs"] = self._led(wants, self._tops(prompt, None, None))
        if wants.ids:
            shown["input_token_ids_logprobs"] = self._led(wants, self._chosen(prompt, wants, None, None))
        return shown

    def _output_logprobs(self, generation: Generation, wants: LogprobsWanted, first: int, last: int) -> dict[str, Any]:
        output = generation.output_logprobs or TokenLogprobs(0, [])
        shown: dict[str, Any] = {
            "output_token_logprobs": self._pairs(output.values[first:last], generation.ids[first:last]),
            "output_token_logprobs_length": last - first,
        }
        if wants.top and self._flat.output:
            shown |= self._flattened("output", output, False, slice(first, last), wants.top)
        elif wants.top:
            shown["output_top_logprobs"] = self._tops(output, first, last)
        if wants.ids:
            shown["output_token_ids_logprobs"] = self._chosen(output, wants, first, last)
        return shown

    def _prompt(self, generation: Generation, wants: LogprobsWanted, scored: TokenLogprobs | None) -> list[Scored]:
        """Scored prompt tokens; the very first token of a prompt follows nothing and has no log probability."""
        if wants.start < 0:
            return []
        values: list[float | None] = list(scored.values) if scored is not None else []
        if wants.start == 0:
            values.insert(0, None)
        return self._pairs(values, generation.submit.tokens[wants.start :])

    def _led(self, wants: LogprobsWanted, lists: list[Any]) -> list[Any]:
        return [None, *lists] if wants.start == 0 else lists

    def _pairs(self, values: Any, ids: list[int]) -> list[Scored]:
        return [[value, token, self._text(token)] for value, token in zip(values, ids, strict=False)]

    def _tops(self, scored: TokenLogprobs | None, first: int | None, last: int | None) -> list[list[Scored]]:
        if scored is None:
            return []
        rows = zip(scored.top_values[first:last], scored.top_ids[first:last], strict=True)
        return [self._pairs(values, ids) for values, ids in rows]

    def _flattened(self, which: str, scored: TokenLogprobs | None, led: bool, part: slice, top: int) -> dict[str, Any]:
        """Row i, entry j of a `shape` [rows, k] stands at (i - null_prefix) * k + j; rows of the prefix are null."""
        values = [value for row in (scored.top_values[part] if scored else ()) for value in row]
        ids = [token for row in (scored.top_ids[part] if scored else ()) for token in row]
        rows = len(scored.top_values[part]) if scored else 0
        name = f"{which}_top_logprobs"
        shown: dict[str, Any] = {f"{name}_shape": [rows + led, top], f"{name}_null_prefix": int(led)}
        if not self._flat.b64:
            return {**shown, f"{name}_val_flat": values, f"{name}_idx_flat": ids}
        return {
            **shown,
            f"{name}_val_flat_b64": _b64(array("f", values)),
            f"{name}_val_flat_b64_dtype": "float32",
            f"{name}_idx_flat_b64": _b64(array("i", ids)),
            f"{name}_idx_flat_b64_dtype": "int32",
        }

    def _chosen(
        self, scored: TokenLogprobs | None, wants: LogprobsWanted, first: int | None, last: int | None
    ) -> list[list[Scored]]:
        return [self._pairs(values, list(wants.ids)) for values in scored.id_values[first:last]] if scored else []

    def _text(self, token: int) -> str | None:
        return self._tokenizer.token_text(token) if self._spell and self._tokenizer is not None else None


def timing(generation: Generation) -> dict[str, float]:
    """Of a generation that has ended, in SGLang's names: `_ts` and `_time` are seconds since 1970, except `queue_time`.
    What never happened is not in it.
    """
    now = time.monotonic()
    epoch, arrived = time.time() - now, generation.submit.arrived
    times, first, finished = generation.times, generation.first_token_at, generation.finished_at or now
    shown = {
        "e2e_latency": generation.latency,
        "request_received_ts": epoch + arrived,
        "request_finished_ts": epoch + finished,
        "response_sent_to_client_ts": epoch + now,
    }
    if generation.sent_at is not None:
        shown["api_server_dispatch_finish_ts"] = epoch + generation.sent_at
    if times is not None and times.started:
        shown |= {"queue_time": times.started - arrived, "forward_entry_time": epoch + times.started}
    if times is not None and times.first_token:
        shown["prefill_finished_time"] = epoch + times.first_token
    if first is not None:
        shown["first_token_latency"] = first - arrived
    if times is not None and times.first_token and len(generation.ids) > 1:
        shown["decode_throughput"] = (len(generation.ids) - 1) / max(finished - times.first_token, 1e-9)
    return shown


def hidden_states(generation: Generation) -> list[Any]:
    """As SGLang lists them: a matrix [prompt tokens, hidden] first, then for each later input, which is each generated
    token but the last, a vector; where only the newest was asked for, one vector.
    """
    wanted, told = generation.submit.hidden, generation.hidden
    if wanted is None or not told:
        return []
    whole = join(told)
    rows = np.frombuffer(whole.data, "<f4").reshape(whole.count, -1)
    prompt = generation.prompt_tokens
    kept = rows[: max(prompt + len(generation.ids) - 1, prompt) - whole.start]  # a text stop takes tokens back
    if wanted.last:
        return kept[-1:].tolist()
    return [kept[:prompt].tolist(), *kept[prompt:].tolist()]


def _b64(numbers: array[Any]) -> str:
    """Little-endian, whatever this machine is."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
