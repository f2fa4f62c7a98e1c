"""Kernels are computed by Triton's interpreter, in float32 and float16: bfloat16 is wrong there."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed: it exists for Linux")


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are summed from the first to the last input, into what was there, whatever the shape of a tile: as is
    hoped of matrix instructions. The interpreter's own sum depends on it.
    """
    from triton.runtime import interpreter

    handle, at_once = interpreter.TensorHandle, interpreter.InterpreterBuilder.create_dot

    def dot(builder: Any, a: Any, b: Any, total: Any, *how: Any) -> Any:
        for k in range(a.data.shape[1]):
            one = slice(k, k + 1)
            total = at_once(builder, handle(a.data[:, one], a.dtype), handle(b.data[one], b.dtype), total, *how)
        return total

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
