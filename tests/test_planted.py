"""Planted features: the stream, scores by hand, and a dictionary that finds what was planted."""

import pytest
import torch

from sae_lib import toy
from sae_lib.errors import BookError
from sae_lib.planted import PlantedStream, recovery, train_on_planted
from sae_lib.sae import SAEConfig, SparseAutoencoder

TASK = toy.ToyTask.of(4, 2, (0.1,))
CROSS = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])


def perfect(columns: torch.Tensor) -> SparseAutoencoder:
    """A dictionary whose rows are the given directions."""
    sae = SparseAutoencoder(SAEConfig(columns.shape[0], columns.shape[1], 0.0))
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(columns, dim=0).T)
        sae.W_enc.copy_(sae.W_dec.T)
    return sae.requires_grad_(False)


def test_batches_can_be_had_again_and_hold_what_was_planted():
    stream = PlantedStream(TASK, CROSS, 64, seed=3)
    assert torch.equal(stream.batch(5), stream.batch(5))
    assert torch.equal(stream.batch(5), stream.truth(5) @ CROSS.T)
    assert not torch.equal(stream.batch(5), stream.batch(6))
    assert not torch.equal(stream.batch(5), stream.elsewhere(1).batch(5))
    assert [x.shape for x in stream.batches(2)] == [(64, 2)] * 2


def test_a_perfect_dictionary_scores_one():
    found = recovery(perfect(CROSS), PlantedStream(toy.ToyTask.of(4, 2, (0.001,)), CROSS, 512))
    assert found.mmcs == pytest.approx(1.0)
    assert found.recovered == 1.0
    assert found.precision > 0.99
    assert found.recall > 0.99
    assert found.l0 == pytest.approx(found.planted_l0, abs=0.05)
    assert found.spare == 0.0
    assert found.dead == 0.0


def test_a_dictionary_that_misses_half_says_so():
    half = perfect(torch.tensor([[1.0, -1.0, 0.7, -0.7], [0.0, 0.0, 0.7, -0.7]]))
    found = recovery(half, PlantedStream(TASK, CROSS, 256))
    assert found.recovered == 0.5
    assert found.mmcs == pytest.approx((2 + 2 * 0.5**0.5) / 4, abs=1e-3)
    assert found.spare == 0.5


def test_what_the_toy_ignores_is_not_planted():
    W = torch.tensor([[1.0, -1.0, 0.1, 0.0], [0.0, 0.0, 0.0, 0.1]])
    assert recovery(perfect(W[:, :2]), PlantedStream(TASK, W, 128)).recovered == 1.0
    with pytest.raises(BookError, match="no feature"):
        recovery(perfect(CROSS), PlantedStream(TASK, 0.1 * CROSS, 128))


def test_the_dictionary_finds_what_was_planted():
    stream = PlantedStream(toy.ToyTask.of(4, 2, (0.03,)), CROSS, 256, seed=1)
    sae = train_on_planted(stream, d_sae=8, l1_coeff=0.05, n_steps=600, lr=1e-2)
    assert recovery(sae, stream).recovered == 1.0
    again = train_on_planted(stream, d_sae=8, l1_coeff=0.05, n_steps=600, lr=1e-2)
    assert torch.equal(sae.W_dec, again.W_dec)


def test_planting_needs_one_experiment_and_its_matrix():
    with pytest.raises(BookError, match="one experiment"):
        PlantedStream(toy.ToyTask.of(4, 2, (0.1, 0.2)), CROSS, 8)
    with pytest.raises(BookError, match="one experiment"):
        PlantedStream(TASK, CROSS.T, 8)
