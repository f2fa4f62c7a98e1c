"""Sampling parameters: names, defaults and ranges of SGLang's `sampling_params`.

One struct serves the HTTP surface, the Python API and the wire. Token-level fields are read by the scheduler and the
sampler, text-level ones (`stop`, `stop_regex`, `no_stop_trim`, ...) by the text objects in the API process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ramify.core.convert import convert
from ramify.core.errors import BadRequest

DEFAULT_MAX_NEW_TOKENS = 128
GREEDY_BELOW = 1e-6  # a temperature under this is greedy, as in SGLang
MAX_STOP_STRINGS = 32
MAX_STOP_LENGTH = 1024
MAX_STOP_REGEX_BYTES = 256
MAX_N = 128
MAX_LOGIT_BIAS = 1024
MAX_TOP_LOGPROBS = 1024
MOST = 2**31 - 1  # of any count
LARGE = 1e6  # of a temperature or a bias: what is beyond cannot be told from it in 32 bits of float

# Known keys of SGLang that need a feature ramify does not have yet: refused by name, never ignored.
NOT_YET: dict[str, str] = {
    "beam_width": "beam search",
    "custom_params": "custom logit processors",
    "watermark": "watermarks",
}

# Known keys of SGLang that change nothing here, and why.
NO_EFFECT: dict[str, str] = {
    "spaces_between_special_tokens": "the decoder of the tokenizer says where spaces are",
}

Bounded = Annotated[float, Meta(ge=-2.0, le=2.0)]
Stop = str | list[str] | None


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a request asks of sampling. Build it with `SamplingParams.parse` to have every range checked.

    `max_new_tokens` of None means "the default of the route": 128, or less where the context ends; a number given is
    a promise that must fit. `temperature` of 0 is greedy. `top_k` of -1 is off. `sampling_seed` of None draws one.
    """

    max_new_tokens: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    min_new_tokens: Annotated[int, Meta(ge=0, le=MOST)] = 0
    temperature: Annotated[float, Meta(ge=0.0, le=LARGE)] = 1.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Meta(ge=-1, le=MOST)] = -1
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    frequency_penalty: Bounded = 0.0
    presence_penalty: Bounded = 0.0
    repetition_penalty: Annotated[float, Meta(ge=1e-3, le=2.0)] = 1.0
    logit_bias: dict[int, Annotated[float, Meta(ge=-LARGE, le=LARGE)]] | None = None
    sampling_seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_N)] = 1
    stop: Stop = None
    stop_regex: Stop = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    no_stop_trim: bool = False
    stream_interval: Annotated[int, Meta(ge=1, le=MOST)] | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None, *, where: str = "sampling_params") -> SamplingParams:
        """Build from untrusted keys and values; raises `BadRequest` that names the field."""
        raw = {k: v for k, v in (raw or {}).items() if v is not None and k not in NO_EFFECT}
        for key, feature in NOT_YET.items():
            if key in raw:
                raise BadRequest(f"{key} needs {feature}, which this version of ramify does not have", param=key)
        params = convert(raw, cls, where)
        params.check()
        return params

    def check(self) -> None:
        """The rules that types cannot say."""
        if self.top_k == 0:
            raise BadRequest("top_k must be -1 (off) or at least 1", param="top_k")
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise BadRequest(
                f"min_new_tokens must be in [0, max_new_tokens({self.max_new_tokens})], got {self.min_new_tokens}",
                param="min_new_tokens",
            )
        _check_stops(self.stop_strings, "stop", MAX_STOP_LENGTH)
        _check_stops(self.stop_patterns, "stop_regex", MAX_STOP_REGEX_BYTES)
        if self.stop_token_ids is not None and len(self.stop_token_ids) > MAX_STOP_STRINGS * 8:
            raise BadRequest(f"at most {MAX_STOP_STRINGS * 8} stop_token_ids", param="stop_token_ids")
        if self.logit_bias is not None and len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise BadRequest(f"logit_bias may name at most {MAX_LOGIT_BIAS} tokens", param="logit_bias")

    @property
    def stop_strings(self) -> list[str]:
        return _listed(self.stop)

    @property
    def stop_patterns(self) -> list[str]:
        return _listed(self.stop_regex)

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    @property
    def has_penalties(self) -> bool:
        return bool(self.frequency_penalty or self.presence_penalty or self.repetition_penalty != 1.0)

    @property
    def has_text_stops(self) -> bool:
        return bool(self.stop or self.stop_regex)


def _listed(value: Stop) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _check_stops(values: list[str], field: str, longest: int) -> None:
    if len(values) > MAX_STOP_STRINGS:
        raise BadRequest(f"at most {MAX_STOP_STRINGS} entries in {field}, got {len(values)}", param=field)
    for value in values:
        if not value:
            raise BadRequest(f"{field} must not hold an empty string", param=field)
        if len(value.encode("utf-8", "surrogatepass")) > longest:
            raise BadRequest(f"an entry of {field} is longer than {longest} bytes", param=field)
