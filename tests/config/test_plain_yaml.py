import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from longrun.config.plain_yaml import MOST_LEVELS, dump_yaml, load_yaml, parse_yaml_value
from longrun.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30:00", "30:00"),
        ("2024-13-45", "2024-13-45"),
        ("2024-01-01", "2024-01-01"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("010", 10),
        ("0x1f", "0x1f"),
        ("3e-4", 0.0003),
        ("1.", 1.0),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ("=", "="),
    ],
)
def test_values_are_read_as_yaml_1_2_reads_them(text, value):
    read = load_yaml(f"key: {text}")["key"]
    assert read == value
    assert type(read) is type(value)


def _nested_aliases(inside: str, count: int) -> str:
    lines = [
        "a0: &a0 [x]",
        *(f"a{i}: &a{i} {inside.replace('?', f'*a{i - 1}')}" for i in range(1, count)),
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "r.yaml:3: 'a' is given twice, in line 1 and in line 3; remove one"),
        ("a:\n  x: 1\n  'x': 2", "in line 2 and in line 3"),
        ("12: 1", "r.yaml:1: the name '12' is not text; write it in quotes"),
        ("a: 1\ntrue: 1", "r.yaml:2: the name 'true' is not text"),
        ("~: 1", "the name '~' is not text"),
        ("? [a]\n: 1", "the name 'a list or mapping' is not text"),
        ("a: &a [*a]", "an alias stands for what it lies in"),
        ("a: &a {<<: *a}", "an alias stands for what it lies in"),
        ("[" * 10_000, "has more than 100 levels of nesting"),
        ("{a: " * 10_000, "has more than 100 levels of nesting"),
        (
            _nested_aliases("[?, ?, ?, ?, ?, ?, ?, ?, ?]", 30),
            "values, with every alias written out",
        ),
        (_nested_aliases("[?]", 3000), "levels of nesting"),
        ("a: !!int x", "'x' is not a whole number"),
        ("a: !!float x", "'x' is not a number"),
        ("a: !!bool x", "'x' is not true or false"),
        ("a: " + "9" * 5000, "is not a whole number of at most 30 digits"),
        ("a: !!timestamp x", "could not determine a constructor"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ('a: "\\0"', "holds a NUL byte or half a surrogate pair"),
        ('a: "\\ud800"', "holds a NUL byte or half a surrogate pair"),
        ('a: "\\U00110000"', "not YAML"),
        ("a: \x01", "control characters"),
        ("a: 'x", "not YAML"),
        ("x" * 1_000_001, "is longer than 1,000,000 characters"),
    ],
    ids=range(24),
)
def test_what_is_no_setting_is_refused_at_once_with_its_line(text, message):
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parse_yaml_value(text, "r.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("r.yaml:")
    assert time.process_time() - began < 5


def test_aliases_and_merges_within_bounds_are_read():
    read = load_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]")
    assert read == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2}
    deep = "[" * (MOST_LEVELS - 1) + "]" * (MOST_LEVELS - 1)
    assert load_yaml(deep) is not None


_ODD_TEXTS = [
    "no",
    "09",
    "3e-4",
    "1e5",
    "2024-01-01",
    "30:00",
    "~",
    "",
    "010",
    "1_0",
    "=",
    "<<",
    "0o7",
]
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**29), 10**29)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]))
    | st.sampled_from(_ODD_TEXTS),
    lambda inside: st.lists(inside) | st.dictionaries(st.text("abc01=~<", min_size=1), inside),
    max_leaves=8,
)


@given(_VALUES)
def test_what_is_written_is_read_back_by_this_and_by_any_other_reader(value):
    text = dump_yaml({"key": value})
    assert load_yaml(text) == {"key": value}
    assert yaml.safe_load(text) == {"key": value}
