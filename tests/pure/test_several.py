"""Several models on one server: their settings, their names, their memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.cli.settings import parse, parse_models
from ramify.config.machine import Machine
from ramify.config.model import parse_config
from ramify.config.on_cpu import PROCESS_BYTES
from ramify.config.resolve import Resolved
from ramify.config.settings import Settings
from ramify.config.several import from_word
from ramify.config.share import Found, Need, divide, resolve_all, table
from ramify.core.errors import NotFound, StartupError, UsageError
from ramify.engine.client import Client
from ramify.server.directory import Directory
from ramify.server.link import Link
from ramify.server.state import State

GIB = 1 << 30
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 32768,
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 3072,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "eos_token_id": 2,
}


def models(*arguments: str) -> list[tuple[str | None, str | None, bool]]:
    """Path, name and task of each."""
    asked = [each.model for each in parse_models(list(arguments), "t")]
    return [(each.model_path, each.served_model_name, each.is_embedding) for each in asked]


def in_file(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    return ["--config", str(path)]


# -- settings ----------------------------------------------------------------------------------------------------------


def test_models_on_the_command_line() -> None:
    assert models("--model", "a", "--model", "b:embedding") == [("a", None, False), ("b", None, True)]
    assert models("a", "--model", "b") == [("a", None, False), ("b", None, False)]
    assert models("--model", "chat=org/a", "--model", "e=./b:embedding") == [
        ("org/a", "chat", False),
        ("./b", "e", True),
    ]
    assert models("a:embedding") == [("a", None, True)]
    assert models("--model-path", "x=a") == [("a", "x", False)]
    assert models() == [(None, None, False)]


def test_a_path_that_exists_is_a_path(tmp_path: Path) -> None:
    for name in ("a=b", "c:embedding"):
        (tmp_path / name).mkdir()
        assert from_word(str(tmp_path / name)) == {"path": str(tmp_path / name)}
    assert from_word("./a=b") == {"path": "./a=b"}
    assert from_word("m:7b") == {"path": "m:7b"}


def test_models_in_a_file(tmp_path: Path) -> None:
    line = in_file(
        tmp_path,
        """
        page-size: 8
        lazy: true
        models:
          - {name: chat, path: a, quantization: w8a8, lazy: false, mem-fraction: 0.2}
          - {path: b, task: embedding, idle-unload-after: 60}
          - c=d
        """,
    )
    one, two, three = parse_models(["--page-size", "4", *line], "t")
    assert (one.model.served_model_name, one.model.quantization, one.model.lazy) == ("chat", "w8a8", False)
    assert (one.cache.mem_fraction_static, two.cache.mem_fraction_static) == (0.2, None)
    assert (two.model.is_embedding, two.model.lazy, two.model.idle_unload_after) == (True, True, 60)
    assert (three.model.model_path, three.model.served_model_name) == ("d", "c")
    assert {each.cache.page_size for each in (one, two, three)} == {4}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: 5", "list of models"),
        ("models: []", "list of models"),
        ("models: [[a]]", r"models\[0\] should be a path"),
        ("models: [{path: a, port: 1}]", "port is the server's"),
        ("models: [{path: a, api-key: x}]", "api_key is the server's"),
        ("models: [{path: a, task: sing}]", "is not one of"),
        ("models: [{path: a, model-path: b}]", "twice"),
        ("models: [{path: a, nope: b}]", r"models\[0\] of .*: there is no setting"),
        ("models: [{path: a, threads: x}]", r"models\[0\] of .*: threads"),
        ("model: x\nmodels: [a, b]", "beside them"),
        ("served-model-name: x\nmodels: [a, b]", "names one model"),
    ],
)
def test_models_in_a_file_that_cannot_be(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=said):
        parse_models(in_file(tmp_path, text), "t")


def test_models_given_in_too_many_ways(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="twice"):
        parse_models([*in_file(tmp_path, "models: [a, b]"), "c"], "t")
    with pytest.raises(UsageError, match="one MODEL"):
        parse_models(["a", "b"], "t")
    with pytest.raises(StartupError, match="names one model"):
        parse_models(["a", "--model", "b", "--served-model-name", "c"], "t")
    with pytest.raises(UsageError, match="one model is taken here"):
        parse(["a", "--model", "b"], "t")


# -- memory ------------------------------------------------------------------------------------------------------------


def of_settings(*each: dict) -> tuple[Settings, ...]:
    from ramify.config.several import of_file

    return of_file(Settings(), list(each), "f")


def resolved(*each: dict, memory: float = 32 * GIB, share: float | None = None) -> tuple[Resolved, ...]:
    found = [Found(settings, parse_config(CONFIG), Path("/m")) for settings in of_settings(*each)]
    return resolve_all(found, Machine(int(memory), 8, False), share)


def used(models: tuple[Resolved, ...]) -> int:
    plans = [model.memory for model in models]
    return sum(plan.weights + plan.activations + plan.pool + PROCESS_BYTES for plan in plans)


def test_what_is_left_is_divided_equally() -> None:
    both = resolved({"name": "a"}, {"name": "b"}, memory=16 * GIB)
    assert both[0].memory.pool_tokens == both[1].memory.pool_tokens > 20_000
    assert 0.69 * 16 * GIB < used(both) <= 0.7 * 16 * GIB
    (reason,) = (d.reason for d in both[0].decisions if d.name == "mem_fraction_static")
    assert reason == "its part of what 2 models may use"


def test_what_one_cannot_use_another_gets() -> None:
    small, large = resolved(
        {"name": "a", "max-running-requests": 1, "context-length": 512}, {"name": "b"}, memory=16 * GIB
    )
    assert small.memory.pool_tokens == 512
    assert used((small, large)) > 0.69 * 16 * GIB


def test_tokens_and_shares_of_their_own() -> None:
    a, b, c = resolved({"name": "a", "max-total-tokens": 4096}, {"name": "b", "mem-fraction": 0.2}, {"name": "c"})
    assert a.memory.pool_tokens == 4096
    assert used((b,)) <= 0.2 * 32 * GIB
    assert used((b,)) > 0.19 * 32 * GIB
    assert used((a, b, c)) <= 0.7 * 32 * GIB
    lines = list(table((a, b, c)))
    assert len(lines) == 5
    assert all(line.startswith(name) for line, name in zip(lines, ("model", "a", "b", "c", "all"), strict=True))


def test_lazy_models_are_counted() -> None:
    eager, lazy = resolved({"name": "a"}, {"name": "b", "lazy": True}, memory=16 * GIB)
    assert eager.memory.pool == lazy.memory.pool


def test_a_model_that_does_not_fit_is_named() -> None:
    with pytest.raises(StartupError, match=r"^c does not fit: it needs .* GiB .*available") as caught:
        resolved({"name": "a"}, {"name": "b"}, {"name": "c"}, memory=5 * GIB)
    assert "--mem-fraction-static" in caught.value.remedy
    with pytest.raises(StartupError, match=r"^a does not fit"):
        resolved({"name": "a", "max-total-tokens": 1 << 20}, {"name": "b"}, memory=8 * GIB)
    with pytest.raises(StartupError, match=r"^b: .*context"):
        resolved({"name": "a"}, {"name": "b", "context-length": 1 << 20})


def test_two_models_of_one_name() -> None:
    with pytest.raises(StartupError, match="would be called 'x'"):
        resolved({"path": "x"}, {"path": "x"})


SIZES = st.integers(0, 1 << 20)


@given(
    st.lists(st.builds(Need, st.just("m"), SIZES, SIZES, SIZES, SIZES, st.booleans()), min_size=1),
    st.integers(0, 1 << 24),
)
def test_parts_fit_and_leave_nothing_that_somebody_can_use(needs: list[Need], more: int) -> None:
    needs = [Need(n.name, n.weights, n.activations, min(n.least, n.most), n.most, n.exact) for n in needs]
    memory = sum(need.must for need in needs) + more
    parts = divide(needs, memory, 1.0)
    assert sum(parts) <= memory
    for need, part in zip(needs, parts, strict=True):
        assert need.must <= part <= need.fixed + need.most
    wanting = [part < need.fixed + need.most for need, part in zip(needs, parts, strict=True) if not need.exact]
    if any(wanting):
        assert memory - sum(parts) <= len(needs)  # what does not divide


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("chat", "chat"),
        ("chat:poet", "chat"),
        ("qwen:0.6b", "qwen:0.6b"),
        ("qwen:0.6b:poet", "qwen:0.6b"),
        ("default:poet", "chat"),
        ("", "chat"),
        (None, "chat"),
    ],
)
def test_the_model_behind_a_name(name: str | None, model: str) -> None:
    assert directory("chat", "qwen:0.6b").find(name).resolved.served_name == model


@pytest.mark.parametrize("name", ["qwen", "qwen:poet", "poet", "poet:chat"])
def test_names_that_no_model_has(name: str) -> None:
    with pytest.raises(NotFound, match=r"This server has 'chat', 'qwen:0\.6b'"):
        directory("chat", "qwen:0.6b").find(name)


def directory(*names: str) -> Directory:
    models = resolved(*({"path": f"/{name}", "name": name} for name in names))
    with ThreadPoolExecutor(1) as threads:
        return Directory(
            [State(model, Link("", unreachable, Nobody(), lazy=True, most=1), threads, Path()) for model in models]
        )


def unreachable(start: int) -> Client:
    raise OSError


class Nobody:
    """A parent that nobody asks."""

    def want(self) -> None: ...

    def unwant(self) -> None: ...

    def let_go(self, start: int, free: bool) -> None: ...
