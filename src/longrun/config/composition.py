"""Recipes made of others: ``extends``, and the named variants in ``scales``.

Both lay one mapping over another. Mappings merge key by key; lists and plain values replace; a
stage set to null is removed, with its jobs and with what ``scales`` said of it. Nothing is looked
up or checked beyond its shape: that is ``config.recipe``, when one mapping is left.

    base.yaml                          mine.yaml                     merged
    settings: {lr: 1.0, steps: 8}      extends: base.yaml            settings: {lr: 2.0, steps: 8}
    stages:                            settings: {lr: 2.0}           stages:
      train: {packs: p, seed: 1}       stages:                         train: {packs: p, seed: 3}
      report: {stages: [a, b]}           train: {seed: 3}
                                         report: null
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrun.config.reading import line_of, merge_trees, parse_override, parse_yaml, read_text
from longrun.config.settings import nearest
from longrun.config.shipped_recipes import find_recipe
from longrun.errors import ConfigError

KEYS = ("name", "description", "output_dir", "settings", "stages", "jobs", "scales")
"""Keys of a recipe in memory; in a file also ``extends``."""
SCALE_KEYS = ("settings", "stages", "jobs")
SCALE = "scale"
"""The word that chooses one of ``scales``, as in ``scale=tiny``."""
Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One file of a chain of ``extends``."""

    path: Path
    text: str
    raw: Tree

    def at(self, key: str) -> str:
        """Return ``file:line`` of a key."""
        return f"{self.path}:{line_of(self.text, key)}"


def read_composed(path: Path) -> Tree:
    """Read the recipe at ``path`` laid over all that it extends; ``scales`` are left in it.

    Raises:
        ConfigError: a file is missing or no recipe, files extend each other in a circle, or a
            stage is removed that is not there.
    """
    layers, wanted = [_read_layer(path)], {path.resolve(): path}
    while (name := layers[-1].raw.pop("extends", None)) is not None:
        at = layers[-1].at("extends")
        if not isinstance(name, str):
            raise ConfigError(f"{at}: extends: must be the name of one file, got {name!r}")
        try:
            base = find_recipe(name, layers[-1].path.parent)
        except ConfigError as error:
            raise ConfigError(f"{at}: extends: {error}, relative to this one") from None
        if base.resolve() in wanted:
            circle = " -> ".join(str(layer.path) for layer in layers)
            raise ConfigError(f"{at}: extends: a circle: {circle} -> {base}; break it here")
        wanted[base.resolve()] = base
        layers.append(_read_layer(base))
    tree: Tree = layers.pop().raw
    for layer in reversed(layers):
        tree = lay_over(tree, layer.raw, str(layer.path))
    return tree


def choose_scale(raw: Tree, overrides: Iterable[str], where: str) -> tuple[Tree, list[str]]:
    """Lay the scale that ``overrides`` name over ``raw``; return it and the other overrides.

    A scale works in a run folder of its own: name and ``output_dir`` get its name at their end.

    Raises:
        ConfigError: there is no such scale; the known ones are named.
    """
    overrides = list(overrides)
    chosen = [value for keys, value in map(parse_override, overrides) if keys == [SCALE]]
    others = [one for one in overrides if parse_override(one)[0] != [SCALE]]
    tree = {key: value for key, value in raw.items() if key != "scales"}
    scales = raw.get("scales") or {}
    if not chosen:
        return tree, others
    scale = str(chosen[-1])
    if scale not in scales:
        known = nearest(scale, list(scales)) if scales else "it has none; leave out scale="
        raise ConfigError(f"{SCALE}={scale}: {where} has no scale {scale!r}; {known}")
    tree = lay_over(tree, scales[scale] or {}, f"{where}: scales.{scale}")
    for key in ("name", "output_dir"):
        if tree.get(key) is not None:
            tree[key] = f"{tree[key]}-{scale}"
    return tree, others


def lay_over(below: Tree, above: Tree, where: str) -> Tree:
    """Return ``below`` with ``above`` on top; neither is changed.

    Raises:
        ConfigError: ``above``, which stands at ``where``, removes a stage that is not there.
    """
    above = {key: value for key, value in above.items() if value is not None}
    stages = above.get("stages", {})
    for name in [name for name, section in stages.items() if section is None]:
        known = list(below.get("stages") or {})
        if name not in known:
            raise ConfigError(
                f"{where}: stages.{name}: null removes a stage, and there is no {name!r};"
                f" {nearest(name, known)} A stage without settings is {{}}"
            )
        below = _without(below, name)
        above = {key: _without_key(value, name, key) for key, value in above.items()}
    merged: Tree = merge_trees(below, above)
    return merged


def check_shape(raw: Tree, where: str, keys: tuple[str, ...] = KEYS) -> None:
    """Check that ``raw`` has no key but ``keys`` and mappings where mappings belong.

    Raises:
        ConfigError: one line with the key and the nearest known one.
    """
    for key in raw:
        if key not in keys:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(str(key), list(keys))}")
    for key in ("settings", "stages", "jobs", "scales"):
        value = raw.get(key)
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{where}: {key} must be a mapping, got {value!r:.80}")
    for name, scale in (raw.get("scales") or {}).items():
        place = f"{where}: scales.{name}"
        if scale is not None and not isinstance(scale, dict):
            raise ConfigError(f"{place}: must be a mapping of {', '.join(SCALE_KEYS)}")
        check_shape(scale or {}, place, SCALE_KEYS)


def _read_layer(path: Path) -> _Layer:
    text = read_text(path)
    layer = _Layer(path, text, parse_yaml(text, str(path)))
    known = ("extends", *KEYS)
    odd = next((str(key) for key in layer.raw if key not in known), None)
    check_shape(layer.raw, layer.at(odd) if odd else str(path), known)
    return layer


def _without(tree: Tree, stage: str) -> Tree:
    """Return ``tree`` without a stage, its jobs, and what ``scales`` say of both."""
    tree = {key: _without_key(value, stage, key) for key, value in tree.items()}
    if tree.get("scales"):
        tree["scales"] = {name: _without(one or {}, stage) for name, one in tree["scales"].items()}
    return tree


def _without_key(value: Any, stage: str, key: str) -> Any:
    if key not in ("stages", "jobs") or not value:
        return value
    return {name: inside for name, inside in value.items() if name != stage}
