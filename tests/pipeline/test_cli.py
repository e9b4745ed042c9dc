"""A script of the reference changes the package's name only."""

from pathlib import Path

import pytest

from longrun.data.records.prompt_templates import get_prompt
from longrun.errors import ConfigError
from longrun.pipeline import wrap_arguments
from longrun.pipeline.cli import convert, eval, generate, run_cmd, train
from longrun.prompt import utils


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LONGRUN_CLUSTER", raising=False)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (train, {"nemo_model": "m", "num_gpus": 1}, "train: --output_dir is required"),
        (convert, {"input_model": "m", "num_gpus": 1}, "convert: --output_model is required"),
        (eval, {"server_type": "trtllm"}, "eval: --output_dir is required"),
        (generate, {"server_type": "vllm"}, "generate: --output_dir is required"),
        (eval, {"output_dir": "o", "model": "m", "benchmarks": "no:4"}, "benchmark 'no'"),
    ],
)
def test_the_commands_are_functions_with_the_options_of_there(command, options, message):
    with pytest.raises(ConfigError, match=message):
        command(ctx=wrap_arguments(""), **options)


def test_a_command_runs_and_prompts_are_those_of_the_data_room():
    run_cmd(ctx=wrap_arguments("echo here > out"), expname="first", reuse_code=True)
    assert Path("out").read_text() == "here\n"
    assert utils.get_prompt is get_prompt
    filled = utils.get_prompt(prompt_config="as-is", prompt_template="qwen-instruct").fill(
        input_dict={"problem": "x"}
    )
    assert filled.endswith("user\nx<|im_end|>\n<|im_start|>assistant\n")
