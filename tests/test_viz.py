"""Figures: what they show, what they weigh, and what hostile text does to them."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sae_lib import viz
from sae_lib.errors import BookError

BUDGET = 50_000  # bytes of one stored figure


def training_log(n=2_000):
    steps = np.arange(1, n + 1)
    return pd.DataFrame({"step": steps, "n_activations": 8 * steps, "loss": 1 / steps, "mse": 0.8 / steps, "dead_share": 0.5 / steps})


def bins(count, low=-5.0, high=0.0, **columns):
    edges = np.linspace(low, high, len(count) + 1)
    return pd.DataFrame({"left": edges[:-1], "right": edges[1:], "count": count, **columns})


def correlations():
    rows = [
        ("arabic", "feature", 0.8),
        ("arabic", "feature", 0.2),
        ("arabic", "neuron", 0.3),
        ("dna", "feature", 0.6),
        ("dna", "neuron", 0.4),
    ]
    return pd.DataFrame(rows, columns=["target", "kind", "pearson"])


def examples(text="x"):
    return pd.DataFrame({"rank": [1], "activation": [2.0], "tokens": [[("a", 0.0), (text, 2.0), ("b", 1.0)]]})


def families():
    return pd.DataFrame({"context": ["base64"] * 3, "d_sae": [4096, 512, 16384], "count": [3, 1, 9]})


def ablation():
    counts = {"n_in_class": [9, 5, 0], "n_other": [4, 1, 1], "in_class": [-0.1, -0.4, np.nan], "other": [0.0, 0.02, 0.1]}
    return pd.DataFrame({"left": [0, 1, 2], "right": [1, 2, 3]} | counts)


def family_nodes(note="' the'"):
    return pd.DataFrame([("A/0", 4, note), ("A/1", 9, "b"), ("A/1", 2, "c"), ("A/2", 7, "d")], columns=["dictionary", "feature", "note"])


def family_edges():
    rows = [("A/0", 4, "A/1", 9, 0.9), ("A/0", 4, "A/1", 2, 0.5), ("A/1", 9, "A/2", 7, 0.6), ("A/1", 2, "A/2", 7, 0.8)]
    return pd.DataFrame(rows, columns=["source_dictionary", "source", "target_dictionary", "target", "cosine"])


def feature_points(n=20_992):
    rng = np.random.default_rng(0)
    names = np.repeat(["A/0", "A/1", "A/2"], [512, 4_096, n - 4_608])
    return pd.DataFrame(
        {
            "dictionary": names,
            "feature": np.arange(n) % 16_384,
            "x": rng.normal(size=n),
            "y": rng.normal(size=n),
            "base64": np.arange(n) < 30,
        }
    )


def figures():
    rng = np.random.default_rng(0)
    share = np.linspace(0.2, 1, 11)
    return {
        "training_curves": viz.training_curves(training_log(), ["loss", "dead_share"], training_log()),
        "resampling_arms": viz.resampling_arms({"paper": training_log(), "naive": training_log(), "none": training_log()}),
        "density_histogram": viz.density_histogram(bins(np.arange(40)), bins(np.arange(40)), cut=1e-4),
        "activation_spectrum": viz.activation_spectrum(bins(np.arange(11), 0, 5, share_in_class=share)),
        "specificity": viz.specificity(bins(np.arange(11), 0, 5, specificity=share), paper={0: 0.25, 1: 0.98}),
        "logit_histogram": viz.logit_histogram(pd.Series(rng.normal(size=8_192)), np.arange(8_192) < 50),
        "feature_vs_neuron": viz.feature_vs_neuron(correlations(), {"arabic": 0.74}, correlations()),
        "similarity_histogram": viz.similarity_histogram(rng.uniform(size=131_072), rng.uniform(size=512)),
        "family_counts": viz.family_counts(families()),
        "neighbour_histogram": viz.neighbour_histogram(rng.uniform(size=16_384), rng.normal(0, 0.05, 16_384)),
        "ablation_by_interval": viz.ablation_by_interval(ablation()),
        "family_graph": viz.family_graph(family_nodes(), family_edges()),
        "feature_map": viz.feature_map(feature_points(), "base64"),
        "toy_vectors": viz.toy_vectors({str(i): rng.normal(size=(2, 20)) for i in range(12)}),
    }


@pytest.fixture(scope="module")
def drawn():
    return figures()


def test_no_torch_in_viz():
    names = [node for node in ast.walk(ast.parse(Path(viz.__file__).read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("torch" in ast.unparse(node) for node in names)


def test_every_figure_is_light_titled_by_no_title_and_says_itself(drawn):
    for name, figure in drawn.items():
        html = viz.figure_html(figure.to_dict())
        assert len(html.encode()) < BUDGET, name
        assert figure.layout.title.text is None
        assert figure.layout.width is None
        assert figure.layout.template.layout.paper_bgcolor == "#FFFFFF"
        assert len(figure.layout.meta["alt"]) > 20
        axes = [*figure.select_xaxes(), *figure.select_yaxes()]
        assert any(axis.title.text for axis in axes), name


def test_html_is_the_same_again_and_asks_no_other_host(drawn):
    again = figures()
    for name, figure in drawn.items():
        html = viz.figure_html(figure.to_dict())
        assert html == viz.figure_html(again[name].to_dict())
        assert html == viz.BookRenderer().to_mimebundle(figure.to_dict())["text/html"]
        assert "http" not in html
        assert "plotly-graph-div" in html
    assert len({re.search(r'id="(fig-\w+)"', viz.figure_html(f.to_dict()))[1] for f in drawn.values()}) == len(drawn)


def test_script_cannot_be_left_by_the_figures_text():
    figure = go.Figure(go.Bar(x=["</script><script>alert(1)</script>"], y=[1]), {"meta": {"alt": '"><img src=x>'}})
    html = viz.figure_html(figure.to_dict())
    assert html.count("</script>") == 1
    assert "<img" not in html


def test_series_differ_without_colour(drawn):
    dashes = [trace.line.dash for trace in drawn["resampling_arms"].data]
    assert len(set(dashes)) == 3
    assert {trace.line.dash for trace in drawn["training_curves"].data} == {"solid", "dash"}
    assert [trace.marker.symbol for trace in drawn["feature_vs_neuron"].data if trace.mode == "markers"] == [
        "circle", "circle-open", "square", "square-open", "line-ns",
    ]  # fmt: skip
    assert drawn["neighbour_histogram"].data[1].marker.pattern.shape == "/"


def test_training_curves_thin_long_logs_and_keep_their_ends(drawn):
    line = drawn["training_curves"].data[0]
    assert len(line.x) <= viz.MAX_POINTS
    assert (line.x[0], line.x[-1]) == (8, 16_000)
    model_log = training_log().drop(columns="mse")
    assert "nats" in next(viz.training_curves(model_log, ["loss"]).select_yaxes()).title.text


def test_density_histogram_counts_in_percent(drawn):
    this, reference = drawn["density_histogram"].data
    assert sum(this.y) == pytest.approx(100, abs=0.1)
    assert reference.line.dash == "dash"
    assert drawn["density_histogram"].layout.shapes[0].x0 == -4


def test_feature_vs_neuron_takes_the_best_of_each(drawn):
    marks = {trace.name: list(trace.x) for trace in drawn["feature_vs_neuron"].data if trace.mode == "markers"}
    assert marks["best feature"] == [0.8, 0.6]
    assert marks["best neuron"] == [0.3, 0.4]
    assert marks["paper, feature"] == [0.74]


def test_an_ablation_is_drawn_as_a_rise_of_the_loss(drawn):
    inside, other = drawn["ablation_by_interval"].data
    assert list(inside.y) == [0.1, 0.4, None]
    assert list(other.y) == [0, -0.02, -0.1]
    assert list(inside.x) == pytest.approx([1 / 6, 0.5, 5 / 6], abs=1e-4)
    assert "from 0.1 in the first interval to 0.4 nats in the last" in drawn["ablation_by_interval"].layout.meta["alt"]


def test_families_stand_in_order_of_width():
    figure = viz.family_counts(families())
    assert list(figure.data[0].x) == ["512", "4,096", "16,384"]
    assert list(figure.data[0].y) == [1, 3, 9]


def test_similarity_leaves_out_missing_values():
    figure = viz.similarity_histogram([0.7, np.nan, 0.8], [0.4])
    assert sum(figure.data[0].y) == pytest.approx(100)
    assert "median of features 0.75" in figure.layout.meta["alt"]


def test_toy_vectors_are_one_frame_a_model():
    figure = viz.toy_vectors({"1": np.eye(2), "0.03": 2 * np.eye(2)})
    assert [frame.name for frame in figure.frames] == ["1", "0.03"]
    assert list(figure.frames[1].data[0].x[:3]) == [0, 2, None]
    assert "addFrames" in viz.figure_html(figure.to_dict())


def test_a_feature_that_never_fires_gives_a_figure_that_says_so():
    silent = bins(np.zeros(11), 0, 1, share_in_class=np.nan, specificity=np.nan)
    for figure in (viz.specificity(silent), viz.similarity_histogram([], [])):
        assert json.loads(figure.to_json())["layout"]["meta"]["alt"]
    assert "never fires" in viz.activation_spectrum(silent).layout.meta["alt"]
    assert "fires on no token" in viz.token_strips(examples().iloc[:0]).data


def test_token_strips_escape_and_show_what_hides():
    html = viz.token_strips(examples("<script>alert('x')</script>\u202e\n\ud800"), "<b>").data
    assert "<script" not in html
    assert "<caption>&lt;b&gt;</caption>" in html
    assert "\\u{202e}↵\\u{d800}" in html
    html.encode()
    assert "activation 2.00" in html
    assert "underline" in html


def test_labelled_text_nests_escapes_and_lists_the_innermost():
    html = viz.labelled_text("<b>ab\u202ec</b>\n", [(0, 11, "markup/html"), (3, 4, "x/y"), (0, 3, "markup/html/tag")], "<i>").data
    assert "<b>" not in html
    assert "<i>" not in html
    assert "\\u{202e}" in html
    assert 'title="markup/html · x/y"' in html
    assert ">b\\u{202e}c&lt;/b&gt;" in html
    assert "<small>markup/html/tag, x/y, markup/html</small>" in html
    assert html.count("<span") == html.count("</span>") == 3


def test_two_other_kinds_and_another_score():
    table = pd.DataFrame({"target": ["t", "t"], "kind": ["probe", "token only"], "score": [0.9, 0.2]})
    figure = viz.feature_vs_neuron(table, score="score", axis="Average precision")
    assert figure.layout.xaxis.title.text == "Average precision"
    assert [trace.name for trace in figure.data if trace.mode == "markers"] == ["probe", "token only"]
    assert "t: probe 0.90, token only 0.20" in figure.layout.meta["alt"]
    with pytest.raises(BookError, match="needs the column 'pearson'"):
        viz.feature_vs_neuron(table)


def test_token_strips_shade_by_activation():
    html = viz.token_strips(examples()).data
    assert html.count("rgba(0,114,178,0.55)") == 1
    assert "<span>a</span>" in html


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.training_curves(training_log(), ["l0"]), "a training log needs the column 'l0'; it has step"),
        (lambda: viz.training_curves(pd.DataFrame({"loss": [1.0]}), ["loss"]), "n_activations, n_tokens or step"),
        (lambda: viz.training_curves(training_log(), []), "at least one column"),
        (lambda: viz.training_curves(training_log(0), ["loss"]), "has no rows"),
        (lambda: viz.resampling_arms({}), "no training log"),
        (lambda: viz.density_histogram(pd.DataFrame({"left": [0]})), "needs the column 'right'"),
        (lambda: viz.logit_histogram(pd.Series([1.0, 2.0]), [True]), "one flag a token"),
        (lambda: viz.toy_vectors({}), "no matrix"),
        (lambda: viz.toy_vectors({"1": np.eye(3)}), r"shape \[3, 3\], not \[2, columns\]"),
        (lambda: viz.token_strips(pd.DataFrame({"rank": [1]})), "needs the column 'activation'"),
    ],
)
def test_wrong_tables_are_named(call, message):
    with pytest.raises(BookError, match=message):
        call()


def test_a_family_shows_its_merges_and_escapes_its_notes():
    figure = viz.family_graph(family_nodes("<b onclick=x>\u202e"), family_edges())
    closest, another, dots = figure.data
    assert list(dots.x) == [0, 1, 1, 2]
    assert list(dots.marker.symbol) == ["circle", "circle", "circle", "diamond"]
    assert (list(closest.x).count(None), list(another.x)) == (3, [1, 2, None])
    # The parent that is not the closest is the first of A/1's.
    assert another.y[0] == dots.y[1]
    assert dots.hovertext[0] == "<b>A/0/4</b><br>&lt;b onclick=x&gt;\\u{202e}"
    assert "1 of them have two parents" in figure.layout.meta["alt"]
    with pytest.raises(BookError, match="ends at A/2/7"):
        viz.family_graph(family_nodes().head(3), family_edges())


def test_a_map_thins_what_is_not_marked(drawn):
    figure = drawn["feature_map"]
    assert [trace.name for trace in figure.data] == ["A/0", "A/1", "A/2", "base64"]
    assert sum(len(trace.x) for trace in figure.data[:3]) <= 5_000
    assert list(figure.data[3].customdata) == list(range(30))
    few = viz.feature_map(feature_points(4_700))
    assert sum(len(trace.x) for trace in few.data) == 4_700
    assert "512 of A/0, 4,096 of A/1, 92 of A/2" in few.layout.meta["alt"]
