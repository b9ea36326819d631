"""What a chapter calls: set up, show source, show a table, judge the claims and keep the numbers.

Nothing here prints a clock, a path or a version, so that a cell that runs again gives the same bytes.
"""

import inspect
import math
import numbers as abstract
import os
import platform
import random
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.io as pio
from IPython.display import HTML, Code, display

from sae_lib import claims, storage
from sae_lib.errors import BookError
from sae_lib.viz import BookRenderer

REFERENCE_SCALE = "released"
"""The scale whose stored results the pages call the reference run."""

RENDERER = "SAE_BOOK_RENDERER"
"""Environment variable that the book's build and its tests set to "book"."""

RESULTS = "SAE_BOOK_RESULTS"
"""Environment variable that `sae-book results` sets: measure released weights at length, and keep the numbers."""

_MARKS = {"holds": "✓", "partly": "◐", "fails": "✗", "not testable here": "–"}
_PACKAGES = ("torch", "numpy", "pandas", "transformer-lens", "tokenizers", "plotly")
_MAX_ROWS = 5_000

_started = time.monotonic()


@dataclass(frozen=True)
class Measured:
    """What a chapter measured for one claim."""

    values: Mapping[str, Any]
    """Numbers (a tensor of one number will do) by the names that the claim's bands use; further names are kept too."""
    interval: tuple[Any, Any] | None = None
    """Lower and upper end of the 95% interval of one value, in its unit."""
    n: Any = None
    """Number of tokens, features or models behind that value."""
    unit: str = ""
    """What n counts, such as "tokens"."""
    note: str = field(default="", compare=False)
    """A few words shown under the values."""
    of: str = ""
    """Name of the value that the interval is of; empty means the first that the claim's criterion names."""


def setup(scale_name: str, seed: int = 0, corpus: str = "") -> Any:
    """Make a chapter ready: seeds, threads, figures, and the lab of its scale.

    Args:
        scale_name: a preset of `scales`.
        seed: of every random draw, 0 or above.
        corpus: the text; empty means the scale's own.

    Returns:
        The `Lab` that loads or trains what the chapter asks for.

    Raises:
        BookError: a parameter is not what it should be.
    """
    global _started
    _started = time.monotonic()
    if not isinstance(scale_name, str) or not isinstance(corpus, str):
        raise BookError(f"SCALE={scale_name!r} and CORPUS={corpus!r} must both be text")
    _use_renderer()

    import torch

    from sae_lib.lab import Lab

    lab = Lab(scale_name, seed, corpus, at_length=bool(os.environ.get(RESULTS)))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (umap-learn and scikit-learn still draw from it)
    torch.manual_seed(seed)
    torch.set_num_threads(_threads())
    return lab


def show_source(thing: Any) -> Code:
    """The lines of the library that define a class or function, as they are."""
    try:
        source = inspect.getsource(thing)
    except (TypeError, OSError):
        raise BookError(f"show_source cannot find the source of {thing!r}; give it a class or function of sae_lib") from None
    return Code(textwrap.dedent(source), language="python")


def glue(name: str, text: Any) -> None:
    """Keep a short text under a name, so that prose can quote it: {glue:text}`name`.

    Args:
        name: letters, digits, `-` and `_`.
        text: what the page will show; a number must be formatted first.
    """
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise BookError(f"{name!r} is no name for glue; use letters, digits, - and _")
    if not isinstance(text, str):
        raise BookError(f"glue {name!r} was given {type(text).__name__}; format the number first, so that the page shows what you mean")
    prefix = "application/papermill.record/"
    display({f"{prefix}text/plain": text}, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": prefix}})


# Tables


def table(rows: pd.DataFrame, caption: str = "", digits: int = 3, units: Mapping[str, str] | None = None) -> HTML:
    """A small table: every text escaped, numbers rounded and to the right.

    In the book, a cell that is the address of a feature or a neuron, such as A/1/7, leads to its page in the browser.

    Args:
        rows: at most a few dozen rows; the first column names the row. The index is not shown.
        caption: what the table is; read aloud before it.
        digits: significant digits of numbers that are not whole.
        units: of columns whose whole numbers are features or neurons, what they are of: `{"feature": "A/1"}`.

    Raises:
        BookError: the headings have several rows, or a column of `units` or a dictionary is not there.
    """
    if rows.columns.nlevels > 1:
        raise BookError("a table of the book has one row of headings; flatten the columns first")
    for column, name in (units or {}).items():
        if column not in rows.columns or name not in _addressable():
            raise BookError(
                f"the column {column!r} cannot lead to {name!r}; name a column of the table and one of {', '.join(_addressable())}"
            )
    names = [(units or {}).get(column, "") for column in rows.columns]
    records = rows.itertuples(index=False, name=None)
    cells = [[(_linked(value, name, digits), _is_number(value)) for value, name in zip(row, names, strict=True)] for row in records]
    return HTML(html_table([str(column) for column in rows.columns], cells, caption))


def verdicts(
    chapter: str,
    lab: Any,
    measured: Mapping[int, Any],
    numbers: Mapping[str, Any] | None = None,
    figures: Mapping[str, pd.DataFrame] | None = None,
) -> HTML:
    """Judge a chapter's claims, keep the results, and show claim, paper, reference run, this run and verdict.

    Args:
        chapter: name of the notebook without its ending.
        lab: the `Lab` that `setup` gave.
        measured: what was measured, by number of the claim.
        numbers: further numbers to keep.
        figures: small tables of numbers behind the figures, for the pages that overlay this run.

    Returns:
        The table. What `save_numbers` keeps, it keeps here as well.

    Raises:
        BookError: an unknown claim, or a value missing or not finite.
    """
    entries = [_entry(number, measured[number], _undecided(lab)) for number in sorted(measured)]
    before = None if _is_reference(lab) else reference(chapter)
    old = {entry["claim"]: entry for entry in before["claims"]} if before else {}
    save_numbers(chapter, lab, numbers, figures, entries)
    cells = []
    for entry, note in zip(entries, (measured[number].note for number in sorted(measured)), strict=True):
        claim = claims.claim(entry["claim"])
        earlier = old.get(claim.id)
        cells.append(
            [
                (f"{claim.id}. {escape(claim.text)}<br><small>{escape(claim.criterion)}</small>", False),
                (f"{escape(claim.paper)}<br><small>{escape(claim.source)}</small>", False),
                ("this run is the reference" if _is_reference(lab) else _reference_cell(earlier), False),
                (values_cell(entry) + (f"<br><small>{escape(note)}</small>" if note else ""), False),
                (f"{verdict_word(entry['verdict'])}<br><small>{escape(entry['reason'])}</small>", False),
            ]
        )
    headings = ["claim", "paper", "reference run", f"this run ({lab.scale.name})", "verdict"]
    return HTML(html_table(headings, cells, "What the paper claims and what was measured"))


# Results


def reference(chapter: str) -> dict | None:
    """The stored results of the reference run, or None while there are none.

    Raises:
        BookError: the file is damaged or belongs to another chapter.
    """
    return stored(chapter, REFERENCE_SCALE)


def stored(chapter: str, scale_name: str) -> dict | None:
    """The stored results of a chapter at a scale, or None while there are none."""
    path = _results_path(chapter, scale_name)
    if not path.is_file():
        return None
    found = storage.read_json(path)
    claims_of = found.get("claims") if isinstance(found, dict) else None
    whole = isinstance(claims_of, list) and all(
        isinstance(entry, dict) and {"claim", "verdict", "values"} <= set(entry) and isinstance(entry["values"], dict)
        for entry in claims_of
    )
    if not whole or found.get("chapter") != chapter or found.get("scale") != scale_name:
        raise BookError(f"{path} is no result of chapter {chapter} at scale {scale_name}; delete it or restore it from the repository")
    return found


def reference_table(chapter: str, name: str) -> pd.DataFrame | None:
    """A table behind a figure of the reference run, for its overlay; None while there is none."""
    found = reference(chapter)
    rows = (found or {}).get("figures", {}).get(name)
    return pd.DataFrame(rows) if rows else None


def show_reference(chapter: str, name: str, caption: str, columns: Sequence[str] = ()) -> HTML | None:
    """A table of the reference run, below the page's own; nothing while there is none.

    Args:
        chapter: name of the notebook without its ending.
        name: of the table in `results/`.
        caption: what the table is; that it is the reference run's is added.
        columns: those to show; none means all.
    """
    rows = reference_table(chapter, name)
    return None if rows is None else table(rows[list(columns or rows)], f"{caption}, in the reference run")


def save_numbers(
    chapter: str,
    lab: Any,
    numbers: Mapping[str, Any] | None = None,
    figures: Mapping[str, pd.DataFrame] | None = None,
    entries: list[dict] | None = None,
) -> None:
    """Keep numbers of a chapter in `results/<scale>/<chapter>.json`.

    Nothing is written at smoke, and of released weights only what is measured at length.
    What the same run (scale, seed, corpus, config) kept before stays; another run's results are replaced whole.

    Args:
        chapter: name of the notebook without its ending.
        lab: the `Lab` that `setup` gave.
        numbers: numbers by name.
        figures: tables by name; numbers and short names only, never text of the corpus.
        entries: judged claims; `verdicts` passes them.

    Raises:
        BookError: something other than a number or a short name would be kept.
    """
    path = _results_path(chapter, lab.scale.name)
    kept = {
        "claims": entries,
        "numbers": {name: _plain(value, f"the number {name!r}") for name, value in (numbers or {}).items()},
        "figures": {name: _rows(name, frame) for name, frame in (figures or {}).items()},
    }
    if not _keeps(lab):
        return
    run = {
        "chapter": chapter,
        "scale": lab.scale.name,
        "seed": lab.seed,
        "corpus": _without_folders(lab.corpus_spec),
        "config": _config(lab.scale),
    }
    old = stored(chapter, lab.scale.name) or {}
    same = all(old.get(key) == value for key, value in run.items())
    claims_of = kept["claims"] if kept["claims"] is not None else (old.get("claims", []) if same else [])
    facts = {
        "hardware": _hardware(lab),
        "date": datetime.now(UTC).date().isoformat(),
        "wall_s": round(time.monotonic() - _started, 1),
        "versions": _versions(),
    }
    merged = {key: {**(old.get(key, {}) if same else {}), **kept[key]} for key in ("numbers", "figures")}
    storage.write_json(path, run | facts | {"claims": claims_of} | merged)


# Shared pieces


def _use_renderer() -> None:
    pio.renderers["book"] = BookRenderer()
    wanted = os.environ.get(RENDERER, "")
    if wanted:
        if wanted not in pio.renderers:
            raise BookError(f"{RENDERER}={wanted} is unknown; set it to book, or leave it unset to use the renderer of the place")
        pio.renderers.default = wanted
    elif "google.colab" in sys.modules:
        pio.renderers.default = "colab"


def _threads() -> int:
    from sae_lib.machine import cores

    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return cores()


def _keeps(lab: Any) -> bool:
    """Whether a run's numbers are kept: not those of smoke, and those of released weights only if measured at length."""
    return lab.scale.name != "smoke" and (lab.is_at_length or not lab.scale.is_released)


def _is_reference(lab: Any) -> bool:
    return lab.scale.name == REFERENCE_SCALE and _keeps(lab)


def _undecided(lab: Any) -> str:
    """Why a run decides nothing about models of text; empty if it does."""
    if _keeps(lab):
        return ""
    return claims.GLANCE if lab.scale.is_released else claims.TOO_SMALL


def _entry(number: int, measured: Any, undecided: str) -> dict:
    claim = claims.claim(number)
    if not isinstance(measured, Measured):
        raise BookError(f"claim {number} was given {type(measured).__name__}; wrap its values in page.Measured")
    values = {name: _number(value, f"value {name!r} of claim {number}") for name, value in measured.values.items()}
    word, reason = claims.verdict(number, values, undecided)
    values = {name: _plain(value, name) for name, value in values.items()}
    primary = measured.of or (claim.holds[0].needs[0] if claim.holds else next(iter(values), None))
    if measured.of and measured.of not in values:
        raise BookError(f"the interval of claim {number} is said to be of {measured.of!r}, which was not measured; name one of its values")
    interval = None if measured.interval is None else [_plain(end, f"the interval of claim {number}") for end in measured.interval]
    if interval and None in interval:
        # One document says nothing about others.
        interval = None
    return {
        "claim": number,
        "value": values.get(primary),
        "interval": interval,
        "n": _plain(measured.n, f"n of claim {number}"),
        "unit": _plain(measured.unit, f"the unit of claim {number}"),
        "verdict": word,
        "reason": reason,
        "values": values,
    } | ({"of": measured.of} if measured.of else {})


def _number(value: Any, what: str) -> float | int:
    # Tensors and numpy scalars say their number through float().
    try:
        return int(value) if isinstance(value, abstract.Integral) else float(value)
    except (TypeError, ValueError):
        raise BookError(f"{what} is {value!r}, not a number") from None


def _plain(value: Any, what: str) -> Any:
    """A value as JSON keeps it: a number, a short name, None; what is not finite becomes None."""
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    if isinstance(value, str):
        if not re.fullmatch(r"[A-Za-z0-9 _./:+-]{0,40}", value):
            raise BookError(f"{what} is text; results hold numbers and short names, never text of a corpus")
        return value
    if isinstance(value, Mapping):
        return {_plain(str(key), what): _plain(item, what) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item, what) for item in value]
    number = _number(value, what)
    if isinstance(number, int):
        return number
    return float(f"{number:.8g}") if math.isfinite(number) else None


def _rows(name: str, frame: pd.DataFrame) -> list[dict]:
    if len(frame) > _MAX_ROWS:
        raise BookError(f"the table {name!r} has {len(frame):,} rows; results keep at most {_MAX_ROWS:,}, so bin it first")
    records = frame.to_dict("records")
    return [{str(key): _plain(value, f"{key!r} in the table {name!r}") for key, value in record.items()} for record in records]


def _results_path(chapter: str, scale_name: str) -> Path:
    for word in (chapter, scale_name):
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", word):
            raise BookError(f"{word!r} names no chapter or scale; use the notebook's name without its ending")
    return storage.project_root() / "results" / scale_name / f"{chapter}.json"


def _config(scale: Any) -> dict:
    """Every size of the scale but its corpus, which has an entry of its own."""
    sizes = asdict(scale) if is_dataclass(scale) else dict(vars(scale))
    return {name: value for name, value in sizes.items() if name not in ("corpus", "name")}


def _without_folders(spec: str) -> str:
    # A folder says something about this machine and nothing about the run.
    kind, colon, rest = spec.partition(":")
    if colon and kind == "files":
        return f"files:{Path(rest).name}"
    return spec if colon else Path(spec).name


def _hardware(lab: Any) -> str:
    import torch

    cores = f"{_threads()} CPU cores ({platform.machine()})"
    if torch.device(getattr(lab, "device", "cpu")).type == "cuda":
        return f"{torch.cuda.get_device_name()}, {cores}"
    return cores


def _versions() -> dict[str, str]:
    from sae_lib.runs import versions

    return versions(_PACKAGES)


def _addressable() -> list[str]:
    """Every dictionary and every model's neurons, as addresses begin."""
    from sae_lib.scales import SCALES

    dictionaries = dict.fromkeys(name for preset in SCALES.values() for name in preset.d_sae)
    return [*dictionaries, *dict.fromkeys(f"{name[0]}/neurons" for name in dictionaries)]


def _linked(value: Any, name: str, digits: int) -> str:
    """A cell as a reader sees it, with a link where it is an address, or a number whose column says of what."""
    text = shown(value, digits)
    if os.environ.get(RENDERER) != "book":
        return text
    address = f"{name}/{value}" if name and isinstance(value, abstract.Integral) else value
    parts = re.fullmatch(r"([A-Z]/\w+)/\d+", address) if isinstance(address, str) else None
    if parts and parts.group(1) in _addressable():
        return f'<a href="../book/browser.html#{escape(address)}">{text}</a>'
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, abstract.Number | np.number) and not isinstance(value, bool | np.bool_)


def shown(value: Any, digits: int = 3) -> str:
    """A value as a reader sees it, escaped."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not _is_number(value):
        return "–" if value is None or value is pd.NA else escape(str(value))
    if isinstance(value, abstract.Integral):
        return f"{int(value):,}"
    number = float(value)
    if not math.isfinite(number):
        return "–" if math.isnan(number) else ("∞" if number > 0 else "−∞")
    if 10**digits <= abs(number) + 0.5 < 1e15:
        return f"{number:,.0f}"
    if number == 0 or 1e-4 <= abs(number) < 10**digits:
        return f"{number:.{digits}g}"
    mantissa, _, power = f"{number:.{digits - 1}e}".partition("e")
    return f"{mantissa} × 10<sup>{int(power)}</sup>"


def values_cell(entry: Mapping[str, Any]) -> str:
    """The values of a stored claim, its interval and its sample size, as HTML."""
    parts = [f"{escape(name.replace('_', ' '))} {shown(value)}" for name, value in entry["values"].items()]
    interval = entry.get("interval")
    if interval:
        of = f" of {escape(entry['of'].replace('_', ' '))}" if entry.get("of") else ""
        parts.append(f"95% interval{of} {shown(interval[0])} to {shown(interval[1])}")
    if entry.get("n") is not None:
        parts.append(f"n {shown(entry['n'])} {escape(entry.get('unit', ''))}".strip())
    return "<br>".join(parts)


def _reference_cell(earlier: Mapping[str, Any] | None) -> str:
    if earlier is None:
        return "–"
    return f"{values_cell(earlier)}<br>{verdict_word(earlier['verdict'])}"


def verdict_word(word: str) -> str:
    """A verdict with its mark, as HTML."""
    return f'<span aria-hidden="true">{_MARKS.get(word, "")}</span> <strong>{escape(word)}</strong>'


def html_table(
    headings: Iterable[str], rows: list[list[tuple[str, bool]]], caption: str, attributes: Iterable[Mapping[str, str]] = ()
) -> str:
    """A table as HTML.

    Args:
        headings: plain text.
        rows: cells come escaped, each with whether it stands to the right.
        caption: plain text.
        attributes: for each row its `data-` attributes; none means that no row has any.
    """
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    marks = ["".join(f' data-{name}="{escape(value)}"' for name, value in row.items()) for row in attributes] or [""] * len(rows)
    body = "".join(
        f"<tr{mark}>" + "".join(_cell(place, *cell) for place, cell in enumerate(row)) + "</tr>"
        for mark, row in zip(marks, rows, strict=True)
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    label = escape(caption or "table")
    return (
        f'<div class="sae-table" role="region" aria-label="{label}" tabindex="0" style="overflow-x:auto">'
        f'<table class="dataframe">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(place: int, text: str, right: bool) -> str:
    style = ' style="text-align:right"' if right else ' style="text-align:left"'
    return f'<th scope="row"{style}>{text}</th>' if place == 0 else f"<td{style}>{text}</td>"
