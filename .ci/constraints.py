"""Print exact versions for pip: what is installed here, or the lower bounds of pyproject.toml.

``constraints.py newest`` prints every installed distribution except torch, which the Makefile
names itself, and this project. ``constraints.py oldest`` prints each dependency of the program
at the lower bound that pyproject.toml promises.
"""

import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
NAMED_ELSEWHERE = {"torch", "pip"}


def newest() -> list[str]:
    """Return ``name==version`` of every installed distribution, sorted by name."""
    own = tomllib.loads(PROJECT.read_text())["project"]["name"]
    found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions()}
    return [
        f"{name}=={version.split('+')[0]}"
        for name, version in sorted(found.items())
        if name not in NAMED_ELSEWHERE | {own}
    ]


def oldest() -> list[str]:
    """Return ``name==bound`` of every dependency that the program needs."""
    needed = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    bounds = (re.match(r"([\w-]+)(?:\[[^\]]*\])?>=([\w.]+)", line) for line in needed)
    return sorted(
        f"{bound[1]}=={bound[2]}" for bound in bounds if bound and bound[1] not in NAMED_ELSEWHERE
    )


if __name__ == "__main__":
    print("\n".join({"newest": newest, "oldest": oldest}[sys.argv[1]]()))
