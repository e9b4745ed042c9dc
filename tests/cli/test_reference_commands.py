"""The reference's commands as they are typed, in the foreground, on a tiny world."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from longrun.data.records.prompt_templates import get_prompt

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("reference")]
RECIPE = Path(__file__).parents[2] / "src/longrun/recipes/demo.yaml"
SMALL = ("problems.num_cot=40", "problems.num_tir=2", "problems.num_genselect=2")
TRAIN = (
    "--output_dir=checkpoints --nemo_model=runs/demo/base --num_gpus=1 --average_steps=2,4"
    " --training_data=all/packed_1024_seed0.npy ++model.data.train_ds.global_batch_size=1"
    " ++model.optim.lr=3e-4 ++model.optim.sched.min_lr=3e-7 ++trainer.sft.save_interval=2"
    " ++trainer.sft.max_steps=4 ++trainer.sft.max_epochs=100"
)


def longrun(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "longrun", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A base model, and packs of ready records in two parts that were merged."""
    folder = tmp_path_factory.mktemp("reference")
    longrun(folder, "run", str(RECIPE), "--to", "base", *SMALL)
    prompt = get_prompt("generic/math", "qwen-instruct")
    end = prompt.config.template.assistant_end
    records = (folder / "runs/demo/problems/train/cot.jsonl").read_text().splitlines()
    for number, lines in enumerate((records[:20], records[20:])):
        rows = [
            {"input": prompt.fill(row), "output": row["generated_solution"] + end}
            for row in map(json.loads, lines)
        ]
        path = folder / f"ready-{number}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        longrun(
            folder,
            "pack",
            f"++model.data.train_ds.file_names=[{path.name}]",
            "++tokenizer_path=runs/demo/base",
            f"++output_dir=part-{number}",
            "++pack_sizes=[1024]",
        )
    prefixes = [f"part-{number}/packed_1024_seed0" for number in (0, 1)]
    longrun(
        folder, "merge", "--input_prefixes", *prefixes, "--output_prefix", "all/packed_1024_seed0"
    )
    longrun(folder, "train", *TRAIN.split())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in paths if path.name != ".lock"}


def test_training_ends_with_the_average_of_the_steps_named(world):
    average = world / "checkpoints/model-averaged-nemo"
    assert json.loads((average / "manifest.json").read_text())["settings"]["steps"] == [2, 4]
    tokenizer = AutoTokenizer.from_pretrained(average / "model")
    message = {"role": "user", "content": "1 + 1?"}
    rendered = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert rendered == get_prompt("as-is", "qwen-instruct").fill({"problem": "1 + 1?"})
    AutoModelForCausalLM.from_pretrained(average / "model")


def test_the_same_command_again_changes_nothing(world):
    before = contents(world / "checkpoints")
    longrun(world, "train", *TRAIN.split())
    assert contents(world / "checkpoints") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Round two into the folder of round one: fewer steps than are done already.
        (("max_steps=4", "max_steps=2"), "train.max_steps 4 -> 2"),
        (("runs/demo/base", "checkpoints/training/final"), "an --output_dir of its own"),
        (("lr=3e-4", "lr=1e-4"), "train.optimizer.lr 0.0003 -> 0.0001"),
    ],
)
def test_a_second_round_into_the_folder_of_the_first_is_refused_and_nothing_is_lost(
    change, message, world
):
    before = contents(world / "checkpoints")
    shown = longrun(world, "train", *TRAIN.replace(*change).split(), code=2)
    assert message in shown
    assert contents(world / "checkpoints") == before


@pytest.mark.parametrize("steps", ["20", "2,40", "1"])
def test_an_average_takes_the_steps_named_or_none(steps, world):
    words = ("--output_dir=checkpoints", "--final_nemo_path=other", f"--average_steps={steps}")
    shown = longrun(world, "train", "--num_training_jobs=0", *words, code=2)
    assert f"no checkpoint of step {steps.split(',')[-1]}; available: 2, 4" in shown
    assert not (world / "other/model").exists()


def test_another_average_of_the_same_training_run_is_had_as_the_refusal_says(world):
    before = contents(world / "checkpoints")
    words = TRAIN.replace("--average_steps=2,4", "--average_steps=4")
    shown = longrun(world, "train", *words.split(), code=2)
    assert "average.steps [2, 4] -> [4]" in shown
    assert "--num_training_jobs=0 --final_nemo_path=FOLDER" in shown
    assert contents(world / "checkpoints") == before
    longrun(world, "train", *words.split(), "--num_training_jobs=0", "--final_nemo_path=last")
    made = json.loads((world / "last/manifest.json").read_text())
    assert made["settings"]["steps"] == [4]
    assert contents(world / "checkpoints") == before


def test_the_second_round_starts_from_the_average_in_a_folder_of_its_own(world):
    words = TRAIN.replace("=runs/demo/base", "=checkpoints/model-averaged-nemo")
    shown = longrun(world, "train", *words.replace("=checkpoints ", "=round-2 ").split())
    assert "checkpoints/model-averaged-nemo/model" in shown
    assert (world / "round-2/model-averaged-nemo/model/model.safetensors").is_file()
