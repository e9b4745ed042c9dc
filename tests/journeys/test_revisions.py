"""Every stage on tiny inputs makes what it has made before, or its output revision was raised.

``python tests/journeys/test_revisions.py`` writes the golden file anew, for stages whose revision
was raised and for no other. Files of stages that compute nothing in floating point are compared
byte for byte. Figures of a model may differ in their last bits between versions of torch and
between processors: three significant figures of them are compared, of weights their norms, of a
checkpoint its names and shapes, of the page its headings and keys.
"""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from longrun.checkpoint.checksums import CHECKPOINTS_NAME
from longrun.checkpoint.sharded import STATE_NAME
from longrun.checkpoint.stored import StoredCheckpoint
from longrun.config.stages import STAGES
from longrun.training.metrics import TIMING_FIELDS

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests/formats")]
from hub_server import serve  # noqa: E402

from attack.tiny import RECIPE, build, open_tiny  # noqa: E402  (scripts, as Python finds them)

pytestmark = [pytest.mark.journey, pytest.mark.xdist_group("tiny"), pytest.mark.timeout(300)]
GOLDEN = Path(__file__).parent / "golden" / "revisions.json"
IGNORED = {"wall_seconds", "started_at", "when", "data_seconds", "seconds", *TIMING_FIELDS}
IGNORED |= {"training"}  # what a training is: its identity, not its output
NOT_OUTPUT = {"manifest.json", "config.yaml", ".lock", ".verified.json"}
ROUNDED = 3
"""Significant figures."""


def stable(value: object) -> object:
    """Leave out times and what torch's last bits decide."""
    if isinstance(value, dict):
        return {key: stable(inside) for key, inside in value.items() if key not in IGNORED}
    if isinstance(value, list):
        return [stable(inside) for inside in value]
    if isinstance(value, float) and math.isfinite(value) and value:
        # A value that lies on the edge of rounding would tip over: the edges are put elsewhere.
        return float(f"{value * 1.0003:.{ROUNDED}g}")
    return value


def content(path: Path) -> object:
    """What must not change of a file without a new revision."""
    if path.suffix == ".safetensors":
        return {name: weights(tensor) for name, tensor in sorted(load_file(path).items())}
    if path.parent.parent.name == CHECKPOINTS_NAME and path.name != STATE_NAME:
        with StoredCheckpoint(path.parent) as stored:
            return stored.shapes
    if path.name == "verification.json":
        findings = json.loads(path.read_text())["findings"]
        return [{**finding, "value": 0} for finding in findings]
    if path.suffix == ".html":
        return re.findall(r"<h[1-3][^>]*>(.*?)</h[1-3]>", path.read_text())
    if path.name == "report.json":
        return list(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [stable(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return stable(json.loads(path.read_text()))
    return path.read_bytes().hex()


def weights(tensor: Tensor) -> list[object]:
    return [str(tensor.dtype), list(tensor.shape), stable(float(tensor.double().norm()))]


def digest(folder: Path) -> dict[str, str]:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in NOT_OUTPUT:
            text = json.dumps(content(path), sort_keys=True)
            files[path.relative_to(folder).as_posix()] = hashlib.sha256(text.encode()).hexdigest()
    return {name: value[:16] for name, value in files.items()}


def fetch(folder: Path) -> Path:
    """Run the stage that needs a network against a server on loopback."""
    files = {("datasets/some/records", "data/cot-00000-of-00001.parquet"): b"of the hub"}
    with serve(files) as (address, _):
        command = [
            sys.executable, "-m", "longrun", "fetch", "dataset=some/records", "splits=cot",
            f"output_dir={folder / 'fetch'}",
        ]  # fmt: skip
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(folder / "hub")}
        subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    return folder / "fetch"


def found_in(folder: Path) -> dict[str, dict[str, object]]:
    """Return the digest of every stage of the tiny run, and of ``fetch``."""
    stages = {
        stage.name: (stage.verb, stage.config.output_dir) for stage in open_tiny(folder).stages
    }
    stages["fetch"] = "fetch", fetch(folder)
    return {
        name: {"verb": verb, "revision": STAGES[verb].output_revision, "files": digest(output)}
        for name, (verb, output) in stages.items()
    }


@pytest.fixture(scope="module")
def found(tiny_run: Path, tmp_path_factory, monkeypatch_module) -> dict[str, dict[str, object]]:
    monkeypatch_module.chdir(tiny_run)
    return found_in(tiny_run)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.parametrize("name", [*RECIPE["stages"], "fetch"])
def test_output_that_changed_has_a_new_revision(name, found):
    golden, now = json.loads(GOLDEN.read_text())[name], found[name]
    if golden["revision"] == now["revision"]:
        assert now == golden, (
            f"{name}: the output of {now['verb']} has changed: raise output_revision of its"
            " settings, or change it back"
        )
    else:
        assert now == golden, f"the revision of {now['verb']} was raised: write the golden anew"


def test_every_stage_is_compared(found):
    assert {stage["verb"] for stage in found.values()} == set(STAGES)
    assert json.loads(GOLDEN.read_text()).keys() == found.keys()


def write_anew() -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        found = found_in(Path(folder))
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    kept = {
        name: old
        for name, old in golden.items()
        if name in found and old["revision"] == found[name]["revision"]
    }
    GOLDEN.write_text(json.dumps({**found, **kept}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write_anew()
