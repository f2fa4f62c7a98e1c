"""Adapters against weights that PEFT merged: every target, mixed ranks, rows of several and of none together."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import check_greedy, engine, relative_error, tokens_of
from lora import make_adapter, make_by_hand, unmerged
from models import FAMILIES as EVERY
from models import make, make_config, reference_logits, save
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

import ramify
from ramify.adapters.table import AdapterTable
from ramify.config.model import parse_config
from ramify.core.errors import BadRequest
from ramify.layers.build import Build
from ramify.models.adapted import sites_of
from ramify.models.load import build_model
from ramify.ops.cpu.library import load
from ramify.ops.kernels import Kernels
from ramify.ops.reference.attention import ReferenceAttention
from ramify.quant.scheme import Plain

COMPILED = load() is not None
NEW = 12
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
DENSE = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
FAMILIES = {
    "llama-bias": DENSE,
    "qwen3": DENSE,
    "phi3": FUSED,
    "glm": [*ATTENTION, "gate_up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gemma2": DENSE,
    "command-r": DENSE,
    "mixtral": ATTENTION,
    "qwen3-next": [*ATTENTION, "in_proj_qkvz", "in_proj_ba", "out_proj"],
    "deepseek-v3": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"],
}
GREEDY = {"temperature": 0, "max_new_tokens": NEW, "ignore_eos": True}


class World:
    """A family with adapters: one of all targets, one of each target alone, of different ranks."""

    def __init__(self, family: str, folder: Path) -> None:
        self.folder, self.targets = folder / "base", FAMILIES[family]
        self.base = save(family, self.folder)
        names = {"all": self.targets, **{target: [target] for target in self.targets}}
        ranks = [8, 1, 3, 4, 5, 16, 7, 2]
        self.adapters = {
            name: make_adapter(self.base, folder, name, rank, targets)
            for (name, targets), rank in zip(names.items(), ranks, strict=False)
        }

    @property
    def paths(self) -> dict[str, str]:
        return {name: str(made.path) for name, made in self.adapters.items()}

    def reference(self, name: str | None) -> PreTrainedModel:
        return self.base if name is None else self.adapters[name].merged


@pytest.fixture(scope="module", params=FAMILIES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(request.param, tmp_path_factory.mktemp(request.param))


def ask(with_: ramify.Engine, prompts: list[list[int]], names: list[str | None], **more: Any) -> list[dict[str, Any]]:
    return with_.generate(
        input_ids=prompts, sampling_params=GREEDY, lora_path=names, return_logprob=True, logprob_start_len=0, **more
    )


def logprobs(answer: dict[str, Any]) -> list[float]:
    meta = answer["meta_info"]
    return [value for value, *_ in meta["input_token_logprobs"][1:] + meta["output_token_logprobs"]]


def expected(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    found = reference_logits(model, tokens[:-1]).log_softmax(-1)
    return found[torch.arange(len(tokens) - 1), tokens[1:]]


def check(
    with_: ramify.Engine, references: dict[str | None, PreTrainedModel], names: list[str | None], seed: int = 1
) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Prompts together, each with its adapter: tokens and log probabilities are those of merged weights."""
    rnd = random.Random(seed)
    vocab = references[None].config.vocab_size
    prompts = [tokens_of(rnd, rnd.randrange(5, 50), vocab) for _ in names]
    answers = ask(with_, prompts, names)
    for prompt, name, answer in zip(prompts, names, answers, strict=True):
        model, said = references[name], answer["output_ids"]
        check_greedy(model, prompt, said)
        error = relative_error(torch.tensor(logprobs(answer)), expected(model, prompt + said))
        assert error < 1e-4, (name, error)
    return prompts, answers


def check_alone(
    with_: ramify.Engine, names: list[str | None], prompts: list[list[int]], answers: list[dict[str, Any]]
) -> None:
    """The same bits as alone, where the kernels are compiled."""
    for prompt, name, answer in zip(prompts, names, answers, strict=True) if COMPILED else ():
        (alone,) = ask(with_, [prompt], [name], extra_key="alone")
        assert alone["output_ids"] == answer["output_ids"]
        assert logprobs(alone) == logprobs(answer), name


def is_recorded(served: ramify.Engine) -> bool:
    """Steps with adapters are made again from recordings, where kernels are compiled."""
    forward = served._loop.executor.runner._hidden  # type: ignore[attr-defined]
    return not COMPILED or any(with_adapters for _, with_adapters in forward._recorded)


def test_exact(world: World) -> None:
    names: list[str | None] = [None, *world.adapters, None, "all"]
    references = {name: world.reference(name) for name in names}
    with engine(world.folder, lora_paths=world.paths, max_loras_per_batch=8) as made:
        prompts, answers = check(made, references, names)
        check_alone(made, names, prompts, answers)
        others = ask(made, [prompts[0]] * len(world.adapters), list(world.adapters))
        bare = logprobs(answers[0])
        assert all(logprobs(other) != bare for other in others), "an adapter changes nothing"


def test_as_peft_computes_it(tmp_path: Path) -> None:
    """Beside the weights and not merged into them; ranks and scales by pattern, and rank-stabilised."""
    base = save("qwen3", tmp_path / "base")
    patterns = {"rank_pattern": {"q_proj": 3, "layers.1.mlp.down_proj": 7}, "alpha_pattern": {"v_proj": 5}}
    made = [
        make_adapter(base, tmp_path, "patterns", 4, DENSE, **patterns),
        make_adapter(base, tmp_path, "stable", 9, ["q_proj", "up_proj"], use_rslora=True),
        make_adapter(base, tmp_path, "some", 2, ["k_proj", "o_proj"], layers_to_transform=[0, 2]),
        make_adapter(base, tmp_path, "expression", 2, r".*layers\.[02]\.mlp\.(gate|down)_proj"),
    ]
    references: dict[str | None, PreTrainedModel] = {None: base, **{each.name: unmerged(base, each) for each in made}}
    with engine(tmp_path / "base", lora_paths={each.name: str(each.path) for each in made}) as served:
        check(served, references, list(references))


EXPERTS = [f"model.layers.{layer}.mlp.experts.{expert}" for layer in range(3) for expert in range(8)]


@pytest.mark.parametrize("how", [{}, {"quantization": "w8a8"}], ids=["fp32", "w8a8"])
def test_experts(tmp_path: Path, how: dict[str, Any]) -> None:
    base, folder = save("qwen3-moe", tmp_path / "base"), tmp_path / "base"
    there = load_file(folder / "model.safetensors")
    experts = [name for name in EXPERTS if f"{name}.gate_proj.weight" in there]
    assert len(experts) > 8
    attention = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(3)]
    every = [f"{name}.{part}_proj" for name in experts for part in ("gate", "up", "down")]
    made = [
        make_by_hand(folder, tmp_path, "every", 3, [*every, *attention]),
        make_by_hand(folder, tmp_path, "some", 5, [f"{name}.up_proj" for name in experts[1::3]]),
        make_by_hand(folder, tmp_path, "down", 2, [f"{name}.down_proj" for name in experts[::2]]),
    ]
    references: dict[str | None, PreTrainedModel] = {None: base, **{each.name: each.merged for each in made}}
    names: list[str | None] = [None, "every", "some", "down", "every", None]
    with engine(folder, lora_paths={each.name: str(each.path) for each in made}, **how) as served:
        if not how:
            prompts, answers = check(served, references, names)
            assert is_recorded(served)
        else:
            rnd = random.Random(5)
            prompts = [tokens_of(rnd, 20, 200) for _ in names]
            answers = ask(served, prompts, names)
        check_alone(served, names, prompts, answers)


STACKS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.mark.parametrize("family", ["qwen3-moe", "gpt-oss", "mixtral", "deepseek-v3"])
def test_experts_in_one_tensor(family: str, tmp_path: Path) -> None:
    """As transformers has experts, whether the checkpoint has them one by one or not; beside those of others."""
    base, folder = save(family, tmp_path / "base"), tmp_path / "base"
    made = [
        make_adapter(
            base, tmp_path, "both", 2, ["q_proj" if family != "deepseek-v3" else "o_proj"], target_parameters=STACKS
        ),
        make_adapter(base, tmp_path, "down", 3, ["o_proj"], target_parameters=STACKS[1:]),
        make_adapter(base, tmp_path, "up", 1, ["o_proj"], target_parameters=STACKS[:1], use_rslora=True),
        make_adapter(base, tmp_path, "plain", 4, ["o_proj"]),
    ]
    names: list[str | None] = [None, "both", "down", "up", "plain", "both", None]
    references: dict[str | None, PreTrainedModel] = {None: base, **{each.name: each.merged for each in made}}
    with engine(folder, lora_paths={each.name: str(each.path) for each in made}) as served:
        prompts, answers = check(served, references, names)
        check_alone(served, names, prompts, answers)
        assert is_recorded(served)
        others = ask(served, [prompts[0]] * 5, names[:5])
        assert len({tuple(logprobs(other)) for other in others}) == 5, "an adapter changes nothing"


def test_experts_that_do_not_fit(tmp_path: Path) -> None:
    base = save("qwen3-moe", tmp_path / "base")
    made = make_adapter(base, tmp_path, "up", 2, ["q_proj"], target_parameters=STACKS[:1])

    def refused(targets: list[str]) -> str:
        with (
            engine(tmp_path / "base", enable_lora=True, lora_target_modules=targets) as served,
            pytest.raises(BadRequest) as e,
        ):
            served.load_lora_adapter("up", str(made.path))
        return e.value.message

    assert "mlp.experts, of sizes that this server does not adapt" in refused(["q_proj", "down_proj"])
    config = json.loads((made.path / "adapter_config.json").read_text())
    (made.path / "adapter_config.json").write_text(json.dumps(config | {"r": 8, "rank_pattern": {"q_proj": 2}}))
    assert "16 rows, not 8 for each of 8" in refused(["q_proj", "gate_up_proj"])


@pytest.mark.parametrize("family", ["qwen3", "qwen3-tied"])
def test_vocabulary(family: str, tmp_path: Path) -> None:
    """Embeddings and heads, tied and not. Of a tied model PEFT adapts the two apart."""
    base = save(family, tmp_path / "base")
    made = [
        make_adapter(base, tmp_path, "embedding", 3, ["embed_tokens"]),
        make_adapter(base, tmp_path, "head", 4, ["lm_head"]),
        make_adapter(base, tmp_path, "both", 6, ["embed_tokens", "lm_head", "q_proj"]),
    ]
    references: dict[str | None, PreTrainedModel] = {None: base, **{each.name: unmerged(base, each) for each in made}}
    names: list[str | None] = [None, "embedding", "head", "both", None, "embedding"]
    with engine(tmp_path / "base", lora_paths={each.name: str(each.path) for each in made}) as served:
        prompts, answers = check(served, references, names)
        check_alone(served, names, prompts, answers)
        assert is_recorded(served)


NO_SITES = {"kv_b_proj", "gate", "router", "layer", "shared_expert_gate"}


@pytest.mark.parametrize("family", EVERY)
def test_every_family(family: str) -> None:
    """What transformers computes by linears and embeddings are places of ours, of the same sizes, and the few that are
    not are known: what chooses experts, and what is stored as no linear.
    """
    reference, config = make(family), parse_config(make_config(family).to_dict())
    kernels = Kernels()
    build = Build(kernels, ReferenceAttention(), Plain(), Plain(), torch.float32, torch.device("cpu"), 512)
    sites = sites_of(config)
    places = AdapterTable(build_model(build, config), sites, 1, 1, kernels, torch.float32).places
    for name, module in reference.named_modules():
        if not isinstance(module, torch.nn.Linear | torch.nn.Embedding | Conv1D) or name.endswith("wpe"):
            continue
        if name not in places:
            assert name.rpartition(".")[2] in NO_SITES, name
            continue
        place, shape = places[name], tuple(module.weight.shape)
        swapped = isinstance(module, torch.nn.Embedding | Conv1D)
        assert (place.outputs, place.inputs) == (tuple(reversed(shape)) if swapped else shape), name
    per_layer: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for place in places.values():
        per_layer.setdefault((place.layer, place.group), []).append((place.begin, place.begin + place.outputs))
    for runs in per_layer.values():  # parts of a fused layer stand side by side
        assert all(one[1] == other[0] for one, other in pairwise(sorted(runs))), runs
