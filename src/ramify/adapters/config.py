"""What the `adapter_config.json` of a PEFT checkpoint says of a low-rank adapter (Hu et al. 2021).

What has no part in what is computed is read over. What changes it and is not computed here is refused by name, and so
is what nobody knows.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any

import msgspec
import re2

from ramify.core.convert import convert
from ramify.core.errors import BadRequest

FILE = "adapter_config.json"
MAX_CONFIG = 1 << 20  # bytes
MAX_RANK = 4096
MAX_ALPHA = 1e6
MAX_PATTERNS = 4096
MAX_PATTERN = 16384  # characters
MAX_TOKENS = 65536  # that have rows of their own
MAX_REGEX_MEMORY = 1 << 20
ALL_LINEAR = "all-linear"
LAYER = re.compile(r"\.[^.]*\.(\d{1,6})\.")  # the first number between two names

Rank = Annotated[int, msgspec.Meta(ge=1, le=MAX_RANK)]
Alpha = Annotated[float, msgspec.Meta(ge=-MAX_ALPHA, le=MAX_ALPHA)]
Layer = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
Tokens = Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]], msgspec.Meta(max_length=MAX_TOKENS)]
Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PATTERN)]
Patterns = Annotated[list[Pattern], msgspec.Meta(max_length=MAX_PATTERNS)]

REFUSED = {
    "use_dora": "weight-decomposed adapters (DoRA); merge it into the base model",
    "use_qalora": "pooled inputs (QALoRA)",
    "use_bdlora": "block-diagonal adapters",
    "alora_invocation_tokens": "adapters that begin at a token (aLoRA)",
    "arrow_config": "adapters that are chosen by a router",
    "kasa_config": "singular values between the factors (KaSA)",
    "monteclora_config": "sampled adapters",
    "layer_replication": "repeated layers",
    "lora_bias": "biases of adapters",
}


class PeftConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields are those of PEFT's `LoraConfig`. Modules are named as the checkpoint of the base model has them."""

    peft_type: str
    r: Rank
    lora_alpha: Alpha
    target_modules: Patterns | Pattern | None = None
    exclude_modules: Patterns | Pattern | None = None
    use_rslora: bool = False
    rank_pattern: dict[Pattern, Rank] | None = None
    alpha_pattern: dict[Pattern, Alpha] | None = None
    layers_to_transform: list[Layer] | Layer | None = None
    layers_pattern: Patterns | str | None = None
    target_parameters: Patterns | None = None
    modules_to_save: Patterns | None = None
    trainable_token_indices: Tokens | dict[Pattern, Tokens] | None = None
    bias: str = "none"

    use_dora: Any = None
    use_qalora: Any = None
    use_bdlora: Any = None
    alora_invocation_tokens: Any = None
    arrow_config: Any = None
    kasa_config: Any = None
    monteclora_config: Any = None
    layer_replication: Any = None
    lora_bias: Any = None

    # Of training, or of how the base model keeps its weights.
    auto_mapping: Any = None
    base_model_name_or_path: Any = None
    corda_config: Any = None
    ensure_weight_tying: Any = None
    eva_config: Any = None
    fan_in_fan_out: Any = None
    inference_mode: Any = None
    init_lora_weights: Any = None
    loftq_config: Any = None
    lora_dropout: Any = None
    lora_ga_config: Any = None
    megatron_config: Any = None
    megatron_core: Any = None
    peft_version: Any = None
    qalora_group_size: Any = None
    revision: Any = None
    runtime_config: Any = None
    task_type: Any = None
    velora_config: Any = None

    def rank_of(self, module: str) -> int:
        return _by_pattern(self.rank_pattern or {}, module, self.r)

    def scale_of(self, module: str) -> float:
        alpha, rank = _by_pattern(self.alpha_pattern or {}, module, self.lora_alpha), self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def parameters_of(self, module: str) -> list[str]:
        """Names of parameters of a module that were adapted: of experts, the tensors in which all of them stand."""
        split = [name.rpartition(".") for name in self.target_parameters or ()]
        return [f"{module}.{last}" for owner, _, last in split if not owner or f".{module}".endswith(f".{owner}")]

    def tokens_of(self, module: str) -> list[int]:
        """Tokens whose rows of an embedding or a head were trained. Those of a head that is tied to the embedding are
        the embedding's, where it has none of its own.
        """
        given = self.trainable_token_indices or []
        if isinstance(given, list):
            return given
        own = [tokens for name, tokens in given.items() if f".{module}".endswith(f".{name}")]
        return own[0] if own else next(iter(given.values()), [])

    def adapts(self, module: str) -> bool:
        """Whether a low-rank pair of that module belongs to this adapter, as PEFT decides it."""
        if self.exclude_modules and _names(self.exclude_modules, module):
            return False
        if self.target_modules is None or self.target_modules == ALL_LINEAR:
            return True
        if not _names(self.target_modules, module):
            return False
        return isinstance(self.target_modules, str) or self._in_layers(module)

    def _in_layers(self, module: str) -> bool:
        layers = self.layers_to_transform
        if layers is None or layers == []:
            return True
        number = self._layer(module)
        return number is not None and number in ([layers] if isinstance(layers, int) else layers)

    def _layer(self, module: str) -> int | None:
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        found = [LAYER.search(module)]
        if patterns and any(patterns):
            found = [_compiled(rf"(?:^|.*?\.){pattern}\.(\d{{1,6}})\.").match(module) for pattern in patterns]
        return next((int(match[1]) for match in found if match is not None), None)


def read_config(raw: bytes | dict[str, Any]) -> PeftConfig:
    """Checked; raises `BadRequest` that names the field."""
    given = _parsed(raw) if isinstance(raw, bytes) else raw
    _check_kind(given)
    config = convert(given, PeftConfig, FILE)
    for name, what in REFUSED.items():
        if getattr(config, name):
            raise BadRequest(f"{FILE}: {name}: {what} are not supported", param=name)
    if config.bias != "none":
        raise BadRequest(f"{FILE}: bias should be 'none': biases that were trained are not supported", param="bias")
    _check_patterns(config)
    return config


def _check_kind(given: dict[str, Any]) -> None:
    kind = given.get("peft_type")
    if kind != "LORA":
        raise BadRequest(f"{FILE}: peft_type should be 'LORA', not {str(kind)[:40]!r}", param="peft_type")


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        given = json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise BadRequest(f"{FILE} is damaged: it should be an object in JSON", param=FILE)
    return given


def _no_number(constant: str) -> float:
    raise ValueError(constant)


def _check_patterns(config: PeftConfig) -> None:
    """All of them, before one is used."""
    whole = [each for each in (config.target_modules, config.exclude_modules) if isinstance(each, str)]
    for pattern in whole:
        _compiled(pattern)
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = getattr(config, name) or {}
        if len(patterns) > MAX_PATTERNS:
            raise BadRequest(f"{FILE}: {name} has over {MAX_PATTERNS} patterns", param=name)
        for pattern in patterns:
            _compiled(_at_the_end(pattern))
    layers = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern or []
    for pattern in layers:
        _compiled(pattern)


def _names(wanted: list[str] | str, module: str) -> bool:
    """A string is a regex for the whole name; of a list, one is the name or its end."""
    if isinstance(wanted, str):
        return _compiled(wanted).fullmatch(module) is not None
    return any(f".{module}".endswith(f".{name}") for name in wanted)


def _by_pattern(patterns: dict[str, Any], module: str, otherwise: Any) -> Any:
    """What the first pattern says that matches the end of a name."""
    for pattern, value in patterns.items():
        if _compiled(_at_the_end(pattern)).match(module):
            return value
    return otherwise


def _at_the_end(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _compiled(pattern: str) -> Any:
    """In time that is linear in the name. RE2 keeps what it compiled."""
    options = re2.Options()
    options.max_mem, options.log_errors = MAX_REGEX_MEMORY, False
    try:
        return re2.compile(pattern, options)
    except re2.error as e:
        raise BadRequest(f"{FILE}: the pattern {pattern[:80]!r} cannot be used: {e}", param=FILE) from None
