"""Figures of toy models: traces, frames, what they say without eyes, and what they refuse."""

import numpy as np
import pandas as pd
import pytest

from sae_lib import viz
from sae_lib.errors import BookError
from sae_lib.viz.base import figure_html

RNG = np.random.default_rng(0)
GRID = np.repeat([[0, 2, 1]], 3, axis=0)
STRIP = pd.DataFrame({"density": [1.0, 0.1], "dimensionality": [0.5, 0.4], "count": [30, 3]})
CURVES = pd.DataFrame({"density": [0.1, 0.01] * 2, "loss": [1.0, 0.5, 2.0, 0.1], "kind": ["a", "a", "b", "b"]})


def figures() -> dict:
    """One of each."""
    return {
        "gram": viz.gram({str(i): RNG.normal(size=(5, 20)) for i in range(3)}),
        "neuron_stack": viz.neuron_stack({"1": np.eye(5, 10), "0.1": RNG.random((5, 10))}),
        "phase_diagram": viz.phase_diagram(
            {"trained": GRID, "closed form": GRID.T},
            ["ignored", "alone", "both"],
            np.logspace(-1, 1, 3),
            np.logspace(0, -2, 3),
            {"boundary": (np.logspace(-1, 1, 5), np.full(5, 0.2))},
            GRID != GRID.T,
        ),
        "dimensionality_strip": viz.dimensionality_strip(STRIP, {"digon 1/2": 0.5}),
        "polytopes": viz.polytopes({str(n): RNG.normal(size=(3, n)) for n in (4, 8)}),
        "learning": viz.learning([10, 20, 30], RNG.random((3, 6)), np.array([3.0, 2.0, 1.0]), jumps=[20]),
        "curves": viz.curves(CURVES, "density", ["loss"], by="kind", levels={"paper": 0.7}, marks={"here": 0.03}),
        "toy_vectors": viz.toy_vectors({"5": RNG.normal(size=(2, 9))}, "points", {"5": RNG.normal(size=(2, 5))}),
    }


@pytest.mark.parametrize("name", figures())
def test_every_figure_speaks_and_is_small(name):
    figure = figures()[name]
    assert len(figure.layout.meta["alt"]) > 30
    assert not figure.layout.title.text
    html = figure_html(figure.to_dict())
    assert "http" not in html
    assert len(html) < 150_000


def test_frames_are_one_a_matrix():
    for name, count in {"gram": 3, "neuron_stack": 2, "polytopes": 2}.items():
        figure = figures()[name]
        assert len(figure.frames) == count
        assert len(figure.layout.sliders[0].steps) == count
        assert len(figure.frames[0].data) == len(figure.data)
    assert len(figures()["toy_vectors"].layout.sliders) == 0


def test_neurons_with_several_features_are_hatched():
    figure = viz.neuron_stack({"1": np.array([[1.0, 0.1, 0.0], [1.0, 0.3, 0.0], [0.01, 0.01, 0.0]])})
    assert list(figure.data[0].marker.pattern.shape) == ["", "/", ""]
    assert "1 of 3" in figure.layout.meta["alt"]
    assert list(figure.data[0].customdata) == ["1", "1", "1"]


def test_regions_are_named_once_and_misses_are_marked():
    names = ["ignored", "alone", "both"]
    grid = np.repeat(np.arange(3), 4)[None].repeat(4, axis=0)
    figure = viz.phase_diagram({"trained": grid}, names, np.logspace(-1, 1, 12), np.logspace(0, -2, 4), misses=grid == 2)
    assert [note.text for note in figure.layout.annotations if note.text in names] == names
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    assert len(marks[0].x) == 16
    assert "ignored 33%" in figure.layout.meta["alt"]


def test_edges_join_neighbours_of_an_octahedron():
    octahedron = np.concatenate([np.eye(3), -np.eye(3)], 1)
    edges = viz.polytopes({"6": octahedron}).data[1]
    assert len(edges.x) == 3 * 12


def test_a_solid_says_its_corners_and_keeps_their_numbers():
    figure = viz.polytopes({"3": np.eye(3), "none": np.zeros((3, 3)), "4": np.array([[1, 0, 0, 0], [0, 0.1, 0, 1], [0, 0, 1, 0.0]])})
    assert "3 corners (3 of dimensionality 1.00)" in figure.layout.meta["alt"]
    assert "0 corners (none)" in figure.layout.meta["alt"]
    assert list(figure.frames[2].data[2].text) == ["1", "3", "4"]


def test_a_curve_keeps_its_jump_and_thins_its_plateaus():
    steps = np.arange(10_000)
    share = np.where(steps < 6_543, 0.25, 0.5)
    drawn = viz.learning(steps.tolist(), share[:, None], np.linspace(2, 1, 10_000)).data[0]
    assert len(drawn.x) < 20
    assert {6_542, 6_543} <= set(drawn.x)


def test_lines_differ_by_more_than_colour():
    lines = viz.curves(CURVES, "density", ["loss"], by="kind").data
    assert lines[0].line.dash != lines[1].line.dash
    assert lines[0].marker.symbol != lines[1].marker.symbol
    ticks = viz.curves(CURVES, "density", ["loss"], log_y=True).layout.xaxis.ticktext
    assert {"0.01", "0.1"} <= set(ticks)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.gram({}), "no matrix"),
        (lambda: viz.gram({"1": np.zeros(3)}), r"shape \[3\]"),
        (lambda: viz.polytopes({"4": np.zeros((2, 4))}), r"not \[3, columns\]"),
        (lambda: viz.toy_vectors({"1": np.eye(2)}, points={"2": np.eye(2)}), "same values"),
        (lambda: viz.phase_diagram({}, ["a"], np.ones(1), np.ones(1)), "panels"),
        (lambda: viz.phase_diagram({"x": np.zeros((2, 2))}, ["a"], np.ones(3), np.ones(2)), r"\[2, 3\]"),
        (lambda: viz.dimensionality_strip(pd.DataFrame({"density": [1.0]})), "'dimensionality'"),
        (lambda: viz.learning([1, 2], np.zeros((3, 2)), np.zeros(2)), r"\[2, feature\]"),
        (lambda: viz.curves(CURVES, "density", ["gain"]), "'gain'"),
        (lambda: viz.curves(CURVES, "density", []), "no column"),
        (lambda: viz.curves(CURVES.assign(density=0.0), "density", ["loss"]), "'density'"),
        (lambda: viz.gram({"1": np.eye(2), "2": np.eye(2, 3)}), "there are 2, 3"),
        (lambda: viz.phase_diagram({"x": np.full((1, 1), 2)}, ["a", "b"], np.ones(1), np.ones(1)), "from 0 to 1"),
        (lambda: viz.phase_diagram({"x": GRID}, ["a"] * 3, *[np.ones(3)] * 2, misses=np.zeros((2, 2))), r"misses of shape \[3, 3\]"),
        (lambda: viz.dimensionality_strip(STRIP.assign(density=0.0)), "above 0"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(BookError, match=message):
        call()
