"""The command line of `ramify bench`."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from ramify.bench.goodput import Slo
from ramify.bench.options import OfflineOptions, ServeOptions
from ramify.cli.bench import bench, serve_flags, serve_options
from ramify.cli.command import read
from ramify.cli.line import take
from ramify.core.errors import StartupError, UsageError

# Names of SGLang's benchmark that mean the same here.
SGLANG = """
base-url host port backend model tokenizer dataset-name dataset-path num-prompts random-input-len random-output-len
random-range-ratio sharegpt-output-len gsp-num-groups gsp-prompts-per-group gsp-system-prompt-len gsp-question-len
gsp-output-len request-rate max-concurrency seed warmup-requests flush-cache disable-ignore-eos extra-request-body
output-file output-details
""".split()


def serve(*arguments: str) -> ServeOptions:
    return serve_options(take(arguments, serve_flags()))


def test_names_are_those_of_sglang() -> None:
    assert set(SGLANG) <= {flag.spellings[0] for flag in serve_flags()}


def test_every_option_is_a_flag_of_its_own() -> None:
    names = [flag.name for flag in serve_flags()]
    assert len(names) == len(set(names))
    assert {field.name for room in fields(ServeOptions) for field in fields(room.default)} == set(names)


def test_values_arrive_where_they_belong() -> None:
    assert serve() == ServeOptions()
    found = serve("--port", "5", "--request-rate=2.5", "--max-concurrency", "1k", "--flush-cache", "--backend", "vllm")
    assert (found.target.port, found.target.backend) == (5, "vllm")
    assert (found.load.request_rate, found.load.max_concurrency, found.load.flush_cache) == (2.5, 1000, True)
    assert serve("--request-rate", "inf").load.request_rate == math.inf
    assert serve("--base_url", "http://x").target.base_url == "http://x"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--goodput", "ttft:500", "tpot:50", "--port", "1"],
        ["--goodput", "ttft:500,tpot:50"],
        ["--goodput", "ttft:500", "--goodput", "tpot:50"],
    ],
)
def test_limits_may_follow_each_other(arguments: list[str]) -> None:
    assert Slo.parse(serve(*arguments).report.goodput) == Slo(ttft=0.5, tpot=0.05)


@pytest.mark.parametrize("arguments", [["http://127.0.0.1"], ["--frob"], ["--port"], ["-x"]])
def test_lines_that_make_no_sense(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        serve(*arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backend", "grpc"], "'grpc' is not one of auto, native"),
        (["--num-prompts", "many"], "'many' is not a whole number"),
        (["--num-prompts", "0"], "--num-prompts must be at least 1"),
        (["--port", "70000"], "--port must be at most 65535"),
    ],
)
def test_values_that_make_no_sense(arguments: list[str], says: str) -> None:
    with pytest.raises(StartupError) as refusal:
        serve(*arguments)
    assert says in str(refusal.value)


def test_settings_of_the_engine_stand_beside() -> None:
    arguments = ["some/model", "--input-len", "5", "--page-size", "8", "--against", "transformers"]
    options, line = read(OfflineOptions, arguments, "usage", [])
    assert (options.input_len, options.against, options.batch_sizes) == (5, "transformers", [1, 8, 32])
    assert line.words == ["some/model"]
    assert line.flags["page_size"] == "8"


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    assert [flag.name for flag in serve_flags() if f"  --{flag.spellings[0]}" not in text] == []
    with pytest.raises(SystemExit) as left:
        bench(["offline", "--help"])
    assert not left.value.code
    assert "--against NAME" in capsys.readouterr().out
    assert bench([]) == 0
    assert "ramify bench offline" in capsys.readouterr().out


def test_a_measurement_that_is_none() -> None:
    with pytest.raises(UsageError, match="no measurement 'serv'") as refusal:
        bench(["serv"])
    assert refusal.value.remedy == "Did you mean serve?"
