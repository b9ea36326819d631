"""Figures of scores, and the blind card: what they show, what they weigh, and what hostile text does to them."""

import numpy as np
import pandas as pd
import pytest

from sae_lib import viz
from sae_lib.errors import BookError

BUDGET = 50_000  # bytes of one stored figure


def by_interval(kinds=("feature", "neuron")):
    rows = [(kind, number, 0.5 + number / 30, 0.45 + number / 30, 0.6 + number / 30) for kind in kinds for number in range(11)]
    table = pd.DataFrame(rows, columns=["kind", "interval", "score", "low", "high"])
    table.loc[3, ["score", "low", "high"]] = np.nan
    return table


def test_score_curves_fall_from_all_to_few():
    figure = viz.score_curves({"feature": [0.5, np.nan, 0.1, 0.9, 0.5]}, "score", {"features": 0.74})
    line, mean = figure.data
    assert line.x == (0.1, 0.5, 0.5, 0.9)
    assert line.y == (100, 75, 50, 25)
    assert (mean.x, mean.y) == ((0.5,), (75,))
    assert figure.layout.shapes[0].x0 == 0.74
    assert figure.layout.meta["alt"] == "score: mean of feature 0.50."


def test_score_curves_differ_without_colour_and_leave_out_the_empty():
    groups = {"feature": [0.5], "neuron": [0.4], "shuffled": [0.1], "explanations dealt to others": [0.0], "none": [np.nan]}
    figure = viz.score_curves(groups, "score")
    lines, means = ([trace for trace in figure.data if trace.mode == mode] for mode in ("lines", "markers"))
    assert [line.name for line in lines] == ["feature", "neuron", "shuffled", "explanations dealt to others"]
    assert len({line.line.dash for line in lines}) == len({mean.marker.symbol for mean in means}) == 4


def test_interval_scores_have_whiskers_and_a_gap():
    figure = viz.interval_scores(by_interval(), by_interval(["feature"]))
    feature, neuron, reference = figure.data
    assert (feature.name, neuron.name, reference.name) == ("feature", "neuron", "feature, reference run")
    assert feature.y[3] is None
    assert feature.error_y.array[0] == pytest.approx(0.1)
    assert feature.error_y.arrayminus[0] == pytest.approx(0.05)
    assert reference.error_y.array is None
    assert "feature from 0.50 in the weakest interval to 0.83 in the strongest" in figure.layout.meta["alt"]


def test_they_are_light():
    scores = np.random.default_rng(0).normal(size=100)
    groups = dict.fromkeys(("feature", "neuron", "shuffled", "dealt"), scores)
    for figure in (viz.score_curves(groups, "score", {"features": 0.5}), viz.interval_scores(by_interval(), by_interval())):
        assert len(viz.figure_html(figure.to_dict())) < BUDGET
        assert figure.layout.title.text is None


def test_a_table_without_a_column_is_named():
    with pytest.raises(BookError, match="needs the column 'low'"):
        viz.interval_scores(by_interval().drop(columns="low"))


def test_a_card_shows_text_as_text():
    bad = '"><img onerror=1></textarea>\u202e'
    strips = pd.DataFrame({"rank": [1], "activation": [9.0], "tokens": [[(bad, 9.0), ("b", 0.0)]]})
    html = viz.blind_card(3, strips, strips, [bad], ["</code><script>"]).data
    assert "Card 3" in html
    for trap in ("<img", "</textarea>", "<script", "\u202e"):
        assert trap not in html
    assert html.count("\\u{202e}") == 3
