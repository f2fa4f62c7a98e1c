"""Prompts that are vectors: they reach the device whenever it needs them, and share prefixes with their equals only."""

from __future__ import annotations

import random
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from world import VOCAB, World, expected, submit

from ramify.core.errors import BadRequest, Overloaded
from ramify.engine.ask import Ask, Limits, submits
from ramify.engine.vectors import MAX_BYTES, as_bytes, is_one, placeholders, salted
from ramify.schedule.scheduler import Scheduler
from ramify.wire.messages import Submit
from ramify.worker.fake import next_token

WIDTH = 4
GO_ON = {"ignore_eos": True}


def vectors_of(seed: int, count: int) -> bytes:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype("<f4").tobytes()


def embedded(rid: str, vectors: bytes, max_new: int, salt: str = "") -> Submit:
    tokens = placeholders(vectors, WIDTH)
    return submit(rid, tokens, max_new, params=GO_ON, vectors=vectors, salt=salted(salt, vectors))


def answer(vectors: bytes, max_new: int) -> list[int]:
    """What the fake executor says after these vectors, without pages, chunks or batches."""
    size = 4 * WIDTH
    sequence = [crc32(vectors[at : at + size]) % 1000 for at in range(0, len(vectors), size)]
    for _ in range(max_new):
        sequence.append(next_token(sequence, VOCAB))
    return sequence[len(vectors) // size :]


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("chunk", [7, 512])
def test_in_chunks_and_from_the_cache(depth: int, chunk: int) -> None:
    world = World(page_size=16, chunk=chunk, depth=depth)
    vectors = vectors_of(1, 70)
    for rid in ("cold", "warm"):
        world.send(embedded(rid, vectors, 12))
        world.drain()
        assert world.outcomes[rid].tokens == answer(vectors, 12)
    assert (world.outcomes["cold"].cached, world.outcomes["warm"].cached) == (0, 69)
    assert not world.executor.damage


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_they_are_there_when_a_prompt_is_computed_again(depth: int, reuse: bool) -> None:
    world = World(page_size=16, pool=208, chunk=16, rows=3, depth=depth, reuse=reuse)
    for n in range(3):
        world.send(embedded(f"r{n}", vectors_of(n, 70), 90))
    world.drain()
    assert world.scheduler.counts.preemptions
    for n in range(3):
        assert world.outcomes[f"r{n}"].tokens == answer(vectors_of(n, 70), 90)
    assert not world.executor.damage


def test_only_equals_share() -> None:
    """Not with the tokens that hold their places, with other vectors, nor with another tenant's."""
    world = World(page_size=16)
    vectors = vectors_of(1, 40)
    other = vectors[:-4] + vectors_of(2, 1)[:4]
    world.send(submit("tokens", placeholders(vectors, WIDTH), 3, params=GO_ON))
    world.drain()
    requests = [embedded("a", vectors, 3), embedded("b", other, 3), embedded("c", vectors, 3, salt="tenant")]
    for request in requests:
        world.send(request)
        world.drain()
        assert world.outcomes[request.rid].cached == 0
        assert world.outcomes[request.rid].tokens == answer(request.vectors, 3)
    world.send(submit("again", placeholders(vectors, WIDTH), 3, params=GO_ON), embedded("equal", vectors, 3))
    world.drain()
    assert world.outcomes["again"].tokens == expected([0] * 40, 3, ignore_eos=True)
    assert world.outcomes["equal"].cached == 39


def test_tokens_and_vectors_in_one_batch() -> None:
    world = World(page_size=1, chunk=24, rows=6)
    rnd = random.Random(4)
    prompts = [[rnd.randrange(VOCAB) for _ in range(30)] for _ in range(3)]
    for n, prompt in enumerate(prompts):
        world.send(embedded(f"v{n}", vectors_of(n, 25), 10), submit(f"t{n}", prompt, 10, params=GO_ON))
    world.drain()
    for n, prompt in enumerate(prompts):
        assert world.outcomes[f"v{n}"].tokens == answer(vectors_of(n, 25), 10)
        assert world.outcomes[f"t{n}"].tokens == expected(prompt, 10, ignore_eos=True)


def test_together_they_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "VECTORS", 3 * 16 * 40)
    world = World()
    for n in range(3):
        world.scheduler.submit(embedded(f"r{n}", vectors_of(n, 40), 3))
    with pytest.raises(Overloaded, match="too large together"):
        world.scheduler.submit(embedded("more", vectors_of(9, 40), 3))
    world.scheduler.submit(submit("tokens", [1, 2], 3))
    world.scheduler.abort("r1")
    world.scheduler.submit(embedded("more", vectors_of(9, 40), 3))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [[]],
        [[1.0, 2.0, 3.0]],
        [[1.0] * 4, [1.0] * 3],
        [1.0] * 4,
        [[[1.0] * 4]],
        [[1.0, 2.0, 3.0, float("nan")]],
        [[1.0, 2.0, 3.0, float("inf")]],
        [[1.0, 2.0, 3.0, 1e39]],
        [["1"] * 4],
        [[None] * 4],
    ],
    ids=str,
)
def test_what_is_no_matrix_of_finite_numbers(rows: Any) -> None:
    with pytest.raises(BadRequest) as error:
        as_bytes(rows, WIDTH)
    assert error.value.param == "input_embeds"


def test_numbers_of_any_kind() -> None:
    assert as_bytes([[1, 2.5, -3, 0]], WIDTH) == np.array([[1, 2.5, -3, 0]], "<f4").tobytes()
    assert is_one([[1.0, 2.0]])
    assert is_one([[]])
    assert not is_one([[[1.0, 2.0]]])


LIMITS = Limits(context=100, vocab=VOCAB, hidden=WIDTH)


def ask(count: int, **more: Any) -> list[Submit]:
    vectors = vectors_of(0, count)
    return submits(Ask(tokens=placeholders(vectors, WIDTH), vectors=vectors, **more), LIMITS, 0)


def test_asking() -> None:
    (made,) = ask(5, salt="tenant")
    assert made.salt.startswith("vectors:")
    assert made.tokens == [0] * 5
    (other,) = ask(5)
    assert other.salt != made.salt
    with pytest.raises(BadRequest, match="longer than the model's context"):
        ask(100)
    with pytest.raises(BadRequest, match="no tokens"):
        ask(5, return_logprob=True, logprob_start=0)
    with pytest.raises(BadRequest, match=str(MAX_BYTES)):
        submits(Ask(tokens=[0], vectors=bytes(MAX_BYTES + 4)), LIMITS, 0)
