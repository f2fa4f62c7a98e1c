"""`ramify bench offline`: the engine in this process, batch by batch, beside transformers' `generate` if asked."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

import msgspec

from ramify.bench.document import header, write
from ramify.bench.options import OfflineOptions
from ramify.bench.report import make_console, make_table, number, say_pairs
from ramify.bench.stats import median
from ramify.config.settings import Settings
from ramify.core.errors import StartupError
from ramify.engine.engine import Engine

Ids = list[int]
FIRST_WORD = 3  # ids below are special in most vocabularies


class Sample(msgspec.Struct, frozen=True):
    """One measurement of one batch. Seconds from the call: to the last row's first token, and to the end."""

    engine: str
    batch: int
    first_s: float
    total_s: float
    prompt_tokens: int
    output_tokens: int

    @property
    def prefill(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.first_s

    @property
    def decode(self) -> float:
        """Output tokens per second after the first of each row."""
        return (self.output_tokens - self.batch) / (self.total_s - self.first_s)

    @property
    def output(self) -> float:
        """Output tokens per second of the whole, prompts included in the time."""
        return self.output_tokens / self.total_s


class Contestant(Protocol):
    """Generates greedily and to the full length."""

    name: str

    def run(self, prompts: Sequence[Ids], length: int) -> tuple[Sample, list[Ids]]: ...


class Ours:
    name = "ramify"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, prompts: Sequence[Ids], length: int) -> tuple[Sample, list[Ids]]:
        """The cache is empty at first; of each row the first token is told of, and then all the others at once."""
        self._engine.flush_cache()
        params = {"temperature": 0, "max_new_tokens": length, "ignore_eos": True, "stream_interval": length}
        outputs: dict[int, Ids] = {}
        first = start = time.perf_counter()
        for output in self._engine.generate(input_ids=list(prompts), sampling_params=params, stream=True):
            index = output.get("index", 0)
            if index not in outputs:
                first = time.perf_counter()
            outputs[index] = output["output_ids"]
        took = time.perf_counter() - start
        made = [outputs[index] for index in range(len(prompts))]
        return _sample(self.name, prompts, made, first - start, took), made


class Theirs:
    name = "transformers"

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._threads = threads
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).train(False)
        self._model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
        self._model.generation_config.eos_token_id = None  # to the full length

    def run(self, prompts: Sequence[Ids], length: int) -> tuple[Sample, list[Ids]]:
        torch = self._torch
        torch.set_num_threads(self._threads)
        stamps: list[float] = []

        def stamp(ids: Any, scores: Any, **_: Any) -> Any:
            """A stopping criterion that never stops: it is asked after every token."""
            stamps.append(time.perf_counter())
            return torch.zeros(ids.shape[0], dtype=torch.bool)

        ids = torch.tensor(list(prompts))
        start = time.perf_counter()
        with torch.inference_mode():
            found = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                pad_token_id=0,
                stopping_criteria=[stamp],
            )
        took = time.perf_counter() - start
        made = found[:, ids.shape[1] :].tolist()
        return _sample(self.name, prompts, made, stamps[0] - start, took), made


def _sample(name: str, prompts: Sequence[Ids], made: Sequence[Ids], first: float, took: float) -> Sample:
    return Sample(name, len(prompts), first, took, sum(map(len, prompts)), sum(map(len, made)))


@dataclass
class Results:
    """`same` counts rows for which all engines said the same, of `rows`."""

    samples: list[Sample]
    rows: int = 0
    same: int = 0

    def of(self, name: str, batch: int) -> list[Sample]:
        return [sample for sample in self.samples if (sample.engine, sample.batch) == (name, batch)]


def offline(options: OfflineOptions, settings: Settings) -> int:
    """Measure, print and write. Returns the exit status."""
    with _contestants(options, settings) as (engine, contestants):
        room = engine.resolved.context - options.input_len - options.output_len
        if room < 0:
            raise StartupError(
                f"--input-len and --output-len make {options.input_len + options.output_len} tokens, and the model's "
                f"context has {engine.resolved.context}"
            )
        results = measure(options, contestants, engine.resolved.model.vocab)
        facts = _facts(engine, options)
    names = [contestant.name for contestant in contestants]
    _show(facts, results, options, names)
    if options.output_file is not None:
        write(_document(facts, results, options, names), options.output_file)
    return 0


@contextmanager
def _contestants(options: OfflineOptions, settings: Settings) -> Iterator[tuple[Engine, list[Contestant]]]:
    with tempfile.TemporaryDirectory(prefix="ramify-bench-") as scratch:
        if options.against == "transformers" and settings.model.load_format == "dummy":
            settings = _with_weights(settings, Path(scratch))
        schedule = settings.schedule
        rows = max(options.batch_sizes)
        if schedule.max_running_requests is None or schedule.max_running_requests < rows:
            settings = replace(settings, schedule=replace(schedule, max_running_requests=rows))
        with Engine.from_settings(settings) as engine:
            found: list[Contestant] = [Ours(engine)]
            if options.against == "transformers":
                found.append(Theirs(engine.resolved.folder, engine.resolved.dtype, engine.resolved.threads))
            yield engine, found


def _with_weights(settings: Settings, folder: Path) -> Settings:
    """Both engines get the same made-up weights: those that transformers makes for the config, through a file."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ramify.config.source import locate

    _say("making weights for both engines")
    config = AutoConfig.from_pretrained(locate(settings.model.model_path, settings.model.revision, weights=False))
    torch.manual_seed(settings.model.random_seed)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    made = replace(settings.model, model_path=str(folder), load_format="auto", skip_tokenizer_init=True)
    return replace(settings, model=made)


def measure(options: OfflineOptions, contestants: Sequence[Contestant], vocab: int) -> Results:
    """Engines take turns within each repetition, and the one that begins changes, so that a slow minute of the machine
    hits both.
    """
    random = Random(options.seed)
    results = Results([])
    for batch in options.batch_sizes:
        for repeat in range(-1, options.repeat):  # the first run of a size warms up
            prompts = [[random.randrange(FIRST_WORD, vocab) for _ in range(options.input_len)] for _ in range(batch)]
            order = contestants if repeat % 2 else contestants[::-1]
            outputs: list[list[Ids]] = []
            for contestant in order:
                sample, made = contestant.run(prompts, options.output_len)
                outputs.append(made)
                if repeat >= 0:
                    results.samples.append(sample)
                    _say(f"batch {batch}, run {repeat + 1}: {contestant.name} {sample.output:.1f} output tokens/s")
            results.rows += batch
            results.same += sum(all(row == rows[0] for row in rows) for rows in zip(*outputs, strict=True))
    return results


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# -- the report --------------------------------------------------------------------------------------------------------


def _facts(engine: Engine, options: OfflineOptions) -> dict[str, Any]:
    resolved = engine.resolved
    return {
        "model": resolved.served_name,
        "dtype": resolved.dtype,
        "threads": resolved.threads,
        "page_size": resolved.page_size,
        "chunked_prefill_size": resolved.chunk,
        "attention_backend": resolved.attention,
    }


MEASURES = (("prefill", "prefill tok/s"), ("decode", "decode tok/s"), ("output", "output tok/s"))


def _show(facts: dict[str, Any], results: Results, options: OfflineOptions, names: Sequence[str]) -> None:
    console = make_console()
    console.print(f"\n[bold]{facts['model']}[/bold], {facts['dtype']}, {facts['threads']} threads")
    say_pairs(
        console,
        ("prompts", f"{options.input_len} random tokens each, {options.output_len} generated, greedy, EOS ignored"),
        ("runs", f"{options.repeat} of each size after one to warm up; median (least to most)"),
        *([("same text", f"{results.same} of {results.rows} rows")] if len(names) > 1 else []),
    )
    console.print()
    table = make_table("batch", "", *(label for _, label in MEASURES))
    for batch in options.batch_sizes:
        for name in names:
            found = results.of(name, batch)
            cells = [_spread([getattr(sample, key) for sample in found]) for key, _ in MEASURES]
            table.add_row(str(batch) if name == names[0] else "", name, *cells)
        if len(names) > 1:
            cells = [_spread(ratios(results, batch, names, key)) for key, _ in MEASURES]
            table.add_row("", "[bold]ratio[/bold]", *(f"[bold]{cell}[/bold]" for cell in cells))
    console.print(table)
    console.print()


def ratios(results: Results, batch: int, names: Sequence[str], key: str) -> list[float]:
    """The first engine's rate over the second's, run by run; nothing where there is one engine."""
    if len(names) < 2:
        return []
    pairs = zip(results.of(names[0], batch), results.of(names[1], batch), strict=True)
    return [getattr(one, key) / getattr(two, key) for one, two in pairs]


def _spread(values: Sequence[float]) -> str:
    return f"{number(median(values))} ({number(min(values))} to {number(max(values))})"


def _document(facts: dict[str, Any], results: Results, options: OfflineOptions, names: Sequence[str]) -> dict[str, Any]:
    packages = ("torch", "transformers") if len(names) > 1 else ("torch",)
    rates = [{**msgspec.to_builtins(s), **{key: getattr(s, key) for key, _ in MEASURES}} for s in results.samples]
    shown = {
        str(batch): {key: ratios(results, batch, names, key) for key, _ in MEASURES} for batch in options.batch_sizes
    }
    return {
        **header("ramify bench offline", *packages),
        "engine": facts,
        "settings": asdict(options),
        "samples": rates,
        "ratios": shown,
        "same_rows": results.same if len(names) > 1 else None,
        "rows": results.rows,
    }
