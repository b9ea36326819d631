"""Small models, token splits and a small scale that every test may use."""

import os
from dataclasses import replace

import pytest
import torch.distributed.tensor

# Whatever one of our modules, being checked, is the first to import is compiled anew, without a cache; so first what is large.
import transformer_lens  # noqa: F401

import small  # isort: skip

from sae_lib import scales
from sae_lib.corpus import TokenSplit
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

# A sum comes out the same to the bit only over as many threads, in the processes that tests start too.
# Several tests run at a time, and what is as small as this gains nothing from a second thread.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever the test before has set."""
    torch.set_num_threads(1)


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


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A scale of its own, called tiny, whose runs go below the folder that this gives."""
    preset = replace(
        scales.scale("smoke"),
        name="tiny",
        corpus_tokens=20_000,
        validation_tokens=3_000,
        truth_tokens=6_400,
        tokenizer_bytes=60_000,
        d_model=16,
        n_heads=2,
        d_head=8,
        d_mlp=32,
        n_ctx=32,
        d_vocab=400,
        model_tokens=20_000,
        model_arm_tokens=20_000,
        model_batch=640,
        d_sae={"A/0": 32, "A/1": 64, "A/2": 128, "B/1": 64, "S/1": 64},
        n_activations=dict.fromkeys(("A/0", "A/1", "A/2", "B/1", "S/1"), 6_000),
        arm_activations=6_000,
        sae_batch=64,
        analysis_tokens=2_000,
    )
    monkeypatch.setitem(scales.SCALES, "tiny", preset)
    monkeypatch.setenv("SAE_BOOK_RUNS", str(tmp_path / "runs"))
    return tmp_path
