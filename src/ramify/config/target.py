"""What a kind of device decides of a run: `on_cpu` and `on_gpu` are the two."""

from __future__ import annotations

from typing import Literal, Protocol

from ramify.config.memory import Peak, Room, Sized
from ramify.config.model import ModelConfig
from ramify.config.notes import Notes
from ramify.config.settings import Settings

Invariance = Literal["always", "asked", "no"]  # whether numbers are a request's own, or are where it asks for that

SPELLINGS = {"float": "float32", "half": "float16", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Target(Room, Protocol):
    """Every method notes what it decides. `rows` are requests computed together, `kept` what
    keys and values may be beside what a model is, `default` says why numbers are such
    as they are.
    """

    device: str
    rows: int

    @property
    def kept(self) -> tuple[str, ...]: ...

    def chunk(self) -> tuple[int, str]: ...
    def dtype(self, settings: Settings, model: ModelConfig, note: Notes) -> str: ...
    def computed_by(self, dtype: str) -> str:
        """Who computes with quantized weights."""

    def threads(self, settings: Settings, note: Notes) -> int: ...
    def attention(self, settings: Settings, model: ModelConfig, dtype: str, note: Notes) -> str: ...
    def linears(self, settings: Settings, model: ModelConfig, dtype: str, quantization: str, note: Notes) -> str: ...
    def invariance(
        self, settings: Settings, model: ModelConfig, linears: str, attention: str, note: Notes
    ) -> Invariance: ...
    def captured(self, settings: Settings, model: ModelConfig, rows: int, note: Notes) -> tuple[int, ...]: ...
    def peaks(self, sized: Sized) -> tuple[Peak, ...]: ...
