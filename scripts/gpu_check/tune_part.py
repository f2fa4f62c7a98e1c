"""Which tiles are quick on this device: tries the candidates of `ramify.ops.triton.tiles` and writes its table.

Shapes are those of Llama 3.1 8B, and of the experts of Qwen3-30B-A3B. What the table has already is left as it is, and
what there was no time for comes with the next run. A tile that gives other bits than the usual one is not taken, and is
a mistake that the last column shows. The table is `tuned.json` in `src/ramify/ops/triton`, which is committed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import milliseconds
from torch import Tensor
from triton.runtime.errors import OutOfResources

from ramify.ops.triton.experts import Mixtures, tokens_of_a_tile
from ramify.ops.triton.linear import Linears
from ramify.ops.triton.quantized import Fp8, Int4, Int8
from ramify.ops.triton.tiles import TUNED, Tile, Tiles, bucket, candidates, name_of, tile_for

SECONDS = 540
SHAPES = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
EXPERTS = ((1536, 2048), (2048, 768))
TOKENS = (16, 64, 256, 4096)
WORTH = 0.98  # of the usual time: what is not quicker by more stays as it is


@dataclass(frozen=True)
class Work:
    """A linear that is computed with tiles of one's choice; `tokens` are what those are chosen by."""

    kind: str
    tokens: int
    outputs: int
    inputs: int
    element: int
    compute: Callable[[Tiles], Tensor]

    @property
    def name(self) -> str:
        return name_of(bucket(self.kind, self.tokens, self.outputs, self.inputs, self.element))

    def by(self, tile: Tile) -> Tensor:
        return self.compute(Tiles({self.name: listed(tile)}))

    @property
    def candidates(self) -> list[Tile]:
        usual = tile_for(self.tokens, self.element)
        return [usual, *(tile for tile in candidates(self.tokens, self.element) if tile != usual)]


def listed(tile: Tile) -> list[int]:
    return [tile.outputs, tile.tokens, tile.warps, tile.stages]


def linears(device: torch.device, tiny: bool) -> Iterator[Work]:
    dtype = torch.float16 if tiny else torch.bfloat16
    for outputs, inputs in ((160, 96),) if tiny else SHAPES:
        weight = torch.randn(outputs, inputs, device=device).to(dtype)
        packed = {"int8": Int8().pack(weight), "int4": Int4().pack(weight), "fp8": Fp8().pack(weight)}
        for tokens in (16, 70) if tiny else TOKENS:
            x = torch.randn(tokens, inputs, device=device).to(dtype)
            yield Work(
                "linear", tokens, outputs, inputs, 2, lambda tiles, x=x, w=weight: Linears(tiles).linear(x, w, None)
            )
            for name, made in (("fp8", Fp8), ("int4", Int4), ("int8", Int8)):
                if tiny and name == "fp8":
                    continue
                yield Work(
                    name,
                    tokens,
                    outputs,
                    inputs,
                    2 if name == "int4" else 1,
                    lambda tiles, x=x, made=made, w=packed[name], e=outputs: made(tiles).linear(x, w, e, None),
                )


def grouped(device: torch.device, tiny: bool) -> Iterator[Work]:
    dtype, groups = (torch.float16, 4) if tiny else (torch.bfloat16, 128)
    for outputs, inputs in ((80, 48),) if tiny else EXPERTS:
        weight = torch.randn(groups, outputs, inputs, device=device).to(dtype)
        for tokens in (16,) if tiny else TOKENS:
            rows = 2 * tokens if tiny else 8 * tokens
            x = torch.randn(rows, inputs, device=device).to(dtype)
            ends = torch.randint(groups, (rows,)).bincount(minlength=groups).cumsum(0).to(device)
            yield Work(
                "grouped",
                tokens_of_a_tile(rows, groups),
                outputs,
                inputs,
                2,
                lambda tiles, x=x, w=weight, ends=ends: Mixtures(tiles).grouped_linear(x, w, None, ends),
            )


def tried(work: Work, device: torch.device, most: int) -> dict[str, object]:
    """Times of the usual tile and of the quickest, and whether all have the same bits."""
    times: dict[Tile, float] = {}
    usual, right = work.candidates[0], True
    expected = work.by(usual)
    for tile in work.candidates[:most]:
        try:
            same = torch.equal(work.by(tile), expected)
        except OutOfResources:
            continue
        right = right and same
        if same:
            times[tile] = milliseconds(lambda tile=tile: work.by(tile), device)
    best = min(times, key=lambda tile: times[tile])
    kept = best if times[best] < WORTH * times[usual] else usual
    return {"linear": work.name, "usual ms": times[usual], "ms": times[kept], "tile": listed(kept), "right": right}


def known(path: Path) -> dict[str, dict[str, list[int]]]:
    return json.loads(path.read_text())


def write(path: Path, device: str, rows: list[dict[str, object]]) -> None:
    """Merge into the table, a line for each shape."""
    table = known(path)
    found = table.setdefault(device, {})
    found.update({str(row["linear"]): row["tile"] for row in rows})  # type: ignore[misc]
    lines = []
    for name in sorted(table):
        shapes = ",\n".join(f"  {json.dumps(shape)}: {json.dumps(table[name][shape])}" for shape in sorted(table[name]))
        lines.append(f" {json.dumps(name)}: {{\n{shapes}\n }}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def run(device: torch.device, tiny: bool) -> list[dict[str, object]]:
    began, rows = time.monotonic(), []
    name = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
    there = known(TUNED).get(name, {})
    for make in (linears, grouped):
        for work in make(device, tiny):
            if work.name in there or time.monotonic() - began > SECONDS:
                continue
            rows.append(tried(work, device, 3 if tiny else 100))
            print(rows[-1], flush=True)
            if device.type != "cpu":
                write(TUNED, name, rows)
    return rows
