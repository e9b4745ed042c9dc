from pathlib import Path

import pytest

from longrun.config.recipe import load_recipe
from longrun.config.shipped_recipes import FOLDER, find_recipe, recipe_names
from longrun.errors import ConfigError


def test_every_recipe_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"demo", "real-small", "openmathreasoning/14b"} <= set(recipe_names())
    for name in recipe_names():
        assert find_recipe(name) == FOLDER / f"{name}.yaml"


def test_a_file_wins_over_the_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text("name: mine")
    assert find_recipe("demo") == Path("demo")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "openmathreasoning/14",
            "a recipe that ships; did you mean openmathreasoning/14b",
        ),
        ("nowhere.yaml", "nowhere.yaml: no such file; name a YAML file"),
        ("../demo", "nor is it a recipe that ships"),
    ],
)
def test_what_is_neither_is_refused_with_the_nearest_name(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        find_recipe(name)


def test_a_recipe_extends_one_that_ships(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: openmathreasoning/7b\nname: mine\nsettings: {steps: 7777}\n")
    loaded = load_recipe(mine, ["data=d", "model=b", "benchmarks=c"])
    assert loaded.stage("train").config.max_steps == 7777
