"""Text in: documents from files, the hub or the pocket generator; mixed by weight, tokenised, and packed into shards."""

from sae_lib.corpus.documents import Document, Span
from sae_lib.corpus.pocket import WEIGHTS as POCKET_WEIGHTS
from sae_lib.corpus.pocket import pocket_documents
from sae_lib.corpus.recipe import VALIDATION_SHARE, Corpus, Stratum, open_corpus
from sae_lib.corpus.shards import TokenShards, TokenSplit, build_shards
from sae_lib.corpus.tokenizer import END_OF_TEXT, load_tokenizer, tokenizer_sha256, train_tokenizer

__all__ = [
    "END_OF_TEXT",
    "POCKET_WEIGHTS",
    "VALIDATION_SHARE",
    "Corpus",
    "Document",
    "Span",
    "Stratum",
    "TokenShards",
    "TokenSplit",
    "build_shards",
    "load_tokenizer",
    "open_corpus",
    "pocket_documents",
    "tokenizer_sha256",
    "train_tokenizer",
]
