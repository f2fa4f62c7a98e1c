"""Adapters over HTTP: loaded, named in every way, unloaded while somebody uses them, refused in words."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save
from server import Server, running, wait_for
from tokenizers import Tokenizer

from assets import BUNDLED

HIDDEN, INNER, LAYERS = 256, 768, 6  # of the bundled model
SHAPES = {
    "self_attn.q_proj": (HIDDEN, 256),
    "self_attn.k_proj": (HIDDEN, 128),
    "self_attn.v_proj": (HIDDEN, 128),
    "self_attn.o_proj": (256, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INNER),
    "mlp.up_proj": (HIDDEN, INNER),
    "mlp.down_proj": (INNER, HIDDEN),
}
CHAT = [{"role": "user", "content": "What is there to eat?"}]
BODY = {"messages": CHAT, "temperature": 0, "max_tokens": 12, "ignore_eos": True}
SAMPLING = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}


def contents(seed: int, rank: int, targets: tuple[str, ...]) -> tuple[dict[str, Any], bytes]:
    """A config, and the weights of an adapter of random numbers that changes what is said."""
    random, tensors = np.random.default_rng(seed), {}
    for layer in range(LAYERS):
        for name in targets:
            inputs, outputs = SHAPES[name]
            module = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{module}.lora_A.weight"] = random.normal(0, inputs**-0.5, (rank, inputs)).astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = random.normal(0, 0.8, (outputs, rank)).astype(np.float32)
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [name.rpartition(".")[2] for name in targets],
    }
    return config, save(tensors)


def made(folder: Path, seed: int, rank: int = 8, targets: tuple[str, ...] = tuple(SHAPES)) -> Path:
    config, weights = contents(seed, rank, targets)
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that adapters are loaded from: `a` to `d`."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate("abcd"):
        made(root / name, seed, rank=4 * (seed + 1))
    return root


@pytest.fixture(scope="module")
def server(room: Path) -> Iterator[Server]:
    with running(
        *("--lora-dir", str(room), "--max-lora-rank", "16", "--max-loras-per-batch", "4"),
        *("--lora-target-modules", "all", "--lora-paths", f"a={room / 'a'}", f"b={room / 'b'}"),
    ) as s:
        yield s


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def chat(server: Server, **more: Any) -> str:
    return str(server.post("/v1/chat/completions", BODY | more)["choices"][0]["message"]["content"])


def refused(server: Server, path: str, body: dict[str, Any], status: int) -> dict[str, Any]:
    found, _, answer = server.request(path, body)
    assert found == status, answer
    return dict(json.loads(answer))


def load(server: Server, name: str, path: str | None = None, **more: Any) -> dict[str, Any]:
    return dict(server.post("/load_lora_adapter", {"lora_name": name, "lora_path": path or name, **more}))


def unload(server: Server, name: str) -> dict[str, Any]:
    return dict(server.post("/unload_lora_adapter", {"lora_name": name}))


def test_models(client: OpenAI, server: Server, room: Path) -> None:
    base, *adapters = client.models.list().data
    assert (base.id, base.to_dict()["parent"]) == ("concierge", None)
    assert [card.id for card in adapters] == ["a", "b"]
    for card in adapters:
        assert (card.to_dict()["root"], card.to_dict()["parent"]) == (str(room / card.id), "concierge")
    for name in ("a", "concierge:a", "default:a"):
        assert client.models.retrieve(name).id == "a"
    for name in ("c", "concierge:c", "other:a", "concierge:", "a:a"):
        with pytest.raises(openai.NotFoundError) as e:
            client.models.retrieve(name)
        assert e.value.code == "model_not_found"


def test_an_adapter_changes_what_is_said(server: Server) -> None:
    said = {name: chat(server, model=name) for name in ("concierge", "a", "b")}
    assert len(set(said.values())) == 3
    for name in ("a", "b"):
        assert chat(server, model=f"concierge:{name}") == said[name]
        assert chat(server, lora_path=name) == said[name]
        assert chat(server, model=name, lora_path=name) == said[name]
        assert chat(server, model="default", lora_path=[name]) == said[name]
    assert chat(server) == chat(server, lora_path=None) == chat(server, lora_path="") == said["concierge"]


def test_the_answer_names_the_model_that_was_asked_for(client: OpenAI) -> None:
    for name in ("a", "concierge:b"):
        answer = client.chat.completions.create(model=name, messages=CHAT, max_tokens=2)  # type: ignore[arg-type]
        assert answer.model == name
        chunks = client.completions.create(model=name, prompt="One day", max_tokens=2, stream=True)
        assert {chunk.model for chunk in chunks} == {name}
    assert client.completions.create(model="default", prompt="One day", max_tokens=2).model == "concierge"


def test_one_adapter_for_each_prompt(server: Server) -> None:
    body = {"text": ["One day"] * 4, "lora_path": [None, "a", "b", "a"], "sampling_params": SAMPLING}
    ids = [one["output_ids"] for one in server.post("/generate", body)]
    for name, found in zip((None, "a", "b"), ids, strict=False):
        alone = server.post("/generate", {"text": "One day", "lora_path": name, "sampling_params": SAMPLING})
        assert alone["output_ids"] == found
    assert ids[1] == ids[3]
    assert len({tuple(one) for one in ids}) == 3
    texts = server.post(
        "/v1/completions",
        {"prompt": ["One day", "One day"], "lora_path": ["a", None], "temperature": 0, "max_tokens": 12},
    )["choices"]
    assert texts[0]["text"] != texts[1]["text"]
    error = refused(server, "/generate", body | {"lora_path": ["a"]}, 400)
    assert "1 entries for 4 prompts" in error["error"]["message"]


def test_prefixes_of_one_adapter_are_not_those_of_another(server: Server) -> None:
    prompt = {"text": "Tell me about the garden, the pool and the lake. " * 4, "sampling_params": SAMPLING}
    first = server.post("/generate", prompt | {"lora_path": "a"})
    assert first["meta_info"]["cached_tokens"] == 0
    assert server.post("/generate", prompt | {"lora_path": "b"})["meta_info"]["cached_tokens"] == 0
    assert server.post("/generate", prompt)["meta_info"]["cached_tokens"] == 0
    again = server.post("/generate", prompt | {"lora_path": "a"})
    assert again["meta_info"]["cached_tokens"] > 0
    assert again["output_ids"] == first["output_ids"]


@pytest.mark.parametrize("field", [{"model": "nobody"}, {"model": "concierge:nobody"}, {"lora_path": "nobody"}])
def test_an_adapter_that_is_not_there(server: Server, field: dict[str, Any]) -> None:
    for path, body in (("/v1/chat/completions", BODY), ("/v1/completions", {"prompt": "One day"})):
        for stream in (False, True):
            error = refused(server, path, body | field | {"stream": stream}, 404)["error"]
            assert error["type"] == "not_found_error"
            assert "nobody" in error["message"]


def test_an_adapter_that_is_not_there_natively(server: Server) -> None:
    for stream in (False, True):
        error = refused(server, "/generate", {"text": "a", "lora_path": "nobody", "stream": stream}, 404)
        assert "nobody" in error["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": "a", "lora_path": "b"}, 400),
        ({"lora_path": 7}, 400),
        ({"lora_path": "x" * 300}, 400),
        ({"lora_path": "a:b"}, 400),
        ({"lora_path": "a\nb"}, 400),
        ({"lora_path": ["a", "b"]}, 400),
        ({"model": "other:a"}, 404),
    ],
)
def test_names_that_mean_nothing(server: Server, fields: dict[str, Any], status: int) -> None:
    refused(server, "/v1/chat/completions", BODY | fields, status)


def test_load_and_unload(server: Server, room: Path) -> None:
    answer = load(server, "c")
    assert answer == {"success": True, "loaded_adapters": {name: str(room / name) for name in "abc"}}
    said = chat(server, model="c")
    assert said != chat(server)
    assert unload(server, "c")["loaded_adapters"].keys() == {"a", "b"}
    refused(server, "/v1/chat/completions", BODY | {"model": "c"}, 404)
    load(server, "other name", str(room / "c"), pinned=True)
    assert chat(server, model="other name") == said
    unload(server, "other name")


def test_the_routes_of_vllm(server: Server) -> None:
    status, headers, text = server.request("/v1/load_lora_adapter", {"lora_name": "c", "lora_path": "c"})
    assert (status, text) == (200, b"Success: LoRA adapter 'c' added successfully.")
    assert headers["content-type"].startswith("text/plain")
    assert (
        "loaded already"
        in refused(server, "/v1/load_lora_adapter", {"lora_name": "c", "lora_path": "c"}, 400)["error"]["message"]
    )
    _, _, text = server.request("/v1/unload_lora_adapter", {"lora_name": "c"})
    assert text == b"Success: LoRA adapter 'c' removed successfully."
    assert refused(server, "/v1/unload_lora_adapter", {"lora_name": "c"}, 404)["error"]["type"] == "not_found_error"


def test_an_adapter_that_comes_with_the_request(server: Server, room: Path) -> None:
    config, weights = contents(2, 12, tuple(SHAPES))
    body = {
        "lora_name": "sent",
        "config_dict": config,
        "serialized_named_tensors": [base64.b64encode(weights).decode()],
    }
    answer = server.post("/load_lora_adapter_from_tensors", body)
    assert answer["loaded_adapters"]["sent"] == "__tensor__"
    assert {card["id"]: card["root"] for card in server.get("/v1/models")["data"]}["sent"] == "__tensor__"
    load(server, "c")
    assert chat(server, model="sent") == chat(server, model="c")
    for name in ("sent", "c"):
        unload(server, name)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"serialized_named_tensors": [base64.b64encode(b"\x80\x04.").decode()]}, "pickled"),
        ({"serialized_named_tensors": ["no base64!"]}, "base64"),
        ({"serialized_named_tensors": [base64.b64encode(b"12345").decode()]}, "adapter_model.safetensors"),
        ({"serialized_named_tensors": []}, "serialized_named_tensors"),
        ({"config_dict": {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "use_dora": True}}, "use_dora"),
        ({"config_dict": {}}, "peft_type"),
        ({"added_tokens_config": {"<a>": -1}}, "added_tokens"),
        ({"load_format": "flattened_bucket"}, "load_format"),
        ({"lora_name": "a"}, "loaded already"),
    ],
)
def test_sent_adapters_that_are_refused(server: Server, changes: dict[str, Any], what: str) -> None:
    config, weights = contents(2, 8, ("self_attn.q_proj",))
    body = {"lora_name": "x", "config_dict": config, "serialized_named_tensors": [base64.b64encode(weights).decode()]}
    error = refused(server, "/load_lora_adapter_from_tensors", body | changes, 400)
    assert what in json.dumps(error)
    assert [card["id"] for card in server.get("/v1/models")["data"]] == ["concierge", "a", "b"]


def test_loads_that_are_refused(server: Server, room: Path) -> None:
    made(room / "high", 9, rank=32)
    pickled = made(room / "pickled", 9)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    made(room / "cut", 9)
    weights = room / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    for name, path, what in (
        ("a", "a", "loaded already"),
        ("x", "nowhere", "no adapter"),
        ("x:y", "c", "lora_name"),
        ("", "c", "lora_name"),
        ("x", "high", "rank 32"),
        ("x", "pickled", "pickled"),
        ("x", "cut", "cut off"),
    ):
        answer = refused(server, "/load_lora_adapter", {"lora_name": name, "lora_path": path}, 400)
        assert answer["success"] is False
        assert what in answer["error_message"]
        assert str(room) not in answer["error_message"]
        assert answer["loaded_adapters"].keys() == {"a", "b"}
    for path in ("..", "/etc", "a/../../b", "c/../.."):
        refused(server, "/load_lora_adapter", {"lora_name": "x", "lora_path": path}, 403)
    answer = refused(server, "/unload_lora_adapter", {"lora_name": "x"}, 400)
    assert "'x' is not loaded" in answer["error_message"]


def test_unloaded_while_it_speaks(server: Server) -> None:
    """Who has begun comes to the end, with the adapter; nobody else begins."""
    load(server, "c")
    long = BODY | {"model": "c", "max_tokens": 400, "stream": True}
    whole = "".join(_text(event) for event in server.events("/v1/chat/completions", long))
    events: list[Any] = []
    speaking = threading.Thread(target=lambda: events.extend(server.events("/v1/chat/completions", long)))
    speaking.start()
    wait_for(lambda: server.metric("num_running_reqs") > 0 or not speaking.is_alive(), 30, "the stream to begin")
    unload(server, "c")
    refused(server, "/v1/chat/completions", BODY | {"model": "c"}, 404)
    speaking.join()
    assert "".join(map(_text, events)) == whole
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def _text(event: dict[str, Any]) -> str:
    return str(event["choices"][0]["delta"].get("content") or "")


def test_what_is_counted(server: Server) -> None:
    chat(server, model="a")
    load = server.get("/v1/loads?include=lora")["loads"][0]["lora"]
    assert load["slots_total"] == 4
    assert 1 <= load["slots_used"] <= 4
    assert load["utilization"] == load["slots_used"] / 4
    assert server.metric("lora_pool_slots_total") == 4
    assert server.metric("lora_pool_slots_used") == load["slots_used"]
    _, _, text = server.request("/metrics")
    assert 'lora_requests_info{max_lora="4",model_name="concierge",running_lora_adapters="",waiting' in text.decode()


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("times", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_nothing_is_left_of_adapters_that_come_and_go(server: Server, times: int) -> None:
    """Under load. Files and threads of the engine are what they were, and its memory does not grow with the rounds."""
    engine = server.children()["engine"]
    ended = threading.Event()
    failures: list[Any] = []

    def talk() -> None:
        while not ended.is_set():
            status, _, answer = server.request("/v1/chat/completions", BODY | {"model": "a"})
            if status != 200:
                failures.append(answer)

    def rounds(count: int) -> tuple[int, int, int]:
        for _ in range(count):
            load(server, "d")
            chat(server, model="d", max_tokens=1)
            unload(server, "d")
        return engine.memory_info().rss, engine.num_fds(), engine.num_threads()

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        rounds(10)
        before = rounds(10)
        after = rounds(times)
    finally:
        ended.set()
        talking.join()
    assert not failures
    assert after[1:] == before[1:]
    assert after[0] - before[0] < 8 << 20  # of adapters of 0.9 MB


def test_generate_with_an_adapter(server: Server, room: Path) -> None:
    def ramify(*arguments: str) -> str:
        command = [sys.executable, "-m", "ramify.cli.main", "generate", CHAT[0]["content"], "--temperature", "0"]
        done = subprocess.run([*command, "--max-new-tokens", "12", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    for name in ("a", "b"):
        whole = server.post(
            "/v1/chat/completions", {"model": name, "messages": CHAT, "temperature": 0, "max_tokens": 12}
        )
        assert ramify("--lora", str(room / name)) == whole["choices"][0]["message"]["content"].strip()


def test_a_server_without_adapters(stories: Server) -> None:
    error = refused(stories, "/generate", {"text": "a", "lora_path": "x"}, 400)["error"]
    assert "--enable-lora" in error["message"]
    refused(stories, "/v1/completions", {"prompt": "a", "model": "stories:x"}, 404)
    answer = refused(stories, "/load_lora_adapter", {"lora_name": "x", "lora_path": "x"}, 400)
    assert "--enable-lora" in answer["error_message"]
    assert "lora" not in stories.get("/v1/loads")["loads"][0]


def test_an_engine_that_is_started_again_has_what_was_loaded(room: Path) -> None:
    """And not what was unloaded; what was sent with a request is there too, and what has gone is said in the log."""
    gone = made(room / "gone", 9)
    config, weights = contents(5, 4, ("self_attn.q_proj",))
    with running("--lora-paths", f"a={room / 'a'}", "--max-lora-rank", "16", "--lora-target-modules", "all") as s:
        load(s, "b", str(room / "b"), pinned=True)
        load(s, "gone", str(gone))
        unload(s, "a")
        sent = {"config_dict": config, "serialized_named_tensors": [base64.b64encode(weights).decode()]}
        s.post("/load_lora_adapter_from_tensors", sent | {"lora_name": "sent"})
        before = {name: chat(s, model=name) for name in ("b", "sent")}
        (gone / "adapter_model.safetensors").unlink()
        s.children()["engine"].kill()
        wait_for(lambda: s.request("/health")[0] == 503, 20, "the engine's end to be noticed")
        assert {name: chat(s, model=name) for name in before} == before
        cards = s.get("/v1/models")["data"]
        assert [card["id"] for card in cards] == ["concierge", "b", "sent"]
        refused(s, "/v1/chat/completions", BODY | {"model": "a"}, 404)
        assert "an adapter is lost with the engine that had it: loaded again gone" in s.log


def test_an_adapter_with_words_of_its_own(tmp_path: Path) -> None:
    """A token that it added, an end of answers, and a chat template, which nobody else sees."""
    folder = made(tmp_path / "own", 3, 4, ("self_attn.q_proj",))
    words = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    words.add_tokens(["<bell>"])
    words.add_special_tokens(["<done>"])
    bell, done = words.token_to_id("<bell>"), words.token_to_id("<done>")
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<done>"}))
    (folder / "chat_template.jinja").write_text("Ring: {{ messages[0].content }}{{ '<bell>' }}")
    rows = {
        f"base_model.model.{name}.weight": np.random.default_rng(1)
        .normal(0, 0.1, (done + 1, HIDDEN))
        .astype(np.float32)
        for name in ("model.embed_tokens", "lm_head")
    }
    with (folder / "adapter_model.safetensors").open("rb") as stream:
        weights = read_tensors(stream.read())
    (folder / "adapter_model.safetensors").write_bytes(save(weights | rows))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": ["embed_tokens", "lm_head"]}))
    biased = {"temperature": 0, "logit_bias": {str(bell): 1e4}}
    with running("--lora-paths", f"own={folder}", f"a={made(tmp_path / 'a', 1)}") as s:
        body = {"messages": CHAT, "model": "own", "max_tokens": 3, **biased}
        answer = s.post("/v1/chat/completions", body | {"logprobs": True})
        assert answer["choices"][0]["message"]["content"] == "<bell>" * 3
        assert answer["choices"][0]["logprobs"]["content"][0]["token"] == "<bell>"
        prompt = words.encode(f"Ring: {CHAT[0]['content']}<bell>", add_special_tokens=False).ids
        assert answer["usage"]["prompt_tokens"] == len(prompt)
        native = {
            "text": "<bell> rings",
            "sampling_params": {**SAMPLING, "max_new_tokens": 2, "logit_bias": biased["logit_bias"]},
        }
        told = s.post("/generate", native | {"lora_path": "own", "stream": False})
        assert told["text"] == "<bell><bell>"
        assert told["meta_info"]["prompt_tokens"] == len(words.encode("<bell> rings").ids)
        ended = s.post(
            "/v1/completions", {"prompt": "x", "model": "own", "temperature": 0, "logit_bias": {str(done): 1e4}}
        )
        assert (ended["choices"][0]["text"], ended["choices"][0]["finish_reason"]) == ("", "stop")
        counted = s.post("/v1/tokenize", {"model": "own", "prompt": "<bell>", "add_special_tokens": False})
        assert counted["tokens"] == [bell]
        assert s.post("/v1/detokenize", {"model": "own", "tokens": [bell]})["text"] == "<bell>"
        base = s.post("/generate", {"text": "<bell> rings", "sampling_params": SAMPLING})
        assert base["meta_info"]["prompt_tokens"] > told["meta_info"]["prompt_tokens"]
        wrong = {"input_ids": [bell], "sampling_params": SAMPLING}
        assert "not a token id" in refused(s, "/generate", wrong, 400)["error"]["message"]
        assert "not a token id" in refused(s, "/generate", wrong | {"lora_path": "a"}, 400)["error"]["message"]
        both = {"text": ["x", "y"], "sampling_params": SAMPLING, "lora_path": ["own", "a"]}
        assert "asked by itself" in refused(s, "/generate", both, 400)["error"]["message"]
        unload(s, "own")
        load(s, "own", str(tmp_path / "a"))
        assert "<bell>" not in chat(s, model="own")
