"""The commands of the reference's training document, word for word, become these recipes."""

import shlex
from pathlib import Path

import pytest

from longrun.config.commands import Place, build_recipe, read_named, read_words
from longrun.config.nemo_skills.verbs import OPTIONS, explain_options
from longrun.config.stages import STAGES
from longrun.errors import ConfigError

TRAIN = """
    --output_dir=/workspace/sft/checkpoints --nemo_model=/workspace/base --num_nodes=64
    --num_gpus=8 --average_steps=7500,15000,22500,30000
    --training_data=/workspace/sft/packed-data-all/packed_32768_seed0.npy
    ++model.data.train_ds.max_seq_length=32768 ++model.data.train_ds.micro_batch_size=1
    ++model.data.train_ds.global_batch_size=256 ++model.tensor_model_parallel_size=1
    ++model.context_parallel_size=2 ++model.data.train_ds.packed_sequence=True
    ++model.optim.lr=3e-4 ++model.optim.sched.min_lr=3e-7 ++model.optim.sched.warmup_steps=3000
    ++trainer.sft.save_interval=7500 ++trainer.sft.max_steps=30000 ++trainer.sft.max_epochs=100
"""
PACK = """
    ++model.data.train_ds.file_names=[/sft/omr-all-split01.jsonl]
    ++model.data.train_ds.max_seq_length=32768 ++model.context_parallel_size=2
    ++tokenizer_path=/hf_models/Qwen2.5-14B ++output_dir=/sft/packed-data01/
    ++pack_sizes=[32768] ++model.data.train_ds.hf_dataset=True
"""
MERGE = """
    --input_prefixes /sft/packed-data01/packed_32768_seed0 /sft/packed-data02/packed_32768_seed0
    --output_prefix /sft/packed-data-all/packed_32768_seed0
"""


def recipe_of(verb: str, words: str, **place):
    wanted = read_words(verb, shlex.split(words))
    return build_recipe(wanted, Place(**place), Path("/runs")), wanted


def edges(recipe) -> dict[str, tuple[str, ...]]:
    return {stage.name: stage.after for stage in recipe.stages}


def test_the_training_command_trains_and_then_averages():
    recipe, wanted = recipe_of("train", TRAIN, expname="repro", partition="gpu", time_limit="4h")
    assert recipe.name == "repro"
    assert edges(recipe) == {"train": (), "average": ("train",)}
    train, average = recipe.stage("train").config, recipe.stage("average").config
    assert train.output_dir == average.checkpoints == Path("/workspace/sft/checkpoints/training")
    assert average.output_dir == Path("/workspace/sft/checkpoints/model-averaged-nemo")
    assert train.packs == Path("/workspace/sft/packed-data-all/packed_32768_seed0")
    assert train.model == Path("/workspace/base")
    assert average.steps == train.keep_steps == [7500, 15000, 22500, 30000]
    assert (train.num_nodes, train.num_processes) == (64, 8)
    assert (train.tensor_parallel, train.context_parallel) == (1, 2)
    assert (train.dtype, train.sharding, train.global_batch_size) == ("bfloat16", "states", 256)
    assert (train.max_steps, train.save_interval, train.max_epochs) == (30000, 7500, 100)
    optimizer = train.optimizer
    assert (optimizer.lr, optimizer.min_lr, optimizer.warmup_steps) == (3e-4, 3e-7, 3000)
    assert (optimizer.weight_decay, optimizer.beta1, optimizer.beta2) == (0.01, 0.9, 0.98)
    assert (optimizer.clip_norm, optimizer.schedule) == (None, "cosine")
    assert {(job.partition, job.time_limit) for job in recipe.jobs.values()} == {("gpu", 14400)}
    assert wanted.notes == [
        "++model.data.train_ds.max_seq_length has no effect: packs know their size",
        "++model.data.train_ds.micro_batch_size=1 is so here anyway: a process computes one pack at"
        " a time",
        "++model.data.train_ds.packed_sequence=True is so here anyway: data is always packed",
    ]


def test_the_second_round_differs_where_its_command_does():
    words = (
        TRAIN.replace("7500,15000,22500,30000", "500,1000,1500,2000")
        .replace("/workspace/base", "/workspace/sft/checkpoints/model-averaged-nemo")
        .replace("--output_dir=/workspace/sft", "--output_dir=/workspace/round-2")
        .replace("warmup_steps=3000", "warmup_steps=200")
        .replace("max_steps=30000", "max_steps=2000")
    )
    recipe, _ = recipe_of("train", words)
    assert recipe.stage("average").config.steps == [500, 1000, 1500, 2000]
    assert recipe.stage("train").config.optimizer.warmup_steps == 200


@pytest.mark.parametrize("inside", ["model-averaged-nemo", "model-averaged-nemo/model", "training"])
def test_a_second_round_into_the_folder_of_the_first_is_refused(inside):
    words = TRAIN.replace("/workspace/base", f"/workspace/sft/checkpoints/{inside}")
    with pytest.raises(ConfigError, match="give the second round an --output_dir of its own"):
        recipe_of("train", words)


def test_no_training_jobs_means_averaging_what_is_there():
    wanted = read_words("train", ["--output_dir=/o", "--average_steps=all"])
    recipe = build_recipe(wanted, Place(train=False), Path("/runs"))
    assert edges(recipe) == {"average": ()}
    assert recipe.stage("average").config.checkpoints == Path("/o/training")


def test_packing_prepares_ready_records_and_packs_them():
    recipe, wanted = recipe_of("pack", PACK)
    assert edges(recipe) == {"prepare": (), "pack": ("prepare",)}
    prepare, pack = recipe.stage("prepare").config, recipe.stage("pack").config
    (source,) = prepare.data
    assert (source.path, source.layout) == (Path("/sft/omr-all-split01.jsonl"), "qwen-instruct")
    assert prepare.tokenizer == Path("/hf_models/Qwen2.5-14B")
    assert prepare.output_dir == pack.documents == Path("/sft/packed-data01/documents")
    assert pack.output_dir == Path("/sft/packed-data01/packed_32768_seed0")
    assert (pack.pack_size, pack.seed) == (32768, 0)
    assert len(wanted.notes) == 2


def test_several_pack_sizes_share_the_documents():
    words = PACK.replace("[32768]", "[32768,65536]").replace("max_seq_length=32768", "seed=3")
    recipe, _ = recipe_of("pack", words)
    assert edges(recipe) == {"prepare": (), "pack-32768": ("prepare",), "pack-65536": ("prepare",)}
    assert recipe.stage("pack-65536").config.output_dir.name == "packed_65536_seed3"


def test_merging_by_prefixes_joins_documents_and_packs_them_anew():
    recipe, _ = recipe_of("merge", MERGE)
    assert edges(recipe) == {"merge": (), "pack": ("merge",)}
    merge, pack = recipe.stage("merge").config, recipe.stage("pack").config
    assert merge.parts == [Path(f"/sft/packed-data0{at}/documents") for at in (1, 2)]
    assert merge.output_dir == pack.documents == Path("/sft/packed-data-all/documents")
    assert pack.output_dir == Path("/sft/packed-data-all/packed_32768_seed0")


def test_settings_go_along_with_options():
    recipe, _ = recipe_of("train", TRAIN + "optimizer.clip_norm=1.0 average.dtype=float32")
    assert recipe.stage("train").config.optimizer.clip_norm == 1.0
    assert recipe.stage("train").config.optimizer.lr == 3e-4
    assert recipe.stage("average").config.dtype == "float32"


def test_python_takes_the_same_names():
    named = {"output_dir": "/o", "nemo_model": "/m", "num_gpus": 2, "average_steps": [5, 10]}
    named |= {"training_data": "/p/packed_8_seed0.npy", "max_steps": 10}
    wanted = read_named("train", ["++model.optim.lr=1e-3", ""], named)
    recipe = build_recipe(wanted, Place(), Path("/runs"))
    train = recipe.stage("train").config
    assert (train.output_dir, train.num_processes) == (Path("/o/training"), 2)
    assert (train.optimizer.lr, train.max_steps) == (1e-3, 10)
    assert recipe.stage("average").config.steps == [5, 10]


def test_own_names_alone_are_the_verbs_own_settings():
    wanted = read_named("train", [], {"packs": "/p", "model": "/m", "output_dir": "/o"})
    recipe = build_recipe(wanted, Place(), Path("/runs"))
    assert edges(recipe) == {"train": ()}
    assert recipe.stage("train").config.output_dir == Path("/o")
    assert recipe.stage("train").config.dtype == "float32"


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("train", TRAIN + "--nemo_modl=x", "no such option --nemo_modl; did you mean --nemo_model"),
        ("train", TRAIN.replace("--nemo_model=/workspace/base", ""), "--nemo_model is required"),
        ("train", TRAIN + "--average_steps=step-500", "is not a list of steps"),
        ("train", TRAIN + "++model.pipeline_model_parallel_size=2", "only 1"),
        ("train", TRAIN + "++model.data.train_ds.micro_batch_size=4", "only 1"),
        ("train", TRAIN + "++trainer.precision=int8", "is not one of bf16"),
        ("train", TRAIN + "++model.optim.betas=[0.9]", "must be two numbers"),
        ("train", TRAIN + "++model.foo=1", r"no such option \+\+model.foo"),
        ("train", TRAIN + "++trainer.sft.max_steps=-2", "greater than 0"),
        ("train", TRAIN + "++model.ffn_dropout=0.1", "only 0 or None .there is no dropout"),
        ("train", TRAIN + "++model.ffn_dropuot=0.1", r"did you mean \+\+model.ffn_dropout\?"),
        ("train", TRAIN + "++trainer.sft.nothing_like_it=1", "see `longrun train --help`"),
        ("train", TRAIN + "--config_name=x", "is not here: settings come from"),
        ("train", TRAIN + "--compile=true", "it is a setting: write compile=true"),
        ("train", "--nemo_model --output_dir=/o", "--nemo_model lacks its value"),
        ("train", "--output_dir", "--output_dir lacks its value"),
        ("train", TRAIN.replace("seed0.npy", "seed0.jsonl"), "make packs of them"),
        ("train", TRAIN + "++policy.train_global_batch_size=8", "say global_batch_size=PACKS"),
        ("pack", PACK.replace("++output_dir", "++add_eos=1 ++output_dir"), "train_ds.add_eos"),
        ("pack", PACK + "++model.data.train_ds.add_eos=True", "only False"),
        ("pack", PACK + "++pack_sizes=[many]", "must be whole numbers"),
        ("pack", PACK.replace("++pack_sizes=[32768]", "").replace("32768", "0"), "pack_sizes"),
        ("pack", PACK.replace("length=32768", "length=16384"), "is below a pack size"),
        ("merge", MERGE.replace("all/packed_32768_seed0", "all"), "must end in packed_SIZE_seedN"),
        ("convert", "--input_model=/m --output_model=/o --convert_to=onnx", "only hf or nemo"),
        ("average", "--checkpoints=/o", "it is a setting: write checkpoints=/o"),
        ("evaluate", "--benchmarks=gsm8k", "is an option of `longrun eval`"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(verb, words, message):
    with pytest.raises(ConfigError, match=message) as caught:
        recipe_of(verb, words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", sorted(OPTIONS))
def test_every_option_moves_to_a_setting_that_exists_or_says_why_it_does_not(verb):
    for name, option in OPTIONS[verb].items():
        assert bool(option.to) != bool(option.because), name
        stage, *inside = option.to.split(".")
        if stage not in STAGES:
            continue
        config = STAGES[stage]
        for field in inside:
            assert field in config.model_fields, option.to
            config = config.model_fields[field].annotation
            config = next((one for one in getattr(config, "__args__", [config]) if one), config)


@pytest.mark.parametrize("verb", sorted(OPTIONS))
def test_the_help_of_a_command_names_every_option(verb):
    shown = explain_options(verb)
    assert len(shown) == len(OPTIONS[verb])
    assert all(any(f"{name}:" in line for line in shown) for name in OPTIONS[verb])


def test_settings_go_to_every_stage_of_their_verb():
    words = PACK.replace("[32768]", "[32768,65536]").replace("max_seq_length=32768", "seed=3")
    recipe, _ = recipe_of("pack", words + "strategy=sequential prepare.num_workers=2")
    strategies = {stage.config.strategy for stage in recipe.stages if stage.verb == "pack"}
    assert strategies == {"sequential"}
    assert recipe.stage("prepare").config.num_workers == 2


def test_both_spellings_of_an_option_are_one():
    dashed = shlex.join(
        word.replace("_", "-") if word.startswith("--") and "=" not in word else word
        for word in shlex.split(MERGE)
    )
    assert "--input-prefixes" in dashed
    assert recipe_of("merge", dashed)[0] == recipe_of("merge", MERGE)[0]
    assert (
        recipe_of("train", TRAIN.replace("--num_gpus", "--num-gpus"))[0]
        == recipe_of("train", TRAIN)[0]
    )


def test_flags_may_be_switched_off_and_then_say_nothing():
    quiet = "--disable_wandb=False --no-reuse_code --no-with-sandbox "
    assert recipe_of("train", TRAIN + quiet)[1].notes == recipe_of("train", TRAIN)[1].notes
    assert len(recipe_of("train", TRAIN + "--disable_wandb --disable_wandb")[1].notes) == 4


def test_a_conversion_is_called_as_there():
    words = "--input_model=/m --output_model=/o --convert_from=hf --convert_to=trtllm --num_gpus=8"
    recipe, wanted = recipe_of("convert", words)
    assert recipe.name == "conversion"
    assert recipe.stage("convert").config.dtype == "bfloat16"
    assert any("every server reads them" in note for note in wanted.notes)
