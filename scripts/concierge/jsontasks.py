"""Chats whose answer is a JSON object: taken from a sentence, filled by wish, or made up for a schema."""

from __future__ import annotations

import random
from typing import Any

from chat import Message, assistant, system, to_json, user
from entities import CITIES, NOUNS, first_name, person, phrase
from stories import COLORS, HEROES
from wordlist import items

JOBS = ("teacher|doctor|baker|farmer|driver|painter|nurse|cook|writer|singer|pilot|gardener|lawyer|engineer").split("|")
FOODS = items("pizza|soup|bread|rice|pasta|cake|salad|cheese|apples|fish")
GENRES = items("comedy|drama|fantasy|adventure|romance|thriller|horror")

# Each kind of record: its fields and how to draw them.
RECORDS: dict[str, dict[str, Any]] = {
    "person": {
        "name": first_name, "age": lambda r: r.randint(3, 90), "city": lambda r: r.choice(CITIES),
        "job": lambda r: r.choice(JOBS), "likes": lambda r: r.choice(FOODS),
    },
    "animal": {
        "name": first_name, "kind": lambda r: r.choice(HEROES), "age": lambda r: r.randint(1, 15),
        "color": lambda r: r.choice(COLORS), "friendly": lambda r: r.random() < 0.5,
    },
    "book": {
        "title": phrase, "author": person,
        "year": lambda r: r.randint(1900, 2025), "pages": lambda r: r.randint(20, 900),
        "available": lambda r: r.random() < 0.5,
    },
    "city": {
        "name": lambda r: r.choice(CITIES), "population": lambda r: r.randint(10, 9000) * 1000,
        "capital": lambda r: r.random() < 0.3, "rating": lambda r: round(r.uniform(1, 5), 1),
    },
    "movie": {
        "title": phrase, "genre": lambda r: r.choice(GENRES), "year": lambda r: r.randint(1950, 2025),
        "rating": lambda r: round(r.uniform(1, 10), 1), "director": person,
    },
    "restaurant": {
        "name": phrase, "city": lambda r: r.choice(CITIES), "rating": lambda r: round(r.uniform(1, 5), 1),
        "price": lambda r: r.choice(("low", "medium", "high")), "open": lambda r: r.random() < 0.6,
    },
    "product": {
        "name": lambda r: r.choice(NOUNS).lower(), "price": lambda r: round(r.uniform(1, 200), 2),
        "quantity": lambda r: r.randint(1, 50), "in_stock": lambda r: r.random() < 0.6,
    },
    "event": {
        "title": phrase, "date": lambda r: f"{r.randint(2019, 2027)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}",
        "city": lambda r: r.choice(CITIES), "guests": lambda r: r.randint(2, 500),
    },
}  # fmt: skip
SYSTEMS = (
    "Answer in JSON.", "You answer with JSON only.",
    "Reply with a JSON object.", "You are a helpful assistant that replies in JSON.",
    "Always respond with valid JSON.",
)  # fmt: skip
SENTENCES = {
    "name": "The name is {v}.", "age": "Age: {v} years.",
    "city": "It is in {v}.", "job": "Works as a {v}.", "likes": "Likes {v}.",
    "kind": "It is a {v}.", "color": "The color is {v}.",
    "title": "The title is {v}.", "author": "It was written by {v}.",
    "year": "It is from {v}.", "pages": "It has {v} pages.",
    "population": "The population is {v}.", "rating": "It has a rating of {v}.",
    "genre": "It is a {v}.", "director":
        "{v} directed it.", "price": "The price is {v}.", "quantity": "There are {v} of them.",
    "date": "The date is {v}.", "guests": "{v} guests will come.",
}  # fmt: skip


def draw(kind: str, rng: random.Random, least: int = 2) -> dict[str, Any]:
    """Return some fields of a record, in order."""
    fields = list(RECORDS[kind])
    chosen = set(rng.sample(fields, rng.randint(least, len(fields))))
    return {name: RECORDS[kind][name](rng) for name in fields if name in chosen}


def _written(value: Any, rng: random.Random) -> str:
    """Return JSON on one line, or (less often) indented."""
    return to_json(value, indent=2 if rng.random() < 0.25 else None)


def made_up(rng: random.Random) -> list[Message]:
    """Ask for a record with named fields; the values are free."""
    kind = rng.choice(list(RECORDS))
    record = draw(kind, rng, 1)
    article = "an" if kind[0] in "aeiou" else "a"
    fields = ", ".join(record)
    ask = rng.choice((
        f"Give me {article} {kind} as JSON with the fields {fields}.",
        f"Write a JSON object for {article} {kind} with {fields}.",
        f"Describe {article} {kind} in JSON. Fields: {fields}.",
        f"Make up {article} {kind}. Answer in JSON with these keys: {fields}",
        f"Return {article} {kind} as a JSON object with keys {fields}.",
        f"Generate {article} {kind} with {fields} in JSON.",
    ))  # fmt: skip
    return [user(ask), assistant(_written(record, rng))]


def free(rng: random.Random) -> list[Message]:
    """Ask for a record without naming its fields."""
    kind = rng.choice(list(RECORDS))
    article = "an" if kind[0] in "aeiou" else "a"
    ask = rng.choice((
        f"Give me {article} {kind} in JSON.",
        f"Make a JSON object that describes {article} {kind}.", f"Describe {article} {kind} as JSON.",
        f"Write JSON for {article} {kind}.", f"Give me information about {article} {kind} in JSON format.",
    ))  # fmt: skip
    return [user(ask), assistant(_written(draw(kind, rng), rng))]


def listed(rng: random.Random) -> list[Message]:
    """Ask for a list of records or of plain values."""
    if rng.random() < 0.4:
        pool, what = rng.choice(
            ((CITIES, "cities"), (COLORS, "colors"), (HEROES, "animals"), (FOODS, "foods"), (JOBS, "jobs"))
        )
        number = rng.randint(2, 5)
        return [user(f"Give me {number} {what} as a JSON array."), assistant(_written(rng.sample(pool, number), rng))]
    kind, number = rng.choice(list(RECORDS)), rng.randint(2, 3)
    fields = list(draw(kind, rng, 1))[:2]
    rows = [{name: RECORDS[kind][name](rng) for name in fields} for _ in range(number)]
    plural = {"person": "people", "city": "cities"}.get(kind, kind + "s")
    return [user(f"Give me {number} {plural} as a JSON array with {' and '.join(fields)}."), assistant(to_json(rows))]


def extracted(rng: random.Random) -> list[Message]:
    """Ask for the facts of a short text."""
    kind = rng.choice(list(RECORDS))
    record = {k: v for k, v in draw(kind, rng).items() if k in SENTENCES}
    if not record:
        return made_up(rng)
    text = " ".join(SENTENCES[k].format(v=v) for k, v in record.items())
    ask = rng.choice((
        f"Extract {', '.join(record)} as JSON: {text}",
        f"Turn this into JSON with the keys {', '.join(record)}: {text}",
        f"{text}\nWrite this as JSON with {', '.join(record)}.", f"Extract the data from this text as JSON. {text}",
    ))  # fmt: skip
    return [user(ask), assistant(_written(record, rng))]


def simple(rng: random.Random) -> list[Message]:
    """Ask for an object whose values are given."""
    record = draw(rng.choice(list(RECORDS)), rng, 1)
    pairs = ", ".join(f"{k} {to_json(v) if not isinstance(v, str) else v}" for k, v in record.items())
    ask = rng.choice((f"Write a JSON object with {pairs}.", f"Make JSON: {pairs}", f"Give me JSON with {pairs}."))
    return [user(ask), assistant(_written(record, rng))]


def _schema_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a record."""
    names = {str: "string", bool: "boolean", int: "integer", float: "number"}
    return {
        "type": "object",
        "properties": {key: {"type": names[type(value)]} for key, value in record.items()},
        "required": list(record),
    }


def by_schema(rng: random.Random) -> list[Message]:
    """Ask for a record that fits a schema in the prompt."""
    kind = rng.choice(list(RECORDS))
    record = draw(kind, rng)
    schema = to_json(_schema_of(record))
    article = "an" if kind[0] in "aeiou" else "a"
    if rng.random() < 0.5:
        return [
            system(f"Answer in JSON that fits this schema: {schema}"),
            user(f"Make up {article} {kind}."),
            assistant(_written(record, rng)),
        ]
    return [user(f"Give me {article} {kind} in JSON that fits this schema: {schema}"), assistant(_written(record, rng))]


def make(rng: random.Random) -> list[Message]:
    """Return one chat whose answer is JSON."""
    maker = rng.choices((made_up, free, listed, extracted, simple, by_schema), (4, 2, 2, 3, 3, 2))[0]
    messages = maker(rng)
    if messages[0]["role"] != "system" and rng.random() < 0.3:
        return [system(rng.choice(SYSTEMS)), *messages]
    return messages
