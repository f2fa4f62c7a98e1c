"""From the fields of a request, whatever its route, to what is asked of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ramify.config.adapters import check_name
from ramify.core.errors import BadRequest
from ramify.engine.ask import check_rid, new_rid
from ramify.server.state import State

MAX_PROMPTS = 1024
MAX_PRIORITY = 1 << 31


async def tokenize(state: State, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
    """Token ids of each text. What is certainly too long for the context is refused before it costs anything."""
    tokenizer = state.words()
    for text in texts:
        check_text(text, state.resolved.context)
    return await state.off_loop(tokenizer.encode_batch, list(texts), add_special_tokens)


MAX_TOKEN_CHARACTERS = 256  # no vocabulary in use has longer tokens, runs of spaces included


def check_text(text: str, context: int) -> str:
    """Unicode, and not certainly longer than `context` tokens."""
    if len(text) > max(context, 1) * MAX_TOKEN_CHARACTERS:
        raise BadRequest(
            f"The input ({len(text)} characters) is longer than the model's context length ({context} tokens).",
            code="context_length_exceeded",
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequest("the text holds half of a surrogate pair, which is not Unicode text") from None
    return text


def split_prompts(given: Any, field: str, most: int = MAX_PROMPTS) -> tuple[list[Any], bool]:
    """Prompts, all texts or all lists of ids, and whether there was a list of them rather than one."""
    if isinstance(given, str):
        return [given], False
    if not given:
        raise BadRequest(f"{field} is an empty list", param=field)
    kind = type(given[0])
    if any(type(entry) is not kind for entry in given):
        raise BadRequest(f"{field} mixes different kinds of prompts", param=field)
    if kind is int:
        return [given], False
    if len(given) > most:
        raise BadRequest(f"at most {most} prompts in one request, got {len(given)}", param=field)
    return given, True


def per_item(value: Any, count: int, field: str) -> list[Any]:
    """A scalar for every prompt, or a list with one value for each."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise BadRequest(f"{field} has {len(value)} entries for {count} prompts", param=field)
    return value


class Routed(Protocol):
    """Fields of a request of one or several prompts: a value for all of them, or a list with one for each."""

    priority: Any
    extra_key: Any
    cache_salt: Any
    lora_path: Any
    deterministic: bool


def routes_of(state: State, asked: Routed, count: int, model: str = "") -> list[dict[str, Any]]:
    """Of each of `count` prompts, where it stands in the queue, whose prefixes it shares, with which adapter it is
    computed, which the name of the `model` may say, and whether its numbers are to be its own.
    """
    low_first = state.resolved.settings.schedule.schedule_low_priority_values_first
    priorities = per_item(asked.priority, count, "priority")
    keys, salts = per_item(asked.extra_key, count, "extra_key"), per_item(asked.cache_salt, count, "cache_salt")
    adapters = adapters_of(state.adapter_in(model), asked.lora_path, count)
    return [
        {
            "priority": check_priority(wanted, low_first),
            "salt": salt_of(key, salt),
            "adapter": adapter,
            "invariant": asked.deterministic,
        }
        for wanted, key, salt, adapter in zip(priorities, keys, salts, adapters, strict=True)
    ]


def adapters_of(named: str, lora_path: Any, count: int) -> list[str]:
    """The adapter of each prompt, empty for none. One that the model's name says is that of all."""
    given = [path or "" for path in per_item(lora_path, count, "lora_path")]
    for path in {*given, named} - {""}:
        check_name(path, "lora_path")
    if named and (others := set(given) - {"", named}):
        raise BadRequest(f"model says the adapter {named!r}, lora_path {others.pop()!r}", param="lora_path")
    return [named] * count if named else given


def request_ids(rid: Any, count: int, numbered: bool) -> list[str]:
    """An id for each prompt. One id for several, or for one that is `numbered`, becomes `<rid>_<i>`, as in SGLang."""
    if rid is None:
        return [new_rid() for _ in range(count)]
    if isinstance(rid, str):
        check_rid(rid)
        return [f"{rid}_{index}" for index in range(count)] if numbered else [rid]
    if len(rid) != count or len(set(rid)) != count:
        raise BadRequest("rid needs a different id for each prompt", param="rid")
    return [check_rid(one) for one in rid]


def check_priority(value: Any, low_first: bool) -> int:
    """A larger number goes first, unless the server was told the opposite."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_PRIORITY:
        raise BadRequest("priority should be an integer", param="priority")
    return -value if low_first else value


def salt_of(extra_key: Any, cache_salt: Any) -> str:
    """What keeps a tenant's prefixes to itself; both spellings count."""
    for name, value in (("extra_key", extra_key), ("cache_salt", cache_salt)):
        if value is not None and (not isinstance(value, str) or len(value) > 1024):
            raise BadRequest(f"{name} should be a string of at most 1024 characters", param=name)
    return "\x00".join(value for value in (extra_key, cache_salt) if value)
