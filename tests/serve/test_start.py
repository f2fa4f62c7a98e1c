"""Models and settings that cannot be served are refused at once, with cause and remedy."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
from server import Server, refused_to_start, running

from assets import shared


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A good model to spoil."""
    target = tmp_path / "model"
    shutil.copytree(shared("weights/TinyStories-656K"), target)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_missing_folder() -> None:
    assert "there is no folder" in refused_to_start("/nowhere/at/all")


def test_a_file_instead_of_a_folder(copy: Path) -> None:
    assert "is a file" in refused_to_start(str(copy / "model.safetensors"))


def test_no_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    assert "has no config.json" in refused_to_start(str(copy))


def test_a_broken_config(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    assert "not valid JSON" in refused_to_start(str(copy))


def test_an_unknown_architecture(copy: Path) -> None:
    change_config(copy, architectures=["FrobnicatorForCausalLM"])
    said = refused_to_start(str(copy))
    assert "FrobnicatorForCausalLM is not supported" in said
    assert "LlamaForCausalLM" in said


def test_code_in_the_folder_is_never_run(copy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "__init__.py"):
        (copy / name).write_text(f"open({str(mark)!r}, 'w').write('run')")
    auto = {
        "AutoConfig": "configuration_evil.C",
        "AutoModelForCausalLM": "modeling_evil.M",
        "AutoTokenizer": ["tokenization_evil.T", None],
    }
    change_config(copy, auto_map=auto)
    tokenizer = copy / "tokenizer_config.json"
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "auto_map": auto}))
    with running(str(copy)) as server:
        server.post("/generate", {"text": "Once ", "sampling_params": {"max_new_tokens": 2}})
    assert not mark.exists()


def test_truncated_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    said = refused_to_start(str(copy))
    assert "cut off" in said
    assert "download it again" in said


def test_hostile_headers(copy: Path) -> None:
    weights = copy / "model.safetensors"
    for head in (b"", b"\xff" * 8, struct.pack("<Q", 1 << 62), struct.pack("<Q", 20) + b"{" * 20):
        weights.write_bytes(head)
        said = refused_to_start(str(copy))
        assert "safetensors" in said


def test_a_tensor_of_the_wrong_shape(copy: Path) -> None:
    change_config(copy, intermediate_size=400)
    said = refused_to_start(str(copy))
    assert "has the shape" in said
    assert "mlp" in said


def test_missing_tensors(copy: Path) -> None:
    change_config(copy, num_hidden_layers=3)
    assert "lacks 9 tensors: model.layers.2" in refused_to_start(str(copy))


def test_left_over_tensors(copy: Path) -> None:
    change_config(copy, num_hidden_layers=1)
    assert "holds 9 tensors that LlamaForCausalLM has no place for: model.layers.1" in refused_to_start(str(copy))


def test_pickled_weights(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    said = refused_to_start(str(copy))
    assert "pickled" in said
    assert "safe_serialization" in said


def test_a_missing_shard(copy: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors" in refused_to_start(str(copy))


def test_a_model_that_does_not_fit_says_numbers(copy: Path) -> None:
    said = refused_to_start(str(copy), "--mem-fraction-static", "0.001")
    assert "the model does not fit" in said
    assert "--mem-fraction-static" in said
    assert "GiB" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--tp-size", "2"), "--tp-size above 1"),
        (("--context-length", "4096"), "more than the model's 512"),
        (("--page-size", "0"), "--page-size must be at least 1"),
        (("--chunked-prefill-size", "0"), "--chunked-prefill-size"),
        (("--mem-fraction-static", "2"), "--mem-fraction-static"),
        (("--speculative-algorithm", "EAGLE"), "flag of SGLang that ramify does not have"),
        (("--enable-lora", "--load-format", "none"), "--enable-lora needs a model"),
        (("--lora-paths", "x=/nowhere"), "adapter_config.json"),
        (("--port", "99999"), "--port"),
        (("--config", "/nowhere.yaml"), "/nowhere.yaml"),
        (("--preferred-sampling-params", "top_p"), "--preferred-sampling-params"),
        (("--preferred-sampling-params", '{"top_p": 3}'), "top_p"),
        (("--sampling-defaults", "mine"), "--sampling-defaults"),
        (("--enable-return-hidden-states", "--load-format", "none"), "needs a model"),
    ],
)
def test_settings_that_cannot_be(arguments: tuple[str, ...], says: str) -> None:
    folder = str(shared("weights/TinyStories-656K"))
    if "--port" in arguments:
        import subprocess
        import sys

        done = subprocess.run(
            [sys.executable, "-m", "ramify.cli.main", "serve", folder, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode != 0
        assert says in done.stderr
    else:
        assert says in refused_to_start(folder, *arguments)


def test_sharded_weights_and_a_dummy_model(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    source = shared("weights/TinyStories-656K")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="500KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    body = {"text": "Once upon a time ", "sampling_params": {"max_new_tokens": 8, "temperature": 0}}
    with running(str(tmp_path / "sharded")) as server:
        assert server.post("/generate", body)["text"].startswith("there was a little girl")


def test_settings_from_yaml_and_environment(tmp_path: Path) -> None:
    folder = str(shared("weights/TinyStories-656K"))
    config = tmp_path / "run.yaml"
    config.write_text(f"model-path: {folder}\nserved_model_name: from-yaml\npage_size: 8\nchunked-prefill-size: 1k\n")
    with running("--config", str(config), env={"RAMIFY_PAGE_SIZE": "4"}) as server:
        info = server.get("/server_info")
        assert (info["served_model_name"], info["page_size"], info["chunked_prefill_size"]) == ("from-yaml", 4, 1000)
    with running("--config", str(config), "--page-size", "2", env={"RAMIFY_PAGE_SIZE": "4"}) as server:
        assert server.get("/server_info")["page_size"] == 2


def test_what_requests_leave_unsaid(copy: Path) -> None:
    """The model's generation config counts on OpenAI's routes, unless the server was told to leave it."""
    (copy / "generation_config.json").write_text(json.dumps({"temperature": 1.0, "top_k": 1, "eos_token_id": 2}))
    preferred = ("--preferred-sampling-params", '{"max_new_tokens": 3, "top_k": 1}')

    def texts(server: Server) -> list[int]:
        seeds = range(6)
        body = {"prompt": "Once upon a time ", "max_tokens": 12}
        openai = {server.post("/v1/completions", {**body, "seed": n})["choices"][0]["text"] for n in seeds}
        prompts = [{"text": body["prompt"], "sampling_params": {"sampling_seed": n}} for n in seeds]
        native = [server.post("/generate", prompt) for prompt in prompts]
        return [len(openai), len({answer["text"] for answer in native}), native[0]["meta_info"]["completion_tokens"]]

    with running(str(copy)) as server:
        one, many, _ = texts(server)
        assert one == 1
        assert many > 1
        assert server.get("/model_info")["preferred_sampling_params"] is None
    with running(str(copy), "--sampling-defaults", "openai") as server:
        assert texts(server)[0] > 1
    with running(str(copy), "--sampling-defaults", "openai", *preferred) as server:
        assert texts(server) == [1, 1, 3]
        assert server.get("/model_info")["preferred_sampling_params"] == preferred[1]


def test_quantized() -> None:
    """The bundled model in int8: it answers, and the log says what is used."""
    with running("--quantization", "w8a8", "--max-total-tokens", "512") as server:
        answer = server.post("/generate", {"text": "Once upon a time", "sampling_params": {"max_new_tokens": 8}})
        assert answer["meta_info"]["completion_tokens"] == 8
        assert server.get("/get_server_info")["quantization"] == "w8a8"


def test_an_unknown_quantization() -> None:
    assert "is not one of w8a8" in refused_to_start("--quantization", "w3")
