"""Pages as tensors: the KV pools of attention layers, and the states of layers that keep one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ramify.config.model import Recurrent
from ramify.config.stored import int8_row


class KVPool:
    """K and V of every layer, `pages` pages and page 0 for padding. One layer's pool is [pages + 2, K, S, C].

    There is one page more, `nowhere`, which nobody reads: what need not be kept is written there.

    `shared`: values are not stored, they are the first elements of the keys, that many (latent attention).

    In int8 a row of C numbers is longer, by the scale that stands behind it (`ops.reference.int8`): so whatever is done
    to a page is done to its scales.

    On a CPU zeroed lazily by the operating system, so that a page nobody writes costs no memory. What lies beyond a
    request's length in a page is never attended to, but it is multiplied by zero: it must be finite, and `wipe` keeps
    it so.
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
        shared: int | None = None,
    ) -> None:
        row = int8_row(head_dim) if dtype is torch.int8 else head_dim
        shape = (layers, pages + 2, kv_heads, page_size, row)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device) if shared is None else self.k[..., :shared]
        stored = (self.k, self.v) if shared is None else (self.k,)
        self._stored = tuple(
            pool.view(torch.int8) if pool.itemsize == 1 else pool for pool in stored
        )  # bytes are moved
        self.page_size, self.nowhere = page_size, pages + 1

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.k[index], self.v[index]

    def copy(self, sources_N: Tensor, targets_N: Tensor) -> None:
        """Whole pages, over all layers."""
        for pool in self._stored:
            pool[:, targets_N] = pool[:, sources_N]

    def wipe(self, page: int, first: int, others_N: Tensor) -> None:
        """Zero the slots from `first` on of a page, and all of the others."""
        for pool in self._stored:
            pool[:, page, :, first:] = 0
            pool.index_fill_(1, others_N, 0)

    @property
    def bytes(self) -> int:
        return sum(pool.nbytes for pool in self._stored)


class StatePool:
    """The states of every layer that keeps one, `slots` of them; slot 0 is zeros: the state before the first token.
    There is one slot more, `nowhere`, which nobody reads.

    Of a layer there are the last inputs of its convolution [slots + 2, W - 1, E] in the type of the model, and matrices
    [slots + 2, heads, ...] in fp32. A slot is read only where it was written for that request before, so nothing that
    went wrong reaches the next tenant.
    """

    def __init__(self, layers: int, slots: int, shape: Recurrent, dtype: torch.dtype, device: torch.device) -> None:
        self.conv = torch.zeros(layers, slots + 2, shape.conv - 1, shape.channels, dtype=dtype, device=device)
        self.matrices = torch.zeros(layers, slots + 2, shape.heads, *shape.matrix, device=device)
        self.nowhere = slots + 1

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.conv[index], self.matrices[index]

    def save(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv[:, slots], self.matrices[:, slots]

    def restore(self, slots: Tensor, saved: tuple[Tensor, Tensor]) -> None:
        self.conv[:, slots], self.matrices[:, slots] = saved

    @property
    def bytes(self) -> int:
        return self.conv.nbytes + self.matrices.nbytes


class KVCache:
    """A pool for each group of layers that attend: all that see everything, and all that see a window; and states of
    layers that keep one. `groups` names the group of every layer.
    """

    def __init__(self, pools: Sequence[KVPool], groups: Sequence[int], states: StatePool | None = None) -> None:
        self.pools, self.groups, self.states = tuple(pools), tuple(groups), states
        self._within = [self.groups[:layer].count(group) for layer, group in enumerate(groups)]

    @property
    def nowhere(self) -> list[int]:
        """By group, with that of states last: where is written what nobody reads."""
        pools = [pool.nowhere for pool in self.pools]
        return pools if self.states is None else [*pools, self.states.nowhere]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pools[self.groups[index]].layer(self._within[index])

    def state(self, index: int) -> tuple[Tensor, Tensor]:
        """What a layer that keeps a state has: inputs of its convolution, and matrices."""
        assert self.states is not None
        return self.states.layer(self._within[index])

    @property
    def bytes(self) -> int:
        return sum(pool.bytes for pool in self.pools) + (self.states.bytes if self.states is not None else 0)
