"""Detokenizing piece by piece says what decoding the whole says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from assets import SHARED, needs_shared, shared
from ramify.text.detokenize import ByteDetokenizer, Offsets
from ramify.text.tokenizer import Tokenizer, load_tokenizer

TEXTS = [
    "Once upon a time, there was a little girl.",
    "naïve café — 東京 🙂👩‍👩‍👧 \u0301 done\n\n\tTabs  and   spaces.",
    "def f(x):\n    return x**2  # ünïcödé",
    "",
]

REAL = [
    "tokenizers/phi/phi-2/tokenizer.json",
    "tokenizers/phi/phi-3-mini/tokenizer.json",
    "tokenizers/olmo/allenai_dolma2.json",
    "tokenizers/olmo/allenai_gpt-neox-olmo-dolma-v1_5.json",
    "weights/TinyStories-656K/tokenizer.json",
    "weights/stories260K/derived-hf/tokenizer.json",
]


def byte_level() -> Backend:
    """Every byte is a token: the hardest case for characters that are cut."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={c: n for n, c in enumerate(characters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>"])
    return backend


def pieces(tokenizer: Tokenizer, ids: list[int], prompt: list[int]) -> str:
    detokenizer = tokenizer.detokenizer(True, prompt)
    return "".join(detokenizer.step(token) for token in ids) + detokenizer.flush()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 256), max_size=40))
def test_bytes_in_any_order_decode_like_the_library(ids: list[int]) -> None:
    tokenizer = Tokenizer(byte_level(), {}, None)
    assert pieces(tokenizer, ids, []) == tokenizer.decode(ids)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_no_piece_has_half_a_character(text: str) -> None:
    tokenizer = Tokenizer(byte_level(), {}, None)
    detokenizer = tokenizer.detokenizer(True, [])
    assert isinstance(detokenizer, ByteDetokenizer)
    said = [detokenizer.step(token) for token in tokenizer.encode(text)]
    assert "".join(said) == text
    assert ("\ufffd" in "".join(said)) == ("\ufffd" in text)


def load(path: Path) -> Tokenizer:
    return Tokenizer(Backend.from_file(str(path)), {}, None)


@needs_shared
@pytest.mark.parametrize("path", REAL)
@pytest.mark.parametrize("text", TEXTS)
def test_real_tokenizers_piece_by_piece(path: str, text: str) -> None:
    tokenizer = load(shared(path))
    prompt = tokenizer.encode("Tell me: ")
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole, before = tokenizer.decode(prompt + ids), tokenizer.decode(prompt)
    said = pieces(tokenizer, ids, prompt)
    assert whole == before + said


@needs_shared
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), path=st.sampled_from(REAL))
def test_random_ids_lose_nothing(data: st.DataObject, path: str) -> None:
    """Models emit what no text encodes to. Byte-level text must still add up exactly."""
    tokenizer = load(SHARED / path)
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1) | st.integers(0, 260), max_size=25))
    said, whole = pieces(tokenizer, ids, []), tokenizer.decode(ids)
    if tokenizer._table is not None:
        assert said == whole
        return
    said, whole = (text.replace("\ufffd", "").replace(" ", "") for text in (said, whole))
    if all(valid for valid in runs_of_bytes(tokenizer, ids)):
        assert said == whole
    else:
        kept = iter(said)
        assert all(character in kept for character in whole), "a subsequence: nothing of the whole is lost"
        assert len(said) - len(whole) <= len(ids)


def runs_of_bytes(tokenizer: Tokenizer, ids: list[int]) -> list[bool]:
    """Of every run of byte tokens (`<0x0A>`), whether it is UTF-8. The decoder of such a vocabulary replaces a whole
    run that is not, also the characters in it that a stream has said already.
    """
    runs, run = [], b""
    for token in [*ids, None]:
        name = "" if token is None else tokenizer.backend.id_to_token(token) or ""
        if found := re.fullmatch(r"<0x([0-9A-F]{2})>", name):
            run += bytes.fromhex(found[1])
        elif run:
            runs.append(run.decode(errors="ignore").encode() == run)
            run = b""
    return runs


@needs_shared
def test_a_broken_byte_does_not_take_back_what_was_said() -> None:
    tokenizer = load(shared("tokenizers/phi/phi-3-mini/tokenizer.json"))
    assert [tokenizer.backend.id_to_token(i) for i in (3, 131)] == ["<0x00>", "<0x80>"]
    assert tokenizer.decode([3, 131]) == "\ufffd\ufffd"
    assert pieces(tokenizer, [3, 131], []) == "\x00\ufffd"


@needs_shared
@pytest.mark.parametrize("path", REAL[:4])
def test_token_bytes_add_up(path: str) -> None:
    tokenizer = load(shared(path))
    if tokenizer._table is None:
        pytest.skip("not a byte-level vocabulary")
    ids = tokenizer.encode(TEXTS[1])
    assert b"".join(tokenizer.token_bytes(i) for i in ids).decode() == TEXTS[1]


@needs_shared
def test_a_real_folder_loads() -> None:
    tokenizer = load_tokenizer(shared("weights/TinyStories-656K"))
    assert tokenizer.names["eos_token"]
    assert tokenizer.encode("Once upon a time")


def test_ids_without_a_token_are_empty() -> None:
    tokenizer = Tokenizer(byte_level(), {}, None)
    assert pieces(tokenizer, [99999, 5], []) == tokenizer.decode([5])


@needs_shared
@pytest.mark.parametrize("path", REAL)
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_by_themselves_are_the_bytes_of_the_text(path: str, text: str) -> None:
    """Also where decoders strip the first space of a text, and where a character has several tokens."""
    tokenizer = Tokenizer(Backend.from_file(str(shared(path))), {}, None)
    ids = tokenizer.encode(text, add_special_tokens=False)
    if tokenizer.special.intersection(ids):
        pytest.skip("this vocabulary has no tokens for that text")
    spelled = b"".join(tokenizer.token_bytes(token) for token in ids).decode()
    assert spelled.removeprefix(" ") == tokenizer.decode(ids).removeprefix(" ")


@needs_shared
@pytest.mark.parametrize("path", REAL)
def test_offsets_point_into_the_text(path: str) -> None:
    tokenizer = Tokenizer(Backend.from_file(str(shared(path))), {}, None)
    text = tokenizer.decode(tokenizer.encode(TEXTS[1], add_special_tokens=False))
    ids = tokenizer.encode(text)
    offsets = Offsets(tokenizer.detokenizer(True, ())).of(ids)
    text = tokenizer.decode(ids)
    assert offsets == sorted(offsets)
    for token, start, end in zip(ids, offsets, [*offsets[1:], len(text)], strict=True):
        if end > start and "\ufffd" not in tokenizer.token_text(token):
            assert text[start:end].strip().startswith(tokenizer.token_text(token).strip())
