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
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from longrun.config.base import StageConfig, nearest
from longrun.config.cluster import JobSettings
from longrun.config.stages import STAGES
from longrun.errors import ConfigError

REQUIRED = "???"
RUNS = Path("runs")
"""Folder of runs where nothing else is said."""
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_KEYS = ("name", "description", "output_dir", "settings", "stages", "jobs")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


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
    return resolve(read_yaml(path), overrides, str(path), runs)


def load_named_recipe(name: str, overrides: list[str], runs: Path = RUNS) -> Recipe:
    """Read a recipe that ships inside the package, such as ``demo``."""
    text = resources.files("longrun.config").joinpath("recipes", f"{name}.yaml").read_text()
    return resolve(parse_yaml(text, name), overrides, name, runs)


def resolve(raw: dict[str, Any], overrides: list[str], where: str, runs: Path = RUNS) -> Recipe:
    """Turn a recipe as written into one whose every setting is known and in bounds."""
    _check_keys(raw, where)
    tree = {"settings": {}, **raw}
    for override in overrides:
        _apply(tree, override, where)
    name, settings = str(tree["name"]), dict(tree["settings"])
    output_dir = Path(tree.get("output_dir") or runs / name)
    folders = {
        stage: _folder(section, output_dir / stage, settings, f"{where}: {stage}")
        for stage, section in tree["stages"].items()
    }
    words = _words(settings, folders, where)
    stages = [
        _plan(stage, section, words, folders, where) for stage, section in tree["stages"].items()
    ]
    description = str(tree.get("description", ""))
    jobs = _jobs(tree.get("jobs") or {}, list(tree["stages"]), where)
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


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, not YAML (with its line), or not a mapping.
    """
    try:
        text = path.read_text()
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "is not a text file"
        raise ConfigError(f"{path}: {reason}; name a YAML file") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse a YAML mapping; ``where`` leads the message of an error."""
    try:
        raw = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{where}:{line}: not YAML: {error.problem}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: must be a mapping of settings")
    return raw


def parse_override(override: str) -> tuple[list[str], Any]:
    """Split ``a.b=value``; the value is YAML, so ``3``, ``null`` and ``[1, 2]`` mean themselves.

    >>> parse_override("train.optimizer.lr=3e-4")
    (['train', 'optimizer', 'lr'], 0.0003)
    """
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"{override!r}: not a setting; write name=value or stage.name=value")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        value = text
    if isinstance(value, str) and _is_number(value):  # YAML 1.1 reads 3e-4 as a string
        value = float(value)
    return key.lstrip("+").split("."), value


def set_nested(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set ``tree[a][b] = value`` for ``keys = [a, b]``; missing mappings are made."""
    for key in keys[:-1]:
        inside = tree.get(key)
        tree[key] = dict(inside) if isinstance(inside, dict) else {}
        tree = tree[key]
    tree[keys[-1]] = value


def recipe_schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors that complete and check YAML."""
    definitions: dict[str, Any] = {"job": JobSettings.model_json_schema()}
    sections = []
    for verb, config in STAGES.items():
        schema = config.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(schema.pop("$defs", {}))
        schema["properties"]["verb"] = {"const": verb}
        schema["required"] = [key for key in schema.get("required", []) if key != "output_dir"]
        definitions[verb] = schema
        sections.append({"$ref": f"#/$defs/{verb}"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Longrun recipe",
        "type": "object",
        "required": ["name", "stages"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string"},
            "description": {"type": "string"},
            "output_dir": {"type": "string"},
            "settings": {"type": "object"},
            "stages": {"type": "object", "additionalProperties": {"anyOf": sections}},
            "jobs": {"type": "object", "additionalProperties": {"$ref": "#/$defs/job"}},
        },
        "$defs": definitions,
    }


def _check_keys(raw: dict[str, Any], where: str) -> None:
    for key in raw:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(str(key), list(_KEYS))}")
    for key in ("name", "stages"):
        if not raw.get(key):
            raise ConfigError(f"{where}: {key} is required in a recipe")
    if not isinstance(raw["stages"], dict) or not isinstance(raw.get("settings") or {}, dict):
        raise ConfigError(f"{where}: stages and settings must be mappings")
    for name in [str(raw["name"]), *map(str, raw["stages"])]:
        if not _NAME.match(name):
            raise ConfigError(f"{where}: {name!r} is not a name; use letters, digits, . _ -")
    both = set(raw["stages"]) & set(raw.get("settings") or {})
    if both:
        raise ConfigError(f"{where}: {both.pop()!r} names a setting and a stage; rename one")
    if "jobs" in raw["stages"]:
        raise ConfigError(f"{where}: a stage cannot be called jobs; rename it")


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


def _words(settings: dict[str, Any], folders: dict[str, str], where: str) -> dict[str, Any]:
    for name, value in settings.items():
        if value == REQUIRED:
            raise ConfigError(f"{where}: setting {name!r} must be given: {name}=VALUE")
    filled = {
        name: _fill(value, {**settings, **folders}, f"{where}: settings.{name}")
        for name, value in settings.items()
    }
    return {**filled, **folders}


def _folder(section: Any, default: Path, settings: dict[str, Any], where: str) -> str:
    """Return the output folder of a stage: its own setting, or a place in the run's folder."""
    own = section.get("output_dir") if isinstance(section, dict) else None
    return str(default if own is None else _fill(own, settings, f"{where}.output_dir"))


def _plan(
    name: str, section: Any, words: dict[str, Any], folders: dict[str, str], where: str
) -> StagePlan:
    section = dict(section or {})
    verb = section.pop("verb", name)
    if verb not in STAGES:
        raise ConfigError(f"{where}: stage {name!r}: unknown verb; {nearest(verb, list(STAGES))}")
    filled = _fill(section, words, f"{where}: {name}")
    filled.setdefault("output_dir", folders[name])
    config = STAGES[verb].parse(filled, f"{where}: {name}")
    return StagePlan(name, verb, config, tuple(sorted(_upstream(name, filled, folders))))


def _jobs(raw: Any, stages: list[str], where: str) -> dict[str, JobSettings]:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: jobs must be a mapping of stages")
    for name in raw:
        if name not in stages:
            raise ConfigError(f"{where}: jobs: no stage {name!r}; {nearest(str(name), stages)}")
    return {
        name: JobSettings.parse(dict(section or {}), f"{where}: jobs.{name}")
        for name, section in raw.items()
    }


def _upstream(name: str, filled: Any, folders: dict[str, str]) -> set[str]:
    """Stages whose folder, or a place inside it, a setting of ``name`` points to."""
    if isinstance(filled, dict):
        found = [
            _upstream(name, value, folders) for key, value in filled.items() if key != "output_dir"
        ]
        return set().union(*found)
    if isinstance(filled, list):
        return set().union(*(_upstream(name, value, folders) for value in filled))
    return {
        stage
        for stage, folder in folders.items()
        if isinstance(filled, str)
        and stage != name
        and (filled == folder or filled.startswith(folder + "/"))
    }


def _fill(value: Any, words: dict[str, Any], where: str) -> Any:
    if isinstance(value, dict):
        return {key: _fill(inside, words, f"{where}.{key}") for key, inside in value.items()}
    if isinstance(value, list):
        return [_fill(inside, words, where) for inside in value]
    if not isinstance(value, str):
        return value
    for name in _REFERENCE.findall(value):
        if name not in words:
            raise ConfigError(f"{where}: unknown ${{{name}}}; {nearest(name, list(words))}")
    whole = _REFERENCE.fullmatch(value)
    if whole:
        return words[whole[1]]
    return _REFERENCE.sub(lambda match: str(words[match[1]]), value)


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


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text) is not None
