"""`/v1/models`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ramify.server.adapters import listed
from ramify.server.openai.answers import ModelCard, ModelList
from ramify.server.sse import as_json
from ramify.server.state import State


async def list_models(request: Request, state: State, _: None) -> Response:
    """List the model served here, and the adapters that can be named in its place."""
    return as_json(ModelList(data=[card(state), *(of_adapter(state, record) for record in await listed(state))]))


async def get_model(request: Request, state: State, _: None) -> Response:
    """Show one of the models, or an adapter."""
    model = request.path_params["rest"] or "/"
    if not (adapter := state.adapter_in(model)):
        return as_json(card(state))
    for record in await listed(state):
        if record["name"] == adapter:
            return as_json(of_adapter(state, record))
    raise state.not_served(model)


def card(state: State) -> ModelCard:
    return ModelCard(
        id=state.resolved.served_name,
        created=state.created,
        root=state.resolved.settings.model.model_path or state.resolved.served_name,
        max_model_len=state.resolved.context,
    )


def of_adapter(state: State, record: dict[str, Any]) -> ModelCard:
    """As SGLang has it: where it came from, and what it stands beside."""
    return ModelCard(
        id=record["name"],
        created=state.created,
        root=record["path"],
        parent=state.resolved.served_name,
        max_model_len=state.resolved.context,
    )
