"""`make demo`: the whole pipeline, and that training in it works."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from longrun.formats.documents import DocumentSet
from longrun.formats.predictions import read_grades, read_summary
from longrun.formats.stages.manifest import Manifest

pytestmark = [pytest.mark.journey, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def accuracy(demo) -> dict[tuple[str, str], float]:
    rows = read_summary(demo.run / "evaluate").rows
    return {(row.model, row.benchmark): row.pass_at_1 for row in rows}


def test_the_base_model_knows_nothing(accuracy):
    assert [accuracy["base", mode] for mode in ("cot", "tir", "genselect")] == [0, 0, 0]


@pytest.mark.parametrize("model", ["average", "round-2"])
def test_training_works_in_every_mode(accuracy, model):
    assert accuracy[model, "cot"] >= 0.9
    assert accuracy[model, "tir"] >= 0.8
    assert accuracy[model, "genselect"] >= 0.7  # a blind choice scores about 0.4


def test_base_members_average_and_round_two_stand_in_one_table(demo, accuracy):
    models = list(dict.fromkeys(model for model, _ in accuracy))
    assert models[0] == "base"
    assert models[-2:] == ["average", "round-2"]
    assert len([model for model in models if model.startswith("step-")]) == 4
    for model in models:
        assert model in demo.output
    assert str(demo.run / "report/report.html") in demo.output


def test_code_was_really_executed(demo):
    grades = read_grades(demo.run / "evaluate/grades/average/tir.jsonl")
    assert sum(grade.code_calls for grade in grades) >= len(grades)
    outputs = [text for grade in grades for kind, text in grade.pieces if kind == "tool_output"]
    assert outputs


def test_records_have_the_columns_of_openmathreasoning_in_three_modes(demo):
    columns = {
        "problem": str,
        "generated_solution": str,
        "generation_model": str,
        "problem_type": str,
        "expected_answer": str,
        "problem_source": str,
        "inference_mode": str,
        "pass_rate_72b_tir": str,
        "used_in_kaggle": bool,
    }
    for mode in ("cot", "tir", "genselect"):
        lines = (demo.run / f"problems/train/{mode}.jsonl").read_text().splitlines()
        first = json.loads(lines[0])
        assert {name: type(value) for name, value in first.items()} == columns
        assert first["inference_mode"] == mode


def test_held_out_problems_were_never_trained_on(demo):
    for mode in ("cot", "tir", "genselect"):
        folder = demo.run / "problems"
        trained, held_out = (
            {
                json.loads(line)["problem"].partition("Find")[0].partition("Given")[2]
                for line in (folder / part / f"{mode}.jsonl").read_text().splitlines()
            }
            for part in ("train", "held-out")
        )
        assert trained
        assert not trained & held_out


def test_every_document_walks_back_to_its_record(demo):
    documents = DocumentSet.open(demo.run / "prepare/train")
    origin = documents.origin(len(documents) // 2)
    with open(origin.path) as file:
        record = json.loads(file.readlines()[origin.line - 1])
    assert record["inference_mode"] == origin.mode


def test_every_ledger_adds_up(demo):
    for name in ("prepare", "hard-prepare", "pack"):
        ledger = Manifest.read(demo.run / name).ledger
        assert ledger is not None
        ledger.check()
    assert Manifest.read(demo.run / "hard-prepare").ledger.dropped["filter pass_rate"] > 0


def test_transformers_loads_the_average_and_renders_the_training_prompt(demo):
    folder = demo.run / "average/model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.eos_token_id is not None or model.generation_config.eos_token_id
    documents = DocumentSet.open(demo.run / "prepare/train")
    trained = documents[0]
    prompt = trained.tokens[: trained.span_lengths[0]].tolist()
    origin = documents.origin(0)
    with open(origin.path) as file:
        record = json.loads(file.readlines()[origin.line - 1])
    conversation = json.loads((folder / "conversation.json").read_text())
    user = conversation["prompts"][origin.mode]["user"].format(**record)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], add_generation_prompt=True, return_dict=False
    )
    assert rendered == prompt
