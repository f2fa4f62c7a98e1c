"""What is decided for a GPU, from stand-ins for what one says of itself."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import msgspec
import pytest
from test_config import CONFIG
from test_several import Found, of_settings

from ramify.cli.serve import show
from ramify.cli.settings import parse
from ramify.config.gpu import Gpu, answer_of, checked, index_of
from ramify.config.machine import Machine
from ramify.config.memory import GIB, MIB, MemoryPlan, fitted, out_of_memory, table
from ramify.config.model import parse_config
from ramify.config.on_gpu import steps_up_to
from ramify.config.read import overlay
from ramify.config.resolve import Resolved, resolve
from ramify.config.settings import Settings
from ramify.config.share import resolve_all
from ramify.config.share import table as shared_table
from ramify.core.errors import BadRequest, StartupError
from ramify.engine.ask import Ask, submits
from ramify.engine.engine import limits_of
from ramify.engine.handover import Handover, read, write

H200 = Gpu(0, "NVIDIA H200", 90, 141 * GIB, 140 * GIB)
SMALL = Gpu(1, "NVIDIA RTX 4090", 89, 24 * GIB, 22 * GIB)
MACHINE = Machine(16 * GIB, 8, False, kernels="avx2", gpus=(H200, SMALL))
LLAMA = {
    **CONFIG,
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "eos_token_id": 128001,
}
EXPERTS = {
    **CONFIG,
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
}


def decide(config: dict | None = None, machine: Machine = MACHINE, **asked: object) -> Resolved:
    settings = overlay(Settings(), {"device": "cuda", **asked}, "test")
    return resolve(settings, parse_config(config or CONFIG), Path("/m"), machine)


def said(resolved: Resolved, name: str) -> tuple[object, str]:
    return next((d.value, d.reason) for d in resolved.decisions if d.name == name)


# -- what a GPU says ---------------------------------------------------------------------------------------------------


ANSWER = {"torch": "2.11.0+cu130", "cuda": "13.0", "triton": "3.6.0", "count": 2}


def answer(**other: object) -> bytes:
    gpus = [dataclasses.asdict(gpu) for gpu in (H200, SMALL)]
    return json.dumps({**ANSWER, "gpus": gpus, **other}).encode()


def test_what_is_asked_is_answered() -> None:
    assert checked(answer_of(answer(), 0), (0, 1)) == (H200, SMALL)
    assert checked(answer_of(b"a library says hello\n" + answer(), 0), (0, 1)) == (H200, SMALL)


@pytest.mark.parametrize(
    ("other", "indices", "says"),
    [
        ({"torch": "", "why": "No module named 'torch'"}, (0,), "needs torch, and there is none: No module"),
        ({"torch": "2.13.0+cpu", "cuda": None, "gpus": []}, (0,), r"2.13.0\+cpu\) computes on CPUs alone"),
        ({"count": 0, "gpus": [], "why": "Found no NVIDIA driver"}, (0,), "no driver of one: Found no NVIDIA"),
        ({"count": 1, "gpus": []}, (1,), "there is no cuda:1"),
        ({"gpus": [], "why": "out of memory"}, (0,), "could not be asked: out of memory"),
        ({"triton": None}, (0, 1), "triton, which is not installed"),
        ({"gpus": [{**dataclasses.asdict(SMALL), "capability": 75}]}, (1,), "capability 7.5"),
    ],
)
def test_what_is_missing_is_named(other: dict, indices: tuple[int, ...], says: str) -> None:
    with pytest.raises(StartupError, match=says) as caught:
        checked(answer_of(answer(**other), 0), indices)
    assert caught.value.remedy


@pytest.mark.parametrize("output", [b"", b"Segmentation fault", b"[1]", b'{"torch": 5}', b"{" * 100_000, b"\xff"])
def test_an_answer_that_is_none(output: bytes) -> None:
    with pytest.raises(StartupError, match="ended with exit code -11: boom"):
        answer_of(output, -11, b"first\nboom\n")


@pytest.mark.parametrize(
    ("device", "index"), [("cuda", 0), ("cuda:3", 3), ("cpu", None), ("cuda:x", None), ("xcuda", None)]
)
def test_numbers_of_devices(device: str, index: int | None) -> None:
    assert index_of(device) == index


@pytest.mark.parametrize("device", ["xpu", "gpu", "cuda:", "cuda:-1", "cuda:99999", "gpu0"])
def test_devices_that_are_none(device: str) -> None:
    with pytest.raises(StartupError, match=f"--device {re.escape(device)} is not one of auto, cpu, cuda, cuda:N"):
        decide(device=device)


# -- what is decided ---------------------------------------------------------------------------------------------------


def test_the_cpu_computes_until_a_gpu_is_asked_for() -> None:
    assert decide(device="auto").device == "cpu"
    assert "--device cuda" in said(decide(device="auto"), "device")[1]
    assert decide().device == "cuda:0"
    assert decide(device="cuda:1").device == "cuda:1"


def test_defaults() -> None:
    resolved = decide(LLAMA)
    assert (resolved.rows, resolved.page_size, resolved.chunk, resolved.depth) == (256, 16, 8192, 1)
    assert (resolved.attention, resolved.linears, resolved.dtype) == ("triton", "torch", "bfloat16")
    assert decide(LLAMA, device="cuda:1").chunk == 2048
    assert decide({**LLAMA, "torch_dtype": "float16"}).dtype == "float16"
    assert {decision.reason == "" for decision in resolved.decisions} == {False}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"attention_backend": "cpu"}, "cuda:0 computes, with triton, flashinfer, fa3, reference"),
        ({"attention_backend": "torch_native"}, "cuda:0 computes"),
        ({"linear_backend": "packed"}, "a CPU's"),
        ({"linear_backend": "torch", "deterministic": True}, "not deterministic"),
        ({"linear_backend": "torch", "quantization": "w8a8"}, "does not multiply"),
        ({"attention_backend": "reference", "deterministic": True}, "attention by reference"),
        ({"device": "cpu", "attention_backend": "triton"}, "the CPU computes, with cpu"),
        ({"device": "cpu", "linear_backend": "triton"}, "the CPU computes"),
        ({"device": "cpu", "attention_backend": "flashinfer"}, "the CPU computes, with cpu"),
        ({"device": "cpu", "kv_cache_dtype": "fp8_e4m3"}, "no kernels for that on the device cpu"),
        ({"device": "cpu", "linear_backend": "torch", "deterministic": True}, "linears and attention|linears are"),
        ({"cuda_graph_bs": "0 4"}, "numbers of rows"),
        ({"cuda_graph_bs": [512]}, "above the 256 rows"),
    ],
)
def test_what_does_not_go_together(asked: dict, says: str) -> None:
    with pytest.raises(StartupError, match=says):
        decide({**LLAMA, "torch_dtype": "bfloat16"} if "device" not in asked else None, **asked)


def test_a_cache_in_eight_bits() -> None:
    """One byte each, and no scales; latents too."""
    whole, half = decide(LLAMA, max_total_tokens=1024), decide(LLAMA, max_total_tokens=1024, kv_cache_dtype="fp8_e4m3")
    assert half.kv_dtype == "float8_e4m3fn"
    assert half.memory.pool * 2 == whole.memory.pool
    assert said(half, "kv_cache_dtype")[1].endswith("cast without a scale")
    assert decide(LLAMA, kv_cache_dtype="int8").kv_dtype == "int8"


def test_attention_of_others() -> None:
    """FlashInfer looks at lengths on the host, which a captured step cannot."""
    flashinfer, flash = decide(attention_backend="flashinfer"), decide(attention_backend="fa3")
    assert (flashinfer.attention, flashinfer.captured, flashinfer.invariance) == ("flashinfer", (), "no")
    assert "on the host" in said(flashinfer, "cuda_graph_bs")[1]
    assert (flash.attention, flash.captured[0], flash.invariance) == ("fa3", 1, "no")


# -- invariance --------------------------------------------------------------------------------------------------------


def test_who_multiplies_and_who_may_ask_for_what() -> None:
    usual, whole, reference = decide(), decide(deterministic=True), decide(attention_backend="reference")
    assert (usual.linears, usual.invariance) == ("torch", "asked")
    assert "not measured yet" in said(usual, "linear_backend")[1]
    assert said(usual, "batch_invariance")[0] == "on request"
    assert (whole.linears, whole.invariance) == ("triton", "always")
    assert decide(linear_backend="triton").invariance == "always"
    assert decide(quantization="int4").invariance == "always"
    assert reference.invariance == "no"


def test_sglangs_flag_means_the_same() -> None:
    asked = parse(["--device", "cuda", "--enable-deterministic-inference"], "t")
    assert asked.model.deterministic
    resolved = resolve(asked, parse_config(CONFIG), Path("/m"), MACHINE)
    assert (resolved.linears, resolved.invariance) == ("triton", "always")


def test_on_a_cpu_it_is_so_and_changes_nothing() -> None:
    without, with_ = decide(device="cpu"), decide(device="cpu", deterministic=True)
    assert with_.invariance == without.invariance == "always"
    assert with_.linears == without.linears == "packed"


def test_who_cannot_be_deterministic_says_so() -> None:
    asked = Ask(tokens=[1, 2], invariant=True)
    assert submits(asked, limits_of(decide()), 0)[0].invariant
    assert submits(asked, limits_of(decide(device="cpu")), 0)[0].invariant
    with pytest.raises(BadRequest, match="batch_invariance") as caught:
        submits(asked, limits_of(decide(attention_backend="reference")), 0)
    assert caught.value.param == "deterministic"


# -- captured steps ----------------------------------------------------------------------------------------------------


def test_sizes_of_captured_steps() -> None:
    assert steps_up_to(1) == (1,)
    assert steps_up_to(2) == (1, 2)
    assert steps_up_to(8) == (1, 2, 4, 8)
    assert steps_up_to(20) == (1, 2, 4, 8, 16, 20)
    assert decide().captured[-3:] == (240, 248, 256)
    assert decide(max_running_requests=20).captured == (1, 2, 4, 8, 16, 20)
    assert decide(max_running_requests=1000).captured[-1] == 256
    assert decide(cuda_graph_max_bs=9).captured == (1, 2, 4, 8, 9)
    assert decide(cuda_graph_bs=[3, 1, 3, 300]).captured == (1, 3)
    assert parse(["--cuda-graph-bs", "1", "4", "--port", "1"], "t").schedule.cuda_graph_bs == (1, 4)
    assert decide(disable_cuda_graph=True).captured == decide(device="cpu").captured == ()
    assert "kernel by kernel" in said(decide(disable_cuda_graph=True), "cuda_graph_bs")[1]
    assert "on a CPU" in said(decide(device="cpu", cuda_graph_max_bs=4), "cuda_graph_max_bs")[1]


# -- memory ------------------------------------------------------------------------------------------------------------


def sizes(plan: MemoryPlan) -> dict[str, int]:
    return {peak.name: peak.size for peak in plan.peaks}


def test_terms_of_the_plan() -> None:
    """Llama 3.1 8B: 15 GiB of weights, 128 KiB for each token, and half a MiB of logits for each row."""
    plan, bare = decide(LLAMA).memory, decide(LLAMA, disable_cuda_graph=True).memory
    assert plan.weights == pytest.approx(8.03e9 * 2, rel=0.01)
    assert plan.bytes_per_token == 128 * 1024
    assert list(sizes(plan)) == ["activations", "attention", "logits", "slots", "graphs"]
    assert sizes(plan)["activations"] == (8192 + 256) * (2 * 4096 + 3 * 14336 + 4096) * 2
    assert sizes(plan)["logits"] == 256 * 128256 * 14 + 256 * 128256 * 10
    assert plan.activations == sum(sizes(plan).values())
    assert plan.total <= 0.9 * H200.free < plan.total + 16 * plan.bytes_per_token
    assert "graphs" not in sizes(bare)
    assert sizes(decide(LLAMA, deterministic=True).memory)["graphs"] < sizes(plan)["graphs"]
    assert bare.pool - plan.pool == pytest.approx(sizes(plan)["graphs"], abs=16 * plan.bytes_per_token)


def test_experts_count_each_that_is_chosen() -> None:
    plan = decide(EXPERTS).memory
    each = 2 * 2048 + max(8 * (3 * 768 + 2 * 2048) + 2048, 3 * 6144 + 2048, (3 * 32 + 2 * 4) * 128 + 2048)
    assert sizes(plan)["activations"] == (8192 + 256) * each * 2


def test_smaller_steps_leave_more() -> None:
    usual = decide(LLAMA).memory.pool
    for asked in ({"chunked_prefill_size": 2048}, {"max_running_requests": 64}, {"cuda_graph_max_bs": 8}):
        assert decide(LLAMA, **asked).memory.pool > usual
    assert decide(LLAMA, mem_fraction_static=0.5).memory.total <= 0.5 * H200.free
    assert decide(LLAMA, max_total_tokens=4096).memory.pool_tokens == 4096
    with pytest.raises(StartupError, match="At most about"):
        decide(LLAMA, max_total_tokens=10**7)


def test_a_model_that_does_not_fit_says_what_to_change() -> None:
    with pytest.raises(StartupError, match="does not fit") as caught:
        decide({**LLAMA, "num_hidden_layers": 80}, device="cuda:1")
    assert "--chunked-prefill-size" in caught.value.remedy


def test_windows_do_not_want_a_chunk_for_every_row() -> None:
    windowed = {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "sliding_window": 1024, "use_sliding_window": True}
    plan = decide({**windowed, "max_window_layers": 16}).memory
    assert plan.pool_tokens > 500_000
    assert 256 * 1024 < plan.window_tokens < plan.pool_tokens


def test_what_is_free_after_loading_counts() -> None:
    plan = decide(LLAMA).memory
    enough = plan.pool + plan.activations + plan.process
    assert fitted(plan, 16, enough, 256) == plan
    less = fitted(plan, 16, enough - 10 * GIB, 256)
    assert plan.pool - 10.1 * GIB < less.pool < plan.pool - 9 * GIB
    assert less.pool_tokens % 16 == 0
    assert less.pool == less.pool_tokens * plan.bytes_per_token
    with pytest.raises(StartupError, match=r"(?s)after loading .* are free.*KV cache +\d") as caught:
        fitted(plan, 16, plan.activations, 256)
    assert "--max-running-requests" in caught.value.remedy
    exact = decide(LLAMA, max_total_tokens=100_000).memory
    with pytest.raises(StartupError, match="after loading"):
        fitted(exact, 16, exact.pool, 256)


def test_windows_shrink_with_the_rest() -> None:
    windowed = {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "sliding_window": 512, "use_sliding_window": True}
    plan = decide({**windowed, "max_window_layers": 16}).memory
    less = fitted(plan, 16, plan.activations + plan.process + plan.pool // 2, 256)
    assert 0.45 < less.pool_tokens / plan.pool_tokens < 0.5 + plan.process / plan.pool
    assert less.window_tokens / plan.window_tokens == pytest.approx(less.pool_tokens / plan.pool_tokens, rel=0.01)


def test_running_out_shows_the_plan() -> None:
    error = out_of_memory(decide(LLAMA).memory, "the KV cache is allocated")
    assert "while the KV cache is allocated" in error.cause
    assert all(word in error.cause for word in ("logits", "graphs", "KV cache", "H200"))
    assert len(list(table(decide(LLAMA).memory))) == 10


def test_explain_shows_the_split(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    show(decide(LLAMA))
    text = capsys.readouterr().out
    for word in ("H200", "batch_invariance", "cuda_graph_bs", "logits", "activations", "graphs", "taken at start"):
        assert word in text
    assert max(len(line) for line in text.splitlines()) <= 120


# -- several models ----------------------------------------------------------------------------------------------------


def several(*each: dict) -> tuple[Resolved, ...]:
    found = [Found(settings, parse_config(CONFIG), Path("/m")) for settings in of_settings(*each)]
    return resolve_all(found, MACHINE, None)


def test_models_share_the_memory_of_their_device() -> None:
    a, b, c, d = several(
        {"name": "a", "device": "cuda:1"},
        {"name": "b", "device": "cuda:1"},
        {"name": "c"},
        {"name": "d", "device": "cuda"},
    )
    assert [each.device for each in (a, b, c, d)] == ["cuda:1", "cuda:1", "cpu", "cuda:0"]
    assert a.memory.pool_tokens == b.memory.pool_tokens
    assert 0.88 * SMALL.free < a.memory.total + b.memory.total <= 0.9 * SMALL.free
    assert c.memory.total <= 0.7 * MACHINE.memory
    assert d.memory.total <= 0.9 * H200.free
    assert said(a, "mem_fraction_static")[1] == "its part of what 2 models may use of cuda:1"
    text = list(shared_table((a, b, c, d)))
    assert [line.split("  ")[0] for line in text[-3:]] == ["all on cuda:1", "all on cpu", "all on cuda:0"]


def test_it_is_handed_over(tmp_path: Path) -> None:
    given = Handover((decide(LLAMA), decide(device="cpu")), 1, 0, 0, 0)
    write(tmp_path, given)
    assert msgspec.to_builtins(read(tmp_path).models[0].memory) == msgspec.to_builtins(given.models[0].memory)
    assert read(tmp_path).models[0].captured == given.models[0].captured


def test_a_peak_is_never_nothing() -> None:
    assert all(peak.size > MIB for peak in decide(LLAMA).memory.peaks)
