import random
from pathlib import Path

import pytest

from longrun.data.documents.compose import (
    Composer,
    Draft,
    Dropped,
    Run,
    cut_runs,
    find_budget,
    is_held_out,
    problem_id,
)
from longrun.data.documents.prepare import load_conversation
from longrun.data.records.sources import SourceFile
from longrun.errors import InputError
from longrun.formats.text.exact_tokenizer import ExactTokenizer
from longrun.formats.text.spans import SpanKind

NOTICE = "```system\nRemaining code executions: {}. Go on.\n```\n"
CALL = "<tool_call>\n1\n</tool_call>\n```output\n1\n```\n"


@pytest.fixture
def compose(make_config, tmp_path):
    def run(raw, columns=None, **settings):
        config = make_config(data=tmp_path / "a.jsonl", **settings)
        conversation = load_conversation(config)
        tokenizer = ExactTokenizer(config.tokenizer, conversation.stop)
        file = SourceFile(Path("a.jsonl"), 0, columns or {}, "data.0")
        return Composer(config, conversation, tokenizer).compose(0, raw, file)

    return run


@pytest.fixture
def record(samples):
    return lambda **columns: samples.record(random.Random(0)) | columns


def tir(solution: str) -> dict[str, object]:
    return {"problem": "1+1?", "generated_solution": solution, "inference_mode": "tir"}


@pytest.mark.parametrize(
    ("notices", "budget"),
    [
        ([NOTICE.format(7), NOTICE.format(6)], 8),
        ([NOTICE.format(12)], 13),
        (["```system\nNone left.\n```\n"], 1),
        ([NOTICE.format(1), "```system\nNone left.\n```\n"], 2),
        ([], None),
    ],
)
def test_the_code_budget_is_what_the_first_notice_leaves_and_one(notices, budget):
    runs = [Run(notice.encode(), [SpanKind.NOTICE], [0]) for notice in notices]
    assert find_budget(runs) == budget


def test_the_budget_stands_in_the_prompt(compose):
    draft = compose(tir(f"<think>\n{CALL}{NOTICE.format(11)}</think>\nx"))
    assert "at most 12 times" in draft.prompt


def test_the_same_words_outside_a_notice_are_no_budget(compose):
    solution = f"<think>\nRemaining code executions: 5\n{CALL}{NOTICE.format(1)}</think>\nx"
    assert "at most 2 times" in compose(tir(solution)).prompt


def test_a_record_without_budget_is_dropped_or_passes_with_the_calls_it_made(compose):
    raw = tir(f"<think>\n{CALL}{CALL}</think>\nx")
    assert compose(raw) == Dropped("no code budget")
    assert "at most 2 times" in compose(raw, missing_budget="pass").prompt


def test_a_prompt_that_does_not_state_a_budget_needs_none(compose):
    draft = compose(tir("x"), prompts={"tir": "as-is"})
    assert isinstance(draft, Draft)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"problem": " \n"}, "empty problem"),
        ({"generated_solution": ""}, "empty solution"),
        ({"generated_solution": "<think>\nand on"}, "unbalanced tags"),
        ({"inference_mode": "tir", "generated_solution": "</tool_call>"}, "unbalanced tags"),
    ],
)
def test_unusable_records_are_dropped_for_a_named_reason(columns, reason, compose, record):
    assert compose(record(**columns)) == Dropped(reason)


def test_a_filtered_record_is_dropped_before_anything_else(compose, record):
    raw = record(generated_solution="")
    filters = [{"problem_type": ["converted_proof"]}]
    assert compose(raw, filters=filters) == Dropped("filter problem_type")


def test_columns_are_mapped_before_they_are_checked(compose):
    raw = {"question": "1+1?", "solution": "2", "problem_source": "x"}
    columns = {
        "problem": "{question}", "generated_solution": "{solution}!", "inference_mode": "cot",
    }  # fmt: skip
    draft = compose(raw, columns)
    assert "1+1?<|im_end|>" in draft.prompt
    assert draft.runs == [Run(b"2!", [SpanKind.ANSWER], [0])]


def test_an_unknown_mode_is_an_error(compose, record):
    with pytest.raises(InputError, match="inference_mode 'chat' has no prompt; known: cot,"):
        compose(record(inference_mode="chat"))


def test_runs_are_what_one_writer_writes_in_one_go():
    borders = [
        (SpanKind.THINKING, 2), (SpanKind.CODE, 3), (SpanKind.TOOL_OUTPUT, 4),
        (SpanKind.NOTICE, 6), (SpanKind.THINKING, 7), (SpanKind.ANSWER, 8),
    ]  # fmt: skip
    runs = cut_runs(b"aabcddef", borders)
    assert runs == [
        Run(b"aab", [SpanKind.THINKING, SpanKind.CODE], [0, 2]),
        Run(b"cdd", [SpanKind.TOOL_OUTPUT, SpanKind.NOTICE], [0, 1]),
        Run(b"ef", [SpanKind.THINKING, SpanKind.ANSWER], [0, 1]),
    ]
    assert list(runs[0].pieces()) == [(SpanKind.THINKING, 0, 2), (SpanKind.CODE, 2, 3)]
    assert cut_runs(b"", []) == []


def test_the_identity_of_a_problem_is_stable_and_blind_to_white_space():
    assert problem_id("Find  1 + 1.\n") == problem_id("Find 1 + 1.") == problem_id("Find1+1.")
    assert problem_id("Find 1 + 2.") != problem_id("Find 1 + 1.")


def test_the_share_of_problems_is_held_out_and_depends_on_the_seed():
    ids = [problem_id(str(number)) for number in range(4000)]
    held = {seed: [is_held_out(one, 0.25, seed) for one in ids] for seed in (0, 1)}
    assert 0.22 < sum(held[0]) / len(ids) < 0.28
    assert held[0] != held[1]
    assert not any(is_held_out(one, 0.0, 0) for one in ids)
    assert all(is_held_out(one, 1.0, 0) for one in ids)
