"""Every claim of the ledger beside what the chapters stored of it: nothing here is typed, all of it is read.

The ledger is `claims`, the numbers are `results/<scale>/*.json`, and which chapter measures what stands in the table at its top.
"""

import os
import re
from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from IPython.display import HTML

from sae_lib import claims, page, storage
from sae_lib.errors import BookError

COUNTED = "ABCDE"
"""Parts of the ledger that the score is taken over; claims of part F join the table once a chapter measures them."""

_ANY = "all"
_RESTORE = "Restore it from the repository"


class Standing(NamedTuple):
    """A claim, where it is measured, and what was found."""

    claim: claims.Claim
    """Of the ledger."""
    chapter: str
    """Name of the notebook that measures it; empty while none does."""
    title: str
    """Of the chapter."""
    entries: Mapping[str, dict]
    """What the chapter stored, by scale; a scale without a result of the claim is not there."""

    @property
    def verdict(self) -> str:
        """The word of the first scale that has one; empty where none has."""
        return next((entry["verdict"] for entry in self.entries.values()), "")


def scales() -> list[str]:
    """The scales that numbers are stored of, the reference run's first.

    Raises:
        BookError: the working directory is not inside the book.
    """
    folder = storage.project_root() / "results"
    found = sorted(path.name for path in folder.iterdir() if any(path.glob("*.json"))) if folder.is_dir() else []
    return sorted(found, key=lambda name: name != page.REFERENCE_SCALE)


def standings() -> list[Standing]:
    """The claims of the counted parts, and of the others those that a chapter measures, in the order of the ledger.

    Raises:
        BookError: a stored file is damaged or belongs elsewhere.
    """
    measured_in = _chapters_of_claims()
    chapters = {chapter for chapter, _ in measured_in.values()}
    stored = {(scale, chapter): page.stored(chapter, scale) or {} for scale in scales() for chapter in chapters}
    rows = []
    for claim in claims.CLAIMS.values():
        chapter, title = measured_in.get(claim.id, ("", ""))
        if not chapter and claim.part not in COUNTED:
            continue
        found = {
            scale: entry for scale in scales() for entry in stored.get((scale, chapter), {}).get("claims", []) if entry["claim"] == claim.id
        }
        rows.append(Standing(claim, chapter, title, found))
    return rows


def table() -> HTML:
    """The scorecard: claim and band, the paper, a column for each scale with results, and the chapter; with filters.

    The filters are radio buttons and style rules, so they work on a page without scripts; a browser that does not know
    the rules shows all rows.

    Returns:
        One row a claim; values, intervals and verdicts are those that the chapters stored.
    """
    shown = scales()
    headings = ["claim", "paper", *(_heading(scale) for scale in shown), "measured in"]
    rows, attributes = [], []
    for row in standings():
        claim, band = row.claim, f"{row.claim.criterion}{_band(row.claim)}"
        cells = [
            f"{claim.id}. {escape(claim.text)}<br><small>{escape(band)}</small>",
            f"{escape(claim.paper)}<br><small>{escape(claim.source)}</small>",
            *(_result(claim, row.entries.get(scale)) for scale in shown),
            _link(row) if row.chapter else "not measured yet",
        ]
        rows.append([(text, False) for text in cells])
        attributes.append({"part": claim.part, "verdict": _word(row.verdict)})
    body = page.html_table(headings, rows, "Scorecard: every claim, with its band", attributes)
    return HTML(f'<div class="sae-scorecard">{_filters()}{body}</div>')


def counts() -> HTML:
    """How many claims of the counted parts got each verdict, one row a scale with results."""
    rows = []
    for scale in scales():
        found = tally(scale)
        rows.append([(escape(_heading(scale)), False), *((page.shown(count), True) for count in found.values())])
    headings = ["", *tally("").keys()]
    return HTML(page.html_table(headings, rows, "Verdicts"))


def tally(scale: str) -> dict[str, int]:
    """Claims of the counted parts by their verdict at a scale, then those without a result, then all of them."""
    words = [row.entries.get(scale, {}).get("verdict", "") for row in standings() if row.claim.part in COUNTED]
    return {word: words.count(word) for word in claims.VERDICTS} | {"no result stored": words.count(""), "together": len(words)}


def summary() -> str:
    """The score of the reference run in a sentence of Markdown, for the first page of the book."""
    found = tally(page.REFERENCE_SCALE)
    words = {"holds": "hold", "partly": "hold partly", "fails": "fail", "not testable here": "cannot be tested at that size"}
    parts = [f"{found[word]} {said}" for word, said in words.items()]
    left = f", and {found['no result stored']} have no stored result" if found["no result stored"] else ""
    listed = ", ".join(parts) if left else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return (
        f"Of {found['together']} claims about toy models, dictionaries, features and their structure, {listed}{left}: "
        f"that is the score of the reference run, at scale `{page.REFERENCE_SCALE}`, "
        "and the [scorecard](../chapters/16_scorecard.ipynb) shows each of them.\n"
    )


def _heading(scale: str) -> str:
    return f"reference run ({scale})" if scale == page.REFERENCE_SCALE else scale


def _band(claim: claims.Claim) -> str:
    return f" ({'; '.join(band.words() for band in claim.holds)})" if claim.holds else ""


def _result(claim: claims.Claim, entry: Mapping | None) -> str:
    """What a run gave for a claim: the values that its criterion looks at, the verdict and the reason."""
    if entry is None:
        return "no result stored"
    values = {name: entry["values"][name] for name in claim.needs if name in entry["values"]}
    reason = f"<br><small>{escape(entry['reason'])}</small>" if entry.get("reason") else ""
    found = page.values_cell({**entry, "values": values})
    return (f"{found}<br>" if found else "") + page.verdict_word(entry["verdict"]) + reason


def _link(row: Standing) -> str:
    # The book's pages are HTML; in Jupyter the neighbour is a notebook. Every chapter judges under the same heading.
    place = "html#verdict" if os.environ.get(page.RENDERER) == "book" else "ipynb#Verdict"
    return f'<a href="{escape(row.chapter)}.{place}">{escape(row.chapter[:2])}. {escape(row.title)}</a>'


def _word(verdict: str) -> str:
    return verdict.replace(" ", "-") or "none"


def _filters() -> str:
    """Two groups of radio buttons, and for each button the rule that hides the other rows."""
    parts = {part: f"{part}. {name}" for part, name in claims.PARTS.items()}
    words = {_word(word): word for word in claims.VERDICTS} | {"none": "no result stored"}
    rules, groups = [], []
    for name, choices in (("part", parts), ("verdict", words)):
        buttons = []
        for value, label in ({_ANY: "all"} | choices).items():
            mark = f"sae-{name}-{value}"
            checked = " checked" if value == _ANY else ""
            buttons.append(f'<label><input type="radio" name="sae-{name}" id="{mark}"{checked}> {escape(label)}</label>')
            if value != _ANY:
                rules.append(f'.sae-scorecard:has(#{mark}:checked) tbody tr:not([data-{name}="{value}"]){{display:none}}')
        groups.append(f"<fieldset><legend>{name}</legend>{' '.join(buttons)}</fieldset>")
    return f"<style>{''.join(rules)}</style>{''.join(groups)}"


def _chapters_of_claims() -> dict[int, tuple[str, str]]:
    """Name and title of the chapter that measures each claim, as the tables at the top of the chapters promise.

    Raises:
        BookError: a chapter is no notebook.
    """
    found = {}
    for path in sorted((storage.project_root() / "chapters").glob("[0-9][0-9]_*.ipynb")):
        notebook = storage.read_json(path, _RESTORE)
        if not isinstance(notebook, dict):
            raise BookError(f"{path} is no notebook. {_RESTORE}")
        cells = notebook.get("cells", [])
        first, second = ("".join(cell.get("source", "")) for cell in (*cells[:2], {}, {})[:2])
        title = re.search(r"^# (.+)$", first, re.MULTILINE)
        for number in re.findall(r"\bC(\d+)\b", second):
            found[int(number)] = (path.stem, title.group(1).strip() if title else path.stem)
    return found
