"""A writer of GGUF files for tests, by the format's document. What is wrong with a file can be put in."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
KINDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8}
KINDS |= {"Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "BF16": 30}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(given: Any) -> bytes:
    """A number of the smallest sensible type, a string, or a list of these, behind its type."""
    if isinstance(given, list):
        kind = value(given[0])[:4]
        return struct.pack("<I", ARRAY) + kind + struct.pack("<Q", len(given)) + b"".join(value(e)[4:] for e in given)
    if isinstance(given, bool):
        return struct.pack("<IB", BOOL, given)
    if isinstance(given, int):
        return struct.pack("<Ii", I32, given) if given < 0 else struct.pack("<II", U32, given)
    if isinstance(given, float):
        return struct.pack("<If", F32, given)
    return struct.pack("<I", STRING) + text(given)


Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]  # name -> type, shape as in torch, bytes


def gguf(metadata: dict[str, Any], tensors: Tensors, alignment: int = 32, version: int = 3) -> bytes:
    entries = b"".join(text(key) + value(given) for key, given in metadata.items())
    infos, data = b"", b""
    for name, (kind, shape, content) in tensors.items():
        infos += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        infos += struct.pack("<IQ", KINDS[kind], len(data))
        data += content + bytes(-len(content) % alignment)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + entries + infos
    return head + bytes(-len(head) % alignment) + data


def save(file: Path, metadata: dict[str, Any], tensors: Tensors) -> Path:
    file.write_bytes(gguf(metadata, tensors))
    return file
