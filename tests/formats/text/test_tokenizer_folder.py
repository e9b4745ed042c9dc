import json

import pytest

from longrun.data.records.prompts import load_template
from longrun.data.synthetic.tokenizer_training import train_tokenizer, write_tokenizer_folder
from longrun.errors import InputError
from longrun.formats.text.code_style import CodeStyle
from longrun.formats.text.conversation import Conversation, Prompt
from longrun.formats.text.tokenizer_folder import (
    find_stop,
    named_tokens,
    own_chat_template,
    read_tokenizer_config,
    readable_config,
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


def write(folder, **files):
    folder.mkdir()
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def test_names_come_from_the_files_where_transformers_looks(tmp_path):
    config = {"eos_token": "<e>", "extra_special_tokens": {"image_token": "<i>"}}
    names = {"bos_token": {"content": "<b>"}, "eos_token": "<f>"}
    both = {"tokenizer_DOT_json": {}, "special_tokens_map_DOT_json": names}
    one = write(tmp_path / "one", tokenizer_config_DOT_json=config, **both)
    assert named_tokens(one) == {"eos_token": "<f>", "image_token": "<i>", "bos_token": "<b>"}
    config["added_tokens_decoder"] = {}
    other = write(tmp_path / "other", tokenizer_config_DOT_json=config, **both)
    assert named_tokens(other) == {"eos_token": "<e>", "image_token": "<i>"}


def test_a_stop_that_only_the_generation_config_names_is_found(folder, tmp_path):
    generation = {"eos_token_id": [decode_id(folder, STOP), 3]}
    files = {
        "tokenizer_DOT_json": (folder / "tokenizer.json").read_text(),
        "generation_config_DOT_json": generation,
    }
    place = write(tmp_path / "place", **files)
    assert find_stop(place, "{{ messages[-1]['content'] }}", named_tokens(place)) == STOP


def decode_id(folder, token):
    content = json.loads((folder / "tokenizer.json").read_text())
    return next(one["id"] for one in content["added_tokens"] if one["content"] == token)


def test_of_several_templates_the_default_one_is_taken(tmp_path):
    entries = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    listed = {"tokenizer_DOT_json": {}, "tokenizer_config_DOT_json": {"chat_template": entries}}
    assert own_chat_template(write(tmp_path / "a", **listed)) == "A"
    file = {"chat_template_DOT_jinja": "C"}
    assert own_chat_template(write(tmp_path / "b", **listed, **file)) == "C"
    folder = {"additional_chat_templates__default_DOT_jinja": "D"}
    assert own_chat_template(write(tmp_path / "c", **listed, **folder)) == "D"
    other = {"tokenizer_DOT_json": {}, "additional_chat_templates__rag_DOT_jinja": "E"}
    with pytest.raises(InputError, match="has the chat templates rag and none called default"):
        own_chat_template(write(tmp_path / "d", **other))


def test_what_transformers_5_wrote_is_written_so_that_4_reads_it():
    config = {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "is_local": True,
        "eos_token": "<e>",
        "extra_special_tokens": ["<a>", {"content": "<b>"}],
        "additional_special_tokens": ["<b>"],
    }
    assert readable_config(config) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<e>",
        "additional_special_tokens": ["<b>", "<a>"],
        "model_input_names": ["input_ids", "attention_mask"],
    }
    named = {"tokenizer_class": "Qwen2Tokenizer", "extra_special_tokens": {"image_token": "<i>"}}
    assert readable_config(named) == named
