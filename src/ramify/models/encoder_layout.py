"""What checkpoints of encoders hold, by transformers' names."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ramify.config.model import ModelConfig
from ramify.models.layout import Destination, Family, Layout


def _linear(name: str, layer: str, outputs: int, inputs: int, bias: bool, part: str = "all") -> Layout:
    found = {f"{name}.weight": Destination((outputs, inputs), layer, "weight", part)}
    if bias:
        found[f"{name}.bias"] = Destination((outputs,), layer, "bias", part)
    return found


def _norm(name: str, layer: str, size: int, bias: bool = True) -> Layout:
    found = {f"{name}.weight": Destination((size,), layer)}
    if bias:
        found[f"{name}.bias"] = Destination((size,), layer, "bias")
    return found


def _tables(config: ModelConfig, under: str) -> Layout:
    """Embeddings of words, and where there are any of positions and of types."""
    assert config.encoder is not None
    rows = {"word": config.vocab, "position": config.encoder.positions, "token_type": config.encoder.types}
    return {
        f"{under}.{name}_embeddings.weight": Destination((count, config.hidden), f"tables.{name}")
        for name, count in rows.items()
        if count
    }


# -- BERT and RoBERTa --------------------------------------------------------------------------------------------------


def _bert_under(prefix: str, config: ModelConfig) -> Layout:
    hidden = config.hidden
    layout = _tables(config, f"{prefix}embeddings")
    layout |= _norm(f"{prefix}embeddings.LayerNorm", "norm", hidden)
    for at in range(config.layers):
        here, there = f"{prefix}encoder.layer.{at}", f"layers.{at}"
        for part, name in (("q", "query"), ("k", "key"), ("v", "value")):
            layout |= _linear(f"{here}.attention.self.{name}", f"{there}.attention.qkv", hidden, hidden, True, part)
        layout |= _linear(f"{here}.attention.output.dense", f"{there}.attention.out", hidden, hidden, True)
        layout |= _norm(f"{here}.attention.output.LayerNorm", f"{there}.attention_norm", hidden)
        layout |= _linear(f"{here}.intermediate.dense", f"{there}.mlp.up", config.mlp, hidden, True)
        layout |= _linear(f"{here}.output.dense", f"{there}.mlp.down", hidden, config.mlp, True)
        layout |= _norm(f"{here}.output.LayerNorm", f"{there}.mlp_norm", hidden)
    return layout


def _bert(config: ModelConfig) -> Layout:
    return _bert_under("bert.", config)


def _roberta(config: ModelConfig) -> Layout:
    return _bert_under("roberta.", config)


def _old_norms(layout: Layout, names: Collection[str]) -> Layout:
    """Checkpoints that came from TensorFlow have gamma and beta."""
    if not any(name.endswith("LayerNorm.gamma") for name in names):
        return layout
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): to
        for name, to in layout.items()
    }


# -- ModernBERT --------------------------------------------------------------------------------------------------------


def _modern_bert(config: ModelConfig) -> Layout:
    assert config.encoder is not None
    hidden, bias, norm_bias = config.hidden, config.attention_bias, config.encoder.norm_bias
    layout = {"model.embeddings.tok_embeddings.weight": Destination((config.vocab, hidden), "embedding")}
    layout |= _norm("model.embeddings.norm", "embedding_norm", hidden, norm_bias)
    layout |= _norm("model.final_norm", "norm", hidden, norm_bias)
    for at in range(config.layers):
        here, there = f"model.layers.{at}", f"layers.{at}"
        if at:
            layout |= _norm(f"{here}.attn_norm", f"{there}.attention_norm", hidden, norm_bias)
        layout |= _linear(f"{here}.attn.Wqkv", f"{there}.attention.qkv", 3 * hidden, hidden, bias)
        layout |= _linear(f"{here}.attn.Wo", f"{there}.attention.out", hidden, hidden, bias)
        layout |= _norm(f"{here}.mlp_norm", f"{there}.mlp_norm", hidden, norm_bias)
        layout |= _linear(f"{here}.mlp.Wi", f"{there}.mlp.gate_up", 2 * config.mlp, hidden, config.mlp_bias)
        layout |= _linear(f"{here}.mlp.Wo", f"{there}.mlp.down", hidden, config.mlp, config.mlp_bias)
    return layout


# -- nomic-bert --------------------------------------------------------------------------------------------------------

FIRST_NAMES = {  # transformers' names, and nomic's own
    "embeddings.LayerNorm": "emb_ln",
    "self_attn.o_proj": "attn.out_proj",
    "mlp.up_proj": "mlp.fc11",
    "mlp.gate_proj": "mlp.fc12",
    "mlp.down_proj": "mlp.fc2",
    "post_attention_layernorm": "norm1",
    "post_mlp_layernorm": "norm2",
}


def _nomic_bert(config: ModelConfig) -> Layout:
    hidden, prefix = config.hidden, "nomic_bert."
    layout = _tables(config, f"{prefix}embeddings") | _norm(f"{prefix}embeddings.LayerNorm", "norm", hidden)
    for at in range(config.layers):
        here, there = f"{prefix}layers.{at}", f"layers.{at}"
        for part in "qkv":
            name = f"{here}.self_attn.{part}_proj"
            layout |= _linear(name, f"{there}.attention.qkv", hidden, hidden, config.attention_bias, part)
        layout |= _linear(f"{here}.self_attn.o_proj", f"{there}.attention.out", hidden, hidden, config.attention_bias)
        layout |= _norm(f"{here}.post_attention_layernorm", f"{there}.attention_norm", hidden)
        for part in ("gate", "up"):
            name = f"{here}.mlp.{part}_proj"
            layout |= _linear(name, f"{there}.mlp.gate_up", config.mlp, hidden, config.mlp_bias, part)
        layout |= _linear(f"{here}.mlp.down_proj", f"{there}.mlp.down", hidden, config.mlp, config.mlp_bias)
        layout |= _norm(f"{here}.post_mlp_layernorm", f"{there}.mlp_norm", hidden)
    return layout


def _first_names(layout: Layout, names: Collection[str]) -> Layout:
    """As nomic itself published it, with q, k and v in one tensor."""
    if not any("attn.Wqkv" in name for name in names):
        return layout
    return dict(_in_first_names(layout))


def _in_first_names(layout: Layout) -> Iterator[tuple[str, Destination]]:
    for name, to in layout.items():
        if ".q_proj." in name:
            rows, *rest = to.shape
            fused = name.replace(".layers.", ".encoder.layers.").replace("self_attn.q_proj", "attn.Wqkv")
            yield fused, Destination((3 * rows, *rest), to.layer, to.weight)
        elif ".k_proj." not in name and ".v_proj." not in name:
            for ours, theirs in FIRST_NAMES.items():
                name = name.replace(ours, theirs)
            yield name.replace(".layers.", ".encoder.layers."), to


BERT = Family("ramify.models.bert:Bert", _bert, _old_norms)
ROBERTA = Family("ramify.models.bert:Bert", _roberta, _old_norms)
MODERN_BERT = Family("ramify.models.modern_bert:ModernBert", _modern_bert)
NOMIC_BERT = Family("ramify.models.bert:NomicBert", _nomic_bert, _first_names)
