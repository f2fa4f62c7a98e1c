"""Chooses where prompts come from: token ids, counted words, or words with a measured estimate."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from ramify.bench.backends import Asking
from ramify.bench.client import Client
from ramify.bench.datasets import Turn
from ramify.bench.discover import Server
from ramify.bench.load import Place, as_record
from ramify.bench.options import ServeOptions
from ramify.bench.record import Record
from ramify.bench.words import PLAIN, CountedWords, PlainWords, RandomIds, Source
from ramify.config.model import read_json
from ramify.config.source import locate
from ramify.core.errors import StartupError
from ramify.text.tokenizer import Tokenizer, load_tokenizer

PROBE_WORDS = 100
USUAL_RATE = 1.3  # tokens per word of English, where the server counts nothing


async def make_source(client: Client, server: Server, options: ServeOptions, asking: Asking) -> Source:
    """Token ids on the native route, for prompts that are made up; words otherwise."""
    folder = _folder(options.target.tokenizer, server)
    tokenizer = _tokenizer(folder, must=options.target.tokenizer is not None)
    if tokenizer is None:
        return PlainWords(await _tokens_per_word(client, server, asking))
    assert folder is not None
    if server.backend.takes_ids and options.data.dataset_name != "sharegpt":
        return RandomIds(tokenizer, _vocab(folder))
    return CountedWords(tokenizer, framed=not server.backend.adds_template)


def _folder(asked: str | None, server: Server) -> Path | None:
    return server.tokenizer if asked is None else locate(asked, weights=False)


def _tokenizer(folder: Path | None, must: bool) -> Tokenizer | None:
    if folder is None:
        return None
    try:
        return load_tokenizer(folder)
    except StartupError:
        if must:
            raise
        return None


def _vocab(folder: Path) -> int | None:
    """Tokenizers may know ids that the model does not."""
    config: dict[str, Any] = read_json(folder / "config.json", "a config") if (folder / "config.json").is_file() else {}
    inner = config.get("text_config")
    found = (inner if isinstance(inner, dict) else config).get("vocab_size")
    return found if isinstance(found, int) else None


async def _tokens_per_word(client: Client, server: Server, asking: Asking) -> float:
    """What the server counts for a known text."""
    text = " ".join(PLAIN[:PROBE_WORDS])
    record = await one(client, server, asking, Turn(text, None, 1))
    if record.error is not None:
        raise refused(record.error, server)
    return record.prompt_tokens / PROBE_WORDS if record.prompt_tokens else USUAL_RATE


async def one(client: Client, server: Server, asking: Asking, turn: Turn) -> Record:
    """A request outside of the measurement."""
    start = perf_counter()
    body = server.backend.request(asking, [], turn.content, turn.output_len)
    return as_record(await client.ask(server.backend, body), start, Place(), turn)


def refused(error: str, server: Server) -> StartupError:
    """The server does not do what the whole run would ask of it."""
    models = f" The server lists {', '.join(server.models)}." if server.models else ""
    return StartupError(
        f"the first request to {server.url}{server.backend.path} failed: {error}",
        f"--backend was {server.backend.name} and --model {server.model}.{models}",
    )
