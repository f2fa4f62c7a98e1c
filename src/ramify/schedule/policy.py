"""In which order waiting requests are tried. A higher priority always comes first; the policy orders within one.

`waiting` comes sorted by priority and arrival. A policy yields it in its own order and changes nothing but the
recency of what it matched in the prefix cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from ramify.cache.prefix import Match
from ramify.schedule.request import Request, Status

EXACT_QUEUE = 256  # above this many, `lpm` walks the prompts in sorted order instead of asking the cache for each


class Prefixes(Protocol):
    """What policies may ask about the cache."""

    def match(self, request: Request) -> Match: ...
    def touch(self, match: Match) -> None: ...


class Policy(Protocol):
    """`preempts` says that a waiting request may push out a running one of lower priority."""

    preempts: bool

    def order(self, waiting: Sequence[Request], prefixes: Prefixes) -> Iterable[Request]: ...


class Fcfs:
    """First come, first served."""

    preempts = False

    def order(self, waiting: Sequence[Request], prefixes: Prefixes) -> Iterable[Request]:
        return waiting


class ByPriority(Fcfs):
    """First come, first served, and a higher priority pushes out a lower one that runs."""

    preempts = True


class Sorted:
    """By a number that is known at submission, smallest first."""

    preempts = False

    def __init__(self, by: Callable[[Request], float]) -> None:
        self._by = by

    def order(self, waiting: Sequence[Request], prefixes: Prefixes) -> Iterable[Request]:
        return sorted(waiting, key=lambda r: (-r.priority, self._by(r), r.order))


class LongestPrefix:
    """`lpm`: what finds most of itself in the cache goes first, which visits the tree of prompts depth first.

    Depth first is the optimum for a batch as long as the longest request fits (Zheng et al. 2024, theorem 3.1). With
    many waiting, asking the cache for each costs more than it gives: sorted prompts are in depth-first order too. A
    prompt that another begins with goes before it, since the last token of a prompt is always computed. What the
    cache holds for waiting requests is touched, last in order first, so that eviction takes what nobody waits for,
    and then what is wanted last.
    """

    preempts = False

    def __init__(self, exact_queue: int = EXACT_QUEUE) -> None:
        self._exact = exact_queue
        self._sorted: list[Request] = []
        self._newest = -1

    def order(self, waiting: Sequence[Request], prefixes: Prefixes) -> Iterable[Request]:
        if len(waiting) > self._exact:
            return self._depth_first(waiting)
        by_hit = sorted(waiting, key=lambda r: (-r.priority, -prefixes.match(r).tokens, r.order))
        ordered = _beginnings_first(by_hit)
        for request in reversed(ordered):
            prefixes.touch(prefixes.match(request))
        return ordered

    def _depth_first(self, waiting: Sequence[Request]) -> Iterable[Request]:
        newest = max(r.order for r in waiting)
        if newest != self._newest or len(self._sorted) < len(waiting):
            self._newest = newest
            self._sorted = sorted(waiting, key=lambda r: (-r.priority, r.salt, r.prompt_key, r.order))
        else:
            self._sorted = [r for r in self._sorted if r.status is Status.WAITING]
        return self._sorted


def _beginnings_first(requests: Sequence[Request]) -> list[Request]:
    """The same order, except that a prompt with which another one begins stands before it."""
    beginning: dict[Request, Request] = {}
    stack: list[Request] = []
    for request in sorted(requests, key=lambda r: (-r.priority, r.salt, r.prompt_key, r.order)):
        while stack and not _begins(stack[-1], request):
            stack.pop()
        if stack:
            beginning[request] = stack[-1]
        stack.append(request)
    ordered: dict[Request, None] = {}
    for request in requests:
        chain = [request]
        while (earlier := beginning.get(chain[-1])) is not None and earlier not in ordered:
            chain.append(earlier)
        ordered.update(dict.fromkeys(reversed(chain)))
    return list(ordered)


def _begins(short: Request, long: Request) -> bool:
    same = short.priority == long.priority and short.salt == long.salt
    return same and long.prompt_key.startswith(short.prompt_key)


class DfsWeight:
    """`dfs-weight`: depth first through the cache's tree, the branch that most requests wait for first."""

    preempts = False

    def order(self, waiting: Sequence[Request], prefixes: Prefixes) -> Iterable[Request]:
        paths = {r.id: _path(prefixes.match(r)) for r in waiting}
        weight = Counter(node for path in paths.values() for node in path)
        seen = {node: place for place, node in enumerate(weight)}

        def place(request: Request) -> tuple[Any, ...]:
            steps = [(-weight[node], seen[node]) for node in paths[request.id]]
            return (-request.priority, [*steps, (1, 0)], request.order)  # (1, 0): below a node before at it

        return sorted(waiting, key=place)


def _path(match: Match) -> list[Any]:
    """The nodes of a match, from the root down."""
    return list(match.node.path())[::-1] if match.node is not None else []


def make_policy(name: str) -> Policy:
    """The policy of `--schedule-policy`."""
    made: dict[str, Callable[[], Policy]] = {
        "fcfs": Fcfs,
        "priority": ByPriority,
        "lpm": LongestPrefix,
        "dfs-weight": DfsWeight,
        "lof": lambda: Sorted(lambda r: -r.max_new),
        "random": lambda: Sorted(lambda r: r.lot),
    }
    return made[name]()


POLICIES = ("fcfs", "lpm", "dfs-weight", "lof", "random", "priority")
