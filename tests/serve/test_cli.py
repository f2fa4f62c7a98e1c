"""The command line as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from server import Server

from assets import shared
from ramify.config.settings import names

ENV = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}


def ramify(
    *arguments: str, stdin: str = "", timeout: float = 120, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ramify.cli.main", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**ENV, **(env or {})},
    )


@pytest.fixture
def folder() -> str:
    return str(shared("weights/TinyStories-656K"))


def test_help_names_every_command() -> None:
    done = ramify("--help")
    assert done.returncode == 0
    for command in ("serve", "generate", "chat", "bench", "explain", "models", "doctor"):
        assert f"  {command} " in done.stdout


@pytest.mark.parametrize("command", ["serve", "generate", "chat", "explain", "models", "doctor"])
def test_every_command_has_help(command: str) -> None:
    done = ramify(command, "--help")
    assert done.returncode == 0
    assert "usage: ramify" in done.stdout


def test_an_unknown_command() -> None:
    done = ramify("fly")
    assert done.returncode == 2
    assert "no command 'fly'" in done.stderr
    near = ramify("serv")
    assert near.returncode == 2
    assert "Did you mean serve?" in near.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("doctor", "--foo"), "there is no flag '--foo'"),
        (("doctor", "now"), "takes no 'now'"),
        (("version", "--foo"), "takes no '--foo'"),
        (("generate",), "there is no prompt"),
        (("generate", "Hi", "there"), 'ramify generate "Hi there"'),
        (("generate", "a", "b/c", "d"), 'ramify generate "a b/c d"'),
        (("generate", "a", "--temperature", "nan"), "--temperature must be a number from 0"),
        (("generate", "a", "--n", "x"), "--n: 'x' is not a whole number"),
        (("generate", "a", "--tempertaure", "1"), "Did you mean --temperature?"),
        (("chat", "--url", "http://127.0.0.1:9", "--page-size", "4"), "--page-size: with --url the server decides"),
        (("serve", "--device", "cuda"), "the CPU computes"),
        (("serve", "--api-key", ""), "--api-key is empty"),
        (("serve", "--drain-timeout", "nan"), "--drain-timeout must be a number from 0"),
        (("serve", "--keep-alive-interval", "0"), "--keep-alive-interval must be at least 0.1"),
    ],
    ids=str,
)
def test_errors_have_one_style(arguments: tuple[str, ...], says: str) -> None:
    done = ramify(*arguments)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("ramify: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert done.stdout == ""


def test_version() -> None:
    assert ramify("--version").stdout.strip() == ramify("version").stdout.strip()


def test_generate(folder: str) -> None:
    done = ramify(
        "generate", "Once upon a time ", "--model-path", folder, "--temperature", "0", "--max-new-tokens", "6"
    )
    assert done.stdout.strip() == "there was a little girl named Amy. She loved to"
    same = ramify(
        "generate",
        "-",
        "--model-path",
        folder,
        "--temperature",
        "0",
        "--max-new-tokens",
        "6",
        stdin="Once upon a time ",
    )
    assert same.stdout == done.stdout


def test_generate_as_json_with_choices_and_stops(folder: str) -> None:
    done = ramify(
        "generate", "Once upon a time ", "--model-path", folder, "--n", "2", "--seed", "1", "--json", "--stop", "zzz",
        "--max-new-tokens", "4",
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2
    assert all(line["meta_info"]["completion_tokens"] == 4 for line in lines)


def test_generate_with_bad_input(folder: str) -> None:
    done = ramify("generate", "x " * 3000, "--model-path", folder)
    assert done.returncode == 1
    assert "longer than the model's context length" in done.stderr
    assert "Traceback" not in done.stderr
    done = ramify("generate", "", "--model-path", folder)
    assert "the prompt is empty" in done.stderr


def test_chat_here_and_on_a_server(folder: str, stories: Server, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ bos_token }}{% for m in messages %}{{ m.content }} {% endfor %}")
    options = ("--temperature", "0", "--max-new-tokens", "5")
    here = ramify(
        "chat", folder, "--chat-template", str(template), *options, stdin="Once upon a time\n/reset\nOne day\n/exit\n"
    )
    assert here.returncode == 0, here.stderr
    assert "there was a little girl" in here.stdout
    there = ramify("chat", "--url", stories.url, *options, stdin="hello\n")
    assert "has no chat template" in there.stdout
    assert there.returncode == 1


def test_a_base_model_does_not_chat(folder: str) -> None:
    done = ramify("chat", folder, stdin="hello\n")
    assert done.returncode == 1
    assert "has no chat template" in done.stderr
    assert "ramify generate" in done.stderr
    assert done.stdout == ""


def test_commands_in_a_chat(folder: str, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ bos_token }}{% for m in messages %}{{ m.content }} {% endfor %}")
    lines = "/undo\n/system Be kind.\n/undo\nOnce upon a time\n/undo\n/foo\n/reset\n//etc/hosts is\n"
    done = ramify("chat", folder, "--chat-template", str(template), "--max-new-tokens", "2", stdin=lines)
    assert done.returncode == 0, done.stderr
    for text in ("[taken back: Once upon a time]", "[there is no command /foo;", "[forgotten]", "[system prompt set]"):
        assert text in done.stdout
    assert done.stdout.count("[there is nothing to take back]") == 2


def test_chat_with_nobody() -> None:
    done = ramify("chat", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "does not answer" in done.stderr


def test_models() -> None:
    done = ramify("models")
    assert done.returncode == 0
    by_name = {line.split()[0]: line.split()[1:3] for line in done.stdout.splitlines()[1:]}
    assert by_name["Gemma2ForCausalLM"] == ["native", "yes"]
    assert by_name["GPTNeoXForCausalLM"] == ["transformers", "yes"]
    assert by_name["DbrxForCausalLM"] == ["transformers", "no"]
    assert "BloomForCausalLM" not in by_name
    assert {code for code, _ in by_name.values()} == {"native", "transformers"}
    assert ramify("models", "all").returncode == 2


def test_explain(folder: str) -> None:
    done = ramify("explain", folder, "--page-size", "8", "--max-running-requests", "4")
    for text in ("page_size", "flag", "Memory plan", "KV cache", "batch_invariance", "all that 4 requests"):
        assert text in done.stdout
    assert "Traceback" not in done.stderr


def test_explain_shows_every_setting_and_no_key(folder: str, tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    deep.parent.mkdir()
    deep.symlink_to(folder)
    config = tmp_path / "serve.yaml"
    config.write_text("schedule-policy: lpm\napi_key: secret\n")
    done = ramify("explain", str(deep), "--config", str(config), "--disable-radix-cache", env={"RAMIFY_PORT": "5"})
    assert str(deep) in done.stdout.split()
    for row in ("schedule_policy lpm the file", "disable_radix_cache True flag", "port 5 environment RAMIFY_PORT"):
        assert row in " ".join(done.stdout.split())
    missing = [name for name in names() if name not in done.stdout and name != "model_path"]
    assert missing == []
    assert "secret" not in done.stdout
    defaults = " ".join(done.stdout.partition("At their defaults")[2].partition("Memory plan")[0].split())
    assert "host 127.0.0.1" in defaults
    assert "schedule_policy" not in defaults


def test_needless_flags_of_sglang_are_accepted_with_a_word(folder: str) -> None:
    done = ramify("explain", folder, "--enable-metrics", "--watchdog-timeout", "300", "--sleep-on-idle", "--tp", "1")
    assert done.returncode == 0, done.stderr
    assert "metrics are always on" in done.stderr
    assert "--watchdog-timeout is not needed" in done.stderr


def test_doctor_looks_at_everything() -> None:
    done = ramify("doctor")
    for subject in ("python", "processor", "memory", "quantization", "torch", "speed", "model"):
        assert subject in done.stdout
    assert "Traceback" not in done.stderr
