"""What a caller asks of the engine, checked and turned into `Submit` messages.

Every face of ramify comes through here.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ramify.config.head import Head
from ramify.core.errors import BadRequest
from ramify.core.params import DEFAULT_MAX_NEW_TOKENS, MAX_TOP_LOGPROBS, SamplingParams
from ramify.engine.vectors import MAX_BYTES, salted
from ramify.wire.messages import Submit, Turn
from ramify.wire.plan import HiddenWanted, LogprobsWanted, Pooling

MAX_RID = 256
MAX_IDS = 1024
MAX_LISTED = 1 << 20  # tokens listed beside others in one request, over all its positions and choices: some 100 MB
MAX_PROMPTED = 1 << 22  # prompt tokens of one request, over all its choices: each choice has them for itself
BILLION = 10**9
MAX_HIDDEN = 1 << 23  # numbers of hidden states in one answer, which become lists and JSON
HIDDEN_OFF = (
    "The server is not configured to return the hidden states. "
    "Please set `--enable-return-hidden-states` to enable this feature."
)
ADAPTERS_OFF = "This server has no adapters (lora_path). Start it with --enable-lora, or with --lora-paths NAME=FOLDER."
NOT_INVARIANT = "Numbers depend on what else is computed here: `ramify explain` says why, under batch_invariance."

SessionName = Annotated[str, Meta(min_length=1, max_length=MAX_RID)]


class SessionParams(msgspec.Struct, kw_only=True):
    """After which turn of a session a request comes, and what of it counts.

    `rid` is the id of that turn, none for a beginning; `replace` gives up what came after it before; `offset` cuts it,
    to so many tokens if positive, by so many if negative; `drop_previous_output` leaves out what it generated.
    """

    id: SessionName
    rid: SessionName | None = None
    offset: Annotated[int, Meta(ge=-BILLION, le=BILLION)] | None = None
    replace: bool = False
    drop_previous_output: bool = False

    @property
    def turn(self) -> Turn:
        return Turn(self.id, self.rid, self.replace)


@dataclass(frozen=True)
class Limits:
    """What the model and the server allow. `context` in tokens, prompt and output together; `most` requests can run
    and wait at once; `hidden` is the width of a hidden state, which are shown where `tells_hidden`; adapters have up to
    `added` tokens beside those of the model, of which the engine knows how many an adapter has.
    """

    context: int
    vocab: int
    stream_interval: int = 1
    most: int = 1 << 30
    hidden: int = 0
    tells_hidden: bool = False
    scores: bool = True  # there is a model, whose log probabilities can be asked for
    head: Head | None = None  # of a model that gives vectors or scores and no tokens
    adapters: bool = False
    added: int = 0
    invariant: bool = True  # numbers of a request can be its own


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One prompt, already tokenized, and `params.n` choices of what follows it.

    `to_the_end`: without `max_new_tokens` go on to the end of the context instead of stopping at `usual` (chat does).
    `marks` are special tokens that stay in the text, because whoever reads it needs them.
    `logprob_start` is the first prompt token to score, -1 for none, where `return_logprob` is set. `hidden` says of
    which positions the hidden states are wanted. With `vectors` the tokens are placeholders: see `engine.vectors`.
    `adapter` is the name of one that is loaded; the engine refuses a name that it does not know. `invariant`: its
    numbers are to be its own, whatever else is computed.
    """

    tokens: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    rid: str = ""
    stream: bool = False
    to_the_end: bool = False
    usual: int = DEFAULT_MAX_NEW_TOKENS
    return_logprob: bool = False
    logprob_start: int = -1
    top_logprobs: int = 0
    token_ids_logprob: Sequence[int] = ()
    hidden: Literal["none", "last", "all"] = "none"
    priority: int = 0
    salt: str = ""
    arrived: float = 0.0
    notes: Mapping[str, bytes] = field(default_factory=dict)
    marks: frozenset[int] = frozenset()
    turn: Turn | None = None
    vectors: bytes = b""
    pooling: Pooling | None = None
    adapter: str = ""
    invariant: bool = False


def pooling_of(head: Head, second: int = -1, skip: int = 0) -> Pooling:
    """What is asked of a model with a head. Where the beginning is left out, its states are still needed."""
    return Pooling(second, skip, head.needs_all)


def hidden_of(value: Any, name: str = "return_hidden_states") -> Literal["none", "last", "all"]:
    """What SGLang's clients say: True and "full" for all positions, "last" for the newest alone."""
    if value is None or value is False:
        return "none"
    if value is True or value == "full":
        return "all"
    if value == "last":
        return "last"
    raise BadRequest(f'{name} should be true, false, "last" or "full"', param=name)


def first_scored(asked: int | None, params: SamplingParams) -> int:
    """The prompt token from which on log probabilities are told, -1 for none of the prompt. Unsaid it is that, unless
    nothing is generated: then they can be of nothing else.
    """
    if asked is None:
        return 0 if params.max_new_tokens == 0 else -1
    return asked


def new_rid() -> str:
    return uuid.uuid4().hex


def check_rid(rid: Any) -> str:
    """An id that is safe in a log line and a header."""
    if not isinstance(rid, str) or not 0 < len(rid) <= MAX_RID or not rid.isprintable():
        raise BadRequest(f"rid must be 1 to {MAX_RID} printable characters", param="rid")
    return rid


def submits(ask: Ask, limits: Limits, origin: int) -> list[Submit]:
    """One message per choice. Raises `BadRequest` that names what is wrong."""
    check_task(limits.head, pools=ask.pooling is not None)
    if ask.adapter and not limits.adapters:
        raise BadRequest(ADAPTERS_OFF, param="lora_path", code="adapters_off")
    if ask.invariant and not limits.invariant:
        raise BadRequest(NOT_INVARIANT, param="deterministic", code="cannot_be_deterministic")
    if ask.pooling is not None:
        return [_pooled(ask, limits, origin)]
    max_new, may_shorten = _length(ask, len(ask.tokens), limits.context)
    vocab = limits.vocab + (limits.added if ask.adapter else 0)
    tokens = check_tokens(ask.tokens, vocab)
    if len(tokens) * ask.params.n > MAX_PROMPTED:
        raise BadRequest(f"{ask.params.n} choices of {len(tokens)} prompt tokens are over {MAX_PROMPTED}", param="n")
    if ask.return_logprob and not limits.scores:
        raise BadRequest(
            "there are no log probabilities with --load-format none: nothing is computed", param="logprobs"
        )
    wants = _logprobs(ask, len(tokens), vocab)
    if wants is not None:
        max_new = _listable(ask, wants, len(tokens), max_new, may_shorten)
    if ask.params.min_new_tokens > max_new:
        raise BadRequest(
            f"min_new_tokens must be in [0, max_new_tokens({max_new})], got {ask.params.min_new_tokens}",
            param="min_new_tokens",
        )
    seed = ask.params.sampling_seed
    rid = ask.rid or new_rid()
    salt = salted(ask.salt, ask.vectors) if ask.vectors else ask.salt
    hidden = _hidden(ask, len(tokens), max_new, limits)
    check_ids(ask.params.stop_token_ids or (), vocab, "stop_token_ids")
    check_ids(ask.params.logit_bias or (), vocab, "logit_bias")
    if ask.turn is not None and ask.params.n > 1:
        raise BadRequest("a turn of a session is one choice: n should be 1", param="n")
    if ask.vectors:
        _check_vectors(ask)
    return [
        Submit(
            rid=rid if ask.params.n == 1 else f"{rid}_{choice}",
            origin=origin,
            tokens=tokens,
            params=ask.params,
            max_new_tokens=max_new,
            may_shorten=may_shorten,
            seed=secrets.randbits(63) if seed is None else seed,
            choice=choice,
            priority=ask.priority,
            salt=salt,
            arrived=ask.arrived,
            stride=_stride(ask, limits),
            logprobs=wants,
            notes=dict(ask.notes),
            turn=ask.turn,
            hidden=hidden,
            vectors=ask.vectors,
            adapter=ask.adapter,
            invariant=ask.invariant,
        )
        for choice in range(ask.params.n)
    ]


def check_task(head: Head | None, *, pools: bool) -> None:
    """A model does what its head does; the words are what a user can do about it."""
    if pools and head is None:
        raise BadRequest(
            "This model generates text and gives no embeddings or scores. Serve an embedding model, or this one with "
            "`--is-embedding`.",
            code="model_cannot",
        )
    if head is not None and not pools:
        what = {"embed": "embeddings", "classify": "classes and scores", "reward": "rewards"}[head.task]
        raise BadRequest(
            f"This model gives {what} and generates no text. Serve a model that generates.", code="model_cannot"
        )


def _pooled(ask: Ask, limits: Limits, origin: int) -> Submit:
    """A text that is read and not continued: it may be as long as the context."""
    tokens = check_tokens(ask.tokens, limits.vocab + (limits.added if ask.adapter else 0))
    if len(tokens) > limits.context:
        raise BadRequest(
            f"The input ({len(tokens)} tokens) is longer than the model's context length ({limits.context} tokens).",
            param="input_ids",
            code="context_length_exceeded",
        )
    return Submit(
        rid=ask.rid or new_rid(),
        origin=origin,
        tokens=tokens,
        params=SamplingParams(max_new_tokens=0),
        max_new_tokens=0,
        may_shorten=False,
        seed=0,
        priority=ask.priority,
        salt=ask.salt,
        arrived=ask.arrived,
        stride=0,
        pooling=ask.pooling,
        adapter=ask.adapter,
        invariant=ask.invariant,
    )


def check_tokens(tokens: Sequence[int], vocab: int) -> list[int]:
    if not tokens:
        raise BadRequest("the prompt is empty", param="input_ids")
    check_ids(tokens, vocab, "input_ids")
    return list(tokens)


def check_ids(ids: Any, vocab: int, field: str) -> None:
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab:
            raise BadRequest(f"{field}: {token!r} is not a token id of this model (0 to {vocab - 1})", param=field)


def _length(ask: Ask, prompt: int, context: int) -> tuple[int, bool]:
    """How many tokens may be generated, and whether that is a default which gives way. The texts are SGLang's; their
    last words are OpenAI's, by which LiteLLM knows this error from others.
    """
    if prompt >= context:
        raise BadRequest(
            f"The input ({prompt} tokens) is longer than the model's context length ({context} tokens).",
            param="input_ids",
            code="context_length_exceeded",
        )
    asked = ask.params.max_new_tokens
    if asked is None:
        default = context if ask.to_the_end else ask.usual
        return min(default, context - prompt), True
    if prompt + asked > context:
        raise BadRequest(
            f"Requested token count exceeds the model's maximum context length of {context} tokens. You requested a "
            f"total of {prompt + asked} tokens: {prompt} tokens from the input messages and {asked} tokens for the "
            "completion. Please reduce the number of tokens in the input messages or the completion to fit within "
            f"the limit. This model's maximum context length is {context} tokens.",
            param="max_new_tokens",
            code="context_length_exceeded",
        )
    return asked, False


def _logprobs(ask: Ask, prompt: int, vocab: int) -> LogprobsWanted | None:
    if not ask.return_logprob:
        return None
    if ask.logprob_start > prompt or ask.logprob_start < -1:
        raise BadRequest(
            f"logprob_start_len ({ask.logprob_start}) must be between -1 and the prompt's {prompt} tokens",
            param="logprob_start_len",
        )
    if not 0 <= ask.top_logprobs <= MAX_TOP_LOGPROBS:
        raise BadRequest(f"top_logprobs_num must be between 0 and {MAX_TOP_LOGPROBS}", param="top_logprobs_num")
    if len(ask.token_ids_logprob) > MAX_IDS:
        raise BadRequest(f"at most {MAX_IDS} token_ids_logprob", param="token_ids_logprob")
    check_ids(ask.token_ids_logprob, vocab, "token_ids_logprob")
    return LogprobsWanted(ask.logprob_start, ask.top_logprobs, tuple(ask.token_ids_logprob))


def _hidden(ask: Ask, prompt: int, max_new: int, limits: Limits) -> HiddenWanted | None:
    if ask.hidden == "none":
        return None
    if not limits.tells_hidden:
        raise BadRequest(HIDDEN_OFF, param="return_hidden_states")
    positions = ask.params.n * (prompt + max_new if ask.hidden == "all" else 1)
    if positions * limits.hidden > MAX_HIDDEN:
        raise BadRequest(
            f"hidden states of {positions} positions with {limits.hidden} numbers each are more than {MAX_HIDDEN} "
            "numbers: ask for those of the last position, or for fewer tokens",
            param="return_hidden_states",
        )
    return HiddenWanted(0) if ask.hidden == "all" else HiddenWanted(prompt - 1, last=True)


def _check_vectors(ask: Ask) -> None:
    """What needs tokens."""
    if ask.return_logprob and ask.logprob_start >= 0:
        raise BadRequest("input_embeds are no tokens: only output tokens have log probabilities", param="input_embeds")
    if ask.turn is not None:
        raise BadRequest("input_embeds do not go with session_params: a session has tokens", param="input_embeds")
    if ask.params.n * len(ask.vectors) > MAX_BYTES:
        raise BadRequest(
            f"input_embeds of {ask.params.n * len(ask.vectors)} bytes, over all choices, are more than {MAX_BYTES}",
            param="input_embeds",
        )


def _listable(ask: Ask, wants: LogprobsWanted, prompt: int, max_new: int, may_shorten: bool) -> int:
    """How many tokens may be generated if what is listed beside each has to stay within `MAX_LISTED`."""
    beside = (wants.top + len(wants.ids)) * ask.params.n
    scored = prompt - wants.start if wants.start >= 0 else 0
    room = MAX_LISTED // beside - scored if beside else max_new
    if room >= max_new:
        return max_new
    if may_shorten and room > 0:
        return room
    raise BadRequest(
        f"{wants.top} best tokens and {len(wants.ids)} others at {scored + max_new} positions, {ask.params.n} times,"
        f" are over {MAX_LISTED}",
        param="top_logprobs_num" if wants.top else "token_ids_logprob",
    )


def _stride(ask: Ask, limits: Limits) -> int:
    """Tokens per reply: every one where text may end the request, none before the end where nobody waits for them."""
    if ask.params.has_text_stops:
        return 1
    if not ask.stream:
        return 0
    return ask.params.stream_interval or limits.stream_interval
