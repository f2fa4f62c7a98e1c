"""Starting, draining, dying: nobody is left behind and nobody waits for ever."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
import time
from pathlib import Path

import psutil
import pytest
from server import Server, running, wait_for

from assets import shared

PROMPT = "Once upon a time "
LONG = {"text": PROMPT, "sampling_params": {"max_new_tokens": 8000, "ignore_eos": True}}


@pytest.fixture
def folder() -> str:
    return str(shared("weights/TinyStories-656K"))


def in_background(server: Server, path: str, body: dict) -> tuple[threading.Thread, list]:
    answers: list = []

    def ask() -> None:
        try:
            answers.append(server.request(path, body, timeout=60))
        except OSError as e:
            answers.append(e)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, answers


def all_gone(processes: list[psutil.Process], seconds: float = 15) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert not alive


def test_sigterm_finishes_what_is_open(slow_folder: Path) -> None:
    with running(str(slow_folder), "--load-format", "dummy", "--drain-timeout", "30") as server:
        everybody = server.everybody()
        body = {"text": PROMPT, "sampling_params": {"max_new_tokens": 150, "ignore_eos": True}}
        thread, answers = in_background(server, "/generate", body)
        wait_for(lambda: server.metric("num_running_reqs") == 1, 20, "the request to run")
        server.process.send_signal(signal.SIGTERM)
        thread.join(40)
        assert answers[0][0] == 200
        assert json.loads(answers[0][2])["meta_info"]["completion_tokens"] == 150
        assert server.process.wait(20) == 0
        all_gone(everybody)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_draining_has_an_end(slow_folder: Path, number: int) -> None:
    with running(str(slow_folder), "--load-format", "dummy", "--drain-timeout", "1") as server:
        everybody = server.everybody()
        thread, _ = in_background(server, "/generate", LONG)
        wait_for(lambda: server.metric("num_running_reqs") == 1, 20, "the request to run")
        started = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(20) == 0
        assert time.monotonic() - started < 15
        thread.join(10)
        all_gone(everybody)


def test_a_second_signal_stops_at_once(slow_folder: Path) -> None:
    with running(str(slow_folder), "--load-format", "dummy", "--drain-timeout", "60") as server:
        everybody = server.everybody()
        thread, _ = in_background(server, "/generate", LONG)
        wait_for(lambda: server.metric("num_running_reqs") == 1, 20, "the request to run")
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(5) == 1
        thread.join(10)
        all_gone(everybody)


def test_killing_the_parent_leaves_nobody(folder: str) -> None:
    server = Server(folder).wait_ready()
    everybody = server.everybody()
    assert len(everybody) == 3
    server.process.kill()
    all_gone(everybody)


def test_killing_the_engine_fails_open_requests_and_it_is_started_again(slow_folder: Path) -> None:
    with running(str(slow_folder), "--load-format", "dummy") as server:
        waiting = [
            in_background(server, "/generate", {**LONG, "rid": "whole"}),
            in_background(server, "/generate", {**LONG, "rid": "stream", "stream": True}),
            in_background(server, "/v1/completions", {"prompt": PROMPT, "max_tokens": 8000, "ignore_eos": True}),
        ]
        wait_for(lambda: server.metric("generation_tokens_total") >= 12, 20, "tokens of all three")
        server.children()["engine"].kill()
        for thread, _ in waiting:
            thread.join(20)
        whole, stream, openai = (answers[0] for _, answers in waiting)
        assert (whole[0], openai[0]) == (503, 503)
        assert b"the engine has died" in whole[2]
        assert json.loads(openai[2])["error"]["type"] == "server_error"
        assert b'"error"' in stream[2]
        assert stream[2].endswith(b"data: [DONE]\n\n")
        assert server.request("/health")[0] == 503
        assert server.request("/ready")[0] == 503
        # Who comes now waits for the next engine.
        again = server.post("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 2}})
        assert again["meta_info"]["completion_tokens"] == 2
        assert server.request("/health")[0] == 200
        assert server.metric("engine_starts_total") == 2
        assert server.metric("num_requests_total") == 1


def test_a_killed_api_worker_is_started_again(slow_folder: Path) -> None:
    """Its requests end with it, and their pages are free."""
    with running(str(slow_folder), "--load-format", "dummy") as server:
        thread, answers = in_background(server, "/generate", LONG)
        wait_for(lambda: server.metric("num_running_reqs") == 1, 20, "the request to run")
        old = server.children()["api-0"]
        old.kill()
        thread.join(10)
        assert isinstance(answers[0], OSError)

        def answers_again() -> bool:
            try:
                return server.request("/ready", timeout=2)[0] == 200
            except OSError:
                return False

        wait_for(answers_again, 30, "another worker")
        assert server.metric("num_running_reqs") == 0
        assert server.post("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 2}})["text"]


def test_two_api_workers(folder: str) -> None:
    with running(folder, "--api-workers", "2") as server:
        assert set(server.children()) == {"engine", "api-0", "api-1"}
        body = {"text": PROMPT, "sampling_params": {"max_new_tokens": 16, "temperature": 1, "sampling_seed": 4}}
        texts = set()
        threads = []
        for _ in range(24):
            thread, answers = in_background(server, "/generate", body)
            threads.append((thread, answers))
        for thread, answers in threads:
            thread.join(30)
            texts.add(json.loads(answers[0][2])["text"])
        assert len(texts) == 1
        assert server.metric("num_requests_total") >= 24


def test_ids_are_unique_over_api_workers(slow_folder: Path) -> None:
    with running(str(slow_folder), "--load-format", "dummy", "--api-workers", "2") as server:
        body = {**LONG, "rid": "only"}
        waiting = [in_background(server, "/generate", body) for _ in range(6)]
        wait_for(lambda: sum(bool(a) for _, a in waiting) == 5, 20, "five refusals")
        assert all(a[0][0] == 400 and b"already running" in a[0][2] for _, a in waiting if a)
        server.request("/abort_request", {"rid": "only"})
        for thread, _ in waiting:
            thread.join(20)


def test_nothing_listens_but_the_port_and_sockets_are_private(folder: str) -> None:
    with running(folder, "--api-workers", "2") as server:
        port = int(server.url.rsplit(":", 1)[1])
        listening = {
            connection.laddr.port
            for process in server.everybody()
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {port}
        (private,) = {Path(p.cmdline()[3]) for p in server.children().values()}
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert stat.S_IMODE((private / "handover").stat().st_mode) == 0o600
    assert not private.exists()


def test_an_api_worker_has_no_torch(stories: Server) -> None:
    worker, engine = stories.children()["api-0"], stories.children()["engine"]

    def loaded(process: psutil.Process) -> str:
        return Path(f"/proc/{process.pid}/maps").read_text()

    assert "libtorch" in loaded(engine)
    assert "libtorch" not in loaded(worker)
    assert "site-packages/torch/" not in loaded(worker)


def test_idle_costs_no_cpu(stories: Server) -> None:
    stories.post("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 4}})
    time.sleep(0.5)
    before = {p.pid: sum(p.cpu_times()[:2]) for p in stories.everybody()}
    time.sleep(2)
    used = {p.pid: sum(p.cpu_times()[:2]) - before[p.pid] for p in stories.everybody()}
    assert sum(used.values()) < 0.3  # a loop that polls or spins would have used seconds


def test_a_silent_stream_gets_comments(slow_folder: Path) -> None:
    arguments = ("--load-format", "dummy", "--max-running-requests", "1", "--keep-alive-interval", "0.2")
    with running(str(slow_folder), *arguments) as server:
        thread, _ = in_background(server, "/generate", {**LONG, "rid": "first"})
        wait_for(lambda: server.metric("num_running_reqs") == 1, 20, "the request to run")
        body = {"text": PROMPT, "stream": True, "rid": "second", "sampling_params": {"max_new_tokens": 2}}
        waiting, answers = in_background(server, "/generate", body)
        time.sleep(1.5)
        server.request("/abort_request", {"rid": "first"})
        waiting.join(20)
        thread.join(20)
        assert answers[0][2].count(b": keep-alive\n\n") >= 2
        assert answers[0][2].endswith(b"data: [DONE]\n\n")


def test_a_port_in_use_is_said_at_once(stories: Server, folder: str) -> None:
    from server import refused_to_start

    port = stories.url.rsplit(":", 1)[1]
    done = Server(folder, "--port", port)
    assert done.process.wait(30) == 1
    done._reader.join(5)
    assert "cannot listen" in done.log
    assert "another --port" in done.log
    assert refused_to_start  # the other way to fail is tested in test_start


def test_throughput_lines_while_busy_and_silence_while_idle(slow_folder: Path) -> None:
    with running(str(slow_folder), "--load-format", "dummy", "--log-interval", "0.3") as server:
        thread, _ = in_background(server, "/generate", {**LONG, "rid": "r"})
        wait_for(lambda: server.log.count("tok/s") >= 2, 20, "throughput lines")
        server.request("/abort_request", {"rid": "r"})
        thread.join(20)
        time.sleep(0.7)
        lines = server.log.count("tok/s")
        time.sleep(1.0)
        assert server.log.count("tok/s") == lines
        assert "running 1, queued 0" in server.log


def test_signals_reach_a_server_in_a_terminal_group(folder: str) -> None:
    """Ctrl-C goes to the whole foreground group; children leave stopping to the parent."""
    server = Server(folder).wait_ready()
    everybody = server.everybody()
    for child in server.children().values():
        os.kill(child.pid, signal.SIGINT)
    time.sleep(0.5)
    assert server.post("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 2}})["text"]
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0
    all_gone(everybody)
