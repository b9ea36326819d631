"""State diagrams, strips and two models side by side: what they say, and what hostile text does to them."""

import numpy as np
import pandas as pd
import pytest

from sae_lib import viz

HOSTILE = "<script>alert(1)</script>\u202e"


def diagram(word="x"):
    states = pd.DataFrame(
        {"loop": ["html", "html", "base64"], "state": ["A/0/20", "A/0/0", "A/0/45"], "words": ["a b", word, "Qg"]},
    )
    steps = pd.DataFrame(
        {
            "loop": ["html", "html", "base64"],
            "source": ["A/0/20", "A/0/0", "A/0/45"],
            "target": ["A/0/0", "A/0/20", "A/0/45"],
            "probability": [0.75, 0.5, 0.9],
        }
    )
    return viz.state_diagram(states, steps)


def test_every_state_and_every_step_is_drawn():
    figure = diagram()
    states = [trace for trace in figure.data if trace.mode == "markers+text"]
    assert [list(trace.text) for trace in states] == [["A/0/20", "A/0/0"], ["A/0/45"]]
    arrows = [note for note in figure.layout.annotations if note.showarrow is not False]
    assert len(arrows) == 3
    assert {note.text for note in figure.layout.annotations} >= {"0.75", "0.50", "0.90"}
    # There and back are two arrows beside each other.
    assert arrows[0].x != arrows[1].ax
    assert "html: A/0/20 to A/0/0; base64: A/0/45" in figure.layout.meta["alt"]
    assert len(viz.figure_html(figure.to_dict()).encode()) < 50_000


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_no_arrow_crosses_a_name(n):
    names = [f"A/1/{1_000 + i}" for i in range(n)]
    states = pd.DataFrame({"loop": "html", "state": names, "words": "x"})
    steps = pd.DataFrame({"loop": "html", "source": names, "target": names[1:] + names[:1], "probability": 0.5})
    back = steps.rename(columns={"source": "target", "target": "source"}) if n > 1 else steps.iloc[:0]
    figure = viz.state_diagram(states, pd.concat([steps, back]))
    circles = next(trace for trace in figure.data if trace.mode == "markers+text")
    arrows = [note for note in figure.layout.annotations if note.showarrow is not False]
    assert len(arrows) == len(steps) + len(back)
    for x, y, side in zip(circles.x, circles.y, circles.textposition, strict=True):
        # A name of eight letters takes about 0.9 units across and 0.25 up, beginning 0.2 from the middle of its circle.
        down, across = (
            {"top": 0.35, "middle": 0.0, "bottom": -0.35}[side.split()[0]],
            {"left": -0.65, "center": 0.0, "right": 0.65}[side.split()[1]],
        )
        for note in arrows:
            line = np.linspace([note.ax, note.ay], [note.x, note.y], 50) - [x + across, y + down]
            assert not ((np.abs(line[:, 0]) < 0.42) & (np.abs(line[:, 1]) < 0.1)).any(), (n, side)


def test_no_loop_is_said_and_no_error():
    nothing = viz.state_diagram(
        pd.DataFrame(columns=["loop", "state", "words"]), pd.DataFrame(columns=["loop", "source", "target", "probability"])
    )
    assert "Nothing to draw" in nothing.layout.meta["alt"]
    assert "no state fires" in viz.state_strips(pd.DataFrame(columns=["loop", "tokens"]), "Walks").data


def test_hostile_text_stays_text():
    figure = diagram(HOSTILE)
    assert "<script" not in "".join(map(str, figure.data[0].customdata))
    html = viz.figure_html(figure.to_dict())
    assert html.count("</script>") == 1
    walks = pd.DataFrame({"loop": [HOSTILE], "tokens": [[(HOSTILE, ""), (HOSTILE, HOSTILE)]]})
    strip = viz.state_strips(walks, "<b>").data
    assert "<script" not in strip
    assert "<caption>&lt;b&gt;</caption>" in strip
    assert strip.count("\\u{202e}") == 2
    assert "<rt>&lt;script&gt;" in strip


def test_similarities_are_thinned_and_those_unknown_left_out():
    steps = np.linspace(0, 1, 4_096)
    table = pd.DataFrame({"activation": steps, "logit": 1 - steps, "attribution": steps})
    table.loc[::2, "logit"] = np.nan
    figure = viz.similarity_scatter(table)
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert all(200 < len(trace.x) <= 300 for trace in points)
    assert "2,048 pairs: logit similarity correlates with activation similarity at -1.00; attribution" in figure.layout.meta["alt"]
    assert len(viz.figure_html(figure.to_dict()).encode()) < 50_000
    assert (
        "too few" in viz.similarity_scatter(table.iloc[:0]).layout.meta["alt"]
        or "Nothing" in viz.similarity_scatter(table.iloc[:0]).layout.meta["alt"]
    )
