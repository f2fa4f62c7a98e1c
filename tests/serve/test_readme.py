"""What the README tells a newcomer to type does what it says."""

from __future__ import annotations

import io
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import redirect_stdout

import pytest
from server import Server, running

from assets import BUNDLED, ROOT
from ramify.cli.main import main

README = (ROOT / "README.md").read_text()
LINKS = re.findall(r"\]\((?!http)([^)#]+)\)", README)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def demo() -> Iterator[Server]:
    with running() as server:
        yield server


def at(server: Server, text: str) -> str:
    return text.replace("http://127.0.0.1:30000", server.url)


def printed_by(code: str) -> str:
    output = io.StringIO()
    with redirect_stdout(output):
        exec(compile(code, "README.md", "exec"), {})
    return output.getvalue()


def test_curl(demo: Server) -> None:
    (command,) = [block for block in blocks("bash") if block.startswith("curl")]
    found = subprocess.run(["bash", "-c", at(demo, command)], capture_output=True, text=True, timeout=60, check=True)
    choice = json.loads(found.stdout)["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert len(choice["message"]["content"]) > 10


def test_openai_client(demo: Server) -> None:
    (code,) = [block for block in blocks("python") if "from openai import" in block]
    assert len(printed_by(at(demo, code)).split()) > 30


def test_engine() -> None:
    (code,) = [block for block in blocks("python") if "ramify.Engine" in block]
    lines = printed_by(code.replace("path/to/model", str(BUNDLED))).splitlines()
    assert "'type': 'length'" in lines[0] or any("'type': 'length'" in line for line in lines)


def help_of(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        raise SystemExit(main([*command, "--help"]))
    assert not left.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "command", sorted({c.split("#")[0].strip() for b in blocks("bash") for c in b.splitlines() if "bin/ramify" in c})
)
def test_flags_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = command[command.index("bin/ramify") :].split()[1:]
    name = words[: 2 if words[0] == "bench" else 1]
    known = help_of(name, capsys) + help_of(["serve"], capsys)
    for flag in [word for word in words if word.startswith("--")]:
        assert f"{flag} " in known or f"{flag}," in known or f"{flag}\n" in known, flag


@pytest.mark.parametrize("link", LINKS)
def test_links(link: str) -> None:
    assert (ROOT / link).exists()


def test_the_page_of_the_server_root_names_the_api(demo: Server) -> None:
    with urllib.request.urlopen(demo.url + "/", timeout=10) as answer:
        assert answer.status == 200
