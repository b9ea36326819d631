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
    monkeypatch.setattr(universality, "SPARSE_BELOW", sparse_below)
    a, b = (acts_of(model, sae, tokens) for model, sae in zip(models, dictionaries, strict=True))
    table = universality.best_match(models[0], dictionaries[0], models[1], dictionaries[1], tokens, batch_contexts=8)
    pearson = by_numpy(a, b)
    assert table.columns.tolist() == ["feature", "match", "pearson", "firings"]
    assert (table["firings"] == (a > 0).sum(0)).all()
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


@pytest.mark.parametrize("itself", [False, True])
def test_closest_equals_numpy(models, dictionaries, tokens, itself):
    sides = [(models[0], dictionaries[0]), (models[0], dictionaries[0]) if itself else (models[1], dictionaries[1])]
    a, b = (acts_of(model, sae, tokens) for model, sae in sides)
    found = universality.closest(*sides[0], *sides[1], tokens, k=4)
    pearson, cosine = by_numpy(a, b), a.T @ b / np.sqrt(np.outer((a**2).sum(0), (b**2).sum(0)).clip(1e-30))
    if itself:
        np.fill_diagonal(pearson, np.nan)
    assert found.index.shape == (30, 4)
    for i in range(30):
        best = np.argsort(-pearson[i])[:4]
        best = best[np.isfinite(pearson[i][best])]
        assert found.index[i].tolist() == [*best, *[-1] * (4 - len(best))]
        assert found.pearson[i][: len(best)] == pytest.approx(pearson[i][best], abs=1e-5)
        assert found.cosine[i][: len(best)] == pytest.approx(cosine[i][best], abs=1e-5)
        assert np.isnan(found.cosine[i][len(best) :]).all()
    assert (found.index[7] == -1).all()


def test_neurons_by_numpy(models, tokens):
    table = universality.best_match(models[0], None, models[1], None, tokens)
    pearson = by_numpy(acts_of(models[0], None, tokens), acts_of(models[1], None, tokens))
    assert table.columns[0] == "neuron"
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
    def product(*batches):
        products = universality._Products(batches[0][0].shape[1], batches[0][1].shape[1], torch.device("cpu"))
        for a, b in batches:
            products.add(a, b)
        return products.total.tolist()

    a, b = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    assert product((a, b)) == [[1, 7, 0], [0, 0, 0]]
    sparse, dense = torch.zeros(100, 4), torch.ones(100, 3)
    sparse[5, 1] = 2
    assert product((sparse, dense)) == [[0, 0, 0], [2, 2, 2], [0, 0, 0], [0, 0, 0]]
    assert product((dense, sparse)) == [[0, 2, 0, 0]] * 3
    # Two sparse batches wait for each other, a dense one between them does not.
    assert product((sparse, sparse), (torch.ones(1, 4), torch.ones(1, 4)), (sparse, sparse))[1] == [1, 9, 1, 1]


def test_sparse_products_are_added_up_in_time(monkeypatch):
    monkeypatch.setattr(universality, "_TOKENS_A_PRODUCT", 50)
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1_000, width, generator=draws) * (torch.rand(1_000, width, generator=draws) < 0.01) for width in (20, 30))
    products = universality._Products(20, 30, torch.device("cpu"))
    for rows in range(0, 1_000, 40):
        products.add(a[rows : rows + 40], b[rows : rows + 40])
    assert torch.allclose(products.total, a.double().T @ b.double(), rtol=1e-6)


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


def test_sums_by_block_add_up_and_know_their_documents(models, dictionaries, tokens):
    pairs = np.array([[0, 3], [5, 5], [7, 1]])
    documents = np.repeat(np.arange(25), 12).reshape(50, 6) * 10
    sums = universality.pair_sums(models[0], dictionaries[0], models[1], dictionaries[1], pairs, tokens, documents, 4, batch_contexts=7)
    assert sums.activation.shape == sums.attribution.shape == (4, 3, 6)
    assert sums.activation[..., 0].sum(0).tolist() == [300] * 3
    assert sums.attribution[..., 0].sum(0).tolist() == [250] * 3
    f = acts_of(models[0], dictionaries[0], tokens)[:, 5]
    g = acts_of(models[1], dictionaries[1], tokens)[:, 5]
    inside = documents.ravel() // 10 % 4 == 1
    by_hand = [inside.sum(), f[inside].sum(), g[inside].sum(), (f**2)[inside].sum(), (g**2)[inside].sum(), (f * g)[inside].sum()]
    assert sums.activation[1, 1] == pytest.approx(by_hand, rel=1e-5)
    whole = universality.pair_sums(models[0], dictionaries[0], models[1], dictionaries[1], pairs, tokens)
    assert whole.activation[0] == pytest.approx(sums.activation.sum(0), rel=1e-6)
    few = universality.pair_sums(models[0], dictionaries[0], models[1], dictionaries[1], pairs, tokens, documents // 200 * 200, 40)
    assert few.activation.shape[0] == 2


def test_exchanged_logit_weights_are_those_of_another_pair(models, dictionaries, tokens):
    pairs, order = np.array([[0, 3], [5, 5], [29, 24]]), np.array([2, 0, 1])
    sides = models[0], dictionaries[0], models[1], dictionaries[1], pairs, tokens
    own, found = universality.pair_sums(*sides), universality.pair_sums(*sides, exchanged=order)
    assert found.activation == pytest.approx(own.activation)
    assert found.attribution[..., [1, 3]] == pytest.approx(own.attribution[..., [1, 3]])  # those of A stay
    for row, (i, j) in enumerate(pairs):
        given = pairs[order[row], 1]
        v, w = (features.logit_weights(m, d, int(k)).to_numpy() for m, d, k in zip(models, dictionaries, (i, given), strict=True))
        g = acts_of(models[1], dictionaries[1], tokens)[:, j].reshape(50, 6)
        assert found.attribution[0, row, 2] == pytest.approx((g[:, :-1] * w[tokens[:, 1:].numpy()]).sum(), rel=1e-4)
        assert found.logit[row] == pytest.approx(np.corrcoef(v, w)[0, 1], abs=1e-5)


def test_neurons_have_logit_weights_too(models, tokens):
    pairs = np.array([[0, 3], [11, 11]])
    sums = universality.pair_sums(models[0], None, models[1], None, pairs, tokens)
    written = [
        features.logit_matrix(model, torch.eye(12))[torch.from_numpy(pairs[:, side])].detach().double().numpy()
        for side, model in enumerate(models)
    ]
    assert sums.logit == pytest.approx([np.corrcoef(*two)[0, 1] for two in zip(*written, strict=True)], abs=1e-5)


def sums_of(pearson_by_block, logit, attribution):
    """Blocks in which x is 0 and 1 and y follows it so far that the correlation is as wanted."""

    def one(r):
        return [2.0, 0.0, 0.0, 2.0, 2.0, 2.0 * r]

    blocks = np.array([[one(r) for r in block] for block in pearson_by_block])
    return universality.PairSums(blocks, np.array([[one(r) for r in attribution]] * len(blocks)), np.array(logit))


def test_median_interval_by_hand():
    same = sums_of([[0.2, 0.5, 0.9]] * 4, [0, 0, 0], [0, 0, 0])
    assert universality.median_interval(same, n=50) == pytest.approx((0.5, 0.5, 0.5))
    differ = sums_of([[0.2, 0.4, 0.9], [0.2, 0.6, 0.9]], [0, 0, 0], [0, 0, 0])
    median, low, high = universality.median_interval(differ, n=400)
    assert median == pytest.approx(0.5)
    assert (low, high) == pytest.approx((0.4, 0.6))
    assert np.isnan(universality.median_interval(sums_of([[0.2]], [0], [0]))[1])


def test_a_difference_of_medians_is_drawn_together(models, dictionaries, tokens):
    documents = np.arange(50)[:, None].repeat(6, 1)
    pairs = np.array([[0, 1], [3, 4], [5, 6]])
    first = universality.pair_sums(models[0], dictionaries[0], models[1], dictionaries[1], pairs, tokens, documents)
    second = universality.pair_sums(models[0], None, models[1], None, pairs, tokens, documents)
    value, low, high = universality.median_difference(first, second)
    assert value == pytest.approx(universality.median_interval(first)[0] - universality.median_interval(second)[0])
    assert low < value < high
    assert universality.median_difference(first, first) == (0, 0, 0)
    with pytest.raises(BookError, match="blocks do not go with"):
        universality.median_difference(first, universality.pair_sums(models[0], None, models[1], None, pairs, tokens))


def test_a_pair_that_fires_in_few_documents_stays_in_the_median():
    sums = sums_of([[0.1, 0.5, 0.9]] * 4, [0, 0, 0], [0, 0, 0])
    sums.activation[1:, 0] = [2.0, 0.0, 0.0, 0.0, 0.0, 0.0]  # silent in all blocks but the first
    assert universality.median_interval(sums, n=100) == pytest.approx((0.5, 0.5, 0.5))


def test_intervals_hold_what_was_measured():
    # Most pairs fire in one block only, and a draw has about two thirds of the blocks.
    rare = sums_of([[0.9] * 30 + [0.3] * 20] * 20, [0] * 50, [0] * 50)
    for pair in range(30):
        rare.activation[np.arange(20) != pair % 20, pair] = [2.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    median, low, high = universality.median_interval(rare, n=200)
    assert low <= median <= high
    # The logit weights follow the text as it is, so that they follow every draw of it less.
    noisy = sums_of(np.random.default_rng(0).uniform(0.2, 0.8, (20, 50)), [0] * 50, [0.5] * 50)
    noisy = noisy._replace(attribution=noisy.activation[::-1], logit=noisy.similarities()["activation"].to_numpy())
    table = universality.relations(noisy, n=200)
    assert ((table["low"] <= table["relation"] + 1e-9) & (table["relation"] - 1e-9 <= table["high"])).all()
    assert (table["low"] < table["relation"]).iloc[0]
    assert table["high"].iloc[:2].le(1).all()


def test_relations_by_hand():
    sums = sums_of([[0.1, 0.2, 0.3, 0.4]] * 3, [0.4, 0.3, 0.2, 0.1], [0.2, 0.4, 0.6, 0.8])
    table = universality.relations(sums, n=20).set_index("similarity")
    assert table["relation"].to_dict() == pytest.approx({"logit": -1, "attribution": 1, "difference": 2})
    assert table.loc["attribution", ["low", "high"]].tolist() == pytest.approx([1, 1])


def test_models_of_two_tokenizers_are_refused(models, dictionaries, tokens):
    other = OneLayerTransformer(TransformerConfig(d_model=8, n_heads=2, d_head=4, d_mlp=12, n_ctx=6, d_vocab=21), seed=1)
    with pytest.raises(BookError, match="one tokenizer"):
        universality.best_match(models[0], None, other, None, tokens)
    with pytest.raises(BookError, match="one tokenizer"):
        universality.pair_similarities(models[0], None, other, None, np.array([[0, 0]]), tokens)
    with pytest.raises(BookError, match="another tokenizer"):
        universality.best_match(models[0], None, models[1], None, tokens + 5)
    with pytest.raises(BookError, match="longer than"):
        universality.best_match(models[0], None, models[1], None, tokens.view(25, 12))


def test_documents_of_other_tokens_are_refused(models, dictionaries, tokens):
    sides = (models[0], dictionaries[0], models[1], dictionaries[1], np.array([[0, 0]]), tokens)
    with pytest.raises(BookError, match="same text"):
        universality.pair_sums(*sides, np.zeros((50, 5), int))
    with pytest.raises(BookError, match="at least 2"):
        universality.pair_sums(*sides, np.zeros((50, 6), int), n_blocks=1)


def test_bad_input_is_named(models, dictionaries, tokens):
    with pytest.raises(BookError, match="k is 0"):
        universality.closest(models[0], dictionaries[0], models[1], dictionaries[1], tokens, k=0)
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
