"""Text as HTML, every character of it escaped."""

import unicodedata
from collections.abc import Sequence
from html import escape
from itertools import pairwise

import pandas as pd
from IPython.display import HTML

from sae_lib.viz.base import (
    need,
)

_STRIP = "text-align:start; white-space:pre-wrap; overflow-wrap:anywhere; font-family:monospace"


def token_strips(examples: pd.DataFrame, caption: str = "Top examples") -> HTML:
    """Pieces of text as a table, each token shaded by the feature's activation on it.

    Args:
        examples: rank, activation, tokens; each entry of `tokens` is a list of (token text, activation).
        caption: caption of the table.

    Returns:
        HTML in which all text is escaped, shading is a translucent colour that suits light and dark pages,
        and the strongest token of a row is underlined and bold as well.
    """
    need(examples, ["rank", "activation", "tokens"], "a table of examples", empty=True)
    if not len(examples):
        return HTML(f'<p class="sae-strips">{escape(caption)}: the feature fires on no token.</p>')
    top = max((float(value) for tokens in examples["tokens"] for _, value in tokens), default=0.0)
    rows = []
    for rank, activation, tokens in zip(examples["rank"], examples["activation"], examples["tokens"], strict=True):
        strongest = max((float(value) for _, value in tokens), default=0.0)
        strip = "".join(_token(text, float(value), top, strongest) for text, value in tokens)
        rows.append(
            f'<tr><th scope="row" style="text-align:right">{escape(str(rank))}</th>'
            f'<td style="text-align:right">{float(activation):.2f}</td><td dir="auto" style="{_STRIP}">{strip}</td></tr>'
        )
    head = '<tr><th scope="col">rank</th><th scope="col">activation</th><th scope="col">text</th></tr>'
    return HTML(
        f'<div class="sae-strips" style="overflow-x:auto"><table style="width:100%"><caption>{escape(caption)}</caption>'
        f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def labelled_text(text: str, spans: Sequence[tuple[int, int, str]], caption: str) -> HTML:
    """A text whose labelled stretches are shaded, each family of labels in its own hue.

    Args:
        text: what to show.
        spans: first character, one past the last, and label; stretches may nest.
        caption: stands above the text.

    Returns:
        HTML in which all text is escaped; a stretch says its labels when pointed at, and the innermost of them follow as a list.
    """
    edges = sorted({0, len(text), *(edge for start, end, _ in spans for edge in (start, end))})
    families = {label.split("/")[0]: None for *_, label in spans}
    hues = {family: 360 * i // max(1, len(families)) for i, family in enumerate(families)}
    shown, innermost = [], {}
    for start, end in pairwise(edges):
        here = [label for low, high, label in sorted(spans, key=lambda span: (span[0], -span[1])) if low <= start and end <= high]
        piece = escape("\n".join(visible(line) for line in text[start:end].split("\n")))
        if here:
            innermost[here[-1]] = None
            style = f"background:hsla({hues[here[-1].split('/')[0]]},70%,50%,{0.1 + 0.06 * len(here):.2f})"
            piece = f'<span style="{style}" title="{escape(" · ".join(here))}">{piece}</span>'
        shown.append(piece)
    return HTML(
        f'<figure class="sae-labelled"><figcaption>{escape(caption)}</figcaption>'
        f'<pre dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere">{"".join(shown)}</pre>'
        f"<p><small>{escape(', '.join(innermost))}</small></p></figure>"
    )


def _token(text: str, value: float, top: float, strongest: float) -> str:
    shown = escape(visible(text))
    # A byte written as \xd8 beside Arabic would be turned round with it; <bdi> keeps it as it is.
    tag = "bdi" if "\\x" in text else "span"
    if not value > 0 or not top > 0:
        return f"<{tag}>{shown}</{tag}>"
    style = f"background:rgba(0,114,178,{0.08 + 0.47 * value / top:.2f})"
    if value == strongest:
        style += ";font-weight:bold;text-decoration:underline"
    return f'<{tag} style="{style}" title="activation {value:.2f}">{shown}</{tag}>'


def visible(text: str) -> str:
    marks = {"\n": "↵", "\r": "␍", "\t": "⇥"}
    joiners = "\u200c\u200d"  # they shape Persian and Indic letters and reorder nothing

    def shown(character: str) -> str:
        if character in marks:
            return marks[character]
        # Control and direction characters could reorder or hide the text around them.
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn") and character not in joiners:
            return f"\\u{{{ord(character):x}}}"
        return character

    return "".join(map(shown, str(text)))
