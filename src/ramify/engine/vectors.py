"""Prompts that are vectors and no tokens: what a model's embedding layer would have made of them, or something else."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from ramify.core.errors import BadRequest

PLACEHOLDER = 0  # the token that stands where a vector does
MAX_BYTES = 1 << 26  # of the vectors of one request, all its choices together
FIELD = "input_embeds"


def is_one(given: Any) -> bool:
    """Whether `given` is one prompt, [tokens, hidden], rather than a list of them."""
    first = given[0] if isinstance(given, list) and given else None
    return isinstance(first, list) and not (first and isinstance(first[0], list))


def as_bytes(rows: Any, width: int) -> bytes:
    """[tokens, width] as float32, little-endian; raises `BadRequest` for what is no such matrix of finite numbers."""
    try:
        given = np.asarray(rows)
    except ValueError:  # rows of different lengths
        given = np.asarray(())
    if given.dtype.kind not in "fiu" or not given.size:
        raise BadRequest(f"{FIELD} should be a list of vectors of {width} numbers each", param=FIELD)
    with np.errstate(over="ignore"):
        matrix = given.astype("<f4")
    if matrix.ndim != 2 or not len(matrix) or matrix.shape[1] != width:
        raise BadRequest(
            f"{FIELD} should be a list of vectors of {width} numbers each, got the shape {list(matrix.shape)}",
            param=FIELD,
        )
    if not np.isfinite(matrix).all():
        raise BadRequest(f"{FIELD} holds a number that is not finite in 32 bits", param=FIELD)
    return matrix.tobytes()


def placeholders(vectors: bytes, width: int) -> list[int]:
    """As many tokens as there are vectors."""
    return [PLACEHOLDER] * (len(vectors) // (4 * width))


def salted(salt: str, vectors: bytes) -> str:
    """The salt under which prefixes of these vectors are shared: with the same ones of the same tenant, and with no
    tokens. Nobody can name it who does not have both.
    """
    spelled = salt.encode("utf-8", "surrogatepass")
    return "vectors:" + hashlib.sha256(len(spelled).to_bytes(8, "little") + spelled + vectors).hexdigest()
