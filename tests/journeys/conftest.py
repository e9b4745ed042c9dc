"""One full demo for all journeys: the real command, in a folder of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Demo:
    """A finished ``make demo``."""

    folder: Path
    """Where ``runs/demo`` is."""
    output: str
    environment: dict[str, str]
    """That of a user who has activated the virtual environment."""

    @property
    def run(self) -> Path:
        return self.folder / "runs/demo"


def user_environment() -> dict[str, str]:
    programs = str(Path(sys.executable).parent)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return {**kept, "PATH": os.pathsep.join([programs, kept["PATH"]])}


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    return user_environment()


@pytest.fixture(scope="session")
def demo(tmp_path_factory, environment) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        ["make", "demo", f"SETTINGS=output_dir={folder}/runs/demo"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    return Demo(folder, done.stdout, environment)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A folder with a finished run of every stage; tests copy what they change."""
    folder = tmp_path_factory.mktemp("tiny")
    sys.path.insert(0, str(ROOT / "bench"))
    from attack.tiny import build

    before = Path.cwd()
    try:
        build(folder)
    finally:
        os.chdir(before)
    return folder
