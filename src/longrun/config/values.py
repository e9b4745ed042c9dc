"""Kinds of values that the settings of several stages share."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

Mode = Literal["cot", "tir", "genselect"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
"""Becomes a folder or file: letters, digits, dot, dash and underscore."""


def is_prompt_file(name: str) -> bool:
    """Say whether a prompt or template setting names a file rather than a built-in one."""
    return name.endswith((".yaml", ".yml", ".jinja"))


def as_list(value: Any) -> Any:
    """Let a single value stand for a list of one."""
    return [value] if isinstance(value, str | Path | dict) else value


one_or_list = BeforeValidator(as_list, json_schema_input_type=str | list[str])
"""A text may stand for a list of one, in recipes and in their schema."""
Paths = Annotated[list[Path], one_or_list, Field(min_length=1)]
