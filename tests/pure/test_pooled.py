"""Requests of models with a head: computed whole where nothing is kept, read by the files of sentence-transformers, cut
where that is asked for.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from world import World, prompts, submit

from ramify.cache.unpaged import Unpaged
from ramify.config.head import Head
from ramify.config.machine import Machine
from ramify.config.read import overlay
from ramify.config.resolve import resolve
from ramify.config.settings import Settings
from ramify.config.task import read_model, split
from ramify.core.errors import BadRequest, StartupError
from ramify.engine.ask import Ask, Limits, pooling_of, submits
from ramify.engine.pooled import check_dimensions, probabilities, relevance, sigmoid
from ramify.models.preflight import checked_tensors
from ramify.text.passages import PassageReader, shared
from ramify.text.tokenizer import load_tokenizer
from ramify.wire import codec
from ramify.wire.messages import Reply, Submit
from ramify.wire.plan import Plan, Pooling
from ramify.worker.fake import FakeExecutor
from words import words

LONGEST = 80


class _Watching(FakeExecutor):
    """Remembers the plans."""

    def launch(self, plan: Plan) -> None:
        self.plans = [*getattr(self, "plans", []), plan]
        super().launch(plan)


def world(**more: Any) -> World:
    made = World(page_size=LONGEST, pool=16 * LONGEST, chunk=128, whole=True, reuse=False,
                 executor_class=_Watching, **more)  # fmt: skip
    return made


def pooled(rid: str, tokens: list[int], **more: Any) -> Submit:
    return submit(rid, tokens, 0, pooling=Pooling(whole=True), **more)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_texts_are_computed_whole_and_within_the_budget(depth: int) -> None:
    made, given = world(depth=depth), prompts(random.Random(depth), 60, LONGEST)
    for number, tokens in enumerate(given):
        made.send(pooled(str(number), tokens))
    made.drain()
    rows = [(plan, row) for plan in made.executor.plans for row in plan.rows]
    assert sorted(row.count for _, row in rows) == sorted(map(len, given))
    assert all(plan.tokens <= 128 for plan, _ in rows)
    assert max(len(plan.rows) for plan, _ in rows) > 1
    assert all(outcome.finish is not None and not outcome.finish.is_error for outcome in made.outcomes.values())
    assert not made.executor.damage


def test_the_same_text_waits_for_nobody() -> None:
    """There is no prefix to be had from a leader."""
    made = world()
    for number in range(3):
        made.send(pooled(str(number), [5] * 40))
    made.step()
    assert len(made.executor.plans[0].rows) == 3


def test_a_long_text_is_not_starved_by_short_ones() -> None:
    made = world(depth=1)
    made.send(*[pooled(f"a{at}", [3] * 30) for at in range(8)])
    made.send(pooled("long", [4] * LONGEST))
    made.send(*[pooled(f"b{at}", [3] * 30) for at in range(20)])
    made.drain()
    assert made.finished_order.index("long") < made.finished_order.index("b0") + 8


def test_one_that_breaks_its_step_ends_alone() -> None:
    """Also in the steps that look for it, a text is whole."""

    class Breaking(_Watching):
        def run(self, plan: Plan) -> Any:
            if any(self.slots[row.slot].tokens[0] == 9 for row in plan.rows if row.slot in self.slots) or any(
                new.tokens[0] == 9 for new in plan.opened
            ):
                raise RuntimeError("broken")
            return super().run(plan)

    made = World(page_size=LONGEST, pool=16 * LONGEST, chunk=512, whole=True, reuse=False, executor_class=Breaking)
    made.send(pooled("good", [5] * 70), pooled("bad", [9] * 70), pooled("fine", [6] * 3))
    made.drain()
    found = {rid: outcome.finish for rid, outcome in made.outcomes.items()}
    assert found["bad"] is not None
    assert found["bad"].is_error
    assert all(found[rid] is not None and not found[rid].is_error for rid in ("good", "fine"))
    assert all(row.count in (70, 3) for plan in made.executor.plans for row in plan.rows)


def test_longer_than_a_step_is_refused() -> None:
    with pytest.raises(BadRequest, match="longer than a step"):
        World(page_size=256, chunk=128, whole=True).scheduler.submit(pooled("a", [5] * 129))


def test_books_without_pages() -> None:
    books = Unpaged(4, 100)
    leases = [books.open(books.match(b"", ""))[0] for _ in range(4)]
    assert all(books.grow(lease, 100) for lease in leases)
    assert books.check() == []
    assert books.used == 0
    books.close(leases[0], b"", 0, last_step=3)
    assert books.in_limbo
    books.settle(3)
    assert books.check() == []


def test_a_cached_prefix_is_not_used_where_every_state_counts() -> None:
    made = World(page_size=4)
    made.send(submit("first", [5] * 40, 0))
    made.drain()
    made.send(submit("last", [5] * 40, 0, pooling=Pooling()), submit("mean", [5] * 40, 0, pooling=Pooling(whole=True)))
    made.drain()
    assert made.outcomes["last"].cached > 0
    assert made.outcomes["mean"].cached == 0


def test_pooling_crosses_the_wire() -> None:
    sent = submit("a", [1], 0, pooling=Pooling(3, 2, True))
    assert codec.decode_to_engine(codec.encode(sent)) == sent
    reply = Reply("a", 0, [], pooled=b"\0\1")
    assert codec.encode(reply)


# -- what is asked -----------------------------------------------------------------------------------------------------

HEAD = Head("embed", ("mean",), 8, normalize=True)


def limits(head: Head | None = HEAD) -> Limits:
    return Limits(context=10, vocab=50, head=head)


def test_a_text_may_fill_the_context() -> None:
    (sent,) = submits(Ask(tokens=[1] * 10, pooling=pooling_of(HEAD)), limits(), 0)
    assert (sent.max_new_tokens, sent.stride, sent.pooling) == (0, 0, Pooling(whole=True))
    with pytest.raises(BadRequest, match="longer than the model's context length"):
        submits(Ask(tokens=[1] * 11, pooling=pooling_of(HEAD)), limits(), 0)


def test_each_model_does_what_its_head_does() -> None:
    with pytest.raises(BadRequest, match="--is-embedding"):
        submits(Ask(tokens=[1], pooling=Pooling()), limits(None), 0)
    with pytest.raises(BadRequest, match="generates no text"):
        submits(Ask(tokens=[1]), limits(), 0)


def test_dimensions_that_the_model_names() -> None:
    head = Head("embed", ("mean",), 8, dimensions=(2, 4))
    for good in (None, 2, 4, 8):
        check_dimensions(head, good)
    with pytest.raises(BadRequest, match="2, 4"):
        check_dimensions(head, 3)


def test_scores() -> None:
    one = Head("classify", ("cls",), 1, squash="sigmoid")
    assert relevance([0.0], one) == 0.5
    assert relevance([2.0], Head("classify", ("cls",), 1)) == 2.0
    assert relevance([0.0, 0.0], Head("classify", ("cls",), 2)) == 0.5
    assert sigmoid(-1e4) == 0.0
    assert sigmoid(1e4) == 1.0
    assert sum(probabilities([1e4, 0.0, -1e4])) == pytest.approx(1)
    assert probabilities([0.0, 0.0], one_of_many=False) == [0.5, 0.5]


# -- texts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "room", "found"),
    [
        (3, 4, 10, (3, 4)),
        (3, 40, 10, (3, 7)),
        (40, 3, 10, (7, 3)),
        (40, 50, 10, (5, 5)),
        (40, 50, 11, (5, 6)),
        (50, 40, 11, (6, 5)),
        (0, 9, 4, (0, 4)),
    ],
)
def test_two_texts_share_the_room(first: int, second: int, room: int, found: tuple[int, int]) -> None:
    assert shared(first, second, room) == found


def test_two_texts_are_cut_as_the_library_cuts_them(tmp_path: Path) -> None:
    words(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    reader, rnd = PassageReader(tokenizer, None), random.Random(1)
    theirs = type(tokenizer.backend).from_str(tokenizer.backend.to_str())
    for _ in range(200):
        pair = tuple(" ".join(f"w{rnd.randrange(200)}" for _ in range(rnd.randrange(1, 30))) for _ in range(2))
        longest = rnd.randrange(5, 50)
        theirs.enable_truncation(longest)
        exact = theirs.encode(*pair)
        (ours,) = reader.read_pairs([(pair[0], pair[1])], longest)
        assert ours.tokens == exact.ids
        assert [int(at >= ours.second) for at in range(len(ours.tokens))] == exact.type_ids
        (alone,) = reader.read([pair[0]], "", longest)
        assert alone.tokens == theirs.encode(pair[0]).ids


def test_an_end_that_the_template_does_not_know_of(tmp_path: Path) -> None:
    """Mistral's embedders say so in tokenizer_config.json."""
    words(tmp_path, last="")
    config = {"add_eos_token": True, "eos_token": "[SEP]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    reader = PassageReader(load_tokenizer(tmp_path), None)
    assert reader.read(["w1 w2"])[0].tokens == [2, 7, 8, 3]
    assert reader.read(["w1 w2 w3 w4"], "", 4)[0].tokens == [2, 7, 8, 3]


def test_a_prompt_that_is_read_and_not_pooled(tmp_path: Path) -> None:
    words(tmp_path)
    head = Head("embed", ("mean",), 8, skip_prompt=True, lower=True)
    (passage,) = PassageReader(load_tokenizer(tmp_path), head).read(["W3"], "w1 w2 ")
    assert (passage.tokens, passage.skip) == ([2, 7, 8, 9, 3], 3)


# -- models ------------------------------------------------------------------------------------------------------------

BERT = {
    "architectures": ["BertModel"],
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def folder_of(tmp_path: Path, raw: dict[str, Any], **files: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(raw))
    for name, content in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("architecture", "found"),
    [
        ("Qwen3ForCausalLM", ("Qwen3", "ForCausalLM")),
        ("GPT2LMHeadModel", ("GPT2", "LMHeadModel")),
        ("BertModel", ("Bert", "Model")),
        ("XLMRobertaForSequenceClassification", ("XLMRoberta", "ForSequenceClassification")),
        ("Qwen2ForProcessRewardModel", ("Qwen2", "ForProcessRewardModel")),
        ("Qwen2ForRewardModel", ("Qwen2", "ForRewardModel")),
        ("SomethingElse", ("SomethingElse", "")),
    ],
)
def test_architectures_by_their_names(architecture: str, found: tuple[str, str]) -> None:
    assert split(architecture) == found


def modules(*kinds: str) -> list[dict[str, Any]]:
    return [{"idx": at, "path": "" if at == 0 else f"{at}_{k}", "type": f"x.{k}"} for at, k in enumerate(kinds)]


def test_heads_by_their_files(tmp_path: Path) -> None:
    plain = read_model(folder_of(tmp_path, BERT)).head
    assert plain == Head("embed", ("mean",), 32, normalize=True)
    files = {
        "modules": modules("Transformer", "Pooling", "Dense"),
        "1_Pooling__config": {"pooling_mode_cls_token": True, "include_prompt": False},
        "2_Dense__config": {"in_features": 32, "out_features": 8, "activation_function": "torch.nn.Identity"},
        "config_sentence_transformers": {"prompts": {"query": "q: "}, "default_prompt_name": "query"},
        "sentence_bert_config": {"max_seq_length": 48, "do_lower_case": True},
    }
    head = read_model(folder_of(tmp_path, {**BERT, "matryoshka_dimensions": [4, 8]}, **files)).head
    assert head is not None
    assert (head.pooling, head.size, head.normalize, head.skip_prompt) == (("cls",), 8, False, True)
    assert (head.prompt, head.longest, head.lower, head.dimensions) == ("query", 48, True, (4, 8))
    machine = Machine(memory=8 << 30, cores=2, bf16=False)
    resolved = resolve(overlay(Settings(), {}, "test"), read_model(tmp_path), tmp_path, machine)
    assert (resolved.context, resolved.pages, resolved.memory.pool_tokens) == (48, 0, 0)
    assert resolved.chunk >= resolved.context


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"modules": modules("Transformer", "WordEmbeddings")}, "WordEmbeddings"),
        ({"modules": [{"type": "x.Pooling", "path": "../x"}]}, "leads out"),
        ({"modules": {"no": "list"}}, "no list of modules"),
        ({"modules": modules("Transformer", "Pooling")}, "1_Pooling"),
        ({"modules": modules("Transformer", "Pooling"), "1_Pooling__config": {"pooling_mode": "best"}}, "best"),
        ({"modules": modules("Transformer", "Normalize", "Pooling")}, "behind Normalize"),
        ({"config_sentence_transformers": {"prompts": {"a": 1}}}, "prompts"),
        ({"config_sentence_transformers": {"default_prompt_name": "a"}}, "default_prompt_name"),
        ({"sentence_bert_config": {"max_seq_length": "long"}}, "max_seq_length"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    with pytest.raises(StartupError, match=words):
        read_model(folder_of(tmp_path, BERT, **files))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "mish"}, "mish"),
        ({"num_attention_heads": 3}, "no multiple"),
        ({"architectures": ["BertForTokenClassification"]}, "not supported"),
        ({"architectures": ["NomicBertForSequenceClassification"]}, "not supported"),
        ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "2": "b"}}, "gaps"),
        ({"architectures": ["Qwen2Model"], "is_causal": False}, "both directions"),
        ({"architectures": ["Qwen2ForProcessRewardModel"]}, "ends a step"),
    ],
)
def test_encoders_that_are_not_supported(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    from ramify.models.registry import family_of

    with pytest.raises(StartupError, match=words):
        family_of(read_model(folder_of(tmp_path, {**BERT, **changes})))


def test_what_is_left_over_or_missing_is_named(tmp_path: Path) -> None:
    """A pooler is for another task and may be there; anything else may not."""
    from safetensors.numpy import save_file

    from ramify.models.registry import family_of

    config = read_model(folder_of(tmp_path, BERT))
    layout = family_of(config).layout(config)
    tensors = {name.removeprefix("bert."): np.zeros(to.shape, np.float32) for name, to in layout.items()}
    tensors["pooler.dense.weight"] = np.zeros((32, 32), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    assert len(checked_tensors(tmp_path, config)) == len(layout)
    save_file({**tensors, "extra": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(StartupError, match="extra"):
        checked_tensors(tmp_path, config)
    del tensors["embeddings.word_embeddings.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(StartupError, match=r"embeddings\.word_embeddings\.weight"):
        checked_tensors(tmp_path, config)
