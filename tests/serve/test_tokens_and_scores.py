"""Tokenizing, detokenizing and scoring over HTTP."""

from __future__ import annotations

import math

import pytest
from server import Server

TEXT = "Once upon a time there was a fox."


def test_there_and_back(stories: Server) -> None:
    found = stories.post("/v1/tokenize", {"prompt": TEXT})
    bare = stories.post("/v1/tokenize", {"prompt": TEXT, "add_special_tokens": False})
    assert found["count"] == len(found["tokens"]) == bare["count"] + 1  # the story's beginning
    assert found["max_model_len"] == 512
    assert stories.post("/v1/detokenize", {"tokens": bare["tokens"]}) == {"text": TEXT, "prompt": TEXT}
    meta = stories.post("/generate", {"text": TEXT, "sampling_params": {"max_new_tokens": 0}})["meta_info"]
    assert meta["prompt_tokens"] == found["count"]


def test_what_the_tokenizer_is(stories: Server) -> None:
    found = stories.get("/tokenizer_info")
    assert (found["bos_token"], found["unk_token"]) == ("<|start_story|>", "<unk>")
    assert found["chat_template"] is None


def test_several_at_once(stories: Server) -> None:
    found = stories.post("/tokenize", {"prompt": [TEXT, "One day"], "add_special_tokens": False})
    assert found["count"] == [len(tokens) for tokens in found["tokens"]]
    assert stories.post("/detokenize", {"tokens": found["tokens"]})["text"] == [TEXT, "One day"]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/tokenize", {}, "exactly one"),
        ("/v1/tokenize", {"prompt": ""}, "empty"),
        ("/v1/tokenize", {"prompt": []}, "empty"),
        ("/v1/tokenize", {"messages": [{"role": "user", "content": "x"}]}, "no chat template"),
        ("/v1/detokenize", {"tokens": [-1]}, "-1"),
        ("/v1/detokenize", {"tokens": [1 << 40]}, "not a token id"),
        ("/v1/detokenize", {"tokens": []}, "empty"),
        ("/v1/score", {"query": "a", "items": ["b"], "label_token_ids": []}, "label_token_ids"),
        ("/v1/score", {"query": "a", "items": [[1]], "label_token_ids": [1]}, "items"),
        ("/v1/score", {"query": "a", "items": [], "label_token_ids": [1]}, "items"),
        ("/v1/score", {"query": "a", "items": ["b"], "label_token_ids": [99999]}, "label_token_ids"),
        ("/v1/score", {"query": "a", "items": ["b"], "label_token_ids": [5], "temperature": 0}, "temperature"),
        ("/v1/score", {"query": "a", "items": ["b"], "label_token_ids": [5], "temperature": 1e16}, "temperature"),
    ],
)
def test_what_cannot_be_done(stories: Server, path: str, body: dict, says: str) -> None:
    status, _, answer = stories.request(path, body)
    assert status == 400
    assert says in answer.decode()


def test_scores_are_the_probabilities_of_the_next_token(stories: Server) -> None:
    labels = [10, 20, 400]
    body = {"query": "Once upon a ", "items": ["time", "fox"], "label_token_ids": labels}
    found = stories.post("/v1/score", body)
    for item, scores in zip(body["items"], found["scores"], strict=True):
        generated = {"text": "Once upon a " + item, "sampling_params": {"max_new_tokens": 1, "ignore_eos": True}}
        meta = stories.post("/generate", {**generated, "return_logprob": True, "token_ids_logprob": labels})[
            "meta_info"
        ]
        expected = [math.exp(value) for value, _, _ in meta["output_token_ids_logprobs"][0]]
        assert scores == pytest.approx(expected, rel=1e-5)
    softmax = stories.post("/v1/score", {**body, "apply_softmax": True})["scores"]
    for plain, normal in zip(found["scores"], softmax, strict=True):
        assert sum(normal) == pytest.approx(1)
        assert normal == pytest.approx([p / sum(plain) for p in plain], rel=1e-5)


def test_item_first_is_the_other_order(stories: Server) -> None:
    one = stories.post(
        "/v1/score", {"query": "time", "items": "Once upon a ", "item_first": True, "label_token_ids": [9]}
    )
    two = stories.post("/v1/score", {"query": "Once upon a ", "items": ["time"], "label_token_ids": [9]})
    assert one["scores"] == two["scores"]
    assert one["usage"] == two["usage"]
