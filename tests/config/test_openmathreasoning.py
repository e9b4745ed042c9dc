"""The recipes of the OpenMathReasoning training: published figures, edges, and what must differ.

The figures stand here a second time on purpose: they are those of the published procedure.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from longrun.config.cluster import Cluster
from longrun.config.recipe import Recipe, load_recipe
from longrun.errors import ConfigError
from longrun.launch.graph import Launch, render_recipe

FOLDER = Path(__file__).parents[2] / "src/longrun/recipes/openmathreasoning"
GIVEN = ["data=/omr", "model=/base", "benchmarks=/bench"]
UNSIZED = ["lr=1e-4", "min_lr=1e-7", "tensor_parallel=1", "context_parallel=1"]
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
SIZES = ("1.5b", "7b", "14b", "32b")
PUBLISHED = {  # lr, min_lr, tensor, context
    "1.5b": (3e-4, 3e-7, 1, 2),
    "7b": (2e-4, 2e-7, 4, 2),
    "14b": (1e-4, 1e-7, 8, 2),
    "32b": (1e-4, 1e-7, 8, 4),
}
MODELLED = {  # what `longrun plan model=SIZE num_nodes=64` ranks first
    "1.5b": (1, 4, "states", None, "none"),
    "7b": (1, 8, "states", None, "none"),
    "14b": (1, 4, "full", 32, "pointwise"),
    "32b": (1, 8, "full", 64, "pointwise"),
}
ROUND_1 = ["prepare", "pack", "train", "average", "generate", "candidates", "choose"]
MADE_FIRST = ["problems", "tokenizer", "base"]
LAYOUT = {"tensor_parallel", "context_parallel", "sharding", "shard_size", "recompute"}


def load(name: str, *overrides: str) -> Recipe:
    path = FOLDER / (name if name.endswith(".yaml") else f"{name}.yaml")
    return load_recipe(path, [*GIVEN, *overrides])


def settings(recipe: Recipe, stage: str) -> dict:
    return recipe.resolved["stages"][stage]


def test_every_recipe_resolves_in_half_a_second_without_torch():
    program = f"""
import json, sys, time
from pathlib import Path
from longrun.config.recipe import load_recipe
seconds = {{}}
for name in {FILES!r}:
    for overrides in ({GIVEN!r}, ["scale=tiny"]):
        given = {UNSIZED!r} if name in ("one-round.yaml", "two-rounds.yaml") else []
        began = time.process_time()
        load_recipe(Path({str(FOLDER)!r}) / name, [*overrides, *given])
        seconds[name + " ".join(overrides)] = time.process_time() - began
heavy = {{"torch", "transformers", "numpy"}} & set(sys.modules)
print(json.dumps([seconds, sorted(heavy)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    seconds, heavy = json.loads(done.stdout)
    assert len(seconds) == 2 * len(FILES) == 20
    assert max(seconds.values()) < 0.5, seconds
    assert heavy == []


@pytest.mark.parametrize("missing", ["data", "model", "benchmarks"])
def test_what_only_the_user_knows_must_be_given(missing):
    given = [one for one in GIVEN if not one.startswith(missing)]
    with pytest.raises(ConfigError, match=f"setting '{missing}' must be given: {missing}=VALUE"):
        load_recipe(FOLDER / "1.5b.yaml", given)


@pytest.mark.parametrize("name", ["one-round", "two-rounds"])
def test_nothing_of_a_size_is_assumed_where_no_size_is_named(name):
    with pytest.raises(ConfigError, match="setting 'lr' must be given"):
        load(name)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["", "-fast"])
def test_the_first_round_has_the_published_settings(size, kind):
    recipe = load(size + kind)
    train = settings(recipe, "train")
    lr, min_lr, tensor, context = PUBLISHED[size]
    assert train["optimizer"] == {
        **{"name": "adamw", "lr": lr, "min_lr": min_lr, "schedule": "cosine"},
        **{"warmup_steps": 3000, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.98, "eps": 1e-8},
        **{"clip_norm": None, "states": "float32", "weights": "float32", "average_decay": None},
    }
    assert (train["max_steps"], train["max_epochs"]) == (30_000, 100)
    assert (train["global_batch_size"], train["global_batch_tokens"]) == (256, None)
    assert (train["save_interval"], train["keep_checkpoints"]) == (7500, None)
    assert (train["num_nodes"], train["num_processes"]) == (64, 8)
    assert train["dtype"] == "bfloat16"
    assert settings(recipe, "pack")["pack_size"] == 32_768
    assert settings(recipe, "average")["steps"] == [7500, 15_000, 22_500, 30_000]
    if not kind:
        assert (train["tensor_parallel"], train["context_parallel"]) == (tensor, context)


@pytest.mark.parametrize("size", SIZES)
def test_only_the_math_models_have_their_positions_stretched(size):
    edit = {"rope_theta": 500_000.0, "max_positions": 131_072, "yarn_factor": None}
    unchanged = dict.fromkeys(edit)
    assert settings(load(size), "train")["context"] == (
        edit if size in ("1.5b", "7b") else unchanged
    )
    if size != "32b":  # the average that round 2 starts from has them already
        assert settings(load(size), "round-2-train")["context"] == unchanged


@pytest.mark.parametrize("size", SIZES[:3])
def test_the_second_round_differs_in_what_the_publication_says_and_nowhere_else(size):
    recipe = load(size)
    first, second = (settings(recipe, name) for name in ("train", "round-2-train"))
    runs = "runs/openmathreasoning-" + size
    assert second == {
        **first,
        "packs": f"{runs}/round-2-pack",
        "model": f"{runs}/average/model",
        "output_dir": f"{runs}/round-2-train",
        "context": dict.fromkeys(first["context"]),
        "max_steps": 2000,
        "optimizer": {**first["optimizer"], "warmup_steps": 200},
        "save_interval": 500,
        "keep_steps": [500, 1000, 1500, 2000],
    }
    assert settings(recipe, "round-2-average")["steps"] == [500, 1000, 1500, 2000]
    filters = settings(recipe, "round-2-prepare").pop("filters")
    assert filters == [
        {"problem_source": ["aops_c5_contests_amp_programs", "aops_c6_high_school_olympiads"]},
        {"pass_rate": {"min": 0.0, "max": 0.3}},
        {"response_tokens": {"min": 5000, "max": None, "modes": ["cot", "tir"]}},
    ]
    assert settings(recipe, "prepare").pop("filters") == []
    same = {"output_dir": None}
    assert {**settings(recipe, "prepare"), **same} == {
        **settings(recipe, "round-2-prepare"),
        **same,
    }


def test_32b_has_one_round_and_the_others_two():
    verbs = {size: [stage.verb for stage in load(size).stages] for size in SIZES}
    assert {size: found.count("train") for size, found in verbs.items()} == {
        **dict.fromkeys(SIZES[:3], 2),
        "32b": 1,
    }


@pytest.mark.parametrize("size", SIZES)
def test_a_fast_recipe_differs_in_its_layout_only(size):
    plain, fast = load(size), load(f"{size}-fast")
    text = yaml.safe_dump(fast.resolved["stages"]).replace(f"{size}-fast", size)
    changed = yaml.safe_load(text)
    for name, stage in plain.resolved["stages"].items():
        kept = LAYOUT if stage["verb"] == "train" else set()
        assert {**changed[name], **{key: stage[key] for key in kept}} == stage
        if stage["verb"] == "train":
            layout = ("tensor_parallel", "context_parallel", "sharding", "shard_size", "recompute")
            assert tuple(changed[name][key] for key in layout) == MODELLED[size]
    for one, other in zip(plain.stages, fast.stages, strict=True):
        first, second = one.config.identity(), other.config.identity()
        assert first == second, "what is made must be the same"


def test_records_of_three_modes_are_those_that_fetch_writes():
    data = settings(load("7b"), "prepare")["data"]
    assert [entry["path"] for entry in data] == [
        f"/omr/{split}/*.parquet" for split in ("cot", "tir", "genselect")
    ]


@pytest.mark.parametrize("size", SIZES)
def test_solutions_are_sampled_as_published(size):
    recipe = load(size)
    generate = settings(recipe, "generate")
    assert (generate["samples"], generate["temperature"], generate["top_p"]) == (64, 0.6, 0.95)
    assert (generate["max_tokens"], generate["engine"]) == (32_768, "vllm")
    known = [(entry["like"], entry["mode"], entry["problems"]) for entry in generate["benchmarks"]]
    sizes = {"aime24": 30, "aime25": 30, "comp-math-24-25": 256}
    assert known == [(name, mode, sizes[name]) for name in sizes for mode in ("cot", "tir")]
    groups = settings(recipe, "candidates")
    assert (groups["group_size"], groups["repeats"]) == (16, 64)
    assert load(size, "engine=built-in").stage("choose").config.engine == "built-in"
    evaluated = settings(recipe, "evaluate")["predictions"]
    assert [Path(folder).name for folder in evaluated] == ["generate-members", "generate", "choose"]


@pytest.mark.parametrize("scale", [[], ["scale=tiny"]])
def test_every_stage_waits_for_what_it_reads(scale):
    recipe = load("1.5b", *scale)
    after = {stage.name: set(stage.after) - set(MADE_FIRST) for stage in recipe.stages}
    for name in MADE_FIRST:
        after.pop(name, None)
    assert after == {
        "prepare": set(),
        "pack": {"prepare"},
        "train": {"pack"},
        "average": {"train"},
        "generate": {"average", "prepare"},
        "generate-members": {"average", "prepare"},
        "candidates": {"generate"},
        "choose": {"average", "candidates", "prepare"},
        "evaluate": {"generate", "generate-members", "choose"},
        "round-2-prepare": set(),
        "round-2-pack": {"round-2-prepare"},
        "round-2-train": {"round-2-pack", "average"},
        "round-2-average": {"round-2-train"},
        "round-2-generate": {"round-2-average", "round-2-prepare"},
        "round-2-candidates": {"round-2-generate"},
        "round-2-choose": {"round-2-average", "round-2-candidates", "round-2-prepare"},
        "round-2-evaluate": {
            *("generate", "generate-members", "choose", "round-2-generate", "round-2-choose")
        },
        "report": set(after) - {"report", "evaluate"},
    }


@pytest.mark.parametrize("size", [*SIZES, *(f"{size}-fast" for size in SIZES)])
def test_the_tiny_scale_has_the_same_stages_in_the_same_proportions(size):
    full, tiny = load(size), load_recipe(FOLDER / f"{size}.yaml", ["scale=tiny"])
    verbs = {stage.name: stage.verb for stage in full.stages}
    made = dict(zip(MADE_FIRST, ("synthesize", "train_tokenizer", "init_model"), strict=True))
    assert {stage.name: stage.verb for stage in tiny.stages} == {**made, **verbs}
    assert tiny.output_dir != full.output_dir
    for recipe in (full, tiny):
        for name in [name for name, verb in verbs.items() if verb == "train"]:
            train = settings(recipe, name)
            steps = train["max_steps"]
            quarters = [steps // 4, steps // 2, 3 * steps // 4, steps]
            assert train["optimizer"]["warmup_steps"] * 10 == steps
            assert train["save_interval"] * 4 == steps
            assert train["keep_steps"] == quarters
            average = "average" if name == "train" else "round-2-average"
            assert settings(recipe, average)["steps"] == quarters
    train = settings(tiny, "train")
    assert train["num_nodes"] * train["num_processes"] == 2
    assert train["tensor_parallel"] * train["context_parallel"] == 2
    if "round-2-prepare" in verbs:
        names = [next(iter(one)) for one in settings(tiny, "round-2-prepare")["filters"]]
        assert names == ["problem_source", "pass_rate", "response_tokens"]


@pytest.mark.parametrize("size", SIZES[:3])
@pytest.mark.parametrize("scale", [[], ["scale=tiny"]])
def test_no_two_stages_share_a_folder_and_no_step_of_a_round_is_taken_from_the_other(size, scale):
    recipe = load(size, *scale)
    folders = [stage.config.output_dir for stage in recipe.stages]
    assert len(set(folders)) == len(folders)
    for prefix in ("", "round-2-"):
        average = settings(recipe, f"{prefix}average")
        train = settings(recipe, f"{prefix}train")
        assert average["checkpoints"] == train["output_dir"]
        assert average["steps"] == train["keep_steps"]


@pytest.mark.parametrize("place", ["${train}", "runs/openmathreasoning-7b/train", "${train}/more"])
def test_round_two_cannot_be_pointed_at_the_folder_of_round_one(place):
    with pytest.raises(ConfigError, match=r"stages train and round-2-train would write into one"):
        load("7b", f"round-2-train.output_dir={place}")


@pytest.mark.parametrize("size", SIZES)
def test_a_cluster_is_asked_for_64_nodes_of_8_gpus_to_train_and_none_for_data(size, tmp_path):
    values = {"executor": "slurm", "job_dir": str(tmp_path), "gpus_per_node": 8}
    cluster = Cluster.parse({**values, "partition": "gpu", "cpu_partition": "cpu"}, "big")
    recipe = load_recipe(FOLDER / f"{size}.yaml", GIVEN, cluster.job_dir)
    rendered = render_recipe(recipe, list(recipe.stages), Launch(cluster=cluster))
    asked = {
        path.parent.name: {
            line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH")
        }
        for path, text in rendered
        if path.name == "job.sh"
    }
    for stage in recipe.stages:
        nodes = 64 if stage.verb == "train" else 1
        computes = stage.verb in ("train", "generate")
        assert f"--nodes={nodes}" in asked[stage.name]
        assert ("--gpus-per-node=8" in asked[stage.name]) == computes
        assert f"--partition={'gpu' if computes else 'cpu'}" in asked[stage.name]
