"""Labels on tokens: what a token is, and that the labelled text is what the documents are."""

from itertools import islice

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sae_lib.corpus import (
    Document,
    Span,
    anthology,
    anthology_text,
    labelled_text,
    labels_for_tokens,
    leaves,
    pocket_documents,
    pocket_labels,
)
from sae_lib.errors import BookError


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes and a few merges of English."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator((document.text for document in islice(pocket_documents("english"), 50)), trainer)
    return made


def tokens_with(document, label, tokenizer):
    """The tokens that carry a label, as the tokenizer writes them."""
    encoding = tokenizer.encode(document.text, add_special_tokens=False)
    table = labels_for_tokens(document, encoding.offsets)
    column = table[:, tuple(pocket_labels()).index(label)]
    return [token for token, member in zip(encoding.tokens, column, strict=True) if member]


def test_a_leading_space_does_not_count_and_ancestors_are_implied(tokenizer):
    document = Document("the cat", "x", (Span(4, 7, "script/arabic/news"),))
    spaced = tokens_with(document, "script/arabic/news", tokenizer)
    assert "".join(spaced).lstrip("Ġ") == "cat"
    assert tokens_with(document, "script/arabic", tokenizer) == tokens_with(document, "script", tokenizer) == spaced
    assert tokens_with(document, "script/hebrew", tokenizer) == []


def test_every_byte_of_a_split_character_is_what_the_character_is(tokenizer):
    text = "a 한글 b"
    document = Document(text, "x", (Span(2, 4, "script/korean/plain"),))
    found = tokens_with(document, "script/korean/plain", tokenizer)
    n_bytes = sum(len(token.removeprefix("Ġ")) for token in found)
    assert n_bytes == len("한글".encode())
    assert len(found) > 2


def test_a_token_is_what_it_begins_as(tokenizer):
    document = Document("QUJDREVGR0hJ", "x", (Span(0, 1, "encoded/base64/mime/first"), Span(1, 12, "encoded/base64/mime/interior")))
    first = tokens_with(document, "encoded/base64/mime/first", tokenizer)
    rest = tokens_with(document, "encoded/base64/mime/interior", tokenizer)
    assert len(first) == 1
    assert "".join(first + rest) == document.text


def test_nested_labels_hold_together(tokenizer):
    document = Document('{"k": "QUJD"}', "x", (Span(0, 13, "data/json"), Span(7, 11, "encoded/base64/field")))
    inside = tokens_with(document, "encoded/base64/field", tokenizer)
    assert set(inside) <= set(tokens_with(document, "data/json", tokenizer))
    assert "".join(inside) == "QUJD"


def test_an_unknown_label_is_named(tokenizer):
    document = Document("the cat", "somewhere", (Span(0, 3, "cat/food"),))
    with pytest.raises(BookError, match="somewhere: unknown label 'cat/food'"):
        labels_for_tokens(document, [(0, 3)])


def test_the_labelled_text_is_the_documents(tokenizer):
    text = labelled_text(tokenizer, 20_000, 64, seed=3)
    again = labelled_text(tokenizer, 20_000, 64, seed=3)
    assert text.tokens.shape == text.codes.shape == (312, 64)
    assert (text.tokens == again.tokens).all()
    assert (text.codes == again.codes).all()
    assert not (text.tokens == labelled_text(tokenizer, 20_000, 64, seed=4).tokens).all()
    assert not text.sets[0].any()
    assert (text.codes[text.tokens == 0] == 0).all()
    assert (text.counts == [text.holds(label).sum() for label in text.labels]).all()
    assert 0.4 < text.holds("prose/english").mean() < 0.8


def test_shares_are_of_tokens(tokenizer):
    text = labelled_text(tokenizer, 60_000, 64, weights={"english": 0.7, "dna": 0.3})
    # A document of DNA has English in it, so its label holds for fewer tokens than its stratum has.
    assert 0.15 < text.holds("dna").mean() < 0.32


def test_scripts_are_found_where_their_letters_are(tokenizer):
    text = labelled_text(tokenizer, 30_000, 64, weights={"english": 0.5, "korean": 0.5})
    hangul = [i for i in range(tokenizer.get_vocab_size()) if (tokenizer.id_to_token(i) or "").lstrip("Ġ")[:1] in "êëì"]
    member = np.isin(text.tokens, hangul)
    assert text.holds("script/korean")[member].mean() > 0.9


def test_the_anthology_as_tokens(tokenizer):
    text = anthology_text(tokenizer, 64, ["arabic"])
    assert text.holds("script/arabic").mean() > 0.9
    assert (text.tokens == 0).sum() == len(anthology("arabic"))
    with pytest.raises(BookError, match="no context of 64 tokens in dna"):
        anthology_text(tokenizer, 64, ["dna"])


def test_too_few_tokens_and_an_unknown_label(tokenizer):
    with pytest.raises(BookError, match="less than one context of 64"):
        labelled_text(tokenizer, 10, 64)
    with pytest.raises(BookError, match="there is no label 'script/klingon'; there are script, script/arabic"):
        labelled_text(tokenizer, 640, 64).holds("script/klingon")


def test_leaves_have_no_children():
    found = leaves(tuple(pocket_labels()))
    assert "script/arabic/news" in found
    assert "script/arabic" not in found
    assert not [label for label in found for other in pocket_labels() if other.startswith(f"{label}/")]
