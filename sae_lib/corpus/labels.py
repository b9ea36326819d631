"""From labelled characters to labelled tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt16
from tokenizers import Tokenizer

from sae_lib.corpus.documents import Document
from sae_lib.corpus.pocket import STRATA, anthology, pocket_documents, pocket_labels
from sae_lib.errors import BookError

TRUTH_SPLIT = "truth"
"""The documents on which features are scored; nothing is trained on them but passages of the anthology, which "train" draws from too."""


@dataclass(frozen=True)
class LabelledText:
    """Contexts of tokens, and of each token everything that it is.

    A token's labels are a set, and few different sets occur; so each set has a number, and each token the number of its set.
    """

    tokens: Int[np.ndarray, "context pos"]
    """Token ids."""
    codes: UInt16[np.ndarray, "context pos"]
    """Which row of `sets` holds."""
    sets: Bool[np.ndarray, "code label"]
    """Which labels each set has; row 0 is the empty set."""
    labels: tuple[str, ...]
    """The labels, parents before children."""

    def holds(self, label: str) -> Bool[np.ndarray, "context pos"]:
        """Which tokens are `label`.

        Raises:
            BookError: there is no such label.
        """
        return self.sets[:, label_index(label, self.labels)][self.codes]

    @cached_property
    def counts(self) -> Int[np.ndarray, " label"]:
        """How many tokens each label holds for."""
        return np.bincount(self.codes.ravel(), minlength=len(self.sets)) @ self.sets

    def part(self, contexts: slice) -> "LabelledText":
        """Some of the contexts."""
        return LabelledText(self.tokens[contexts], self.codes[contexts], self.sets, self.labels)


def label_index(label: str, labels: tuple[str, ...]) -> int:
    """The number of a label.

    Raises:
        BookError: there is no such label.
    """
    if label not in labels:
        near = [known for known in labels if label.split("/")[0] in known] or labels
        raise BookError(f"there is no label {label!r}; there are {', '.join(near)}")
    return labels.index(label)


def leaves(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels that have no children."""
    parents = {label.rpartition("/")[0] for label in labels}
    return tuple(label for label in labels if label not in parents)


def labels_for_tokens(
    document: Document, offsets: list[tuple[int, int]], labels: tuple[str, ...] | None = None
) -> Bool[np.ndarray, "token label"]:
    """What each token of a document is.

    A token is what its first character is, a leading space aside; a token that holds some bytes of a character is what
    that character is. A label implies its ancestors.

    Args:
        document: a text with labelled spans.
        offsets: first character of each token and one past its last, as the tokenizer's encoding gives them.
        labels: the columns; None means all of the pocket corpus.

    Raises:
        BookError: a span carries a label that is not among them.
    """
    labels = labels or tuple(pocket_labels())
    columns = {label: i for i, label in enumerate(labels)}
    starts = np.array([start for start, _ in offsets], dtype=np.int64)
    ends = np.array([end for _, end in offsets], dtype=np.int64)
    text = document.text
    begins_with_space = np.array([end - start > 1 and text[start] == " " for start, end in offsets], dtype=bool)
    first = np.minimum(starts + begins_with_space, np.maximum(ends - 1, starts))
    found = np.zeros((len(offsets), len(labels)), dtype=bool)
    for start, end, label in document.labels:
        low, high = np.searchsorted(first, (start, end))
        while label:
            if label not in columns:
                raise BookError(f"{document.source}: unknown label {label!r}")
            found[low:high, columns[label]] = True
            label = label.rpartition("/")[0]
    return found


def labelled_text(
    tokenizer: Tokenizer, n_tokens: int, n_ctx: int, seed: int = 0, weights: Mapping[str, float] | None = None, split: str = TRUTH_SPLIT
) -> LabelledText:
    """Pocket documents, mixed by their shares of the tokens and cut into contexts, with the truth about every token.

    Args:
        tokenizer: any; the separator (id 0) stands before each document, as in training.
        n_tokens: at most so many; whole contexts only.
        n_ctx: tokens a context.
        seed: of the documents.
        weights: share of each stratum; None means `STRATA`.
        split: which documents; what is generated of "truth" is nobody's training text.

    Raises:
        BookError: less than one context was asked for.
    """
    if n_tokens < n_ctx:
        raise BookError(f"{n_tokens} tokens are less than one context of {n_ctx}; ask for more")
    shares = dict(weights or STRATA)
    streams = {name: pocket_documents(name, seed, split) for name in shares}
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    written = dict.fromkeys(shares, 0)
    n = 0
    while n < n_tokens:
        name = max(shares, key=lambda name: shares[name] * (n + 1) - written[name])
        rows.append(_row(next(streams[name]), tokenizer))
        written[name] += len(rows[-1][0])
        n += len(rows[-1][0])
    return _contexts(rows, n_tokens // n_ctx, n_ctx)


def anthology_text(tokenizer: Tokenizer, n_ctx: int, strata: Sequence[str] | None = None) -> LabelledText:
    """The passages of the anthology as contexts of tokens: text that a page may show, and that reads well.

    Args:
        tokenizer: any; the separator (id 0) stands before each passage.
        n_ctx: tokens a context.
        strata: whose passages; None means all.

    Raises:
        BookError: an unknown stratum, or no passage.
    """
    rows = [_row(document, tokenizer) for name in (strata or STRATA) for document in anthology(name)]
    n_contexts = sum(len(ids) for ids, _ in rows) // n_ctx
    if not n_contexts:
        raise BookError(f"the anthology has no context of {n_ctx} tokens in {', '.join(strata or STRATA)}")
    return _contexts(rows, n_contexts, n_ctx)


def _row(document: Document, tokenizer: Tokenizer) -> tuple[Int[np.ndarray, " token"], UInt8[np.ndarray, "token byte"]]:
    """Token ids of a document after its separator, which is of no kind, and their labels as bits."""
    encoding = tokenizer.encode(document.text, add_special_tokens=False)
    truth = np.zeros((1 + len(encoding.ids), len(pocket_labels())), dtype=bool)
    truth[1:] = labels_for_tokens(document, encoding.offsets)
    return np.array([0, *encoding.ids], dtype=np.int64), np.packbits(truth, axis=1)


def _contexts(rows: list[tuple[np.ndarray, np.ndarray]], n_contexts: int, n_ctx: int) -> LabelledText:
    labels = tuple(pocket_labels())
    n, shape = n_contexts * n_ctx, (n_contexts, n_ctx)
    bits = np.concatenate([packed for _, packed in rows])[:n]
    # The empty set comes first, whether it occurs or not.
    sets, codes = np.unique(np.concatenate([np.zeros_like(bits[:1]), bits]), axis=0, return_inverse=True)
    return LabelledText(
        np.concatenate([ids for ids, _ in rows])[:n].reshape(shape),
        codes.reshape(-1)[1:].astype(np.uint16).reshape(shape),
        np.unpackbits(sets, axis=1, count=len(labels)).astype(bool),
        labels,
    )
