"""The walk through the reference's training document, on a real Slurm as on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/from-nemo-skills.md"
pytestmark = [pytest.mark.journey, pytest.mark.timeout(900), pytest.mark.xdist_group("slurm")]
EXPERIMENTS = (
    "sequence-packing-1",
    "sequence-packing-2",
    "sequence-packing-merging",
    "conversion",
    "openmathreasoning-repro-1.5b",
    "openmathreasoning-repro-1.5b-to-hf",
    "openmathreasoning-repro-1.5b-to-trtllm",
    "openmathreasoning-repro-1.5b-eval",
    "round-2-data",
    "round-2-packs",
    "openmathreasoning-round-2",
)
MODELS = (
    "checkpoints/model-averaged-nemo",
    "checkpoints/model-averaged-trtllm",
    "round-2/checkpoints/model-averaged-nemo",
)


def make_world(folder: Path) -> None:
    """Make the demo's data and base model, the only things that the page starts from."""
    demo = ROOT / "src/longrun/recipes/demo.yaml"
    subprocess.run(
        [sys.executable, "-m", "longrun", "run", str(demo), "--to", "base"],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def run_page(folder: Path, script: str, environment: dict[str, str]) -> str:
    programs = str(Path(sys.executable).parent)
    environment = {**environment, "PATH": os.pathsep.join([programs, environment["PATH"]])}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def containers_of(desk) -> str:
    """Return the settings of a cluster whose jobs run in containers; where none can: none do."""
    if "pyxis_double" not in (desk.slurm.folder / "plugstack.conf").read_text():
        return "'containers={nemo: none}'"
    image = desk.folder / "image"
    for name in ("usr", "lib", "lib64", "bin", "etc", "proc", "dev", "tmp"):
        (image / name).mkdir(parents=True)
    places = [str(desk.folder), sys.base_prefix, sys.prefix, str(ROOT)]
    places += [place for place in sys.path if Path(place).is_dir()]
    own = [place for place in dict.fromkeys(places) if not place.startswith(("/usr", "/lib"))]
    return (
        f"python={sys.executable} container_runtime=pyxis container=nemo"
        f" 'containers={{nemo: {image}}}' 'mounts=[{', '.join(own)}]'"
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("model/*.safetensors"))}


def test_the_walk_through_ends_on_slurm_with_the_models_of_this_machine(desk, script_of):
    make_world(desk.folder)
    script = script_of(PAGE, ())
    here = "executor=local job_dir=$PWD/runs 'containers={nemo: none}'"
    assert here in script
    cluster = f"executor=slurm job_dir={desk.runs} partition=batch {containers_of(desk)}"
    shown = run_page(desk.folder, script.replace(here, cluster), desk.slurm.environment)
    assert "submitted" in shown
    for name in EXPERIMENTS:
        desk.until(
            lambda name=name: set(desk.states(name).values()) == {"done"}, f"{name} to be done", 300
        )
        assert (desk.runs / name / "jobs").is_dir()
    undisturbed = desk.folder / "undisturbed"
    undisturbed.mkdir()
    (undisturbed / "runs").mkdir()
    (undisturbed / "runs/demo").symlink_to(desk.runs / "demo")
    run_page(undisturbed, script, dict(os.environ))
    for model in MODELS:
        there = files_of(desk.runs / "walk-through" / model)
        assert there
        assert there == files_of(undisturbed / "runs/walk-through" / model), model
