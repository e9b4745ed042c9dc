import hashlib

import pytest

from longrun.data.records.prompt_templates import get_prompt
from longrun.data.records.prompts import load_prompt, load_template
from longrun.errors import InputError, LongrunError
from longrun.formats.text.conversation import render_messages

QWEN = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
FEW_SHOT = {
    "user": "{examples}Solve: {problem}",
    "few_shot_examples": {
        "template": "P: {problem}\nS: {solution}\n\n",
        "prefix": "Look:\n",
        "suffix": "Now you.\n",
        "examples": [{"problem": "{a}", "solution": "1"}, {"problem": "b", "solution": "2"}],
    },
}


def test_a_filled_prompt_has_the_bytes_that_other_programs_make():
    text = get_prompt({"user": "{problem}"}, "qwen-instruct").fill({"problem": "What's 2 + 2?"})
    assert text == QWEN.format("", "What's 2 + 2?")
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "7b13b74bbdec7647112a3811fa76146935df0d5ca32b8e2899ef4ec017738e20"


@pytest.mark.parametrize("system", ["", "Be {mood}."])
def test_the_layout_is_that_of_the_built_in_chat_template(system, tmp_path):
    config = {"system": system, "user": "{problem}!"}
    record = {"problem": "{x} <|", "mood": "brief"}
    text = get_prompt(config, "qwen-instruct").fill(record)
    messages = get_prompt(config).fill(record)
    assert messages[-1] == {"role": "user", "content": "{x} <|!"}
    assert len(messages) == (2 if system else 1)
    assert text == render_messages(load_template("chatml", tmp_path), messages, {})


def test_examples_come_before_the_problem_and_braces_in_them_are_text():
    text = get_prompt(FEW_SHOT).fill({"problem": "c"})[0]["content"]
    assert text == "Look:\nP: {a}\nS: 1\n\nP: b\nS: 2\n\nNow you.\nSolve: c"
    assert get_prompt(FEW_SHOT, examples=[]).fill({"problem": "c"})[0]["content"] == "Solve: c"
    other = get_prompt(FEW_SHOT, examples=[{"problem": "x", "solution": "y"}])
    assert "P: x" in other.fill({"problem": "c"})[0]["content"]


def test_prompt_files_of_prepare_may_have_examples(tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text(
        "user: '{examples}{problem}'\n"
        "few_shot_examples: {template: '{q}|', examples: [{q: 1}, {q: 2}]}\n"
    )
    assert load_prompt(path).user == "1|2|{problem}"


def test_past_turns_are_closed_and_the_last_is_open():
    prompt = get_prompt({"user": "Q: {problem}", "system": "S"}, "qwen-instruct")
    record = {"turns": [{"problem": "a", "assistant": "A"}, {"problem": "b"}]}
    begin = QWEN.format("S", "Q: a")
    end = "<|im_start|>user\nQ: b<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.fill(record, multi_turn_key="turns") == f"{begin}A<|im_end|>\n{end}"
    messages = get_prompt({"user": "Q: {problem}"}).fill(record, multi_turn_key="turns")
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    with pytest.raises(InputError, match="key assistant: text is needed, got None"):
        prompt.fill({"turns": [{"problem": "a"}, {"problem": "b"}]}, multi_turn_key="turns")
    with pytest.raises(InputError, match="column turns: a list of turns is needed"):
        prompt.fill({}, multi_turn_key="turns")


def test_a_response_is_closed_unless_it_goes_on():
    prompt = get_prompt("as-is", "qwen-instruct")
    record = {"problem": "a", "generation": "So"}
    opened = prompt.fill(
        record, prefix_generation_to_response=True, continue_prefix_generation=True
    )
    assert opened == QWEN.format("", "a") + "So"
    assert prompt.fill(record, prefix_generation_to_response=True) == opened + "<|im_end|>\n"
    assert prompt.stop_phrases == ["<|im_end|>", "<|endoftext|>"]
    assert (
        get_prompt("as-is").fill(record, prefix_generation_to_response=True)[-1]["content"] == "So"
    )


def test_a_template_can_be_a_file_or_a_mapping(tmp_path):
    texts = dict.fromkeys(
        ("text_begin", "system_begin", "system_end", "user_end", "assistant_end"), ""
    ) | {"user_begin": "U:", "assistant_begin": " A:"}
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(f"{key}: {value!r}" for key, value in texts.items()))
    for template in (texts, str(path)):
        assert get_prompt("as-is", template).fill({"problem": "x"}) == "U:x A:"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("maths",), r"prompt 'maths' is not built in \(did you mean math"),
        (("math", "qwen-instuct"), "prompt template 'qwen-instuct': did you mean qwen-instruct"),
        (("math", {"text_begin": ""}), "prompt template: .*missing"),
        (("math", {"text_begim": ""}), "unknown key text_begim; did you mean text_begin"),
        (("math", "none.yaml"), r"none\.yaml: no such file"),
        (({"user": "{examples}", "few_shot_examples": {"prefix": ""}},), "needs the key template"),
        (
            ({"user": "x", "few_shot_examples": {"template": "{q}", "examples": [{}]}},),
            "few_shot_examples: column q is missing",
        ),
        (({"usr": "x"},), "a prompt needs the key user"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(LongrunError, match=message):
        get_prompt(*arguments)
