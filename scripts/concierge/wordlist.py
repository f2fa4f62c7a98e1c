"""Word lists written as text: items separated by bars or line ends."""

from __future__ import annotations


def items(text: str) -> list[str]:
    """Return the items of a list."""
    return text.replace("\n", "|").split("|")
