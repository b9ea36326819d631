"""Text in: documents from files, the hub or the pocket generator; mixed by weight, tokenised, and packed into shards."""

from sae_lib.corpus.documents import Document, Span
from sae_lib.corpus.labels import LabelledText, anthology_text, labelled_text, labels_for_tokens, leaves
from sae_lib.corpus.pocket import STRATA, anthology, pocket_documents, pocket_labels
from sae_lib.corpus.recipe import VALIDATION_SHARE, Corpus, Stratum, open_corpus
from sae_lib.corpus.shards import TokenShards, TokenSplit, build_shards
from sae_lib.corpus.tokenizer import END_OF_TEXT, load_tokenizer, tokenizer_sha256, train_tokenizer

__all__ = [
    "END_OF_TEXT",
    "STRATA",
    "VALIDATION_SHARE",
    "Corpus",
    "Document",
    "LabelledText",
    "Span",
    "Stratum",
    "TokenShards",
    "TokenSplit",
    "anthology",
    "anthology_text",
    "build_shards",
    "labelled_text",
    "labels_for_tokens",
    "leaves",
    "load_tokenizer",
    "open_corpus",
    "pocket_documents",
    "pocket_labels",
    "tokenizer_sha256",
    "train_tokenizer",
]
