"""What `Engine.encode` and its kin ask: texts, pairs and token ids on their way to a model with a head."""

from __future__ import annotations

import time
from typing import Any

from ramify.config.head import Head
from ramify.config.resolve import Resolved
from ramify.core.errors import BadRequest
from ramify.engine.arguments import (
    each,
    flag,
    ids_of,
    key,
    number,
    pair_of,
    per_prompt,
    priority_of,
    refuse_others,
    rids_of,
    texts_of,
)
from ramify.engine.ask import Ask, check_task, pooling_of
from ramify.engine.job import Job
from ramify.engine.outputs import Shape
from ramify.engine.pooled import check_dimensions, encoded, prompt_of, relevance
from ramify.text.passages import Passage, PassageReader
from ramify.text.tokenizer import Tokenizer


class TextEncoding:
    """Of one engine."""

    def __init__(self, resolved: Resolved, tokenizer: Tokenizer | None, shape: Shape) -> None:
        self._resolved, self._shape = resolved, shape
        self._reader = None if tokenizer is None else PassageReader(tokenizer, resolved.model.head)

    def job(self, prompt: Any, input_ids: Any, dimensions: Any, prompt_name: Any, truncate: Any, **asked: Any) -> Job:
        """One `Ask` per text, with everything checked that can be said without the model."""
        head = self._head()
        check_dimensions(head, None if dimensions is None else number(dimensions, "dimensions"))
        passages, one = self._passages(prompt, input_ids, prompt_name, truncate)
        now = time.monotonic()
        asks = [
            Ask(tokens=p.tokens, pooling=pooling_of(head, p.second, p.skip), arrived=now, **route)
            for p, route in zip(passages, self._routes(len(passages), **asked), strict=True)
        ]
        return Job(asks, self._shape, one)

    def outputs(self, job: Job, dimensions: int | None) -> Any:
        made = [encoded(generation, self._head(), self._shape, dimensions) for generation in job.opened]
        return made[0] if job.one else made

    def relevance(self, logits: list[float]) -> float:
        return relevance(logits, self._head())

    def _head(self) -> Head:
        head = self._resolved.model.head
        check_task(head, pools=True)
        assert head is not None
        return head

    def _routes(
        self,
        count: int,
        *,
        rid: Any = None,
        priority: Any = None,
        extra_key: Any = None,
        lora_path: Any = None,
        deterministic: Any = None,
        **others: Any,
    ) -> list[dict[str, Any]]:
        refuse_others(others)
        low_first = self._resolved.settings.schedule.schedule_low_priority_values_first
        columns: dict[str, list[Any]] = {
            "rid": rids_of(rid, count),
            "priority": [priority_of(one, low_first) for one in per_prompt(priority, count, "priority")],
            "salt": each(extra_key, count, "extra_key", key, ""),
            "adapter": each(lora_path, count, "lora_path", key, ""),
            "invariant": each(deterministic, count, "deterministic", flag, False),
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _passages(self, prompt: Any, input_ids: Any, prompt_name: Any, truncate: Any) -> tuple[list[Passage], bool]:
        if (prompt is None) == (input_ids is None):
            raise BadRequest("give one of prompt and input_ids", param="prompt")
        cuts = self._resolved.settings.server.allow_auto_truncate if truncate is None else flag(truncate, "truncate")
        longest = self._resolved.context if cuts else None
        if input_ids is not None:
            rows, one = ids_of(input_ids)
            return [Passage(row[:longest]) for row in rows], one
        if self._reader is None:
            raise BadRequest("this engine has no tokenizer (skip_tokenizer_init): give input_ids", param="prompt")
        if isinstance(prompt, list | tuple) and prompt and not isinstance(prompt[0], str):
            return self._reader.read_pairs([pair_of(pair) for pair in prompt], longest), False
        texts, one = texts_of(prompt)
        return self._reader.read(texts, prompt_of(self._head(), prompt_name), longest), one
