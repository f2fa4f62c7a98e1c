"""Models that transformers' code computes over our pages, against transformers: a row of `models.GENERIC` each."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import encoders
import msgspec
import pytest
import torch
from harness import all_logits, check_greedy, engine, make_runner, relative_error, scenarios, tokens_of
from models import GENERIC, SMALL, make_config, reference_logits, save
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from ramify.config.model import ModelConfig
from ramify.config.settings import ModelSettings
from ramify.core.errors import StartupError
from ramify.models.choose import choose_model
from ramify.models.generic_catalogue import TESTED, TESTED_ENCODERS, catalogue
from ramify.models.registry import is_native
from ramify.worker.runner import Runner

THEIRS = ModelSettings(model_impl="transformers")
# Families of ours, for which transformers' code does what no row of `GENERIC` does: caps, sinks, latents, two windows
NATIVE = ["qwen3-tied", "gemma2", "gemma3", "gpt-oss", "mixtral", "deepseek-v3", "olmo3-yarn", "gpt2", "phi4-mini"]
GREEDY_TOO = [
    "pythia",
    "starcoder2",
    "opt",
    "exaone4",
    "minicpm3",
    "olmoe",
    "nemotron",
    "ernie4.5",
    "qwen3-tied",
    "gemma2",
]


def runner_of(folder: Path, **settings: object) -> Runner:
    asked = replace(THEIRS, load_format="dummy") if settings.get("load_format") == "dummy" else THEIRS
    return make_runner(folder, choose_model(folder, asked), **settings)


@pytest.mark.parametrize("name", [*GENERIC, *NATIVE])
def test_logits(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path)
    tokens = tokens_of(random.Random(1), 150, model.config.vocab_size)
    wanted = reference_logits(model, tokens)
    for chunks in ([150], [64, 1, 85]):
        assert relative_error(all_logits(runner_of(tmp_path), tokens, chunks), wanted) < 1e-4


@pytest.mark.parametrize("attention", ["torch_native", "reference"])
def test_logits_with_other_attention(attention: str, tmp_path: Path) -> None:
    model = save("exaone4", tmp_path)
    tokens = tokens_of(random.Random(1), 150, model.config.vocab_size)
    ours = all_logits(runner_of(tmp_path, attention_backend=attention, page_size=3), tokens, [100, 50])
    assert relative_error(ours, reference_logits(model, tokens)) < 1e-4


@pytest.mark.parametrize("name", GREEDY_TOO)
def test_greedy_text(name: str, tmp_path: Path) -> None:
    """What transformers would write: alone, warm, batched, chunked, preempted."""
    model = save(name, tmp_path)
    for _, prompts, outputs, _ in scenarios(tmp_path, model, model_impl="transformers"):
        for prompt, output in zip(prompts, outputs, strict=True):
            check_greedy(model, prompt, output["output_ids"])


def test_every_tested_architecture_has_a_row() -> None:
    assert {make_config(name).architectures[0] for name in GENERIC} == TESTED
    assert all(catalogue()[name] for name in TESTED)
    vectors = [name for name, row in encoders.GENERIC.items() if row.pooled is encoders.mean]
    names = {type(encoders.make(name)).__name__ for name in vectors}
    assert {name for name in names if not is_native(name)} == TESTED_ENCODERS


@pytest.mark.parametrize("name", encoders.GENERIC)
def test_vectors_and_classes(name: str, tmp_path: Path) -> None:
    """Encoders, and heads over decoders, of texts that share steps and prefixes."""
    model, rnd = encoders.save(name, tmp_path), random.Random(2)
    texts = [tokens_of(rnd, rnd.randrange(1, 120), 211) for _ in range(12)]
    with engine(tmp_path, max_running_requests=5) as made:
        for asked in (texts, [texts[0][:40] + text for text in texts[:3]], texts):
            asked = [text[:120] for text in asked]
            for text, output in zip(asked, made.encode(input_ids=asked), strict=True):
                wanted = encoders.reference(name, model, text)
                assert relative_error(torch.tensor(output["embedding"]), wanted) < 1e-4


def test_embeddings_of_a_model_that_generates(tmp_path: Path) -> None:
    model = save("phi2", tmp_path)
    text = tokens_of(random.Random(1), 40, 211)
    with engine(tmp_path, is_embedding=True) as made:
        ours = torch.tensor(made.encode(input_ids=text)["embedding"])
    with torch.inference_mode():
        wanted = model.base_model(torch.tensor([text])).last_hidden_state[0, -1]
    assert relative_error(ours, torch.nn.functional.normalize(wanted, dim=0)) < 1e-4


def test_a_head_that_pools_in_another_way(tmp_path: Path) -> None:
    config = AutoConfig.for_model("eurobert", **encoders.PLAIN, num_key_value_heads=2, classifier_pooling="mean")
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(StartupError, match="computes something else"):
        engine(tmp_path)


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["starcoder2", "olmoe", "opt"])
def test_bfloat16(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path)
    tokens = tokens_of(random.Random(1), 60, model.config.vocab_size)
    ours = all_logits(runner_of(tmp_path, dtype="bfloat16"), tokens, [40, 20])
    assert typical_error(ours, model, tokens) < 0.05


@pytest.mark.parametrize(("quantization", "most"), [("w8a8", 0.1), ("int4", 0.5)])
@pytest.mark.parametrize("name", ["starcoder2", "nemotron", "olmoe"])
def test_quantized_linears(name: str, quantization: str, most: float, tmp_path: Path) -> None:
    """Embedding and head as well, experts not. Quantized they are near, and not the same."""
    model = save(name, tmp_path)
    tokens = tokens_of(random.Random(1), 60, model.config.vocab_size)
    ours = all_logits(runner_of(tmp_path, quantization=quantization, kv_cache_dtype="int8"), tokens, [40, 20])
    assert 1e-4 < typical_error(ours, model, tokens) < most


def typical_error(ours: torch.Tensor, model: PreTrainedModel, tokens: list[int]) -> float:
    wanted = reference_logits(model, tokens)
    return float(((ours - wanted).norm(dim=1) / wanted.norm(dim=1)).median())


def test_weights_from_nothing(tmp_path: Path) -> None:
    """From a config.json alone, the same every time."""
    make_config("pythia").save_pretrained(tmp_path)
    one, other = (all_logits(runner_of(tmp_path, load_format="dummy"), list(range(3, 40)), [37]) for _ in range(2))
    assert one.isfinite().all()
    assert bool((one == other).all())


def test_tensors_that_are_missing_or_left_over_are_named(tmp_path: Path) -> None:
    save("pythia", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = "gpt_neox.layers.1.attention.dense.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, tmp_path / "model.safetensors")
    with pytest.raises(StartupError, match=f"lacks 1 tensors: {re.escape(gone)}"):
        runner_of(tmp_path)
    save_file({**tensors, "gpt_neox.layers.1.extra.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(StartupError, match=r"no place for: gpt_neox\.layers\.1\.extra\.weight"):
        runner_of(tmp_path)
    save_file({**tensors, gone: torch.zeros(3, 5)}, tmp_path / "model.safetensors")
    with pytest.raises(StartupError, match=rf"{re.escape(gone)} has the shape \[3, 5\]"):
        runner_of(tmp_path)


def test_vectors_as_prompts(tmp_path: Path) -> None:
    model = save("nemotron", tmp_path)
    tokens = tokens_of(random.Random(4), 30, model.config.vocab_size)
    rows = model.get_input_embeddings().weight[tokens].tolist()
    asked = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
    with engine(tmp_path, model_impl="transformers") as made:
        by_vectors = made.generate(input_embeds=rows, sampling_params=asked)
        by_tokens = made.generate(input_ids=tokens, sampling_params=asked)
    assert by_vectors["output_ids"] == by_tokens["output_ids"]


@pytest.mark.parametrize(("context", "factors"), [(60, "short"), (512, "long")])
def test_longrope_follows_the_context_that_is_served(tmp_path: Path, context: int, factors: str) -> None:
    model = save("phi4-mini", tmp_path)
    tokens = tokens_of(random.Random(1), 50, model.config.vocab_size)
    ours = all_logits(runner_of(tmp_path, context_length=context), tokens, [50])
    close = relative_error(ours, reference_logits(model, tokens)) < 1e-4
    assert close == (factors == "short")
    assert relative_error(ours, all_logits(make_runner(tmp_path, context_length=context), tokens, [50])) < 1e-4


# -- refusals ----------------------------------------------------------------------------------------------------------

REFUSED = {
    "alibi": ({"model_type": "bloom", "architectures": ["BloomForCausalLM"]}, "no attention interface"),
    "mamba": ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "no attention interface"),
    "jamba": ({"model_type": "jamba", "architectures": ["JambaForCausalLM"]}, "no attention interface"),
    "linear attention": ({"model_type": "minimax", "architectures": ["MiniMaxForCausalLM"]}, "linear_attention"),
    "convolutions": (
        {"model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"], "layer_types": ["conv", "full_attention", "conv"]},
        "layers of the type conv",
    ),
    "recurrent": (
        {"model_type": "recurrent_gemma", "architectures": ["RecurrentGemmaForCausalLM"]},
        "of its 3 layers 1 attend",
    ),
    "two attentions": (
        {"model_type": "diffllama", "architectures": ["DiffLlamaForCausalLM"]},
        "3 attend, in 6 calls",
    ),
    "learned masks": ({"model_type": "doge", "architectures": ["DogeForCausalLM"]}, "adds a bias to the scores"),
    "images": (
        {"model_type": "gemma3n", "architectures": ["Gemma3nForConditionalGeneration"], "text_config": {}},
        "more than text",
    ),
    "cross attention": ({"model_type": "t5", "architectures": ["T5ForSequenceClassification"]}, "cross attention"),
    "quantized": (
        {
            "model_type": "gpt_neox",
            "architectures": ["GPTNeoXForCausalLM"],
            "quantization_config": {"quant_method": "gptq"},
        },
        "checkpoint is quantized",
    ),
    "unknown": ({"model_type": "x", "architectures": ["FrobnicatorForCausalLM"]}, "neither here nor"),
    "a billion layers": (
        {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "num_hidden_layers": 10**9},
        "more than any model has",
    ),
    "another class": ({"model_type": "gpt_neox", "architectures": ["OPTForCausalLM"]}, "has no OPTForCausalLM"),
    "nonsense": (
        {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "num_attention_heads": "many"},
        "config.json: ",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_served(what: str, tmp_path: Path) -> None:
    given, says = REFUSED[what]
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, **given}))
    with pytest.raises(StartupError, match=says):
        choose_model(tmp_path, ModelSettings(load_format="dummy"))


def test_a_model_that_mixes_tokens_outside_of_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is written down about a model tells: it is compared with itself."""
    from transformers.models.arcee.modeling_arcee import ArceeMLP

    def smeared(self: ArceeMLP, x: torch.Tensor) -> torch.Tensor:
        return compute(self, (x.cumsum(1) + x) / 2)

    save("arcee", tmp_path)
    compute = ArceeMLP.forward
    monkeypatch.setattr(ArceeMLP, "forward", smeared)
    with pytest.raises(StartupError, match="computes something else"):
        runner_of(tmp_path)


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    """Every file that transformers could be talked into importing would leave a mark."""
    save("pythia", tmp_path)
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'a').write(__name__)\n"
    names = ["modeling_own", "configuration_own", "tokenization_own", "processing_own", "custom_generate/generate"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(code)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw |= {
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModel": "modeling_own.OwnModel",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
            "AutoTokenizer": ["tokenization_own.OwnTokenizer", None],
        },
        "custom_pipelines": {"text-generation": {"impl": "modeling_own.Pipe"}},
        "transformers_weights": "modeling_own.py",
        "fusion_config": {"x": True},
        "attn_implementation": "nobody/kernels",
        "_attn_implementation": "nobody/kernels",
    }
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": raw["auto_map"]}))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "nobody/base"}))
    runner = runner_of(tmp_path)
    assert all_logits(runner, [3, 4, 5], [3]).isfinite().all()
    raw |= {"model_type": "own", "architectures": ["OwnForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(StartupError, match="never run"):
        choose_model(tmp_path, ModelSettings())
    assert not mark.exists()


# -- choosing ----------------------------------------------------------------------------------------------------------


def test_native_code_is_taken_where_there_is_some(tmp_path: Path) -> None:
    save("qwen3", tmp_path)
    assert choose_model(tmp_path, ModelSettings()).generic is None
    assert choose_model(tmp_path, THEIRS).generic is not None


def test_native_alone_refuses_what_is_not(tmp_path: Path) -> None:
    save("pythia", tmp_path)
    with pytest.raises(StartupError, match="no code of its own for GPTNeoXForCausalLM"):
        choose_model(tmp_path, ModelSettings(model_impl="native"))
    assert choose_model(tmp_path, ModelSettings()).generic is not None


def test_looking_from_another_process_is_the_same(tmp_path: Path) -> None:
    """A server's parent imports no torch for it."""
    save("starcoder2", tmp_path)
    program = (
        "import sys, msgspec; from pathlib import Path; from ramify.models.choose import look; "
        f"found = look(Path({str(tmp_path)!r})); assert 'torch' not in sys.modules; "
        "sys.stdout.buffer.write(msgspec.json.encode(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=300)
    assert msgspec.json.decode(done.stdout, type=ModelConfig) == choose_model(tmp_path, THEIRS)


def test_refusals_cross_the_process(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({**SMALL, "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_size": 63})
    )
    program = (
        "from pathlib import Path; from ramify.core.errors import StartupError; from ramify.models.choose import look\n"
        f"try:\n look(Path({str(tmp_path)!r}))\nexcept StartupError as e:\n print('REFUSED', e.cause)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=300)
    assert "REFUSED config.json: " in done.stdout


def test_fields_that_transformers_knows_and_we_do_not_are_kept(tmp_path: Path) -> None:
    """`layer_types` and the like stand in the configuration's class, if not in the file."""
    config = AutoConfig.for_model("exaone4", **{**SMALL, "num_hidden_layers": 4, "sliding_window": 24})
    config.architectures = ["Exaone4ForCausalLM"]
    config.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw.pop("layer_types")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    found = choose_model(tmp_path, ModelSettings(load_format="dummy"))
    assert (found.window, found.windowed) == (24, (True, True, True, False))
