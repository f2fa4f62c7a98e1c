"""`/v1/models`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ramify.server.openai.answers import ModelCard, ModelList
from ramify.server.sse import as_json
from ramify.server.state import State


async def list_models(request: Request, state: State, _: None) -> Response:
    """List the models served here."""
    return as_json(ModelList(data=[card(state)]))


async def get_model(request: Request, state: State, _: None) -> Response:
    """Show one of the models."""
    state.check_model(request.path_params["rest"] or "/")
    return as_json(card(state))


def card(state: State) -> ModelCard:
    return ModelCard(
        id=state.resolved.served_name,
        created=state.created,
        root=state.resolved.settings.model.model_path or state.resolved.served_name,
        max_model_len=state.resolved.context,
    )
