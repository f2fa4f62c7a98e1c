"""What each route of `ramify bench serve` is asked, and what its events say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ramify.bench.backends import BACKENDS, CHAT, COMPLETIONS, NATIVE, Answer, Asking, Backend, Failed, News

ASKING = Asking("m", temperature=0.5)


def body(backend: Backend, *, history: list[Any] | None = None, content: Any = "hi", asking: Asking = ASKING) -> Any:
    return json.loads(backend.request(asking, history or [], content, 7))


def answered(text: str, *ids: int) -> Answer:
    return Answer(pieces=[text], ids=list(ids))


def test_native_asks_in_text_or_ids() -> None:
    params = {"temperature": 0.5, "max_new_tokens": 7, "ignore_eos": True}
    assert body(NATIVE) == {"text": "hi", "sampling_params": params, "stream": True}
    assert body(NATIVE, content=[3, 4])["input_ids"] == [3, 4]


def test_openai_asks_for_usage() -> None:
    common = {"model": "m", "temperature": 0.5, "stream": True, "stream_options": {"include_usage": True}}
    assert body(COMPLETIONS) == common | {"prompt": "hi", "max_tokens": 7, "ignore_eos": True}
    polite = Asking("m", temperature=0.5, ignore_eos=False)
    asked = body(CHAT, asking=polite)
    assert asked == common | {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 7}


def test_history_is_sent_again() -> None:
    history = [("one", answered("two")), ("three", answered("four"))]
    assert body(COMPLETIONS, history=history, content="five")["prompt"] == "onetwo\nthreefour\nfive"
    told = [
        (message["role"], message["content"]) for message in body(CHAT, history=history, content="five")["messages"]
    ]
    assert told == [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "five")]
    ids = [([1, 2], answered("", 3)), ([4], answered("", 5, 6))]
    assert body(NATIVE, history=ids, content=[7])["input_ids"] == [1, 2, 3, 4, 5, 6, 7]


def test_extra_fields_are_merged() -> None:
    extra = Asking("m", extra={"sampling_params": {"top_p": 0.5, "temperature": 1}, "priority": 3})
    asked = body(NATIVE, asking=extra)
    assert asked["sampling_params"] == {"temperature": 1, "max_new_tokens": 7, "ignore_eos": True, "top_p": 0.5}
    assert asked["priority"] == 3


def test_every_name_of_sglang_has_its_route() -> None:
    paths = {name: backend.path for name, backend in BACKENDS.items()}
    assert {name for name, path in paths.items() if path == "/generate"} == {"native", "sglang", "sglang-native"}
    assert {name for name, path in paths.items() if path == "/v1/completions"} == {
        "openai", "sglang-oai", "vllm", "lmdeploy",
    }  # fmt: skip
    assert {name for name, path in paths.items() if path == "/v1/chat/completions"} == {
        "openai-chat", "sglang-oai-chat", "vllm-chat", "lmdeploy-chat",
    }  # fmt: skip


# -- what comes back ---------------------------------------------------------------------------------------------------


def heard(backend: Backend, *events: dict[str, Any]) -> tuple[list[News], Answer]:
    answer = Answer()
    return [backend.read(answer, json.dumps(event).encode()) for event in events], answer


def piece(text: str | None, ids: list[int] | None, tokens: int, finish: Any = None) -> dict[str, Any]:
    meta = {"prompt_tokens": 9, "completion_tokens": tokens, "cached_tokens": 4, "finish_reason": finish}
    return {"text": text, "meta_info": meta} | ({} if ids is None else {"output_ids": ids})


WHOLE = [piece("a", [1], 1), piece("ab", [1, 2], 2), piece("ab", [1, 2, 3], 3)]
NEW = [piece("a", [1], 1), piece("b", [2], 2), piece("", [3], 3)]


@pytest.mark.parametrize(
    ("events", "last"),
    [
        pytest.param(WHOLE, piece("ab", [1, 2, 3], 3, {"type": "length", "length": 3}), id="everything so far"),
        pytest.param(NEW, piece("", [], 3, {"type": "length", "length": 3}), id="what is new"),
    ],
)
def test_native_events(events: list[dict[str, Any]], last: dict[str, Any]) -> None:
    news, answer = heard(NATIVE, *events, last)
    assert news == [News.CONTENT] * 3 + [News.END]
    assert (answer.text, answer.ids, answer.finish) == ("ab", [1, 2, 3], "length")
    assert (answer.prompt_tokens, answer.output_tokens, answer.cached_tokens) == (9, 3, 4)


def test_native_events_without_ids() -> None:
    _, answer = heard(NATIVE, piece("On", None, 1), piece("Once", None, 2), piece("Once upon", None, 3))
    assert answer.text == "Once upon"
    _, answer = heard(NATIVE, piece("On", None, 1), piece("ce", None, 2), piece(" upon", None, 3))
    assert answer.text == "Once upon"


def chunk(text: str | None = None, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    inner: dict[str, Any] = {"delta": delta} if delta else {"text": text}
    return {"choices": [{"index": 0, "finish_reason": finish, **inner}]}


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}


def test_openai_events() -> None:
    news, answer = heard(
        COMPLETIONS, chunk("a"), chunk(""), chunk("b", "length"), chunk("", "stop"), {"choices": [], "usage": USAGE}
    )
    assert news == [News.CONTENT, News.NOTHING, News.CONTENT, News.END, News.NOTHING]
    assert (answer.text, answer.finish) == ("ab", "stop")
    assert (answer.prompt_tokens, answer.output_tokens, answer.cached_tokens) == (5, 2, 3)


@pytest.mark.parametrize("kind", ["content", "reasoning_content", "reasoning", "tool_calls"])
def test_whatever_a_chat_says_is_content(kind: str) -> None:
    said: Any = [{"index": 0}] if kind == "tool_calls" else "hm"
    news, answer = heard(CHAT, chunk(role="assistant", content=""), chunk(**{kind: said}))
    assert news == [News.NOTHING, News.CONTENT]
    assert answer.text == ("hm" if kind == "content" else "")


def test_counts_that_nobody_gives_stay_unknown() -> None:
    _, answer = heard(COMPLETIONS, chunk("a"), {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}})
    assert answer.cached_tokens is None
    _, answer = heard(COMPLETIONS, chunk("a"))
    assert answer.output_tokens is None


@pytest.mark.parametrize(
    ("backend", "event", "says"),
    [
        (NATIVE, {"error": {"message": "queue full", "code": 503}}, "queue full"),
        (NATIVE, piece("", [], 0, {"type": "abort", "message": "shut down"}), "broke the answer off: shut down"),
        (COMPLETIONS, {"error": {"message": "out of memory"}}, "out of memory"),
        (COMPLETIONS, {"error": "plain words"}, "plain words"),
        (CHAT, {"object": "error", "message": "old style", "code": 400}, "old style"),
        (CHAT, chunk("", "abort"), "broke the answer off: abort"),
        (CHAT, {"choices": "no list"}, "cannot be read"),
    ],
)
def test_errors_inside_a_stream(backend: Backend, event: dict[str, Any], says: str) -> None:
    with pytest.raises(Failed, match=says):
        heard(backend, event)


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b'{"error": "\xff"}', b"nonsense"])
@pytest.mark.parametrize("backend", [NATIVE, COMPLETIONS])
def test_events_that_are_no_events(backend: Backend, data: bytes) -> None:
    with pytest.raises(Failed, match="cannot be read"):
        backend.read(Answer(), data)
