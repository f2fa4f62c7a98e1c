"""What the model's head gave for a text, as numbers: embeddings of the length that was asked for, classes, rewards."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ramify.config.head import Head
from ramify.core.errors import BadRequest
from ramify.engine.generation import Generation
from ramify.engine.outputs import Shape

Numbers = NDArray[np.float32]
MAX_NUMBERS = 1 << 23  # in one answer, which become lists and JSON
UNTRAINED = "the model's files do not say that its embeddings may be cut: dimensions cuts them all the same"


def check_dimensions(head: Head, dimensions: int | None) -> None:
    """An embedding may be cut where its first numbers say most (Kusupati et al. 2022)."""
    if dimensions is None:
        return
    if not 1 <= dimensions <= head.size:
        raise BadRequest(f"dimensions should be between 1 and {head.size}, got {dimensions}", param="dimensions")
    if head.dimensions and dimensions not in (*head.dimensions, head.size):
        named = ", ".join(map(str, head.dimensions))
        raise BadRequest(f"this model's embeddings can be cut to {named} dimensions", param="dimensions")


def check_amount(head: Head, texts: int) -> None:
    if texts * head.size > MAX_NUMBERS:
        raise BadRequest(f"{texts} texts of {head.size} numbers each are more than {MAX_NUMBERS} in one answer")


def prompt_of(head: Head, name: str | None) -> str:
    """What stands before a text: a prompt of the model by its name, or the one that it has unasked."""
    if name is not None and name not in head.prompts:
        known = f"has {', '.join(sorted(head.prompts))}" if head.prompts else "has none"
        raise BadRequest(f"there is no prompt {name!r}: this model {known}", param="prompt_name")
    chosen = head.prompt if name is None else name
    return "" if chosen is None else head.prompts[chosen]


def rows_of(generation: Generation, head: Head) -> Numbers:
    """[rows, size]: one row, or one for each step."""
    assert generation.pooled is not None, "it has ended, and was to be pooled"
    return np.frombuffer(generation.pooled, "<f4").reshape(-1, head.size)


def embedding_of(generation: Generation, head: Head, dimensions: int | None = None) -> Numbers:
    """One vector; cut, it has the length again that the model gives it."""
    (vector,) = rows_of(generation, head)
    if dimensions is None or dimensions == head.size:
        return vector
    cut = vector[:dimensions]
    return cut / max(float(np.linalg.norm(cut)), 1e-12) if head.normalize else cut


def encoded(generation: Generation, head: Head, shape: Shape, dimensions: int | None) -> dict[str, Any]:
    """As `/encode` and `/classify` show it: an embedding, the logits of classes, a reward or one for each step."""
    return {"embedding": _shown(generation, head, dimensions), "meta_info": shape.meta(generation, 0, 0)}


def _shown(generation: Generation, head: Head, dimensions: int | None) -> list[float]:
    if "steps" in head.pooling:
        return [right(row.tolist()) for row in rows_of(generation, head)]
    return embedding_of(generation, head, dimensions).tolist()


def right(logits: list[float]) -> float:
    """The probability that a step is right, of the logits of wrong and right; of a single logit, that."""
    return softmax(logits)[-1] if len(logits) > 1 else logits[0]


def softmax(logits: list[float]) -> list[float]:
    most = max(logits)
    powers = [math.exp(value - most) for value in logits]
    total = sum(powers)
    return [power / total for power in powers]


def sigmoid(logit: float) -> float:
    """Without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))


def probabilities(logits: list[float], one_of_many: bool = True) -> list[float]:
    """Of the classes: they share one where a text is of one class, else each has its own."""
    if len(logits) == 1 or not one_of_many:
        return [sigmoid(value) for value in logits]
    return softmax(logits)


def relevance(logits: list[float], head: Head) -> float:
    """How well a text answers a query, of the logits of a cross-encoder: of two classes, that it is the second."""
    if len(logits) == 1:
        return sigmoid(logits[0]) if head.squash == "sigmoid" else logits[0]
    if len(logits) == 2:
        return softmax(logits)[1]
    raise BadRequest(f"a model of {len(logits)} classes does not say how relevant a text is", param="model")
