"""References: what ``${word}`` in a setting stands for, and which stages it makes edges to."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from longrun.config.bounds import MOST_PATH_BYTES
from longrun.config.settings import nearest
from longrun.errors import ConfigError

MOST_CHARS = 1_000_000
"""Characters of all texts, plus one for each value, that references may make."""
_MOST_LEVELS = 100
"""Mappings and lists inside each other."""
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
            check_extent(done[name], place)
        return done[name]

    try:
        return {name: look_up(name, ()) for name in raw}
    except RecursionError:
        raise ConfigError(
            f"{where}: settings refer to each other too deep; refer to fewer"
        ) from None


def fill(value: Any, words: Mapping[str, Any], where: str) -> Any:
    """Fill in the references in ``value``; one that is the whole text keeps the type of its word.

    >>> fill({"a": "${n}", "b": "${n}x"}, {"n": 3}, "x")
    {'a': 3, 'b': '3x'}

    Raises:
        ConfigError: a word is unknown; the nearest is named.
    """
    return _fill(value, words, words.__getitem__, where)


def check_extent(value: Any, where: str) -> None:
    """Check that references did not multiply: what they stand for is counted where it stands.

    Raises:
        ConfigError: more than ``MOST_CHARS``, or too many levels.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        one, level = waiting.pop()
        count += 1 + (len(one) if isinstance(one, str) else 0)
        if count > MOST_CHARS or level > _MOST_LEVELS:
            raise _too_much(where)
        inside = list(one.values()) if isinstance(one, dict) else one
        if isinstance(inside, list):
            waiting += [(each, level + 1) for each in inside]


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
    if not isinstance(filled, str):
        return set()
    stages = {folder: stage for stage, folder in folders.items() if stage != name}
    ends = [end for end, sign in enumerate(filled[:MOST_PATH_BYTES]) if sign == "/"]
    around = (filled[:end] for end in (*ends, len(filled)))
    return {stages[folder] for folder in around if folder in stages}


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
    return _join(value, look_up, where)


def _join(text: str, look_up: Callable[[str], Any], where: str) -> str:
    parts, end, length = list[str](), 0, len(text)
    for match in _REFERENCE.finditer(text):
        parts += [text[end : match.start()], str(look_up(match[1]))]
        end = match.end()
        length += len(parts[-1])
        if length > MOST_CHARS:
            raise _too_much(where)
    return "".join([*parts, text[end:]])


def _too_much(where: str) -> ConfigError:
    return ConfigError(
        f"{where}: more than {MOST_CHARS:,} characters or {_MOST_LEVELS} levels when every"
        " reference is filled in; refer to less"
    )
