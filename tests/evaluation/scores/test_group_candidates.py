import pytest

from longrun.config.benchmarks import Benchmark
from longrun.config.evaluation import EvaluateConfig, GroupCandidatesConfig
from longrun.errors import InputError, LongrunError
from longrun.evaluation.scores.evaluate import run as evaluate
from longrun.evaluation.scores.group_candidates import cut_summary, find_candidate, run
from longrun.formats.benchmarks import read_benchmark
from longrun.formats.predictions import Prediction, read_summary


def predict(name, generation, sample=0, **changes):
    values = {
        "id": name,
        "sample": sample,
        "mode": "cot",
        "source": "s",
        "problem": f"What is {name}?",
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


def solve(answer):
    return f"<think>\n\\boxed{{0}} no\n</think>\nIt is \\boxed{{{answer}}}."


SAMPLES = [
    *(predict("mixed", solve(answer), n) for n, answer in enumerate((42, 42, 7, 8, 9))),
    *(predict("agreed", solve(answer), n) for n, answer in enumerate(("7", "7.0", " 7", "7", "7"))),
    *(predict("silent", "<think>\n\\boxed{1}", n, finish="length") for n in range(5)),
]


@pytest.fixture
def grouped(tmp_path, generated):
    source = generated("g", {"sums": {"base": SAMPLES}})

    def make(name="out", **options):
        values = {"output_dir": str(tmp_path / name), "predictions": str(source)}
        config = GroupCandidatesConfig.parse(values | options, "group_candidates")
        manifest = run(config)
        benchmark = Benchmark(name="select", path=config.output_dir / "base" / "sums.jsonl")
        return read_benchmark(benchmark), manifest

    return make


def test_groups_are_drawn_as_often_as_asked_and_only_where_a_choice_matters(grouped):
    rows, manifest = grouped(group_size=3, repeats=6)
    counts = [sum(row.group == name for row in rows) for name in ("mixed", "agreed", "silent")]
    assert counts == [6, 1, 1]
    assert (manifest.ledger.kept, manifest.ledger.dropped) == (10, {"states no answer": 5})
    mixed = [row.candidates for row in rows if row.group == "mixed"]
    assert all(len(candidates) == 3 for candidates in mixed)
    assert len(set(map(tuple, mixed))) > 1
    assert set().union(*mixed) == {"42", "7", "8", "9"}
    assert rows[-1].candidates == []
    assert all(row.mode == "genselect" and row.id.startswith(row.group + "/") for row in rows)


def test_the_prompt_shows_the_candidates_in_their_order_without_their_thinking(grouped):
    rows, _ = grouped(repeats=1)
    problem, candidates = rows[0].problem, rows[0].candidates
    assert "What is mixed?" in problem
    places = [
        problem.index(f"Solution {n}:\nIt is \\boxed{{{answer}}}.")
        for n, answer in enumerate(candidates)
    ]
    assert len(places) == 5
    assert places == sorted(places)
    assert "numbered from 0 to 4" in problem
    assert "</think>" not in problem


def test_the_same_seed_draws_the_same_groups(grouped):
    one, two, other = (
        grouped(name, seed=seed, group_size=2)[0] for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one == two
    assert one != other


def test_a_prompt_of_ones_own_is_used(grouped, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text('solution: "[{index}] {solution}"\nuser: "{problem} | {solutions}"\n')
    rows, _ = grouped(prompt=str(path), group_size=2)
    assert rows[0].problem.startswith("What is mixed? | [0] It is")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user: x\n", "has two texts: solution and user"),
        ("solution: '{answer}'\nuser: x\n", "placeholder 'answer': solution may name"),
        ("solution: '{0}'\nuser: x\n", "placeholder"),
        ("solution: [\n", "not YAML"),
    ],
)
def test_a_prompt_that_cannot_work_is_named(grouped, tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(LongrunError, match=message):
        grouped(prompt=str(path))


def test_an_unknown_prompt_is_named(grouped):
    with pytest.raises(InputError, match="prompt other: there is no such prompt"):
        grouped(prompt="other")


@pytest.mark.parametrize(
    ("generation", "finish", "answer"),
    [
        ("<think>\n\\boxed{1}\n</think>\nSo \\boxed{2}", "stop", "2"),
        ("<think>\n\\boxed{1}\n</think>\nSo 2", "stop", None),
        ("<think>\n\\boxed{1}", "length", None),
        ("So \\boxed{3}", "stop", "3"),
        ("So \\boxed{3} and then", "length", None),
        ("a</think>b</think>\\boxed{4}", "length", "4"),
    ],
)
def test_a_candidate_needs_a_summary_with_an_answer(generation, finish, answer):
    found = find_candidate(predict("p", generation, finish=finish), 100)
    assert (found.answer if found else None) == answer


def test_a_long_summary_keeps_its_end_and_loses_no_half_paragraph():
    text = "\n\n".join(f"paragraph {n}" for n in range(10))
    assert cut_summary(text, 1000) == text
    assert cut_summary(text, 30) == "paragraph 8\n\nparagraph 9"
    assert cut_summary("x" * 50, 20) == "x" * 20


def test_the_choices_of_a_problem_vote(grouped, generated, tmp_path):
    rows, _ = grouped(group_size=3, repeats=5)
    chosen = [
        predict(
            row.id,
            f"Judgment: {row.candidates.index('42') if '42' in row.candidates else 0}",
            mode="genselect",
            candidates=row.candidates,
            problem=row.problem,
            group=row.group,
        )
        for row in rows
    ]
    folder = generated("s", {"select": {"base": chosen}})
    values = {"output_dir": str(tmp_path / "scores"), "predictions": str(folder)}
    evaluate(EvaluateConfig.parse(values, "evaluate"))
    (row,) = read_summary(tmp_path / "scores").rows
    assert (row.problems, row.mode) == (3, "genselect")
    assert row.majority == pytest.approx(1 / 3), "mixed is right, agreed and silent are not"
    assert 0 < row.chance < 1 / 3
