"""Mixing strata by their shares of the tokens.

1. A document is cut into pieces at line or space ends; a rare stratum into shorter pieces.
2. A window of open documents gives its next piece at random, so that a stratum is never one document for long.
3. The stratum furthest behind its share gives the next piece; shares are counted in tokens already written.
4. A stratum that runs dry begins again, and its passes are counted.
"""

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from sae_lib.corpus.documents import Document
from sae_lib.corpus.recipe import Corpus, Stratum

Encoded = TypeVar("Encoded", bound=Sized)

MIN_PIECE_CHARS, MAX_PIECE_CHARS = 512, 8192
"""Bounds of a piece's length in characters."""
PIECES_PER_STRATUM = 16
"""A stratum is cut finely enough to be at least so many pieces, within the bounds."""
WINDOW_DOCUMENTS = 64
"""Documents open at a time in one stratum."""
WINDOW_CHARS = 2**26
"""Characters held open at a time by all strata together; a single longer document is still read."""
BATCH_CHARS = 2**19
"""Characters encoded at a time by all strata together."""


class Piece(NamedTuple):
    """A stretch of one document."""

    text: str
    document: int
    """Which document of its stratum this is a part of, from 0; the same in every epoch."""
    is_first: bool
    """Whether a document begins here."""
    epoch: int
    """Which pass over the stratum this is, from 1."""


@dataclass
class Drawn(Generic[Encoded]):
    """What a stratum gave: one encoded piece."""

    stratum: str
    encoded: Encoded
    piece: Piece


@dataclass
class _Stream(Generic[Encoded]):
    stratum: Stratum
    pieces: Iterator[Piece]
    batch_chars: int
    ready: deque = field(default_factory=deque)
    n_written: int = 0


def cut(text: str, n_chars: int) -> Iterator[str]:
    """Cut a text into pieces of at most `n_chars` characters, after a line end or else after a space where there is one."""
    start = 0
    while len(text) - start > n_chars:
        low, high = start + n_chars // 2, start + n_chars
        end = text.rfind("\n", low, high) + 1 or text.rfind(" ", low, high) + 1 or high
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def interleave(
    documents: Iterator[Document], n_chars: int, rng: random.Random, held_chars: int = WINDOW_CHARS
) -> Iterator[tuple[str, int, bool]]:
    """The pieces of the documents, each document's in order, a window of documents interleaved at random.

    Args:
        documents: read only as far as the window needs.
        n_chars: longest piece.
        rng: only its `random()` is used.
        held_chars: characters that the window holds before it opens another document.

    Returns:
        Pieces, each with the number of its document and whether it begins it.
    """
    window: list[tuple[Iterator[str], int, int, list[bool]]] = []
    n_held, n_opened, is_dry = 0, 0, False
    while True:
        while not is_dry and len(window) < WINDOW_DOCUMENTS and (n_held < held_chars or not window):
            document = next(documents, None)
            if document is None:
                is_dry = True
            else:
                window.append((cut(document.text, n_chars), len(document.text), n_opened, [True]))
                n_held += len(document.text)
                n_opened += 1
        if not window:
            return
        i = int(rng.random() * len(window))
        pieces, n, document, is_first = window[i]
        text = next(pieces, None)
        if text is None:
            n_held -= n
            window[i] = window[-1]
            window.pop()
        else:
            yield text, document, is_first[0]
            is_first[0] = False


def mixture(
    corpus: Corpus, split: str, encode: Callable[[list[str]], list[Encoded]], n_total: int, seed: int, max_epochs: int | None = None
) -> Iterator[Drawn[Encoded]]:
    """Draw encoded pieces until their lengths sum to at least `n_total`, each stratum at its share.

    Args:
        corpus: the strata.
        split: "train" or "validation".
        encode: turns pieces into sequences; their lengths are what shares are counted in (tokens, or bytes).
        n_total: wanted sum of the lengths.
        seed: of the interleaving.
        max_epochs: end when every stratum has been read this often; None goes on for ever.

    Raises:
        BookError: as the sources do.
    """
    streams = [_open(corpus, stratum, split, n_total, seed) for stratum in corpus.strata]
    n_written, unread = 0, {stream.stratum.name for stream in streams}
    while n_written < n_total:
        behind = max(streams, key=lambda stream: stream.stratum.weight * n_written - stream.n_written + stream.stratum.weight)
        if not behind.ready:
            _refill(behind, encode, n_total - n_written)
        drawn: Drawn[Encoded] = behind.ready.popleft()
        if max_epochs is not None and drawn.piece.epoch > max_epochs:
            unread.discard(drawn.stratum)
            if not unread:
                return
        behind.n_written += len(drawn.encoded)
        n_written += len(drawn.encoded)
        yield drawn


def _open(corpus: Corpus, stratum: Stratum, split: str, n_total: int, seed: int) -> _Stream:
    digest = hashlib.sha256(f"{seed}:{split}:{stratum.name}".encode()).digest()
    rng = random.Random(int.from_bytes(digest[:8], "big"))
    # Two characters a token is about what the scripts give, and they are the ones that are rare.
    wanted = int(2 * stratum.weight * n_total / PIECES_PER_STRATUM)
    n_chars = min(max(wanted, MIN_PIECE_CHARS), MAX_PIECE_CHARS)
    held_chars = WINDOW_CHARS // len(corpus.strata)

    def pieces() -> Iterator[Piece]:
        epoch = 0
        while True:
            epoch += 1
            for text, document, is_first in interleave(corpus.documents(stratum.name, split), n_chars, rng, held_chars):
                yield Piece(text, document, is_first, epoch)

    return _Stream(stratum, pieces(), max(n_chars, int(BATCH_CHARS * stratum.weight)))


def _refill(stream: _Stream, encode: Callable[[list[str]], list[Encoded]], n_left: int) -> None:
    # Near the end less is encoded than a whole batch; no text has more characters than twelve to a token for long.
    n_wanted = min(stream.batch_chars, int(12 * stream.stratum.weight * n_left) + MIN_PIECE_CHARS)
    batch: list[Piece] = []
    n_chars = 0
    while n_chars < n_wanted:
        piece = next(stream.pieces)
        batch.append(piece)
        n_chars += len(piece.text)
    encoded = encode([piece.text for piece in batch])
    stream.ready.extend(Drawn(stream.stratum.name, ids, piece) for ids, piece in zip(encoded, batch, strict=True))
