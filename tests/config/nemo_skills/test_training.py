"""What a training command of the reference does where it is silent, and what it says twice."""

from pathlib import Path

import pytest

from longrun.config.commands import Place, build_recipe, read_words
from longrun.config.nemo_skills.option import find_option
from longrun.config.nemo_skills.training import TRAIN

WORDS = ["--output_dir=/o", "--nemo_model=/m", "--training_data=/p/packed_8_seed0.npy"]
SAME = [
    "++model.hidden_dropout=0.0",
    "++model.attention_dropout=0.0",
    "++model.ffn_dropout=0.0",
    "++model.data.train_ds.drop_last=True",
    "++model.data.train_ds.add_eos=False",
    "++model.data.train_ds.label_key=output",
    "++model.data.train_ds.truncation_field=input",
    "++model.data.train_ds.truncation_method=right",
    "++model.data.validation_ds.micro_batch_size=4",
    "++model.data.train_ds.prompt_template={input}{output}",
    "++model.megatron_amp_O2=True",
    "++model.peft.peft_scheme=none",
    "++model.activations_checkpoint_method=null",
    "++exp_manager.resume_if_exists=True",
    "++exp_manager.checkpoint_callback_params.save_top_k=50",
    "++exp_manager.checkpoint_callback_params.mode=min",
    "++trainer.logger=False",
]


def train_of(*words: str):
    wanted = read_words("train", [*WORDS, *words])
    return build_recipe(wanted, Place(), Path("/runs")).stage("train").config


def test_left_out_options_are_the_references_defaults():
    train = train_of()
    assert (train.max_epochs, train.global_batch_size, train.save_interval) == (2, 512, 1000)
    optimizer = train.optimizer
    assert (optimizer.lr, optimizer.min_lr, optimizer.warmup_steps) == (5e-6, 5e-6, 0)
    assert (optimizer.beta1, optimizer.beta2, optimizer.weight_decay) == (0.9, 0.98, 0.01)
    assert (train.dtype, optimizer.clip_norm, train.max_steps) == ("bfloat16", None, None)


@pytest.mark.parametrize(
    ("words", "rates"),
    [
        (["++model.optim.lr=1e-4"], (1e-4, 1e-4)),
        (["optimizer.lr=1e-4"], (1e-4, 1e-4)),
        (["++model.optim.lr=1e-4", "optimizer.min_lr=1e-6"], (1e-4, 1e-6)),
        (["++model.optim.lr=1e-4", "optimizer.schedule=linear"], (1e-4, 0.0)),
    ],
)
def test_the_rate_stays_unless_something_says_otherwise(words, rates):
    optimizer = train_of(*words).optimizer
    assert (optimizer.lr, optimizer.min_lr) == rates


def test_own_settings_win_over_defaults():
    train = train_of("global_batch_tokens=4096", "max_epochs=3", "dtype=float32")
    assert (train.global_batch_size, train.global_batch_tokens) == (None, 4096)
    assert (train.max_epochs, train.dtype) == (3, "float32")
    assert train_of("++trainer.sft.max_steps=-1").max_steps is None


def test_a_value_that_changes_nothing_is_said_once_and_changes_nothing():
    wanted = read_words("train", [*WORDS, *SAME, *SAME])
    assert len(wanted.notes) == len(SAME)
    assert train_of(*SAME) == train_of()


@pytest.mark.parametrize("name", sorted(TRAIN))
def test_no_option_is_hidden_behind_a_wider_one(name):
    assert find_option(TRAIN, name.replace("*", "anything")) is TRAIN[name]


def test_the_later_trainer_of_the_reference_is_read_too():
    train = train_of(
        *(
            "++policy.lr=1e-5",
            "++policy.min_lr=1e-6",
            "++sft.max_num_steps=9",
            "++sft.val_period=0",
        ),
        *("++policy.max_grad_norm=0.0", "++checkpointing.save_period=3", "++policy.precision=bf16"),
        "++policy.dtensor_cfg.env_vars.X=1",
    )
    assert (train.optimizer.lr, train.optimizer.min_lr, train.max_steps) == (1e-5, 1e-6, 9)
    assert (train.optimizer.clip_norm, train.save_interval) == (None, 3)
    assert train.validation_interval is None
