"""The stage that makes a randomly initialised Qwen2-architecture model.

The vocabulary has exactly as many rows as the tokenizer has ids: no rows are added to reach a
round number, because a row that no token uses is never trained.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from longrun.checkpoint.huggingface import write_weights
from longrun.checkpoint.model_folder import read_tokenizer, stop_token, write_companions
from longrun.config.stages import InitModelConfig
from longrun.formats.stages.atomic import atomic_folder
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.stage import open_stage
from longrun.nn.architecture import Arch
from longrun.nn.decoder import Decoder


def run(config: InitModelConfig) -> Manifest:
    """Write the model folder: random weights, config, the given tokenizer.

    Raises:
        InputError: the tokenizer folder cannot be used.
    """
    with open_stage("init_model", config) as stage:
        if stage.finished is not None:
            return stage.finished
        stop_token(config.tokenizer)
        parts = stage.folder / "parts"
        shutil.rmtree(parts, ignore_errors=True)
        with atomic_folder(parts) as aside:
            num_parameters = _write(config, aside)
        for path in sorted(parts.iterdir()):
            os.replace(path, stage.folder / path.name)
        parts.rmdir()
        return stage.finish(counts={"parameters": num_parameters})


def _write(config: InitModelConfig, folder: Path) -> int:
    settings = hugging_face_config(config)
    model = Decoder(Arch.from_hf(settings, "init_model"), backend="reference")
    model.initialise(config.seed, config.std)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    write_weights(folder, shapes, weights.__getitem__, torch.float32)
    write_companions(folder, settings, dtype="float32", tokenizer=config.tokenizer)
    return sum(tensor.numel() for tensor in weights.values())


def hugging_face_config(config: InitModelConfig) -> dict[str, Any]:
    """Return the ``config.json`` of the model that ``config`` describes."""
    vocabulary = read_tokenizer(config.tokenizer).get_vocab()
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": max(vocabulary.values()) + 1,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "initializer_range": config.std,
        "rms_norm_eps": 1e-6,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "use_sliding_window": False,
    }
