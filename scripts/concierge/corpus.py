"""Reading the shared text folder, and the fixed split into training and held-out documents."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEFAULT_TEXT = Path(__file__).resolve().parents[2].parent / "shared" / "assets" / "text"
DEFAULT_WORK = Path(__file__).resolve().parents[2] / "build" / "concierge"
DEFAULT_OUT = Path(__file__).resolve().parents[2] / "src" / "ramify" / "bundled" / "concierge"

# The children's books, by Project Gutenberg number: Alice, Oz, Peter Pan, Blue Fairy Book, Grimm, English Fairy
# Tales, Andersen, Wind in the Willows. The novels are left out.
CHILDREN_BOOKS = ("11-0", "55", "16-0", "503-0", "2591-0", "7439-0", "1597-0", "289-0")


# Stories with these words are too grim for a children's concierge.
DARK = re.compile(r"\b(kill|dead|died|death|dying|blood|gun|poison|kidnap|never to be seen|stranger|murder|hell)", re.I)


def held_out(text: str, share: float) -> bool:
    """Decide by a hash of the original text whether a document is kept for evaluation."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def read_dialogues(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the task dialogues as (training, held-out); the split looks at the words only."""
    train, held = [], []
    with gzip.open(folder / "task-dialogues" / "dialogues.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            dialogue = json.loads(line)
            words = "\n".join(turn["text"] for turn in dialogue["turns"])
            (held if held_out(words, 0.03) else train).append(dialogue)
    return train, held


def read_services(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return each service's functions with their required and optional slots."""
    return json.loads((folder / "task-dialogues" / "tools.json").read_text(encoding="utf-8"))


def clean_text(text: str) -> str:
    """Replace typographic characters by plain ones and remove stray spaces."""
    table = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": " - ", "–": "-", "…": "...", "\u00a0": " ", "\ufeff": ""}
    for odd, plain in table.items():
        text = text.replace(odd, plain)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r" *\n *", "\n", text).strip()


def read_stories(folder: Path) -> tuple[list[str], list[str]]:
    """Return the children's stories as (training, held-out); fragments and texts in broken encoding are dropped."""
    raw = json.loads((folder / "tinystories-sample" / "tinystories_1000.json").read_text(encoding="utf-8"))
    train, held = [], []
    for story in dict.fromkeys(raw):
        text = clean_text(story)
        if not text.isascii() or len(text) < 200 or text[-1] not in '.!?"' or DARK.search(text):
            continue
        (held if held_out(text, 0.05) else train).append(text)
    return train, held


def strip_licence(book: str) -> str:
    """Return a Project Gutenberg book without the licence text around it."""
    start = re.search(r"\*\*\* ?START OF.*?\*\*\*", book)
    end = re.search(r"\*\*\* ?END OF|End of (the )?Project Gutenberg", book)
    return book[start.end() if start else 0 : end.start() if end else len(book)]


def read_books(folder: Path, size: int = 3000) -> Iterator[str]:
    """Yield pieces of the children's books, whole paragraphs of about `size` characters."""
    for number in CHILDREN_BOOKS:
        book = (folder / "gutenberg" / f"{number}.txt").read_text(encoding="utf-8", errors="replace")
        text = strip_licence(book.replace("\r\n", "\n")).replace("_", "")
        paragraphs = [clean_text(p).replace("\n", " ") for p in re.split(r"\n\s*\n", text)]
        piece: list[str] = []
        for paragraph in paragraphs:
            prose = (
                len(paragraph) > 60 and paragraph.isascii() and paragraph[-1] in '.!?"' and "Gutenberg" not in paragraph
            )
            if prose:
                piece.append(paragraph)
            if sum(map(len, piece)) > size:
                yield "\n\n".join(piece)
                piece = []


def read_small_talk(folder: Path) -> list[tuple[str, str]]:
    """Return the greeting and trivia pairs of the small-talk corpus; its other topics do not suit a concierge."""
    pairs = []
    for topic in ("greetings", "trivia"):
        text = (folder / "chatterbot-corpus" / f"{topic}.yml").read_text(encoding="utf-8")
        for block in re.split(r"\n(?=- - )", text)[1:]:
            lines = [_unquote(line) for line in re.split(r"\n  - ", block[4:])]
            if len(lines) == 2 and all(line.isascii() and len(line) < 200 for line in lines):
                pairs.append((lines[0], lines[1]))
    return pairs


def _unquote(line: str) -> str:
    """Undo the line folding and quoting of the small-talk files."""
    line = re.sub(r"\s+", " ", line).strip()
    return line[1:-1].replace("''", "'") if len(line) > 1 and line[0] == line[-1] and line[0] in "'\"" else line
