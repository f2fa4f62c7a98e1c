"""How texts of an adapter are read and written, where its folder has a tokenizer, or a chat template, of its own."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from ramify.config.resolve import Resolved
from ramify.core.errors import BadRequest, StartupError
from ramify.engine.remembered import Remembered
from ramify.engine.speech import speech_of
from ramify.server.language import Language, template_of
from ramify.text.passages import PassageReader
from ramify.text.tokenizer import CONFIG, FILE, Tokenizer, load_beside

TEMPLATE = "chat_template.jinja"
KEPT = 8  # languages; a large tokenizer takes 100 MB

Stamp = tuple[tuple[int, int, int], ...]


class AdapterWords:
    """Of one model's adapters; any thread may ask. Which there are, and where, stands in the run's folder."""

    def __init__(self, resolved: Resolved, remembered: Remembered) -> None:
        self._resolved, self._remembered = resolved, remembered
        self._folders: dict[str, Path] = {}
        self._stamp: Stamp = ()
        self._made: OrderedDict[tuple[Path, Stamp], Language] = OrderedDict()
        self._lock = Lock()

    def of(self, name: str, common: Language) -> Language | None:
        """None where it is the model's own. Raises `BadRequest` where the files are not right."""
        with self._lock:
            folder = self._listed().get(name)
            if folder is None or common.tokenizer is None or not (stamp := _stamp(folder, FILE, TEMPLATE)):
                return None
            key = folder, stamp + _stamp(folder, CONFIG)
            if key not in self._made:
                self._made[key] = self._read(name, folder, common)
                while len(self._made) > KEPT:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]

    def _listed(self) -> dict[str, Path]:
        stamp = _stamp(self._remembered.file.parent, self._remembered.file.name)
        if stamp != self._stamp:
            self._folders = {each.lora_name: Path(each.lora_path) for each in self._remembered.read() or ()}
            self._stamp = stamp
        return self._folders

    def _read(self, name: str, folder: Path, common: Language) -> Language:
        assert common.tokenizer is not None
        try:
            tokenizer = self._tokenizer(folder, common.tokenizer)
            template = template_of(tokenizer)
        except StartupError as e:
            raise BadRequest(f"the adapter {name!r} cannot read or write text: {e.cause}", param="lora_path") from None
        end = tokenizer.backend.token_to_id(tokenizer.names.get("eos_token", ""))
        ends = () if end is None or end in self._resolved.model.eos_ids else (end,)
        return replace(
            common,
            tokenizer=tokenizer,
            template=template,
            speech=speech_of(self._resolved, tokenizer),
            reader=PassageReader(tokenizer, self._resolved.model.head),
            ends=ends,
        )

    def _tokenizer(self, folder: Path, common: Tokenizer) -> Tokenizer:
        settings = self._resolved.settings.model
        return load_beside(
            folder, common, Path(settings.tokenizer_path or self._resolved.folder), settings.chat_template
        )


def _stamp(folder: Path, *names: str) -> Stamp:
    """Which contents files have, as far as that can be told without reading them; of those that there are."""
    found = []
    for name in names:
        try:
            stat = os.stat(folder / name)
        except OSError:
            continue
        found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def adapters_in(asked: Any, adapter_in: Callable[[str], str]) -> set[str]:
    """Those that the prompts of a request name, empty for none."""
    given = getattr(asked, "lora_path", None)
    listed = given if isinstance(given, list) else [given]
    named = adapter_in(getattr(asked, "model", None) or "")
    return {named} if named else {path if isinstance(path, str) else "" for path in listed}
