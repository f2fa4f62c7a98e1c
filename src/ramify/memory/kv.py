"""Pages as tensors: the KV pool of ordinary attention layers."""

from __future__ import annotations

import torch
from torch import Tensor

from ramify.config.stored import int8_row


class KVPool:
    """K and V of every layer, `pages` pages and page 0 for padding. One layer's pool is [pages + 1, K, S, C].

    In int8 a row of C numbers is longer, by the scale that stands behind it (`ops.reference.int8`): so whatever is done
    to a page is done to its scales.

    Zeroed lazily by the operating system, so that a page nobody writes costs no memory. What lies beyond a request's
    length in a page is never attended to, but it is multiplied by zero: it must be finite, and `wipe` keeps it so.
    """

    def __init__(
        self,
        layers: int,
        pages: int,
        kv_heads: int,
        page_size: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        row = int8_row(head_dim) if dtype is torch.int8 else head_dim
        shape = (layers, pages + 1, kv_heads, page_size, row)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)
        self.page_size = page_size

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.k[index], self.v[index]

    def copy(self, sources: list[int], targets: list[int]) -> None:
        """Whole pages, over all layers."""
        self.k[:, targets] = self.k[:, sources]
        self.v[:, targets] = self.v[:, sources]

    def wipe(self, pages: list[int], first: int) -> None:
        """Zero the slots from `first` on of the first of `pages`, and all of the others."""
        for pool in (self.k, self.v):
            pool[:, pages[0], :, first:] = 0
            pool[:, pages[1:]] = 0

    @property
    def bytes(self) -> int:
        return self.k.nbytes + self.v.nbytes
