"""Safetensors on disk: what is there, read without loading anything, and tensors one by one.

The format is an 8-byte length, a JSON header with name, type, shape and byte range of each tensor, and the bytes.
Headers come from whoever made the file: every number in them is checked against the file's size before use. Nothing
else is read from a model's folder; pickled checkpoints are refused.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ramify.core.errors import StartupError

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
MAX_HEADER = 100 << 20
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
SIZES |= {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
DAMAGED = "Copy or download it again."
OPEN = 2  # files at a time: of a weight in several tensors some may stand in another file


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint; `name` is what its file calls it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    name: str


def list_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor in a folder's safetensors files, from their headers alone."""
    found: dict[str, TensorInfo] = {}
    for file in _files(folder):
        for name, info in _header(file).items():
            if name in found:
                raise StartupError(f"tensor {name} is in {found[name].file.name} and in {file.name}", DAMAGED)
            found[name] = info
    return found


def files_of(path: Path) -> list[Path]:
    """What holds the weights: one GGUF file, or a folder's safetensors."""
    return [path] if path.is_file() else _files(path)


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        return _indexed(folder, index)
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
    if pickled:
        raise StartupError(
            f"{folder} has only pickled weights ({pickled[0]}), which ramify does not load",
            "Convert it once with transformers: model.save_pretrained(folder, safe_serialization=True).",
        )
    raise StartupError(f"{folder} has no .safetensors file", "Or serve its shape alone: --load-format dummy.")


def _indexed(folder: Path, index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise StartupError(f"{index} is damaged", DAMAGED) from None
    files = []
    for name in sorted(map(str, names)):
        file = folder / Path(name).name  # never outside the folder, whatever the index says
        if not file.is_file():
            raise StartupError(f"{folder} lacks {file.name}, which its index names", "The download is incomplete.")
        files.append(file)
    return files


def _header(file: Path) -> dict[str, TensorInfo]:
    with file.open("rb") as f:
        return read_header(f, file.stat().st_size, file)


def read_header(content: BinaryIO, size: int, file: Path) -> dict[str, TensorInfo]:
    """What `size` bytes of safetensors hold, which `file` is the name of. Raises `StartupError`."""
    head = content.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise StartupError(f"{file} is not a safetensors file or is cut off", DAMAGED)
    raw = content.read(length)
    try:
        header = json.loads(raw)
        return {
            name: _entry(file, name, entry, size - 8 - length)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise StartupError(f"the header of {file} is damaged", DAMAGED) from None


def _entry(file: Path, name: str, entry: dict[str, Any], data: int) -> TensorInfo:
    dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if dtype not in SIZES:
        raise StartupError(f"tensor {name} in {file.name} has the type {dtype}, which is not supported")
    elements = 1
    for extent in shape:
        if not isinstance(extent, int) or isinstance(extent, bool) or not 0 <= extent < 1 << 40:
            raise ValueError(name)
        elements *= extent
    if not 0 <= first <= last or last - first != elements * SIZES[dtype]:
        raise StartupError(f"tensor {name} in {file.name}: its byte range does not fit its shape", DAMAGED)
    if last > data:
        raise StartupError(f"{file} is cut off: tensor {name} ends {last - data} bytes behind its end", DAMAGED)
    return TensorInfo(file, dtype, shape, name)


class Reader:
    """Reads tensors one by one, mapped from their files, of which a few are open at a time."""

    def __init__(self) -> None:
        self._opened: dict[Path, Any] = {}

    def read(self, info: TensorInfo) -> Tensor:
        if info.file not in self._opened:
            from safetensors import safe_open

            if len(self._opened) == OPEN:
                del self._opened[next(iter(self._opened))]
            self._opened[info.file] = safe_open(info.file, framework="pt")
        return self._opened[info.file].get_tensor(info.name)
