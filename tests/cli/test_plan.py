"""``longrun plan`` as a user meets it."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CLUSTER = ("model=7b", "num_nodes=2", "global_batch_size=32", "max_steps=100")


def longrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "longrun", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_table_says_that_it_is_modelled_and_what_was_assumed(tmp_path):
    done = longrun(tmp_path, "plan", *CLUSTER, "--best", "3")
    assert done.returncode == 0, done.stderr
    for words in (
        "nothing here was measured",
        "7b: 7.62 G parameters on 2 x 8 h100",
        "rates, assumed unless set: products 640 TFLOP/s",
        "steps: 100",
        "rejected: tensor N does not divide the N key-value heads",
        "more fit: slower, or like these",
    ):
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_all_lists_every_layout_and_every_reason(tmp_path):
    done = longrun(tmp_path, "plan", *CLUSTER, "tensor_parallel=8", "context_parallel=1", "--all")
    assert "tensor 8 does not divide the 4 key-value heads" in done.stdout
    assert done.returncode == 2
    assert "longrun: plan: none of" in done.stderr


def test_json_holds_the_same_answer(tmp_path):
    done = longrun(tmp_path, "plan", *CLUSTER, "--json", "--best", "2")
    found = json.loads(done.stdout)
    assert "measured" in found["kind"]
    assert len(found["ranked"]) == 2
    best = found["ranked"][0]
    assert best["days"] == pytest.approx(100 * best["time"]["seconds"] / 86400)
    assert best["gpu_hours"] == pytest.approx(best["days"] * 24 * 16)
    assert all(option["reason"] for option in found["rejected"])


def test_what_is_written_is_a_valid_part_of_the_settings_of_train(tmp_path):
    done = longrun(tmp_path, "plan", *CLUSTER, "--write", "layout.yaml")
    assert done.returncode == 0, done.stderr
    written = yaml.safe_load((tmp_path / "layout.yaml").read_text())
    shown = longrun(
        tmp_path, "train", "layout.yaml", "packs=p", "model=m", "output_dir=o", "--dry-run"
    )
    assert shown.returncode == 0, shown.stderr
    resolved = yaml.safe_load(shown.stdout)
    for name, value in written.items():
        inside = {key: resolved[name][key] for key in value} if name == "optimizer" else None
        assert (inside or resolved[name]) == value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("model=8c",), "longrun: 8c: no such file; name a model folder, a config.json, or a size"),
        ((), "longrun: plan.model: is required"),
        (("model=7b", "num_node=2"), "unknown setting; did you mean num_nodes?"),
        (("model=7b", "rates.matrix_tflops=-1"), "plan.rates.matrix_tflops"),
        (("model=7b", "packs=nowhere"), "longrun: nowhere: has no packs.json"),
        (("model=32b", "num_processes=1"), "none of"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, arguments, words):
    done = longrun(tmp_path, "plan", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_cluster_of_512_gpus_is_answered_within_seconds_and_without_torch(tmp_path):
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('TORCH', 'torch' in sys.modules))\n"
        "sys.argv = ['longrun', 'plan', 'model=32b', 'num_nodes=64']\n"
        "from longrun.cli.main import main\n"
        "main()\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "TORCH False" in done.stdout
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 3, "CPU seconds; about 1 on a computer that does nothing else"
