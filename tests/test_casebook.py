"""Companions, twins, samples and cards against NumPy and against cases worked out by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from sae_lib import casebook, features, interventions
from sae_lib.errors import BookError
from sae_lib.proxies import TokenTable
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

CFG = TransformerConfig(d_model=8, n_heads=2, d_head=4, d_mlp=12, n_ctx=6, d_vocab=20)


@pytest.fixture
def model():
    return OneLayerTransformer(CFG, seed=1).eval().requires_grad_(False)


@pytest.fixture
def sae():
    return SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=2).requires_grad_(False)


@pytest.fixture
def tokens():
    return torch.randint(0, 20, (100, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def document(tokens):
    return np.arange(tokens.numel()).reshape(tokens.shape) // 15


@pytest.fixture(scope="module")
def table():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return TokenTable(Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, [])))


@pytest.fixture
def study(model, sae, tokens, document):
    """Feature 11 and a class that it mostly fires on."""
    acts = sae.encode(model.begin(tokens)[1]).numpy()
    member = (acts[..., 11] > np.median(acts[..., 11])) | (tokens.numpy() == 3)
    rows = pd.DataFrame({"kind": ["feature", "neuron"], "pearson": [0.5, 0.2]})
    return features.CaseStudy(11, 4, rows, np.where(acts[..., 11] > 0.05, acts[..., 11], 0), acts[..., 0], member, document)


def test_companions_equal_numpy(model, sae, tokens, study):
    fires = sae.encode(model.begin(tokens)[1]).numpy() > 0
    gap = study.in_class & (study.acts == 0)
    found = casebook.companions(model, sae, tokens, study, precision=0.2, min_filled=3)
    assert found.columns.tolist() == ["feature", "firings", "precision", "filled", "share_of_gap"]
    assert 11 not in set(found["feature"])
    assert found["filled"].is_monotonic_decreasing
    expected = [
        unit for unit in range(30) if unit != 11 and (fires[..., unit] & gap).sum() >= 3 and study.in_class[fires[..., unit]].mean() > 0.2
    ]
    assert sorted(found["feature"]) == expected
    assert len(expected) > 1
    for row in found.itertuples():
        assert row.firings == fires[..., row.feature].sum()
        assert row.precision == pytest.approx(study.in_class[fires[..., row.feature]].mean())
        assert row.filled == (fires[..., row.feature] & gap).sum()
        assert row.share_of_gap == pytest.approx(row.filled / gap.sum())
    assert casebook.companions(model, sae, tokens, study, precision=1.0).empty
    with pytest.raises(BookError, match="measured half"):
        casebook.companions(model, sae, tokens[:3], study)


def test_the_twin_of_a_model_in_itself_is_the_feature(model, sae, tokens, study):
    acts = features.activations_of(model, sae, tokens, [11])[..., 0]
    exact = study._replace(acts=acts[50:], document=study.document[50:])
    found = casebook.twin(model, sae, model, sae, tokens, exact)
    assert found.feature == 11
    assert found[1:4] == pytest.approx((1, 1, 1), abs=1e-4)
    # Chosen on the first half, measured on the second.
    x = model.begin(tokens)[1].numpy()
    by_neuron = {unit: np.corrcoef(x[:50, :, unit].ravel(), acts[:50].ravel())[0, 1] for unit in range(12) if x[:50, :, unit].std() > 0}
    assert found.neuron == max(by_neuron, key=by_neuron.get)
    assert found.neuron_activation == pytest.approx(np.corrcoef(x[50:, :, found.neuron].ravel(), acts[50:].ravel())[0, 1], abs=1e-4)
    assert found.neuron_activation != pytest.approx(by_neuron[found.neuron], abs=1e-3)
    with pytest.raises(BookError, match="give both halves"):
        casebook.twin(model, sae, model, sae, tokens[50:], exact)


def test_examples_of_neurons_by_their_strongest_token(model, tokens, study):
    x = model.begin(tokens)[1].flatten(0, 1).numpy()
    found = casebook.examples_of_neurons(model, tokens, study.in_class, n=1)
    assert found["neuron"].tolist() == list(range(12))
    strongest = [study.in_class.ravel()[x[:, unit].argmax()] and x[:, unit].max() > 0 for unit in range(12)]
    assert found["in_class"].tolist() == [int(inside) for inside in strongest]
    assert found["examples"].tolist() == [int(x[:, unit].max() > 0) for unit in range(12)]


def test_growth_by_hand():
    intervals = pd.DataFrame({"interval": range(5), "n_in_class": [50, 40, 30, 9, 20], "in_class": [-0.1, -0.3, -0.2, 5.0, -0.9]})
    # Losses 0.1, 0.3, 0.2, 0.9 of four intervals: ranks 1, 3, 2, 4, so rho = 1 - 6 * 2 / (4 * 15).
    assert casebook.growth(intervals) == pytest.approx(0.8)
    assert casebook.growth(intervals.head(2)) == 0
    assert casebook.growth(intervals.assign(in_class=-0.5)) == 0


def test_share_written_is_judged_among_the_text():
    background = torch.arange(24).reshape(4, 6) % 5
    written = np.array([[3, 3, 1], [3, 0, 0]])
    seen = []

    def judge(ids):
        seen.append(ids)
        return (ids == 3).numpy()

    assert casebook.share_written(written, background, judge) == pytest.approx(3 / 6)
    assert seen[0].shape == (6, 6)
    assert torch.equal(seen[0][:4], background)
    assert seen[0][4:].tolist() == [[3, 3, 1, 0, 0, 0], [3, 0, 0, 0, 0, 0]]
    with pytest.raises(BookError, match="7 tokens"):
        casebook.share_written(np.ones((1, 7), int), background, judge)


def test_written_strips_by_hand(table):
    letters = [table.bytes_of.index(bytes([byte])) for byte in b"abc"]
    acts = np.array([[0.5, 2.0], [0.0, 1.0], [9.0, 9.0]], np.float32)
    found = casebook.written_strips(np.array([letters[:2], letters[1:], letters[:2]]), acts, table, n=2)
    assert found["rank"].tolist() == [1, 2]
    assert found["activation"].tolist() == [2, 1]
    assert found["tokens"].tolist() == [[("a", 0.5), ("b", 2.0)], [("b", 0.0), ("c", 1.0)]]


def test_precision_at_top_by_hand():
    acts = np.repeat(np.arange(1, 12, dtype=np.float32), 4)
    member = acts > 9
    # Intervals hold four tokens each; three of them make the ten that are asked for.
    assert casebook.precision_at_top(acts, member) == (pytest.approx(8 / 12), 12)
    assert casebook.precision_at_top(acts, member, n_least=1) == (1, 4)
    assert casebook.precision_at_top(acts[:3], member[:3]) == (0, 3)
    nothing = casebook.precision_at_top(0 * acts, member)
    assert np.isnan(nothing[0])
    assert nothing[1] == 0


def test_cards_are_the_case_studies(model, sae, tokens, document, table):
    acts = sae.encode(model.begin(tokens)[1]).numpy()
    unit = int((acts > 0).mean((0, 1)).argmax())
    chance = np.random.default_rng(0).random(tokens.shape) < 0.4
    classes = {"like it": acts[..., unit] > np.quantile(acts[..., unit], 0.7), "chance": chance, "none": np.zeros(tokens.shape, bool)}
    found = casebook.compact_cards(model, sae, tokens, classes, document, table)
    cards = found.table.set_index("category")
    assert found.table.columns.tolist() == list(casebook.CARD)
    assert cards["verdict"].tolist() == ["found", "not found", "not in this text"]
    assert list(found.studies) == ["like it", "chance"]
    study, card = found.studies["like it"], cards.loc["like it"]
    assert card["feature"] == study.feature == unit
    assert card["pearson"] == study.pearson("feature") > casebook.FOUND_PEARSON
    assert card["low"] <= card["pearson"] <= card["high"]
    assert card["neuron_pearson"] == study.pearson("neuron")
    assert card["recall"] == pytest.approx((study.acts[study.in_class] > 0).mean())
    assert (card["precision_top"], card["n_top"]) == casebook.precision_at_top(study.acts, study.in_class)
    ablation = interventions.ablation_by_class(model, sae, tokens[50:], unit, study.in_class, study.document)
    assert (card["loss_in_class"], card["loss_other"]) == pytest.approx((-ablation.in_class, -ablation.other))
    assert card["writes"].count(" | ") == 4
    weights = features.logit_weights(model, sae, unit)
    assert card["writes"].split(" | ")[0] == casebook._shown(table.text(int(weights.idxmax())))
    assert cards.loc["none"].drop(["share", "verdict"]).isna().all()
    assert casebook.compact_cards(model, sae, tokens, {"none": classes["none"]}, document, table).studies == {}


def test_what_does_not_print_is_spelled_out():
    assert casebook._shown("a\n\u202eב\x00") == "a\\n\\u202eב\\x00"


def test_preferred_kinds_are_chosen_on_one_half_and_measured_on_the_other(model, tokens):
    sae = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=2)
    word, kind = tokens.numpy() < 6, np.random.default_rng(1).integers(0, 3, tuple(tokens.shape))
    kind[:, 0] = 3  # a kind in which the word is too rare
    word[:, 0] &= np.arange(100) % 9 == 0
    chosen = [4, 7, 11, 20]
    acts = sae.encode(model.begin(tokens)[1]).detach().double().numpy()[..., chosen]
    found = casebook.preferred_kinds(model, sae, tokens, chosen, word, kind, least=4)
    assert found["feature"].tolist() == chosen
    assert found["on_word"].to_numpy() == pytest.approx(acts[word].sum(0) / acts.sum((0, 1)))
    for i, row in enumerate(found.itertuples()):
        lifts = []
        for half in (slice(0, 50), slice(50, 100)):
            f, w, k = acts[half, :, i], word[half], kind[half]
            spent = [f[w & (k == n)].sum() / f[w].sum() for n in range(3)]
            lifts.append([share / ((w & (k == n)).sum() / w.sum()) for n, share in enumerate(spent)])
        assert row.kind == int(np.argmax(lifts[0]))
        assert row.lift == pytest.approx(lifts[1][row.kind])
    assert casebook.preferred_kinds(model, sae, tokens, [], word, kind).empty
    nowhere = casebook.preferred_kinds(model, sae, tokens, chosen, word, kind, least=10_000)
    assert (nowhere["kind"] == -1).all()
    assert nowhere["lift"].isna().all()
    with pytest.raises(BookError, match="word of shape"):
        casebook.preferred_kinds(model, sae, tokens, chosen, word[:3], kind)
