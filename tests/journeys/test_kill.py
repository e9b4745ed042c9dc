"""Every stage, killed at random instants and run again, makes the bytes of an undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from longrun.config.recipe import Recipe, resolve
from longrun.training.metrics import TIMING_FIELDS

pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]

RAW = yaml.safe_load("""
name: tiny
stages:
  problems: {verb: synthesize, num_cot: 200, num_tir: 200, num_genselect: 200, num_held_out: 6}
  tokenizer: {verb: train_tokenizer, data: "${problems}/train/*.jsonl", vocab_size: 400}
  base: {verb: init_model, tokenizer: "${tokenizer}", num_layers: 1, hidden_size: 32, num_heads: 2,
         num_kv_heads: 1, intermediate_size: 64}
  prepare: {data: "${problems}/train/*.jsonl", tokenizer: "${base}", validation_share: 0.1,
            part_bytes: 65536, num_workers: 2}
  pack: {documents: "${prepare}", pack_size: 1024, num_epochs: 2}
  train: {packs: "${pack}", model: "${base}", max_steps: 12, global_batch_size: 4,
          save_interval: 3, validation_interval: 6, num_processes: 2, max_epochs: 9}
  average: {checkpoints: "${train}", steps: "last:3", export_members: true, dtype: float32}
  generate:
    models: {base: "${base}", average: "${average}/model"}
    conversation: "${prepare}"
    max_tokens: 24
    batch_size: 2
    sandbox: {isolation: process}
    benchmarks:
      - {name: cot, path: "${problems}/held-out/cot.jsonl", mode: cot}
      - {name: tir, path: "${problems}/held-out/tir.jsonl", mode: tir}
  evaluate: {predictions: "${generate}"}
  report: {stages: ["${prepare}", "${pack}", "${train}", "${average}", "${evaluate}"]}
""")
NOT_COMPARED = {".lock", ".verified.json", ".metadata", "checksums.json"}
"""torch's index of a sharded checkpoint holds a random id and its own path; tensors do not."""
TIMINGS = {"wall_seconds", "started_at", "when", "data_seconds", *TIMING_FIELDS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = tiny(folder)
    for stage in recipe.stages:
        stage.config.save(folder / f"{stage.name}.yaml")
        start(folder, stage.name, stage.verb).wait()
        assert (folder / "runs/tiny" / stage.name / "manifest.json").exists(), stage.name
    return folder


def tiny(folder: Path) -> Recipe:
    os.chdir(folder)
    return resolve(RAW, [], "tiny")


def start(folder: Path, name: str, verb: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "longrun", verb, f"{name}.yaml"]
    return subprocess.Popen(command, cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL)


def seconds_of(folder: Path, name: str) -> float:
    manifest = json.loads((folder / "runs/tiny" / name / "manifest.json").read_text())
    return manifest["wall_seconds"]


@pytest.mark.parametrize("name", RAW["stages"])
def test_a_killed_stage_ends_with_the_same_bytes(name, undisturbed, tmp_path):
    """Kill the stage's own process, or its whole session, at three random instants."""
    rng = random.Random(name)
    stage = tiny(tmp_path).stage(name)
    stage.config.save(tmp_path / f"{name}.yaml")
    for other in (undisturbed / "runs/tiny").iterdir():
        if other.name != name:
            shutil.copytree(other, tmp_path / "runs/tiny" / other.name)
    work = seconds_of(undisturbed, name)
    for attempt in range(3):
        process = start(tmp_path, name, stage.verb)
        wait_for_start(process, tmp_path / "runs/tiny" / name)
        time.sleep(rng.uniform(0, work))
        if attempt % 2:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(0.5)  # workers of a killed parent need a moment to be ended by the kernel
    assert start(tmp_path, name, stage.verb).wait() == 0
    expected = contents(undisturbed / "runs/tiny" / name)
    assert contents(tmp_path / "runs/tiny" / name) == expected


def wait_for_start(process: subprocess.Popen, folder: Path) -> None:
    while process.poll() is None and not (folder / "config.yaml").exists():
        time.sleep(0.01)


def contents(folder: Path) -> dict[str, object]:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in NOT_COMPARED:
            files[str(path.relative_to(folder))] = without_timings(path)
    return files


def without_timings(path: Path) -> object:
    if path.suffix == ".jsonl":
        return [strip(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name == "manifest.json":
        manifest = strip(json.loads(path.read_text()))
        # Sizes and checksums are also those of files with timings.
        names = {key: list(manifest[key]) for key in ("outputs", "checksums")}
        return {**manifest, **names, "seal": ""}
    if path.suffix == ".json":
        return strip(json.loads(path.read_text()))
    return path.read_bytes()


def strip(value: object) -> object:
    if isinstance(value, dict):
        return {key: strip(inside) for key, inside in value.items() if key not in TIMINGS}
    if isinstance(value, list):
        return [strip(inside) for inside in value]
    return value
