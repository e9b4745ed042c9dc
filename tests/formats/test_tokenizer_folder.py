import json

import pytest

from longrun.data.prompts import load_template
from longrun.data.tokenizer_training import train_tokenizer, write_tokenizer_folder
from longrun.errors import InputError
from longrun.formats.code_style import CodeStyle
from longrun.formats.conversation import Conversation, Prompt
from longrun.formats.tokenizer_folder import (
    find_stop,
    own_chat_template,
    read_tokenizer_config,
    save_tokenizer,
    special_tokens,
)

STOP = "<|im_end|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokenizer"
    tokenizer = train_tokenizer(["some plain text, and 12 numbers"] * 3, vocabulary_size=300)
    write_tokenizer_folder(tokenizer, path, model_max_length=64)
    return path


@pytest.fixture
def conversation(folder):
    prompts = {"cot": Prompt("", "Q: {problem}")}
    template = load_template("chatml", folder)
    code = CodeStyle.named("tool_call")
    return Conversation(prompts=prompts, chat_template=template, code=code, stop=STOP)


def test_the_stop_token_is_what_the_template_writes_after_a_response(folder):
    template = load_template("chatml", folder)
    assert find_stop(folder, template, {"eos_token": "<|endoftext|>"}) == STOP
    silent = "{{ messages[-1]['content'] }}"
    assert find_stop(folder, silent, {"eos_token": "<|endoftext|>"}) == "<|endoftext|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[-1]['content'] }}<|eot_id|>", r"has no token <\|eot_id\|>, which the chat"),
        ("{{ messages[-1]['content'] }}</s>", r"ends a response with '</s>', which is not a token"),
        ("{{ messages[-1]['content'] }}", r"ends a response with '', which is not a token"),
    ],
)
def test_a_template_that_does_not_fit_the_tokenizer_is_named(template, message, folder):
    with pytest.raises(InputError, match=message):
        find_stop(folder, template, {})


def test_a_saved_tokenizer_carries_template_and_end_token(folder, conversation, tmp_path):
    (tmp_path / "source").mkdir()
    for path in folder.iterdir():
        (tmp_path / "source" / path.name).write_bytes(path.read_bytes())
    named = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (tmp_path / "source" / "special_tokens_map.json").write_text(json.dumps(named))
    (tmp_path / "source" / "chat_template.jinja").write_text("another")
    (tmp_path / "saved").mkdir()
    save_tokenizer(tmp_path / "source", tmp_path / "saved", conversation)
    config = read_tokenizer_config(tmp_path / "saved")
    assert special_tokens(config)["eos_token"] == STOP
    assert own_chat_template(tmp_path / "saved") == conversation.chat_template
    saved = json.loads((tmp_path / "saved" / "special_tokens_map.json").read_text())
    assert saved == {"eos_token": STOP, "pad_token": "<|endoftext|>"}
