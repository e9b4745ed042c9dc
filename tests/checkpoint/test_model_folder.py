import json
import shutil

import pytest
from tokenizers import Tokenizer

from longrun.checkpoint.model_folder import (
    check_same_tokenizer,
    read_arch,
    read_config,
    read_tokenizer,
    stop_token,
    write_companions,
)
from longrun.errors import InputError


def edit(path, **changes):
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no config.json"):
        read_config(tmp_path)
    with pytest.raises(InputError, match=r"is not a folder"):
        read_config(tmp_path / "absent")


def test_a_config_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json: is not JSON"):
        read_config(tmp_path)


def test_a_tokenizer_larger_than_the_embedding_is_refused(make_model):
    folder = make_model()
    edit(folder / "config.json", vocab_size=258)
    with pytest.raises(InputError, match=r"vocab_size 258 is too small.*largest token id is 258"):
        read_arch(folder)


def test_a_damaged_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json: is damaged"):
        read_tokenizer(tmp_path)


def test_tokenizers_that_differ_in_one_token_are_told_apart(tokenizer_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tokenizer_folder, other)
    check_same_tokenizer(tokenizer_folder, other)
    tokenizer = Tokenizer.from_file(str(other / "tokenizer.json"))
    tokenizer.add_tokens(["extra"])
    tokenizer.save(str(other / "tokenizer.json"))
    with pytest.raises(InputError, match=r"token 'extra' is unknown here and 259 there"):
        check_same_tokenizer(tokenizer_folder, other)


def test_the_stop_token_is_the_eos_of_the_tokenizer(tokenizer_folder, tmp_path):
    assert stop_token(tokenizer_folder) == (258, 256)
    other = tmp_path / "other"
    shutil.copytree(tokenizer_folder, other)
    edit(other / "tokenizer_config.json", pad_token=None, eos_token={"content": "<|im_start|>"})
    assert stop_token(other) == (257, 257)
    edit(other / "tokenizer_config.json", eos_token="<|gone|>")
    with pytest.raises(InputError, match=r"eos_token is '<|gone|>'"):
        stop_token(other)


def test_companions_carry_stop_token_tokenizer_and_conversation(tokenizer_folder, tmp_path):
    conversation = tmp_path / "conversation.json"
    conversation.write_text("{}")
    out = tmp_path / "out"
    out.mkdir()
    write_companions(
        out,
        {"model_type": "qwen2", "torch_dtype": "float16", "eos_token_id": 1},
        dtype="bfloat16",
        tokenizer=tokenizer_folder,
        conversation=conversation,
    )
    config = json.loads((out / "config.json").read_text())
    assert config == {
        "model_type": "qwen2",
        "torch_dtype": "bfloat16",
        "eos_token_id": 258,
        "pad_token_id": 256,
    }
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [258], "pad_token_id": 256}
    names = {path.name for path in out.iterdir()}
    assert names >= {"tokenizer.json", "chat_template.jinja", "conversation.json"}
