"""Every block of commands in README and docs runs, in the order of the page, after the demo."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from longrun.config.recipe import resolve

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BY_MAKE = {"make demo", "make test"}
"""Run by the demo fixture and by continuous integration; not again inside themselves."""


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_blocks_of_a_page_run_as_they_stand(page, demo, script_of):
    script = script_of(page, BY_MAKE)
    if not script:
        return
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=demo.folder,
        env=demo.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_yaml_of_a_page_is_a_valid_section_of_a_recipe(page):
    for block in blocks(page, "yaml"):
        section = yaml.safe_load(block)
        for name, settings in section.items():
            if settings.get("verb", name) == "prepare":
                settings.setdefault("tokenizer", "tokenizer")
        words = {"data": "data.jsonl", "model": "model"}
        resolve({"name": "page", "settings": words, "stages": section}, [], page.name)


def test_something_runs_within_the_first_twenty_lines_of_the_readme():
    assert "make demo" in "\n".join(PAGES[0].read_text().splitlines()[:20])


@pytest.mark.parametrize("target", sorted(BY_MAKE))
def test_the_make_targets_of_the_pages_exist(target):
    done = subprocess.run(
        ["make", "--dry-run", *target.split()[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
