"""Recipes, strata and the split into train and validation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sae_lib.corpus import VALIDATION_SHARE, open_corpus
from sae_lib.errors import BookError


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def recipe(tmp_path):
    """A function that writes a recipe beside two small sources and opens it."""
    rows = [{"text": f"{kind} {i} " * 5, "meta": {"category": kind}} for i in range(200) for kind in ("prose", "law")]
    write_rows(tmp_path / "mixed.jsonl", rows)
    (tmp_path / "code").mkdir()
    for i in range(30):
        (tmp_path / "code" / f"m{i}.py").write_text(f"x = {i}\n")

    def write(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text.replace("HERE", str(tmp_path)))
        return open_corpus(str(path))

    return write


GOOD = """
[[source]]
from = "files:HERE/mixed.jsonl"
weight = 3
by = "category"
[source.weights]
prose = 90
law = 10

[[source]]
from = "files:HERE/code/*.py"
weight = 1
"""


def test_weights_multiply_and_sum_to_one(recipe):
    corpus = recipe(GOOD)
    assert {name: round(weight, 6) for name, weight in corpus.strata} == {"prose": 0.675, "law": 0.075, "code": 0.25}
    assert all(document.text.startswith("law") and document.source == "law" for document in corpus.documents("law"))
    assert corpus.facts()["code"]["n_files"] == 30


def test_pocket_inside_a_recipe_keeps_its_own_shares(recipe):
    corpus = recipe(
        '[[source]]\nfrom = "pocket:english=0.75,dna=0.25"\nweight = 2\n[[source]]\nfrom = "files:HERE/code/*.py"\nweight = 2\n'
    )
    assert [tuple(stratum) for stratum in corpus.strata] == [("pocket/english", 0.375), ("pocket/dna", 0.125), ("code", 0.5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[source]\n", "no TOML file"),
        ("", "no [[source]] table"),
        ("source = 3", "no [[source]] table"),
        ('title = "x"\n' + GOOD, "unknown key 'title'"),
        (GOOD.replace("weight = 3", "wieght = 3"), "source 1: unknown key 'wieght'"),
        (GOOD.replace("weight = 1\n", ""), "source 2: key 'weight' is missing"),
        (GOOD.replace("weight = 1\n", "weight = -1\n"), "source 2: key 'weight' is -1"),
        (GOOD.replace("weight = 1\n", 'weight = "1"\n'), "source 2: key 'weight' is '1'"),
        (GOOD.replace("weight = 1\n", "weight = inf\n"), "source 2: key 'weight' is inf"),
        (GOOD.replace("law = 10", "law = true"), "source 1, weights: key 'law' is True"),
        (GOOD.replace('by = "category"\n', ""), "go together"),
        (GOOD.replace('by = "category"', "by = 3"), "source 1: key 'by' is 3"),
        (GOOD.replace("HERE/code", "HERE/nocode"), "source 2, key from: files:"),
        (GOOD.replace('"files:HERE/mixed.jsonl"', '"other.toml"'), "source 1, key from: 'other.toml' names no text"),
        (GOOD + '[[source]]\nfrom = "files:HERE/code/*.py"\nweight = 1\n', "two strata are called 'code'"),
    ],
)
def test_malformed_recipes_name_file_and_key(recipe, text, message):
    with pytest.raises(BookError) as error:
        recipe(text)
    assert "recipe.toml" in str(error.value)
    assert message in str(error.value)


def test_a_missing_recipe(tmp_path):
    with pytest.raises(BookError, match="there is no recipe"):
        open_corpus(str(tmp_path / "none.toml"))


def test_missing_meta_field_names_the_line(recipe):
    corpus = recipe(GOOD.replace('"category"', '"topic"'))
    with pytest.raises(BookError, match=r'mixed\.jsonl, line 1: no field "topic" in its meta.*fields there: category'):
        next(corpus.documents("law"))


def test_a_value_that_never_occurs_lists_those_that_do(recipe):
    corpus = recipe(GOOD.replace("law = 10", "lwa = 10"))
    with pytest.raises(BookError, match=r'no text whose "category" is "lwa" \(values met: law, prose\)'):
        list(corpus.documents("lwa"))


def test_unknown_stratum(recipe):
    with pytest.raises(BookError, match="the strata are prose, law, code"):
        next(recipe(GOOD).documents("poetry"))


def test_undecodable_code_stops_unless_the_recipe_says_so(recipe, tmp_path):
    (tmp_path / "code" / "latin.py").write_bytes(b"# caf\xe9\nx = 1\n")
    with pytest.raises(BookError, match=r"latin\.py, line 1: the bytes are no UTF-8"):
        list(recipe(GOOD).documents("code"))
    corpus = recipe(GOOD + "skip_undecodable = true\n")
    assert len(list(corpus.documents("code"))) == 30
    assert len(list(corpus.documents("code"))) == 30
    assert corpus.skipped("code") == {"n": 1, "first": ["latin.py, line 1"]}


def test_undecodable_lines_are_counted_one_by_one(recipe, tmp_path):
    with open(tmp_path / "mixed.jsonl", "ab") as file:
        file.write(b'{"text": "\xff", "meta": {"category": "law"}}\n{"text": "\\ud800", "meta": {"category": "law"}}\n')
    corpus = recipe(GOOD.replace('by = "category"', 'by = "category"\nskip_undecodable = true'))
    assert len(list(corpus.documents("law"))) == 200
    assert corpus.skipped("law")["n"] == 2


def test_split_is_by_document_and_the_same_every_time(recipe):
    corpus = recipe(GOOD)
    sides = {split: {document.text for document in corpus.documents("prose", split)} for split in ("train", "validation")}
    everything = {document.text for document in corpus.documents("prose")}
    assert sides["train"] | sides["validation"] == everything
    assert not sides["train"] & sides["validation"]
    assert 0 < len(sides["validation"]) < 4 * VALIDATION_SHARE * len(everything)
    assert {document.text for document in recipe(GOOD).documents("prose", "validation")} == sides["validation"]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_handful_of_documents_still_holds_one_out(tmp_path, n):
    for i in range(n):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
    corpus = open_corpus(f"files:{tmp_path}")
    train, held_out = ([document.text for document in corpus.documents(tmp_path.name, split)] for split in ("train", "validation"))
    assert len(train) + len(held_out) == n
    assert train
    assert held_out


def test_a_text_of_which_all_is_held_out_is_refused_and_not_waited_for(tmp_path):
    for i in (3, 33):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
    message = f"files:{tmp_path}: every document of {tmp_path.name} falls on the held-out side, so none is left to train on"
    with pytest.raises(BookError, match=message):
        list(open_corpus(f"files:{tmp_path}").documents(tmp_path.name, "train"))
    train = "import sys; from sae_lib.corpus import *; train_tokenizer(open_corpus(sys.argv[1]), 300, 1000, sys.argv[2])"
    command = [sys.executable, "-c", train, f"files:{tmp_path}", tmp_path / "tokenizer.json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert message in done.stderr


def test_one_document_cannot_be_split(tmp_path):
    (tmp_path / "a.txt").write_text("alone")
    with pytest.raises(BookError, match="one document only"):
        next(open_corpus(f"files:{tmp_path}").documents(tmp_path.name, "train"))


@pytest.mark.parametrize("name", ["real", "released"])
def test_the_books_recipes_keep_rare_kinds_rare(name):
    import tomllib

    path = Path(__file__).parent.parent / "book" / "recipes" / f"{name}.toml"
    sources = tomllib.loads(path.read_text(encoding="utf-8"))["source"]
    assert sum(source["weight"] for source in sources) == 100
    weights = sources[0]["weights"]
    assert sum(weights.values()) == pytest.approx(sources[0]["weight"])
    assert all(0.2 <= weights[kind] <= 0.5 for kind in ("arabic", "hebrew", "korean", "dna", "base64"))
    assert all(0.5 <= weights[kind] <= (1.5 if name == "released" else 3) for kind in ("recipes", "legal", "latex", "http", "dialogue"))
