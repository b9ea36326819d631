"""Curves of training."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sae_lib.errors import BookError
from sae_lib.viz.base import (
    CONTROL,
    FEATURE,
    LABELS,
    MAX_POINTS,
    finish,
    need,
    panels,
    rounded,
)


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
    need(log, [x, *columns], "a training log")
    figure = panels(len(columns))
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
    return finish(figure, f"Training curves: {', '.join(ends) or 'no values'}.", 180 + 150 * len(columns))


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
    figure = panels(len(columns))
    x = _progress(next(iter(logs.values())))
    for row, column in enumerate(columns, start=1):
        for arm, log in logs.items():
            need(log, [x, column], f"the log of the arm {arm!r}")
            colour, dash = looks.get(arm, (CONTROL, "dashdot"))
            line = _curve(log, x, column, f"resampling: {arm}", {"color": colour, "dash": dash, "width": 2})
            figure.add_trace(line.update(showlegend=row == 1, legendgroup=arm), row=row, col=1)
        figure.update_yaxes(title_text=_label(column, next(iter(logs.values()))), row=row, col=1)
    figure.update_xaxes(title_text=LABELS[x], row=len(columns), col=1)
    ends = [f"{arm} ends at {log[columns[0]].dropna().iloc[-1]:.3g}" for arm, log in logs.items() if log[columns[0]].notna().any()]
    return finish(figure, f"Arms of resampling, {columns[0].replace('_', ' ')}: {', '.join(ends)}.", 180 + 150 * len(columns))


def _curve(log: pd.DataFrame, x: str, column: str, label: str, line: dict) -> go.Scatter:
    rows = log[[x, column]].dropna()
    if len(rows) > MAX_POINTS:
        rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, MAX_POINTS).astype(int))]
    return go.Scatter(x=rows[x].tolist(), y=rounded(rows[column]), mode="lines", name=label, line=line)


def _progress(log: pd.DataFrame) -> str:
    for column in ("n_activations", "n_tokens", "step"):
        if column in log:
            return column
    raise BookError(f"a training log needs a column n_activations, n_tokens or step; it has {', '.join(map(str, log.columns)) or 'none'}")


def _label(column: str, log: pd.DataFrame) -> str:
    name = "train_loss" if column == "loss" and "mse" not in log else column
    # The unit goes on a line of its own: a panel is lower than these titles are long.
    return LABELS.get(name, name.replace("_", " ")).replace(" (", "<br>(")
