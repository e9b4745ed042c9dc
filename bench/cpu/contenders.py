"""The trainers that are compared: each trains the same model on the same packs, one pack a step.

The peers are used as their documentation says. All have float32 weights, the same AdamW, the same
clipping and a constant learning rate; in bfloat16 the transformers trainers run under autocast.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpu.meter import Meter
from cpu.workload import IGNORED, MODEL_NAME, Document, Settings, read_packs
from peers import BETAS, CLIP_NORM, EPSILON, settings_of_trainer, train_metered

Pack = list[Document]


def train_longrun(folder: Path, settings: Settings, meter_of: Callable[[], Meter]) -> Meter:
    """Longrun's own step, as ``longrun train`` runs it on one process."""
    import numpy as np

    from longrun.checkpoint.huggingface import load_weights
    from longrun.checkpoint.model_folder import read_arch
    from longrun.config.training import OptimizerSettings
    from longrun.nn.attention import choose_backend
    from longrun.nn.decoder import Decoder
    from longrun.nn.pack import build_pack
    from longrun.optim.optimizers import build_optimizers
    from longrun.parallel.data import distribute
    from longrun.parallel.layouts import Layout
    from longrun.parallel.mesh import start_mesh
    from longrun.training.step import MicroStep, compute_gradients, count

    arch, dtype = read_arch(folder / MODEL_NAME), getattr(torch, settings.dtype)
    mesh = start_mesh()
    backend = choose_backend("auto", mesh.device, dtype, arch.head_dim)
    with torch.device("meta"):
        model = Decoder(arch, backend=backend, compute_dtype=dtype)
    distributed = distribute(model, mesh, Layout())
    load_weights(folder / MODEL_NAME, model)
    optimizers = build_optimizers(
        distributed.model, OptimizerSettings(weight_decay=0.0, beta2=BETAS[1], eps=EPSILON)
    )
    meter = meter_of()
    for pack in read_packs(folder):
        meter.start()
        weighted = [(d.tokens, (d.labels != IGNORED).astype(np.float32)) for d in pack]
        micro_steps = [MicroStep(0, build_pack(weighted))]
        gradients = compute_gradients(
            distributed,
            mesh,
            micro_steps,
            num_packs=1,
            weight=count(micro_steps, mesh).weight,
            chunk_tokens=1024,
            clip_norm=CLIP_NORM,
        )
        optimizers.step(settings.lr)
        meter.stop()
        meter.losses.append(gradients.loss)
    return meter


def pad(packs: Sequence[Pack]) -> dict[str, Tensor]:
    """Make the documents of one pack rows of one batch, padded to the longest."""
    (pack,) = packs
    rows = {
        "input_ids": ([torch.from_numpy(d.tokens).long() for d in pack], 0),
        "labels": ([torch.from_numpy(d.labels) for d in pack], IGNORED),
        "attention_mask": ([torch.ones(len(d.tokens), dtype=torch.long) for d in pack], 0),
    }
    return {
        name: torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=padding)
        for name, (values, padding) in rows.items()
    }


def flatten(packs: Sequence[Pack]) -> dict[str, Any]:
    """Use transformers' padding-free packing: one row, positions restart at each document."""
    from transformers import DataCollatorWithFlattening

    (pack,) = packs
    rows = [{"input_ids": d.tokens.tolist(), "labels": d.labels.tolist()} for d in pack]
    batch: dict[str, Any] = DataCollatorWithFlattening()(rows)
    return batch


def concatenate(packs: Sequence[Pack]) -> dict[str, Tensor]:
    """Put the documents one after the other and tell nobody: the old way of packing."""
    (pack,) = packs
    tokens = torch.cat([torch.from_numpy(d.tokens).long() for d in pack])
    labels = torch.cat([torch.from_numpy(d.labels) for d in pack])
    return {"input_ids": tokens[None], "labels": labels[None]}


def transformers_trainer(
    collate: Callable[[Sequence[Pack]], dict[str, Any]],
) -> Callable[[Path, Settings, Callable[[], Meter]], Meter]:
    """Return the contender that is transformers' ``Trainer`` with ``collate``."""

    def train(folder: Path, settings: Settings, meter_of: Callable[[], Meter]) -> Meter:
        from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

        model = AutoModelForCausalLM.from_pretrained(folder / MODEL_NAME, dtype=torch.float32)
        arguments = TrainingArguments(**_arguments(folder, settings))
        packs = read_packs(folder)
        meter = meter_of()
        train_metered(Trainer, meter, model, arguments, packs, {"data_collator": collate})
        return meter

    return train


def train_trl(folder: Path, settings: Settings, meter_of: Callable[[], Meter]) -> Meter:
    """TRL's ``SFTTrainer`` with padding-free packs, as its own packer would hand them over."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "input_ids": [token for d in pack for token in d.tokens.tolist()],
            "labels": [label for d in pack for label in d.labels.tolist()],
            "seq_lengths": [len(d.tokens) for d in pack],
        }
        for pack in read_packs(folder)
    ]
    model = AutoModelForCausalLM.from_pretrained(folder / MODEL_NAME, dtype=torch.float32)
    arguments = SFTConfig(
        **_arguments(folder, settings),
        padding_free=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / MODEL_NAME)
    meter, data = meter_of(), Dataset.from_list(rows)
    train_metered(SFTTrainer, meter, model, arguments, data, {"processing_class": tokenizer})
    return meter


def _arguments(folder: Path, settings: Settings) -> dict[str, Any]:
    bf16 = settings.dtype == "bfloat16"
    shared = settings_of_trainer(
        str(folder / "peer"), steps=settings.num_packs, lr=settings.lr, bf16=bf16
    )
    return {**shared, "use_cpu": True}


CONTENDERS: dict[str, tuple[str, Callable[..., Meter], tuple[str, ...], bool]] = {
    "longrun": ("Longrun", train_longrun, (), True),
    "hf-padded": ("transformers Trainer, padded", transformers_trainer(pad), ("accelerate",), True),
    "hf-packed": (
        "transformers Trainer, padding-free packs",
        transformers_trainer(flatten),
        ("accelerate",),
        True,
    ),
    "trl-packed": ("TRL SFTTrainer, padding-free packs", train_trl, ("trl", "datasets"), True),
    "hf-concatenated": (
        "transformers Trainer, concatenated",
        transformers_trainer(concatenate),
        ("accelerate",),
        False,
    ),
}
"""Name -> title, function, packages, and whether documents are kept apart."""
