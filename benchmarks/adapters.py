"""What adapters cost: a batch of requests without any, and the same with different ones, in turns, on one engine.

python benchmarks/adapters.py [--layers 28] [--adapters 8] [--rank 16] [--rows 32] [--tokens 32] [--rounds 5]

The model has the shapes of Qwen3-0.6B and random weights; adapters change every linear of its layers. A number is the
time of one batch, prompts included; the bar is 1.25 times the time without adapters.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import ramify

HIDDEN, MLP, HEADS, KV, HEAD = 1024, 3072, 16, 8, 128
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "head_dim": HEAD,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
LINEARS = {
    "self_attn.q_proj": (HIDDEN, HEADS * HEAD),
    "self_attn.k_proj": (HIDDEN, KV * HEAD),
    "self_attn.v_proj": (HIDDEN, KV * HEAD),
    "self_attn.o_proj": (HEADS * HEAD, HIDDEN),
    "mlp.gate_proj": (HIDDEN, MLP),
    "mlp.up_proj": (HIDDEN, MLP),
    "mlp.down_proj": (MLP, HIDDEN),
}


def write_model(folder: Path, layers: int, dtype: str) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers, "torch_dtype": dtype}))


def write_adapter(folder: Path, layers: int, rank: int) -> None:
    folder.mkdir()
    tensors = {}
    for layer in range(layers):
        for name, (inputs, outputs) in LINEARS.items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(rank, inputs, dtype=torch.bfloat16) * 0.01
            tensors[f"{module}.lora_B.weight"] = torch.randn(outputs, rank, dtype=torch.bfloat16) * 0.01
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted({name.partition(".")[2] for name in LINEARS})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def seconds(engine: ramify.Engine, prompts: list[list[int]], names: list[str | None], tokens: int) -> float:
    engine.flush_cache()
    before = time.perf_counter()
    engine.generate(
        input_ids=prompts,
        sampling_params={"max_new_tokens": tokens, "temperature": 0, "ignore_eos": True},
        lora_path=names,
        progress=False,
    )
    return time.perf_counter() - before


def main() -> None:
    parser = argparse.ArgumentParser()
    defaults = {
        "layers": 28,
        "adapters": 8,
        "rank": 16,
        "rows": 32,
        "prompt": 16,
        "tokens": 32,
        "rounds": 5,
        "threads": 1,
    }
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="bfloat16")
    asked = parser.parse_args()
    rnd = random.Random(0)
    with tempfile.TemporaryDirectory() as made:
        write_model(Path(made) / "model", asked.layers, asked.dtype)
        paths = {f"a{number}": str(Path(made) / f"a{number}") for number in range(asked.adapters)}
        for path in paths.values():
            write_adapter(Path(path), asked.layers, asked.rank)
        with ramify.Engine(
            str(Path(made) / "model"),
            load_format="dummy",
            dtype=asked.dtype,
            skip_tokenizer_init=True,
            threads=asked.threads,
            lora_paths=paths,
            max_loras_per_batch=asked.adapters,
            max_running_requests=asked.rows,
        ) as engine:
            prompts = [[rnd.randrange(3, 32000) for _ in range(asked.prompt)] for _ in range(asked.rows)]
            kinds: dict[str, list[str | None]] = {
                "none": [None] * asked.rows,
                "adapters": [f"a{row % asked.adapters}" for row in range(asked.rows)],
            }
            found: dict[str, list[float]] = {kind: [] for kind in kinds}
            for turn in range(asked.rounds + 1):
                for kind, names in kinds.items() if turn % 2 else reversed(kinds.items()):
                    took = seconds(engine, prompts, names, asked.tokens)
                    if turn:  # the first records steps
                        found[kind].append(took)
    print(vars(asked))
    for kind, times in found.items():
        print(f"{kind:>9}: median {statistics.median(times):.3f} s, {min(times):.3f} to {max(times):.3f}")
    ratios = [a / b for a, b in zip(found["adapters"], found["none"], strict=True)]
    print(f"    ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}; the bar is 1.25")


if __name__ == "__main__":
    main()
