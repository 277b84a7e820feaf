"""Chat templates that try to escape or to run for ever: each ends in a TemplateError, soon and in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyllm.errors import TemplateError
from pyllm.text.template import LONGEST, TOKENS, render

MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}] * 5
MANY = [{"role": "user", "content": str(i)} for i in range(200)]

ESCAPES = {
    "{{ messages.__class__ }}": "attribute '__class__' of list",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "attribute '__class__' of str",
    "{{ messages['__class__'] }}": "attribute '__class__' of list",
    "{{ ().__class__.__base__ }}": "attribute '__class__' of tuple",
    "{{ lipsum.__globals__['os'] }}": "'lipsum' is undefined",
    "{{ range.__globals__ }}": "attribute '__globals__' of function",
    "{{ raise_exception.__code__ }}": "attribute '__code__' of function",
    "{{ cycler.__init__.__globals__ }}": "attribute '__init__' of type",
    "{{ joiner('x').__init__ }}": "attribute '__init__' of Joiner",
    "{{ namespace(a=1).__class__ }}": "attribute '__class__' of Namespace",
    "{{ namespace.mro() }}": "not allowed",
    "{{ self.__init__ }}": "attribute '__init__' of TemplateReference",
    "{{ self._TemplateReference__context }}": "attribute '_TemplateReference__context'",
    "{{ messages | attr('__class__') }}": "No filter named 'attr'",
    "{{ [messages] | map(attribute='__class__') | list }}": "attribute '__class__' of list",
    "{{ [messages] | groupby('__class__') }}": "attribute '__class__' of list",
    "{{ [messages] | selectattr('__class__') | list }}": "attribute '__class__' of list",
    "{{ '{0.__class__}'.format(messages) }}": "attribute '__class__' is not allowed",
    "{{ '{0[__class__]}'.format(messages) }}": "list indices must be integers",
    "{{ '{a}'.format_map({'a': 1}) }}": "call of 'format_map' is not allowed",
    "{{ messages.append(1) }}": "'append' of list is not allowed",
    "{{ messages[0].update(role='system') }}": "'update' of dict is not allowed",
    "{{ messages[0].pop('role') }}": "'pop' of dict is not allowed",
    "{{ 'a'.encode() }}": "call of 'encode' is not allowed",
    "{{ 'a'.translate({97: 'b'}) }}": "call of 'translate' is not allowed",
    "{{ messages[0]() }}": "call of 'dict' is not allowed",
    "{% include 'secret' %}": "include is not allowed",
    "{% import 'secret' as s %}": "import is not allowed",
    "{% from 'secret' import s %}": "fromimport is not allowed",
    "{% extends 'secret' %}": "extends is not allowed",
    "{% for x in loop.__class__ %}{% endfor %}": "attribute '__class__' of Undefined",
    "{% for x in [1] %}{{ loop._iterator }}{% endfor %}": "attribute '_iterator' of LoopContext",
    "{% macro m() %}{% endmacro %}{{ m._func }}": "attribute '_func' of Macro",
}


def growing(start: str, step: str) -> str:
    """A template that sets n.s to `start`, then 99 times to `step`."""
    return "{% set n = namespace(s=" + start + ") %}{% for i in range(99) %}{% set n.s = " + step + " %}{% endfor %}"


BOMBS = {
    "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}": "steps|longer",
    "{% for a in range(999) %}{% for b in range(999) %}{% for c in range(999) %}"
    "x{% endfor %}{% endfor %}{% endfor %}": "steps|longer",
    "{% for a in messages %}{% for b in messages %}{% for c in messages %}{% for d in messages %}{{ a.role }}"
    "{% endfor %}{% endfor %}{% endfor %}{% endfor %}": "steps|longer",
    "{% for a in range(10**9) %}{% endfor %}": "range: more than 100,000",
    "{{ range(10**9) | list | length }}": "range: more than 100,000",
    "{{ 'x' * 10**10 }}": "text of 10,000,000,000 characters",
    "{{ 10**10 * 'x' }}": "text of 10,000,000,000 characters",
    "{{ [0] * 10**10 }}": "at most 8,388,608",
    "{{ 2 ** 1000000000 }}": "number of 2,000,000,000 bits",
    "{% set n = namespace(v=10) %}{% for i in range(99) %}{% set n.v = n.v * n.v %}{% endfor %}": "bits; at most 4,096",
    "{{ '%999999999d' % 3 }}": "width 999999999",
    "{{ '%.999999999f' % 3 }}": "width 999999999",
    "{{ '%*d' % (999999999, 3) }}": r"width \*",
    "{{ '{:999999999d}'.format(3) }}": "widths of four digits",
    "{{ '{:{}}'.format(3, 999999999) }}": "fields in fields",
    "{{ 'x' | center(999999999) }}": "width: 999,999,999",
    "{{ 'x\\n' | indent(999999999) }}": "width: 999,999,999",
    "{{ 'x'.center(999999999) }}": "call of 'center' is not allowed",
    "{{ 'x'.zfill(999999999) }}": "call of 'zfill' is not allowed",
    "{{ '\\t'.expandtabs(999999999) }}": "call of 'expandtabs' is not allowed",
    "{{ messages | batch(999999999) | list }}": "pieces: 999,999,999",
    "{{ messages | slice(999999999) | list }}": "pieces: 999,999,999",
    "{{ messages | tojson(indent=999999999) }}": "tojson: 999,999,999",
    "{{ 5 | round(-999999999) }}": "precision -999,999,999",
    "{{ 5 | round(999999999, 'ceil') }}": "precision 999,999,999",
    growing("'xy'", "n.s ~ n.s"): "text of 16,777,216",
    growing("'xy'", "n.s + n.s"): "text of 16,777,216",
    growing("'x'", "n.s.replace('x', 'xxxxxxxx')"): "text of",
    growing("'x'", "n.s | replace('x', 'xxxxxxxx')"): "text of",
    growing("'xxxxxxxx'", "n.s.join(n.s)"): "text of",
    growing("'x'", "[n.s, n.s] | join"): "text of",
    growing("'%(a)s%(a)s'", "n.s % {'a': n.s}"): "text of",
    "{% set n = namespace(l=[1]) %}{% for i in range(99) %}"
    "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}": "list or mapping of more",
    "{% set n = namespace(l={}) %}{% for i in range(99) %}"
    "{% set n.l = {'a': n.l, 'b': n.l} %}{% endfor %}{{ n.l }}": "list or mapping of more",
    "{% set n = namespace(l=[1]) %}{% for i in range(99) %}{% set n.l = n.l + n.l %}{% endfor %}": "more than|longer",
    "{% set n = namespace() %}{% set n.l = [n, n] %}{{ n.l }}": "a namespace can be neither printed",
    "{% set n = namespace() %}{% set n.n = n %}{{ n }}": "a namespace can be neither printed",
    "{% set n = namespace() %}{% set n.n = n %}{{ 'a' ~ n }}": "a namespace can be neither printed",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "itself too deeply",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}": "steps|longer",
    "{% block b %}{{ self.b() }}{% endblock %}": "itself too deeply",
    "{% for a in [messages] recursive %}{{ loop([a]) }}{% endfor %}": "itself too deeply",
    "{% macro m() %}" + "x" * 9000 + "{% endmacro %}{% for i in range(9999) %}{{ m() }}{% endfor %}": "more than",
    "{% for i in range(99999) %}" + "x" * 900 + "{% endfor %}": "more than",
    "{% set t %}{% for i in range(99999) %}" + "x" * 900 + "{% endfor %}{% endset %}{{ t | length }}": "more than",
    "{% filter upper %}{% for i in range(99999) %}" + "x" * 900 + "{% endfor %}{% endfilter %}": "more than",
    "{% set n = namespace(l=[]) %}{% set s = 'x' * 8000000 %}{% for i in range(999) %}{% set n.l = n.l + [s[1:]] %}"
    "{% endfor %}": "more than",
    "{% set s = 'ab' * 4000000 %}{{ s.split('a') | length }}": "more than",
    "{% set s = 'ab' * 4000000 %}{{ s | list | length }}": "more than",
    "{% set s = 'ab' * 4000000 %}{% for i in range(99999) %}"
    "{% if s ~ 'c' == s ~ 'd' %}{% endif %}{% endfor %}": "more than",
    "{% set s = 'ab' * 4000000 %}{% for i in range(99999) %}"
    "{% if 'ba' * 99 + 'x' in s %}{% endif %}{% endfor %}": "more than|longer",
    "{{ strftime_now('%c' * 999999) }}": "at most 200 characters",
    "{{ ('1' * 1300) | int }}": "bits; at most 4,096",
    "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}": "nested too deeply",
    "{{ " + "-" * 3000 + "1 }}": "nested too deeply",
    "{{ 1" + "+1" * 5000 + " }}": "nested too deeply",
    "{{ [1]" + "[0]" * 4000 + " }}": "nested too deeply",
    "{% if 1 %}" * 500 + "{% endif %}" * 500: "nested too deeply|nested blocks",
    "{{ 1 }}" * TOKENS: "more than 20,000 words",
    "x" * (LONGEST + 1): "1,048,577 bytes; at most 1,048,576",
    "{% if %}": "Expected an expression",
    "{{ unknown.name }}": "'unknown' is undefined",
    "{{ 'a' | nofilter }}": "No filter named 'nofilter'",
    "{{ 'a' is notest }}": "No test named 'notest'",
    "{{ 1 / 0 }}": "division by zero",
}


@pytest.mark.parametrize("template", ESCAPES, ids=range(len(ESCAPES)))
def test_escapes_are_refused(template: str) -> None:
    """No attribute that begins with an underscore, no foreign method, no other file."""
    with pytest.raises(TemplateError, match=r"^chat template: ") as caught:
        render(template, MESSAGES)
    assert ESCAPES[template] in str(caught.value)


@pytest.mark.parametrize("template", BOMBS, ids=range(len(BOMBS)))
def test_bombs_are_defused(template: str) -> None:
    """A TemplateError that says which limit was met, within about a second."""
    start = time.perf_counter()
    with pytest.raises(TemplateError, match=BOMBS[template]):
        render(template, MANY)
    assert time.perf_counter() - start < 3.0  # 1 s for the run; the rest is for parsing on a busy machine


def test_bombs_take_little_memory() -> None:
    """All bombs one after the other raise the peak of a fresh process by no more than 64 MiB."""
    code = (
        "import resource\n"
        "from test_template_hostile import BOMBS, MANY, render, TemplateError\n"
        "render('{{ messages | tojson }}', MANY)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for template in BOMBS:\n"
        "    try: render(template, MANY)\n"
        "    except TemplateError: pass\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    paths = os.pathsep.join(os.path.abspath(path) for path in (Path(__file__).parent, *sys.path))
    env = {**os.environ, "PYTHONPATH": paths}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert int(found.stdout) <= 64


def test_only_plain_data_reaches_a_template() -> None:
    """Objects with methods of their own are refused by name and place."""

    class Thing:
        pass

    with pytest.raises(TemplateError, match=r"messages\[0\]\['content'\]: Thing; None, bool, int, float, str"):
        render("", [{"content": Thing()}])
    with pytest.raises(TemplateError, match="keys are text"):
        render("", [{1: "a"}])
    nested: list[object] = []
    for _ in range(200):
        nested = [nested]
    with pytest.raises(TemplateError, match="nested deeper than 100"):
        render("", [{"content": nested}])
