"""The seam for formats of quantized checkpoints. A format is a file here and a line in `FORMATS`.

A format says which tensors stand in a checkpoint for the weight of a module, before anything is loaded and without
torch; and, when they have been read, what they are: see `quant.stored`. Names are checked as all others are: a piece
that is missing is an error, and so is a tensor that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ramify.config.quantized import Quantized
from ramify.core.errors import StartupError
from ramify.core.registry import Registry
from ramify.weights.checkpoint import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ramify.quant.stored import Stored

MISMATCH = "The checkpoint and its quantization_config do not belong together, or the download is incomplete."
FLOATS = ("F64", "F32", "F16", "BF16")
Found = Mapping[str, TensorInfo]  # the tensors of a checkpoint by name
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """A tensor that stands for a part of a weight: its name in the checkpoint, the shapes and types it may have."""

    name: str
    shapes: tuple[Shape, ...]
    types: tuple[str, ...]

    def check(self, found: Found) -> None:
        """Raises `StartupError` with the tensor's name."""
        if self.name not in found:
            raise StartupError(f"the checkpoint lacks the tensor {self.name}", MISMATCH)
        info = found[self.name]
        if info.dtype not in self.types:
            raise StartupError(
                f"tensor {self.name} has the type {info.dtype}, and should have {' or '.join(self.types)}", MISMATCH
            )
        if info.shape not in self.shapes:
            wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(self.shapes))
            raise StartupError(
                f"tensor {self.name} has the shape {list(info.shape)}, and should have {wanted}", MISMATCH
            )


Pieces = dict[str, Piece]  # by role, in the words of a format


def groups_of(module: str, shape: tuple[int, int], found: Found, *, even: bool) -> int:
    """How many groups of inputs the scales [G, E] of a packed weight are for; with `even` all of one size. Outputs come
    by the eight.
    """
    (outputs, inputs), name = shape, f"{module}.scales"
    groups = found[name].shape[0] if name in found and found[name].shape else 0
    if not 0 < groups <= inputs or outputs % 8 or inputs % (groups if even else 8):
        raise StartupError(f"tensor {name}: {groups} groups do not go with a weight of {list(shape)}", MISMATCH)
    return groups


class Format(Protocol):
    """One way of quantizing linears. `spare` are endings of tensors that may be there and are not read."""

    spare: tuple[str, ...]

    def pieces(self, module: str, shape: tuple[int, int], found: Found, quantized: Quantized) -> Pieces | None:
        """What stands for the weight [outputs, inputs] of a module; None where it is stored plain. Raises
        `StartupError` where the shape does not allow it.
        """

    def stored(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], quantized: Quantized) -> Stored:
        """The weight, of its tensors by role."""


FORMATS: Registry[Format] = Registry(
    "formats",
    {
        "fp8": "ramify.quant.fp8:FP8",
        "compressed-tensors": "ramify.quant.compressed:COMPRESSED",
        "gptq": "ramify.quant.gptq:GPTQ",
        "awq": "ramify.quant.awq:AWQ",
        "bitsandbytes": "ramify.quant.bnb:BITSANDBYTES",
        "mxfp4": "ramify.quant.mxfp4:MXFP4",
        "gguf": "ramify.quant.gguf:GGUF",
    },
)


def divided(count: int, by: int) -> int:
    """How many groups of `by` hold `count`."""
    return -(-count // by)
