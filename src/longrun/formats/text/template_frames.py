r"""Chat templates as frames: the literal text around the messages, found once, filled many times.

Rendering a template costs tens of microseconds and most templates do nothing to a message but
place it. Whether one does is found out by rendering it once with *watched* texts: strings that
notice when anybody compares, measures, cuts or changes them, and that would not survive trimming
or escaping unchanged. A template that only placed them is a frame::

    system U user V          rendered with the watched texts U and V
    "<s>[INST] " U "\n" V "[/INST]"      the frame; filling it is joining five strings

A template that looked is rendered anew for every record.
"""

from collections.abc import Callable, Sequence
from typing import Any

_EDGE = " \n\"'<&\\{{%\u00e9\u2028\u00c5 "
"""Stands at both ends of a watched text: nothing here is left alone by trimming or escaping."""
_LOOKS = (
    "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__", "__len__",
    "__iter__", "__getitem__", "__hash__", "__mod__", "__mul__", "__rmul__", "__format__",
)  # fmt: skip
"""What Python calls when an expression looks into a string rather than placing it."""
_PLACES = frozenset({"__class__", "__str__", "__html__"})

Frame = tuple[str | int, ...]
"""Literal texts, and numbers that stand for the message at that position."""


class Watched(str):
    """A text that remembers, in ``looks``, that somebody looked inside; so do joined ones."""

    looks: list[str]

    @classmethod
    def of(cls, text: str, looks: list[str]) -> "Watched":
        """Watch ``text``; ``looks`` is appended to."""
        watched = cls(text)
        str.__getattribute__(watched, "__dict__")["looks"] = looks
        return watched

    def __getattribute__(self, name: str) -> Any:
        """Note every method that is asked for."""
        if name not in _PLACES:
            _looks_of(self).append(name)
        return super().__getattribute__(name)

    def __str__(self) -> "Watched":
        """Return itself: a conversion to text places it."""
        return self

    def __add__(self, other: str) -> "Watched":
        """Join, and go on watching."""
        return Watched.of(str.__add__(self, other), _looks_of(self))

    def __radd__(self, other: str) -> "Watched":
        """Join, and go on watching."""
        return Watched.of(str.__add__(other, self), _looks_of(self))


def _looks_of(watched: Watched) -> list[str]:
    looks: list[str] = str.__getattribute__(watched, "__dict__")["looks"]
    return looks


def _noting(name: str) -> Callable[..., Any]:
    plain = getattr(str, name)

    def look(self: Watched, *arguments: Any) -> Any:
        _looks_of(self).append(name)
        return plain(self, *arguments)

    return look


for _name in _LOOKS:
    setattr(Watched, _name, _noting(_name))


def find_frame(render: Callable[[list[dict[str, str]]], str], roles: Sequence[str]) -> Frame | None:
    """Return the frame of ``render`` for messages of these ``roles``; None: it is not one."""
    looks: list[str] = []
    marks = [f"{_EDGE}{position}{_EDGE}" for position in range(len(roles))]
    text = render(
        [
            {"role": role, "content": Watched.of(mark, looks)}
            for role, mark in zip(roles, marks, strict=True)
        ]
    )
    if looks:
        return None
    frame: list[str | int] = [str.__str__(text)]
    for position, mark in enumerate(marks):
        frame = [
            piece
            for part in frame
            for piece in ([part] if isinstance(part, int) else _cut(part, mark, position))
        ]
    placed = [piece for piece in frame if isinstance(piece, int)]
    return tuple(frame) if sorted(placed) == list(range(len(roles))) else None


def fill_frame(frame: Frame, contents: Sequence[str]) -> str:
    """Return the text that the template would render with ``contents``, one per role.

    >>> fill_frame(("<u>", 0, "</u>"), ["hi"])
    '<u>hi</u>'
    """
    return "".join(contents[piece] if isinstance(piece, int) else piece for piece in frame)


def _cut(text: str, mark: str, position: int) -> list[str | int]:
    first, *others = text.split(mark)
    return [first, *(piece for other in others for piece in (position, other))]
