"""Small models and token splits that every test may use."""

import numpy as np
import pytest
import torch

from sae_lib.corpus import TokenSplit
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

torch.set_num_threads(2)


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
def tokens(tmp_path) -> TokenSplit:
    """4,800 tokens with something to learn: each is mostly its predecessor plus one."""
    rng = np.random.default_rng(0)
    jumps = rng.random(4_800) < 0.2
    steps = np.where(jumps, rng.integers(0, 50, 4_800), 1)
    path = tmp_path / "train-00000.bin"
    (np.cumsum(steps) % 50).astype("<u2").tofile(path)
    return TokenSplit([path], [4_800])
