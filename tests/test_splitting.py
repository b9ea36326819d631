"""Neighbours and families worked out by hand."""

import math

import numpy as np
import pytest
import torch

from sae_lib import splitting
from sae_lib.errors import BookError
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig


def dictionary(rows, d_in=2):
    sae = SparseAutoencoder(SAEConfig(d_in, len(rows), l1_coeff=0.1))
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor(rows))
    return sae


def test_decoder_neighbours_by_hand():
    small = dictionary([[1.0, 0.0], [0.0, 2.0]])  # length does not matter
    large = dictionary([[0.6, 0.8], [1.0, 0.0], [0.8, -0.6], [-1.0, 0.0]])
    for batch in (4096, 3, 1):
        table = splitting.decoder_neighbours(small, large, batch=batch)
        assert table["feature"].tolist() == [0, 1, 2, 3]
        assert table["neighbour"].tolist() == [1, 0, 0, 1]
        assert table["cosine"].to_numpy() == pytest.approx([0.8, 1, 0.8, 0], abs=1e-6)


def test_neighbours_within_one_dictionary_leave_out_the_feature_itself():
    sae = dictionary([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    for batch in (4096, 2):
        table = splitting.decoder_neighbours(sae, sae, batch=batch)
        assert table["neighbour"].tolist() == [1, 2, 1]
        assert table["cosine"].to_numpy() == pytest.approx([0.6, 0.8, 0.8], abs=1e-6)


def test_family_cosine_by_hand():
    sae = dictionary([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    assert splitting.family_cosine(sae, [0, 1]) == pytest.approx(0.6)
    assert splitting.family_cosine(sae, range(3)) == pytest.approx((0.6 + 0.8 + 0) / 3)
    assert math.isnan(splitting.family_cosine(sae, [2]))


@pytest.fixture
def model():
    return OneLayerTransformer(TransformerConfig(d_model=8, n_heads=2, d_head=4, d_mlp=12, n_ctx=6, d_vocab=20), seed=1)


@pytest.fixture
def tokens():
    return torch.randint(0, 20, (60, 6), generator=torch.Generator().manual_seed(0))


def test_in_class_features_equal_counting(model, tokens):
    sae = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=2)
    in_class = tokens.numpy() < 8
    active = sae.encode(model.begin(tokens)[1]).detach().numpy() > 0
    firings, inside = active.sum((0, 1)), (active & in_class[..., None]).sum((0, 1))
    wanted = {i for i in range(30) if firings[i] >= 10 and inside[i] / firings[i] >= 0.5}
    assert 0 < len(wanted) < 30
    table = splitting.in_class_features(model, sae, tokens, in_class, batch_contexts=7)
    assert set(table["feature"]) == wanted
    for row in table.itertuples():
        assert row.firings == firings[row.feature]
        assert row.precision == pytest.approx(inside[row.feature] / firings[row.feature])
        assert row.recall == pytest.approx(inside[row.feature] / in_class.sum())
    assert table["recall"].is_monotonic_decreasing


def test_rare_firings_do_not_count(model, tokens):
    sae = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=2)
    everything = np.ones(tuple(tokens.shape), bool)
    active = (sae.encode(model.begin(tokens)[1]).detach() > 0).sum((0, 1))
    for least in (1, 10, int(active.max())):
        table = splitting.in_class_features(model, sae, tokens, everything, min_firings=least)
        assert len(table) == (active >= max(1, least)).sum()
    with torch.no_grad():
        sae.b_enc.fill_(-1e3)
    assert splitting.in_class_features(model, sae, tokens, everything, precision=0.0, min_firings=0).empty
    assert splitting.in_class_features(model, sae, tokens, ~everything, precision=0.0, min_firings=0).empty


def test_bad_input_is_named(model, tokens):
    with pytest.raises(BookError, match="2 and 3 activations"):
        splitting.decoder_neighbours(dictionary([[1.0, 0.0]]), dictionary([[1.0, 0.0, 0.0]], d_in=3))
    with pytest.raises(BookError, match="2 activations"):
        splitting.in_class_features(model, dictionary([[1.0, 0.0]]), tokens, np.ones(tuple(tokens.shape), bool))
    sae = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1))
    with pytest.raises(BookError, match="no tokens"):
        splitting.in_class_features(model, sae, tokens[:0], np.ones((0, 6), bool))
