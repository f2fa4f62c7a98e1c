"""Adapters with rows of their own in embedding and head, against what PEFT computes: modules that were trained as a
whole, tokens that were trained alone, vocabularies that grew and shrank; beside rows of others.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from encoders import save as save_with_head
from harness import check_greedy, engine, relative_error, tokens_of
from lora import Made, make_adapter, make_words
from models import save
from safetensors.torch import load_file, save_file
from test_adapters import COMPILED, ask, expected, is_recorded, logprobs
from transformers import PreTrainedModel

import ramify
from ramify.core.errors import BadRequest, StartupError

Q = ["q_proj"]
BOTH = ["embed_tokens", "lm_head"]
WAYS: dict[str, dict[str, Any]] = {
    "whole": {"target_modules": Q, "modules_to_save": BOTH},
    "whole embedding": {"target_modules": Q, "modules_to_save": BOTH[:1]},
    "whole head": {"target_modules": Q, "modules_to_save": BOTH[1:]},
    "whole and tied": {"target_modules": Q, "modules_to_save": BOTH[:1], "ensure_weight_tying": True},
    "tokens": {"target_modules": Q, "trainable_token_indices": [7, 5]},
    "tokens of each": {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [9, 3]}},
    "grown": {"target_modules": Q, "added": 5},
    "grown whole": {"target_modules": Q, "added": 4, "modules_to_save": BOTH},
    "grown low ranks": {"target_modules": [*Q, *BOTH], "added": 3},
}
TIED = {
    "grown low rank": {"target_modules": [*Q, "embed_tokens"], "added": 6},
    "grown low rank of the head": {"target_modules": [*Q, "lm_head"], "added": 2},
    "grown tokens": {"target_modules": Q, "added": 5, "trainable_token_indices": [211, 9]},
}


class World:
    def __init__(self, family: str, folder: Path) -> None:
        self.family, self.folder = family, folder / "base"
        self.base = save(family, self.folder)
        ways = WAYS | (TIED if self.base.config.tie_word_embeddings else {})
        if not self.base.config.tie_word_embeddings:
            ways.pop("whole and tied")
        self.made: dict[str, Made] = {
            name: make_words(self.base, self.folder, folder, name, **way) for name, way in ways.items()
        }
        self.made["plain"] = make_adapter(self.base, folder, "plain", 2, ["v_proj"])

    @property
    def paths(self) -> dict[str, str]:
        return {name: str(made.path) for name, made in self.made.items()}

    def reference(self, name: str | None) -> PreTrainedModel:
        return self.base if name is None else self.made[name].merged

    def vocab(self, name: str | None) -> int:
        return int(self.reference(name).config.vocab_size)


@pytest.fixture(scope="module", params=["qwen3", "qwen3-tied", "gemma2"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(request.param, tmp_path_factory.mktemp(request.param))


def prompt_of(world: World, rnd: random.Random, name: str | None) -> list[int]:
    """With every token that was added or trained."""
    base, vocab = world.vocab(None), world.vocab(name)
    tokens = [*tokens_of(rnd, 20, base), 3, 5, 7, 9, *range(base, vocab)]
    rnd.shuffle(tokens)
    return tokens


def check_one(world: World, name: str | None, prompt: list[int], answer: dict[str, Any]) -> None:
    model, said = world.reference(name), answer["output_ids"]
    check_greedy(model, prompt, said)
    error = relative_error(torch.tensor(logprobs(answer)), expected(model, prompt + said))
    assert error < 1e-4, (name, error)


def test_exact(world: World) -> None:
    """Together, with rows of adapters that have no words and rows of none; and each to the bit as alone."""
    rnd = random.Random(3)
    names = [None, *world.made, None]
    prompts = [prompt_of(world, rnd, name) for name in names]
    with engine(world.folder, lora_paths=world.paths, max_loras_per_batch=16) as served:
        answers = ask(served, prompts, names)
        for name, prompt, answer in zip(names, prompts, answers, strict=True):
            check_one(world, name, prompt, answer)
        new = [
            name for name, answer in zip(names, answers, strict=True) if max(answer["output_ids"]) >= world.vocab(None)
        ]
        assert new, "no added token is ever said"
        if COMPILED:
            for name, prompt, answer in zip(names, prompts, answers, strict=True):
                (alone,) = ask(served, [prompt], [name], extra_key="alone")
                assert (alone["output_ids"], logprobs(alone)) == (answer["output_ids"], logprobs(answer)), name
        assert is_recorded(served)


def test_sampled_alike_beside_a_wider_row(world: World) -> None:
    """A row's draw is its own, whatever vocabulary another has."""
    prompt = tokens_of(random.Random(4), 30, world.vocab(None))
    params = {"temperature": 1.0, "max_new_tokens": 24, "ignore_eos": True, "sampling_seed": 5}
    with engine(world.folder, lora_paths=world.paths, max_loras_per_batch=16) as served:
        names = [None, "plain", "grown", "grown whole"]
        together = served.generate(input_ids=[prompt] * 4, sampling_params=params, lora_path=names)
        for name, one in zip(names, together, strict=True):
            alone = served.generate(input_ids=prompt, sampling_params=params, lora_path=name, extra_key="alone")
            assert alone["output_ids"] == one["output_ids"], name


def test_ids_of_an_adapter(world: World) -> None:
    """May be in prompts, biases, stops and lists of requests that have it, and in no others."""
    vocab, grown = world.vocab(None), world.vocab("grown")
    last = grown - 1
    with engine(world.folder, lora_paths=world.paths, max_loras_per_batch=16) as served:

        def say(token: int, name: str | None, **params: Any) -> dict[str, Any]:
            greedy = {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True, **params}
            return served.generate(
                input_ids=[5, token],
                sampling_params=greedy,
                lora_path=name,
                return_logprob=True,
                token_ids_logprob=[token],
            )

        biased = say(last, "grown", logit_bias={str(last): 1e4}, frequency_penalty=0.5)
        assert biased["output_ids"] == [last] * 4
        assert say(last, "grown", logit_bias={str(last): 1e4}, stop_token_ids=[last])["output_ids"] == [last]
        for name, token in ((None, vocab), ("plain", vocab), ("grown", grown), ("tokens", vocab)):
            with pytest.raises(BadRequest, match="is not a token id"):
                say(token, name)
        served.unload_lora_adapter("grown")
        served.load_lora_adapter("grown", world.paths["plain"])
        with pytest.raises(BadRequest, match="is not a token id"):
            say(last, "grown")


def test_smaller(world: World, tmp_path: Path) -> None:
    """A vocabulary that was cut to the tokenizer's."""
    if world.family != "qwen3":
        pytest.skip("one family is enough")
    made = make_words(world.base, world.folder, tmp_path, "cut", -11, target_modules=Q, modules_to_save=BOTH)
    prompt = tokens_of(random.Random(6), 30, world.vocab(None) - 11)
    with engine(world.folder, lora_paths={"cut": str(made.path), "plain": world.paths["plain"]}) as served:
        answers = ask(served, [prompt] * 3, ["cut", None, "plain"])
        world.made["cut"] = made
        for name, answer in zip(("cut", None, "plain"), answers, strict=True):
            check_one(world, name, prompt, answer)
        del world.made["cut"]
        with pytest.raises(BadRequest, match="is not a token id"):
            ask(served, [[world.vocab(None) - 1]], ["cut"])


def test_preempted_with_prefixes(world: World) -> None:
    """Mixed with others in a small pool, twice: the second time prefixes are found."""
    rnd = random.Random(8)
    kinds: list[str | None] = [None, "grown", "whole", "plain", "tokens", "grown low ranks"]
    names = [kinds[at % 6] for at in range(12)]
    prompts = [prompt_of(world, rnd, name) for name in names]
    params = {"temperature": 0, "max_new_tokens": 48, "ignore_eos": True}
    with engine(world.folder, lora_paths=world.paths, max_total_tokens=400, max_loras_per_batch=3) as tight:
        for _ in range(2):
            answers = tight.generate(input_ids=prompts, sampling_params=params, lora_path=names)
            assert sum(answer["meta_info"]["num_retractions"] for answer in answers) > 0
            for prompt, name, answer in zip(prompts, names, answers, strict=True):
                check_greedy(world.reference(name), prompt, answer["output_ids"])


def test_what_is_refused(world: World, tmp_path: Path) -> None:
    if world.family != "qwen3":
        pytest.skip("one family is enough")
    with engine(world.folder, enable_lora=True, lora_extra_vocab_size=4, lora_whole_modules=["lm_head"]) as served:
        for name, says in (
            ("whole embedding", "--lora-whole-modules embed_tokens"),
            ("grown low ranks", "does not adapt"),
        ):
            with pytest.raises(BadRequest, match=says):
                served.load_lora_adapter("x", world.paths[name])
        served.load_lora_adapter("head", world.paths["whole head"])
        served.load_lora_adapter("tokens", world.paths["tokens"])
    with engine(world.folder, enable_lora=True, lora_whole_modules=BOTH) as served:
        for name, says in (("grown", "5 tokens with rows.*--lora-extra-vocab-size"), ("tokens", "extra-vocab-size")):
            with pytest.raises(BadRequest, match=says):
                served.load_lora_adapter("x", world.paths[name])
    half = tmp_path / "half"
    half.mkdir()
    source = world.made["grown"].path
    weights = load_file(source / "adapter_model.safetensors")
    save_file({n: w for n, w in weights.items() if "lm_head" not in n}, half / "adapter_model.safetensors")
    (half / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
    for settings, says in (
        ({"lora_paths": {"half": str(half)}}, "different number of tokens.*216 in model.embed_tokens"),
        ({"lora_paths": world.paths, "lora_extra_vocab_size": 2}, "has 5 tokens"),
        ({"enable_lora": True, "lora_whole_modules": ["q_proj"]}, "q_proj cannot be adapted"),
    ):
        with pytest.raises(StartupError, match=says):
            engine(world.folder, **settings).shutdown()


def test_memory_is_planned(world: World) -> None:
    """What adapters hold is within what the plan says of each."""
    with engine(world.folder, lora_paths=world.paths, max_loras_per_batch=16) as served:
        plan = served.resolved.adapters
        assert plan is not None
        assert plan.whole == ("embed_tokens", "lm_head")
        assert plan.added >= 5
        table = served._loop.executor.runner.adapters  # type: ignore[attr-defined]
        for fitted in table._fitted.values():
            parts = [part for groups in fitted.layers.values() for some in groups.values() for part in some]
            held = sum(part.down_RD.nbytes + part.up_ER.nbytes for part in parts)
            own = [fitted.own_embedding.rows_ND] if fitted.own_embedding else []
            own += [fitted.own_head.weight] if fitted.own_head else []
            held += sum(tensor.nbytes for tensor in (*own, *fitted.rows.values()))
            assert held <= plan.each + (1 << 16)  # panels of kernels, and ones of what is looked up


def test_embeddings(world: World) -> None:
    """A decoder that gives embeddings reads an adapter's own tokens."""
    if world.family != "qwen3":
        pytest.skip("one family is enough")
    paths = {name: world.paths[name] for name in ("whole embedding", "tokens", "plain")}
    prompt = [*tokens_of(random.Random(9), 30, world.vocab(None)), 5, 7]
    with engine(world.folder, is_embedding=True, lora_paths=paths) as served:
        names = [None, *paths]
        found = served.encode(input_ids=[prompt] * len(names), lora_path=names)
    for name, answer in zip(names, found, strict=True):
        with torch.inference_mode():
            states = world.reference(name)(torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1]
        vector = torch.tensor(answer["embedding"])
        assert relative_error(vector / vector.norm(), states[0, -1] / states[0, -1].norm()) < 1e-4, name


def test_an_engine_of_others_is_recorded(world: World) -> None:
    """A head of its own takes no recording away; an embedding does, from the steps in which it is."""
    if not COMPILED or world.family != "qwen3":
        pytest.skip("needs compiled kernels; one family is enough")
    with ramify.Engine(str(world.folder), lora_paths=world.paths, skip_tokenizer_init=True, threads=1) as served:
        forward = served._loop.executor.runner._hidden  # type: ignore[attr-defined]
        for name, recorded in (("whole embedding", False), ("whole head", True)):
            ask(served, [[5, 6, 7]], [name])
            assert ((1, True) in forward._recorded) is recorded, name


@pytest.mark.parametrize("name", ["qwen2-classifies", "qwen3-ranks"])
def test_classifiers(name: str, tmp_path: Path) -> None:
    """PEFT trains the score of a classifier as a whole beside every adapter. Texts of several, of different lengths."""
    base = save_with_head(name, tmp_path / "base")
    made = {}
    for number, rank in enumerate((2, 7)):
        torch.manual_seed(number)
        config = peft.LoraConfig(
            task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "down_proj"]
        )
        model = peft.get_peft_model(copy.deepcopy(base), config)
        for path, parameter in model.named_parameters():
            if "lora_" in path or "modules_to_save" in path:
                torch.nn.init.normal_(parameter, std=0.15)
        model.save_pretrained(tmp_path / f"a{number}")
        made[f"a{number}"] = model.eval()
    texts = [tokens_of(random.Random(at), 5 + 9 * at, 200) for at in range(6)]
    names = [None, "a0", "a1", "a1", "a0", None]
    with ramify.Engine(
        str(tmp_path / "base"),
        lora_paths={each: str(tmp_path / each) for each in made},
        skip_tokenizer_init=True,
        threads=1,
        dtype="float32",
        chunked_prefill_size=16,
    ) as served:
        found = served.encode(input_ids=texts, lora_path=names)
    for text, adapter, answer in zip(texts, names, found, strict=True):
        model = base if adapter is None else made[adapter]
        with torch.inference_mode():
            expected = model(torch.tensor([text])).logits[0]
        assert relative_error(torch.tensor(answer["embedding"]), expected) < 1e-4, adapter
