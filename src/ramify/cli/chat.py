"""`ramify chat`: talk to a model in the terminal, in this process or on a running server."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from ramify.cli.command import option, read, settings_beside
from ramify.cli.line import Line
from ramify.config.settings import MANY, Range
from ramify.core.errors import StartupError, UsageError, UserError

HELP = """\
/exit      leave (also Ctrl-D)        /reset     forget the conversation
/system T  set the system prompt      /undo      take the last exchange back
/help      this text                  //...      say something that begins with a slash
Ctrl-C stops an answer."""
USAGE = "ramify chat [MODEL] [options]"
WORDS = (("MODEL", "Folder or hub id of a model (org/model). Without it the bundled demo model."),)


@dataclass(frozen=True)
class Options:
    """Talk to a model in the terminal."""

    url: str | None = option(None, "A running server, like http://127.0.0.1:30000; without it a model here.")
    key: str | None = option(None, "The server's API key.")
    system: str | None = option(None, "System prompt.")
    max_new_tokens: int = option(512, "Longest answer in tokens.", Range(1, MANY))
    temperature: float = option(0.7, "0 always takes the best token.", Range(0, 1e6))
    seed: int | None = option(None, "The same seed gives the same answers.", Range(-(2**63), 2**63 - 1))


Messages = list[dict[str, str]]


class Partner(Protocol):
    """Who answers."""

    name: str

    def answer(self, messages: Messages) -> Iterator[str]:
        """The answer, piece by piece. Closing the iterator early stops it."""

    def close(self) -> None: ...


def chat(arguments: list[str]) -> int:
    options, line = read(Options, arguments, USAGE, WORDS)
    partner: Partner = _Remote(options, line) if options.url else _Local(options, line)
    try:
        return _converse(partner, options.system)
    finally:
        partner.close()


def _converse(partner: Partner, system: str | None) -> int:
    """Until the end. A script whose question failed should know: its exit status is 1."""
    talk = _Talk(partner)
    if system:
        talk.history = _beginning(system)
    interactive = sys.stdin.isatty()
    if interactive:
        _edit_lines()
        print(f"{partner.name}. /help for commands.\n")
    while (line := _read(interactive)) is not None and line != "/exit":
        if line:
            talk.hear(line)
    return 1 if talk.failures and not interactive else 0


@dataclass
class _Talk:
    """A conversation: what was said, and commands about it."""

    partner: Partner
    history: Messages = field(default_factory=list)
    failures: int = 0

    def hear(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if not re.fullmatch(r"/\w*", command):
            _exchange(self, line[1:] if line.startswith("//") else line)
            return
        commands: dict[str, Callable[[str], str]] = {
            "/reset": self._reset,
            "/undo": self._undo,
            "/system": self._system,
            "/help": lambda _: HELP,
        }
        known = commands.get(command)
        print(known(rest) if known else f"[there is no command {command}; /help lists them]")

    def _reset(self, _: str) -> str:
        self.history = [m for m in self.history if m["role"] == "system"]
        return "[forgotten]"

    def _undo(self, _: str) -> str:
        if not self.history or self.history[-1]["role"] == "system":
            return "[there is nothing to take back]"
        question = self.history[-2]["content"]
        del self.history[-2:]
        return f"[taken back: {question}]"

    def _system(self, text: str) -> str:
        self.history = _beginning(text) + [m for m in self.history if m["role"] != "system"]
        return "[system prompt set]" if text else "[no system prompt]"


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


def _exchange(talk: _Talk, line: str) -> None:
    """One question and its answer; a question that fails is taken back."""
    history = talk.history
    history.append({"role": "user", "content": line})
    said: list[str] = []
    pieces = talk.partner.answer(history)
    try:
        for piece in pieces:
            said.append(piece)
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    except (UserError, OSError) as e:
        print(f"[{getattr(e, 'message', e)}]")
        history.pop()
        talk.failures += 1
        return
    finally:
        pieces.close()  # type: ignore[attr-defined]
    print("\n")
    history.append({"role": "assistant", "content": "".join(said)})


class _Local:
    """An engine in this process."""

    def __init__(self, options: Options, line: Line) -> None:
        from ramify.engine.engine import Engine

        self._engine = Engine.from_settings(settings_beside(line))
        if not self._engine.has_chat_template:
            name = self._engine.resolved.served_name
            self._engine.shutdown()
            raise StartupError(
                f"{name} has no chat template: it is a base model, which continues texts",
                "Use `ramify generate`, or give a --chat-template FILE.",
            )
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

    def __init__(self, options: Options, line: Line) -> None:
        own = {each.name for each in dataclasses.fields(Options)}
        if rest := line.words + [spelled for name, spelled in line.spelled.items() if name not in own]:
            raise UsageError(f"{' '.join(rest)}: with --url the server decides about its model")
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
