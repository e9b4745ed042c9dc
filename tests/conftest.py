"""Settings of all tests: a busy machine makes a property test slow, not wrong."""

import re
from collections.abc import Callable, Container
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
_BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="session")
def script_of() -> Callable[[Path, Container[str]], str]:
    """Make of a page of the docs one shell script: its bash and python blocks, in its order."""

    def make(page: Path, left_out: Container[str]) -> str:
        parts = []
        for language, code in _BLOCK.findall(page.read_text()):
            lines = [line for line in code.splitlines() if line not in left_out]
            if language == "python":
                parts.append(f"python - <<'END-OF-PYTHON'\n{code}END-OF-PYTHON")
            elif any(lines):
                parts.append("\n".join(lines))
        return "\n".join(["set -e", *parts]) if parts else ""

    return make
