r"""Find the final answer in the text of a solution; pure functions on strings.

The answer is what stands in the last balanced ``\boxed{...}``: the one after ``</think>`` where
there is one, else the last of the thinking, because a solution cut at the token bound may have
stated it. Boxes that only a comma, "and" or "or" part are one answer. Nothing else counts as an
answer: no "the answer is", no last number. It never grades.

    >>> extract_boxed("<think>\\boxed{1}</think> so $\\boxed{\\frac{1}{2}}$.")
    '\\frac{1}{2}'
    >>> extract_boxed("$x = \\boxed{1}$ or $x = \\boxed{2}$")
    '1, 2'
"""

import re
from dataclasses import dataclass

from longrun.config.values import Mode

_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
"""A box that opens, an escaped sign (``\\{`` is no brace), a brace."""
_LINK = re.compile(
    r"(?P<mark>[,;]|\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)"
    r"|[\s$]|\\[()\[\],;: ]|\\q?quad|[A-Za-z](?:_\{?\w\}?)?\s*="
)
"""What may stand between the boxes of one answer; a ``mark`` must."""
_LONGEST_LINK = 60
_JUDGMENT = re.compile(r"^[^\w\n]*Judge?ment[^\w\n]*(\d{1,6})[^\w\n]*$", re.MULTILINE)
_NUMBERED = re.compile(r"^[^\w\n]*Solution (\d{1,6})\b", re.MULTILINE)


def extract_answer(text: str, mode: Mode, candidates: list[str], problem: str) -> str | None:
    """Return the final answer of a solution, or None when it states none.

    In mode ``genselect`` it is the chosen one of ``candidates``, numbered as in ``problem``.
    """
    if mode == "genselect":
        return extract_selected(text, candidates, problem)
    return extract_boxed(text)


def extract_boxed(text: str) -> str | None:
    """Return the content of the balanced box that opens last, or None.

    Boxes before it that are linked to it stand in front, parted by commas; equal ones once. An
    empty box is no answer. Linear in the text.
    """
    boxes = _find_boxes(text)
    if not boxes:
        return None
    answers, after = [boxes[-1].content], boxes[-1]
    for box in reversed(boxes[:-1]):
        if not _links(text[box.end : after.begin]) or box.end > after.begin:
            break
        answers.insert(0, box.content)
        after = box
    return ", ".join(dict.fromkeys(answers))


@dataclass(frozen=True, slots=True)
class _Box:
    begin: int
    """Index of the command."""
    end: int
    """Index behind the closing brace."""
    content: str


def _find_boxes(text: str) -> list[_Box]:
    """Return the balanced boxes that are not empty, in the order in which they open."""
    opened: list[tuple[int | None, int]] = []
    boxes = []
    for match in _BRACE.finditer(text):
        if match.group() == "}":
            begin, start = opened.pop() if opened else (None, 0)
            content = text[start : match.start()].strip() if begin is not None else ""
            if begin is not None and content:
                boxes.append(_Box(begin, match.end(), content))
        elif match.group().endswith("{") and match.group() != r"\{":
            opened.append((match.start() if match.group() != "{" else None, match.end()))
    return sorted(boxes, key=lambda box: box.begin)


def _links(between: str) -> bool:
    """Say whether ``between`` links two boxes: a comma, "and" or "or", and no sentence."""
    if len(between) > _LONGEST_LINK or "\n\n" in between:
        return False
    place, marked = 0, False
    while place < len(between):
        match = _LINK.match(between, place)
        if match is None:
            return False
        place, marked = match.end(), marked or match["mark"] is not None
    return marked


def extract_selected(text: str, candidates: list[str], problem: str) -> str | None:
    """Return the candidate that the last ``Judgment: i`` line names; None when out of range.

    ``i`` counts as the prompt counts: from the lowest ``Solution i`` that starts a line of
    ``problem``, from 0 where the prompt does not number its solutions.
    """
    judged = _JUDGMENT.findall(text)
    if not judged:
        return None
    index = int(judged[-1]) - first_number(problem)
    return candidates[index] if 0 <= index < len(candidates) else None


def first_number(problem: str) -> int:
    """Return the number that a selection prompt gives its first solution; 0 when unnumbered."""
    return min((int(number) for number in _NUMBERED.findall(problem)), default=0)
