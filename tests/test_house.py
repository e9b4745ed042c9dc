"""The house rules that a linter cannot hold."""

import ast
from pathlib import Path

import pytest

import longrun

ROOT = Path(longrun.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
ROOMS = sorted(path for path in ROOT.iterdir() if (path / "__init__.py").exists())


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_every_room_says_in_one_line_what_lives_there():
    for room in ROOMS:
        line = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
        assert line, room
        assert "\n" not in line, room


def test_collectives_have_one_home():
    collective = {
        path.relative_to(ROOT).parts[0] for path in MODULES if "torch.distributed" in imported(path)
    }
    assert collective == {"parallel"}


def test_no_room_has_the_name_of_a_function_of_the_interface():
    # `import longrun.NAME.module` would put the package where `longrun.NAME` was the function.
    assert not {room.name for room in ROOMS} & set(longrun._PYTHON_API)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_in_ascii_and_stays_readable(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert text.isascii()
    assert len(text.splitlines()) <= 500
