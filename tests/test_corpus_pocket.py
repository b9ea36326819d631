"""The pocket corpus: reproducible, labelled truthfully, grammatical where a machine can tell."""

import ast
import base64
import re
import unicodedata
from itertools import islice

import pytest

from sae_lib.corpus import POCKET_WEIGHTS, open_corpus, pocket_documents
from sae_lib.errors import BookError

SCRIPTS = {"arabic": "ARABIC", "hebrew": "HEBREW", "korean": "HANGUL"}


def first(stratum, n, seed=0):
    return list(islice(pocket_documents(stratum, seed), n))


@pytest.mark.parametrize("stratum", POCKET_WEIGHTS)
def test_a_seed_gives_the_same_documents_and_another_gives_others(stratum):
    assert first(stratum, 20) == first(stratum, 20)
    assert first(stratum, 20) != first(stratum, 20, seed=1)
    assert len({document.text for document in first(stratum, 200)}) > 190


@pytest.mark.parametrize("stratum", POCKET_WEIGHTS)
def test_labels_are_in_order_and_nothing_of_a_template_is_left(stratum):
    for document in first(stratum, 300):
        assert document.source == f"pocket/{stratum}"
        ends = [0]
        for span in document.labels:
            assert ends[-1] <= span.start < span.end <= len(document.text)
            assert span.label == stratum
            ends.append(span.end)
        assert len(ends) > 1
        assert not re.search(r"\$\{|\0|a\(n\)|\([은이을과으]", document.text)


@pytest.mark.parametrize("stratum", SCRIPTS)
def test_script_letters_are_labelled_and_only_they(stratum):
    for document in first(stratum, 200):
        inside = set[int]()
        for span in document.labels:
            inside |= set(range(span.start, span.end))
        for i, letter in enumerate(document.text):
            if letter.isalpha():
                assert unicodedata.name(letter).startswith(SCRIPTS[stratum]) == (i in inside)


def test_dna_and_base64_labels_hold_nothing_else():
    for document in first("dna", 100):
        assert all(set(document.text[span.start : span.end]) <= set("ACGT\n") for span in document.labels)
    for document in first("base64", 100):
        for span in document.labels:
            assert base64.b64decode(document.text[span.start : span.end].replace("\n", ""), validate=True)


def test_python_parses():
    for document in first("python", 500):
        ast.parse(document.text)


def test_korean_particles_follow_the_final_consonant():
    text = "".join(document.text for document in first("korean", 300))
    assert "학생은" in text
    assert "의사는" in text
    assert "학생는" not in text
    assert "의사은" not in text
    assert "집으로" in text
    assert "학교로" in text
    assert "마을로" in text
    assert "불여일견”이라는" in text


def test_english_articles():
    text = "".join(document.text for document in first("english", 300))
    assert re.search(r"\ban [aeio]\w+", text)
    assert not re.search(r"\ba [aeio]\w+", text)
    assert not re.search(r"\ban [bcdfgjklmnpqrstvwxyz]\w+", text)
    assert len(set(re.findall(r"[a-z]+", text.lower()))) > 500


def test_rare_strata_are_rare_and_weights_can_be_given():
    rare = ("arabic", "hebrew", "korean", "dna", "base64")
    shares = {stratum.name.removeprefix("pocket/"): stratum.weight for stratum in open_corpus("pocket:").strata}
    assert all(0.003 <= shares[name] <= 0.01 for name in rare)
    assert [tuple(s) for s in open_corpus("pocket:arabic=1,english=3").strata] == [("pocket/arabic", 0.25), ("pocket/english", 0.75)]


@pytest.mark.parametrize("spec", ["pocket:klingon=1", "pocket:arabic", "pocket:arabic=0", "pocket:arabic=x", "pocket:arabic=1,arabic=1"])
def test_bad_pocket_specifications(spec):
    with pytest.raises(BookError, match=re.escape(spec)):
        open_corpus(spec)
