"""The benchmark of a GPU: what it runs, within which time, and its tables."""

import pytest
import torch

import train_gpu
from contest import Outcome
from gpu import cases, recipe
from gpu.cases import CASES, MIX
from gpu.meter import Meter
from gpu.report import show
from gpu.stages import STAGES
from longrun.nn.costs import effective_length


def test_the_committed_mix_is_the_one_that_its_text_describes():
    assert all(0.99 * 32768 < sum(pack) <= 32768 for pack in MIX)
    assert effective_length(n for pack in MIX for n in pack) == pytest.approx(11_500, rel=0.01)


def test_equal_packs_get_equal_tokens_and_other_packs_others():
    case = CASES["tiny"]
    mix, document, four = (cases.draw_steps(case, phase) for phase in cases.phases(case))
    assert [len(step) for step in four] == [4, 4]
    assert (mix[0][0][0].tokens == four[1][0][0].tokens).all()
    assert len(document[0][0][0].tokens) == case.longest
    assert not (mix[0][0][0].tokens[:50] == mix[1][0][0].tokens[:50]).all()


def test_weights_depend_on_the_names_of_parameters_and_on_nothing_else():
    case = CASES["tiny"]
    one, other = (dict(recipe.Recipe(case, way).named_parameters()) for way in ("none", "half"))
    cases.fill(one.items())
    cases.fill(reversed(other.items()))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(*(one[f"model.layers.{i}.mlp.up_proj.weight"] for i in (0, 1)))


def test_stages_that_no_time_is_left_for_are_left_out(tmp_path):
    assert train_gpu.main(["--out", str(tmp_path), "--budget", "1", "--smoke"]) == 0
    text = (tmp_path / "train_gpu.json").read_text()
    assert text.count("no time left") == len([s for s in STAGES.values() if not s.variant])


def measured(first_loss):
    meter, case = Meter(), CASES["tiny"]
    meter.seconds, meter.losses = [1.0, 0.5, 0.5], [first_loss, 5.0, 4.0]
    return {"phases": {"mix": meter.report(case, cases.phases(case)[0], "none")}}


def test_the_report_counts_timed_steps_only():
    found = measured(6.0)["phases"]["mix"]
    tokens = sum(map(sum, CASES["tiny"].mix[1:3]))
    assert found["tokens_per_second"] == pytest.approx(tokens / 1.0)
    assert found["median_ms"] == 500.0


def test_the_table_marks_a_contender_that_did_other_work():
    outcomes = [
        Outcome("ours", "ok", 1.0, measured(6.0)),
        Outcome("recipe", "ok", 1.0, measured(6.005)),
        Outcome("trl", "ok", 1.0, measured(6.1)),
        Outcome("hf-liger", "left out", 0.0, problem="liger_kernel is not installed"),
        Outcome("hf-varlen", "failed", 9.0, problem="Traceback\nOutOfMemoryError: 70 GiB"),
    ]
    lines = show(outcomes).splitlines()
    marks = {
        line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines if "|" in line
    }
    assert marks[STAGES["recipe"].title] == "yes"
    assert marks[STAGES["trl"].title] == "NO"
    assert marks["hf-varlen"] == "OutOfMemoryError: 70 GiB"
    assert marks["hf-liger"] == "liger_kernel is not installed"
