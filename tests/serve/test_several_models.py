"""Several models on one server: named, started when they are wanted, let go, and none of them noticing the others."""

from __future__ import annotations

import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import NotFoundError, OpenAI
from server import Server, refused_to_start, running, wait_for

from assets import BUNDLED

PROMPT = "Once upon a time"
IDLE = 1.0  # seconds after which `vectors` is let go
GREEDY = {"temperature": 0, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def frail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is going to be spoiled."""
    folder = tmp_path_factory.mktemp("frail") / "model"
    shutil.copytree(BUNDLED, folder)
    return folder


@pytest.fixture(scope="module")
def house(frail: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two that generate, one that embeds and comes when it is wanted, and one that cannot come."""
    config = tmp_path_factory.mktemp("house") / "serve.yaml"
    models = [
        {"name": "one", "path": "concierge"},
        {"name": "two", "path": "concierge"},
        {"name": "vectors", "path": "concierge", "task": "embedding", "lazy": True, "idle-unload-after": IDLE},
        {"name": "frail", "path": str(frail), "lazy": True},
    ]
    config.write_text(json.dumps({"max-total-tokens": 8192, "mem-fraction-static": 0.98, "models": models}))
    with running("--config", str(config)) as server:
        yield server


def status(server: Server, model: str) -> str:
    return str(server.get(f"/v1/models/{model}")["status"]["value"])


def text_of(server: Server, **more: object) -> str:
    body = {"text": PROMPT, "sampling_params": GREEDY, **more}
    return str(server.post("/generate", body, timeout=280)["text"])


def metric(server: Server, name: str, model: str) -> float:
    lines = server.request("/metrics")[2].decode().splitlines()
    (found,) = (line for line in lines if line.startswith(f'ramify:{name}{{model_name="{model}"}} '))
    return float(found.split()[-1])


# -- names -------------------------------------------------------------------------------------------------------------


def test_all_models_are_listed(house: Server) -> None:
    assert [card["id"] for card in house.get("/v1/models")["data"]] == ["one", "two", "vectors", "frail"]
    assert house.get("/v1/models/two")["id"] == "two"
    assert house.request("/v1/models/three")[0] == 404
    assert house.request("/")[2] == b"ramify serves one, two, vectors, frail\n"


def test_requests_go_by_the_name_of_the_model(house: Server) -> None:
    before = {model: metric(house, "num_requests_total", model) for model in ("one", "two")}
    client = OpenAI(base_url=f"{house.url}/v1", api_key="none")
    for model in ("one", "two"):
        said = client.completions.create(model=model, prompt=PROMPT, max_tokens=4)
        assert said.model == model
    chat = client.chat.completions.create(model="two", messages=[{"role": "user", "content": "Hi"}], max_tokens=4)
    assert chat.model == "two"
    assert house.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 2})["model"] == "one"  # nobody is named
    after = {model: metric(house, "num_requests_total", model) for model in ("one", "two")}
    assert {model: after[model] - before[model] for model in after} == {"one": 2, "two": 2}


def test_native_routes_take_a_model_too(house: Server) -> None:
    before = metric(house, "num_requests_total", "two")
    assert text_of(house) == text_of(house, model="two")
    assert metric(house, "num_requests_total", "two") == before + 1
    assert house.get("/get_model_info?model=two")["served_model_name"] == "two"
    assert house.get("/get_server_info")["served_model_name"] == "one"
    assert house.post("/v1/tokenize", {"prompt": PROMPT, "model": "two"})["count"] > 0


def test_an_unknown_name_is_not_found_in_the_shape_of_the_route(house: Server) -> None:
    code, _, body = house.request("/v1/completions", {"prompt": PROMPT, "model": "three"})
    error = json.loads(body)["error"]
    assert (code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "'one', 'two', 'vectors', 'frail'" in error["message"]
    code, _, body = house.request("/generate", {"text": PROMPT, "model": "three"})
    assert (code, list(json.loads(body)["error"])) == (404, ["message"])
    assert house.request("/generate", {"text": PROMPT, "model": 3})[0] == 400
    assert house.request("/flush_cache?model=three", {})[0] == 404
    with pytest.raises(NotFoundError):
        OpenAI(base_url=f"{house.url}/v1", api_key="none").completions.create(model="three", prompt="x")


def test_questions_and_orders_say_which_model(house: Server) -> None:
    loads = house.get("/v1/loads?include=core")["loads"]
    assert [load["model"] for load in loads][:2] == ["one", "two"]
    assert [load["model"] for load in house.get("/v1/loads?model=two")["loads"]] == ["two"]
    text = house.request("/v1/loads?format=prometheus")[2].decode()
    assert text.count("# TYPE sglang_token_usage gauge") == 1
    assert 'sglang_token_usage{dp_rank="0",model_name="two"}' in text
    house.post("/pause_generation", {"model": "two", "mode": "in_place"})
    paused = {
        model: house.get(f"/server_info?model={model}")["internal_states"][0]["is_paused"] for model in ("one", "two")
    }
    assert paused == {"one": False, "two": True}
    house.post("/continue_generation", {})  # nobody is named: all
    assert not house.get("/server_info?model=two")["internal_states"][0]["is_paused"]
    assert house.request("/flush_cache?model=two", {})[0] == 200
    for path in ("/health", "/ready", "/health_generate", "/health?model=two", "/ready?model=two"):
        assert house.request(path)[0] == 200, path


def test_metrics_are_one_text(house: Server) -> None:
    text = house.request("/metrics")[2].decode()
    assert text.count("# TYPE ramify:num_running_reqs gauge") == 1
    assert metric(house, "engine_up", "one") == 1
    assert metric(house, "engine_up", "frail") == 0
    assert 'model_name="two"' not in house.request("/metrics?model=one")[2].decode()


def test_the_plan_of_the_memory_is_in_the_log(house: Server) -> None:
    (head,) = (at for at, line in enumerate(house.lines) if line.endswith("together"))
    rows = [line.split(" I ramify ")[1].split()[0] for line in house.lines[head + 1 : head + 6]]
    assert rows == ["one", "two", "vectors", "frail", "all"]
    assert any(" I engine two " in line for line in house.lines)


# -- coming and going --------------------------------------------------------------------------------------------------


def test_a_lazy_model_comes_when_it_is_wanted_and_goes_when_it_is_not(house: Server) -> None:
    wait_for(lambda: status(house, "vectors") == "unloaded", 200, "the engine to be gone")
    assert "engine-2" not in house.children()
    starts = metric(house, "engine_starts_total", "vectors")
    body = {"input": [PROMPT, "fox"], "model": "vectors"}
    for again in (1, 2):
        answer = house.post("/v1/embeddings", body, timeout=280)
        assert len(answer["data"]) == 2
        assert answer["model"] == "vectors"
        wait_for(lambda: "engine-2" not in house.children() and status(house, "vectors") == "unloaded", 200, "it to go")
        assert metric(house, "engine_starts_total", "vectors") == starts + again
    assert "the engine of vectors has nothing to do and ends" in house.log
    assert "engine" in house.children()  # nobody said that it should go


def test_a_model_that_embeds_does_not_chat(house: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "model": "vectors"}
    assert house.request("/v1/chat/completions", body)[0] == 400
    assert house.request("/v1/embeddings", {"input": "x", "model": "one"})[0] == 400


def test_a_model_that_cannot_start_answers_why_and_hurts_nobody(house: Server, frail: Path) -> None:
    weights = frail / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-4000])
    code, headers, body = house.request("/v1/completions", {"prompt": PROMPT, "model": "frail"}, timeout=280)
    error = json.loads(body)["error"]
    assert (code, error["code"]) == (503, "model_failed")
    assert "cut off" in error["message"]
    assert "retry-after" in {name.lower() for name in headers}
    assert house.get("/v1/models/frail")["status"] == {"value": "unloaded", "failed": True}
    assert text_of(house)
    weights.write_bytes(good)
    assert text_of(house, model="frail")


def test_an_engine_that_is_killed_comes_back_and_the_others_never_notice(house: Server) -> None:
    two = house.children()["engine-1"]
    whole = {"text": PROMPT, "sampling_params": {"temperature": 0, "max_new_tokens": 160, "ignore_eos": True}}
    alone = house.post("/generate", {**whole, "model": "one"}, timeout=280)["text"]
    house.request("/slow_down", {"forward_sleep_time": 0.02})
    failed: list[int] = []

    def be_killed() -> None:
        failed.append(house.request("/generate", {**whole, "model": "two"}, timeout=280)[0])

    victim = threading.Thread(target=be_killed)
    body = json.dumps({**whole, "model": "one", "stream": True}).encode()
    request = urllib.request.Request(f"{house.url}/generate", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=280) as stream:
        events = [stream.readline()]
        victim.start()
        wait_for(lambda: metric(house, "num_running_reqs", "two") == 1, 200, "the other to run")
        two.kill()
        victim.join(200)
        assert failed == [503]
        assert text_of(house, model="two") == text_of(house, model="one")  # it waited for the next engine
        events += stream.readlines()
    assert events[-2] == b"data: [DONE]\n"
    assert json.loads(events[-4][6:])["text"] == alone
    house.request("/slow_down", {"forward_sleep_time": 0})
    assert house.children()["engine-1"].pid != two.pid
    assert metric(house, "engine_starts_total", "two") == 2
    assert metric(house, "engine_starts_total", "one") == 1
    assert "the engine of two ended with status -9" in house.log


# -- what cannot be ----------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_fit_is_refused_by_name() -> None:
    said = refused_to_start("--model", "small=concierge", "--model", "big=concierge", "--max-total-tokens", "1G")
    assert "does not fit: it needs" in said
    assert "small" in said


def test_two_models_of_one_name_are_refused() -> None:
    assert "would be called 'concierge'" in refused_to_start("--model", "concierge", "--model", "concierge")
