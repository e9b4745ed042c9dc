from longrun.training.metrics import Metrics, read_metrics


def write(folder, resumed, steps):
    metrics = Metrics(folder, resumed_step=resumed)
    for step in steps:
        metrics.append({"step": step, "loss": step / 10})
    metrics.sync()
    metrics.close()


def test_lines_appear_in_order(tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]


def test_lines_after_the_checkpoint_are_written_again_not_twice(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4])
    write(tmp_path, 2, [3, 4, 5])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_torn_last_line_is_dropped(tmp_path):
    write(tmp_path, 0, [1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    write(tmp_path, 2, [3])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_training_without_a_line_has_none(tmp_path):
    assert read_metrics(tmp_path) == []


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path):
    metrics = Metrics(tmp_path, resumed_step=0)
    metrics.append({"step": 1, "loss": float("nan"), "by_mode": {"cot": float("inf"), "tir": 1.5}})
    metrics.close()
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert read_metrics(tmp_path) == [
        {"step": 1, "loss": None, "by_mode": {"cot": None, "tir": 1.5}}
    ]
