"""`/v1/models`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ramify.server.state import State


async def list_models(request: Request, state: State, _: None) -> Response:
    return JSONResponse({"object": "list", "data": [card(state)]})


async def get_model(request: Request, state: State, _: None) -> Response:
    state.check_model(request.path_params["rest"])
    return JSONResponse(card(state))


def card(state: State) -> dict[str, Any]:
    return {
        "id": state.resolved.served_name,
        "object": "model",
        "created": state.created,
        "owned_by": "ramify",
        "root": state.resolved.settings.model.model_path or state.resolved.served_name,
        "parent": None,
        "max_model_len": state.resolved.context,
    }
