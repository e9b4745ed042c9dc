"""What the packing scripts of the reference take: one makes packs, one merges them."""

import re
from pathlib import Path
from typing import Any

from longrun.config.nemo_skills.option import Table, as_list, idle, moved, nest, same
from longrun.config.nemo_skills.training import TRAIN
from longrun.errors import ConfigError

DOCUMENTS = "documents"
"""Folder inside the ``output_dir`` of the command."""
_PACKED = re.compile(r"packed_(?P<size>\d+)_seed(?P<seed>\d+)")
_BATCH = idle("batches are made by `train`")


def _read_sources(value: Any) -> list[dict[str, str]]:
    return [{"path": str(file), "layout": "qwen-instruct"} for file in as_list(value)]


_ABOUT_DATA = "model.data.train_ds."
_ABOUT_TRAINING: Table = {
    name: idle("packing trains nothing")
    for name in TRAIN
    if name.startswith(("model.", "trainer.", "exp_manager.")) and not name.startswith(_ABOUT_DATA)
}
PACK: Table = {
    **_ABOUT_TRAINING,
    **{name: option for name, option in TRAIN.items() if name.startswith(_ABOUT_DATA)},
    "trainer.*": idle("packing trains nothing"),
    "model.data.train_ds.file_names": moved("prepare.data", _read_sources),
    "model.data.train_ds.file_path": moved("prepare.data", _read_sources),
    "model.data.train_ds.max_seq_length": moved("longest"),
    "model.data.train_ds.global_batch_size": _BATCH,
    "model.data.train_ds.micro_batch_size": _BATCH,
    "model.data.train_ds.packed_sequence": _BATCH,
    "model.data.train_ds.seed": moved("seed"),
    "model.context_parallel_size": idle("packs fit every context_parallel"),
    "model.tensor_model_parallel_size": idle("packs fit every tensor_parallel"),
    "name": idle("--expname names it", plus=True),
    "hydra.*": idle("there is no Hydra"),
    "tokenizer_path": moved("prepare.tokenizer", plus=True),
    "tokenizer_type": same("huggingface", because="tokenizer.json is read", plus=True),
    "output_dir": moved("output_dir", plus=True),
    "pack_sizes": moved("sizes", as_list, plus=True),
    "seed": moved("seed", plus=True),
    "split_packing_length": idle("all lengths are packed together", plus=True),
    "packing_algorithm": same(
        "first_fit_shuffle",
        "first_fit_decreasing",
        because="random-exact fills packs at least as well",
        instead="`strategy` says how",
        plus=True,
    ),
}
MERGE: Table = {
    "input_prefixes": moved("prefixes", as_list, many=True),
    "output_prefix": moved("prefix"),
}


def build_packing(moved: dict[str, Any]) -> dict[str, Any]:
    """Return the stages of the packing command: prepare, then one pack for each size.

    Raises:
        ConfigError: no size is named, or a document may not fill a pack.
    """
    output_dir, seed = Path(str(moved["output_dir"])), moved.get("seed", 0)
    longest = moved.get("longest")
    sizes = moved.get("sizes", [longest] if longest else [])
    if not sizes:
        raise ConfigError("pack: ++pack_sizes is required with the other options given")
    if not all(type(size) is int for size in [*sizes, longest or 0]):
        raise ConfigError(f"pack: ++pack_sizes={sizes}: must be whole numbers, as in [32768]")
    if longest is not None and longest < max(sizes):
        raise ConfigError(
            f"pack: ++model.data.train_ds.max_seq_length={longest} is below a pack size"
            f" ({max(sizes)}); a document may fill a pack, filter longer ones by response_tokens"
        )
    documents = str(output_dir / DOCUMENTS)
    stages = nest({place: value for place, value in moved.items() if place.startswith("prepare.")})
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


def build_merge(moved: dict[str, Any]) -> dict[str, Any]:
    """Return the stages of the merging command: merge documents, then pack them anew.

    Raises:
        ConfigError: the prefix does not say the size of packs.
    """
    prefix = Path(str(moved["prefix"]))
    named = _PACKED.fullmatch(prefix.name)
    if named is None:
        raise ConfigError(
            f"merge: --output_prefix={prefix}: must end in packed_SIZE_seedN, as"
            " packed_32768_seed0; the packs are made anew with that size and seed"
        )
    documents = str(prefix.parent / DOCUMENTS)
    parts = [str(Path(str(part)).parent / DOCUMENTS) for part in moved["prefixes"]]
    return {
        "merge": {"parts": parts, "output_dir": documents},
        "pack": {
            "documents": documents,
            "pack_size": int(named["size"]),
            "seed": int(named["seed"]),
            "output_dir": str(prefix),
        },
    }
