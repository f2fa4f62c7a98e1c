"""Any model of transformers over our pages: its code computes all but attention, linears and embeddings.

A step is one row of T tokens for it, with the positions that they have. How it is loaded stands in `generic_load`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ramify.config.model import ModelConfig
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.head import PooledHead
from ramify.layers.passages import Passages
from ramify.models.generic_attention import PLACE, PagedSeat, Seat, Step, TextSeat


class States:
    """What a backbone gives: the last hidden states, what it pools of them, and nothing of what else some give."""

    def __init__(self, x_1TD: Tensor, pooled_1D: Tensor | None) -> None:
        self.last_hidden_state, self.pooler_output = x_1TD, pooled_1D

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, which: Any) -> Any:
        return (self.last_hidden_state, self.pooler_output)[which]


class Given(nn.Module):
    """Stands where the backbone was, so that the model's own code makes logits of states that are there already."""

    x_1TD: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.pooler: nn.Module | None = None

    @property
    def decoder(self) -> Given:
        """What OPT asks instead of its backbone."""
        return self

    def forward(self, *_: Any, **__: Any) -> States:
        return States(self.x_1TD, None if self.pooler is None else self.pooler(self.x_1TD))


class OwnClassifier(nn.Module):
    """From pooled states [N, D] to logits [N, size], by the model's own code, one text after another."""

    def __init__(self, top: Callable[..., Any], given: Given) -> None:
        super().__init__()
        self._top, self._given = top, given

    def forward(self, x_ND: Tensor) -> Tensor:
        return torch.cat([self._one(x_1D) for x_1D in x_ND.split(1)])

    def _one(self, x_1D: Tensor) -> Tensor:
        self._given.x_1TD = x_1D[None]
        return cast(Tensor, self._top(input_ids=x_1D.new_zeros(1, 1, dtype=torch.int64)).logits)


class GenericModel(nn.Module):
    """`adopt` takes a loaded model in. Hidden states come from its `backbone`; `top` makes logits of them."""

    backbone: PreTrainedModel
    top: PreTrainedModel | None

    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__()
        self.build, self.config = build, config
        self.step = Step(build.attention)
        self.given = Given()
        self.head = None if config.head is None else PooledHead(build, config)

    def adopt(self, model: PreTrainedModel) -> None:
        """Split it into what gives hidden states and what makes logits of them, and seat its attention."""
        backbone: Any = model.base_model
        self.backbone, self.top = backbone, None
        if backbone is not model and (self.head is None or self._classifies):
            setattr(model, model.base_model_prefix, self.given)
            self.top, self.given.pooler = model, getattr(backbone, "pooler", None)
        if self.head is not None and self._classifies:
            assert self.top is not None
            self.head.classifier = OwnClassifier(self.top.forward, self.given)
        assert self.config.generic is not None
        for layer, path in enumerate(self.config.generic.attention):
            setattr(backbone.get_submodule(path), PLACE, self.seat(layer))

    @property
    def _classifies(self) -> bool:
        return self.config.head is not None and self.config.head.classifier == "own"

    @contextmanager
    def whole(self) -> Iterator[Callable[..., Any]]:
        """All of the model, as transformers has it."""
        if self.top is None:
            yield self.backbone
            return
        setattr(self.top, self.top.base_model_prefix, self.backbone)
        try:
            yield self.top
        finally:
            setattr(self.top, self.top.base_model_prefix, self.given)

    def seat(self, layer: int) -> Seat:
        raise NotImplementedError


class GenericDecoder(GenericModel):
    def seat(self, layer: int) -> PagedSeat:
        return PagedSeat(self.step, self.build, layer, self.config.window_of(layer))

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states [T, D] of a step."""
        self.step.batch = batch
        out = self.backbone(**self._inputs(batch), position_ids=batch.positions_T[None], use_cache=False)
        return cast(Tensor, out.last_hidden_state[0])

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        if batch.vectors is None:
            return {"input_ids": batch.tokens_T[None]}
        return {"inputs_embeds": batch.inputs(self.backbone.get_input_embeddings()(batch.tokens_T))[None]}

    def logits(self, x_TD: Tensor) -> Tensor:
        """Logits [T, V] of chosen hidden states."""
        assert self.top is not None, "a model with a head gives no tokens"
        self.given.x_1TD = x_TD[None]
        nothing = torch.zeros(1, len(x_TD), dtype=torch.int64, device=x_TD.device)
        return cast(Tensor, self.top(input_ids=nothing, use_cache=False).logits[0])


class GenericEncoder(GenericModel):
    def seat(self, layer: int) -> TextSeat:
        encoder = self.config.encoder
        assert encoder is not None
        return TextSeat(self.step, self.build.kernels, encoder.window if layer in encoder.local else 0)

    def forward(self, texts: Passages) -> Tensor:
        """Hidden states [T, D] of whole texts."""
        encoder, generic = self.config.encoder, self.config.generic
        assert encoder is not None
        assert generic is not None
        self.step.texts = texts
        given = {"position_ids": (texts.positions_T + generic.first)[None]}
        if encoder.types:
            given["token_type_ids"] = texts.types_T.clamp_max(encoder.types - 1)[None]
        return cast(Tensor, self.backbone(input_ids=texts.tokens_T[None], **given).last_hidden_state[0])
