"""What kernels need to know of how a mixture's experts are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Routing:
    """`chosen` experts of those with the highest scores, and what each of them counts.

    score   of an expert: its share in the "softmax" over all, the "sigmoid" of its logit, or its "logit" itself. A
            correction may be added for choosing; what a chosen expert counts is without it
    groups  of experts side by side: with fewer `best_groups`, only experts in the best groups are chosen, a group's
            score being the sum of its `pooled` best ones
    after   what becomes of the scores of those chosen: "nothing", "sum" (scaled to sum to 1), "softmax", "sigmoid"
    scale   what they are multiplied with last
    """

    chosen: int
    score: Literal["softmax", "sigmoid", "logit"] = "softmax"
    after: Literal["nothing", "sum", "softmax", "sigmoid"] = "nothing"
    groups: int = 1
    best_groups: int = 1
    pooled: Literal[1, 2] = 1
    scale: float = 1.0
