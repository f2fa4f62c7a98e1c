"""The header of a GGUF file: its metadata, and where its tensors are (ggml's docs/gguf.md, versions 2 and 3).

    "GGUF" version(u32) tensors(u64) entries(u64)
    entries times:  key(string) type(u32) value
    tensors times:  name(string) dimensions(u32) extent(u64)... type(u32) offset(u64)
    padding to the alignment, then the data, which offsets count from

A header comes from whoever made the file. Every length and count is held against what is left of the file before it is
used, every offset and size against the data; an error names the field.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from ramify.core.errors import StartupError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_TENSORS, MOST_ENTRIES, MOST_HEADER = 1 << 18, 1 << 16, 256 << 20
MOST_KEY, MOST_NAME, MOST_STRING, MOST_ARRAY = 1 << 16, 1 << 10, 16 << 20, 1 << 24
MOST_EXTENT = 1 << 31
DAMAGED = "Copy or download it again."

STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TYPES = {  # name, numbers in a block, bytes of a block; by ggml's number
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    30: ("BF16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
}
OTHERS = {
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}


@dataclass(frozen=True)
class Placed:
    """A tensor: `shape` from the outside in, as everywhere here (GGUF has the innermost first). `first` counts from the
    beginning of the file.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    first: int
    size: int


@dataclass(frozen=True)
class Header:
    """`metadata` has numbers, truth values, strings, and lists of one of these."""

    file: Path
    metadata: dict[str, Any]
    tensors: dict[str, Placed]


def is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" and path.is_file()


def read_header(file: Path) -> Header:
    """Raises `StartupError` for anything that is not as it should be. The header that was read last is kept until
    `forget`, since a start asks for it many times and a vocabulary takes a third of a second: it is not to be changed.
    """
    known = file.stat()
    return _read_header(file, known.st_mtime_ns, known.st_size)


@lru_cache(maxsize=1)
def _read_header(file: Path, modified: int, size: int) -> Header:
    with file.open("rb") as opened:
        return _Reader(file, opened).header()


def forget() -> None:
    """Give back the memory of the header that was read last."""
    _read_header.cache_clear()


class _Reader:
    def __init__(self, file: Path, opened: BinaryIO) -> None:
        self._file, self._opened, self._size = file, opened, file.stat().st_size
        self._at = 0

    def header(self) -> Header:
        if self._take(4, "its first four bytes") != MAGIC:
            raise self._wrong("it does not begin with GGUF")
        version = self._number("I", "version")
        if version not in VERSIONS:
            raise self._wrong(f"version {version} is not supported", f"Supported: {VERSIONS}, least byte first.")
        count, entries = self._number("Q", "tensor_count"), self._number("Q", "metadata_kv_count")
        self._check_count("tensor_count", count, MOST_TENSORS, 24)
        self._check_count("metadata_kv_count", entries, MOST_ENTRIES, 13)
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._string("a metadata key", MOST_KEY)
            if key in metadata:
                raise self._wrong(f"{key!r:.80} is there twice")
            metadata[key] = self._value(self._number("I", f"the type of {key:.80}"), key[:80])
        found = [self._tensor() for _ in range(count)]
        return Header(self._file, metadata, self._placed(found, self._alignment(metadata)))

    # -- values --------------------------------------------------------------------------------------------------------

    def _value(self, kind: int, key: str) -> Any:
        if kind == STRING:
            return self._string(key, MOST_STRING)
        if kind == ARRAY:
            return self._array(key)
        if kind not in NUMBERS:
            raise self._wrong(f"{key} has the type {kind}, which there is not")
        return self._number(NUMBERS[kind], key)

    def _array(self, key: str) -> list[Any]:
        kind, count = self._number("I", f"the type of the elements of {key}"), self._number("Q", f"the length of {key}")
        if kind == STRING:
            self._check_count(f"the length of {key}", count, MOST_ARRAY, 8)
            return self._strings(key, count)
        if kind not in NUMBERS:
            raise self._wrong(f"{key} is a list of the type {kind}, which is not supported")
        size = struct.calcsize(f"<{NUMBERS[kind]}")
        self._check_count(f"the length of {key}", count, MOST_ARRAY, size)
        return list(struct.unpack(f"<{count}{NUMBERS[kind]}", self._take(count * size, key)))

    def _strings(self, key: str, count: int) -> list[str]:
        """As `_string` one by one. Vocabularies have hundreds of thousands."""
        found, read, end = [], self._opened.read, min(self._size, MOST_HEADER)
        at = self._at
        for _ in range(count):
            length = int.from_bytes(read(8), "little")
            at += 8 + length
            if length > MOST_STRING or at > end:
                raise self._wrong(f"a string of {key} ends behind the header, or is over {MOST_STRING >> 20} MiB")
            found.append(read(length).decode("utf-8", "replace"))
        self._at = at
        return found

    def _string(self, what: str, most: int) -> str:
        length = self._number("Q", f"the length of {what}")
        self._check_count(f"the length of {what}", length, most, 1)
        return self._take(length, what).decode("utf-8", "replace")

    def _number(self, code: str, what: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}"), what))[0]

    def _take(self, count: int, what: str) -> bytes:
        if count > min(self._size, MOST_HEADER) - self._at:
            where = "behind its end" if count > self._size - self._at else f"behind {MOST_HEADER >> 20} MiB of header"
            raise self._wrong(f"{what} ends {where}")
        self._at += count
        found = self._opened.read(count)
        if len(found) != count:
            raise self._wrong(f"{what} is cut off")
        return found

    def _check_count(self, what: str, count: int, most: int, each: int) -> None:
        """`each` is the fewest bytes that one of them takes."""
        if count > most:
            raise self._wrong(f"{what} is {count}, and at most {most} make sense")
        if count * each > self._size - self._at:
            raise self._wrong(f"{what} is {count}, and {self._size - self._at} bytes are left")

    # -- tensors -------------------------------------------------------------------------------------------------------

    def _alignment(self, metadata: dict[str, Any]) -> int:
        found = metadata.get("general.alignment", 32)
        if type(found) is not int or not 8 <= found <= 1 << 16 or found & found - 1:
            raise self._wrong(f"general.alignment is {found!r:.80}, and should be a power of two from 8 to 65536")
        return found

    def _tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string("the name of a tensor", MOST_NAME)
        dimensions = self._number("I", f"the dimensions of {name}")
        if not 1 <= dimensions <= 4:
            raise self._wrong(f"tensor {name!r} has {dimensions} dimensions")
        extents = tuple(self._number("Q", f"an extent of {name}") for _ in range(dimensions))
        if not all(0 < extent < MOST_EXTENT for extent in extents):
            raise self._wrong(f"tensor {name!r} has the extents {list(extents)}")
        return name, self._number("I", f"the type of {name}"), extents, self._number("Q", f"the offset of {name}")

    def _placed(self, found: list[tuple[str, int, tuple[int, ...], int]], alignment: int) -> dict[str, Placed]:
        start = -(-self._at // alignment) * alignment
        made: dict[str, Placed] = {}
        for name, kind, extents, offset in found:
            if name in made:
                raise self._wrong(f"tensor {name!r} is there twice")
            made[name] = self._one(name, kind, extents, offset, start, alignment)
        for before, after in pairwise(sorted(made.values(), key=lambda tensor: tensor.first)):
            if before.first + before.size > after.first:
                raise self._wrong(f"the tensors {before.name!r} and {after.name!r} overlap")
        return made

    def _one(self, name: str, kind: int, extents: tuple[int, ...], offset: int, start: int, alignment: int) -> Placed:
        if kind not in TYPES:
            supported = ", ".join(name for name, _, _ in TYPES.values())
            raise self._wrong(f"tensor {name!r} has the type {OTHERS.get(kind, kind)}", f"Supported: {supported}.")
        type_name, numbers, size = TYPES[kind]
        if extents[0] % numbers:
            raise self._wrong(f"tensor {name!r} has rows of {extents[0]}, and {type_name} has blocks of {numbers}")
        if offset % alignment:
            raise self._wrong(f"the offset of {name!r}, {offset}, is no multiple of {alignment}")
        count = math.prod(extents) // numbers * size
        if start + offset + count > self._size:
            raise self._wrong(f"tensor {name!r} ends {start + offset + count - self._size} bytes behind its end")
        return Placed(name, type_name, extents[::-1], start + offset, count)

    def _wrong(self, what: str, remedy: str = DAMAGED) -> StartupError:
        return StartupError(f"{self._file}: {what}", remedy)
