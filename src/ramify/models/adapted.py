"""Which modules of a model adapters may change: by the name that a checkpoint has for each, where it is computed.

Torch-free, as layouts are: so the room that adapters take is known before anything is loaded.
"""

from __future__ import annotations

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
LM_HEAD = "lm_head"

Kind = Literal["linear", "expert", "embedding", "head"]


@dataclass(frozen=True)
class Site:
    """A module: the layer that computes it (dotted path), and which part of that it is. An embedding goes from tokens,
    one number each, to hidden states.
    """

    layer: str
    part: str
    inputs: int
    outputs: int
    kind: Kind = "linear"

    @property
    def elements(self) -> int:
        """Numbers of an adapter of rank 1."""
        return self.inputs + self.outputs

    @property
    def has_vocabulary(self) -> bool:
        """It has a row for every token."""
        return self.kind in ("embedding", "head")

    @property
    def tokens(self) -> int:
        return self.inputs if self.kind == "embedding" else self.outputs

    @property
    def width(self) -> int:
        """Of a token's row."""
        return self.outputs if self.kind == "embedding" else self.inputs


def sites_of(config: ModelConfig) -> dict[str, Site]:
    """Every module that can be adapted, by its name in the checkpoint's words; fused ones are one. Experts are among
    them where a checkpoint has them one by one.
    """
    if config.generic is not None or config.encoder is not None:
        return {}
    layout = family_of(config).layout(config)
    found = {name.removesuffix(".weight"): _site(to, kind) for name, to in layout.items() if (kind := _kind(name, to))}
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


def expert_of(part: str) -> int | None:
    """Which of several groups a part `GROUP.PART` is of."""
    group, _, rest = part.partition(".")
    return int(group) if rest and group.isdecimal() else None


def target_of(name: str) -> str:
    """What people call all modules of a kind: the last word of their names."""
    return name.rpartition(".")[2]


def chosen(sites: Mapping[str, Site], targets: tuple[str, ...], flag: str = "--lora-target-modules") -> dict[str, Site]:
    """The sites that adapters may change. `all` is every linear that each token goes through; experts, embeddings and
    heads, which are large, have to be named. Raises `StartupError` where a target names none.
    """
    there = sorted({target_of(name) for name in sites})
    if unknown := [target for target in targets if target not in there and target != ALL]:
        raise StartupError(
            f"{flag}: {', '.join(unknown)} cannot be adapted in this model", f"What can: {', '.join(there)}, or all."
        )
    return {
        name: site
        for name, site in sites.items()
        if target_of(name) in targets or (ALL in targets and site.kind == "linear")
    }
