"""Metrics against cases worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from sae_lib import metrics
from sae_lib.errors import BookError
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

D_MLP = 12


@pytest.fixture
def model():
    return OneLayerTransformer(TransformerConfig(d_model=8, n_heads=2, d_head=4, d_mlp=D_MLP, n_ctx=6, d_vocab=20), seed=1)


@pytest.fixture
def tokens():
    return torch.randint(0, 20, (7, 6), generator=torch.Generator().manual_seed(0))


def dictionary(d_in=D_MLP, d_sae=D_MLP, encoder=0.0, b_dec=None):
    """A dictionary whose encoder is a multiple of the identity, so that the reconstruction is known."""
    sae = SparseAutoencoder(SAEConfig(d_in, d_sae, l1_coeff=0.0))
    with torch.no_grad():
        sae.W_enc.copy_(encoder * torch.eye(d_in, d_sae))
        sae.W_dec.copy_(torch.eye(d_sae, d_in))
        sae.b_enc.zero_()
        sae.b_dec.copy_(torch.zeros(d_in) if b_dec is None else b_dec)
    return sae


FEATURE_ACTS = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 3.0, 0.0], [1.0, 0.0, 1.0, 0.5], [0.0, 0.0, 0.1, 0.0]])


def test_l0_by_hand():
    assert metrics.l0(FEATURE_ACTS) == (2 + 1 + 3 + 1) / 4
    assert metrics.l0(torch.zeros(3, 5)) == 0
    assert metrics.l0(torch.ones(2, 3, 5)) == 5
    assert math.isnan(metrics.l0(torch.zeros(0, 5)))


def test_density_by_hand():
    assert metrics.feature_density(FEATURE_ACTS).tolist() == [0.5, 0.0, 1.0, 0.25]
    assert metrics.feature_density(FEATURE_ACTS.view(2, 2, 4)).tolist() == [0.5, 0.0, 1.0, 0.25]


def test_explained_variance_by_hand():
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])  # variance about (1, 1): 4 x 2 = 8
    x_hat = x + torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # error 2
    assert metrics.explained_variance(x, x_hat) == pytest.approx(1 - 2 / 8)
    assert metrics.explained_variance(x, x) == 1
    assert metrics.explained_variance(x, x.mean(0).expand_as(x)) == 0


def test_log_density_histogram_by_hand():
    density = torch.tensor([0.0, 0.0, 1e-4, 2e-4, 0.05, 0.5, 1.0], dtype=torch.float64)
    table = metrics.log_density_histogram(density, n_tokens=10_000, n_bins=4)
    assert table["left"].tolist() == pytest.approx([-4, -3, -2, -1])
    assert table["right"].tolist() == pytest.approx([-3, -2, -1, 0])
    assert table["count"].tolist() == [2, 0, 1, 2]


def test_a_single_firing_is_in_the_first_bin():
    for n_tokens in (3, 7, 30_000, 819_200):
        table = metrics.log_density_histogram(torch.tensor([1 / n_tokens, 0.0]), n_tokens, n_bins=5)
        assert table["count"].tolist() == [1, 0, 0, 0, 0]
    assert metrics.log_density_histogram(torch.zeros(4), 1)["count"].sum() == 0


def test_dead_and_ultralow_by_hand():
    # 0, 1, 99, 100 and 5,000 firings on 10,000 tokens: the cut of 100 firings lies at a density of 0.01.
    density = torch.tensor([0, 1, 99, 100, 5000]).double() / 10_000
    assert metrics.ultralow_cut(10_000) == 0.01
    assert metrics.ultralow_cut(100_000_000) == 1e-6
    assert metrics.dead_share(density) == pytest.approx(1 / 5)
    assert metrics.ultralow_share(density, 10_000) == pytest.approx(2 / 5)
    assert metrics.ultralow_share(density, 10_000, firings=2) == pytest.approx(1 / 5)
    assert metrics.ultralow_share(density.float(), 10_000) == pytest.approx(2 / 5)
    assert metrics.dead_share(torch.zeros(3)) == 1
    assert metrics.ultralow_share(torch.zeros(3), 10) == 0


def test_loss_recovered_by_hand():
    assert metrics.loss_recovered(2.0, 2.5, 4.0) == pytest.approx(0.75)
    assert metrics.loss_recovered(2.0, 4.5, 4.0) == pytest.approx(-0.25)
    assert math.isnan(metrics.loss_recovered(2.0, 3.0, 2.0))


def test_a_perfect_dictionary_loses_nothing(model, tokens):
    result = metrics.evaluate(model, dictionary(encoder=1.0), tokens)
    assert result.mse == pytest.approx(0, abs=1e-12)
    assert result.explained_variance == pytest.approx(1)
    assert result.loss_spliced == pytest.approx(result.loss_clean, abs=1e-6)
    assert result.loss_recovered == pytest.approx(1, abs=1e-4)
    assert result.loss_recovered_mean == pytest.approx(1, abs=1e-4)
    assert result.loss_clean == pytest.approx(model.loss(tokens).item(), abs=1e-6)
    x = model.begin(tokens)[1]
    assert result.l0 == pytest.approx((x > 0).sum(-1).float().mean().item())
    assert torch.allclose(result.density, (x > 0).flatten(0, 1).double().mean(0))
    assert result.n_tokens == 42


def test_a_silent_dictionary_is_the_ablation(model, tokens):
    zero = metrics.evaluate(model, dictionary(), tokens)
    x = model.begin(tokens)[1].detach().double()
    assert zero.l0 == 0
    assert metrics.dead_share(zero.density) == 1
    assert zero.loss_spliced == pytest.approx(zero.loss_zero)
    assert zero.loss_recovered == pytest.approx(0, abs=1e-9)
    assert zero.mse == pytest.approx(x.square().mean().item(), rel=1e-6)

    mean = metrics.evaluate(model, dictionary(b_dec=x.mean((0, 1)).float()), tokens)
    assert mean.loss_spliced == pytest.approx(mean.loss_mean, abs=1e-7)
    assert mean.loss_recovered_mean == pytest.approx(0, abs=1e-5)
    assert mean.explained_variance == pytest.approx(0, abs=1e-6)


def test_the_ablated_losses_are_those_of_the_model(model, tokens):
    result = metrics.evaluate(model, dictionary(), tokens)
    resid_mid, x = model.begin(tokens)
    logits = model.finish(resid_mid, torch.zeros_like(x))
    by_hand = -torch.log_softmax(logits[:, :-1], -1).gather(-1, tokens[:, 1:, None]).mean()
    assert result.loss_zero == pytest.approx(by_hand.item(), abs=1e-6)


def test_walking_what_fires_is_decoding(model, tokens):
    sae = SparseAutoencoder(SAEConfig(D_MLP, 30, l1_coeff=0.1), seed=3)
    with torch.no_grad():
        sae.b_enc -= 0.3
        sae.b_dec += 0.01
    costs = metrics.token_costs(model, sae, tokens, batch_contexts=2)
    x = model.begin(tokens)[1]
    out = sae(x)
    assert costs.n_active.tolist() == (out.feature_acts > 0).sum(-1).tolist()
    # Tokens on which nothing fires are among them, where only the bias is left.
    assert 0 < (costs.n_active == 0).mean() < 1
    assert np.allclose(costs.error, (x - out.x_hat).square().sum(-1).detach(), atol=1e-6)
    assert costs.fired.tolist() == (out.feature_acts > 0).flatten(0, 1).sum(0).tolist()


def test_batches_do_not_change_the_result(model, tokens):
    sae = SparseAutoencoder(SAEConfig(D_MLP, 30, l1_coeff=0.1), seed=3)
    whole, cut = metrics.evaluate(model, sae, tokens), metrics.evaluate(model, sae, tokens, batch_contexts=2)
    assert whole[:9] == pytest.approx(cut[:9], rel=1e-5)
    assert torch.equal(whole.density, cut.density)
    assert not torch.is_grad_enabled() or whole.density.grad_fn is None


def test_batches_are_bounded():
    tokens = torch.zeros(100, 64, dtype=torch.long)
    rows = list(metrics.context_batches(tokens, width=2**16))
    assert all((cut.stop - cut.start) * 64 * 2**16 <= 2**25 for cut in rows)
    assert sum(len(tokens[cut]) for cut in rows) == 100
    assert [cut.start for cut in metrics.context_batches(tokens, 1, batch_contexts=40)] == [0, 40, 80]


def test_bad_input_is_named(model, tokens):
    with pytest.raises(BookError, match="5 activations"):
        metrics.evaluate(model, dictionary(d_in=5, d_sae=5), tokens)
    with pytest.raises(BookError, match="no tokens"):
        metrics.evaluate(model, dictionary(), tokens[:0])
    with pytest.raises(BookError, match="at least 2"):
        metrics.evaluate(model, dictionary(), tokens[:, :1])
    with pytest.raises(BookError, match="batch_contexts"):
        metrics.evaluate(model, dictionary(), tokens, batch_contexts=0)
    with pytest.raises(BookError, match="n_tokens"):
        metrics.ultralow_cut(0)
    with pytest.raises(BookError, match="bins"):
        metrics.log_density_histogram(torch.ones(2), 10, n_bins=0)


def test_density_sums_to_l0():
    generator = np.random.default_rng(0)
    acts = torch.from_numpy(np.maximum(generator.normal(size=(50, 9)), 0))
    assert metrics.feature_density(acts).sum().item() == pytest.approx(metrics.l0(acts).item())


def test_intervals_over_documents(model, tokens):
    sae = SparseAutoencoder(SAEConfig(D_MLP, 30, l1_coeff=0.1), seed=3)
    document = np.repeat(np.arange(7), 6).reshape(7, 6)
    assert metrics.evaluate(model, sae, tokens).intervals == {}
    found = metrics.evaluate(model, sae, tokens, document=document)
    assert set(found.intervals) == set(found._fields[:9])
    assert all(low < getattr(found, name) < high for name, (low, high) in found.intervals.items())
    costs = metrics.token_costs(model, sae, tokens)
    # L0 is a mean of the contexts' own means here, so its spread over documents is known.
    means = costs.n_active.mean(1)
    low, high = found.intervals["l0"]
    assert (high - low) / 2 == pytest.approx(1.96 * means.std() / np.sqrt(7), rel=0.2)
    with pytest.raises(BookError, match="do not go with"):
        metrics.intervals(costs, document[:3])


def test_a_gain_is_drawn_on_the_same_documents(model, tokens):
    document = np.repeat(np.arange(7), 6).reshape(7, 6)
    one, other = (
        metrics.evaluate(model, SparseAutoencoder(SAEConfig(D_MLP, 30, l1_coeff=0.1), seed=seed), tokens, document=document)
        for seed in (3, 4)
    )
    value, low, high = metrics.gain(one, other)
    assert value == pytest.approx(one.loss_recovered - other.loss_recovered)
    assert low < value < high
    # What is common to both is not in the interval.
    assert metrics.gain(one, one) == (0, 0, 0)
    with pytest.raises(BookError, match="the same documents"):
        metrics.gain(one, metrics.evaluate(model, SparseAutoencoder(SAEConfig(D_MLP, 30, l1_coeff=0.1)), tokens))


def test_costs_of_kinds_add_up(model, tokens):
    sae = SparseAutoencoder(SAEConfig(D_MLP, 30, l1_coeff=0.1), seed=3)
    document = np.repeat(np.arange(7), 6).reshape(7, 6)
    costs, whole = metrics.token_costs(model, sae, tokens), metrics.evaluate(model, sae, tokens)
    low = (tokens < 10).numpy()
    table = metrics.by_kind(costs, {"all": low | ~low, "low": low, "high": ~low}, document).set_index("kind")
    assert table.loc["all", "added"] == pytest.approx(whole.loss_spliced - whole.loss_clean)
    assert table.loc["all", "explained_variance"] == pytest.approx(whole.explained_variance)
    assert table.loc[["low", "high"], ["tokens", "error"]].sum().tolist() == pytest.approx([1, 1])
    assert (table["tokens"] * table["l0"])[["low", "high"]].sum() == pytest.approx(whole.l0)
    assert table.loc["low", "low"] <= table.loc["low", "added"] <= table.loc["low", "high"]
    for kinds in ({}, {"none": low & ~low}):
        with pytest.raises(BookError, match="kind"):
            metrics.by_kind(costs, kinds, document)


def test_firings_are_density(model, tokens):
    sae = SparseAutoencoder(SAEConfig(D_MLP, 30, l1_coeff=0.1), seed=3)
    assert metrics.firings(model, sae, tokens).tolist() == (metrics.evaluate(model, sae, tokens).density * 42).round().tolist()
    with pytest.raises(BookError, match="no tokens"):
        metrics.firings(model, sae, tokens[:0])


def test_coordinates_by_hand():
    table = metrics.coordinates(dictionary(encoder=2.0), np.array([0.0] + [0.01] * (D_MLP - 1)))
    assert table["product"].tolist() == [2.0] * D_MLP
    assert table["b_enc"].tolist() == [0.0] * D_MLP
    assert table["log10_density"][0] == -np.inf
    assert table["log10_density"][1] == pytest.approx(-2)


def test_separation():
    rng = np.random.default_rng(0)
    inside = np.arange(300) < 30
    points = np.stack([rng.normal(size=300), inside * 6 + rng.normal(size=300) / 10], axis=1)
    table = pd.DataFrame(points, columns=["noise", "signal"])
    assert metrics.separation(table, inside) == 1
    # Always saying no would be right nine times in ten; the balanced accuracy is not taken in.
    assert 0.3 < metrics.separation(table[["noise"]], inside) < 0.7
    with pytest.raises(BookError, match="3 features inside"):
        metrics.separation(table, np.arange(300) < 3)


def test_top_tokens_by_hand(model, tokens):
    sae = dictionary(encoder=1.0)
    x = model.begin(tokens)[1].detach()
    top = metrics.top_tokens(model, sae, tokens, n=3)
    for feature in range(D_MLP):
        peak, pos = x[:, :, feature].max(1)
        order = [row for row in peak.argsort(descending=True)[:3].tolist() if peak[row] > 0]
        assert top[feature, : len(order)].tolist() == [int(tokens[row, pos[row]]) for row in order]
        assert (top[feature, len(order) :] == -1).all()
    with pytest.raises(BookError, match="8 examples"):
        metrics.top_tokens(model, sae, tokens, n=8)


def test_single_token_by_hand():
    assert metrics.single_token(torch.tensor([[3, 3, 3], [3, 3, 4], [-1, -1, -1], [5, 5, -1]])).tolist() == [True, False, False, False]
