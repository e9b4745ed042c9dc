"""Generated records: right by recomputation, in the published columns, apart from the benchmark."""

import re
from collections import Counter

import pytest

from longrun.data.synthetic.dataset import (
    MODES,
    MOST_BENCHMARK_PROBLEMS,
    USER_PROMPTS,
    Mode,
    Row,
    generate_benchmark,
    generate_records,
)
from longrun.errors import ConfigError

COLUMNS = [
    "problem",
    "generated_solution",
    "generation_model",
    "problem_type",
    "expected_answer",
    "problem_source",
    "inference_mode",
    "pass_rate_72b_tir",
    "used_in_kaggle",
]


def _records(mode: Mode, *, num_records: int = 300, **settings: int) -> list[Row]:
    return list(generate_records(mode, num_records=num_records, seed=5, **settings))


def _given(problem: object) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"([a-z]) = (\d)", str(problem))}


def _asked(problem: object) -> str:
    found = re.search(r"Find: (.*)\.$", str(problem), flags=re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("mode", MODES)
def test_every_record_has_the_published_columns_and_types(mode: Mode) -> None:
    for record in _records(mode):
        assert list(record) == COLUMNS
        assert isinstance(record.pop("used_in_kaggle"), bool)
        assert all(isinstance(value, str) for value in record.values())
        assert record["inference_mode"] == mode


@pytest.mark.parametrize("mode", MODES)
def test_the_expected_answer_is_what_the_statement_asks_for(mode: Mode) -> None:
    rows = [*_records(mode), *generate_benchmark(mode, num_problems=100, seed=5)]
    for row in rows:
        answer = eval(_asked(row["problem"]), {}, _given(row["problem"]))
        assert row["expected_answer"] == str(answer)


@pytest.mark.parametrize("mode", ["cot", "tir"])
def test_a_solution_closes_its_thinking_and_ends_in_the_boxed_answer(mode: Mode) -> None:
    for record in _records(mode):
        thinking, summary = str(record["generated_solution"]).split("\n</think>\n")
        assert thinking.startswith("<think>\n")
        assert summary.endswith(f"\\boxed{{{record['expected_answer']}}}")
        assert "\n" not in summary


def test_a_running_total_is_right_on_every_line() -> None:
    for mode in ("cot", "genselect"):
        for record in _records(mode):
            total = 0
            lines = re.findall(r"^([a-e]) = (\d): (\d\d)$", str(record["generated_solution"]), re.M)
            for _name, value, shown in lines:
                total += int(value)
                assert int(shown) == total
            assert {name: int(value) for name, value, _ in lines} == _given(record["problem"])
            assert str(total) == record["expected_answer"]


def test_code_outputs_are_what_the_code_prints_when_it_is_run_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for record in _records("tir"):
        text = str(record["generated_solution"])
        blocks = re.findall(r"<tool_call>\n(.*?)\n</tool_call>\n```output\n(.*?)```\n", text, re.S)
        assert len(blocks) in (1, 2)
        variables: dict[str, object] = {}
        for code, output in blocks:
            exec(code, variables)
            assert capsys.readouterr().out == output
        assert output == f"{record['expected_answer']}\n"


@pytest.mark.parametrize("most", [1, 3, 12])
def test_notices_count_down_from_a_budget_drawn_uniformly(most: int) -> None:
    budgets: Counter[int] = Counter()
    for record in _records("tir", num_records=1200, most_code_executions=most):
        text = str(record["generated_solution"])
        notices = re.findall(r"```output\n.*?```\n```system\n(.*?)\n```\n", text, re.S)
        assert len(notices) == text.count("<tool_call>")
        left = [
            0 if notice == "You have run out of code executions!" else int(found[1])
            for notice in notices
            if (found := re.match(r"Remaining code executions: (\d+)\. |You have run out", notice))
        ]
        assert left == [left[0] - index for index in range(len(notices))]
        assert left[-1] >= 0
        budgets[left[0] + 1] += 1
    assert set(budgets) == set(range(1, most + 1))
    assert max(budgets.values()) < 1.6 * 1200 / most


def test_a_selection_marks_exactly_the_right_candidate() -> None:
    for record in _records("genselect"):
        answer = str(record["expected_answer"])
        shown = re.findall(r"^(\d): Answer: \\boxed\{(\d+)\}$", str(record["problem"]), re.M)
        assert len(shown) in (2, 3)
        assert [candidate for _, candidate in shown].count(answer) == 1
        *_, judgment = solution = str(record["generated_solution"]).splitlines()
        pattern = r"^(\d): (\d)=(\d) (\w+) (\d)=(\d) (\w+) (\w+)$"
        verdicts = re.findall(pattern, "\n".join(solution), re.M)
        words = {True: ("yes", "right"), False: ("no", "wrong")}
        assert verdicts == [
            (
                index,
                *(candidate[0], answer[0], words[candidate[0] == answer[0]][0]),
                *(candidate[1], answer[1], words[candidate[1] == answer[1]][0]),
                words[candidate == answer][1],
            )
            for index, candidate in shown
        ]
        right = next(index for index, candidate in shown if candidate == answer)
        assert judgment == f"Judgment: {right}"


def test_neither_place_nor_size_nor_length_gives_the_right_candidate_away() -> None:
    rows = list(generate_benchmark("genselect", num_problems=MOST_BENCHMARK_PROBLEMS, seed=5))
    candidates = [[int(str(value)) for value in row["candidates"]] for row in rows]  # type: ignore[attr-defined]  # rows hold mixed types
    answers = [int(str(row["expected_answer"])) for row in rows]
    for guess in (
        [values[0] for values in candidates],
        [values[-1] for values in candidates],
        [min(values) for values in candidates],
        [max(values) for values in candidates],
        [sorted(values)[len(values) // 2] for values in candidates],
    ):
        share = sum(map(int.__eq__, guess, answers)) / len(rows)
        assert 0.32 < share < 0.52  # chance is the mean of 1/2 and 1/3
    assert all(10 <= value <= 99 for values in candidates for value in values)


@pytest.mark.parametrize("seed", [5, 6])
def test_no_operand_combination_of_a_benchmark_is_ever_trained_on(seed: int) -> None:
    trained = {
        tuple(_given(record["problem"]).values())
        for mode in MODES
        for record in generate_records(mode, num_records=2000, seed=seed)
    }
    for mode in MODES:
        rows = list(generate_benchmark(mode, num_problems=200, seed=7))
        assert not {tuple(_given(row["problem"]).values()) for row in rows} & trained
        assert len({row["id"] for row in rows}) == len({row["problem"] for row in rows}) == 200


def test_long_problems_have_lower_pass_rates_so_that_a_filter_can_find_them() -> None:
    rates: dict[str, list[float]] = {}
    records = [record for mode in MODES for record in _records(mode, num_records=1000)]
    unknown = [record for record in records if record["pass_rate_72b_tir"] == "n/a"]
    assert 0.03 < len(unknown) / len(records) < 0.07
    for record in records:
        if record["pass_rate_72b_tir"] != "n/a":
            rate = float(str(record["pass_rate_72b_tir"]))
            assert (rate * 32).is_integer()
            rates.setdefault(str(record["problem_source"]), []).append(rate)
    hard = {"synthetic_long_sums", "synthetic_remainders"}
    assert set(rates) == hard | {"synthetic_sums", "synthetic_products"}
    for source, values in rates.items():
        share = sum(value <= 0.3 for value in values) / len(values)
        assert share > 0.3 if source in hard else share < 0.02


def test_a_benchmark_larger_than_the_held_out_problems_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at most 500 problems a mode, not 501"):
        next(generate_benchmark("cot", num_problems=501, seed=0))


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_gives_the_same_rows_and_another_seed_others(mode: Mode) -> None:
    first, again, other = (
        [*generate_records(mode, num_records=40, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other
    first, again, other = (
        [*generate_benchmark(mode, num_problems=20, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("mode", MODES)
def test_a_user_prompt_holds_the_problem_and_states_the_code_budget(mode: Mode) -> None:
    text = USER_PROMPTS[mode].format(problem="P {x}?", total_code_executions=11)
    assert text.endswith("P {x}?")
    assert ("11" in text) == (mode == "tir")
    assert ("\\boxed{}" in text) == (mode != "genselect")
