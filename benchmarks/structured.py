"""What the bundled model writes under JSON schemas: how much of it is valid, how much comes to an end.

    python benchmarks/structured.py FOLDER [FOLDER ...] [--every 4] [--tokens 1024] [--log FILE]

FOLDER is one of `benchmarks/grammars.py`. Every schema is asked for once, at temperature 1 with its number as the seed,
through the engine in this process: compiled by its children, masked in the steps, jumped over where tokens are forced.
White space is a space or an indented line; where a schema leaves it open strings have at most 16 characters, arrays and
maps at most 2 entries, numbers 6 digits, and objects no properties but those that are listed. What is finished is
validated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonschema
from grammars import Case, cases
from referencing import Registry
from referencing.exceptions import Unresolvable

import ramify
from ramify.core.errors import UserError
from ramify.engine import assemble
from ramify.grammar.compiler import Options
from ramify.grammar.style import Style

PROMPT = "The answer as JSON: "
AT_ONCE = 32


def bounded(**options: Any) -> Options:
    """Compiler options of an engine that writes short JSON."""
    return replace(Options(**options), style=Style(strings=16, items=2, digits=6, closed=True))


async def answer(engine: ramify.Engine, case: Case, seed: int, tokens: int, places: asyncio.Semaphore) -> Any:
    """The output, or the error that refused it."""
    schema = json.dumps(case.schema)
    asked = {"temperature": 1.0, "max_new_tokens": tokens, "sampling_seed": seed, "json_schema": schema}
    async with places:
        try:
            return await engine.async_generate(PROMPT, asked)
        except UserError as e:
            return e


async def answers(engine: ramify.Engine, asked: list[Case], tokens: int) -> list[Any]:
    places = asyncio.Semaphore(AT_ONCE)
    return await asyncio.gather(*(answer(engine, case, seed, tokens, places) for seed, case in enumerate(asked)))


def outcome(case: Case, found: Any) -> tuple[str, str]:
    """In a word, and what there is to say about it."""
    if isinstance(found, UserError):
        return ("refused" if found.status == 400 else "failed"), found.message
    finish, text = found["meta_info"]["finish_reason"], found["text"]
    if finish["type"] != "stop":
        return "unfinished", text[-200:]
    kind = jsonschema.validators.validator_for(case.schema, jsonschema.Draft202012Validator)
    try:
        wrong = next(kind(case.schema, registry=Registry()).iter_errors(json.loads(text)), None)
    except (Unresolvable, jsonschema.exceptions.SchemaError, re.error) as e:
        return "unchecked", f"{type(e).__name__}: {e} in {text}"
    return ("valid", "") if wrong is None else ("invalid", f"{wrong.message}: {text}")


def report(folder: Path, asked: list[Case], found: list[Any], seconds: float, steps: int, log: Any) -> str:
    counts: Counter[str] = Counter()
    tokens = 0
    for case, one in zip(asked, found, strict=True):
        word, why = outcome(case, one)
        counts[word] += 1
        tokens += 0 if isinstance(one, UserError) else one["meta_info"]["completion_tokens"]
        if word != "valid":
            print(f"{word:10} {folder.name} {case.name}: {why!r}", file=log, flush=True)
    supported = len(asked) - counts["refused"]
    finished = supported - counts["unfinished"] - counts["failed"]
    return (
        f"| {folder.name} | {supported}/{len(asked)} | {finished} ({100 * finished / max(supported, 1):.1f} %) "
        f"| {counts['valid']} | {counts['invalid']} | {counts['unchecked']} | {counts['failed']} "
        f"| {tokens:,} | {steps:,} | {seconds:.0f} |"
    )


HEAD = (
    "| suite | supported | finished | valid | invalid | not checkable | failed | tokens | steps | seconds |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=1, help="one schema in so many")
    parser.add_argument("--tokens", type=int, default=1024, help="limit of an output")
    parser.add_argument("--log", type=argparse.FileType("w"), default=os.devnull, help="what is not valid, and why")
    options = parser.parse_args()
    with patch.object(assemble, "Options", bounded), ramify.Engine(threads=1) as engine:
        print(HEAD)
        for folder in options.folders:
            asked = list(cases(folder))[:: options.every]
            counts, begin = engine._loop.scheduler.counts, time.monotonic()
            before = counts.steps
            found = asyncio.run(answers(engine, asked, options.tokens))
            spent = time.monotonic() - begin
            print(report(folder, asked, found, spent, counts.steps - before, options.log), flush=True)


if __name__ == "__main__":
    main()
