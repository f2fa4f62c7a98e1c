"""Token ids to text, a token at a time, so that the pieces add up to the text of the whole.

Byte-level vocabularies map each token to bytes: the pieces are exact and a character that is cut by a token boundary
waits for its other half. For all others a window of tokens is decoded with and without the new one, as their decoders
look at neighbours.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from tokenizers import Tokenizer as Backend

REPLACEMENT = "\ufffd"
SPACE = "\u2581"
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
CONTEXT = 5  # tokens of the prompt that a window decoder sees before the first output


class Detokenizer(Protocol):
    """Of one generation."""

    def step(self, token: int) -> str:
        """What can be said for certain after this token; may be empty."""

    def flush(self) -> str:
        """What was held back, with broken characters replaced."""


class ByteTable:
    """The bytes of every token of a byte-level vocabulary. Shared by all generations."""

    def __init__(self, backend: Backend) -> None:
        self.bytes = [b""] * backend.get_vocab_size(with_added_tokens=True)
        table = {character: byte for byte, character in _byte_characters().items()}
        for token, index in backend.get_vocab(with_added_tokens=True).items():
            if index < len(self.bytes):
                self.bytes[index] = _bytes_of(token, table)

    def of(self, token: int) -> bytes:
        """Empty for an id that the vocabulary has no token for (models pad their embeddings)."""
        return self.bytes[token] if token < len(self.bytes) else b""


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-ins: a byte that is a printable Latin-1 character stands for itself, the others follow
    from U+0100 on.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}


def _bytes_of(token: str, table: dict[str, int]) -> bytes:
    """As the `ByteLevel` decoder has it: a token with a character that stands for no byte is text."""
    try:
        return bytes(table[character] for character in token)
    except KeyError:
        return token.encode()


def is_byte_level(backend: Backend) -> bool:
    """True where decoding is nothing but the concatenation of bytes."""
    return any(part.get("type") == "ByteLevel" for part in _decoder(backend)[:1])


def has_pieces(backend: Backend) -> bool:
    """True for vocabularies of SentencePiece, in which U+2581 is a space and `<0x0A>` a byte."""
    replaced = [part.get("pattern") for part in _decoder(backend) if part.get("type") == "Replace"]
    return {"String": SPACE} in replaced or any(part.get("type") == "Metaspace" for part in _decoder(backend))


def _decoder(backend: Backend) -> list[dict[str, Any]]:
    """The decoder's parts in order."""
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    return decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]


def piece_bytes(piece: str) -> bytes:
    """What a piece of such a vocabulary stands for."""
    byte = BYTE_PIECE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE, " ").encode()


class ByteDetokenizer:
    """Tokens in `skip` are no text."""

    def __init__(self, table: ByteTable, skip: frozenset[int]) -> None:
        self._table = table
        self._skip = skip
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def step(self, token: int) -> str:
        return "" if token in self._skip else self._decoder.decode(self._table.of(token))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """Decodes a few tokens of context with and without what is new; the difference is the new text. Tokens in `skip`
    are none.
    """

    def __init__(self, backend: Backend, skip: frozenset[int], prompt: Sequence[int]) -> None:
        self._backend = backend
        self._skip = skip
        self._ids = [token for token in prompt[-CONTEXT:] if token not in skip]
        self._from = 0  # first token of the window
        self._said = len(self._ids)  # tokens whose text has been given out

    def step(self, token: int) -> str:
        if token in self._skip:
            return ""
        self._ids.append(token)
        return self._advance(final=False)

    def flush(self) -> str:
        return self._advance(final=True)

    def _advance(self, final: bool) -> str:
        known = self._decode(self._from, self._said)
        text = self._decode(self._from, len(self._ids))
        if len(text) <= len(known) or (text.endswith(REPLACEMENT) and not final):
            return ""
        self._from, self._said = self._said, len(self._ids)
        if self._from > 4 * CONTEXT:
            del self._ids[: self._from]
            self._said -= self._from
            self._from = 0
        return text[len(known) :]

    def _decode(self, first: int, last: int) -> str:
        return self._backend.decode(self._ids[first:last], skip_special_tokens=False)


class Offsets:
    """Where the text of each token begins, in characters; a token without text stands where the next one begins. The
    first token stands at `start`; `end` is where the next one will.
    """

    def __init__(self, detokenizer: Detokenizer, start: int = 0) -> None:
        self._detokenizer = detokenizer
        self.end = start

    def of(self, tokens: Iterable[int]) -> list[int]:
        """Of the tokens that come next."""
        found = []
        for token in tokens:
            found.append(self.end)
            self.end += len(self._detokenizer.step(token))
        return found
