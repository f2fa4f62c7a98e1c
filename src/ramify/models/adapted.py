"""Which modules of a model adapters may change: by the name that a checkpoint has for each, where it is computed.

Torch-free, as layouts are: so the room that adapters take is known before anything is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ramify.config.adapters import ALL
from ramify.config.model import ModelConfig
from ramify.core.errors import StartupError
from ramify.models.layout import EMBEDDING, HEAD, Destination
from ramify.models.registry import family_of

TRANSPOSED = "transposed"  # stored [inputs, outputs]; adapters of such modules are as those of others
CHOOSING = ("router", "gate", "correction", "positions", "expansion")  # ends of layers that are no plain linears
BELOW_A_HEAD = "backbone."
EXPERTS = ".experts."
STACKED = "stacked"
HALVES = "halves"
STACKS = {"gate_up": "gate_up_proj", "down": "down_proj"}  # what transformers calls the tensors of all experts
STORED = ("_blocks", "_scales")  # ends of names of tensors that are quantized
LM_HEAD = "lm_head"
SCORE = "score"  # of a classifier, in the words of a checkpoint

Kind = Literal["linear", "expert", "experts", "embedding", "head", "score"]


@dataclass(frozen=True)
class Site:
    """A module: the layer that computes it (dotted path), and which part of that it is. An embedding goes from tokens,
    one number each, to hidden states. Experts that stand in one tensor are one module of so many `groups`, whose
    outputs may be `mixed`: of one half and the other by turns.
    """

    layer: str
    part: str
    inputs: int
    outputs: int
    kind: Kind = "linear"
    groups: int = 1
    mixed: bool = False

    @property
    def elements(self) -> int:
        """Numbers of an adapter of rank 1."""
        return self.groups * (self.inputs + self.outputs)

    @property
    def has_vocabulary(self) -> bool:
        """It has a row for every token."""
        return self.kind in ("embedding", "head")

    @property
    def can_be_whole(self) -> bool:
        return self.kind in ("embedding", "head", "score")

    @property
    def tokens(self) -> int:
        """Or labels."""
        return self.inputs if self.kind == "embedding" else self.outputs

    @property
    def width(self) -> int:
        """Of the row of one of them."""
        return self.outputs if self.kind == "embedding" else self.inputs


def sites_of(config: ModelConfig) -> dict[str, Site]:
    """Every module that can be adapted, by its name in the checkpoint's words; fused ones are one. Experts are modules
    where a checkpoint has them one by one, and all together where they stand in one tensor.
    """
    if config.generic is not None or config.encoder is not None:
        return {}
    layout = family_of(config).layout(config)
    found = {name.removesuffix(".weight"): _site(to, kind) for name, to in layout.items() if (kind := _kind(name, to))}
    for name, to in layout.items():
        if _is_stack(name, to):
            found[name.removesuffix(STORED[0])] = _stack(to)
    if config.tied and config.head is None:
        found[LM_HEAD] = Site(HEAD, "all", config.hidden, config.vocab, "head")
    return found


def _site(to: Destination, kind: Kind) -> Site:
    outputs, inputs = reversed(to.shape) if to.arranged == TRANSPOSED or kind == "embedding" else to.shape
    return Site(to.layer, to.part, inputs, outputs, kind)


def _kind(name: str, to: Destination) -> Kind | None:
    if not name.endswith(".weight") or to.weight != "weight" or len(to.shape) != 2:
        return None
    if to.arranged not in ("", TRANSPOSED):
        return None
    if name == f"{SCORE}.weight":
        return "score"
    layer = to.layer.removeprefix(BELOW_A_HEAD)
    if layer == EMBEDDING:
        return "embedding"
    if layer == HEAD:
        return "head"
    if not layer.startswith("layers.") or any(part in CHOOSING for part in layer.split(".")):
        return None
    if EXPERTS in layer:
        return "expert" if expert_of(to.part) is not None else None
    return "linear"


def _is_stack(name: str, to: Destination) -> bool:
    how, last = to.arranged.split(), to.layer.rpartition(".")[2]
    if (
        to.weight != "weight"
        or STACKED not in how
        or name.removesuffix(STORED[0]).rpartition(".")[2] != STACKS.get(last)
    ):
        return False
    return EXPERTS in f"{to.layer}."


def _stack(to: Destination) -> Site:
    how = to.arranged.split()
    groups, outputs, inputs = *to.shape[:2], math.prod(to.shape[2:]) * (2 if "fp4" in how else 1)
    if TRANSPOSED in how:
        outputs, inputs = inputs, outputs
    return Site(to.layer, to.part, inputs, outputs, "experts", groups, HALVES in how)


def expert_of(part: str) -> int | None:
    """Which of several groups a part `GROUP.PART` is of."""
    group, _, rest = part.partition(".")
    return int(group) if rest and group.isdecimal() else None


def target_of(name: str) -> str:
    """What people call all modules of a kind: the last word of their names."""
    return name.rpartition(".")[2]


def chosen(sites: Mapping[str, Site], targets: tuple[str, ...], flag: str = "--lora-target-modules") -> dict[str, Site]:
    """The sites that adapters may change. `all` is every linear that each token goes through; experts, embeddings and
    heads, which are large, have to be named. Experts one by one are also what transformers calls them together. Raises
    `StartupError` where a target names none.
    """
    there = sorted({word for name, site in sites.items() for word in _names_of(name, site)})
    if unknown := [target for target in targets if target not in there and target != ALL]:
        raise StartupError(
            f"{flag}: {', '.join(unknown)} cannot be adapted in this model", f"What can: {', '.join(there)}, or all."
        )
    return {
        name: site
        for name, site in sites.items()
        if any(word in targets for word in _names_of(name, site)) or (ALL in targets and site.kind == "linear")
    }


def _names_of(name: str, site: Site) -> tuple[str, ...]:
    if site.kind != "expert":
        return (target_of(name),)
    together = STACKS.get(site.layer.rpartition(".")[2], "")
    return (target_of(name), together) if together else (target_of(name),)
