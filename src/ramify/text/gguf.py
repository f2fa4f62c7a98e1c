"""The tokenizer in the metadata of a GGUF file: SentencePiece's BPE (`llama`), or BPE over bytes (`gpt2`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from ramify.config.gguf import read_header
from ramify.core.errors import StartupError

UNKNOWN, CONTROL, USER, UNUSED = 2, 3, 4, 5  # types of tokens
MOST_PIECE = 256  # characters of a token that merges are looked for in
MOST_TEMPLATE = 4 << 20
SPACE = "▁"
ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3, QWEN2 = WORDS + r"\p{N}{1,3}" + REST, WORDS + r"\p{N}" + REST


def _split(pattern: str) -> list[Any]:
    return [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def _gpt2() -> list[Any]:
    return [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]


# How text is cut before merging, by tokenizer.ggml.pre.
CUTS: dict[str, Callable[[], list[Any]]] = {
    **dict.fromkeys(("default", "gpt-2", "olmo", "phi-2", "jais"), _gpt2),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), lambda: _split(LLAMA3)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), lambda: _split(QWEN2)),
    "smollm": lambda: [pre_tokenizers.Digits(individual_digits=True), *_gpt2()],
}
WHOLE_FIRST = ("llama-bpe", "llama3", "llama-v3")  # a word that is a token is not merged
COMPOSED = ("qwen2", "deepseek-r1-qwen")  # NFC


@dataclass(frozen=True)
class Described:
    """What a file says: a tokenizer, what a tokenizer_config.json would, and the chat template."""

    backend: Backend
    config: dict[str, Any]
    template: str | None


def read_described(file: Path) -> Described:
    """Raises `StartupError` that names the field."""
    words = _Words(file)
    kinds = {"llama": _sentencepiece, "gpt2": _bytes}
    kind = words.text("model")
    if kind not in kinds:
        raise words.wrong("model", kind, f"one of {', '.join(kinds)}")
    try:
        backend = kinds[kind](words)
    except StartupError:
        raise
    except Exception as e:  # noqa: BLE001  (the library raises bare Exception)
        raise StartupError(f"{file}: the tokenizer cannot be made: {e}", BESIDE) from None
    backend.add_tokens(list(words.added()))
    _frame(backend, words, kind == "llama")
    config: dict[str, Any] = {
        name: words.tokens[at] for role, name in ROLES.items() if (at := words.id(role)) is not None
    }
    return Described(backend, {**config, "add_eos_token": words.flag("add_eos_token", False)}, words.template())


BESIDE = "Put a tokenizer.json beside the file, or name the folder of one with --tokenizer-path."


class _Words:
    """The metadata of a tokenizer, checked as it is taken."""

    def __init__(self, file: Path) -> None:
        self._file, self._metadata = file, read_header(file).metadata
        self.tokens = self._list("tokens", str)
        if len(set(self.tokens)) != len(self.tokens):
            raise StartupError(f"{file}: tokenizer.ggml.tokens names a token twice", BESIDE)
        self.types = self._list("token_type", int, len(self.tokens), 1)

    def wrong(self, key: str, value: Any, wanted: str) -> StartupError:
        return StartupError(f"{self._file}: tokenizer.ggml.{key} is {value!r:.80}, and should be {wanted}", BESIDE)

    def _list(self, key: str, kind: type, length: int | None = None, default: Any = None) -> list[Any]:
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is None and default is not None:
            return [default] * (length or 0)
        if not isinstance(value, list) or not value or not isinstance(value[0], kind):
            raise self.wrong(key, value, f"a list of {kind.__name__}")
        if length is not None and len(value) != length:
            raise self.wrong(key, f"a list of {len(value)}", f"as long as tokens, {length}")
        return value

    def scores(self) -> list[float]:
        return self._list("scores", float, len(self.tokens), 0.0)

    def merges(self) -> list[tuple[str, str]]:
        pairs = [tuple(pair.split(" ")) for pair in self._list("merges", str)]
        if not all(len(pair) == 2 for pair in pairs):
            raise self.wrong("merges", "a list", "pairs with a space between them")
        return pairs

    def text(self, key: str, default: str | None = None) -> str:
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if not isinstance(value, str):
            raise self.wrong(key, value, "a text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def id(self, role: str) -> int | None:
        value = self._metadata.get(f"tokenizer.ggml.{role}_token_id")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(self.tokens):
            raise self.wrong(f"{role}_token_id", value, f"one of {len(self.tokens)} tokens")
        return value

    def added(self) -> Iterator[AddedToken]:
        """Tokens that are found in text before anything is merged."""
        for token, kind in zip(self.tokens, self.types, strict=True):
            if kind in (UNKNOWN, CONTROL, USER) and token:
                yield AddedToken(token, special=kind != USER, normalized=False)

    def template(self) -> str | None:
        found = self._metadata.get("tokenizer.chat_template")
        if found is not None and (not isinstance(found, str) or len(found) > MOST_TEMPLATE):
            raise StartupError(f"{self._file}: tokenizer.chat_template is no text, or over {MOST_TEMPLATE >> 20} MiB")
        return found


def _sentencepiece(words: _Words) -> Backend:
    vocabulary = {token: at for at, token in enumerate(words.tokens)}
    unknown = words.id("unknown")
    model = BPE(
        vocabulary,
        _merges(words, vocabulary),
        unk_token=None if unknown is None else words.tokens[unknown],
        fuse_unk=True,
        byte_fallback="<0x00>" in vocabulary,
    )
    backend, first = Backend(model), words.flag("add_space_prefix", True)
    prepend = [normalizers.Prepend(SPACE)] if first else []
    backend.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if first else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return backend


def _merges(words: _Words, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a token of two, the best token first."""
    scores, found = words.scores(), []
    numbered = [
        (at, token)
        for at, token in enumerate(words.tokens)
        if words.types[at] not in (UNKNOWN, CONTROL, UNUSED) and len(token) <= MOST_PIECE
    ]
    if min(scores) == max(scores):
        return _replayed([token for _, token in numbered])
    for at, token in numbered:
        for cut in range(1, len(token)):
            left, right = vocabulary.get(token[:cut]), vocabulary.get(token[cut:])
            if left is not None and right is not None:
                found.append((-scores[at], at, left, right))
    return [(words.tokens[left], words.tokens[right]) for _, _, left, right in sorted(found)]


def _replayed(tokens: list[str]) -> list[tuple[str, str]]:
    """Merges of a vocabulary whose scores say nothing, because it was converted from merges: its order is theirs. A
    token is made of the two pieces that are left of it when all before it have been merged.
    """
    ranks: dict[tuple[str, str], int] = {}
    for token in tokens:
        pieces = list(token)
        while len(pieces) > 2:
            best = min(range(len(pieces) - 1), key=lambda k: ranks.get((pieces[k], pieces[k + 1]), len(ranks)))
            if (pieces[best], pieces[best + 1]) not in ranks:
                break
            pieces[best : best + 2] = ["".join(pieces[best : best + 2])]
        if len(pieces) == 2:
            ranks.setdefault((pieces[0], pieces[1]), len(ranks))
    return list(ranks)


def _bytes(words: _Words) -> Backend:
    vocabulary = {token: at for at, token in enumerate(words.tokens)}
    pre = words.text("pre", "default")
    if pre not in CUTS:
        raise words.wrong("pre", pre, f"one of {', '.join(CUTS)}")
    backend = Backend(BPE(vocabulary, words.merges(), ignore_merges=pre in WHOLE_FIRST))
    if pre in COMPOSED:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(CUTS[pre]())
    backend.decoder = decoders.ByteLevel()
    return backend


def _frame(backend: Backend, words: _Words, by_default: bool) -> None:
    """What stands before and behind a whole text."""
    first = words.id("bos") if words.flag("add_bos_token", by_default) else None
    last = words.id("eos") if words.flag("add_eos_token", False) else None
    frame = [(words.tokens[at], at) for at in (first, last) if at is not None]
    if frame:
        before, behind = ([] if at is None else [words.tokens[at]] for at in (first, last))
        backend.post_processor = processors.TemplateProcessing(
            single=[*before, "$0", *behind], special_tokens=list(dict.fromkeys(frame))
        )
