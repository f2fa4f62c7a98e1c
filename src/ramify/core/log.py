"""Logging: one readable line on a terminal, one plain line elsewhere; the request's id is on every line about it."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
served_model: ContextVar[str] = ContextVar("served_model", default="")  # where a server has several

PLAIN = "%(asctime)s %(levelname).1s %(role)s%(request)s %(message)s"
MAX_LINE = 8192


class _Context(logging.Filter):
    """Adds the process's role and the request's id, and keeps one record to one line."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role

    def filter(self, record: logging.LogRecord) -> bool:
        record.role = self.role
        rid, model = request_id.get(), served_model.get()
        about = f" {printable(model)}" if model else ""
        record.request = f"{about} [{printable(rid)}]" if rid else about
        return True


class _OneLine(logging.Formatter):
    """Message text comes partly from requests: control characters must not be able to forge a second line."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if getattr(record, "is_json", False) else super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        whole = getattr(record, "is_whole", False)
        record.message = printable(record.message, len(record.message) if whole else MAX_LINE)
        return super().formatMessage(record)


JSON = {"is_json": True}  # `extra` of a record that is one line of ASCII already, and stands alone
WHOLE = {"is_whole": True}  # `extra` of a record that somebody asked to have uncut


def printable(text: str, longest: int = MAX_LINE) -> str:
    """`text` with control characters escaped and a length bound, safe for one line of log."""
    if len(text) > longest:
        text = text[:longest] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def setup(level: str = "info", role: str = "ramify") -> None:
    """Send records to stderr. Called once per process, by its entry point and nothing else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(PLAIN, datefmt="%H:%M:%S"))
    handler.addFilter(_Context(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "filelock", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Another level for this process, from now on."""
    logging.getLogger().setLevel(level.upper())


def get(name: str) -> logging.Logger:
    """The logger of a module; `name` is `__name__`."""
    return logging.getLogger(name)
