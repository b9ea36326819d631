"""Figures of automata: states and steps as a diagram, and text on which the states take turns."""

import math
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML

from sae_lib.viz.base import FEATURE, finish, need
from sae_lib.viz.text import _STRIP, visible

_COLUMNS, _PITCH, _RISE = 3, 4.2, 4.2
"""Loops side by side, and the distance of their centres, across and down; a loop's states stand on a circle of radius 1."""


def state_diagram(states: pd.DataFrame, steps: pd.DataFrame) -> go.Figure:
    """Loops of features as state diagrams: a circle for each feature, an arrow for each step with its probability.

    Args:
        states: loop (its name), state (such as A/0/20) and words (tokens that the feature raises), in the order of the loop.
        steps: loop, source, target (states) and probability (0 to 1).

    Returns:
        All loops in one figure, three in a row.

    Source: Bricken et al. 2023, "Finite State Automata".
    """
    need(states, ["loop", "state", "words"], "a table of states", empty=True)
    need(steps, ["loop", "source", "target", "probability"], "a table of steps", empty=True)
    figure, words = go.Figure(), []
    for number, (name, rows) in enumerate(states.groupby("loop", sort=False)):
        centre = np.array([_PITCH * (number % _COLUMNS), -_RISE * (number // _COLUMNS)])
        angles = math.pi / 2 - 2 * math.pi * np.arange(len(rows)) / len(rows)
        places = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * (len(rows) > 1)
        at = dict(zip(rows["state"], places, strict=True))
        mine = steps[steps["loop"] == name]
        for step in mine.itertuples():
            _arrow(figure, at[step.source], at[step.target], f"{step.probability:.2f}")
        x, y = np.round(places, 3).T.tolist()
        shown = [escape(visible(str(word))) for word in rows["words"]]
        look = {"color": FEATURE, "size": 22, "line": {"color": "#003F63", "width": 2}}
        names = [escape(str(state)) for state in rows["state"]]
        rings = rows["state"].isin(mine.loc[mine["source"] == mine["target"], "source"])
        beside = [_beside(*side, len(rows), ring) for side, ring in zip((places - centre).tolist(), rings, strict=True)]
        circles = go.Scatter(x=x, y=y, mode="markers+text", text=names, textposition=beside, marker=look, showlegend=False)
        circles.update(textfont={"size": 11})
        circles.update(name=escape(str(name)), customdata=shown, hovertemplate="%{text} raises %{customdata}<extra></extra>")
        figure.add_trace(circles)
        # A ring on the uppermost state reaches where the title would stand.
        height = 2.25 if len(rows) > 1 and rings.iloc[0] else 1.65
        figure.add_annotation(text=f"<b>{escape(str(name))}</b>", x=centre[0], y=centre[1] + height, showarrow=False)
        words.append(f"{name}: {' to '.join(map(str, rows['state']))}")
    n_rows = max(1, math.ceil(states["loop"].nunique() / _COLUMNS))
    # One unit is as long up as it is across, or circles would be ovals.
    hidden = {"visible": False, "fixedrange": True}
    figure.update_xaxes(range=[-_PITCH / 2, _PITCH * (_COLUMNS - 0.5)], **hidden)
    figure.update_yaxes(range=[-_RISE * (n_rows - 1) - _PITCH / 2, 2.45], **hidden)
    return finish(figure, f"State diagrams. {'; '.join(words)}.", 60 + 305 * n_rows)


def _beside(across: float, up: float, n: int, ring: bool) -> str:
    """Where a state's name stands so that no arrow crosses it: below, or on the side that looks away from the other states."""
    if abs(across) > 0.6 or (n > 1 and up > 0.1 and ring):
        return "middle left" if across < 0 else "middle right"
    return "top center" if n > 1 and up > 0.1 else "bottom center"


def _arrow(figure: go.Figure, start: np.ndarray, end: np.ndarray, label: str) -> None:
    look = {"xref": "x", "yref": "y", "axref": "x", "ayref": "y", "arrowhead": 2, "arrowwidth": 1.6, "arrowcolor": "#444444", "text": ""}
    if np.allclose(start, end):
        # A ring above the state, closed by an arrow's head.
        turn = np.linspace(-0.4 * math.pi, 1.25 * math.pi, 24)
        x, y = start[0] + 0.35 * np.cos(turn), start[1] + 0.55 + 0.35 * np.sin(turn)
        line = {"color": "#444444", "width": 1.6}
        figure.add_trace(go.Scatter(x=x.round(3), y=y.round(3), mode="lines", line=line, showlegend=False, hoverinfo="skip"))
        figure.add_annotation(x=start[0] - 0.1, y=start[1] + 0.2, ax=x[-1], ay=y[-1], **look)
        middle = start + np.array([0.0, 1.02])
    else:
        along = (end - start) / np.linalg.norm(end - start)
        # To its left, so that there and back are two arrows.
        aside = 0.13 * np.array([-along[1], along[0]])
        tail, head = start + aside + 0.2 * along, end + aside - 0.2 * along
        figure.add_annotation(x=head[0], y=head[1], ax=tail[0], ay=tail[1], **look)
        # Nearer to where it begins, or the numbers of there and back would stand side by side.
        middle = tail + 0.33 * (head - tail) + 1.2 * aside
    figure.add_annotation(x=middle[0], y=middle[1], text=label, showarrow=False, font={"size": 11}, bgcolor="rgba(255,255,255,0.85)")


def state_strips(walks: pd.DataFrame, caption: str) -> HTML:
    """Pieces of text with, above each token, the state of a loop that fires on it.

    Args:
        walks: loop (its name) and tokens; each entry of `tokens` is a list of (token text, state), the state empty where none fires.
        caption: caption of the table.

    Returns:
        HTML in which all text is escaped; a token with a state is shaded.
    """
    need(walks, ["loop", "tokens"], "a table of walks", empty=True)
    if not len(walks):
        return HTML(f'<p class="sae-strips">{escape(caption)}: no state fires on any token.</p>')
    rows = []
    for loop, tokens in zip(walks["loop"], walks["tokens"], strict=True):
        strip = "".join(_with_state(str(text), str(state)) for text, state in tokens)
        style = f"{_STRIP}; line-height:2.4"
        rows.append(f'<tr><th scope="row">{escape(str(loop))}</th><td dir="auto" style="{style}">{strip}</td></tr>')
    head = '<tr><th scope="col">loop</th><th scope="col">text</th></tr>'
    return HTML(
        f'<div class="sae-strips" style="overflow-x:auto"><table style="width:100%"><caption>{escape(caption)}</caption>'
        f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _with_state(text: str, state: str) -> str:
    shown = escape(visible(text))
    if not state:
        return f"<bdi>{shown}</bdi>"
    return f'<ruby style="background:rgba(0,114,178,0.2);margin:0 1px">{shown}<rt>{escape(state)}</rt></ruby>'
