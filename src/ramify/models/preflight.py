"""Does a checkpoint hold what the model's configuration asks for? Names and shapes, without torch, in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ramify.config.gguf import is_gguf
from ramify.config.model import ModelConfig
from ramify.config.parts import language_tensors
from ramify.config.quantized import Quantized, quantized_of
from ramify.core.errors import StartupError
from ramify.models.layout import COMPUTED, EMBEDDING, Destination, Layout
from ramify.models.registry import family_of
from ramify.quant.format import FLOATS, FORMATS, Format, Pieces
from ramify.weights.checkpoint import TensorInfo, list_tensors
from ramify.weights.gguf import list_mapped

MISMATCH = "The checkpoint and its config.json do not belong together, or the download is incomplete."
HEAD_NAME = "lm_head.weight"
SHOWN = 5
IN_BYTES = ("fp4", "powers")  # arrangements that make numbers of bytes


@dataclass(frozen=True)
class Placed:
    """One tensor of the model: the tensors of the checkpoint that stand for it, by role, and where it goes. Without a
    format there is one, and it is the tensor itself.
    """

    pieces: dict[str, TensorInfo]
    destination: Destination
    format: Format | None = None
    quantized: Quantized | None = None

    @property
    def first(self) -> TensorInfo:
        return next(iter(self.pieces.values()))


def checked_tensors(folder: Path, config: ModelConfig) -> dict[str, Placed]:
    """Every tensor to load and where it goes; raises `StartupError` on the first kind of mismatch."""
    family = family_of(config)
    listed = list_mapped(folder) if is_gguf(folder) else list_tensors(folder)
    called = language_tensors(listed, config.raw)
    tensors = {ours: listed[name] for name, ours in called.items() if not ours.startswith(family.spare)}
    for dense in config.head.dense if config.head is not None else ():
        tensors |= {f"{dense.folder}/{name}": info for name, info in list_tensors(folder / dense.folder).items()}
    layout = family.fit(family.layout(config), tensors)
    _settle_tied(layout, tensors, config)
    quantized, drafting = _Quantized(config, tensors), _drafting(config)
    pieces = {name: found for name, to in layout.items() if (found := quantized.pieces(name, to)) is not None}
    used = {piece.name for found in pieces.values() for piece in found.values()} | layout.keys() - pieces.keys()
    beside = (*COMPUTED, *quantized.spare)
    left = [n for n in tensors if n not in used and not n.endswith(beside) and not n.startswith(drafting)]
    missing = [name for name in layout if name not in tensors and name not in pieces]
    if missing:
        raise StartupError(f"{folder} lacks {len(missing)} tensors: {some(missing)}", MISMATCH)
    if left:
        raise StartupError(
            f"{folder} holds {len(left)} tensors that {config.architecture} has no place for: {some(left)}", MISMATCH
        )
    for name, destination in layout.items():
        if name not in pieces:
            _check_plain(name, tensors[name], destination)
    return {name: quantized.placed(pieces.get(name), name, to) for name, to in layout.items()}


class _Quantized:
    """What the format of a quantized checkpoint has to say; of one that is not, nothing."""

    def __init__(self, config: ModelConfig, tensors: dict[str, TensorInfo]) -> None:
        self._tensors, self._quantized = tensors, quantized_of(config.raw)
        self._format = None if self._quantized is None else FORMATS[self._quantized.method]
        self.spare = () if self._format is None else self._format.spare

    def pieces(self, name: str, destination: Destination) -> Pieces | None:
        """Of a weight that is not stored plain, with everything checked."""
        if self._format is None or len(destination.shape) != 2 or not name.endswith(".weight"):
            return None
        assert self._quantized is not None
        module, (first, second) = name.removesuffix(".weight"), destination.shape
        found = self._format.pieces(module, (first, second), self._tensors, self._quantized)
        if found is None:
            return None
        if destination.arranged:
            raise StartupError(f"{module} is quantized, which is not supported for the way it is stored in this family")
        if self._quantized.ignores(module):
            raise StartupError(
                f"{module} is quantized, and the quantization_config names it among those that are not",
                "Take it out of that list where the checkpoint is right.",
            )
        for piece in found.values():
            piece.check(self._tensors)
        return found

    def placed(self, pieces: Pieces | None, name: str, destination: Destination) -> Placed:
        if pieces is None:
            return Placed({"": self._tensors[name]}, destination)
        infos = {role: self._tensors[piece.name] for role, piece in pieces.items()}
        return Placed(infos, destination, self._format, self._quantized)


def _check_plain(name: str, info: TensorInfo, destination: Destination) -> None:
    if info.shape != destination.shape:
        raise StartupError(
            f"tensor {name} has the shape {list(info.shape)} and the configuration asks for {list(destination.shape)}",
            MISMATCH,
        )
    if info.dtype not in FLOATS and not any(word in destination.arranged for word in IN_BYTES):
        raise StartupError(
            f"tensor {name} has the type {info.dtype}, and config.json does not say how to read it", MISMATCH
        )


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
