"""Does a checkpoint hold what the model's configuration asks for? Names and shapes, without torch, in milliseconds."""

from __future__ import annotations

from pathlib import Path

from ramify.config.model import ModelConfig
from ramify.core.errors import StartupError
from ramify.models.layout import COMPUTED, EMBEDDING, Destination, Layout
from ramify.models.registry import family_of
from ramify.weights.checkpoint import TensorInfo, list_tensors

MISMATCH = "The checkpoint and its config.json do not belong together, or the download is incomplete."
HEAD_NAME = "lm_head.weight"
SHOWN = 5


def checked_tensors(folder: Path, config: ModelConfig) -> dict[str, tuple[TensorInfo, Destination]]:
    """Every tensor to load and where it goes; raises `StartupError` on the first kind of mismatch."""
    family = family_of(config)
    tensors = {name: info for name, info in list_tensors(folder).items() if not name.startswith(family.spare)}
    for dense in config.head.dense if config.head is not None else ():
        tensors |= {f"{dense.folder}/{name}": info for name, info in list_tensors(folder / dense.folder).items()}
    layout = family.fit(family.layout(config), tensors)
    _settle_tied(layout, tensors, config)
    drafting = _drafting(config)
    left = [n for n in tensors if n not in layout and not n.endswith(COMPUTED) and not n.startswith(drafting)]
    missing = [name for name in layout if name not in tensors]
    if missing:
        raise StartupError(f"{folder} lacks {len(missing)} tensors: {some(missing)}", MISMATCH)
    if left:
        raise StartupError(
            f"{folder} holds {len(left)} tensors that {config.architecture} has no place for: {some(left)}", MISMATCH
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
    if not config.tied or HEAD_NAME not in tensors:
        return
    embedding = next(name for name, destination in layout.items() if destination.layer == EMBEDDING)
    if embedding in tensors:
        del tensors[HEAD_NAME]
    else:
        layout[HEAD_NAME] = layout.pop(embedding)


def _drafting(config: ModelConfig) -> tuple[str, ...]:
    """Layers behind the last that guess further tokens (DeepSeek V3, GLM 4.5): not part of the model."""
    more = config.raw.get("num_nextn_predict_layers")
    return tuple(f"model.layers.{config.layers + layer}." for layer in range(more if isinstance(more, int) else 0))


def some(names: list[str]) -> str:
    """The first of many names."""
    more = len(names) - SHOWN
    return ", ".join(sorted(names)[:SHOWN]) + (f" and {more} more" if more > 0 else "")
