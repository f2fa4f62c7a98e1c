"""A checkpoint rewritten with its linears quantized. Tensors are read one by one; what is written comes in shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ramify.config.gguf import is_gguf
from ramify.config.model import ModelConfig, read_json
from ramify.config.quantized import quantized_of
from ramify.core.errors import StartupError
from ramify.models.layout import EMBEDDING, HEAD, Destination
from ramify.models.preflight import Placed, checked_tensors
from ramify.quant.write import Writer, config_of
from ramify.weights.checkpoint import INDEX, Reader

SHARD = 2 << 30  # bytes
COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "README*")
TOGETHER = ("router", "gate", "correction", "positions")  # ends of layers that choose or place: never quantized

Progress = Callable[[int, int], None]
Heat = Mapping[str, Tensor]  # the mean square of each input, by the path of a layer


def check_source(folder: Path, config: ModelConfig) -> None:
    """Raises `StartupError` where there is nothing to quantize."""
    if is_gguf(folder) or quantized_of(config.raw) is not None:
        raise StartupError(f"{folder} is quantized already", "Take the checkpoint that it was made from.")
    if config.encoder is not None or config.head is not None:
        raise StartupError(f"{config.architecture} gives no tokens: only models that do are quantized")


def write_quantized(
    source: Path, config: ModelConfig, out: Path, writer: Writer, heat: Heat, progress: Progress
) -> None:
    """Write a folder of compressed-tensors. It has its name only when it is complete."""
    places, reader, shards = checked_tensors(source, config), Reader(), _Shards(out)
    left_out: list[str] = []
    for number, (name, place) in enumerate(sorted(places.items(), key=lambda each: each[1].first.file), 1):
        tensor, module = reader.read(place.pieces[""]), name.removesuffix(".weight")
        if is_quantized(name, place, writer):
            destination = place.destination.layer
            ones = torch.ones(tensor.shape[1])
            for end, piece in writer.write(tensor, heat.get(destination, ones)).items():
                shards.add(f"{module}.{end}", piece)
        else:
            shards.add(name, tensor.clone())
            if tensor.dim() == 2 and place.destination.layer != EMBEDDING and name.endswith(".weight"):
                left_out.append(module)
        progress(number, len(places))
    shards.close()
    _copy(source, out)
    raw = read_json(source / "config.json", "a config.json")
    _write(out / "config.json", {**raw, "quantization_config": config_of(writer, sorted(left_out))})


def is_quantized(name: str, place: Placed, writer: Writer) -> bool:
    """Linears are, but for the head and for what chooses experts."""
    to = place.destination
    if not name.endswith(".weight") or len(to.shape) != 2 or to.arranged or to.layer in (EMBEDDING, HEAD):
        return False
    return to.weight == "weight" and not _chooses(to) and to.shape[1] % writer.multiple == 0


def _chooses(to: Destination) -> bool:
    return any(part in TOGETHER for part in to.layer.split(".")) or to.shape[0] == 1


class _Shards:
    """Files of a bounded size, numbered when it is known how many there are."""

    def __init__(self, out: Path) -> None:
        self._out, self._files = out, 0
        self._some: dict[str, Tensor] = {}
        self._where: dict[str, int] = {}
        self._size = self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        if self._size and self._size + tensor.nbytes > SHARD:
            self._flush()
        self._some[name] = tensor.contiguous()
        self._size += tensor.nbytes
        self._total += tensor.nbytes

    def close(self) -> None:
        self._flush()
        names = {at: f"model-{at:05}-of-{self._files:05}.safetensors" for at in range(1, self._files + 1)}
        if self._files == 1:
            names = {1: "model.safetensors"}
        for at, name in names.items():
            (self._out / f"{at}.safetensors").rename(self._out / name)
        if self._files > 1:
            found = {name: names[at] for name, at in self._where.items()}
            _write(self._out / INDEX, {"metadata": {"total_size": self._total}, "weight_map": found})

    def _flush(self) -> None:
        from safetensors.torch import save_file

        self._files += 1
        save_file(self._some, self._out / f"{self._files}.safetensors", {"format": "pt"})
        self._where |= dict.fromkeys(self._some, self._files)
        self._some, self._size = {}, 0


def _copy(source: Path, out: Path) -> None:
    for pattern in COPIED:
        for file in source.glob(pattern):
            if file.is_file() and file.name not in (INDEX, "config.json"):
                shutil.copyfile(file, out / file.name)


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
