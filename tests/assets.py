"""Real material beside the project. It is not part of the project: tests that use it skip where it is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "assets"
BUNDLED = ROOT / "src" / "ramify" / "bundled" / "concierge"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of test material is not beside the project")


def shared(path: str) -> Path:
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"test material {path} is not beside the project")
    return found
