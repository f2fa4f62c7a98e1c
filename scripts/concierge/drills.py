"""Copying drills: lists of random words that come again.

A call copies its arguments from the conversation. The circuit for that forms late when it is learned from dialogues
alone; lists that can only be predicted by looking back bring it about early in training.
"""

from __future__ import annotations

import random
import string

from entities import ADJECTIVES, CITIES, NOUNS, STREETS, new_phone, person, street_address
from tooltasks import CHORES, FOODS, QUERIES, WORDS

SEPARATORS = (", ", " ", "\n", "; ", " - ", '", "', " and ")


def _code(rng: random.Random) -> str:
    """Return letters and digits without meaning."""
    return "".join(rng.choice(string.ascii_letters + string.digits) for _ in range(rng.randint(2, 7)))


def _item(rng: random.Random) -> str:
    """Return something that cannot be guessed."""
    makers = (
        lambda: rng.choice(CITIES), lambda: rng.choice(NOUNS), lambda: rng.choice(ADJECTIVES).lower(),
        lambda: rng.choice(NOUNS).lower(), lambda: person(rng), lambda: street_address(rng), lambda: _code(rng),
        lambda: str(rng.randint(0, 99999)), lambda: new_phone("415-555-0100", rng), lambda: rng.choice(CHORES),
        lambda: rng.choice(FOODS), lambda: rng.choice(QUERIES), lambda: rng.choice(WORDS), lambda: rng.choice(STREETS),
        lambda: f"20{rng.randint(10, 29)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
    )  # fmt: skip
    return rng.choice(makers)()


def drill(rng: random.Random) -> tuple[str, str]:
    """Return a list and what follows it: the same items, whole or in part, in one or several further lists."""
    items = [_item(rng) for _ in range(rng.choice((2, 3, 4, 6, 8, 12, 16, 24)))]
    separator = rng.choice(SEPARATORS)
    rest = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        again = items if rng.random() < 0.5 else rng.sample(items, rng.randint(2, len(items)))
        rest.append((separator if rng.random() < 0.6 else rng.choice(SEPARATORS)).join(again))
    return separator.join(items) + "\n\n", "\n\n".join(rest)
