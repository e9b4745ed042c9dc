import io

from msgspec import structs
from rich.console import Console

from longrun.evaluation.scores.tables import accuracy_table, summary_markdown
from longrun.formats.predictions import AtK, DifferenceRow, Summary, SummaryRow

ROW = SummaryRow(
    model="tuned",
    benchmark="sums",
    mode="cot",
    problems=30,
    samples=4,
    pass_at_1=0.525,
    standard_error=0.06,
    interval=(0.41, 0.637),
    majority=0.6,
    no_answer_rate=0.1,
    unfinished_rate=0.05,
    timed_out_rate=0.0,
    mean_tokens=81.6,
    code_calls=0.0,
    code_errors=0.0,
    chance=None,
)
DIFFERENCE = DifferenceRow(
    model="tuned",
    baseline="base",
    benchmark="sums",
    mode="cot",
    problems=30,
    difference=0.25,
    standard_error=0.08,
    interval=(0.09, 0.4),
)


def shown(table):
    console = Console(file=io.StringIO(), width=140, color_system=None)
    console.print(table)
    return console.file.getvalue()


def test_models_stand_down_and_benchmarks_across_each_score_with_its_interval():
    selection = structs.replace(ROW, benchmark="selection", chance=0.42, pass_at_1=0.9)
    base = structs.replace(ROW, model="base", pass_at_1=0.0, interval=(0.0, 0.1))
    lines = shown(accuracy_table([base, ROW, selection])).splitlines()
    assert [line.split()[1] for line in lines if "[" in line][1:] == ["base", "tuned"]
    assert "52.5 [41.0, 63.7]" in lines[5]
    assert "90.0 [41.0, 63.7]" in lines[5]
    assert "(chance)" in lines[6]
    assert "42.0" in lines[6]


def test_the_markdown_says_which_interval_it_is():
    text = summary_markdown(Summary(rows=[ROW], differences=[DIFFERENCE]))
    assert "| tuned | sums | cot | 30 | 4 | 52.5 [41.0, 63.7] |" in text
    assert "| tuned | base | sums | cot | 30 | +25.0 [+9.0, +40.0] |" in text
    assert "Wilson" in text
    assert "Agresti-Min" in text
    assert "## Differences" not in summary_markdown(Summary(rows=[ROW], differences=[]))


def test_samples_and_parts_have_tables_of_their_own():
    at_two = AtK(
        k=2,
        pass_at_k=0.7,
        pass_interval=(0.5, 0.8),
        majority=0.6,
        majority_interval=(0.4, 0.75),
        best=None,
        best_interval=None,
    )
    row = structs.replace(ROW, at_k=[at_two])
    text = summary_markdown(Summary(rows=[row], differences=[], parts=[]))
    assert "| tuned | sums | cot | 2 | 70.0 [50.0, 80.0] | 60.0 [40.0, 75.0] |" in text
    assert "best@k [95" not in text
    assert "## By source" not in text
    best = structs.replace(at_two, best=0.65, best_interval=(0.5, 0.8))
    part = structs.replace(ROW, source="aime")
    summary = Summary(rows=[structs.replace(ROW, at_k=[best])], differences=[], parts=[part])
    text = summary_markdown(summary)
    assert "| 65.0 [50.0, 80.0] |" in text
    assert "| tuned | sums | cot | aime | 30 | 4 | 52.5 [41.0, 63.7] |" in text
    (line,) = [line for line in text.splitlines() if "| aime |" in line]
    assert line.endswith(
        f"| {part.mean_tokens:.0f} | {part.code_calls:.2f} | {part.code_errors:.2f} |"
    )
