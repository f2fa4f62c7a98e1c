"""Sessions over HTTP: SGLang's own flow, and what two API workers must agree on."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlparse

import pytest
from server import Server, running, wait_for
from workers import through

GREEDY = {"temperature": 0, "max_new_tokens": 6}
CHUNKS = ["Once upon a time ", "One day, the dog ", "But then a girl ", "In the end "]


@pytest.fixture(scope="module")
def two() -> Iterator[Server]:
    """The bundled model, which has a chat template, behind two API workers."""
    with running("--api-workers", "2", "--threads", "1") as server:
        yield server


@pytest.fixture
def session(stories: Server) -> str:
    return stories.post("/open_session", {"capacity_of_str_len": 1000})


def turn(server: Server, session: str, text: str, after: str | None = None, **more: Any) -> dict[str, Any]:
    """A turn; `place` are more session_params, everything else goes into the body."""
    place = {"id": session, "rid": after, **more.pop("place", {})}
    body = {"text": text, "session_params": place, "sampling_params": GREEDY, "return_prompt_token_ids": True, **more}
    return server.post("/generate", body)


def everything(answer: dict[str, Any]) -> list[int]:
    return answer["prompt_token_ids"] + answer["output_ids"]


def rid(answer: dict[str, Any]) -> str:
    return answer["meta_info"]["id"]


def error(server: Server, body: dict[str, Any], path: str = "/generate") -> str:
    status, _, answer = server.request(path, body)
    assert status == 400, answer
    return json.loads(answer)["error"]["message"]


def test_a_turn_goes_on_where_the_last_one_ended(stories: Server, session: str) -> None:
    first = turn(stories, session, CHUNKS[0])
    second = turn(stories, session, CHUNKS[1], rid(first))
    new = stories.post("/v1/tokenize", {"prompt": CHUNKS[1]})["tokens"]
    assert second["prompt_token_ids"][: len(everything(first))] == everything(first)
    assert len(second["prompt_token_ids"]) <= len(everything(first)) + len(new)
    assert second["meta_info"]["cached_tokens"] > 0
    plain = stories.post("/generate", {"input_ids": second["prompt_token_ids"], "sampling_params": GREEDY})
    assert plain["output_ids"] == second["output_ids"]


def test_the_flow_of_sglangs_clients(stories: Server, session: str) -> None:
    """offset -1 and replace, again and again; then back to the first turn, whose followers are gone."""
    kept: list[int] = []
    after, rids = None, []
    for number, chunk in enumerate(CHUNKS):
        length = {**GREEDY, "max_new_tokens": 1 if number == 0 else 6}
        answer = turn(stories, session, chunk, after, sampling_params=length, place={"offset": -1, "replace": True})
        assert answer["prompt_token_ids"][: len(kept)] == kept
        kept, after = everything(answer)[:-1], rid(answer)
        rids.append(after)
    back = turn(stories, session, CHUNKS[-1], rids[0], place={"offset": -1, "replace": True})
    assert len(back["prompt_token_ids"]) < len(kept)
    body = {"text": "x", "session_params": {"id": session, "rid": rids[-1]}, "sampling_params": GREEDY}
    assert "has no turn" in error(stories, body)
    assert stories.request("/close_session", {"session_id": session})[0] == 200
    assert "does not exist" in error(stories, {**body, "session_params": {"id": session, "rid": rids[0]}})
    assert "does not exist" in error(stories, {**body, "session_params": {"id": session}})
    status, _, answer = stories.request("/generate", {**body, "session_params": {"id": session}, "stream": True})
    assert status == 400, answer


def test_text_stops_cut_what_the_next_turn_sees(stories: Server, session: str) -> None:
    params = {"temperature": 0, "max_new_tokens": 40, "stop": ["girl"]}
    first = turn(stories, session, CHUNKS[0], sampling_params=params)
    assert first["meta_info"]["finish_reason"]["matched"] == "girl"
    second = turn(stories, session, CHUNKS[1], rid(first))
    known = everything(first)
    assert second["prompt_token_ids"][: len(known)] == known
    whole = stories.post("/generate", {"text": CHUNKS[0], "sampling_params": {"temperature": 0, "max_new_tokens": 40}})
    beyond = whole["output_ids"][len(first["output_ids"])]
    assert second["prompt_token_ids"][len(known)] != beyond  # what the engine went on with is not there


def test_dropped_output_and_offset(stories: Server, session: str) -> None:
    first = turn(stories, session, CHUNKS[0])
    dropped = turn(stories, session, CHUNKS[1], rid(first), place={"drop_previous_output": True})
    assert dropped["prompt_token_ids"][: len(first["prompt_token_ids"])] == first["prompt_token_ids"]
    cut = turn(stories, session, CHUNKS[1], rid(first), place={"offset": 2})
    assert cut["prompt_token_ids"][:2] == first["prompt_token_ids"][:2]
    new = dropped["prompt_token_ids"][len(first["prompt_token_ids"]) :]
    assert cut["prompt_token_ids"][2:] == new


def test_a_running_turn_is_replaced(slow: Server) -> None:
    session = slow.post("/open_session", {"capacity_of_str_len": 100_000})
    long = {"temperature": 0, "max_new_tokens": 8000, "ignore_eos": True}
    answers: list[dict[str, Any]] = []
    running = threading.Thread(
        target=lambda: answers.append(turn(slow, session, CHUNKS[0], rid="long", sampling_params=long))
    )
    running.start()
    wait_for(lambda: slow.metric("generation_tokens_total") > 3, 30, "the first tokens")
    body = {"text": "x", "session_params": {"id": session, "rid": "long"}, "sampling_params": GREEDY}
    assert "has not finished" in error(slow, body)
    second = turn(slow, session, CHUNKS[1], "long", place={"replace": True})
    running.join(30)
    assert answers[0]["meta_info"]["finish_reason"]["type"] == "abort"
    known = everything(answers[0])
    assert second["prompt_token_ids"][: len(known)] == known


def test_a_client_that_left_can_come_back(slow: Server) -> None:
    """It goes on from what it got, not from what the engine had made beyond that."""
    session = slow.post("/open_session", {"capacity_of_str_len": 100_000})
    body = {
        "text": CHUNKS[0],
        "rid": "left",
        "stream": True,
        "session_params": {"id": session},
        "sampling_params": {"temperature": 0, "max_new_tokens": 8000, "ignore_eos": True},
        "return_prompt_token_ids": True,
    }
    got = read_some(slow, "/generate", body, events=5)
    wait_for(lambda: slow.metric("num_running_reqs") == 0, 30, "the request to end")
    second = turn(slow, session, CHUNKS[1], "left")
    assert got[-1]["output_ids"]
    known = second["prompt_token_ids"]
    start = known.index(got[-1]["output_ids"][0])
    assert known[start : start + len(got[-1]["output_ids"])] == got[-1]["output_ids"]


def read_some(server: Server, path: str, body: dict[str, Any], events: int) -> list[dict[str, Any]]:
    """Some events of a stream; then the connection is cut."""
    where = urlparse(server.url)
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(head.encode() + raw)
        seen = b""
        while seen.count(b"data: ") < events + 1:
            seen += connection.recv(65536)
    found = [line[6:] for line in seen.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in found[:events]]


def test_lists_of_prompts_have_lists_of_turns(stories: Server, session: str) -> None:
    body = {"text": CHUNKS[:2], "sampling_params": GREEDY, "return_prompt_token_ids": True}
    both = stories.post("/generate", {**body, "session_params": [{"id": session}, {"id": session}]})
    for answer in both:
        again = turn(stories, session, CHUNKS[2], rid(answer))
        assert again["prompt_token_ids"][: len(everything(answer))] == everything(answer)
    assert "needs a list of session_params" in error(stories, {**body, "session_params": {"id": session}})
    assert "has 1 entries for 2 prompts" in error(stories, {**body, "session_params": [{"id": session}]})


def test_logprobs_count_from_the_beginning_of_the_conversation(stories: Server, session: str) -> None:
    first = turn(stories, session, CHUNKS[0])
    second = turn(stories, session, CHUNKS[1], rid(first), return_logprob=True, logprob_start_len=0)
    scored = second["meta_info"]["input_token_logprobs"]
    assert [entry[1] for entry in scored] == second["prompt_token_ids"]


# -- fields ------------------------------------------------------------------------------------------------------------

OPEN: list[tuple[dict[str, Any], str]] = [
    ({}, "capacity_of_str_len is required"),
    ({"capacity_of_str_len": 0}, "capacity_of_str_len"),
    ({"capacity_of_str_len": -5}, "capacity_of_str_len"),
    ({"capacity_of_str_len": 10**12}, "capacity_of_str_len"),
    ({"capacity_of_str_len": "5"}, "capacity_of_str_len"),
    ({"capacity_of_str_len": 5, "session_id": ""}, "session_id"),
    ({"capacity_of_str_len": 5, "session_id": "x" * 300}, "session_id"),
    ({"capacity_of_str_len": 5, "session_id": "a\nb"}, "session_id"),
    ({"capacity_of_str_len": 5, "session_id": 7}, "session_id"),
    ({"capacity_of_str_len": 5, "timeout": 0}, "timeout"),
    ({"capacity_of_str_len": 5, "timeout": -1}, "timeout"),
    ({"capacity_of_str_len": 5, "timeout": 10**9}, "timeout"),
    ({"capacity_of_str_len": 5, "streaming": True}, "streaming needs streaming sessions"),
]


@pytest.mark.parametrize(("body", "says"), OPEN)
def test_what_cannot_be_opened(stories: Server, body: dict[str, Any], says: str) -> None:
    assert says in error(stories, body, "/open_session")


PLACES: list[tuple[Any, str]] = [
    ({}, "id is required"),
    ({"id": ""}, "id"),
    ({"id": 5}, "id"),
    ({"id": "x" * 300}, "id"),
    ({"id": "nobody"}, "does not exist"),
    ({"id": "nobody", "rid": "a"}, "does not exist"),
    ({"id": "here", "rid": "a"}, "has no turn 'a'"),
    ({"id": "here", "rid": ""}, "session_params.rid"),
    ({"id": "here", "rid": 5}, "rid"),
    ({"id": "here", "offset": 1.5}, "offset"),
    ({"id": "here", "offset": "1"}, "offset"),
    ({"id": "here", "offset": 10**30}, "offset"),
    ({"id": "here", "replace": 1}, "replace"),
    ({"id": "here", "drop_previous_output": "yes"}, "drop_previous_output"),
    ("here", "session_params"),
    ([], "session_params has 0 entries"),
]


@pytest.mark.parametrize(("place", "says"), PLACES)
@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_what_no_turn_is(stories: Server, place: Any, says: str, path: str) -> None:
    stories.request("/open_session", {"capacity_of_str_len": 5, "session_id": "here"})
    key = "text" if path == "/generate" else "prompt"
    says = "session_params" if path != "/generate" and place == [] else says
    assert says in error(stories, {key: "x", "session_params": place}, path)


def test_a_name_that_is_taken_and_a_session_that_is_full(stories: Server) -> None:
    name = uuid.uuid4().hex
    assert stories.post("/open_session", {"capacity_of_str_len": 20, "session_id": name}) == name
    again = error(stories, {"capacity_of_str_len": 20, "session_id": name}, "/open_session")
    assert again == "Failed to open the session. Check if a session with the same id is still open."
    body = {"input_ids": [5] * 15, "rid": name, "session_params": {"id": name}, "sampling_params": GREEDY}
    assert stories.post("/generate", body)["output_ids"]
    after = {"id": name, "rid": name}
    assert "is full" in error(stories, {"input_ids": [5], "session_params": after, "sampling_params": GREEDY})
    choices = {"input_ids": [5], "session_params": {"id": name}, "sampling_params": {**GREEDY, "n": 2}}
    assert "n should be 1" in error(stories, choices)
    assert stories.request("/close_session", {"session_id": name})[0] == 200
    assert stories.request("/close_session", {"session_id": name})[0] == 200
    assert "session_id is required" in error(stories, {}, "/close_session")


def test_sessions_by_get(stories: Server) -> None:
    opened = stories.request("/open_session", {"capacity_of_str_len": 10}, method="GET")
    assert opened[0] == 200
    assert stories.request("/close_session", {"session_id": json.loads(opened[2])}, method="GET")[0] == 200


def test_a_session_times_out(stories: Server) -> None:
    name = stories.post("/open_session", {"capacity_of_str_len": 100, "timeout": 0.2})
    body = {"text": "x", "session_params": {"id": name}, "sampling_params": {"max_new_tokens": 1}}
    wait_for(lambda: stories.request("/generate", body)[0] == 200, 1, "the session to be there")

    def gone() -> bool:
        threading.Event().wait(0.5)
        status, _, answer = stories.request("/generate", body)
        return status == 400 and b"timed out" in answer

    wait_for(gone, 10, "the session to end")


# -- two workers -------------------------------------------------------------------------------------------------------


def test_workers_share_sessions(two: Server) -> None:
    """Every turn goes through the other worker, and each ends by text that only its own worker has seen."""
    with through(two, "api-0"):
        name = two.post("/open_session", {"capacity_of_str_len": 10_000})
    known: list[int] = []
    after = None
    for number in range(8):
        with through(two, f"api-{number % 2}"):
            params = {"temperature": 0, "max_new_tokens": 30, "ignore_eos": True, "stop": ["e", "a", "."]}
            answer = turn(two, name, CHUNKS[number % 4], after, sampling_params=params)
        assert answer["prompt_token_ids"][: len(known)] == known
        known, after = everything(answer), rid(answer)
    with through(two, "api-1"):
        assert two.request("/close_session", {"session_id": name})[0] == 200
    with through(two, "api-0"):
        body = {"text": "x", "session_params": {"id": name, "rid": after}}
        assert "does not exist" in error(two, body)


def test_many_sessions_at_once(two: Server) -> None:
    """The kernel chooses the worker; every conversation stays its own."""
    wrong: list[str] = []

    def talk(number: int) -> None:
        name = two.post("/open_session", {"capacity_of_str_len": 10_000})
        known, after = [], None
        for step in range(4):
            params = {"temperature": 0, "max_new_tokens": 12, "stop": ["the", "to"]}
            answer = turn(two, name, f"{CHUNKS[step]}{number} ", after, sampling_params=params)
            if answer["prompt_token_ids"][: len(known)] != known:
                wrong.append(name)
            known, after = everything(answer), rid(answer)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong


def test_openai_routes_have_turns(two: Server) -> None:
    name = two.post("/open_session", {"capacity_of_str_len": 10_000})
    first = two.post(
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "Hello!"}],
            "temperature": 0,
            "max_tokens": 8,
            "session_params": {"id": name},
        },
    )
    assert first["choices"][0]["message"]["content"]
    place = {"id": name, "rid": first["id"]}
    body = {"prompt": " And then", "temperature": 0, "max_tokens": 4, "session_params": place}
    second = two.post("/v1/completions", body)
    assert second["usage"]["prompt_tokens"] > first["usage"]["total_tokens"]
    streamed = two.events("/v1/completions", {**body, "stream": True})
    assert "".join(e["choices"][0]["text"] for e in streamed if e["choices"]) == second["choices"][0]["text"]
    third = {"id": name, "rid": second["id"]}
    chat = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2, "session_params": third}
    assert two.post("/v1/chat/completions", chat)["usage"]["prompt_tokens"] > second["usage"]["total_tokens"]
    assert "echo does not go" in error(two, {**body, "echo": True}, "/v1/completions")
    assert "list of session_params" in error(two, {**body, "prompt": ["a", "b"]}, "/v1/completions")


def test_a_worker_that_dies_takes_its_turns_with_it_and_no_session(slow_folder: Any) -> None:
    with running(str(slow_folder), "--load-format", "dummy", "--api-workers", "2") as server:
        name = server.post("/open_session", {"capacity_of_str_len": 100_000})
        first = turn(server, name, CHUNKS[0])
        lost: list[object] = []
        long = {"max_new_tokens": 8000, "ignore_eos": True, "stop": "\x00never"}

        def ask() -> None:
            try:
                lost.append(turn(server, name, CHUNKS[1], rid(first), rid="lost", sampling_params=long))
            except OSError as e:
                lost.append(e)

        with through(server, "api-1"):
            thread = threading.Thread(target=ask)
            thread.start()
            wait_for(lambda: server.metric("num_running_reqs") == 1, 30, "the request to run")
        server.children()["api-1"].kill()
        thread.join(20)
        assert isinstance(lost[0], OSError)
        wait_for(lambda: server.log.count("ended with status") == 1, 30, "the worker to be missed")
        wait_for(lambda: len(server.children()) == 3, 30, "another worker")
        wait_for(lambda: server.metric("num_running_reqs") == 0, 30, "its request to end")
        with through(server, "api-0"):
            body = {"text": "x", "session_params": {"id": name, "rid": "lost"}, "sampling_params": GREEDY}
            assert "has no turn" in error(server, body)
            second = turn(server, name, CHUNKS[1], rid(first))
            assert second["prompt_token_ids"][: len(everything(first))] == everything(first)
