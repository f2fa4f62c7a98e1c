"""`ramify chat`: talk to a model in the terminal, in this process or on a running server."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from tyro.conf import arg

from ramify.cli.options import engine_settings, split
from ramify.core.errors import StartupError, UserError

HELP = """\
/exit      leave (also Ctrl-D)        /reset     forget the conversation
/system T  set the system prompt      /undo      take the last exchange back
/help      this text                  Ctrl-C stops an answer"""


@dataclass(frozen=True)
class Options:
    """Talk to a model in the terminal."""

    url: Annotated[str | None, arg(help="A running server, like http://127.0.0.1:30000; without it a model here.")] = (
        None
    )
    key: Annotated[str | None, arg(help="The server's API key.")] = None
    system: Annotated[str | None, arg(help="System prompt.")] = None
    max_new_tokens: Annotated[int, arg(help="Longest answer in tokens.")] = 512
    temperature: Annotated[float, arg(help="0 always takes the best token.")] = 0.7
    seed: Annotated[int | None, arg(help="The same seed gives the same answers.")] = None


Messages = list[dict[str, str]]


class Partner(Protocol):
    """Who answers."""

    name: str

    def answer(self, messages: Messages) -> Iterator[str]:
        """The answer, piece by piece. Closing the iterator early stops it."""

    def close(self) -> None: ...


def chat(arguments: list[str]) -> int:
    options, rest = split(Options, arguments, "ramify chat")
    partner: Partner = _Remote(options, rest) if options.url else _Local(options, rest)
    try:
        _converse(partner, options.system)
    finally:
        partner.close()
    return 0


def _converse(partner: Partner, system: str | None) -> None:
    history = _beginning(system)
    interactive = sys.stdin.isatty()
    if interactive:
        _edit_lines()
        print(f"{partner.name}. /help for commands.\n")
    while (line := _read(interactive)) is not None:
        command, _, rest = line.partition(" ")
        if command == "/exit":
            return
        if command == "/reset":
            history = [m for m in history if m["role"] == "system"]
        elif command == "/undo":
            del history[-2:]
        elif command == "/system":
            history = _beginning(rest) + [m for m in history if m["role"] != "system"]
        elif command == "/help":
            print(HELP)
        elif line:
            _exchange(partner, history, line)


def _beginning(system: str | None) -> Messages:
    return [{"role": "system", "content": system}] if system else []


def _edit_lines() -> None:
    """Arrow keys and history where Python was built with readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


def _read(interactive: bool) -> str | None:
    """The next line; None at the end."""
    try:
        return input("> " if interactive else "").strip()
    except EOFError:
        return None
    except KeyboardInterrupt:
        print()
        return None


def _exchange(partner: Partner, history: Messages, line: str) -> None:
    """One question and its answer; a question that fails is taken back."""
    history.append({"role": "user", "content": line})
    said: list[str] = []
    pieces = partner.answer(history)
    try:
        for piece in pieces:
            said.append(piece)
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    except (UserError, OSError) as e:
        print(f"[{getattr(e, 'message', e)}]")
        history.pop()
        return
    finally:
        pieces.close()  # type: ignore[attr-defined]
    print("\n")
    history.append({"role": "assistant", "content": "".join(said)})


class _Local:
    """An engine in this process."""

    def __init__(self, options: Options, rest: list[str]) -> None:
        from ramify.engine.engine import Engine

        self._engine = Engine.from_settings(engine_settings(rest, "ramify chat"))
        self.name = f"{self._engine.resolved.served_name}, in this process"
        self._params: dict[str, Any] = {"temperature": options.temperature, "sampling_seed": options.seed}
        self._longest = options.max_new_tokens

    def answer(self, messages: Messages) -> Iterator[str]:
        said = 0
        room = self._engine.room_after(messages)
        params = {**self._params, "max_new_tokens": min(self._longest, room)}
        for output in self._engine.chat(messages, params, stream=True):
            yield output["text"][said:]
            said = max(said, len(output["text"]))

    def close(self) -> None:
        self._engine.shutdown()


class _Remote:
    """A server that speaks OpenAI's API."""

    def __init__(self, options: Options, rest: list[str]) -> None:
        if rest:
            raise StartupError(f"{' '.join(rest)}: with --url the server decides about its model")
        self._url = (options.url or "").rstrip("/")
        self._options = options
        self._headers = {"Content-Type": "application/json"}
        if options.key:
            self._headers["Authorization"] = f"Bearer {options.key}"
        self._model = self._first_model()
        self.name = f"{self._model} at {self._url}"

    def _open(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers)
        try:
            return urllib.request.urlopen(request, timeout=600)
        except urllib.error.HTTPError as e:
            raise OSError(_reason(e)) from None

    def _first_model(self) -> str:
        try:
            with self._open("/v1/models") as answer:
                return json.load(answer)["data"][0]["id"]
        except (OSError, ValueError, KeyError, IndexError) as e:
            raise StartupError(
                f"{self._url} does not answer as a model server: {e}", "Is `ramify serve` running?"
            ) from None

    def answer(self, messages: Messages) -> Iterator[str]:
        body = {
            "model": self._model,
            "messages": messages,
            "stream": True,
            "max_tokens": self._options.max_new_tokens,
            "temperature": self._options.temperature,
            "seed": self._options.seed,
        }
        with self._open("/v1/chat/completions", body) as lines:
            for line in lines:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield from _content(json.loads(line[6:]))

    def close(self) -> None: ...


def _content(chunk: dict[str, Any]) -> Iterator[str]:
    if "error" in chunk:
        raise OSError(chunk["error"].get("message", "the server failed"))
    for choice in chunk["choices"]:
        if content := choice["delta"].get("content"):
            yield content


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
