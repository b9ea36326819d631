"""The byte-level BPE tokenizer: GPT-2's pre-tokenisation, trained on the corpus it will read."""

import hashlib
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from sae_lib.corpus.mixing import mixture
from sae_lib.corpus.recipe import Corpus
from sae_lib.errors import BookError
from sae_lib.storage import write_atomic

END_OF_TEXT = "<|endoftext|>"
"""The separator before each document; its id is 0."""
MIN_VOCAB, MAX_VOCAB = 257, 2**16
"""All bytes and the separator; what fits a token of two bytes."""


def train_tokenizer(corpus: Corpus, d_vocab: int, n_bytes: int, path: Path, progress: bool = True) -> Tokenizer:
    """Train a byte-level BPE on the training side of a corpus, mixed by weight, and save it.

    Shares are counted in bytes here, since there are no tokens yet. The same corpus gives the same file. Reading ends
    early once every stratum has been read through.

    Args:
        corpus: the text.
        d_vocab: entries wanted, the separator and the 256 bytes among them. A corpus with too few repeated pairs gives fewer.
        n_bytes: text to learn from, in UTF-8 bytes.
        path: where to save the tokenizer (JSON).
        progress: show a bar on stderr.

    Raises:
        BookError: `d_vocab` cannot be had, or the corpus cannot be read.
    """
    if not MIN_VOCAB <= d_vocab <= MAX_VOCAB:
        raise BookError(f"a vocabulary of {d_vocab} cannot be had: it is between {MIN_VOCAB} (all bytes and the separator) and {MAX_VOCAB}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=d_vocab, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False)

    def texts():
        with tqdm(total=n_bytes, desc="tokenizer", unit="B", unit_scale=True, disable=not progress) as bar:
            for drawn in mixture(corpus, "train", lambda pieces: [piece.encode() for piece in pieces], n_bytes, corpus.seed, max_epochs=1):
                bar.update(len(drawn.encoded))
                yield drawn.piece.text

    tokenizer.train_from_iterator(texts(), trainer)
    write_atomic(Path(path), tokenizer.to_str(pretty=True))
    return load_tokenizer(path)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer that `train_tokenizer` saved.

    Raises:
        BookError: the file is missing, damaged, or another kind of tokenizer.
    """
    path = Path(path)
    if not path.is_file():
        raise BookError(f"{path} is missing")
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises a bare Exception
        raise BookError(f"{path} is damaged or is no tokenizer ({error}). Delete it and run the same command again") from None
    if tokenizer.token_to_id(END_OF_TEXT) != 0:
        raise BookError(f"{path} is another kind of tokenizer: its token 0 is not {END_OF_TEXT}")
    # A document that spells the separator out is ordinary text.
    tokenizer.encode_special_tokens = True
    return tokenizer


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """SHA-256 of a tokenizer, the same as that of its saved file."""
    return hashlib.sha256(tokenizer.to_str(pretty=True).encode()).hexdigest()
