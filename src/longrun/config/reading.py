"""YAML files of settings and ``name=value`` words, read into plain mappings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from longrun.config.plain_yaml import (
    MOST_CHARS,
    MOST_LEVELS,
    RefusedError,
    load_yaml,
    parse_yaml_value,
)
from longrun.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, not YAML (with its line), or not a mapping.
    """
    return parse_yaml(read_text(path), str(path))


def read_text(path: Path) -> str:
    """Read the text of a YAML file.

    Raises:
        ConfigError: there is no such file, or it is not text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read(MOST_CHARS + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{path}: no such file; name a YAML file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; name a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file in UTF-8; name a YAML file") from None


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse a YAML mapping; ``where`` leads the message of an error."""
    raw = parse_yaml_value(text, where)
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: must be a mapping of settings, got {raw!r:.80}")
    return raw


def line_of(text: str, key: str) -> int:
    r"""Return the line, from 1, in which ``key`` of the outermost mapping stands; 1: nowhere.

    >>> line_of("name: x\nstages: {}\n", "stages")
    2
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        for node, _ in root.value:
            if str(node.value) == key:
                return int(node.start_mark.line) + 1
    return 1


def parse_override(override: str) -> tuple[list[str], Any]:
    """Split ``a.b=value``; the value is YAML, so ``3``, ``null`` and ``[1, 2]`` mean themselves.

    >>> parse_override("train.optimizer.lr=3e-4")
    (['train', 'optimizer', 'lr'], 0.0003)
    """
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"{override!r:.200}: not a setting; write name=value or stage.name=value")
    keys = key.lstrip("+").split(".")
    if len(keys) > MOST_LEVELS:
        raise ConfigError(f"{key!r:.80}: {len(keys)} names in each other; at most {MOST_LEVELS}")
    try:
        return keys, load_yaml(text)
    except RefusedError as error:
        raise ConfigError(f"{key}: {error.problem} (got {text!r:.80})") from None
    except yaml.YAMLError:  # such as a colon or a bracket of a text
        return keys, text


def set_nested(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set ``tree[a][b] = value`` for ``keys = [a, b]``; missing mappings are made."""
    for key in keys[:-1]:
        inside = tree.get(key)
        tree[key] = dict(inside) if isinstance(inside, dict) else {}
        tree = tree[key]
    tree[keys[-1]] = value


def merge_trees(below: Any, above: Any) -> Any:
    """Return ``above`` laid over ``below``: mappings merge key by key, anything else replaces."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: merge_trees(below.get(key), value) for key, value in above.items()}}
