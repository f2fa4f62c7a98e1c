"""What importing costs, and what stays torch-free where no import contract can see it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "numpy", "starlette", "uvicorn", "aiohttp", "zmq")


def modules_after(code: str) -> set[str]:
    """Top-level names of what is loaded once `code` has run in a new process."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_ramify_is_light() -> None:
    assert not modules_after("import ramify; dir(ramify)") & set(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["serve", "--help"],
        ["explain", "--help"],
        ["bench", "--help"],
        ["bench", "serve", "--help"],
        ["bench", "offline", "--help"],
    ],
)
def test_help_needs_neither_torch_nor_transformers(arguments: list[str]) -> None:
    code = f"""
import contextlib, io
from ramify.cli.main import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main({arguments!r})
"""
    assert not modules_after(code) & {"torch", "transformers"}


@pytest.mark.parametrize(
    "module",
    [
        "ramify.schedule.scheduler",
        "ramify.engine.loop",
        "ramify.engine.client",
        "ramify.worker.fake",
        "ramify.text.tokenizer",
        "ramify.text.template",
        "ramify.models.preflight",
        "ramify.engine.build",
        "ramify.server.app",
        "ramify.server.process",
        "ramify.server.launch",
        "ramify.engine.engine",
    ],
)
def test_deciding_and_serving_import_no_torch(module: str) -> None:
    assert not modules_after(f"import {module}") & {"torch", "transformers"}


@pytest.mark.parametrize("module", ["ramify.server.process", "ramify.engine.engine"])
def test_the_grammar_library_is_the_engines(module: str) -> None:
    """API workers check constraints without it."""
    assert "llguidance" not in modules_after(f"import {module}")


@pytest.mark.parametrize("module", ["ramify.ops.platform", "ramify.models.llama", "ramify.worker.executor"])
def test_kernels_for_gpus_are_imported_where_there_is_one(module: str) -> None:
    """The package runs without Triton."""
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] != "triton" and not name.startswith("ramify.ops.triton"), name
sys.meta_path.insert(0, Absent())
import {module}
"""
    assert "torch" in modules_after(code)


def test_torch_leaves_its_compiler_away() -> None:
    """It takes a second to import, which some plain calls of torch do. sympy comes with it."""
    code = """
import ramify
with ramify.Engine(max_total_tokens=1024) as engine:
    engine.generate("Once", sampling_params={"max_new_tokens": 4})
"""
    assert "sympy" not in modules_after(code)
