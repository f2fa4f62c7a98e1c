"""Tokenizers that have no `tokenizer.json`: transformers converts them. The only place in `text` that may import it."""

from __future__ import annotations

import logging
from pathlib import Path

from tokenizers import Tokenizer as Backend

from ramify.core.errors import StartupError

log = logging.getLogger(__name__)


def load_backend(folder: Path) -> Backend:
    """The fast form of whatever tokenizer is in `folder`. No code from the folder is run."""
    log.info("no tokenizer.json in %s: converting its tokenizer with transformers", folder)
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as e:  # noqa: BLE001  (transformers raises many kinds)
        raise StartupError(f"{folder} has no tokenizer that can be read: {e}", "It needs a tokenizer.json.") from None
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Backend):
        raise StartupError(
            f"the tokenizer in {folder} has no fast form",
            "Save one: AutoTokenizer.from_pretrained(...).save_pretrained(...).",
        )
    return backend
