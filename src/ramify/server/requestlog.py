"""Lines about requests: one when it comes, one when it ends. The engine says whether there are any, and how they look.

level 0: ids and counts    1: and sampling parameters    2: and text, cut    3: and all the text
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from ramify.core.log import JSON, WHOLE
from ramify.engine.generation import Generation
from ramify.server.state import State
from ramify.wire.messages import Logging

log = logging.getLogger(__name__)

CUT = 512  # characters, or tokens, of each end of a text that is cut
PARAMETERS, CUT_TEXT, WHOLE_TEXT = 1, 2, 3


class RequestLog(Protocol):
    """Of the generations of one HTTP request."""

    async def received(self, generations: Iterable[Generation]) -> None: ...
    def finished(self, generation: Generation) -> None: ...


class Silence:
    async def received(self, generations: Iterable[Generation]) -> None: ...
    def finished(self, generation: Generation) -> None: ...


def request_log(state: State, wanted: bool) -> RequestLog:
    """As it is configured now. `wanted` is False where a request asks not to be logged."""
    logging = state.client.logging
    return Lines(state, logging) if logging.requests and wanted else Silence()


class Lines:
    def __init__(self, state: State, logging: Logging) -> None:
        self._state = state
        self._level = logging.level
        self._as_json = logging.format == "json"

    async def received(self, generations: Iterable[Generation]) -> None:
        for generation in generations:
            submit = generation.submit
            fields: dict[str, Any] = {
                "rid": submit.rid,
                "prompt_tokens": len(submit.tokens),
                "max_new_tokens": submit.max_new_tokens,
            }
            if self._level >= PARAMETERS:
                fields["sampling_params"] = msgspec.to_builtins(submit.params)
            if self._level >= CUT_TEXT and not submit.vectors:
                fields["text"] = await self._state.off_loop(self._prompt, submit.tokens)
            self._line("request.received", fields)

    def finished(self, generation: Generation) -> None:
        """Also of one that failed, and of one that nobody waits for any more."""
        finish = generation.finish
        fields: dict[str, Any] = {
            "rid": generation.submit.rid,
            "finish_reason": finish.to_sglang() if finish is not None else "given up",
            "prompt_tokens": generation.prompt_tokens,
            "completion_tokens": len(generation.ids),
            "cached_tokens": generation.cached,
            "e2e_latency": round(generation.latency, 4),
        }
        if self._level >= CUT_TEXT:
            fields["text"] = self._cut(generation.text)
        self._line("request.finished", fields)

    def _prompt(self, tokens: list[int]) -> str:
        """Decoded again: what came may have been tokens, or messages."""
        tokenizer = self._state.tokenizer
        if self._level < WHOLE_TEXT and len(tokens) > 2 * CUT:
            parts = [tokens[:CUT], tokens[-CUT:]]
        else:
            parts = [tokens]
        return self._cut(" ... ".join(tokenizer.decode(p, False) if tokenizer else str(p) for p in parts))

    def _cut(self, text: str) -> str:
        if self._level >= WHOLE_TEXT or len(text) <= 2 * CUT:
            return text
        return f"{text[:CUT]} ... {text[-CUT:]}"

    def _line(self, event: str, fields: dict[str, Any]) -> None:
        if self._as_json:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            log.info("%s", json.dumps({"timestamp": now, "event": event, **fields}), extra=JSON)
        else:
            said = " ".join(f"{name}={value!r}" for name, value in fields.items())
            log.info("%s: %s", event, said, extra=WHOLE)
