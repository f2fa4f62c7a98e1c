"""What adapters cost: a batch of requests without any, and the same with different ones, in turns, on one engine.

python benchmarks/adapters.py [--layers 28] [--adapters 8] [--rank 16] [--rows 32] [--tokens 32] [--rounds 5]

The model has the shapes of Qwen3-0.6B and random weights; adapters change every linear of its layers. A number is the
time of one batch, prompts included; the bar is 1.25 times the time without adapters. On a busy machine CPU time counts.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import ramify

HIDDEN, MLP, HEADS, KV, HEAD = 1024, 3072, 16, 8, 128
CONFIG: dict[str, Any] = {
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


def spent(engine: ramify.Engine, prompts: list[list[int]], names: list[str | None], tokens: int) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time of this process."""
    engine.flush_cache()
    before, cpu_before = time.perf_counter(), time.process_time()
    engine.generate(
        input_ids=prompts,
        sampling_params={"max_new_tokens": tokens, "temperature": 0, "ignore_eos": True},
        lora_path=names,
        progress=False,
    )
    return time.perf_counter() - before, time.process_time() - cpu_before


def in_turns(engine: ramify.Engine, asked: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Both kinds of batches, in either order. The first round, which records steps, does not count."""
    rnd = random.Random(0)
    prompts = [[rnd.randrange(3, CONFIG["vocab_size"]) for _ in range(asked.prompt)] for _ in range(asked.rows)]
    kinds: dict[str, list[str | None]] = {
        "none": [None] * asked.rows,
        "adapters": [f"a{row % asked.adapters}" for row in range(asked.rows)],
    }
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for turn in range(asked.rounds + 1):
        for kind in sorted(kinds, reverse=bool(turn % 2)):
            took = spent(engine, prompts, kinds[kind], asked.tokens)
            if turn:
                found[kind].append(took)
                print(f"{kind:>9}: {took[0]:.3f} s, {took[1]:.3f} s of CPU time", flush=True)
    return found


def tell(found: dict[str, list[tuple[float, float]]]) -> None:
    for what, name in enumerate(("by the clock", "of CPU time")):
        for kind, times in found.items():
            some = [took[what] for took in times]
            print(f"{kind:>9}, {name}: median {statistics.median(some):.3f} s, {min(some):.3f} to {max(some):.3f}")
        ratios = [a[what] / b[what] for a, b in zip(found["adapters"], found["none"], strict=True)]
        print(f"    ratio, {name}: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


DEFAULTS = {"layers": 28, "adapters": 8, "rank": 16, "rows": 32, "prompt": 16, "tokens": 32, "rounds": 5, "threads": 1}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="bfloat16")
    asked = parser.parse_args()
    print(vars(asked), flush=True)
    with tempfile.TemporaryDirectory() as made:
        write_model(Path(made) / "model", asked.layers, asked.dtype)
        paths = {f"a{number}": str(Path(made) / f"a{number}") for number in range(asked.adapters)}
        for path in paths.values():
            write_adapter(Path(path), asked.layers, asked.rank)
        settings = {"load_format": "dummy", "dtype": asked.dtype, "skip_tokenizer_init": True, "threads": asked.threads}
        with ramify.Engine(
            str(Path(made) / "model"),
            **settings,
            lora_paths=paths,
            max_loras_per_batch=asked.adapters,
            max_running_requests=asked.rows,
            max_total_tokens=asked.rows * 1024,
        ) as engine:
            tell(in_turns(engine, asked))


if __name__ == "__main__":
    main()
