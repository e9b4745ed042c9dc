import json
from pathlib import Path

import pytest

from longrun.config.recipe import load_recipe, resolve
from longrun.errors import ConfigError

RAW = {
    "name": "small",
    "settings": {"data": "???", "size": 64},
    "stages": {
        "prepare": {"data": "${data}", "tokenizer": "tok"},
        "pack": {"documents": "${prepare}", "pack_size": "${size}"},
        "second": {"verb": "pack", "documents": "${prepare}", "pack_size": 32},
    },
}


def test_references_make_edges_and_fill_in_folders():
    recipe = resolve(RAW, ["data=a.jsonl"], "small.yaml")
    assert [(stage.name, stage.verb, stage.after) for stage in recipe.stages] == [
        ("prepare", "prepare", ()),
        ("pack", "pack", ("prepare",)),
        ("second", "pack", ("prepare",)),
    ]
    assert recipe.stage("pack").config.documents == Path("runs/small/prepare")
    assert recipe.stage("pack").config.pack_size == 64


def test_a_whole_reference_keeps_its_type_and_a_part_becomes_text():
    recipe = resolve(RAW, ["data=a", "pack.documents=${prepare}/x"], "small.yaml")
    assert recipe.stage("pack").config.documents == Path("runs/small/prepare/x")
    assert recipe.stage("pack").after == ("prepare",)


def test_the_resolved_recipe_is_itself_a_recipe_for_the_same_run():
    recipe = resolve(RAW, ["data=a.jsonl", "pack.seed=3"], "small.yaml")
    again = resolve(json.loads(json.dumps(recipe.resolved)), [], "again")
    assert again.stages == recipe.stages
    assert again.output_dir == recipe.output_dir


def test_stages_are_put_in_running_order_however_they_are_written():
    raw = {**RAW, "stages": dict(reversed(RAW["stages"].items()))}
    names = [stage.name for stage in resolve(raw, ["data=a"], "x").stages]
    assert names == ["prepare", "second", "pack"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "setting 'data' must be given: data=VALUE"),
        (["data=a", "dta=b"], "did you mean data?"),
        (["data=a", "pak.seed=1"], "has no stage 'pak'; did you mean pack?"),
        (["data=a", "pack.sed=1"], "pack.sed: unknown setting; did you mean seed?"),
        (["data=a", "++pack.sed=1"], "did you mean seed?"),
        (["data=a", "pack.pack_size=-1"], "greater than or equal to 2 (got -1)"),
        (["data=a", "pack"], "write name=value"),
        (["data=${nowhere}"], "unknown ${nowhere}"),
    ],
)
def test_a_wrong_override_stops_and_names_the_nearest(overrides, message):
    with pytest.raises(ConfigError) as caught:
        resolve(RAW, overrides, "small.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stagess": {}}, "did you mean stages?"),
        ({"stages": {}}, "stages is required"),
        ({"stages": {"prepar": {}}}, "unknown verb 'prepar'; did you mean prepare?"),
        ({"stages": {"data": {}}}, "names a setting and a stage"),
        ({"stages": {"a/b": {}}}, "is not a name"),
        ({"name": "../up"}, "is not a name"),
        (
            {
                "stages": {
                    "a": {"verb": "pack", "documents": "${b}"},
                    "b": {"verb": "pack", "documents": "${a}"},
                }
            },
            "stages wait for each other: a, b",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(change, message):
    with pytest.raises(ConfigError) as caught:
        resolve({**RAW, **change}, ["data=a"], "small.yaml")
    assert message in str(caught.value)


def test_broken_yaml_is_named_with_its_line(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text("name: x\nstages:\n  a: [1\n")
    with pytest.raises(ConfigError, match=r"r\.yaml:\d+: not YAML"):
        load_recipe(path, [])


@pytest.mark.parametrize("text", ["", "- a\n", "just text"])
def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="must be a mapping"):
        load_recipe(path, [])


def test_a_missing_recipe_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(tmp_path / "none.yaml", [])


def test_a_stage_with_a_folder_of_its_own_is_read_from_there(tmp_path: Path):
    overrides = ["data=a", "prepare.output_dir=${data}/prepared", "pack.output_dir=elsewhere"]
    recipe = resolve(RAW, overrides, "small.yaml")
    assert recipe.stage("prepare").config.output_dir == Path("a/prepared")
    assert recipe.stage("pack").config.documents == Path("a/prepared")
    assert recipe.stage("pack").after == ("prepare",)
    again = resolve(json.loads(json.dumps(recipe.resolved)), [], "again")
    assert again.stages == recipe.stages


@pytest.mark.parametrize(
    "folder", ["${pack}", "${pack}/inside", "runs/small", "runs/small/./pack/", "${pack}/../pack"]
)
def test_two_stages_never_write_into_one_folder(folder):
    with pytest.raises(ConfigError, match=r"would write into one folder .* of its own"):
        resolve(RAW, ["data=a", f"second.output_dir={folder}"], "small.yaml")


def test_jobs_may_refer_to_settings():
    raw = {**RAW, "jobs": {"pack": {"cpus": "${size}"}}}
    recipe = resolve(raw, ["data=a", "size=8"], "small.yaml")
    assert recipe.jobs["pack"].cpus == 8
    assert recipe.resolved["jobs"] == {"pack": {"cpus": 8}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": {"pack": [1]}}, r"small\.yaml: pack: must be a mapping, got \[1\]"),
        ({"stages": []}, r"small\.yaml: stages must be a mapping, got \[\]"),
        ({"settings": [1]}, r"small\.yaml: settings must be a mapping"),
        ({"jobs": {"pack": 3}}, r"small\.yaml: pack: must be a mapping, got 3"),
        ({"settings": {"scale": 1, "data": 1, "size": 1}}, "a setting cannot be called scale"),
        ({"scales": {"tiny": {"stage": {}}}}, r"scales\.tiny: unknown key 'stage'; did you mean"),
        ({"scales": {"tiny": 3}}, r"scales\.tiny: must be a mapping of settings, stages, jobs"),
    ],
)
def test_sections_of_the_wrong_shape_are_refused_in_one_line(change, message):
    with pytest.raises(ConfigError, match=message):
        resolve({**RAW, **change}, ["data=a"], "small.yaml")


def test_empty_sections_are_as_good_as_none():
    raw = {"name": "x", "settings": None, "jobs": None, "scales": None}
    recipe = resolve({**raw, "stages": {"synthesize": None}}, [], "x")
    assert recipe.stage("synthesize").config.seed == 0
