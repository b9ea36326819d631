"""Figures of how much is explained: the frontier, the cost by kind of token, and the ultralow cluster."""

from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae_lib.viz.base import CONTROL, FEATURE, PAPER, finish, need, rounded

_MOST = 400  # features of one group in the scatter: more hide each other


def frontier(table: pd.DataFrame, paper: dict[str, float] | None = None) -> go.Figure:
    """What dictionaries give up for how few features they use: in the model's loss, and in the activations themselves.

    Args:
        table: series (dictionaries that are joined by a line), name (of the dictionary), l0 (features per token),
            loss_recovered (share), low and high, the ends of its interval, and explained_variance (share).
        paper: horizontal rules in the upper panel by name, in shares.

    Returns:
        Loss recovered, with intervals, and below it explained variance, against L0 on a logarithmic axis.

    Source: Bricken et al. 2023, "How much of the model does our interpretation explain?".
    """
    need(table, ["series", "name", "l0", "loss_recovered", "low", "high", "explained_variance"], "a frontier")
    figure, words = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06), []
    looks = cycle(((FEATURE, "circle", "solid"), ("#444444", "square", "dash"), ("#56B4E9", "diamond", "dot")))
    for (series, rows), (colour, symbol, dash) in zip(table.groupby("series", sort=False, observed=True), looks, strict=False):
        rows = rows.sort_values("l0")
        ends = [np.nan_to_num(100 * (rows["high"] - rows["loss_recovered"])), np.nan_to_num(100 * (rows["loss_recovered"] - rows["low"]))]
        bars = {"type": "data", "symmetric": False, "array": rounded(ends[0]), "arrayminus": rounded(ends[1])}
        look = {"line": {"color": colour, "dash": dash}, "marker": {"symbol": symbol, "size": 10}, "name": str(series)}
        sides = ["top left", "bottom right"] * len(rows)
        look |= {"legendgroup": str(series), "text": [str(name) for name in rows["name"]], "textposition": sides[: len(rows)]}
        for panel, (column, more) in enumerate((("loss_recovered", {"error_y": bars}), ("explained_variance", {"showlegend": False})), 1):
            # Names stand in the upper panel only; the points below lie under their own.
            mode = "lines+markers+text" if panel == 1 else "lines+markers"
            trace = go.Scatter(x=rounded(rows["l0"]), y=rounded(100 * rows[column]), mode=mode, **look, **more)
            figure.add_trace(trace, row=panel, col=1)
        words += [
            f"{series} {name} {100 * loss:.1f}% and {100 * variance:.1f}% at {l0:.1f}"
            for name, loss, variance, l0 in rows[["name", "loss_recovered", "explained_variance", "l0"]].itertuples(index=False)
        ]
    for name, value in (paper or {}).items():
        figure.add_hline(y=100 * value, line={"color": PAPER, "width": 1.5, "dash": "dot"}, row=1, col=1)
        figure.add_annotation(x=0.5, y=100 * value, xref="x domain", yref="y", text=name, showarrow=False, yanchor="bottom")
    figure.update_xaxes(type="log")
    figure.update_xaxes(title_text="L0 (features per token)", row=2, col=1)
    # Room for the names above the points.
    figure.update_yaxes(title_text="loss recovered (%)", range=[min(0, 100 * table["loss_recovered"].min()) - 5, 110], row=1, col=1)
    figure.update_yaxes(title_text="variance explained (%)", row=2, col=1)
    return finish(figure, f"Loss recovered and variance explained against L0: {', '.join(words)}.", 620)


def cost_by_kind(table: pd.DataFrame) -> go.Figure:
    """What a dictionary adds to the loss on tokens of each kind.

    Args:
        table: kind, added (nats per token), and low and high, the ends of its interval.

    Returns:
        One row a kind, the costliest first; bars are intervals over documents.
    """
    need(table, ["kind", "added", "low", "high"], "a table of costs")
    rows = table.sort_values("added", ascending=False)
    bars = {
        "type": "data", "symmetric": False, "array": rounded(np.nan_to_num(rows["high"] - rows["added"])),
        "arrayminus": rounded(np.nan_to_num(rows["added"] - rows["low"])),
    }  # fmt: skip
    names = [str(kind) for kind in rows["kind"]]
    figure = go.Figure(go.Scatter(x=rounded(rows["added"]), y=names, error_x=bars, mode="markers", marker={"color": FEATURE, "size": 9}))
    figure.update_xaxes(title_text="loss added by the reconstruction (nats per token)", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", type="category")
    words = [f"{kind} {added:.3f}" for kind, added in zip(names, rows["added"], strict=True)]
    return finish(figure, f"Loss added on tokens of each kind: {', '.join(words)}.", 160 + 26 * len(rows))


def cluster(points: pd.DataFrame, inside: np.ndarray) -> go.Figure:
    """Features in the three coordinates by which ultralow ones are told from others.

    Args:
        points: log10_density, b_enc and product, one row a feature, all finite.
        inside: which features are ultralow.

    Returns:
        Encoder bias and encoder-decoder product against density; of large groups every k-th feature is drawn.

    Source: Bricken et al. 2023, "The Ultralow Density Cluster".
    """
    need(points, ["log10_density", "b_enc", "product"], "the coordinates of features")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    groups = (("ordinary features", ~np.asarray(inside), FEATURE, "circle"), ("ultralow features", np.asarray(inside), CONTROL, "x"))
    for name, chosen, colour, symbol in groups:
        rows = points[chosen]
        rows = rows.iloc[:: max(1, -(-len(rows) // _MOST))]
        for panel, column in enumerate(("b_enc", "product"), 1):
            mark = {"color": colour, "symbol": symbol, "size": 5, "opacity": 0.7}
            x, y = ([None if value is None else round(value, 3) for value in rounded(rows[key])] for key in ("log10_density", column))
            figure.add_trace(
                go.Scatter(x=x, y=y, mode="markers", name=name, marker=mark, showlegend=panel == 1, legendgroup=name), row=panel, col=1
            )
    figure.update_yaxes(title_text="encoder bias<br>(activation units)", row=1, col=1)
    figure.update_yaxes(title_text="encoder · decoder", row=2, col=1)
    figure.update_xaxes(title_text="log10 of feature density", row=2, col=1)
    count = int(np.sum(inside))
    return finish(figure, f"Encoder bias and encoder-decoder product against density: {count} ultralow of {len(points)} features.", 520)
