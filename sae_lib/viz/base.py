"""What all figures share: colours with one meaning each, the template, the HTML of a figure, and checks of tables."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.basedatatypes import BaseTraceType
from plotly.io.base_renderers import MimetypeRenderer
from plotly.subplots import make_subplots
from plotly.utils import PlotlyJSONEncoder

from sae_lib.errors import BookError

Number = int | float
Numbers = np.ndarray | pd.Series | Sequence[Number | None]

FEATURE = "#0072B2"
NEURON = "#8A8A8A"
PROXY = "#E08214"
DEAD = "#F2A49B"
CONTROL = "#BDBDBD"
PAPER = "#000000"
GRID = "#E6E6E6"

IN_CLASS_PATTERN = {"shape": ".", "fgcolor": "#7A3E00", "bgcolor": PROXY, "size": 5, "solidity": 0.2}
CONTROL_PATTERN = {"shape": "/", "fgcolor": "#555555", "bgcolor": "#FFFFFF", "size": 6, "solidity": 0.3}
MAX_POINTS = 300  # points a curve: more cannot be told apart at the width of a page

_AXIS = {
    "automargin": True, "showline": True, "linecolor": "#444444", "ticks": "outside", "ticklen": 4, "tickcolor": "#444444",
    "gridcolor": GRID, "gridwidth": 1, "zeroline": False, "title": {"standoff": 8},
}  # fmt: skip
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#222222"},
        "paper_bgcolor": "#FFFFFF", "plot_bgcolor": "#FFFFFF", "colorway": [FEATURE, NEURON, PROXY],
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 8, "r": 8, "t": 24, "b": 8}, "hovermode": "closest", "xaxis": _AXIS, "yaxis": _AXIS,
    }
)  # fmt: skip

LABELS = {
    "loss": "loss (activation units²)",
    "mse": "squared error (activation units²)",
    "l1": "L1 norm (activation units)",
    "l0": "L0 (features per token)",
    "explained_variance": "explained variance (share)",
    "dead_share": "dead features (share)",
    "validation_loss": "validation loss (nats per token)",
    "train_loss": "training loss (nats per token)",
    "lr": "learning rate (per step)",
    "grad_norm": "gradient norm (nats)",
    "n_tokens": "training tokens",
    "n_activations": "training activations (tokens)",
    "step": "training step",
}


# The page: how a figure becomes HTML


class BookRenderer(MimetypeRenderer):
    """One text/html output per figure, with an id derived from its content, so that a rerun gives equal bytes.

    The page brings its own plotly.js; the script waits for it, and where it never comes the text alternative stays.
    """

    def to_mimebundle(self, fig_dict: dict) -> dict[str, str]:
        return {"text/html": figure_html(fig_dict)}


def figure_html(fig_dict: Mapping) -> str:
    """The HTML of one figure, which asks no other host for anything.

    Args:
        fig_dict: a figure as `go.Figure.to_dict()` gives it.

    Returns:
        A figure element with the text alternative, and a script that draws once `window.Plotly` is there.
    """
    content = _json(fig_dict)
    name = "fig-" + hashlib.sha256(content.encode()).hexdigest()[:10]
    layout = fig_dict.get("layout", {})
    alt = escape((layout.get("meta") or {}).get("alt", "An interactive figure."))
    height = int(layout.get("height") or 420)
    # The wheel would zoom a figure in space where it should scroll the page; one in the plane leaves it alone.
    wheel = ", scrollZoom: false" if "scene" in layout else ""
    return (
        f'<div class="sae-figure" role="figure" aria-label="{alt}">'
        f'<div id="{name}" class="plotly-graph-div" style="height:{height}px; width:100%;"><p>{alt}</p></div>'
        '<script type="text/javascript">(function () {'
        f'var place = document.getElementById("{name}"), figure = {content};'
        "function draw() {"
        " if (!window.Plotly || !place) { return; }"
        ' place.textContent = "";'
        # A finger that scrolls the page must not zoom the figure under it.
        ' if (window.matchMedia("(pointer: coarse)").matches) { figure.layout.dragmode = false; }'
        " window.Plotly.newPlot(place, figure.data, figure.layout,"
        f" {{responsive: true, displaylogo: false, displayModeBar: false{wheel}}})"
        ".then(function () { if (figure.frames) { window.Plotly.addFrames(place, figure.frames); } });"
        "}"
        ' if (window.Plotly) { draw(); } else { window.addEventListener("load", draw); }'
        "})();</script></div>"
    )


def _json(value: object) -> str:
    text = json.dumps(value, cls=PlotlyJSONEncoder, sort_keys=True, separators=(",", ":"))
    # Inside a script element only these could end the element or the line.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def finish(figure: go.Figure, alt: str, height: int = 420) -> go.Figure:
    """Give a figure the template, its height and its text alternative, and say so where nothing was measured."""
    # A slider may begin at a model without a vector.
    traces = [*figure.data, *(trace for frame in figure.frames for trace in frame.data)]
    empty = not any(map(_has_points, traces))
    if empty:
        figure.add_annotation(text="nothing to draw: no value was measured", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
    return figure.update_layout(template=TEMPLATE, height=height, meta={"alt": "Nothing to draw: no value was measured." if empty else alt})


def _has_points(trace: BaseTraceType) -> bool:
    if trace.type == "heatmap":
        return trace.z is not None and len(trace.z) > 0
    values = trace.x if trace.x is not None and trace.type.startswith("scatter") and trace.mode == "markers" else trace.y
    return values is not None and any(value is not None and value == value for value in values)


def panels(rows: int) -> go.Figure:
    """Panels under one another over one horizontal axis."""
    if rows < 1:
        raise BookError("a training figure needs at least one column to draw; name it, such as ['loss']")
    return make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.06)


def need(table: pd.DataFrame, columns: Iterable[str], what: str, empty: bool = False) -> None:
    """Refuse a table that lacks a column, or all rows unless it may be empty."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise BookError(f"{what} needs the column {missing[0]!r}; it has {', '.join(map(str, table.columns)) or 'none'}")
    if not empty and not len(table):
        raise BookError(f"{what} has no rows, so there is nothing to draw; check the step that made it")


def rounded(values: Numbers) -> list[float | None]:
    """Numbers to four digits, so that stored figures stay small; what is not finite becomes None."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in np.asarray(values, dtype=float)]
