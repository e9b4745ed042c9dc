r"""Where the assistant's turn begins and ends in a rendered conversation.

A chat template is asked twice: for the prompt, as a server renders it, and for the whole
conversation, as training does. What the whole has more is what the model is to write::

    prompt   <user> 1+1? <assistant>
    whole    <user> 1+1? <assistant> 2 <end> \n      body "2", stop <end>, the rest is left out

Some prompts open the thinking, and their templates show no thinking in what was said before; then
the thinking is that of the record, and its opening tag is not written twice::

    prompt   <user> 1+1? <assistant> <think>\n
    whole    <user> 1+1? <assistant> 2 <end>         response "<think>\nEasy.\n</think>\n2"
                                                     body "Easy.\n</think>\n2"
"""

import re
from typing import NamedTuple

from longrun.errors import InputError
from longrun.formats.text.spans import THINK_BEGIN, THINK_END

_OPENED = re.compile(re.escape(THINK_BEGIN) + r"\s*\Z")
_SHOWN = 40
"""Characters of a text in a message."""


class NoThinkingError(InputError):
    """The prompt opens the thinking and the response has none."""


class TurnEnd(NamedTuple):
    """What a chat template writes after a response."""

    body: str
    """Up to the stop token: it belongs to what the model is to write."""
    rest: str
    """The stop token and what follows it."""


def opened_thinking(prompt: str) -> str:
    r"""Return the tag with which a prompt opens the thinking, with the white space after it.

    >>> opened_thinking("Q<|assistant|><think>\n"), opened_thinking("Q<|assistant|>")
    ('<think>\n', '')
    """
    found = _OPENED.search(prompt)
    return found[0] if found else ""


def find_body(prompt: str, whole: str, response: str, end: TurnEnd) -> str:
    """Return what the model is to write after ``prompt``, the stop token not included.

    Args:
        prompt: the conversation without the response, with the header of the assistant's turn.
        whole: the conversation with the response, as the chat template renders it.
        response: the text of the record.
        end: what the template writes after a response.

    Raises:
        NoThinkingError: the prompt opens the thinking and the response has none.
        InputError: the template renders the prompt or the response in a way that no server would.
    """
    tail = end.body + end.rest
    opened = opened_thinking(prompt)
    if not whole.endswith(tail):
        shown = whole[-_SHOWN:]
        raise InputError(f"the chat template ends this response with {shown!r}, not with {tail!r}")
    turn = whole.removesuffix(tail)
    if turn.startswith(prompt):
        body = turn[len(prompt) :]
        return (_cut_opening(body, opened) if opened else body) + end.body
    header = prompt.removesuffix(opened)
    if not opened or not turn.startswith(header):
        raise InputError(_difference(prompt, whole))
    body = _cut_opening(response, opened)
    return _close_as_shown(body, turn[len(header) :], response) + end.body


def _cut_opening(response: str, opened: str) -> str:
    """Return ``response`` without the tag that the prompt has already."""
    bare = response.lstrip()
    if bare.startswith(opened):
        response = bare[len(opened) :]
    elif bare.startswith(THINK_BEGIN):
        response = bare[len(THINK_BEGIN) :]
    if THINK_END not in response:
        raise NoThinkingError("the prompt opens the thinking and the response has none")
    return response


def _close_as_shown(body: str, shown: str, response: str) -> str:
    """Return ``body`` with the end that the template gives it when it shows the turn."""
    answer = body.rpartition(THINK_END)[2]
    if shown.strip() == answer.strip():
        begin = answer[: len(answer) - len(answer.lstrip())]
        return body.removesuffix(answer) + begin + shown.lstrip()
    if shown.strip() == response.strip():
        return body.rstrip() + shown[len(shown.rstrip()) :]
    raise InputError(
        "the chat template changes the response: it shows"
        f" {shown[:_SHOWN]!r} where the record has {answer[:_SHOWN]!r}"
    )


def _difference(prompt: str, whole: str) -> str:
    same = 0
    while same < min(len(prompt), len(whole)) and prompt[same] == whole[same]:
        same += 1
    one, other = prompt[same : same + _SHOWN], whole[same : same + _SHOWN]
    return (
        f"the chat template's prompt has {one!r} where the conversation with its response has"
        f" {other!r}: a model would be trained on what it is never asked; name another"
        " chat_template"
    )
