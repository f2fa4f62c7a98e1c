"""Grammar libraries on JSON schemas with valid and invalid instances: speed, coverage, and wrong answers.

    python benchmarks/grammars.py FOLDER [--library ramify llguidance xgrammar] [--vocabulary qwen2=FOLDER] [--every 4]

FOLDER holds JSON files, as in maskbench (`{"schema", "tests": [{"data", "valid"}]}`) or in the JSON Schema Test Suite
(lists of such). `ramify` is llguidance as the grammar room uses it, `ramify-fixed` with fixed separators. Every schema
runs in a child process, which is ended after `--seconds`. Times are CPU time of one thread, which other work on the
machine disturbs little. xgrammar is no dependency: install it beside ramify.

For each instance the whole text is fed, and a mask is computed before every token. An instance is accepted if every
token and then the end is. Keys come in the order of the instance; `order` counts the valid ones that are refused only
for that (they are accepted with the keys in the order of the schema).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from ramify.grammar.constraint import Constraint, GrammarFault
from ramify.grammar.library import Library, Mask, Session, _Wrapper
from ramify.grammar.style import FIXED, FLEXIBLE, Style
from ramify.grammar.translate import translate
from ramify.grammar.vocabulary import Vocabulary, vocabulary_of
from ramify.text.tokenizer import Tokenizer, load_tokenizer

BUNDLED = Path(__file__).parents[1] / "src" / "ramify" / "bundled" / "concierge"
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LONGEST = 2000  # tokens of an instance; longer ones are left out
DRAFT7 = "http://json-schema.org/draft-07/schema#"


class Row(Protocol):
    def mask(self) -> None: ...
    def take(self, token: int) -> bool: ...
    def forced(self) -> bool: ...
    def can_stop(self) -> bool: ...


class Compiled(Protocol):
    def row(self) -> Row: ...


# -- libraries -------------------------------------------------------------------------------------------------------


class Ramify:
    """llguidance behind the grammar room, without the probe."""

    def __init__(self, vocabulary: Vocabulary, style: Style = FLEXIBLE) -> None:
        self._vocabulary, self._style = vocabulary, style
        self._library = Library(vocabulary)

    def compile(self, schema: str) -> RamifyGrammar:
        source = translate(Constraint("json_schema", schema), self._vocabulary.specials, self._style)
        return RamifyGrammar(self._library.compile(source.lark), np.zeros(self._vocabulary.words, np.int32))


class RamifyGrammar:
    def __init__(self, session: Session, out: Mask) -> None:
        self._session, self._out = session, out

    def row(self) -> RamifyGrammar:
        return RamifyGrammar(self._session.clone(), self._out)

    def mask(self) -> None:
        self._session.mask(self._out)

    def take(self, token: int) -> bool:
        fits = self._session.admitted([token]) == 1
        if fits:
            self._session.take(token)
        return fits

    def forced(self) -> bool:
        return bool(self._session.forced())

    def can_stop(self) -> bool:
        return self._session.can_stop


class LLGuidance:
    """As it comes."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        import llguidance

        self._llguidance = llguidance
        self._tokenizer = llguidance.LLTokenizer(_Wrapper(vocabulary))  # type: ignore[arg-type]
        self._words = vocabulary.words

    def compile(self, schema: str) -> LLGuidanceGrammar:
        grammar = self._llguidance.LLMatcher.grammar_from_json_schema(schema)
        matcher = self._llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error().splitlines()[0])
        return LLGuidanceGrammar(matcher, np.zeros(self._words, np.int32))


class LLGuidanceGrammar:
    def __init__(self, matcher: Any, out: np.ndarray) -> None:
        self._matcher, self._out = matcher, out

    def row(self) -> LLGuidanceGrammar:
        return LLGuidanceGrammar(self._matcher.deep_copy(), self._out)

    def mask(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._out.ctypes.data, self._out.nbytes)

    def take(self, token: int) -> bool:
        return self._matcher.consume_token(token)

    def forced(self) -> bool:
        return bool(self._matcher.compute_ff_tokens())

    def can_stop(self) -> bool:
        return self._matcher.is_accepting()


class XGrammar:
    """As it comes, except that properties which a schema does not list are allowed, as they are in JSON Schema."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        import xgrammar

        self._xgrammar = xgrammar
        tokens = [
            b"" if index in vocabulary.specials.values() else token for index, token in enumerate(vocabulary.tokens)
        ]
        self._eos = vocabulary.eos[0]
        self._size = vocabulary.size
        self._info = xgrammar.TokenizerInfo(tokens, vocab_size=vocabulary.size, stop_token_ids=[self._eos])

    def compile(self, schema: str) -> XGrammarGrammar:
        compiler = self._xgrammar.GrammarCompiler(self._info, max_threads=1, cache_enabled=False)
        compiled = compiler.compile_json_schema(schema, strict_mode=False)
        return XGrammarGrammar(self._xgrammar, compiled, self._size, self._eos)


class XGrammarGrammar:
    def __init__(self, xgrammar: Any, compiled: Any, size: int, eos: int) -> None:
        self._parts = (xgrammar, compiled, size, eos)
        self._eos = eos
        self._out = xgrammar.allocate_token_bitmask(1, size)
        self._matcher = xgrammar.GrammarMatcher(compiled)

    def row(self) -> XGrammarGrammar:
        return XGrammarGrammar(*self._parts)

    def mask(self) -> None:
        self._matcher.fill_next_token_bitmask(self._out)

    def take(self, token: int) -> bool:
        return self._matcher.accept_token(token)

    def forced(self) -> bool:
        return bool(self._matcher.find_jump_forward_string())

    def can_stop(self) -> bool:
        self.mask()
        return bool(int(self._out[0, self._eos // 32]) >> self._eos % 32 & 1)


LIBRARIES: dict[str, Any] = {
    "ramify": Ramify,
    "ramify-fixed": lambda vocabulary: Ramify(vocabulary, FIXED),
    "llguidance": LLGuidance,
    "xgrammar": XGrammar,
}


# -- one schema ------------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """Of one schema, or added up. Times in seconds."""

    schemas: int = 0
    refused: int = 0
    stopped: int = 0
    compiles: list[float] = field(default_factory=list)
    masks: list[float] = field(default_factory=list)
    valid: int = 0
    rejected: int = 0
    order: int = 0
    invalid: int = 0
    accepted: int = 0
    tokens: int = 0
    forced: int = 0

    def add(self, other: Found) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class Case:
    name: str
    schema: Any
    tests: list[tuple[Any, bool]]


def cases(folder: Path) -> Iterator[Case]:
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        for number, entry in enumerate(content if isinstance(content, list) else [content]):
            tests = [(test["data"], test["valid"]) for test in entry["tests"]]
            yield Case(f"{path.stem}/{number}", _dialect(entry["schema"], folder.name), tests)


def _dialect(schema: Any, folder: str) -> Any:
    """The suite's folders say which draft their schemas are of; the schemas do not."""
    return {"$schema": DRAFT7} | schema if folder == "draft7" and isinstance(schema, dict) else schema


def measure(library: Any, case: Case, encode: Any) -> Found:
    found = Found(schemas=1)
    library.compile('{"type": "integer"}').row().mask()  # touch what the fork shares
    begin = time.process_time()
    try:
        compiled = library.compile(json.dumps(case.schema))
    except Exception as e:  # noqa: BLE001  (libraries raise many kinds)
        found.refused, found.compiles = 1, [time.process_time() - begin]
        print(f"    {case.name}: {str(e)[:200]!r}", file=LOG, flush=True)
        return found
    found.compiles = [time.process_time() - begin]
    for data, is_valid in case.tests:
        tokens = encode(json.dumps(data, ensure_ascii=False))
        if len(tokens) > LONGEST:
            continue
        accepted = feed(compiled.row(), tokens, found, is_valid)
        found.valid += is_valid
        found.invalid += not is_valid
        found.accepted += accepted and not is_valid
        if is_valid and not accepted:
            found.rejected += 1
            again = json.dumps(ordered(data, case.schema), ensure_ascii=False)
            found.order += feed(compiled.row(), encode(again), Found(), False)
        if accepted != is_valid:
            print(
                f"    {case.name}: {'accepts' if accepted else 'refuses'} {json.dumps(data)[:200]}",
                file=LOG,
                flush=True,
            )
    return found


def feed(row: Row, tokens: list[int], found: Found, is_valid: bool) -> bool:
    for token in tokens:
        if is_valid:
            found.tokens += 1
            found.forced += row.forced()
        begin = time.process_time()
        try:
            row.mask()
        except GrammarFault as e:
            print(f"    {e}", file=LOG, flush=True)
            return False
        found.masks.append(time.process_time() - begin)
        if not row.take(token):
            return False
    return row.can_stop()


def ordered(data: Any, schema: Any) -> Any:
    """Keys in the order of `properties`, where the schema has them right there."""
    if isinstance(data, list):
        items = schema.get("items") if isinstance(schema, dict) else None
        return [ordered(value, items) for value in data]
    if not isinstance(data, dict):
        return data
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    places = {name: place for place, name in enumerate(properties)}
    names = sorted(data, key=lambda name: places.get(name, len(places)))
    return {name: ordered(data[name], properties.get(name)) for name in names}


# -- all of them -----------------------------------------------------------------------------------------------------

LOG = open(os.devnull, "w")  # noqa: SIM115  (replaced by --log)


def run(library: Any, folder: Path, encode: Any, every: int, seconds: float) -> Found:
    """One child per schema: what it allocates and how long it takes is its own affair."""
    total = Found()
    fork = multiprocessing.get_context("fork")
    for case in list(cases(folder))[::every]:
        receive, send = fork.Pipe(duplex=False)
        child = fork.Process(target=_child, args=(send, library, case, encode))
        child.start()
        send.close()
        try:
            found = receive.recv() if receive.poll(seconds) else None
        except EOFError:
            found = None
        if found is None:
            print(f"    {case.name}: stopped after {seconds} s", file=LOG, flush=True)
            found = Found(schemas=1, stopped=1, compiles=[seconds])
        child.kill()
        child.join()
        total.add(found)
    return total


def _child(send: Any, library: Any, case: Case, encode: Any) -> None:
    send.send(measure(library, case, encode))


def micros(values: list[float]) -> str:
    if not values:
        return "- / - / -"
    values = sorted(values)
    return " / ".join(
        f"{1e6 * v:,.0f}" for v in (values[len(values) // 2], values[int(len(values) * 0.99)], values[-1])
    )


def report(name: str, found: Found) -> str:
    supported = found.schemas - found.refused - found.stopped
    return (
        f"| {name} | {supported}/{found.schemas} ({100 * supported / found.schemas:.1f} %) | {found.stopped} "
        f"| {micros(found.compiles)} | {micros(found.masks)} | {found.rejected}/{found.valid} ({found.order} order) "
        f"| {found.accepted}/{found.invalid} | {100 * found.forced / max(found.tokens, 1):.0f} % |"
    )


HEAD = (
    "| library | supported | stopped | compile us p50 / p99 / max | mask us p50 / p99 / max "
    "| valid refused | invalid accepted | forced |\n|---|---|---|---|---|---|---|---|"
)


# -- vocabularies ----------------------------------------------------------------------------------------------------


def qwen2(folder: Path) -> Tokenizer:
    """From `vocab.json`, `merges.txt` and `tokenizer_config.json`, where there is no `tokenizer.json`."""
    backend = Backend(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for _, token in sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0])):
        backend.add_tokens([AddedToken(token["content"], special=token["special"], normalized=False)])
    return Tokenizer(backend, config, None)


def vocabulary(name: str, folder: Path) -> Vocabulary:
    tokenizer = qwen2(folder) if name == "qwen2" else load_tokenizer(folder)
    return vocabulary_of(tokenizer, tokenizer.size, tokenizer.encode(tokenizer.names["eos_token"], False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--library", nargs="+", choices=LIBRARIES, default=["ramify", "llguidance"])
    parser.add_argument("--vocabulary", nargs="+", default=[f"bundled={BUNDLED}"], help="name=FOLDER")
    parser.add_argument("--every", type=int, default=1, help="one schema in so many")
    parser.add_argument("--seconds", type=float, default=20.0, help="for one schema and its instances")
    parser.add_argument("--log", type=argparse.FileType("w"), help="what was refused and which answers are wrong")
    options = parser.parse_args()
    if options.log:
        globals()["LOG"] = options.log
    for given in options.vocabulary:
        name, _, folder = given.partition("=")
        words = vocabulary(name, Path(folder))
        for suite in options.folders:
            print(f"\n{suite.name}, {name} ({words.size:,} tokens), one schema in {options.every}\n{HEAD}", flush=True)
            for library in options.library:
                found = run(LIBRARIES[library](words), suite, words.encode, options.every, options.seconds)
                print(report(library, found), flush=True)


if __name__ == "__main__":
    main()
