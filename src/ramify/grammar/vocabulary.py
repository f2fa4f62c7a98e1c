"""What grammars know of a model's tokenizer: the bytes of every token, which are special, and canonical encoding."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as Backend

from ramify.core.errors import StartupError
from ramify.text.detokenize import is_byte_level
from ramify.text.tokenizer import Tokenizer

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Vocabulary:
    """`tokens[i]` are the bytes of token i, empty for ids without a token; there are as many as there are logits.

    `specials` are ids by text; such tokens never stand for their text. `eos` end a generation. `encode` gives the
    tokens of a text as they would stand in the middle of a longer one: nothing is put before it.
    """

    tokens: Sequence[bytes]
    specials: Mapping[str, int]
    eos: tuple[int, ...]
    encode: Callable[[str], list[int]]

    @property
    def size(self) -> int:
        return len(self.tokens)

    @property
    def words(self) -> int:
        """32-bit words of a mask over the vocabulary."""
        return -(-self.size // 32)

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        special = frozenset(self.specials.values())
        return {token: index for index, token in enumerate(self.tokens) if token and index not in special}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.tokens))

    def canonical(self, text: str) -> list[int]:
        """The tokens of a text, of which they are an exact spelling."""
        ids = self.encode(text)
        spelled = text.encode()
        if all(index < self.size for index in ids) and b"".join(self.tokens[index] for index in ids) == spelled:
            return ids
        return self._greedy(spelled)

    def _greedy(self, text: bytes) -> list[int]:
        """Longest match first, for a tokenizer that does not give back what it was given."""
        found, at = [], 0
        while at < len(text):
            ends = range(min(at + self._longest, len(text)), at, -1)
            end = next((end for end in ends if text[at:end] in self._ids), None)
            if end is None:
                return []
            found.append(self._ids[text[at:end]])
            at = end
        return found


def specials_of(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of special tokens by their text."""
    return {tokenizer.backend.id_to_token(index) or "": index for index in sorted(tokenizer.special)}


def vocabulary_of(tokenizer: Tokenizer, size: int, eos: Iterable[int]) -> Vocabulary:
    """For a model with `size` logits that ends with one of `eos`. Takes about a second for 150,000 tokens."""
    backend = tokenizer.backend
    ends = tuple(index for index in eos if index < size)
    if not ends:
        raise StartupError("constrained output needs a model that has an end-of-sequence token")
    if is_byte_level(backend):
        tokens = [tokenizer.token_bytes(index) for index in range(min(size, tokenizer.size))]
    else:
        tokens = [_piece(backend.id_to_token(index) or "") for index in range(min(size, tokenizer.size))]
    specials = specials_of(tokenizer) | {backend.id_to_token(index) or "": index for index in ends}
    specials = {text: index for text, index in specials.items() if index < len(tokens)}
    for text, index in specials.items():
        tokens[index] = text.encode()
    tokens += [b""] * (size - len(tokens))
    plain = _plain(backend)
    return Vocabulary(tokens, specials, ends, lambda text: plain.encode(text, add_special_tokens=False).ids)


def of_bytes(size: int, specials: Mapping[str, int], eos: tuple[int, ...]) -> Vocabulary:
    """A vocabulary of that size whose tokens are single bytes, besides the special ones."""
    tokens = [b""] * max(size, 256 + len(specials))
    for text, index in specials.items():
        tokens[index] = text.encode()
    places = (index for index, token in enumerate(tokens) if not token)
    ids = {byte: next(places) for byte in range(256)}
    for byte, index in ids.items():
        tokens[index] = bytes([byte])
    return Vocabulary(tokens, specials, eos, lambda text: [ids[byte] for byte in text.encode()])


def _piece(token: str) -> bytes:
    """A token of a SentencePiece vocabulary: a byte, or text with U+2581 for spaces."""
    byte = BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte.group(1), 16)]) if byte else token.replace("\u2581", " ").encode()


# -- encoding in the middle of a text --------------------------------------------------------------------------------


def _plain(backend: Backend) -> Backend:
    """The same tokenizer without what it puts before a text or changes in it."""
    spec = json.loads(backend.to_str())
    spec["normalizer"] = _kept(spec.get("normalizer"), "normalizers", _normalizer)
    spec["pre_tokenizer"] = _kept(spec.get("pre_tokenizer"), "pretokenizers", _pre_tokenizer)
    spec["truncation"] = spec["padding"] = None
    return Backend.from_str(json.dumps(spec))


def _kept(part: Any, members: str, keep: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Any:
    """A part of the tokenizer with `keep` applied to it, or to each member of a sequence."""
    if part is None:
        return None
    if part.get("type") != "Sequence":
        return keep(part)
    kept = [child for child in (_kept(member, members, keep) for member in part[members]) if child is not None]
    return part | {members: kept} if kept else None


def _normalizer(part: dict[str, Any]) -> dict[str, Any] | None:
    return part if part["type"] == "Replace" else None


def _pre_tokenizer(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "Metaspace":
        return {k: v for k, v in part.items() if k != "add_prefix_space"} | {"prepend_scheme": "never"}
    return part | {"add_prefix_space": False} if "add_prefix_space" in part else part
