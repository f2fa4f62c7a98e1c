"""Tiles of linears: which outputs and tokens a program computes, and how many of each are quick on this device.

The sizes of tiles change no bit: K is summed up in its order whatever the tile (see `linear`). So they may be chosen by
what was measured: `tuned.json` has for each device, by its name, the tiles that `scripts/gpu_check --part tune` found
there, [outputs, tokens, warps, stages] by kind of linear and rough shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import triton.language as tl

import triton

TUNED = Path(__file__).with_name("tuned.json")
GROUPED = 8  # tiles of outputs that are computed side by side: their tokens are read once from far memory
FEW = 64  # tokens up to which each weight is read for one tile of tokens


@triton.jit
def tile_of(program, tiles_e, tiles_t, GROUPED: tl.constexpr):
    """(tile of outputs, tile of tokens): GROUPED tiles of outputs go through all tokens together."""
    group = program // (GROUPED * tiles_t)
    size = tl.minimum(tiles_e - group * GROUPED, GROUPED)
    within = program % (GROUPED * tiles_t)
    return group * GROUPED + within % size, within // size


@triton.jit
def tile_at(tokens, E: tl.constexpr, BE: tl.constexpr, BT: tl.constexpr, GROUPED: tl.constexpr):
    """Outputs and tokens of this program, and which of them there are."""
    tile_e, tile_t = tile_of(tl.program_id(0), tl.cdiv(E, BE), tl.cdiv(tokens, BT), GROUPED)
    e, t = tile_e * BE + tl.arange(0, BE), tile_t * BT + tl.arange(0, BT)
    return e, t, e < E, t < tokens


@triton.jit
def group_of(program, ends_ptr, groups, BLOCK: tl.constexpr, BT: tl.constexpr):
    """Of a tile of rows sorted by group: its group, or `groups` behind the last, its first row, and where they end."""
    g = tl.arange(0, BLOCK)
    end = tl.load(ends_ptr + g, mask=g < groups, other=0).to(tl.int32)
    begin = tl.load(ends_ptr + g - 1, mask=(g > 0) & (g < groups), other=0).to(tl.int32)
    tiles = tl.cumsum(tl.where(g < groups, tl.cdiv(end - begin, BT), 0), 0)
    group = tl.sum(((tiles <= program) & (g < groups)).to(tl.int32), 0)
    before = tl.max(tl.where(g < group, tiles, 0), 0)
    first = tl.sum(tl.where(g == group, begin, 0), 0) + (program - before) * BT
    return group, first, tl.sum(tl.where(g == group, end, 0), 0)


@triton.jit
def group_tile_at(ends_ptr, groups, E: tl.constexpr, BLOCK: tl.constexpr, BE: tl.constexpr, BT: tl.constexpr):
    """As `tile_at`, of rows sorted by group, and the group: `groups` where this program has nothing to do. Tiles of
    outputs stand side by side: those of one group share its rows, and its weight is read once.
    """
    group, first, last = group_of(tl.program_id(1), ends_ptr, groups, BLOCK, BT)
    e, t = tl.program_id(0) * BE + tl.arange(0, BE), first + tl.arange(0, BT)
    return group, e, t, e < E, t < last


@triton.jit
def finish(total, bias_ptr, y_ptr, e, t, e_there, t_there, E: tl.constexpr, BIAS: tl.constexpr):
    """A tile [BE, BT] of float32 with its bias, rounded once."""
    if BIAS:
        total += tl.load(bias_ptr + e, mask=e_there, other=0.0).to(tl.float32)[:, None]
    at = t.to(tl.int64)[None, :] * E + e[:, None]
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), mask=e_there[:, None] & t_there[None, :])


@dataclass(frozen=True)
class Tile:
    """Outputs and tokens of a tile, inputs of a step, and how the chip works on it. None of it changes a bit."""

    outputs: int
    tokens: int
    inputs: int
    warps: int
    stages: int

    @property
    def shared(self) -> int:
        """Bytes of shared memory that what is read ahead takes: 128 of a row in each step."""
        return self.stages * 128 * (self.outputs + self.tokens)


def tile_for(tokens: int, element: int) -> Tile:
    """By how many tokens there are: few are read beside the weight, many share what is read of it."""
    inputs = 128 // element
    if tokens <= FEW:
        return Tile(64, max(triton.next_power_of_2(tokens), 16), inputs, 4, 5 if element < 4 else 3)
    return Tile(128, 128, inputs, 8, 3)


def candidates(tokens: int, element: int) -> list[Tile]:
    """What may be quicker than `tile_for`. Outputs are 64 at least and inputs stay, so that all take the same matrix
    instruction as often.
    """
    usual = tile_for(tokens, element)
    if tokens <= FEW:
        few = [(64, 4), (128, 4), (128, 8)]
        found = [replace(usual, outputs=e, warps=w, stages=s) for e, w in few for s in (3, 4, 5, 6)]
    else:
        many = [(64, 64, 4), (64, 128, 4), (128, 64, 4), (128, 128, 4), (128, 128, 8), (128, 256, 8), (256, 128, 8)]
        found = [Tile(e, t, usual.inputs, w, s) for e, t, w in many for s in (2, 3, 4)]
    return [tile for tile in found if tile.shared <= 220 * 1024]


Measured = Mapping[str, Mapping[str, list[int]]]
Bucket = tuple[str, int, int, int, int]


def bucket(kind: str, tokens: int, outputs: int, inputs: int, element: int) -> Bucket:
    """What is alike: sizes up to the next power of two, from 16 to 4096 tokens."""
    near = min(max(triton.next_power_of_2(tokens), 16), 4096)
    return kind, element, near, triton.next_power_of_2(outputs), triton.next_power_of_2(inputs)


def name_of(bucket: Bucket) -> str:
    kind, element, tokens, outputs, inputs = bucket
    return f"{kind} {element} {tokens}x{outputs}x{inputs}"


class Tiles:
    """The tile of every linear: as it was measured, as `tile_for` has it where nothing was."""

    def __init__(self, measured: Mapping[str, list[int]] | None = None) -> None:
        self._measured = dict(measured or {})
        self._chosen: dict[Bucket, Tile | None] = {}  # what `measured` says, looked up by numbers

    def of(self, kind: str, tokens: int, outputs: int, inputs: int, element: int) -> Tile:
        found = self._tuned(bucket(kind, tokens, outputs, inputs, element))
        return tile_for(tokens, element) if found is None else found

    def _tuned(self, key: Bucket) -> Tile | None:
        if key not in self._chosen:
            given = self._measured.get(name_of(key))
            self._chosen[key] = None if given is None else _read(given, key)
        return self._chosen[key]


def _read(given: list[int], key: Bucket) -> Tile:
    outputs, tokens, warps, stages = given
    tile = Tile(outputs, tokens, 128 // key[1], warps, stages)
    assert tile in candidates(key[2], key[1]), f"{TUNED.name} has a tile that is none: {given}"
    return tile


def tuned_tiles(device: str, path: Path = TUNED) -> Tiles:
    """Of a device as its driver names it."""
    measured: Measured = json.loads(path.read_text())
    return Tiles(measured.get(device))
