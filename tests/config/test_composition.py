"""Recipes that extend others and their scales: every law, and every mistake in one line."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from longrun.config.composition import choose_scale, lay_over, read_composed
from longrun.config.recipe import load_recipe, resolve
from longrun.errors import ConfigError

BASE = """
name: base
settings: {data: "???", size: 64, steps: [1, 2]}
stages:
  prepare: {data: "${data}", tokenizer: tok, filters: [{pass_rate: {max: 0.3}}]}
  pack: {documents: "${prepare}", pack_size: "${size}"}
  train: {packs: "${pack}", model: m, optimizer: {lr: 1.0e-3, warmup_steps: 2}}
  report: {stages: ["${pack}", "${train}"]}
jobs:
  report: {cpus: 2}
scales:
  tiny:
    settings: {data: few.jsonl, size: 8}
    stages: {report: {title: tiny}, train: {max_steps: 3}}
    jobs: {report: {cpus: 1}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, base=BASE)
    return tmp_path


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.write_text(text)
    return path


def message_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, ["data=a", *overrides])
    assert "\n" not in str(caught.value)
    return str(caught.value)


mappings = st.recursive(
    st.none() | st.integers() | st.lists(st.integers(), max_size=2),
    lambda inside: st.dictionaries(st.sampled_from("abc"), inside, max_size=3),
    max_leaves=8,
)
settings = st.dictionaries(st.sampled_from("abc"), mappings, max_size=3)


@given(settings, settings)
def test_every_value_comes_from_above_where_it_says_one_and_from_below_otherwise(below, above):
    before = copy.deepcopy((below, above))
    merged = lay_over({"settings": below}, {"settings": above}, "x")["settings"]
    check_merged(below, above, merged)
    assert (below, above) == before


def check_merged(below: object, above: object, merged: object) -> None:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        assert merged == above
        return
    assert isinstance(merged, dict)
    assert merged.keys() == below.keys() | above.keys()
    for key, value in merged.items():
        if key in above:
            check_merged(below.get(key), above[key], value)
        else:
            assert value == below[key]


@given(settings, settings, settings)
def test_it_does_not_matter_which_two_of_a_chain_are_merged_first(first, second, third):
    one, two, three = ({"settings": tree} for tree in (first, second, third))
    left = lay_over(lay_over(one, two, "x"), three, "x")
    if not has_replaced_mapping(first, second, third):
        assert left == lay_over(one, lay_over(two, three, "x"), "x")


def has_replaced_mapping(*trees: object) -> bool:
    """Say whether a plain value stands between mappings: then order decides, as it must."""
    kinds = {isinstance(tree, dict) for tree in trees}
    if len(kinds) == 2:
        return True
    if kinds == {False}:
        return False
    keys = set().union(*trees)
    return any(has_replaced_mapping(*(tree[key] for tree in trees if key in tree)) for key in keys)


def test_a_file_differs_from_what_it_extends_in_what_it_says_and_nowhere_else(folder):
    (folder / "sub").mkdir()
    path = write(
        folder / "sub",
        mine="""
extends: ../base.yaml
name: mine
settings: {steps: [3]}
stages:
  prepare: {filters: []}
  train: {optimizer: {lr: 2.0e-3}, keep_steps: "${steps}"}
""",
    )
    base, mine = load_recipe(folder / "base.yaml", ["data=a"]), load_recipe(path, ["data=a"])
    expected = copy.deepcopy(base.resolved["stages"])
    expected["prepare"]["filters"] = []
    expected["train"]["optimizer"]["lr"] = 2e-3
    expected["train"]["keep_steps"] = [3]
    moved = yaml.safe_load(yaml.safe_dump(expected).replace("runs/base", "runs/mine"))
    assert mine.resolved["stages"] == moved
    assert mine.output_dir == Path("runs/mine")


def test_a_chain_is_laid_from_its_end_to_its_beginning(folder):
    write(folder, middle="extends: base.yaml\nsettings: {size: 128, data: b}\n")
    path = write(folder, top="extends: middle.yaml\nname: top\nsettings: {size: 256}\n")
    recipe = load_recipe(path, [])
    assert recipe.stage("pack").config.pack_size == 256
    assert recipe.stage("prepare").config.data[0].path == Path("b")


def test_each_file_of_a_chain_names_the_next_relative_to_itself(folder):
    (folder / "sub").mkdir()
    write(folder, middle="extends: base.yaml\nsettings: {data: b}\n")
    path = write(folder / "sub", top="extends: ../middle.yaml\n")
    assert load_recipe(path, []).stage("prepare").config.data[0].path == Path("b")


def test_of_two_overrides_the_later_holds(folder):
    recipe = load_recipe(folder / "base.yaml", ["data=a", "size=16", "size=32"])
    assert recipe.stage("pack").config.pack_size == 32


def test_a_stage_set_to_null_is_gone_with_its_jobs_and_its_scales(folder):
    path = write(folder, short="extends: base.yaml\nstages: {report: null}\n")
    for overrides in (["data=a"], ["scale=tiny"]):
        recipe = load_recipe(path, overrides)
        assert [stage.name for stage in recipe.stages] == ["prepare", "pack", "train"]
        assert not recipe.jobs


def test_a_scale_may_remove_a_stage(folder):
    path = write(folder, short="extends: base.yaml\nscales: {tiny: {stages: {report: null}}}\n")
    assert "report" in load_recipe(path, ["data=a"]).resolved["stages"]
    tiny = load_recipe(path, ["scale=tiny"])
    assert [stage.name for stage in tiny.stages] == ["prepare", "pack", "train"]
    assert not tiny.jobs


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_scale_comes_before_the_other_overrides_wherever_it_stands(folder, place):
    overrides = ["size=16", "train.max_steps=5"]
    overrides.insert(place, "scale=tiny")
    recipe = load_recipe(folder / "base.yaml", overrides)
    assert recipe.stage("pack").config.pack_size == 16
    assert recipe.stage("train").config.max_steps == 5
    assert recipe.stage("train").config.optimizer.lr == 1e-3
    assert recipe.stage("prepare").config.data[0].path == Path("few.jsonl")
    assert recipe.stage("report").config.title == "tiny"
    assert recipe.jobs["report"].cpus == 1


def test_what_a_chain_says_of_a_scale_is_merged_too(folder):
    text = "extends: base.yaml\nscales: {tiny: {settings: {size: 4}}, small: {}}\n"
    path = write(folder, mine=text)
    tiny = load_recipe(path, ["scale=tiny"])
    assert tiny.stage("pack").config.pack_size == 4
    assert tiny.stage("train").config.max_steps == 3
    assert load_recipe(path, ["scale=small", "data=a"]).stage("pack").config.pack_size == 64


def test_a_scale_has_a_run_folder_of_its_own(folder):
    path = folder / "base.yaml"
    assert load_recipe(path, ["scale=tiny"]).output_dir == Path("runs/base-tiny")
    assert load_recipe(path, ["scale=tiny", "name=x"]).output_dir == Path("runs/x")
    assert load_recipe(path, ["output_dir=o", "scale=tiny"]).output_dir == Path("o")
    fixed = write(folder, fixed="extends: base.yaml\noutput_dir: out\n")
    assert load_recipe(fixed, ["scale=tiny"]).output_dir == Path("out-tiny")


def test_the_resolved_recipe_says_the_same_without_extends_and_scales(folder):
    path = write(folder, mine="extends: base.yaml\nname: mine\n")
    recipe = load_recipe(path, ["scale=tiny", "train.seed=3"])
    saved = write(folder, resolved=yaml.safe_dump(recipe.resolved, sort_keys=False))
    assert not {"extends", "scales"} & yaml.safe_load(saved.read_text()).keys()
    again = load_recipe(saved, [])
    assert (again.stages, again.jobs) == (recipe.stages, recipe.jobs)
    assert (again.name, again.output_dir) == (recipe.name, recipe.output_dir)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "extends: bas.yaml\n",
            [
                "mine.yaml:1: extends: ",
                "bas.yaml: no such file; name a YAML file, rel",
            ],
        ),
        ("name: x\nextends: [a, b]\n", ["mine.yaml:2: extends: must be the name of one file"]),
        ("extends: mine.yaml\n", ["mine.yaml:1: extends: a circle: ", "break it here"]),
        ("extends: .\n", ["mine.yaml:1: extends: ", "no such file"]),
        ("extends: base.yaml\n\nstagess: {}\n", ["mine.yaml:3: unknown key", "mean stages?"]),
        ("extends: base.yaml\nstages: 3\n", ["mine.yaml: stages must be a mapping, got 3"]),
        ("extends: base.yaml\nsettings: [\n", ["mine.yaml:3: not YAML"]),
        (
            "extends: base.yaml\nstages: {repot: null}\n",
            ["mine.yaml: stages.repot: null removes a stage", "did you mean report?", "is {}"],
        ),
        (
            "extends: base.yaml\nstages: {pack: null}\n",
            ["mine.yaml: train.packs: unknown ${pack}; known: data, prepare"],
        ),
        (
            "extends: base.yaml\nstages: {pack: {pack_sise: 2}}\n",
            ["mine.yaml: pack.pack_sise: unknown setting; did you mean pack_size?"],
        ),
    ],
)
def test_a_mistake_in_an_extending_file_is_one_line_with_its_place(folder, text, words):
    found = message_of(write(folder, mine=text))
    for word in words:
        assert word in found


def test_a_circle_of_several_files_is_named_whole(folder):
    write(folder, a="extends: b.yaml\n", b="extends: ./c.yaml\n")
    path = write(folder, c="name: c\nextends: a.yaml\n")
    found = message_of(folder / "a.yaml")
    places = [str(folder / f"{name}.yaml") for name in "abca"]
    assert found.startswith(f"{path}:2: extends: a circle: {' -> '.join(places)};")


def test_a_circle_is_found_however_its_files_are_spelt(folder):
    write(folder, a=f"extends: ../{folder.name}/b.yaml\n", b=f"extends: ../{folder.name}/a.yaml\n")
    assert "b.yaml:1: extends: a circle: " in message_of(folder / "a.yaml")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["scale=tyni"], "base.yaml has no scale 'tyni'; did you mean tiny?"),
        (["scale=40"], "base.yaml has no scale '40'; known: tiny"),
        (["scale="], "base.yaml has no scale 'None'; known: tiny"),
        (["scale=tiny", "sise=3"], "did you mean size?"),
    ],
)
def test_an_unknown_scale_names_the_known_ones(folder, overrides, words):
    assert words in message_of(folder / "base.yaml", *overrides)


def test_a_recipe_without_scales_says_so():
    raw = {"name": "x", "stages": {"synthesize": {}}}
    with pytest.raises(ConfigError, match=r"x\.yaml has no scale 'tiny'; it has none; leave out"):
        resolve(raw, ["scale=tiny"], "x.yaml")


def test_choosing_and_reading_change_nothing_in_place(folder):
    raw = read_composed(folder / "base.yaml")
    before = copy.deepcopy(raw)
    choose_scale(raw, ["scale=tiny"], "x")
    resolve(raw, ["scale=tiny", "train.seed=4", "jobs.pack.cpus=3"], "x")
    assert raw == before
