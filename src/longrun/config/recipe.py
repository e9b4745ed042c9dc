"""Recipes: a whole run as data, read and checked without importing torch.

A recipe is YAML with three keys, and ``jobs`` where a cluster must be told more:

    name: small                      # names the output folder: runs/small
    settings:                        # words that ${...} may use; set as data=... when started
      data: ???                      # ??? must be given
    stages:                          # a graph: one section per stage, edges are ${stage}
      prepare: {data: "${data}", tokenizer: "${model}"}
      pack: {documents: "${prepare}", pack_size: 4096}
      second-pack: {verb: pack, documents: "${prepare}", pack_size: 2048}
    jobs:                            # of stages, on a cluster; see ``config.cluster``
      prepare: {partition: cpu, time_limit: 8h}

A section is named after its verb, or says ``verb:``. ``${stage}`` is the output folder of that
stage and makes an edge, as does any path in it. ``a.b=value`` overrides: ``pack.pack_size=2048``.
A file may be laid over another (``extends``) and hold named variants of itself (``scales``): see
``config.composition``.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from longrun.config.cluster import JobSettings
from longrun.config.composition import SCALE, check_shape, choose_scale, read_composed
from longrun.config.interpolation import check_extent, fill, fill_words, find_upstream
from longrun.config.names import NAME
from longrun.config.reading import parse_override, set_nested
from longrun.config.settings import StageConfig, nearest
from longrun.config.stages import STAGES
from longrun.errors import ConfigError

REQUIRED = "???"
RUNS = Path("runs")
"""Folder of runs where nothing else is said."""
MOST_STAGES = 1000
_AS_TEXT = "a folder whose name reads as a number is written with ./ in front"


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a recipe: its settings, resolved and checked, and what must finish first."""

    name: str
    verb: str
    config: StageConfig
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A run: stages in an order in which they can run."""

    name: str
    description: str
    output_dir: Path
    stages: tuple[StagePlan, ...]
    resolved: dict[str, Any]
    """The recipe with every override and reference filled in; itself a valid recipe."""
    jobs: Mapping[str, JobSettings]
    """Stage name -> what its job asks of a cluster; others follow from the stage."""

    def stage(self, name: str) -> StagePlan:
        """Return the stage called ``name``.

        Raises:
            ConfigError: there is none; the nearest name is given.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [stage.name for stage in self.stages]
        raise ConfigError(f"{self.name}: no stage {name!r}; {nearest(name, names)}")


def load_recipe(path: Path, overrides: list[str], runs: Path = RUNS) -> Recipe:
    """Read the recipe at ``path``, apply ``overrides`` and check every setting.

    ``runs`` is the folder of runs in which a recipe works that names no ``output_dir``.

    Raises:
        ConfigError: one line naming the file, the setting, the bound and the nearest name.
    """
    return resolve(read_composed(path), overrides, str(path), runs)


def resolve(raw: dict[str, Any], overrides: list[str], where: str, runs: Path = RUNS) -> Recipe:
    """Turn a recipe as written into one whose every setting is known and in bounds."""
    check_shape(raw, where)
    tree, others = choose_scale(raw, overrides, where)
    tree["settings"] = tree.get("settings") or {}
    _check_names(tree, where)
    for override in others:
        _apply(tree, override, where)
    _check_names(tree, where)
    name, output_dir = tree["name"], Path(tree.get("output_dir") or runs / tree["name"])
    words = _words(tree, output_dir, where)
    folders = {stage: words[stage] for stage in tree["stages"]}
    _check_folders(folders, where)
    stages = _plans(tree["stages"], words, folders, where)
    jobs = _jobs(tree.get("jobs") or {}, words, folders, where)
    description = str(tree.get("description", ""))
    resolved = {
        "name": name,
        "description": description,
        "output_dir": str(output_dir),
        "stages": {
            stage.name: {"verb": stage.verb, **stage.config.model_dump(mode="json")}
            for stage in stages
        },
    }
    if jobs:
        resolved["jobs"] = {key: job.model_dump(exclude_unset=True) for key, job in jobs.items()}
    ordered = _ordered(stages, where)
    return Recipe(name, description, output_dir, ordered, resolved, jobs)


def _check_names(tree: dict[str, Any], where: str) -> None:
    for key in ("name", "stages"):
        if not tree.get(key):
            raise ConfigError(f"{where}: {key} is required in a recipe")
    if len(tree["stages"]) > MOST_STAGES:
        raise ConfigError(f"{where}: {len(tree['stages'])} stages; at most {MOST_STAGES}")
    for name in (tree["name"], *tree["stages"]):
        _check_name(name, where)
    folder = tree.get("output_dir")
    if folder is not None and not isinstance(folder, str):
        raise ConfigError(f"{where}: output_dir must be text, got {folder!r:.80}; {_AS_TEXT}")
    for name, section in [*tree["stages"].items(), *(tree.get("jobs") or {}).items()]:
        if section is not None and not isinstance(section, dict):
            raise ConfigError(f"{where}: {name}: must be a mapping, got {section!r:.80}")
    _check_words_differ(tree, where)


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str):
        raise ConfigError(f"{where}: the name {name!r:.80} is not text; write it in quotes")
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r:.80} is not a name; use at most 200 letters, digits, . _ -"
        )


def _check_words_differ(tree: dict[str, Any], where: str) -> None:
    both = set(tree["stages"]) & set(tree["settings"])
    if both:
        raise ConfigError(f"{where}: {both.pop()!r} names a setting and a stage; rename one")
    if "jobs" in tree["stages"]:
        raise ConfigError(f"{where}: a stage cannot be called jobs; rename it")
    if SCALE in tree["settings"]:
        raise ConfigError(f"{where}: a setting cannot be called {SCALE}; rename it")


def _check_folders(folders: Mapping[str, str], where: str) -> None:
    """Refuse stages that write into each other's folders, however the paths are spelt."""
    places = {stage: Path(os.path.abspath(folder)) for stage, folder in folders.items()}
    # In this order a folder is followed by those that lie in it.
    for one, other in pairwise(sorted(places, key=lambda stage: places[stage].parts)):
        if places[other].is_relative_to(places[one]):
            raise ConfigError(
                f"{where}: stages {one} and {other} would write into one folder"
                f" ({folders[one]}, {folders[other]}); give {other} an output_dir of its own"
            )


def _apply(tree: dict[str, Any], override: str, where: str) -> None:
    keys, value = parse_override(override)
    first = keys[0]
    if len(keys) == 1 and first in tree["settings"]:
        set_nested(tree, ["settings", first], value)
    elif len(keys) == 1 and first in ("name", "output_dir"):
        tree[first] = value
    elif len(keys) > 1 and first in tree["stages"]:
        set_nested(tree, ["stages", *keys], value)
    elif len(keys) > 2 and first == "jobs":
        set_nested(tree, keys, value)
    else:
        known = [*tree["settings"], "output_dir"] if len(keys) == 1 else list(tree["stages"])
        kind = "setting" if len(keys) == 1 else "stage"
        raise ConfigError(f"{override!r}: {where} has no {kind} {first!r}; {nearest(first, known)}")


def _words(tree: dict[str, Any], output_dir: Path, where: str) -> dict[str, Any]:
    """Return what every ``${word}`` stands for: settings, and stages as their output folders."""
    for name, value in tree["settings"].items():
        if value == REQUIRED:
            raise ConfigError(f"{where}: setting {name!r} must be given: {name}=VALUE")
    folders = {
        stage: (section or {}).get("output_dir") or str(output_dir / stage)
        for stage, section in tree["stages"].items()
    }
    words = fill_words({**tree["settings"], **folders}, where)
    for stage in folders:
        if not isinstance(words[stage], str):
            got = f"{words[stage]!r:.80}"
            raise ConfigError(f"{where}: {stage}.output_dir must be text, got {got}; {_AS_TEXT}")
    return words


def _plans(
    sections: dict[str, Any], words: dict[str, Any], folders: dict[str, str], where: str
) -> list[StagePlan]:
    filled = {
        name: fill({**(section or {}), "output_dir": folders[name]}, words, f"{where}: {name}")
        for name, section in sections.items()
    }
    check_extent(filled, f"{where}: stages")
    return [_plan(name, section, folders, where) for name, section in filled.items()]


def _plan(name: str, section: dict[str, Any], folders: dict[str, str], where: str) -> StagePlan:
    verb = section.pop("verb", name)
    if not isinstance(verb, str) or verb not in STAGES:
        known = nearest(str(verb), list(STAGES))
        raise ConfigError(f"{where}: stage {name!r}: unknown verb {verb!r:.80}; {known}")
    config = STAGES[verb].parse(section, f"{where}: {name}")
    return StagePlan(name, verb, config, tuple(sorted(find_upstream(name, section, folders))))


def _jobs(
    raw: dict[str, Any], words: dict[str, Any], folders: dict[str, str], where: str
) -> dict[str, JobSettings]:
    for name in raw:
        if name not in folders:
            known = nearest(str(name), list(folders))
            raise ConfigError(f"{where}: jobs: no stage {name!r}; {known}")
    places = {name: f"{where}: jobs.{name}" for name in raw}
    return {
        name: JobSettings.parse(fill(section or {}, words, places[name]), places[name])
        for name, section in raw.items()
    }


def _ordered(stages: list[StagePlan], where: str) -> tuple[StagePlan, ...]:
    """Order the stages so that each follows its inputs; as written where the edges allow it."""
    waiting, done = list(stages), list[StagePlan]()
    while waiting:
        names = {stage.name for stage in done}
        ready = next((stage for stage in waiting if names.issuperset(stage.after)), None)
        if ready is None:
            cycle = ", ".join(stage.name for stage in waiting)
            raise ConfigError(f"{where}: stages wait for each other: {cycle}")
        waiting.remove(ready)
        done.append(ready)
    return tuple(done)
