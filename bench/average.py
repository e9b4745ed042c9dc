"""Averaging four checkpoints against ``cp`` of the very same bytes, in turns.

    python bench/average.py [--layers 6] [--rounds 3] [--output results/average.json]

Writes a training of four checkpoints and lets the stage ``average`` and ``cp`` work by turns, each
in processes of its own. Averaging reads the float32 weights of four checkpoints and writes one
bfloat16 model. ``cp`` reads the same files (into /dev/null) and writes a file of the model's size.
Both times end when what was written is on the disk (``fsync``). ``cold``: the kernel has forgotten
the checkpoints, ``warm``: they were just read. Starting Python and importing torch is not counted
for averaging, starting ``cp`` is. Prints a JSON line per round and a summary.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from longrun.checkpoint import init_model
from longrun.checkpoint.saving import Retention, Saver
from longrun.checkpoint.sharded import MODEL_PREFIX, LoopState
from longrun.config.settings import FINAL_NAME
from longrun.config.stages import InitModelConfig, SynthesizeConfig, TrainTokenizerConfig
from longrun.data.synthetic import synthesize, train_tokenizer
from longrun.formats.stages.manifest import Manifest
from longrun.parallel.mesh import Mesh

STEPS = (10, 20, 30, 40)
AVERAGE = """
import json, sys, time
from pathlib import Path
from longrun.checkpoint import average
from longrun.config.training import AverageConfig
def memory(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(kind))
before = memory("RssAnon:")
Path("/proc/self/clear_refs").write_text("5")
config = AverageConfig(checkpoints=sys.argv[1], output_dir=sys.argv[2])
began = time.perf_counter()
average.run(config)  # ends with fsync of all that it wrote
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "peak_bytes": memory("VmHWM:") - before}))
"""


def make_training(folder: Path, layers: int) -> Path:
    """Write a finished training of four checkpoints of random weights; return its folder."""
    problems, tokenizer, training = (
        folder / name for name in ("problems", "tokenizer", "training")
    )
    sizes = {"num_cot": 20, "num_tir": 20, "num_genselect": 20, "num_held_out": 1}
    synthesize.run(SynthesizeConfig(output_dir=problems, **sizes))
    data = [problems / "train/cot.jsonl"]
    train_tokenizer.run(TrainTokenizerConfig(output_dir=tokenizer, data=data, vocab_size=400))
    shape = {"hidden_size": 1536, "intermediate_size": 8960, "num_heads": 12, "num_kv_heads": 2}
    final = training / FINAL_NAME
    init_model.run(
        InitModelConfig(output_dir=final, tokenizer=tokenizer, num_layers=layers, **shape)
    )
    (final / "conversation.json").write_text("{}")
    weights = load_whole(final)
    for step in STEPS:
        for tensor in weights.values():
            tensor.add_(torch.randn(tensor.shape), alpha=0.01)
        saver = Saver(
            training, Mesh(0, 1, torch.device("cpu"), "none"), Retention(None, ()), background=False
        )
        named = {MODEL_PREFIX + name: tensor for name, tensor in weights.items()}
        saver.begin(LoopState(step, 0, 0), named)
        saver.close()
    manifest = Manifest.read(final)
    (final / "manifest.json").unlink()
    Manifest(**{**as_dict(manifest), "verb": "train"}).write(training)
    return training


def as_dict(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}


def load_whole(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return {name: tensor.clone() for name, tensor in found.items()}


def forget(folder: Path) -> None:
    """Ask the kernel to drop the pages of every file below ``folder``."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass


def size_of(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def average(training: Path, output: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", AVERAGE, training, output],
        check=True,
        capture_output=True,
        text=True,
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def copy(sources: list[Path], model: Path, target: Path) -> float:
    """Read ``sources`` and write a copy of ``model`` by ``cp``; return seconds."""
    began = time.perf_counter()
    for source in sources:
        subprocess.run(["cp", source, "/dev/null"], check=True)
    subprocess.run(["cp", model, target], check=True)
    with target.open("rb") as file:
        os.fsync(file)
    return time.perf_counter() - began


def measure(folder: Path, training: Path, state: str, moved: dict[str, int]) -> dict[str, Any]:
    """Average once and copy once; return bytes per second of both and their ratio."""
    prepare = forget if state == "cold" else read_all
    checkpoints, model = training / "checkpoints", folder / "model.bin"
    prepare(checkpoints)
    ours = average(training, folder / "averaged")
    subprocess.run(["rm", "-r", folder / "averaged"], check=True)
    model.write_bytes(os.urandom(moved["written"]))
    prepare(checkpoints)
    theirs = copy(sorted(checkpoints.rglob("*.distcp")), model, folder / "copy.bin")
    total = moved["read"] + moved["written"]
    return {
        "files": state,
        "average_bytes_per_second": total / ours["seconds"],
        "cp_bytes_per_second": total / theirs,
        "ratio": theirs / ours["seconds"],
        "peak_bytes": ours["peak_bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary one")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        training = make_training(folder, arguments.layers)
        written = size_of(training / FINAL_NAME, "*.safetensors") // 2
        moved = {"read": size_of(training / "checkpoints", "*.distcp"), "written": written}
        rounds = []
        for _ in range(arguments.rounds):
            for state in ("cold", "warm"):
                rounds.append(measure(folder, training, state, moved))
                print(json.dumps(rounds[-1]), flush=True)
    summary = {
        "moved": moved,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ratio": {
            state: median(one["ratio"] for one in rounds if one["files"] == state)
            for state in ("cold", "warm")
        },
        "rounds": rounds,
    }
    print(json.dumps({key: value for key, value in summary.items() if key != "rounds"}, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
