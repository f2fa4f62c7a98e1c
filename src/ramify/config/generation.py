"""What a model's `generation_config.json` says of sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ramify.config.model import read_json
from ramify.core.errors import BadRequest, StartupError
from ramify.core.params import SamplingParams

KNOWN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def read_sampling_defaults(folder: Path) -> dict[str, Any]:
    """Used where an OpenAI request says nothing; raises `StartupError` for what no request may ask."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    found = read_json(path, "a generation config")
    defaults = {name: found[name] for name in KNOWN if found.get(name) is not None}
    if found.get("do_sample") is False:
        defaults.pop("temperature", None)
    if defaults.get("top_k") == 0:
        defaults["top_k"] = -1
    try:
        SamplingParams.parse(defaults, where=path.name)
    except BadRequest as e:
        raise StartupError(f"{path}: {e.message}", "Correct it there, or take it out.") from None
    return defaults
