"""Write the model folder in Hugging Face's format from a training run.

Usage: python scripts/concierge/export.py --run NAME [--out FOLDER]
       python scripts/concierge/export.py --run NAME --card-only      (after evaluate.py)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from chat import MARKER_TOKENS, SPECIAL_TOKENS, TEMPLATE
from corpus import DEFAULT_OUT, DEFAULT_WORK
from model import Shape
from safetensors.torch import save_file
from tokenizers import Tokenizer

CARD = Path(__file__).with_name("card.md")
PLOT_LIMIT = 150_000


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_config(shape: Shape, ids: dict[str, int]) -> dict[str, Any]:
    """Return config.json."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "torch_dtype": "bfloat16",
    }


def tokenizer_config(tokenizer: Tokenizer, shape: Shape) -> dict[str, Any]:
    """Return tokenizer_config.json."""
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False,
            "special": token in SPECIAL_TOKENS,
        }
        for token in (*SPECIAL_TOKENS, *MARKER_TOKENS)
    }  # fmt: skip
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": added,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.max_positions,
    }


def write_weights(state: dict[str, Any], out: Path) -> None:
    """Write the weights as bfloat16; the output projection is the embedding and is not stored twice."""
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in state["model"].items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)


def write_model(state: dict[str, Any], work: Path, out: Path) -> None:
    """Write everything except the card."""
    shape = Shape(**state["shape"])
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    write_weights(state, out)
    write_json(out / "config.json", model_config(shape, ids))
    generation = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"],
    }
    write_json(out / "generation_config.json", generation)
    shutil.copyfile(work / "tokenizer.json", out / "tokenizer.json")
    write_json(out / "tokenizer_config.json", tokenizer_config(tokenizer, shape))
    shutil.copyfile(TEMPLATE, out / "chat_template.jinja")


def _evaluation(work: Path, out: Path) -> str:
    """Return the measurements if they belong to the weights in the folder."""
    report = work / "evaluation.json"
    weights = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    if not report.exists() or json.loads(report.read_text(encoding="utf-8"))["weights_sha256"] != weights:
        return "These weights have not been measured yet.\n"
    return (work / "evaluation.md").read_text(encoding="utf-8")


def _data_table(work: Path) -> str:
    """Return what the training data holds, as a Markdown table."""
    data = json.loads((work / "data.json").read_text(encoding="utf-8"))
    lines = ["| kind of document | documents | tokens |", "|---|---|---|"]
    lines += [
        f"| {kind} | {data['documents'][kind]:,} | {data['tokens'][kind]:,} |" for kind in sorted(data["documents"])
    ]
    total = sum(data["documents"].values()), sum(data["tokens"].values())
    return "\n".join([*lines, f"| all | {total[0]:,} | {total[1]:,} |"])


def write_card(state: dict[str, Any], run: Path, work: Path, out: Path) -> None:
    """Write the model card: the text in card.md with this run's numbers."""
    shape, status = Shape(**state["shape"]), state["status"]
    size = sum(tensor.numel() for tensor in state["model"].values())
    picture = run / "loss.png"
    shown = picture.exists() and picture.stat().st_size < PLOT_LIMIT
    if shown:
        shutil.copyfile(picture, out / "loss.png")
    numbers = {
        "parameters": f"{size / 1e6:.2f} million",
        "layers": shape.num_layers,
        "intermediate": shape.intermediate_size,
        "tokens": f"{status['tokens'] / 1e6:.1f} million",
        "hours": f"{status['seconds'] / 3600:.1f}",
        "steps": f"{status['step']:,}",
        "data": _data_table(work),
        "evaluation": _evaluation(work, out),
        "plot": "![Loss over the training tokens](loss.png)" if shown else "",
    }
    text = CARD.read_text(encoding="utf-8")
    for name, value in numbers.items():
        text = text.replace("{{" + name + "}}", str(value))
    (out / "README.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Export a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="main", help="name of the training run")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="folder of the training runs")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="model folder to write")
    parser.add_argument("--card-only", action="store_true", help="leave the model alone and write the card again")
    options = parser.parse_args()
    run = options.work / "runs" / options.run
    options.out.mkdir(parents=True, exist_ok=True)
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    if not options.card_only:
        write_model(state, options.work, options.out)
    write_card(state, run, options.work, options.out)
    print(f"wrote {options.out}: {(options.out / 'model.safetensors').stat().st_size / 1e6:.1f} MB of weights")


if __name__ == "__main__":
    main()
