"""The benchmarks run from end to end, tiny, with whatever peers are installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_gpu_is_measured_in_one_command(tmp_path):
    stages = ["ceilings", "correctness", "attention", "ours", "recipe", "breakdown", "ours-fa2"]
    out = run("bench/train_gpu.py", "--smoke", "--out", str(tmp_path), "--stages", *stages)
    outcomes = json.loads((tmp_path / "train_gpu.json").read_text())["outcomes"]
    found = {outcome["name"]: outcome for outcome in outcomes}
    assert list(found) == stages
    assert all(found[name]["status"] == "ok" for name in stages[:-1])
    laws = found["correctness"]["measured"]["found"]
    assert all(law["holds"] for law in laws)
    losses = [found[name]["measured"]["phases"]["mix"]["losses"] for name in ("ours", "recipe")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert "one profiled step" in out


def test_trainers_are_compared_on_the_cpu(tmp_path):
    small = "hidden=64 layers=2 heads=2 kv_heads=1 pack_tokens=256 median_length=40 intermediate=64"
    out = run(
        *["bench/train_cpu.py", "--out", str(tmp_path), "--repeats", "1", "--packs", "3"],
        *["--dtypes", "float32", "--contenders", "longrun", "hf-packed", "trl-packed"],
        *["--set", *small.split(), "vocab=64"],
    )
    (report,) = json.loads((tmp_path / "train_cpu.json").read_text())["reports"]
    assert report["contenders"]["longrun"]["status"] == "ok"
    for name in ("hf-packed", "trl-packed"):
        row = report["contenders"][name]
        assert row["status"] in ("ok", "left out"), row
        if row["status"] == "ok":
            ours = report["contenders"]["longrun"]["losses"]
            assert row["losses"] == pytest.approx(ours, rel=1e-5)
    assert "Longrun" in out
