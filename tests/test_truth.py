"""Scores against the truth, held to brute force on hand-made activations."""

import numpy as np
import pytest
import torch
from stand_in import StandIn

from sae_lib import truth
from sae_lib.corpus import LabelledText, pocket_labels
from sae_lib.errors import BookError
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

SETS = np.array([[False, False], [True, False], [True, True]])


def rounded(acts):
    """Activations at the lower end of their step, where nothing is lost by counting in steps."""
    steps = truth.thresholds()
    return torch.from_numpy(steps[np.clip(np.searchsorted(steps, acts, side="right") - 1, 0, None)] * (acts > 0)).float()


@pytest.fixture
def known():
    """Activations of five units on 4,000 tokens, and the sets of the tokens."""
    rng = np.random.default_rng(0)
    codes = rng.choice(3, 4_000, p=[0.7, 0.2, 0.1])
    acts = np.maximum(rng.normal(size=(4_000, 5)), 0)
    acts[:, 0] = np.where(codes == 2, 2 + rng.random(4_000), 0)
    acts[:, 1] += 1.5 * (codes > 0)
    acts[:, 4] = 0
    return rounded(acts), codes


def tally(acts, codes, n_batches=3):
    made = truth.Tally(acts.shape[1], SETS, torch.device("cpu"))
    for rows, of in zip(acts.chunk(n_batches), torch.from_numpy(codes).chunk(n_batches), strict=True):
        made.add(rows, of)
    return made


def test_thresholds_are_the_lower_ends_of_the_steps():
    steps = torch.from_numpy(truth.thresholds()).float()
    assert (truth._step(steps) == torch.arange(truth.N_STEPS)).all()
    assert (truth._step(steps[1:] * 0.9999) == torch.arange(truth.N_STEPS - 1)).all()
    assert truth._step(torch.tensor([1e-9, 1e9])).tolist() == [0, truth.N_STEPS - 1]
    assert steps[0] == 2.0**truth.LOWEST_OCTAVE


def test_scores_agree_with_brute_force(known):
    acts, codes = known
    scores = truth._scores(tally(acts, codes), tally(acts, codes), 5)
    for unit in range(5):
        for label in range(2):
            values, member = acts[:, unit].numpy(), SETS[codes, label]
            assert scores.average_precision[unit, label] == pytest.approx(truth.average_precision(values, member), abs=1e-12)
            best = 0.0
            for threshold in np.unique(values[values > 0]):
                named = values >= threshold
                best = max(best, 2 * (named & member).sum() / (named.sum() + member.sum()))
            assert scores.chosen_at[unit, label] == pytest.approx(best, abs=1e-12)
            if unit < 4:
                assert scores.pearson[unit, label] == pytest.approx(np.corrcoef(values, member)[0, 1], abs=1e-9)
                named = values >= scores.threshold[unit, label]
                assert scores.precision[unit, label] == pytest.approx((named & member).sum() / named.sum())
                assert scores.recall[unit, label] == pytest.approx((named & member).sum() / member.sum())
                assert scores.f1[unit, label] == pytest.approx(best)
    assert scores.f1[0, 1] == 1
    assert (scores.f1[4] == 0).all()
    assert np.isnan(scores.pearson[4]).all()


def test_the_threshold_is_chosen_on_one_half_and_applied_to_the_other(known):
    acts, codes = known
    chosen, measured = tally(acts[:2000], codes[:2000]), tally(acts[2000:], codes[2000:])
    scores = truth._scores(chosen, measured, 5)
    values, member = acts[2000:, 1].numpy(), SETS[codes[2000:], 0]
    named = values >= scores.threshold[1, 0]
    assert scores.f1[1, 0] == pytest.approx(2 * (named & member).sum() / (named.sum() + member.sum()))
    assert scores.f1[1, 0] != pytest.approx(scores.chosen_at[1, 0])


def test_average_precision_by_hand():
    member = np.array([True, False, True, False])
    assert truth.average_precision(np.array([4.0, 3.0, 2.0, 1.0]), member) == pytest.approx((1 + 2 / 3) / 2)
    assert truth.average_precision(np.array([1.0, 1.0, 1.0, 1.0]), member) == pytest.approx(0.5)
    assert np.isnan(truth.average_precision(np.zeros(4), np.zeros(4, bool)))


def test_agreement_by_hand():
    named, meant = np.array([True, True, True, False, False]), np.array([True, False, True, True, False])
    found = truth.agreement(named, meant)
    assert found["precision"] == found["recall"] == found["f1"] == pytest.approx(2 / 3)
    assert found["pearson"] == pytest.approx(np.corrcoef(named, meant)[0, 1])
    assert np.isnan(truth.agreement(np.zeros(5, bool), meant)["precision"])
    assert truth.agreement(np.zeros(5, bool), meant)["f1"] == 0


@pytest.fixture
def trained():
    """A model in which neuron 3 says that the token is 5, a dictionary whose feature 2 reads neuron 3, and a labelled text."""
    cfg = TransformerConfig(d_model=16, n_heads=2, d_head=8, d_mlp=64, n_ctx=16, d_vocab=12)
    model = OneLayerTransformer(cfg, seed=0).eval().requires_grad_(False)
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 12, (400, 16))
    labels = tuple(pocket_labels())
    column = labels.index("dna/coding")
    sets = np.zeros((2, len(labels)), bool)
    sets[1, [labels.index("dna"), column]] = True
    sae = SparseAutoencoder(SAEConfig(64, 24, 0.01), seed=0).requires_grad_(False)
    return model, sae, LabelledText(tokens, (tokens == 5).astype(np.uint16), sets, labels)


def test_the_whole_way_from_model_to_table(trained):
    model, sae, text = trained
    x = model.begin(torch.from_numpy(text.tokens))[1]
    direction = x[torch.from_numpy(text.tokens) == 5].mean(0) - x.flatten(0, 1).mean(0)
    with torch.no_grad():
        sae.W_enc[:, 2] = direction
        score = (x - sae.b_dec) @ direction
        sae.b_enc[2] = -score.flatten().quantile(0.9)
    labels = truth.judged(text)
    assert labels == ["dna", "dna/coding"]
    scores = truth.truth_scores(model, sae, text)
    assert scores["feature"].f1.shape == (24, len(text.labels))
    assert scores["neuron"].f1.shape == (64, len(text.labels))
    best = truth.best_for_labels(scores, text, labels).set_index(["label", "kind"])
    row = best.loc[("dna/coding", "feature")]
    held_out = text.tokens[200:] == 5
    assert row["n_tokens"] == held_out.sum()
    acts = sae.encode(x)[200:, :, int(row["index"])].numpy()
    named = acts >= row["threshold"]
    assert row["precision"] == pytest.approx((named & held_out).sum() / named.sum())
    assert row["recall"] == pytest.approx((named & held_out).sum() / held_out.sum())
    beside = truth.feature_beside_neuron(best.reset_index()).set_index("label")
    assert beside.loc["dna/coding", "f1"] == row["f1"]
    assert beside.loc["dna/coding", "neuron's f1"] == best.loc[("dna/coding", "neuron"), "f1"]
    fits = truth.best_labels(scores, text, labels)
    assert len(fits) == 88
    assert fits[(fits["kind"] == "feature") & (fits["index"] == row["index"])]["label"].item() in labels


def test_a_label_of_a_token_is_learnable_from_the_token_alone(trained):
    model, _, text = trained
    rows = truth.learnability(model, text, ["dna/coding"]).set_index("label")
    assert rows.loc["dna/coding", "token"] == pytest.approx(1)
    assert rows.loc["dna/coding", "probe"] > 0.95


def test_a_label_of_chance_is_not_learnable(trained):
    model, _, text = trained
    codes = np.random.default_rng(2).integers(0, 2, text.codes.shape).astype(np.uint16)
    rows = truth.learnability(model, LabelledText(text.tokens, codes, text.sets, text.labels), ["dna/coding"])
    assert rows["probe"].item() < 0.65
    assert rows["token"].item() < 0.65


def test_one_context_cannot_be_halved(trained):
    _, _, text = trained
    with pytest.raises(BookError, match="one context cannot be halved"):
        truth.halves(text.part(slice(0, 1)))


def test_scores_are_computed_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("SAE_BOOK_RUNS", str(tmp_path))
    lab = StandIn()
    fresh = truth.truth_scores(lab.model("A"), lab.dictionary("A/1"), lab.truth)
    first = truth.kept_scores(lab)
    monkeypatch.setattr(truth, "truth_scores", None)
    again = truth.kept_scores(lab)
    for kind, scores in fresh.items():
        for column, wanted in scores._asdict().items():
            assert np.array_equal(getattr(first[kind], column), wanted.astype(np.float32), equal_nan=True), column
            assert np.array_equal(getattr(first[kind], column), getattr(again[kind], column), equal_nan=True), column


def test_what_was_kept_and_is_damaged_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SAE_BOOK_RUNS", str(tmp_path))
    truth.kept_scores(StandIn())
    (path,) = tmp_path.rglob("scores.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BookError, match=r"tiny-truth-\w+/scores.safetensors is damaged .* Delete its folder"):
        truth.kept_scores(StandIn())
