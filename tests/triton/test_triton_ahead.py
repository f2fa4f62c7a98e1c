"""Every kernel compiles for the GPUs that are asked for, without one: see `ahead`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.triton

HERE = Path(__file__).parent
SHARED = {80: 163, 90: 227, 100: 227}  # KiB that a program may have


def compiled(tmp_path: Path, *arguments: str) -> list[str]:
    """In a process of its own: kernels that are interpreted cannot be compiled in the same."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(HERE.parents[1] / "src"),
    }
    command = [sys.executable, str(HERE / "ahead.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("capability", SHARED)
def test_every_kernel_compiles_and_fits(tmp_path: Path, capability: int) -> None:
    lines = compiled(tmp_path, str(capability))
    assert len(lines) > 40
    for line in lines:
        shared = re.search(r"dynamic shared (\d+)", line)
        assert shared is not None, line
        assert int(shared[1]) <= SHARED[capability] * 1024, line
    if capability == 90:
        for line in lines:
            if " linear " in line or (" attend " in line and "latents" not in line):
                assert "wgmma" in line, line
