"""What templates take for contents, as vLLM 0.32 judges them."""

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from dualmap.router.tokens.content_format import content_format

LOOP = "{% for m in messages %}BODY{% endfor %}"
PARTS = "{% for part in m.content %}{{ part.text }}{% endfor %}"
TEMPLATES = {
    "contents printed": ("string", LOOP.replace("BODY", "{{ m.content }}")),
    "no loop over messages": ("string", "{% set m = messages[0] %}" + PARTS),
    "a loop over another key": ("string", LOOP.replace("BODY", "{% for c in m.tool_calls %}{{ c }}{% endfor %}")),
    "contents looped": ("openai", LOOP.replace("BODY", PARTS)),
    "contents looped by subscript": ("openai", LOOP.replace("BODY", PARTS.replace("m.content", "m['content']"))),
    "contents looped when not a string": (
        "openai",
        LOOP.replace("BODY", "{% if m.content is string %}{{ m.content }}{% else %}" + PARTS + "{% endif %}"),
    ),
    "filtered contents": ("openai", LOOP.replace("BODY", PARTS.replace("m.content", "m.content | list"))),
    "a slice of the messages": ("openai", LOOP.replace("messages", "messages[1:]").replace("BODY", PARTS)),
    "messages under further names": (
        "openai",
        "{% set a = messages %}{% set b = a | list %}" + LOOP.replace("messages", "b").replace("BODY", PARTS),
    ),
    "a name given to itself": ("openai", "{% set messages = messages[1:] %}" + LOOP.replace("BODY", PARTS)),
    "a variable called content": (
        "openai",
        LOOP.replace("BODY", "{% set content = m.content %}{% for c in content %}{{ c }}{% endfor %}"),
    ),
    "contents passed to a macro": (
        "openai",
        "{% macro show(x) %}{% for i in x %}{{ i }}{% endfor %}{% endmacro %}"
        + LOOP.replace("BODY", "{{ show(m.content) }}"),
    ),
    "contents passed to a macro by name": (
        "openai",
        "{% macro show(x, y) %}{% for i in y %}{{ i }}{% endfor %}{% endmacro %}"
        + LOOP.replace("BODY", "{{ show(1, y=m['content']) }}"),
    ),
    "a macro's own content": (
        "string",
        "{% macro show(content) %}{% for i in content %}{{ i }}{% endfor %}{% endmacro %}{{ show(messages) }}",
    ),
    "a macro that loops over its other argument": (
        "string",
        "{% macro show(x, y) %}{% for i in y %}{{ i }}{% endfor %}{% endmacro %}"
        + LOOP.replace("BODY", "{{ show(m.content, 1) }}"),
    ),
    "a loop with two names": ("string", LOOP.replace("BODY", "{% for k, v in m.content %}{{ k }}{% endfor %}")),
    "messages kept in a namespace": (
        "string",
        "{% set ns = namespace() %}{% set ns.all = messages %}" + LOOP.replace("BODY", PARTS),
    ),
}


@pytest.mark.parametrize(("form", "template"), TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_that_loops_over_contents_takes_parts(form, template):
    assert content_format(_compile_jinja_template(template).environment.parse(template)) == form
