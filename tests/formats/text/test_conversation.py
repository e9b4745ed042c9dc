import json

import pytest

from longrun.data.records.prompts import load_template
from longrun.errors import InputError
from longrun.formats.text.code_style import CodeStyle
from longrun.formats.text.conversation import Conversation, Prompt, render_messages


@pytest.fixture
def conversation(tmp_path) -> Conversation:
    return Conversation(
        prompts={
            "cot": Prompt("", "Solve {problem}"),
            "tir": Prompt("Be {mood}.", "{problem} in {total_code_executions} runs"),
        },
        chat_template=load_template("chatml", tmp_path),
        code=CodeStyle.named("tool_call"),
        stop="<|im_end|>",
    )


def test_chatml_writes_an_empty_system_turn(conversation):
    assert conversation.render("cot", {"problem": "1+1"}) == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nSolve 1+1<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_chatml_writes_the_system_text_that_a_prompt_has(conversation):
    record = {"problem": "P", "mood": "brief", "total_code_executions": 3}
    assert conversation.render("tir", record) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nP in 3 runs<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_braces_and_tags_in_values_are_ordinary_characters(conversation):
    problem = "{problem} {{x}} {% if %} \\boxed{}"
    assert f"Solve {problem}<|im_end|>" in conversation.render("cot", {"problem": problem})


def test_a_missing_column_is_named(conversation):
    with pytest.raises(InputError, match="column total_code_executions is missing"):
        conversation.render("tir", {"problem": "P", "mood": "x"})


def test_a_mode_without_prompt_is_named(conversation):
    with pytest.raises(InputError, match="'genselect' has no prompt; known: cot, tir"):
        conversation.render("genselect", {"problem": "P"})


@pytest.mark.parametrize("text", ["{problem.x}", "{problem[0]}", "{}", "{problem", "a } b"])
def test_a_prompt_with_an_unusable_placeholder_is_refused(text):
    with pytest.raises(InputError):
        Prompt("", text).fields()


def test_saved_and_loaded_it_is_the_same(conversation, tmp_path):
    conversation.save(tmp_path)
    assert Conversation.load(tmp_path) == conversation


def test_an_absent_conversation_is_named(tmp_path):
    with pytest.raises(InputError, match=r"has no conversation\.json; name an output of prepare"):
        Conversation.load(tmp_path)


def test_a_damaged_conversation_is_named(tmp_path):
    (tmp_path / "conversation.json").write_text(json.dumps({"prompts": {}, "code": {"x": 1}}))
    with pytest.raises(InputError, match="is damaged"):
        Conversation.load(tmp_path)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system role') }}", "chat template: no system role"),
        ("{% if %}", "chat template: "),
        ("{{ messages.append(1) }}", "chat template: "),
    ],
)
def test_a_template_that_refuses_is_an_input_error(template, message):
    with pytest.raises(InputError, match=message):
        render_messages(template, [{"role": "user", "content": "x"}], {})
