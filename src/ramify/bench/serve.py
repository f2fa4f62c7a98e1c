"""`ramify bench serve`: find the server, make prompts, warm up, send, report."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from random import Random

from ramify.bench import datasets
from ramify.bench.arrivals import arrivals
from ramify.bench.backends import Asking
from ramify.bench.client import Client
from ramify.bench.datasets import Turn, Workload
from ramify.bench.discover import Server, discover
from ramify.bench.document import serve_document, write
from ramify.bench.goodput import Slo
from ramify.bench.load import Load
from ramify.bench.options import LoadOptions, ServeOptions
from ramify.bench.outcome import Outcome
from ramify.bench.progress import progress
from ramify.bench.prompts import make_source, one, refused
from ramify.bench.record import Record
from ramify.bench.remarks import remarks
from ramify.bench.report import show_serve
from ramify.bench.summary import summarize
from ramify.bench.words import Source
from ramify.core.errors import StartupError


def serve(options: ServeOptions) -> int:
    """Measure, print and write. Returns the exit status."""
    options.check()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        outcome = runner.run(measure(options, _say))
    show_serve(outcome)
    if options.report.output_file is not None:
        write(serve_document(outcome), options.report.output_file)
    return outcome.status


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists: the client has to be lighter than the server."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _say(text: str) -> None:
    print(text, file=sys.stderr)


async def measure(options: ServeOptions, say: Callable[[str], None]) -> Outcome:
    """The whole run without its report."""
    target = options.target
    key = target.api_key or os.environ.get("OPENAI_API_KEY")
    async with Client(target.url, key, target.request_timeout) as client:
        server = await discover(client, target, say)
        asking = Asking(
            server.model, options.asking.temperature, not options.asking.disable_ignore_eos, options.asking.extra
        )
        source = await make_source(client, server, options, asking)
        workload = datasets.make(options.data, source, options.load.seed, server.context)
        await _warm_up(client, server, asking, source, workload, options.load)
        if options.load.flush_cache and (problem := await client.flush_cache()) is not None:
            raise StartupError(f"--flush-cache: {server.url} did not do it: {problem}")
        return await _run(client, server, asking, source, workload, options)


async def _warm_up(
    client: Client, server: Server, asking: Asking, source: Source, workload: Workload, options: LoadOptions
) -> None:
    """Requests like those to come, with words of their own, so that they leave nothing useful in a prefix cache."""
    random = Random(f"warm-up {options.seed}")
    turns = [conversation.turns[0] for conversation in workload.conversations]
    chosen = [_reworded(turns[number % len(turns)], source, random) for number in range(options.warmup_requests)]
    records = await asyncio.gather(*(one(client, server, asking, turn) for turn in chosen))
    errors = [record.error for record in records if record.error is not None]
    if errors and len(errors) == len(records):
        raise refused(errors[0], server)


def _reworded(turn: Turn, source: Source, random: Random) -> Turn:
    content = turn.content
    length = source.count(content) if isinstance(content, str) else len(content)
    return Turn(source.more(random, None, length), length, turn.output_len)


async def _run(
    client: Client, server: Server, asking: Asking, source: Source, workload: Workload, options: ServeOptions
) -> Outcome:
    """Ctrl-C cancels this task: then the records so far are the result."""
    how = options.load
    due = arrivals(len(workload.conversations), how.request_rate, how.burstiness, Random(f"arrivals {how.seed}"))
    stopped = False
    with progress(workload.requests) as bar:
        load = Load(client, server.backend, asking, how.max_concurrency, options.data.multi_turn_think_time, bar.add)
        try:
            await load.run(workload.conversations, due)
        except asyncio.CancelledError:
            stopped = True
    recount(load.records, source)
    left = workload.requests - len(load.records) if stopped else 0
    slo = Slo.parse(options.report.goodput)
    summary = summarize(load.records, load.duration, left, slo)
    notes = remarks(load.records, workload, source, how)
    return Outcome(options, server, workload, load.records, summary, notes)


def recount(records: Sequence[Record], source: Source) -> None:
    """Where the server counted no tokens, the tokenizer does, if it is here."""
    for record in records:
        if record.counted == "chunks" and record.ok and source.exact and record.text:
            record.output_tokens, record.counted = source.count(record.text), "tokenizer"
