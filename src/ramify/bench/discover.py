"""Finding out what a server is: whether it answers, which model and routes it has, where its tokenizer is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp

from ramify.bench.backends import BACKENDS, Backend, error_text
from ramify.bench.client import Client, describe
from ramify.bench.options import TargetOptions
from ramify.core.errors import StartupError

POLL = 0.5  # seconds between looks at a server that is not there yet
SAY_AFTER = 2.0  # seconds of waiting before the user is told
NOT_A_SERVER = "--base-url is the address without a path, like http://127.0.0.1:30000."

Say = Callable[[str], None]


@dataclass(frozen=True)
class Server:
    """`context` in tokens, None where the server does not say. `tokenizer` is a folder on this machine, or None.

    `why` is the reason for the backend, and `facts` are what `/model_info` and `/server_info` tell.
    """

    url: str
    model: str
    models: list[str]
    backend: Backend
    why: str
    context: int | None = None
    tokenizer: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str | None:
        version = self.facts.get("version")
        return version if isinstance(version, str) else None


async def discover(client: Client, options: TargetOptions, say: Say) -> Server:
    """Wait for the server and look at it; raises `StartupError` where there is none to measure."""
    cards = await _wait_for_models(client, options, say)
    facts = await _facts(client)
    models = [str(card["id"]) for card in cards]
    backend, why = choose_backend(options.backend, facts)
    name = options.model or (models[0] if models else facts.get("served_model_name") or facts.get("model_path"))
    if name is None:
        raise StartupError(f"{client.base_url} has no model in /v1/models", "Name it with --model.")
    card = next((card for card in cards if card["id"] == name), cards[0] if cards else {})
    return Server(
        url=client.base_url,
        model=str(name),
        models=models,
        backend=backend,
        why=why,
        context=_number(card.get("max_model_len")),
        tokenizer=find_tokenizer(facts, card),
        facts=facts,
    )


def choose_backend(asked: str, facts: dict[str, Any]) -> tuple[Backend, str]:
    """The backend and why it is that."""
    if asked != "auto":
        return BACKENDS[asked], "as asked"
    if "model_path" in facts:
        return BACKENDS["native"], "the server has it"
    return BACKENDS["openai"], "the server has no /generate"


def find_tokenizer(facts: dict[str, Any], card: dict[str, Any]) -> Path | None:
    """A folder with a tokenizer.json of which the server speaks, if it is on this machine as well."""
    for named in (facts.get("tokenizer_path"), facts.get("model_path"), card.get("root")):
        if isinstance(named, str) and named and (Path(named) / "tokenizer.json").is_file():
            return Path(named)
    return None


async def _wait_for_models(client: Client, options: TargetOptions, say: Say) -> list[dict[str, Any]]:
    """The cards of `/v1/models`, as soon as there are some."""
    start, told = monotonic(), False
    while True:
        cards, reason = await _models(client)
        if cards is not None:
            return cards
        waited = monotonic() - start
        if waited + POLL > options.ready_timeout:
            raise StartupError(
                f"no server answers at {client.base_url} ({reason})",
                "Start one with `ramify serve`, or give its address with --base-url.",
            )
        if waited > SAY_AFTER and not told:
            told = True
            say(f"waiting up to {options.ready_timeout:g} s for {client.base_url} ({reason})")
        await asyncio.sleep(POLL)


async def _models(client: Client) -> tuple[list[dict[str, Any]] | None, str]:
    """Cards, or None and why to wait. Raises `StartupError` where waiting is of no use."""
    try:
        status, found = await client.look("/v1/models")
    except (aiohttp.NonHttpUrlClientError, aiohttp.ClientConnectorDNSError, ValueError) as e:
        raise StartupError(f"{client.base_url} cannot be reached: {describe(e)}", NOT_A_SERVER) from None
    except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError):
        raise StartupError(f"what listens at {client.base_url} does not speak HTTP", NOT_A_SERVER) from None
    except (aiohttp.ClientError, TimeoutError, OSError) as e:
        return None, describe(e)
    if status in (401, 403):
        raise StartupError(f"{client.base_url} wants an API key (HTTP {status})", "Give it with --api-key.")
    if status >= 500:
        return None, f"HTTP {status}"
    return await _cards(client, status, found), ""


async def _cards(client: Client, status: int, found: Any) -> list[dict[str, Any]]:
    data = found.get("data") if isinstance(found, dict) else None
    if status == 200 and isinstance(data, list):
        return [card for card in data if isinstance(card, dict) and "id" in card]
    if "model_path" in await _facts(client):
        return []  # an SGLang of old: no models to list, and its own routes
    said = f": {error_text(found)}" if found is not None else ""
    raise StartupError(
        f"{client.base_url} is no server of the OpenAI API: GET /v1/models gives HTTP {status}{said}", NOT_A_SERVER
    )


async def _facts(client: Client) -> dict[str, Any]:
    """`/model_info` and `/server_info` of SGLang and ramify in one; empty for other servers."""
    facts: dict[str, Any] = {}
    for path in ("/server_info", "/model_info", "/get_model_info"):
        try:
            status, found = await client.look(path)
        except (aiohttp.ClientError, TimeoutError, OSError):
            continue
        if status == 200 and isinstance(found, dict):
            facts |= found
    return facts


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
