"""Latent attention (DeepSeek) by Triton's kernel, in its interpreter, in a whole model: against transformers.

Keys are latents of which the first part is the value; decode steps are absorbed and, beyond one split, split over keys.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from harness import all_logits, make_runner, relative_error, tokens_of
from models import reference_logits, save

from ramify.ops.attention import AttentionBackend, AttentionShape
from ramify.ops.cpu.record import CpuRecorder
from ramify.ops.platform import CpuPlatform
from ramify.ops.recording import CannotRecordError

pytest.importorskip("triton", reason="Triton is not installed: it exists for Linux")

pytestmark = pytest.mark.triton


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[AttentionBackend]:
    """The backends that were made: the model's attention is Triton's, and all around it is a CPU's."""
    from ramify.ops.triton.attention import TritonAttention

    found: list[AttentionBackend] = []

    def attention(platform: CpuPlatform, name: str, shape: AttentionShape) -> AttentionBackend:
        found.append(TritonAttention(shape, platform.device))
        assert found[0].reasons_against(shape) == []
        return found[0]

    def record(recorder: CpuRecorder, compute: object) -> None:
        raise CannotRecordError("Triton's launches are not those of the library")

    monkeypatch.setattr(CpuPlatform, "attention", attention)
    monkeypatch.setattr(CpuRecorder, "record", record)
    return found


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("deepseek-v2-lite", 1),
        ("deepseek-v3", 64),
        pytest.param("deepseek-v2", 16, marks=pytest.mark.slow),
        pytest.param("deepseek-v3", 5, marks=pytest.mark.slow),
    ],
)
def test_logits(tmp_path: Path, made: list[AttentionBackend], name: str, page: int) -> None:
    """A prompt in two chunks, then tokens one by one on both sides of the first split's end."""
    model = save(name, tmp_path)
    tokens = tokens_of(random.Random(1), 262, model.config.vocab_size)
    runner = make_runner(tmp_path, page_size=page)
    prepared = []
    prepare = made[0].prepare
    made[0].prepare = lambda paged: prepared.append(prepare(paged)) or prepared[-1]  # type: ignore[method-assign, func-returns-value]
    ours = all_logits(runner, tokens, [200, 53, *[1] * 9])
    assert relative_error(ours, reference_logits(model, tokens)) < 1e-4
    split = [work.parts > 0 for work in prepared]
    assert split[2:] == [False] * 3 + [True] * 6, "257 keys are two splits"
