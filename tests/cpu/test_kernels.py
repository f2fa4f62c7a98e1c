"""Every compiled kernel against its reference, for every instruction set that this machine has."""

from __future__ import annotations

import ctypes

import pytest
import torch
from compiled import TYPES, types

from ramify.config.stored import int8_row
from ramify.ops.attention import AttentionShape, Paged, Rule
from ramify.ops.cpu.compiled import ACTIVATIONS, Compiled
from ramify.ops.cpu.library import SETS, instruction_set, load
from ramify.ops.cpu.paged import PagedAttention
from ramify.ops.cpu.sdpa import SdpaAttention
from ramify.ops.reference import basic, experts, int4, int8, rope, sample
from ramify.ops.reference.attention import ReferenceAttention
from ramify.sampling.state import ALL
from tensors import PLAIN, World, close, randn

pools = pytest.mark.parametrize("stored", {**TYPES, "int8": torch.int8}.values(), ids=[*TYPES, "int8"])

pytestmark = pytest.mark.skipif(load() is None, reason="the kernels are not compiled in this installation")


@pytest.fixture
def kernels(library: ctypes.CDLL) -> Compiled:
    return Compiled(library)


def test_the_library_is_there_and_names_its_instructions() -> None:
    assert instruction_set() in SETS


@types
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 8), (33, 17), (640, 96), (5, 1), (128, 2048)])
def test_linear(kernels: Compiled, outputs: int, inputs: int, bias: bool, dtype: torch.dtype) -> None:
    """Every number of rows has the bits that each row has alone."""
    weight, b = randn(outputs, inputs, dtype=dtype), randn(outputs, dtype=dtype, seed=1) if bias else None
    x = randn(45, inputs, dtype=dtype, seed=2)
    packed = kernels.pack(weight)
    whole = kernels.linear(x, packed, outputs, b)
    exact = basic.linear(x.double(), weight.double(), None if b is None else b.double())
    close(whole, exact.to(dtype))
    for rows in [*range(1, 20), 33]:
        assert torch.equal(kernels.linear(x[:rows], packed, outputs, b), whole[:rows])
    last = kernels.linear(x[44:], packed, outputs, b)
    assert torch.equal(last, whole[44:])


ODD = [(16, 8), (33, 17), (640, 96), (5, 1), (128, 2051), (100, 4100)]


@types
@pytest.mark.parametrize(("outputs", "inputs"), ODD)
def test_linear_int8(kernels: Compiled, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    """Sums are exact, so that the numbers are the reference's to the bit, for every number of rows."""
    weight, bias = randn(outputs, inputs, dtype=dtype), randn(outputs, dtype=dtype, seed=1)
    weight *= randn(outputs, 1, dtype=dtype, seed=3).exp()
    x = randn(512, inputs, dtype=dtype, seed=2) * randn(512, 1, dtype=dtype, seed=4).exp()
    packed, stored = kernels.pack_int8(weight), int8.store(weight)
    assert torch.equal(kernels.linear_int8(x, packed, outputs, None), int8.linear(x, stored, outputs, None))
    whole = kernels.linear_int8(x, packed, outputs, bias)
    close(whole, int8.linear(x, stored, outputs, bias))
    for rows in range(1, 34):
        assert torch.equal(kernels.linear_int8(x[:rows], packed, outputs, bias), whole[:rows])
    assert torch.equal(kernels.linear_int8(x[511:], packed, outputs, bias), whole[511:])
    assert torch.equal(kernels.linear_int8(x.T.contiguous().T[:7], packed, outputs, bias), whole[:7])
    tokens = torch.tensor([0, outputs - 1, 2, 2])
    assert torch.equal(kernels.embed_int8(tokens, packed, inputs), int8.embed(tokens, stored, inputs))


@types
@pytest.mark.parametrize(("outputs", "inputs"), ODD)
def test_linear_int4(kernels: Compiled, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    """Every number of rows has the bits that each row has alone; the reference adds up without fused multiply-adds."""
    weight, bias = randn(outputs, inputs, dtype=dtype), randn(outputs, dtype=dtype, seed=1)
    weight *= randn(outputs, 1, dtype=dtype, seed=3).exp()
    x = randn(512, inputs, dtype=dtype, seed=2) * randn(512, 1, dtype=dtype, seed=4).exp()
    packed, stored = kernels.pack_int4(weight), int4.store(weight)
    assert packed.nbytes == -(-outputs // 16) * 16 * stored[0].nbytes
    whole = kernels.linear_int4(x, packed, outputs, bias)
    close(whole, int4.linear(x, stored, outputs, bias))
    for rows in range(1, 34):
        assert torch.equal(kernels.linear_int4(x[:rows], packed, outputs, bias), whole[:rows])
    assert torch.equal(kernels.linear_int4(x[511:], packed, outputs, bias), whole[511:])
    close(kernels.linear_int4(x, packed, outputs, None), int4.linear(x, stored, outputs, None))


@types
def test_int4_of_single_numbers(kernels: Compiled, dtype: torch.dtype) -> None:
    """One input at a time, of value 127: what comes out is the weight as it is stored."""
    weight = randn(40, 70, dtype=dtype)
    x = torch.eye(70, dtype=dtype) * 127
    whole_EGK, scale_EG = int4.taken_apart(int4.store(weight))
    weight_ED = (whole_EGK * scale_EG[..., None]).flatten(1)[:, :70]
    close(kernels.linear_int4(x, kernels.pack_int4(weight), 40, None), (127 * weight_ED.T).to(dtype))
    assert (weight_ED - weight.float()).abs().max() <= 0.51 * scale_EG.abs().max() + 0.02


@types
def test_int4_is_close_to_what_it_stands_for(kernels: Compiled, dtype: torch.dtype) -> None:
    weight, x = randn(256, 512, dtype=dtype), randn(9, 512, dtype=dtype, seed=1)
    exact = x.float() @ weight.float().T
    error = kernels.linear_int4(x, kernels.pack_int4(weight), 256, None).float() - exact
    assert error.norm() < 0.1 * exact.norm()


@types
def test_int4_of_what_is_not_finite(kernels: Compiled, dtype: torch.dtype) -> None:
    x, weight = randn(6, 70, dtype=dtype), randn(20, 70, dtype=dtype, seed=1)
    clean = kernels.linear_int4(x, kernels.pack_int4(weight), 20, None)
    x[1, 3], x[2, 69], x[3] = float("nan"), float("-inf"), 0.0
    weight[7, 2] = float("inf")
    weight[8] = 0
    y = kernels.linear_int4(x, kernels.pack_int4(weight), 20, None)
    assert torch.equal(y.isnan(), int4.linear(x, int4.store(weight), 20, None).isnan())
    assert y[1:3].isnan().all()
    assert y[:, 7].isnan().all()
    assert (y[[0, 3, 4, 5], 8] == 0).all()
    assert torch.equal(y[[0, 4, 5], :7], clean[[0, 4, 5], :7])


@types
@pytest.mark.parametrize("sign", [1, -1])
def test_int4_at_its_ends(kernels: Compiled, sign: int, dtype: torch.dtype) -> None:
    """The largest inputs times the largest halves: no sum of a group saturates."""
    x, weight = torch.full((3, 4096), float(sign), dtype=dtype), torch.full((32, 4096), -1.0, dtype=dtype)
    weight[:, ::32] = 8 / 7
    packed, stored = kernels.pack_int4(weight), int4.store(weight)
    close(kernels.linear_int4(x, packed, 32, None), int4.linear(x, stored, 32, None))


@types
def test_int8_is_close_to_what_it_stands_for(kernels: Compiled, dtype: torch.dtype) -> None:
    weight, x = randn(256, 512, dtype=dtype), randn(9, 512, dtype=dtype, seed=1)
    exact = x.float() @ weight.float().T
    error = kernels.linear_int8(x, kernels.pack_int8(weight), 256, None).float() - exact
    assert error.norm() < 0.015 * exact.norm()


@types
def test_int8_at_its_ends(kernels: Compiled, dtype: torch.dtype) -> None:
    """All numbers at the end of the range, of one sign: no product and no sum of two saturates."""
    x, weight = torch.ones(3, 4096, dtype=dtype), torch.full((32, 4096), -1.0, dtype=dtype)
    x[1] = -1
    expected = torch.tensor([[-4096.0], [4096.0], [-4096.0]]).expand(3, 32).to(dtype)
    close(kernels.linear_int8(x, kernels.pack_int8(weight), 32, None), expected)


@types
def test_int8_of_what_is_not_finite(kernels: Compiled, dtype: torch.dtype) -> None:
    """A row, or an output, with one such number is NaN as a whole; the others know nothing of it."""
    x, weight = randn(6, 40, dtype=dtype), randn(20, 40, dtype=dtype, seed=1)
    clean = kernels.linear_int8(x, kernels.pack_int8(weight), 20, None)
    x[1, 3], x[2, 39], x[3], x[4] = float("nan"), float("-inf"), 0.0, 1e-38
    weight[7, 2] = float("inf")
    y, stored = kernels.linear_int8(x, kernels.pack_int8(weight), 20, None), int8.store(weight)
    assert torch.equal(y.isnan(), int8.linear(x, stored, 20, None).isnan())
    assert y[1:3].isnan().all()
    assert y[:, 7].isnan().all()
    assert (y[3:5, :7] == 0).all()
    assert torch.equal(y[[0, 5], :7], clean[[0, 5], :7])


@types
def test_linear_takes_rows_that_stand_apart(kernels: Compiled, dtype: torch.dtype) -> None:
    weight, wide = randn(48, 32, dtype=dtype), randn(9, 64, dtype=dtype)
    packed = kernels.pack(weight)
    assert torch.equal(
        kernels.linear(wide[:, 16:48], packed, 48, None), kernels.linear(wide[:, 16:48].clone(), packed, 48, None)
    )
    assert torch.equal(kernels.linear(wide.T[:32].T, packed, 48, None), kernels.linear(wide[:, :32], packed, 48, None))


@types
def test_embed(kernels: Compiled, dtype: torch.dtype) -> None:
    for vocab, hidden in ((50, 33), (16, 8), (1000, 64)):
        weight = randn(vocab, hidden, dtype=dtype)
        tokens = torch.tensor([0, vocab - 1, 7, 7, 3])
        assert torch.equal(kernels.embed(tokens, kernels.pack(weight), hidden), basic.embed(tokens, weight))


@types
@pytest.mark.parametrize("size", [8, 33, 64, 1000])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norms(kernels: Compiled, size: int, offset: float, dtype: torch.dtype) -> None:
    x, residual = randn(21, size, dtype=dtype), randn(21, size, dtype=dtype, seed=1)
    weight = randn(size, dtype=dtype, seed=2)
    close(kernels.rms_norm(x, weight, 1e-6, offset), basic.rms_norm(x, weight, 1e-6, offset))
    ours, reference = (f(x, residual, weight, 1e-5, offset) for f in (kernels.add_rms_norm, basic.add_rms_norm))
    close(ours[0], reference[0])
    assert torch.equal(ours[1], reference[1])
    for row in range(21):
        assert torch.equal(kernels.rms_norm(x[row : row + 1], weight, 1e-6)[0], kernels.rms_norm(x, weight, 1e-6)[row])


@types
@pytest.mark.parametrize("size", [5, 32, 77])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(kernels: Compiled, activation: str, size: int, dtype: torch.dtype) -> None:
    x = randn(9, 2 * size, dtype=dtype) * 4
    close(kernels.gated(x, activation), basic.gated(x, activation))
    extremes = torch.tensor([[-1e30, -100.0, 0.0, 100.0, 1e30] * 4 + [1.0] * 20], dtype=dtype)
    broken = torch.full((1, 40), float("nan"), dtype=dtype)
    assert kernels.gated(extremes, activation).isfinite().all()
    assert kernels.gated(broken, activation).isnan().all()
    if activation != "clamped_swiglu":
        close(kernels.activate(x, activation), basic.activate(x, activation))
        close(kernels.activate(extremes, activation), basic.activate(extremes, activation))
        assert kernels.activate(broken, activation).isnan().all()
        assert torch.equal(kernels.activate(x[3:4], activation)[0], kernels.activate(x, activation)[3])


def test_gelu_far_from_zero(kernels: Compiled) -> None:
    """What is very negative goes to zero and not to an error of 1e-7 times its size."""
    x = torch.linspace(-12, 12, 4801)[None]
    exact = basic.activate(x.double(), "gelu")
    assert (kernels.activate(x, "gelu").double() - exact).abs().max() < 1e-6
    far = kernels.activate(torch.tensor([[-1e4, -60.0, 1e4]]), "gelu")
    assert far.tolist() == [pytest.approx([0.0, 0.0, 1e4], abs=1e-30)]


def test_softcap(kernels: Compiled) -> None:
    x = randn(7, 5003, dtype=torch.float32) * 100
    close(kernels.softcap(x, 30.0), basic.softcap(x, 30.0))
    assert torch.equal(kernels.softcap(x[2:5], 30.0), kernels.softcap(x, 30.0)[2:5])


@types
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 32), (37, 19), (130, 64)])
def test_grouped_linear_is_linear_of_each_group(
    kernels: Compiled, outputs: int, inputs: int, bias: bool, dtype: torch.dtype
) -> None:
    counts = [5, 0, 1, 17, 0, 2]
    ends = torch.tensor(counts).cumsum(0)
    weight, x = randn(6, outputs, inputs, dtype=dtype), randn(25, inputs, dtype=dtype, seed=1)
    b = randn(6, outputs, dtype=dtype, seed=2) if bias else None
    packed = kernels.pack_groups(weight)
    ours = kernels.grouped_linear(x, packed, outputs, b, ends)
    close(ours, experts.grouped_linear(x.double(), weight.double(), None if b is None else b.double(), ends).to(dtype))
    for group, (end, count) in enumerate(zip(ends.tolist(), counts, strict=True)):
        alone = kernels.linear(
            x[end - count : end], kernels.pack(weight[group]), outputs, None if b is None else b[group]
        )
        assert torch.equal(ours[end - count : end], alone)


@types
def test_combine(kernels: Compiled, dtype: torch.dtype) -> None:
    y, rows = randn(30, 45, dtype=dtype), torch.randperm(30, generator=torch.Generator().manual_seed(1)).view(10, 3)
    weights = randn(10, 3, dtype=torch.float32, seed=2).softmax(-1)
    close(kernels.combine(y, rows, weights), experts.combine(y, rows, weights))
    assert torch.equal(kernels.combine(y, rows[4:5], weights[4:5])[0], kernels.combine(y, rows, weights)[4])


@types
@pools
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "rotated", "page_size"),
    [
        (4, 2, 32, 32, 4),
        (2, 1, 22, 22, 2),
        (3, 1, 20, 20, 1),
        (8, 8, 64, 64, 16),
        (4, 2, 32, 12, 4),
        (2, 1, 48, 32, 4),
        (2, 2, 32, 0, 1),
    ],
)
def test_qkv_rope_store(
    kernels: Compiled,
    heads: int,
    kv_heads: int,
    size: int,
    rotated: int,
    page_size: int,
    interleaved: bool,
    norms: bool,
    stored: torch.dtype,
    dtype: torch.dtype,
) -> None:
    tokens, pages = 11, 9
    qkv = randn(tokens, (heads + 2 * kv_heads) * size, dtype=dtype)
    q_norm, k_norm = (randn(size, dtype=dtype, seed=s) if norms else None for s in (1, 2))
    angles = randn(tokens, rotated // 2, dtype=torch.float32, seed=3)
    write_at = torch.randperm(pages * page_size, generator=torch.Generator().manual_seed(4))[:tokens] % (
        pages * page_size
    )
    if len(write_at.unique()) < tokens:
        write_at = torch.arange(tokens)
    row = int8_row(size) if stored is torch.int8 else size
    pools = [torch.zeros(max(pages, tokens), kv_heads, page_size, row, dtype=stored) for _ in range(4)]
    cos, sin = (each.to(dtype).float() for each in (angles.cos(), angles.sin()))
    arguments = (qkv, heads, q_norm, k_norm, 1e-6, cos, sin)
    ours = kernels.qkv_rope_store(*arguments, pools[0], pools[1], write_at, interleaved, 0.5)
    reference = rope.qkv_rope_store(*arguments, pools[2], pools[3], write_at, interleaved, 0.5)
    close(ours, reference)
    close(*(int8.from_pool(pool, size, dtype) for pool in (pools[0], pools[2])))
    assert torch.equal(pools[1], pools[3])


@pytest.mark.parametrize("vocab", [50, 1024, 5000, 151936])
def test_sample(kernels: Compiled, vocab: int) -> None:
    """The tokens of the reference, but for random numbers that fall on an edge between two of them."""
    rows = 16 if vocab > 10000 else 200
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(rows, vocab, generator=generator) * 3
    logits[::5, ::3] = float("-inf")  # masked
    random_R = torch.rand(rows, generator=generator, dtype=torch.float64)
    greedy = torch.zeros(rows, dtype=torch.bool)
    greedy[::9] = True
    for temperature, top_k, top_p, min_p in (
        (1.0, ALL, 1.0, 0.0),
        (0.3, ALL, 0.9, 0.0),
        (1.0, 7, 1.0, 0.0),
        (2.0, ALL, 1.0, 0.05),
        (1.3, 40, 0.95, 0.01),
        (1.0, 1, 1.0, 0.0),
        (5.0, ALL, 0.999, 0.0),
    ):
        columns = [torch.full((rows,), v, dtype=torch.float32) for v in (temperature, top_p, min_p)]
        arguments = (columns[0], torch.full((rows,), top_k), columns[1], columns[2], random_R, greedy)
        (ours, broken), (reference, _) = kernels.sample(logits, *arguments), sample.sample(logits, *arguments)
        assert not broken.any()
        assert (ours != reference).sum() <= max(rows // 50, 1)
        assert logits.gather(1, ours[:, None]).isfinite().all()


def test_best(kernels: Compiled) -> None:
    """The first of the greatest; rows that are broken are told."""
    logits = torch.randn(40, 5000, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    logits[7, 3], logits[8], logits[9, 5] = float("nan"), float("-inf"), float("inf")
    (ours, broken), (reference, also) = kernels.best(logits), sample.best(logits)
    assert broken.tolist() == also.tolist() == [row in (7, 8, 9) for row in range(40)]
    assert torch.equal(ours[~broken], reference[~broken])
    assert any(int((row == row.max()).sum()) > 1 for row in logits), "there are ties"


# -- attention ---------------------------------------------------------------------------------------------------------


SAME = [(dtype, stored) for dtype in TYPES.values() for stored in (dtype, torch.int8)]
STORED = [(page, *both) for page in (1, 4, 16, 64) for both in SAME]  # the size of a page, types of queries and pages
STORED += [(16, torch.float32, torch.bfloat16), (16, torch.bfloat16, torch.float32)]


@pytest.mark.parametrize(("page", "dtype", "stored"), STORED)
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 32), (2, 2, 64), (16, 1, 16), (6, 2, 128)])
def test_attention(
    library: ctypes.CDLL,
    heads: int,
    kv_heads: int,
    size: int,
    page: int,
    stored: torch.dtype,
    dtype: torch.dtype,
) -> None:
    rows = [(1, 1), (1, 70), (5, 5), (40, 130), (1, 600), (3, 515), (17, 64)]
    world = World(rows, heads, kv_heads, size, page, dtype, stored)
    ours, reference = world.attend(PagedAttention(library)), world.attend(ReferenceAttention())
    assert ours.isfinite().all()
    close(ours, reference)


@types
@pools
@pytest.mark.parametrize("page", [16, 24, 64])
def test_rows_that_share_a_beginning(library: ctypes.CDLL, page: int, stored: torch.dtype, dtype: torch.dtype) -> None:
    """They read it together, and each has the bits that it has alone."""
    shared = {0: 1152, 2: 1152, 3: 576, 5: 1152, 6: 576, 7: 1152, 8: 1152, 9: 1152, 10: 1152, 11: 1152, 12: 1152}
    rows = [(1, 1200 + 7 * row if row in shared else 1100 + row) for row in range(13)]
    rows[9], rows[4] = (1, 1160), (3, 1300)
    world = World(rows, 4, 2, 32, page, dtype, stored)
    for row, tokens in shared.items():
        world.tables[row, : tokens // page] = world.tables[0, : tokens // page]
    backend = PagedAttention(library)
    together = world.attend(backend)
    close(together, world.attend(ReferenceAttention()))
    paged = world.paged
    for row, (start, count, length) in enumerate(zip(paged.starts, paged.counts, paged.lengths, strict=True)):
        alone = backend.prepare(Paged([0], [count], [length], world.tables[row : row + 1]))
        found = backend.forward(world.q[start : start + count], world.k, world.v, alone, PLAIN)
        assert torch.equal(found, together[start : start + count])


RULES = {
    "window": Rule(0.2, window=37),
    "narrow": Rule(0.2, window=1),
    "wide": Rule(0.2, window=700),
    "chunk": Rule(0.2, chunk=37),
    "alone": Rule(0.2, chunk=1),
    "wide chunk": Rule(0.2, chunk=700),
    "capped": Rule(0.2, softcap=2.0),
    "sinks": Rule(0.2, sinks_H=torch.tensor([-1.0, 0.5, 3.0, 20.0])),
    "both": Rule(0.2, window=20, chunk=70),
    "all": Rule(0.2, window=70, softcap=5.0, sinks_H=torch.tensor([-1.0, 0.5, 3.0, 20.0])),
}
rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@types
@rules
@pytest.mark.parametrize("page", [1, 16])
@pools
def test_attention_by_rules(
    library: ctypes.CDLL, page: int, rule: Rule, stored: torch.dtype, dtype: torch.dtype
) -> None:
    rows = [(1, 1), (1, 70), (5, 5), (40, 130), (1, 600), (3, 1515), (17, 64)]
    world = World(rows, 4, 2, 32, page, dtype, stored)
    reference = world.attend(ReferenceAttention(), rule)
    assert reference.isfinite().all()
    close(world.attend(PagedAttention(library), rule), reference)
    if rule.softcap is None and rule.sinks_H is None:
        close(world.attend(SdpaAttention(page), rule), reference)


@types
@pytest.mark.parametrize("heads", [5, 16, 40])
def test_attention_over_latents(library: ctypes.CDLL, heads: int, dtype: torch.dtype) -> None:
    """All heads share one key, and values are the first part of it."""
    world = World([(1, 70), (40, 130), (3, 515)], heads, 1, 48, 16, dtype)
    world.v = world.k[..., :32]
    ours, reference = world.attend(PagedAttention(library)), world.attend(ReferenceAttention())
    assert ours.shape == (44, heads, 32)
    close(ours, reference)


LOOKING = [  # at a window, by the backends that serve the rule
    pytest.param(name, rule, id=f"{name}-{told}")
    for name in ("cpu", "torch_native", "reference")
    for told, rule in RULES.items()
    if rule.window is not None and not (name == "torch_native" and rule.softcap is not None)
]


@pytest.mark.parametrize(("name", "rule"), LOOKING)
def test_what_stands_before_a_window_is_not_looked_at(library: ctypes.CDLL, name: str, rule: Rule) -> None:
    """Its pages may have been given to somebody else, who may have written anything."""
    assert rule.window is not None
    backend = {"cpu": PagedAttention(library), "torch_native": SdpaAttention(4), "reference": ReferenceAttention()}[
        name
    ]
    world = World([(1, 300), (9, 300)], 4, 2, 32, 4, torch.float32)
    before = world.attend(backend, rule)
    for row, count in ((0, 1), (1, 9)):
        gone = world.paged.tables[row, : max(300 - count - rule.window + 1, 0) // 4].long()
        world.k[gone], world.v[gone] = float("nan"), float("inf")
    assert torch.equal(world.attend(backend, rule), before)


@types
@pytest.mark.parametrize("stored", [None, torch.int8])
@pytest.mark.parametrize("rule", [PLAIN, *RULES.values()], ids=["plain", *RULES])
def test_a_query_has_its_bits_whatever_is_around_it(
    library: ctypes.CDLL, rule: Rule, stored: torch.dtype | None, dtype: torch.dtype
) -> None:
    """A prompt at once, in chunks, token by token, in pages of another size, among others."""
    backend, length = PagedAttention(library), 1100
    whole = World([(length, length)], 4, 2, 32, 16, dtype, stored)
    expected = whole.attend(backend, rule)
    for page in (1, 16, 64) if stored is None else (16,):
        for chunk in (1, 7, 100, 513):
            for first in range(0, length, max(chunk, 97)):
                count = min(chunk, length - first)
                part = World([(count, first + count), (3, 33)], 4, 2, 32, page, dtype, stored)
                part.q[:count] = whole.q[first : first + count]
                _copy(whole, part, first + count)
                assert torch.equal(part.attend(backend, rule)[:count], expected[first : first + count]), (
                    page,
                    chunk,
                    first,
                )


@types
@pools
def test_torch_over_pages(stored: torch.dtype, dtype: torch.dtype) -> None:
    """Without a compiler: it multiplies what nobody wrote by zero."""
    world = World([(1, 1), (1, 70), (40, 130), (3, 515)], 4, 2, 32, 16, dtype, stored, unwritten=1.0)
    close(world.attend(SdpaAttention(16)), world.attend(ReferenceAttention()))


def _copy(source: World, target: World, length: int) -> None:
    """The first positions of the first row of one to that of the other."""
    positions = torch.arange(length)
    for of, to in ((source.k, target.k), (source.v, target.v)):
        a, b = of.shape[2], to.shape[2]
        to[target.tables[0, positions // b].long(), :, positions % b] = of[
            source.tables[0, positions // a].long(), :, positions % a
        ]


def test_what_it_cannot_serve() -> None:
    def reasons(**more: object) -> list[str]:
        shape = {"heads": 8, "kv_heads": 2, "head_dim": 64, "page_size": 16, "dtype": "bfloat16", "device": "cpu"}
        return PagedAttention(load()).reasons_against(AttentionShape(**{**shape, **more}))  # type: ignore[arg-type]

    assert reasons() == []
    assert "float16" in reasons(dtype="float16")[0]
    assert "multiple of 16" in reasons(head_dim=40)[0]
    assert "multiple of 16" in reasons(value_dim=40)[0]
    assert reasons(heads=64, window=True, softcap=True, sinks=True) == []
    assert PagedAttention(None).reasons_against(AttentionShape(8, 2, 64, 16, "float32", "cpu"))


@pytest.mark.parametrize("stored", [torch.float32, torch.int8])
def test_nan_in_a_key_shows(library: ctypes.CDLL, stored: torch.dtype) -> None:
    world = World([(1, 90)], 4, 2, 32, 16, torch.float32, stored)
    broken = torch.full((2, 32), float("nan"))
    world.k[world.tables[0, 0].item(), :, 3] = int8.store(broken) if stored is torch.int8 else broken
    assert world.attend(PagedAttention(library)).isnan().all()
