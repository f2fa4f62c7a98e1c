"""`/v1/models`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from ramify.server.adapters import listed
from ramify.server.openai.answers import ModelCard, ModelList, ModelStatus
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.wire.notices import Phase


async def list_models(request: Request, state: State, _: None) -> Response:
    """List the models served here, and the adapters that can be named in their place."""
    cards: list[ModelCard] = []
    for each in state.directory.states:
        cards += [card(each), *(of_adapter(each, record) for record in await listed(each))]
    return as_json(ModelList(data=cards))


async def get_model(request: Request, state: State, _: None) -> Response:
    """Show one of the models, or an adapter."""
    model = request.path_params["rest"] or "/"
    found = state.directory.find(model)
    if not (adapter := found.adapter_in(model)):
        return as_json(card(found))
    for record in await listed(found):
        if record["name"] == adapter:
            return as_json(of_adapter(found, record))
    raise found.not_served(model)


def card(state: State) -> ModelCard:
    """`status` is shown where an engine may be absent: of several models, and of one that is lazy."""
    made = ModelCard(
        id=state.resolved.served_name,
        created=state.created,
        root=state.resolved.settings.model.model_path or state.resolved.served_name,
        max_model_len=state.resolved.context,
    )
    if state.directory.several or state.link.lazy or state.resolved.settings.model.idle_unload_after is not None:
        made.status = ModelStatus(STATUS[state.link.phase], failed=True if state.link.why else UNSET)
    return made


# In the words of llama.cpp's router.
STATUS: dict[Phase, Literal["loaded", "loading", "unloaded"]] = {
    "asleep": "unloaded",
    "starting": "loading",
    "ready": "loaded",
    "leaving": "loaded",
    "resting": "loading",
    "given up": "unloaded",
}


def of_adapter(state: State, record: dict[str, Any]) -> ModelCard:
    """As SGLang has it: where it came from, and what it stands beside."""
    return ModelCard(
        id=record["name"],
        created=state.created,
        root=record["path"],
        parent=state.resolved.served_name,
        max_model_len=state.resolved.context,
    )
