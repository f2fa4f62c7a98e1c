"""Real schemas and the official test suite: what is supported gives valid JSON and nothing else; the rest is refused.

A few are taken in the default run, all of them under `slow`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from grammars import SHORT, accepts, json_schema, start, text_of, walk
from referencing import Registry

from assets import SHARED
from ramify.grammar.constraint import GrammarError
from ramify.grammar.matcher import Matcher
from ramify.grammar.prepare import STANDARD_FORMATS
from ramify.grammar.style import FLEXIBLE, Style

SCHEMAS = SHARED / "schemas"
SLOW_TO_COMPILE = {"JsonSchemaStore---jreleaser-1.7.0"}  # more than the limit of a compilation
DRAFT7 = "http://json-schema.org/draft-07/schema#"

every = pytest.param(1, marks=pytest.mark.slow)


def real(step: int) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
    """Name, schema and instances."""
    folder = SCHEMAS / "maskbench"
    if not folder.is_dir():
        pytest.skip("the folder of test material is not beside the project")
    for path in sorted(folder.glob("*.json"))[::step]:
        content = json.loads(path.read_text())
        if path.stem not in SLOW_TO_COMPILE:
            yield path.stem, content["schema"], content["tests"]


def official(draft: str, step: int) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
    folder = SCHEMAS / "JSON-Schema-Test-Suite" / "tests" / draft
    if not folder.is_dir():
        pytest.skip("the folder of test material is not beside the project")
    groups = [(path, group) for path in sorted(folder.glob("*.json")) for group in json.loads(path.read_text())]
    for path, group in groups[::step]:
        schema = group["schema"]
        if draft == "draft7" and isinstance(schema, dict):
            schema = {"$schema": DRAFT7} | schema
        yield f"{path.stem}: {group['description']}", schema, group["tests"]


def begin(schema: Any, style: Style = FLEXIBLE) -> Matcher | None:
    """None where it is refused."""
    try:
        return start(json_schema(schema), style)
    except GrammarError:
        return None


def validator(schema: Any) -> Any:
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    return kind(schema, registry=Registry())


def wrong(schema: Any, text: str) -> list[Any]:
    """What the validator objects to, without multiples that are none because it divides binary fractions."""
    return [error for error in validator(schema).iter_errors(json.loads(text)) if not _multiple_after_all(error)]


def _multiple_after_all(error: Any) -> bool:
    return error.validator == "multipleOf" and Decimal(str(error.instance)) % Decimal(str(error.validator_value)) == 0


def one_walk(matcher: Matcher, seed: int) -> str | None:
    """A text drawn at uniform random from the masks; None where it comes to no end."""
    tokens = walk(matcher, seed, jump=True)
    return text_of(tokens) if matcher.finished else None


@pytest.mark.parametrize("step", [25, every])
def test_walks_through_real_schemas_end_in_valid_json(step: int) -> None:
    supported = ended = 0
    for name, schema, _ in real(step):
        matcher = begin(schema, SHORT)
        if matcher is None:
            continue
        supported += 1
        text = one_walk(matcher, supported)
        ended += text is not None
        if text is not None:
            assert wrong(schema, text) == [], f"{name}: {text}"
    assert supported >= 0.8 * len(list(real(step)))
    assert ended >= 0.9 * supported


@pytest.mark.parametrize("step", [10, every])
def test_no_invalid_instance_of_a_real_schema_is_accepted(step: int) -> None:
    for name, schema, tests in real(step):
        matcher = begin(schema)
        for test in tests if matcher is not None else []:
            if not test["valid"]:
                assert not accepts(matcher, json.dumps(test["data"], ensure_ascii=False)), f"{name}: {test['data']}"


@pytest.mark.parametrize("draft", ["draft2020-12", "draft7"])
@pytest.mark.parametrize("step", [4, every])
def test_the_official_suite(draft: str, step: int) -> None:
    """As hostile input too: whatever it holds is compiled or refused."""
    for name, schema, tests in official(draft, step):
        matcher = begin(schema)
        for test in tests if matcher is not None else []:
            text = json.dumps(test["data"], ensure_ascii=False)
            assert test["valid"] or not accepts(matcher, text), f"{name}: {text}"


@pytest.mark.parametrize("draft", ["draft2020-12", "draft7"])
@pytest.mark.parametrize("step", [6, every])
def test_walks_through_the_official_suite_end_in_valid_json(draft: str, step: int) -> None:
    for number, (name, schema, _) in enumerate(official(draft, step)):
        matcher = begin(schema, SHORT)
        text = one_walk(matcher, number) if matcher is not None else None
        if text is not None and _can_be_checked(schema):
            assert wrong(schema, text) == [], f"{name}: {text}"


def _can_be_checked(schema: Any) -> bool:
    """The validator here has no other documents, and Python's regexes no classes of characters."""
    written = json.dumps(schema).replace(DRAFT7, "")
    return "http://" not in written and r"\\p" not in written


def test_the_formats_that_are_refused_are_standard_ones() -> None:
    """Dropping any other asks nothing less of a value: validators take it as a remark."""
    assert set(jsonschema.Draft202012Validator.FORMAT_CHECKER.checkers) - {"color", "ip-address", "host-name"} <= {
        *STANDARD_FORMATS
    }


def test_the_folder_is_read() -> None:
    assert len(list(real(1))) > 600
    assert {Path(name.split(":")[0]).name for name, _, _ in official("draft7", 1)} >= {"allOf", "ref", "pattern"}
