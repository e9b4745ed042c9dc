r"""One spelling for answers that differ only in notation; pure functions on strings.

    >>> normalise(r"\left( \dfrac12,\ 3 \right)")
    '(\\frac{1}{2},3)'

It changes how an answer is written, never what it says, and computes nothing.
"""

import re
import unicodedata

LONGEST_ANSWER = 1000
"""Characters; a longer answer is compared as text only."""
_LETTERS = {
    "\u221a": "\\sqrt",
    "\u03c0": "\\pi",
    "\u221e": "\\infty",
    "\u222a": "\\cup",
    "\u00b7": "\\cdot",
    "\u00d7": "\\times",
    "\u2264": "\\le",
    "\u2265": "\\ge",
    "\u2212": "-",
    "\u2013": "-",
    "\u00b0": "^\\circ",
    "\u00bc": "\\frac{1}{4}",
    "\u00bd": "\\frac{1}{2}",
    "\u00be": "\\frac{3}{4}",
    **{letter: f"^{digit}" for digit, letter in enumerate("\u2070\u00b9\u00b2\u00b3\u2074")},
}
"""Signs with a LaTeX spelling. Powers and fractions come first: the compatibility form of a raised
2 is a plain 2."""
_THOUSANDS = re.compile(r"(?<=\d)(?:\\,|\{,\}|,\s*\\!)(?=\d{3}(?!\d))")
_SPACING = re.compile(
    r"(?<!\\)\\[,;: ]|\\quad|\\qquad|\\displaystyle|\\left(?![a-z])|\\right(?![a-z])|~"
)
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:(\d)\s*(\d)|(\d)\s*\{([^{}]*)\}|\{([^{}]*)\}\s*(\d))")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\w)")
_SPACE = re.compile(r" (?![0-9A-Za-z])|(?<![0-9A-Za-z]) ")
"""A space that separates nothing; between letters or digits it stays: 1 1/2 is not 11/2."""
_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\(([^()]*)\)")
_PLAIN_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
_LOST_ROW = re.compile(r"(?<!\\)\\(?=[\d-])")
"""A backslash before a digit is no command: it is what is left of the end of a matrix row."""
_LAST_ROW = re.compile(r"\\\\\s*(?=\\end\b)")
_EXPONENT = re.compile(r"(?<=\d)[eE]([+-]?\d+)(?![A-Za-z\d])")
_EDGE = re.compile(r"^[\s$,;:]+|(?<!\\)[\s$.,;:]+$")


def clean(text: str) -> str:
    """Return ``text`` in plain LaTeX signs: no wrapping dollars, spacing commands or text boxes.

    Spaces stay, so that words can be told from variables.
    """
    for letter, command in _LETTERS.items():
        text = text.replace(letter, command)
    text = unicodedata.normalize("NFKC", "".join(filter(_visible, text)))
    text = re.sub(r"\\(?:\(|\)|\[|\])", " ", text)
    text = _LAST_ROW.sub("", _LOST_ROW.sub(r"\\\\", text))
    text = _THOUSANDS.sub(",", text).replace("\\!", "")
    text = _SPACING.sub(" ", text).replace("\\%", "%").replace("\\$", "$")
    text = text.replace("dfrac", "frac").replace("tfrac", "frac")
    text = _TEXT.sub(r" \1 ", text)
    text = _SHORT_FRACTION.sub(_whole_fraction, text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    return _EDGE.sub("", re.sub(r"\s+", " ", text)).strip()


def normalise(text: str) -> str:
    """Return the spelling under which two answers are compared as text: cleaned, no idle spaces."""
    bare = clean(text).replace("^{\\circ}", "").replace("^\\circ", "")
    bare = _SPACE.sub("", bare).replace("{bmatrix}", "{pmatrix}")
    return bare.replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge")


def as_latex(text: str) -> str:
    r"""Return ``text`` as LaTeX without dollars: what programs print is given its LaTeX name.

    >>> as_latex("$2*sqrt(3)*pi$")
    '2\\cdot \\sqrt{3}\\cdot \\pi'
    """
    text = _LOST_ROW.sub(r"\\\\", text.replace("$", ""))
    text = _EXPONENT.sub(r"*10^{\1}", _PLAIN_ROOT.sub(r"\\sqrt{\1}", text))
    return _PLAIN_PI.sub(r"\\pi", text).replace("**", "^").replace("*", "\\cdot ")


def strip_base(text: str) -> tuple[str, bool]:
    """Return ``text`` without the base written as its last index, and whether there was one.

    >>> strip_base("1011_{2}")
    ('1011', True)
    """
    match = re.fullmatch(r"([0-9A-Z]+)_(?:\{\d+\}|\d+)", text)
    return (match.group(1), True) if match else (text, False)


def _visible(letter: str) -> bool:
    """Drop control and direction signs, which show nothing but break a comparison."""
    return letter.isspace() or unicodedata.category(letter) not in {"Cc", "Cf", "Cs"}


def _whole_fraction(match: re.Match[str]) -> str:
    above, below = (part for part in match.groups() if part is not None)
    return f"\\frac{{{above}}}{{{below}}}"
