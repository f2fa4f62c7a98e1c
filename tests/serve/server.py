"""A real `ramify serve`, started and ended by a test, with nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

START = 180.0
PYTHON = os.environ.get("RAMIFY_TEST_PYTHON", sys.executable)  # what the server runs in


class Server:
    """`arguments` as on the command line. The port is a free one unless the arguments say otherwise."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        port = [] if "--port" in arguments else ["--port", "0"]
        self.process = subprocess.Popen(
            [PYTHON, "-m", "ramify.cli.main", "serve", *arguments, *port],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    @property
    def url(self) -> str:
        found = re.search(r"serving .* on (http://\S+)", self.log)
        assert found is not None, self.log
        return found[1]

    def wait_ready(self) -> Server:
        wait_for(lambda: "ready after" in self.log or self.process.poll() is not None, START, "the server to be ready")
        assert self.process.poll() is None, self.log
        return self

    def children(self) -> dict[str, psutil.Process]:
        """By role: engine, engine-1 for the second model, api-0, ..."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                words = child.cmdline()
            except (psutil.ZombieProcess, psutil.NoSuchProcess):
                continue  # it has just ended
            if "ramify.engine.process" in words:
                found["engine" if words[4] == "0" else f"engine-{words[4]}"] = child
            elif "ramify.server.process" in words:
                found[f"api-{words[4]}"] = child
        return found

    def everybody(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def stop(self, seconds: float = 40.0) -> int:
        """SIGTERM, and wait."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()

    # -- requests ------------------------------------------------------------------------------------------------------

    def request(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
        timeout: float = 60,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; errors of HTTP are answers too."""
        data = raw if raw is not None else (None if body is None else json.dumps(body).encode())
        sent = {"content-type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as e:
            return e.code, dict(e.headers), e.read()

    def get(self, path: str, **more: Any) -> Any:
        status, _, body = self.request(path, **more)
        assert status == 200, (status, body)
        return json.loads(body)

    def post(self, path: str, body: Any, **more: Any) -> Any:
        status, _, answer = self.request(path, body, **more)
        assert status == 200, (status, answer)
        return json.loads(answer)

    def events(self, path: str, body: Any, **more: Any) -> list[Any]:
        """The JSON of every event of a stream, without the last, which has to be [DONE]."""
        status, headers, answer = self.request(path, body, **more)
        assert status == 200, answer
        assert headers["content-type"].startswith("text/event-stream")
        frames = [f for f in answer.decode().split("\n\n") if f and not f.startswith(":")]
        assert all(f.startswith("data: ") for f in frames)
        assert frames[-1] == "data: [DONE]"
        return [json.loads(f[6:]) for f in frames[:-1]]

    def metric(self, name: str) -> float:
        """NaN where it is not there: an API worker that has just begun may not have heard of the engine yet."""
        _, _, text = self.request("/metrics")
        found = re.search(rf"^ramify:{name}\{{[^}}]*\}} (\S+)$", text.decode(), re.MULTILINE)
        return float(found[1]) if found else float("nan")


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def running(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """A server that is ready; afterwards it is stopped and every process of it is gone."""
    server = Server(*arguments, env=env)
    everybody: list[psutil.Process] = []
    try:
        server.wait_ready()
        everybody = server.everybody()
        yield server
        if server.process.poll() is None:
            everybody += server.everybody()
    finally:
        server.stop()
        _, alive = psutil.wait_procs(everybody, timeout=10)
        for process in alive:
            process.kill()
        assert not alive, f"left behind: {alive}"


def refused_to_start(*arguments: str, env: dict[str, str] | None = None) -> str:
    """What a server that must not start says."""
    done = subprocess.run(
        [PYTHON, "-m", "ramify.cli.main", "serve", *arguments, "--port", "0"],
        capture_output=True,
        text=True,
        timeout=START,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


def slow_model(folder: Path, source: Path) -> Path:
    """A model of random weights that takes long over long answers, with the tokenizer of `source`."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 2048,
        "hidden_size": 256,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 512,
        "max_position_embeddings": 16384,
        "eos_token_id": 2,
        "bos_token_id": 1,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder
