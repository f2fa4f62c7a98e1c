"""Server-sent events, as they come in: bytes cut anywhere, events out."""

from __future__ import annotations

from ramify.core.errors import RamifyError

BOM = b"\xef\xbb\xbf"
LONGEST = 64 << 20  # bytes of an event


class TooLong(RamifyError):
    """An event that does not end."""


class Events:
    """Takes a stream apart. Gives the `data` of each event; comments and other fields are passed over.

    Lines may end with LF, CRLF or CR, as the specification has it, and a piece may end anywhere, inside CRLF as well.
    Raises `TooLong` where an event grows beyond `longest` bytes.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._line = b""  # a line that has not ended
        self._data: list[bytes] = []  # lines of an event that has not ended
        self._after_cr = False  # a line feed now belongs to a line that has ended already
        self._started = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that end in this piece."""
        if not piece:
            return []
        if b"\r" in piece or self._after_cr:
            piece = self._line_feeds(piece)
        *lines, self._line = (self._line + piece).split(b"\n")
        if lines and not self._started:
            self._started = True
            lines[0] = lines[0].removeprefix(BOM)
        events = [event for line in lines if (event := self._take(line)) is not None]
        if len(self._line) + sum(map(len, self._data)) > self._longest:
            raise TooLong(f"an event of the stream is longer than {self._longest} bytes")
        return events

    def close(self) -> list[bytes]:
        """What the end of the stream leaves behind. The specification drops it; servers that forget the last blank
        line mean it.
        """
        last = self.feed(b"\n") if self._line else []
        event = self._take(b"")
        return [*last, event] if event is not None else last

    def _line_feeds(self, piece: bytes) -> bytes:
        ends_in_cr = piece.endswith(b"\r")
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        self._after_cr = ends_in_cr
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take(self, line: bytes) -> bytes | None:
        """A line that has ended; an event if it was the blank one after some data."""
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            self._data.append(b"")
        elif not line and self._data:
            event = b"\n".join(self._data)
            self._data.clear()
            return event
        return None
