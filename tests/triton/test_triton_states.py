"""Layers that keep a state in Triton, in its interpreter, against their references."""

from __future__ import annotations

import pytest
import torch

from ramify.ops.reference import state
from ramify.ops.triton.state import States
from recurrent import MIXED, TOKENS, of_delta, of_ssd, pool, spans
from tensors import close, randn

pytestmark = pytest.mark.triton
STATES = States()


@pytest.mark.parametrize(
    ("channels", "width", "bias", "dtype"),
    [
        (16, 4, True, torch.float32),
        (130, 4, False, torch.float16),
        (5, 1, True, torch.float32),
        (9, 17, False, torch.float32),
    ],
)
def test_conv(channels: int, width: int, bias: bool, dtype: torch.dtype) -> None:
    """Slots are read before they are written, also where a row goes on in the slot that it came from."""
    x, weight = randn(TOKENS, channels + 3, dtype=dtype)[:, 2:-1], randn(width, channels, dtype=torch.float32, seed=1)
    b = randn(channels, dtype=torch.float32, seed=2) if bias else None
    ours, theirs = pool(width - 1, channels, dtype=dtype), pool(width - 1, channels, dtype=dtype)
    close(STATES.conv(x, weight, b, ours, MIXED), state.conv(x, weight, b, theirs, MIXED))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["ssd", "delta"])
@pytest.mark.parametrize(
    ("size", "dtype"),
    [((4, 2, 16, 16), torch.float16), ((3, 1, 5, 9), torch.float32), ((2, 1, 100, 64), torch.float32)],
)
def test_states(name: str, size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    given, ours = (of_ssd if name == "ssd" else of_delta)(size, dtype)
    theirs = ours.clone()
    close(getattr(STATES, name)(*given, ours, MIXED), getattr(state, name)(*given, theirs, MIXED))
    close(ours, theirs)
    assert not ours[0].any()


@pytest.mark.parametrize("name", ["ssd", "delta"])
def test_it_does_not_matter_how_a_text_is_cut(name: str) -> None:
    given, made = (of_ssd if name == "ssd" else of_delta)((2, 1, 16, 24), torch.float32)
    compute, per_token = getattr(STATES, name), 2 if name == "ssd" else 3
    whole = compute(*given, made, spans((0, [(TOKENS, 1)])))
    first = compute(*(x[:7] for x in given[:per_token]), *given[per_token:], made, spans((0, [(3, 5), (4, 4)])))
    rest = compute(*(x[7:] for x in given[:per_token]), *given[per_token:], made, spans((4, [(TOKENS - 7, 4)])))
    assert torch.equal(torch.cat((first, rest)), whole)
    assert torch.equal(made[4], made[1])
