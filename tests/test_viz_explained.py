"""Figures of how much is explained."""

import numpy as np
import pandas as pd
import pytest

from sae_lib import viz
from sae_lib.errors import BookError

FRONTIER = pd.DataFrame(
    {
        "series": ["width", "width", "lambda"],
        "name": ["A/0", "A/1", "0.002"],
        "l0": [20.0, 10.0, 5.0],
        "loss_recovered": [0.9, 0.79, 0.5],
        "low": [0.88, 0.78, np.nan],
        "high": [0.91, 0.8, np.nan],
        "explained_variance": [0.8, 0.7, 0.4],
    }
)


def test_frontier():
    figure = viz.frontier(FRONTIER, {"paper, A/1": 0.79})
    assert [trace.name for trace in figure.data] == ["width", "width", "lambda", "lambda"]
    assert list(figure.data[0].x) == list(figure.data[1].x) == [10.0, 20.0]
    assert list(figure.data[0].y) == pytest.approx([79, 90])
    assert list(figure.data[1].y) == pytest.approx([70, 80])
    assert list(figure.data[0].error_y.arrayminus) == pytest.approx([1, 2])
    assert list(figure.data[2].error_y.array) == [0]
    assert "A/1 79.0% and 70.0% at 10.0" in figure.layout.meta["alt"]
    with pytest.raises(BookError, match="l0"):
        viz.frontier(FRONTIER.drop(columns="l0"))


def test_cost_by_kind_is_ordered_and_has_its_intervals():
    table = pd.DataFrame({"kind": ["prose", "<dna>"], "added": [0.1, 0.4], "low": [0.05, 0.3], "high": [0.2, 0.6]})
    figure = viz.cost_by_kind(table)
    assert list(figure.data[0].y) == ["<dna>", "prose"]
    assert list(figure.data[0].error_x.array) == pytest.approx([0.2, 0.1])
    assert "prose 0.100" in figure.layout.meta["alt"]


def test_cluster_thins_large_groups():
    points = pd.DataFrame({"log10_density": np.linspace(-6, -2, 5_000), "b_enc": 0.0, "product": 1.0})
    figure = viz.cluster(points, np.arange(5_000) < 10)
    assert len(figure.data) == 4
    assert len(figure.data[0].x) <= 400
    assert len(figure.data[2].x) == 10
    assert "10 ultralow of 5000" in figure.layout.meta["alt"]
    assert len(viz.figure_html(figure.to_dict())) < 50_000
