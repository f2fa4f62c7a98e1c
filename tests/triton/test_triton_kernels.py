"""What Triton computes, and what it leaves to torch."""

from __future__ import annotations

import pytest

from ramify.ops.triton.kernels import left_to_torch, triton_kernels

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
