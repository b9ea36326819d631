"""Automata of features: counts against a slow count, edges, loops and chains against tables made by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from sae_lib import automata
from sae_lib.errors import BookError
from sae_lib.sae import SAEConfig, SparseAutoencoder


def fires_of(model, sae, tokens):
    return (sae.encode(model.begin(tokens)[1]) > 0).numpy()


@pytest.fixture
def text():
    return torch.randint(0, 50, (20, 12), generator=torch.Generator().manual_seed(0))


def table(*rows):
    """Edges by hand: source, target, probability."""
    frame = pd.DataFrame(rows, columns=["source", "target", "probability"])
    return frame.assign(**{name: 1 for name in automata.EDGE_COLUMNS if name not in frame})


def test_transitions_equal_a_slow_count(model, sae, text):
    raised = automata.raised_tokens(np.random.default_rng(0).integers(0, 50, (64, 10)), 50)
    with torch.no_grad():
        found = automata.transitions(model, sae, text, raised, batch_contexts=6)
        fires = fires_of(model, sae, text)
    hits, after, together = (np.zeros((64, 64), int) for _ in range(3))
    fired, before, steps = (np.zeros(64, int) for _ in range(3))
    for context in range(20):
        for pos in range(11):
            now, then = fires[context, pos], fires[context, pos + 1]
            step = now & raised[:, text[context, pos + 1]]
            hits, after, together = hits + np.outer(step, then), after + np.outer(now, then), together + np.outer(now, now)
            fired, before, steps = fired + then, before + now, steps + step
    assert found.n_tokens == 220
    assert hits.sum() > 0
    for name, wanted in {"hits": hits, "after": after, "together": together, "fired": fired, "before": before, "steps": steps}.items():
        assert (getattr(found, name) == wanted).all(), name


def test_raised_tokens_by_hand():
    assert automata.raised_tokens(np.array([[0, 2], [1, 1]]), 3).tolist() == [[True, False, True], [False, True, False]]
    with pytest.raises(BookError, match="vocabulary of 3"):
        automata.raised_tokens(np.array([[3]]), 3)


def test_edges_by_hand():
    counts = automata.Transitions(
        n_tokens=1_000,
        fired=np.array([10, 20, 500]),
        before=np.array([40, 30, 500]),
        steps=np.array([20, 25, 25]),
        hits=np.array([[12, 10, 20], [9, 0, 0], [10, 0, 0]], np.int32),
        after=np.array([[12, 20, 30], [9, 0, 0], [10, 0, 0]], np.int32),
        together=np.array([[40, 15, 20], [15, 30, 0], [30, 0, 500]], np.int32),
    )
    found = automata.edges(counts)
    # 0 drives itself and 1; 0 to 2 has no lift, 1 to 0 too few hits, 2 and 0 fire together.
    assert found[["source", "target"]].to_numpy().tolist() == [[0, 0], [0, 1]]
    row = found.iloc[1]
    assert row[["hits", "steps", "probability", "base", "lift", "gain", "together"]].tolist() == pytest.approx(
        [10, 20, 0.5, 0.02, 25, 1.0, 0.5]
    )
    assert automata.edges(counts, max_together=1.0)["lift"].min() == pytest.approx(25)
    assert automata.edges(counts, min_hits=9)["source"].tolist() == [0, 0, 1]
    nothing = automata.edges(counts, min_hits=100)
    assert nothing.empty
    assert automata.loops(nothing) == automata.chains(nothing) == []


def test_loops_are_the_surest_first_and_share_no_feature():
    found = table((0, 1, 0.9), (1, 2, 0.8), (2, 0, 0.3), (1, 0, 0.2), (5, 4, 0.7), (4, 5, 0.6), (7, 7, 0.5), (2, 5, 0.1))
    assert automata.loops(found) == [[4, 5], [0, 1, 2]]
    assert automata.loops(found, shortest=1) == [[4, 5], [7], [0, 1, 2]]
    assert automata.loops(found, n=1) == [[4, 5]]
    assert automata.loops(table((0, 1, 0.9), (1, 2, 0.8), (0, 2, 0.7))) == []


def test_edges_along_a_loop():
    found = table((0, 1, 0.9), (1, 0, 0.3), (1, 2, 0.8))
    assert automata.loop_edges(found, [0, 1])["probability"].tolist() == [0.9, 0.3]
    assert automata.loop_edges(table((3, 3, 0.4)), [3])["probability"].tolist() == [0.4]
    with pytest.raises(BookError, match="2 does not drive 0"):
        automata.loop_edges(found, [0, 1, 2])


def test_chains_follow_the_surest_edge():
    found = table((0, 1, 0.9), (0, 3, 0.8), (1, 2, 0.5), (2, 2, 0.9), (5, 1, 0.3), (2, 0, 0.1))
    assert automata.chains(found) == [[5, 1, 2, 0]]
    assert automata.chains(table((0, 1, 0.9), (1, 0, 0.9))) == [[0, 1]]


def test_lift_by_hand():
    source, target, raised = (np.zeros((4, 6), bool) for _ in range(3))
    source[:, 1] = raised[:, 2] = True
    target[:2, 2] = True
    document = np.repeat(np.arange(4), 6).reshape(4, 6)
    found = automata.lift(source, target, raised, document)
    # Two of four steps are hit, and the driven feature fires on 2 of 20 tokens.
    assert (found["hits"], found["steps"], found["lift"]) == (2, 4, pytest.approx(5))
    # In any draw it fires on nothing but the steps, so only the draws without it are left out.
    assert (found["low"], found["high"]) == pytest.approx((5, 5))
    assert automata.lift(source, np.zeros_like(target), raised, document)["lift"] == 0
    assert np.isnan(automata.lift(source, target, np.zeros_like(raised), document)["lift"])


def test_features_by_kind_equal_a_slow_count(model, sae, text):
    kinds = {"low": (text < 25).numpy(), "late": np.broadcast_to(np.arange(12) >= 6, (20, 12))}
    with torch.no_grad():
        fires = fires_of(model, sae, text)
        found = automata.features_by_kind(model, sae, text, kinds, precision=0.55, min_firings=5)
    fired = fires.sum((0, 1))
    for kind, member in kinds.items():
        inside = fires[member].sum(0)
        assert set(found[kind]) == {i for i in range(64) if fired[i] >= 5 and inside[i] >= 0.55 * fired[i]}
        assert (np.diff(fired[found[kind]]) <= 0).all()
    with pytest.raises(BookError, match="same tokens"):
        automata.features_by_kind(model, sae, text, {"short": np.zeros((20, 11), bool)})


def test_walks_by_hand():
    fires = np.zeros((2, 6, 2), bool)
    fires[0, [1, 3], 0] = fires[0, [2, 4], 1] = True
    fires[1, [0, 1], 0] = True
    found = automata.walks(fires)
    assert found.iloc[0].tolist() == [0, 1, 4, 0]
    assert found["length"].tolist() == [4, 1, 1]
    alone = automata.walks(fires[..., :1])
    assert alone.iloc[0].tolist() == [1, 0, 2, 0]
    assert automata.walks(np.zeros((2, 3, 2), bool)).empty


def test_a_walk_may_begin_at_any_state():
    fires = np.zeros((1, 4, 3), bool)
    fires[0, 0, 2] = fires[0, 1, 0] = fires[0, 2, 1] = True
    assert automata.walks(fires, 1).iloc[0].tolist() == [0, 0, 3, 2]


def test_phrases_are_found_once_and_counted_by_document():
    tokens = torch.arange(240).view(12, 20)
    phrase = torch.tensor([301, 302, 303, 304, 305, 306])
    for row in range(6):
        tokens[row, 4 + row : 10 + row] = phrase
    tokens[7, 2:8] = 400
    tokens[8, 2:8] = 400
    tokens[9:11, :6] = torch.tensor([500, 501, 502, 503, 504, 505])
    documents = np.repeat(np.arange(12), 20).reshape(12, 20)
    documents[5] = 4
    found = automata.repeated_phrases(tokens, documents, length=5, min_documents=2)
    assert [phrase.tokens.tolist() for phrase in found] == [[301, 302, 303, 304, 305], [500, 501, 502, 503, 504]]
    assert (found[0].n_documents, found[0].context.tolist(), found[0].pos.tolist()) == (5, [0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9])
    assert automata.repeated_phrases(tokens, documents, length=5, min_documents=6) == []
    documents[:, 7:] += 100
    assert automata.repeated_phrases(tokens, documents, length=5, min_documents=5) == []


def test_phrase_chains_equal_a_slow_count(model, sae, text):
    text[::2, 3:7] = torch.tensor([11, 12, 13, 14])
    documents = np.repeat(np.arange(20), 12).reshape(20, 12)
    phrases = automata.repeated_phrases(text, documents, length=4, min_distinct=4)
    assert phrases[0].tokens.tolist() == [11, 12, 13, 14]
    with torch.no_grad():
        found = automata.phrase_chains(model, sae, text, phrases[:1], agreement=0.1, batch_contexts=3)
        fires = fires_of(model, sae, text)
    for row in found.itertuples():
        places = [phrases[0].context, phrases[0].pos + row.place]
        first, second = (
            np.array([fires[c, p] for c, p in zip(*places, strict=True) if (c >= 10) == late]).sum(0) for late in (False, True)
        )
        f1 = 2 * first / (fires[:10].sum((0, 1)) + 5)
        assert f1[row.feature] == f1.max()
        assert row.precision == pytest.approx(second[row.feature] / max(1, fires[10:, :, row.feature].sum()))
        assert row.recall == pytest.approx(second[row.feature] / 5)
        assert row.holds == (row.precision >= 0.1 and row.recall >= 0.1)
    assert automata.phrase_chains(model, sae, text, []).empty


def test_a_chain_is_of_different_features_in_a_row():
    rows = [(0, 0, 5, True), (0, 1, 6, True), (0, 2, 5, True), (0, 3, 7, True), (0, 4, 8, False), (0, 5, 9, True), (1, 0, 3, True)]
    frame = pd.DataFrame(rows, columns=["phrase", "place", "feature", "holds"])
    assert list(automata._chain_lengths(frame)) == [1, 2, 2, 3, 0, 1, 1]


def test_bad_input_is_named(model, sae, text):
    raised = np.zeros((64, 50), bool)
    with pytest.raises(BookError, match="30 activations"):
        automata.transitions(model, SparseAutoencoder(SAEConfig(30, 64, l1_coeff=0.1)), text, raised)
    with pytest.raises(BookError, match="64 features and the model 50 tokens"):
        automata.transitions(model, sae, text, raised[:, :40])
    with pytest.raises(BookError, match="at least 2"):
        automata.transitions(model, sae, text[:, :1], raised)
    with pytest.raises(BookError, match="no tokens"):
        automata.transitions(model, sae, text[:0], raised)
    with pytest.raises(BookError, match="does not fit"):
        automata.repeated_phrases(text, np.zeros((20, 12), int), length=13)
