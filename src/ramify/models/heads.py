"""What checkpoints hold beside the hidden layers: classifiers, rewards and dense layers, over any backbone."""

from __future__ import annotations

from collections.abc import Collection

from ramify.config.head import Head
from ramify.config.model import ModelConfig
from ramify.models.layout import Destination, Family, Layout

PREFIXES = (
    "model.",
    "transformer.",
    "bert.",
    "roberta.",
    "nomic_bert.",
)  # of a backbone under a head, missing without one
GENERATING = ("lm_head.", "cls.", "decoder.")  # what a checkpoint may have for tasks it is not served for
POOLERS = tuple(f"{prefix}pooler." for prefix in ("", *PREFIXES))


def headed(backbone: Family, head: Head) -> Family:
    """A family and its head, as one checkpoint has them."""

    def layout(config: ModelConfig) -> Layout:
        assert config.head is not None
        below = {
            name: Destination(to.shape, f"backbone.{to.layer}", to.weight, to.part)
            for name, to in backbone.layout(config).items()
        }
        return below | _classifier(config, config.head) | _dense(config.head)

    def fit(layout: Layout, names: Collection[str]) -> Layout:
        return _bare(backbone.fit(layout, names), names)

    return Family("ramify.models.headed:Headed", layout, fit, (*GENERATING, *_unread(head), *backbone.spare))


def _unread(head: Head) -> tuple[str, ...]:
    """Parts of other heads."""
    unread = POOLERS if head.classifier != "bert" else ()
    return unread if head.classifier == "modernbert" else (*unread, "head.")


def _bare(layout: Layout, names: Collection[str]) -> Layout:
    """Without the prefix of the backbone, where the checkpoint is of the backbone alone."""
    for prefix in PREFIXES:
        if not any(name.startswith(prefix) for name in names):
            layout = {name.removeprefix(prefix): to for name, to in layout.items()}
    return layout


def _dense(head: Head) -> Layout:
    found: Layout = {}
    for at, dense in enumerate(head.dense):
        found |= _linear(f"{dense.folder}/linear", f"head.dense.{at}", dense.outputs, dense.inputs, dense.bias)
    return found


def _linear(name: str, layer: str, outputs: int, inputs: int, bias: bool = True) -> Layout:
    found = {f"{name}.weight": Destination((outputs, inputs), layer)}
    if bias:
        found[f"{name}.bias"] = Destination((outputs,), layer, "bias")
    return found


def _classifier(config: ModelConfig, head: Head) -> Layout:
    hidden, labels = config.hidden, head.size
    inner, outer = "head.classifier.inner", "head.classifier.outer"
    if head.classifier == "score":
        return _linear("score", outer, labels, hidden, bias=False)
    if head.classifier == "mlp_score":
        return _linear("score.0", inner, hidden, hidden) | _linear("score.2", outer, labels, hidden)
    if head.classifier == "bert":
        return _linear("bert.pooler.dense", inner, hidden, hidden) | _linear("classifier", outer, labels, hidden)
    if head.classifier == "roberta":
        return _linear("classifier.dense", inner, hidden, hidden) | _linear(
            "classifier.out_proj", outer, labels, hidden
        )
    if head.classifier == "modernbert":
        return _modern_bert(config, labels)
    return {}


def _modern_bert(config: ModelConfig, labels: int) -> Layout:
    assert config.encoder is not None
    hidden = config.hidden
    norm = {"head.norm.weight": Destination((hidden,), "head.classifier.norm")}
    if config.encoder.norm_bias:
        norm["head.norm.bias"] = Destination((hidden,), "head.classifier.norm", "bias")
    inner = _linear("head.dense", "head.classifier.inner", hidden, hidden, config.raw.get("classifier_bias") is True)
    return inner | norm | _linear("classifier", "head.classifier.outer", labels, hidden)
