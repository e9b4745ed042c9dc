"""Looking at documents and packs: the text and weight of every span.

Pure reading; how it is shown is decided by ``longrun.cli``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tokenizers import Tokenizer

from longrun.data.documents.finish import TOKENIZER
from longrun.errors import InputError
from longrun.formats.documents import DocumentSet, Origin
from longrun.formats.plans import PACKS_NAME, PackSet
from longrun.formats.text.spans import SpanKind

COLOURS = {
    SpanKind.PROMPT: "#8a8f98",
    SpanKind.THINKING: "#3b82c4",
    SpanKind.CODE: "#8e5bb5",
    SpanKind.TOOL_OUTPUT: "#b58a2f",
    SpanKind.NOTICE: "#b0653f",
    SpanKind.ANSWER: "#2e8b57",
    SpanKind.STOP: "#c2485d",
}


@dataclass(frozen=True, slots=True)
class ShownSpan:
    """One span as a person sees it."""

    kind: SpanKind
    text: str
    num_tokens: int
    weight: float
    """Of each of its tokens in the loss."""


def documents_folder(folder: Path) -> Path:
    """Return the prepared folder that ``folder`` is, or that its packs speak of.

    Raises:
        InputError: it is neither.
    """
    return PackSet.open(folder).source if (folder / PACKS_NAME).is_file() else folder


def show_document(
    folder: Path, split: str, index: int, weights: Mapping[SpanKind, float]
) -> tuple[Origin, list[ShownSpan]]:
    """Return where document ``index`` of a prepared folder came from, and its spans.

    Raises:
        InputError: the folder is not a prepared one, or has no such document.
    """
    documents = DocumentSet.open(folder / split)
    if not 0 <= index < len(documents):
        raise InputError(f"document {index}: {folder / split} has {len(documents)}, from 0 on")
    decode = _load_tokenizer(folder / TOKENIZER).decode
    document = documents[index]
    spans, begin = [], 0
    lengths, kinds = document.span_lengths.tolist(), document.span_kinds.tolist()
    for length, kind in zip(lengths, kinds, strict=True):
        text = decode(document.tokens[begin : begin + length].tolist(), skip_special_tokens=False)
        spans.append(ShownSpan(SpanKind(kind), text, length, weights[SpanKind(kind)]))
        begin += length
    return documents.origin(index), spans


def render_html(origin: Origin, spans: list[ShownSpan]) -> str:
    """Return one self-contained page with the spans coloured by kind."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>Longrun document</title>"
        "<style>body{font:14px/1.5 monospace;max-width:60em;margin:2em auto}"
        "span{white-space:pre-wrap}.none{opacity:.6;font-style:italic}</style>"
        f"<p>{escape(origin.path)}:{origin.line} ({escape(origin.mode)})</p><p>"
    ]
    for kind, colour in COLOURS.items():
        mine = [span for span in spans if span.kind == kind]
        if mine:
            tokens = sum(span.num_tokens for span in mine)
            parts.append(f"<b style=color:{colour}>{_label(kind, tokens, mine[0].weight)}</b><br>")
    parts.append("</p><div>")
    for span in spans:
        title = _label(span.kind, span.num_tokens, span.weight)
        unused = "" if span.weight else " class=none"
        parts.append(
            f'<span{unused} style="color:{COLOURS[span.kind]}" title="{title}">'
            f"{escape(span.text)}</span>"
        )
    return "".join([*parts, "</div>\n"])


def _label(kind: SpanKind, tokens: int, weight: float) -> str:
    return f"{kind.name.lower()}: {tokens} tokens, weight {weight:g}"


def _load_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError.at(path, None, "there is no such file; name a prepared folder")
    return Tokenizer.from_file(str(path))
