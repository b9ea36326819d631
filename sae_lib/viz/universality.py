"""Figures of two models side by side."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae_lib.viz.base import FEATURE, GRID, MAX_POINTS, PROXY, finish, need, rounded


def similarity_scatter(table: pd.DataFrame) -> go.Figure:
    """How logit similarity and attribution similarity go with activation similarity, a point a pair of features.

    Args:
        table: activation, logit, attribution (correlations from -1 to 1), one row a pair; of many pairs every k-th is drawn.

    Returns:
        Two panels over one axis of activation similarity.

    Source: Bricken et al. 2023, "Universality" (the two scatter plots).
    """
    names = ["activation", "logit", "attribution"]
    need(table, names, "a table of similarities", empty=True)
    known = table[names].dropna().sort_values("activation")
    shown = known.iloc[:: -(-len(known) // MAX_POINTS) or 1]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    looks = (("logit", PROXY, "diamond"), ("attribution", FEATURE, "circle"))
    words = []
    for column, (name, colour, symbol) in enumerate(looks, 1):
        line = {"color": GRID, "width": 2}
        figure.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line=line, showlegend=False, hoverinfo="skip"), row=1, col=column)
        mark = {"color": colour, "symbol": symbol, "size": 5, "opacity": 0.6}
        points = go.Scatter(x=rounded(shown["activation"]), y=rounded(shown[name]), mode="markers", name=f"{name} similarity", marker=mark)
        figure.add_trace(points, row=1, col=column)
        figure.update_xaxes(title_text="activation similarity", range=[-0.05, 1.05], row=1, col=column)
        if len(known) > 1:
            words.append(
                f"{name} similarity correlates with activation similarity at {np.corrcoef(known['activation'], known[name])[0, 1]:.2f}"
            )
    figure.update_yaxes(title_text="similarity (correlation)", range=[-1.05, 1.05], col=1)
    figure.update_yaxes(range=[-1.05, 1.05], col=2)
    figure.update_layout(showlegend=True)
    return finish(figure, f"Two scatter plots over {len(known):,} pairs: {'; '.join(words) or 'too few to correlate'}.")
