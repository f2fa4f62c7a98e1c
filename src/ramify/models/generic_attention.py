"""What stands in for attention while transformers' code runs: keys and values go to our pages, our backend attends.

transformers looks its attention up by name and calls it with the module that attends. Every such module has a *seat*,
which knows the layer; what it needs of the step stands in a `Step` that all seats of a model share. Only the name is
global.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.passages import Passages
from ramify.ops.attention import AttentionBackend, Rule
from ramify.ops.kernels import Kernels

OURS = "ramify"  # `attn_implementation`
PLACE = "ramify_seat"  # the attribute of an attention module


@dataclass(frozen=True)
class Asked:
    """What a module asks of its attention. `scale` is None where it is 1 / sqrt(size of a head)."""

    scale: float | None
    softcap: float | None
    sinks_H: Tensor | None
    mask: Tensor | None
    rest: dict[str, Any]


class Seat(Protocol):
    def __call__(self, q_1HTC: Tensor, k_1KTC: Tensor, v_1KTC: Tensor, asked: Asked) -> Tensor:
        """Attention output [1, T, H, size of a value]."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it."""
    seat: Seat = getattr(module, PLACE)
    return seat(query, key, value, Asked(scaling, softcap, s_aux, attention_mask, rest)), None


def register() -> None:
    """Tell transformers of `attend`. Masks have no entry of that name, so none are made."""
    AttentionInterface.register(OURS, attend)


class Step:
    """What is being computed."""

    def __init__(self, backend: AttentionBackend) -> None:
        self.backend = backend
        self.batch: Batch | None = None
        self.texts: Passages | None = None


class PagedSeat:
    """Of a layer of a decoder. Values shorter than keys are stored with zeros behind them."""

    def __init__(self, step: Step, build: Build, layer: int, window: int | None) -> None:
        self._step, self._kernels, self._dtype = step, build.kernels, build.dtype
        self._layer, self._window, self._angles = layer, window, build.kernels.angles or build.dtype

    def __call__(self, q_1HTC: Tensor, k_1KTC: Tensor, v_1KTC: Tensor, asked: Asked) -> Tensor:
        batch = self._step.batch
        assert batch is not None
        (k_pool, v_pool), place = batch.pool.layer(self._layer), batch.place(self._layer)
        qkv_TE, wide = _joined(q_1HTC, k_1KTC, v_1KTC).to(self._dtype), v_1KTC.shape[3]
        still = torch.empty(len(qkv_TE), 0, dtype=self._angles, device=qkv_TE.device)  # it was rotated already
        q_THC = self._kernels.qkv_rope_store(
            qkv_TE, q_1HTC.shape[1], None, None, 0.0, still, still, k_pool, v_pool, place.write_at_T
        )
        out_THC = self._step.backend.forward(q_THC, k_pool, v_pool, place.attention, self._rule(q_THC, asked))
        return out_THC[None, :, :, :wide].to(q_1HTC.dtype)

    def _rule(self, q_THC: Tensor, asked: Asked) -> Rule:
        scale = q_THC.shape[2] ** -0.5 if asked.scale is None else float(asked.scale)
        return Rule(scale, self._window, asked.softcap, None if asked.sinks_H is None else asked.sinks_H.float())


class TextSeat:
    """Of a layer of an encoder. `window` is how far it sees to either side, 0: everything."""

    def __init__(self, step: Step, kernels: Kernels, window: int) -> None:
        self._step, self._kernels, self._window = step, kernels, window

    def __call__(self, q_1HTC: Tensor, k_1KTC: Tensor, v_1KTC: Tensor, asked: Asked) -> Tensor:
        texts, heads, size = self._step.texts, q_1HTC.shape[1], q_1HTC.shape[3]
        assert texts is not None
        scale = size**-0.5 if asked.scale is None else float(asked.scale)
        shared = heads // k_1KTC.shape[1]
        k_1HTC, v_1HTC = (part.repeat_interleave(shared, 1) if shared > 1 else part for part in (k_1KTC, v_1KTC))
        out_TD = self._kernels.attend_texts(
            _joined(q_1HTC, k_1HTC, v_1HTC), heads, texts.starts_N, texts.counts_N, self._window, scale
        )
        return out_TD.unflatten(1, (heads, size))[None, :, :, : v_1KTC.shape[3]]


def _joined(q_1HTC: Tensor, k_1KTC: Tensor, v_1KTC: Tensor) -> Tensor:
    """[T, E], as a fused projection would have them."""
    v_1KTC = F.pad(v_1KTC, (0, k_1KTC.shape[3] - v_1KTC.shape[3])) if v_1KTC.shape[3] < k_1KTC.shape[3] else v_1KTC
    return torch.cat([part[0].transpose(0, 1).flatten(1) for part in (q_1HTC, k_1KTC, v_1KTC)], dim=1)
