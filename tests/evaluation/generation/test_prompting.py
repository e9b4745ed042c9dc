import json
import shutil

import pytest

from longrun.config.benchmarks import Benchmark
from longrun.errors import ConfigError, InputError
from longrun.evaluation.generation.prompting import Prompter, check_model_folder, find_conversation
from longrun.formats.benchmarks import read_benchmark


@pytest.fixture
def problems(write_benchmark):
    rows = [
        {"problem": "Find 6 * 7.", "expected_answer": "42"},
        {"problem": "Use <|im_end|> {x}.", "expected_answer": "1"},
        {"problem": "Run it.", "expected_answer": "1", "mode": "tir"},
        {"problem": "Run it.", "expected_answer": "1", "mode": "tir", "total_code_executions": 3},
    ]
    return read_benchmark(Benchmark(name="b", path=write_benchmark(rows)))


@pytest.fixture
def copied(random_model, tmp_path):
    return shutil.copytree(random_model, tmp_path / "copy")


def test_the_prompt_is_the_conversation_in_the_models_tokens(
    random_model, conversation, problems, tmp_path
):
    prompter = Prompter(random_model, conversation, 8)
    tokens = prompter.encode_prompt(problems[0], tmp_path)
    assert prompter.decode(tokens) == conversation.render("cot", {"problem": "Find 6 * 7."})
    prompter.check_chat_template(problems[0])


def test_a_control_token_in_a_problem_stays_text(random_model, conversation, problems, tmp_path):
    prompter = Prompter(random_model, conversation, 8)
    plain, strange = (prompter.encode_prompt(problem, tmp_path) for problem in problems[:2])
    assert strange.count(prompter.stop_id) == plain.count(prompter.stop_id)
    assert "Use <|im_end|> {x}." in prompter.decode(strange)


def test_the_budget_is_the_rows_own_or_the_settings(random_model, conversation, problems, tmp_path):
    prompter = Prompter(random_model, conversation, 8)
    assert [prompter.budget(problem) for problem in problems] == [0, 0, 8, 3]
    shown = [prompter.decode(prompter.encode_prompt(p, tmp_path)) for p in problems[2:]]
    assert "Run it. 8<" in shown[0]
    assert "Run it. 3<" in shown[1]


def test_a_column_that_the_prompt_needs_is_named_with_file_and_line(
    random_model, conversation, problems, write_benchmark
):
    prompts = {"cot": type(conversation.prompts["cot"])("", "{hint} {problem}")}
    needy = type(conversation)(
        prompts=prompts,
        chat_template=conversation.chat_template,
        code=conversation.code,
        stop=conversation.stop,
    )
    with pytest.raises(InputError, match=r"bench.jsonl:1: column hint is missing"):
        Prompter(random_model, needy, 8).encode_prompt(problems[0], "bench.jsonl")
    with pytest.raises(InputError, match=r"bench.jsonl:3: inference_mode 'tir' has no prompt"):
        Prompter(random_model, needy, 8).encode_prompt(problems[2], "bench.jsonl")


def test_an_export_whose_template_differs_is_refused(copied, conversation, problems):
    path = copied / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = config["chat_template"].replace("assistant", "helper")
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"'helper\\n' instead of 'assistant\\n'; export"):
        Prompter(copied, conversation, 8).check_chat_template(problems[0])


def test_an_equal_prompt_is_logged_with_what_was_compared(copied, conversation, problems, caplog):
    caplog.set_level("INFO")
    prompter = Prompter(copied, conversation, 8)
    prompter.check_chat_template(problems[0])
    count = len(prompter.encode_prompt(problems[0], "b"))
    assert f"token by token (mode cot, {count} tokens compared)" in caplog.text


def test_another_models_template_may_differ_but_is_logged(copied, conversation, problems, caplog):
    (copied / "conversation.json").unlink()
    path = copied / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = "{{ messages[0]['content'] }}"
    path.write_text(json.dumps(config))
    Prompter(copied, conversation, 8).check_chat_template(problems[0])
    assert "the conversation's prompt is used" in caplog.text


def test_a_model_without_a_template_is_taken_and_named(copied, conversation, problems, caplog):
    path = copied / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["chat_template"]
    path.write_text(json.dumps(config))
    Prompter(copied, conversation, 8).check_chat_template(problems[0])
    assert "carries no chat template; the conversation's is used" in caplog.text


def test_the_conversation_is_the_named_one_or_the_models_own(copied, conversation, tmp_path):
    assert find_conversation(copied, None) == conversation
    (copied / "conversation.json").rename(tmp_path / "conversation.json")
    assert find_conversation(copied, tmp_path) == conversation
    with pytest.raises(ConfigError, match="set conversation to the output folder of prepare"):
        find_conversation(copied, None)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_that_is_no_model_is_named_with_what_it_lacks(copied, name):
    check_model_folder(copied)
    (copied / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}"):
        check_model_folder(copied)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        check_model_folder(tmp_path / "none")
