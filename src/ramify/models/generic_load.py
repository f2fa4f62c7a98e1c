"""Loads a model of transformers: its code maps the names of our tensors, and says which are missing or left over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils import logging as their_logging

from ramify.config.model import ModelConfig
from ramify.core.errors import StartupError
from ramify.layers.linear import WHOLE
from ramify.layers.loadable import Loadable
from ramify.models.generic import GenericModel
from ramify.models.generic_attention import OURS, register
from ramify.models.generic_check import check
from ramify.models.generic_classes import class_of, config_of
from ramify.models.generic_experts import replace_experts
from ramify.models.generic_linear import ours, replace_linears
from ramify.models.layout import COMPUTED
from ramify.models.preflight import MISMATCH, some
from ramify.weights.checkpoint import list_tensors, read_tensors
from ramify.weights.dummy import fill

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
SPARE = ("lm_head.", "cls.", "pooler.", "score.", "classifier.")  # of other tasks than the one that is served


def load_generic(model: GenericModel, folder: Path, progress: Progress | None = None) -> None:
    """From a checkpoint. Tensors are mapped from the files; what stays as it is, is copied."""
    config = model.config
    tensors = dict(read_tensors(list_tensors(folder)))
    with _quietly():
        loaded: Any = _class(config).from_pretrained(
            None,
            config=config_of(config.raw),
            state_dict=dict(tensors),
            dtype=model.build.dtype,
            attn_implementation=OURS,
            ignore_mismatched_sizes=True,  # told below
            output_loading_info=True,
            trust_remote_code=False,
        )
    made, found = loaded
    _check_names(folder, config, found)
    if progress is not None:
        progress(len(tensors), len(tensors))
    _finish(model, made)
    for number, layer in enumerate(model.head.dense if model.head is not None else ()):
        assert config.head is not None
        _fill_dense(layer, folder / config.head.dense[number].folder)


def make_generic(model: GenericModel, seed: int = 0) -> None:
    """Random weights, as transformers makes them, the same for the same seed."""
    config = config_of(model.config.raw)
    with torch.random.fork_rng(), _quietly():
        torch.manual_seed(seed)
        made = _class(model.config)._from_config(config, dtype=model.build.dtype, attn_implementation=OURS).train(False)
        _finish(model, made)
        for layer in model.head.dense if model.head is not None else ():
            assert isinstance(layer, Loadable)
            for name in layer.declared():
                fill(name, layer.memory(name), torch.default_generator)
            layer.loaded()


def _class(config: ModelConfig) -> type[PreTrainedModel]:
    register()
    assert config.generic is not None
    return class_of(config.generic.name, config_of(config.raw))


def _check_names(folder: Path, config: ModelConfig, found: dict[str, Any]) -> None:
    """Nothing missing, nothing left over, everything as long as the configuration says."""
    if found["mismatched_keys"]:
        name, stored, asked = sorted(found["mismatched_keys"])[0]
        raise StartupError(
            f"tensor {name} has the shape {list(stored)} and the configuration asks for {list(asked)}", MISMATCH
        )
    if missing := sorted(found["missing_keys"]):
        raise StartupError(f"{folder} lacks {len(missing)} tensors: {some(missing)}", MISMATCH)
    spare = SPARE if config.head is not None else ()
    left = [n for n in found["unexpected_keys"] if not n.endswith(COMPUTED) and not n.startswith(spare)]
    if left:
        raise StartupError(
            f"{folder} holds {len(left)} tensors that {config.architecture} has no place for: {some(left)}", MISMATCH
        )
    if found["error_msgs"]:
        raise StartupError(f"{folder} cannot be loaded: {found['error_msgs'][0]}", MISMATCH)


def _finish(model: GenericModel, made: PreTrainedModel) -> None:
    made.requires_grad_(False)
    if model.config.encoder is None:
        vars(made.config)["pad_token_id"] = None  # nothing is padded, and some models look for it in every step
    head = made.get_output_embeddings()
    fix_ropes(made, model.build.context)
    replace_experts(made, model.build)
    replace_linears(made, model.build, head)
    own = ours(made)
    for parameter in made.parameters():
        if id(parameter) not in own:
            parameter.data = parameter.data.clone()  # no longer mapped from a file
    model.adopt(made)
    check(model)


def fix_ropes(model: nn.Module, context: int) -> None:
    """Frequencies that follow the longest text of a batch are fixed to the context that is served: what is cached of a
    prefix must stay right, and a request's numbers are its own. See `layers.rope`.
    """
    module: Any
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if isinstance(kind, dict) and "longrope" in kind.values():
            raise StartupError("rotary embeddings of the type longrope that differ by layer are not served")
        if kind == "longrope":
            frequencies, _ = ROPE_INIT_FUNCTIONS[kind](module.config, module.inv_freq.device, seq_len=context)
            module.inv_freq = frequencies
        if kind in ("longrope", "dynamic"):
            module.rope_type = "default"


def _fill_dense(layer: Any, folder: Path) -> None:
    """Dense layers of sentence-transformers have files of their own."""
    for name, tensor in read_tensors(list_tensors(folder)):
        layer.accept(name.rpartition(".")[2], WHOLE, tensor, name)
    if missing := layer.missing():
        raise StartupError(f"{folder} lacks {', '.join(missing)}", MISMATCH)
    layer.loaded()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without a bar and a report of its own."""
    bar, level = their_logging.is_progress_bar_enabled(), their_logging.get_verbosity()
    their_logging.disable_progress_bar()
    their_logging.set_verbosity_error()
    try:
        yield
    finally:
        their_logging.set_verbosity(level)
        if bar:
            their_logging.enable_progress_bar()
