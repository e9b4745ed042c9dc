"""Names that reach job scripts and options of ``sbatch``: what such a text may hold."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""Names of experiments and stages; always matched as a whole."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_OWN_OF_BASH = re.compile(
    "_|BASHOPTS|BASHPID|BASH_(ARGC|ARGV|COMMAND|LINENO|SOURCE|SUBSHELL|VERSINFO)|DIRSTACK"
    "|EPOCHREALTIME|EPOCHSECONDS|EUID|FUNCNAME|GROUPS|HISTCMD|LINENO|PPID|RANDOM|SECONDS|SHELLOPTS"
    "|SRANDOM|UID"
)


def fault_of(text: str) -> str:
    r"""Say why no script can hold ``text`` in one line as it is; empty: it can.

    >>> fault_of("two words"), fault_of("two\nlines")
    ('', 'holds a line break or another character that cannot be printed; remove it')
    """
    if _CONTROL.search(text):
        return "holds a line break or another character that cannot be printed; remove it"
    return ""


def check_line(text: str) -> str:
    """Return ``text`` if it is one printable line."""
    if fault := fault_of(text):
        raise ValueError(fault)
    return text


def check_variable(name: str) -> str:
    """Return ``name`` if a job can set a variable of that name."""
    if not _VARIABLE.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a variable")
    if _OWN_OF_BASH.fullmatch(name):
        raise ValueError(f"{name!r} is set by bash itself; choose another variable")
    return name


def _check_value(text: str) -> str:
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError("holds a character that no environment can hold; remove it")
    return text


def _check_path(path: Path) -> Path:
    check_line(str(path))
    return path


def _as_text(value: Any) -> Any:
    """Read a name that YAML takes for a number, as an account ``12345``."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Line = Annotated[str, BeforeValidator(_as_text), AfterValidator(check_line)]
"""One printable line."""
LinePath = Annotated[Path, AfterValidator(_check_path)]
"""A path that is one printable line."""
Variable = Annotated[str, AfterValidator(check_variable)]
Value = Annotated[str, BeforeValidator(_as_text), AfterValidator(_check_value)]
"""Value of a variable: any text, several lines as well."""
