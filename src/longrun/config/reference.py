"""The option names of NeMo-Skills' training recipe, and what each means here.

One flat table per command: ``OPTIONS["train"]["model.optim.lr"]`` stands for ``++model.optim.lr``
or ``--model.optim.lr``. An option moves to a setting of a stage, or has no effect and says why.
Its values are checked where the setting is.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrun.errors import ConfigError

TRAINING, AVERAGED, DOCUMENTS = "training", "model-averaged-nemo", "documents"
"""Folders inside the ``output_dir`` of a command."""
_PACKED = re.compile(r"^packed_(?P<size>\d+)_seed(?P<seed>\d+)$")


@dataclass(frozen=True, slots=True)
class Option:
    """What one option becomes."""

    to: str = ""
    """Stage and setting, as ``train.optimizer.lr``; a single word is for the command itself."""
    read: Callable[[Any], Any] | None = None
    """Turns the value into that of the setting; raises ``ValueError`` with what is wrong."""
    idle: str = ""
    """Why it has no effect; empty: it has one."""
    only: tuple[Any, ...] = ()
    """Values that may be given; none named: any."""
    flag: bool = False
    """Takes no value."""
    many: bool = False
    """Takes all words up to the next option."""


def _read_steps(value: Any) -> Any:
    """``7500,15000`` or ``all``; YAML reads one number as a number, two as a text."""
    if value == "all" or str(value).startswith("last:"):
        return value
    numbers = value if isinstance(value, list) else str(value).split(",")
    if not all(re.fullmatch(r"\d+", str(number).strip()) for number in numbers):
        raise ValueError("is not a list of steps, as in 7500,15000, nor all")
    return [int(number) for number in numbers]


def _read_packs(value: Any) -> str:
    """The name without ``.npy`` is the folder of packs; the file itself never existed."""
    return str(value).removesuffix(".npy")


def _read_precision(value: Any) -> str:
    known = {"bf16": "bfloat16", "bf16-mixed": "bfloat16", "32": "float32", "fp32": "float32"}
    known["fp16"] = "float16"
    if str(value) not in known:
        raise ValueError(f"is not one of {', '.join(known)}")
    return known[str(value)]


def _read_sources(value: Any) -> list[dict[str, str]]:
    files = value if isinstance(value, list) else [value]
    return [{"path": str(file), "layout": "qwen-instruct"} for file in files]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _read_recompute(value: Any) -> str:
    known = {"full": "full", "selective": "pointwise", "None": "none"}
    if str(value) not in known:
        raise ValueError("is not full, selective or null")
    return known[str(value)]


def _read_time_min(value: Any) -> list[str]:
    return [f"--time-min={value}"]


_NO_SERVER = Option(idle="no server takes part in supervised fine-tuning")
_KEPT_CODE = Option(idle="a job always runs the code as it was when it was submitted")
_EVERYWHERE = {
    "time_min": Option("job.sbatch", _read_time_min),
    "reuse_code": _KEPT_CODE,
    "reuse_code_exp": _KEPT_CODE,
    "exclusive": Option(idle="`exclusive` of the cluster file says it", flag=True),
    "not_exclusive": Option(idle="`exclusive` of the cluster file says it", flag=True),
}

_TRAIN = {
    "output_dir": Option("output_dir"),
    "final_nemo_path": Option("final"),
    "nemo_model": Option("train.model"),
    "training_data": Option("train.packs", _read_packs),
    "validation_data": Option(idle="packs hold the validation documents of `prepare`"),
    "num_nodes": Option("train.num_nodes"),
    "num_gpus": Option("train.num_processes"),
    "tp": Option("train.tensor_parallel"),
    "training_algo": Option(idle="fine-tuning is all there is", only=("sft",)),
    "wandb_project": Option("train.wandb.project"),
    "disable_wandb": Option(idle="only --wandb_project turns it on", flag=True),
    "with_sandbox": Option(idle="training runs no code", flag=True),
    "average_steps": Option("average.steps", _read_steps),
    "save_last_ckpt": Option(idle="the last step is always saved", flag=True),
    "server_model": _NO_SERVER,
    "server_address": _NO_SERVER,
    "server_type": _NO_SERVER,
    "server_gpus": _NO_SERVER,
    "server_nodes": _NO_SERVER,
    "server_args": _NO_SERVER,
    "model.data.train_ds.max_seq_length": Option(idle="packs know their size"),
    "model.encoder_seq_length": Option(idle="packs know their size"),
    "model.data.train_ds.micro_batch_size": Option(
        idle="a process computes one pack at a time", only=(1,)
    ),
    "model.data.train_ds.global_batch_size": Option("train.global_batch_size"),
    "model.data.train_ds.packed_sequence": Option(idle="data is always packed", only=(True,)),
    "model.data.train_ds.num_workers": Option(idle="packs are read by memory map"),
    "model.data.train_ds.shuffle": Option(idle="`pack` draws the order", only=(True,)),
    "model.tensor_model_parallel_size": Option("train.tensor_parallel"),
    "model.context_parallel_size": Option("train.context_parallel"),
    "model.pipeline_model_parallel_size": Option(idle="there are no pipelines", only=(1,)),
    "model.sequence_parallel": Option(idle="always on with tensor_parallel"),
    "model.seed": Option("train.seed"),
    "model.activations_checkpoint_granularity": Option("train.recompute", _read_recompute),
    "model.optim.name": Option(
        idle="AdamW, its states sharded", only=("distributed_fused_adam", "fused_adam")
    ),
    "model.optim.lr": Option("train.optimizer.lr"),
    "model.optim.weight_decay": Option("train.optimizer.weight_decay"),
    "model.optim.betas": Option("betas", _as_list),
    "model.optim.sched.name": Option(idle="cosine", only=("CosineAnnealing",)),
    "model.optim.sched.min_lr": Option("train.optimizer.min_lr"),
    "model.optim.sched.warmup_steps": Option("train.optimizer.warmup_steps"),
    "model.optim.sched.constant_steps": Option(
        idle="min_lr is reached at the last step", only=(0,)
    ),
    "trainer.precision": Option("train.dtype", _read_precision),
    "trainer.devices": Option("train.num_processes"),
    "trainer.num_nodes": Option("train.num_nodes"),
    "trainer.sft.save_interval": Option("train.save_interval"),
    "trainer.sft.max_steps": Option("train.max_steps"),
    "trainer.sft.max_epochs": Option("train.max_epochs"),
    "trainer.sft.val_check_interval": Option("train.validation_interval"),
    "trainer.sft.limit_val_batches": Option(idle="all held-out documents are computed"),
    "trainer.sft.gradient_clip_val": Option("train.optimizer.clip_norm"),
    "trainer.sft.limit_train_batches": Option(idle="all packs are used", only=(1.0,)),
}

_PACK = {
    "model.data.train_ds.file_names": Option("prepare.data", _read_sources),
    "model.data.train_ds.max_seq_length": Option("longest"),
    "model.data.train_ds.hf_dataset": Option(idle="files are streamed"),
    "model.data.train_ds.seed": Option("seed"),
    "model.context_parallel_size": Option(idle="packs fit every context_parallel"),
    "model.tensor_model_parallel_size": Option(idle="packs fit every tensor_parallel"),
    "tokenizer_path": Option("prepare.tokenizer"),
    "output_dir": Option("output_dir"),
    "pack_sizes": Option("sizes", _as_list),
    "seed": Option("seed"),
    "packing_algorithm": Option(
        idle="`strategy` says how; random-exact fills packs at least as well",
        only=("first_fit_shuffle", "first_fit_decreasing"),
    ),
}

_MERGE = {
    "input_prefixes": Option("prefixes", _as_list, many=True),
    "output_prefix": Option("prefix"),
}

_ONE_FORMAT = "models are Hugging Face folders before and after"
_CONVERT = {
    "input_model": Option("convert.model"),
    "output_model": Option("convert.output_dir"),
    "convert_from": Option(idle=_ONE_FORMAT, only=("hf", "nemo")),
    "convert_to": Option(idle=_ONE_FORMAT, only=("hf", "nemo")),
    "dtype": Option("convert.dtype", _read_precision),
    "model_type": Option(idle="the model's config.json says it"),
    "hf_model_name": Option(idle="config and tokenizer come with the model"),
    "num_gpus": Option(idle="converting needs none"),
    "num_nodes": Option(idle="one machine converts", only=(1,)),
    "trt_prepare_args": Option(idle="there are no TensorRT engines"),
    "trt_reuse_tmp_engine": Option(idle="there are no TensorRT engines", flag=True),
}

OPTIONS: Mapping[str, Mapping[str, Option]] = {
    "train": {**_EVERYWHERE, **_TRAIN},
    "pack": _PACK,
    "merge": _MERGE,
    "convert": {**_EVERYWHERE, **_CONVERT},
}
"""Command -> name of an option, without dashes and plus signs -> what it becomes."""

_REQUIRED = {
    "train": ("output_dir", "train.model", "train.packs"),
    "pack": ("output_dir", "prepare.data", "prepare.tokenizer"),
    "merge": ("prefixes", "prefix"),
    "convert": ("convert.model", "convert.output_dir"),
}


def stages_of(verb: str, moved: dict[str, Any], *, train: bool = True) -> dict[str, Any]:
    """Build the stages of a command from ``moved``: place -> value, as the table names places.

    ``train`` False: only average what is there.

    Raises:
        ConfigError: an option is missing, or two of them disagree.
    """
    for place in _REQUIRED[verb]:
        if place not in moved and (train or not place.startswith("train.")):
            name = next(name for name, option in OPTIONS[verb].items() if option.to == place)
            raise ConfigError(f"{verb}: --{name} is required with the other options given")
    build = {"train": _train, "pack": _pack, "merge": _merge, "convert": _convert}[verb]
    stages = build(moved)
    if not train:
        del stages["train"]
    return stages


def _train(moved: dict[str, Any]) -> dict[str, Any]:
    output_dir = Path(moved["output_dir"])
    betas = moved.get("betas", [0.9, 0.98])
    if len(betas) != 2:
        raise ConfigError(f"train: ++model.optim.betas={betas}: must be two numbers")
    steps = moved.get("average.steps", "all")
    processes = int(moved.get("train.num_processes", 1)) * int(moved.get("train.num_nodes", 1))
    checkpoints = str(output_dir / TRAINING)
    averaged = Path(moved.get("final", output_dir / AVERAGED))
    model = Path(moved.get("train.model", ""))
    if {averaged, Path(checkpoints)} & {model, *model.parents}:
        raise ConfigError(
            f"train: --nemo_model={model} is what this very command would write; give the second"
            " round an --output_dir of its own"
        )
    # What the recipe does where its commands are silent: bfloat16, sharded states, no clipping.
    train = {
        "train.output_dir": checkpoints,
        "train.dtype": "bfloat16",
        "train.sharding": "states" if processes > 1 else "replicate",
        "train.optimizer.clip_norm": None,
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
    return _nest(train | average)


def _pack(moved: dict[str, Any]) -> dict[str, Any]:
    output_dir, seed = Path(moved["output_dir"]), moved.get("seed", 0)
    longest = moved.get("longest")
    sizes = moved.get("sizes", [longest] if longest else [])
    if not sizes:
        raise ConfigError("pack: ++pack_sizes is required with the other options given")
    if longest is not None and longest < max(sizes):
        raise ConfigError(
            f"pack: ++model.data.train_ds.max_seq_length={longest} is below a pack size"
            f" ({max(sizes)}); a document may fill a pack, filter longer ones by response_tokens"
        )
    documents = str(output_dir / DOCUMENTS)
    stages = {"prepare": {"output_dir": documents}} | _nest(
        {place: value for place, value in moved.items() if place.startswith("prepare.")}
    )
    stages["prepare"]["output_dir"] = documents
    for size in sizes:
        name = "pack" if len(sizes) == 1 else f"pack-{size}"
        stages[name] = {
            "verb": "pack",
            "documents": documents,
            "pack_size": size,
            "seed": seed,
            "output_dir": str(output_dir / f"packed_{size}_seed{seed}"),
        }
    return stages


def _merge(moved: dict[str, Any]) -> dict[str, Any]:
    prefix = Path(moved["prefix"])
    named = _PACKED.match(prefix.name)
    if named is None:
        raise ConfigError(
            f"merge: --output_prefix={prefix}: must end in packed_SIZE_seedN, as"
            " packed_32768_seed0; the packs are made anew with that size and seed"
        )
    documents = str(prefix.parent / DOCUMENTS)
    parts = [str(Path(part).parent / DOCUMENTS) for part in moved["prefixes"]]
    return {
        "merge": {"parts": parts, "output_dir": documents},
        "pack": {
            "documents": documents,
            "pack_size": int(named["size"]),
            "seed": int(named["seed"]),
            "output_dir": str(prefix),
        },
    }


def _convert(moved: dict[str, Any]) -> dict[str, Any]:
    own = {place: value for place, value in moved.items() if place.startswith("convert.")}
    return _nest({"convert.dtype": "bfloat16", **own})


def _nest(places: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for place, value in places.items():
        *folders, name = place.split(".")
        inside = tree
        for folder in folders:
            inside = inside.setdefault(folder, {})
        inside[name] = value
    return tree
