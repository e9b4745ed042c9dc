"""Tiny model folders in the real formats."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from longrun.checkpoint import init_model
from longrun.checkpoint.saving import Retention, Saver
from longrun.checkpoint.sharded import LoopState
from longrun.config.stages import InitModelConfig
from longrun.parallel.mesh import Mesh

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({sign: index for index, sign in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def make_model(tokenizer_folder, tmp_path):
    """Return ``make(name, **settings)``: the folder of a new random model."""

    def make(name: str = "model", **settings) -> Path:
        values = {
            "tokenizer": tokenizer_folder,
            "output_dir": tmp_path / name,
            "num_layers": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "num_kv_heads": 1,
            "max_positions": 64,
            "rope_theta": 12345.0,
            **settings,
        }
        init_model.run(InitModelConfig.parse(values, "init_model"))
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def save_checkpoint():
    """Return ``save(folder, state, tensors)``, which waits until the checkpoint is there."""

    def save(folder: Path, state: LoopState, tensors: dict[str, torch.Tensor]) -> Path:
        alone = Mesh(0, 1, torch.device("cpu"), "none")
        saver = Saver(folder, alone, Retention(None, ()), background=False)
        path = saver.begin(state, tensors)
        saver.close()
        return path

    return save
