"""`ramify quantize`: what it writes is compressed-tensors, for us and for the library of that name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import save
from safetensors.torch import load_file

import ramify
from assets import BUNDLED
from ramify.cli.main import main
from ramify.config.model import read_config
from ramify.core.errors import StartupError
from ramify.engine.quantize import quantize
from ramify.models.load import _read
from ramify.models.preflight import checked_tensors
from ramify.models.quantize import write_quantized
from ramify.quant.write import WRITERS
from ramify.weights.checkpoint import INDEX, Reader

SCHEMES = tuple(WRITERS)
TEXT = "Once upon a time there was a fox. She sat on the hill and counted: one, two, three. " * 30
WORST = {"w8a8": 0.01, "int4": 0.35, "fp8": 0.08}  # of a row's largest weight


def silent(*_: Any) -> None: ...


@pytest.fixture(scope="module", params=SCHEMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("made") / request.param
    done: dict[str, list[tuple[int, int]]] = {}
    quality = quantize(str(BUNDLED), out, request.param, TEXT, lambda what, *n: done.setdefault(what, []).append(n))
    assert quality.tokens > 200
    assert quality.after == pytest.approx(quality.before, rel=0.1)
    assert 1e-5 < quality.divergence < {"w8a8": 0.01, "int4": 0.1, "fp8": 0.02}[request.param]
    assert 0.8 < quality.agreement <= 1
    assert list(done) == ["calibrating", "quantizing", "comparing"]
    assert all(steps[-1][0] == steps[-1][1] for steps in done.values())
    return request.param, out


def test_weights_are_near_what_they_were(made: tuple[str, Path]) -> None:
    scheme, out = made
    originals, reader, quantized = load_file(BUNDLED / "model.safetensors"), Reader(), 0
    for name, place in checked_tensors(out, read_config(out)).items():
        found, original = _read(place, reader), originals[name].float()
        if place.format is None:
            assert isinstance(found, torch.Tensor)
            assert torch.equal(found.float(), original)
            continue
        quantized += 1
        assert not isinstance(found, torch.Tensor)
        error = (found.rows(0, len(original)) - original).abs().amax(1) / original.abs().amax(1)
        assert 0 < error.max() < WORST[scheme]
    assert quantized == 6 * 7


def test_the_library_of_the_format_reads_the_same(made: tuple[str, Path]) -> None:
    scheme, out = made
    base = pytest.importorskip("compressed_tensors.compressors", reason="compressed-tensors is not installed")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    config = quantization.QuantizationConfig.model_validate(
        json.loads((out / "config.json").read_text())["quantization_config"]
    )
    (group,) = config.config_groups.values()
    compressor = base.BaseCompressor.get_value_from_registry(config.format)
    tensors, reader = load_file(out / "model.safetensors"), Reader()
    for name, place in list(checked_tensors(out, read_config(out)).items()):
        if place.format is None:
            continue
        module = name.removesuffix("weight")
        pieces = {key.removeprefix(module): each for key, each in tensors.items() if key.startswith(module)}
        theirs = compressor.decompress(pieces, group)["weight"].float()
        ours = _read(place, reader)
        assert not isinstance(ours, torch.Tensor)
        rounded = 5e-3 if scheme == "int4" else 1e-6  # it computes in bfloat16, like its scales
        torch.testing.assert_close(ours.rows(0, len(theirs)), theirs, rtol=rounded, atol=1e-9)


def test_it_says_what_it_said(made: tuple[str, Path]) -> None:
    scheme, out = made
    said = []
    for model in (None, str(out)):
        with ramify.Engine(model, max_total_tokens=512) as engine:
            info = engine.get_server_info()
            said.append(engine.generate("Once upon a time there was a little", {"temperature": 0, "max_new_tokens": 8}))
    assert info["quantization"] == "compressed-tensors"
    assert info["dtype"] == "bfloat16"
    assert said[0]["text"] == said[1]["text"] or scheme == "int4"


def test_calibration_leaves_less_error_where_it_matters() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, heat = torch.randn(64, 96, generator=generator), torch.rand(96, generator=generator) ** 8
    write = WRITERS["int4"].write

    def error(with_heat: torch.Tensor) -> float:
        pieces = write(weight, with_heat)
        halves = torch.stack([pieces["weight_packed"] >> 4 * k & 15 for k in range(8)], -1).flatten(1) - 8
        found = halves * pieces["weight_scale"].float().repeat_interleave(32, 1)
        return float(((found - weight).square() * heat).sum())

    assert error(heat) < 0.95 * error(torch.ones(96))


@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe", "deepseek-v3", "phi3"])
def test_what_chooses_is_left_alone(family: str, tmp_path: Path) -> None:
    save(family, tmp_path / "from")
    out = tmp_path / "out"
    out.mkdir()
    write_quantized(tmp_path / "from", read_config(tmp_path / "from"), out, WRITERS["w8a8"], {}, silent)
    ignored = json.loads((out / "config.json").read_text())["quantization_config"]["ignore"]
    places = checked_tensors(out, read_config(out))
    assert "lm_head" in ignored
    for name, place in places.items():
        left_out = place.format is None
        assert left_out == any(word in name for word in ("lm_head", "norm", "embed", ".gate.", "correction")), name
        assert not left_out or len(place.destination.shape) == 1 or "embed" in name or name[:-7] in ignored


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ramify.models.quantize.SHARD", 1 << 20)
    out = tmp_path / "out"
    out.mkdir()
    write_quantized(BUNDLED, read_config(BUNDLED), out, WRITERS["w8a8"], {}, silent)
    names = set(json.loads((out / INDEX).read_text())["weight_map"].values())
    assert names == {file.name for file in out.glob("*.safetensors")}
    assert len(names) > 2
    checked_tensors(out, read_config(out))


def test_what_cannot_be_quantized(
    made: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = made
    with pytest.raises(StartupError, match="quantized already"):
        quantize(str(out), tmp_path / "again", "w8a8", TEXT, silent)
    with pytest.raises(StartupError, match="exists"):
        quantize(str(BUNDLED), tmp_path, "w8a8", TEXT, silent)
    with pytest.raises(StartupError, match="64 at least"):
        quantize(str(BUNDLED), tmp_path / "short", "w8a8", "Hello.", silent)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ramify.engine.quantize._compare", stop)
    with pytest.raises(KeyboardInterrupt):
        quantize(str(BUNDLED), tmp_path / "stopped", "w8a8", TEXT, silent)
    assert list(tmp_path.iterdir()) == []
    assert main(["quantize", str(BUNDLED)]) == 2
    assert main(["quantize", str(BUNDLED), str(tmp_path / "x")]) == 2
    assert main(["quantize", str(BUNDLED), str(tmp_path / "x"), "--scheme", "w3"]) == 1
    assert "is not one of w8a8, int4, fp8" in capsys.readouterr().err
