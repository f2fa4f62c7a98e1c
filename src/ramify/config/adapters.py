"""Which adapters are loaded at start, and how much room adapters have: what of them is decided without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ramify.core.errors import BadRequest, StartupError

MAX_NAME = 256
ALL = "all"  # every module that the model's family can adapt


class AdapterPath(msgspec.Struct, frozen=True):
    """An adapter to load: the name that requests give, the folder, and whether it stays where it computes."""

    lora_name: str
    lora_path: str
    pinned: bool = False


@dataclass(frozen=True)
class Adaptable:
    """What the model and the adapters to load at start say. `elements` are the numbers of an adapter of rank 1, over
    all modules that `targets` name; of which `rows` are looked up by token. `rank` is the highest of those adapters, 0
    where there are none. Modules that `whole` names may be replaced as a whole, by `cells` numbers. A token that is
    added has `width` numbers in embedding and head, and one in each of `vocabularies` low ranks (of which `looked_up`
    are looked up); `added` is the most of those adapters.
    """

    elements: int
    targets: tuple[str, ...]
    rank: int = 0
    rows: int = 0
    whole: tuple[str, ...] = ()
    cells: int = 0
    width: int = 0
    vocabularies: int = 0
    looked_up: int = 0
    added: int = 0


@dataclass(frozen=True)
class AdapterPlan:
    """Room for adapters: `slots` of them compute together, `loaded` are in memory, of which each takes up to `each`
    bytes: rank `rank` in all modules that `targets` name (by their last words), those that `whole` names as a whole,
    and `added` tokens. A slot takes `slot` bytes of its own.
    """

    slots: int
    loaded: int
    rank: int
    targets: tuple[str, ...]
    each: int
    policy: str
    slot: int = 0
    whole: tuple[str, ...] = ()
    added: int = 0

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return self.loaded * self.each + self.slots * self.slot


def named_paths(given: Sequence[str]) -> tuple[AdapterPath, ...]:
    """`NAME=FOLDER`, `FOLDER` (which is its name too) or a JSON object, each once."""
    found = tuple(_named(one) for one in given)
    names = [one.lora_name for one in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise StartupError(f"--lora-paths: the name {sorted(twice)[0]!r} is given twice")
    return found


def _named(text: str) -> AdapterPath:
    try:
        if text.lstrip().startswith("{"):
            made = msgspec.json.decode(text, type=AdapterPath)
        else:
            name, equals, path = text.partition("=")
            made = AdapterPath(name, path if equals else name)
        check_name(made.lora_name, "lora_name")
    except (msgspec.MsgspecError, BadRequest) as e:
        raise StartupError(
            f"--lora-paths {text!r}: {e}", """Give NAME=FOLDER, or {"lora_name": "...", "lora_path": "..."}."""
        ) from None
    if not made.lora_path:
        raise StartupError(f"--lora-paths {text!r} names no folder")
    return made


def check_name(name: str, field: str) -> str:
    """A name that can stand behind `MODEL:` and in a log line."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or ":" in name:
        raise BadRequest(f"{field} should be 1 to {MAX_NAME} printable characters without a colon", param=field)
    return name
