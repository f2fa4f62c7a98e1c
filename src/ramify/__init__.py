"""ramify serves language models.

The names below are the public Python surface. They are found on first use, so that `import ramify` costs nothing and
imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "BadRequest": "ramify.core.errors",
    "Engine": "ramify.engine.engine",
    "RamifyError": "ramify.core.errors",
    "SamplingParams": "ramify.core.params",
    "StartupError": "ramify.core.errors",
    "UserError": "ramify.core.errors",
}

__all__ = ["BadRequest", "Engine", "RamifyError", "SamplingParams", "StartupError", "UserError", "__version__"]

if TYPE_CHECKING:
    from ramify.core.errors import BadRequest, RamifyError, StartupError, UserError
    from ramify.core.params import SamplingParams
    from ramify.engine.engine import Engine


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ramify' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
