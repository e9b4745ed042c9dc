"""Longrun: from raw worked solutions to an evaluated Hugging Face model."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_PYTHON_API = {
    **dict.fromkeys(("run_cmd", "wrap_arguments"), "longrun.launch.commands"),
    **dict.fromkeys(
        ("prepare", "merge", "pack", "train", "average", "convert", "generate", "evaluate"),
        "longrun.launch.verbs",
    ),
    "get_prompt": "longrun.data.records.prompt_templates",
}
"""Name -> module. Imported when used: `import longrun` alone stays free of everything."""


def __getattr__(name: str) -> Any:
    """Import a function of the Python interface."""
    if name in _PYTHON_API:
        return getattr(import_module(_PYTHON_API[name]), name)
    raise AttributeError(f"module 'longrun' has no attribute {name!r}")
