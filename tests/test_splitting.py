"""Graphs, families, neighbours and maps, by hand and against dense computation."""

import base64
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array

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


def test_several_classes_are_counted_at_once(model, tokens):
    sae = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=2)
    low = tokens.numpy() < 8
    counts = splitting.firings_in_classes(model, sae, tokens, {"low": low, "high": ~low}, batch_contexts=7)
    assert (counts["low"] + counts["high"] == counts["firings"]).all()
    alone = splitting.in_class_features(model, sae, tokens, ~low)
    pd.testing.assert_frame_equal(splitting.class_members(counts, "high", int((~low).sum())), alone)
    assert 0 < len(alone) < 30
    with pytest.raises(BookError, match="high of shape"):
        splitting.firings_in_classes(model, sae, tokens, {"high": low[:3]})
    with pytest.raises(BookError, match="'odd' was not counted; there are 'low', 'high'"):
        splitting.class_members(counts, "odd", 3)


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


# The graph


def by_hand(monkeypatch, **acts):
    """Dictionaries whose activations are given: one row a token, one column a feature."""
    saes = {name.replace("_", "/"): dictionary(np.ones((np.shape(f)[1], 12)).tolist(), d_in=12) for name, f in acts.items()}
    matrices = {id(sae): csr_array(np.array(f, float)) for sae, f in zip(saes.values(), acts.values(), strict=True)}
    monkeypatch.setattr(splitting, "_sparse_acts", lambda model, sae, tokens, features, batch_contexts: matrices[id(sae)])
    return saes


def test_masked_cosine_by_hand(monkeypatch, model):
    # One feature on four tokens; a child on the first two, a stranger on a fifth token, and one that shares a token with it.
    saes = by_hand(
        monkeypatch,
        A_0=[[3], [4], [3], [4], [0], [0]],
        A_1=[[3, 0, 0], [4, 0, 0], [0, 0, 0], [0, 0, 1], [0, 5, 0], [0, 0, 10]],
    )
    edges = splitting.masked_cosine(model, saes, torch.zeros(1, 6, dtype=torch.int64), min_firings=1)
    # Where the child fires the two are equal; where the parent fires, 25 of 5 * sqrt(50). The last: 4 / sqrt(50) and 4 / (4 * sqrt(101)).
    assert edges[["source_dictionary", "source", "target_dictionary", "target"]].values.tolist() == [
        ["A/0", 0, "A/1", 0],
        ["A/0", 0, "A/1", 2],
    ]
    assert edges["over_source"].tolist() == pytest.approx([5 / 50**0.5, 4 / 50**0.5], abs=1e-6)
    assert edges["over_target"].tolist() == pytest.approx([1, 1 / 101**0.5], abs=1e-6)
    assert edges["cosine"].tolist() == pytest.approx([1, 4 / 50**0.5], abs=1e-6)
    assert len(splitting.masked_cosine(model, saes, torch.zeros(1, 6, dtype=torch.int64), min_firings=1, threshold=0.6)) == 1
    rare = splitting.masked_cosine(model, saes, torch.zeros(1, 6, dtype=torch.int64), min_firings=3)
    assert rare.empty
    assert list(rare) == list(edges)


def dense_edges(f, g, threshold):
    found = {}
    for i in range(f.shape[1]):
        for j in range(g.shape[1]):
            cosines = []
            for mask in (f[:, i] > 0, g[:, j] > 0):
                a, b = f[mask, i], g[mask, j]
                cosines.append(a @ b / max((a @ a) ** 0.5 * (b @ b) ** 0.5, 1e-30))
            if max(cosines) > threshold:
                found[i, j] = cosines
    return found


@pytest.mark.parametrize("chunk", [2**16, 60])
def test_masked_cosine_equals_the_dense_computation(monkeypatch, model, tokens, chunk):
    monkeypatch.setattr(splitting, "_CHUNK_TOKENS", chunk)
    saes = {
        "A/0": SparseAutoencoder(SAEConfig(12, 10, l1_coeff=0.1), seed=2),
        "A/1": SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=3),
    }
    acts = {name: sae.encode(model.begin(tokens)[1]).flatten(0, 1).detach().double().numpy() for name, sae in saes.items()}
    frequent = {name: (f > 0).sum(0) >= 20 for name, f in acts.items()}
    edges = splitting.masked_cosine(model, saes, tokens, [("A/0", "A/1"), ("A/1", "A/1")], threshold=0.5, min_firings=20, batch_contexts=7)
    for pair, rows in edges.groupby(["source_dictionary", "target_dictionary"]):
        wanted = {
            (i, j): cosines
            for (i, j), cosines in dense_edges(acts[pair[0]], acts[pair[1]], 0.5).items()
            if frequent[pair[0]][i] and frequent[pair[1]][j] and (pair[0] != pair[1] or i < j)
        }
        assert len(wanted) > 3
        assert list(zip(rows["source"], rows["target"], strict=True)) == sorted(wanted)
        found = rows[["over_source", "over_target"]].to_numpy()
        assert np.abs(found - [wanted[place] for place in sorted(wanted)]).max() < 1e-5
        assert (rows["cosine"] == rows[["over_source", "over_target"]].max(axis=1)).all()
    only = {name: np.flatnonzero(often).tolist() for name, often in frequent.items()}
    again = splitting.masked_cosine(model, saes, tokens, [("A/0", "A/1"), ("A/1", "A/1")], threshold=0.5, min_firings=1, only=only)
    pd.testing.assert_frame_equal(again, edges)


def graph(*rows):
    """Edges such as ("A/0", 1, "A/1", 5, 0.9)."""
    columns = ["source_dictionary", "source", "target_dictionary", "target", "cosine"]
    return pd.DataFrame(rows, columns=columns)


EDGES = graph(
    ("A/0", 1, "A/1", 5, 0.9),
    ("A/0", 1, "A/1", 6, 0.8),
    ("A/0", 2, "A/1", 6, 0.7),
    ("A/1", 5, "A/2", 0, 0.5),
    ("A/1", 6, "A/2", 0, 0.6),
    ("A/1", 9, "A/2", 3, 0.99),
)


def test_families_follow_the_closest_parent():
    table = splitting.families(EDGES).set_index(["dictionary", "feature"])
    assert table.loc[("A/0", 1)][["parent", "parents", "children", "family"]].tolist() == [-1, 0, 2, "A/0/1"]
    assert table.loc[("A/1", 6)][["parent", "cosine", "parents", "children", "family"]].tolist() == [1, 0.8, 2, 1, "A/0/1"]
    assert table.loc[("A/2", 0)][["parent", "parents", "children", "family"]].tolist() == [6, 2, 0, "A/0/1"]
    assert table.loc[("A/2", 3), "family"] == "A/1/9"
    assert table.loc[("A/0", 2), "family"] == "A/0/2"
    assert len(table) == 7
    assert splitting.families(EDGES.head(0)).empty
    with pytest.raises(BookError, match="within one dictionary"):
        splitting.families(graph(("A/1", 1, "A/1", 5, 0.9)))


def test_a_family_keeps_its_merges():
    whole = splitting.family(EDGES, "A/0", 1)
    assert list(zip(whole["source"], whole["target"], strict=True)) == [(1, 5), (1, 6), (5, 0), (6, 0)]
    closest = splitting.family(EDGES, "A/0", 1, most=1)
    assert list(zip(closest["source"], closest["target"], strict=True)) == [(1, 5), (5, 0)]
    with pytest.raises(BookError, match="A/0/7 is empty"):
        splitting.family(EDGES, "A/0", 7)


# What a feature spends itself on


@pytest.mark.parametrize("chunk", [2**16, 60])
def test_concentration_equals_counting(monkeypatch, model, tokens, chunk):
    monkeypatch.setattr(splitting, "_CHUNK_TOKENS", chunk)
    sae = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=2)
    with torch.no_grad():
        sae.b_enc[3] = -1e3
    acts = sae.encode(model.begin(tokens)[1]).flatten(0, 1).detach().double().numpy()
    ids = tokens.numpy()
    some = np.where(ids < 5, ids, -1)
    found = splitting.concentration(model, sae, tokens, {"token": ids, "some": some, "none": np.full_like(ids, -1)}, batch_contexts=7)
    for name, keys in (("token", ids), ("some", some)):
        by_key = np.stack([acts[keys.ravel() == key].sum(0) for key in range(keys.max() + 1)])
        for row in found[name].itertuples():
            f = acts[:, row.feature]
            assert row.firings == (f > 0).sum()
            if by_key[:, row.feature].max() == 0:
                assert (row.key, row.share, row.recall) == (-1, 0, 0)
                continue
            assert row.key == by_key[:, row.feature].argmax()
            assert row.share == pytest.approx(by_key[row.key, row.feature] / f.sum())
            assert row.recall == pytest.approx((f[keys.ravel() == row.key] > 0).mean())
    assert found["token"].loc[3, ["firings", "key", "share"]].tolist() == [0, -1, 0]
    assert (found["none"]["key"] == -1).all()
    some_rows = splitting.concentration(model, sae, tokens, {"token": ids}, only=[3, 7, 11])["token"]
    pd.testing.assert_frame_equal(some_rows, found["token"].loc[[3, 7, 11]])
    backwards = list(range(30))[::-1]
    all_rows = splitting.concentration(model, sae, tokens, {"token": ids}, only=backwards)["token"]
    pd.testing.assert_frame_equal(all_rows, found["token"].loc[backwards])
    with pytest.raises(BookError, match="30"):
        splitting.concentration(model, sae, tokens, {"token": ids}, only=[30])


def test_phrases_are_three_tokens_around_the_middle_one():
    tokens = torch.tensor([[7, 1, 2, 3, 9], [5, 1, 2, 3, 4]])
    keys, ids = splitting.phrases(tokens, min_count=2)
    assert keys.tolist() == [[-1, -1, 0, -1, -1], [-1, -1, 0, -1, -1]]
    assert ids.tolist() == [[1, 2, 3]]
    keys, ids = splitting.phrases(tokens, min_count=1)
    assert [ids[key].tolist() for key in keys[0, 1:-1]] == [[7, 1, 2], [1, 2, 3], [2, 3, 9]]
    assert splitting.phrases(tokens, min_count=3)[1].shape == (0, 3)


def test_sums_by_document_add_up(model, tokens):
    sae = SparseAutoencoder(SAEConfig(12, 30, l1_coeff=0.1), seed=2)
    document = np.repeat([7, 3, 11], 120).reshape(60, 6)
    ids, chosen, key_of = tokens.numpy(), [4, 9], np.array([2, 5])
    sums = splitting.sums_by_document(model, sae, tokens, chosen, ids, key_of, document, batch_contexts=7)
    assert sums.shape == (3, 2, 4)
    acts = sae.encode(model.begin(tokens)[1]).detach().double().numpy()[..., chosen]
    for row, name in enumerate((3, 7, 11)):
        f, here = acts[document == name], ids[document == name]
        for i in range(2):
            on = here == key_of[i]
            wanted = [(f[:, i] > 0).sum(), (f[on, i] > 0).sum(), f[:, i].sum(), f[on, i].sum()]
            assert sums[row, i] == pytest.approx(wanted, rel=1e-5)


def test_decoded_ascii_finds_the_alignment():
    hidden = base64.b64encode(b"The quick brown fox jumps over it").decode()
    for cut in range(4):
        text = f" data:{hidden[cut:]} end"
        found = splitting.decoded_ascii(text, at=10)
        assert found.share == 1
        assert found.text[-10:] in b"The quick brown fox jumps over it"
    noise = base64.b64encode(bytes(range(128, 170))).decode()
    assert splitting.decoded_ascii(noise, 3).share < 0.8
    assert math.isnan(splitting.decoded_ascii("x abc y", 3).share)
    assert math.isnan(splitting.decoded_ascii(f"{hidden} ,", len(hidden) + 1).share)
    with pytest.raises(BookError, match="not in a text"):
        splitting.decoded_ascii("abc", 3)


# Against the planted hierarchy


def test_label_information_by_hand():
    labels = ["a/x", "a/x", "a/y", "a/y", "b", "b", "b", "b"]
    table = splitting.label_information(list("ppppqqqq"), labels).set_index("depth")
    assert table["features"].tolist() == [8, 4]
    assert table["labels"].tolist() == [2, 2]
    assert table["bits"].tolist() == pytest.approx([1, 0], abs=1e-9)
    assert table["entropy"].tolist() == pytest.approx([1, 1])
    assert table["adjusted"].tolist() == pytest.approx([1, 0], abs=1e-9)
    finer = splitting.label_information(list("pprrqqqq"), labels).set_index("depth")
    assert finer["bits"].tolist() == pytest.approx([1, 1])
    with pytest.raises(BookError, match="family is empty"):
        splitting.label_information([], [])


# Maps


@pytest.fixture(scope="module")
def bundles():
    """Three bundles of directions far from each other."""
    rng = np.random.default_rng(0)
    return np.concatenate([axis + 0.05 * rng.normal(size=(20, 8)) for axis in np.eye(8)[:3]])


def test_maps_keep_bundles_together_and_repeat_themselves(bundles):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points = splitting.embed(bundles)
        found = splitting.clusters(bundles)
    assert points.shape == (60, 2)
    assert (points == splitting.embed(bundles)).all()
    bundle = np.repeat([0, 1, 2], 20)
    distance = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(60)
    assert (bundle[distance.argmin(1)] == bundle).mean() > 0.95
    for cluster in set(found["cluster"]) - {-1}:
        assert len(set(bundle[found["cluster"] == cluster])) == 1
        assert found.loc[found["cluster"] == cluster, "place"].nunique() == 1
    listed = found["place"].drop_duplicates().sort_values()
    assert listed.tolist() == list(range(len(listed)))
    assert (found["cluster"] >= 0).mean() > 0.5


def test_few_directions_can_be_drawn_and_too_few_cannot(bundles):
    assert splitting.embed(bundles[:4]).shape == (4, 2)
    for wrong in (bundles[:2], np.zeros((5, 8)), np.full((5, 8), np.nan)):
        with pytest.raises(BookError, match="cannot be drawn"):
            splitting.embed(wrong)


def test_what_does_not_match_is_named(model, tokens):
    saes = {name: SparseAutoencoder(SAEConfig(12, 6, l1_coeff=0.1)) for name in ("A/0", "B/1")}
    with pytest.raises(BookError, match="models A and B"):
        splitting.masked_cosine(model, saes, tokens)
    with pytest.raises(BookError, match="at least two"):
        splitting.masked_cosine(model, {"A/0": saes["A/0"]}, tokens)
    with pytest.raises(BookError, match="'A/7'"):
        splitting.masked_cosine(model, {"A/0": saes["A/0"]}, tokens, [("A/0", "A/7")])
    with pytest.raises(BookError, match="2 activations"):
        splitting.masked_cosine(model, {"A/0": saes["A/0"], "A/1": dictionary([[1.0, 0.0]])}, tokens)
    with pytest.raises(BookError, match="no tokens"):
        splitting.masked_cosine(model, {"A/0": saes["A/0"], "A/1": saes["A/0"]}, tokens[:0])
    ids = tokens.numpy()
    with pytest.raises(BookError, match="token of shape"):
        splitting.concentration(model, saes["A/0"], tokens, {"token": ids[1:]})
    with pytest.raises(BookError, match="documents of shape"):
        splitting.sums_by_document(model, saes["A/0"], tokens, [1], ids, np.array([1]), ids[1:])
    with pytest.raises(BookError, match="family is empty"):
        splitting.sums_by_document(model, saes["A/0"], tokens, [], ids, np.array([], int), ids)
