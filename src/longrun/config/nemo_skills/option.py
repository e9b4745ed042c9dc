"""One option of the reference: a setting here, what happens anyway, without effect, or refused.

A table names options as they are written, without dashes and plus signs: ``model.optim.lr`` stands
for ``++model.optim.lr`` and ``--model.optim.lr``. A name that ends in ``.*`` stands for all below.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Read = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Option:
    """What one option becomes; see ``moved``, ``same``, ``idle`` and ``refused``."""

    to: str = ""
    """Stage and setting, as ``train.optimizer.lr``; a single word is for the command itself."""
    read: Read | None = None
    """Turns the value into that of the setting; raises ``ValueError`` with what is wrong."""
    because: str = ""
    """Why it has no effect, or is refused."""
    values: tuple[Any, ...] = ()
    """Values that say what happens here anyway; none named: any."""
    instead: str = ""
    """What to do where another value is wanted."""
    never: bool = False
    """Refused with every value."""
    flag: bool = False
    """Takes no value."""
    many: bool = False
    """Takes all words up to the next option."""
    plus: bool = False
    """Written with ``++`` although its name has no dot."""

    def allows(self, value: Any) -> bool:
        """Say whether ``value`` is among those that may be given."""
        return not self.values or (None if value == "None" else value) in self.values


Table = Mapping[str, Option]


def moved(
    to: str, read: Read | None = None, *, flag: bool = False, many: bool = False, plus: bool = False
) -> Option:
    """Return an option that is a setting of Longrun."""
    return Option(to, read, flag=flag, many=many, plus=plus)


def same(*values: Any, because: str, instead: str = "leave it out", plus: bool = False) -> Option:
    """Return an option that may only say what Longrun does anyway; ``because`` says what."""
    return Option(because=because, values=values, instead=instead, plus=plus)


def idle(because: str, *, flag: bool = False, plus: bool = False) -> Option:
    """Return an option that has no effect with any value; ``because`` says why."""
    return Option(because=because, flag=flag, plus=plus)


def refused(because: str, *, plus: bool = False) -> Option:
    """Return an option that cannot be had; ``because`` says what to do instead."""
    return Option(because=because, never=True, plus=plus)


def find_option(table: Table, name: str) -> Option | None:
    """Return the option called ``name``, or the one that stands for all around it."""
    if name in table:
        return table[name]
    parts = name.split(".")[:-1]
    around = (".".join([*parts[:end], "*"]) for end in range(len(parts), 0, -1))
    return next((table[place] for place in around if place in table), None)


def written(name: str, option: Option) -> str:
    """Return ``name`` as the reference's users write it."""
    return f"++{name}" if option.plus or "." in name else f"--{name}"


def nest(places: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"train.optimizer.lr": 1}`` into ``{"train": {"optimizer": {"lr": 1}}}``."""
    tree: dict[str, Any] = {}
    for place, value in places.items():
        *folders, name = place.split(".")
        inside = tree
        for folder in folders:
            inside = inside.setdefault(folder, {})
        inside[name] = value
    return tree


def read_precision(value: Any) -> str:
    """Return our name of a number type."""
    known = {"bf16": "bfloat16", "bf16-mixed": "bfloat16", "bfloat16": "bfloat16"}
    known |= {"32": "float32", "fp32": "float32", "float32": "float32", "fp16": "float16"}
    if str(value) not in known:
        raise ValueError(f"is not one of {', '.join(known)}")
    return known[str(value)]


def as_list(value: Any) -> list[Any]:
    """Return ``value`` as a list."""
    return value if isinstance(value, list) else [value]


_KEPT_CODE = idle("a job always runs the code as it was when it was submitted", flag=True)
_WHOLE_NODES = idle("`exclusive` of the cluster file says it", flag=True)
EVERYWHERE: Table = {
    "time_min": moved("job.sbatch", lambda value: [f"--time-min={value}"]),
    "reuse_code": _KEPT_CODE,
    "reuse_code_exp": idle("a job always runs the code as it was when it was submitted"),
    "exclusive": _WHOLE_NODES,
    "not_exclusive": _WHOLE_NODES,
    "installation_command": refused("install it in the container, or by `run_cmd` before"),
    "mount_paths": refused("`mounts` of the cluster file says it"),
    "check_mounted_paths": idle("paths are always checked", flag=True),
}
"""Options that every command about jobs has."""
