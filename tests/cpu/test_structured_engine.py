"""Structured output with the bundled model in this process: it is valid, and forced tokens cost no steps."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import psutil
import pytest
from referencing import Registry
from referencing.exceptions import Unresolvable

import ramify
from assets import shared
from hostile import HOSTILE
from ramify import BadRequest, UserError
from ramify.engine import assemble, loop
from ramify.grammar.compiler import Options
from ramify.grammar.constraint import Constraint
from ramify.grammar.guides import GrammarGuide
from ramify.grammar.style import FIXED, FLEXIBLE, Style

PROMPT = "The answer as JSON: "
TOKENS = 1024
AT_ONCE = 32
DRAFT7 = "http://json-schema.org/draft-07/schema#"
SHORT = replace(FLEXIBLE, strings=16, items=2, digits=6, closed=True)


def make(style: Style = FLEXIBLE, **settings: Any) -> ramify.Engine:
    """The bundled model, and how it is to write JSON where a schema leaves it open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "Options", lambda **options: Options(**{**options, "style": style}))
        return ramify.Engine(threads=1, dtype="float32", **settings)


@pytest.fixture(scope="module")
def engine() -> Iterator[ramify.Engine]:
    with make(SHORT) as made:
        yield made


# -- every schema ----------------------------------------------------------------------------------------------------

every = pytest.param(1, marks=pytest.mark.slow)


def real(step: int) -> list[tuple[str, Any]]:
    paths = sorted(shared("schemas/maskbench").glob("*.json"))[::step]
    return [(path.stem, json.loads(path.read_text())["schema"]) for path in paths]


def official(draft: str, step: int) -> list[tuple[str, Any]]:
    found = []
    for path in sorted(shared(f"schemas/JSON-Schema-Test-Suite/tests/{draft}").glob("*.json")):
        for group in json.loads(path.read_text()):
            schema = group["schema"]
            if draft == "draft7" and isinstance(schema, dict):
                schema = {"$schema": DRAFT7} | schema
            found.append((f"{path.stem}: {group['description']}", schema))
    return found[::step]


async def ask_all(engine: ramify.Engine, schemas: list[tuple[str, Any]]) -> list[Any]:
    """Outputs, or what refused them."""
    places = asyncio.Semaphore(AT_ONCE)

    async def ask(seed: int, schema: Any) -> Any:
        asked = {"temperature": 1.0, "max_new_tokens": TOKENS, "sampling_seed": seed, "json_schema": schema}
        async with places:
            try:
                return await engine.async_generate(PROMPT, asked)
            except UserError as e:
                return e

    return await asyncio.gather(*(ask(seed, schema) for seed, (_, schema) in enumerate(schemas)))


def check(name: str, schema: Any, found: Any) -> str:
    """What became of one, in a word; fails where that must not be."""
    if isinstance(found, UserError):
        assert found.status == 400, f"{name}: {found.message}"
        assert found.message.startswith("json_schema"), f"{name}: {found.message}"
        return "refused"
    if found["meta_info"]["finish_reason"]["type"] != "stop":
        return "unfinished"
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        wrong = list(kind(schema, registry=Registry()).iter_errors(json.loads(found["text"])))
    except (Unresolvable, jsonschema.exceptions.SchemaError):
        return "beyond the validator"  # documents that it does not have, schemas that are none
    except re.error:
        return "beyond the validator"  # a class of characters that Python's regexes lack
    assert wrong == [], f"{name}: {found['text']}"
    return "valid"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("step", [15, every])
def test_outputs_under_real_schemas_are_valid(engine: ramify.Engine, step: int) -> None:
    schemas = real(step)
    counts = Counter(
        check(*named, found) for named, found in zip(schemas, asyncio.run(ask_all(engine, schemas)), strict=True)
    )
    supported = len(schemas) - counts["refused"]
    assert supported >= 0.8 * len(schemas), counts
    assert counts["valid"] >= 0.9 * supported, counts


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("draft", ["draft2020-12", "draft7"])
@pytest.mark.parametrize("step", [20, every])
def test_outputs_under_the_official_suite_are_valid(engine: ramify.Engine, draft: str, step: int) -> None:
    schemas = official(draft, step)
    counts = Counter(
        check(*named, found) for named, found in zip(schemas, asyncio.run(ask_all(engine, schemas)), strict=True)
    )
    assert counts["unfinished"] <= max(0.1 * (len(schemas) - counts["refused"]), 1), counts
    assert counts["valid"] >= 0.3 * len(schemas), counts


# -- jumping ---------------------------------------------------------------------------------------------------------

STATION = {
    "type": "object",
    "properties": {
        "location_of_the_station": {"enum": ["Rome", "Oslo"]},
        "temperature_unit": {"enum": ["celsius", "fahrenheit"]},
        "measurement_is_recent": {"type": "boolean"},
    },
    "required": ["location_of_the_station", "temperature_unit", "measurement_is_recent"],
    "additionalProperties": False,
}
NAMED = ["Snowplow---sp_296_Normalized", "Glaiveai2K---calculate_area_11accd5b"]


def written(style: Style, schema: Any, jumps: bool, depth: int) -> tuple[list[list[int]], int]:
    """Tokens for a few seeds, one after the other, and the steps that all of them took."""
    with pytest.MonkeyPatch.context() as patch, make(style, disable_overlap_schedule=depth == 0) as engine:
        if not jumps:
            patch.setattr(GrammarGuide, "forced", lambda self, room: ())
        asked = {"temperature": 1.0, "max_new_tokens": 200, "json_schema": schema}
        outputs = [engine.generate(PROMPT, {**asked, "sampling_seed": seed}) for seed in range(4)]
        return [output["output_ids"] for output in outputs], engine._loop.scheduler.counts.steps


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("name", ["station", *NAMED])
def test_jumping_halves_the_steps_and_changes_no_token(name: str, depth: int) -> None:
    schema = STATION if name == "station" else dict(real(1))[name]
    style = replace(FIXED, strings=8, items=1, digits=4, closed=True)
    jumped, steps = written(style, schema, True, depth)
    sampled, all_steps = written(style, schema, False, depth)
    assert jumped == sampled
    assert steps <= 0.5 * all_steps


# -- hostile ---------------------------------------------------------------------------------------------------------

HOSTILE_AT_ONCE = 6


def of(constraint: Constraint) -> dict[str, Any]:
    return {constraint.kind: constraint.text}


def test_hostile_grammars_change_no_answer_of_another(engine: ramify.Engine) -> None:
    """While all of them are tried, free and constrained requests say what they say alone."""
    free = {"temperature": 1.0, "max_new_tokens": 60, "ignore_eos": True, "sampling_seed": 3}
    held = {"temperature": 1.0, "max_new_tokens": 200, "json_schema": STATION, "sampling_seed": 3}
    alone = [engine.generate(PROMPT, params)["text"] for params in (free, held)]
    hostile = [of(constraint) for constraint in HOSTILE.values() if constraint.kind != "choice"]
    over = threading.Event()

    async def hurt() -> list[Any]:
        places = asyncio.Semaphore(HOSTILE_AT_ONCE)

        async def one(params: dict[str, Any]) -> Any:
            async with places:
                try:
                    return await engine.async_generate(PROMPT, {"temperature": 1.0, "max_new_tokens": 40, **params})
                except BadRequest as e:
                    return e

        return await asyncio.gather(*map(one, hostile))

    found: list[Any] = []
    thread = threading.Thread(target=lambda: (found.extend(asyncio.run(hurt())), over.set()))
    thread.start()
    rounds = 0
    while not over.is_set() or not rounds:
        assert [engine.generate(PROMPT, params)["text"] for params in (free, held)] == alone
        rounds += 1
    thread.join()
    assert len(found) == len(hostile)
    assert any(isinstance(one, BadRequest) for one in found)
    assert not all(isinstance(one, BadRequest) for one in found)


# -- the compiler's place in an engine -------------------------------------------------------------------------------


def test_a_finished_grammar_wakes_the_engine(engine: ramify.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks after it: the loop sleeps until it is told."""
    monkeypatch.setattr(loop, "GATED_POLL", 3600.0)
    for number in range(3):
        text = engine.generate(PROMPT, {"regex": f"wake up {number}", "max_new_tokens": 20})["text"]
        assert text == f"wake up {number}"


def test_an_engine_leaves_no_process_and_no_thread_behind() -> None:
    def children() -> set[psutil.Process]:
        return set(psutil.Process().children())

    others, threads = children(), threading.active_count()
    with make() as engine:
        assert children() == others  # it waits for the first that wants structure
        engine.generate(PROMPT, {"regex": "[ab]{4}", "max_new_tokens": 20})
        (child,) = children() - others
    assert not child.is_running()
    assert threading.active_count() == threads
