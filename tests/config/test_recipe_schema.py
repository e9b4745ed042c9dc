"""The JSON schema agrees with what the program itself takes, with jsonschema as the judge."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import longrun
from longrun.config.recipe_schema import recipe_schema

RECIPES = sorted((Path(longrun.__file__).parent / "recipes").rglob("*.yaml"))
PACK = {"documents": "d"}


@pytest.fixture(scope="module")
def schema() -> dict:
    found = json.loads(json.dumps(recipe_schema()))
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def accepts(schema: dict, recipe: object) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(recipe)


def test_the_schema_knows_every_verb_and_describes_its_settings(schema):
    assert schema["$defs"]["train"]["properties"]["max_steps"]["description"]
    assert "output_dir" not in schema["$defs"]["train"].get("required", [])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_here_is_valid(schema, path):
    assert accepts(schema, yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "recipe",
    [
        {"name": "x", "stages": {"pack": PACK}},
        {"name": "x", "stages": {"second": {"verb": "pack", **PACK}}},
        {"name": "x", "stages": {"pack": {**PACK, "pack_size": "${size}"}}},
        {"name": "x", "stages": {"prepare": {"data": "a.jsonl", "tokenizer": "t"}}},
        {"name": "x", "stages": {"pack": PACK}, "jobs": {"pack": {"time_limit": "4h"}}},
        {"name": "x", "stages": {"pack": PACK}, "scales": {"tiny": {"stages": {"pack": None}}}},
        {"extends": "base.yaml"},
        {"extends": "base.yaml", "stages": {"pack": {"pack_size": 8}, "report": None}},
        {"extends": "base.yaml", "stages": {"second": {"pack_size": 8}}},
    ],
    ids=str,
)
def test_what_the_program_takes_is_valid(schema, recipe):
    assert accepts(schema, recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        {"name": "x"},
        {"name": "x", "stages": {"pack": {}}},
        {"name": "x", "stages": {"pack": None}},
        {"name": "x", "stages": {"second": PACK}},
        {"name": "x", "stages": {"pack": {**PACK, "pack_sise": 8}}},
        {"name": "x", "stages": {"pack": {**PACK, "pack_size": "eight"}}},
        {"name": "x", "stages": {"pack": PACK}, "jobs": {"pack": {"cpu": 4}}},
        {"name": "x", "stages": {"pack": PACK}, "scales": {"tiny": {"stage": {}}}},
        {"extends": ["a.yaml", "b.yaml"]},
        {"extends": "base.yaml", "stages": {"pack": {"pack_sise": 8}}},
    ],
    ids=str,
)
def test_what_the_program_refuses_is_not(schema, recipe):
    assert not accepts(schema, recipe)
