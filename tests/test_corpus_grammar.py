"""The grammar of the pocket corpus: what a template may say, and what is said to one that is wrong."""

import random
import re

import pytest

from sae_lib.corpus.documents import Document
from sae_lib.corpus.grammar import Grammar, passage
from sae_lib.corpus.pocket import read_anthology, read_labels
from sae_lib.errors import BookError

LABELS = {"a": "outer", "a/b": "inner"}


def cast(draft):
    draft.kept["he"] = "she"


def grammar(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return Grammar(folder, LABELS, {"made": lambda draft: draft.write_labelled("payload", "a")}, topical="main", cast=cast)


def drawn(folder, *entries, lists="", seed=0):
    """A document drawn from the entries of the list `document`."""
    draft = grammar(folder, main="== document\n" + "\n".join(entries) + "\n" + lists).draft(random.Random(seed))
    draft.write("main/document", {})
    return Document(draft.text(), "", tuple(draft.spans()))


def labelled(document):
    return {(document.text[start:end], label) for start, end, label in document.labels}


def test_slots_numbers_repetition_and_new_lines(tmp_path):
    (tmp_path / "other.txt").write_text("== noun\nplane\n")
    text = drawn(tmp_path, "${noun*3-3|, }.⏎${7..7} ${noun*0-0}${other/noun}", lists="== noun\nsaw\n").text
    assert text == "saw, saw, saw.\n7 plane"


def test_a_number_is_drawn_from_both_ends_and_between(tmp_path):
    assert {drawn(tmp_path, "${2..4}", seed=seed).text for seed in range(60)} == {"2", "3", "4"}


def test_a_kept_word_stays_and_a_number_key_ends_with_its_item(tmp_path):
    noun = "== noun\n" + "\n".join(f"w{i}" for i in range(50)) + "\n== item\n${noun#1}=${noun#1};${noun#all}\n"
    items = drawn(tmp_path, "${item*8-8| }", lists=noun).text.split(" ")
    pairs = [item.split(";") for item in items]
    assert all(len(set(first.split("="))) == 1 for first, _ in pairs)
    assert len({first for first, _ in pairs}) > 3
    assert len({rest for _, rest in pairs}) == 1


def test_a_word_that_nobody_fixed_is_asked_of_the_cast(tmp_path):
    assert drawn(tmp_path, "${#he} and ${#he}").text == "she and she"


def test_topics_stand_in_for_lists(tmp_path):
    lists = "== topics\nsea\nland\n== sea.noun\nwave\n== land.noun\nhill\n"
    assert {drawn(tmp_path, "${noun} ${noun}", lists=lists, seed=seed).text for seed in range(20)} == {"wave wave", "hill hill"}


def test_labels_of_lists_stretches_and_payloads_nest(tmp_path):
    found = drawn(tmp_path, "x ${noun} ⟨a⟩y ⟨a/b⟩z⟨/⟩⟨/⟩ ${@made}", lists="== noun : a/b\nsaw\n")
    assert labelled(found) == {("saw", "a/b"), ("y z", "a"), ("z", "a/b"), ("payload", "a")}


def test_a_kept_word_carries_the_label_of_its_list_each_time(tmp_path):
    found = drawn(tmp_path, "${noun#1} ${noun#1}", lists="== noun : a\nsaw\n")
    assert [span.label for span in found.labels] == ["a", "a"]


@pytest.mark.parametrize(
    ("noun", "article"),
    [("egg", "an"), ("union", "a"), ("unimportant egg", "an"), ("hour", "an"), ("honey jar", "a"), ("European", "a"), ("one", "a")],
)
def test_articles_look_at_what_follows(tmp_path, noun, article):
    assert (
        drawn(tmp_path, "A(n) ${noun} and a(n) ⟨a⟩${noun}⟨/⟩", lists=f"== noun\n{noun}\n").text
        == f"{article.title()} {noun} and {article} {noun}"
    )


@pytest.mark.parametrize(
    ("particle", "noun", "written"),
    [
        ("은/는", "학생", "학생은"),
        ("은/는", "의사", "의사는"),
        ("은/는", "“불여일견”", "“불여일견”은"),
        ("으로/로", "집", "집으로"),
        ("으로/로", "학교", "학교로"),
        ("으로/로", "마을", "마을로"),
    ],
)
def test_particles_look_at_what_stands_before(tmp_path, particle, noun, written):
    assert drawn(tmp_path, f"${{noun}}({particle})", lists=f"== noun\n{noun}\n").text == written


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("noun\n== a\nx\n", 1, "before the first list"),
        ("# fine\n== a\nx\n== a\ny\n", 4, "there twice"),
        ("== a b\nx\n", 1, "opens no list"),
        ("== a : z\nx\n", 1, "unknown label 'z'"),
        ("== a\n⟨z⟩x⟨/⟩\n", 2, "unknown label 'z'"),
        ("== a\n⟨a⟩x\n", 2, "not ended"),
        ("== a\nx⟨/⟩\n", 2, "not begun"),
        ("== a\n${b}\n", 2, "there is no list main/b"),
        ("== a\n${other/b}\n", 2, "there is no list other/b"),
        ("== a\n${}\n", 2, "is no slot"),
        ("== a\n${a#1*2-3}\n", 2, "is no slot"),
        ("== a\n${9..1}\n", 2, "counts down"),
        ("== a\n${@gold}\n", 2, "made by nothing"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, text, line, message):
    with pytest.raises(BookError, match=re.escape(f"main.txt, line {line}: ")) as caught:
        grammar(tmp_path, main=text)
    assert message in str(caught.value)


def test_an_empty_list_and_a_file_that_is_no_text(tmp_path):
    with pytest.raises(BookError, match=r"main\.txt: the list a is empty"):
        grammar(tmp_path, main="== a\n== b\nx\n")
    (tmp_path / "main.txt").write_bytes(b"== a\n\xff\n")
    with pytest.raises(BookError, match=r"main\.txt cannot be read"):
        grammar(tmp_path)


def test_a_list_must_be_there_on_every_topic(tmp_path):
    with pytest.raises(BookError, match="there is no list main/noun on the topic land"):
        grammar(tmp_path, main="== topics\nsea\nland\n== sea.noun\nwave\n== document\n${noun}\n")


def test_a_passage_is_verbatim_but_for_its_marks():
    found = passage("one ⟨a⟩two ⟨a/b⟩three⟨/⟩⟨/⟩ $ {x}\n", "a", "here", LABELS, "place")
    assert found.text == "one two three $ {x}\n"
    assert labelled(found) == {(found.text, "a"), ("two three", "a"), ("three", "a/b")}


@pytest.mark.parametrize(("text", "message"), [("⟨a⟩x", "not ended"), ("x⟨/⟩", "not begun"), ("⟨q⟩x⟨/⟩", "unknown label 'q'")])
def test_a_passage_with_wrong_marks(tmp_path, text, message):
    (tmp_path / "x.txt").write_text(f"# about\n== one\n{text}\n", encoding="utf-8")
    with pytest.raises(BookError, match=message) as caught:
        read_anthology(tmp_path / "x.txt", LABELS)
    assert "x.txt, line 2" in str(caught.value)


def test_an_anthology_that_begins_with_text(tmp_path):
    (tmp_path / "x.txt").write_text("stray\n== one\nx\n", encoding="utf-8")
    with pytest.raises(BookError, match=r"x\.txt, line 1: text before the first passage"):
        read_anthology(tmp_path / "x.txt", LABELS)
    assert read_anthology(tmp_path / "none.txt", LABELS) == ()


@pytest.mark.parametrize("text", ["a  x\na  y\n", "a/b  x\n", "a\n", "a x\n"])
def test_a_malformed_table_of_labels(tmp_path, text):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(BookError, match=r"labels\.txt, line \d: write a new label below its parent"):
        read_labels(tmp_path / "labels.txt")
