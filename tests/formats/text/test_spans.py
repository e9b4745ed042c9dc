import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.errors import InputError
from longrun.formats.text.code_style import CodeStyle
from longrun.formats.text.spans import split_response

TOOL = CodeStyle.named("tool_call")
FENCED = CodeStyle.named("fenced")
CALL = "<tool_call>\nprint(6)\n</tool_call>\n"
OUTPUT = "```output\n6\n```\n"
NOTICE = "```system\nRemaining code executions: 1. Go on.\n```\n"
FRAGMENTS = [
    "<think>", "</think>", "</think>\n", "<tool_call>\n", "<tool_call>", "</tool_call>\n",
    "</tool_call>", "```output\n", "```system\n", "```python\n", "```\n", "```", "\n", "x = 6",
    "\\boxed{6}", " \u00e9", CALL, OUTPUT, NOTICE,
]  # fmt: skip


def kinds(text: str, code: CodeStyle | None = TOOL) -> list[tuple[str, str]]:
    raw, begin, pieces = text.encode(), 0, []
    for kind, end in split_response(raw, code):
        pieces.append((kind.name, raw[begin:end].decode()))
        begin = end
    assert begin == len(raw)
    return pieces


def test_cuts_a_solution_at_its_tags():
    text = f"<think>\nTry.\n{CALL}{OUTPUT}{NOTICE}So 6.\n</think>\n\nIt is \\boxed{{6}}."
    assert kinds(text) == [
        ("THINKING", "<think>\nTry.\n"),
        ("CODE", CALL),
        ("TOOL_OUTPUT", OUTPUT),
        ("NOTICE", NOTICE),
        ("THINKING", "So 6.\n</think>\n\n"),
        ("ANSWER", "It is \\boxed{6}."),
    ]


def test_a_response_without_thinking_is_an_answer():
    assert kinds("Judgment: 1") == [("ANSWER", "Judgment: 1")]
    assert kinds("") == []


def test_a_template_may_have_opened_the_thinking():
    assert kinds("Hm.\n</think>\nYes.") == [("THINKING", "Hm.\n</think>\n"), ("ANSWER", "Yes.")]


def test_thinking_ends_at_the_last_tag_that_the_model_wrote():
    text = f"a</think>\nb {CALL}```output\n</think>\n```\nc</think>\nd"
    assert [piece for kind, piece in kinds(text) if kind == "ANSWER"] == ["d"]
    late = f"a</think>\nb {CALL}```output\n</think>\n```\nc"
    assert [piece for kind, piece in kinds(late) if kind == "ANSWER"] == ["b ", "c"]


def test_code_after_the_thinking_is_code_and_the_rest_answer():
    text = f"<think>a</think>\nNow {CALL}{OUTPUT}done"
    assert [kind for kind, _ in kinds(text)] == [
        "THINKING", "ANSWER", "CODE", "TOOL_OUTPUT", "ANSWER",
    ]  # fmt: skip


def test_the_fence_before_a_notice_closes_an_output_that_holds_fences():
    output = "```output\nuse\n```\nx\n```\nlike this\n```\n"
    assert kinds(CALL + output + NOTICE)[1] == ("TOOL_OUTPUT", output)


def test_without_a_notice_the_first_fence_closes_an_output():
    assert kinds(f"{CALL}{OUTPUT}Then:\n```\nx\n```\n{CALL}{OUTPUT}{NOTICE}")[1:3] == [
        ("TOOL_OUTPUT", OUTPUT),
        ("ANSWER", "Then:\n```\nx\n```\n"),
    ]


def test_an_empty_output_is_an_output():
    assert kinds(f"{CALL}```output\n```\nx")[1:] == [
        ("TOOL_OUTPUT", "```output\n```\n"), ("ANSWER", "x"),
    ]  # fmt: skip


def test_output_and_notice_count_only_after_a_call():
    text = f"{NOTICE}{OUTPUT}so"
    assert kinds(text) == [("ANSWER", text)]


def test_a_mode_without_a_tool_knows_no_code():
    text = f"<think>\n{CALL}</think>\nx"
    assert kinds(text, None) == [("THINKING", text[:-1]), ("ANSWER", "x")]


def test_a_tag_of_thinking_inside_code_is_code():
    call = "<tool_call>\nprint('</think>')\n</tool_call>\n"
    assert kinds(call) == [("CODE", call)]


def test_fenced_code_ends_at_its_fence():
    call = "```python\nprint('```')\n```\n"
    assert kinds(f"Try\n{call}{OUTPUT}{NOTICE}ok", FENCED) == [
        ("ANSWER", "Try\n"), ("CODE", call), ("TOOL_OUTPUT", OUTPUT), ("NOTICE", NOTICE),
        ("ANSWER", "ok"),
    ]  # fmt: skip


def test_tags_of_their_own_close_outputs_that_hold_fences():
    call = "<llm-code>\nx\n</llm-code>\n"
    output = "<llm-code-output>\n```\n6\n```\n</llm-code-output>\n"
    style = CodeStyle.named("llm_code")
    assert kinds(f"a{call}{output}{NOTICE}b{call}{output}c", style) == [
        ("ANSWER", "a"), ("CODE", call), ("TOOL_OUTPUT", output), ("NOTICE", NOTICE),
        ("ANSWER", "b"), ("CODE", call), ("TOOL_OUTPUT", output), ("ANSWER", "c"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <tool_call>\nx", "'<tool_call>' at byte 2 is never closed"),
        ("x</tool_call>\n", "'</tool_call>' closes a code call that was never opened"),
        (f"<tool_call>\n{CALL}", "'<tool_call>' at byte 12 is inside a call"),
        (f"{CALL}```output\n6", "'```output' at byte 34 is never closed"),
        (f"{CALL}{OUTPUT}```system\nx", "'```system' at byte 50 is never closed"),
        ("<think>\nand on", "'<think>' is never closed"),
    ],
)
def test_unbalanced_tags_are_named(text, message):
    with pytest.raises(InputError, match=message):
        split_response(text.encode(), TOOL)


@settings(deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12), st.sampled_from([TOOL, FENCED, None]))
def test_the_pieces_joined_are_the_text(fragments, code):
    try:
        pieces = kinds("".join(fragments), code)
    except InputError:
        return
    assert all(piece for _, piece in pieces)
