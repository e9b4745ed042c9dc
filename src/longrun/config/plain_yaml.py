"""YAML as settings need it: plain values only, bounded, and read back as it was written.

What is plain follows YAML 1.2: numbers are decimal, only ``true`` and ``false`` are booleans, and
everything else is text. YAML 1.1, which PyYAML reads by default, turns ``30:00`` into 1800, ``010``
into 8, ``no`` into false and ``2024-01-01`` into a date, all without a word.

A file may be hostile or merely broken: deep nesting, aliases that multiply, aliases into
themselves, keys given twice and keys that are not text are refused, with their line.
"""

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from longrun.config.bounds import is_unicode
from longrun.errors import ConfigError

MOST_CHARS = 1_000_000
"""Length of a YAML text; the longest recipe that ships has 8,000."""
MOST_VALUES = 20_000
"""Values of one YAML text, with every alias written out."""
MOST_LEVELS = 100
"""Mappings and lists inside each other."""
_MOST_DIGITS = 30
"""Digits of a whole number; settings end far below."""
_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_PLAIN = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
)
"""What YAML 1.2's core schema reads as another type than text, and how it may begin."""


class RefusedError(yaml.MarkedYAMLError):
    """The text is YAML, but no settings."""


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the bounds and the types of the module docstring."""

    yaml_implicit_resolvers = {}
    yaml_constructors = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._extents: dict[int, tuple[int, int]] = {}
        """Node, by identity, that is complete -> its values and levels, aliases written out."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose one node within the bounds."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        self._level += 1
        _bound(self._level, MOST_LEVELS, "levels of nesting", mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        assert node is not None
        if not is_alias:
            self._extents[id(node)] = self._measure(node)
        elif id(node) not in self._extents:
            raise RefusedError(None, None, "an alias stands for what it lies in", mark)
        values, levels = self._extents[id(node)]
        _bound(values, MOST_VALUES, "values, with every alias written out", mark)
        _bound(self._level + levels, MOST_LEVELS, "levels of nesting", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping whose keys are texts, each given once."""
        node: MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            is_text = isinstance(key, ScalarNode) and key.tag in (_TAG + "str", _MERGE)
            name = key.value if isinstance(key, ScalarNode) else "a list or mapping"
            if not is_text:
                problem = f"the name {name!r:.80} is not text; write it in quotes"
                raise RefusedError(None, None, problem, key.start_mark)
            line = key.start_mark.line + 1
            if name in lines:
                problem = f"{name!r:.80} is given twice, in line {lines[name]} and in line {line}"
                raise RefusedError(None, None, f"{problem}; remove one", key.start_mark)
            lines[name] = line
        return node

    def construct_scalar(self, node: Any) -> Any:
        """Return the text of a scalar; one that no file name or message can hold is refused."""
        text = super().construct_scalar(node)
        if not is_unicode(text):
            problem = f"{text!r:.80} holds a NUL byte or half a surrogate pair; remove it"
            raise RefusedError(None, None, problem, node.start_mark)
        return text

    def _measure(self, node: Node) -> tuple[int, int]:
        inside = list(node.value) if not isinstance(node, ScalarNode) else []
        if isinstance(node, MappingNode):
            inside = [part for pair in node.value for part in pair]
        extents = [self._extents[id(part)] for part in inside]
        return (
            1 + sum(values for values, _ in extents),
            max((levels + 1 for _, levels in extents), default=0),
        )


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper; it quotes what YAML 1.1 *or* YAML 1.2 would not read as text."""

    yaml_implicit_resolvers = {
        first: list(resolvers)
        for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out."""
        return True


def load_yaml(text: str) -> Any:
    """Return the value that ``text`` holds.

    Raises:
        RefusedError: it is YAML, but beyond a bound or of a kind that settings have no use for.
        yaml.YAMLError: it is not YAML.
    """
    if len(text) > MOST_CHARS:
        mark = yaml.Mark("", 0, 0, 0, "", 0)
        raise RefusedError(None, None, f"is longer than {MOST_CHARS:,} characters", mark)
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (ValueError, OverflowError) as error:  # an escape such as \U00110000
        raise yaml.MarkedYAMLError(None, None, str(error), loader.get_mark()) from None


def parse_yaml_value(text: str, where: str) -> Any:
    """Return the value of the YAML ``text``; ``where`` leads the message of an error.

    Raises:
        ConfigError: it is not YAML, or refused, with its line.
    """
    try:
        return load_yaml(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        kind = "" if isinstance(error, RefusedError) else "not YAML: "
        raise ConfigError(f"{where}:{line}: {kind}{error.problem}") from None
    except yaml.YAMLError:
        raise ConfigError(f"{where}: not YAML: it holds control characters; remove them") from None


def dump_yaml(value: Any) -> str:
    """Return ``value`` as YAML, keys in their order; ``load_yaml`` returns the same value."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    return text


def _bound(count: int, most: int, what: str, mark: yaml.Mark) -> None:
    if count > most:
        raise RefusedError(None, None, f"has more than {most:,} {what}; make it simpler", mark)


def _construct_int(loader: _Loader, node: ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if not re.fullmatch(rf"[-+]?[0-9]{{1,{_MOST_DIGITS}}}", text):
        problem = f"{text!r:.80} is not a whole number of at most {_MOST_DIGITS} digits"
        raise RefusedError(None, None, problem, node.start_mark)
    return int(text)


def _construct_float(loader: _Loader, node: ScalarNode) -> float:
    text = str(loader.construct_scalar(node))
    if not re.fullmatch(rf"{_FLOAT}", text):
        raise RefusedError(None, None, f"{text!r:.80} is not a number", node.start_mark)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _construct_bool(loader: _Loader, node: ScalarNode) -> bool:
    text = str(loader.construct_scalar(node)).lower()
    if text not in ("true", "false"):
        raise RefusedError(None, None, f"{text!r:.80} is not true or false", node.start_mark)
    return text == "true"


def _fill_tables() -> None:
    for name, pattern, first in _PLAIN:
        form = re.compile(rf"(?:{pattern})\Z")
        for table in (_Loader, _Dumper):
            table.add_implicit_resolver(_TAG + name, form, first)
    made = {"int": _construct_int, "float": _construct_float, "bool": _construct_bool}
    for name in ("null", "str", "seq", "map"):
        _Loader.add_constructor(_TAG + name, yaml.SafeLoader.yaml_constructors[_TAG + name])
    for name, construct in made.items():
        _Loader.add_constructor(_TAG + name, construct)
    _Loader.add_constructor(None, yaml.SafeLoader.yaml_constructors[None])


_fill_tables()
