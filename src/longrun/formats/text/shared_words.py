r"""What a text shares with problems: the same text, all words of one, or n of them in a row.

Words are runs of letters and digits, case aside; LaTeX commands are words too. A worked trace with
n = 4::

    problem   Find the sum of $2+2$.      words   find the sum of 2 2
    text      We find the sum of 2 and 3. words   we find the sum of 2 and 3
    shared    "find the sum of", "the sum of 2": 2 of the problem's 3 sequences

A problem of fewer than n words must occur with all of them. What was reworded is not found: that
takes a reader. Source of the measure: Brown et al. 2020 (arXiv:2005.14165), appendix C, 13 words.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["same text", "all words", "n words"]
"""How much was found, strongest first: the text itself, case, spaces and ``$`` aside; all of its
words in a row; some sequence of n words."""
_WORD = re.compile(r"\w+")
_NOT_TEXT = re.compile(r"[\s$]+")


@dataclass(frozen=True, slots=True)
class Shared:
    """What a text shares with one problem."""

    problem: int
    """Position of the problem."""
    kind: Kind
    overlap: float
    """Share of the problem's word sequences that the text holds."""


class SharedWords:
    """The word sequences of problems, looked up in other texts."""

    def __init__(self, problems: Sequence[str], ngram: int) -> None:
        """Index ``problems``; those without a word are never found."""
        self._texts = [_bare(problem) for problem in problems]
        self._words = [words_of(problem) for problem in problems]
        self._num_sequences: list[int] = []
        self._holders: dict[tuple[str, ...], list[int]] = {}
        """Sequence -> problems that hold it."""
        sizes: dict[str, set[int]] = {}
        for place, words in enumerate(self._words):
            size = min(ngram, len(words))
            sequences = set(_sequences(words, size)) if size else set()
            self._num_sequences.append(len(sequences))
            for sequence in sequences:
                self._holders.setdefault(sequence, []).append(place)
                sizes.setdefault(sequence[0], set()).add(size)
        self._sizes = {word: tuple(found) for word, found in sizes.items()}
        """First word of a sequence -> lengths that such sequences have."""

    def are_in(self, text: str) -> bool:
        """Say whether ``text`` shares a sequence with any problem."""
        return next(self._shared(words_of(text)), None) is not None

    def find(self, text: str) -> list[Shared]:
        """Return what ``text`` shares with each problem of which it holds a sequence."""
        words = words_of(text)
        counts: Counter[int] = Counter()
        for sequence in set(self._shared(words)):
            counts.update(self._holders[sequence])
        bare, line = _bare(text), _line(words)
        found = []
        for place, count in sorted(counts.items()):
            whole = _line(self._words[place]) in line
            kind: Kind = "all words" if whole else "n words"
            if bare == self._texts[place]:
                kind = "same text"
            found.append(Shared(place, kind, count / self._num_sequences[place]))
        return found

    def _shared(self, words: list[str]) -> Iterator[tuple[str, ...]]:
        for begin, word in enumerate(words):
            for size in self._sizes.get(word, ()):
                sequence = tuple(words[begin : begin + size])
                if sequence in self._holders:
                    yield sequence


def words_of(text: str) -> list[str]:
    r"""Return the words of a text, in lower case.

    >>> words_of(r"Let $x_1 = \frac{1}{2}$, and X > 0")
    ['let', 'x_1', 'frac', '1', '2', 'and', 'x', '0']
    """
    return _WORD.findall(text.lower())


def _line(words: Sequence[str]) -> str:
    return f" {' '.join(words)} "


def _bare(text: str) -> str:
    return _NOT_TEXT.sub("", text.lower())


def _sequences(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[begin:] for begin in range(size)), strict=False)
