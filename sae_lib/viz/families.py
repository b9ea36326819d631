"""Figures of feature splitting: one family in layers, and maps of decoder directions."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sae_lib.errors import BookError
from sae_lib.viz.base import FEATURE, PAPER, finish, need, rounded
from sae_lib.viz.text import visible

_MAP_POINTS = 5_000  # eight bytes each
_SHADES = ("#003F63", FEATURE, "#56B4E9")
_SYMBOLS = ("diamond", "circle", "x")


def family_graph(nodes: pd.DataFrame, edges: pd.DataFrame) -> go.Figure:
    """One family of features in layers, from the smallest dictionary to the largest, with every split and every merge.

    Args:
        nodes: dictionary, feature, and note (what is shown of it when pointed at, such as its strongest tokens).
        edges: source_dictionary, source, target_dictionary, target, cosine.

    Returns:
        A dot for each feature, a diamond where it has two parents or more; the edge from the closest parent is solid,
        from another parent dotted.

    Raises:
        BookError: an edge names a feature that is not among the nodes, or a column is missing.

    Source: Bricken et al. 2023, feature splitting.
    """
    need(nodes, ["dictionary", "feature", "note"], "a table of features")
    need(edges, ["source_dictionary", "source", "target_dictionary", "target", "cosine"], "a table of edges")
    ends = [((row.source_dictionary, row.source), (row.target_dictionary, row.target), row.cosine) for row in edges.itertuples()]
    places = _layers(list(zip(nodes["dictionary"], nodes["feature"], strict=True)), ends)
    figure = go.Figure()
    closest: dict[tuple, tuple] = {}
    for source, target, _ in sorted(ends, key=lambda end: -end[2]):
        closest.setdefault(target, source)
    for name, dash, shown in (("closest parent", "solid", True), ("another parent", "dot", False)):
        chosen = [(source, target) for source, target, _ in ends if (closest[target] == source) == shown]
        x, y = ([value for pair in chosen for value in (*(places[end][axis] for end in pair), None)] for axis in (0, 1))
        line = {"color": "#777777", "dash": dash, "width": 1.5}
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", name=name, line=line, hoverinfo="skip"))
    parents = pd.Series([target for _, target, _ in ends], dtype=object).value_counts()
    merged = [parents.get(place, 0) > 1 for place in places]
    marker = {
        "color": FEATURE,
        "size": 13,
        "symbol": ["diamond" if merge else "circle" for merge in merged],
        "line": {"color": PAPER, "width": 1},
    }
    notes = [f"<b>{escape(f'{row.dictionary}/{row.feature}')}</b><br>{escape(visible(row.note))}" for row in nodes.itertuples()]
    x, y = zip(*places.values(), strict=True)
    figure.add_trace(
        go.Scatter(
            x=list(x), y=rounded(y), mode="markers+text", marker=marker, showlegend=False, text=[str(feature) for _, feature in places],
            textposition="middle right", hovertext=notes, hoverinfo="text",
        )
    )  # fmt: skip
    order = list(dict.fromkeys(nodes["dictionary"]))
    figure.update_xaxes(
        title_text="dictionary", tickvals=list(range(len(order))), ticktext=order, range=[-0.2, len(order) - 0.5], showgrid=False
    )
    figure.update_yaxes(visible=False, range=[-0.05, 1.05])
    figure.update_layout(showlegend=True)
    counts = ", ".join(f"{int(count)} in {name}" for name, count in nodes["dictionary"].value_counts(sort=False).items())
    return finish(figure, f"A family of features: {counts}; {sum(merged)} of them have two parents or more.", 520)


def _layers(nodes: Sequence[tuple[str, int]], ends: Sequence[tuple[tuple, tuple, float]]) -> dict[tuple[str, int], tuple[int, float]]:
    """Where each feature stands: its dictionary's layer, and in it near the middle of its parents, so that few edges cross."""
    unknown = {end for source, target, _ in ends for end in (source, target)} - set(nodes)
    if unknown:
        raise BookError(
            f"an edge ends at {'/'.join(map(str, min(unknown)))}, which is not among the features; draw those of the same family"
        )
    order = list(dict.fromkeys(dictionary for dictionary, _ in nodes))
    places: dict[tuple[str, int], tuple[int, float]] = {}
    for layer, dictionary in enumerate(order):
        members = [node for node in nodes if node[0] == dictionary]
        middle: Mapping[tuple, float] = {
            node: float(np.mean([places[source][1] for source, target, _ in ends if target == node and source in places] or [0.5]))
            for node in members
        }
        ranked = sorted(members, key=lambda node: (middle[node], node))
        places |= {node: (layer, (rank + 0.5) / len(ranked)) for rank, node in enumerate(ranked)}
    return {node: places[node] for node in nodes}


def feature_map(table: pd.DataFrame, marked: str = "") -> go.Figure:
    """Decoder directions on a plane: a point a feature, one mark and colour a dictionary.

    Args:
        table: dictionary, feature, x, y, and with `marked` a column of truth values of that name.
        marked: the column whose true rows are drawn with a ring, such as a family.

    Returns:
        A map of at most 5,000 features: all of the first dictionary, all that are marked, and every k-th of the rest if need be.

    Source: Bricken et al. 2023, feature splitting (UMAP of the decoder).
    """
    need(table, ["dictionary", "feature", "x", "y", *([marked] if marked else [])], "a map")
    ring = table[table[marked]] if marked else table.head(0)
    small = table["dictionary"] == table["dictionary"].iloc[0]
    thinned = pd.concat([table[small], table[~small].iloc[:: max(1, -(-int((~small).sum()) // max(1, _MAP_POINTS - int(small.sum()))))]])
    # Whole numbers of two bytes, so that a stored map stays small.
    low, span = table[["x", "y"]].min(), (table[["x", "y"]].max() - table[["x", "y"]].min()).replace(0, 1)

    def places(rows: pd.DataFrame) -> dict:
        x, y = ((10_000 * (rows[axis] - low[axis]) / span[axis]).round().to_numpy(np.int16) for axis in ("x", "y"))
        return {"x": x, "y": y, "customdata": rows["feature"].to_numpy(np.int16), "mode": "markers"}

    figure = go.Figure()
    for i, (dictionary, rows) in enumerate(thinned.groupby("dictionary", sort=False, observed=True)):
        marker = {"color": _SHADES[i % 3], "symbol": _SYMBOLS[i % 3], "size": 8 - 2 * min(i, 2), "opacity": 0.8}
        name = escape(str(dictionary))
        figure.add_trace(go.Scatter(**places(rows), name=name, marker=marker, hovertemplate=f"{name}/%{{customdata}}<extra></extra>"))
    if len(ring):
        marker = {"color": PAPER, "symbol": "circle-open", "size": 14, "line": {"width": 2}}
        figure.add_trace(go.Scatter(**places(ring), name=escape(marked), marker=marker, hoverinfo="skip"))
    for axis, which in ((figure.update_xaxes, "first"), (figure.update_yaxes, "second")):
        axis(title_text=f"{which} coordinate (no unit)", showticklabels=False, ticks="", showline=False, showgrid=False)
    figure.update_layout(showlegend=True)
    counts = ", ".join(f"{count:,} of {name}" for name, count in table["dictionary"].value_counts(sort=False).items())
    return finish(figure, f"A map of decoder directions: {counts}{f'; {len(ring)} are marked as {marked}' if marked else ''}.", 560)
