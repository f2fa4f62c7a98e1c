"""Chat templates: those of real models, and those of people who mean harm."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from assets import SHARED, needs_shared
from ramify.core.errors import BadRequest, StartupError
from ramify.text.sandbox import Generation
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
    "{% for a in messages %}{% for b in 'x' * 90000 %}{% for c in 'x' * 90000 %}{% endfor %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% for i in 'xx' %}{{ f(n) }}{% endfor %}{% endmacro %}{{ f(9) }}",
    "{% for a in [messages] * 9 recursive %}{{ loop([messages] * 9) }}{% endfor %}",
    "{{ 'a' | center(300000000) | length }}",
    "{{ 'a'.center(30000000) | length }}",
    "{{ 'aaaaaaaaaaaaaaaa'.replace('a', 'b' * 16000000) | length }}",
    "{{ 'aaaaaaaaaaaaaaaa' | replace('a', 'b' * 16000000) | length }}",
    "{{ 'a' | indent(300000000, true) | length }}",
    "{{ ('a\n' * 900000) | indent(1000) | length }}",
    "{{ '%*d' | format(300000000, 1) | length }}",
    "{{ '%*d' % (300000000, 1) }}",
    "{{ ('%(a)s' * 1000) % {'a': 'x' * 1000000} }}",
    "{{ '{:300000000}'.format(1) | length }}",
    "{{ '{:{}}'.format(1, 9000000) | length }}",
    "{{ ('{0}' * 1000).format('x' * 1000000) | length }}",
    "{{ [1] | slice(100000000) | list | length }}",
    "{{ [1] | batch(50000000, 0) | first | length }}",
    "{{ lipsum(100000) | length }}",
    "{{ {'a': [1]} | tojson(indent=300000000) | length }}",
    "{{ ','.join(['a' * 10000000] * 1000) | length }}",
    "{{ (['a' * 10000000] * 1000) | join | length }}",
    "{{ (['a'] * 100000) | join('b' * 10000) | length }}",
    "{{ ('a' * 10000).translate({97: 'b' * 10000}) | length }}",
    "{{ '\t'.expandtabs(300000000) | length }}",
    "{{ ('a' * 16000000) | list | length }}",
    "{{ ('a ' * 8000000).split() | length }}",
    "{{ ('a,' * 8000000).split(',') | length }}",
    "{{ ([[0]] * 1000000) | sum(start=[]) | length }}",
    "{% set ns = namespace(x=9) %}{% for i in range(90) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x % 7 }}",
    "{% set ns = namespace(all=[]) %}{% for i in range(900) %}{% set ns.all = ns.all + ['x' * 9000000] %}{% endfor %}",
    *(
        "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = " + grow + " %}"
        "{% set ns.y = " + grow.replace("x", "y") + " %}{% endfor %}{{ " + use + " }}"
        for grow, use in (
            ("[ns.x, ns.x]", "ns.x"),
            ("[ns.x, ns.x]", "ns.x == ns.y"),
            ("(ns.x, ns.x)", "{ns.x: 1}"),
            ("{'a': ns.x, 'b': ns.x}", "ns.x | tojson"),
            ("dict(a=ns.x, b=ns.x)", "ns.x | string"),
            ("[ns.x] * 2", "ns.x ~ ''"),
            ("ns.x + [ns.x]", "ns.x == ns.y"),
            ("ns.x + [ns.x]", "ns.x is eq(ns.y)"),
            ("ns.x + [ns.x]", "'%s' % (ns.x,)"),
            ("namespace(a=[ns.x, ns.x]).a", "ns.x | join"),
        )
    ),
    "{% set n = namespace(a=[]) %}{% for i in range(90) %}{% set b = [] %}{{ b.append(n.a) }}{{ b.append(n.a) }}"
    "{% set n.a = b %}{% endfor %}",
    "{% set a = [] %}{{ a.append(a) }}{{ a | tojson }}",
]


@needs_shared
@pytest.mark.parametrize("path", REAL, ids=lambda p: p.stem[:50])
def test_limits_change_nothing_that_real_templates_write(path) -> None:  # type: ignore[no-untyped-def]
    """Beside jinja2 as transformers sets it up, without any limits of ours."""
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    plain.filters["tojson"] = lambda value, ensure_ascii=False, indent=None, **more: json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, **more
    )
    plain.globals["raise_exception"] = plain.globals["strftime_now"] = _raises
    ours = ChatTemplate(path.read_text(), NAMES)
    ours._environment.globals["strftime_now"] = _raises
    for messages in (MESSAGES, MESSAGES[:1], CALLS):
        for tools in (None, [TOOL]):
            given = {"messages": messages, "tools": tools, "add_generation_prompt": True, "documents": None, **NAMES}
            try:
                wanted = plain.from_string(path.read_text()).render(given)
            except Exception:  # noqa: BLE001  (a template may raise anything)
                continue
            assert ours.render(messages, tools) == wanted


def _raises(message: str) -> None:
    raise ValueError(message)


TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}
CALLS = [
    {"role": "user", "content": "Look."},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": {"at": [1, "x"]}}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "name": "look", "content": "Seen."},
]


def test_a_template_may_change_its_own_lists_and_no_others() -> None:
    own = "{% set a = [] %}{% set _ = a.append(1) %}{% set n = namespace(b=[2], c={'d': [3]}) %}"
    own += "{% set _ = n.b.append(4) %}{% set _ = n.c.d.append(5) %}{{ a }}{{ n.b.pop(0) }}{{ n.b }}{{ n.c.d }}"
    assert ChatTemplate(own, NAMES).render(MESSAGES) == "[1]2[4][3, 5]"
    data = [{"role": "user", "content": ["x"]}]
    for source in (
        "{{ messages.append(1) }}",
        "{{ messages.pop() }}",
        "{{ messages[0].content.append(1) }}",
        "{% set m = messages %}{{ m.append(1) }}",
        "{% set m = [messages] %}{{ m[0].append(1) }}",
        "{% set m = namespace(x=messages) %}{{ m.x.append(1) }}",
        "{% for m in [messages] %}{{ m.append(1) }}{% endfor %}",
        "{% set a = [] %}{{ a.extend(messages) }}",
        "{% set a = [2] %}{{ a.sort() }}",
        "{% set a = [2] %}{{ a.clear() }}",
        "{% set d = {} %}{{ d.update(messages[0]) }}",
    ):
        with pytest.raises(BadRequest):
            ChatTemplate(source, NAMES).render(data)
    assert data == [{"role": "user", "content": ["x"]}]


def test_what_one_rendering_made_is_not_the_next_ones() -> None:
    template = ChatTemplate("{% set a = [] %}{% set _ = a.append(messages | length) %}{{ a }}", NAMES)
    assert [template.render(MESSAGES[:n]) for n in (1, 2)] == ["[1]", "[2]"]
    assert not template._environment._own.keys() & {id(MESSAGES)}


@needs_shared
def test_kimi_k2_with_tools() -> None:
    paths = [path for path in REAL if path.stem.startswith("Kimi-K2")]
    assert paths
    for path in paths:
        assert "Seen." in ChatTemplate(path.read_text(), NAMES).render(CALLS, [TOOL])


@pytest.mark.parametrize("source", EVIL, ids=lambda s: s[:40])
def test_hostile_templates_are_refused_soon(source: str) -> None:
    started = time.monotonic()
    with pytest.raises((BadRequest, StartupError)):
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
