from datetime import date, datetime

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from longrun.errors import InputError
from longrun.formats.text.conversation import render_messages
from longrun.formats.text.fixed_templates import fix_date, fix_token, names_variable

DAY = date(2025, 3, 7)
MESSAGES = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "07 Mar 2025"),
        ('{{ strftime_now( "it\'s %Y" ) }}', "it's 2025"),
        ("{{ strftime_now(format='%Y-%m-%d') }}", "2025-03-07"),
        (
            "{% if strftime_now is defined %}{% set d = strftime_now('%d') %}{{ d }}{% endif %}",
            "07",
        ),
    ],
)
def test_a_fixed_template_renders_that_day_everywhere(template, text):
    fixed = fix_date(template, DAY)
    assert render_messages(fixed, MESSAGES, {}) == text
    assert render_jinja_template([MESSAGES], chat_template=fixed)[0] == [text]


def test_today_is_what_transformers_writes():
    template = "{{ strftime_now('%d %B %Y') }}"
    expected = render_jinja_template([MESSAGES], chat_template=template)[0][0]
    assert render_messages(fix_date(template, datetime.now().date()), MESSAGES, {}) == expected


@pytest.mark.parametrize(
    "template",
    ["{% set f = '%Y' %}{{ strftime_now(f) }}", "{% set g = strftime_now %}{{ g('%Y') }}"],
)
def test_a_clock_that_cannot_be_fixed_is_refused(template):
    with pytest.raises(InputError, match="the date cannot be fixed"):
        fix_date(template, DAY)


def test_a_fixed_token_stays_whoever_renders_it():
    template = "\n{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    fixed = fix_token(template, "eos_token", "<e'>")
    assert names_variable(template, "eos_token")
    assert not names_variable(template, "bos_token")
    assert render_messages(fixed, MESSAGES, {"eos_token": "other"}) == "\nx<e'>"
    rendered = render_jinja_template([MESSAGES], chat_template=fixed, eos_token="other")[0]
    assert rendered == ["\nx<e'>"]
