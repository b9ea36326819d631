"""The pocket corpus: reproducible, labelled truthfully, correct where a machine can tell."""

import ast
import base64
import hashlib
import json
import re
import tracemalloc
import unicodedata
from collections import Counter
from html.parser import HTMLParser
from itertools import islice

import pytest

from sae_lib.corpus import STRATA, anthology, leaves, open_corpus, pocket_documents, pocket_labels
from sae_lib.corpus.pocket import DATA
from sae_lib.errors import BookError

SHA256 = "f904fd2f37124564fc9e3c73c3d6390ca72e7861e4d3bd718b2bf2e2eba019d4"
"""Of the first 20 documents of every stratum, at seed 0. It changes with every word of the data, and with nothing else."""

N_EACH = 100
"""Documents walked of each stratum: 2,000 in all."""

RARE = [name for name, share in STRATA.items() if share <= 0.01]
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
LETTERS = {"arabic": "ARABIC", "hebrew": "HEBREW", "korean": "HANGUL", "russian": "CYRILLIC", "chinese": "CJK"}
STOPS = {"TAA", "TAG", "TGA"}
ANTHOLOGIES = ("arabic", "hebrew", "korean", "english", "python", "legal", "latex", "food", "web")


def first(stratum, n, seed=0, split="train"):
    return list(islice(pocket_documents(stratum, seed, split), n))


@pytest.fixture(scope="module")
def walked():
    """2,000 documents and all passages of the anthology."""
    documents = [document for stratum in STRATA for document in first(stratum, N_EACH)]
    return documents + [passage for stratum in STRATA for passage in anthology(stratum)]


def spans(documents, *labels):
    """Every stretch with one of the labels, and the document it is in."""
    found = [(document.text[start:end], document) for document in documents for start, end, label in document.labels if label in labels]
    assert found, labels
    return found


def test_the_same_seed_gives_the_same_bytes_everywhere():
    digest = hashlib.sha256()
    for stratum in STRATA:
        for document in first(stratum, 20):
            digest.update(json.dumps(document).encode())
    assert digest.hexdigest() == SHA256


@pytest.mark.parametrize("stratum", STRATA)
def test_seeds_and_sides_differ(stratum):
    documents = first(stratum, 100)
    assert documents == first(stratum, 100)
    assert len({document.text for document in documents}) > 90
    for others in (first(stratum, 100, seed=1), first(stratum, 100, split="validation")):
        assert len({document.text for document in documents} & {document.text for document in others}) <= 2


def test_spans_lie_inside_in_order_with_known_labels(walked):
    for document in walked:
        assert document.text.endswith("\n")
        assert document.text == unicodedata.normalize("NFC", document.text)
        before = (0, -len(document.text))
        for start, end, label in document.labels:
            assert 0 <= start < end <= len(document.text)
            assert before <= (start, -end)
            before = (start, -end)
            assert label in pocket_labels()
        assert document.labels


def test_nothing_of_a_template_is_left(walked):
    for document in walked:
        # A template string of JavaScript looks like a slot.
        if "code/javascript" not in str(document.labels):
            assert not re.search(r"\$\{[a-z@]", document.text), document.text
        assert not re.search(r"[⟨⟩⏎\0]|\ba\(n\)|\((은/는|이/가|을/를|과/와|으로/로)\)", document.text), document.text


def test_every_leaf_occurs(walked):
    counts = Counter(label for document in walked for label in {span.label for span in document.labels})
    assert {label: counts[label] for label in leaves(tuple(pocket_labels())) if counts[label] < 5} == {}


@pytest.mark.parametrize("script", LETTERS)
def test_a_span_of_a_script_holds_its_letters_and_neutral_ones(walked, script):
    labels = [label for label in leaves(tuple(pocket_labels())) if label.startswith(f"script/{script}/") and not label.endswith("/latin")]
    for text, _ in spans(walked, *labels):
        foreign = {letter for letter in text if letter.isalpha() and not unicodedata.name(letter).startswith(LETTERS[script])}
        assert not foreign, text
        assert any(letter.isalpha() for letter in text), text


@pytest.mark.parametrize("script", LETTERS)
def test_letters_of_a_script_stand_only_in_its_spans(walked, script):
    for document in walked:
        inside = set[int]()
        for start, end, label in document.labels:
            if label.startswith(f"script/{script}"):
                inside |= set(range(start, end))
        for i, letter in enumerate(document.text):
            if not letter.isascii() and letter.isalpha() and unicodedata.name(letter).startswith(LETTERS[script]):
                assert i in inside, document.text[max(0, i - 20) : i + 20]


def test_transliterated_arabic_is_latin(walked):
    for text, _ in spans(walked, "script/arabic/latin"):
        names = {unicodedata.name(letter).split()[0] for letter in text if letter.isalpha()}
        assert names <= {"LATIN", "MODIFIER"}, text


def test_base64_decodes_and_encodes_what_it_says(walked):
    forms = [label for label in pocket_labels() if re.fullmatch(r"encoded/base64/(mime|pem|inline|field)", label)]
    for text, _ in spans(walked, *forms):
        assert base64.b64decode(text.replace("\n", ""), validate=True)
    for text, _ in spans(walked, "encoded/base64/of_text"):
        assert base64.b64decode(text.replace("\n", "")).decode(errors="ignore").isprintable()
    printable = [base64.b64decode(text.replace("\n", "")).isascii() for text, _ in spans(walked, "encoded/base64/of_bytes")]
    assert sum(printable) / len(printable) < 0.05


def test_a_first_token_is_one_letter_and_the_interior_follows(walked):
    for document in walked:
        by_start = {(label, start): end for start, end, label in document.labels}
        for (label, start), end in by_start.items():
            if label.endswith("/first"):
                assert end == start + 1
                assert (label.replace("/first", "/interior"), end) in by_start


def test_coding_dna_reads_from_start_to_stop(walked):
    for text, _ in spans(walked, "dna/coding"):
        letters = text.replace("\n", "")
        codons = [letters[i : i + 3] for i in range(0, len(letters), 3)]
        assert set(letters) <= set("ACGT")
        assert codons[0] == "ATG"
        assert codons[-1] in STOPS
        assert not STOPS & set(codons[:-1])


def test_other_sequences_are_nucleotides_and_headers_are_headers(walked):
    assert all(set(text) <= set("ACGTN\n") for text, _ in spans(walked, "dna/repeat", "dna/primer"))
    assert all(re.fullmatch(r">[^\n]+\n?", text) for text, _ in spans(walked, "dna/header"))


def test_python_that_is_whole_compiles(walked):
    for text, _ in spans(walked, "code/python"):
        ast.parse(text)


def test_leaves_of_python_are_what_they_say(walked):
    assert all(text.startswith("#") and "\n" not in text for text, _ in spans(walked, "code/python/comment"))
    assert all(re.match(r"(async def|def|class) ", text) and text.endswith(":") for text, _ in spans(walked, "code/python/def"))
    for text, _ in spans(walked, "code/python/docstring"):
        assert isinstance(ast.literal_eval(text), str)


def test_comments_of_python_are_the_tokenizers_comments(walked):
    import io
    import tokenize

    for text, document in spans(walked, "code/python"):
        start = document.text.index(text)
        theirs = {token.string for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT}
        ours = {document.text[a:b] for a, b, label in document.labels if label == "code/python/comment" and start <= a < start + len(text)}
        assert ours >= theirs
        assert {comment for comment in ours if comment in text} <= theirs


def test_json_parses(walked):
    for text, _ in spans(walked, "data/json"):
        json.loads(text)
    for text, _ in spans(walked, "data/json/key"):
        assert re.fullmatch(r'"[^"]*"\s*:\s*', text), text


class WellFormed(HTMLParser):
    """Complains of an element that is closed without having been opened, or never closed."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag


def test_html_is_well_formed(walked):
    for text, _ in spans(walked, "markup/html"):
        parser = WellFormed()
        parser.feed(text)
        parser.close()
        assert not parser.open, text
    assert all(re.fullmatch(r"<[^<>]*>", text) for text, _ in spans(walked, "markup/html/tag"))


def test_latex_leaves_are_mathematics(walked):
    assert all(re.fullmatch(r"\$[^$\n]+\$", text) for text, _ in spans(walked, "markup/latex/inline"))
    for text, _ in spans(walked, "markup/latex/inline", "markup/latex/display"):
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}"), text
    assert not any("$" in text.replace(r"\$", "") for text, _ in spans(walked, "markup/latex/prose"))


@pytest.mark.parametrize(
    ("label", "pattern"),
    [
        ("encoded/hex/digest", r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}"),
        ("encoded/hex/literal", r"#[0-9a-f]{6}|0x[0-9a-f]{4,16}"),
        ("encoded/hex/dump", r"(?:[0-9a-f]{8}  (?:[0-9a-f]{2} ){8} (?:[0-9a-f]{2} ){8} \|.{16}\|\n?)+"),
        ("caps/snake", r"_*[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+_*"),
        ("web/url", r"(?:[a-z]+://(?:[\w.-]+@)?[\w.:-]+(?:/[^\s\"<>]*)?(?:\?[^\s\"<>]*)?\n?)+"),
        ("web/request", r"(?:(?:[A-Z]+ \S+ HTTP/\d(?:\.\d)?|HTTP/\d(?:\.\d)? \d{3}(?: [\w' -]+)?)\n?)+"),
        ("web/header", r"(?:[\w-]+:[^\n]*\n*)+"),
        ("chat/nick", r"(?:\[[\d:]+\] ?)?(?:<[^<>\s]+>|\* \S+)"),
    ],
)
def test_short_forms(walked, label, pattern):
    wrong = [text for text, _ in spans(walked, label) if not re.fullmatch(pattern, text)]
    assert not wrong, wrong[:5]


def test_korean_particles_follow_the_final_consonant(walked):
    text = "".join(text for text, _ in spans(walked, "script/korean/formal", "script/korean/plain"))
    assert not re.search(r"(학생|사람|마을|시청)(는|를|가|와)(?=[\s.,])", text)
    assert not re.search(r"(의사|친구|어머니|학교)(은|을|이|과)(?=[\s.,])", text)


def test_english_articles():
    text = "".join(document.text for document in first("english", 300))
    assert re.search(r"\ban [aeio]\w+", text)
    assert not re.search(r"\ba (?!one\b|once\b|eu)[aeio]\w+", text), re.findall(r"\ba (?!one\b|once\b|eu)[aeio]\w+", text)
    assert not re.search(r"\ban [bcdfgjklmnpqrstvwxyz]\w+", text), re.findall(r"\ban [bcdfgjklmnpqrstvwxyz]\w+", text)
    assert len(set(re.findall(r"[a-z]+", text.lower()))) > 1_500


@pytest.mark.parametrize("stratum", RARE)
def test_kinds_change_inside_a_document(stratum):
    documents = first(stratum, 300)
    mixed = [document for document in documents if len({label.split("/")[0] for *_, label in document.labels}) > 1]
    assert 0.1 < len(mixed) / len(documents) < 0.9 or stratum in {"base64", "hex", "snake", "dna"}


@pytest.mark.parametrize(
    ("stratum", "inner", "outer"),
    [
        ("base64", "encoded/base64/field", "data/json"),
        ("markdown", "code/python", "markup/markdown"),
        ("arabic", "script/arabic/name", "prose/english"),
    ],
)
def test_one_thing_lies_in_another(stratum, inner, outer):
    found = 0
    for document in first(stratum, 300):
        outside = [span for span in document.labels if span.label.startswith(outer)]
        inside = [span for span in document.labels if span.label == inner]
        found += any(a.start <= b.start and b.end <= a.end for a in outside for b in inside)
    assert found >= 3


@pytest.mark.parametrize("stratum", ANTHOLOGIES)
def test_the_anthology_is_large_enough_and_is_mixed_in(stratum):
    passages = anthology(stratum)
    assert sum(len(passage.text.encode()) for passage in passages) >= 12_000
    assert len({passage.text for passage in passages}) == len(passages) >= 8
    drawn = {document.text for document in first(stratum, 2_000)}
    held_out = {document.text for document in first(stratum, 2_000, split="validation")}
    texts = {passage.text for passage in passages}
    assert len(texts & drawn) > 4
    assert texts & held_out
    assert not texts & drawn & held_out


def test_data_files_are_reviewable():
    files = sorted(DATA.rglob("*.txt"))
    assert {path.stem for path in files} >= set(STRATA)
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert len(text.encode()) <= 200_000, path
        assert "\r" not in text, path
        assert text == unicodedata.normalize("NFC", text), path


def test_the_page_of_the_book_lists_every_stratum_and_label():
    page = (DATA.parents[2] / "book" / "pocket.md").read_text(encoding="utf-8")
    shares = dict(re.findall(r"^\| (\w+) \| ([\d.]+)% \|$", page, re.MULTILINE))
    assert {name: float(share) for name, share in shares.items()} == {name: round(100 * share, 1) for name, share in STRATA.items()}
    meanings = dict(re.findall(r"^\| (?:&emsp;)*`([\w/]+)` \| (.+) \|$", page, re.MULTILINE))
    assert meanings == pocket_labels()


def test_memory_does_not_grow():
    stream = pocket_documents("english")
    for _ in islice(stream, 200):
        pass
    tracemalloc.start()
    for _ in islice(stream, 50):
        pass
    _, short = tracemalloc.get_traced_memory()
    for _ in islice(stream, 1_000):
        pass
    _, long = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert long < short + 200_000


def test_rare_strata_are_rare_and_the_shares_sum_to_one():
    assert sum(STRATA.values()) == pytest.approx(1)
    assert len(RARE) >= 12
    assert all(0.002 <= STRATA[name] <= 0.01 for name in RARE)
    assert [tuple(s) for s in open_corpus("pocket:arabic=0.25,english=0.75").strata] == [("pocket/arabic", 0.25), ("pocket/english", 0.75)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pocket:klingon=1", "there is no stratum 'klingon'; the strata are english"),
        ("pocket:arabic", "arabic needs one share"),
        ("pocket:arabic=0,english=1", "arabic needs one share"),
        ("pocket:arabic=x", "arabic needs one share"),
        ("pocket:arabic=0.5,arabic=0.5", "arabic needs one share"),
        ("pocket:arabic=0.5,english=0.4", "the shares sum to 0.9 instead of 1"),
    ],
)
def test_bad_pocket_specifications(spec, message):
    with pytest.raises(BookError, match=re.escape(f"{spec}: {message}")):
        open_corpus(spec)


def test_unknown_strata():
    with pytest.raises(BookError, match="there is no stratum 'klingon'"):
        next(pocket_documents("klingon"))
    with pytest.raises(BookError, match="there is no stratum 'klingon'"):
        anthology("klingon")
