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

    def dot(builder: Any, a: Any, b: Any, total: Any, *_: Any) -> Any:
        sums = total.data.copy()
        for k in range(a.data.shape[1]):
            sums += a.data[:, k, None].astype(sums.dtype) * b.data[None, k].astype(sums.dtype)
        return interpreter.TensorHandle(sums, total.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
