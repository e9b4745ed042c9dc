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
from itertools import combinations
from pathlib import Path
from typing import Any

from longrun.config.cluster import JobSettings
from longrun.config.composition import SCALE, check_shape, choose_scale, read_composed
from longrun.config.interpolation import fill, fill_words, find_upstream
from longrun.config.names import NAME
from longrun.config.reading import parse_override, set_nested
from longrun.config.settings import StageConfig, nearest
from longrun.config.stages import STAGES
from longrun.errors import ConfigError

REQUIRED = "???"
RUNS = Path("runs")
"""Folder of runs where nothing else is said."""


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
    name, output_dir = str(tree["name"]), Path(tree.get("output_dir") or runs / str(tree["name"]))
    words = _words(tree, output_dir, where)
    folders = {stage: str(words[stage]) for stage in tree["stages"]}
    _check_folders(folders, where)
    stages = [
        _plan(stage, section, words, folders, where) for stage, section in tree["stages"].items()
    ]
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
    for name in [str(tree["name"]), *map(str, tree["stages"])]:
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{where}: {name!r} is not a name; use up to 200 letters, digits, . _ -"
            )
    for name, section in [*tree["stages"].items(), *(tree.get("jobs") or {}).items()]:
        if section is not None and not isinstance(section, dict):
            raise ConfigError(f"{where}: {name}: must be a mapping, got {section!r:.80}")
    both = set(tree["stages"]) & set(tree["settings"])
    if both:
        raise ConfigError(f"{where}: {both.pop()!r} names a setting and a stage; rename one")
    if "jobs" in tree["stages"]:
        raise ConfigError(f"{where}: a stage cannot be called jobs; rename it")
    if SCALE in tree["settings"]:
        raise ConfigError(f"{where}: a setting cannot be called {SCALE}; rename it")


def _check_folders(folders: Mapping[str, str], where: str) -> None:
    """Refuse stages that write into each other's folders, however the paths are spelt."""
    places = {stage: os.path.abspath(folder) for stage, folder in folders.items()}
    for one, other in combinations(places, 2):
        if os.path.commonpath([places[one], places[other]]) in (places[one], places[other]):
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
    return fill_words({**tree["settings"], **folders}, where)


def _plan(
    name: str, section: Any, words: dict[str, Any], folders: dict[str, str], where: str
) -> StagePlan:
    section = dict(section or {})
    verb = section.pop("verb", name)
    if verb not in STAGES:
        raise ConfigError(f"{where}: stage {name!r}: unknown verb; {nearest(verb, list(STAGES))}")
    filled = fill({**section, "output_dir": folders[name]}, words, f"{where}: {name}")
    config = STAGES[verb].parse(filled, f"{where}: {name}")
    return StagePlan(name, verb, config, tuple(sorted(find_upstream(name, filled, folders))))


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
