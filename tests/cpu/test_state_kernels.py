"""Kernels of layers that keep a state: each against its reference, and the same bits however a text is cut."""

from __future__ import annotations

import ctypes
import random

import pytest
import torch
from compiled import types

from ramify.ops.cpu.library import load
from ramify.ops.cpu.state import CompiledStates
from ramify.ops.reference import state
from recurrent import MIXED, TOKENS, of_delta, of_ssd, pool, spans
from tensors import close, randn

pytestmark = pytest.mark.skipif(load() is None, reason="the kernels are not compiled in this installation")

SIZES = [(4, 2, 16, 16), (3, 1, 5, 9), (8, 8, 64, 128), (2, 1, 40, 24)]  # heads, groups, value, key
sizes = pytest.mark.parametrize("size", SIZES, ids=str)


@pytest.fixture
def kernels(library: ctypes.CDLL) -> CompiledStates:
    return CompiledStates(library)  # type: ignore[arg-type]


@types
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("channels", "width"), [(16, 4), (300, 4), (5, 2), (64, 1), (40, 16), (40, 17)])
def test_conv(kernels: CompiledStates, channels: int, width: int, bias: bool, dtype: torch.dtype) -> None:
    wide = randn(TOKENS, channels + 3, dtype=dtype)
    x, weight = wide[:, 2 : channels + 2], randn(width, channels, dtype=torch.float32, seed=1)
    b = randn(channels, dtype=torch.float32, seed=2) if bias else None
    ours, theirs = pool(width - 1, channels, dtype=dtype), pool(width - 1, channels, dtype=dtype)
    close(kernels.conv(x, weight, b, ours, MIXED), state.conv(x, weight, b, theirs, MIXED))
    assert torch.equal(ours, theirs)


@types
@sizes
@pytest.mark.parametrize("name", ["ssd", "delta"])
def test_states(kernels: CompiledStates, name: str, size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    given, ours = (of_ssd if name == "ssd" else of_delta)(size, dtype)
    theirs = ours.clone()
    found = getattr(kernels, name)(*given, ours, MIXED)
    close(found, getattr(state, name)(*given, theirs, MIXED))
    close(ours, theirs)
    assert not ours[0].any()


@pytest.mark.parametrize("name", ["ssd", "delta"])
def test_it_does_not_matter_how_a_text_is_cut(kernels: CompiledStates, name: str) -> None:
    """In one go, token by token, in pieces with states left in between: the same bits, and the same state."""
    given, made = (of_ssd if name == "ssd" else of_delta)((4, 2, 16, 24), torch.bfloat16)
    compute = getattr(kernels, name)
    per_token = 2 if name == "ssd" else 3
    whole = compute(*given, made, spans((0, [(TOKENS, 1)])))
    rnd = random.Random(3)
    for cuts in ([1] * TOKENS, [7, 7, 7, 2], [22, 1]):
        slot, at, parts = 0, 0, []
        for count in cuts:
            tokens = [x[at : at + count] for x in given[:per_token]]
            inside = rnd.randrange(count)
            to = [(inside, 3), (count - inside, 4)] if inside else [(count, 4)]
            parts.append(compute(*tokens, *given[per_token:], made, spans((slot, to))))
            slot, at = 4, at + count
        assert torch.equal(torch.cat(parts), whole)
        assert torch.equal(made[4], made[1])
