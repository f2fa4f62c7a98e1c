"""The radix tree and the ledger against brute force."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.cache.ledger import Lease, Ledger
from ramify.cache.tree import common_bytes, pack


def longest_common(known: list[list[int]], key: list[int]) -> int:
    """By looking at every known sequence."""
    best = 0
    for sequence in known:
        shared = next((i for i, (a, b) in enumerate(zip(sequence, key, strict=False)) if a != b), None)
        best = max(best, min(len(sequence), len(key)) if shared is None else shared)
    return best


def compute(ledger: Ledger, tokens: list[int]) -> int:
    """One request from start to end; returns what it found."""
    match = ledger.match(pack(tokens[:-1]), "")
    lease, copies = ledger.open(match)
    found = lease.start
    assert ledger.grow(lease, len(tokens))
    ledger.copied([copy.ticket for copy in copies])
    ledger.close(lease, pack(tokens), len(tokens), 0)
    assert not ledger.check()
    return found


@settings(max_examples=150, deadline=None)
@given(a=st.binary(max_size=200), b=st.binary(max_size=200), shared=st.binary(max_size=300))
def test_common_bytes(a: bytes, b: bytes, shared: bytes) -> None:
    left, right = shared + a, shared + b
    expected = next(
        (i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), min(len(left), len(right))
    )
    assert common_bytes(left, right) == expected


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10**6), page_size=st.sampled_from([1, 2, 4, 16]))
def test_matches_are_exact_to_the_token(seed: int, page_size: int) -> None:
    rnd = random.Random(seed)
    ledger, known = Ledger(8000, page_size), []
    for _ in range(40):
        stem = rnd.choice(known)[: rnd.randrange(1, 40)] if known and rnd.random() < 0.7 else []
        tokens = stem + [rnd.randrange(2) for _ in range(rnd.randrange(1, 40))]
        assert compute(ledger, tokens) == longest_common(known, tokens[:-1])
        known.append(tokens)


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10**6), page_size=st.sampled_from([1, 2, 4, 16]))
def test_pages_are_conserved_through_anything(seed: int, page_size: int) -> None:
    """Opening, growing, publishing, closing in any order, steps in flight, a pool that is too small."""
    rnd = random.Random(seed)
    ledger = Ledger(300, page_size)
    live: list[tuple[Lease, list[int], list[int], int]] = []
    seen: list[list[int]] = []
    for step in range(1, 80):
        stem = rnd.choice(seen)[: rnd.randrange(1, 30)] if seen and rnd.random() < 0.7 else []
        tokens = stem + [rnd.randrange(3) for _ in range(rnd.randrange(1, 30))]
        lease, copies = ledger.open(ledger.match(pack(tokens[:-1]), ""))
        if ledger.grow(lease, len(tokens)):
            live.append((lease, tokens, [copy.ticket for copy in copies], step))
            if rnd.random() < 0.5:
                ledger.publish(lease, pack(tokens), rnd.randrange(lease.start, len(tokens) + 1))
        else:
            ledger.cancel(lease, copies)
        assert not ledger.check()
        while live and rnd.random() < 0.6:
            lease, tokens, tickets, opened = live.pop(rnd.randrange(len(live)))
            ledger.copied(tickets)
            computed = rnd.randrange(lease.start, len(tokens) + 1)
            ledger.close(lease, pack(tokens), computed, rnd.choice([opened, step + 1]))
            seen.append(tokens)
            assert not ledger.check()
        ledger.settle(step)
        assert not ledger.check()
    for lease, tokens, tickets, _ in live:
        ledger.copied(tickets)
        ledger.close(lease, pack(tokens), len(tokens), 0)
    ledger.settle(10**9)
    ledger.flush()
    assert len(ledger.pool) == ledger.total


def test_a_dominated_tail_is_released() -> None:
    ledger = Ledger(100, 4)
    compute(ledger, [1, 2, 3, 4, 5, 6])
    assert ledger.cache.pages == 2
    compute(ledger, [1, 2, 3, 4, 5, 6, 7])
    assert ledger.cache.pages == 2
    compute(ledger, [1, 2, 3, 4, 5])
    assert ledger.cache.pages == 2


def test_the_least_recently_used_goes_first_and_from_its_end() -> None:
    ledger = Ledger(8, 1)
    compute(ledger, [1, 2, 3, 4])
    compute(ledger, [5, 6, 7, 8])
    ledger.cache.touch(ledger.match(pack([1, 2, 3, 4]), ""))
    ledger.cache.evict(2)
    assert ledger.match(pack([1, 2, 3, 4]), "").tokens == 4
    assert ledger.match(pack([5, 6, 7, 8]), "").tokens == 2


def test_what_is_held_is_not_evicted() -> None:
    ledger = Ledger(8, 1)
    compute(ledger, [1, 2, 3, 4])
    lease, _ = ledger.open(ledger.match(pack([1, 2, 3]), ""))
    assert ledger.flush() == 1
    assert ledger.match(pack([1, 2, 3, 4]), "").tokens == 3
    ledger.close(lease, pack([1, 2, 3]), 3, 0)
    assert ledger.flush() == 3


def test_pages_wait_for_the_steps_that_touch_them() -> None:
    ledger = Ledger(8, 1)
    lease, _ = ledger.open(ledger.match(b"", ""))
    assert ledger.grow(lease, 6)
    ledger.close(lease, pack([1, 2, 3]), 3, last_step=5)
    assert (len(ledger.pool), ledger.available, ledger.in_limbo) == (2, 2, True)
    ledger.settle(4)
    assert ledger.available == 2
    ledger.settle(5)
    assert (len(ledger.pool), ledger.available, ledger.in_limbo) == (5, 8, False)


def test_two_that_compute_the_same_share_at_the_end() -> None:
    ledger = Ledger(64, 4)
    leases = [ledger.open(ledger.match(b"", ""))[0] for _ in range(2)]
    tokens = list(range(16))
    for lease in leases:
        assert ledger.grow(lease, 16)
        ledger.publish(lease, pack(tokens), 16)
    assert [lease.private for lease in leases] == [False, True]
    assert not ledger.check()
    for lease in leases:
        ledger.close(lease, pack(tokens), 16, 0)
    assert (ledger.cache.pages, ledger.used) == (4, 0)


@pytest.mark.parametrize("reuse", [True, False])
def test_without_a_cache_nothing_is_kept(reuse: bool) -> None:
    ledger = Ledger(64, 4, reuse=reuse)
    compute(ledger, list(range(20)))
    assert compute(ledger, list(range(20))) == (19 if reuse else 0)
    assert (ledger.cache.pages > 0) == reuse
