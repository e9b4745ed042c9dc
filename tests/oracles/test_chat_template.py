"""Chat templates rendered here equal those rendered by transformers."""

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from longrun.data.records.prompts import load_template
from longrun.formats.text.conversation import render_messages

QWEN = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a helper.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "system" %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
OTHER = """{{ bos_token }}
{% for message in messages %}
    {% if loop.index0 > 5 %}{% break %}{% endif %}
    [{{ message['role'] }}] {{ message['content'] | trim }} {{ message | tojson }}
    {% generation %}{{ tools is none }}{% endgeneration %}
{% endfor %}
{{ strftime_now('%Y') }}"""
MESSAGES = [
    [{"role": "user", "content": "What is\n {x} & <b>?"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": " 1 "}],
    [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "<think>\nA\n</think>\n\u00e9"},
    ],
]


@pytest.mark.parametrize("messages", MESSAGES)
@pytest.mark.parametrize("template", [QWEN, OTHER, "chatml"])
@pytest.mark.parametrize("header", [True, False])
def test_templates_render_as_in_transformers(template, messages, header, tmp_path):
    text = load_template("chatml", tmp_path) if template == "chatml" else template
    expected, _ = render_jinja_template(
        [messages], chat_template=text, add_generation_prompt=header, bos_token="<s>"
    )
    found = render_messages(text, messages, {"bos_token": "<s>"}, add_generation_prompt=header)
    assert found == expected[0]
