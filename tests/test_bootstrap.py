"""Intervals over documents: hand-made sums, known answers, and scipy's."""

import numpy as np
import pytest
from scipy import stats

from sae_lib import bootstrap
from sae_lib.errors import BookError


def test_sums_by_hand():
    document = np.array([[7, 7], [3, 7]])
    values = np.array([[1.0, 2.0], [4.0, 8.0]])
    assert bootstrap.sums(document, values).tolist() == [[4.0], [11.0]]
    two = np.stack([values, values > 1], axis=-1)
    assert bootstrap.sums(document, two).tolist() == [[4.0, 1.0], [11.0, 2.0]]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 2)])
def test_shapes_that_differ_are_named(shape):
    with pytest.raises(BookError, match="do not go with documents of shape"):
        bootstrap.sums(np.zeros(4, dtype=int), np.zeros(shape))


def test_other_bad_input():
    with pytest.raises(BookError, match="no tokens"):
        bootstrap.sums(np.zeros(0, dtype=int), np.zeros(0))
    with pytest.raises(BookError, match="draws of 0 documents"):
        bootstrap.draws(0)
    with pytest.raises(BookError, match=r"level 95\.0"):
        bootstrap.interval(lambda totals: totals[:, 0], np.ones((2, 1)), level=95.0)
    with pytest.raises(BookError, match="cannot be divided"):
        bootstrap.ratio(np.ones(2), np.ones(3), np.zeros(2, dtype=int))
    with pytest.raises(BookError, match="cannot be correlated"):
        bootstrap.moments(np.ones(2), np.ones(3), np.zeros(2, dtype=int))


def test_draws_take_as_many_documents_as_there_are(monkeypatch):
    whole = np.concatenate(list(bootstrap.draws(5, 40, seed=2)))
    assert whole.shape == (40, 5)
    assert (whole.sum(1) == 5).all()
    monkeypatch.setattr(bootstrap, "_CHUNK_ELEMENTS", 15)
    parts = list(bootstrap.draws(5, 40, seed=2))
    assert len(parts) == 14
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(np.concatenate(list(bootstrap.draws(5, 40, seed=3))), whole)


def test_interval_of_a_mean_is_scipys():
    x = np.random.default_rng(0).normal(3, 1, 200)
    ours = bootstrap.ratio(x, np.ones(200), np.arange(200), n=4_000)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=4_000, method="percentile", rng=1).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)
    # The closed form: 1.96 standard errors to either side.
    half = 1.96 * x.std() / np.sqrt(200)
    assert ours == pytest.approx((x.mean() - half, x.mean() + half), abs=0.01)


def test_an_interval_can_be_centred_on_what_was_measured():
    # How many documents a draw has of ten: always fewer than the text.
    def present(totals):
        return (totals > 0).sum(1).astype(float)

    low, high = bootstrap.interval(present, np.eye(10))
    assert high < 10
    centred = bootstrap.interval(present, np.eye(10), value=10.0)
    assert centred[0] <= 10 <= centred[1]
    assert centred[1] - centred[0] == high - low


def test_documents_whose_tokens_are_alike_widen_the_interval():
    means = np.random.default_rng(0).normal(0, 1, 50)
    x, document = np.repeat(means, 100), np.repeat(np.arange(50), 100)
    over_documents = np.subtract(*bootstrap.ratio(x, np.ones(5_000), document))
    over_tokens = np.subtract(*bootstrap.ratio(x, np.ones(5_000), np.arange(5_000)))
    assert over_documents / over_tokens == pytest.approx(10, rel=0.1)  # the square root of 100 alike tokens


def test_pearson():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    y = x + rng.normal(size=(100, 3))
    document = np.repeat(np.arange(100), 3).reshape(100, 3)
    found = bootstrap.moments(x, y, document)
    value = np.corrcoef(x.ravel(), y.ravel())[0, 1]
    assert bootstrap.pearson(found.sum(0, keepdims=True))[0] == pytest.approx(value, abs=1e-12)
    low, high = bootstrap.interval(bootstrap.pearson, found)
    assert low < value < high
    assert np.isnan(bootstrap.interval(bootstrap.pearson, bootstrap.moments(np.ones(4), np.ones(4), np.arange(4)))).all()


def test_a_share_of_nothing_in_some_draws_is_left_out_and_one_document_says_nothing():
    low, high = bootstrap.ratio(np.array([1, 0, 0]), np.array([2, 0, 0]), np.arange(3))
    assert (low, high) == (0.5, 0.5)
    assert np.isnan(bootstrap.ratio(np.ones(3), np.ones(3), np.zeros(3, dtype=int))).all()


def test_the_same_seed_gives_the_same_interval():
    x, document = np.random.default_rng(1).normal(size=30), np.arange(30)
    assert bootstrap.ratio(x, np.ones(30), document) == bootstrap.ratio(x, np.ones(30), document)
    assert bootstrap.ratio(x, np.ones(30), document) != bootstrap.ratio(x, np.ones(30), document, seed=1)
