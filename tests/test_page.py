"""The page: set-up, tables, verdicts and the results they leave."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import plotly.io as pio
import pytest
import torch

from sae_lib import page
from sae_lib.claims import claim
from sae_lib.errors import BookError

CHAPTER = "05_sparse_autoencoder"
GOOD = {16: page.Measured({"loss_recovered": 0.79, "l0": torch.tensor(14.0)}, interval=(0.78, 0.8), n=np.int64(500_000), unit="tokens")}


class Lab:
    """What the page reads of the real one."""

    def __init__(self, scale_name, seed=0, corpus="", at_length=False):
        is_released = scale_name == "released"
        self.scale = SimpleNamespace(name=scale_name, d_model=16, d_sae={"A/1": 64}, corpus="pocket:", is_released=is_released)
        self.seed = seed
        self.corpus_spec = corpus or "pocket:"
        self.is_at_length = at_length


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "_config.yml").touch()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def lab_module(monkeypatch):
    module = ModuleType("sae_lib.lab")
    module.Lab = Lab
    monkeypatch.setitem(sys.modules, "sae_lib.lab", module)
    monkeypatch.delenv(page.RENDERER, raising=False)
    before, threads = pio.renderers.default, torch.get_num_threads()
    yield
    pio.renderers.default = before
    torch.set_num_threads(threads)


def results(project, scale_name):
    return json.loads((project / "results" / scale_name / f"{CHAPTER}.json").read_text())


def test_setup_seeds_and_gives_the_lab(lab_module):
    lab = page.setup("smoke", 3, "files:x")
    first = torch.rand(2), np.random.rand(2)  # noqa: NPY002
    assert (lab.scale.name, lab.seed, lab.corpus_spec) == ("smoke", 3, "files:x")
    page.setup("smoke", 3)
    second = torch.rand(2), np.random.rand(2)  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_renderer_is_the_books_only_when_asked(lab_module, monkeypatch):
    place = pio.renderers.default
    page.setup("smoke")
    assert pio.renderers.default == place
    monkeypatch.setenv(page.RENDERER, "book")
    page.setup("smoke")
    assert pio.renderers.default == "book"
    monkeypatch.delenv(page.RENDERER)
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    page.setup("smoke")
    assert pio.renderers.default == "colab"
    monkeypatch.setenv(page.RENDERER, "bok")
    with pytest.raises(BookError, match="SAE_BOOK_RENDERER=bok is unknown"):
        page.setup("smoke")


def test_show_source_shows_the_lines():
    code = page.show_source(Lab.__init__)
    assert code.data.startswith("def __init__(self, scale_name")
    assert "\n    self.seed = seed" in code.data
    with pytest.raises(BookError, match="cannot find the source"):
        page.show_source(3)


def test_glue(monkeypatch):
    shown = []
    monkeypatch.setattr(page, "display", lambda *args, **kwargs: shown.append((args, kwargs)))
    page.glue("l0", "14")
    assert shown[0][0] == ({"application/papermill.record/text/plain": "14"},)
    assert shown[0][1]["metadata"]["scrapbook"]["name"] == "l0"
    with pytest.raises(BookError, match="is no name for glue"):
        page.glue("a b", "1")
    with pytest.raises(BookError, match="format the number first"):
        page.glue("a", 1)


def test_table_is_escaped_and_headed():
    html = page.table(pd.DataFrame({"<a>": ["x<script>", "y"], "n": [1, 12345]}), "a & b").data
    assert "<script>" not in html
    assert '<th scope="col">&lt;a&gt;</th>' in html
    assert '<th scope="row" style="text-align:left">x&lt;script&gt;</th>' in html
    assert '<td style="text-align:right">12,345</td>' in html
    assert "<caption>a &amp; b</caption>" in html
    with pytest.raises(BookError, match="one row of headings"):
        page.table(pd.DataFrame({("a", "b"): [1]}))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12345, "0.123"),
        (1234.5678, "1,235"), (999.7, "1,000"), (0.0, "0"), (-2.5, "-2.5"), (8192, "8,192"), (3e-7, "3.00 × 10<sup>-7</sup>"),
        (float("nan"), "–"), (None, "–"), (True, "yes"), (float("inf"), "∞"), (np.float32(0.5), "0.5"), (np.int64(5), "5"), ("a<", "a&lt;"),
    ],
)  # fmt: skip
def test_numbers_as_a_reader_sees_them(value, shown):
    assert page.shown(value) == shown


def test_verdicts_show_and_write(project):
    figures = {"density": pd.DataFrame({"left": [0.0, np.nan], "count": np.array([3, 4])})}
    html = page.verdicts(CHAPTER, Lab("colab", 1), GOOD, {"l0": np.float32(14), "shares": {"arabic": 0.003}}, figures).data
    assert "<strong>holds</strong>" in html
    assert "✓" in html
    assert "95% interval 0.78 to 0.8" in html
    kept = results(project, "colab")
    assert list(kept) == [
        "chapter", "scale", "seed", "corpus", "config", "hardware", "date", "wall_s", "versions", "claims", "numbers", "figures",
    ]  # fmt: skip
    assert kept["claims"][0] | {"reason": ""} == {
        "claim": 16, "value": 0.79, "interval": [0.78, 0.8], "n": 500_000, "unit": "tokens", "verdict": "holds", "reason": "",
        "values": {"loss_recovered": 0.79, "l0": 14.0},
    }  # fmt: skip
    assert kept["numbers"] == {"l0": 14.0, "shares": {"arabic": 0.003}}
    assert kept["figures"]["density"] == [{"left": 0.0, "count": 3}, {"left": None, "count": 4}]
    assert kept["config"] == {"d_model": 16, "d_sae": {"A/1": 64}, "is_released": False}


def test_smoke_writes_nothing(project):
    html = page.verdicts(CHAPTER, Lab("smoke"), {16: page.Measured({"loss_recovered": float("nan"), "l0": 0})}).data
    assert "not testable here" in html
    assert not (project / "results").exists()


def test_released_weights_are_judged_and_kept_only_at_length(project, lab_module, monkeypatch):
    html = page.verdicts(CHAPTER, page.setup("released"), GOOD).data
    assert "not testable here" in html
    assert "a glance" in html
    assert not (project / "results").exists()
    monkeypatch.setenv(page.RESULTS, "1")
    assert "<strong>holds</strong>" in page.verdicts(CHAPTER, page.setup("released"), GOOD).data
    assert results(project, "released")["claims"][0]["verdict"] == "holds"


@pytest.fixture
def laptop_is_reference(monkeypatch):
    """A reference that a test can write without weights."""
    monkeypatch.setattr(page, "REFERENCE_SCALE", "laptop")


@pytest.mark.usefixtures("laptop_is_reference")
def test_reference_stands_beside_this_run(project):
    assert page.reference(CHAPTER) is None
    before = page.verdicts(CHAPTER, Lab("smoke"), GOOD).data
    first = page.verdicts(CHAPTER, Lab("laptop"), GOOD, figures={"density": pd.DataFrame({"left": [1.0]})}).data
    assert first == page.verdicts(CHAPTER, Lab("laptop"), GOOD).data
    assert "this run is the reference" in first
    assert page.reference(CHAPTER)["claims"][0]["value"] == 0.79
    assert page.reference_table(CHAPTER, "density")["left"].tolist() == [1.0]
    assert page.reference_table(CHAPTER, "nothing") is None
    assert "<caption>Densities, in the reference run</caption>" in page.show_reference(CHAPTER, "density", "Densities").data
    assert "right" not in page.show_reference(CHAPTER, "density", "Densities", ["left"]).data.replace("text-align:right", "")
    assert page.show_reference(CHAPTER, "nothing", "Nothing") is None
    after = page.verdicts(CHAPTER, Lab("smoke"), {16: page.Measured({"loss_recovered": 0.1, "l0": 3})}).data
    assert "loss recovered 0.79" in after
    assert "loss recovered 0.79<br>l0 14" in before  # this run's own cell


def test_numbers_of_one_run_add_up_and_another_run_replaces_them(project):
    page.save_numbers(CHAPTER, Lab("laptop"), {"a": 1})
    page.verdicts(CHAPTER, Lab("laptop"), GOOD, {"b": 2})
    page.save_numbers(CHAPTER, Lab("laptop"), {"c": 3})
    kept = results(project, "laptop")
    assert kept["numbers"] == {"a": 1, "b": 2, "c": 3}
    assert len(kept["claims"]) == 1
    page.save_numbers(CHAPTER, Lab("laptop", seed=1), {"d": 4})
    assert results(project, "laptop")["numbers"] == {"d": 4}
    assert results(project, "laptop")["claims"] == []


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ("files:/data/deep/x*.jsonl", "files:x*.jsonl"),
        ("a/recipes/real.toml", "real.toml"),
        ("pocket:", "pocket:"),
        ("hub:a/b:c", "hub:a/b:c"),
    ],
)
def test_results_name_no_folder(project, spec, kept):
    page.save_numbers(CHAPTER, Lab("laptop", corpus=spec), {"a": 1})
    assert results(project, "laptop")["corpus"] == kept


@pytest.mark.parametrize("text", ["Once upon a time there was a corpus, and it was long", "نص", "a\nb", "<b>"])
def test_text_is_never_kept(project, text):
    with pytest.raises(BookError, match="never text of a corpus"):
        page.save_numbers(CHAPTER, Lab("laptop"), figures={"f": pd.DataFrame({"token": [text]})})
    with pytest.raises(BookError, match="never text of a corpus"):
        page.save_numbers(CHAPTER, Lab("smoke"), {"n": text})
    assert not (project / "results").exists()


def test_large_tables_are_refused(project):
    with pytest.raises(BookError, match="has 6,000 rows"):
        page.save_numbers(CHAPTER, Lab("laptop"), figures={"f": pd.DataFrame({"a": range(6_000)})})


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"claims": 1}', '{"chapter": "other", "scale": "laptop", "claims": []}', '{"claims": [{"claim": 1}]}']
)
@pytest.mark.usefixtures("laptop_is_reference")
def test_damaged_reference_is_named_and_kept(project, content):
    path = project / "results" / "laptop" / f"{CHAPTER}.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(BookError, match=CHAPTER):
        page.reference(CHAPTER)
    with pytest.raises(BookError, match=CHAPTER):
        page.verdicts(CHAPTER, Lab("laptop"), GOOD)
    assert path.read_text() == content


@pytest.mark.parametrize("chapter", ["../x", "", "A B", "/etc/x"])
def test_chapter_names_stay_inside_results(project, chapter):
    with pytest.raises(BookError, match="names no chapter"):
        page.reference(chapter)


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        ({99: page.Measured({"x": 1.0})}, "there is no claim 99"),
        ({16: page.Measured({"l0": 1.0})}, "needs the value 'loss_recovered'"),
        ({16: page.Measured({"l0": float("nan"), "loss_recovered": 0.8})}, "not a finite number"),
        ({16: page.Measured({"l0": "ten", "loss_recovered": 0.8})}, "is 'ten', not a number"),
        ({16: 0.8}, "wrap its values in page.Measured"),
    ],
)
def test_measured_badly(project, measured, message):
    with pytest.raises(BookError, match=message):
        page.verdicts(CHAPTER, Lab("laptop"), measured)
    assert not (project / "results").exists()


def test_verdict_table_escapes_and_speaks_without_colour(project):
    html = page.verdicts(CHAPTER, Lab("laptop"), {16: page.Measured({"l0": 14, "loss_recovered": 0.2, "<i>": 1}, note="<b>")}).data
    assert "✗" in html
    assert "<strong>fails</strong>" in html
    assert "color" not in html
    assert "&lt;i&gt;" in html
    assert "&lt;b&gt;" in html
    assert claim(16).text in html


def test_an_interval_says_which_value_it_is_of(project):
    measured = page.Measured({"loss_recovered": 0.8, "l0": 9}, interval=(8.5, 9.5), of="l0")
    html = page.verdicts(CHAPTER, Lab("laptop"), {16: measured}).data
    assert "95% interval of l0 8.5 to 9.5" in html
    (entry,) = results(project, "laptop")["claims"]
    assert (entry["value"], entry["of"]) == (9, "l0")
    assert "of l0" in page.values_cell(entry)
    with pytest.raises(BookError, match="is said to be of 'l1', which was not measured"):
        page.verdicts(CHAPTER, Lab("laptop"), {16: page.Measured({"loss_recovered": 0.8, "l0": 9}, interval=(8.5, 9.5), of="l1")})


def test_an_interval_without_ends_is_none(project):
    page.verdicts(CHAPTER, Lab("laptop"), {16: page.Measured({"loss_recovered": 0.8, "l0": 9}, interval=(float("nan"), float("nan")))})
    assert results(project, "laptop")["claims"][0]["interval"] is None


ADDRESSES = pd.DataFrame({"unit": ["A/1/7", "A/neurons/12", "A/1/7 and", "A/99/7", "<b>A/1/7"], "feature": [3, 4, 5, 6, 7]})


def test_addresses_lead_to_the_browser_in_the_book(monkeypatch):
    monkeypatch.setenv(page.RENDERER, "book")
    html = page.table(ADDRESSES, units={"feature": "B/1"}).data
    assert '<a href="../book/browser.html#A/1/7">A/1/7</a>' in html
    assert '<a href="../book/browser.html#A/neurons/12">A/neurons/12</a>' in html
    assert '<a href="../book/browser.html#B/1/3">3</a>' in html
    assert html.count("<a ") == 2 + len(ADDRESSES)
    assert "&lt;b&gt;A/1/7" in html
    assert "<a " not in page.table(ADDRESSES[["feature"]]).data


def test_addresses_are_plain_elsewhere(monkeypatch):
    monkeypatch.delenv(page.RENDERER, raising=False)
    assert "<a " not in page.table(ADDRESSES, units={"feature": "B/1"}).data


@pytest.mark.parametrize("units", [{"neuron": "A/1"}, {"feature": "A/9"}, {"feature": "A"}])
def test_links_to_what_is_not_there(units):
    with pytest.raises(BookError, match="cannot lead to"):
        page.table(ADDRESSES, units=units)
