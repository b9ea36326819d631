"""Correlations, histograms, logit weights and examples against NumPy and against cases worked out by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from sae_lib import features
from sae_lib.errors import BookError
from sae_lib.proxies import TokenTable
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

CFG = TransformerConfig(d_model=8, n_heads=2, d_head=4, d_mlp=12, n_ctx=6, d_vocab=20)


@pytest.fixture
def model():
    return OneLayerTransformer(CFG, seed=1)


@pytest.fixture
def sae():
    sae = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=2)
    with torch.no_grad():
        sae.b_enc[7] = -1e3  # a dead feature
        sae.W_enc[:, 8], sae.b_enc[8] = 0, 3  # one that always fires alike
    return sae


@pytest.fixture
def tokens():
    return torch.randint(0, 20, (40, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets(tokens):
    generator = np.random.default_rng(0)
    return {"noise": generator.normal(size=tokens.shape) + 1e3, "rare": tokens.numpy() == 3, "never": np.zeros(tokens.shape, bool)}


def test_correlations_equal_numpy(model, sae, tokens, targets):
    table = features.correlations(model, sae, tokens, targets, batch_contexts=7)
    assert table.columns.tolist() == ["kind", "index", "target", "pearson"]
    assert len(table) == (30 + 12) * 3
    x = model.begin(tokens)[1].detach().flatten(0, 1)
    acts = {"feature": sae.encode(x).detach().double().numpy(), "neuron": x.double().numpy()}
    for row in table.itertuples():
        column, target = acts[row.kind][:, row.index], targets[row.target].ravel()
        if column.std() < 1e-6 or target.std() == 0:
            assert np.isnan(row.pearson)
        else:
            assert row.pearson == pytest.approx(np.corrcoef(column, target)[0, 1], abs=1e-5)
    dead = table[(table["kind"] == "feature") & table["index"].isin([7, 8])]
    assert dead["pearson"].isna().all()


def test_best_is_the_largest(model, sae, tokens, targets):
    x = model.begin(tokens)[1].detach()
    targets["neuron 5"] = x[..., 5].numpy()
    targets["feature 11"] = sae.encode(x)[..., 11].detach().numpy()
    table = features.correlations(model, sae, tokens, targets)
    neuron, r = features.best(table, "neuron 5", "neuron")
    assert neuron == 5
    assert r == pytest.approx(1, abs=1e-5)
    assert features.best(table, "feature 11", "feature")[0] == 11
    with pytest.raises(BookError, match="never"):
        features.best(table, "never", "feature")
    with pytest.raises(BookError, match="martian"):
        features.best(table, "martian", "neuron")


def test_best_prefers_a_positive_correlation():
    table = pd.DataFrame({"kind": "neuron", "index": [0, 1, 2], "target": "t", "pearson": [-0.9, np.nan, 0.2]})
    assert features.best(table, "t", "neuron") == (2, 0.2)


def test_moments_by_hand():
    moments = features.Moments(3, torch.device("cpu"))
    moments.add(torch.tensor([[1.0, 0.0, 5.0], [3.0, 0.0, 5.0]]))
    moments.add(torch.tensor([[5.0, 0.0, 5.0]]))
    assert moments.mean.tolist() == pytest.approx([3, 0, 5])
    assert moments.deviation[0].item() == pytest.approx((8 / 3) ** 0.5)
    assert moments.deviation[1:].isnan().all()


def test_activations_are_the_columns(model, sae, tokens):
    with torch.no_grad():
        x = model.begin(tokens)[1]
    found = features.activations_of(model, sae, tokens, [11, 3, 7], batch_contexts=9)
    assert found.shape == (40, 6, 3)
    assert np.allclose(found, sae.encode(x)[..., [11, 3, 7]].detach().numpy(), atol=1e-6)
    assert np.array_equal(features.neuron_activations(model, tokens, [4, 0], batch_contexts=40), x[..., [4, 0]].numpy())
    assert features.activations_of(model, sae, tokens, []).shape == (40, 6, 0)


def test_a_dictionary_with_its_own_encode_is_asked(model, tokens):
    class Halved(SparseAutoencoder):
        def encode(self, x):
            return super().encode(x) / 2

    plain, halved = (kind(SAEConfig(12, 30, l1_coeff=0.1), seed=2) for kind in (SparseAutoencoder, Halved))
    whole = features.activations_of(model, plain, tokens, [1, 2])
    assert np.allclose(features.activations_of(model, halved, tokens, [1, 2]), whole / 2, atol=1e-6)


ACTS = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 4.0, 4.0, 0.0], np.float32)
MEMBER = np.array([True, False, False, True, True, True, False, False])


def test_activation_histogram_by_hand():
    table = features.activation_histogram(ACTS, MEMBER, n_bins=4)  # (0, 1], (1, 2], (2, 3], (3, 4]
    assert table["left"].tolist() == [0, 1, 2, 3]
    assert table["right"].tolist() == [1, 2, 3, 4]
    assert table["count"].tolist() == [2, 2, 0, 2]
    assert table["n_in_class"].tolist() == [0, 2, 0, 1]
    assert table["share_in_class"].tolist() == pytest.approx([0, 1, np.nan, 0.5], nan_ok=True)
    assert table["mass"].tolist() == [1.5, 3.5, 0, 8]
    assert table["mass_in_class"].tolist() == [0, 3.5, 0, 4]


def test_specificity_by_hand():
    assert features.specificity(ACTS, MEMBER) == pytest.approx(3 / 6)
    assert features.specificity(ACTS, MEMBER, above=1.0) == pytest.approx(3 / 4)
    assert features.specificity(ACTS, MEMBER, weighted=True) == pytest.approx(7.5 / 13)
    assert np.isnan(features.specificity(ACTS, MEMBER, above=4.0))


def test_specificity_by_interval_by_hand():
    acts = np.arange(1, 12, dtype=np.float32).reshape(1, 11)
    table = features.specificity_by_interval(acts, acts > 4)
    assert table["interval"].tolist() == list(range(11))
    assert table["count"].tolist() == [1] * 11
    assert table["specificity"].tolist() == [0] * 4 + [1] * 7
    assert table["right"].iloc[-1] == 11


def test_rising_intervals_by_hand():
    table = pd.DataFrame({"specificity": [0.2, 0.5, 0.5, 0.4, np.nan, 0.6, 0.3]})
    # Rising or equal: the lowest, 0.5, 0.5, and 0.6 over 0.4; the empty one does not count.
    assert features.rising_intervals(table) == 4
    assert features.rising_intervals(pd.DataFrame({"specificity": [np.nan, np.nan]})) == 0


def test_the_interval_of_rising_intervals_holds_what_was_measured():
    rng = np.random.default_rng(0)
    acts = np.where(rng.random((40, 30)) < 0.5, rng.random((40, 30)), 0).astype(np.float32)
    document = np.arange(40)[:, None].repeat(30, 1)
    sure = rng.random((40, 30)) < acts
    low, high = features.rising_interval(acts, sure, document)
    assert 1 <= low <= features.rising_intervals(features.specificity_by_interval(acts, sure)) <= high <= 11
    assert low < high
    # What is certain in every document is certain in every draw.
    assert features.rising_interval(acts, acts > 0.5, document) == (11, 11)


def test_pearson_interval_equals_numpy_and_holds_the_value():
    generator = np.random.default_rng(0)
    target = generator.random((200, 8)) < 0.3
    acts = (target + generator.normal(size=target.shape)).astype(np.float32)
    alone = np.arange(target.size).reshape(target.shape)
    pearson, low, high = features.pearson_interval(acts, target, alone, n_draws=300)
    assert pearson == pytest.approx(np.corrcoef(acts.ravel(), target.ravel())[0, 1], abs=1e-6)
    assert low < pearson < high
    # Fisher's interval for independent tokens is about as wide.
    assert high - low == pytest.approx(2 * 1.96 * (1 - pearson**2) / target.size**0.5, rel=0.3)
    assert features.pearson_interval(acts, target, alone, n_draws=300) == (pearson, low, high)


def test_pearson_interval_widens_when_documents_are_the_units():
    generator = np.random.default_rng(0)
    burst = np.repeat(generator.random((100, 1)) < 0.3, 16, axis=1)
    acts = (burst + np.repeat(generator.normal(size=(100, 1)), 16, axis=1)).astype(np.float32)
    # Two contexts a document, so the interval is wider than that of contexts, and far wider than that of tokens.
    pairs, contexts, alone = (
        np.arange(1600).reshape(100, 16) // 32,
        np.arange(1600).reshape(100, 16) // 16,
        np.arange(1600).reshape(100, 16),
    )
    widths = [np.ptp(features.pearson_interval(acts, burst, document, n_draws=300)[1:]) for document in (pairs, contexts, alone)]
    assert widths[1] > 2 * widths[2]
    both = np.repeat(burst[::2], 2, axis=0), np.repeat(acts[::2], 2, axis=0)
    narrow, wide = (np.ptp(features.pearson_interval(both[1], both[0], document, n_draws=300)[1:]) for document in (contexts, pairs))
    assert wide > 1.2 * narrow


def test_pearson_interval_of_a_constant_is_zero():
    silent, target, document = np.zeros((3, 4), np.float32), np.eye(3, 4) > 0, np.arange(12).reshape(3, 4)
    assert features.pearson_interval(silent, target, document, n_draws=10) == (0, 0, 0)
    assert features.pearson_interval(silent + 7, target, document, n_draws=10) == (0, 0, 0)
    assert features.pearson_interval(target.astype(np.float32), target | True, document, n_draws=10) == (0, 0, 0)


def test_one_document_gives_no_interval():
    target = np.eye(3, 4) > 0
    pearson, low, high = features.pearson_interval(2 * target.astype(np.float32), target, np.zeros((3, 4), int), n_draws=10)
    assert pearson == pytest.approx(1)
    assert np.isnan([low, high]).all()


def test_case_studies_choose_on_one_half_and_measure_on_the_other(model, sae, tokens):
    x = model.begin(tokens)[1].detach()
    classes = {
        "like feature 11": (sae.encode(x)[..., 11] > sae.encode(x)[..., 11].mean()).detach().numpy(),
        "like neuron 5": (x[..., 5] > x[..., 5].mean()).numpy(),
    }
    document = np.arange(tokens.numel()).reshape(tokens.shape) // 9
    found = features.case_studies(model, sae, tokens, classes, document)
    assert list(found) == list(classes)
    first = features.correlations(model, sae, tokens[:20], {name: member[:20] for name, member in classes.items()})
    second = features.correlations(model, sae, tokens[20:], {name: member[20:] for name, member in classes.items()})
    for name, study in found.items():
        assert study.correlations["kind"].tolist() == ["feature", "neuron"]
        assert study.acts.shape == study.neuron_acts.shape == study.in_class.shape == (20, 6)
        assert np.array_equal(study.document, document[20:])
        for row, index in zip(study.correlations.itertuples(), (study.feature, study.neuron), strict=True):
            assert (row.target, row.index) == (name, index)
            assert (index, row.chosen_at) == features.best(first, name, row.kind)
            held = second[(second["kind"] == row.kind) & (second["target"] == name) & (second["index"] == index)]["pearson"].item()
            assert row.pearson == study.pearson(row.kind) == pytest.approx(held, abs=1e-5)
            assert row.low <= row.pearson <= row.high
    assert np.allclose(
        found["like feature 11"].acts, features.activations_of(model, sae, tokens[20:], [found["like feature 11"].feature])[..., 0]
    )
    assert found["like neuron 5"].neuron == 5
    with pytest.raises(BookError, match="second half"):
        features.case_studies(model, sae, tokens, {"early": np.arange(40)[:, None].repeat(6, 1) < 5}, document)


def test_a_feature_that_never_fires_gives_empty_tables():
    silent, nobody = np.zeros((2, 3), np.float32), np.zeros((2, 3), bool)
    assert features.activation_histogram(silent, nobody)["count"].sum() == 0
    assert features.specificity_by_interval(silent, nobody)["specificity"].isna().all()
    assert np.isnan(features.specificity(silent, nobody))


def test_logit_weights_by_hand():
    # Two residual directions, three neurons, four tokens; feature 0 is neuron 1, which writes (3, 1).
    model = OneLayerTransformer(TransformerConfig(d_model=2, n_heads=1, d_head=2, d_mlp=3, n_ctx=4, d_vocab=4))
    sae = SparseAutoencoder(SAEConfig(3, 2, l1_coeff=0.1))
    with torch.no_grad():
        model.W_out[1] = torch.tensor([3.0, 1.0])
        model.ln_final.w.copy_(torch.tensor([2.0, 1.0]))
        model.W_U.copy_(torch.tensor([[1.0, 0.0, 2.0, 4.0], [0.0, 1.0, 1.0, 3.0]]))
        sae.W_dec[0] = torch.tensor([0.0, 1.0, 0.0])
    # Mean removed: (1, -1); scaled: (2, -1); tokens: 2, -1, 3, 5; their median is 2.5.
    weights = features.logit_weights(model, sae, 0)
    assert weights.index.tolist() == [0, 1, 2, 3]
    assert weights.tolist() == pytest.approx([-0.5, -3.5, 0.5, 2.5])
    # Without the rare token 3 the median is 2.
    common = features.logit_weights(model, sae, 0, unigram_counts=np.array([10, 50, 11, 9]))
    assert common.index.tolist() == [0, 1, 2]
    assert common.tolist() == pytest.approx([0, -3, 1])
    with pytest.raises(BookError, match="min_count"):
        features.logit_weights(model, sae, 0, unigram_counts=np.array([1, 1, 1, 1]))


def test_logit_weights_are_the_change_of_the_logits(model, sae, tokens):
    # With the final LayerNorm's scale held at one, adding d_i to the activations adds the weights to the logits.
    resid_mid, x = model.begin(tokens[:1])
    last = x[:, -1:].detach()

    def logits(acts):
        written = resid_mid[:, -1:] + acts @ model.W_out
        return ((written - written.mean(-1, keepdim=True)) * model.ln_final.w @ model.W_U).flatten()

    change = (logits(last + sae.W_dec[4]) - logits(last)).detach().numpy()
    assert features.logit_weights(model, sae, 4).to_numpy() == pytest.approx(change - np.median(change), abs=1e-5)


@pytest.fixture
def table():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return TokenTable(Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, [])))


def test_top_examples_by_hand(table):
    acts = np.array([[0, 1, 0, 0, 5, 4], [9, 0, 0, 0, 0, 2]], np.float32)
    ids = np.array([[table.bytes_of.index(bytes([byte])) for byte in word] for word in (b"abcdef", b"ghijkl")])
    found = features.top_examples(acts, ids, table, n=10, context=1)
    # The 4 beside the 5 is already on show.
    assert found["activation"].tolist() == [9, 5, 2, 1]
    assert found["rank"].tolist() == [1, 2, 3, 4]
    assert list(zip(found["context"], found["pos"], strict=True)) == [(1, 0), (0, 4), (1, 5), (0, 1)]
    assert found["tokens"].tolist() == [
        [("g", 9.0), ("h", 0.0)],
        [("d", 0.0), ("e", 5.0), ("f", 4.0)],
        [("k", 0.0), ("l", 2.0)],
        [("a", 0.0), ("b", 1.0), ("c", 0.0)],
    ]
    assert len(features.top_examples(acts, torch.from_numpy(ids), table, n=2)) == 2
    assert features.top_examples(0 * acts, ids, table).empty


def test_activation_by_kind_by_hand():
    large, none = ACTS > 1, np.zeros(ACTS.shape, bool)
    found = features.activation_by_kind(ACTS, {"member": MEMBER, "large": large, "none": none})
    assert found["kind"].tolist() == ["member", "large", "none", "everything else"]
    assert found["tokens"].tolist() == [4, 1, 0, 3]
    assert found["fires"].tolist() == pytest.approx([3 / 4, 1, np.nan, 2 / 3], nan_ok=True)
    assert found["mean"].tolist() == pytest.approx([7.5 / 4, 4, np.nan, 0.5], nan_ok=True)
    assert found["mass"].tolist() == pytest.approx([7.5 / 13, 4 / 13, 0, 1.5 / 13])
    assert features.activation_by_kind(0 * ACTS, {"member": MEMBER})["mass"].tolist() == [0, 0]


def test_vocabulary_by_hand():
    tokens = np.array([[0, 1, 1, 3], [0, 1, 3, 3]])
    member = np.array([[True, True, False, False], [True, True, True, False]])
    found = features.vocabulary(torch.from_numpy(tokens), member, d_vocab=5)
    assert found["count"].tolist() == [2, 3, 0, 3, 0]
    assert found["share"].tolist() == pytest.approx([1, 2 / 3, np.nan, 1 / 3, np.nan], nan_ok=True)
    assert found["in_class"].tolist() == [True, True, False, False, False]


def test_bad_input_is_named(model, sae, tokens, targets):
    with pytest.raises(BookError, match="no feature 30"):
        features.activations_of(model, sae, tokens, [0, 30])
    with pytest.raises(BookError, match="no neuron -1"):
        features.neuron_activations(model, tokens, [-1])
    with pytest.raises(BookError, match="no feature 99"):
        features.logit_weights(model, sae, 99)
    with pytest.raises(BookError, match="shape"):
        features.correlations(model, sae, tokens, {"short": np.zeros((3, 6))})
    with pytest.raises(BookError, match="finite"):
        features.correlations(model, sae, tokens, {"broken": np.full(tokens.shape, np.inf)})
    with pytest.raises(BookError, match="no target"):
        features.correlations(model, sae, tokens, {})
    with pytest.raises(BookError, match="no tokens"):
        features.correlations(model, sae, tokens[:0], {"none": np.zeros((0, 6))})
    other = SparseAutoencoder(SAEConfig(5, 30, l1_coeff=0.1))
    with pytest.raises(BookError, match="5 activations"):
        features.correlations(model, other, tokens, targets)
    with pytest.raises(BookError, match="bins"):
        features.activation_histogram(ACTS, MEMBER, n_bins=0)
