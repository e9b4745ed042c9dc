import json

import pytest

from longrun.config.evaluation import EvaluateConfig
from longrun.errors import InputError
from longrun.evaluation.scores.evaluate import run
from longrun.formats.predictions import (
    Prediction,
    read_grades,
    read_summary,
)


def predict(name, generation, **changes):
    values = {
        "id": name,
        "sample": 0,
        "mode": "cot",
        "source": "s",
        "problem": "?",
        "prompt_tokens": 4,
        "expected_answer": "42",
        "candidates": [],
        "generation": generation,
        "pieces": [("answer", generation)],
        "finish": "stop",
        "tokens": 10,
        "code_calls": 0,
        "code_errors": 0,
    }
    return Prediction(**values | changes)


RIGHT, WRONG, NONE = r"so \boxed{42}", r"so \boxed{41}", "no idea"
SUMS = {
    "base": [predict("a", WRONG), predict("b", RIGHT), predict("c", NONE, finish="length")],
    "tuned": [predict("a", RIGHT), predict("b", r"\boxed{\frac{84}{2}}"), predict("c", WRONG)],
}
CHOICES = {
    "tuned": [
        predict(
            name,
            f"Judgment: {chosen}",
            mode="genselect",
            candidates=["41", "42", "42.0", "7"],
            problem="Solution 0: x\nSolution 1: y",
        )
        for name, chosen in (("a", 1), ("b", 0), ("c", 9))
    ]
}


def evaluate(tmp_path, *folders, name="out"):
    config = EvaluateConfig.parse(
        {"output_dir": str(tmp_path / name), "predictions": [str(folder) for folder in folders]},
        "evaluate",
    )
    return config.output_dir, run(config)


def test_grades_say_what_was_answered_and_why(tmp_path, generated):
    folder, manifest = evaluate(tmp_path, generated("g", {"sums": SUMS}))
    grades = read_grades(folder / "grades" / "base" / "sums.jsonl")
    assert [(g.predicted_answer, g.verdict, g.correct) for g in grades] == [
        ("41", "wrong", False),
        ("42", "right", True),
        (None, "no answer", False),
    ]
    assert grades[0].why == "another number"
    assert manifest.counts == {"graded": 6, "no_answer": 1, "right": 3, "wrong": 2}


def test_the_summary_holds_one_row_per_model_and_benchmark_and_their_difference(
    tmp_path, generated
):
    folders = generated("g", {"sums": SUMS}), generated("h", {"choices": CHOICES})
    folder, _ = evaluate(tmp_path, *folders)
    summary = read_summary(folder)
    figures = {(row.model, row.benchmark): row.pass_at_1 for row in summary.rows}
    assert figures == {
        ("base", "sums"): pytest.approx(1 / 3),
        ("tuned", "sums"): pytest.approx(2 / 3),
        ("tuned", "choices"): pytest.approx(1 / 3),
    }
    (difference,) = summary.differences
    assert (difference.model, difference.baseline, difference.problems) == ("tuned", "base", 3)
    assert difference.difference == pytest.approx(1 / 3)
    text = (folder / "summary.md").read_text()
    assert "| tuned | sums | cot | 3 | 1 | 66.7 [" in text


def test_selection_is_graded_by_the_chosen_answer_and_shown_beside_chance(tmp_path, generated):
    folder, _ = evaluate(tmp_path, generated("g", {"choices": CHOICES}))
    grades = read_grades(folder / "grades" / "tuned" / "choices.jsonl")
    assert [grade.predicted_answer for grade in grades] == ["42", "41", None]
    (row,) = read_summary(folder).rows
    assert row.chance == 0.5
    assert row.mode == "genselect"
    assert row.no_answer_rate == pytest.approx(1 / 3)


def test_folders_are_read_together(tmp_path, generated):
    one = generated("one", {"sums": {"base": SUMS["base"]}})
    two = generated("two", {"sums": {"tuned": SUMS["tuned"]}})
    folder, _ = evaluate(tmp_path, one, two)
    assert len(read_summary(folder).differences) == 1


def test_the_same_label_and_benchmark_twice_is_refused(tmp_path, generated):
    one = generated("one", {"sums": SUMS})
    two = generated("two", {"sums": {"base": SUMS["base"]}})
    with pytest.raises(InputError, match="give the models different labels"):
        evaluate(tmp_path, one, two)


def test_an_interrupted_evaluation_goes_on_to_the_same_bytes(tmp_path, generated, monkeypatch):
    source = generated("g", {"sums": SUMS})
    whole, _ = evaluate(tmp_path, source)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("longrun.evaluation.scores.evaluate._summarise", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path, source, name="again")
    again, _ = evaluate(tmp_path, source, name="again")
    for name in ("summary.json", "summary.md", "grades/base/sums.jsonl"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_an_unfinished_generation_is_refused(tmp_path):
    (tmp_path / "half").mkdir()
    with pytest.raises(InputError, match="not the output of a finished stage"):
        evaluate(tmp_path, tmp_path / "half")


def test_output_of_another_stage_is_refused(tmp_path, generated):
    folder, _ = evaluate(tmp_path, generated("g", {"sums": SUMS}))
    with pytest.raises(
        InputError, match="is output of evaluate; name an output folder of generate"
    ):
        evaluate(tmp_path, folder, name="twice")


def test_the_summary_is_a_golden_file(tmp_path, generated):
    folder, _ = evaluate(tmp_path, generated("g", {"sums": {"base": SUMS["base"]}}))
    assert json.loads((folder / "summary.json").read_text()) == {
        "rows": [
            {
                "model": "base",
                "benchmark": "sums",
                "mode": "cot",
                "source": None,
                "problems": 3,
                "samples": 1,
                "pass_at_1": pytest.approx(1 / 3),
                "standard_error": pytest.approx(1 / 3),
                "sampling_error": None,
                "interval": pytest.approx([0.0615, 0.7923], abs=1e-4),
                "majority": pytest.approx(1 / 3),
                "majority_interval": pytest.approx([0.0615, 0.7923], abs=1e-4),
                "no_answer_rate": pytest.approx(1 / 3),
                "unfinished_rate": pytest.approx(1 / 3),
                "timed_out_rate": 0.0,
                "mean_tokens": 10.0,
                "code_calls": 0.0,
                "code_errors": 0.0,
                "chance": None,
                "at_k": [],
            }
        ],
        "differences": [],
        "parts": [],
    }


SAMPLED = {
    "base": [
        predict(name, f"\\boxed{{{answer}}}", sample=sample, source=source)
        for name, source, answers in (("a", "x", (42, 7)), ("b", "y", (42, 42)), ("c", "y", (1, 2)))
        for sample, answer in enumerate(answers)
    ]
}


def configured(tmp_path, folders, **options):
    values = {"output_dir": str(tmp_path / "out"), "predictions": [str(path) for path in folders]}
    return EvaluateConfig.parse(values | options, "evaluate")


def test_rewards_from_a_file_choose_the_best_sample(tmp_path, generated):
    rewards = tmp_path / "rewards.jsonl"
    rows = [
        {"model": "base", "benchmark": "sums", "id": row.id, "sample": row.sample, "reward": value}
        for row, value in zip(SAMPLED["base"], [0.9, 0.1, 0.2, 0.3, 0.4, 0.5], strict=True)
    ]
    rewards.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configured(tmp_path, [generated("g", {"sums": SAMPLED})], rewards=[str(rewards)])
    run(config)
    summary = read_summary(config.output_dir)
    (row,) = summary.rows
    assert [(entry.k, entry.best) for entry in row.at_k] == [(1, 0.5), (2, pytest.approx(2 / 3))]
    assert [(part.source, part.problems) for part in summary.parts] == [("x", 1), ("y", 2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": float("inf")}, "holds Infinity in reward"),
        ({"reward": None}, "reward"),
        ({"sample": 0}, "has a reward already"),
        ({"sample": 5}, "1 solutions of base on sums have none, the first is a sample 1"),
        ({"model": "other"}, "no predictions of model other on sums"),
    ],
)
def test_rewards_that_do_not_fit_are_named(tmp_path, generated, change, message):
    rows = [
        {"model": "base", "benchmark": "sums", "id": row.id, "sample": row.sample, "reward": 1.0}
        for row in SAMPLED["base"]
    ]
    rows[1] |= change
    rewards = tmp_path / "rewards.jsonl"
    rewards.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configured(tmp_path, [generated("g", {"sums": SAMPLED})], rewards=str(rewards))
    with pytest.raises(InputError, match=message):
        run(config)


def test_a_file_that_was_cut_is_named_and_nothing_is_graded(tmp_path, generated):
    source = generated("g", {"sums": SUMS}, counts={"predictions": 6})
    path = source / "base" / "sums.jsonl"
    whole = path.read_bytes()
    for content in (whole[:-40], b"", b"{"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"base/sums\.jsonl: has {len(content)} bytes, writ"):
            evaluate(tmp_path, source)
    path.write_bytes(whole)
    assert evaluate(tmp_path, source)[1].counts["graded"] == 6
