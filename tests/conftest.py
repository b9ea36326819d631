"""Small models and token splits that every test may use."""

import pytest
import small
import torch

from sae_lib.corpus import TokenSplit
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

torch.set_num_threads(2)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def model() -> OneLayerTransformer:
    return OneLayerTransformer(small.GEOMETRY, seed=1).eval().requires_grad_(False)


@pytest.fixture
def sae() -> SparseAutoencoder:
    return SparseAutoencoder(SAEConfig(d_in=32, d_sae=64, l1_coeff=1e-3), seed=1)


@pytest.fixture
def tokens(tmp_path) -> TokenSplit:
    """4,800 tokens with something to learn."""
    return small.text(tmp_path)
