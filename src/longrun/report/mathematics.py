r"""Formulas of problems and answers as MathML, which browsers draw without script or network.

``$x^2$``, ``$$x^2$$``, ``\(x^2\)`` and ``\[x^2\]`` are formulas; a dollar sign before a number of
dollars is none (pandoc's rule: no space inside the signs, no digit behind the last). What was
written may be wrong or hostile: of the converter's output only known elements with plain attributes
are passed on, rebuilt and escaped, and a formula that does not come out whole stays as it was
written. Only texts that people read are shown this way, never the solution itself.
"""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from markupsafe import Markup, escape

MOST_CHARS = 4000
"""Longer texts (selections among whole solutions) stay as they were written."""
_MOST_FORMULA_CHARS = 600
_FORMULA = re.compile(
    r"(?<!\\)\$\$(?P<display>[^$]+?)\$\$"
    r"|\\\[(?P<bracket>.+?)\\\]"
    r"|\\\((?P<paren>.+?)\\\)"
    r"|(?<![\\$])\$(?P<inline>(?=[^\s$])(?:\\.|[^$\\])*?(?<!\s))\$(?!\d)",
    re.DOTALL,
)
_NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
_CHILDREN = {
    **dict.fromkeys(("mfrac", "mroot", "msub", "msup", "munder", "mover"), 2),
    **dict.fromkeys(("msubsup", "munderover"), 3),
}
"""Elements that need an exact number of children."""
_ELEMENTS = {
    *_CHILDREN,
    *("math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "msqrt", "mstyle", "mpadded"),
    *("mphantom", "mtable", "mtr", "mtd", "menclose"),
}
_ATTRIBUTES = {
    *("display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "form"),
    *("separator", "minsize", "maxsize", "movablelimits", "accent", "accentunder", "width"),
    *("height", "depth", "lspace", "rspace", "linethickness", "linebreak", "notation"),
    *("columnalign", "rowspacing", "columnspacing", "columnlines", "rowlines"),
}
_PLAIN = re.compile(r"[\w.%+ -]*")
_LATEX = re.compile(r"[\\^_]")


def show_mathematics(text: str) -> Markup:
    """Return a text with its formulas drawn, everything else escaped."""
    if len(text) > MOST_CHARS:
        return escape(text)
    shown, end = Markup(), 0
    for match in _FORMULA.finditer(text):
        formula = next(group for group in match.groups() if group is not None)
        block = match.lastgroup in ("display", "bracket")
        drawn = draw_formula(formula, block=block)
        shown += escape(text[end : match.start()]) + (drawn or match.group())
        end = match.end()
    return shown + escape(text[end:])


def show_answer(answer: str) -> Markup:
    """Return an answer as a formula where it is written as one, with its source behind it."""
    source = Markup("<code>{}</code>").format(answer)
    drawn = draw_formula(answer.strip("$ ")) if _LATEX.search(answer) else None
    return source if drawn is None else Markup("{} <small>{}</small>").format(drawn, source)


def draw_formula(latex: str, *, block: bool = False) -> Markup | None:
    """Return MathML of a formula; None where it cannot be drawn whole."""
    from latex2mathml.converter import convert

    if not latex.strip() or len(latex) > _MOST_FORMULA_CHARS:
        return None
    try:
        tree = ElementTree.fromstring(convert(latex, display="block" if block else "inline"))
        return Markup("".join(_rebuild(tree)))  # every part is from our list or escaped
    except Exception:  # noqa: BLE001  (whatever its parser stumbles over: the source is shown)
        return None


def _rebuild(element: ElementTree.Element) -> Iterator[str]:
    """Yield the markup of an element; ``ValueError`` for what must not or cannot be shown."""
    name = element.tag.removeprefix(_NAMESPACE)
    if name not in _ELEMENTS or len(element) != _CHILDREN.get(name, len(element)):
        raise ValueError(name)
    if (element.text or "").startswith("\\"):
        raise ValueError(f"unknown command {element.text}")
    yield f"<{name}"
    for key, value in element.attrib.items():
        if key not in _ATTRIBUTES or not _PLAIN.fullmatch(value):
            raise ValueError(key)
        yield f' {key}="{escape(value)}"'
    yield f">{escape((element.text or '').strip())}" if not len(element) else ">"
    for child in element:
        yield from _rebuild(child)
    yield f"</{name}>"
