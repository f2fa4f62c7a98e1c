"""`/models/load` and `/models/unload`: engines that come and go on somebody's word, as llama.cpp's router has it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes


class WhichModel(msgspec.Struct, kw_only=True):
    """The body of `/models/load` and `/models/unload`."""

    model: Annotated[str, Meta(min_length=1)]


class Moved(msgspec.Struct, kw_only=True):
    success: bool = True


TAKES = Takes(WhichModel, {"extra_args": "a model's settings are decided when the server starts"})


async def load(request: Request, state: State, asked: WhichModel) -> Response:
    """Start a model's engine, if it is not there; the answer comes when it is."""
    state.check_model(asked.model)
    return as_json(Moved())


async def unload(request: Request, state: State, asked: WhichModel) -> Response:
    """End a model's engine, which frees its memory; the next request has it back. Refused while one is open."""
    state.check_model(asked.model)
    await state.link.leave()
    return as_json(Moved())
