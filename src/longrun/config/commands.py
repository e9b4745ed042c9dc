"""What a command line of one verb asks for, as a small recipe.

    train packs=p model=m max_steps=9           the verb's own settings: one stage
    train --nemo_model=m ++trainer.sft...=9     options of the reference: train, then average

Both may be mixed. What an option of the reference becomes stands in ``config.reference``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longrun.config.base import nearest
from longrun.config.reading import merge_trees, parse_override, read_yaml, set_nested
from longrun.config.recipe import Recipe, resolve
from longrun.config.reference import OPTIONS, Option, stages_of
from longrun.config.stages import STAGES
from longrun.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Wanted:
    """The words of a command line, sorted by what they are."""

    verb: str
    settings: dict[str, Any] = field(default_factory=dict)
    """The verb's own settings, or those of a stage under the stage's name."""
    moved: dict[str, Any] = field(default_factory=dict)
    """Options of the reference: place -> value; see ``config.reference``."""
    notes: list[str] = field(default_factory=list)
    """Options that have no effect here, and why."""

    @property
    def by_reference(self) -> bool:
        """Whether an option of the reference was given."""
        return bool(self.moved or self.notes)

    def take(self, name: str, value: Any, written: str) -> None:
        """Take an option of the reference; ``written``: as it was given, for messages.

        Raises:
            ConfigError: the value cannot be.
        """
        option = OPTIONS[self.verb][name]
        if option.only and value not in option.only:
            known = " or ".join(map(str, option.only))
            raise ConfigError(f"{self.verb}: {written}={value}: only {known} ({option.idle})")
        if option.idle:
            self.notes.extend([] if option.only else [f"{written} has no effect: {option.idle}"])
            return
        try:
            self.moved[option.to] = option.read(value) if option.read else value
        except ValueError as error:
            raise ConfigError(f"{self.verb}: {written}={value}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is said beside the settings: how the command is found, and where its jobs run."""

    expname: str | None = None
    partition: str | None = None
    time_limit: str | int | None = None
    train: bool = True
    """False: a training is not continued, only averaged."""


def read_words(verb: str, words: list[str]) -> Wanted:
    """Sort the words of a command line; files are read, the settings after them on top.

    Raises:
        ConfigError: an option is unknown (the nearest is named) or lacks its value.
    """
    wanted, settings = Wanted(verb), list[str]()
    waiting = iter(list(enumerate(words)))
    for at, word in waiting:
        name, sign, text = word.lstrip("+-").partition("=")
        option = OPTIONS.get(verb, {}).get(name) if word.startswith(("+", "-")) else None
        if option is not None:
            value, used = _value_of(option, text if sign else None, words[at + 1 :])
            for _ in range(used):
                next(waiting)
            wanted.take(name, value, word.partition("=")[0])
        elif word.startswith("-") or _is_meant_for_reference(verb, name):
            sign = "--" if word.startswith("-") else "++"
            known = [f"{sign}{name}" for name in OPTIONS.get(verb, {})]
            hint = nearest(word.partition("=")[0], known) if known else "settings are name=value"
            raise ConfigError(f"{verb}: no such option {word.partition('=')[0]}; {hint}")
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
    options, fields = OPTIONS.get(verb, {}), STAGES[verb].model_fields
    only_there = any(name in options and name not in fields for name in named)
    by_reference = wanted.by_reference or only_there
    for name, value in named.items():
        if value is None:
            continue
        if name in options and (by_reference or name not in fields):
            wanted.take(name, value, name)
        else:
            wanted.settings[name] = value
    return wanted


def read_values(arguments: list[str]) -> dict[str, Any]:
    """Read YAML files and ``name=value`` arguments, the latter on top, as one tree of settings."""
    values: dict[str, Any] = {}
    for argument in arguments:
        if "=" not in argument:
            values.update(read_yaml(Path(argument)))
    for argument in arguments:
        if "=" in argument:
            set_nested(values, *parse_override(argument))
    return values


def build_recipe(wanted: Wanted, place: Place, runs: Path) -> Recipe:
    """Build the recipe of a command; its folder is ``runs / expname``.

    Raises:
        ConfigError: a setting is missing, unknown or out of bounds.
    """
    verb = wanted.verb
    stages = {verb: dict(wanted.settings)}
    if wanted.by_reference:
        stages = stages_of(verb, wanted.moved, train=place.train)
        for name, value in wanted.settings.items():
            if name in stages and isinstance(value, dict):
                stages[name] = merge_trees(stages[name], value)
            else:
                stages[verb] = merge_trees(stages[verb], {name: value})
    asked = {
        "partition": place.partition,
        "time_limit": place.time_limit,
        "sbatch": wanted.moved.get("job.sbatch"),
    }
    job = {key: value for key, value in asked.items() if value is not None}
    raw = {
        "name": place.expname or verb,
        "stages": stages,
        "jobs": dict.fromkeys(stages, job) if job else {},
    }
    return resolve(raw, [], verb, runs)


def _is_meant_for_reference(verb: str, name: str) -> bool:
    """Say whether ``model.foo`` can only be a misspelt option, as ``model`` is no group here."""
    group, dot, _ = name.partition(".")
    return bool(dot) and any(option.startswith(f"{group}.") for option in OPTIONS.get(verb, {}))


def _value_of(option: Option, text: str | None, rest: list[str]) -> tuple[Any, int]:
    """Return the value of an option and how many words of ``rest`` belong to it."""
    if option.flag and text is None:
        return True, 0
    if text is not None and not option.many:
        return _parse(text), 0
    following = list(_until_option(rest)) if option.many else rest[:1]
    if option.many:
        return [*([text] if text else []), *following], len(following)
    return (_parse(following[0]) if following else None), len(following)


def _until_option(words: list[str]) -> Iterator[str]:
    for word in words:
        if word.startswith(("--", "++")):
            return
        yield word


def _parse(text: str) -> Any:
    return parse_override(f"value={text}")[1]
