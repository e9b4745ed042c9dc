"""References: what ``${word}`` in a setting stands for, and which stages it makes edges to."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from longrun.config.settings import nearest
from longrun.errors import ConfigError

_REFERENCE = re.compile(r"\$\{([^}]*)\}")


def fill_words(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return ``raw`` with the references among its own words filled in, whatever their order.

    >>> fill_words({"file": "${folder}/a", "folder": "${root}/b", "root": "r"}, "x")["file"]
    'r/b/a'

    Raises:
        ConfigError: a word is unknown, or words refer to each other in a circle.
    """
    done: dict[str, Any] = {}

    def look_up(name: str, open_words: tuple[str, ...]) -> Any:
        if name in open_words:
            circle = " -> ".join((*open_words, name))
            raise ConfigError(f"{where}: settings refer to each other: {circle}; give one a value")
        if name not in done:
            inside = (*open_words, name)
            place = f"{where}: {name}"
            done[name] = _fill(raw[name], raw, lambda word: look_up(word, inside), place)
        return done[name]

    return {name: look_up(name, ()) for name in raw}


def fill(value: Any, words: Mapping[str, Any], where: str) -> Any:
    """Fill in the references in ``value``; one that is the whole text keeps the type of its word.

    >>> fill({"a": "${n}", "b": "${n}x"}, {"n": 3}, "x")
    {'a': 3, 'b': '3x'}

    Raises:
        ConfigError: a word is unknown; the nearest is named.
    """
    return _fill(value, words, words.__getitem__, where)


def find_upstream(name: str, filled: Any, folders: Mapping[str, str]) -> set[str]:
    """Stages whose folder, or a place inside it, a setting of the stage ``name`` points to."""
    if isinstance(filled, dict):
        found = [
            find_upstream(name, value, folders)
            for key, value in filled.items()
            if key != "output_dir"
        ]
        return set().union(*found)
    if isinstance(filled, list):
        return set().union(*(find_upstream(name, value, folders) for value in filled))
    return {
        stage
        for stage, folder in folders.items()
        if isinstance(filled, str)
        and stage != name
        and (filled == folder or filled.startswith(folder + "/"))
    }


def _fill(value: Any, known: Mapping[str, Any], look_up: Callable[[str], Any], where: str) -> Any:
    if isinstance(value, dict):
        return {
            key: _fill(inside, known, look_up, f"{where}.{key}") for key, inside in value.items()
        }
    if isinstance(value, list):
        return [_fill(inside, known, look_up, where) for inside in value]
    if not isinstance(value, str):
        return value
    for name in _REFERENCE.findall(value):
        if name not in known:
            raise ConfigError(f"{where}: unknown ${{{name}}}; {nearest(name, list(known))}")
    whole = _REFERENCE.fullmatch(value)
    if whole:
        return look_up(whole[1])
    return _REFERENCE.sub(lambda match: str(look_up(match[1])), value)
