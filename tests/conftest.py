"""Small models and token splits that every test may use."""

import numpy as np
import pytest
import torch

from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

torch.set_num_threads(2)


class MemoryTokens:
    """Tokens in memory with the interface of `corpus.TokenSplit`."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens, self.n_tokens = tokens, len(tokens)

    def n_contexts(self, n_ctx: int) -> int:
        return self.n_tokens // n_ctx

    def contexts(self, indices, n_ctx: int) -> np.ndarray:
        rows = self.tokens[: self.n_contexts(n_ctx) * n_ctx].reshape(-1, n_ctx)
        return rows[np.asarray(indices)].astype(np.int64)

    def unigram_counts(self, d_vocab: int) -> np.ndarray:
        return np.bincount(self.tokens, minlength=d_vocab)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def model() -> OneLayerTransformer:
    cfg = TransformerConfig(d_model=16, n_heads=2, d_head=8, d_mlp=32, n_ctx=12, d_vocab=50)
    return OneLayerTransformer(cfg, seed=1).eval()


@pytest.fixture
def sae() -> SparseAutoencoder:
    return SparseAutoencoder(SAEConfig(d_in=32, d_sae=64, l1_coeff=1e-3), seed=1)


@pytest.fixture
def tokens() -> MemoryTokens:
    """4,800 tokens with something to learn: each is mostly its predecessor plus one."""
    rng = np.random.default_rng(0)
    jumps = rng.random(4_800) < 0.2
    steps = np.where(jumps, rng.integers(0, 50, 4_800), 1)
    return MemoryTokens((np.cumsum(steps) % 50).astype(np.uint16))
