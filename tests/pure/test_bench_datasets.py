"""What `ramify bench serve` sends: lengths to the token, what begins alike, what a file holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets import BUNDLED, SHARED
from ramify.bench.datasets import Workload, make, read_sharegpt
from ramify.bench.options import DataOptions
from ramify.bench.words import CountedWords, PlainWords, RandomIds, Source
from ramify.core.errors import StartupError
from ramify.text.tokenizer import Tokenizer, load_tokenizer

FOLDERS = [
    BUNDLED,
    SHARED / "weights/TinyStories-656K",
    SHARED / "weights/stories260K/derived-hf",
    SHARED / "tokenizers/phi/phi-2",
    SHARED / "tokenizers/phi/phi-3-mini",
]
DATASETS = ("random", "generated-shared-prefix", "multi-turn")


@cache
def bundled() -> Tokenizer:
    return load_tokenizer(BUNDLED)


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if not request.param.exists():
        pytest.skip(f"test material {request.param.name} is not beside the project")
    return load_tokenizer(request.param)


@pytest.fixture(scope="module")
def ids() -> RandomIds:
    return RandomIds(bundled())


@pytest.mark.parametrize("framed", [True, False])
def test_words_have_the_tokens_that_were_asked_for(tokenizer: Tokenizer, framed: bool) -> None:
    source, random = CountedWords(tokenizer, framed), Random(1)
    own = len(tokenizer.encode("", add_special_tokens=framed))
    for total in (own + 1, own + 2, 7, 64, 500):
        text = source.more(random, None, total)
        assert len(tokenizer.encode(text, add_special_tokens=framed)) == total, text
        longer = text + source.more(random, text, total + 9)
        assert len(tokenizer.encode(longer, add_special_tokens=framed)) == total + 9, longer


def test_ids_have_the_length_and_no_special_token(tokenizer: Tokenizer) -> None:
    source, random = RandomIds(tokenizer, vocab=tokenizer.size - 5), Random(1)
    prompt = source.more(random, None, 3000)
    assert len(prompt) == 3000
    assert not set(prompt) & tokenizer.special
    assert max(prompt) < tokenizer.size - 5
    assert len(source.more(random, prompt, 3010)) == 10


def test_words_nobody_can_count_are_estimated() -> None:
    source = PlainWords(tokens_per_word=1.25)
    text = source.more(Random(0), None, 100)
    assert len(text.split()) == 80
    assert source.count(text) == 100
    assert len((text + source.more(Random(0), text, 200)).split()) == 160
    assert not source.exact


def lengths(workload: Workload) -> list[tuple[int, ...]]:
    return [tuple(len(turn.content) for turn in conversation.turns) for conversation in workload.conversations]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([0.0, 0.3, 1.0]))
def test_random_lengths_stay_in_their_range(longest: int, output: int, ratio: float) -> None:
    options = DataOptions(num_prompts=25, random_input_len=longest, random_output_len=output, random_range_ratio=ratio)
    workload = make(options, RandomIds(bundled()), 3, None)
    assert workload.requests == 25
    for conversation in workload.conversations:
        (turn,) = conversation.turns
        assert turn.input_len == len(turn.content)
        assert max(int(longest * ratio), 1) <= len(turn.content) <= longest
        assert max(int(output * ratio), 1) <= turn.output_len <= output


def test_groups_share_their_beginning_and_nothing_else(ids: RandomIds) -> None:
    options = DataOptions(
        dataset_name="generated-shared-prefix",
        gsp_num_groups=3,
        gsp_prompts_per_group=4,
        gsp_system_prompt_len=20,
        gsp_question_len=6,
        gsp_output_len=5,
    )
    workload = make(options, ids, 0, context=31)
    assert lengths(workload) == [(26,)] * 12
    prompts = [tuple(conversation.turns[0].content) for conversation in workload.conversations]
    heads = {prompt[:20] for prompt in prompts}
    assert len(heads) == 3
    assert {head[0] for head in heads} != {prompts[0][0]}
    for head in heads:
        assert sum(prompt[:20] == head for prompt in prompts) == 4
    assert all(one[20:] != two[20:] for one, two in combinations(prompts, 2))
    assert [prompt[:20] for prompt in prompts] != sorted((p[:20] for p in prompts), key=list(heads).index)  # shuffled


def test_groups_of_words_have_their_tokens(tokenizer: Tokenizer) -> None:
    options = DataOptions(
        dataset_name="generated-shared-prefix", gsp_num_groups=2, gsp_prompts_per_group=3, gsp_system_prompt_len=40
    )
    workload = make(options, CountedWords(tokenizer, framed=False), 0, None)
    for conversation in workload.conversations:
        (turn,) = conversation.turns
        assert len(tokenizer.encode(turn.content, add_special_tokens=False)) == turn.input_len == 72


def test_conversations(ids: RandomIds) -> None:
    options = DataOptions(
        dataset_name="multi-turn",
        multi_turn_num_users=3,
        multi_turn_num_turns=4,
        multi_turn_input_len=7,
        multi_turn_output_len=5,
    )
    workload = make(options, ids, 0, context=48)
    assert lengths(workload) == [(7, 7, 7, 7)] * 3
    assert workload.requests == 12
    with pytest.raises(StartupError, match="48 tokens, and the server's context has 47"):
        make(options, ids, 0, context=47)


@pytest.mark.parametrize("name", DATASETS)
def test_a_seed_decides_everything(ids: RandomIds, name: str) -> None:
    options = replace(DataOptions(num_prompts=5, random_range_ratio=0.1), dataset_name=name)  # type: ignore[arg-type]
    assert make(options, ids, 7, None) == make(options, ids, 7, None)
    assert make(options, ids, 7, None).conversations != make(options, ids, 8, None).conversations


@pytest.mark.parametrize("name", DATASETS)
def test_what_does_not_fit_is_refused(ids: RandomIds, name: str) -> None:
    with pytest.raises(StartupError, match="context has 9"):
        make(replace(DataOptions(), dataset_name=name), ids, 0, context=9)  # type: ignore[arg-type]


# -- files -------------------------------------------------------------------------------------------------------------


def said(*turns: tuple[str, str]) -> dict:
    return {"conversations": [{"from": who, "value": text} for who, text in turns]}


def written(folder: Path, what: object) -> DataOptions:
    file = folder / "talk.json"
    file.write_text(what if isinstance(what, str) else json.dumps(what))
    return DataOptions(dataset_name="sharegpt", dataset_path=str(file))


def test_the_first_question_with_an_answer(tmp_path: Path) -> None:
    entries = [
        said(("human", "one"), ("gpt", "two"), ("human", "three"), ("gpt", "four")),
        said(("system", "be kind"), ("user", "five"), ("assistant", "six")),
        {"conversation": said(("human", "seven"), ("gpt", "eight"))["conversations"]},
        said(("gpt", "answers nobody"), ("human", "asks in vain")),
        said(("human", ""), ("gpt", "x")),
        said(("human", "only")),
    ]
    path = Path(written(tmp_path, entries).dataset_path or "")
    assert read_sharegpt(path) == [("one", "two"), ("five", "six"), ("seven", "eight")]


def test_answers_set_the_length(tmp_path: Path) -> None:
    source = CountedWords(bundled(), framed=False)
    talk = said(("human", "Tell me of the sea"), ("gpt", "It is wide and it is deep"))
    options = replace(written(tmp_path, [talk] * 4), num_prompts=3)
    workload = make(options, source, 0, None)
    turns = [conversation.turns[0] for conversation in workload.conversations]
    asked = (source.count("Tell me of the sea"), source.count("It is wide and it is deep"))
    assert [(turn.input_len, turn.output_len) for turn in turns] == [asked] * 3
    assert workload.notes == []
    fixed = make(replace(options, sharegpt_output_len=2), source, 0, None)
    assert {conversation.turns[0].output_len for conversation in fixed.conversations} == {2}


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    source = CountedWords(bundled(), framed=False)
    talks = [said(("human", "short"), ("gpt", "yes")), said(("human", "word " * 200), ("gpt", "no"))]
    workload = make(written(tmp_path, talks), source, 0, context=50)
    assert workload.requests == 1
    assert "1 conversations were left out" in workload.notes[0]
    assert "gives 1 requests, 100 were asked for" in workload.notes[1]
    with pytest.raises(StartupError, match="longer than the context"):
        make(written(tmp_path, talks[1:]), source, 0, context=50)


def garbage() -> Iterator[object]:
    yield from ("", "{]", "[" * 100_000, "\udcff", "{}", "5", "null", "[]", '"talk"')
    yield from ([5, None, "x"], [{"conversations": 5}], [{"conversations": "talk"}], [{"conversations": [1, None]}])
    yield [{"conversations": [{"from": "human", "value": 5}, {"from": "gpt", "value": ["x"]}]}]
    yield [{"conversations": [{"from": ["human"], "value": "a"}, {"from": {}, "value": "b"}]}]


@pytest.mark.parametrize("what", list(garbage()), ids=lambda what: str(what)[:20].encode("ascii", "replace").decode())
def test_garbage_is_refused_in_a_line(tmp_path: Path, what: object) -> None:
    file = tmp_path / "garbage.json"
    file.write_bytes((what if isinstance(what, str) else json.dumps(what)).encode("utf-8", "surrogateescape"))
    with pytest.raises(StartupError, match=r"garbage\.json") as refusal:
        read_sharegpt(file)
    assert "conversations" in refusal.value.remedy


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        read_sharegpt(tmp_path / "nothing.json")


def test_every_source_is_a_source(tokenizer: Tokenizer) -> None:
    sources: list[Source] = [RandomIds(tokenizer), CountedWords(tokenizer, True), PlainWords(1.3)]
    assert [source.exact for source in sources] == [True, True, False]
