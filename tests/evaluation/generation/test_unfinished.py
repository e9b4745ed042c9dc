import msgspec
import pytest

from longrun.errors import InputError
from longrun.evaluation.generation.unfinished import UnfinishedPredictions
from longrun.formats.predictions import Prediction


def predict(name):
    return Prediction(
        id=name,
        sample=0,
        mode="cot",
        source="s",
        problem="p",
        prompt_tokens=1,
        expected_answer="1",
        candidates=[],
        generation="text \u221a",
        pieces=[("answer", "text \u221a")],
        finish="stop",
        tokens=3,
        code_calls=0,
        code_errors=0,
    )


def test_finished_solutions_come_back_in_order(tmp_path):
    path = tmp_path / "deep" / "b.unfinished"
    unfinished = UnfinishedPredictions(path)
    for name in "abc":
        unfinished.add(predict(name))
    assert UnfinishedPredictions(path).found == [predict("a"), predict("b"), predict("c")]


def test_a_solution_that_was_cut_anywhere_is_forgotten_whole(tmp_path):
    path = tmp_path / "b.unfinished"
    unfinished = UnfinishedPredictions(path)
    unfinished.add(predict("a"))
    kept = path.read_bytes()
    unfinished.add(predict("b"))
    whole = path.read_bytes()
    for length in range(len(kept), len(whole)):
        path.write_bytes(whole[:length])
        again = UnfinishedPredictions(path)
        assert again.found == [predict("a")]
        assert path.read_bytes() == kept
    again.add(predict("d"))
    assert UnfinishedPredictions(path).found == [predict("a"), predict("d")]


def test_a_damaged_line_before_the_last_is_named(tmp_path):
    path = tmp_path / "b.unfinished"
    path.write_bytes(b"{}\n" + msgspec.json.encode(predict("a")) + b"\n")
    with pytest.raises(InputError, match=r"b\.unfinished:1: is damaged .*delete the line"):
        UnfinishedPredictions(path)


def test_nothing_is_left_after_removal(tmp_path):
    path = tmp_path / "b.unfinished"
    unfinished = UnfinishedPredictions(path)
    unfinished.add(predict("a"))
    unfinished.remove()
    unfinished.remove()
    assert not path.exists()
