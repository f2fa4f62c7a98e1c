"""One tool call while it is read."""

from __future__ import annotations

from collections.abc import Callable

from ramify.text.tools.events import CallArguments, CallEnd, CallStart, Event
from ramify.text.tools.signatures import Signatures


class Call:
    """Collects name, id and arguments, and announces the call as soon as it is certain to be one.

    Certain is: its name is that of a tool, and of its arguments more than the opening brace has been read. What comes
    before can still turn out to be text; what comes after is a call, however it ends.
    """

    def __init__(
        self, signatures: Signatures, announce: Callable[[Call], CallStart], say: Callable[[Event], None]
    ) -> None:
        self.signatures = signatures
        self.name = ""
        self.id = ""
        self.complete = False
        self._announce = announce
        self._say = say
        self._start: CallStart | None = None
        self._pending: list[str] = []

    @property
    def announced(self) -> bool:
        return self._start is not None

    def named(self, name: str) -> bool:
        """Give it its name; false if there is no such tool."""
        if name not in self.signatures:
            return False
        self.name = name
        self._flush()
        return True

    def types(self, parameter: str) -> frozenset[str]:
        return self.signatures.types(self.name, parameter)

    def write(self, json: str) -> None:
        """The next piece of the arguments."""
        self._pending.append(json)
        if self._start is not None or json.strip("{ \t\r\n"):
            self._flush()

    def _flush(self) -> None:
        if self._start is None:
            if not self.name or not any(piece.strip("{ \t\r\n") for piece in self._pending):
                return
            self._start = self._announce(self)
            self._say(self._start)
        self._say(CallArguments(self._start.index, "".join(self._pending)))
        self._pending.clear()

    def end(self, offset: int) -> None:
        if self._start is not None:
            self._say(CallEnd(self._start.index, self.complete, offset))
