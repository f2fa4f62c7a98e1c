"""A model's tokenizer: text to ids and back, and what its folder says about special tokens and chat templates."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from ramify.config.gguf import is_gguf
from ramify.config.model import read_json
from ramify.core.errors import StartupError
from ramify.text.detokenize import (
    ByteDetokenizer,
    ByteTable,
    Detokenizer,
    WindowDetokenizer,
    has_pieces,
    is_byte_level,
    piece_bytes,
)
from ramify.text.gguf import read_described
from ramify.text.template import ChatTemplate

log = logging.getLogger(__name__)

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
MAX_TEMPLATE_BYTES = 4 << 20
SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


class Tokenizer:
    """Shared by all requests of a process; methods may be called from any thread.

    `names` are the special tokens by role (`bos_token`, ...), which chat templates use.
    """

    def __init__(self, backend: Backend, config: dict[str, Any], chat_template: str | None) -> None:
        self.backend = backend
        self.chat_template = chat_template
        self.names = special_names(config)
        self.size = backend.get_vocab_size(with_added_tokens=True)
        added = backend.get_added_tokens_decoder()
        self.bos = backend.token_to_id(self.names["bos_token"]) if "bos_token" in self.names else None
        ends = config.get("add_eos_token") is True and "eos_token" in self.names
        self.eos_behind = backend.token_to_id(self.names["eos_token"]) if ends else None  # of a text that is embedded
        self.special = frozenset(index for index, token in added.items() if token.special)
        self._table = ByteTable(backend) if is_byte_level(backend) else None
        self._has_pieces = has_pieces(backend)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids; with `add_special_tokens`, framed as the tokenizer frames a whole text (BOS and the like)."""
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        return [found.ids for found in self.backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)]

    @cached_property
    def specials(self) -> dict[str, int]:
        """The ids of control tokens by their spellings."""
        return {text: token for token in sorted(self.special) if (text := self.backend.id_to_token(token))}

    @property
    def control(self) -> tuple[str, ...]:
        """The spellings of control tokens."""
        return tuple(self.specials)

    @cached_property
    def _skipped(self) -> frozenset[int]:
        """What the library skips as special. Not always all that is: it may know the token as a common one too."""
        return frozenset(token for token in self.special if not self.backend.decode([token], skip_special_tokens=True))

    def encode_as_text(self, text: str) -> list[int]:
        """Token ids of text in which control tokens are nothing but their characters."""
        return self._as_text.encode(text, add_special_tokens=False).ids

    @cached_property
    def _as_text(self) -> Backend:
        backend = Backend.from_str(self.backend.to_str())
        backend.encode_special_tokens = True
        return backend

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def detokenizer(
        self, skip_special_tokens: bool, prompt: Sequence[int], keep: frozenset[int] = frozenset()
    ) -> Detokenizer:
        """For one generation; some decoders need the end of its prompt to place spaces. Special tokens in `keep` are
        text all the same.
        """
        skip = self._skipped - keep if skip_special_tokens else frozenset()
        if self._table is not None:
            return ByteDetokenizer(self._table, skip)
        return WindowDetokenizer(self.backend, skip, prompt)

    def token_text(self, token: int) -> str:
        """The text of one token as it stands within a text, special ones spelled out."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, which need not be whole characters."""
        if self._table is not None:
            return self._table.of(token)
        if self._has_pieces and token not in self.special:
            return piece_bytes(self.backend.id_to_token(token) or "")
        return self.backend.decode([token], skip_special_tokens=False).encode()


def load_tokenizer(folder: Path, chat_template: str | None = None) -> Tokenizer:
    """From `tokenizer.json`, or through transformers where there is none; of a GGUF file from its metadata, or from
    what stands beside it. `chat_template`: a file to use instead.
    """
    if is_gguf(folder):
        return _described(folder, chat_template)
    config, template = _read_config(folder, chat_template)
    if (folder / FILE).is_file():
        return Tokenizer(_read_backend(folder / FILE), config, template)
    from ramify.text.fallback import load_backend

    return Tokenizer(load_backend(folder), config, template)


def load_beside(folder: Path, common: Tokenizer, common_folder: Path, chat_template: str | None = None) -> Tokenizer:
    """Of a folder that was trained over a model with the tokenizer `common`, whose vocabulary is shared where it is the
    same: large ones take 100 MB. What the folder does not say, the model does.
    """
    config, template = _read_config(folder, chat_template)
    own, shared = folder / FILE, common_folder / FILE
    if own.is_file() and not (shared.is_file() and own.read_bytes() == shared.read_bytes()):
        made = Tokenizer(_read_backend(own), config, template)
    else:
        made = copy.copy(common)
    made.chat_template = template if chat_template is None and template is not None else common.chat_template
    made.names = common.names | special_names(config)
    return made


def check_tokenizer(folder: Path, chat_template: str | None = None) -> None:
    """Raises `StartupError` for what would fail later; a tokenizer that has to be converted is not tried, since that
    imports torch.
    """
    if is_gguf(folder):
        made = _described(folder, chat_template)
        template, names = made.chat_template, made.names
    else:
        config, template = _read_config(folder, chat_template)
        names = special_names(config)
        if (folder / FILE).is_file():
            Tokenizer(_read_backend(folder / FILE), config, template)
    if template is not None:
        ChatTemplate(template, names)


def _described(file: Path, chat_template: str | None) -> Tokenizer:
    try:
        found = read_described(file)
    except StartupError:
        if not (file.parent / FILE).is_file():
            raise
        log.warning("the tokenizer of %s cannot be used: taking the one beside it", file.name)
        return load_tokenizer(file.parent, chat_template)
    template = _read_template(template_file(chat_template)) if chat_template else found.template
    return Tokenizer(found.backend, found.config, template)


def _read_config(folder: Path, chat_template: str | None) -> tuple[dict[str, Any], str | None]:
    """What the folder says of special tokens, and the chat template."""
    file = folder / CONFIG
    config = read_json(file, "a tokenizer config") if file.is_file() else {}
    return config, _read_template(template_file(chat_template)) if chat_template else find_template(folder, config)


def template_file(asked: str) -> Path:
    """What --chat-template names: a template that comes with ramify, or a file."""
    ours = {path.stem: path for path in Path(__file__).with_name("templates").glob("*.jinja")}
    return ours.get(asked, Path(asked))


def _read_backend(file: Path) -> Backend:
    try:
        backend = Backend.from_file(str(file))
    except Exception as e:  # noqa: BLE001  (the library raises bare Exception)
        raise StartupError(f"{file} cannot be read: {e}", "Copy or download it again.") from None
    backend.no_truncation()
    backend.no_padding()
    return backend


def find_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, or in the config, where several may have names."""
    if (folder / "chat_template.jinja").is_file():
        return _read_template(folder / "chat_template.jinja")
    if (folder / "chat_template.json").is_file():
        found = read_json(folder / "chat_template.json", "a chat template")
        return _text_of(found.get("chat_template"), "chat_template.json: chat_template")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {str(entry.get("name")): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default") or next(iter(named.values()), None)
    return None if template is None else _text_of(template, f"{CONFIG}: chat_template")


def _read_template(path: Path) -> str:
    if path.stat().st_size > MAX_TEMPLATE_BYTES:
        raise StartupError(f"the chat template {path} is over {MAX_TEMPLATE_BYTES >> 20} MiB")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise StartupError(f"the chat template {path} cannot be read: {e}") from None


def special_names(config: dict[str, Any]) -> dict[str, str]:
    """Special tokens by role, from a tokenizer's config."""
    return {name: _content(config[name], name) for name in SPECIAL_NAMES if config.get(name) is not None}


def _content(token: Any, name: str) -> str:
    return _text_of(token.get("content") if isinstance(token, dict) else token, f"{CONFIG}: {name}")


def _text_of(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise StartupError(f"{where} should be a text and is {value!r:.100}", "Copy or download it again.")
    return value
