"""Orders to load and unload adapters, in SGLang's words and in vLLM's. The engine knows which there are."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ramify.adapters.config import FILE
from ramify.adapters.peft import ADDED, WEIGHTS
from ramify.core.errors import BadRequest, Forbidden, NotFound, UserError
from ramify.server.errors import scrub
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes

OF_TENSORS = "__tensor__"  # SGLang's word for the path of an adapter that came without one
PICKLE = b"\x80"  # begins every pickle of a protocol that tensors are sent in
SENT = "adapter-"  # begins the names of folders of adapters that came over HTTP

Path1K = Annotated[str, Meta(min_length=1, max_length=1024)]


class LoadAdapter(msgspec.Struct, kw_only=True):
    """The body of `/load_lora_adapter`: `lora_path` is a folder of this machine that holds a PEFT checkpoint. A
    `pinned` adapter stays where it computes.
    """

    lora_name: str
    lora_path: Path1K
    pinned: bool = False


class LoadAdapterFromTensors(msgspec.Struct, kw_only=True):
    """The body of `/load_lora_adapter_from_tensors`: the contents of `adapter_config.json`, and those of
    `adapter_model.safetensors` in base64, as the one entry of `serialized_named_tensors`. `added_tokens_config` are ids
    of added tokens by their text.
    """

    lora_name: str
    config_dict: dict[str, Any]
    serialized_named_tensors: Annotated[list[str], Meta(min_length=1, max_length=1)]
    pinned: bool = False
    added_tokens_config: dict[str, int] | None = None


class UnloadAdapter(msgspec.Struct, kw_only=True):
    """The body of `/unload_lora_adapter`."""

    lora_name: str


class LoadAsVllm(LoadAdapter, kw_only=True):
    """The body of `/v1/load_lora_adapter`, as that of `/load_lora_adapter`."""


class UnloadAsVllm(UnloadAdapter, kw_only=True):
    """The body of `/v1/unload_lora_adapter`."""


class Loaded(msgspec.Struct, kw_only=True):
    """`loaded_adapters` are paths by name."""

    success: bool
    loaded_adapters: dict[str, str]
    error_message: str | UnsetType = UNSET


OURS = {
    "lora_id": "adapters get ids of their own",
    "rid": "orders have no id",
    "http_worker_ipc": "there is one server",
}
LOAD = Takes(LoadAdapter, OURS)
FROM_TENSORS = Takes(
    LoadAdapterFromTensors,
    OURS,
    {"load_format": "tensors in other formats than safetensors", "expected_checksums": "checksums of tensors"},
)
UNLOAD = Takes(UnloadAdapter, OURS)
LOAD_AS_VLLM = Takes(
    LoadAsVllm,
    {"base_model_name": "there is one base model"},
    {"load_inplace": "adapters that take another's name", "is_3d_lora_weight": "adapters of stacked experts"},
)
UNLOAD_AS_VLLM = Takes(UnloadAsVllm, {"lora_int_id": "adapters go by name"})


async def load(request: Request, state: State, asked: LoadAdapter) -> Response:
    """Load an adapter while others compute; answered when it can be used."""
    return await _told(state, lambda: _load(state, asked.lora_name, _allowed(state, asked.lora_path), asked.pinned))


async def load_from_tensors(request: Request, state: State, asked: LoadAdapterFromTensors) -> Response:
    """Load an adapter that comes with the request."""
    return await _told(state, lambda: _load_sent(state, asked))


async def unload(request: Request, state: State, asked: UnloadAdapter) -> Response:
    """Let no request name an adapter any more; answered when those that have it have ended."""
    return await _told(state, lambda: _unload(state, asked.lora_name))


async def load_as_vllm(request: Request, state: State, asked: LoadAsVllm) -> Response:
    """Load an adapter while others compute."""
    state.check_open()
    await _load(state, asked.lora_name, _allowed(state, asked.lora_path), asked.pinned)
    return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")


async def unload_as_vllm(request: Request, state: State, asked: UnloadAsVllm) -> Response:
    """Let no request name an adapter any more."""
    state.check_open()
    await _unload(state, asked.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")


async def listed(state: State) -> list[dict[str, Any]]:
    """Every adapter that requests can name; `path` as others may see it."""
    if state.resolved.adapters is None:
        return []
    records = await asyncio.wrap_future(state.client.order("adapters"))
    return [record | {"path": OF_TENSORS if _was_sent(state, record["path"]) else record["path"]} for record in records]


async def _told(state: State, work: Callable[[], Awaitable[None]]) -> Response:
    """SGLang's answer: what is wrong with the request stands in it, and what is loaded then."""
    state.check_open()
    error = None
    try:
        await work()
    except (BadRequest, NotFound) as e:
        error = e
    loaded = {record["name"]: record["path"] for record in await listed(state)}
    if error is None:
        return as_json(Loaded(success=True, loaded_adapters=loaded))
    answer = as_json(Loaded(success=False, loaded_adapters=loaded, error_message=scrub(error.message)))
    answer.status_code = BadRequest.status
    return answer


async def _load(state: State, name: str, path: str, pinned: bool) -> None:
    await asyncio.wrap_future(state.client.order("load_adapter", name=name, path=path, pinned=pinned))


async def _unload(state: State, name: str) -> None:
    record = await asyncio.wrap_future(state.client.order("unload_adapter", name=name))
    if _was_sent(state, record["path"]):
        await state.off_loop(_remove, Path(record["path"]))


def _allowed(state: State, path: str) -> str:
    """Where --lora-dir names a folder, adapters over HTTP come from there alone, links followed."""
    root = state.resolved.settings.adapters.lora_dir
    if root is None:
        return path
    inside = Path(root).resolve()
    found = (inside / path).resolve()
    if not found.is_relative_to(inside):
        raise Forbidden("lora_path lies outside of the folder that adapters are loaded from (--lora-dir)")
    return str(found)


# -- adapters that come with a request ---------------------------------------------------------------------------------


async def _load_sent(state: State, asked: LoadAdapterFromTensors) -> None:
    """Written down first: an adapter that gave way to others is read again."""
    folder = await state.off_loop(_written, state.folder, asked)
    try:
        await _load(state, asked.lora_name, str(folder), asked.pinned)
    except UserError:
        await state.off_loop(_remove, folder)
        raise


def _written(room: Path, asked: LoadAdapterFromTensors) -> Path:
    weights = _decoded(asked.serialized_named_tensors[0])
    folder = Path(tempfile.mkdtemp(prefix=SENT, dir=room))
    (folder / FILE).write_text(json.dumps(asked.config_dict))
    (folder / WEIGHTS).write_bytes(weights)
    if asked.added_tokens_config:
        (folder / ADDED).write_text(json.dumps(asked.added_tokens_config))
    return folder


def _decoded(given: str) -> bytes:
    try:
        weights = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("serialized_named_tensors[0] is not base64", param="serialized_named_tensors") from None
    if weights.startswith(PICKLE):
        raise BadRequest(
            "serialized_named_tensors[0] is pickled, which ramify does not load: send the bytes of a safetensors file",
            param="serialized_named_tensors",
        )
    return weights


def _was_sent(state: State, path: str) -> bool:
    where = Path(path)
    return where.parent == state.folder and where.name.startswith(SENT)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
