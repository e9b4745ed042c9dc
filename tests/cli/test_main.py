import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "numpy", "pyarrow", "numba", "matplotlib"}
RECIPE = """
name: small
settings:
  data: ???
stages:
  prepare: {data: "${data}", tokenizer: tok}
  pack: {documents: "${prepare}"}
"""


def longrun(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "longrun", *arguments],
        capture_output=True,
        text=True,
        check=check,
        cwd=cwd,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["run", "small.yaml", "data=a", "--dry-run"],
        ["run", "small.yaml", "data=a", "pack.pack_sise=1"],
        ["demo", "--dry-run"],
        ["train", "packs=p", "model=m", "output_dir=o", "--dry-run"],
        ["schema"],
    ],
    ids=" ".join,
)
def test_answers_about_settings_import_nothing_heavy(folder, arguments):
    code = (
        "import sys, atexit\n"
        "def show():\n"
        f"    print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))\n"
        "atexit.register(show)\n"
        f"sys.argv = ['longrun', *{arguments!r}]\n"
        "from longrun.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder
    )
    assert "HEAVY []" in done.stdout
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_prints_the_graph_and_writes_nothing(folder):
    done = longrun("run", "small.yaml", "data=a.jsonl", "--dry-run", cwd=folder)
    for word in ("prepare", "pack", "waiting", "small: runs/small/"):
        assert word in done.stdout
    assert [path.name for path in folder.iterdir()] == ["small.yaml"]


def test_both_spellings_of_an_option_are_one(folder):
    words = ("synthesize", "output_dir=o", "--exp{}name=x", "--num{}training{}jobs=0")
    dashes, underscores = (
        longrun("run", "small.yaml", "data=a.jsonl", f"--dry{sign}run", cwd=folder).stdout
        for sign in "-_"
    )
    assert dashes == underscores
    done = [
        longrun(words[0], words[1], words[3].format(*sign), cwd=folder, check=False)
        for sign in ("--", "__")
    ]
    assert done[0].stderr == done[1].stderr
    assert "has no effect on synthesize" in done[0].stderr


def test_a_stage_in_the_foreground_replaces_stale_output_when_told(folder):
    words = (
        "synthesize",
        "num_cot=4",
        "num_tir=1",
        "num_genselect=1",
        "num_held_out=1",
        "output_dir=o",
    )
    longrun(*words, cwd=folder)
    refused = longrun(*words, "seed=7", cwd=folder, check=False)
    assert "run again with --replace" in refused.stderr
    longrun(*words, "seed=7", "--replace", cwd=folder)
    made = (folder / "o/manifest.json").stat().st_mtime_ns
    longrun(*words, "seed=7", "--replace", cwd=folder)
    assert (folder / "o/manifest.json").stat().st_mtime_ns == made


def test_a_dry_run_of_a_stage_prints_settings_that_are_a_valid_input(folder):
    first = longrun("pack", "documents=d", "output_dir=o", "--dry-run", cwd=folder).stdout
    (folder / "pack.yaml").write_text(first)
    assert longrun("pack", "pack.yaml", "--dry-run", cwd=folder).stdout == first
    changed = longrun("pack", "pack.yaml", "seed=3", "--dry-run", cwd=folder).stdout
    assert changed == first.replace("seed: 0", "seed: 3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.yaml"], "longrun: none.yaml: no such file; name a YAML file"),
        (["run", "small.yaml"], "longrun: small.yaml: setting 'data' must be given: data=VALUE"),
        (["run", "small.yaml", "data=a", "pack.sed=1"], "did you mean seed?"),
        (["pack", "documents=d", "output_dir=o", "pack_size=-4"], "greater than or equal to 2"),
        (
            ["pack", "documents=none", "output_dir=o"],
            "longrun: none: does not exist: not the output of a",
        ),
        (["pack", "documents=d", "--sizes=3"], "no such option --sizes"),
        (["average", "--steps=3"], "no such option --steps; it is a setting: write steps=3"),
        (["train", "packs=p", "--num_training_jobs=3"], "--num_training_jobs has no effect"),
        (["pack", "documents=d", "--num_training_jobs=3"], "has no effect on pack"),
        (["status"], "longrun: runs: no runs here"),
        (["status", "small.yaml", "--nonsense"], "No such option"),
        (["logs", "nowhere", "pack"], "no experiment 'nowhere' in runs; there is none yet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(folder, arguments, message):
    done = longrun(*arguments, cwd=folder, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_schema_is_json(folder):
    assert "stages" in json.loads(longrun("schema", cwd=folder).stdout)["properties"]


def test_every_verb_explains_its_settings(folder):
    shown = longrun("train", "--help", cwd=folder).stdout
    assert "global_batch_size (8)" in shown
    assert "Packs of one optimizer step" in shown
    assert "optimizer.clip_norm (1.0)" in shown
