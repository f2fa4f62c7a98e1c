"""Sampling against exact distributions, and the promise that a row depends on nothing but itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ramify.core.params import SamplingParams
from ramify.ops.cpu.compiled import compiled_kernels
from ramify.ops.cpu.library import load
from ramify.ops.kernels import Kernels
from ramify.ops.reference.random import philox, uniform
from ramify.ops.reference.sample import draw
from ramify.ops.staging import HostStaging
from ramify.sampling import sampler
from ramify.sampling.adjust import Adjust, Drawn
from ramify.sampling.logprobs import score, told
from ramify.sampling.sampler import Sampled
from ramify.sampling.state import SamplingState
from ramify.wire.plan import LogprobsWanted, Opened

VOCAB = 40
DRAWS = 40_000


def exact(
    logits: np.ndarray, temperature: float = 1.0, top_k: int = -1, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    """The distribution by the definitions, in plain numpy."""
    z = logits.astype(np.float64) / temperature
    p = np.exp(z - z.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    kept, mass = set(), 0.0
    for rank, token in enumerate(order):
        in_k = top_k < 0 or rank < top_k
        in_p = mass <= top_p
        in_min = p[token] >= p[order[0]] * min_p
        if rank == 0 or (in_k and in_p and in_min):
            kept.add(int(token))
        mass += p[token]
    p = np.array([p[t] if t in kept else 0.0 for t in range(len(p))])
    return p / p.sum()


class Chosen:
    """Which kernels the tests of this file draw with."""

    kernels = Kernels()


@pytest.fixture(params=["reference", "compiled"], autouse=True)
def kernels(request: pytest.FixtureRequest) -> None:
    Chosen.kernels = Kernels()
    if request.param == "compiled":
        library = load()
        if library is None:
            pytest.skip("the kernels are not compiled in this installation")
        Chosen.kernels = compiled_kernels(library)


def sample(logits: torch.Tensor, state: SamplingState, slots: torch.Tensor, positions: torch.Tensor) -> Sampled:
    draws = not state.drawing.isdisjoint(slots.tolist())
    return sampler.sample(logits, state, slots, positions, draws, Chosen.kernels)


def state_of(*params: SamplingParams, seed: int = 100, eos: tuple[int, ...] = (), prompt_len: int = 0) -> SamplingState:
    """A slot for each, with seeds that count up."""
    state = SamplingState(len(params), torch.device("cpu"), eos)
    state.open(
        [Opened(slot, 1, [], prompt_len, 0, each, seed + slot) for slot, each in enumerate(params)], HostStaging()
    )
    return state


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """z-score of the statistic: normal for many degrees of freedom, so 5 is far beyond chance."""
    seen = expected > 0
    assert counts[~seen].sum() == 0, "a token of probability zero was drawn"
    statistic = ((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum()
    freedom = int(seen.sum()) - 1
    return 0.0 if freedom == 0 else (statistic - freedom) / np.sqrt(2 * freedom)


def draws(logits: torch.Tensor, params: SamplingParams, count: int = DRAWS, seed: int = 7) -> torch.Tensor:
    """Tokens at `count` positions of one request that has the same logits everywhere."""
    state = state_of(params, seed=seed)
    found = []
    for first in range(0, count, 4000):
        positions = torch.arange(first, min(first + 4000, count))
        rows = logits.expand(len(positions), -1).clone()
        found.append(sample(rows, state, torch.zeros(len(positions), dtype=torch.int64), positions).tokens_R)
    return torch.cat(found)


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    return torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(4)) * 2


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.9, "min_p": 0.02},
        {"top_k": 3, "top_p": 0.5},
        {"top_p": 0.0001},
        {"top_k": 1000},
    ],
    ids=str,
)
def test_distribution(logits: torch.Tensor, params: dict[str, Any]) -> None:
    tokens = draws(logits, SamplingParams(**params))
    counts = torch.bincount(tokens, minlength=VOCAB).numpy()
    assert chi_square(counts, exact(logits[0].numpy(), **params) * DRAWS) < 5


def test_a_flat_distribution_over_a_large_vocabulary() -> None:
    tokens = draws(torch.zeros(1, 5000), SamplingParams(), count=50_000)
    counts = torch.bincount(tokens, minlength=5000).numpy()
    assert abs(chi_square(counts, np.full(5000, 10.0))) < 5


@pytest.mark.parametrize("params", [{"temperature": 0}, {"top_k": 1}, {"temperature": 1e-9, "top_p": 0.5}])
def test_greedy(logits: torch.Tensor, params: dict[str, Any]) -> None:
    assert set(draws(logits, SamplingParams(**params), count=50).tolist()) == {int(logits.argmax())}


def test_seeds_choices_and_positions_are_keys(logits: torch.Tensor) -> None:
    plain = SamplingParams()
    assert torch.equal(draws(logits, plain, 500, seed=1), draws(logits, plain, 500, seed=1))
    assert not torch.equal(draws(logits, plain, 500, seed=1), draws(logits, plain, 500, seed=2))
    positions = torch.arange(500)
    seeds = torch.full((500,), 9)
    first, second = (uniform(seeds, torch.full((500,), choice), positions) for choice in (0, 1))
    assert not torch.equal(first, second)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.2


@pytest.mark.parametrize("negative", [-1, -(2**63), 2**63 - 1])
def test_any_64_bit_seed_is_good(logits: torch.Tensor, negative: int) -> None:
    counts = torch.bincount(draws(logits, SamplingParams(), seed=negative), minlength=VOCAB).numpy()
    assert chi_square(counts, exact(logits[0].numpy()) * DRAWS) < 5


def test_philox_gives_the_published_numbers() -> None:
    """The known answers of Random123."""
    zero = torch.zeros(1, dtype=torch.int64)
    ones = zero + 0xFFFFFFFF
    assert [int(x) for x in philox((zero,) * 4, (zero, zero))] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert [int(x) for x in philox((ones,) * 4, (ones, ones))] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_a_row_does_not_see_its_neighbours(logits: torch.Tensor) -> None:
    """The same request gives the same token and log probability bits, alone and in any company."""
    kinds = [
        {},
        {"temperature": 0},
        {"top_p": 0.7},
        {"top_k": 4},
        {"min_p": 0.2},
        {"temperature": 2.0},
        {"top_p": 0.9},
        {},
    ]
    state = state_of(*(SamplingParams(**params) for params in kinds))
    rows = torch.randn(8, VOCAB, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(8) + 3
    together = sample(rows.clone(), state, torch.arange(8), positions)
    for slot in range(8):
        alone = sample(rows[slot : slot + 1].clone(), state, torch.tensor([slot]), positions[slot : slot + 1])
        assert int(alone.tokens_R[0]) == int(together.tokens_R[slot])
        assert torch.equal(alone.scaled(slice(0, 1))[0], together.scaled(slice(slot, slot + 1))[0])


def test_nan_and_infinity_are_faults_of_their_row_alone(logits: torch.Tensor) -> None:
    state = state_of(SamplingParams())
    rows = torch.cat([logits, logits, logits])
    rows[1, 5] = float("nan")
    rows[2, 5] = float("inf")
    found = sample(rows, state, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    assert found.broken_R.tolist() == [False, True, True]
    assert int(found.tokens_R.min()) >= 0
    assert int(found.tokens_R.max()) < VOCAB


def test_draw_never_takes_weight_zero() -> None:
    weights = torch.tensor([[0.0, 1.0, 0.0, 2.0, 0.0]])
    for value in (1e-17, 0.3333333, 0.5, 1 - 2.0**-53):
        assert int(draw(weights, torch.tensor([value], dtype=torch.float64))) in (1, 3)


def adjusted(params: dict[str, Any], outputs: list[int], stop_ids: tuple[int, ...] = ()) -> torch.Tensor:
    """A ramp as logits, of a request with a prompt of two tokens; the two rows around it are left as they are."""
    state = state_of(SamplingParams(), SamplingParams(**params), SamplingParams(), eos=stop_ids, prompt_len=2)
    tokens = torch.tensor([[7] * 9, [8, 8, *outputs, *[9] * (7 - len(outputs))], [7] * 9])
    logits = torch.linspace(-2, 2, VOCAB).repeat(3, 1)
    ends = [4, 2 + len(outputs), 4]
    drawn = Drawn([0, 1, 2], [4, 5 + len(outputs), 4], torch.arange(3), torch.tensor(ends))
    Adjust(state, tokens, Chosen.kernels, HostStaging())(logits, drawn)
    assert torch.equal(logits[0], logits[2])
    assert torch.equal(logits[0], torch.linspace(-2, 2, VOCAB))
    return logits[1]


def test_penalties_by_their_formulas() -> None:
    base = torch.linspace(-2, 2, VOCAB)
    outputs = [3, 3, 3, 30]
    row = adjusted({"frequency_penalty": 0.5, "presence_penalty": 0.25}, outputs)
    expected = base.clone()
    expected[3] -= 3 * 0.5 + 0.25
    expected[30] -= 0.5 + 0.25
    assert torch.allclose(row, expected)
    row = adjusted({"repetition_penalty": 1.5}, outputs)
    expected = base.clone()
    expected[3] *= 1.5
    expected[30] /= 1.5
    assert torch.allclose(row, expected)
    assert torch.equal(adjusted({"presence_penalty": 2.0}, []), base)


def test_logit_bias_and_minimum_length() -> None:
    base = torch.linspace(-2, 2, VOCAB)
    row = adjusted({"logit_bias": {4: 7.5, 9: -100.0}}, [1])
    assert float(row[4] - base[4]) == pytest.approx(7.5)
    assert float(row[9] - base[9]) == pytest.approx(-100.0)
    row = adjusted({"min_new_tokens": 3}, [1, 1], stop_ids=(5, 6))
    assert row[5] == row[6] == float("-inf")
    assert torch.equal(adjusted({"min_new_tokens": 3}, [1, 1, 1], stop_ids=(5, 6)), base)


def test_logprobs_by_the_formula() -> None:
    rows = torch.randn(5, VOCAB)
    tokens = torch.tensor([1, 2, 3, 4, 5])
    wanted = LogprobsWanted(0, 3, (7, 8))
    found = told(score(rows, tokens, wanted, Chosen.kernels, HostStaging()), wanted, 10)
    reference = rows.double() - rows.double().logsumexp(-1, keepdim=True)
    assert found.start == 10
    assert torch.allclose(torch.tensor(found.values).double(), reference[torch.arange(5), tokens], atol=1e-5)
    assert found.top_ids == reference.topk(3).indices.tolist()
    assert torch.allclose(torch.tensor(found.id_values).double(), reference[:, [7, 8]], atol=1e-5)
