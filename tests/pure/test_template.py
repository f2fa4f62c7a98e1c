"""Chat templates: those of real models, and those of people who mean harm."""

from __future__ import annotations

import contextlib
import time

import pytest

from assets import SHARED, needs_shared
from ramify.core.errors import BadRequest, StartupError
from ramify.text.template import ChatTemplate

MESSAGES = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "What now?"},
]
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
REAL = sorted(SHARED.glob("templates/**/*.jinja"))


@needs_shared
def test_there_are_real_templates() -> None:
    assert len(REAL) > 80


@needs_shared
@pytest.mark.parametrize("path", REAL, ids=lambda p: p.stem[:50])
def test_real_templates_render_or_refuse(path) -> None:  # type: ignore[no-untyped-def]
    with contextlib.suppress(BadRequest):  # some insist on another order of roles
        rendered = ChatTemplate(path.read_text(), NAMES).render(MESSAGES)
        assert "What now?" in rendered or not rendered.strip()


EVIL = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].system('true') }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'x' * 100000 }}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{{ 'a' * 10 ** 10 }}",
    "{{ [0] * 10 ** 10 }}",
    "{{ (9 ** 9) ** (9 ** 9) }}",
    "{{ '%0999999999d' % 1 }}",
    "{{ 'a'.ljust(10 ** 10) }}",
    "{{ range(10 ** 12) | list }}",
    "{{ raise_exception('no') }}",
    "{{ messages[99].content }}",
]


@pytest.mark.parametrize("source", EVIL, ids=lambda s: s[:40])
def test_hostile_templates_are_refused_soon(source: str) -> None:
    started = time.monotonic()
    with pytest.raises(BadRequest):
        ChatTemplate(source, NAMES).render(MESSAGES)
    assert time.monotonic() - started < 10


def test_the_attr_filter_finds_nothing() -> None:
    assert ChatTemplate("{{ ''|attr('__class__') }}", NAMES).render(MESSAGES) == ""


def test_a_template_that_cannot_be_parsed() -> None:
    with pytest.raises(StartupError, match="line 1"):
        ChatTemplate("{% if %}", NAMES)


def test_what_templates_of_hugging_face_expect() -> None:
    source = (
        "{{ bos_token }}{%- for m in messages -%}{% generation %}{{ m | tojson }}{% endgeneration %}{%- endfor -%}"
        "{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{{ strftime_now('%Y') | length }}{% if add_generation_prompt %}>{% endif %}{{ extra }}"
    )
    rendered = ChatTemplate(source, NAMES).render([{"role": "user", "content": "<é>"}], extra="!")
    assert rendered == '<s>{"role": "user", "content": "<é>"}014>!'


def test_one_render_after_another_has_its_own_time() -> None:
    template = ChatTemplate("{% for i in range(50000) %}{% endfor %}ok", NAMES)
    assert [template.render(MESSAGES) for _ in range(3)] == ["ok"] * 3
