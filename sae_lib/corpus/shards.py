"""Token shards: a corpus as memory-mapped token ids, with a small JSON beside them that says what they are."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64, Integer
from tokenizers import Tokenizer
from tqdm import tqdm

from sae_lib.corpus.documents import file_edges
from sae_lib.corpus.mixing import mixture
from sae_lib.corpus.recipe import VALIDATION_SHARE, Corpus
from sae_lib.corpus.tokenizer import MAX_VOCAB, tokenizer_sha256
from sae_lib.errors import BookError
from sae_lib.storage import read_json, write_folder, write_json

FORMAT = 2
META = "shards.json"
SHARD_TOKENS = 2**26
"""Tokens in one file (128 MiB)."""
_DOCUMENTS = "documents-"
"""How the names of the files begin that say which document a token belongs to."""
COUNT_TOKENS = 2**24
"""Tokens counted at a time."""
TokenId = np.dtype("<u2")
DocumentNumber = np.dtype("<u4")


class TokenSplit:
    """One side of the text, as memory-mapped files of token ids.

    Args:
        files: of token ids.
        n_tokens: of each file.
        documents: a file for each of these, which says of every token which document it belongs to; or none.
    """

    def __init__(self, files: Sequence[Path], n_tokens: Sequence[int], documents: Sequence[Path] = ()) -> None:
        self.files = list(files)
        self._maps = _mapped(files, TokenId, n_tokens)
        self._documents = _mapped(documents, DocumentNumber, n_tokens) if documents else []

    @property
    def n_tokens(self) -> int:
        """Tokens of all files together."""
        return sum(len(tokens) for tokens in self._maps)

    def n_contexts(self, n_ctx: int) -> int:
        """How many contexts of `n_ctx` tokens there are; they do not overlap and never cross a file."""
        return sum(len(tokens) // n_ctx for tokens in self._maps)

    def contexts(self, indices: Integer[np.ndarray, "batch"] | Sequence[int], n_ctx: int) -> Int64[np.ndarray, "batch n_ctx"]:
        """Read contexts by number.

        Args:
            indices: in [0, n_contexts(n_ctx)), in any order.
            n_ctx: tokens a context.

        Raises:
            IndexError: an index is out of range.
        """
        return _contexts(self._maps, indices, n_ctx)

    def documents(self, indices: Integer[np.ndarray, "batch"] | Sequence[int], n_ctx: int) -> Int64[np.ndarray, "batch n_ctx"]:
        """Which document every token of these contexts belongs to, as numbers that mean nothing but same or different.

        Args:
            indices: as for `contexts`.
            n_ctx: tokens a context.

        Raises:
            IndexError: an index is out of range.
            BookError: this side of the text was packed without its documents.
        """
        if not self._documents:
            raise BookError("only the held-out side of the text knows its documents; take the tokens from `validation`")
        return _contexts(self._documents, indices, n_ctx)

    def unigram_counts(self, d_vocab: int) -> Int64[np.ndarray, "d_vocab"]:
        """How often each token id occurs."""
        counts = np.zeros(d_vocab, dtype=np.int64)
        for tokens in self._maps:
            for start in range(0, len(tokens), COUNT_TOKENS):
                counts += np.bincount(tokens[start : start + COUNT_TOKENS], minlength=d_vocab)
        return counts


def _mapped(files: Sequence[Path], dtype: np.dtype, sizes: Sequence[int]) -> list[np.memmap]:
    return [np.memmap(path, dtype, mode="r", shape=(n,)) for path, n in zip(files, sizes, strict=True)]


def _contexts(maps: Sequence[np.ndarray], indices: Integer[np.ndarray, "batch"] | Sequence[int], n_ctx: int) -> np.ndarray:
    wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
    ends = np.cumsum([len(values) // n_ctx for values in maps])
    if len(wanted) and (wanted.min() < 0 or wanted.max() >= ends[-1]):
        raise IndexError(f"contexts run from 0 to {ends[-1] - 1}; {wanted.min()} to {wanted.max()} were asked for")
    out = np.empty((len(wanted), n_ctx), dtype=np.int64)
    which = np.searchsorted(ends, wanted, side="right")
    for i in np.unique(which):
        rows = np.nonzero(which == i)[0]
        n = len(maps[i]) // n_ctx
        out[rows] = maps[i][: n * n_ctx].reshape(n, n_ctx)[wanted[rows] - (ends[i] - n)]
    return out


class TokenShards:
    """A folder of token ids; `build_shards` makes one, `TokenShards.open` reads it."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder, self.meta = folder, meta

    @classmethod
    def open(cls, folder: Path, tokenizer: Tokenizer) -> "TokenShards":
        """Open a folder of shards and check that it is whole and belongs to this tokenizer.

        Raises:
            BookError: a file is missing, short or foreign, or the shards were made with another tokenizer.
        """
        folder = Path(folder)
        meta = read_json(folder / META)
        files = meta.get("files") if isinstance(meta, dict) and meta.get("format") == FORMAT else None
        if not isinstance(files, dict) or not all(isinstance(edges, list) and len(edges) == 2 for edges in files.values()):
            raise BookError(f"{folder / META} describes no token shards of this version; delete {folder} and run the same command again")
        if meta.get("tokenizer_sha256") != tokenizer_sha256(tokenizer):
            raise BookError(f"{folder} was made with another tokenizer; delete it, or use the tokenizer it was made with")
        for name, edges in files.items():
            path = folder / name
            if not path.is_file():
                raise BookError(f"{path} is missing; delete {folder} and run the same command again")
            size, digest = file_edges(path)
            if size != edges[0]:
                problem = "cut short" if size < edges[0] else "too long"
                raise BookError(f"{path} is {problem} ({size} bytes instead of {edges[0]}); delete {folder} and run the same command again")
            if digest != edges[1]:
                raise BookError(f"{path} is another file than the one that was written; delete {folder} and run the same command again")
        return cls(folder, meta)

    @cached_property
    def train(self) -> TokenSplit:
        """The training side."""
        return self._split("train")

    @cached_property
    def validation(self) -> TokenSplit:
        """The held-out side."""
        return self._split("validation")

    def _split(self, name: str) -> TokenSplit:
        files = {file: edges for file, edges in self.meta["files"].items() if file.startswith(f"{name}-")}
        documents = [self.folder / file for file in self.meta["files"] if file.startswith(f"{_DOCUMENTS}{name}-")]
        return TokenSplit([self.folder / file for file in files], [edges[0] // TokenId.itemsize for edges in files.values()], documents)


def build_shards(
    corpus: Corpus, tokenizer: Tokenizer, folder: Path, n_tokens: int, validation_tokens: int, seed: int = 0, progress: bool = True
) -> TokenShards:
    """Tokenise a corpus, mixed by weight, into a folder; a finished folder of the same making is used as it is.

    The separator stands before each piece of a document. The folder is written aside and renamed, so what stood there
    before stays until the new one is whole. The same arguments give the same bytes.

    Args:
        corpus: the text.
        tokenizer: of at most 65,536 entries.
        folder: where the shards shall be.
        n_tokens: tokens to train on.
        validation_tokens: tokens held out.
        seed: of the order of the documents.
        progress: show a bar on stderr.

    Raises:
        BookError: the text cannot be read, the disk refused, or `folder` holds something else.
    """
    folder = Path(folder)
    if tokenizer.get_vocab_size() > MAX_VOCAB:
        raise BookError(f"a vocabulary of {tokenizer.get_vocab_size()} does not fit tokens of two bytes; use at most {MAX_VOCAB}")
    if n_tokens < 1 or validation_tokens < 1:
        raise BookError(f"shards need tokens on both sides; {n_tokens} and {validation_tokens} were asked for")
    asked = {
        "format": FORMAT,
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "corpus": corpus.spec,
        "corpus_fingerprint": corpus.fingerprint,
        "seed": seed,
        "n_tokens": n_tokens,
        "validation_tokens": validation_tokens,
    }
    if (folder / META).is_file():
        found = read_json(folder / META)
        if isinstance(found, dict) and {key: found.get(key) for key in asked} == asked:
            return TokenShards.open(folder, tokenizer)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BookError(f"{folder} holds something that is no token shards; choose another folder")
    write_folder(folder, lambda aside: _fill(aside, corpus, tokenizer, asked, progress), replace=True)
    return TokenShards.open(folder, tokenizer)


def _fill(folder: Path, corpus: Corpus, tokenizer: Tokenizer, asked: dict[str, Any], progress: bool) -> None:
    def encode(pieces: list[str]) -> list[np.ndarray]:
        return [np.array([0, *encoding.ids], dtype=TokenId) for encoding in tokenizer.encode_batch_fast(pieces, add_special_tokens=False)]

    meta = asked | {"validation_share": VALIDATION_SHARE, "shares": {s.name: s.weight for s in corpus.strata}, "strata": {}, "files": {}}
    for split, n_tokens in (("validation", asked["validation_tokens"]), ("train", asked["n_tokens"])):
        counts: dict[str, Counter] = {stratum.name: Counter(tokens=0, documents=0, epochs=0) for stratum in corpus.strata}
        n_left, number_of = n_tokens, {}
        with (
            _ShardWriter(folder, split, TokenId) as writer,
            _ShardWriter(folder, f"{_DOCUMENTS}{split}", DocumentNumber) as documents,
            tqdm(total=n_tokens, desc=split, unit="token", unit_scale=True, disable=not progress) as bar,
        ):
            for drawn in mixture(corpus, split, encode, n_tokens, asked["seed"]):
                tokens = drawn.encoded[:n_left]
                writer.append(tokens)
                # Intervals are drawn over documents, and only on held-out text.
                if split == "validation":
                    number = number_of.setdefault((drawn.stratum, drawn.piece.document), len(number_of))
                    documents.append(np.full(len(tokens), number, DocumentNumber))
                n_left -= len(tokens)
                bar.update(len(tokens))
                count = counts[drawn.stratum]
                count["tokens"] += len(tokens)
                count["documents"] += drawn.piece.is_first
                count["epochs"] = drawn.piece.epoch
        meta["strata"][split] = {name: dict(count) for name, count in counts.items()}
        meta["files"] |= {path.name: file_edges(path) for path in (*writer.files, *documents.files)}
    meta["sources"] = corpus.facts()
    meta["skipped"] = {stratum.name: skipped for stratum in corpus.strata if (skipped := corpus.skipped(stratum.name))["n"]}
    write_json(folder / META, meta)


class _ShardWriter:
    """Appends one number a token to files of at most `SHARD_TOKENS` tokens each."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype) -> None:
        self.folder, self.name, self.dtype = folder, name, dtype
        self.files: list[Path] = []
        self._file: BinaryIO | None = None
        self._n = 0

    def __enter__(self) -> "_ShardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, values: np.ndarray) -> None:
        while len(values):
            if self._file is None or self._n == SHARD_TOKENS:
                self.__exit__()
                self.files.append(self.folder / f"{self.name}-{len(self.files):05d}.bin")
                self._file, self._n = open(self.files[-1], "wb"), 0  # noqa: SIM115 (closed in __exit__)
            n = min(len(values), SHARD_TOKENS - self._n)
            _write(self._file, values[:n].astype(self.dtype).tobytes())
            self._n += n
            values = values[n:]


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
