"""Orders that change how the server runs: pausing, logging, profiling. All of it is the engine's to know, and each of
these only asks it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ramify.config.flags import SGLANG, instead_of
from ramify.config.settings import names
from ramify.core.errors import BadRequest
from ramify.engine.profile import MAX_STEPS
from ramify.server.sse import as_json
from ramify.server.state import State
from ramify.server.takes import Takes

MAX_SLEEP = 10.0  # seconds; health checks give up after twice as many

Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$")]


class Done(msgspec.Struct, kw_only=True):
    """In SGLang's words."""

    message: str
    status: str = "ok"


# -- pausing -----------------------------------------------------------------------------------------------------------


class PauseGeneration(msgspec.Struct, kw_only=True):
    """The body of `/pause_generation`. `abort` ends every request, `retract` puts those that run back into the queue
    and gives their pages to the cache, `in_place` leaves them where they are.
    """

    mode: Literal["abort", "retract", "in_place"] = "abort"


class ContinueGeneration(msgspec.Struct, kw_only=True):
    """The body of `/continue_generation`."""


PAUSE = Takes(PauseGeneration, optional=True)
CONTINUE = Takes(ContinueGeneration, {"torch_empty_cache": "the memory stays with the process"}, optional=True)


async def pause_generation(request: Request, state: State, asked: PauseGeneration) -> Response:
    """Compute nothing until `/continue_generation`; requests that come meanwhile wait."""
    await asyncio.wrap_future(state.client.order("pause", mode=asked.mode))
    return as_json(Done(message="Generation paused successfully."))


async def continue_generation(request: Request, state: State, asked: ContinueGeneration) -> Response:
    """Go on after `/pause_generation`."""
    await asyncio.wrap_future(state.client.order("continue"))
    return as_json(Done(message="Generation continued successfully."))


# -- logging -----------------------------------------------------------------------------------------------------------


class ConfigureLogging(msgspec.Struct, kw_only=True):
    """The body of `/configure_logging`; what is not named stays as it is."""

    log_requests: bool | None = None
    log_requests_level: Annotated[int, Meta(ge=0, le=3)] | None = None
    log_requests_format: Literal["text", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] | None = None


FOLDERS = "dumps into folders that a client names"
LOGGING = Takes(
    ConfigureLogging,
    {"dump_requests_threshold": "nothing is dumped", "dump_requests_exclude_meta_keys": "nothing is dumped"},
    {"dump_requests_folder": FOLDERS, "crash_dump_folder": FOLDERS},
    optional=True,
)


async def configure_logging(request: Request, state: State, asked: ConfigureLogging) -> Response:
    """Change what is logged, in the engine and in all API workers."""
    order = state.client.order(
        "configure_logging",
        requests=asked.log_requests,
        level=asked.log_requests_level,
        format=asked.log_requests_format,
        log_level=asked.log_level,
    )
    await asyncio.wrap_future(order)
    return Response(status_code=200)


# -- profiling ---------------------------------------------------------------------------------------------------------


class StartProfile(msgspec.Struct, kw_only=True):
    """The body of `/start_profile`. `output_dir` lies inside the server's --profile-dir; `num_steps` ends the profile
    by itself.
    """

    output_dir: Annotated[str, Meta(max_length=1024)] | None = None
    start_step: Annotated[int, Meta(ge=0, le=1 << 62)] | None = None
    num_steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)] | None = None
    activities: list[Literal["CPU", "GPU"]] | None = None
    with_stack: bool | None = None
    record_shapes: bool | None = None
    profile_id: Label | None = None
    profile_prefix: Label | None = None


STAGES = "stages of prompts and of generating that are apart"
PROFILE = Takes(
    StartProfile,
    {
        "merge_profiles": "one process computes, and writes one trace",
        "detailed_annotations": "every step is annotated",
    },
    {"profile_by_stage": STAGES, "profile_stages": STAGES},
    optional=True,
)


async def start_profile(request: Request, state: State, asked: StartProfile) -> Response:
    """Record the steps from here on with torch's profiler. Where the trace goes stands in the log."""
    if asked.activities and "CPU" not in asked.activities:
        raise BadRequest("activities: there is no GPU to record, only the CPU", param="activities")
    fields = msgspec.to_builtins(asked)
    del fields["activities"]
    await asyncio.wrap_future(state.client.order("start_profile", **fields))
    return PlainTextResponse("Start profiling.\n")


async def stop_profile(request: Request, state: State, _: None) -> Response:
    """Write the trace of what was recorded; it is there when the answer comes."""
    await asyncio.wrap_future(state.client.order("stop_profile"))
    return PlainTextResponse("Stop profiling. This will take some time.\n")


# -- the rest ----------------------------------------------------------------------------------------------------------


class SlowDown(msgspec.Struct, kw_only=True):
    """The body of `/slow_down`: seconds of sleep in every step, none for full speed."""

    forward_sleep_time: Annotated[float, Meta(ge=0, le=MAX_SLEEP)] | None = None


class FreezeGC(msgspec.Struct, kw_only=True):
    """The body of `/freeze_gc`."""


class SetInternalState(msgspec.Struct, kw_only=True):
    """The body of `/set_internal_state`."""

    server_args: dict[str, Any]


SLOW = Takes(SlowDown, optional=True)
FREEZE = Takes(FreezeGC, refused={"gc_threshold": "thresholds of garbage collection"}, optional=True)
INTERNAL = Takes(SetInternalState)


async def slow_down(request: Request, state: State, asked: SlowDown) -> Response:
    """Sleep in every step, to see what others do when this server is slow."""
    await asyncio.wrap_future(state.client.order("slow_down", seconds=asked.forward_sleep_time))
    return Response(status_code=200)


async def freeze_gc(request: Request, state: State, asked: FreezeGC) -> Response:
    """Let garbage collections skip, in all processes, whatever lives now."""
    await asyncio.wrap_future(state.client.order("freeze_gc"))
    return PlainTextResponse("Garbage collection frozen.\n")


async def set_internal_state(request: Request, state: State, asked: SetInternalState) -> Response:
    """Say of each setting why it does not change: they are decided once, at the start."""
    for name in sorted(asked.server_args):
        flag = name.replace("_", "-")
        if name in names():
            raise BadRequest(f"{name} is decided at the start: start the server with --{flag}", param="server_args")
        why = instead_of(flag) if flag in SGLANG else "There is no such setting."
        raise BadRequest(f"{name[:100]!r} cannot be set. {why}", param="server_args")
    raise BadRequest("server_args is empty", param="server_args")
