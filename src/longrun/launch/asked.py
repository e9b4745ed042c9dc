"""What ``run_cmd`` is asked for beside its command, by the reference's names as well."""

import logging
from collections.abc import Mapping

from longrun.config.cluster import JobSettings
from longrun.config.commands import Wanted
from longrun.config.nemo_skills.option import EVERYWHERE
from longrun.config.nemo_skills.verbs import explain_unknown
from longrun.errors import ConfigError

log = logging.getLogger(__name__)


def join_commands(before: str | None, text: str, after: str | None) -> str:
    """Return one shell text of three; each runs only if the one before it succeeded."""
    if not text.strip() or not (before or after):
        return text
    return " && ".join(f"{{ {part}\n}}" for part in (before, text, after) if part)


def read_asked(asked: Mapping[str, object], others: Mapping[str, object]) -> JobSettings:
    """Return what a command asks of its cluster; options without effect are said.

    Raises:
        ConfigError: a value is wrong, or one of ``others`` is no option.
    """
    wanted = Wanted("run_cmd")
    for name, value in others.items():
        if name not in EVERYWHERE:
            raise ConfigError(f"run_cmd: no such option {name}; {explain_unknown('run_cmd', name)}")
        if value is not None:
            wanted.take(EVERYWHERE[name], value, name)
    for note in wanted.notes:
        log.info("run_cmd: %s", note)
    named = {key: value for key, value in asked.items() if value is not None}
    if "job.sbatch" in wanted.moved:
        named["sbatch"] = wanted.moved["job.sbatch"]
    return JobSettings.parse(named, "run_cmd")
