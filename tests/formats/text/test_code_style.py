import pytest

from longrun.errors import ConfigError
from longrun.formats.text.code_style import CodeStyle


def test_an_output_ends_on_a_line_of_its_own():
    code = CodeStyle.named("tool_call")
    assert code.format_output("42") == "```output\n42\n```\n"
    assert code.format_output("42\n") == "```output\n42\n```\n"
    assert code.format_output("") == "```output\n```\n"


def test_a_notice_says_how_many_executions_remain():
    code = CodeStyle(begin="<a>", end="</a>", remaining_notice="{remaining} left, {so} be it")
    assert code.format_notice(12) == "```system\n12 left, {so} be it\n```\n"
    assert code.format_notice(0) == f"```system\n{code.exhausted_notice}\n```\n"


def test_an_unknown_style_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'xml' is unknown; known: tool_call, fenced"):
        CodeStyle.named("xml")
