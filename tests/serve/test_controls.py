"""Orders to a running server: pausing, loads, logging, profiles; all of it through one API worker and for both."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import Server, running, wait_for
from workers import through

from assets import shared

PROMPT = "Once upon a time "
SAMPLED = {"temperature": 1, "sampling_seed": 11, "max_new_tokens": 120, "ignore_eos": True}
MODES = ("retract", "in_place")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    traces = tmp_path_factory.mktemp("traces")
    arguments = ("--api-workers", "2", "--threads", "1", "--profile-dir", str(traces))
    with running(*arguments) as server:
        server.traces = traces  # type: ignore[attr-defined]
        yield server


@pytest.fixture(autouse=True)
def goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, the server is not left paused."""
    yield
    if "two" in request.fixturenames:
        two: Server = request.getfixturevalue("two")
        assert two.request("/continue_generation", {})[0] == 200
        assert two.post("/generate", {"text": "x", "sampling_params": {"max_new_tokens": 1}})["output_ids"]


class Streaming:
    """A request in the background; `events` grow while it runs."""

    def __init__(self, server: Server, **body: Any) -> None:
        self.answer: Any = None
        self._server = server
        self._body = {"text": PROMPT, "sampling_params": SAMPLED, **body}
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        self.answer = self._server.post("/generate", self._body, timeout=120)

    def result(self) -> Any:
        self._thread.join(120)
        return self.answer


def error(server: Server, path: str, body: Any = None, **more: Any) -> str:
    status, _, answer = server.request(path, body, **more)
    assert status == 400, (status, answer)
    return json.loads(answer)["error"]["message"]


def pause(server: Server, mode: str) -> None:
    said = server.post("/pause_generation", {"mode": mode})
    assert said == {"message": "Generation paused successfully.", "status": "ok"}


def go_on(server: Server) -> None:
    said = server.post("/continue_generation", {"torch_empty_cache": True})
    assert said == {"message": "Generation continued successfully.", "status": "ok"}


def load(server: Server) -> dict[str, Any]:
    return server.get("/v1/loads")["loads"][0]


# -- pausing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_pause_changes_no_token(two: Server, mode: str) -> None:
    """Asked of one worker, it holds for both, and either may take it back."""
    whole = two.post("/generate", {"text": PROMPT, "sampling_params": SAMPLED})["output_ids"]
    before = two.metric("generation_tokens_total")
    with through(two, "api-0"):
        interrupted = Streaming(two)
        wait_for(lambda: two.metric("generation_tokens_total") > before + 5, 30, "some tokens")
        pause(two, mode)
    made = two.metric("generation_tokens_total")
    with through(two, "api-1"):
        late = Streaming(two, rid="late")
        wait_for(lambda: load(two)["num_waiting_reqs"] == (2 if mode == "retract" else 1), 30, "the late one to wait")
        assert two.request("/health")[0] == two.request("/health_generate")[0] == two.request("/ready")[0] == 200
    with through(two, "api-0"):
        assert two.request("/health")[0] == two.request("/health_generate")[0] == 200
        queues = load(two)["queues"]
    assert queues == {
        "waiting": 2 if mode == "retract" else 1,
        "grammar": 0,
        "paused": int(mode == "in_place"),
        "retracted": int(mode == "retract"),
    }
    assert two.metric("generation_tokens_total") == made
    assert interrupted.answer is None
    assert two.get("/server_info")["internal_states"][0]["is_paused"] is True
    with through(two, "api-1"):
        go_on(two)
    assert interrupted.result()["output_ids"] == whole
    assert interrupted.answer["meta_info"]["num_retractions"] == (mode == "retract")
    assert late.result()["output_ids"] == whole


def test_retracted_requests_let_the_cache_be_flushed(two: Server) -> None:
    whole = two.post("/generate", {"text": PROMPT, "sampling_params": SAMPLED})["output_ids"]
    interrupted = Streaming(two)
    wait_for(lambda: load(two)["num_running_reqs"] == 1, 30, "the request to run")
    pause(two, "in_place")
    status, _, said = two.request("/flush_cache", method="POST")
    assert (status, b"running or waiting" in said) == (400, True)
    status, _, said = two.request("/flush_cache?timeout=0.3", method="POST")
    assert status == 400
    pause(two, "retract")
    assert load(two)["num_used_tokens"] == 0
    assert two.request("/flush_cache", method="POST")[0] == 200
    assert two.metric("kv_evictable_tokens") == 0
    go_on(two)
    assert interrupted.result()["output_ids"] == whole


def test_abort_ends_everything_first(two: Server) -> None:
    interrupted = [Streaming(two, rid=f"abort-{number}") for number in range(3)]
    wait_for(lambda: load(two)["num_running_reqs"] == 3, 30, "the requests to run")
    assert two.post("/pause_generation", None, raw=b"")["status"] == "ok"  # abort is the default
    for one in interrupted:
        finish = one.result()["meta_info"]["finish_reason"]
        assert finish["type"] == "abort"
    assert load(two)["num_running_reqs"] == 0
    late = Streaming(two)
    wait_for(lambda: load(two)["num_waiting_reqs"] == 1, 30, "the late one to wait")
    go_on(two)
    assert len(late.result()["output_ids"]) == 120


def test_a_pause_costs_no_cpu(two: Server) -> None:
    frozen = Streaming(two)
    wait_for(lambda: load(two)["num_running_reqs"] == 1, 30, "the request to run")
    pause(two, "in_place")
    engine = two.children()["engine"]
    time.sleep(0.5)
    before = sum(engine.cpu_times()[:2])
    time.sleep(2)
    assert sum(engine.cpu_times()[:2]) - before < 0.1  # a loop that spins would have used seconds
    go_on(two)
    assert frozen.result()


def test_what_runs_can_be_aborted_while_paused(two: Server) -> None:
    frozen = Streaming(two, rid="frozen")
    wait_for(lambda: load(two)["num_running_reqs"] == 1, 30, "the request to run")
    pause(two, "in_place")
    assert two.request("/abort_request", {"rid": "frozen"})[0] == 200
    assert frozen.result()["meta_info"]["finish_reason"]["type"] == "abort"


# -- loads -------------------------------------------------------------------------------------------------------------

SECTIONS = {"memory", "queues"}


def test_loads(two: Server) -> None:
    answer = two.get("/v1/loads")
    assert set(answer) == {"timestamp", "version", "accelerator", "num_accelerators", "loads"}
    (found,) = answer["loads"]
    assert set(found) >= SECTIONS
    assert found["max_total_num_tokens"] == found["memory"]["token_capacity"]
    assert found["dp_rank"] == 0
    assert two.get("/v1/loads?dp_rank=0&format=json")["loads"][0]["max_running_requests"] == 32


@pytest.mark.parametrize(
    ("include", "sections"),
    [
        ("core", set()),
        ("memory", {"memory"}),
        ("queues,core", {"queues"}),
        ("all", SECTIONS),
        ("spec,%20lora,disagg", set()),
    ],
)
def test_sections_of_loads(two: Server, include: str, sections: set[str]) -> None:
    found = two.get(f"/v1/loads?include={include}")["loads"][0]
    assert SECTIONS & set(found) == sections
    assert "num_running_reqs" in found


@pytest.mark.parametrize("query", ["include=core,x", "include=,", "format=xml", "dp_rank=1", "dp_rank=x"])
def test_loads_that_are_not_there(two: Server, query: str) -> None:
    assert query.partition("=")[0] in error(two, f"/v1/loads?{query}")


def test_loads_for_prometheus(two: Server) -> None:
    _, headers, text = two.request("/v1/loads?format=prometheus&include=core,queues")
    assert headers["content-type"].startswith("text/plain")
    lines = text.decode().splitlines()
    assert 'sglang_num_running_reqs{dp_rank="0"} 0' in lines
    assert 'sglang_queues_retracted{dp_rank="0"} 0' in lines
    assert "# TYPE sglang_token_usage gauge" in lines
    assert not any("memory" in line for line in lines)
    assert all(re.fullmatch(r'# TYPE \w+ gauge|\w+\{dp_rank="0"\} [\d.e+-]+', line) for line in lines)


# -- logging -----------------------------------------------------------------------------------------------------------


def configure(server: Server, **changes: Any) -> None:
    assert server.request("/configure_logging", changes)[0] == 200


def lines_about(server: Server, rid: str) -> list[str]:
    return [line for line in server.lines if rid in line]


def logged(server: Server, rid: str, **body: Any) -> list[str]:
    """The two lines about a request."""
    server.post("/generate", {"text": PROMPT, "rid": rid, "sampling_params": {"max_new_tokens": 3}, **body})
    wait_for(lambda: len(lines_about(server, rid)) == 2, 10, "two lines")
    return lines_about(server, rid)


@pytest.fixture(scope="module")
def quiet() -> Iterator[Server]:
    folder = str(shared("weights/TinyStories-656K"))
    with running(folder, "--api-workers", "2") as server:
        yield server


def test_levels_of_request_lines(quiet: Server) -> None:
    long = {"text": PROMPT * 80, "sampling_params": {"max_new_tokens": 3, "temperature": 0.5, "stop": "\n"}}
    with through(quiet, "api-0"):
        for level in range(4):
            configure(quiet, log_requests=True, log_requests_level=level, log_requests_format="text")
            came, went = logged(quiet, f"level-{level}", **long)
            assert "request.received" in came
            assert "prompt_tokens=" in came
            assert "completion_tokens=3" in went
            assert ("'temperature': 0.5" in came) == (level >= 1)
            assert (PROMPT in came) == (level >= 2)
            assert ("text=" in went) == (level >= 2)
            if level >= 2:
                assert (PROMPT * 80 in came) == (level == 3)
        configure(quiet, log_requests=False)
        quiet.post("/generate", {"text": PROMPT, "rid": "silent", "sampling_params": {"max_new_tokens": 3}})
        assert not lines_about(quiet, "silent")


def test_json_lines_and_odd_text(quiet: Server) -> None:
    odd = 'a\nb\x00\u2028\U000e0041 "quoted" <tag>'
    with through(quiet, "api-0"):
        configure(quiet, log_requests=True, log_requests_level=3, log_requests_format="json")
        came, went = (json.loads(line) for line in logged(quiet, "as-json", text=odd))
        assert (came["event"], went["event"]) == ("request.received", "request.finished")
        assert "quoted" in came["text"]
        assert went["completion_tokens"] == 3
        assert went["finish_reason"]["type"] == "length"
        configure(quiet, log_requests_format="text")
        came, _ = logged(quiet, "as-text", text=odd)
        assert "\\n" in came
        configure(quiet, log_requests=False)


def test_a_request_may_ask_for_silence(quiet: Server) -> None:
    with through(quiet, "api-0"):
        configure(quiet, log_requests=True, log_requests_format="text")
        body = {"text": PROMPT, "rid": "hushed", "no_logs": True, "sampling_params": {"max_new_tokens": 2}}
        quiet.post("/generate", body)
        quiet.events("/generate", {**body, "stream": True})
        logged(quiet, "spoken")
        assert not lines_about(quiet, "hushed")
        configure(quiet, log_requests=False)


def test_every_worker_is_told_and_so_is_a_new_one(quiet: Server) -> None:
    with through(quiet, "api-0"):
        configure(quiet, log_requests=True, log_requests_level=0, log_requests_format="text", log_level="info")
    with through(quiet, "api-1"):
        wait_for(lambda: _is_logged(quiet), 20, "the other worker to log")
    old = quiet.children()["api-1"]
    restarted = len(quiet.lines)
    old.kill()
    wait_for(lambda: quiet.children().get("api-1", old).pid != old.pid, 30, "another worker")

    def new_one_logs() -> bool:
        _is_logged(quiet)
        return any(" api-1 " in line and "request.finished" in line for line in quiet.lines[restarted:])

    wait_for(new_one_logs, 60, "the new worker to log")
    configure(quiet, log_requests=False)


def _is_logged(server: Server) -> bool:
    """Ask something, and see whether lines appear. A worker that has just started may not answer yet."""
    rid = f"seen-{time.monotonic_ns()}"
    try:
        server.request("/generate", {"text": PROMPT, "rid": rid, "sampling_params": {"max_new_tokens": 1}})
    except OSError:
        return False
    time.sleep(0.1)
    return len(lines_about(server, rid)) == 2


def test_the_level_of_the_log(quiet: Server) -> None:
    def debugs() -> bool:
        rid = f"{time.monotonic_ns()}"
        quiet.request("/health", headers={"x-request-id": rid})
        time.sleep(0.05)
        return bool(lines_about(quiet, rid))

    assert not debugs()
    for worker in ("api-0", "api-1"):
        configure(quiet, log_level="debug")
        with through(quiet, worker):
            wait_for(debugs, 20, f"{worker} to log at debug")
    configure(quiet, log_level="info")
    for worker in ("api-0", "api-1"):
        with through(quiet, worker):
            wait_for(lambda: not debugs(), 20, f"{worker} to be quiet")


def test_flags_turn_request_lines_on() -> None:
    folder = str(shared("weights/TinyStories-656K"))
    with running(folder, "--log-requests", "--log-requests-level", "1", "--log-requests-format", "json") as server:
        came, _ = (json.loads(line) for line in logged(server, "from-flags"))
        assert "sampling_params" in came
        assert "text" not in came


LOGGING: list[tuple[dict[str, Any], str]] = [
    ({"log_requests": 1}, "log_requests"),
    ({"log_requests_level": 4}, "log_requests_level"),
    ({"log_requests_level": -1}, "log_requests_level"),
    ({"log_requests_level": "2"}, "log_requests_level"),
    ({"log_requests_format": "xml"}, "log_requests_format"),
    ({"log_level": "loud"}, "log_level"),
    ({"dump_requests_folder": "/tmp"}, "dump_requests_folder needs dumps into folders"),
    ({"crash_dump_folder": "x"}, "crash_dump_folder needs dumps into folders"),
]


@pytest.mark.parametrize(("body", "says"), LOGGING)
def test_logging_that_is_refused(two: Server, body: dict[str, Any], says: str) -> None:
    assert says in error(two, "/configure_logging", body)


# -- profiles ----------------------------------------------------------------------------------------------------------


def trace_names(server: Server) -> set[Path]:
    return set(server.traces.rglob("*.trace.json.gz"))  # type: ignore[attr-defined]


def steps_of(file: Path) -> list[str]:
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    names = {e["name"] for e in events if str(e.get("name", "")).startswith("forward step")}
    assert any(str(e.get("name", "")).startswith("aten::") for e in events)
    return sorted(names)


def test_a_profile_of_some_steps(two: Server) -> None:
    before = trace_names(two)
    with through(two, "api-0"):
        body = {"num_steps": 3, "activities": ["CPU", "GPU"], "with_stack": False, "record_shapes": True}
        status, _, said = two.request("/start_profile", {**body, "profile_prefix": "pre", "profile_id": "some"})
        assert (status, said) == (200, b"Start profiling.\n")
    with through(two, "api-1"):
        assert "already in progress" in error(two, "/start_profile", {})
        two.post("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 8, "ignore_eos": True}})
    wait_for(lambda: len(trace_names(two)) == len(before) + 1, 60, "the trace")
    (made,) = trace_names(two) - before
    assert made.name.startswith("pre-some-")
    assert len(steps_of(made)) == 3
    assert str(made) in two.log
    assert not list(made.parent.glob("*.part*"))
    assert "not in progress" in error(two, "/stop_profile", method="POST")


def test_a_profile_until_it_is_stopped(two: Server) -> None:
    before = trace_names(two)
    assert two.request("/start_profile?", method="GET")[2] == b"Start profiling.\n"
    two.post("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 4, "ignore_eos": True}})
    status, _, said = two.request("/stop_profile", method="POST", timeout=120)
    assert (status, said) == (200, b"Stop profiling. This will take some time.\n")
    (made,) = trace_names(two) - before  # it is there when the answer comes
    assert 4 <= len(steps_of(made)) <= 6


def test_a_profile_that_never_began(two: Server) -> None:
    assert two.request("/start_profile", {"start_step": 1 << 60, "output_dir": "deep/er"})[0] == 200
    two.post("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 2}})
    assert "Nothing was recorded" in error(two, "/stop_profile", method="POST")
    assert "not in progress" in error(two, "/stop_profile", method="POST")


PROFILES: list[tuple[dict[str, Any], str]] = [
    ({"output_dir": "/tmp"}, "inside the server's --profile-dir"),
    ({"output_dir": "../elsewhere"}, "inside the server's --profile-dir"),
    ({"output_dir": "a\u0000b"}, "null"),
    ({"output_dir": "x" * 2000}, "output_dir"),
    ({"output_dir": 5}, "output_dir"),
    ({"num_steps": 0}, "num_steps"),
    ({"num_steps": 10**6}, "num_steps"),
    ({"num_steps": "3"}, "num_steps"),
    ({"start_step": -1}, "start_step"),
    ({"activities": ["RPD"]}, "activities"),
    ({"activities": ["GPU"]}, "there is no GPU"),
    ({"activities": "CPU"}, "activities"),
    ({"with_stack": "yes"}, "with_stack"),
    ({"record_shapes": 2}, "record_shapes"),
    ({"profile_id": "../x"}, "profile_id"),
    ({"profile_prefix": "a/b"}, "profile_prefix"),
    ({"profile_by_stage": True}, "profile_by_stage needs"),
    ({"profile_stages": ["decode"]}, "profile_stages needs"),
]


@pytest.mark.parametrize(("body", "says"), PROFILES)
def test_profiles_that_are_refused(two: Server, body: dict[str, Any], says: str) -> None:
    assert says in error(two, "/start_profile", body)
    assert "not in progress" in error(two, "/stop_profile", method="POST")


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_slowness_can_be_ordered(two: Server) -> None:
    assert two.request("/slow_down", {"forward_sleep_time": 0.3})[0] == 200
    body = {"text": PROMPT, "sampling_params": {"max_new_tokens": 5, "ignore_eos": True}}
    assert two.post("/generate", body)["meta_info"]["e2e_latency"] > 1.2
    assert two.request("/slow_down", {"forward_sleep_time": None})[0] == 200
    assert two.post("/generate", body)["output_ids"]
    for wrong in (-1, 100, "1", True):
        assert "forward_sleep_time" in error(two, "/slow_down", {"forward_sleep_time": wrong})


def test_the_heap_can_be_frozen(two: Server) -> None:
    assert two.request("/freeze_gc", method="POST")[0] == 200
    assert "gc_threshold needs" in error(two, "/freeze_gc", {"gc_threshold": [1, 2, 3]})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"max_queued_requests": 5}, "start the server with --max-queued-requests"),
        ({"speculative_accept_threshold_acc": 0.5}, "Speculative decoding is not in this version"),
        ({"nonsense": 1}, "There is no such setting"),
        ({}, "server_args is empty"),
        ([], "server_args"),
    ],
)
def test_settings_stay_as_they_are(two: Server, arguments: Any, says: str) -> None:
    assert says in error(two, "/set_internal_state", {"server_args": arguments})


@pytest.mark.parametrize(("mode", "says"), [("x", "mode"), (None, "mode"), (1, "mode")])
def test_there_is_no_other_way_to_pause(two: Server, mode: Any, says: str) -> None:
    assert says in error(two, "/pause_generation", {"mode": mode})


@pytest.mark.parametrize("path", ["/start_profile", "/flush_cache", "/freeze_gc", "/pause_generation"])
def test_looking_at_an_order_does_not_give_it(two: Server, path: str) -> None:
    assert two.request(path, method="HEAD")[0] == 405
