"""A command line taken apart, and the help of what it may hold.

One reader for all commands, so that one style of error serves them all, and a value given as a flag is checked by the
same code as one in a file.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ramify.config.read import did_you_mean, shown
from ramify.core.errors import UsageError

COLUMN = 32  # where help begins
WIDEST = 110
WORDS = {int: "INT", float: "NUMBER", str: "TEXT"}


@dataclass(frozen=True)
class Flag:
    """`spellings` without dashes, the first is the one that help shows. A switch takes no value, unless with `=`."""

    name: str
    spellings: tuple[str, ...]
    help: str
    kind: Any = str
    default: Any = None
    group: str = "Options"

    @property
    def is_switch(self) -> bool:
        return self.kind is bool

    @property
    def is_list(self) -> bool:
        """Its values are all the words that follow."""
        return bool(self.kind == tuple[str, ...])


@dataclass
class Line:
    """What a command line holds. Of a flag given twice the last counts."""

    flags: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)  # the same, all of them
    words: list[str] = field(default_factory=list)
    spelled: dict[str, str] = field(default_factory=dict)  # how each flag was written
    help: bool = False


def flag_of(owner: type, each: dataclasses.Field[Any], group: str) -> Flag:
    """The flag of a field that has `help` and perhaps `also` in its metadata."""
    spellings = (each.name.replace("_", "-"), *each.metadata.get("also", ()))
    kind = _plain(typing.get_type_hints(owner)[each.name])
    return Flag(each.name, spellings, each.metadata["help"], kind, each.default, group)


def _plain(hint: Any) -> Any:
    """The type without its None."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (option for option in typing.get_args(hint) if option is not type(None))
    return hint


def take(arguments: Sequence[str], flags: Iterable[Flag]) -> Line:
    """Flags with their values, and the words between them; after `--` come words only."""
    known = {spelling: flag for flag in flags for spelling in flag.spellings}
    line, rest = Line(), list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            line.words += rest
            break
        if argument in ("-h", "--help"):
            line.help = True
        elif not argument.startswith("--"):
            line.words.append(_word(argument))
        else:
            _take_flag(line, known, argument, rest)
    return line


def _word(argument: str) -> str:
    if re.fullmatch(r"-[A-Za-z]\w*", argument):
        raise UsageError(f"there is no flag {shown(argument)}", "Flags begin with two dashes; `--` ends them.")
    return argument


def _take_flag(line: Line, known: dict[str, Flag], argument: str, rest: list[str]) -> None:
    name, equals, value = argument.partition("=")
    flag = known.get(name[2:].replace("_", "-"))
    if flag is None:
        near = did_you_mean(name, [f"--{spelling}" for spelling in known])
        raise UsageError(f"there is no flag {shown(name)}", near or "--help lists what there is.")
    if not equals and flag.is_switch:
        value = "true"
    elif not equals:
        if not rest or rest[0].startswith("--"):
            raise UsageError(f"{name} needs a value", f"{flag.help} If it begins with dashes: {name}=VALUE.")
        value = rest.pop(0)
        if flag.is_list:
            value = _listed(value, rest)
    line.flags[flag.name] = value
    line.lists.setdefault(flag.name, []).append(value)
    line.spelled[flag.name] = name


def _listed(first: str, rest: list[str]) -> str:
    """A word and those behind it up to the next flag, as JSON; a word may be JSON of its own."""
    words = [first]
    while rest and not rest[0].startswith("--"):
        words.append(rest.pop(0))
    return first if len(words) == 1 and first.lstrip()[:1] in ("[", "{") else json.dumps(words)


# -- help --------------------------------------------------------------------------------------------------------------


def describe(usage: str, about: str, flags: Sequence[Flag], words: Sequence[tuple[str, str]] = ()) -> str:
    """The text of `--help`."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    parts = [f"usage: {usage}", *(_wrapped(paragraph, width) for paragraph in about.split("\n\n"))]
    if words:
        parts.append("\n".join(_entry(name, help, width) for name, help in words))
    for group in dict.fromkeys(flag.group for flag in flags):
        entries = [_entry(_left(flag), _right(flag), width) for flag in flags if flag.group == group]
        parts.append("\n".join([f"{group}:", *entries]))
    return "\n\n".join(parts)


def _wrapped(text: str, width: int, indent: str = "") -> str:
    plain = " ".join(text.split())
    return textwrap.fill(plain, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _left(flag: Flag) -> str:
    if flag.is_switch:
        return f"--{flag.spellings[0]}"
    if typing.get_origin(flag.kind) is Literal:
        return f"--{flag.spellings[0]} NAME"
    if flag.is_list:
        return f"--{flag.spellings[0]} TEXT ..."
    return f"--{flag.spellings[0]} {WORDS.get(flag.kind, 'TEXT')}"


def _right(flag: Flag) -> str:
    said = [flag.help]
    if typing.get_origin(flag.kind) is Literal:
        said.append(f"One of {', '.join(typing.get_args(flag.kind))}.")
    if flag.default not in (None, False, ()) and "Default" not in flag.help:
        said.append(f"Default: {flag.default}.")
    if flag.spellings[1:]:
        said.append(f"Also {', '.join(f'--{other}' for other in flag.spellings[1:])}.")
    return " ".join(said)


def _entry(left: str, right: str, width: int) -> str:
    """Two columns; where the left one is too wide, the right one begins on the next line."""
    text = _wrapped(right, width, " " * COLUMN)
    head = f"  {left}"
    return head + text[len(head) :] if len(head) < COLUMN - 1 else f"{head}\n{text}"
