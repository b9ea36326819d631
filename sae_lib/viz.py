"""Every figure of the book: tables and arrays in, `go.Figure` out. No torch, no files, no titles (the caption is the title).

Colours have one meaning each, and no two series differ by colour alone: *this run* is filled or solid,
the *reference run* dashed, the *paper* a black rule or dot. Each figure carries a text alternative in `layout.meta["alt"]`.
"""

import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML
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
        " window.Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false, displayModeBar: false})"
        ".then(function () { if (figure.frames) { window.Plotly.addFrames(place, figure.frames); } });"
        "}"
        ' if (window.Plotly) { draw(); } else { window.addEventListener("load", draw); }'
        "})();</script></div>"
    )


def _json(value: object) -> str:
    text = json.dumps(value, cls=PlotlyJSONEncoder, sort_keys=True, separators=(",", ":"))
    # Inside a script element only these could end the element or the line.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# Training


def training_curves(log: pd.DataFrame, columns: Sequence[str], reference: pd.DataFrame | None = None) -> go.Figure:
    """Curves of one training run, one panel a column.

    Args:
        log: one row a log line, with `columns` and one of n_activations, n_tokens or step.
        columns: what to draw, top to bottom.
        reference: the log of the reference run, dashed.

    Returns:
        A figure of `len(columns)` panels over one horizontal axis.
    """
    x = _progress(log)
    _need(log, [x, *columns], "a training log")
    figure = _panels(len(columns))
    for row, column in enumerate(columns, start=1):
        runs = [("this run", log, "solid")]
        if reference is not None and {x, column} <= set(reference.columns):
            runs.append(("reference run", reference, "dash"))
        for label, run, dash in runs:
            line = _curve(run, x, column, label, {"color": FEATURE, "dash": dash, "width": 2})
            figure.add_trace(line.update(showlegend=row == 1 and len(runs) > 1), row=row, col=1)
        figure.update_yaxes(title_text=_label(column, log), row=row, col=1)
    figure.update_xaxes(title_text=LABELS[x], row=len(columns), col=1)
    last = {column: log[column].dropna() for column in columns}
    ends = [f"{column.replace('_', ' ')} ends at {values.iloc[-1]:.3g}" for column, values in last.items() if len(values)]
    return _finish(figure, f"Training curves: {', '.join(ends) or 'no values'}.", 180 + 150 * len(columns))


def resampling_arms(logs: Mapping[str, pd.DataFrame], columns: Sequence[str] = ("dead_share", "loss")) -> go.Figure:
    """The same training under different resampling rules.

    Args:
        logs: training log by the name of the arm: "none", "naive", "paper".
        columns: what to draw, top to bottom.

    Returns:
        One panel a column; the arms differ by dash and colour.

    Source: Bricken et al. 2023, appendix on resampling. Differs: the paper shows no such figure.
    """
    if not logs:
        raise BookError("resampling_arms was given no training log; pass at least one arm, such as {'paper': log}")
    looks = {"paper": (FEATURE, "solid"), "naive": ("#56B4E9", "dash"), "none": ("#444444", "dot")}
    figure = _panels(len(columns))
    x = _progress(next(iter(logs.values())))
    for row, column in enumerate(columns, start=1):
        for arm, log in logs.items():
            _need(log, [x, column], f"the log of the arm {arm!r}")
            colour, dash = looks.get(arm, (CONTROL, "dashdot"))
            line = _curve(log, x, column, f"resampling: {arm}", {"color": colour, "dash": dash, "width": 2})
            figure.add_trace(line.update(showlegend=row == 1, legendgroup=arm), row=row, col=1)
        figure.update_yaxes(title_text=_label(column, next(iter(logs.values()))), row=row, col=1)
    figure.update_xaxes(title_text=LABELS[x], row=len(columns), col=1)
    ends = [f"{arm} ends at {log[columns[0]].dropna().iloc[-1]:.3g}" for arm, log in logs.items() if log[columns[0]].notna().any()]
    return _finish(figure, f"Arms of resampling, {columns[0].replace('_', ' ')}: {', '.join(ends)}.", 180 + 150 * len(columns))


# Density and activation


def density_histogram(table: pd.DataFrame, reference: pd.DataFrame | None = None, cut: Number | None = None) -> go.Figure:
    """How often features fire: histogram of log10 feature density.

    Args:
        table: left and right (edges of the bins, log10 of the share of tokens) and count (features).
        reference: the same table of the reference run, drawn as a dashed outline.
        cut: density (share of tokens) below which a feature counts as ultralow; drawn as a rule.

    Returns:
        Bars in percent of the features counted.

    Source: Bricken et al. 2023, appendix on feature density.
    """
    figure = go.Figure()
    share = _shares(table, "a density histogram")
    figure.add_trace(go.Bar(x=_middle(table), y=share, width=_width(table), name="this run", marker={"color": FEATURE}))
    if reference is not None:
        dashed = {"color": PAPER, "dash": "dash", "width": 1.5}
        steps = _outline(reference, _shares(reference, "the reference's density histogram"))
        figure.add_trace(go.Scatter(x=steps[0], y=steps[1], mode="lines", line=dashed, name="reference run"))
    if cut is not None and cut > 0:
        figure.add_vline(x=math.log10(cut), line={"color": PAPER, "dash": "dot", "width": 1.5}, annotation_text="ultralow cut")
    figure.update_xaxes(title_text="feature density (share of tokens)", **_power_ticks(table["left"].min(), table["right"].max()))
    figure.update_yaxes(title_text="features (%)")
    figure.update_layout(bargap=0, showlegend=reference is not None)
    peak = _middle(table)[int(np.argmax(share))]
    return _finish(figure, f"Histogram of feature density; the tallest bar lies near 10 to the power {peak:.1f}.")


def activation_spectrum(histogram: pd.DataFrame, name: str = "in class") -> go.Figure:
    """How a feature's activations are distributed, and what share of each bin lies in the class.

    Args:
        histogram: left and right (edges, activation units), count (tokens), share_in_class (0 to 1).
        name: what the class is, such as "Arabic script".

    Returns:
        Above, tokens per bin split by class on a logarithmic axis of counts; below, the share in the class.

    Source: Bricken et al. 2023, Arabic script feature. Differs: the share has a panel of its own.
    """
    _need(histogram, ["left", "right", "count", "share_in_class"], "an activation histogram")
    x, width = _middle(histogram), _width(histogram)
    count, share = histogram["count"].to_numpy(float), histogram["share_in_class"].fillna(0).to_numpy(float)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4])
    tokens = [("all active tokens", count, {"color": FEATURE}), (f"of them {name}", count * share, _in_class())]
    for label, values, marker in tokens:
        shown = [value if value > 0 else None for value in _round(values)]
        figure.add_trace(go.Bar(x=x, y=shown, width=width, name=label, marker=marker), row=1, col=1)
    filled = _round(np.where(count > 0, 100 * share, 0))
    figure.add_trace(go.Bar(x=x, y=filled, width=width, marker=_in_class(), showlegend=False, name=f"share {name}"), row=2, col=1)
    figure.update_yaxes(title_text="tokens", type="log", exponentformat="power", dtick=1, row=1, col=1)
    figure.update_yaxes(title_text=f"{name} (%)", range=[0, 102], row=2, col=1)
    figure.update_xaxes(title_text="activation (activation units)", row=2, col=1)
    figure.update_layout(barmode="overlay", bargap=0)
    total = count.sum()
    mean = f"{100 * (count * share).sum() / total:.0f}% of {total:,.0f} active tokens are {name}" if total else "the feature never fires"
    return _finish(figure, f"Activation histogram: {mean}.", 480)


def specificity(table: pd.DataFrame, name: str = "in class", paper: Mapping[Number, Number] | None = None) -> go.Figure:
    """Share of tokens in the class for each equal interval of activation.

    Args:
        table: left, right, count, specificity (0 to 1); with a column kind ("feature" or "neuron") for several series.
        name: what the class is.
        paper: the paper's shares (0 to 1) by position on the axis (0 lowest, 1 highest interval).

    Returns:
        Share against interval, as a fraction of the largest activation.

    Source: Bricken et al. 2023, Arabic script feature.
    """
    _need(table, ["left", "right", "count", "specificity"], "a table of intervals")
    figure, words = go.Figure(), []
    for kind, rows in table.groupby("kind", observed=True) if "kind" in table else [("feature", table)]:
        top = rows["right"].max() or 1.0
        colour, symbol, dash = _looks(kind)
        figure.add_trace(
            go.Scatter(
                x=_round(_middle(rows) / top), y=_round(100 * rows["specificity"].to_numpy(float)), name=kind, mode="lines+markers",
                line={"color": colour, "dash": dash}, marker={"symbol": symbol, "size": 9},
                customdata=rows["count"].tolist(), hovertemplate="%{y:.0f}% of %{customdata:,} tokens",
            )
        )  # fmt: skip
        shares = rows["specificity"].dropna()
        if len(shares):
            words.append(f"{kind} from {100 * shares.iloc[0]:.0f}% in the first interval to {100 * shares.iloc[-1]:.0f}% in the last")
    if paper:
        dots = {"color": PAPER, "symbol": "circle", "size": 8}
        figure.add_trace(go.Scatter(x=list(paper), y=[100 * value for value in paper.values()], mode="markers", name="paper", marker=dots))
    figure.update_xaxes(title_text="activation (share of the largest)", range=[-0.02, 1.02])
    figure.update_yaxes(title_text=f"{name} (% of tokens)", range=[-2, 104])
    return _finish(figure, f"Share of tokens that are {name} by activation interval: {'; '.join(words) or 'no token'}.")


def logit_histogram(
    series: pd.Series, in_class: np.ndarray | pd.Series | Sequence[bool], name: str = "in class", n_bins: int = 60
) -> go.Figure:
    """A feature's logit weights over the vocabulary, the tokens of the class apart.

    Args:
        series: logit weight (nats) by token id, median at 0.
        in_class: for each entry of `series`, whether the token belongs to the class.
        name: what the class is.
        n_bins: bins of equal width over the whole range.

    Returns:
        Two histograms over one another with a logarithmic axis of counts.

    Source: Bricken et al. 2023, Arabic script feature, logit weights.
    """
    weights, mask = np.asarray(series, dtype=float), np.asarray(in_class, dtype=bool)
    if weights.shape != mask.shape or weights.ndim != 1:
        raise BookError(f"logit_histogram needs one flag a token: {weights.shape} weights and {mask.shape} flags were given")
    weights, mask = weights[np.isfinite(weights)], mask[np.isfinite(weights)]
    edges = _edges(weights, n_bins)
    x, width = _round((edges[1:] + edges[:-1]) / 2), _round(np.diff(edges))
    figure = go.Figure()
    for label, chosen, marker in (("other tokens", ~mask, {"color": FEATURE}), (name, mask, _in_class())):
        counts = np.histogram(weights[chosen], edges)[0]
        shown = [int(count) if count else None for count in counts]
        figure.add_trace(go.Bar(x=x, y=shown, width=width, name=label, marker=marker, opacity=0.8))
    figure.update_layout(barmode="overlay", bargap=0)
    figure.update_xaxes(title_text="logit weight (nats, median at 0)")
    figure.update_yaxes(title_text="tokens of the vocabulary", type="log", exponentformat="power", dtick=1)
    middle = "one group only"
    if mask.any() and not mask.all():
        middle = f"median {np.median(weights[mask]):.2g} against {np.median(weights[~mask]):.2g} for the others"
    return _finish(figure, f"Histogram of logit weights: {int(mask.sum())} tokens are {name}, {middle}.")


# Features beside neurons


def feature_vs_neuron(
    table: pd.DataFrame,
    paper: Mapping[str, Number] | None = None,
    reference: pd.DataFrame | None = None,
    score: str = "pearson",
    axis: str = "Pearson correlation with the proxy",
) -> go.Figure:
    """The best feature's score on each target beside the best neuron's, or any other two kinds.

    Args:
        table: target, kind ("feature" and "neuron", or two others), and the score; the largest of each pair is drawn.
        paper: the paper's value for the feature by target.
        reference: the same table of the reference run, open marks.
        score: name of the column.
        axis: what the score is.

    Returns:
        One row a target: filled circle for the feature, square for the neuron, joined by a line.

    Source: Bricken et al. 2023, case studies.
    """
    _need(table, ["target", "kind", score], "a table of scores")
    kinds = list(dict.fromkeys(table["kind"]))
    best = table.groupby(["target", "kind"], sort=False, observed=True)[score].max().unstack()
    targets = [str(target) for target in best.index]
    figure = go.Figure()
    if len(kinds) == 2:
        joins_x = [value for pair in zip(_round(best[kinds[1]]), _round(best[kinds[0]]), strict=True) for value in (*pair, None)]
        joins_y = [value for target in targets for value in (target, target, None)]
        join = {"color": GRID, "width": 3}
        figure.add_trace(go.Scatter(x=joins_x, y=joins_y, mode="lines", line=join, showlegend=False, hoverinfo="skip"))
    for kind in kinds:
        colour, symbol, _ = _looks(kind)
        label = f"best {kind}" if kind in ("feature", "neuron") else str(kind)
        mark = {"color": colour, "symbol": symbol, "size": 13 if len(targets) < 12 else 9}
        figure.add_trace(go.Scatter(x=_round(best[kind]), y=targets, mode="markers", name=label, marker=mark))
        if reference is not None and kind in set(reference.get("kind", ())):
            old = reference[reference["kind"] == kind].groupby("target", sort=False, observed=True)[score].max()
            mark |= {"symbol": f"{symbol}-open", "line": {"width": 2}}
            y = [str(target) for target in old.index]
            figure.add_trace(go.Scatter(x=_round(old), y=y, mode="markers", name=f"{label}, reference run", marker=mark))
    known = {target: value for target, value in (paper or {}).items() if target in targets}
    if known:
        mark = {"symbol": "line-ns", "size": 18, "line": {"color": PAPER, "width": 3}}
        figure.add_trace(go.Scatter(x=list(known.values()), y=list(known), mode="markers", name="paper, feature", marker=mark))
    low = min(0.0, float(np.nanmin(best.to_numpy(float), initial=0.0)))
    figure.update_xaxes(title_text=axis, range=[low - 0.02, 1.02])
    figure.update_yaxes(title_text="", autorange="reversed", type="category")
    parts = [f"{target}: " + ", ".join(f"{kind} {best.loc[target, kind]:.2f}" for kind in best.columns) for target in best.index]
    return _finish(figure, f"{axis}. {'; '.join(parts)}.", 200 + (55 if len(targets) < 12 else 22) * len(targets))


def similarity_histogram(
    features: Numbers, neurons: Numbers, paper: tuple[Number, Number] | None = (0.72, 0.46), n_bins: int = 50
) -> go.Figure:
    """How well features and neurons of model A are matched by model B.

    Args:
        features: best activation correlation of each feature; missing values are left out.
        neurons: the same of each neuron.
        paper: the paper's medians of features and neurons, drawn as black rules; None leaves them out.
        n_bins: bins of equal width.

    Returns:
        Two histograms in percent; a thick rule marks each median of this run.

    Source: Bricken et al. 2023, universality.
    """
    groups = {"features": _finite(features), "neurons": _finite(neurons)}
    edges = np.linspace(min(0.0, *(float(values.min(initial=0)) for values in groups.values())), 1.0, n_bins + 1)
    figure, words = go.Figure(), []
    for label, values in groups.items():
        share = 100 * np.histogram(values.clip(max=1.0), edges)[0] / max(len(values), 1)
        bins = pd.DataFrame({"left": edges[:-1], "right": edges[1:]})
        if label == "features":
            figure.add_trace(go.Bar(x=_middle(bins), y=_round(share), width=_width(bins), name=label, marker={"color": FEATURE}))
        else:
            x, y = _outline(bins, _round(share))
            figure.add_trace(go.Scatter(x=x, y=y, mode="lines", name=label, line={"color": "#555555", "width": 2.5}))
        if len(values):
            median = float(np.median(values))
            colour = "#003F63" if label == "features" else "#555555"
            figure.add_vline(x=round(median, 3), line={"color": colour, "width": 3})
            words.append(f"median of {label} {median:.2f}")
    for label, value, side in zip(("features", "neurons"), paper or (), ("top right", "top left"), strict=False):
        look = {"text": f"paper, {label}", "bgcolor": "rgba(255,255,255,0.85)"}
        figure.add_vline(x=value, line={"color": PAPER, "width": 1.5}, annotation=look, annotation_position=side)
    figure.update_layout(bargap=0)
    figure.update_xaxes(title_text="correlation with the best match in model B")
    figure.update_yaxes(title_text="features or neurons (%)")
    return _finish(figure, f"Histogram of best-match correlations: {', '.join(words) or 'no values'}.")


# Feature splitting


def family_counts(table: pd.DataFrame) -> go.Figure:
    """Number of in-class features of each context, by width of the dictionary.

    Args:
        table: context, d_sae (features of the dictionary), count (of them in class).

    Returns:
        One line a context; contexts differ by mark and dash.

    Source: Bricken et al. 2023, feature splitting.
    """
    _need(table, ["context", "d_sae", "count"], "a table of families")
    symbols, dashes = ("circle", "square", "diamond", "triangle-up", "x", "star"), ("solid", "dash", "dot", "dashdot")
    shades = (FEATURE, "#003F63", "#56B4E9", "#444444")
    figure, words = go.Figure(), []
    for i, (context, rows) in enumerate(table.groupby("context", sort=False, observed=True)):
        rows = rows.sort_values("d_sae")
        colour = shades[i % len(shades)]
        figure.add_trace(
            go.Scatter(
                x=[f"{int(width):,}" for width in rows["d_sae"]], y=rows["count"].tolist(), name=str(context), mode="lines+markers",
                line={"color": colour, "dash": dashes[i % len(dashes)]}, marker={"symbol": symbols[i % len(symbols)], "size": 10},
            )
        )  # fmt: skip
        words.append(f"{context}: {', '.join(f'{count:g}' for count in rows['count'])}")
    order = [f"{int(width):,}" for width in sorted(table["d_sae"].unique())]
    figure.update_xaxes(title_text="features in the dictionary", type="category", categoryorder="array", categoryarray=order)
    figure.update_yaxes(title_text="features in class", rangemode="tozero")
    figure.update_layout(showlegend=True)
    return _finish(figure, f"Features in class by width of the dictionary. {'; '.join(words)}.")


def neighbour_histogram(cosines: Numbers, random: Numbers | None = None, n_bins: int = 50) -> go.Figure:
    """Cosine of each feature with its nearest neighbour, beside random pairs.

    Args:
        cosines: cosine of each feature of the larger dictionary with its nearest one in the smaller.
        random: cosines of random pairs, the control; None leaves it out.
        n_bins: bins of equal width.

    Returns:
        Two histograms in percent, the control hatched.

    Source: Bricken et al. 2023, feature splitting.
    """
    groups = [("nearest neighbour", _finite(cosines), {"color": FEATURE})]
    if random is not None:
        groups.append(("random pairs", _finite(random), {"color": CONTROL, "pattern": CONTROL_PATTERN}))
    low = min(0.0, *(float(values.min(initial=0)) for _, values, _ in groups))
    edges = np.linspace(low, 1.0, n_bins + 1)
    bins = pd.DataFrame({"left": edges[:-1], "right": edges[1:]})
    figure, words = go.Figure(), []
    for label, values, marker in groups:
        share = 100 * np.histogram(values.clip(max=1.0), edges)[0] / max(len(values), 1)
        figure.add_trace(go.Bar(x=_middle(bins), y=_round(share), width=_width(bins), name=label, marker=marker, opacity=0.8))
        if len(values):
            words.append(f"median of {label} {np.median(values):.2f}")
    figure.update_layout(barmode="overlay", bargap=0, showlegend=True)
    figure.update_xaxes(title_text="cosine of decoder rows")
    figure.update_yaxes(title_text="pairs (%)")
    return _finish(figure, f"Histogram of decoder cosines: {', '.join(words) or 'no values'}.")


# Toy models


def toy_vectors(weights: Mapping[str, np.ndarray] | Sequence[tuple[str, np.ndarray]], label: str = "density") -> go.Figure:
    """The columns of a toy model's weight matrix as arrows in the plane, one frame a model.

    Args:
        weights: W of shape [2, n_features] by the value of `label`, in the order of the slider.
        label: what the slider changes.

    Returns:
        Arrows from the origin, with a slider; the first frame is drawn.

    Source: Elhage et al. 2022, superposition in two dimensions.
    """
    models = [(str(key), np.asarray(W, dtype=float)) for key, W in (weights.items() if isinstance(weights, Mapping) else weights)]
    if not models:
        raise BookError("toy_vectors was given no weight matrix; pass at least one of shape [2, n_features]")
    for key, W in models:
        if W.ndim != 2 or W.shape[0] != 2:
            raise BookError(f"toy_vectors draws the plane: the weights at {label} {key} have shape {list(W.shape)}, not [2, n_features]")
    reach = 1.25 * max(1.0, *(float(np.abs(W).max(initial=0)) for _, W in models))
    figure = go.Figure(data=_arrows(models[0][1]), frames=[go.Frame(name=key, data=_arrows(W)) for key, W in models])
    move = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": key, "method": "animate", "args": [[key], move]} for key, _ in models]
    slider = {"currentvalue": {"prefix": f"{label}: "}, "pad": {"t": 48}, "steps": steps}
    figure.update_layout(sliders=[slider] if len(models) > 1 else [], showlegend=False)
    figure.update_xaxes(title_text="first hidden dimension", range=[-reach, reach], constrain="domain")
    figure.update_yaxes(title_text="second hidden dimension", range=[-reach, reach], scaleanchor="x", constrain="domain")
    long = [f"{int((np.linalg.norm(W, axis=0) > 0.5).sum())} at {label} {key}" for key, W in models]
    return _finish(figure, f"Feature vectors of a toy model in the plane; longer than one half: {', '.join(long)}.", 520)


def _arrows(W: np.ndarray) -> list[go.Scatter]:
    n = W.shape[1]
    xs = [value for x in _round(W[0]) for value in (0, x, None)]
    ys = [value for y in _round(W[1]) for value in (0, y, None)]
    heads = {"symbol": ["circle", "arrow", "circle"] * n, "size": [1, 12, 1] * n, "angleref": "previous", "color": FEATURE}
    arrows = go.Scatter(x=xs, y=ys, mode="lines+markers", line={"color": FEATURE, "width": 2}, marker=heads, hoverinfo="skip")
    tips = 1.08 * W
    numbers = [str(i + 1) for i in range(n)]
    names = go.Scatter(x=_round(tips[0]), y=_round(tips[1]), mode="text", text=numbers, hovertemplate="feature %{text}")
    return [arrows, names]


# Text

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
    _need(examples, ["rank", "activation", "tokens"], "a table of examples", empty=True)
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
        piece = escape("\n".join(_visible(line) for line in text[start:end].split("\n")))
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
    shown = escape(_visible(text))
    # A byte written as \xd8 beside Arabic would be turned round with it; <bdi> keeps it as it is.
    tag = "bdi" if "\\x" in text else "span"
    if not value > 0 or not top > 0:
        return f"<{tag}>{shown}</{tag}>"
    style = f"background:rgba(0,114,178,{0.08 + 0.47 * value / top:.2f})"
    if value == strongest:
        style += ";font-weight:bold;text-decoration:underline"
    return f'<{tag} style="{style}" title="activation {value:.2f}">{shown}</{tag}>'


def _visible(text: str) -> str:
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


# Shared pieces


def _finish(figure: go.Figure, alt: str, height: int = 420) -> go.Figure:
    empty = not any(_has_points(trace) for trace in figure.data)
    if empty:
        figure.add_annotation(text="nothing to draw: no value was measured", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
    return figure.update_layout(template=TEMPLATE, height=height, meta={"alt": "Nothing to draw: no value was measured." if empty else alt})


def _has_points(trace: go.Bar | go.Scatter) -> bool:
    values = trace.x if trace.x is not None and trace.type == "scatter" and trace.mode == "markers" else trace.y
    return values is not None and any(value is not None and value == value for value in values)


def _panels(rows: int) -> go.Figure:
    if rows < 1:
        raise BookError("a training figure needs at least one column to draw; name it, such as ['loss']")
    return make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.06)


def _curve(log: pd.DataFrame, x: str, column: str, label: str, line: dict) -> go.Scatter:
    rows = log[[x, column]].dropna()
    if len(rows) > MAX_POINTS:
        rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, MAX_POINTS).astype(int))]
    return go.Scatter(x=rows[x].tolist(), y=_round(rows[column]), mode="lines", name=label, line=line)


def _progress(log: pd.DataFrame) -> str:
    for column in ("n_activations", "n_tokens", "step"):
        if column in log:
            return column
    raise BookError(f"a training log needs a column n_activations, n_tokens or step; it has {', '.join(map(str, log.columns)) or 'none'}")


def _label(column: str, log: pd.DataFrame) -> str:
    name = "train_loss" if column == "loss" and "mse" not in log else column
    # The unit goes on a line of its own: a panel is lower than these titles are long.
    return LABELS.get(name, name.replace("_", " ")).replace(" (", "<br>(")


def _need(table: pd.DataFrame, columns: Iterable[str], what: str, empty: bool = False) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise BookError(f"{what} needs the column {missing[0]!r}; it has {', '.join(map(str, table.columns)) or 'none'}")
    if not empty and not len(table):
        raise BookError(f"{what} has no rows, so there is nothing to draw; check the step that made it")


def _looks(kind: object) -> tuple[str, str, str]:
    looks = {
        "feature": (FEATURE, "circle", "solid"),
        "probe": (FEATURE, "circle", "solid"),
        "neuron": (NEURON, "square", "dash"),
        "token only": (NEURON, "square", "dash"),
    }
    return looks.get(str(kind), (CONTROL, "diamond", "dot"))


def _in_class() -> dict:
    return {"color": PROXY, "pattern": IN_CLASS_PATTERN}


def _round(values: Numbers) -> list[float | None]:
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in np.asarray(values, dtype=float)]


def _finite(values: Numbers) -> np.ndarray:
    numbers = np.asarray(values, dtype=float).ravel()
    return numbers[np.isfinite(numbers)]


def _middle(table: pd.DataFrame) -> np.ndarray:
    return np.array(_round((table["left"].to_numpy(float) + table["right"].to_numpy(float)) / 2))


def _width(table: pd.DataFrame) -> list[float | None]:
    return _round(table["right"].to_numpy(float) - table["left"].to_numpy(float))


def _shares(table: pd.DataFrame, what: str) -> list[float | None]:
    _need(table, ["left", "right", "count"], what)
    count = table["count"].to_numpy(float)
    return _round(100 * count / max(count.sum(), 1))


def _edges(values: np.ndarray, n_bins: int) -> np.ndarray:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return np.linspace(low, high if high > low else low + 1.0, n_bins + 1)


def _outline(table: pd.DataFrame, heights: Numbers) -> tuple[list, list]:
    left, right = _round(table["left"]), _round(table["right"])
    x = [left[0], *(edge for pair in zip(left, right, strict=True) for edge in pair), right[-1]]
    y = [0, *(value for height in heights for value in (height, height)), 0]
    return x, y


def _power_ticks(low: Number, high: Number) -> dict:
    powers = list(range(math.floor(low), math.ceil(high) + 1))
    return {"tickvals": powers, "ticktext": [f"10<sup>{power}</sup>" for power in powers]}
