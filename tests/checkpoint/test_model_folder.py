import json
import shutil

import pytest
from tokenizers import Tokenizer

from longrun.checkpoint.model_folder import (
    check_same_tokenizer,
    edit_context,
    portable_config,
    read_arch,
    read_config,
    read_tokenizer,
    stop_token,
    write_companions,
)
from longrun.config.training import ContextEdit
from longrun.errors import InputError
from longrun.nn.architecture import Arch
from longrun.nn.positions import YarnRopeScaling

MODEL = {
    "model_type": "qwen2",
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64,
}


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
        MODEL
        | {"torch_dtype": "float16", "dtype": "float32", "eos_token_id": 1, "bos_token_id": 7},
        dtype="bfloat16",
        tokenizer=tokenizer_folder,
        conversation=conversation,
    )
    config = json.loads((out / "config.json").read_text())
    assert (config["torch_dtype"], config["dtype"]) == ("bfloat16", "bfloat16")
    assert (config["eos_token_id"], config["pad_token_id"]) == (258, 256)
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [258], "pad_token_id": 256, "bos_token_id": 7}
    names = {path.name for path in out.iterdir()}
    assert names >= {"tokenizer.json", "chat_template.jinja", "conversation.json"}


OLD = {"rope_theta": 10_000.0, "max_position_embeddings": 4096}
NEW = {"rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"}} | {
    "max_position_embeddings": 4096
}


@pytest.mark.parametrize("config", [OLD, NEW])
def test_positions_are_edited_in_both_spellings(config):
    edited = edit_context(config, ContextEdit(rope_theta=5e5, max_positions=131_072), "c")
    assert edited == {
        "max_position_embeddings": 131_072,
        "rope_theta": 5e5,
        "rope_scaling": None,
        "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"},
    }
    assert edit_context(config, ContextEdit(), "c") == config


def test_longer_positions_do_not_change_what_yarn_started_from():
    config = {"rope_scaling": {"type": "yarn", "factor": 2.0}, "max_position_embeddings": 64}
    edited = edit_context(config, ContextEdit(max_positions=128), "c")
    assert edited["rope_scaling"]["original_max_position_embeddings"] == 64


def test_positions_that_are_stretched_already_are_not_stretched_again():
    once = edit_context({"max_position_embeddings": 64}, ContextEdit(yarn_factor=2.0), "c")
    with pytest.raises(InputError, match=r"stretched already \(yarn\)"):
        edit_context(once, ContextEdit(yarn_factor=2.0), "c")


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    "rope",
    [
        {},
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3, "original_max_position_embeddings": 16},
        {"rope_parameters": {"type": "yarn", "rope_theta": 5e5, "factor": 2.0}},
    ],
)
def test_an_export_says_the_rotation_in_both_spellings(rope):
    config = portable_config(MODEL | rope, "float32", "c")
    old = {name: config[name] for name in config if name != "rope_parameters"}
    new = {name: config[name] for name in config if name not in ("rope_theta", "rope_scaling")}
    asked = Arch.from_hf(MODEL | rope, "c")
    assert asked == Arch.from_hf(config, "c")
    assert asked == Arch.from_hf(old, "c")
    assert asked == Arch.from_hf(new, "c")
    assert portable_config(config, "float32", "c") == config


def test_a_window_that_hides_nothing_is_not_exported():
    window = {"use_sliding_window": False, "sliding_window": 8, "layer_types": ["full_attention"]}
    config = portable_config(MODEL | window, "float32", "c")
    assert config["sliding_window"] is None
    assert "layer_types" not in config


def test_a_factor_that_versions_read_differently_is_said(caplog):
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    portable_config(MODEL | {"rope_scaling": yarn}, "float32", "c")
    assert "is 1 times original_max_position_embeddings, but yarn's factor is 4" in caplog.text


@pytest.mark.parametrize("style", ["old", "new"])
def test_yarn_stretches_the_positions_that_the_model_had(make_model, style):
    folder = make_model()
    before = read_arch(folder)
    if style == "new":
        rope = {"rope_theta": before.rope_theta, "rope_type": "default"}
        edit(folder / "config.json", rope_parameters=rope, rope_theta=None)
    arch = read_arch(folder, ContextEdit(yarn_factor=4.0))
    assert arch.max_positions == 4 * before.max_positions
    assert arch.rope_theta == before.rope_theta
    assert isinstance(arch.rope_scaling, YarnRopeScaling)
    assert arch.rope_scaling.original_max_positions == before.max_positions
    assert arch.rope_scaling.attention_factor == pytest.approx(1.1386, abs=1e-4)
