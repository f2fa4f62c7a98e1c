"""Does a checkpoint hold what the model's configuration asks for? Names and shapes, without torch, in milliseconds."""

from __future__ import annotations

from pathlib import Path

from ramify.config.model import ModelConfig
from ramify.core.errors import StartupError
from ramify.models.layout import COMPUTED, Destination, Layout
from ramify.models.registry import family_of
from ramify.weights.checkpoint import TensorInfo, list_tensors

MISMATCH = "The checkpoint and its config.json do not belong together, or the download is incomplete."
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SHOWN = 5


def checked_tensors(folder: Path, config: ModelConfig) -> dict[str, tuple[TensorInfo, Destination]]:
    """Every tensor to load and where it goes; raises `StartupError` on the first kind of mismatch."""
    family = family_of(config)
    tensors = {name: info for name, info in list_tensors(folder).items() if not name.startswith(family.spare)}
    for dense in config.head.dense if config.head is not None else ():
        tensors |= {f"{dense.folder}/{name}": info for name, info in list_tensors(folder / dense.folder).items()}
    layout = family.fit(family.layout(config), tensors)
    _settle_tied(layout, tensors, config)
    left = [name for name in tensors if name not in layout and not name.endswith(COMPUTED)]
    missing = [name for name in layout if name not in tensors]
    if missing:
        raise StartupError(f"{folder} lacks {len(missing)} tensors: {_some(missing)}", MISMATCH)
    if left:
        raise StartupError(
            f"{folder} holds {len(left)} tensors that {config.architecture} has no place for: {_some(left)}", MISMATCH
        )
    for name, destination in layout.items():
        if tensors[name].shape != destination.shape:
            raise StartupError(
                f"tensor {name} has the shape {list(tensors[name].shape)} and the configuration asks for "
                f"{list(destination.shape)}",
                MISMATCH,
            )
    return {name: (tensors[name], destination) for name, destination in layout.items()}


def _settle_tied(layout: Layout, tensors: dict[str, TensorInfo], config: ModelConfig) -> None:
    """Tied embeddings are stored under either name, or under both, which is the same tensor twice."""
    if not config.tied or HEAD not in tensors:
        return
    if EMBEDDING in tensors:
        del tensors[HEAD]
    else:
        layout[HEAD] = layout.pop(EMBEDDING)


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(sorted(names)[:SHOWN]) + (f" and {more} more" if more > 0 else "")
