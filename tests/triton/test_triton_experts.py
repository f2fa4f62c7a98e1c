"""Mixtures of experts in Triton, in its interpreter: against the references, and that a row's bits are its own."""

from __future__ import annotations

import pytest
import torch

from ramify.layers.build import Build
from ramify.layers.separate import SeparateLinear
from ramify.ops.reference import experts, fp8
from ramify.ops.reference.attention import ReferenceAttention
from ramify.ops.routing import Routing
from ramify.ops.triton.experts import Mixtures
from ramify.ops.triton.kernels import triton_kernels
from ramify.ops.triton.linear import Linears
from ramify.ops.triton.quantized import Fp8, Int4, Int8
from ramify.quant.packed import Packed
from ramify.quant.scheme import Plain
from tensors import close, randn

pytestmark = pytest.mark.triton

MIXTURES, LINEARS = Mixtures(), Linears()
TYPES = {"float32": torch.float32, "float16": torch.float16}
types = pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)

ROUTINGS = {
    "Mixtral": (8, False, Routing(2, after="sum")),
    "Qwen": (60, False, Routing(4)),
    "GPT-OSS": (32, False, Routing(4, score="logit", after="softmax")),
    "Granite": (40, False, Routing(8, score="logit", after="softmax")),
    "DeepSeek V2": (60, False, Routing(6, groups=6, best_groups=3, scale=16.0)),
    "DeepSeek V3": (
        64,
        True,
        Routing(8, score="sigmoid", after="sum", groups=8, best_groups=4, pooled=2, scale=2.5),
    ),
    "GLM": (24, True, Routing(3, score="sigmoid", after="sum", pooled=2)),
    "of nobody": (15, True, Routing(3, score="logit", after="softmax", groups=3, best_groups=2)),
    "Llama 4": (16, False, Routing(1, score="logit", after="sigmoid")),
}


@pytest.mark.parametrize(("count", "corrected", "routing"), ROUTINGS.values(), ids=ROUTINGS)
def test_route(count: int, corrected: bool, routing: Routing) -> None:
    """The reference's choice, and each token's bits are its own."""
    logits = randn(9, count, dtype=torch.float32) * 2
    correction = randn(count, dtype=torch.float32, seed=1) * 0.2 if corrected else None
    weights, chosen = MIXTURES.route(logits, correction, routing)
    expected, theirs = experts.route(logits, correction, routing)
    assert torch.equal(chosen, theirs)
    close(weights, expected)
    alone = MIXTURES.route(logits[4:5], correction, routing)
    assert torch.equal(alone[0][0], weights[4])
    assert torch.equal(alone[1][0], chosen[4])


@pytest.mark.parametrize(("count", "corrected", "routing"), ROUTINGS.values(), ids=ROUTINGS)
def test_what_is_not_finite_chooses_experts_that_there_are(count: int, corrected: bool, routing: Routing) -> None:
    """Different ones: a token computed twice by one expert would be no less wrong, but rows would have to know."""
    logits = randn(4, count, dtype=torch.float32)
    logits[0], logits[1, 3], logits[2], logits[3, 5:] = float("nan"), float("nan"), float("-inf"), float("-inf")
    correction = torch.zeros(count) if corrected else None
    weights, chosen = MIXTURES.route(logits, correction, routing)
    assert ((chosen >= 0) & (chosen < count)).all()
    assert weights[0].isnan().all()
    for row in range(4):
        assert len(set(chosen[row].tolist())) == routing.chosen


def test_among_equals_the_first_experts_are_chosen() -> None:
    logits = torch.zeros(1, 12)
    logits[0, 7] = 1.0
    _, chosen = MIXTURES.route(logits, None, Routing(3, score="logit"))
    assert chosen.tolist() == [[7, 0, 1]]


@pytest.mark.parametrize(
    ("tokens", "chosen", "count"), [(1, 2, 5), (3, 8, 128), (64, 2, 16), (150, 3, 7), (700, 2, 130), (33, 1, 300)]
)
def test_by_expert(tokens: int, chosen: int, count: int) -> None:
    """Whole numbers: those of the reference, whatever chunk a row is in."""
    numbers = torch.rand(tokens, count, generator=torch.Generator().manual_seed(count)).topk(chosen, dim=-1).indices
    numbers[tokens // 2 :] //= 3  # some have many
    for ours, theirs in zip(MIXTURES.by_expert(numbers, count), experts.by_expert(numbers, count), strict=True):
        assert torch.equal(ours, theirs)


@types
@pytest.mark.parametrize("bias", [False, True])
def test_grouped_linear_is_linear_of_each_group(ordered: None, bias: bool, dtype: torch.dtype) -> None:
    counts = [5, 0, 1, 17, 0, 2]
    ends = torch.tensor(counts).cumsum(0)
    weight, x = randn(6, 37, 70, dtype=dtype), randn(25, 70, dtype=dtype, seed=1)
    b = randn(6, 37, dtype=dtype, seed=2) if bias else None
    ours = MIXTURES.grouped_linear(x, weight, b, ends)
    close(ours, experts.grouped_linear(x, weight, b, ends))
    for group, (end, count) in enumerate(zip(ends.tolist(), counts, strict=True)):
        alone = LINEARS.linear(x[end - count : end], weight[group], None if b is None else b[group])
        assert torch.equal(ours[end - count : end], alone)


@pytest.mark.parametrize("counts", [[0, 0, 3], [40, 1], [1] * 9, [0, 130, 0]])
def test_groups_of_all_sizes(counts: list[int]) -> None:
    ends = torch.tensor(counts).cumsum(0)
    weight, x = randn(len(counts), 16, 16, dtype=torch.float32), randn(sum(counts), 16, dtype=torch.float32, seed=1)
    close(MIXTURES.grouped_linear(x, weight, None, ends), experts.grouped_linear(x, weight, None, ends))


@types
def test_combine(dtype: torch.dtype) -> None:
    y, rows = randn(30, 45, dtype=dtype), torch.randperm(30, generator=torch.Generator().manual_seed(1)).view(10, 3)
    weights = randn(10, 3, dtype=torch.float32, seed=2).softmax(-1)
    close(MIXTURES.combine(y, rows, weights), experts.combine(y, rows, weights))


QUANTIZED = {"int8": Int8(), "int4": Int4(), "fp8": Fp8()}


@types
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_groups_are_linears_of_each(ordered: None, name: str, bias: bool, dtype: torch.dtype) -> None:
    """To the bit, packed together or one by one."""
    made, counts = QUANTIZED[name], [5, 0, 1, 17, 0, 2]
    ends = torch.tensor(counts).cumsum(0)
    weight, x = randn(6, 37, 70, dtype=dtype), randn(25, 70, dtype=dtype, seed=1)
    if name == "fp8":
        x = fp8.number_and_scale(x)[0].to(dtype)  # the interpreter rounds to e4m3 without carrying over
    b = randn(6, 37, dtype=dtype, seed=2) if bias else None
    each = [made.pack(group) for group in weight]
    packed = made.pack_groups(weight)
    assert torch.equal(made.together(each, 37).view(torch.uint8), packed.view(torch.uint8))
    ours = made.grouped_linear(x, packed, 37, b, ends)
    for group, (end, count) in enumerate(zip(ends.tolist(), counts, strict=True)):
        alone = made.linear(x[end - count : end], each[group], 37, None if b is None else b[group])
        assert torch.equal(ours[end - count : end], alone)


@pytest.mark.parametrize("name", ["w8a8", "int4"])
def test_quantized_experts_are_put_together_when_they_are_loaded(ordered: None, name: str) -> None:
    """They are computed by one kernel then, which asks the host nothing."""
    kernels = triton_kernels()
    scheme, plain = Packed(getattr(kernels, name), separate=True), Plain()
    device = torch.device("cpu")
    build = Build(kernels, ReferenceAttention(), scheme, plain, torch.float32, device, 64)
    layer = SeparateLinear(build, 3, 40, {"gate": 20, "up": 13}, bias=True)
    weight, bias = randn(3, 33, 40, dtype=torch.float32), randn(3, 33, dtype=torch.float32, seed=1)
    for group in range(3):
        for part, rows in (("gate", slice(0, 20)), ("up", slice(20, 33))):
            for kind, whole in (("weight", weight), ("bias", bias)):
                layer.accept(kind, f"{group}.{part}", whole[group, rows], "test")
                layer.loaded()
    x, ends = randn(7, 40, dtype=torch.float32, seed=2), torch.tensor([4, 4, 7])
    packing = getattr(kernels, name)
    ours = layer(x, ends)
    for group, rows in ((0, slice(0, 4)), (2, slice(4, 7))):
        alone = packing.linear(x[rows], packing.pack(weight[group]), 33, bias[group])
        assert torch.equal(ours[rows], alone)
    assert all(not linear.weight.numel() for linear in layer.each)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SeparateLinear, "_one_by_one", None)
        assert torch.equal(layer(x, ends), ours)
