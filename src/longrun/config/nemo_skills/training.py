"""What ``train`` of the reference takes, and what it does where nothing is said."""

import re
from pathlib import Path
from typing import Any

from longrun.config.nemo_skills.aligner import DATA, MODEL, OPTIMIZER, TRAINER, read_packs
from longrun.config.nemo_skills.nemo_rl import NEMO_RL
from longrun.config.nemo_skills.option import (
    EVERYWHERE,
    Table,
    idle,
    moved,
    nest,
    refused,
    same,
)
from longrun.errors import ConfigError

TRAINING, AVERAGED = "training", "model-averaged-nemo"
"""Folders inside the ``output_dir`` of the command."""


def _read_steps(value: Any) -> Any:
    """``7500,15000`` or ``all``; YAML reads one number as a number, two as a text."""
    if value == "all" or str(value).startswith("last:"):
        return value
    numbers = value if isinstance(value, list) else str(value).split(",")
    if not all(re.fullmatch(r"\d+", str(number).strip()) for number in numbers):
        raise ValueError("is not a list of steps, as in 7500,15000, nor all")
    return [int(number) for number in numbers]


_NO_SERVER = idle("no server takes part in supervised fine-tuning")

_COMMAND: Table = {
    "output_dir": moved("output_dir"),
    "final_nemo_path": moved("final"),
    "nemo_model": moved("train.model"),
    "hf_model": moved("train.model"),
    "training_data": moved("train.packs", read_packs),
    "validation_data": idle("packs hold the validation documents of `prepare`"),
    "num_nodes": moved("train.num_nodes"),
    "num_gpus": moved("train.num_processes"),
    "tp": moved("train.tensor_parallel"),
    "training_algo": same(
        "sft", because="fine-tuning is all there is", instead="other algorithms are not here"
    ),
    "config_name": refused("settings come from FILE.yaml and name=value"),
    "config_path": refused("settings come from FILE.yaml and name=value"),
    "backend": idle("there is one trainer"),
    "wandb_project": moved("train.wandb.project"),
    "disable_wandb": idle("only --wandb_project turns it on", flag=True),
    "with_sandbox": idle("training runs no code", flag=True),
    "average_steps": moved("average.steps", _read_steps),
    "save_last_ckpt": idle("the last step is always saved", flag=True),
    **dict.fromkeys(
        ("server_model", "server_address", "server_type", "server_gpus", "server_nodes"), _NO_SERVER
    ),
    "server_args": _NO_SERVER,
}

TRAIN: Table = {
    **EVERYWHERE,
    **_COMMAND,
    **TRAINER,
    **MODEL,
    **DATA,
    **OPTIMIZER,
    **NEMO_RL,
}


def build_training(moved: dict[str, Any]) -> dict[str, Any]:
    """Return the stages of the command: train, then average.

    Raises:
        ConfigError: the betas are not two, or the model is what the command itself would write.
    """
    output_dir = Path(str(moved["output_dir"]))
    betas = moved.get("betas", [0.9, 0.98])
    if len(betas) != 2:
        raise ConfigError(f"train: ++model.optim.betas={betas}: must be two numbers")
    steps = moved.get("average.steps", "all")
    checkpoints = str(output_dir / TRAINING)
    averaged = Path(str(moved.get("final", output_dir / AVERAGED)))
    model = Path(str(moved.get("train.model", "")))
    if {averaged, Path(checkpoints)} & {model, *model.parents}:
        raise ConfigError(
            f"train: --nemo_model={model} is what this very command would write; give the second"
            " round an --output_dir of its own"
        )
    train = {
        "train.output_dir": checkpoints,
        "train.optimizer.beta1": betas[0],
        "train.optimizer.beta2": betas[1],
        "train.keep_steps": steps if isinstance(steps, list) else [],
        **{place: value for place, value in moved.items() if place.startswith("train.")},
    }
    average = {
        "average.output_dir": str(averaged),
        "average.checkpoints": checkpoints,
        "average.steps": steps,
    }
    return nest(train | average)


def complete_training(train: dict[str, Any]) -> None:
    """Fill in what the reference does where a command and its settings are silent."""
    several = any(train.get(name, 1) != 1 for name in ("num_processes", "num_nodes"))
    train.setdefault("dtype", "bfloat16")
    train.setdefault("sharding", "states" if several else "replicate")
    train.setdefault("max_epochs", 2)
    if "global_batch_tokens" not in train:
        train.setdefault("global_batch_size", 512)
    optimizer = train["optimizer"]
    optimizer.setdefault("lr", 5e-6)
    optimizer.setdefault("clip_norm", None)
    if "schedule" not in optimizer:
        optimizer.setdefault("min_lr", optimizer["lr"])
