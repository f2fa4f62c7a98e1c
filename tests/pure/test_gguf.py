"""Headers of GGUF files: what is in them, and that no file, however it is made, does more than be refused."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets import shared
from ggufs import gguf, text, value
from ramify.config.gguf import read_header
from ramify.config.model import read_config
from ramify.config.source import locate
from ramify.core.errors import StartupError
from ramify.text.tokenizer import load_tokenizer
from ramify.weights.gguf import list_mapped

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 32,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}
WORDS: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab"],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -4.0, -5.0, -6.0, -1.0, -2.0],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
ROW = bytes(18)
TENSORS: dict[str, Any] = {
    "token_embd.weight": ("F32", (8, 32), bytes(8 * 32 * 4)),
    "blk.0.attn_q.weight": ("Q4_0", (32, 32), ROW * 32),
    "output_norm.weight": ("F32", (32,), bytes(128)),
}
GOOD = gguf(LLAMA | WORDS, TENSORS)


def read(tmp_path: Path, content: bytes) -> None:
    """Everything that a server does with the header."""
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    read_config(file)
    list_mapped(file)
    load_tokenizer(file)


def refused(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(StartupError) as error:
        read(tmp_path, content)
    return str(error.value)


def test_what_is_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(GOOD)
    header = read_header(tmp_path / "model.gguf")
    assert header.metadata == {**LLAMA, **WORDS, "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5)}
    found = header.tensors["blk.0.attn_q.weight"]
    assert (found.type, found.shape, found.size) == ("Q4_0", (32, 32), 18 * 32)
    assert GOOD[found.first : found.first + found.size] == ROW * 32
    config = read_config(tmp_path / "model.gguf")
    assert (config.vocab, config.heads, config.kv_heads, config.head_dim, config.tied) == (8, 2, 1, 16, True)
    assert config.eos_ids == (2,)
    tokenizer = load_tokenizer(tmp_path / "model.gguf")
    assert tokenizer.encode("a ab") == [1, 6, 6, 5]  # "▁a" is the best token, "ab" the next


WRONG: list[tuple[str, bytes]] = [
    ("does not begin with GGUF", b"GGML" + GOOD[4:]),
    ("first four bytes", b"GG"),
    ("version 1 ", GOOD[:4] + struct.pack("<I", 1) + GOOD[8:]),
    ("version", GOOD[:4] + struct.pack(">I", 3) + GOOD[8:]),
    ("tensor_count is", GOOD[:8] + struct.pack("<Q", 1 << 63) + GOOD[16:]),
    ("tensor_count is 1000,", GOOD[:8] + struct.pack("<Q", 1000) + GOOD[16:]),
    ("metadata_kv_count is", GOOD[:16] + struct.pack("<Q", 1 << 62) + GOOD[24:]),
    ("length of a metadata key", GOOD[:24] + struct.pack("<Q", 1 << 40) + GOOD[32:]),
    (
        "'a' is there twice",
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("a") + value(1)),
    ),
    ("behind its end", GOOD[:-40]),
    ("ends", GOOD[: len(GOOD) // 2]),
]


@pytest.mark.parametrize(("named", "content"), WRONG, ids=[name for name, _ in WRONG])
def test_headers_that_lie(tmp_path: Path, named: str, content: bytes) -> None:
    assert named in refused(tmp_path, content)


def changed(at: bytes, by: bytes) -> bytes:
    assert GOOD.count(at) == 1
    return GOOD.replace(at, by)


def info(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


Q = info("blk.0.attn_q.weight", (32, 32), 2, 1024)


@pytest.mark.parametrize(
    ("named", "by"),
    [
        ("ends", info("blk.0.attn_q.weight", (32, 32), 2, 1 << 40)),
        ("ends", info("blk.0.attn_q.weight", (32, 32), 2, (1 << 64) - 32)),
        ("no multiple of 32", info("blk.0.attn_q.weight", (32, 32), 2, 1025)),
        ("overlap", info("blk.0.attn_q.weight", (32, 32), 2, 992)),
        ("overlap", info("blk.0.attn_q.weight", (32, 32), 2, 0)),
        ("ends", info("blk.0.attn_q.weight", (1 << 20, 1 << 20), 2, 1024)),
        ("extents", info("blk.0.attn_q.weight", (1 << 62, 4), 2, 1024)),
        ("extents", info("blk.0.attn_q.weight", (32, 0), 2, 1024)),
        ("rows of 31", info("blk.0.attn_q.weight", (31, 32), 2, 1024)),
        ("the type Q2_K", info("blk.0.attn_q.weight", (256, 4), 10, 1024)),
        ("the type 99", info("blk.0.attn_q.weight", (32, 32), 99, 1024)),
        ("there twice", info("token_embd.weight", (32, 32), 2, 1024)),
        ("0 dimensions", text("blk.0.attn_q.weight") + struct.pack("<IIQ", 0, 2, 1024)),
        ("dimensions", text("blk.0.attn_q.weight") + struct.pack("<I", 1 << 31)),
        ("the name of a tensor", struct.pack("<Q", 1 << 33)),
    ],
)
def test_tensors_that_lie(tmp_path: Path, named: str, by: bytes) -> None:
    assert named in refused(tmp_path, changed(Q, by))


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("general.architecture", {"general.architecture": "mamba"}),
        ("general.architecture", {"general.architecture": 5}),
        ("general.alignment", {"general.alignment": 0}),
        ("general.alignment", {"general.alignment": 48}),
        ("general.alignment", {"general.alignment": "32"}),
        ("llama.block_count", {"llama.block_count": -1}),
        ("llama.block_count", {"llama.block_count": [1, 2]}),
        ("llama.context_length", {"llama.context_length": "long"}),
        ("llama.attention.value_length", {"llama.attention.value_length": 8}),
        ("llama.rope.dimension_count", {"llama.rope.dimension_count": 8}),
        ("llama.rope.scaling.type", {"llama.rope.scaling.type": "odd"}),
        ("llama.rope.scaling.factor", {"llama.rope.scaling.type": "linear"}),
        ("layer_norm_rms_epsilon", {"llama.attention.layer_norm_rms_epsilon": float("nan")}),
        ("tokenizer.ggml.model", {"tokenizer.ggml.model": "t5"}),
        ("tokenizer.ggml.tokens", {"tokenizer.ggml.tokens": [1, 2]}),
        ("names a token twice", {"tokenizer.ggml.tokens": ["a"] * 8}),
        ("tokenizer.ggml.scores", {"tokenizer.ggml.scores": [0.0]}),
        ("tokenizer.ggml.token_type", {"tokenizer.ggml.token_type": [1] * 9}),
        ("tokenizer.ggml.bos_token_id", {"tokenizer.ggml.bos_token_id": 8}),
        ("eos_token_id", {"tokenizer.ggml.eos_token_id": 1 << 31}),
        ("tokenizer.ggml.add_bos_token", {"tokenizer.ggml.add_bos_token": "yes"}),
        ("tokenizer.chat_template", {"tokenizer.chat_template": 7}),
    ],
    ids=str,
)
def test_metadata_that_cannot_be_used(tmp_path: Path, named: str, change: dict[str, Any]) -> None:
    assert named in refused(tmp_path, gguf(LLAMA | WORDS | change, TENSORS))


def test_a_list_in_a_list(tmp_path: Path) -> None:
    nested = struct.pack("<IIQ", 9, 9, 1) + value([1])[4:]
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("key") + nested
    assert "list of the type 9" in refused(tmp_path, content)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_file_that_was_changed_somewhere(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Cut off, overwritten, or both: it is read, or refused in words, and nothing else happens."""
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(GOOD)
    head = GOOD.index(Q) + len(Q)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, head))
        by = data.draw(
            st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f" * 4]))
        )
        content[at : at + len(by)] = by
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    with contextlib.suppress(StartupError):
        read(folder, bytes(content))


# -- tokenizers --------------------------------------------------------------------------------------------------------

TEXTS = [
    "Hello world",
    "  two  spaces and\ttabs\n\nlines \r\n",
    "It's 1234567 o'clock, isn't it? WE'LL see!!",
    "naïve café Ünïcödé 日本語 🙂 e\u0301",
    "x = [1, 2];  // code\n\tif (a >= b) return;",
    " ",
]


def written(tmp_path: Path, words: dict[str, Any]) -> Path:
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf(LLAMA | {f"tokenizer.ggml.{key}": each for key, each in words.items()}, TENSORS))
    return file


def over_bytes(folder: str, pre: str) -> dict[str, Any]:
    """Real vocabularies, as a converter writes them."""
    vocabulary = json.loads(shared(f"tokenizers/{folder}/encoder.json").read_text(encoding="utf-8"))
    lines = shared(f"tokenizers/{folder}/vocab.bpe").read_text(encoding="utf-8").split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    return {"model": "gpt2", "pre": pre, "tokens": sorted(vocabulary, key=vocabulary.__getitem__), "merges": merges}


def expected(name: str) -> list[tuple[str, list[int]]]:
    found = json.loads(shared("tokenizers/expected-encodings/tokenizer_tests.json").read_text(encoding="utf-8"))[name]
    return [(each["input"], each["encoded"]["input_ids"]) for each in found]


@pytest.mark.slow
def test_a_tokenizer_of_llama_3(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(written(tmp_path, over_bytes("llama3", "llama-bpe")))
    for each, ids in expected("pcuenq/Llama-3.2-1B-Instruct-tokenizer"):
        assert tokenizer.encode(each) == [token for token in ids if token < 128_000]
    long = json.loads(shared("tokenizers/expected-encodings/llama_3.2_encoded.json").read_text(encoding="utf-8"))
    assert tokenizer.encode(long["text"]) == [token for token in long["token_ids"] if token < 128_000]
    assert [tokenizer.decode(tokenizer.encode(each)) for each in TEXTS] == TEXTS


def test_a_tokenizer_of_gpt_2(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(written(tmp_path, over_bytes("gpt2", "gpt-2")))
    for each, ids in expected("distilgpt2"):
        assert tokenizer.encode(each) == ids
    assert [tokenizer.decode(tokenizer.encode(each)) for each in TEXTS] == TEXTS


@pytest.mark.slow
def test_a_tokenizer_of_qwen_2(tmp_path: Path) -> None:
    """Its cuts are Llama 3's but for digits, one by one; letters are composed."""
    folder = "tokenizers/qwen2"
    vocabulary = json.loads(shared(f"{folder}/vocab.json").read_text(encoding="utf-8"))
    merges = [line for line in shared(f"{folder}/merges.txt").read_text(encoding="utf-8").split("\n") if line]
    words = {"model": "gpt2", "pre": "qwen2", "tokens": sorted(vocabulary, key=vocabulary.__getitem__)}
    tokenizer = load_tokenizer(written(tmp_path, {**words, "merges": [m for m in merges if m[0] != "#"]}))
    assert len(tokenizer.encode("1234567")) == 7
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é")
    assert [tokenizer.decode(tokenizer.encode(each)) for each in TEXTS[:3]] == TEXTS[:3]


def test_a_tokenizer_of_llama_2(tmp_path: Path) -> None:
    """SentencePiece's, with its real scores."""
    content, at, tokens, scores = shared("tokenizers/llama2/tokenizer.bin").read_bytes(), 4, [], []
    while at < len(content):
        score, length = struct.unpack_from("<fi", content, at)
        tokens.append(content[at + 8 : at + 8 + length].decode())
        scores.append(score)
        at += 8 + length
    tokens = ["<unk>", "<s>", "</s>", *(token.replace(" ", "▁") for token in tokens[3:])]
    types = [2, 3, 3, *([6] * 256), *([1] * (len(tokens) - 259))]
    ids = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    words = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": types, **ids}
    tokenizer = load_tokenizer(written(tmp_path, words))
    for each, wanted in expected("coreml-projects/Llama-2-7b-chat-coreml"):
        assert tokenizer.encode(each) == wanted
    assert [tokenizer.decode(tokenizer.encode(each)) for each in TEXTS] == TEXTS


def test_a_tokenizer_whose_scores_say_nothing() -> None:
    """Its merges are found again: that file was converted from a tokenizer.json."""
    folder = shared("weights/TinyStories-656K")
    ours, reference = load_tokenizer(folder / "TinyStories-656K-Q8_0.gguf"), load_tokenizer(folder)
    for each in [*TEXTS, "Once upon a time, there was a dragon"]:
        assert ours.encode(each) == reference.encode(each)
    assert ours.decode(ours.encode("Once upon a time, there")) == "Once upon a time, there"


def test_a_tokenizer_beside_the_file(tmp_path: Path) -> None:
    folder = shared("weights/TinyStories-656K")
    (tmp_path / "model.gguf").write_bytes(gguf(LLAMA, TENSORS))
    with pytest.raises(StartupError, match=r"tokenizer\.ggml\.tokens"):
        load_tokenizer(tmp_path / "model.gguf")
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert load_tokenizer(tmp_path / "model.gguf").encode("a dragon") == load_tokenizer(folder).encode("a dragon")


def test_where_a_file_may_be(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(GOOD)
    assert locate(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"
    assert locate(str(tmp_path)) == tmp_path / "model.gguf"
    (tmp_path / "other.gguf").write_bytes(GOOD)
    with pytest.raises(StartupError, match="several GGUF files"):
        locate(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert locate(str(tmp_path)) == tmp_path  # which lacks a config.json, and that will be said
