"""The house rules that a linter cannot hold."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def test_every_room_and_wing_says_in_one_line_what_lives_there():
    for path in [path for path in MODULES if path.name == "__init__.py" and path.parent != ROOT]:
        line = ast.get_docstring(ast.parse(path.read_text()))
        assert line, path
        assert "\n" not in line, path


def test_collectives_have_one_home():
    collective = {
        path.relative_to(ROOT).parts[0] for path in MODULES if "torch.distributed" in imported(path)
    }
    assert collective == {"parallel"}


def test_no_room_has_the_name_of_a_function_of_the_interface():
    # `import longrun.NAME.module` would put the package where `longrun.NAME` was the function.
    assert not {room.name for room in ROOMS} & set(longrun.__all__)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_in_ascii_and_stays_readable(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert text.isascii()
    assert len(text.splitlines()) <= 500


FREE = re.compile(
    r"pickle\.loads?\(|torch\.load\(|yaml\.(full_|unsafe_)?load\(|FileSystemReader\("
    r"|np\.load\((?![^\n]*allow_pickle=False)"
)
"""What runs code that a file names."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_name_code_to_run(path):
    found = FREE.findall(path.read_text())
    assert not found or path.name == "metadata.py", "read it as longrun.checkpoint.metadata does"


PROJECT = ROOT.parent.parent


def test_every_dependency_has_one_exact_version_within_its_range():
    lines = (PROJECT / "constraints.txt").read_text().split()
    exact = {name: version for name, _, version in (line.partition("==") for line in lines)}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [Requirement(line) for line in project["dependencies"]]
    named += [Requirement(line) for extra in ("dev", "bench", "hub") for line in extras[extra]]
    for requirement in named:
        if requirement.name != "torch":  # the Makefile names its version
            assert requirement.specifier.contains(exact[canonicalize_name(requirement.name)]), (
                requirement
            )


def test_no_advice_installs_the_stranger_of_the_same_name():
    # On the package index `longrun` is another project: advice names what is missing itself.
    texts = [*ROOT.rglob("*.py"), *(PROJECT / "docs").rglob("*.md"), PROJECT / "README.md"]
    advice = re.compile(r"pip install\s+['\"]?longrun(?!-train)\b")
    assert not [path for path in texts if advice.search(path.read_text())]
