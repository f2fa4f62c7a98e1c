"""Models that transformers' own code computes, over our pages: what has to be known of one before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Generic:
    """A class of transformers, as `models.generic_look` saw it attend.

    `attention` are the paths of its attention modules below the backbone, in the order of the layers; `softcap` and
    `sinks` say whether some of them have what `ops.attention.Rule` calls so. `value_dim` is the size of a value, at
    most that of a key. Of `parameters` weights `elsewhere` are in no linear and no embedding: no scheme quantizes them.
    `first` is what an encoder counts positions from.
    """

    name: str
    release: str  # of transformers
    attention: tuple[str, ...]
    value_dim: int
    parameters: int
    elsewhere: int
    softcap: bool = False
    sinks: bool = False
    first: int = 0
