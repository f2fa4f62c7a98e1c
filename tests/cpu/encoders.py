"""Tiny models with heads, made by transformers with random weights and saved as it saves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from models import SMALL
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

PLAIN = {
    "vocab_size": 211,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 130,
    "initializer_range": 0.15,
    "pad_token_id": 0,
}
LABELS = {"num_labels": 3, "pad_token_id": 0}
MODERN = {**PLAIN, "local_attention": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
          "sep_token_id": 2}  # fmt: skip


def mean(states_PD: torch.Tensor) -> torch.Tensor:
    return F.normalize(states_PD.mean(0), dim=0)


def last(states_PD: torch.Tensor) -> torch.Tensor:
    return F.normalize(states_PD[-1], dim=0)


@dataclass(frozen=True)
class Row:
    """`kind` and `changes` as transformers has them. An embedding is checked against `pooled` hidden states, a
    classifier against the logits.
    """

    kind: str
    changes: dict[str, Any]
    pooled: Callable[[torch.Tensor], torch.Tensor] | None = None


FAMILIES: dict[str, Row] = {
    "bert": Row("bert", PLAIN, mean),
    "bert-small-heads": Row("bert", {**PLAIN, "num_attention_heads": 8}, mean),
    "roberta": Row("roberta", {**PLAIN, "pad_token_id": 1, "type_vocab_size": 1}, mean),
    "xlm-roberta": Row("xlm-roberta", {**PLAIN, "pad_token_id": 1, "hidden_act": "gelu_new"}, mean),
    "modernbert": Row("modernbert", MODERN, mean),
    "modernbert-biased": Row(
        "modernbert", {**MODERN, "attention_bias": True, "mlp_bias": True, "norm_bias": True}, mean
    ),
    "nomic-bert": Row("nomic_bert", PLAIN, mean),
    "qwen3": Row("qwen3", {**SMALL, "head_dim": 32}, last),
    "mistral": Row("mistral", {**SMALL, "sliding_window": None}, last),
    "bert-classifies": Row("bert", {**PLAIN, **LABELS}),
    "roberta-classifies": Row("roberta", {**PLAIN, **LABELS, "pad_token_id": 1}),
    "xlm-roberta-ranks": Row("xlm-roberta", {**PLAIN, "pad_token_id": 1, "num_labels": 1}),
    "modernbert-classifies": Row("modernbert", {**MODERN, **LABELS, "classifier_pooling": "mean"}),
    "modernbert-by-cls": Row("modernbert", {**MODERN, **LABELS, "classifier_bias": True}),
    "llama-rewards": Row("llama", {**SMALL, "num_labels": 1}),
    "qwen2-classifies": Row("qwen2", {**SMALL, **LABELS}),
    "qwen3-ranks": Row("qwen3", {**SMALL, "num_labels": 1, "head_dim": 32}),
}

# Computed by transformers' code
WIDE = {"pad_token_id": 1}
DISTIL = {"vocab_size": 211, "dim": 64, "n_heads": 4, "n_layers": 3, "hidden_dim": 96, "max_position_embeddings": 130}
GENERIC: dict[str, Row] = {
    "albert": Row("albert", {**PLAIN, "embedding_size": 32}, mean),
    "data2vec": Row("data2vec-text", {**PLAIN, **WIDE}, mean),
    "distilbert": Row("distilbert", DISTIL, mean),
    "electra": Row("electra", {**PLAIN, "embedding_size": 32}, mean),
    "ernie": Row("ernie", PLAIN, mean),
    "eurobert": Row("eurobert", {**PLAIN, "num_key_value_heads": 2}, mean),
    "gte": Row("gte", PLAIN, mean),
    "roberta-prelayernorm": Row("roberta-prelayernorm", {**PLAIN, **WIDE}, mean),
    "xlm-roberta-xl": Row("xlm-roberta-xl", {**PLAIN, **WIDE}, mean),
    "pythia": Row("gpt_neox", SMALL, last),
    "qwen2-both-ways": Row("qwen2", {**SMALL, "is_causal": False}, mean),
    "embedding-gemma": Row(
        "gemma3_text",
        {
            **SMALL,
            "head_dim": 16,
            "sliding_window": 24,
            "use_bidirectional_attention": True,
            "tie_word_embeddings": True,
        },
        mean,
    ),
    "data2vec-classifies": Row("data2vec-text", {**PLAIN, **LABELS, **WIDE}),
    "distilbert-classifies": Row("distilbert", {**DISTIL, **LABELS}),
    "electra-classifies": Row("electra", {**PLAIN, **LABELS}),
    "ernie-ranks": Row("ernie", {**PLAIN, "num_labels": 1}),
    "gte-classifies": Row("gte", {**PLAIN, **LABELS}),
    "phi-classifies": Row("phi", {**SMALL, **LABELS}),
    "pythia-classifies": Row("gpt_neox", {**SMALL, **LABELS}),
}
ROWS = {**FAMILIES, **GENERIC}


def make(name: str) -> PreTrainedModel:
    """The reference: fp32, random weights, biases and norms that are not trivial."""
    row = ROWS[name]
    config = AutoConfig.for_model(row.kind, **row.changes)
    auto = AutoModel if row.pooled is not None else AutoModelForSequenceClassification
    torch.manual_seed(sum(map(ord, name)))
    model = auto.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def save(name: str, folder: Path) -> PreTrainedModel:
    """Make a model and save it; returns the reference."""
    model = make(name)
    model.save_pretrained(folder)
    return model


def reference(name: str, model: PreTrainedModel, tokens: list[int], second: int = -1) -> torch.Tensor:
    """What the head should give for one text alone."""
    row = ROWS[name]
    more: dict[str, Any] = {}
    if second >= 0:
        more["token_type_ids"] = torch.tensor([[int(at >= second) for at in range(len(tokens))]])
    with torch.inference_mode():
        output = model(torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens), dtype=torch.long), **more)
    return row.pooled(output.last_hidden_state[0]) if row.pooled is not None else output.logits[0]


def modules(folder: Path, **pooling: Any) -> None:
    """Files of sentence-transformers beside a model: pooling as it says, a dense layer of `dense`, unit length."""
    dense = pooling.pop("dense", None)
    normalize = pooling.pop("normalize", True)
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    kinds += [("Dense", "2_Dense")] if dense else []
    kinds += [("Normalize", "3_Normalize")] if normalize else []
    found = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(found))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if dense:
        _save_dense(folder / "2_Dense", *dense)


def _save_dense(folder: Path, weight: torch.Tensor, bias: torch.Tensor) -> None:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    outputs, inputs = weight.shape
    config = {"in_features": inputs, "out_features": outputs, "bias": True}
    (folder / "config.json").write_text(
        json.dumps({**config, "activation_function": "torch.nn.modules.activation.Tanh"})
    )
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "model.safetensors")
