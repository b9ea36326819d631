"""Toy models: formulas by hand, exact geometry, and the closed form of two features in one dimension."""

import math

import pytest
import torch

from sae_lib import toy
from sae_lib.errors import BookError


def polygon(n: int) -> torch.Tensor:
    """Unit vectors to the corners of a regular polygon, as columns."""
    angles = 2 * math.pi * torch.arange(n) / n
    return torch.stack([angles.cos(), angles.sin()])


def test_reconstruct_by_hand():
    W = torch.tensor([[1.0, -1.0]])
    x = torch.tensor([[0.5, 0.0], [0.0, 0.25]])
    b = torch.tensor([0.0, 0.1])
    assert torch.allclose(toy.reconstruct(x, W, b, relu=False), torch.tensor([[0.5, -0.4], [-0.25, 0.35]]))
    assert torch.allclose(toy.reconstruct(x, W, b), torch.tensor([[0.5, 0.0], [0.0, 0.35]]))


def test_models_of_a_batch_are_those_run_alone(generator):
    W, b = torch.randn(3, 2, 5, generator=generator), torch.randn(3, 5, generator=generator)
    x = torch.rand(3, 7, 5, generator=generator)
    together = toy.reconstruct(x, W, b)
    assert together.shape == (3, 7, 5)
    for i in range(3):
        assert torch.allclose(together[i], toy.reconstruct(x[i], W[i], b[i]), atol=1e-6)


def test_loss_by_hand():
    x = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    x_out = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    # (1 * 1 + 0.5 * 4 + 0 + 0.5 * 1) / 2
    assert toy.toy_loss(x, x_out, torch.tensor([1.0, 0.5])).item() == pytest.approx(1.75)


def test_inputs_have_the_density_and_are_uniform_where_present(generator):
    density = torch.tensor([1.0, 0.1])
    x = toy.draw_features(density, 20_000, 4, generator)
    assert x.shape == (2, 20_000, 4)
    assert (x >= 0).all()
    assert (x <= 1).all()
    assert torch.allclose((x > 0).float().mean((1, 2)), density, atol=0.005)
    present = x[1][x[1] > 0]
    assert present.mean().item() == pytest.approx(0.5, abs=0.01)
    assert present.var().item() == pytest.approx(1 / 12, abs=0.003)


@pytest.mark.parametrize(
    ("W", "expected"), [(torch.eye(2), 1), (torch.tensor([[1.0, -1.0]]), 1 / 2), (polygon(3), 2 / 3), (polygon(5), 2 / 5)]
)
def test_dimensionality_of_regular_figures(W, expected):
    assert torch.allclose(toy.feature_dimensionality(W), torch.full((W.shape[1],), float(expected)), atol=1e-5)


def test_overlap_by_hand():
    W = torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.8, 0.0]])
    assert torch.allclose(toy.overlap(W), torch.tensor([0.36, 0.36, 0.0]), atol=1e-6)
    assert toy.represented(W).tolist() == [True, True, False]


def test_measures_take_many_models_at_once(generator):
    W = torch.randn(4, 3, 2, 6, generator=generator)
    for measure in (toy.represented, toy.overlap, toy.feature_dimensionality):
        assert measure(W).shape == (4, 3, 6)
        assert torch.allclose(measure(W)[1, 2].float(), measure(W[1, 2]).float(), atol=1e-6)


def test_a_feature_of_length_zero_has_no_dimension():
    W = torch.tensor([[1.0, 0.0]])
    assert toy.feature_dimensionality(W).tolist() == [1.0, 0.0]
    assert toy.overlap(W)[1] == 0


def test_first_overlap_reads_the_highest_density():
    orthogonal, pair = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    fitted = toy.ToyFit((1.0, 0.3, 0.1), torch.stack([orthogonal, pair, pair]), torch.zeros(3, 2), torch.zeros(3))
    assert torch.allclose(toy.density_of_first_overlap(fitted), torch.tensor([0.3, 0.3]))
    never = fitted._replace(W=orthogonal.expand(3, -1, -1))
    assert toy.density_of_first_overlap(never).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("density", "kept"), [(0.3, 2), (1.0, 1)])
def test_two_features_in_one_dimension_reach_the_closed_form(density, kept):
    """Ignoring the lesser feature costs I (p/3 - p^2/4), an antipodal pair p^2 (1 + I) / 6; the cheaper one is found."""
    importance = 0.8
    fitted = toy.fit(toy.ToyTask(2, 1, importance, (density,)), n_restarts=8, n_steps=800)
    ignore, pair = importance * (density / 3 - density**2 / 4), density**2 * (1 + importance) / 6
    assert fitted.loss.item() == pytest.approx(min(ignore, pair), rel=0.05)
    assert int(toy.represented(fitted.W).sum()) == kept


def test_the_linear_model_keeps_the_most_important_features():
    task = toy.ToyTask(4, 2, 0.5, (1.0, 0.1)).linear
    fitted = toy.fit(task, n_restarts=2, n_steps=800)
    assert toy.represented(fitted.W).tolist() == [[True, True, False, False]] * 2
    assert toy.overlap(fitted.W)[:, :2].max() < toy.ORTHOGONAL


def test_the_same_seed_gives_the_same_bits():
    task = toy.ToyTask(3, 2, 0.9, (0.5, 0.1))
    first, again, other = (toy.fit(task, n_restarts=2, n_steps=20, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.W, again.W)
    assert torch.equal(first.b, again.b)
    assert not torch.equal(first.W, other.W)
    assert first.W.shape == (2, 2, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_features": 0},
        {"d_hidden": 0},
        {"importance_base": 0.0},
        {"importance_base": 1.5},
        {"densities": ()},
        {"densities": (0.5, 0.0)},
        {"densities": (float("nan"),)},
    ],
)
def test_impossible_tasks_are_refused(wrong):
    fine = {"n_features": 3, "d_hidden": 2, "importance_base": 0.9, "densities": (0.5,)}
    with pytest.raises(BookError):
        toy.ToyTask(**(fine | wrong))


def test_a_fit_needs_a_model():
    with pytest.raises(BookError, match="n_restarts"):
        toy.fit(toy.FIVE_IN_TWO, n_restarts=0)
