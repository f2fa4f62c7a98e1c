"""Libraries that some backends compute with, where somebody has installed them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ramify.core.errors import StartupError


def wanted(backend: str, module: str, package: str) -> Any:
    """The module that a backend needs."""
    try:
        return import_module(module)
    except ImportError as e:
        raise StartupError(
            f"--attention-backend {backend} needs the package {package}, which cannot be imported: {e}",
            "Install it, or leave --attention-backend out.",
        ) from None
