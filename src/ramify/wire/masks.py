"""Which tokens a step may sample, for the rows that are not free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Masks:
    """Row `rows[i]` of the plan may sample token t if bit t % 32 of `words[i, t // 32]` is set.

    `words` is [len(rows), ceil(vocab / 32)] of uint32, little end first; every row has at least one bit set.
    """

    rows: list[int]
    words: NDArray[np.uint32]
