"""What an executor is asked to record of its steps."""

from __future__ import annotations

import msgspec


class Profile(msgspec.Struct, frozen=True, array_like=True):
    """Record `steps` steps, from the step `first` on or from now on (0), and write the trace to the file `path`.

    `stack` notes where in the code each operation was called, `shapes` of what shape its inputs were.
    """

    path: str
    steps: int
    first: int = 0
    stack: bool = True
    shapes: bool = False
