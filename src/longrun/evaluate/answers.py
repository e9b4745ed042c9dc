r"""Find the final answer in the text of a solution; pure functions on strings.

The answer is what stands in the last balanced ``\boxed{...}``: the one after ``</think>`` where
there is one, else the last of the thinking, because a solution cut at the token bound may have
stated it. Nothing else counts as an answer: no "the answer is", no last number. It never grades.

    >>> extract_boxed("<think>\\boxed{1}</think> so $\\boxed{\\frac{1}{2}}$.")
    '\\frac{1}{2}'
"""

import re

from longrun.config.stages import Mode

_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
"""A box that opens, an escaped sign (``\\{`` is no brace), a brace."""
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

    An empty box is no answer. One pass, linear in the text.
    """
    opened: list[tuple[bool, int]] = []
    best: tuple[int, int] | None = None
    for match in _BRACE.finditer(text):
        if match.group() == "}":
            is_box, start = opened.pop() if opened else (False, 0)
            if is_box and text[start : match.start()].strip():
                best = max(best or (0, 0), (start, match.start()))
        elif match.group().endswith("{") and match.group() != r"\{":
            opened.append((match.group() != "{", match.end()))
    return text[slice(*best)].strip() if best else None


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
