"""lm-evaluation-harness: likelihoods by text completions, generation by both routes, on tasks of a few lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from server import Server

from assets import BUNDLED

pytest.importorskip("lm_eval", reason="`make test-clients` installs it and runs this")

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

ROWS = [
    {"begin": "Once upon a time, there was a little", "ends": [" girl", " of", " because it"], "gold": 0},
    {"begin": "The sun was shining and the sky was", "ends": [" the", " blue", " quickly and"], "gold": 1},
    {"begin": "She was very happy and said, \"Thank", "ends": [" house", " you!\"", " 17"], "gold": 1},
    {"begin": "Tim wanted to play with his", "ends": [" friends.", " is.", "?"], "gold": 0},
    {"begin": "I need a train to", "ends": [" Cambridge", " é", " and and"], "gold": 0},
]  # fmt: skip


def task(folder: Path, rows: list[dict[str, Any]] = ROWS, **more: Any) -> dict[str, Any]:
    """Read from a file here, with nothing from the hub."""
    written = folder / "rows.jsonl"
    written.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(written)}, "cache_dir": str(folder / "cache")}
    return {"task": "beginnings", "dataset_path": "json", "dataset_kwargs": data, "test_split": "test", **more}


def evaluate(server: Server, kind: str, asked: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """What was measured of every row."""
    route = "/v1/chat/completions" if "chat" in kind else "/v1/completions"
    arguments = {"model": "concierge", "base_url": server.url + route, "max_retries": 1, **more}
    found = simple_evaluate(
        model=kind,
        model_args=arguments,
        tasks=[asked],
        task_manager=TaskManager(include_defaults=False),
        apply_chat_template="chat" in kind,
        log_samples=True,
        bootstrap_iters=0,
        batch_size=arguments.pop("batch_size", 1),
    )
    samples = found["samples"]["beginnings"]
    assert len(samples) == len(ROWS)
    return sorted(samples, key=lambda sample: sample["doc_id"])


CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{begin}}",
    "doc_to_choice": "{{ends}}",
    "doc_to_target": "{{gold}}",
    "target_delimiter": "",
}
OWN = {"tokenizer": str(BUNDLED), "tokenizer_backend": "huggingface"}


def likelihood(server: Server, begin: str, end: str) -> float:
    """Of `end` after `begin`, by the native route."""
    whole = server.post("/tokenize", {"prompt": begin + end, "add_special_tokens": False})["tokens"]
    first = server.post("/tokenize", {"prompt": begin, "add_special_tokens": False})["count"]
    body = {"input_ids": whole, "sampling_params": {"max_new_tokens": 0}}
    answer = server.post("/generate", {**body, "return_logprob": True, "logprob_start_len": 0})
    return sum(entry[0] for entry in answer["meta_info"]["input_token_logprobs"][first:])


@pytest.mark.parametrize(
    "more",
    [OWN, {**OWN, "batch_size": 4}, {**OWN, "num_concurrent": 3}, {**OWN, "tokenized_requests": False}, {}],
    ids=["one by one", "in batches", "at once", "as text", "with the server's own tokenizer"],
)
def test_likelihoods_are_those_of_the_model(concierge: Server, tmp_path: Path, more: dict[str, Any]) -> None:
    samples = evaluate(concierge, "local-completions", task(tmp_path, **CHOICE), **more)
    for row, sample in zip(ROWS, samples, strict=True):
        measured = [float(response[0][0]) for response in sample["resps"]]
        wanted = [likelihood(concierge, row["begin"], end) for end in row["ends"]]
        assert measured == pytest.approx(wanted, abs=1e-3)
        assert sample["acc"] == (wanted.index(max(wanted)) == row["gold"])


def test_what_the_model_would_have_said_is_greedy(concierge: Server, tmp_path: Path) -> None:
    """Compared number by number with the best of `top_logprobs`: they have to be the same to the last bit."""
    params = {"temperature": 0, "max_new_tokens": 3, "ignore_eos": True}
    rows = []
    for row in ROWS:
        said = concierge.post("/generate", {"text": row["begin"], "sampling_params": params})["text"]
        rows.append({**row, "ends": [said, " zebra zebra"], "gold": 0})
    samples = evaluate(concierge, "local-completions", task(tmp_path, rows, **CHOICE), **OWN)
    greedy = [[str(response[0][1]) for response in sample["resps"]] for sample in samples]
    assert greedy == [["True", "False"]] * len(rows)


def test_likelihood_of_a_whole_text(concierge: Server, tmp_path: Path) -> None:
    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{begin}}",
        "metric_list": [{"metric": "word_perplexity"}],
    }
    samples = evaluate(concierge, "local-completions", task(tmp_path, **rolling), **OWN)
    for row, sample in zip(ROWS, samples, strict=True):
        assert float(sample["resps"][0][0]) == pytest.approx(
            likelihood(concierge, "<|im_end|>", row["begin"]), abs=1e-3
        )


@pytest.mark.parametrize("kind", ["local-completions", "local-chat-completions"])
def test_generation(concierge: Server, tmp_path: Path, kind: str) -> None:
    asked = task(
        tmp_path,
        output_type="generate_until",
        doc_to_text="{{begin}}",
        doc_to_target="{{ends[gold]}}",
        generation_kwargs={"until": ["\n\n", "."], "max_gen_toks": 12, "temperature": 0, "do_sample": False},
        metric_list=[{"metric": "exact_match"}],
    )
    samples = evaluate(concierge, kind, asked, **({} if "chat" in kind else OWN))
    for row, sample in zip(ROWS, samples, strict=True):
        ((said,),) = sample["resps"]
        body: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "stop": ["\n\n", "."]}
        if "chat" in kind:
            messages = [{"role": "user", "content": row["begin"]}]
            answer = concierge.post("/v1/chat/completions", {**body, "messages": messages})
            assert said == answer["choices"][0]["message"]["content"]
        else:
            assert said == concierge.post("/v1/completions", {**body, "prompt": row["begin"]})["choices"][0]["text"]
