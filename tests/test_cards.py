"""The command that ships runs: files, manifest and cards."""

import json
from xml.etree import ElementTree

import pandas as pd
import pytest

import sae_lib
from sae_lib import cards, cli, release
from sae_lib.lab import Lab

RUNS = ["A", "A/1", "S/1"]


@pytest.fixture
def root(tiny, monkeypatch):
    """A book with nothing in it but what the command looks for."""
    (tiny / "_config.yml").write_text("repository: {url: https://example.org/a/b, branch: main}")
    (tiny / "pyproject.toml").touch()
    monkeypatch.chdir(tiny)
    monkeypatch.setattr(release, "_FOLDERS", (tiny / "checkpoints",))
    release._manifest.cache_clear()
    yield tiny
    release._manifest.cache_clear()


def test_runs_are_measured_shipped_and_described(root, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["release", *RUNS, "--scale", "tiny"])
    assert not end.value.code
    assert "A, A/1, S/1" in capsys.readouterr().out
    manifest = json.loads((root / "checkpoints" / "MANIFEST.json").read_text())
    assert manifest["address"] == "https://example.org/a/b/raw/main/checkpoints"
    found = manifest["runs"]["A/1"]["measured"]
    assert 0 < found["l0"] < 64
    assert found["n_tokens"] == 62 * 32
    assert found["half_precision"] == pytest.approx(0, abs=1e-3)
    assert manifest["runs"]["A"]["measured"]["validation_loss"] == pytest.approx(found["loss_clean"], rel=1e-4)
    assert sae_lib.released("S/1").W_dec.shape == (64, 32)
    for name in RUNS:
        page = (root / "book" / "cards" / f"{name.replace('/', '-')}.md").read_text()
        assert page == cards.card(name, manifest["runs"][name])
        assert page.startswith(f"# {name}\n")
        assert manifest["runs"][name]["files"][0]["sha256"][:16] in page
    assert f"{found['l0']:.1f} features a token" in (root / "book" / "cards" / "A-1.md").read_text()
    for change, said in ((-3e-6, "by less than 0.001 points"), (0.00123, "by +0.123 points")):
        found["half_precision"] = change
        assert said in cards.card("A/1", manifest["runs"]["A/1"])
    text = (root / "book" / "cards" / "text.md").read_text()
    assert text == cards.text_page(Lab("tiny", device="cpu").shards.meta)
    assert "pocket/english" in text
    assert "written for the book" in text
    assert "shuffled" in (root / "book" / "cards" / "S-1.md").read_text()
    table = (root / "book" / "cards" / "summary.md").read_text().splitlines()
    assert [row.split("](")[0] for row in table[2:]] == ["| [A/1", "| [S/1"]
    assert f"| {found['l0']:.1f} | {found['loss_recovered']:.1%} |" in table[2]


def test_the_same_weights_are_not_measured_again(root, monkeypatch):
    for measured in (lambda lab, name: {"n_tokens": 1, "validation_loss": 2.5}, None):
        monkeypatch.setattr(cards, "measured", measured)
        with pytest.raises(SystemExit) as end:
            cli.main(["release", "A", "--scale", "tiny"])
        assert not end.value.code
    manifest = json.loads((root / "checkpoints" / "MANIFEST.json").read_text())
    assert manifest["runs"]["A"]["measured"]["validation_loss"] == 2.5


def test_what_is_shipped_is_what_was_measured(root):
    lab = Lab("tiny", device="cpu")
    again = cards.measured(lab, "A/1")
    assert again == cards.measured(lab, "A/1")
    assert again["l0"] == pytest.approx(
        float((lab.dictionary("A/1").encode(lab.model("A").begin(lab.validation())[1]) > 0).sum(-1).float().mean())
    )


def test_the_text_is_described_by_what_was_read():
    strata = {"stdlib": {"tokens": 750, "documents": 2}, "sklearn": {"tokens": 250, "documents": 1}}
    sources = {"stdlib": {"python": "3.11.7"}, "site-packages": {"packages": {"scikit-learn": "1.9.1", "other": "7"}}}
    page = cards.text_page({"strata": {"train": strata}, "sources": sources, "corpus": "a.toml", "seed": 3, "validation_tokens": 100})
    assert "| stdlib | 75.00% | 750 | 2 | PSF-2.0 |" in page
    assert "Python 3.11.7, sklearn 1.9.1." in page
    assert "other" not in page


def test_a_curve_falls_from_left_to_right():
    log = pd.DataFrame({"n_tokens": [1e6, 2e6, 4e6], "loss": [3.0, 2.0, 1.0]})
    tree = ElementTree.fromstring(cards.curve(log, "a < b"))
    points = [tuple(map(float, pair.split(","))) for pair in tree.find("{*}polyline").get("points").split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points), "the y of an SVG grows downwards"
    assert tree.find("{*}title").text == "a < b"
    assert "million tokens; upwards the loss" in [text.text for text in tree.findall("{*}text")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["C"], "there is no run 'C'"),
        (["A", "--scale", "foo"], "SCALE=foo is unknown"),
        (["A", "--scale", "released"], "those that ship already; --scale night"),
        (["A", "--scale", "smoke"], "weights of smoke are not shipped"),
    ],
)
def test_runs_and_scales_that_are_not_shipped_are_named(root, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        cli.main(["release", *arguments])
    assert end.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("name", "message"), [("MANIFEST.json", "is no manifest of released weights"), ("notes.md", "no release wrote")])
def test_a_folder_that_is_no_release_is_refused_before_anything_is_trained(root, capsys, name, message):
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / name).write_text("[]")
    with pytest.raises(SystemExit) as end:
        cli.main(["release", "A", "--scale", "tiny"])
    assert end.value.code == 1
    assert message in capsys.readouterr().err
    assert not (root / "runs").exists()


def test_it_starts_in_the_book(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["release", "A"])
    assert end.value.code == 1
    assert "not the folder of the book" in capsys.readouterr().err
