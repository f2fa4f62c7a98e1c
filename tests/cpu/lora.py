"""Adapters of random numbers, saved by PEFT, and the models that they make of a base when they are merged into it."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel


@dataclass(frozen=True)
class Made:
    name: str
    path: Path
    merged: PreTrainedModel  # the reference


def make_adapter(
    base: PreTrainedModel, folder: Path, name: str, rank: int, targets: list[str] | str, **more: Any
) -> Made:
    """Of rank `rank`, strong enough to change what is said."""
    torch.manual_seed(sum(map(ord, name)))
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=targets, **more)
    model = peft.get_peft_model(copy.deepcopy(base), config)
    for path, parameter in model.named_parameters():
        if "lora_" in path:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder / name)
    return Made(name, folder / name, model.merge_and_unload().eval())


def unmerged(base: PreTrainedModel, made: Made) -> PreTrainedModel:
    """The same as PEFT computes it: beside the base."""
    return peft.PeftModel.from_pretrained(copy.deepcopy(base), made.path).eval()


def make_by_hand(base: Path, folder: Path, name: str, rank: int, modules: list[str]) -> Made:
    """An adapter of modules as a checkpoint names them, and the checkpoint with it merged. PEFT saves such where
    experts are modules in the release of transformers.
    """
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    weights, tensors = load_file(base / "model.safetensors"), {}
    for module in modules:
        weight = weights[f"{module}.weight"]
        down = torch.randn(rank, weight.shape[1], generator=generator) * 0.15
        up = torch.randn(weight.shape[0], rank, generator=generator) * 0.15
        tensors |= {f"base_model.model.{module}.lora_{side}.weight": one for side, one in (("A", down), ("B", up))}
        weights[f"{module}.weight"] = weight + 2 * up @ down
    made, merged = folder / name, folder / f"{name}-merged"
    for each in (made, merged):
        each.mkdir()
    save_file(tensors, made / "adapter_model.safetensors")
    targets = sorted({module.rpartition(".")[2] for module in modules})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets}
    (made / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, merged / "model.safetensors", {"format": "pt"})
    (merged / "config.json").write_text((base / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32, attn_implementation="eager")
    return Made(name, made, model.eval())


def make_words(base: PreTrainedModel, at: Path, folder: Path, name: str, added: int = 0, **config: Any) -> Made:
    """An adapter with rows of its own for tokens, `added` of them, of a base that is saved at `at`. What it is compared
    with is what PEFT computes.
    """
    torch.manual_seed(sum(map(ord, name)))
    model = copy.deepcopy(base)
    model.config._name_or_path = model.name_or_path = str(at)  # PEFT looks there whether the vocabulary has grown
    vocab = model.config.vocab_size
    if added:
        model.resize_token_embeddings(vocab + added, mean_resizing=False)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, **config))
    for path, parameter in wrapped.named_parameters():
        if "lora_" in path:
            torch.nn.init.normal_(parameter, std=0.15)
        elif "modules_to_save" in path or "trainable_tokens_delta" in path:
            parameter.data += torch.randn_like(parameter) * 0.1
        elif len(parameter) == vocab + added > vocab and "original_module" not in path:
            parameter.data[vocab:] = torch.randn_like(parameter[vocab:]) * 0.3
    wrapped.save_pretrained(folder / name)
    return Made(name, folder / name, wrapped.eval())
