"""What Triton computes, what it leaves to torch, and that it asks nothing while a step is computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ramify.ops.kernels import Packing
from ramify.ops.lora import LowRank, LowRanks
from ramify.ops.routing import Routing
from ramify.ops.triton.kernels import left_to_torch, triton_kernels
from tensors import randn

pytestmark = pytest.mark.triton


def test_what_is_left_to_torch() -> None:
    """Linears, where their bits may depend on the batch: cuBLAS's are quicker."""
    assert left_to_torch(triton_kernels(invariant=True)) == []
    assert left_to_torch(triton_kernels()) == ["linear"]


def test_experts_are_computed_in_groups_however_they_are_stored() -> None:
    kernels = triton_kernels()
    for packing in (kernels.w8a8, kernels.int4, kernels.fp8):
        assert packing.pack_groups is not None
        assert packing.grouped_linear is not None
        assert packing.together is not None


READS = {
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.nonzero, torch.nonzero, Tensor.cpu, torch.equal, torch.unique),
    *(Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.__contains__, Tensor.masked_select),
}


class NothingRead(TorchFunctionMode):
    """Notices where numbers of a tensor are asked for: a device would be waited for, and nothing could be captured."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in READS, func
        return func(*args, **(kwargs or {}))


def calls() -> dict[str, Callable[[], object]]:
    kernels, ends = triton_kernels(invariant=True), torch.tensor([3, 3, 9])
    x, weight = randn(9, 40, dtype=torch.float32), randn(3, 20, 40, dtype=torch.float32)
    chosen = torch.tensor([[0, 2], [1, 2], [2, 0]])
    made: dict[str, Callable[[], object]] = {
        "route": lambda: kernels.route(x, None, Routing(2, groups=4, best_groups=2)),
        "by expert": lambda: kernels.by_expert(chosen, 3),
        "grouped": lambda: kernels.grouped_linear(x, weight, None, ends),
        "combine": lambda: kernels.combine(x, chosen, torch.ones(3, 2)),
        "texts": lambda: kernels.attend_texts(x[:, :24], 2, ends - ends, torch.tensor([4, 4, 1]), 0, 1.0),
    }
    for name in ("w8a8", "int4", "fp8"):
        packing: Packing = getattr(kernels, name)
        assert packing.pack_groups is not None
        assert packing.grouped_linear is not None
        packed = packing.pack_groups(weight)
        made[name] = partial(packing.grouped_linear, x, packed, 20, None, ends)
    table = LowRanks(2, 1, torch.float32)
    table.put(1, [LowRank(randn(4, 40, dtype=torch.float32), randn(20, 4, dtype=torch.float32), 1.0)])
    runs, y = torch.tensor([[0, 9, 1]], dtype=torch.int32), torch.zeros(9, 20)
    made["lora"] = lambda: kernels.lora(y, x, runs, table)
    return made


@pytest.mark.parametrize("name", calls())
def test_the_host_asks_nothing(name: str) -> None:
    call = calls()[name]
    with NothingRead():
        call()


def test_questions_are_noticed() -> None:
    with NothingRead(), pytest.raises(AssertionError, match="tolist"):
        torch.zeros(3).tolist()
