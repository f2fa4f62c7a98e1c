"""Sampling in Triton, in its interpreter, against the references."""

from __future__ import annotations

import pytest
import torch

from ramify.ops.reference import choose, random, sample
from ramify.ops.triton.sample import Sampling
from ramify.sampling.state import ALL

pytestmark = pytest.mark.triton

SAMPLING = Sampling(chunk=512)


def drawn(
    logits: torch.Tensor, how: list[tuple[float, int, float, float]], greedy: list[bool] | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Our tokens and those of the reference, a row for each way, and which are broken."""
    rows = len(logits)
    given = (how * rows)[:rows]
    temperature, top_k, top_p, min_p = (torch.tensor(column) for column in zip(*given, strict=True))
    random_R = torch.rand(rows, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    greedy_R = torch.tensor((greedy or [False] * rows)[:rows])
    arguments = (logits, temperature, top_k, top_p, min_p, random_R, greedy_R)
    ours, broken = SAMPLING.sample(*arguments)
    return ours, sample.sample(*arguments)[0], broken


HOW = [
    (1.0, ALL, 1.0, 0.0),
    (0.3, ALL, 0.9, 0.0),
    (1.0, 7, 1.0, 0.0),
    (2.0, ALL, 1.0, 0.05),
    (1.3, 40, 0.95, 0.01),
    (1.0, 1, 1.0, 0.0),
]


@pytest.mark.parametrize("vocab", [50, 1300, pytest.param(40_000, marks=pytest.mark.slow)])
def test_sample(vocab: int) -> None:
    """The tokens of the reference, but for random numbers that fall on an edge between two of them."""
    rows = 6
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    logits[::5, ::3] = float("-inf")  # masked
    ours, reference, broken = drawn(logits, HOW)
    assert not broken.any()
    assert torch.equal(ours, reference)


def test_among_equals_the_first_come_first() -> None:
    logits = torch.zeros(4, 40)
    logits[:, 7::3] = 2.0
    ours, reference, _ = drawn(logits, [(1.0, 5, 1.0, 0.0), (1.0, ALL, 0.7, 0.0)])
    assert torch.equal(ours, reference)


def test_greedy_and_broken_rows() -> None:
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(1))
    logits[0, [9, 200]] = 50.0
    logits[1, 3], logits[2], logits[3, 5] = float("nan"), float("-inf"), float("inf")
    ours, _, broken = drawn(logits, HOW[:2], greedy=[True, True, True, False, False])
    assert broken.tolist() == [False, True, True, True, False]
    assert ours[0] == 9
    assert ((ours >= 0) & (ours < 300)).all()
    found, also = SAMPLING.best(logits)
    assert also.tolist() == broken.tolist()
    assert found[[0, 4]].tolist() == [9, int(logits[4].argmax())]
    assert ((found >= 0) & (found < 300)).all()


def test_a_row_is_drawn_alike_beside_others() -> None:
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(1))
    columns = [torch.tensor([value] * 3) for value in (1.0, 20, 0.9, 0.0)]
    random_R = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    greedy = torch.zeros(3, dtype=torch.bool)
    together, _ = SAMPLING.sample(logits, *columns, random_R, greedy)
    alone, _ = SAMPLING.sample(logits[2:], *(column[2:] for column in columns), random_R[2:], greedy[2:])
    assert alone[0] == together[2]


def test_uniform() -> None:
    seeds = torch.tensor([0, -1, 1 << 62, 12345678901, 7])
    choices, positions = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([0, 5, 1 << 20, 3, 2**31])
    for purpose in (0, 1, 3):
        ours = SAMPLING.uniform(seeds, choices, positions, purpose)
        assert torch.equal(ours, random.uniform(seeds, choices, positions, purpose))


def test_log_probabilities() -> None:
    logits, tokens = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1)) * 5, torch.tensor([0, 4999, 77])
    logits[1, :4097] = float("-inf")
    ours = SAMPLING.log_probabilities(logits, tokens)
    assert torch.allclose(ours, choose.log_probabilities(logits, tokens), rtol=0, atol=1e-5)


def test_forbid() -> None:
    logits = torch.randn(3, 1100, generator=torch.Generator().manual_seed(1))
    words = torch.randint(-(2**31), 2**31, (2, 35), generator=torch.Generator().manual_seed(2)).int()
    expected, rows = logits.clone(), torch.tensor([2, 0])
    choose.forbid(expected, rows, words)
    SAMPLING.forbid(logits, rows, words)
    assert torch.equal(logits, expected)
    assert logits[1].isfinite().all()
    assert not logits[[0, 2]].isfinite().all()


def test_penalise() -> None:
    logits = torch.randn(4, 90, generator=torch.Generator().manual_seed(1))
    tokens = torch.randint(0, 90, (5, 170), generator=torch.Generator().manual_seed(2))
    places = [torch.tensor(values) for values in ([3, 0, 1], [4, 2, 0], [7, 30, 0], [157, 30, 50])]
    penalties = [torch.tensor(values) for values in ([0.5, 0.1, -0.2], [0.3, 0.0, 0.7], [1.0, 2.0, 1.3])]
    expected = logits.clone()
    rows, slots, first, end = places
    choose.penalise(expected, rows, tokens, slots, first, end, *penalties, 150)
    SAMPLING.penalise(logits, rows, tokens, slots, first, end, *penalties, 150)
    assert torch.allclose(logits, expected, rtol=1e-6, atol=1e-6)
