"""Further options of ``sbatch`` that a cluster file or a recipe names, and those that may not be.

An option is passed on as it is written. Those that decide where a job's files, nodes and order
lie are Longrun's own: given twice, a job would be lost from sight or run twice.
"""

import re

from longrun.config.names import fault_of

_LONG = re.compile(r"--([a-z][a-z0-9_-]*)(=.*)?", re.DOTALL)
_SHORT = re.compile(r"-([A-Za-z])(\S.*)?", re.DOTALL)
_JOB_LIST = "how jobs wait for each other is Longrun's"
_LOG = "the log of a job lies in its folder; --log_dir names another place"
_NODES = "set num_nodes of the stage"
_WHERE = "commands start where they are submitted"
_ANSWER = "Longrun reads what sbatch answers"
_OWN = {
    "output": _LOG,
    "error": _LOG,
    "input": "commands of jobs read nothing",
    "open-mode": _LOG,
    "array": "set num_parts",
    "dependency": _JOB_LIST,
    "kill-on-invalid-dep": _JOB_LIST,
    "wait": _ANSWER,
    "parsable": _ANSWER,
    "quiet": _ANSWER,
    "help": _ANSWER,
    "usage": _ANSWER,
    "version": _ANSWER,
    "test-only": "see --dry-run",
    "wrap": "a job has its own script",
    "clusters": "write one cluster file for each cluster",
    "nodes": _NODES,
    "ntasks": _NODES,
    "ntasks-per-node": _NODES,
    "chdir": _WHERE,
    "job-name": "set --expname, or job_name_prefix of the cluster file",
    "signal": "set save_seconds of the cluster file",
}
"""Long name -> what to do instead."""
_SHORT_OWN = {
    "o": "output",
    "e": "error",
    "i": "input",
    "a": "array",
    "d": "dependency",
    "W": "wait",
    "Q": "quiet",
    "h": "help",
    "V": "version",
    "M": "clusters",
    "N": "nodes",
    "n": "ntasks",
    "D": "chdir",
    "J": "job-name",
}


def check_option(option: str) -> str:
    """Return ``option`` if ``sbatch`` reads it as one option, and one that may be given."""
    long, short = _LONG.fullmatch(option), _SHORT.fullmatch(option)
    if fault := fault_of(option):
        raise ValueError(f"{option!r} {fault}")
    if not long and not short:
        raise ValueError(f"{option!r} is not an option; write --name=value")
    own = _own_name(long.group(1)) if long else _SHORT_OWN.get(short.group(1)) if short else None
    if own:
        raise ValueError(f"{option!r} is set by Longrun; remove it ({_OWN[own]})")
    return option


def passes_on(options: list[str], variable: str) -> bool:
    """Say whether a job that is submitted with ``options`` gets ``variable`` of this shell.

    >>> passes_on(["--export=NONE"], "HF_TOKEN"), passes_on(["--export=A,HF_TOKEN"], "HF_TOKEN")
    (False, True)
    """
    chosen = [option for option in options if option.startswith("--export=")]
    names = chosen[-1].partition("=")[2].split(",") if chosen else ["ALL"]
    return "ALL" in (name.upper() for name in names) or variable in names


def _own_name(name: str) -> str | None:
    """Return the option that is Longrun's own and that ``name`` means, shortened as well."""
    if name in _OWN:
        return name
    return next((own for own in _OWN if own.startswith(name)), None)
