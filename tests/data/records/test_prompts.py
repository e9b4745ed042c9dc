import pytest

from longrun.data.records.prompts import load_prompt, load_prompts, load_template, prompt_path
from longrun.errors import InputError, LongrunError

BUILT_IN = {"math": {"problem"}, "math-tir": {"problem", "total_code_executions"}}


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_prompt_asks_for_a_boxed_answer(name):
    prompt = load_prompt(prompt_path(name))
    assert prompt.fields() == BUILT_IN[name]
    text = prompt.fill({"problem": "What is {x}?", "total_code_executions": 7})[1]
    assert "\\boxed{}" in text
    assert text.endswith("\n\nWhat is {x}?")
    assert ("7" in text) == ("total_code_executions" in BUILT_IN[name])


def test_as_is_adds_nothing():
    assert load_prompts({"genselect": "as-is"})["genselect"].fill({"problem": "Q"}) == ("", "Q")


def test_a_file_of_the_user_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("system: Be brief.\nuser: '{problem}'\n")
    prompt = load_prompts({"cot": str(path)})["cot"]
    assert (prompt.system, prompt.user) == ("Be brief.", "{problem}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user: [", "not YAML"),
        ("system: x", "a prompt needs the key user"),
        ("- x", "a prompt needs the key user"),
        ("user: x\nsytem: y", "unknown key sytem; did you mean system?"),
        ("user: 3", "user must be text, not int"),
        ("user: '{a.b}'", "placeholder {a.b} is not the name of a column"),
    ],
)
def test_an_unusable_prompt_file_is_named(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(LongrunError) as caught:
        load_prompt(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_template_comes_from_a_file_or_from_the_tokenizer(tmp_path):
    own = tmp_path / "mine.jinja"
    own.write_text("{{ messages[0]['content'] }}")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "T"}')
    assert load_template(str(own), tmp_path) == "{{ messages[0]['content'] }}"
    assert load_template("tokenizer", tmp_path) == "T"
    with pytest.raises(InputError, match=r"chat_template no\.jinja: there is no such file"):
        load_template("no.jinja", tmp_path)
