"""Figures of dictionaries: densities, activations, classes, matches between models, and splitting."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae_lib.errors import BookError
from sae_lib.viz.base import (
    CONTROL,
    CONTROL_PATTERN,
    FEATURE,
    GRID,
    IN_CLASS_PATTERN,
    NEURON,
    PAPER,
    PROXY,
    Number,
    Numbers,
    finish,
    need,
    rounded,
)

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
    return finish(figure, f"Histogram of feature density; the tallest bar lies near 10 to the power {peak:.1f}.")


def activation_spectrum(histogram: pd.DataFrame, name: str = "in class") -> go.Figure:
    """How a feature's activations are distributed, and what share of each bin lies in the class.

    Args:
        histogram: left and right (edges, activation units), count (tokens), share_in_class (0 to 1).
        name: what the class is, such as "Arabic script".

    Returns:
        Above, tokens per bin split by class on a logarithmic axis of counts; below, the share in the class.

    Source: Bricken et al. 2023, Arabic script feature. Differs: the share has a panel of its own.
    """
    need(histogram, ["left", "right", "count", "share_in_class"], "an activation histogram")
    x, width = _middle(histogram), _width(histogram)
    count, share = histogram["count"].to_numpy(float), histogram["share_in_class"].fillna(0).to_numpy(float)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4])
    tokens = [("all active tokens", count, {"color": FEATURE}), (f"of them {name}", count * share, _in_class())]
    for label, values, marker in tokens:
        shown = [value if value > 0 else None for value in rounded(values)]
        figure.add_trace(go.Bar(x=x, y=shown, width=width, name=label, marker=marker), row=1, col=1)
    filled = rounded(np.where(count > 0, 100 * share, 0))
    figure.add_trace(go.Bar(x=x, y=filled, width=width, marker=_in_class(), showlegend=False, name=f"share {name}"), row=2, col=1)
    figure.update_yaxes(title_text="tokens", type="log", exponentformat="power", dtick=1, row=1, col=1)
    figure.update_yaxes(title_text=f"{name} (%)", range=[0, 102], row=2, col=1)
    figure.update_xaxes(title_text="activation (activation units)", row=2, col=1)
    figure.update_layout(barmode="overlay", bargap=0)
    total = count.sum()
    mean = f"{100 * (count * share).sum() / total:.0f}% of {total:,.0f} active tokens are {name}" if total else "the feature never fires"
    return finish(figure, f"Activation histogram: {mean}.", 480)


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
    need(table, ["left", "right", "count", "specificity"], "a table of intervals")
    figure, words = go.Figure(), []
    for kind, rows in table.groupby("kind", observed=True) if "kind" in table else [("feature", table)]:
        top = rows["right"].max() or 1.0
        colour, symbol, dash = _looks(kind)
        figure.add_trace(
            go.Scatter(
                x=rounded(_middle(rows) / top), y=rounded(100 * rows["specificity"].to_numpy(float)), name=kind, mode="lines+markers",
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
    return finish(figure, f"Share of tokens that are {name} by activation interval: {'; '.join(words) or 'no token'}.")


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
    x, width = rounded((edges[1:] + edges[:-1]) / 2), rounded(np.diff(edges))
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
    return finish(figure, f"Histogram of logit weights: {int(mask.sum())} tokens are {name}, {middle}.")


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
    need(table, ["target", "kind", score], "a table of scores")
    kinds = list(dict.fromkeys(table["kind"]))
    best = table.groupby(["target", "kind"], sort=False, observed=True)[score].max().unstack()
    targets = [str(target) for target in best.index]
    figure = go.Figure()
    if len(kinds) == 2:
        joins_x = [value for pair in zip(rounded(best[kinds[1]]), rounded(best[kinds[0]]), strict=True) for value in (*pair, None)]
        joins_y = [value for target in targets for value in (target, target, None)]
        join = {"color": GRID, "width": 3}
        figure.add_trace(go.Scatter(x=joins_x, y=joins_y, mode="lines", line=join, showlegend=False, hoverinfo="skip"))
    for kind in kinds:
        colour, symbol, _ = _looks(kind)
        label = f"best {kind}" if kind in ("feature", "neuron") else str(kind)
        mark = {"color": colour, "symbol": symbol, "size": 13 if len(targets) < 12 else 9}
        figure.add_trace(go.Scatter(x=rounded(best[kind]), y=targets, mode="markers", name=label, marker=mark))
        if reference is not None and kind in set(reference.get("kind", ())):
            old = reference[reference["kind"] == kind].groupby("target", sort=False, observed=True)[score].max()
            mark |= {"symbol": f"{symbol}-open", "line": {"width": 2}}
            y = [str(target) for target in old.index]
            figure.add_trace(go.Scatter(x=rounded(old), y=y, mode="markers", name=f"{label}, reference run", marker=mark))
    known = {target: value for target, value in (paper or {}).items() if target in targets}
    if known:
        mark = {"symbol": "line-ns", "size": 18, "line": {"color": PAPER, "width": 3}}
        figure.add_trace(go.Scatter(x=list(known.values()), y=list(known), mode="markers", name="paper, feature", marker=mark))
    low = min(0.0, float(np.nanmin(best.to_numpy(float), initial=0.0)))
    figure.update_xaxes(title_text=axis, range=[low - 0.02, 1.02])
    figure.update_yaxes(title_text="", autorange="reversed", type="category")
    parts = [f"{target}: " + ", ".join(f"{kind} {best.loc[target, kind]:.2f}" for kind in best.columns) for target in best.index]
    return finish(figure, f"{axis}. {'; '.join(parts)}.", 200 + (55 if len(targets) < 12 else 22) * len(targets))


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
            figure.add_trace(go.Bar(x=_middle(bins), y=rounded(share), width=_width(bins), name=label, marker={"color": FEATURE}))
        else:
            x, y = _outline(bins, rounded(share))
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
    return finish(figure, f"Histogram of best-match correlations: {', '.join(words) or 'no values'}.")


# Feature splitting


def family_counts(table: pd.DataFrame) -> go.Figure:
    """Number of in-class features of each context, by width of the dictionary.

    Args:
        table: context, d_sae (features of the dictionary), count (of them in class).

    Returns:
        One line a context; contexts differ by mark and dash.

    Source: Bricken et al. 2023, feature splitting.
    """
    need(table, ["context", "d_sae", "count"], "a table of families")
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
    return finish(figure, f"Features in class by width of the dictionary. {'; '.join(words)}.")


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
        figure.add_trace(go.Bar(x=_middle(bins), y=rounded(share), width=_width(bins), name=label, marker=marker, opacity=0.8))
        if len(values):
            words.append(f"median of {label} {np.median(values):.2f}")
    figure.update_layout(barmode="overlay", bargap=0, showlegend=True)
    figure.update_xaxes(title_text="cosine of decoder rows")
    figure.update_yaxes(title_text="pairs (%)")
    return finish(figure, f"Histogram of decoder cosines: {', '.join(words) or 'no values'}.")


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


def _finite(values: Numbers) -> np.ndarray:
    numbers = np.asarray(values, dtype=float).ravel()
    return numbers[np.isfinite(numbers)]


def _middle(table: pd.DataFrame) -> np.ndarray:
    return np.array(rounded((table["left"].to_numpy(float) + table["right"].to_numpy(float)) / 2))


def _width(table: pd.DataFrame) -> list[float | None]:
    return rounded(table["right"].to_numpy(float) - table["left"].to_numpy(float))


def _shares(table: pd.DataFrame, what: str) -> list[float | None]:
    need(table, ["left", "right", "count"], what)
    count = table["count"].to_numpy(float)
    return rounded(100 * count / max(count.sum(), 1))


def _edges(values: np.ndarray, n_bins: int) -> np.ndarray:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return np.linspace(low, high if high > low else low + 1.0, n_bins + 1)


def _outline(table: pd.DataFrame, heights: Numbers) -> tuple[list, list]:
    left, right = rounded(table["left"]), rounded(table["right"])
    x = [left[0], *(edge for pair in zip(left, right, strict=True) for edge in pair), right[-1]]
    y = [0, *(value for height in heights for value in (height, height)), 0]
    return x, y


def _power_ticks(low: Number, high: Number) -> dict:
    powers = list(range(math.floor(low), math.ceil(high) + 1))
    return {"tickvals": powers, "ticktext": [f"10<sup>{power}</sup>" for power in powers]}


# Interventions


def ablation_by_interval(intervals: pd.DataFrame, name: str = "in class") -> go.Figure:
    """What taking a feature off costs the tokens that follow, by how strongly it fired.

    Args:
        intervals: left, right (activation units), n_in_class, n_other (next tokens), in_class, other (mean change of their
            log-likelihood, nats).
        name: what the class is.

    Returns:
        Rise of the loss against the interval, for next tokens of the class and for others.

    Source: Bricken et al. 2023, Arabic script feature. Differs: the paper shows examples of two intervals.
    """
    need(intervals, ["left", "right", "n_in_class", "n_other", "in_class", "other"], "a table of an ablation")
    top, figure, words = intervals["right"].max() or 1.0, go.Figure(), []
    looks = {"in_class": (f"next token is {name}", PROXY, "circle", "solid"), "other": ("any other next token", FEATURE, "square", "dash")}
    for column, (label, colour, symbol, dash) in looks.items():
        figure.add_trace(
            go.Scatter(
                x=rounded(_middle(intervals) / top), y=rounded(-intervals[column].to_numpy(float)), name=label, mode="lines+markers",
                line={"color": colour, "dash": dash}, marker={"symbol": symbol, "size": 9},
                customdata=intervals[f"n_{column}"].tolist(), hovertemplate="%{y:.2f} nats over %{customdata:,} tokens",
            )
        )  # fmt: skip
        losses = -intervals[column].dropna()
        if len(losses):
            words.append(f"{label}: from {losses.iloc[0]:.2g} in the first interval to {losses.iloc[-1]:.2g} nats in the last")
    figure.add_hline(y=0, line={"color": PAPER, "width": 1})
    figure.update_xaxes(title_text="activation (share of the largest)", range=[-0.02, 1.02])
    figure.update_yaxes(title_text="rise of the loss without the feature (nats)")
    return finish(figure, f"Rise of the loss when the feature is taken off, by activation interval: {'; '.join(words) or 'no token'}.")
