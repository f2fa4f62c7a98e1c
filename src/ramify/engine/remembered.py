"""The adapters that an engine has, written down in the folder of this run: the next one reads them anew."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ramify.config.adapters import AdapterPath

log = logging.getLogger(__name__)

NAME = "adapters-{}.json"  # of which model


class Remembered:
    """Those of one model."""

    def __init__(self, folder: Path, model: int) -> None:
        self.file = folder / NAME.format(model)

    def read(self) -> tuple[AdapterPath, ...] | None:
        """Those that the engine before this one had; None: this is the first."""
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=tuple[AdapterPath, ...])
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as e:
            log.error("the list of adapters that were loaded cannot be read, and those of --lora-paths are: %s", e)
            return None

    def write(self, adapters: Sequence[AdapterPath]) -> None:
        """All at once: who dies in between leaves what was there before."""
        new = self.file.with_suffix(".new")
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as f:
                f.write(msgspec.json.encode(list(adapters)))
            new.replace(self.file)
        except OSError as e:
            log.error("an engine that is started again will not know which adapters there are now: %s", e)
