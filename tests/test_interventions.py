"""Ablation, clamping and sampling against explicit forward passes, and logit effects against one feature at a time."""

import numpy as np
import pytest
import torch

from sae_lib import features, interventions
from sae_lib.errors import BookError
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import KeyValueCache, OneLayerTransformer, TransformerConfig

CFG = TransformerConfig(d_model=8, n_heads=2, d_head=4, d_mlp=12, n_ctx=16, d_vocab=20)


@pytest.fixture
def model():
    model = OneLayerTransformer(CFG, seed=1).eval().requires_grad_(False)
    model.unembed.b_U += torch.linspace(-1, 1, 20)
    return model


@pytest.fixture
def sae():
    sae = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=2).requires_grad_(False)
    sae.b_dec += 0.1
    sae.b_enc[7] = -1e3  # a dead feature
    return sae


@pytest.fixture
def tokens():
    return torch.randint(0, 20, (10, 6), generator=torch.Generator().manual_seed(0))


def log_likelihood(model, resid_mid, x, tokens):
    """Of every token but the first, one context and position at a time."""
    logits = model.finish(resid_mid, x)
    found = np.zeros(tuple(tokens.shape))
    for row in range(len(tokens)):
        for pos in range(tokens.shape[1] - 1):
            found[row, pos] = torch.log_softmax(logits[row, pos].double(), -1)[tokens[row, pos + 1]]
    return found


def by_two_passes(model, sae, tokens, feature):
    """The paper's words, one after the other."""
    resid_mid, x = model.begin(tokens)
    f = sae.encode(x)
    error = x - sae.decode(f)
    without = f.clone()
    without[..., feature] = 0
    return log_likelihood(model, resid_mid, sae.decode(without) + error, tokens) - log_likelihood(model, resid_mid, x, tokens)


@pytest.mark.parametrize("feature", [3, 11])
def test_ablation_equals_two_forward_passes(model, sae, tokens, feature):
    effects = interventions.ablation_effects(model, sae, tokens, feature)
    assert effects.shape == (10, 6)
    assert np.abs(effects).max() > 1e-3
    assert np.allclose(effects, by_two_passes(model, sae, tokens, feature), atol=1e-5)
    silent = features.activations_of(model, sae, tokens, [feature])[..., 0] == 0
    assert silent.any()
    assert (effects[silent] == 0).all()
    assert (effects[:, -1] == 0).all()


def test_a_dead_feature_has_no_effect(model, sae, tokens):
    assert (interventions.ablation_effects(model, sae, tokens, 7) == 0).all()


def test_ablating_a_neuron_sets_it_to_zero(model, tokens):
    resid_mid, x = model.begin(tokens)
    without = x.clone()
    without[..., 5] = 0
    expected = log_likelihood(model, resid_mid, without, tokens) - log_likelihood(model, resid_mid, x, tokens)
    assert np.abs(expected).max() > 1e-3
    assert np.allclose(interventions.ablation_effects(model, None, tokens, 5), expected, atol=1e-5)


def test_places_agree_with_the_whole_context(model, sae, tokens):
    units = np.array([[3, 11, 7], [11, 3, 0]])
    context, pos = np.array([[9, 0, 2], [4, -1, 0]]), np.array([[0, 4, 1], [2, -1, 5]])
    effects = interventions.place_effects(model, sae, tokens, units, context, pos)
    whole = {unit: interventions.ablation_effects(model, sae, tokens, unit) for unit in (0, 3, 7, 11)}
    assert effects.shape == (2, 3)
    for place in np.ndindex(2, 3):
        expected = 0 if context[place] < 0 else whole[units[place]][context[place], pos[place]]
        assert effects[place] == pytest.approx(expected, abs=1e-5)
    assert effects[1, 2] == 0  # a last position
    every = np.indices((10, 6))
    same = interventions.place_effects(model, sae, tokens, np.full((10, 6), 11), *every)
    assert np.allclose(same, whole[11], atol=1e-5)


def test_places_in_many_chunks(model, sae, tokens, monkeypatch):
    every = np.indices((10, 6))
    whole = interventions.place_effects(model, sae, tokens, np.full((10, 6), 3), *every)
    monkeypatch.setattr("sae_lib.evidence._PLACES", 7)
    assert np.allclose(interventions.place_effects(model, sae, tokens, np.full((10, 6), 3), *every), whole, atol=1e-6)


def test_a_dictionary_with_its_own_encode_is_asked(model, tokens):
    class Halved(SparseAutoencoder):
        def encode(self, x):
            return super().encode(x) / 2

    halved = Halved(SAEConfig(12, 30, l1_coeff=0.1), seed=2).requires_grad_(False)
    assert np.allclose(interventions.ablation_effects(model, halved, tokens, 3), by_two_passes(model, halved, tokens, 3), atol=1e-5)


def test_clamped_features_have_what_they_are_told(model, sae, tokens):
    x = model.begin(tokens)[1]
    f, error = sae.encode(x), x - sae(x).x_hat
    wanted = f.clone()
    wanted[..., 3], wanted[..., 11] = 2.5, 0
    held = interventions.clamp(sae, x, {3: 2.5, 11: 0})
    assert torch.allclose(held, sae.decode(wanted) + error, atol=1e-5)
    assert torch.equal(interventions.clamp(sae, x, {}), x)
    neurons = interventions.clamp(None, x, {4: 1.5})
    assert (neurons[..., 4] == 1.5).all()
    assert torch.equal(neurons[..., :4], x[..., :4])
    assert not (x[..., 4] == 1.5).any()


def test_steering_by_nothing_changes_nothing_and_by_zero_ablates(model, sae, tokens):
    still = interventions.steer(model, sae, tokens, {})
    assert torch.allclose(still.logits, model(tokens), atol=1e-6)
    assert still.loss == pytest.approx(still.loss_clean)
    assert still.loss_clean == pytest.approx(float(model.loss(tokens)), abs=1e-5)
    off = interventions.steer(model, sae, tokens, {3: 0.0})
    assert np.allclose(off.effects, interventions.ablation_effects(model, sae, tokens, 3), atol=1e-5)
    assert off.loss - off.loss_clean == pytest.approx(-off.effects[:, :-1].mean(), abs=1e-5)
    strong, mild = (interventions.steer(model, sae, tokens, {3: act}).logits - model(tokens) for act in (6.0, 3.0))
    assert strong.abs().mean() > mild.abs().mean() > 0


def test_ablation_by_class_by_hand(model, sae, tokens):
    in_class = np.zeros((10, 6), bool)
    in_class[:, ::2] = True
    document = np.repeat(np.arange(5), 12).reshape(10, 6)
    found = interventions.ablation_by_class(model, sae, tokens, 3, in_class, document, n_intervals=4)
    acts = features.activations_of(model, sae, tokens, [3])[..., 0]
    effects = interventions.ablation_effects(model, sae, tokens, 3)
    highest, means = acts[:, :-1].max(), {True: [], False: []}
    n = {(interval, member): [] for interval in range(4) for member in (True, False)}
    for row, pos in zip(*np.nonzero(acts[:, :-1] > 0), strict=True):
        member = bool(in_class[row, pos + 1])
        interval = min(3, int(np.ceil(acts[row, pos] / highest * 4)) - 1)
        n[interval, member].append(effects[row, pos])
        means[member].append(effects[row, pos])
    table = found.intervals
    assert table.columns.tolist() == ["interval", "left", "right", "n_in_class", "in_class", "n_other", "other"]
    assert table["right"].iloc[-1] == pytest.approx(highest)
    for interval in range(4):
        for name, member in (("in_class", True), ("other", False)):
            there = n[interval, member]
            assert table.loc[interval, f"n_{name}"] == len(there)
            assert table.loc[interval, name] == pytest.approx(np.mean(there) if there else np.nan, nan_ok=True, rel=1e-5)
    assert found.in_class == pytest.approx(np.mean(means[True]), rel=1e-5)
    assert found.other == pytest.approx(np.mean(means[False]), rel=1e-5)
    assert found.ratio == pytest.approx(-np.mean(means[True]) / abs(np.mean(means[False])), rel=1e-5)
    assert found.low < found.ratio < found.high
    strong = acts[:, :-1] > highest / 3
    changes, member = effects[:, :-1], in_class[:, 1:]
    by_hand = -changes[strong & member].mean() / abs(changes[strong & ~member].mean())
    assert found.ratio_strong == pytest.approx(by_hand, rel=1e-5)
    assert found.ratio_strong != pytest.approx(found.ratio, rel=1e-2)
    assert found.other_size == pytest.approx(np.mean(np.abs(means[False])), rel=1e-5)


def test_ablation_by_class_of_a_dead_feature_is_nan(model, sae, tokens):
    shape = tuple(tokens.shape)
    found = interventions.ablation_by_class(model, sae, tokens, 7, np.ones(shape, bool), np.zeros(shape, np.int64))
    assert len(found.intervals) == 11
    assert found.intervals[["n_in_class", "n_other"]].to_numpy().sum() == 0
    assert np.isnan(found[1:]).all()


def test_a_cache_changes_no_activation(model, tokens):
    whole = model.begin(tokens)
    for cuts in ([1] * 6, [4, 1, 1], [2, 3, 1]):
        cache = KeyValueCache()
        parts = [model.begin(part, cache) for part in tokens.split(cuts, dim=1)]
        assert len(cache) == 6
        for i in range(2):
            assert torch.allclose(torch.cat([part[i] for part in parts], 1), whole[i], atol=1e-5)
    with pytest.raises(BookError, match="17 tokens is longer"):
        model.begin(tokens.repeat(1, 2)[:, :11], cache)


def without_cache(model, sae, prompt, n_samples, n_tokens, pinned, seed):
    generator = torch.Generator().manual_seed(seed)
    written = torch.tensor(prompt).repeat(n_samples, 1)
    for _ in range(n_tokens):
        resid_mid, x = model.begin(written)
        logits = model.finish(resid_mid, interventions.clamp(sae, x, pinned))[:, -1]
        sums = logits.double().softmax(-1).cumsum(-1)
        drawn = torch.rand(n_samples, 1, generator=generator, dtype=torch.float64) * sums[:, -1:]
        written = torch.cat([written, (sums <= drawn).sum(1, keepdim=True)], 1)
    return written.numpy()


@pytest.mark.parametrize("pinned", [{}, {3: 4.0}, {3: 4.0, 11: 2.0}])
def test_sampling_with_a_cache_equals_sampling_without(model, sae, pinned):
    found = interventions.sample(model, [1, 2, 3], 40, 8, sae, pinned, seed=4)
    assert found.shape == (40, 11)
    assert (found[:, :3] == [1, 2, 3]).all()
    assert np.array_equal(found, without_cache(model, sae, [1, 2, 3], 40, 8, pinned, seed=4))
    assert np.array_equal(found, interventions.sample(model, torch.tensor([1, 2, 3]), 40, 8, sae, pinned, seed=4))
    assert not np.array_equal(found, interventions.sample(model, [1, 2, 3], 40, 8, sae, pinned, seed=5))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_as_frequent_as_they_are_likely(model, temperature):
    n = 40_000
    counts = np.bincount(interventions.sample(model, [4, 9], n, 1, temperature=temperature)[:, 2], minlength=model.cfg.d_vocab)
    chance = (model(torch.tensor([[4, 9]]))[0, -1].double() / temperature).softmax(-1).numpy()
    assert (np.abs(counts - n * chance) <= 5 * np.sqrt(n * chance * (1 - chance)) + 1).all()


def test_a_pinned_neuron_writes_what_it_promotes(model):
    """A neuron made to push token 13 alone."""
    model.blocks[0].mlp.W_out[5] = 10 * torch.nn.functional.normalize(model.W_U[:, 13] - model.W_U.mean(1), dim=0)
    free = interventions.sample(model, [1], 100, 10)
    held = interventions.sample(model, [1], 100, 10, pinned={5: 8.0})
    token = int(interventions.logit_effects(model, None, [5], k=1).top[0, 0])
    assert (held[:, 1:] == token).mean() > (free[:, 1:] == token).mean() + 0.2


def test_low_temperature_takes_the_likeliest(model):
    found = interventions.sample(model, [4, 9], 5, 4, temperature=1e-4)
    assert (found == found[0]).all()
    context = torch.from_numpy(found[:1])
    assert torch.equal(model(context)[0, 1:-1].argmax(-1), context[0, 2:])


def test_logit_effects_are_the_logit_weights(model, sae):
    counts = np.arange(20) * 3
    found = interventions.logit_effects(model, sae, [11, 3], counts, min_count=10, k=4, n_bins=5)
    assert found.top.shape == found.top_weight.shape == found.bottom.shape == found.bottom_weight.shape == (2, 4)
    for row, feature in enumerate([11, 3]):
        weights = features.logit_weights(model, sae, feature, counts, min_count=10).sort_values()
        assert found.top[row].tolist() == weights.index[::-1][:4].tolist()
        assert found.bottom[row].tolist() == weights.index[:4].tolist()
        assert np.allclose(found.top_weight[row], weights.iloc[::-1][:4], atol=1e-5)
        assert np.allclose(found.bottom_weight[row], weights.iloc[:4], atol=1e-5)
        assert found.histogram[row].tolist() == np.histogram(weights, 5)[0].tolist()
    assert interventions.logit_effects(model, sae).top.shape == (30, 10)
    assert interventions.logit_effects(model, None, k=50).top.shape == (12, 20)


def test_bad_input_is_named(model, sae, tokens):
    foreign = SparseAutoencoder(SAEConfig(13, 30, l1_coeff=0.1))
    places = np.zeros(1, np.int64)
    for call in (
        lambda: interventions.ablation_effects(model, foreign, tokens, 0),
        lambda: interventions.place_effects(model, foreign, tokens, places, places, places),
        lambda: interventions.steer(model, foreign, tokens, {0: 1.0}),
        lambda: interventions.sample(model, [1], 1, 1, foreign, {0: 1.0}),
        lambda: interventions.logit_effects(model, foreign),
    ):
        with pytest.raises(BookError, match="13 activations"):
            call()
    with pytest.raises(BookError, match="no feature 30"):
        interventions.ablation_effects(model, sae, tokens, 30)
    with pytest.raises(BookError, match="no neuron 12"):
        interventions.ablation_effects(model, None, tokens, 12)
    with pytest.raises(BookError, match="no feature -1"):
        interventions.place_effects(model, sae, tokens, places - 1, places, places)
    with pytest.raises(BookError, match="beyond the 10 contexts of 6"):
        interventions.place_effects(model, sae, tokens, places, places + 10, places)
    with pytest.raises(BookError, match="beyond the 10 contexts of 6"):
        interventions.place_effects(model, sae, tokens, places, places, places - 1)
    for empty in (tokens[:0], tokens[:, :1]):
        with pytest.raises(BookError, match="predict nothing"):
            interventions.ablation_effects(model, sae, empty, 0)
    with pytest.raises(BookError, match="0\\.\\.19"):
        interventions.steer(model, sae, tokens + 15, {0: 1.0})
    shape = tuple(tokens.shape)
    with pytest.raises(BookError, match="document has shape"):
        interventions.ablation_by_class(model, sae, tokens, 3, np.ones(shape, bool), np.zeros((2, 6), np.int64))
    with pytest.raises(BookError, match="0 intervals"):
        interventions.ablation_by_class(model, sae, tokens, 3, np.ones(shape, bool), np.zeros(shape, np.int64), 0)
    with pytest.raises(BookError, match="lower min_count"):
        interventions.logit_effects(model, sae, unigram_counts=np.zeros(20, np.int64))


@pytest.mark.parametrize("act", [float("nan"), float("inf"), -0.5])
def test_an_impossible_strength_is_refused(model, sae, tokens, act):
    with pytest.raises(BookError, match="finite number, 0 or more"):
        interventions.steer(model, sae, tokens, {3: act})
    with pytest.raises(BookError, match="finite number, 0 or more"):
        interventions.sample(model, [1], 2, 2, sae, {3: act})


def test_a_prompt_that_cannot_be_continued_is_refused(model, sae):
    with pytest.raises(BookError, match="at least 1"):
        interventions.sample(model, [], 2, 2)
    with pytest.raises(BookError, match="longer than the model's context of 16"):
        interventions.sample(model, [1, 2], 2, 15)
    with pytest.raises(BookError, match="0\\.\\.19"):
        interventions.sample(model, [1, 20], 2, 2)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(BookError, match="temperature"):
            interventions.sample(model, [1], 2, 2, temperature=temperature)
    with pytest.raises(BookError, match="no feature 30"):
        interventions.sample(model, [1], 2, 2, sae, {30: 1.0})
