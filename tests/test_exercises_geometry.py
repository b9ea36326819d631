"""Answers to the exercises on geometry, which `test_exercises` tries, and the sums that their checks rest on."""

import pytest
import torch

from sae_lib import toy
from sae_lib.exercises.geometry import pair_loss

RIGHT = {
    "geometry-boundary": [lambda importance: 4 / (5 + 2 * importance)],
    "geometry-bipyramid": [
        [1 / 2, 1 / 2, 2 / 3, 2 / 3, 2 / 3],
        (0.67, 0.5, 0.67, 0.5, 0.67),
        torch.tensor([2 / 3, 0.5, 2 / 3, 0.5, 2 / 3]),
    ],
    "geometry-pair": [(0.87, 0.21), (-0.87, 0.21), [0.85, 0.25]],
    "geometry-triangle": [3 / 8, 0.375, torch.tensor(0.375)],
}

WRONG = [
    ("geometry-boundary", lambda i: 4 * i / (2 + 5 * i), "below 1"),
    ("geometry-boundary", lambda i: 4 / 7, "equal importance"),
    ("geometry-boundary", lambda i: 2 / (1 + i), "mean"),
    ("geometry-boundary", lambda i: (5 + 2 * i) / 4, "turned"),
    ("geometry-boundary", lambda i: 0.5 / i, "4/7"),
    ("geometry-boundary", lambda i: 4 / (7 * i), "above 1"),
    ("geometry-bipyramid", [3 / 5] * 5, "mean"),
    ("geometry-bipyramid", [2 / 3, 2 / 3, 1 / 2, 1 / 2, 1 / 2], "changed places"),
    ("geometry-bipyramid", [2 / 5] * 5, "pentagon"),
    ("geometry-bipyramid", [1, 1, 2 / 3, 2 / 3, 2 / 3], "-1"),
    ("geometry-bipyramid", [1 / 2, 2 / 3], "five corners"),
    ("geometry-bipyramid", [1 / 2] * 5, "sum to"),
    ("geometry-bipyramid", [1, 0.5, 0.5, 0.5, 0.5], "right angles"),
    ("geometry-pair", (1, 0), "closed form itself"),
    ("geometry-pair", (0.9, -0.2), "negative bias"),
    ("geometry-pair", (0.9, 0), "without a bias"),
    ("geometry-pair", (1.5, 0.2), "longer"),
    ("geometry-pair", (0.1, 0.9), "move one"),
    ("geometry-triangle", 1 / 2, "without the ReLU"),
    ("geometry-triangle", 1 / 3, "digon"),
    ("geometry-triangle", 1 / 16, "two others"),
    ("geometry-triangle", 3 / 16, "six errors"),
    ("geometry-triangle", 1 / 4, "squared"),
    ("geometry-triangle", 0.7, "multiply by six"),
]


def test_the_triangle_is_dearer_than_a_digon_with_a_neighbour_on_its_own_axis():
    turn = 2 * torch.pi * torch.arange(3) / 3
    W = torch.stack([torch.stack([turn.cos(), turn.sin()]), torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])])
    p = 1e-3
    task = toy.ToyTask.of(3, 2, [p, p])
    x = toy.draw(task, 4_000_000, torch.Generator().manual_seed(0))
    losses = toy.toy_loss(task, x, toy.ToyFit(W, W, torch.zeros(2, 3), torch.zeros(2))) / p**2
    assert losses.tolist() == pytest.approx([3 / 8, 1 / 3], rel=0.05)


def test_pair_loss_is_the_closed_form_without_bias_and_the_toy_loss_with_one():
    for p in (0.1, 0.6, 1.0):
        assert pair_loss(1.0, 0.0, p) == pytest.approx(p**2 / 3, rel=1e-3)
        assert pair_loss(0.0, p / 2, p) == pytest.approx(2 * (p / 3 - p**2 / 4), rel=1e-3)
    task = toy.ToyTask.of(2, 1, [0.6])
    x = toy.draw(task, 200_000, torch.Generator().manual_seed(0))
    W = torch.tensor([[[0.8, -0.8]]])
    model = toy.ToyFit(W, W, torch.full((1, 2), 0.2), torch.zeros(1))
    assert pair_loss(0.8, 0.2, 0.6) == pytest.approx(float(toy.toy_loss(task, x, model)), rel=0.01)
