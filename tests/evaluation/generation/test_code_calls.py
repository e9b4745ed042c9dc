import numpy as np
import pytest
from msgspec import structs
from tokenizers import Tokenizer

from longrun.config.evaluation import SandboxSettings
from longrun.evaluation.generation.code_calls import CodeCalls, find_call
from longrun.evaluation.generation.solutions import Solution
from longrun.evaluation.sandbox.sandbox import Sandbox
from longrun.formats.predictions import Problem
from longrun.formats.text.code_style import CodeStyle
from longrun.formats.text.spans import SpanKind

STYLE = CodeStyle.named("tool_call")
FENCED = CodeStyle.named("fenced")
CALL = "<tool_call>\n{}\n</tool_call>"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(isolation="process")) as sandbox:
        yield sandbox


@pytest.fixture
def calls(sandbox, tokenizer):
    decoder = Tokenizer.from_file(str(tokenizer.path))
    return CodeCalls(
        STYLE,
        sandbox,
        lambda text, after: tokenizer.encode_text(text, after=after),
        lambda ids: decoder.decode(ids, skip_special_tokens=False),
    )


def begin(*, budget=2, most_tokens=500, name="p"):
    problem = Problem(
        id=name,
        mode="tir",
        source="",
        problem="",
        expected_answer="1",
        total_code_executions=budget,
        candidates=[],
        line=1,
        record={},
    )
    return Solution(problem, 0, [1, 2], most_tokens, budget, np.random.default_rng(0))


def write(calls, tokenizer, solution, text):
    """Append tokens one by one as a model does; return whether the last one ended a call."""
    for token in tokenizer.encode_text(text):
        solution.tokens.append(token)
        ended = calls.ends_segment(solution)
    return ended


def answer(calls, *solutions):
    """Run the calls that end the segments and wait for all of them."""
    for solution in solutions:
        calls.begin(solution)
    left = list(solutions)
    while left:
        for solution in calls.collect(wait=True):
            left.remove(solution)


def text_of(solution):
    return "".join(text for _, text in solution.parts)


@pytest.mark.parametrize(
    ("text", "style", "code"),
    [
        ("a <tool_call>\nx\n</tool_call>", STYLE, "x\n"),
        ("<tool_call>\nx\n", STYLE, None),
        ("x\n</tool_call>", STYLE, None),
        ("</tool_call> <tool_call>\ny\n</tool_call>", STYLE, "y\n"),
        ("<tool_call>print(5)</tool_call>", STYLE, "print(5)"),
        ("<tool_call> print(5) </tool_call>", STYLE, "print(5) "),
        ("<tool_call> \nprint(5)\n</tool_call>", STYLE, "print(5)\n"),
        ("<tool_call>\r\nprint(5)\r\n</tool_call>", STYLE, "print(5)\r\n"),
        ("<tool_call>x = 1\nx\n</tool_call>", STYLE, "x = 1\nx\n"),
        ("I could use <tool_call> here.\n<tool_call>\nx\n</tool_call>", STYLE, "x\n"),
        ("use <tool_call>\nhere.\n<tool_call>\nx\n</tool_call>", STYLE, "x\n"),
        ("a <tool_call> or <tool_call>x</tool_call>", STYLE, "x"),
        ("<tool_call>\nprint('<tool_call>')\n</tool_call>", STYLE, "print('<tool_call>')\n"),
        ("the tag </tool_call> ends it", STYLE, None),
        ("```python\nx = '```'\n```", FENCED, "x = '```'\n"),
        ("```python \r\nx\r\n```", FENCED, "x\r\n"),
        ("```python x\n```", FENCED, None),
        ("```\nx\n```", FENCED, None),
    ],
)
def test_a_call_needs_both_tags_in_order(text, style, code):
    call = find_call(text, style)
    assert (call.code if call else None) == code


def test_only_the_token_that_completes_a_call_ends_the_segment(calls, tokenizer):
    solution = begin()
    text = "<think>\na > b </tool_call>? <tool_call>\nx = 1 > 0\n</tool_call>"
    tokens = tokenizer.encode_text(text)
    ends = []
    for token in tokens:
        solution.tokens.append(token)
        ends.append(calls.ends_segment(solution))
    assert ends == [False] * (len(tokens) - 1) + [True]


def test_state_is_kept_and_output_and_notice_are_written_as_in_training(calls, tokenizer):
    solution = begin(budget=2)
    assert write(calls, tokenizer, solution, "<think>\n" + CALL.format("x = 6"))
    answer(calls, solution)
    assert write(calls, tokenizer, solution, CALL.format("print(x * 7)"))
    answer(calls, solution)
    calls.close(solution)
    expected = [
        (None, "<think>\n"),
        (SpanKind.CODE, CALL.format("x = 6") + "\n"),
        (SpanKind.TOOL_OUTPUT, STYLE.format_output("")),
        (SpanKind.NOTICE, STYLE.format_notice(1)),
        (None, ""),
        (SpanKind.CODE, CALL.format("print(x * 7)") + "\n"),
        (SpanKind.TOOL_OUTPUT, STYLE.format_output("42\n")),
        (SpanKind.NOTICE, STYLE.format_notice(0)),
    ]
    assert solution.parts == expected
    pieces = [text for _, text in expected if text]
    assert solution.tokens == [t for piece in pieces for t in tokenizer.encode_text(piece)]
    assert (solution.code_calls, solution.code_errors, solution.finish) == (2, 0, None)


def test_output_and_notice_are_tokenized_apart(sandbox, tokenizer):
    decoder = Tokenizer.from_file(str(tokenizer.path))
    mark = 0
    calls = CodeCalls(
        STYLE,
        sandbox,
        lambda text, after: [*tokenizer.encode_text(text), mark],
        lambda ids: decoder.decode([token for token in ids if token != mark]),
    )
    solution = begin()
    write(calls, tokenizer, solution, CALL.format("1"))
    answer(calls, solution)
    after = [mark, *tokenizer.encode_text(STYLE.format_output("1\n")), mark]
    after += [*tokenizer.encode_text(STYLE.format_notice(1)), mark]
    assert solution.tokens[-len(after) :] == after


def test_an_earlier_block_is_never_run_again(calls, tokenizer):
    solution = begin(budget=3)
    code = "n = open('runs', 'a').write('x')"
    for block in (code, "n + 1", "n + 1 + len(open('runs').read())"):
        write(calls, tokenizer, solution, CALL.format(block))
        answer(calls, solution)
    calls.close(solution)
    assert "```output\n3\n```" in text_of(solution)


def test_a_call_beyond_the_budget_ends_the_solution_unrun(calls, tokenizer):
    solution = begin(budget=1)
    write(calls, tokenizer, solution, CALL.format("1"))
    answer(calls, solution)
    assert STYLE.exhausted_notice in text_of(solution)
    assert solution.finish is None, "it may still finish without code"
    write(calls, tokenizer, solution, CALL.format("2"))
    answer(calls, solution)
    assert (solution.finish, solution.code_calls) == ("budget", 1)


def test_an_output_without_room_ends_the_solution_within_its_bound(calls, tokenizer):
    solution = begin(most_tokens=60)
    write(calls, tokenizer, solution, CALL.format("print('7 ' * 100)"))
    answer(calls, solution)
    assert solution.finish == "length"
    assert len(solution.tokens) <= 60


def test_errors_are_counted_and_shown(calls, tokenizer):
    solution = begin()
    write(calls, tokenizer, solution, CALL.format("1 / 0"))
    answer(calls, solution)
    calls.close(solution)
    assert solution.code_errors == 1
    assert "ZeroDivisionError" in text_of(solution)


def test_what_follows_the_tag_in_the_same_token_is_dropped(calls, tokenizer):
    solution = begin()
    write(calls, tokenizer, solution, CALL.format("1"))
    solution.tokens += tokenizer.encode_text("\nmore")
    answer(calls, solution)
    assert solution.parts[1] == (SpanKind.CODE, CALL.format("1") + "\n")
    assert "more" not in text_of(solution)


def test_a_control_token_in_the_output_stays_text(calls, tokenizer):
    solution = begin()
    write(calls, tokenizer, solution, CALL.format("print('<|im_end|>')"))
    answer(calls, solution)
    calls.close(solution)
    assert "<|im_end|>\n```" in text_of(solution)
    assert tokenizer.stop_id not in solution.tokens


def test_solutions_side_by_side_have_sessions_of_their_own(calls, tokenizer):
    solutions = [begin(name=f"p{n}") for n in range(4)]
    for n, solution in enumerate(solutions):
        write(calls, tokenizer, solution, CALL.format(f"x = {n}"))
    answer(calls, *solutions)
    for solution in solutions:
        write(calls, tokenizer, solution, CALL.format("x"))
    answer(calls, *solutions)
    for n, solution in enumerate(solutions):
        calls.close(solution)
        assert f"```output\n{n}\n```" in text_of(solution)


def test_a_call_that_runs_holds_up_nobody_who_does_not_wait(calls, tokenizer):
    slow, quick = begin(name="slow"), begin(name="quick")
    write(calls, tokenizer, slow, CALL.format("import time; time.sleep(1.5)"))
    write(calls, tokenizer, quick, CALL.format("6 * 7"))
    calls.begin(slow)
    calls.begin(quick)
    assert calls.collect(wait=True) == [quick]
    assert calls.collect(wait=False) == []
    assert calls.collect(wait=True) == [slow]
    for solution in (slow, quick):
        calls.close(solution)


def test_solutions_without_a_tool_are_never_stopped_for_a_call(calls, tokenizer):
    solution = begin()
    solution.problem = structs.replace(solution.problem, mode="cot")
    assert not write(calls, tokenizer, solution, CALL.format("1"))


def test_output_and_notice_are_encoded_after_the_text_in_front_of_them(sandbox, tokenizer):
    decoder, asked = Tokenizer.from_file(str(tokenizer.path)), {}

    def encode(text, after):
        asked[text] = after
        return tokenizer.encode_text(text, after=after)

    calls = CodeCalls(
        STYLE, sandbox, encode, lambda ids: decoder.decode(ids, skip_special_tokens=False)
    )
    solution = begin()
    write(calls, tokenizer, solution, CALL.format("1"))
    answer(calls, solution)
    output, notice = STYLE.format_output("1\n"), STYLE.format_notice(1)
    assert asked[output] == CALL.format("1") + "\n"
    assert asked[notice].endswith(output)
