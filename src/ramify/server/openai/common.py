"""What the OpenAI routes have in common: sampling fields, usage, finish reasons, log probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from ramify.core.errors import BadRequest
from ramify.core.params import SamplingParams
from ramify.engine.ask import SessionParams
from ramify.engine.constraints import Constraint, of_request
from ramify.engine.generation import Generation
from ramify.engine.outputs import hidden_states
from ramify.server.ask import routes_of
from ramify.server.openai.answers import (
    CachedTokens,
    CachedTokensDetails,
    ChatLogprobs,
    CompletionDetails,
    Metadata,
    SglExt,
    TextLogprobs,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from ramify.server.state import State
from ramify.text.tokenizer import Tokenizer
from ramify.wire.result import TokenLogprobs

MAX_STOP = 16
MAX_TOP_LOGPROBS = 20
WHOLE_PROMPT = 0
IMPOSSIBLE = -9999.0  # OpenAI's number for what has no log probability to speak of; JSON has no infinity


class StreamOptions(msgspec.Struct, kw_only=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class StructuredOutputs(msgspec.Struct, kw_only=True):
    """vLLM's way to say what an answer must look like: one of these."""

    json: str | dict[str, Any] | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structural_tag: str | dict[str, Any] | None = None


class SamplingFields(msgspec.Struct, kw_only=True):
    """Fields of both completion routes: OpenAI's, and SGLang's extensions. Lists of ids and keys have one for each
    prompt.
    """

    model: str = "default"
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    stop_regex: str | list[str] | None = None
    no_stop_trim: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    rid: str | list[str] | None = None
    priority: int | None = None
    extra_key: str | list[str | None] | None = None
    cache_salt: str | list[str | None] | None = None
    lora_path: str | list[str | None] | None = None
    deterministic: bool = False
    response_format: dict[str, Any] | None = None
    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    ebnf: str | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    return_token_ids: bool = False
    return_hidden_states: bool | Literal["last"] = False
    return_cached_tokens_details: bool = False
    session_params: SessionParams | None = None

    @property
    def streams(self) -> bool:
        return bool(self.stream)


# Fields that clients send and that change no answer here.
NO_EFFECT = {
    "user": "requests are not told apart by user",
    "metadata": "nothing is stored",
    "service_tier": "there is one tier",
    "store": "nothing is stored",
    "safety_identifier": "requests are not told apart by user",
    "prompt_cache_key": "the prefix cache finds prefixes by their tokens",
    "prompt_cache_retention": "the prefix cache decides by use",
    "verbosity": "the model decides",
    "custom_labels": "metrics have no labels of requests",
    "session_id": "the prefix cache finds conversations by their tokens",
    "best_of": "every choice asked for is returned",
    "stream_options.include_obfuscation": "chunks are as long as what they say",
}

REFUSED = {
    "custom_logit_processor": "custom logit processors",
    "custom_params": "custom logit processors",
    "return_routed_experts": "mixture-of-experts models",
    "return_sampling_mask": "sampling masks",
    "bootstrap_host": "disaggregation",
    "bootstrap_port": "disaggregation",
    "bootstrap_room": "disaggregation",
    "data_parallel_rank": "data parallelism",
    "routed_dp_rank": "data parallelism",
    "watermark": "watermarks",
    "images_config": "images",
    "mm_processor_kwargs": "images",
    "disagg_prefill_dp_rank": "disaggregation",
    "routed_experts_start_len": "mixture-of-experts models",
    "return_spec_tokens_details": "speculative decoding",
}


def sampling_params(state: State, asked: SamplingFields, max_tokens: int | None) -> SamplingParams:
    """In the native names; what is unset comes from the model's own generation config."""
    if isinstance(asked.stop, list) and len(asked.stop) > MAX_STOP:
        raise BadRequest(f"at most {MAX_STOP} stop strings, got {len(asked.stop)}", param="stop")
    given = {
        "max_new_tokens": max_tokens,
        "min_new_tokens": asked.min_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "min_p": asked.min_p,
        "frequency_penalty": asked.frequency_penalty,
        "presence_penalty": asked.presence_penalty,
        "repetition_penalty": asked.repetition_penalty,
        "logit_bias": _bias(asked.logit_bias),
        "sampling_seed": asked.seed,
        "n": asked.n,
        "stop": asked.stop or None,
        "stop_regex": asked.stop_regex or None,
        "stop_token_ids": asked.stop_token_ids,
        "ignore_eos": asked.ignore_eos,
        "skip_special_tokens": asked.skip_special_tokens,
        "no_stop_trim": asked.no_stop_trim,
    }
    chosen = {**state.sampling_defaults, **{k: v for k, v in given.items() if v is not None}}
    return SamplingParams.parse(chosen, where="")


def wanted(asked: SamplingFields) -> Constraint | None:
    """What the answer must look like: SGLang's fields and vLLM's say the same."""
    outputs = asked.structured_outputs or StructuredOutputs()
    any_object = {"type": "object"} if outputs.json_object else None
    spellings: dict[str, tuple[Any, ...]] = {
        "json_schema": (asked.json_schema, asked.guided_json, outputs.json, any_object),
        "regex": (asked.regex, asked.guided_regex, outputs.regex),
        "ebnf": (asked.ebnf, asked.guided_grammar, outputs.grammar),
        "choice": (asked.guided_choice, outputs.choice),
        "structural_tag": (outputs.structural_tag,),
    }
    native: dict[str, Any] = {}
    for kind, values in spellings.items():
        for value in values:
            if value is not None and native.setdefault(kind, value) is not value:
                raise BadRequest(f"{kind} is given twice", param=kind)
    return of_request(asked.response_format, native)


NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "sampling_seed": "seed"}


def _bias(bias: dict[str, float] | None) -> dict[int, float] | None:
    if not bias:
        return None
    try:
        return {int(token): value for token, value in bias.items()}
    except ValueError:
        raise BadRequest("logit_bias: keys should be token ids", param="logit_bias") from None


def routing(state: State, asked: SamplingFields) -> dict[str, Any]:
    """Where a request stands in the queue, whose prefixes it shares, its adapter, and what is told of its inside."""
    (route,) = routes_of(state, asked, 1, asked.model)
    return {**route, **inside(asked)}


def inside(asked: SamplingFields) -> dict[str, Any]:
    """These routes tell the hidden state of the last position alone."""
    return {"hidden": "last" if asked.return_hidden_states else "none"}


def last_hidden(asked: SamplingFields, generation: Generation) -> Any:
    """As SGLang shows it: a vector, and a list of one vector for "last"."""
    states = hidden_states(generation)
    return states if asked.return_hidden_states == "last" or not states else states[0]


def usage(state: State, generations: Sequence[Generation], reasoning: int = 0) -> Usage:
    """Prompts are counted once, whatever the number of choices."""
    prompts = {g.submit.rid if g.submit.params.n == 1 else g.submit.rid.rpartition("_")[0]: g for g in generations}
    prompt = sum(g.prompt_tokens for g in prompts.values())
    completion = sum(len(g.ids) for g in generations)
    cached = CachedTokens(sum(g.cached for g in prompts.values()))
    return Usage(
        prompt_tokens=prompt,
        total_tokens=prompt + completion,
        completion_tokens=completion,
        prompt_tokens_details=cached if state.resolved.settings.server.enable_cache_report else None,
        reasoning_tokens=reasoning,
        completion_tokens_details=CompletionDetails(reasoning) if reasoning else None,
    )


def extension(generations: Sequence[Generation], *, cached: bool, prompt: bool, output: bool) -> SglExt | UnsetType:
    """SGLang's `sglext`: only what was asked for, and nothing if that is nothing."""
    if not (cached or prompt or output):
        return UNSET
    first = generations[0]
    return SglExt(
        cached_tokens_details=CachedTokensDetails(device=first.cached) if cached else UNSET,
        input_ids=list(first.submit.tokens) if prompt else UNSET,
        output_ids=[list(generation.ids) for generation in generations] if output else UNSET,
    )


def metadata(state: State) -> Metadata:
    return Metadata(state.resolved.settings.model.weight_version)


def text_logprobs(
    tokenizer: Tokenizer, ids: Sequence[int], values: Sequence[float | None], tops: Sequence[Any], offsets: list[int]
) -> TextLogprobs:
    """The `logprobs` of text completions; `tops` are pairs (values, ids) or None."""
    texts = [tokenizer.token_text(token) for token in ids]
    return TextLogprobs(
        offsets,
        [None if value is None else in_json(value) for value in values],
        texts,
        [_top_dict(tokenizer, top) for top in tops],
    )


def _top_dict(tokenizer: Tokenizer, top: Any) -> dict[str, float] | None:
    """Best first; of two tokens with the same text the better one counts."""
    if top is None:
        return None
    found: dict[str, float] = {}
    for value, token in zip(*top, strict=True):
        found.setdefault(tokenizer.token_text(token), in_json(value))
    return found


def in_json(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else IMPOSSIBLE


def chat_logprobs(
    tokenizer: Tokenizer, scored: TokenLogprobs, ids: Sequence[int], first: int, last: int
) -> ChatLogprobs:
    """The `logprobs` of chat completions, for output tokens `first` to `last`."""

    def entry(token: int, value: float) -> tuple[str, float, list[int]]:
        return tokenizer.token_text(token), in_json(value), list(tokenizer.token_bytes(token))

    content = []
    for at in range(first, last):
        tops = zip(scored.top_ids[at], scored.top_values[at], strict=True) if scored.top_ids else ()
        content.append(TokenLogprob(*entry(ids[at], scored.values[at]), [TopLogprob(*entry(*top)) for top in tops]))
    return ChatLogprobs(content)
