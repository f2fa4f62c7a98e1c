"""Gemma: embeddings times the root of the width, norm weights stored less 1 (Mesnard et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.config.model import ModelConfig
from ramify.layers.batch import Batch
from ramify.layers.build import Build
from ramify.layers.norm import RMSNorm
from ramify.models.decoder import Decoder, PreNormBlock, plain_attention

ONE = 1.0


class Gemma(Decoder):
    def __init__(self, build: Build, config: ModelConfig) -> None:
        super().__init__(build, config)
        self._scale = float(torch.tensor(config.hidden**0.5, dtype=build.dtype))  # rounded as the weights are

    def block(self, build: Build, config: ModelConfig, layer: int) -> torch.nn.Module:
        attention = plain_attention(build, config, layer)
        return PreNormBlock(build, config, attention, norm_offset=ONE)

    def last_norm(self, build: Build, config: ModelConfig) -> RMSNorm:
        return RMSNorm(build, config.hidden, config.norm_eps, ONE)

    def embed(self, batch: Batch) -> Tensor:
        return batch.inputs(self.embedding(batch.tokens_T) * self._scale)
