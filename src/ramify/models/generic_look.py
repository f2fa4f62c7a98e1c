"""Looks at a model of transformers before it is loaded: it is built without memory, a few tokens run through it, and
every call of its attention is written down. What cannot be served is refused with its reason.

Importing torch and transformers takes seconds and their memory, so a process that has not done so looks from another:
`python -m ramify.models.generic_look FOLDER`.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from ramify.config.fields import positive
from ramify.config.generic import Generic
from ramify.config.head import Encoder
from ramify.config.model import ModelConfig, _eos_ids, read_json
from ramify.config.rope import Rope
from ramify.core.errors import StartupError
from ramify.models.generic_attention import PLACE, Asked, attend
from ramify.models.generic_classes import RELEASE, class_of, config_of

LOOKING = "ramify-look"  # `attn_implementation`
TOKENS = 5
FURTHEST = 1 << 20  # tokens up to which masks are looked at
SEEN = "ramify_seen"  # the attribute of a mask
HARMLESS = frozenset(  # arguments of attention that change nothing here
    {"dropout", "is_causal", "position_ids", "sliding_window", "use_cache", "cache_position", "deterministic"}
    | {"output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "layer_idx"}
)


@dataclass(frozen=True)
class Sight:
    """What a position sees: those before it or, `both`, those on either side; within a window, or all."""

    both: bool
    window: int | None


@dataclass(frozen=True)
class Call:
    """One call of attention."""

    path: str
    heads: int
    kv_heads: int
    key: int
    value: int
    sight: Sight
    softcap: float | None
    sinks: bool


def look(folder: Path) -> ModelConfig:
    """The model in `folder` as transformers' code computes it; raises `StartupError` if that cannot be served."""
    raw = read_json(folder / "config.json", "a config.json, as transformers saves it")
    file = folder / "generation_config.json"
    more = read_json(file, "a generation config") if file.is_file() else {}
    architecture = str((raw.get("architectures") or [""])[0])
    config = config_of(raw)
    model = _empty(class_of(architecture, config), config)
    calls = _calls(model.base_model)
    try:
        return _described(architecture, raw, more, config, model, calls)
    except (AttributeError, TypeError) as e:
        raise StartupError(f"config.json: {architecture} lacks what every model has: {e}") from None


# -- running without memory --------------------------------------------------------------------------------------------


class _NoNumbers(TorchFunctionMode):
    """Answers what code asks of numbers that are not there: nothing was chosen, and all is well."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.is_meta:
            if func is Tensor.__bool__:
                return True
            if func in (Tensor.nonzero, torch.nonzero):
                return first.new_empty((0, max(first.dim(), 1)), dtype=torch.int64)
            if func is Tensor.tolist:
                return []
            if func is Tensor.__contains__:
                return False
        return func(*args, **(kwargs or {}))


def _empty(cls: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """The model on the meta device."""
    AttentionInterface.register(LOOKING, attend)
    AttentionMaskInterface.register(LOOKING, _seen_through)
    config._attn_implementation = LOOKING
    if cls._can_set_experts_implementation():
        config._experts_implementation = "eager"
    try:
        with torch.device("meta"):
            return cls(config).train(False)
    except Exception as e:  # noqa: BLE001  (whatever the model's code raises over a configuration it does not like)
        raise StartupError(f"config.json: {cls.__name__} cannot be made of it: {e}") from None


def _calls(backbone: nn.Module) -> list[Call]:
    """What attention is asked for, in its order."""
    calls: list[Call] = []
    for path, module in backbone.named_modules():
        setattr(module, PLACE, _Watch(path, calls))
    ids = torch.zeros(1, TOKENS, dtype=torch.int64, device="meta")
    asked = {"use_cache": False} if "use_cache" in _takes(backbone) else {}
    try:
        with _NoNumbers(), torch.inference_mode():
            backbone(input_ids=ids, position_ids=torch.zeros_like(ids), **asked)
    except StartupError:
        raise
    except Exception as e:  # noqa: BLE001  (whatever the model's code raises where it meets something it did not expect)
        raise StartupError(
            f"{type(backbone).__name__} cannot be served: it does not run over rows of tokens and positions alone "
            f"({type(e).__name__}: {e})"
        ) from None
    return calls


def _takes(backbone: nn.Module) -> Collection[str]:
    """The arguments of its code."""
    return inspect.signature(backbone.forward).parameters


class _Watch:
    """The seat of a module that may attend."""

    def __init__(self, path: str, calls: list[Call]) -> None:
        self._path, self._calls = path, calls

    def __call__(self, q_1HTC: Tensor, k_1KTC: Tensor, v_1KTC: Tensor, asked: Asked) -> Tensor:
        if k_1KTC.shape[2] != TOKENS or q_1HTC.shape[:1] + q_1HTC.shape[2:3] != (1, TOKENS):
            raise StartupError(f"{self._path} attends to something else than the text itself")
        strange = sorted(name for name, value in asked.rest.items() if value is not None and name not in HARMLESS)
        if strange:
            raise StartupError(f"{self._path} asks for attention with {', '.join(strange)}, which is not served")
        heads, key = q_1HTC.shape[1], q_1HTC.shape[3]
        kv_heads, value = k_1KTC.shape[1], v_1KTC.shape[3]
        self._calls.append(
            Call(self._path, heads, kv_heads, key, value, self._sight(asked), asked.softcap, asked.sinks_H is not None)
        )
        return q_1HTC.new_empty(1, TOKENS, heads, value)

    def _sight(self, asked: Asked) -> Sight:
        if asked.mask is None:
            return Sight(asked.rest.get("is_causal") is False, asked.rest.get("sliding_window"))
        seen = getattr(asked.mask, SEEN, None)
        if not isinstance(seen, Sight):
            raise StartupError(f"{self._path} adds a bias to the scores, which is not served")
        return seen


def _seen_through(
    batch_size: int, q_length: int, kv_length: int, mask_function: Callable[..., Tensor], config: Any, **_: Any
) -> Tensor:
    """How masks are made while a model is looked at: without numbers, and saying what positions see."""
    mask = torch.empty(batch_size, 1, q_length, kv_length, device="meta")
    setattr(mask, SEEN, _sight_of(mask_function, config))
    return mask


def _sight_of(function: Callable[..., Tensor], config: Any) -> Sight:
    """By what four positions see in as long a text as the model takes; the last sees as many as its window has."""
    length = min(max(int(getattr(config, "max_position_embeddings", None) or 0), 64), FURTHEST)
    with torch.device("cpu"):
        at, key = torch.tensor([0, 1, length // 2, length - 1])[:, None], torch.arange(length)[None]
        seen = function(torch.tensor(0), torch.tensor(0), at, key).broadcast_to(len(at), length)
        far = int(seen[-1].sum())
        window = None if far == length else far
        near = torch.ones(1, dtype=torch.bool) if window is None else at - key < window
        if bool((seen == (key <= at) & near).all()):
            return Sight(False, window)
        if bool((seen == (near & (key - at < (window or length)))).all()):
            return Sight(True, window)
    raise StartupError("the model has layers that attend to blocks of positions, which are not served")


# -- what was seen -----------------------------------------------------------------------------------------------------


def _described(
    architecture: str,
    raw: dict[str, Any],
    generation: dict[str, Any],
    config: PreTrainedConfig,
    model: PreTrainedModel,
    calls: list[Call],
) -> ModelConfig:
    layers = int(config.num_hidden_layers)
    _check(architecture, calls, layers)
    one, windows = calls[0], {call.sight.window for call in calls} - {None}
    both = one.sight.both
    generic = _generic(architecture, model, calls)
    context = _context(config, raw) - generic.first
    window = next(iter(windows)) if windows else None
    if window is not None and window >= context:
        window = None
    return ModelConfig(
        architecture=architecture,
        vocab=int(config.vocab_size),
        hidden=int(config.hidden_size),
        layers=len(calls),
        heads=one.heads,
        kv_heads=one.kv_heads,
        head_dim=one.key,
        mlp=_widest(model),
        norm_eps=0.0,
        activation="",
        rope=Rope(),
        context=context,
        tied=bool(config.tie_word_embeddings),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        attention_bias=False,
        mlp_bias=False,
        window=None if both else window,
        eos_ids=() if both else _eos_ids(raw, generation, int(config.vocab_size)),
        raw=raw,
        encoder=_encoder(model, calls, window) if both else None,
        windowed=tuple(not both and window is not None and call.sight.window is not None for call in calls),
        numbers={},
        generic=generic,
    )


def _check(architecture: str, calls: list[Call], layers: int) -> None:
    """All layers attend, once, and alike. Those of an encoder may be the same one again and again."""
    if not calls:
        raise StartupError(f"{architecture} cannot be served: it never attends by transformers' attention interface")
    one, paths = calls[0], {call.path for call in calls}
    if len(calls) != layers or (len(paths) != layers and not one.sight.both):
        raise StartupError(
            f"{architecture} cannot be served: of its {layers} layers {len(paths)} attend, in "
            f"{len(calls)} calls, and there is a cache for layers that attend once, and for nothing else"
        )
    shapes = {(call.heads, call.kv_heads, call.key, call.value) for call in calls}
    if len(shapes) > 1:
        raise StartupError(f"{architecture} cannot be served: its layers differ in heads or in their size")
    if one.value > one.key:
        raise StartupError(
            f"{architecture} cannot be served: its values ({one.value}) are longer than keys ({one.key})"
        )
    if len({call.sight.both for call in calls}) > 1:
        raise StartupError(f"{architecture} cannot be served: some layers attend in both directions")
    if one.sight.both and any(call.softcap is not None or call.sinks for call in calls):
        raise StartupError(f"{architecture} cannot be served: it caps scores or has sinks, in both directions")
    if len({call.sight.window for call in calls} - {None}) > 1:
        raise StartupError(f"{architecture} cannot be served: its layers have windows of different lengths")


def _generic(architecture: str, model: PreTrainedModel, calls: list[Call]) -> Generic:
    stored = {id(module.weight) for module in model.modules() if type(module) in (nn.Linear, nn.Embedding)}
    counts = {id(parameter): parameter.numel() for parameter in model.parameters()}
    return Generic(
        name=architecture,
        release=RELEASE,
        attention=tuple(call.path for call in calls),
        value_dim=calls[0].value,
        parameters=sum(counts.values()),
        elsewhere=sum(count for key, count in counts.items() if key not in stored),
        softcap=any(call.softcap is not None for call in calls),
        sinks=any(call.sinks for call in calls),
        first=_first(model) if calls[0].sight.both else 0,
    )


def _widest(model: PreTrainedModel) -> int:
    """The most inputs or outputs of a linear, heads over a vocabulary aside."""
    head = model.get_output_embeddings()
    sizes = [max(each.weight.shape) for each in model.modules() if isinstance(each, nn.Linear) and each is not head]
    return max(sizes, default=int(model.config.hidden_size))


def _context(config: PreTrainedConfig, raw: dict[str, Any]) -> int:
    found = getattr(config, "max_position_embeddings", None) or raw.get("max_position_embeddings")
    return positive({"max_position_embeddings": found}, "max_position_embeddings", 2048)


def _encoder(model: PreTrainedModel, calls: list[Call], window: int | None) -> Encoder:
    local = frozenset(at for at, call in enumerate(calls) if call.sight.window is not None)
    types = int(getattr(model.config, "type_vocab_size", 0) or 0) if "token_type_ids" in _takes(model.base_model) else 0
    return Encoder(types=types, local=local, window=(window or 1) - 1)


def _first(model: PreTrainedModel) -> int:
    """RoBERTa's positions are counted from behind the id of padding."""
    counting: Iterable[Any] = (m for m in model.modules() if hasattr(m, "create_position_ids_from_input_ids"))
    return next((int(module.padding_idx) + 1 for module in counting), 0)


# -- from another process ----------------------------------------------------------------------------------------------


def main(folder: Path) -> int:
    """Prints a `ModelConfig`, or `[cause, remedy]`."""
    logging.disable(logging.ERROR)
    try:
        found: Any = look(folder)
    except StartupError as e:
        found = [e.cause, e.remedy]
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
