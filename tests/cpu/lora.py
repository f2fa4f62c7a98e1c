"""Adapters of random numbers, saved by PEFT, and the models that they make of a base when they are merged into it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import PreTrainedModel


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
