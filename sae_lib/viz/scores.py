"""Figures of interpretability scores: their distribution, and how they change with the activation."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sae_lib.viz.base import FEATURE, NEURON, PAPER, Number, Numbers, finish, need, rounded

_DARK = "#444444"
_LOOKS = {"feature": (FEATURE, "circle", "solid"), "neuron": (NEURON, "square", "dash"), "shuffled": (_DARK, "triangle-up", "longdashdot")}
_CONTROL = (_DARK, "diamond", "dot")


def score_curves(groups: Mapping[str, Numbers], axis: str, paper: Mapping[str, Number] | None = None) -> go.Figure:
    """Distribution of a score: for every value, the share of units that score at least so much.

    Args:
        groups: the scores under "feature", "neuron", "shuffled" and the name of another control; missing values are left out.
        axis: what the score is.
        paper: the paper's values by name, drawn as black rules.

    Returns:
        One falling line a group; groups differ by dash, and a mark stands at each mean.

    Source: Bricken et al. 2023, automated interpretability.
    Differs: a falling line instead of a histogram, since three of them can be told apart.
    """
    figure, words = go.Figure(), []
    for name, scores in groups.items():
        colour, symbol, dash = _LOOKS.get(name, _CONTROL)
        values = np.sort(np.asarray(scores, float)[np.isfinite(np.asarray(scores, float))])
        if not len(values):
            continue
        share = 100 * (1 - np.arange(len(values)) / len(values))
        line = {"color": colour, "dash": dash, "shape": "vh"}
        figure.add_trace(go.Scatter(x=rounded(values), y=rounded(share), mode="lines", name=name, line=line))
        at = {"color": colour, "symbol": symbol, "size": 11}
        mean, height = float(values.mean()), float(100 * (values >= values.mean()).mean())
        figure.add_trace(
            go.Scatter(x=rounded([mean]), y=rounded([height]), mode="markers", name=f"{name}, mean", marker=at, showlegend=False)
        )
        words.append(f"mean of {name} {mean:.2f}")
    for name, value in (paper or {}).items():
        figure.add_vline(
            x=value, line={"color": PAPER, "width": 1.5, "dash": "dot"}, annotation_text=f"paper, {name}", annotation_textangle=-90
        )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title_text=axis)
    figure.update_yaxes(title_text="units with at least this score (%)", range=[-2, 104])
    return finish(figure, f"{axis}: {', '.join(words) or 'no values'}.")


def interval_scores(table: pd.DataFrame, reference: pd.DataFrame | None = None) -> go.Figure:
    """Mean score of each interval of activation, with its interval.

    Args:
        table: kind, interval (0 is the weakest), score, low, high.
        reference: the same table of the reference run, drawn thin.

    Returns:
        One line a kind with whiskers, and a rule at 0.5, which is chance.

    Source: Bricken et al. 2023, activation interval study.
    """
    need(table, ["kind", "interval", "score", "low", "high"], "a table of scores by interval")
    figure, words = go.Figure(), []
    parts = [("", table)] if reference is None else [("", table), (", reference run", reference)]
    for suffix, part in parts:
        for kind, rows in part.groupby("kind", sort=False, observed=True):
            colour, symbol, dash = _LOOKS.get(str(kind), _CONTROL)
            line, mark = ({"color": colour, "dash": dash}, symbol) if not suffix else ({"color": colour, "width": 1}, f"{symbol}-open")
            score = rows["score"].to_numpy(float)
            whiskers = {
                "type": "data",
                "symmetric": False,
                "array": rounded(rows["high"] - score),
                "arrayminus": rounded(score - rows["low"]),
            }
            figure.add_trace(
                go.Scatter(
                    x=rows["interval"].tolist(), y=rounded(score), mode="lines+markers", name=f"{kind}{suffix}",
                    line=line, marker={"symbol": mark, "size": 9}, error_y=None if suffix else whiskers,
                )
            )  # fmt: skip
            known = score[np.isfinite(score)]
            if len(known) and not suffix:
                words.append(f"{kind} from {known[0]:.2f} in the weakest interval to {known[-1]:.2f} in the strongest")
    figure.add_hline(y=0.5, line={"color": PAPER, "width": 1, "dash": "dot"}, annotation_text="chance", annotation_position="bottom right")
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title_text="interval of activation (0 is the weakest)", dtick=1)
    figure.update_yaxes(title_text="score", range=[0.3, 1.02])
    return finish(figure, f"Score by interval of activation: {'; '.join(words) or 'no values'}.")
