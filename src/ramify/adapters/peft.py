"""Low-rank adapters as PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.

A.lora_A.weight [r, D]         A.lora_B.weight [E, r]         of a linear A
A.lora_embedding_A [r, V]      A.lora_embedding_B [H, r]      of an embedding A
A.lora_A.weight [G r, D]       A.lora_B.weight [E, r G]       of all G experts A, one of their two tensors
A.base_layer.lora_A.weight     A.base_layer.lora_B.weight     of the other
A.weight [V, H]                                               of an embedding or a head A, trained as a whole
A.modules_to_save.weight [V, H]                               the same once more
A.token_adapter.trainable_tokens_delta [N, H]                 the rows of N tokens of such an A
A.base_layer.weight [V, H]                                    what stood below the pair of such an A when it was saved,
A.token_adapter.base_layer.weight, A.original_module.weight   below the rows of tokens, and before it was trained

Names begin with `base_model.model.`, behind which a module is called as in the checkpoint of the base model. Files come
from anybody: nothing is computed with before every size is checked, and pickled ones are refused.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ramify.adapters.config import FILE, MAX_CONFIG, MAX_RANK, PeftConfig, read_config
from ramify.config.adapters import ALL
from ramify.core.errors import BadRequest, NotFound, StartupError
from ramify.weights.checkpoint import TensorInfo, read_header

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "adapter_model.safetensors"
PICKLED = ("adapter_model.bin", "adapter_model.pt")
ADDED = "added_tokens.json"
PREFIX = "base_model.model."
TYPES = ("F32", "F16", "BF16")
MAX_TENSORS = 1 << 20
MAX_ADDED = 65536  # tokens
MAX_TOKEN = 1024  # characters
SCORES = ("classifier", "score")  # PEFT names both where a model gives scores, which has one of them
WHOLE = ("score", "embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "output_layer")
PAIR = re.compile(r"(.+)\.lora_([AB])\.weight")
EMBEDDING = re.compile(r"(.+)\.lora_embedding_([AB])")
TOKENS = re.compile(r"(.+)\.token_adapter\.trainable_tokens_delta")
BELOW = re.compile(r"(.+?)(?:(?:\.token_adapter)?\.base_layer|\.original_module)\.weight")
ALONE = re.compile(r"(.+?)(?:\.modules_to_save)?\.weight")


@dataclass(frozen=True)
class Limits:
    """`size` in bytes, of the weights."""

    rank: int
    size: int = 4 << 30


class Pair(NamedTuple):
    """y += scale (x down') up'. Of an embedding x says which token it is: a one, and zeros."""

    down_RD: Tensor
    up_ER: Tensor
    scale: float


class Stack(NamedTuple):
    """Pairs of all experts, of a rank, in one: expert g has rows g r to (g + 1) r of the first, and of the second every
    G-th column from g on.
    """

    down_SD: Tensor
    up_ES: Tensor
    scale: float
    rank: int

    def pair(self, group: int, groups: int) -> Pair:
        down_RD = self.down_SD[group * self.rank : (group + 1) * self.rank]
        return Pair(down_RD, self.up_ES[:, group::groups], self.scale)


class Rows(NamedTuple):
    """Rows of an embedding or a head that were trained, by token."""

    ids: tuple[int, ...]
    rows_ND: Tensor


@dataclass(frozen=True)
class AdapterFile:
    """What a checkpoint holds, by modules as that of the base model names them. Tensors are as they were stored.

    `whole` are embeddings and heads that were trained as a whole; `tokens` rows of such; `bases` what stood below pairs
    of such, which is the base model's own and may have grown by rows for added tokens; `stacks` are of experts, by the
    module of all of them; `added` are ids of tokens by their text.
    """

    name: str
    rank: int  # the largest
    alpha: float  # where no pattern says another
    targets: tuple[str, ...]  # last parts of names of modules, sorted
    tensors: Mapping[str, Pair]
    embeddings: Mapping[str, Pair] = field(default_factory=dict)
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    bases: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: Mapping[str, Rows] = field(default_factory=dict)
    stacks: Mapping[str, tuple[Stack, ...]] = field(default_factory=dict)
    added: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        pairs = [pair[:2] for pair in (*self.tensors.values(), *self.embeddings.values())]
        pairs += [stack[:2] for some in self.stacks.values() for stack in some]
        alone = (*self.whole.values(), *self.bases.values(), *(rows.rows_ND for rows in self.tokens.values()))
        return sum(tensor.nbytes for tensor in (*(side for pair in pairs for side in pair), *alone))


class Outline(NamedTuple):
    """What an adapter will need room for: its highest rank, the last words of what it adapts (all, where they are an
    expression) and of what it has as a whole, and how many tokens have rows of their own.
    """

    rank: int
    targets: tuple[str, ...]
    whole: tuple[str, ...]
    tokens: int


def outline(path: Path, vocab: int) -> Outline:
    """Of the adapter in a folder, for a model of `vocab` tokens, without its weights. Raises `UserError`, `OSError`."""
    with (path / FILE).open("rb") as stream:
        config = read_config(stream.read(MAX_CONFIG))
    listed = config.target_modules if isinstance(config.target_modules, list) else [ALL]
    listed = [*listed, *(config.target_parameters or ())]
    sorted_out = _SortedOut(config, Limits(MAX_RANK))
    for key, info in _header_of(path / WEIGHTS).items():
        sorted_out.take(key, info)
    grown = [info.shape[0] - vocab for info in sorted_out.of_vocabulary()]
    trained = [sorted_out.infos[key].shape[0] for key in sorted_out.tokens.values()]
    return Outline(
        max(config.r, *(config.rank_pattern or {}).values(), 0),
        tuple(_last(name) for name in listed),
        tuple(sorted({_last(module) for module in sorted_out.whole})),
        max([0, *grown]) + max([0, *trained]),
    )


def _header_of(file: Path) -> dict[str, TensorInfo]:
    """Empty where there is none: who reads the adapter says so."""
    if not file.is_file():
        return {}
    with file.open("rb") as stream:
        return read_header(stream, file.stat().st_size, file)


def read(name: str, path: Path, limits: Limits) -> AdapterFile:
    """The adapter in a folder. Raises `UserError` with the file and the field that is wrong."""
    if not path.is_dir():
        raise NotFound(f"there is no adapter folder {path}", param="lora_path")
    if not (path / WEIGHTS).is_file() and (pickled := [each for each in PICKLED if (path / each).exists()]):
        raise BadRequest(
            f"the adapter has only pickled weights ({pickled[0]}), which ramify does not load: save it again with "
            "safe_serialization=True",
            param="lora_path",
        )
    config = read_config(_read(path / FILE, MAX_CONFIG))
    added = _read(path / ADDED, MAX_CONFIG) if (path / ADDED).exists() else b"{}"
    return _assembled(name, config, _read(path / WEIGHTS, limits.size), _parsed(added), limits)


def from_tensors(
    name: str, config: dict[str, Any], weights: bytes, limits: Limits, added: dict[str, Any] | None = None
) -> AdapterFile:
    """The same of a config and the contents of a safetensors file."""
    if len(weights) > limits.size:
        raise BadRequest(f"{WEIGHTS} has over {limits.size} bytes", param="serialized_named_tensors")
    return _assembled(name, read_config(config), weights, added or {}, limits)


def _read(file: Path, most: int) -> bytes:
    """A regular file, at once: it may change while it is read, and is then found damaged."""
    if not file.is_file():
        raise BadRequest(f"the adapter has no {file.name}", param="lora_path")
    with open(file, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as f:
        content = f.read(most + 1)
    if len(content) > most:
        raise BadRequest(f"{file.name} has over {most} bytes", param=file.name)
    return content


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        given = json.loads(raw)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise BadRequest(f"{ADDED} is damaged: it should be an object in JSON", param=ADDED)
    return given


def _assembled(name: str, config: PeftConfig, weights: bytes, added: dict[str, Any], limits: Limits) -> AdapterFile:
    sorted_out = _SortedOut(config, limits)
    for key, info in _header(weights).items():
        sorted_out.take(key, info)
    sorted_out.check()
    tensors = _tensors(weights)
    return AdapterFile(
        name,
        sorted_out.rank,
        config.lora_alpha,
        tuple(sorted({module.rpartition(".")[2] for module in (*sorted_out.pairs, *sorted_out.embeddings)})),
        {module: _pair(sides, tensors, config.scale_of(module)) for module, sides in sorted_out.pairs.items()},
        {module: _pair(sides, tensors, config.scale_of(module)) for module, sides in sorted_out.embeddings.items()},
        {module: tensors[key] for module, key in sorted_out.whole.items()},
        {module: tensors[key] for module, key in sorted_out.bases.items()},
        {module: Rows(tuple(config.tokens_of(module)), tensors[key]) for module, key in sorted_out.tokens.items()},
        sorted_out.stacked(tensors),
        _checked_tokens(added),
    )


def _header(weights: bytes) -> dict[str, TensorInfo]:
    try:
        found = read_header(io.BytesIO(weights), len(weights), Path(WEIGHTS))
    except StartupError as e:
        raise BadRequest(e.cause, param=WEIGHTS) from None
    if not 0 < len(found) <= MAX_TENSORS:
        raise BadRequest(f"{WEIGHTS} has {len(found)} tensors, not 1 to {MAX_TENSORS}", param=WEIGHTS)
    return found


def _tensors(weights: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(weights)
    except SafetensorError as e:
        raise BadRequest(f"{WEIGHTS} is damaged: {e}", param=WEIGHTS) from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise BadRequest(f"{WEIGHTS}: {name} has numbers that are not finite", param=name)
    return tensors


def _pair(sides: dict[str, str], tensors: dict[str, Tensor], scale: float) -> Pair:
    return Pair(tensors[sides["A"]], tensors[sides["B"]], scale)


class _SortedOut:
    """Which tensor is what, by module: names of both sides of pairs, and of what is whole."""

    def __init__(self, config: PeftConfig, limits: Limits) -> None:
        self._config, self._limits = config, limits
        self.infos: dict[str, TensorInfo] = {}
        self.rank = 0
        self.pairs: dict[str, dict[str, str]] = {}
        self.embeddings: dict[str, dict[str, str]] = {}
        self.whole: dict[str, str] = {}
        self.bases: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.stacks: dict[str, dict[str, str]] = {}  # with what stands before a pair's name: see `stacked`

    def take(self, key: str, info: TensorInfo) -> None:
        self.infos[key] = info
        if info.dtype not in TYPES:
            raise _wrong(key, f"has the type {info.dtype}, not one of {', '.join(TYPES)}")
        if len(info.shape) != 2 or 0 in info.shape:
            raise _wrong(key, f"has the shape {list(info.shape)}, not two dimensions above 0")
        name = key.removeprefix(PREFIX)
        if match := PAIR.fullmatch(name):
            self._side(key, match, self.pairs)
        elif match := EMBEDDING.fullmatch(name):
            self._side(key, match, self.embeddings)
        elif (match := TOKENS.fullmatch(name)) and _has_vocabulary(match[1]):
            self._rows(key, match[1])
        elif (match := BELOW.fullmatch(name)) and _has_vocabulary(match[1]):
            self.bases[match[1]] = key
        elif (match := ALONE.fullmatch(name)) and _has_vocabulary(match[1]):
            self.whole[match[1]] = key
        else:
            raise _wrong(key, "is no part of a low-rank adapter, of an embedding or of a head")

    def _rows(self, key: str, module: str) -> None:
        tokens, rows = self._config.tokens_of(module), self.infos[key].shape[0]
        if rows != len(tokens) or len(set(tokens)) != len(tokens):
            raise _wrong(key, f"has {rows} rows, and {FILE} names {len(set(tokens))} tokens (trainable_token_indices)")
        self.tokens[module] = key

    def _side(self, key: str, match: re.Match[str], into: dict[str, dict[str, str]]) -> None:
        module, side = match[1], match[2]
        if self._config.parameters_of(_bare(module)):
            self.stacks.setdefault(module, {})[side] = key
            self.rank = max(self.rank, self._rank_of_stack(_bare(module)))
            return
        if not self._config.adapts(module):
            raise _wrong(key, f"is of a module that target_modules in {FILE} does not name")
        rank, told = self.infos[key].shape[side == "B"], self._config.rank_of(module)
        if rank != told:
            raise _wrong(key, f"has rank {rank}, and {FILE} says {told}")
        if rank > self._limits.rank:
            raise BadRequest(f"the adapter has rank {rank}; the server takes up to {self._limits.rank}", param="r")
        self.rank = max(self.rank, rank)
        into.setdefault(module, {})[side] = key

    def _rank_of_stack(self, module: str) -> int:
        """The same of both tensors: which is which is not said."""
        names = self._config.parameters_of(module)
        ranks, scales = {self._config.rank_of(name) for name in names}, {self._config.scale_of(name) for name in names}
        if len(ranks) > 1 or len(scales) > 1:
            raise BadRequest(f"{FILE}: tensors of {module} have different ranks or scales", param="rank_pattern")
        (rank,) = ranks
        if rank > self._limits.rank:
            raise BadRequest(f"the adapter has rank {rank}; the server takes up to {self._limits.rank}", param="r")
        return rank

    def stacked(self, tensors: dict[str, Tensor]) -> dict[str, tuple[Stack, ...]]:
        """By the module of all experts. Pairs of a module's second tensor stand around those of its first."""
        found: dict[str, tuple[Stack, ...]] = {}
        for wrapped, sides in self.stacks.items():
            module = _bare(wrapped)
            name = self._config.parameters_of(module)[0]
            down_SD, up_ES = tensors[sides["A"]], tensors[sides["B"]]
            rank = self._config.rank_of(name)
            if len(down_SD) != up_ES.shape[1] or len(down_SD) % rank:
                raise _wrong(sides["A"], f"has {len(down_SD)} rows, and {FILE} says rank {rank} of each expert")
            found[module] = (*found.get(module, ()), Stack(down_SD, up_ES, self._config.scale_of(name), rank))
        return found

    def of_vocabulary(self) -> list[TensorInfo]:
        """What has a row for every token, as it was when the adapter was saved."""
        return [self.infos[key] for key in (*self.whole.values(), *self.bases.values())]

    def check(self) -> None:
        """What can be said when all are known."""
        for sides in (*self.pairs.values(), *self.embeddings.values(), *self.stacks.values()):
            if len(sides) == 1:
                ((there, key),) = sides.items()
                raise _wrong(key, f"has no lora_{'B' if there == 'A' else 'A'} beside it")
        for wanted in self._config.modules_to_save or ():
            found = any(f".{module}".endswith(f".{wanted}") for module in self.whole)
            if not found and not (wanted in SCORES and any(_last(module) in SCORES for module in self.whole)):
                raise BadRequest(
                    f"{FILE}: modules_to_save names {wanted[:80]!r}, which is no embedding and no head that "
                    f"{WEIGHTS} has; others are not supported",
                    param="modules_to_save",
                )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _bare(module: str) -> str:
    """Without what PEFT wraps it in."""
    while module.endswith(".base_layer"):
        module = module.removesuffix(".base_layer")
    return module


def _has_vocabulary(module: str) -> bool:
    return _last(module) in WHOLE


def _wrong(key: str, what: str) -> BadRequest:
    return BadRequest(f"{WEIGHTS}: {key[:200]} {what}", param=key[:200])


def _checked_tokens(given: dict[str, Any]) -> dict[str, int]:
    if len(given) > MAX_ADDED:
        raise BadRequest(f"{ADDED} has over {MAX_ADDED} tokens", param=ADDED)
    for token, number in given.items():
        if not 0 < len(token) <= MAX_TOKEN:
            raise BadRequest(f"{ADDED}: a token has {len(token)} characters, not 1 to {MAX_TOKEN}", param=ADDED)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 31:
            raise BadRequest(f"{ADDED}: the id of {token[:40]!r} should be a whole number from 0", param=ADDED)
    return given
