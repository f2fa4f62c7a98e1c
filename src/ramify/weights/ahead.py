"""Reading a checkpoint while other things start: torch takes seconds to import, and a disk could work meanwhile."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

PIECE = 8 << 20  # bytes that are asked for at a time


def fetch(files: Iterable[Path]) -> threading.Thread | None:
    """Ask the system to read files into its page cache, on a thread that nobody has to wait for.

    None where there is no way to ask, or where they would take more than half of the free memory: what is read would be
    dropped before it is used.
    """
    found = sorted(files)
    size = sum(file.stat().st_size for file in found)
    if not hasattr(os, "posix_fadvise") or size > psutil.virtual_memory().available // 2:
        log.debug("%d bytes of weights are read when they are needed", size)
        return None
    thread = threading.Thread(target=_ask, args=(found,), name="ramify-ahead", daemon=True)
    thread.start()
    return thread


def _ask(files: list[Path]) -> None:
    for file in files:
        with file.open("rb") as opened:
            for first in range(0, file.stat().st_size, PIECE):
                os.posix_fadvise(opened.fileno(), first, PIECE, os.POSIX_FADV_WILLNEED)
