"""Compiling: off the loop, cached in bounds, and stopped where it takes too long. Nothing hostile hurts another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from grammars import admitted, encode, json_schema, library, start, text_of, vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile import HOSTILE
from ramify.core.errors import InternalError, Overloaded
from ramify.grammar.compiler import STRIKES, Compiled, Compiler, Options
from ramify.grammar.constraint import NOTE, Constraint, GrammarError, GrammarFault, choice
from ramify.grammar.constraint import encode as to_wire
from ramify.grammar.gate import Grammars
from ramify.grammar.library import LIMITS, LONGEST
from ramify.grammar.probe import Probe, Stopped
from ramify.grammar.style import FIXED
from ramify.grammar.worker import Worker
from ramify.schedule.gate import GO, Refuse, Wait

PATIENCE = 60.0  # seconds that a test waits for a thread on a busy machine


@pytest.fixture(scope="module")
def compiler() -> Iterator[Compiler]:
    made = Compiler(vocabulary)
    yield made
    made.close()


def settle(entry: Compiled) -> Compiled:
    deadline = time.monotonic() + PATIENCE
    while not entry.done:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return entry


def compiled(compiler: Compiler, constraint: Constraint) -> Compiled:
    return settle(compiler.request(to_wire(constraint)))


# -- hostile grammars ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_are_refused_or_run_in_bounds(compiler: Compiler, name: str) -> None:
    """Refused with a 400 that says why, or served, with every step within the library's fuel."""
    entry = compiled(compiler, HOSTILE[name])
    if entry.error is not None:
        assert entry.error.status == 400
        assert entry.error.message.startswith(HOSTILE[name].kind)
        return
    matcher, row = entry.matcher(), np.zeros(vocabulary().words, np.int32)
    rnd = np.random.default_rng(0)
    for _ in range(40):
        if matcher.finished:
            break
        try:
            matcher.mask(row)
            allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
            matcher.accept(int(rnd.choice(allowed)))
        except GrammarFault:
            break


def test_what_takes_too_long_is_named(compiler: Compiler) -> None:
    error = compiled(compiler, HOSTILE["huge multiple"]).error
    assert error is not None
    assert "'multipleOf' at $ (999983)" in error.message
    assert "more than 2 s" in error.message


def test_while_one_is_stopped_others_are_served(compiler: Compiler) -> None:
    """The quick lane hands the slow one over, so what comes behind it does not wait for its end."""
    slow = compiler.request(to_wire(json_schema({"type": "integer", "multipleOf": 999_979})))
    quick = compiled(compiler, json_schema({"const": "something new"}))
    assert quick.error is None
    assert not slow.done
    assert settle(slow).error is not None


def test_the_probe_really_stops_the_work() -> None:
    probe = Probe(vocabulary())
    try:
        assert probe.try_out('start: "a"', 20.0) == ""
        first = probe._child
        assert first is not None
        with pytest.raises(Stopped):
            probe.try_out('start: %json {"type": "integer", "multipleOf": 999983}', 0.2)
        assert first.returncode is not None
        assert probe.try_out('start: "b"', 20.0) == ""
        assert "no text" in probe.try_out("start: x\nx: x", 20.0)
    finally:
        probe.close()


def test_a_probe_that_dies_is_replaced() -> None:
    probe = Probe(vocabulary())
    try:
        probe.try_out('start: "a"', 20.0)
        assert probe._child is not None
        os.kill(probe._child.pid, 9)
        probe._child.wait()
        assert probe.try_out('start: "a"', 20.0) == ""
    finally:
        probe.close()


def test_a_probe_that_does_not_start_is_no_fault_of_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    made = Compiler(vocabulary)
    try:
        assert isinstance(compiled(made, Constraint("json_object")).error, InternalError)
    finally:
        made.close()


def test_the_room_needs_no_torch() -> None:
    script = "import sys, ramify.grammar.gate; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_closing_leaves_no_process_and_no_thread() -> None:
    before = threading.active_count()
    made = Compiler(vocabulary)
    compiled(made, Constraint("json_object"))
    under_way = made.request(to_wire(json_schema({"type": "integer", "multipleOf": 999_961})))
    children = [lane._probe._child for lane in made._lanes if lane._probe is not None]
    made.close()
    assert threading.active_count() == before
    assert [child.poll() is None for child in children if child is not None] == [False] * len(children)
    assert under_way.beginning is None


# -- what is refused by the library ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "keyword", "place"),
    [
        (
            {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}},
            "uniqueItems",
            "$.properties.tags",
        ),
        ({"not": {"type": "string"}}, "not", "$"),
        ({"anyOf": [{"type": "null"}, {"contains": {"type": "null"}}]}, "contains", "$.anyOf[1]"),
        ({"if": {"type": "null"}, "then": {"type": "null"}}, "if", "$"),
        ({"properties": {"a b": {"type": "string", "format": "iri"}}}, "format", '$.properties["a b"]'),
        ({"type": "string", "pattern": "a(?=b)"}, "pattern", "$"),
        ({"oneOf": [{"type": "object"}, {"type": "object"}]}, "oneOf", "$"),
        ({"type": "object", "properties": {"a": {}}, "minProperties": 3}, "minProperties", "$"),
    ],
)
def test_an_unsupported_keyword_is_named(compiler: Compiler, schema: dict[str, Any], keyword: str, place: str) -> None:
    error = compiled(compiler, json_schema(schema)).error
    assert isinstance(error, GrammarError)
    assert error.construct == keyword
    assert f"{keyword!r} at {place} " in error.message or f"at {place} cannot" in error.message
    assert "\n" not in error.message


def test_what_is_not_strict_says_what_it_leaves_out(compiler: Compiler, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        loose = compiled(compiler, json_schema({"type": "array", "uniqueItems": True}, strict=False))
    assert loose.error is None
    assert "uniqueItems" in loose.warnings[0]
    assert [record.message for record in caplog.records if "uniqueItems" in record.message] == [
        f"a json_schema that is not strict holds in part: {loose.warnings[0]}"
    ]


# -- the cache -------------------------------------------------------------------------------------------------------


def test_the_same_constraint_is_compiled_once(compiler: Compiler) -> None:
    first = compiled(compiler, json_schema({"const": 1}))
    assert compiler.request(to_wire(json_schema({"const": 1}))) is first
    assert compiler.request(to_wire(json_schema({"const": 1}, strict=False))) is not first


def test_the_cache_is_bounded_by_number_and_size() -> None:
    made = Compiler(vocabulary, Options(entries=3, size=2_000))
    try:
        entries = [compiled(made, json_schema({"const": n})) for n in range(5)]
        assert len(made._cache) == 3
        assert made.request(entries[4].body) is entries[4]
        assert made.request(entries[0].body) is not entries[0]
        compiled(made, json_schema({"const": "x" * 1_900}))
        assert sum(len(entry.body) for entry in made._cache.values()) <= 2_000
    finally:
        made.close()


def test_refusals_are_remembered(compiler: Compiler) -> None:
    refused = compiled(compiler, json_schema({"not": {}}))
    assert compiler.request(refused.body) is refused


def test_too_many_at_once_are_turned_away() -> None:
    ready = threading.Event()

    def load() -> Any:
        ready.wait(PATIENCE)
        return vocabulary()

    made = Compiler(load, Options(waiting=2))
    try:
        waiting = [made.request(to_wire(json_schema({"const": n}))) for n in range(3)]
        assert [entry.done for entry in waiting] == [False, False, True]
        assert isinstance(waiting[2].error, Overloaded)
        ready.set()
        assert all(settle(entry).error is None for entry in waiting[:2])
        assert settle(made.request(waiting[2].body)).error is None
    finally:
        ready.set()
        made.close()


def test_a_vocabulary_that_cannot_be_loaded_fails_the_request_and_is_tried_again() -> None:
    trouble = [OSError("gone")]

    def load() -> Any:
        if trouble:
            raise trouble.pop()
        return vocabulary()

    made = Compiler(load)
    try:
        assert isinstance(compiled(made, Constraint("json_object")).error, InternalError)
        assert compiled(made, json_schema({"const": 2})).error is None
    finally:
        made.close()


def test_somebody_is_told() -> None:
    told = threading.Event()
    made = Compiler(vocabulary, tell=told.set)
    try:
        entry = made.request(to_wire(Constraint("json_object")))
        assert told.wait(PATIENCE)
        assert entry.done
    finally:
        made.close()


# -- the engine's side -----------------------------------------------------------------------------------------------


def request(constraint: Constraint | None, tokens: list[int] | None = None) -> Any:
    notes = {} if constraint is None else {NOTE: to_wire(constraint)}
    return SimpleNamespace(id="r", tokens=[1, 2, 3, *(tokens or [])], prompt_len=3, notes=notes)


def admit(grammars: Grammars, asked: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while isinstance(grammars.verdict(asked, []), Wait):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_the_gate(compiler: Compiler) -> None:
    grammars = Grammars(compiler)
    assert grammars.verdict(request(None), []) == GO
    held = request(json_schema({"const": "the gate"}))
    assert isinstance(grammars.verdict(held, []), Wait)
    admit(grammars, held)
    assert grammars.verdict(held, []) == GO
    refused = request(json_schema({"not": {"const": "the gate"}}))
    admit(grammars, refused)
    verdict = grammars.verdict(refused, [])
    assert isinstance(verdict, Refuse)
    assert "'not'" in verdict.error.message


def test_a_row_follows_its_request(compiler: Compiler) -> None:
    grammars, asked = Grammars(compiler), request(json_schema({"type": "array", "items": {"const": 5}}))
    admit(grammars, asked)
    assert grammars.is_constrained(asked)
    assert not grammars.is_constrained(request(None))
    assert grammars.follow(asked) is None
    assert text_of(grammars.forced(asked)) == "["
    asked.tokens += encode("[5]")
    finish = grammars.follow(asked)
    assert finish is not None
    assert (finish.type, finish.matched) == ("stop", asked.tokens[-1])


def test_a_row_that_was_preempted_goes_on_where_it_was(compiler: Compiler) -> None:
    grammars, asked = Grammars(compiler), request(json_schema({"const": "preempted"}), encode('"pre'))
    admit(grammars, asked)
    assert grammars.follow(asked) is None
    assert text_of(grammars.forced(asked)) == 'empted"'
    assert grammars.verdict(asked, []) == GO
    assert grammars.follow(asked) is None


def test_masks_behind_guesses(compiler: Compiler) -> None:
    grammars, asked = Grammars(compiler), request(json_schema({"const": "guesses"}))
    admit(grammars, asked)
    guesses = grammars.forced(asked)[:2]
    out = np.zeros((4, vocabulary().words), np.int32)
    assert grammars.guess(asked, [*guesses, guesses[0]], out) == 2
    expected = start(json_schema({"const": "guesses"}))
    for row in out[:3]:
        assert np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist() == expected.forced()[:1]
        expected.accept(expected.forced()[0])
    assert not out[3].any()
    assert grammars.forced(asked)[:2] == guesses


def test_a_row_that_cannot_go_on_ends_alone(compiler: Compiler) -> None:
    grammars = Grammars(compiler)
    wrong, right = (request(json_schema({"enum": ["alone", "also"]})) for _ in range(2))
    admit(grammars, wrong)
    admit(grammars, right)
    wrong.tokens += encode("[")
    finish = grammars.follow(wrong)
    assert finish is not None
    assert (finish.type, finish.status, finish.code) == ("abort", 400, "grammar_limit")
    right.tokens += encode('"alone"')
    ended = grammars.follow(right)
    assert ended is not None
    assert ended.type == "stop"


def test_looking_ahead_for_many_rows(compiler: Compiler) -> None:
    """As asked one by one, and what cannot go on is told with the rest done."""
    grammars = Grammars(compiler)
    rows = [request(json_schema({"const": f"row {n % 3}"})) for n in range(6)]
    for row in rows:
        admit(grammars, row)
    rows[2].tokens += encode('"row')
    assert [grammars.follow(row) for row in rows] == [None] * 6
    assert grammars.look(rows) == []
    out = np.zeros(vocabulary().words, np.int32)
    for row in rows:
        grammars.mask(row, out)
        assert np.flatnonzero(np.unpackbits(out.view(np.uint8), bitorder="little")).tolist() == grammars.forced(row)[:1]
    assert text_of(grammars.forced(rows[2])) == ' 2"'
    grammars._worker.close()


class Broken:
    """A session that met a limit; of its own, or one that all rows share."""

    must_stop = can_stop = False

    def __init__(self, is_shared: bool) -> None:
        self._is_shared = is_shared

    def mask(self, out: Any) -> None:
        raise GrammarFault("too complex", self._is_shared)


def break_row(asked: Any, is_shared: bool) -> None:
    matcher = asked.notes[NOTE].matcher
    matcher._session, matcher._row = Broken(is_shared), None
    del matcher._tokens[matcher._taken :], matcher._run_ends[matcher._taken :]


@pytest.fixture
def own() -> Iterator[Grammars]:
    made = Grammars(Compiler(vocabulary))
    yield made
    made.close()


def test_a_limit_of_its_own_ends_a_row_alone(own: Grammars) -> None:
    rows = [request(json_schema({"enum": ["one", "two"]})) for _ in range(3)]
    for row in rows:
        admit(own, row)
    break_row(rows[1], is_shared=False)
    ((failed, finish),) = own.look(rows)
    assert failed is rows[1]
    assert (finish.type, finish.code) == ("abort", "grammar_limit")
    assert own.look([rows[0], rows[2]]) == []


def test_a_limit_that_rows_share_ends_none_but_the_one_that_meets_it_alone(own: Grammars) -> None:
    rows = [request(json_schema({"enum": ["one", "two"]})) for _ in range(3)]
    for row in rows:
        admit(own, row)
        row.tokens += encode('"o')
        assert own.follow(row) is None
        break_row(row, is_shared=True)
    assert own.look(rows) == []
    assert {text_of(own.forced(row)) for row in rows} == {'ne"'}
    assert {row.notes[NOTE].generation for row in rows} == {1}


WINDOWS = Constraint("regex", "(.*a.{7}|.*b.{9}){3}")  # one row needs more than 1,000 states, and less than 2,000


def test_an_automaton_that_is_full_is_renewed(own: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows fill it; each goes on, from its own place, with a new one."""
    monkeypatch.setitem(LIMITS, "max_lexer_states", 2_000)
    rows = [request(WINDOWS) for _ in range(4)]
    rnd, out = np.random.default_rng(0), np.zeros(vocabulary().words, np.int32)
    for row in rows:
        admit(own, row)
    for _ in range(30):
        assert own.look(rows) == []
        for row in rows:
            own.mask(row, out)
            allowed = np.flatnonzero(np.unpackbits(out.view(np.uint8), bitorder="little"))
            row.tokens.append(int(rnd.choice(allowed[allowed != vocabulary().eos[0]])))
            assert own.follow(row) is None
    assert rows[0].notes[NOTE].compiled.generation > 0


@pytest.fixture
def release() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


def get_stuck(own: Grammars, asked: Any, release: threading.Event) -> None:
    own._seconds = 0.02
    break_row(asked, is_shared=False)
    asked.notes[NOTE].matcher._session.mask = lambda out: release.wait(PATIENCE)


def test_a_row_that_is_stuck_ends_alone(own: Grammars, release: threading.Event) -> None:
    """The others of its grammar pass the gate again, and go on from their tokens in another copy."""
    rows = [request(json_schema({"enum": ["one", "two"]})) for _ in range(3)]
    other = request(json_schema({"enum": ["three", "four"]}))
    for row in (*rows, other):
        admit(own, row)
    rows[2].tokens += encode('"t')
    get_stuck(own, rows[0], release)
    ((failed, finish),) = own.look([*rows, other])
    assert failed is rows[0]
    assert finish.code == "grammar_limit"
    assert [own.is_lost(row) for row in (rows[1], rows[2], other)] == [True, True, False]
    assert own.follow(rows[2]) is None
    for row in rows[1:]:
        admit(own, row)
    assert own.look([*rows[1:], other]) == []
    assert text_of(own.forced(rows[2])) == 'wo"'
    assert len(admitted(rows[1].notes[NOTE].matcher)) > 0
    again = request(json_schema({"enum": ["one", "two"]}))
    admit(own, again)
    assert again.notes[NOTE].compiled is rows[1].notes[NOTE].compiled


def test_what_was_forced_stays_forced_in_another_copy(own: Grammars, release: threading.Event) -> None:
    """A row in the midst of a forced run goes on with that run, however the rest of it would be spelt by itself."""
    rows = [request(json_schema({"const": "a sentence that is forced"})) for _ in range(2)]
    for row in rows:
        admit(own, row)
    run = own.forced(rows[1])
    rows[1].tokens += run[:3]
    assert own.follow(rows[1]) is None
    get_stuck(own, rows[0], release)
    own.look(rows)
    admit(own, rows[1])
    assert own.look(rows[1:]) == []
    assert own.forced(rows[1]) == run[3:]


def test_a_grammar_in_which_rows_get_stuck_again_and_again_is_refused(own: Grammars, release: threading.Event) -> None:
    asked, waiting = (request(json_schema({"enum": ["one", "two"]})) for _ in range(2))
    for _ in range(STRIKES):
        asked = request(json_schema({"enum": ["one", "two"]}))
        admit(own, asked)
        admit(own, waiting)
        get_stuck(own, asked, release)
        own.look([asked])
        assert own.is_lost(waiting)
    verdict = own.verdict(waiting, [])
    assert isinstance(verdict, Refuse)
    assert verdict.error.status == 400
    assert isinstance(own.verdict(request(json_schema({"enum": ["one", "two"]})), []), Refuse)


def test_rows_are_asked_about_together_and_only_where_something_is_to_be_found_out(own: Grammars) -> None:
    rows = [request(json_schema({"enum": ["one", "two", n]})) for n in range(3)]
    for row in rows:
        admit(own, row)
    asked: list[int] = []
    run = own._worker.run

    def counted(jobs: Any, *more: Any) -> Any:
        asked.append(len(jobs))
        return run(jobs, *more)

    own._worker.run = counted  # type: ignore[method-assign]
    assert own.look(rows) == []  # the compiler has looked at the beginning
    for row in rows[:2]:
        row.tokens += encode('"')
        assert own.follow(row) is None
    assert own.look(rows) == []
    assert own.look(rows) == []
    assert asked == [2]


def test_forcing_megabytes_ends_that_row() -> None:
    own = Grammars(Compiler(vocabulary, Options(style=FIXED, seconds=PATIENCE)))
    many = {"type": "array", "prefixItems": [{"enum": ["a", "b"]}, *[{"$ref": "#/$defs/c"}] * 4_000], "minItems": 4_001}
    asked = request(json_schema({"$defs": {"c": {"const": "ab" * 500}}} | many))
    other = request(json_schema({"const": 1}))
    for row in (asked, other):
        admit(own, row)
    asked.tokens += [*own.forced(asked), *encode("a")]
    assert own.follow(asked) is None
    own._seconds = 0.01  # for some 300 ms of work
    ((failed, finish),) = own.look([asked])
    own._seconds = PATIENCE
    assert own.look([other]) == []
    own.close()
    assert failed is asked
    assert "takes too long" in str(finish.message)


def test_a_row_that_takes_too_long_is_left_behind() -> None:
    worker, release = Worker("test"), threading.Event()
    order: list[Any] = []

    def stuck() -> None:
        release.wait(PATIENCE)
        order.append("late")

    try:
        jobs = [lambda: order.append(0), stuck, lambda: order.append(2), lambda: 1 // 0]
        failed = worker.run(jobs, 0.05, lambda place: order.append(f"left {place}"))
        assert order == [0, "left 1", 2]
        assert [type(failed[place]) for place in sorted(failed)] == [TimeoutError, ZeroDivisionError]
        assert worker.run([lambda: order.append(4)], PATIENCE, pytest.fail) == {}
        assert order == [0, "left 1", 2, 4]
    finally:
        release.set()
        worker.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), max_size=12))
def test_a_worker_runs_every_job_once(fails: list[bool]) -> None:
    worker = Worker("test")
    ran: list[int] = []

    def job(place: int) -> None:
        ran.append(place)
        if fails[place]:
            raise ValueError(place)

    failed = worker.run([partial(job, place) for place in range(len(fails))], PATIENCE, pytest.fail)
    worker.close()
    assert ran == list(range(len(fails)))
    assert sorted(failed) == [place for place, bad in enumerate(fails) if bad]


def test_a_long_forced_text_comes_in_parts(compiler: Compiler) -> None:
    """Forcing megabytes costs no more than their beginning, and all of it is said in the end."""
    text = "a word and another " * 1_000
    matcher = compiled(compiler, choice([text])).matcher()
    said: list[int] = []
    while not matcher.finished:
        forced = matcher.forced()
        assert 0 < len(forced) <= LONGEST
        for token in forced:
            matcher.accept(token)
        said += forced
    assert text_of(said) == text


def test_the_library_is_one_for_all_rows_of_a_grammar() -> None:
    """Clones share what was learned; none sees where another stands."""
    beginning = library().compile('start: ("a" | "b"){3}')
    left, right = beginning.clone(), beginning.clone()
    for token in encode("a"):
        left.take(token)
    row = np.zeros(vocabulary().words, np.int32)
    right.mask(row)
    assert right.admitted(encode("aba")) > 0
    assert json.dumps(left.can_stop) == "false"
