"""What is built from the sources holds everything that it needs, and works from any folder."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from longrun.config.shipped_recipes import recipe_names

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"


def tracked() -> set[str]:
    command = ["git", "ls-files", "src/longrun"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name.removeprefix("src/") for name in listed.split()}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    sources = folder / "sources"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(sources)], check=True)
    for kind in ("wheel", "sdist"):
        command = [sys.executable, "-c", BUILD.format(kind=kind), str(folder)]
        subprocess.run(command, cwd=sources, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def installed(built) -> dict[str, str]:
    wheel = next(built.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--target", str(built / "site"), str(wheel)], check=True)
    return {**os.environ, "PYTHONPATH": str(built / "site")}


def test_wheel_and_sources_hold_every_file_of_the_package(built):
    wheel, sdist = next(built.glob("*.whl")), next(built.glob("*.tar.gz"))
    assert tracked() <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        names = {name.partition("/src/")[2] for name in archive.getnames()}
    assert tracked() <= names


def test_the_installed_package_runs_its_recipes_by_name_from_any_folder(installed, tmp_path):
    def run(*words: str) -> str:
        command = [sys.executable, "-m", "longrun", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=installed, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [sys.executable, "-c", "import longrun; print(longrun.__file__)"]
    found = subprocess.run(
        where, cwd=tmp_path, env=installed, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith(installed["PYTHONPATH"])
    assert "base" in run("demo", "--dry-run")
    for name in [name for name in recipe_names() if name.startswith("openmathreasoning/")]:
        if not name.endswith(("one-round", "two-rounds")):
            assert "train" in run("run", name, "scale=tiny", "--dry-run")
    run(
        "synthesize",
        "num_cot=3",
        "num_tir=3",
        "num_genselect=3",
        "num_held_out=2",
        "output_dir=problems",
    )
    assert (tmp_path / "problems/manifest.json").exists()
