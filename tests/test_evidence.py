"""Evidence that is streamed against the same worked out on the whole matrix of a tiny model."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from sae_lib import evidence, features
from sae_lib.errors import BookError
from sae_lib.proxies import TokenTable
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

CFG = TransformerConfig(d_model=8, n_heads=2, d_head=4, d_mlp=12, n_ctx=16, d_vocab=20)
N_CONTEXTS, N_POS = 60, 16


@pytest.fixture
def model():
    return OneLayerTransformer(CFG, seed=1).eval().requires_grad_(False)


@pytest.fixture
def sae():
    sae = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=2).requires_grad_(False)
    sae.b_enc[7] = -1e3  # a dead feature
    sae.W_enc[:, 8], sae.b_enc[8] = 0, 3  # one that always fires alike
    return sae


@pytest.fixture
def tokens():
    return torch.randint(0, 20, (N_CONTEXTS, N_POS), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def in_small_batches(monkeypatch):
    monkeypatch.setattr("sae_lib.metrics._BATCH_ELEMENTS", 96 * N_POS * 7)


def dense(model, sae, tokens):
    """Neurons and units at every token."""
    x = model.begin(tokens)[1].flatten(0, 1)
    return x.double().numpy(), (x if sae is None else sae.encode(x)).numpy()


@pytest.mark.parametrize("kind", ["feature", "neuron"])
def test_counts_histograms_and_relatives_equal_numpy(model, sae, tokens, in_small_batches, kind):
    sae = sae if kind == "feature" else None
    x, acts = dense(model, sae, tokens)
    found = evidence.gather(model, sae, tokens, k=3, neighbours=True)
    assert found.kind == kind
    assert found.n_tokens == tokens.numel()
    assert found.units.tolist() == list(range(acts.shape[1]))
    assert found.fired.tolist() == (acts > 0).sum(0).tolist()
    assert np.allclose(found.density, (acts > 0).mean(0))
    assert np.allclose(found.maximum, acts.max(0), atol=1e-6)
    assert found.histogram.sum(1).tolist() == found.fired.tolist()
    for unit in (0, 3, 11):
        table = features.activation_histogram(acts[:, unit], np.zeros(len(acts), bool), evidence.N_BINS)
        assert np.abs(found.histogram[unit] - table["count"]).sum() <= 2  # rounding at an edge moves one token

    wide = acts.astype(np.float64)
    for name, others, related in (("neurons", x, found.neurons), ("neighbours", wide, found.neighbours)):
        itself = kind == "neuron" or name == "neighbours"
        for unit in (0, 3, 11):
            pearson = np.array([np.corrcoef(wide[:, unit], other)[0, 1] if other.std() > 1e-6 else -2 for other in others.T])
            if itself:
                pearson[unit] = -2
            best = np.argsort(-pearson)[:3]
            assert related.index[unit].tolist() == best.tolist()
            assert np.allclose(related.pearson[unit], pearson[best], atol=1e-4)
            lengths = np.linalg.norm(wide[:, unit]) * np.linalg.norm(others[:, best], axis=0)
            assert np.allclose(related.cosine[unit], wide[:, unit] @ others[:, best] / lengths, atol=1e-4)


def test_a_dead_feature_and_a_constant_one(model, sae, tokens):
    found = evidence.gather(model, sae, tokens, n_top=3, n_each=2)
    assert found.fired[7] == found.maximum[7] == found.histogram[7].sum() == 0
    assert (found.top.context[7] == -1).all()
    assert (found.top.act[7] == 0).all()
    assert (found.intervals.context[7] == -1).all()
    assert (found.bottom.context[7] >= 0).all()
    assert found.fired[8] == tokens.numel()
    assert found.histogram[8].tolist() == [0] * (evidence.N_BINS - 1) + [tokens.numel()]
    assert (found.bottom.context[8] == -1).all()
    assert (found.intervals.context[8, :-1] == -1).all()
    assert (found.intervals.context[8, -1] >= 0).all()
    for unit in (7, 8):
        assert (found.neurons.index[unit] == -1).all()
        assert np.isnan(found.neurons.pearson[unit]).all()
    assert found.neighbours is None


@pytest.fixture
def table():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:20]
    return TokenTable(Tokenizer(models.BPE({letter: token for token, letter in enumerate(alphabet)}, [])))


@pytest.mark.parametrize("kind", ["feature", "neuron"])
def test_top_examples_are_those_of_the_whole_matrix(model, sae, tokens, table, in_small_batches, kind):
    sae = sae if kind == "feature" else None
    acts = dense(model, sae, tokens)[1].reshape(N_CONTEXTS, N_POS, -1)
    found = evidence.gather(model, sae, tokens, n_top=12)
    for unit in range(acts.shape[2]):
        if unit == 8 and sae is not None:
            continue  # all alike but for rounding
        expected = features.top_examples(acts[..., unit], tokens, table, n=12)
        top, n = found.top.of(unit), len(expected)
        assert top.context[:n].tolist() == expected["context"].tolist()
        assert top.pos[:n].tolist() == expected["pos"].tolist()
        assert np.allclose(top.act[:n], expected["activation"].astype(float), atol=1e-6)
        assert (top.context[n:] == -1).all()


def test_overlapping_examples_are_skipped_and_ties_go_to_the_first(monkeypatch):
    token = np.array([[20, 22, 24, 25, 3, 16, 13, -1]])  # contexts of 12: 20 to 23 in one, 24 and 25 in the next
    act = np.array([[9, 8, 7, 6, 5, 4, 3, 0]], np.float32)
    top = evidence._spread(token, act, 12, 6)
    assert top.context.tolist() == [[1, 2, 0, 1, -1, -1]]
    assert top.pos.tolist() == [[8, 0, 3, 1, -1, -1]]
    assert top.act.tolist() == [[9, 7, 5, 3, 0, 0]]

    monkeypatch.setattr("sae_lib.evidence._WAITING", 0)
    kept = evidence._Kept(1, 2)
    for start in (0, 3):
        token = np.arange(start, start + 3)
        kept.add(np.zeros(3, np.int64), -np.ones(3), token, np.ones(3, np.float32))
    assert kept.table()[0].tolist() == [[0, 1]]


@pytest.mark.parametrize("waiting", [0, 300, 2**20])
def test_kept_are_the_smallest_of_every_group(monkeypatch, waiting):
    monkeypatch.setattr("sae_lib.evidence._WAITING", waiting)
    rng = np.random.default_rng(0)
    group, key = rng.integers(0, 7, 5_000), rng.random(5_000)
    group[group == 4] = 5  # one group stays empty
    kept = evidence._Kept(7, 3)
    for part in np.array_split(rng.permutation(5_000), 40):
        kept.add(group[part], key[part], part, key[part].astype(np.float32))
    tokens, acts = kept.table()
    for number in range(7):
        expected = sorted(np.flatnonzero(group == number), key=lambda entry: key[entry])[:3]
        assert tokens[number].tolist() == (expected or [-1, -1, -1])
    assert acts[4].tolist() == [0, 0, 0]


def test_intervals_hold_tokens_of_their_interval(model, sae, tokens):
    acts = dense(model, sae, tokens)[1].reshape(N_CONTEXTS, N_POS, -1)
    found = evidence.gather(model, sae, tokens, n_each=4)
    assert found.intervals.context.shape == (30, evidence.N_INTERVALS, 4)
    edges = np.linspace(0, 1, evidence.N_INTERVALS + 1)
    for unit in (0, 3, 11):
        interval = np.searchsorted(edges, acts[..., unit].ravel() / acts[..., unit].max()) - 1
        for number in range(evidence.N_INTERVALS):
            context, pos, act = (part[unit, number] for part in found.intervals)
            there = context >= 0
            assert there.sum() == min(4, (interval == number).sum())
            assert np.allclose(acts[context[there], pos[there], unit], act[there], atol=1e-6)
            assert len(set(zip(context[there], pos[there], strict=True))) == there.sum()
            share = act[there] / found.maximum[unit]
            assert (share > edges[number] - 1e-6).all()
            assert (share <= edges[number + 1] + 1e-6).all()
            assert (np.diff(act) <= 0).all()
        context, pos, act = found.bottom.of(unit)
        assert (acts[context, pos, unit] == 0).all()
        assert (act == 0).all()


def test_draws_are_the_same_in_any_batches_and_another_seed_draws_others(model, sae, tokens, monkeypatch):
    whole = evidence.gather(model, sae, tokens)
    monkeypatch.setattr("sae_lib.metrics._BATCH_ELEMENTS", 96 * N_POS * 5)
    monkeypatch.setattr("sae_lib.evidence._LISTED", 5_000)  # and the model runs twice
    assert whole.fired.sum() > 5_000
    parts = evidence.gather(model, sae, tokens)
    other = evidence.gather(model, sae, tokens, seed=1)
    for name in ("intervals", "bottom", "top"):
        assert np.array_equal(getattr(whole, name).context, getattr(parts, name).context)
        assert np.array_equal(getattr(whole, name).pos, getattr(parts, name).pos)
    assert not np.array_equal(whole.intervals.context, other.intervals.context)
    assert not np.array_equal(whole.bottom.context, other.bottom.context)
    assert np.array_equal(whole.top.context, other.top.context)


def test_the_draw_is_uniform():
    """Every token of 200 is among the 5 smallest keys for about 5 in 200 of 4,000 units."""
    salt = evidence._mixed(np.arange(4_000).astype(np.uint64))
    unit, token = np.repeat(np.arange(4_000), 200), np.tile(np.arange(200), 4_000)
    keys = evidence._uniform(salt[unit], token)
    assert 0 <= keys.min() < keys.max() < 1
    kept = evidence._Kept(4_000, 5)
    kept.add(unit, keys, token, np.ones(len(unit), np.float32))
    drawn = np.bincount(kept.table()[0].ravel(), minlength=200)
    chi_squared = ((drawn - 100) ** 2 / 100).sum()
    assert 199 - 5 * 20 < chi_squared < 199 + 5 * 20


def test_chosen_units_have_the_evidence_they_have_among_all(model, sae, tokens):
    whole, few = evidence.gather(model, sae, tokens), evidence.gather(model, sae, tokens, chosen=[11, 3], neighbours=True)
    assert few.units.tolist() == [11, 3]
    assert few.row(3) == 1
    for row, unit in enumerate([11, 3]):
        for name in ("top", "intervals", "bottom"):
            assert np.array_equal(getattr(few, name).of(row).context, getattr(whole, name).of(unit).context)
            assert np.array_equal(getattr(few, name).of(row).pos, getattr(whole, name).of(unit).pos)
        assert np.array_equal(few.neurons.index[row], whole.neurons.index[unit])
    assert few.neighbours.index[:, 0].tolist() == [3, 11]
    assert few.neighbours.index[:, 1].tolist() == [-1, -1]
    with pytest.raises(BookError, match="no evidence of feature 4"):
        few.row(4)
    neurons = evidence.gather(model, None, tokens, chosen=[5])
    assert np.array_equal(neurons.top.context[0], evidence.gather(model, None, tokens).top.context[5])
    assert 5 not in neurons.neurons.index[0]


def test_windows_show_the_tokens_around(model, sae, tokens):
    acts = dense(model, sae, tokens)[1].reshape(N_CONTEXTS, N_POS, -1)
    found = evidence.gather(model, sae, tokens, n_top=6, chosen=[11, 7, 3])
    shown = evidence.windows(model, sae, tokens, found.units, found.top)
    assert shown.token.shape == shown.act.shape == (3, 6, 9)
    assert (shown.token[1] == -1).all()  # the dead one has no place
    for row, rank in [(0, 0), (0, 5), (2, 3)]:
        context, pos = found.top.context[row, rank], found.top.pos[row, rank]
        for offset in range(-4, 5):
            inside = 0 <= pos + offset < N_POS
            assert shown.token[row, rank, offset + 4] == (tokens[context, pos + offset] if inside else -1)
            expected = acts[context, pos + offset, found.units[row]] if inside else 0
            assert shown.act[row, rank, offset + 4] == pytest.approx(expected, abs=1e-5)
    of_intervals = evidence.windows(model, sae, tokens, found.units, found.intervals, context=1)
    assert of_intervals.act.shape == (3, evidence.N_INTERVALS, 5, 3)
    assert np.allclose(of_intervals.act[..., 1], found.intervals.act, atol=1e-5)
    neurons = evidence.gather(model, None, tokens, chosen=[4])
    assert np.allclose(evidence.windows(model, None, tokens, [4], neurons.top).act[..., 4], neurons.top.act, atol=1e-6)


def test_places_in_many_contexts_are_read_few_at_a_time(model, sae, tokens, monkeypatch):
    rng = np.random.default_rng(0)
    unit, context, pos = rng.integers(0, 30, 500), rng.integers(0, N_CONTEXTS, 500), rng.integers(0, N_POS, 500)
    whole = dense(model, sae, tokens)[1].reshape(N_CONTEXTS, N_POS, -1)
    monkeypatch.setattr("sae_lib.metrics._BATCH_ELEMENTS", 96 * N_POS * 7)
    monkeypatch.setattr("sae_lib.evidence._PLACES", 20)
    begin, read = model.begin, []
    monkeypatch.setattr(model, "begin", lambda rows: read.append(len(rows)) or begin(rows))
    assert np.allclose(evidence.acts_at(model, sae, tokens, unit, context, pos), whole[context, pos, unit], atol=1e-6)
    assert max(read) == 7
    assert sum(read) == len(np.unique(context))
    sizes = [len(which) for which, _, _ in evidence.at_places(model, tokens, context, pos)]
    assert max(sizes) == 20
    assert sum(sizes) == 500
    assert evidence.acts_at(model, sae, tokens, *[np.empty(0, int)] * 3).shape == (0,)


def test_strips_are_those_of_top_examples(model, sae, tokens, table):
    acts = features.activations_of(model, sae, tokens, [11, 7])
    found = evidence.gather(model, sae, tokens, n_top=8)
    ours, theirs = (
        evidence.strips(model, sae, tokens, 11, found.top.of(11), table),
        features.top_examples(acts[..., 0], tokens, table, n=8),
    )
    assert ours.columns.tolist() == theirs.columns.tolist()
    assert ours[["rank", "context", "pos"]].equals(theirs[["rank", "context", "pos"]])
    for mine, other in zip(ours["tokens"], theirs["tokens"], strict=True):
        assert [text for text, _ in mine] == [text for text, _ in other]
        assert np.allclose([act for _, act in mine], [act for _, act in other], atol=1e-5)
    assert len(evidence.strips(model, sae, tokens, 7, found.top.of(7), table)) == 0


def test_nearest_rows_and_alignment_by_hand(sae):
    sae.W_dec[:] = 0
    sae.W_dec[:, 0] = 1
    sae.W_dec[3], sae.W_dec[5] = torch.eye(12)[2], torch.nn.functional.normalize(torch.eye(12)[2] * 4 - torch.eye(12)[9] * 3, dim=0)
    nearest = evidence.nearest_rows(sae, [3, 5], k=2)
    assert nearest.index[:, 0].tolist() == [5, 3]
    assert nearest.cosine[:, 0].tolist() == pytest.approx([0.8, 0.8])
    assert nearest.cosine[:, 1].tolist() == pytest.approx([0, 0], abs=1e-6)
    whole = evidence.nearest_rows(sae, k=100)
    assert whole.index.shape == (30, 29)
    assert not (whole.index == np.arange(30)[:, None]).any()

    found = evidence.neuron_alignment(sae, [5, 3], k=3)
    assert found.neuron[0, :2].tolist() == [2, 9]
    assert found.coefficient[0].tolist() == pytest.approx([0.8, -0.6, 0])
    assert found.share[0].tolist() == pytest.approx([0.8 / 1.4, 0.6 / 1.4, 0])
    assert found.share[1].tolist() == [1, 0, 0]
    assert evidence.neuron_alignment(sae, k=50).neuron.shape == (30, 12)


def test_bad_input_is_named(model, sae, tokens):
    foreign = SparseAutoencoder(SAEConfig(13, 30, l1_coeff=0.1))
    places = evidence.Examples(np.array([[0]]), np.array([[0]]), np.array([[1]], np.float32))
    for call in (lambda: evidence.gather(model, foreign, tokens), lambda: evidence.windows(model, foreign, tokens, [0], places)):
        with pytest.raises(BookError, match="13 activations"):
            call()
    with pytest.raises(BookError, match="no feature 30"):
        evidence.gather(model, sae, tokens, chosen=[3, 30])
    with pytest.raises(BookError, match="no neuron 12"):
        evidence.gather(model, None, tokens, chosen=[12])
    with pytest.raises(BookError, match="no tokens"):
        evidence.gather(model, sae, tokens[:0])
    with pytest.raises(BookError, match="0\\.\\.19"):
        evidence.gather(model, sae, tokens + 10)
    for wrong in ({"n_top": 0}, {"n_each": 0}, {"k": 0}):
        with pytest.raises(BookError, match="at least 1"):
            evidence.gather(model, sae, tokens, **wrong)
    with pytest.raises(BookError, match="beyond the 60 contexts"):
        evidence.windows(model, sae, tokens, [0], places._replace(context=np.array([[60]])))
    with pytest.raises(BookError, match="one row for each unit"):
        evidence.windows(model, sae, tokens, [0, 1], places)
    for ask in (evidence.nearest_rows, evidence.neuron_alignment):
        with pytest.raises(BookError, match="no feature 30"):
            ask(sae, [30])
        with pytest.raises(BookError, match="at least 1"):
            ask(sae, k=0)
