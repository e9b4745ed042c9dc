from pathlib import Path

import pytest

from longrun.config.reading import line_of, parse_override, read_yaml
from longrun.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.optimizer.lr=3e-4", ["train", "optimizer", "lr"], 3e-4),
        ("++model.seed=1", ["model", "seed"], 1),
        ("steps=[1,2]", ["steps"], [1, 2]),
        ("a=", ["a"], None),
        ("a=null", ["a"], None),
        ("path=x=y", ["path"], "x=y"),
        ("name=3e", ["name"], "3e"),
    ],
)
def test_overrides_are_read_as_yaml(override, key, value):
    assert parse_override(override) == (key, value)


def test_text_with_control_characters_is_not_yaml(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"name: \x00\n")
    with pytest.raises(
        ConfigError, match=r"r\.yaml: not YAML: it holds control characters; remove"
    ):
        read_yaml(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(
        ConfigError, match=r"r\.yaml: is not a text file in UTF-8; name a YAML file"
    ):
        read_yaml(path)


def test_only_keys_of_the_outermost_mapping_have_lines():
    text = "a: {extends: x}\n\nextends: y\n"
    assert line_of(text, "extends") == 3
    assert line_of(text, "x") == 1
