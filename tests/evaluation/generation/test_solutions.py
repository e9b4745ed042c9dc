import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.evaluation.generation.solutions import name_parts
from longrun.formats.text.spans import SpanKind

CODE = (SpanKind.CODE, "<tool_call>\nx\n</tool_call>\n")
OUTPUT = (SpanKind.TOOL_OUTPUT, "```output\n</think>\n```\n")


@pytest.mark.parametrize(
    ("parts", "kinds"),
    [
        ([(None, "just 5")], ["ANSWER"]),
        ([(None, "<think>a</think>\n"), (None, "b")], ["THINKING", "ANSWER"]),
        ([(None, "a</think>\n\nb")], ["THINKING", "ANSWER"]),
        ([(None, "<think>cut")], ["THINKING"]),
        (
            [(None, "<think>\n"), CODE, OUTPUT, (None, "so</think>\nb")],
            ["THINKING", "CODE", "TOOL_OUTPUT", "THINKING", "ANSWER"],
        ),
        ([(None, "a"), CODE, OUTPUT, (None, "b")], ["ANSWER", "CODE", "TOOL_OUTPUT", "ANSWER"]),
        ([(None, "a</think>b</think>c")], ["THINKING", "ANSWER"]),
        ([(None, "")], []),
    ],
)
def test_running_text_is_thinking_until_its_end_tag(parts, kinds):
    assert [kind.name for kind, _ in name_parts(parts)] == kinds


def test_thinking_ends_at_the_last_tag_outside_tool_output():
    pieces = name_parts([(None, "a</think>b"), CODE, (None, "c</think>\nd"), OUTPUT, (None, "e")])
    assert [text for kind, text in pieces if kind == SpanKind.ANSWER] == ["d", "e"]


def test_a_tag_in_tool_output_does_not_end_the_thinking():
    pieces = name_parts([(None, "<think>a"), CODE, OUTPUT, (None, "b</think>\nc")])
    assert pieces[-2:] == [(SpanKind.THINKING, "b</think>\n"), (SpanKind.ANSWER, "c")]


@given(st.lists(st.sampled_from(["<think>", "</think>", "\n", "a", CODE, OUTPUT]), max_size=12))
def test_no_text_is_lost_or_changed(words):
    parts = [(None, word) if isinstance(word, str) else word for word in words]
    joined = "".join(text for _, text in parts)
    assert "".join(text for _, text in name_parts(parts)) == joined
