"""The surface is frozen: names, flags, routes. A change here is a change users see, and is made on purpose."""

from __future__ import annotations

import re
from pathlib import Path

import ramify
from ramify.cli.settings import all_flags
from ramify.config.flags import INSTEAD, NEEDLESS, NEEDLESS_WITH_VALUE, SGLANG, instead_of
from ramify.config.settings import names
from ramify.server.routes import ROUTES

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src" / "ramify"


def test_public_names() -> None:
    assert ramify.__all__ == [
        "BadRequest",
        "Engine",
        "RamifyError",
        "SamplingParams",
        "StartupError",
        "UserError",
        "__version__",
    ]
    assert ramify.__all__ == sorted(ramify.__all__)
    for name in ramify.__all__:
        assert getattr(ramify, name) is not None


def test_flags() -> None:
    """The list in cli_flags.txt is what `ramify serve` takes."""
    assert all_flags() == (HERE / "cli_flags.txt").read_text().split()


def test_routes_with_their_classes() -> None:
    found = [f"{'/'.join(route.methods)} {route.path} {route.auth}" for route in ROUTES]
    assert found == (HERE / "routes.txt").read_text().splitlines()
    assert all(route.auth in ("open", "user", "admin") for route in ROUTES)


def test_only_what_must_be_is_open() -> None:
    assert {r.path for r in ROUTES if r.auth == "open"} == {
        "/", "/health", "/ping", "/health_generate", "/ready", "/metrics",
        "/openapi.json", "/docs",
    }  # fmt: skip


def test_every_flag_of_sglang_has_an_answer() -> None:
    ours = {flag.removeprefix("--") for flag in all_flags()} | {"config"}
    for flag in SGLANG - ours - NEEDLESS.keys() - NEEDLESS_WITH_VALUE.keys():
        assert instead_of(flag)
    assert not ours & NEEDLESS.keys()
    assert not ours & INSTEAD.keys()


def test_every_setting_has_help_that_fits_a_line() -> None:
    for name, (_, field) in names().items():
        assert field.metadata["help"].endswith("."), name
        assert len(field.metadata["help"]) < 110, name


def source_files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_init_files_are_empty() -> None:
    for path in source_files():
        if path.name == "__init__.py" and path.parent != SOURCE:
            assert path.read_text() == "", path


def test_no_room_for_odds_and_ends() -> None:
    for path in SOURCE.rglob("*"):
        assert path.stem not in ("utils", "common_utils", "helpers", "misc", "manager", "managers"), path


def test_nothing_is_unpickled_or_evaluated() -> None:
    banned = re.compile(
        r"^\s*(import|from) +(pickle|dill|cloudpickle|marshal|shelve)\b"
        r"|recv_pyobj|send_pyobj|\beval\(|\bexec\(|torch\.load"
    )
    for path in source_files():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not banned.search(line), f"{path}:{number}: {line}"


def test_no_bare_except_and_no_global_statement() -> None:
    banned = re.compile(r"^\s*except\s*:|^\s*global\s|\bassert False\b")
    for path in source_files():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not banned.search(line), f"{path}:{number}: {line}"


def test_device_code_is_under_ops_only() -> None:
    """`torch.cuda`, triton and questions about the kind of device have one home."""
    banned = re.compile(r"torch\.cuda|import triton|from triton|is_cuda|\.cuda\(")
    for path in source_files():
        if "ops" not in path.relative_to(SOURCE).parts:
            assert not banned.search(path.read_text()), path


def test_zmq_has_no_tcp() -> None:
    for path in source_files():
        assert "tcp://" not in path.read_text(), path


def test_names_of_test_files_differ() -> None:
    """Two of one name in different folders end the whole run before it begins, and none of the parts of it."""
    names = [path.name for path in HERE.parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
