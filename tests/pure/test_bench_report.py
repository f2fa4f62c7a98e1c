"""What a user of `ramify bench` reads: the tables, the remarks, the file, and refusals of options."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ramify.bench.backends import COMPLETIONS
from ramify.bench.datasets import Conversation, Turn, Workload
from ramify.bench.discover import Server
from ramify.bench.document import serve_document, write
from ramify.bench.goodput import Slo
from ramify.bench.options import (
    AskingOptions,
    DataOptions,
    LoadOptions,
    OfflineOptions,
    ReportOptions,
    ServeOptions,
    TargetOptions,
)
from ramify.bench.outcome import Outcome
from ramify.bench.record import Record
from ramify.bench.remarks import remarks
from ramify.bench.report import show_serve
from ramify.bench.serve import recount
from ramify.bench.summary import summarize
from ramify.bench.tables import row
from ramify.bench.words import PlainWords
from ramify.core.errors import StartupError

SERVER = Server("http://host:1", "tiny [red]model", ["tiny"], COMPLETIONS, "as asked")
DEFAULT = ServeOptions()
LOAD = DEFAULT.load


def record(index: int = 0, **more: Any) -> Record:
    """Half a second to the first of five tokens, one second to the last."""
    given: dict[str, Any] = {"prompt_tokens": 10, "output_tokens": 5, "asked_input": 10, "asked_output": 5}
    given |= {"first": 0.5, "last": 1.0, "stamps": [0.5, 0.6, 0.7, 0.8, 1.0], "sent": 0.0, "due": 0.0, "ended": 1.0}
    return Record(index=index, user=index, turn=0, **(given | more))


def workload(requests: int, **more: Any) -> Workload:
    return Workload([Conversation((Turn("hi", 10, 5),))] * requests, "random, 10 tokens in, 5 out", **more)


def outcome(records: list[Record], options: ServeOptions = DEFAULT, left: int = 0) -> Outcome:
    slo = Slo.parse(options.report.goodput)
    summary = summarize(records, 2.0, left, slo)
    return Outcome(options, SERVER, workload(len(records)), records, summary, ["prompts are odd"])


def shown(capsys: pytest.CaptureFixture[str], *args: Any) -> str:
    show_serve(outcome(*args))
    return capsys.readouterr().out


def line(text: str, begins: str) -> list[str]:
    """The words of the line that begins so, of which there is one."""
    (found,) = [each for each in text.splitlines() if each.strip().startswith(begins)]
    return found.strip().removeprefix(begins).split()


def test_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    options = ServeOptions(report=ReportOptions(goodput=("ttft:400",)))
    records = [record(0, cached_tokens=4), record(1, first=0.3, stamps=[0.3, 1.0], cached_tokens=0)]
    text = shown(capsys, records, options)
    assert "tiny [red]model at http://host:1/v1/completions" in text
    assert "2 completed, 0 failed in 2.00 s" in text
    assert line(text, "input tokens") == ["10.00", "20", "20.0%", "of", "them", "cached"]
    assert line(text, "output tokens") == ["5.00", "10"]
    assert line(text, "goodput")[:5] == ["0.500", "requests/s,", "50.0%", "of", "all:"]
    assert line(text, "TTFT")[:4] == ["400.0", "400.0", "480.0", "498.0"]
    assert line(text, "TPOT")[:2] == ["150.0", "150.0"]
    assert line(text, "ITL")[:2] == ["240.0", "100.0"]
    assert line(text, "E2E")[:2] == ["1,000", "1,000"]
    assert "note: prompts are odd" in text


def test_failures_are_counted_and_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    broken = [record(n, error="HTTP 503: [bold]full") for n in (1, 2)]
    text = shown(capsys, [record(0), *broken, record(3, error="timed out")])
    assert "1 completed, 3 failed in 2.00 s" in text
    assert "2 x HTTP 503: [bold]full" in text
    assert "1 x timed out" in text
    assert "TTFT" in text


def test_nothing_but_failures(capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome([record(0, error="timed out", first=None, last=None, output_tokens=None)])
    show_serve(found)
    text = capsys.readouterr().out
    assert "0 completed, 1 failed" in text
    assert "TTFT" not in text
    assert found.status == 1


def test_a_run_that_was_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome([record(0)], ServeOptions(), 7)
    show_serve(found)
    assert "7 not finished" in capsys.readouterr().out
    assert found.status == 130


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (LoadOptions(), "all at once; temperature 0"),
        (LoadOptions(max_concurrency=8), "closed loop, 8 open at a time"),
        (LoadOptions(request_rate=2.5), "open loop, 2.5 per second (Poisson)"),
        (LoadOptions(request_rate=4, burstiness=0.5), "4 per second (gamma, burstiness 0.5)"),
        (LoadOptions(request_rate=4, max_concurrency=2, flush_cache=True), "at most 2 open; "),
    ],
)
def test_the_load_in_words(capsys: pytest.CaptureFixture[str], load: LoadOptions, says: str) -> None:
    text = shown(capsys, [record()], ServeOptions(load=load))
    assert says in text
    assert ("cache flushed" in text) == load.flush_cache


def test_numbers() -> None:
    assert row([1234.6, 0.6]) == ["1,235", "1"]
    assert row([123.46, 1.0]) == ["123.5", "1.0"]
    assert row([12.346, 1.0]) == ["12.35", "1.00"]
    assert row([0.01234]) == ["0.0123"]


# -- remarks -----------------------------------------------------------------------------------------------------------

EXACT = type("Exact", (PlainWords,), {"exact": True})(1.0)


def noted(records: list[Record], load: LoadOptions = LOAD, source: Any = EXACT, **more: Any) -> list[str]:
    return remarks(records, workload(len(records), **more), source, load)


def test_a_clean_run_has_no_remarks() -> None:
    assert noted([record(), record(1)]) == []


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([record(prompt_tokens=14)], "prompts have 14.0 tokens on average where 10.0 were meant"),
        ([record(output_tokens=3, stamps=[0.5, 0.7, 1.0])], "1 of 1 answers ended before the length"),
        ([record(counted="chunks")], "chunks stand in for them"),
        ([record(counted="tokenizer")], "the tokenizer here counted them"),
        ([record(stamps=[0.5, 1.0])], "2.5 tokens per chunk"),
    ],
)
def test_remarks(records: list[Record], says: str) -> None:
    (found,) = noted(records)
    assert says in found


def test_prompts_that_are_cached_without_a_reason() -> None:
    old = [record(cached_tokens=9)]
    assert "from an earlier run" in noted(old, shares=False)[0]
    assert noted(old, shares=True) == []
    assert noted([record(cached_tokens=1)], shares=False) == []


def test_lengths_that_are_estimates() -> None:
    assert "approximate" in noted([record()], source=PlainWords(1.3))[0]


def test_a_client_that_is_late() -> None:
    late = [record(sent=0.3)]
    assert noted(late, LoadOptions(request_rate=5))[0].startswith("the client was late")
    assert noted(late) == []  # nothing was due
    assert noted(late, LoadOptions(request_rate=5, max_concurrency=1)) == []  # waiting is what was asked for


def test_turns_that_were_never_sent() -> None:
    talks = Workload([Conversation((Turn("a", 1, 5),) * 4)], "multi-turn")
    failed = record(1, error="timed out")
    failed.user, failed.turn = 0, 1
    assert "2 later turns were not sent" in remarks([record(0), failed], talks, EXACT, LOAD)[0]


def test_text_is_counted_where_the_server_counts_nothing() -> None:
    records = [record(counted="chunks", text="one two three"), record(1), record(2, counted="chunks", error="x")]
    recount(records, EXACT)
    assert [(r.output_tokens, r.counted) for r in records] == [(3, "tokenizer"), (5, "server"), (5, "chunks")]
    unsure = record(counted="chunks", text="one two three")
    recount([unsure], PlainWords(1.0))
    assert (unsure.output_tokens, unsure.counted) == (5, "chunks")


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_document(tmp_path: Path) -> None:
    options = ServeOptions(
        target=TargetOptions(api_key="secret"), load=LoadOptions(request_rate=math.inf), report=ReportOptions()
    )
    records = [record(1, error="timed out"), record(0)]
    file = tmp_path / "out.json"
    write(serve_document(outcome(records, options)), str(file))
    found = json.loads(file.read_text())
    assert "secret" not in file.read_text()
    assert found["settings"]["request_rate"] is None  # JSON has no infinity
    assert found["summary"]["errors"] == [{"error": "timed out", "count": 1}]
    assert [request["index"] for request in found["requests"]] == [0, 1]
    first = found["requests"][0]
    assert (first["ttft_ms"], first["tpot_ms"], first["e2e_ms"], first["chunks"]) == (500, 125, 1000, 5)
    assert "itl_ms" not in first
    detailed = replace(options, report=ReportOptions(output_details=True))
    (_, first) = serve_document(outcome(records, detailed))["requests"][::-1]
    assert first["itl_ms"] == pytest.approx([100, 100, 100, 200])


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="--output-file"):
        write({}, str(tmp_path / "no" / "folder.json"))


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (ServeOptions(data=DataOptions(num_prompts=0)), "--num-prompts must be at least 1, got 0"),
        (ServeOptions(data=DataOptions(gsp_prompts_per_group=0)), "--gsp-prompts-per-group"),
        (ServeOptions(data=DataOptions(multi_turn_num_users=-1)), "--multi-turn-num-users"),
        (ServeOptions(data=DataOptions(random_range_ratio=1.5)), "--random-range-ratio must be at most 1, got 1.5"),
        (ServeOptions(data=DataOptions(random_range_ratio=math.nan)), "--random-range-ratio"),
        (ServeOptions(data=DataOptions(dataset_name="sharegpt")), "is read from a file"),
        (ServeOptions(load=LoadOptions(request_rate=0)), "--request-rate must be at least"),
        (ServeOptions(load=LoadOptions(request_rate=math.nan)), "--request-rate must be a number"),
        (ServeOptions(load=LoadOptions(burstiness=math.inf)), "--burstiness must be at most"),
        (ServeOptions(load=LoadOptions(max_concurrency=0)), "--max-concurrency must be at least 1"),
        (ServeOptions(load=LoadOptions(warmup_requests=-1)), "--warmup-requests"),
        (ServeOptions(asking=AskingOptions(temperature=math.inf)), "--temperature must be at most"),
        (ServeOptions(asking=AskingOptions(extra_request_body="[1]")), "should be a JSON object"),
        (ServeOptions(asking=AskingOptions(extra_request_body="{" * 99)), "should be a JSON object"),
        (ServeOptions(target=TargetOptions(request_timeout=math.inf)), "--request-timeout"),
        (ServeOptions(report=ReportOptions(goodput=("ttft=5",))), "--goodput 'ttft=5' is not a limit"),
        (ServeOptions(report=ReportOptions(goodput=("",))), "--goodput '' is not a limit"),
        (ServeOptions(target=TargetOptions(base_url=" ")), "--base-url is empty"),
        (ServeOptions(report=ReportOptions(output_file="/")), "cannot be written"),
        (ServeOptions(report=ReportOptions(output_file="/no/such/folder/x.json")), "cannot be written"),
        (OfflineOptions(batch_size="1,x"), "--batch-size should be like 1,8,32"),
        (OfflineOptions(batch_size=" "), "--batch-size is empty"),
        (OfflineOptions(batch_size="4,0"), "--batch-size must be at least 1, got 0"),
        (OfflineOptions(output_len=1), "--output-len must be at least 2"),
        (OfflineOptions(repeat=0), "--repeat must be at least 1"),
    ],
)
def test_options_that_make_no_sense(options: ServeOptions | OfflineOptions, says: str) -> None:
    with pytest.raises(StartupError) as refusal:
        options.check()
    assert says in str(refusal.value)


def test_the_defaults_make_sense(tmp_path: Path) -> None:
    ServeOptions(report=ReportOptions(output_file=str(tmp_path / "new.json"))).check()
    OfflineOptions().check()
    assert OfflineOptions().batch_sizes == [1, 8, 32]


@pytest.mark.parametrize(
    ("base", "url"),
    [
        (None, "http://127.0.0.1:30000"),
        ("http://there:8/", "http://there:8"),
        ("http://there:8/v1", "http://there:8"),
        ("http://there:8/v1/", "http://there:8"),
    ],
)
def test_the_address(base: str | None, url: str) -> None:
    assert TargetOptions(base_url=base).url == url
