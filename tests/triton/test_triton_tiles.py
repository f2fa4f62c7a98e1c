"""Tiles of linears: every candidate gives the same bits, and the table of what was measured is read."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch

from ramify.ops.triton.experts import Mixtures
from ramify.ops.triton.linear import Linears
from ramify.ops.triton.quantized import Int4, Int8
from ramify.ops.triton.tiles import TUNED, Tile, Tiles, bucket, candidates, name_of, tile_for, tuned_tiles
from tensors import randn

pytestmark = pytest.mark.triton
FEW, MANY = 16, 70


def only(kind: str, tokens: int, outputs: int, inputs: int, tile: Tile) -> Tiles:
    """A table in which this kind has this tile."""
    element = 1 if kind == "int8" else 2
    name = name_of(bucket(kind, tokens, outputs, inputs, element))
    tiles = Tiles({name: [tile.outputs, tile.tokens, tile.warps, tile.stages]})
    assert tiles.of(kind, tokens, outputs, inputs, element) == tile
    return tiles


def shapes(tokens: int, element: int) -> list[Tile]:
    """One candidate of each size: the interpreter knows nothing of warps."""
    found = {(tile.outputs, tile.tokens): tile for tile in candidates(tokens, element)}
    return list(found.values())


@pytest.mark.parametrize("tokens", [FEW, MANY])
@pytest.mark.parametrize("kind", ["linear", "int8", "int4", "grouped"])
def test_every_candidate_gives_the_same_bits(ordered: None, kind: str, tokens: int) -> None:
    outputs, inputs = 70, 100
    weight, x = randn(outputs, inputs, dtype=torch.float16), randn(tokens, inputs, dtype=torch.float16, seed=1)

    def computed(tiles: Tiles) -> torch.Tensor:
        if kind == "linear":
            return Linears(tiles).linear(x, weight, None)
        if kind == "grouped":
            return Mixtures(tiles).grouped_linear(x, weight[None], None, torch.tensor([tokens]))
        made = Int8(tiles) if kind == "int8" else Int4(tiles)
        return made.linear(x, made.pack(weight), outputs, None)

    usual = computed(Tiles())
    for tile in shapes(tokens, 1 if kind == "int8" else 2):
        assert torch.equal(computed(only(kind, tokens, outputs, inputs, tile)), usual), tile


@pytest.mark.parametrize("tokens", [1, 16, 40, 64, 65, 4096, 100_000])
@pytest.mark.parametrize("element", [1, 2, 4])
def test_candidates(tokens: int, element: int) -> None:
    """The usual tile is one, all have outputs enough for wgmma, and none takes another step over K."""
    usual, found = tile_for(tokens, element), candidates(tokens, element)
    assert len(found) == len(set(found)) > 5
    assert how(usual) in {how(tile) for tile in found}
    assert all(tile.outputs >= 64 and tile.inputs == usual.inputs for tile in found)


def how(tile: Tile) -> tuple[int, int, int]:
    return tile.outputs, tile.tokens, tile.warps


def test_the_table_is_read() -> None:
    for device, measured in json.loads(TUNED.read_text()).items():
        tiles = tuned_tiles(device)
        for name in measured:
            kind, element, shape = name.rsplit(" ", 2)
            tokens, outputs, inputs = map(int, shape.split("x"))
            tiles.of(kind, tokens, outputs, inputs, int(element))


def test_other_devices_have_the_usual_tiles(tmp_path: Path) -> None:
    table = tmp_path / "tuned.json"
    table.write_text('{"one": {"linear 2 16x4096x4096": [128, 16, 8, 4]}}')
    assert tuned_tiles("one", table).of("linear", 7, 4096, 4000, 2) == Tile(128, 16, 64, 8, 4)
    assert tuned_tiles("one", table).of("linear", 17, 4096, 4096, 2) == tile_for(17, 2)
    assert tuned_tiles("two", table).of("linear", 7, 4096, 4096, 2) == tile_for(7, 2)


def test_what_is_found_is_written_beside_what_was_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts" / "gpu_check"))
    tune = import_module("tune_part")
    table = tmp_path / "tuned.json"
    table.write_text("{}")
    for device, name, outputs in (("one", "linear 2 16x64x64", 128), ("two", "int8 1 64x64x64", 64)):
        tune.write(table, device, [{"linear": name, "tile": [outputs, int(name.split()[2][:2]), 4, 4]}])
    tune.write(table, "one", [{"linear": "int4 2 16x64x64", "tile": [64, 16, 4, 5]}])
    assert tuned_tiles("one", table).of("linear", 9, 64, 64, 2) == Tile(128, 16, 64, 4, 4)
    assert tuned_tiles("one", table).of("int4", 9, 64, 64, 2) == Tile(64, 16, 64, 4, 5)
    assert tuned_tiles("two", table).of("int8", 64, 64, 64, 1) == Tile(64, 64, 128, 4, 4)


def test_what_is_no_candidate_is_refused() -> None:
    with pytest.raises(AssertionError, match="a tile that is none"):
        Tiles({"linear 2 16x64x64": [32, 16, 4, 3]}).of("linear", 5, 64, 64, 2)
