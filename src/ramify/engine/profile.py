"""Where traces of the profiler go: into a folder that the server chose, under names that nobody has to guess."""

from __future__ import annotations

import itertools
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from ramify.wire.profile import Profile

MAX_STEPS = 200  # a step takes megabytes while it is recorded


class Profiler(Protocol):
    """Records steps of an executor."""

    def start(self, asked: Profile) -> Future[None]:
        """Begin to record; `ValueError` if it records already."""

    def stop(self) -> Future[str]:
        """Write the trace and give its path; `ValueError` if nothing is recorded."""


class NoProfiler:
    """Where no model runs."""

    def start(self, asked: Profile) -> Future[None]:
        raise ValueError("there is no profiler here")

    def stop(self) -> Future[str]:
        raise ValueError("there is no profiler here")


class TraceFolder:
    """`asked` is `--profile-dir`; without it a folder of its own in the one for temporary files, made when needed."""

    def __init__(self, asked: str | None) -> None:
        self._asked = asked
        self._made: Path | None = None
        self._numbers = itertools.count(1)

    @property
    def path(self) -> Path:
        if self._made is None:
            made = self._asked or tempfile.mkdtemp(prefix="ramify-profile-")
            Path(made).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._made = Path(made).resolve()
        return self._made

    def profile(self, args: dict[str, Any]) -> Profile:
        """What `/start_profile` asks for; `ValueError` where it would write anywhere else, or cannot write."""
        steps = args.get("num_steps") or MAX_STEPS
        if steps > MAX_STEPS:
            raise ValueError(f"num_steps should be at most {MAX_STEPS}")
        try:
            path = self._file(args)
        except OSError as e:
            raise ValueError(f"the folder for traces cannot be made: {e.strerror}") from None
        return Profile(
            path=str(path),
            steps=steps,
            first=args.get("start_step") or 0,
            stack=args.get("with_stack") is not False,
            shapes=bool(args.get("record_shapes")),
        )

    def _file(self, args: dict[str, Any]) -> Path:
        folder = (self.path / (args.get("output_dir") or ".")).resolve()
        if not folder.is_relative_to(self.path):
            raise ValueError("output_dir should be inside the server's --profile-dir, or be left out")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = [args.get("profile_prefix"), args.get("profile_id") or time.strftime("%Y%m%d-%H%M%S")]
        stem = "-".join(name for name in names if name)
        while (file := folder / f"{stem}-{next(self._numbers)}.trace.json.gz").exists():
            pass
        return file
