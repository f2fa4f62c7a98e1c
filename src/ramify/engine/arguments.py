"""What callers of the Python face hand over, checked: an error names the argument that is wrong.

Arrays and tensors of ids are taken as lists. What SGLang's Engine takes and this one cannot use may be None or empty.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ramify.core.errors import BadRequest
from ramify.core.params import SamplingParams
from ramify.engine.ask import check_rid
from ramify.engine.constraints import of_sampling
from ramify.engine.vectors import as_bytes, is_one

MAX_PRIORITY = 1 << 31
MAX_KEY = 1024  # characters of an extra_key
MAX_MESSAGES = 4096

# Arguments of SGLang's Engine.generate, with the feature that each needs.
REFUSED: dict[str, str] = {
    "image_data": "images",
    "audio_data": "audio",
    "video_data": "videos",
    "custom_logit_processor": "custom logit processors",
    "return_routed_experts": "mixture-of-experts models",
    "routed_experts_start_len": "mixture-of-experts models",
    "return_indexer_topk": "sparse attention",
    "bootstrap_host": "disaggregation",
    "bootstrap_port": "disaggregation",
    "bootstrap_room": "disaggregation",
    "bootstrap_pair_key": "disaggregation",
    "disagg_prefill_dp_rank": "disaggregation",
    "data_parallel_rank": "data parallelism",
    "routed_dp_rank": "data parallelism",
    "session_params": "sessions",
    "session_id": "sessions",
    "external_trace_header": "traces",
}


def refuse_others(given: Mapping[str, Any]) -> None:
    """Arguments that this engine has no use for."""
    for name, value in given.items():
        if name not in REFUSED:
            raise BadRequest(f"generate takes no {name}", param=name, code="unknown_parameter")
        if not _is_nothing(value):
            raise BadRequest(f"{name} needs {REFUSED[name]}, which this version of ramify does not have", param=name)


def _is_nothing(value: Any) -> bool:
    """None, False, empty, or a list of such: what asks for nothing."""
    if isinstance(value, list | tuple):
        return all(map(_is_nothing, value))
    return value is None or value is False or (isinstance(value, str | dict) and not value)


# -- prompts ----------------------------------------------------------------------------------------------------------


def texts_of(prompt: Any) -> tuple[list[str], bool]:
    """Prompts as texts, and whether there was one rather than a list."""
    one = isinstance(prompt, str)
    given = [prompt] if one else _listed(prompt)
    if given is None or not all(isinstance(text, str) for text in given):
        raise BadRequest("prompt should be a text or a list of texts", param="prompt")
    if not given:
        raise BadRequest("the list of prompts is empty", param="prompt")
    return [check_text(text, "prompt") for text in given], one


def pair_of(given: Any) -> tuple[str, str]:
    """Two texts that are read as one."""
    if not isinstance(given, list | tuple) or len(given) != 2 or not all(isinstance(text, str) for text in given):
        raise BadRequest("prompt should be texts, or pairs of texts", param="prompt")
    return check_text(given[0], "prompt"), check_text(given[1], "prompt")


def check_text(text: str, name: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequest(f"{name} holds half of a surrogate pair, which is not Unicode text", param=name) from None
    return text


def ids_of(input_ids: Any) -> tuple[list[list[int]], bool]:
    """Prompts as token ids, and whether there was one rather than a list."""
    given = _listed(input_ids)
    if given is None:
        raise BadRequest("input_ids should be a list of token ids, or a list of such lists", param="input_ids")
    if not given:
        raise BadRequest("the list of prompts is empty", param="input_ids")
    rows = [_listed(entry) for entry in given]
    if rows[0] is None:
        return [numbers(given, "input_ids")], True
    return [numbers(row, "input_ids") for row in rows], False


def vectors_of(given: Any, width: int) -> tuple[list[bytes], bool]:
    """Prompts that are vectors, and whether there was one rather than a list."""
    rows = _plain(given, 3)
    if not isinstance(rows, list) or not rows:
        raise BadRequest("input_embeds should be a list of vectors, or a list of such lists", param="input_embeds")
    one = is_one(rows)
    return [as_bytes(prompt, width) for prompt in ([rows] if one else rows)], one


def _plain(value: Any, depth: int) -> Any:
    """Lists of what sequences, arrays and tensors hold, as deep as prompts are."""
    found = _listed(value) if depth else None
    return value if found is None else [_plain(entry, depth - 1) for entry in found]


def _listed(value: Any) -> list[Any] | None:
    """A list of what a sequence, an array or a tensor holds; None for what is none of these."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, str | bytes | bytearray) or not isinstance(plain, Sequence):
        return None
    return list(plain)


def numbers(values: Any, name: str) -> list[int]:
    """Whole numbers, numpy's among them."""
    found = _listed(values)
    if found is None:
        raise BadRequest(f"{name} should be a list of whole numbers", param=name)
    return [number(value, name) for value in found]


# -- what goes with them ----------------------------------------------------------------------------------------------


def number(value: Any, name: str) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise BadRequest(f"{name} should be a whole number, not {type(value).__name__}", param=name)


def flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"{name} should be True or False, not {type(value).__name__}", param=name)
    return value


def key(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_KEY:
        raise BadRequest(f"{name} should be a text of at most {MAX_KEY} characters", param=name)
    return check_text(value, name)


def priority_of(value: Any, low_first: bool) -> int:
    """A larger number goes first, unless the engine was told the opposite."""
    found = 0 if value is None else number(value, "priority")
    if abs(found) > MAX_PRIORITY:
        raise BadRequest(f"priority should be within {MAX_PRIORITY} of 0", param="priority")
    return -found if low_first else found


def each(value: Any, count: int, name: str, read: Callable[[Any, str], Any], default: Any) -> list[Any]:
    """One value for every prompt, or a list with one for each; None is the default."""
    return [default if one is None else read(one, name) for one in per_prompt(value, count, name)]


def per_prompt(value: Any, count: int, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise BadRequest(f"{name} has {len(value)} entries for {count} prompts", param=name)
    return list(value)


def each_ids(value: Any, count: int, name: str) -> list[list[int]]:
    """Token ids for all prompts alike, or a list of ids for each."""
    found = _listed(value)
    if found is not None and any(one is None or _listed(one) is not None for one in found):
        return each(found, count, name, numbers, [])
    return [[] if value is None else numbers(value, name)] * count


def as_params(params: Any) -> SamplingParams:
    """Sampling parameters with every range checked, those that were not made by `parse` as well."""
    if isinstance(params, SamplingParams):
        return SamplingParams.parse(msgspec.structs.asdict(params))
    if params is not None and not (isinstance(params, Mapping) and all(isinstance(key, str) for key in params)):
        raise BadRequest("sampling_params should be a dict by name, or SamplingParams", param="sampling_params")
    return SamplingParams.parse(params)


def constrained(params: Any, preferred: Mapping[str, Any]) -> tuple[SamplingParams, dict[str, bytes]]:
    """Sampling parameters, and the note of the constraint among them; `preferred` count where they say nothing."""
    if params is not None and not isinstance(params, Mapping):
        return as_params(params), {}
    plain, notes = of_sampling({**preferred, **(params or {})})
    return as_params(plain), notes


def rids_of(rid: Any, count: int) -> list[str]:
    """An id for each prompt; an empty one is made later."""
    if isinstance(rid, str):
        return [check_rid(rid)] if count == 1 else [check_rid(f"{rid}_{index}") for index in range(count)]
    found = [None] * count if rid is None else per_prompt(rid, count, "rid")
    given = [check_rid(one) for one in found if one is not None]
    if len(set(given)) != len(given):
        raise BadRequest("rid needs a different id for each prompt", param="rid")
    return ["" if one is None else one for one in found]


# -- conversations ----------------------------------------------------------------------------------------------------


def conversation(messages: Any) -> list[dict[str, Any]]:
    """Messages as templates expect them: each with a role, and its content one text."""
    if not isinstance(messages, list | tuple) or not 0 < len(messages) <= MAX_MESSAGES:
        raise BadRequest(f"messages should be a list of 1 to {MAX_MESSAGES} messages", param="messages")
    return [_message(message, f"messages[{place}]") for place, message in enumerate(messages)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise BadRequest(f'{where} should be like {{"role": "user", "content": "..."}}', param=where)
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        content = ""
    if isinstance(content, list | tuple):
        content = "".join(_part(part, f"{where}.content[{place}]") for place, part in enumerate(content))
    if not isinstance(content, str):
        raise BadRequest(f"{where}.content should be a text", param=f"{where}.content")
    return {**message, "content": content}


def _part(part: Any, where: str) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise BadRequest(f'{where}: only text can be read, like {{"type": "text", "text": "..."}}', param=where)
    return part["text"]
