"""`/v1/loads`: how busy the server is, for routers and dashboards made for SGLang."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

import ramify
from ramify.core.errors import BadRequest
from ramify.engine.meter import CONTENT_TYPE
from ramify.server.sse import as_json
from ramify.server.state import State

# By the word in `include`: the name of the section in the answer. Those of features that are not here have no section.
SECTIONS = {"core": "core", "memory": "memory", "spec": "", "lora": "lora", "disagg": "", "queues": "queues"}
ALL = "all"


class Loads(msgspec.Struct, kw_only=True):
    """One entry of `loads` for each replica, which is one. Numbers of the section core stand in it directly."""

    timestamp: str
    version: str
    accelerator: str
    num_accelerators: int
    loads: list[dict[str, Any]]


async def loads(request: Request, state: State, _: None) -> Response:
    """Requests, tokens, memory and queues. `include` names sections, `format` is json or prometheus."""
    wanted = _sections(request.query_params.get("include"))
    form = request.query_params.get("format") or "json"
    if form not in ("json", "prometheus"):
        raise BadRequest(f"format should be json or prometheus, not {form!r}", param="format")
    _check_rank(request.query_params.get("dp_rank"))
    found = await asyncio.wrap_future(state.client.order("loads"))
    load = found["core"] | {name: found[name] for name in wanted if name != "core" and name in found}
    if form == "prometheus":
        return PlainTextResponse(_exposition(load), media_type=CONTENT_TYPE)
    return as_json(
        Loads(
            timestamp=datetime.now(UTC).isoformat(),
            version=ramify.__version__,
            accelerator=state.resolved.device,
            num_accelerators=1,
            loads=[load],
        )
    )


def _sections(include: str | None) -> list[str]:
    words = [word.strip() for word in (include or ALL).split(",")]
    unknown = sorted(set(words) - SECTIONS.keys() - {ALL})
    if unknown:
        raise BadRequest(
            f"include: there is no section {', '.join(unknown)[:200]!r}. There are {', '.join([*SECTIONS, ALL])}.",
            param="include",
        )
    chosen: Iterable[str] = SECTIONS if ALL in words else words
    return [SECTIONS[word] for word in chosen if SECTIONS[word]]


def _check_rank(rank: str | None) -> None:
    if rank not in (None, "", "0"):
        raise BadRequest("dp_rank should be 0: there is one replica", param="dp_rank")


def _exposition(load: dict[str, Any]) -> str:
    """Gauges `sglang_<key>`, and `sglang_<section>_<key>`."""
    flat: dict[str, Any] = {}
    for key, value in load.items():
        flat |= {f"{key}_{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    rank = flat.pop("dp_rank")
    lines = [f'# TYPE sglang_{name} gauge\nsglang_{name}{{dp_rank="{rank}"}} {value}\n' for name, value in flat.items()]
    return "".join(lines)
