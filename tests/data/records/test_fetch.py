import subprocess
import sys

import pytest

from longrun.config.stages import FetchConfig
from longrun.data.records.fetch import choose_files
from longrun.errors import ConfigError

NAMES = [
    "README.md",
    "data/cot-00000-of-00002.parquet",
    "data/cot-00001-of-00002.parquet",
    "data/tir-00000-of-00001.parquet",
    "data/cot2-00000-of-00001.parquet",
    "genselect/0000.parquet",
    "tir.parquet",
]


@pytest.mark.parametrize(
    ("split", "chosen"),
    [("cot", NAMES[1:3]), ("tir", [NAMES[3], NAMES[6]]), ("genselect", [NAMES[5]]), ("x", [])],
)
def test_a_split_is_the_files_named_after_it(split, chosen):
    assert choose_files(NAMES, split) == chosen


def test_a_data_set_has_an_owner_and_a_name():
    with pytest.raises(ConfigError, match=r"fetch\.dataset"):
        FetchConfig.parse({"dataset": "x", "splits": "cot", "output_dir": "o"}, "fetch")


def test_without_network_the_remedy_is_named(tmp_path):
    command = [
        sys.executable, "-m", "longrun", "fetch", "dataset=nvidia/OpenMathReasoning",
        "splits=[cot, tir]", f"output_dir={tmp_path / 'out'}",
    ]  # fmt: skip
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("longrun: nvidia/OpenMathReasoning cannot be fetched (")
    assert "where there is network" in line
