"""What a command line of one verb asks for, as a small recipe.

    train packs=p model=m max_steps=9           the verb's own settings: one stage
    train --nemo_model=m ++trainer.sft...=9     options of the reference: train, then average

Both may be mixed. What an option of the reference becomes stands in ``config.nemo_skills``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longrun.config.nemo_skills.option import Option, Table, find_option
from longrun.config.nemo_skills.verbs import NAMES, OPTIONS, explain_unknown, option_name, stages_of
from longrun.config.reading import parse_override, read_yaml, set_nested
from longrun.config.recipe import Recipe, resolve
from longrun.config.stages import STAGES
from longrun.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Wanted:
    """The words of a command line, sorted by what they are."""

    verb: str
    settings: dict[str, Any] = field(default_factory=dict)
    """The verb's own settings, or those of a stage under the stage's name."""
    moved: dict[str, Any] = field(default_factory=dict)
    """Options of the reference: place -> value; see ``config.nemo_skills``."""
    notes: list[str] = field(default_factory=list)
    """Options that have no effect here, and why."""

    @property
    def by_reference(self) -> bool:
        """Whether an option of the reference was given."""
        return bool(self.moved or self.notes)

    def take(self, option: Option, value: Any, shown: str) -> None:
        """Take an option of the reference; ``shown``: as it was given, for messages.

        Raises:
            ConfigError: it cannot be had, or not with this value.
        """
        if option.never:
            raise ConfigError(f"{self.verb}: {shown} is not here: {option.because}")
        if not option.allows(value):
            known = " or ".join(map(str, option.values))
            raise ConfigError(
                f"{self.verb}: {shown}={value}: only {known} ({option.because}); {option.instead}"
            )
        if option.values:
            self._note(f"{shown}={value} is so here anyway: {option.because}")
        elif option.because:
            if value is not False or not option.flag:
                self._note(f"{shown} has no effect: {option.because}")
        else:
            self._move(option, value, shown)

    def _move(self, option: Option, value: Any, shown: str) -> None:
        try:
            self.moved[option.to] = option.read(value) if option.read else value
        except ValueError as error:
            raise ConfigError(f"{self.verb}: {shown}={value}: {error}") from None

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is said beside the settings: how the command is found, and where its jobs run."""

    expname: str | None = None
    partition: str | None = None
    time_limit: str | int | None = None
    train: bool = True
    """False: a training is not continued, only averaged."""
    on_cluster: bool = False
    """Jobs ask for what they need; on this machine they take what there is."""


def read_words(verb: str, words: list[str]) -> Wanted:
    """Sort the words of a command line; files are read, the settings after them on top.

    Raises:
        ConfigError: an option is unknown (the nearest is named) or lacks its value.
    """
    wanted, settings, table = Wanted(verb), list[str](), OPTIONS.get(verb, {})
    waiting = iter(list(enumerate(words)))
    for at, word in waiting:
        shown, sign, text = word.partition("=")
        option, negated = _option_of(table, word)
        if option is not None:
            given = "false" if negated else text if sign else None
            value, used = _value_of(option, given, words[at + 1 :], table)
            if used is None:
                raise ConfigError(f"{verb}: {shown} lacks its value; write {shown}=VALUE")
            for _ in range(used):
                next(waiting)
            wanted.take(option, value, shown)
        elif word.startswith(("-", "++")) or _is_meant_for_reference(verb, option_name(word)):
            raise ConfigError(f"{verb}: no such option {shown}; {_explain(verb, word)}")
        else:
            settings.append(word)
    wanted.settings.update(read_values(settings))
    return wanted


def read_named(verb: str, ctx: list[str], named: Mapping[str, Any]) -> Wanted:
    """Sort the words of ``ctx`` and named arguments, as Python gives them.

    A name that is both a setting and an option of the reference is an option where another
    option of the reference is given.

    Raises:
        ConfigError: as ``read_words``, or a name is unknown.
    """
    wanted = read_words(verb, [word for word in ctx if word])
    options = OPTIONS.get(verb, {})
    fields = STAGES[verb].model_fields if verb in STAGES else {}
    only_there = any(name in options and name not in fields for name in named)
    by_reference = wanted.by_reference or only_there or verb not in STAGES
    for name, value in named.items():
        if value is None:
            continue
        if name in options and (by_reference or name not in fields):
            wanted.take(options[name], value, name)
        else:
            wanted.settings[name] = value
    return wanted


def read_values(arguments: list[str]) -> dict[str, Any]:
    """Read YAML files and ``name=value`` arguments, the latter on top, as one tree of settings."""
    values: dict[str, Any] = {}
    for argument in arguments:
        if _is_file(argument):
            values.update(read_yaml(Path(argument)))
    for argument in arguments:
        if not _is_file(argument):
            set_nested(values, *parse_override(argument))
    return values


def build_recipe(wanted: Wanted, place: Place, runs: Path) -> Recipe:
    """Build the recipe of a command; its folder is ``runs / expname``.

    Raises:
        ConfigError: a setting is missing, unknown or out of bounds.
    """
    verb = wanted.verb
    stages = {verb: dict(wanted.settings)}
    if wanted.by_reference or verb not in STAGES:
        stages = stages_of(verb, wanted.moved, wanted.settings, train=place.train)
    asked = {
        "partition": place.partition,
        "time_limit": place.time_limit,
        "sbatch": wanted.moved.get("job.sbatch"),
    }
    job = {key: value for key, value in asked.items() if value is not None}
    name = NAMES.get(verb, verb) if wanted.by_reference else verb
    jobs = {
        stage: {**job, **_gpus_of(stage, section, wanted, place)}
        for stage, section in stages.items()
    }
    raw = {
        "name": place.expname or name,
        "stages": stages,
        "jobs": {stage: asked for stage, asked in jobs.items() if asked},
    }
    return resolve(raw, [], verb, runs)


def _gpus_of(
    stage: str, section: Mapping[str, Any], wanted: Wanted, place: Place
) -> dict[str, Any]:
    """Return the GPUs that a stage asks for: its server's, or on a cluster ``--num_gpus``."""
    gpus = wanted.moved.get("gpus")
    if gpus and section.get("engine") in ("vllm", "sglang"):
        return {"num_gpus": gpus}
    processes = wanted.moved.get("train.num_processes")
    return {"num_gpus": processes} if stage == "train" and processes and place.on_cluster else {}


def _option_of(table: Table, word: str) -> tuple[Option | None, bool]:
    """Return the option that ``word`` gives, and whether it is a flag given as ``--no-NAME``."""
    if not word.startswith(("+", "-")):
        return None, False
    name = option_name(word)
    option = find_option(table, name)
    if option is None and name.startswith("no_"):
        option = find_option(table, name.removeprefix("no_"))
        return (option, True) if option and option.flag else (None, False)
    return option, False


def _explain(verb: str, word: str) -> str:
    name, sign, text = word.lstrip("+-").partition("=")
    fields: Any = STAGES.get(verb)
    first = option_name(name).partition(".")[0]
    if fields is not None and first in fields.model_fields and not word.startswith("++"):
        return f"it is a setting: write {option_name(name)}={text if sign else 'VALUE'}"
    return explain_unknown(verb, word)


def _is_file(word: str) -> bool:
    """Say whether a word names a file: the name of a setting has no slash, so ``./a=1.yaml``."""
    name, sign, _ = word.partition("=")
    return not sign or "/" in name


def _is_meant_for_reference(verb: str, name: str) -> bool:
    """Say whether ``model.foo`` can only be a misspelt option, as ``model`` is no group here."""
    group, dot, _ = name.partition(".")
    if not dot or (verb in STAGES and group in STAGES[verb].model_fields):
        return False
    return any(option.startswith(f"{group}.") for option in OPTIONS.get(verb, {}))


def _value_of(
    option: Option, text: str | None, rest: list[str], table: Table
) -> tuple[Any, int | None]:
    """Return the value of an option and how many words of ``rest`` belong to it; None: no value."""
    if option.many:
        following = list(_until_option(rest))
        return [*([text] if text else []), *following], len(following)
    if text is not None:
        return _parse(text), 0
    if option.flag:
        return True, 0
    if not rest or _option_of(table, rest[0])[0] is not None:
        return None, None
    return _parse(rest[0]), 1


def _until_option(words: list[str]) -> Iterator[str]:
    for word in words:
        if word.startswith(("--", "++")):
            return
        yield word


def _parse(text: str) -> Any:
    return parse_override(f"value={text}")[1]
