import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.formats.text.conversation import _prompt_frame, render_messages
from longrun.formats.text.template_frames import fill_frame, find_frame

CHATML = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n'"
    " + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
)
PLACES = [
    CHATML,
    "{% if messages[0].role == 'system' %}[{{ messages[0].content }}]{% endif %}"
    "{{ bos_token }}{{ messages[-1]['content'] }}\n",
    "{% if messages[0].content is string %}{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% endif %}",
]
LOOKS = [
    "{{ messages[0].content | trim }}{{ messages[1].content }}",
    "{{ messages[0].content }}{{ messages[1].content | tojson }}",
    "{{ messages[0].content }}{% if messages[1].content %}{{ messages[1].content }}{% endif %}",
    "{{ messages[0].content }}{% if 'x' in messages[1].content %}!{% endif %}"
    "{{ messages[1].content }}",
    "{{ messages[0].content }}{% if messages[1].content.startswith('x') %}!{% endif %}"
    "{{ messages[1].content }}",
    "{% if ('a' + messages[0].content) | length > 90 %}!{% endif %}{{ messages[0].content }}"
    "{{ messages[1].content }}",
    "{% set c = messages[0].content ~ '!' %}{% if c | length > 9 %}!{% endif %}{{ c }}"
    "{{ messages[1].content }}",
    "{% macro say(c) %}{{ c }}{% endmacro %}{% if say(messages[0].content) == 'x' %}!{% endif %}"
    "{{ messages[0].content }}{{ messages[1].content }}",
    "{{ messages[0].content[:3] }}{{ messages[1].content }}",
    "{{ messages[1].content }}",
    "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
]
ROLES = ("system", "user")
TEXT = st.text(st.sampled_from(" \nx{}%<>'\"\\\u00e9\u2028|"), max_size=8)


@pytest.mark.parametrize("template", PLACES)
@settings(deadline=None, max_examples=50)
@given(texts=st.tuples(TEXT, TEXT))
def test_a_filled_frame_is_what_the_template_renders(template, texts):
    frame = _prompt_frame(template, (("bos_token", "<s>"),), ROLES)
    messages = [{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=True)]
    assert fill_frame(frame, texts) == render_messages(template, messages, {"bos_token": "<s>"})


@pytest.mark.parametrize("template", LOOKS)
def test_a_template_that_looks_into_a_text_or_loses_one_has_no_frame(template):
    assert _prompt_frame(template, (), ROLES) is None


def test_a_text_that_is_changed_without_a_look_has_no_frame():
    assert find_frame(lambda messages: "".join(["a", "b"]), ["user"]) is None
