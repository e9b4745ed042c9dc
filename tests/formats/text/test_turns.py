import pytest

from longrun.errors import InputError
from longrun.formats.text.turns import NoThinkingError, TurnEnd, find_body, opened_thinking

END = TurnEnd("", "<end>\n")
OPENED = "<u>Q<a><think>\n"


@pytest.mark.parametrize(
    ("response", "shown", "body"),
    [
        ("<think>\nx\n</think>\nA", "\nA", "x\n</think>\nA"),
        ("\n\n<think>\nx\n</think>\n\nA\n", "\n\nA\n", "x\n</think>\n\nA\n"),
        ("<think>x</think>A ", "A", "x</think>A"),
        ("x\n</think>\nA", "\nA", "x\n</think>\nA"),
        ("<think>\nx</think>A ", "<think>\nx</think>A", "x</think>A"),
    ],
)
def test_thinking_that_the_prompt_opens_is_opened_once(response, shown, body):
    found = find_body(OPENED, f"<u>Q<a>{shown}<end>\n", response, END)
    assert found == body
    assert (OPENED + found).count("<think>") == 1


def test_a_template_that_shows_the_opening_before_the_response_is_not_followed_twice():
    response = "<think>\nx\n</think>\nA"
    assert find_body(OPENED, f"{OPENED}{response}<end>\n", response, END) == "x\n</think>\nA"
    assert find_body(OPENED, f"{OPENED}x\n</think>\nA<end>\n", response, END) == "x\n</think>\nA"


def test_a_response_without_thinking_cannot_follow_an_opened_one():
    with pytest.raises(NoThinkingError):
        find_body(OPENED, "<u>Q<a>A<end>\n", "A", END)


def test_what_the_template_makes_of_a_response_is_trained():
    whole = "<u>Q<a><think>\n\n</think>\n\nA\n<end>\n"
    assert find_body("<u>Q<a>", whole, "A", TurnEnd("\n", "<end>\n")) == (
        "<think>\n\n</think>\n\nA\n"
    )


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ("<u>Q<a>A", r"ends this response with '<u>Q<a>A', not with '<end>\\n'"),
        (
            "<u>q<a>A<end>\n",
            r"prompt has 'Q<a>' where the conversation with its response has 'q<a>",
        ),
    ],
)
def test_a_conversation_that_no_server_would_render_is_named(whole, message):
    with pytest.raises(InputError, match=message):
        find_body("<u>Q<a>", whole, "A", END)


def test_a_template_that_changes_what_was_said_is_named():
    with pytest.raises(InputError, match=r"changes the response: it shows 'B' where the record"):
        find_body(OPENED, "<u>Q<a>B<end>\n", "<think>\nx\n</think>\nA", END)


def test_thinking_that_is_closed_again_is_not_open():
    assert opened_thinking("<a><think>\n\n</think>\n\n") == ""
