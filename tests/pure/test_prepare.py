"""A model folder that cannot be served is refused before any process starts, with the file that is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ramify
from ramify.config.read import overlay
from ramify.config.settings import Settings
from ramify.core.errors import StartupError
from ramify.engine.build import prepare


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The bundled model, to spoil."""
    source = next(Path(ramify.__file__).parent.rglob("tokenizer.json")).parent
    target = tmp_path / "model"
    shutil.copytree(source, target)
    return target


def look(folder: Path, **asked: object) -> None:
    prepare(overlay(Settings(), {"model_path": str(folder), **asked}, "test"))


def spoil(file: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / file
        found = json.loads(path.read_text()) if path.is_file() else {}
        change(found)
        path.write_text(json.dumps(found))

    return write


def text(file: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        (folder / file).write_bytes(content)

    return write


BROKEN = [
    ("tokenizer.json", text("tokenizer.json", b"{")),
    ("tokenizer.json", text("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE"}}')),
    ("tokenizer.json", text("tokenizer.json", b"\xff\xfe\x00")),
    ("tokenizer_config.json", text("tokenizer_config.json", b"[1]")),
    ("tokenizer_config.json", text("tokenizer_config.json", b"not json")),
    ("tokenizer_config.json: bos_token", spoil("tokenizer_config.json", lambda c: c.update(bos_token=5))),
    ("tokenizer_config.json: eos_token", spoil("tokenizer_config.json", lambda c: c.update(eos_token={"id": 5}))),
    ("chat template", text("chat_template.jinja", b"{% for x in %}")),
    ("chat template", text("chat_template.jinja", b"{{ 1 | no_such_filter }}")),
    ("chat template", text("chat_template.jinja", b"{{ " + b"(" * 5000 + b" }}")),
    ("chat template", text("chat_template.jinja", b"{% if 1 %}" * 300 + b"{% endif %}" * 300)),
    ("chat template", text("chat_template.jinja", b"\xff\xfe")),
    ("chat_template.json", text("chat_template.json", b"{")),
    ("chat_template.json: chat_template", text("chat_template.json", b'{"template": "x"}')),
    ("generation_config.json", text("generation_config.json", b"{")),
    (r"generation_config.json: .*temperature", spoil("generation_config.json", lambda c: c.update(temperature="hot"))),
    (r"generation_config.json: .*top_p", spoil("generation_config.json", lambda c: c.update(top_p=0))),
    (r"generation_config.json: .*top_k", spoil("generation_config.json", lambda c: c.update(top_k=-7))),
    (r"generation_config.json: eos_token_id", spoil("generation_config.json", lambda c: c.update(eos_token_id=10**6))),
    ("config.json: hidden_act", spoil("config.json", lambda c: c.update(hidden_act="xielu"))),
]


@pytest.mark.parametrize(("says", "do"), BROKEN, ids=[f"{n}-{says[:40]}" for n, (says, _) in enumerate(BROKEN)])
def test_broken_files(copy: Path, says: str, do: Callable[[Path], None]) -> None:
    look(copy)
    do(copy)
    with pytest.raises(StartupError, match=says):
        look(copy)


def test_a_broken_tokenizer_does_not_matter_where_none_is_wanted(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    look(copy, skip_tokenizer_init=True)


def test_sampling_that_the_model_does_not_use_is_not_looked_at(copy: Path) -> None:
    spoil("generation_config.json", lambda c: c.update(do_sample=False, temperature=0.0, top_k=0))(copy)
    look(copy)


def test_a_file_given_instead_is_the_one_that_counts(copy: Path, tmp_path: Path) -> None:
    (copy / "chat_template.jinja").write_text("{% for x in %}")
    (tmp_path / "good.jinja").write_text("{{ messages[0].content }}")
    look(copy, chat_template=str(tmp_path / "good.jinja"))


def test_looking_imports_no_torch(copy: Path) -> None:
    import subprocess

    program = (
        "import sys; from ramify.engine.build import prepare; from ramify.config.read import overlay; "
        "from ramify.config.settings import Settings; "
        f"prepare(overlay(Settings(), {{'model_path': {str(copy)!r}}}, 'test')); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
