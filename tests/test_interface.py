"""The Python interface as a type checker and an editor see it."""

import subprocess
import sys

import pytest

import longrun
from longrun.config.stages import STAGES

FUNCTIONS = [name for name in longrun.__all__ if not name.endswith("Config")]
CONFIGS = [name for name in longrun.__all__ if name.endswith("Config")]
RIGHT = "".join(
    [f"from longrun import {name}\n" for name in longrun.__all__],
) + (
    "from pathlib import Path\n"
    "train(TrainConfig(packs=Path('p'), model=Path('m'), output_dir=Path('o')), cluster='c')\n"
    "pack(documents='d', output_dir='o').wait()\n"
)
WRONG = "".join(f"from longrun import {name[:-1]}x\n" for name in FUNCTIONS) + (
    "import longrun\nlongrun.nonsense(3)\nlongrun.train(longrun.PackConfig(documents='d'))\n"
)


def test_every_stage_has_a_function_and_a_class_of_settings():
    names = {"write_report" if verb == "report" else verb for verb in STAGES}
    assert names <= set(FUNCTIONS)
    assert {config.__name__ for config in STAGES.values()} == set(CONFIGS)
    assert set(longrun.__all__) <= set(dir(longrun))
    for name in longrun.__all__:
        assert getattr(longrun, name).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = longrun.trian


@pytest.mark.timeout(600)
def test_a_type_checker_knows_every_name_and_no_other(tmp_path):
    for name, text in {"right.py": RIGHT, "wrong.py": WRONG}.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    command += ["--follow-imports=silent", "--ignore-missing-imports", "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert not [line for line in errors if line.startswith("right.py")], done.stdout
    lines = {int(line.split(":")[1]) for line in errors if line.startswith("wrong.py")}
    assert lines == set(range(1, WRONG.count("\n") + 1)) - {len(FUNCTIONS) + 1}
