"""Embeddings, classes, ranks and rewards over HTTP, from two API workers, and with OpenAI's own client."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from server import Server, running
from transformers import AutoModelForCausalLM, BertConfig, BertForSequenceClassification, BertModel, Qwen3Config

from words import words

SIZES = {
    "vocab_size": 206,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
HELLO = "w1 w2 w3"


def save(model: Any, folder: Path) -> Any:
    model.eval().save_pretrained(folder)
    words(folder)
    return model


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, BertModel]]:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("embedder")
    model = save(BertModel(BertConfig(**SIZES)), folder)
    prompts = {"prompts": {"query": "w9 ", "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    with running(str(folder), "--served-model-name", "tiny", "--api-workers", "2") as server:
        yield server, model


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, BertForSequenceClassification]]:
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("ranker")
    model = save(BertForSequenceClassification(BertConfig(**SIZES, num_labels=1)), folder)
    with running(str(folder), "--api-workers", "2", "--allow-auto-truncate") as server:
        yield server, model


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, BertForSequenceClassification]]:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("classifier")
    config = BertConfig(**SIZES, id2label={0: "bad", 1: "fair", 2: "good"}, label2id={"bad": 0, "fair": 1, "good": 2})
    model = save(BertForSequenceClassification(config), folder)
    with running(str(folder)) as server:
        yield server, model


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Any]]:
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("judge")
    sizes = {**SIZES, "head_dim": 16, "num_key_value_heads": 2, "eos_token_id": 3}
    model = save(AutoModelForCausalLM.from_config(Qwen3Config(**sizes)), folder)
    (folder / "chat_template.jinja").write_text("{{ instruct or 'w20' }} {{ query }} w21 {{ document }} w22")
    with running(str(folder)) as server:
        yield server, model


def states_of(model: BertModel, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.tensor([ids])).last_hidden_state[0].numpy()


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


# -- embeddings --------------------------------------------------------------------------------------------------------


def test_openai_client(embedder: tuple[Server, BertModel]) -> None:
    """It asks for base64 unless told otherwise, and both are the same numbers."""
    server, model = embedder
    client = client_of(server)
    ours = client.embeddings.create(model="tiny", input=[HELLO, "w4"])
    plain = client.embeddings.create(model="tiny", input=[HELLO, "w4"], encoding_format="float")
    assert [entry.embedding for entry in ours.data] == [pytest.approx(entry.embedding) for entry in plain.data]
    assert [entry.index for entry in ours.data] == [0, 1]
    assert (ours.object, ours.model) == ("list", "tiny")
    assert (ours.usage.prompt_tokens, ours.usage.total_tokens) == (8, 8)
    theirs = unit(states_of(model, [2, 7, 8, 9, 3]).mean(0))
    assert np.allclose(plain.data[0].embedding, theirs, atol=1e-5)


def test_ids_lists_and_texts_are_the_same(embedder: tuple[Server, BertModel]) -> None:
    server, _ = embedder
    given: list[Any] = [HELLO, [HELLO], [2, 7, 8, 9, 3], [[2, 7, 8, 9, 3]]]
    found = [server.post("/v1/embeddings", {"input": one})["data"] for one in given]
    assert all(data == found[0] for data in found)


def test_dimensions_base64_and_the_warning(embedder: tuple[Server, BertModel]) -> None:
    server, _ = embedder
    whole = np.array(server.post("/v1/embeddings", {"input": HELLO})["data"][0]["embedding"])
    asked = {"input": HELLO, "dimensions": 8, "encoding_format": "base64"}
    _, headers, body = server.request("/v1/embeddings", asked)
    cut = np.frombuffer(base64.b64decode(json.loads(body)["data"][0]["embedding"]), "<f4")
    assert np.allclose(cut, unit(whole[:8]), atol=1e-6)
    assert "dimensions" in headers["x-ramify-warning"]


def test_a_prompt_by_its_name(embedder: tuple[Server, BertModel]) -> None:
    server, _ = embedder
    named = server.post("/v1/embeddings", {"input": HELLO, "prompt_name": "query"})
    spelled = server.post("/v1/embeddings", {"input": f"w9 {HELLO}"})
    assert named["data"] == spelled["data"]
    status, _, body = server.request("/v1/embeddings", {"input": HELLO, "prompt_name": "passage"})
    assert status == 400
    assert "document, query" in json.loads(body)["error"]["message"]


def test_encode(embedder: tuple[Server, BertModel]) -> None:
    server, _ = embedder
    one = server.post("/encode", {"text": HELLO, "rid": "mine"})
    assert one["meta_info"]["id"] == "mine"
    assert one["meta_info"]["prompt_tokens"] == 5
    many = server.post("/encode", {"input_ids": [[2, 7, 8, 9, 3]], "return_prompt_token_ids": True})
    assert many[0]["embedding"] == one["embedding"]
    assert many[0]["prompt_token_ids"] == [2, 7, 8, 9, 3]


BAD: list[tuple[Any, str]] = [
    ("", "empty"),
    ([], "empty list"),
    (["w1", ""], "input[1] is an empty text"),
    ([[]], "empty"),
    ("w1 " * 63, "longer than the model's context length (64 tokens)"),
    ([5] * 65, "longer than the model's context length"),
    ([206], "not a token id"),
    (["w1", [5]], "mixes"),
    (["w1"] * 10_000, "at most 2048"),
    ("w1" * 100_000, "longer than the model's context length"),
    ([-1], "not a token id"),
    (7, "Expected"),
    ([{"text": "w1"}], "Expected"),
    ([[[1]]], "Expected"),
    (None, "required"),
]


@pytest.mark.parametrize(("given", "words"), BAD, ids=[str(given)[:24] for given, _ in BAD])
def test_bad_input(embedder: tuple[Server, BertModel], given: Any, words: str) -> None:
    server, _ = embedder
    status, _, body = server.request("/v1/embeddings", {} if given is None else {"input": given})
    error = json.loads(body)["error"]
    assert status == 400, body
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dimensions", 0),
        ("dimensions", 65),
        ("dimensions", "8"),
        ("encoding_format", "int8"),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -2),
        ("lora_path", "x"),
        ("priority", "high"),
        ("rid", ""),
    ],
)
def test_bad_fields(embedder: tuple[Server, BertModel], field: str, value: Any) -> None:
    server, _ = embedder
    status, _, body = server.request("/v1/embeddings", {"input": HELLO, field: value})
    assert status == 400, body
    assert field in json.loads(body)["error"]["message"]


def test_odd_texts_are_texts(embedder: tuple[Server, BertModel]) -> None:
    server, _ = embedder
    data = server.post("/v1/embeddings", {"input": ["\0", "w1\0", " ", "\ufeff", "漢字🎉", "[SEP]"]})["data"]
    assert all(np.isfinite(entry["embedding"]).all() for entry in data)
    status, _, _ = server.request("/v1/embeddings", raw=b'{"input": "\\ud800"}')
    assert status == 400


def test_cut_where_that_is_asked_for(embedder: tuple[Server, BertModel]) -> None:
    """What stands around a text stays."""
    server, _ = embedder
    cut = server.post("/v1/embeddings", {"input": "w1 " * 500, "truncate_prompt_tokens": -1})
    assert cut["usage"]["prompt_tokens"] == 64
    five = server.post("/v1/embeddings", {"input": "w1 w2 w3 w4 w5 w6", "truncate_prompt_tokens": 5})
    assert five["data"] == server.post("/v1/embeddings", {"input": HELLO})["data"]


def test_many_at_once_are_what_each_is_alone(embedder: tuple[Server, BertModel]) -> None:
    server, _ = embedder
    texts = [" ".join(f"w{(at * 7 + n) % 200}" for n in range(1 + at % 50)) for at in range(300)]
    together = server.post("/v1/embeddings", {"input": texts})["data"]
    before = server.metric("num_requests_total")
    for at in (0, 49, 150, 299):
        alone = server.post("/v1/embeddings", {"input": texts[at]})["data"][0]["embedding"]
        assert np.allclose(alone, together[at]["embedding"], atol=1e-6)
    assert server.metric("num_requests_total") == before + 4
    assert server.metric("prompt_tokens_total") > 300


def test_what_it_does_not_do(embedder: tuple[Server, BertModel]) -> None:
    server, _ = embedder
    chat = {"messages": [{"role": "user", "content": "w1"}]}
    for path, body in (
        ("/v1/chat/completions", chat),
        ("/v1/completions", {"prompt": "w1"}),
        ("/generate", {"text": "w1"}),
        ("/v1/score", {"query": "w1", "items": ["w2"], "label_token_ids": [5]}),
    ):
        status, _, answer = server.request(path, body)
        assert status == 400, path
        assert "Serve a model that generates" in answer.decode() or "an embedding model" in answer.decode(), answer
    status, _, answer = server.request("/v1/classify", {"input": "w1"})
    assert status == 400
    assert "a classifier" in answer.decode()
    assert server.request("/health_generate")[0] == 200
    assert server.get("/model_info")["is_generation"] is False


def test_documents_by_angle(embedder: tuple[Server, BertModel]) -> None:
    """An embedding model ranks too, with its prompts."""
    server, model = embedder
    ranked = server.post("/v1/rerank", {"query": "w1 w2", "documents": ["w7 w8", "w1 w2", {"text": "w3"}]})
    query = unit(states_of(model, [2, 15, 7, 8, 3]).mean(0))
    scores = [float(query @ unit(states_of(model, ids).mean(0))) for ids in ([2, 13, 14, 3], [2, 7, 8, 3], [2, 9, 3])]
    assert [entry["index"] for entry in ranked] == sorted(range(3), key=lambda at: -scores[at])
    for entry in ranked:
        assert entry["score"] == pytest.approx(scores[entry["index"]], abs=1e-5)


# -- ranks and classes -------------------------------------------------------------------------------------------------


def logits_of(model: Any, ids: list[int], second: int) -> list[float]:
    types = torch.tensor([[int(at >= second) for at in range(len(ids))]])
    with torch.inference_mode():
        return model(torch.tensor([ids]), token_type_ids=types).logits[0].tolist()


def test_rerank(ranker: tuple[Server, BertForSequenceClassification]) -> None:
    server, model = ranker
    ranked = server.post("/v1/rerank", {"query": "w1", "documents": ["w2 w3", "w4", "w5"]})
    pairs = ([2, 7, 3, 8, 9, 3], [2, 7, 3, 10, 3], [2, 7, 3, 11, 3])
    logits = [logits_of(model, ids, 3)[0] for ids in pairs]
    assert [entry["index"] for entry in ranked] == sorted(range(3), key=lambda at: -logits[at])
    for entry in ranked:
        assert entry["score"] == pytest.approx(1 / (1 + np.exp(-logits[entry["index"]])), abs=1e-5)
        assert entry["document"] == ["w2 w3", "w4", "w5"][entry["index"]]
        assert entry["meta_info"]["prompt_tokens"] == len(pairs[entry["index"]])
    raw = server.post("/encode", {"text": [["w1", "w2 w3"]], "is_cross_encoder_request": True})
    assert raw[0]["embedding"] == pytest.approx([logits[0]], abs=1e-5)


def test_rerank_tells_of_the_best_and_cuts_long_ones(ranker: tuple[Server, BertForSequenceClassification]) -> None:
    server, _ = ranker
    asked = {"query": "w1", "documents": ["w2", "w3 " * 500, "w4"], "top_n": 2, "return_documents": False}
    ranked = server.post("/v1/rerank", asked)
    assert len(ranked) == 2
    assert all(entry["document"] is None for entry in ranked)
    assert max(entry["meta_info"]["prompt_tokens"] for entry in server.post("/v1/rerank", {**asked, "top_n": 9})) == 64


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["w1"] * 1025}, "documents"),
        ({"documents": ["w1", ""]}, "documents"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"instruct": "w1"}, "instruct"),
        ({"documents": "w1"}, "documents"),
    ],
)
def test_bad_ranks(ranker: tuple[Server, Any], changes: dict[str, Any], field: str) -> None:
    status, _, body = ranker[0].request("/v1/rerank", {"query": "w1", "documents": ["w2"], **changes})
    assert status == 400
    assert field in json.loads(body)["error"]["message"]


def test_classify(classifier: tuple[Server, BertForSequenceClassification]) -> None:
    server, model = classifier
    logits = logits_of(model, [2, 7, 8, 3], 99)
    found = server.post("/v1/classify", {"input": ["w1 w2", "w3"]})
    first = found["data"][0]
    assert first["probs"] == pytest.approx(torch.tensor(logits).softmax(0).tolist(), abs=1e-5)
    assert first["label"] == ["bad", "fair", "good"][int(np.argmax(logits))]
    assert (first["num_classes"], first["index"], found["object"]) == (3, 0, "list")
    assert found["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert server.post("/classify", {"text": "w1 w2"})["embedding"] == pytest.approx(logits, abs=1e-5)


def test_score_of_a_classifier(classifier: tuple[Server, BertForSequenceClassification]) -> None:
    server, model = classifier
    logits = logits_of(model, [2, 7, 8, 3], 99)
    assert server.post("/v1/score", {"query": "w1 ", "items": ["w2"]})["scores"][0] == pytest.approx(logits, abs=1e-5)
    soft = server.post("/v1/score", {"query": "w1 ", "items": ["w2"], "apply_softmax": True})["scores"][0]
    assert sum(soft) == pytest.approx(1)
    status, _, body = server.request("/v1/score", {"query": "w1", "items": ["w2"], "label_token_ids": [5]})
    assert status == 400
    assert "label_token_ids" in body.decode()
    status, _, body = server.request("/v1/embeddings", {"input": "w1"})
    assert status == 400
    assert "an embedding model" in body.decode()
    status, _, body = server.request("/v1/rerank", {"query": "w1", "documents": ["w2"]})
    assert status == 400
    assert "3 classes" in body.decode()


# -- a model that generates --------------------------------------------------------------------------------------------


def test_a_generating_reranker(judge: tuple[Server, Any]) -> None:
    """The probability of yes against no, as the next token of the template's prompt; [SEP] in a document is text."""
    server, model = judge
    asked = {"query": "w1", "documents": ["w2", "w3 w4", "[SEP] w5"]}
    ranked = server.post("/v1/rerank", {**asked, "instruct": "w23"})
    assert sorted(entry["index"] for entry in ranked) == [0, 1, 2]
    with torch.inference_mode():
        logits = model(torch.tensor([[29, 7, 27, 9, 10, 28]])).logits[0, -1, 4:6]
    score = next(entry["score"] for entry in ranked if entry["index"] == 1)
    assert score == pytest.approx(float(logits.softmax(0)[0]), abs=1e-4)
    lengths = {entry["index"]: entry["meta_info"]["prompt_tokens"] for entry in ranked}
    assert lengths == {0: 5, 1: 6, 2: 6}


def test_a_generating_model_gives_no_embeddings(judge: tuple[Server, Any], stories: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="Serve an embedding model"):
        client_of(judge[0]).embeddings.create(model="default", input="w1")
    for path, body in (("/encode", {"text": "w1"}), ("/classify", {"text": "w1"}), ("/v1/classify", {"input": "w1"})):
        status, _, answer = judge[0].request(path, body)
        assert status == 400
        assert b"--is-embedding" in answer
    status, _, answer = stories.request("/v1/rerank", {"query": "a", "documents": ["b"]})
    assert status == 400
    assert "does not judge" in answer.decode()


def test_the_documentation_lists_them(judge: tuple[Server, Any]) -> None:
    document = judge[0].get("/openapi.json")
    for path in ("/v1/embeddings", "/v1/rerank", "/v1/classify", "/encode", "/classify"):
        assert path in document["paths"]
    assert "embed_overrides" in document["components"]["schemas"]["EmbeddingRequest"]["x-refused"]
