"""docs/architecture.md names rooms, modules and functions that exist, and every room there is."""

import importlib
import re
from pathlib import Path

import pytest

import longrun

ROOT = Path(longrun.__file__).parent
PAGE = (ROOT.parent.parent / "docs/architecture.md").read_text()
NAMES = sorted(set(re.findall(r"`(longrun\.[\w.]+)`", PAGE)))
PATHS = sorted(set(re.findall(r"`((?:nn|config|data|cli|launch)/[\w/.]+)`", PAGE)))


def find(name: str) -> object:
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_page_names_exists(name):
    assert find(name)


@pytest.mark.parametrize("path", PATHS)
def test_what_a_change_touches_exists(path):
    assert (ROOT / path).exists()


def test_every_room_and_wing_stands_in_the_table():
    rooms = {path.parent.relative_to(ROOT) for path in ROOT.glob("*/__init__.py")}
    rooms |= {path.parent.relative_to(ROOT) for path in ROOT.glob("*/*/__init__.py")}
    for room in rooms:
        row = next(
            line
            for line in PAGE.splitlines()
            if line.startswith("|") and f"`{room.parts[0]}`" in line.split("|")[1]
        )
        assert all(f"`{part}`" in row for part in room.parts), room
