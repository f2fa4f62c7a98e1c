"""Which API worker gets a request: the kernel decides, unless the others are asleep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from server import Server


@contextlib.contextmanager
def through(server: Server, role: str) -> Iterator[None]:
    """Connections opened here are accepted by the worker `role` (api-0, ...); the others go on afterwards."""
    others = [child for name, child in server.children().items() if name.startswith("api-") and name != role]
    for child in others:
        child.suspend()
    try:
        yield
    finally:
        for child in others:
            child.resume()
