"""A tokenizer trained on the spot: digits alone, nothing lost, loadable as any other."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from longrun.data.synthetic.dataset import MODES, generate_records
from longrun.data.synthetic.tokenizer_training import (
    SPECIAL_TOKENS,
    TAG_TOKENS,
    train_tokenizer,
    write_tokenizer_folder,
)


def _texts() -> Iterator[str]:
    for mode in MODES:
        for record in generate_records(mode, num_records=100, seed=3):
            yield f"{record['problem']}\n{record['generated_solution']}"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(_texts(), vocabulary_size=1024)


def test_every_digit_is_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    tokens = [tokenizer.decode([token_id]) for token_id in tokenizer.encode("a = 2014\nthe 7").ids]
    assert tokens[2:7] == [" ", "2", "0", "1", "4"]
    assert tokens[-1] == "7"


@settings(max_examples=200, deadline=None)
@given(text=st.text() | st.lists(st.sampled_from([*_texts()][:5])).map("".join))
def test_decoding_gives_back_every_text(tokenizer: Tokenizer, text: str) -> None:
    decoded = tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False)
    assert decoded == unicodedata.normalize("NFC", text)


def test_the_vocabulary_holds_the_special_tokens_first_and_stays_within_its_size() -> None:
    small = train_tokenizer(_texts(), vocabulary_size=280)
    assert small.get_vocab_size(with_added_tokens=False) == 280
    assert [small.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert all(len(small.encode(tag).ids) == 1 for tag in TAG_TOKENS)


@pytest.mark.parametrize("beside", [{}, {"model_type": "qwen2"}], ids=["alone", "in a model"])
def test_transformers_loads_the_folder_and_agrees(
    beside: dict[str, str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = tmp_path / "tokenizer"
    write_tokenizer_folder(tokenizer, folder, model_max_length=512)
    if beside:
        (folder / "config.json").write_text(json.dumps(beside))
    loaded = AutoTokenizer.from_pretrained(folder)
    assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert loaded.model_max_length == 512
    assert loaded.chat_template is None
    for text in _texts():
        token_ids = loaded(text).input_ids
        assert token_ids == tokenizer.encode(text).ids
        assert loaded.decode([1, *token_ids, 2], skip_special_tokens=True) == text


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "again"):
        write_tokenizer_folder(
            train_tokenizer(_texts(), vocabulary_size=512), tmp_path / name, model_max_length=512
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        first = (tmp_path / "first" / name).read_bytes()
        assert first == (tmp_path / "again" / name).read_bytes()
        assert json.loads(first)
