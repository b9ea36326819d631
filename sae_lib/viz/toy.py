"""Figures of toy models: arrows, interference, neurons, phases, dimensionalities, polytopes, and curves.

Frames are drawn ahead, so that a slider moves without a kernel.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae_lib.errors import BookError
from sae_lib.viz.base import FEATURE, GRID, MAX_POINTS, PAPER, PROXY, Number, Numbers, finish, need, rounded

NOTE = {"showarrow": False, "font": {"size": 11}, "bgcolor": "rgba(255,255,255,0.75)"}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
SHADES = (FEATURE, "#444444", "#56B4E9", "#8A8A8A", "#003F63", "#B0B0B0")
PHASE_COLOURS = ("#D9D9D9", "#FDD9B5", "#9CC9E8", "#4A90C2", "#F2F2F2")  # one each: names are told apart by their words


def _slider(figure: go.Figure, frames: Mapping[str, list], label: str) -> go.Figure:
    """Add frames and the slider that chooses among them; the first is drawn already."""
    figure.frames = [go.Frame(name=key, data=data) for key, data in frames.items()]
    move = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": key, "method": "animate", "args": [[key], move]} for key in frames]
    slider = {"currentvalue": {"prefix": f"{label}: "}, "pad": {"t": 48}, "steps": steps}
    return figure.update_layout(sliders=[slider] if len(frames) > 1 else [], showlegend=False)


def _matrices(frames: Mapping[str, np.ndarray], what: str, rows: int | None = None) -> dict[str, np.ndarray]:
    found = {str(key): np.asarray(matrix, dtype=float) for key, matrix in frames.items()}
    if not found:
        raise BookError(f"{what} was given no matrix; pass at least one")
    for key, matrix in found.items():
        if matrix.ndim != 2 or (rows and matrix.shape[0] != rows):
            raise BookError(f"{what}: the matrix of {key} has shape {list(matrix.shape)}, not [{rows or 'rows'}, columns]")
    return found


def toy_vectors(
    weights: Mapping[str, np.ndarray] | Sequence[tuple[str, np.ndarray]],
    label: str = "density",
    points: Mapping[str, np.ndarray] | None = None,
) -> go.Figure:
    """The columns of a toy model's weight matrix as arrows in the plane, one frame a model.

    Args:
        weights: W of shape [2, n_features] by the value of `label`, in the order of the slider.
        label: what the slider changes.
        points: where a model puts its data points, [2, n_points] by the same values; open squares.

    Returns:
        Arrows from the origin, with a slider; the first frame is drawn. Arrows shorter than a twentieth are left out.

    Source: Elhage et al. 2022, superposition in two dimensions; Henighan et al. 2023 for the points.
    """
    models = _matrices(dict(weights), "toy_vectors draws the plane", rows=2)
    marks = _matrices(points, "toy_vectors draws the plane", rows=2) if points else {}
    if marks and set(marks) != set(models):
        raise BookError(f"toy_vectors needs points for the same values of {label} as weights: {', '.join(models)}")
    widest = [float(np.abs(W).max(initial=0)) for W in (*models.values(), *marks.values())]
    reach = 1.25 * max(1.0, *widest)
    drawn = {key: _arrows(W) + ([_squares(marks[key])] if marks else []) for key, W in models.items()}
    figure = go.Figure(next(iter(drawn.values())))
    figure.update_xaxes(title_text="first hidden dimension", range=[-reach, reach], constrain="domain")
    figure.update_yaxes(title_text="second hidden dimension", range=[-reach, reach], scaleanchor="x", constrain="domain")
    _slider(figure, drawn, label)
    long = [f"{int((np.linalg.norm(W, axis=0) > 0.5).sum())} at {label} {key}" for key, W in models.items()]
    return finish(figure, f"Feature vectors of a toy model in the plane; longer than one half: {', '.join(long)}.", 520)


def _arrows(W: np.ndarray) -> list[go.Scatter]:
    shown = np.flatnonzero(np.linalg.norm(W, axis=0) > 0.05)
    n, tips = len(shown), W[:, shown]
    xs = [value for x in rounded(tips[0]) for value in (0, x, None)]
    ys = [value for y in rounded(tips[1]) for value in (0, y, None)]
    heads = {"symbol": ["circle", "arrow", "circle"] * n, "size": [1, 12, 1] * n, "angleref": "previous", "color": FEATURE}
    arrows = go.Scatter(x=xs, y=ys, mode="lines+markers", line={"color": FEATURE, "width": 2}, marker=heads, hoverinfo="skip")
    # Where there are too many arrows to number, the pointer still says which is which.
    numbers = [str(i + 1) for i in shown]
    mode = "text" if n <= 40 else "markers"
    names = go.Scatter(
        x=rounded(1.08 * tips[0]), y=rounded(1.08 * tips[1]), mode=mode, text=numbers, marker={"size": 3, "color": FEATURE},
        hovertemplate="feature %{text}<extra></extra>",
    )  # fmt: skip
    return [arrows, names]


def _squares(h: np.ndarray) -> go.Scatter:
    mark = {"symbol": "square-open", "size": 9, "color": PROXY, "line": {"width": 2}}
    return go.Scatter(x=rounded(h[0]), y=rounded(h[1]), mode="markers", marker=mark, hovertemplate="a data point<extra></extra>")


def gram(frames: Mapping[str, np.ndarray], label: str = "density") -> go.Figure:
    """W.T @ W as a heat map, and below it the length of each feature's arrow, darker where others use its direction.

    Args:
        frames: W of shape [d_hidden, n_features] by the value of `label`.
        label: what the slider changes.

    Source: Elhage et al. 2022, "Demonstrating Superposition".
    """
    models = _matrices(frames, "gram")
    widths = {W.shape[1] for W in models.values()}
    if len(widths) > 1:
        raise BookError(f"gram needs as many features at every {label}; there are {', '.join(map(str, sorted(widths)))}")
    drawn = {key: _gram(W) for key, W in models.items()}
    figure = go.Figure(next(iter(drawn.values())))
    n = widths.pop()
    # Both panels hang on one horizontal axis, so that a bar stands below its column at every width of the page.
    figure.update_xaxes(title_text="feature", range=[0.5, n + 0.5], constrain="domain", anchor="y2")
    top = max(1.3, *(1.05 * float(np.linalg.norm(W, axis=0).max(initial=0)) for W in models.values()))
    figure.update_layout(
        yaxis={"title": {"text": "feature"}, "range": [n + 0.5, 0.5], "scaleanchor": "x", "constrain": "domain", "domain": [0.34, 1]},
        yaxis2={"title": {"text": "length"}, "range": [0, top], "domain": [0, 0.27]},
    )
    _slider(figure, drawn, label)
    kept = [f"{int((np.linalg.norm(W, axis=0) > 0.5).sum())} at {label} {key}" for key, W in models.items()]
    return finish(figure, f"Products of feature directions, and their lengths; longer than one half: {', '.join(kept)}.", 720)


def _gram(W: np.ndarray) -> list:
    number = list(range(1, W.shape[1] + 1))
    hundredths = np.rint(100 * W.T @ W)
    # Whole hundredths of a byte each keep eighty features in a dozen frames small.
    z = hundredths.astype(np.int8 if np.abs(hundredths).max(initial=0) <= 127 else np.int32)
    heat = go.Heatmap(
        x=number, y=number, z=z, zmin=-100, zmax=100, colorscale="RdBu_r", colorbar=_key("product", 0.0, [-100, 0, 100], ["−1", "0", "1"]),
        hovertemplate="feature %{y} with feature %{x}: %{z}/100<extra></extra>",
    )  # fmt: skip
    key = _key("shared with others", 0.56, [0, 0.5, 1], ["0", "0.5", "1"])
    fill = {"color": rounded(_shared(W).round(3)), "cmin": 0, "cmax": 1, "colorscale": "Blues", "colorbar": key}
    bars = go.Bar(
        x=number, y=rounded(np.linalg.norm(W, axis=0).round(3)), yaxis="y2", marker=fill | {"line": {"color": "#222222", "width": 0.5}},
        hovertemplate="feature %{x}: length %{y}, shared %{marker.color}<extra></extra>",
    )  # fmt: skip
    return [heat, bars]


def _key(title: str, x: float, values: list, words: list[str]) -> dict:
    return {
        "orientation": "h", "x": x, "xanchor": "left", "len": 0.42, "thickness": 10, "y": 1.01, "yanchor": "bottom", "xpad": 8,
        "title": {"text": title, "side": "top", "font": {"size": 12}}, "tickvals": values, "ticktext": words,
    }  # fmt: skip


def neuron_stack(frames: Mapping[str, np.ndarray], label: str = "density", share: Number = 0.25) -> go.Figure:
    """What each neuron answers to: its features' contributions on top of each other, hatched where there are several.

    Args:
        frames: contributions [neuron, n_features] by the value of `label`.
        label: what the slider changes.
        share: of the largest contribution, from which a second feature makes a neuron polysemantic.

    Source: Elhage et al. 2022, "Superposition in a Privileged Basis".
    """
    models = _matrices(frames, "neuron_stack")
    figure = go.Figure()
    depth = min(6, *(C.shape[1] for C in models.values()))
    looks = {"one feature": "", "several features": "/"}
    keys = [go.Bar(x=[None], y=[None], name=name, marker={"color": FEATURE, "pattern": _hatch(shape)}) for name, shape in looks.items()]
    drawn = {key: _stack(np.abs(C), depth, share) + keys for key, C in models.items()}
    figure.add_traces(next(iter(drawn.values())))
    top = max(float(np.abs(C).sum(1).max()) for C in models.values())
    figure.update_xaxes(title_text="neuron")
    figure.update_yaxes(title_text="contribution of its features", range=[0, 1.05 * top])
    figure.update_layout(barmode="stack", bargap=0.15)
    _slider(figure, drawn, label)
    figure.update_layout(showlegend=True, legend={"traceorder": "normal", "itemclick": False, "itemdoubleclick": False})
    several = [f"{_several(np.abs(C), share).sum()} of {len(C)} at {label} {key}" for key, C in models.items()]
    return finish(figure, f"Neurons and the features they answer to; several features: {', '.join(several)}.", 460)


def _hatch(shape: str | list[str]) -> dict:
    return {"shape": shape, "fillmode": "overlay", "fgcolor": "#FFFFFF", "size": 7, "solidity": 0.3}


def _several(C: np.ndarray, share: Number) -> np.ndarray:
    ordered = -np.sort(-C, axis=1)
    return (ordered[:, 1] >= share * ordered[:, 0]) & (ordered[:, 0] > 0.05) if C.shape[1] > 1 else np.zeros(len(C), bool)


def _stack(C: np.ndarray, depth: int, share: Number) -> list[go.Bar]:
    """One bar trace a place in each neuron's own order, and the rest together."""
    order = np.argsort(-C, axis=1)
    pattern = _hatch(["/" if many else "" for many in _several(C, share)])
    number = list(range(1, len(C) + 1))
    shades = ("#0072B2", "#7FB8DA", "#2F8FC4", "#B5D6EA", "#5CA5D0", "#DCEBF5")
    traces = []
    for place in range(depth):
        values = np.take_along_axis(C, order[:, place : place + 1], 1)[:, 0]
        names = [f"{feature + 1}" for feature in order[:, place]]
        traces.append(
            go.Bar(
                x=number, y=rounded(values), text=names if place < 2 and len(C) <= 12 else None, textposition="inside", textangle=0,
                customdata=names,
                marker={"color": shades[place % len(shades)], "pattern": pattern, "line": {"color": "#FFFFFF", "width": 1}},
                hovertemplate="neuron %{x}, feature %{customdata}: %{y}<extra></extra>", showlegend=False,
            )
        )  # fmt: skip
    rest = np.take_along_axis(C, order[:, depth:], 1).sum(1)
    grey = {"color": "#BDBDBD", "pattern": pattern, "line": {"color": "#FFFFFF", "width": 1}}
    hover = "neuron %{x}, all other features: %{y}<extra></extra>"
    return [*traces, go.Bar(x=number, y=rounded(rest), marker=grey, hovertemplate=hover, showlegend=False)]


def phase_diagram(
    panels: Mapping[str, np.ndarray],
    names: Sequence[str],
    importance: np.ndarray,
    density: np.ndarray,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    misses: np.ndarray | None = None,
) -> go.Figure:
    """Which solution each cell of a grid of tasks ends in.

    Args:
        panels: places in `names` [density, importance], such as "trained" and "closed form".
        names: of the solutions.
        importance: of the columns.
        density: of the rows.
        curves: boundaries, importances and densities by name.
        misses: cells [density, importance] to mark.

    Source: Elhage et al. 2022, "Superposition as a Phase Change".
    """
    grids = {key: np.asarray(grid, dtype=int) for key, grid in panels.items()}
    if not grids or any(grid.shape != (len(density), len(importance)) for grid in grids.values()):
        raise BookError(f"phase_diagram needs panels of shape [{len(density)}, {len(importance)}], one at least")
    if misses is not None and np.shape(misses) != (len(density), len(importance)):
        raise BookError(f"phase_diagram needs misses of shape [{len(density)}, {len(importance)}], not {list(np.shape(misses))}")
    most = min(len(names), len(PHASE_COLOURS))
    if any(grid.min() < 0 or grid.max() >= most for grid in grids.values()):
        raise BookError(
            f"phase_diagram needs places from 0 to {most - 1}, one for each of {len(names)} names, of which five at most have a colour"
        )
    figure = make_subplots(rows=len(grids), cols=1, subplot_titles=list(grids), vertical_spacing=0.1)
    scale = [stop for k in range(5) for stop in ([k / 5, PHASE_COLOURS[k]], [(k + 1) / 5, PHASE_COLOURS[k]])]
    x, y = np.log10(importance), np.log10(density)
    for row, grid in enumerate(grids.values(), 1):
        text = [[names[k] for k in line] for line in grid]
        figure.add_trace(
            go.Heatmap(
                x=rounded(x), y=rounded(y), z=grid.tolist(), zmin=-0.5, zmax=4.5, colorscale=scale, showscale=False, text=text,
                xgap=1, ygap=1, hovertemplate="importance 10^%{x}, density 10^%{y}: %{text}<extra></extra>",
            ), row=row, col=1,
        )  # fmt: skip
        for name, (at, height) in (curves or {}).items():
            inside = (np.asarray(height) >= min(density)) & (np.asarray(height) <= max(density))
            figure.add_trace(
                go.Scatter(
                    x=rounded(np.log10(np.asarray(at)[inside])), y=rounded(np.log10(np.asarray(height)[inside])), mode="lines",
                    line={"color": PAPER, "width": 2}, name=name, hoverinfo="name",
                ), row=row, col=1,
            )  # fmt: skip
        if misses is not None and row == 1:
            where = np.argwhere(misses)
            cross = {"symbol": "x-thin", "size": 8, "line": {"color": PAPER, "width": 2}}
            at = {"x": rounded(x[where[:, 1]]), "y": rounded(y[where[:, 0]])}
            figure.add_trace(go.Scatter(**at, mode="markers", marker=cross, hoverinfo="skip"), row=row, col=1)
        for k in sorted(set(grid.ravel().tolist())):
            cells = np.argwhere(grid == k)
            if len(cells) >= 8:
                # The cell of the region nearest its centre, so that a bent region is not named outside itself.
                middle = cells[np.abs(cells - cells.mean(0)).sum(1).argmin()]
                figure.add_annotation(
                    x=float(x[middle[1]]), y=float(y[middle[0]]), text=names[k], showarrow=False, font={"size": 12},
                    bgcolor="rgba(255,255,255,0.7)", row=row, col=1,
                )  # fmt: skip
        figure.update_xaxes(tickvals=[-1, 0, 1], ticktext=["0.1", "1", "10"], row=row, col=1)
        figure.update_yaxes(tickvals=[0, -1, -2], ticktext=["1", "0.1", "0.01"], title_text="density", row=row, col=1)
    figure.update_xaxes(title_text="importance of the last feature", row=len(grids), col=1)
    shares = [f"{name} {100 * float((grid == k).mean()):.0f}%" for grid in list(grids.values())[:1] for k, name in enumerate(names)]
    figure.update_layout(showlegend=False)
    return finish(figure, f"Phase diagram; cells of the first panel: {', '.join(shares)}.", 380 * len(grids))


def dimensionality_strip(table: pd.DataFrame, levels: Mapping[str, Number] | None = None) -> go.Figure:
    """The share of a dimension that features have, at every density.

    Args:
        table: density, dimensionality (0 to 1), count (features).
        levels: values to rule, such as {"digon 1/2": 0.5}.

    Source: Elhage et al. 2022, "The Geometry of Superposition".
    """
    need(table, ["density", "dimensionality", "count"], "a strip of dimensionalities")
    if not (table["density"] > 0).all():
        raise BookError("every density of a strip of dimensionalities must be above 0, for its axis is that of 1/density")
    size = 3 + 11 * np.sqrt(table["count"].to_numpy(float) / table["count"].max())
    dots = {"size": rounded(size), "color": FEATURE, "opacity": 0.6, "line": {"width": 0}}
    figure = go.Figure(
        go.Scatter(
            x=rounded(1 / table["density"]), y=rounded(table["dimensionality"]), mode="markers", marker=dots,
            customdata=table["count"].tolist(), hovertemplate="1/density %{x}: %{customdata} features at %{y}<extra></extra>",
        )
    )  # fmt: skip
    above = np.inf
    for name, value in sorted((levels or {}).items(), key=lambda level: -level[1]):
        figure.add_hline(y=value, line={"color": "#444444", "dash": "dot", "width": 1})
        # At the left, where inputs are dense, the levels between 0 and 1 are empty. A label close under another goes below its rule.
        side = "top" if above - value < 0.06 else "bottom"
        figure.add_annotation(text=name, **NOTE, x=0.01, xref="paper", xanchor="left", y=value, yref="y", yanchor=side)
        above = value
    figure.update_xaxes(title_text="1 / density", **_plain_log(1 / table["density"]))
    figure.update_yaxes(title_text="dimensionality of a feature", range=[-0.04, 1.08])
    common = table.groupby(table["dimensionality"].round(2))["count"].sum().idxmax()
    return finish(figure, f"Dimensionality of single features by density; the commonest is {common:.2f}.", 460)


def polytopes(frames: Mapping[str, np.ndarray], label: str = "features") -> go.Figure:
    """The columns of W in three dimensions, with an edge between neighbouring corners.

    Args:
        frames: W of shape [3, n_features] by the value of `label`.
        label: what the slider changes.

    Source: Elhage et al. 2022, "The Geometry of Superposition".
    """
    models = _matrices(frames, "polytopes", rows=3)
    most = max(int((np.linalg.norm(W, axis=0) > 0.5).sum()) for W in models.values())
    drawn = {key: _solid(W, most) for key, W in models.items()}
    figure = go.Figure(next(iter(drawn.values())))
    reach = 1.2 * max(1.0, *(float(np.abs(W).max(initial=0)) for W in models.values()))
    axis = {"range": [-reach, reach], "showticklabels": False, "title": "", "showbackground": False, "gridcolor": GRID, "zeroline": False}
    figure.update_layout(
        scene={"xaxis": axis, "yaxis": axis, "zaxis": axis, "aspectmode": "cube", "camera": {"eye": {"x": 1.1, "y": 0.9, "z": 0.7}}}
    )
    _slider(figure, drawn, label)
    corners = [f"{_corners(W)} for {key} {label}" for key, W in models.items()]
    return finish(figure, f"Feature directions in three dimensions: {', '.join(corners)}.", 560)


def _corners(W: np.ndarray) -> str:
    """Corners and their dimensionalities in words: all that is left where a browser draws nothing in space."""
    kept = np.linalg.norm(W, axis=0) > 0.5
    share = (np.square(W).sum(0) / np.maximum(_shared(W) + np.square(W).sum(0), 1e-12))[kept].round(2)
    parts = [f"{count} of dimensionality {value:.2f}" for value, count in zip(*np.unique(share, return_counts=True), strict=True)]
    return f"{int(kept.sum())} corners ({', '.join(parts) or 'none'})"


def _shared(W: np.ndarray) -> np.ndarray:
    """How much of each feature's direction the others use."""
    norm = np.linalg.norm(W, axis=0)
    return np.clip(np.square((W / np.maximum(norm, 1e-9)).T @ W).sum(1) - norm**2, 0, None)


def _solid(W: np.ndarray, most: int) -> list[go.Scatter3d]:
    kept = np.flatnonzero(np.linalg.norm(W, axis=0) > 0.5)
    W = W[:, kept]
    distance = np.linalg.norm(W[:, :, None] - W[:, None], axis=0) + np.diag(np.full(W.shape[1], np.inf))
    near = distance.min(1, initial=np.inf) * 1.25
    pairs = [(i, j) for i in range(W.shape[1]) for j in range(i) if distance[i, j] <= min(near[i], near[j])]
    rays = [[v for i in range(W.shape[1]) for v in (0.0, *rounded(W[axis, i : i + 1]), None)] for axis in range(3)]
    edges = [[v for i, j in pairs for v in (*rounded(W[axis, [i, j]]), None)] for axis in range(3)]
    lines = {"x": rays[0], "y": rays[1], "z": rays[2], "mode": "lines", "hoverinfo": "skip"}
    # The numbers of corners that only a later frame adds would not be drawn, so all frames have as many; the last stands for those.
    filled = np.minimum(np.arange(most if len(kept) else 0), len(kept) - 1)
    numbers = [str(i + 1) for i in kept[filled]]
    return [
        go.Scatter3d(**lines, line={"color": FEATURE, "width": 6}),
        go.Scatter3d(x=edges[0], y=edges[1], z=edges[2], mode="lines", hoverinfo="skip", line={"color": "#888888", "width": 2}),
        go.Scatter3d(
            x=rounded(W[0, filled]), y=rounded(W[1, filled]), z=rounded(W[2, filled]), mode="markers+text", text=numbers,
            marker={"size": 6, "color": FEATURE}, hovertemplate="feature %{text}<extra></extra>",
        ),
    ]  # fmt: skip


def learning(steps: Sequence[int], dimensionality: np.ndarray, loss: np.ndarray, jumps: Sequence[int] = ()) -> go.Figure:
    """The dimensionality of every feature during training, and the loss below.

    Args:
        steps: of the states.
        dimensionality: [state, feature].
        loss: [state], weighted squared units an input.
        jumps: steps to rule.

    Source: Elhage et al. 2022, "Superposition and Learning Dynamics".
    """
    shares, losses = np.asarray(dimensionality, float), np.asarray(loss, float)
    if shares.ndim != 2 or len(shares) != len(steps) or losses.shape != (len(steps),):
        raise BookError(f"learning needs dimensionalities [{len(steps)}, feature] and {len(steps)} losses")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4])
    most = min(MAX_POINTS, max(60, 3_000 // max(1, shares.shape[1])))
    place = np.unique(np.linspace(0, len(steps) - 1, min(MAX_POINTS, len(steps))).astype(int))
    at = np.asarray(steps)
    for i, dash, shade in zip(range(shares.shape[1]), cycle(DASHES), cycle(SHADES), strict=False):
        line = {"color": shade, "dash": dash, "width": 2}
        kept = _bends(at, shares[:, i], most)
        curve = go.Scatter(x=at[kept].tolist(), y=rounded(shares[kept, i].round(3)), mode="lines", line=line, name=f"feature {i + 1}")
        # More lines than this are told apart by pointing at them; their legend would be longer than the panel.
        figure.add_trace(curve.update(showlegend=shares.shape[1] <= 6), row=1, col=1)
    black = {"color": "#222222", "width": 2}
    figure.add_trace(
        go.Scatter(x=at[place].tolist(), y=rounded(losses[place]), mode="lines", line=black, showlegend=False, name="loss"), row=2, col=1
    )
    for step in jumps:
        figure.add_vline(x=step, line={"color": PAPER, "dash": "dot", "width": 1.5})
    figure.update_yaxes(title_text="dimensionality", range=[0, 1.05], row=1, col=1)
    figure.update_yaxes(title_text="loss", row=2, col=1, **_plain_log(losses))
    figure.update_xaxes(title_text="training step", row=2, col=1)
    words = f"a jump at step {', '.join(map(str, jumps))}" if len(jumps) else "no jump marked"
    return finish(figure, f"Dimensionality of each feature during training, and the loss, with {words}.", 560)


def _bends(x: np.ndarray, y: np.ndarray, most: int, tolerance: float = 0.005) -> list[int]:
    """The fewest places between which straight lines stay near a curve: its jumps stay sharp, and its plateaus cost nothing."""
    kept, unsure = {0, len(x) - 1}, [(0, len(x) - 1)]
    while unsure:
        first, last = unsure.pop()
        away = np.abs(y - np.interp(x, x[[first, last]], y[[first, last]]))[first : last + 1]
        if away.max(initial=0) > tolerance:
            corner = first + int(away.argmax())
            kept.add(corner)
            unsure += [(first, corner), (corner, last)]
    return sorted(kept) if len(kept) <= most else _bends(x, y, most, 2 * tolerance)


def curves(
    table: pd.DataFrame,
    x: str,
    y: Sequence[str],
    by: str | None = None,
    levels: Mapping[str, Number] | None = None,
    marks: Mapping[str, Number] | None = None,
    log_x: bool = True,
    log_y: bool = False,
) -> go.Figure:
    """Measures against one quantity, a panel a measure and a line a group.

    Args:
        table: one row a point.
        x: column of the horizontal axis.
        y: columns of the panels, top to bottom.
        by: column whose values are the lines.
        levels: horizontal rules by name, in every panel.
        marks: vertical rules by name, in every panel.
        log_x: whether x is on a logarithmic axis.
        log_y: whether the panels are.
    """
    if not len(y):
        raise BookError("curves was given no column to draw; name one at least, such as ['loss']")
    need(table, [x, *y, *([by] if by else [])], "a table of curves")
    if log_x and not (table[x] > 0).all():
        raise BookError(f"the column {x!r} has values that are not above 0, which a logarithmic axis cannot show; pass log_x=False")
    figure = make_subplots(rows=len(y), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    wide = [*table[x], *(marks or {}).values()]
    reach = [min(wide), max(wide)]
    groups = list(table.groupby(by, sort=False, observed=True)) if by else [("", table)]
    words = []
    for row, column in enumerate(y, 1):
        for (name, rows), dash, symbol, shade in zip(groups, cycle(DASHES), cycle(SYMBOLS), cycle(SHADES), strict=False):
            rows = rows.sort_values(x)
            figure.add_trace(
                go.Scatter(
                    x=rounded(rows[x]), y=rounded(rows[column]), mode="lines+markers", name=str(name), legendgroup=str(name),
                    line={"color": shade, "dash": dash, "width": 2}, marker={"symbol": symbol, "size": 8}, showlegend=row == 1 and bool(by),
                ), row=row, col=1,
            )  # fmt: skip
            ends = rows[column].dropna()
            if len(ends):
                words.append(f"{column.replace('_', ' ')}{f' of {name}' if by else ''} from {ends.iloc[0]:.3g} to {ends.iloc[-1]:.3g}")
        for name, value in (levels or {}).items():
            figure.add_hline(y=value, line={"color": PAPER, "dash": "dot", "width": 1.5}, row=row, col=1)
            note = {
                **NOTE,
                "x": 0.01,
                "xref": "x domain",
                "xanchor": "left",
                "y": math.log10(value) if log_y else value,
                "yanchor": "bottom",
            }
            figure.add_annotation(text=name, **note, row=row, col=1)
        for place, (name, value) in enumerate(sorted((marks or {}).items(), key=lambda mark: mark[1])):
            figure.add_vline(x=value, line={"color": "#666666", "dash": "dash", "width": 1}, row=row, col=1)
            left = (math.log10(value) < np.log10(reach).mean()) if log_x else value < np.mean(reach)
            side = "left" if left else "right"
            note = {**NOTE, "x": math.log10(value) if log_x else value, "xanchor": side, "y": 1, "yref": "y domain", "yanchor": "top"}
            if row == 1:
                # Each a line lower than the one before, so that near ones do not cover each other.
                figure.add_annotation(text=name, yshift=-15 * (place % 3), **note, row=row, col=1)
        tall = [*table[column], *(levels or {}).values()]
        figure.update_yaxes(title_text=column.replace("_", " "), row=row, col=1, **(_plain_log(tall) if log_y else {}))
    if log_x:
        figure.update_xaxes(**_plain_log(reach))
    figure.update_xaxes(title_text=x.replace("_", " "), row=len(y), col=1)
    return finish(figure, f"{'; '.join(words)}.", 220 + 180 * len(y))


def _plain_log(values: Numbers) -> dict:
    """A logarithmic axis whose ticks are plain numbers."""
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found) & (found > 0)]
    low, high = (math.log10(found.min()), math.log10(found.max())) if len(found) else (0, 1)
    stops = (1, 2, 5) if high - low < 2.2 else (1,)
    ticks = [stop * 10.0**power for power in range(math.floor(low) - 1, math.ceil(high) + 1) for stop in stops]
    room = 0.04 * max(high - low, 0.1)
    ticks = [tick for tick in ticks if low - room - 1e-9 <= math.log10(tick) <= high + room + 1e-9]
    return {"type": "log", "range": [low - room, high + room], "tickvals": ticks, "ticktext": [_plain(tick) for tick in ticks]}


def _plain(tick: float) -> str:
    if 1e-4 <= tick < 1e6:
        return f"{tick:,.6g}"
    power = math.floor(math.log10(tick) + 1e-9)
    digit = round(tick / 10.0**power)
    return f"10<sup>{power}</sup>" if digit == 1 else f"{digit}·10<sup>{power}</sup>"
