"""Which modules of a model adapters may change: by the name that a checkpoint has for each, where it is computed.

Torch-free, as layouts are: so the room that adapters take is known before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ramify.config.adapters import ALL
from ramify.config.model import ModelConfig
from ramify.core.errors import StartupError
from ramify.models.layout import EMBEDDING, HEAD, Destination
from ramify.models.registry import family_of

TRANSPOSED = "transposed"  # stored [inputs, outputs]; adapters of such modules are as those of others
CHOOSING = ("router", "gate", "correction", "positions", "expansion")  # ends of layers that are no plain linears


@dataclass(frozen=True)
class Site:
    """A module: the layer that computes it (dotted path), and which part of that it is."""

    layer: str
    part: str
    inputs: int
    outputs: int

    @property
    def elements(self) -> int:
        """Numbers of an adapter of rank 1."""
        return self.inputs + self.outputs


def sites_of(config: ModelConfig) -> dict[str, Site]:
    """Every linear of a model's layers, by its name in the checkpoint's words; fused ones are one."""
    if config.generic is not None or config.encoder is not None:
        return {}
    found = family_of(config).layout(config)
    return {name.removesuffix(".weight"): _site(to) for name, to in found.items() if _is_linear(name, to)}


def _site(to: Destination) -> Site:
    outputs, inputs = reversed(to.shape) if to.arranged == TRANSPOSED else to.shape
    return Site(to.layer, to.part, inputs, outputs)


def _is_linear(name: str, to: Destination) -> bool:
    if not name.endswith(".weight") or to.weight != "weight" or len(to.shape) != 2:
        return False
    if to.arranged not in ("", TRANSPOSED) or to.layer.removeprefix("backbone.") in (EMBEDDING, HEAD):
        return False
    return "layers." in to.layer and not any(part in CHOOSING for part in to.layer.split(".")) and not _of_expert(to)


def _of_expert(to: Destination) -> bool:
    return ".experts." in to.layer or to.part.split(".")[0].isdigit()


def target_of(name: str) -> str:
    """What people call all modules of a kind: the last word of their names."""
    return name.rpartition(".")[2]


def chosen(sites: Mapping[str, Site], targets: tuple[str, ...], flag: str = "--lora-target-modules") -> dict[str, Site]:
    """The sites that adapters may change; `all` is all. Raises `StartupError` where a target names none."""
    there = sorted({target_of(name) for name in sites})
    if ALL not in targets and (unknown := [target for target in targets if target not in there]):
        raise StartupError(
            f"{flag}: {', '.join(unknown)} cannot be adapted in this model", f"What can: {', '.join(there)}, or all."
        )
    return {name: site for name, site in sites.items() if ALL in targets or target_of(name) in targets}
