"""The stage ``synthesize``: generated problems with worked solutions, and benchmarks for them.

It writes ``train/MODE.jsonl``, ``held-out/MODE.jsonl`` and, for ``prepare``, the short prompts
that go with them, ``prompts/MODE.yaml``. What the problems are is in ``dataset``.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from longrun.config.plain_yaml import dump_yaml
from longrun.config.stages import SynthesizeConfig
from longrun.data.synthetic.dataset import (
    MODES,
    USER_PROMPTS,
    Row,
    generate_benchmark,
    generate_records,
)
from longrun.formats.stages.atomic import atomic_file, write_text
from longrun.formats.stages.manifest import Manifest
from longrun.formats.stages.stage import open_stage


def run(config: SynthesizeConfig) -> Manifest:
    """Write the records, benchmarks and prompts of ``config``.

    Raises:
        StaleError: the output folder holds output of other settings.
    """
    with open_stage("synthesize", config) as stage:
        if stage.finished is not None:
            return stage.finished
        for name in ("train", "held-out", "prompts"):
            (stage.folder / name).mkdir(exist_ok=True)
        counts: dict[str, float] = {}
        wanted = {"cot": config.num_cot, "tir": config.num_tir, "genselect": config.num_genselect}
        for mode in MODES:
            records = generate_records(mode, num_records=wanted[mode], seed=config.seed)
            counts[mode] = _write(stage.folder / "train" / f"{mode}.jsonl", records)
            rows = generate_benchmark(mode, num_problems=config.num_held_out, seed=config.seed)
            name = f"{mode}.jsonl"
            counts[f"{mode}_held_out"] = _write(stage.folder / "held-out" / name, rows)
            prompt = dump_yaml({"user": USER_PROMPTS[mode]})
            write_text(stage.folder / "prompts" / f"{mode}.yaml", prompt)
        return stage.finish(counts=counts)


def _write(path: Path, rows: Iterable[Row]) -> int:
    count = 0
    with atomic_file(path) as file:
        for row in rows:
            file.write(json.dumps(row).encode() + b"\n")
            count += 1
    return count
