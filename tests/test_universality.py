"""Matches between dictionaries against NumPy's correlations of the full matrices."""

import numpy as np
import pytest
import torch

from sae_lib import features, universality
from sae_lib.errors import BookError
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

CFG = TransformerConfig(d_model=8, n_heads=2, d_head=4, d_mlp=12, n_ctx=6, d_vocab=20)


@pytest.fixture
def models():
    return OneLayerTransformer(CFG, seed=1), OneLayerTransformer(CFG, seed=2)


@pytest.fixture
def dictionaries():
    a, b = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=3), SparseAutoencoder(SAEConfig(12, 25, l1_coeff=0.1), seed=4)
    with torch.no_grad():
        a.b_enc[7] = -1e3
        b.b_enc[2] = -1e3
    return a, b


@pytest.fixture
def tokens():
    return torch.randint(0, 20, (50, 6), generator=torch.Generator().manual_seed(0))


def acts_of(model, sae, tokens):
    x = model.begin(tokens)[1].detach().flatten(0, 1)
    return (x if sae is None else sae.encode(x).detach()).double().numpy()


def by_numpy(a, b):
    with np.errstate(invalid="ignore"):
        return np.corrcoef(a, b, rowvar=False)[: a.shape[1], a.shape[1] :]


@pytest.mark.parametrize("sparse_below", [0.0, 1.1])
def test_best_match_equals_numpy(models, dictionaries, tokens, monkeypatch, sparse_below):
    monkeypatch.setattr(universality, "_SPARSE_BELOW", sparse_below)
    a, b = (acts_of(model, sae, tokens) for model, sae in zip(models, dictionaries, strict=True))
    table = universality.best_match(models[0], dictionaries[0], models[1], dictionaries[1], tokens, batch_contexts=8)
    pearson = by_numpy(a, b)
    assert table.columns.tolist() == ["feature", "match", "pearson"]
    assert table["feature"].tolist() == list(range(30))
    for row in table.itertuples():
        if np.isnan(pearson[row.feature]).all():
            assert np.isnan(row.pearson)
            assert row.match == -1
        else:
            assert row.match == np.nanargmax(pearson[row.feature])
            assert row.pearson == pytest.approx(np.nanmax(pearson[row.feature]), abs=1e-5)
    assert table["pearson"].isna()[7]
    assert np.isfinite(table["pearson"].median())


def test_neurons_by_numpy(models, tokens):
    table = universality.best_match(models[0], None, models[1], None, tokens)
    pearson = by_numpy(acts_of(models[0], None, tokens), acts_of(models[1], None, tokens))
    assert table.columns.tolist() == ["neuron", "match", "pearson"]
    assert table["pearson"].to_numpy() == pytest.approx(np.nanmax(pearson, axis=1), abs=1e-5)


def test_a_dictionary_matches_itself(models, dictionaries, tokens):
    table = universality.best_match(models[0], dictionaries[0], models[0], dictionaries[0], tokens).dropna()
    assert (table["feature"] == table["match"]).all()
    assert table["pearson"].to_numpy() == pytest.approx(1, abs=1e-6)


def test_a_permutation_is_undone(models, dictionaries, tokens):
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    shuffled = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1))
    with torch.no_grad():
        shuffled.W_enc.copy_(dictionaries[0].W_enc[:, order])
        shuffled.b_enc.copy_(dictionaries[0].b_enc[order])
        shuffled.b_dec.copy_(dictionaries[0].b_dec)
    table = universality.best_match(models[0], dictionaries[0], models[0], shuffled, tokens).dropna()
    assert order.numpy()[table["match"]].tolist() == table["feature"].tolist()


def test_products_by_hand():
    a, b = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    assert universality._products(a, b).tolist() == [[1, 7, 0], [0, 0, 0]]
    sparse = torch.zeros(100, 4)
    sparse[5, 1] = 2
    dense = torch.ones(100, 3)
    assert universality._products(sparse, dense).tolist() == [[0, 0, 0], [2, 2, 2], [0, 0, 0], [0, 0, 0]]


def test_pair_similarities_equal_numpy(models, dictionaries, tokens):
    pairs = np.array([[0, 3], [5, 5], [29, 24], [7, 1]])
    table = universality.pair_similarities(models[0], dictionaries[0], models[1], dictionaries[1], pairs, tokens, batch_contexts=9)
    n_context, pos = tokens.shape
    for row, (i, j) in zip(table.itertuples(), pairs, strict=True):
        sides = []
        for model, sae, feature in zip(models, dictionaries, (i, j), strict=True):
            f = acts_of(model, sae, tokens)[:, feature].reshape(n_context, pos)
            v = features.logit_weights(model, sae, int(feature)).to_numpy(np.float64)
            sides.append((f.ravel(), v, (f[:, :-1] * v[tokens[:, 1:].numpy()]).ravel()))
        for name, a, b in zip(("activation", "logit", "attribution"), *sides, strict=True):
            if a.std() == 0 or b.std() == 0:
                assert np.isnan(getattr(row, name))
            else:
                assert getattr(row, name) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-5)
    assert np.isnan(table["activation"][3])


def test_bad_input_is_named(models, dictionaries, tokens):
    a, b = dictionaries
    with pytest.raises(BookError, match="no tokens"):
        universality.best_match(models[0], a, models[1], b, tokens[:0])
    with pytest.raises(BookError, match="5 activations"):
        universality.best_match(models[0], SparseAutoencoder(SAEConfig(5, 9, l1_coeff=0.1)), models[1], b, tokens)
    for pairs in (np.zeros((0, 2), int), np.array([[0, 25]]), np.array([[-1, 0]])):
        with pytest.raises(BookError, match="pairs"):
            universality.pair_similarities(models[0], a, models[1], b, pairs, tokens)
    with pytest.raises(BookError, match="at least 2"):
        universality.pair_similarities(models[0], a, models[1], b, np.array([[0, 0]]), tokens[:, :1])
