"""What constructors need to know, handed down instead of looked up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ramify.ops.attention import AttentionBackend
from ramify.ops.kernels import Kernels
from ramify.quant.scheme import LinearScheme


@dataclass(frozen=True)
class Build:
    """Construction context of a model: who computes, how linears are stored, which type, where.

    `vocabulary` is the scheme of what has a row for every token: embeddings and heads.
    """

    kernels: Kernels
    attention: AttentionBackend
    scheme: LinearScheme
    vocabulary: LinearScheme
    dtype: torch.dtype
    device: torch.device

    @property
    def of_vocabulary(self) -> Build:
        """The context of embeddings and heads."""
        return replace(self, scheme=self.vocabulary)
