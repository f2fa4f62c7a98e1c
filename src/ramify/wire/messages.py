"""What crosses between an API process and the engine: plain frozen structs, encoded by `wire.codec`."""

from __future__ import annotations

from typing import Any

import msgspec

from ramify.core.finish import Finish
from ramify.core.params import SamplingParams
from ramify.wire.plan import HiddenWanted, LogprobsWanted, Pooling
from ramify.wire.result import HiddenStates, TokenLogprobs


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """A request's place in a session: it comes after the turn `after`, or at a beginning.

    With `replace`, what came after that turn before is given up; where there is no `after`, that is everything.
    """

    session: str
    after: str | None = None
    replace: bool = False


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One generation: a prompt's ids and what is wanted of it. `n` choices are `n` of these.

    `origin` is the API worker that gets the replies. `arrived` is CLOCK_MONOTONIC seconds. `max_new_tokens` is
    settled by the API process; where `may_shorten` it was a default and gives way to what the pool can hold.
    `salt` separates prefixes that must not be shared. A reply comes every `stride` tokens, at the end only if 0.
    `notes` are byte strings of feature rooms, by name; each is written and read in its room only. With `vectors` the
    model reads these and not the tokens, which only hold their places: [prompt, hidden], float32, little-endian. With
    `pooling` nothing is generated, and the last reply has what the model's head gives. `adapter` names the adapter that
    computes it beside the model's own weights; empty: none does. `invariant` asks for numbers that do not depend on
    what else is computed; where they never do, it changes nothing.
    """

    rid: str
    origin: int
    tokens: list[int]
    params: SamplingParams
    max_new_tokens: int
    may_shorten: bool
    seed: int
    choice: int = 0
    priority: int = 0
    salt: str = ""
    arrived: float = 0.0
    stride: int = 1
    logprobs: LogprobsWanted | None = None
    notes: dict[str, bytes] = {}
    turn: Turn | None = None
    hidden: HiddenWanted | None = None
    vectors: bytes = b""
    pooling: Pooling | None = None
    adapter: str = ""
    invariant: bool = False


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """End a request at once. With `keep`, tokens past the first `keep` outputs never existed. `finish` is how its text
    ended it; without one it was given up.
    """

    rid: str
    keep: int | None = None
    finish: Finish | None = None


class Control(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A question or an order to the engine; `ticket` comes back in the `Answer`."""

    ticket: int
    origin: int
    name: str
    args: dict[str, Any] = {}


class Times(msgspec.Struct, frozen=True, array_like=True):
    """When a request had its first step and its first token, in seconds of CLOCK_MONOTONIC; 0 if it never did."""

    started: float
    first_token: float


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """News of one request: tokens since the last reply, and how it ended if it did.

    `origin` is the API worker it goes to. `cached` is how many prompt tokens came from the prefix cache, `preempted`
    how often the request had to be recomputed. The last reply has the `times`, and what was `pooled` if that was asked
    for: float32, little-endian, row by row.
    """

    rid: str
    origin: int
    tokens: list[int]
    finish: Finish | None = None
    cached: int = 0
    preempted: int = 0
    prompt_logprobs: TokenLogprobs | None = None
    output_logprobs: TokenLogprobs | None = None
    hidden: HiddenStates | None = None
    times: Times | None = None
    pooled: bytes | None = None


class Replies(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """All news of one step for one API worker: one message, one wake-up."""

    items: list[Reply]


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The engine's answer to a `Control`; `error` says why not, `status` with which HTTP status."""

    ticket: int
    value: Any = None
    error: str | None = None
    status: int = 400


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The engine has loaded and serves."""


class Farewell(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The engine is gone: every open request fails with `reason`. Sent by the channel where the engine cannot."""

    reason: str


class Logging(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """How every process logs from now on. The engine has it, and tells API workers when they come and when it changes.

    `requests` turns on lines about requests; their `level` is 0: ids and counts, 1: and sampling parameters, 2: and
    text that is cut, 3: and all the text. `format` is text or json.
    """

    log_level: str = "info"
    requests: bool = False
    level: int = 2
    format: str = "text"


class FreezeGC(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Whatever lives now is there to stay: garbage collections need not look at it again."""


ToEngine = Submit | Abort | Control
ToClient = Replies | Answer | Hello | Logging | FreezeGC | Farewell
