"""Toy models of superposition, many of them trained side by side in one batch.

    h    = x @ W.T                       n_features numbers squeezed into d_hidden
    x'   = ReLU(h @ W + b)               the linear model leaves the ReLU out
    loss = mean over inputs of sum_i importance_i * (x_i - x'_i)^2

A column of W is the direction of one feature. All tensors have a leading `model` axis.

Source: Elhage et al. 2022, "Demonstrating Superposition".
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lib.errors import BookError

REPRESENTED = 0.5
"""Norm of its column above which a feature counts as represented."""

ORTHOGONAL = 0.05
"""Overlap with all other features up to which a feature counts as having a direction of its own."""

TEST_INPUTS = 20_000
"""Fresh inputs on which the restarts of one density are compared."""


@dataclass(frozen=True)
class ToyTask:
    """What the models of one experiment have to do."""

    n_features: int
    """Numbers in an input."""
    d_hidden: int
    """Numbers the model may keep of it."""
    importance_base: float
    """Feature i (from 0) has importance importance_base ** i."""
    densities: tuple[float, ...]
    """Chance that a feature is present in an input, one experiment each."""
    relu: bool = True
    """Whether the output passes a ReLU."""

    def __post_init__(self) -> None:
        if self.n_features < 1 or self.d_hidden < 1:
            raise BookError(f"a toy model needs at least 1 feature and 1 dimension, not {self.n_features} and {self.d_hidden}")
        if not 0 < self.importance_base <= 1:
            raise BookError(f"importance_base is {self.importance_base}; it must lie above 0 and at most at 1")
        if not self.densities or not all(0 < density <= 1 for density in self.densities):
            raise BookError(f"the densities {self.densities} must be at least one number, each above 0 and at most 1")

    @property
    def importance(self) -> Float[Tensor, " n_features"]:
        """Weight of each feature in the loss, the first the largest."""
        return self.importance_base ** torch.arange(self.n_features, dtype=torch.float32)

    @property
    def linear(self) -> "ToyTask":
        """The same task for models without a ReLU."""
        return replace(self, relu=False)


FIVE_IN_TWO = ToyTask(5, 2, 0.9, (1.0, 0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05))
"""Five features in a plane, where everything can be drawn (Elhage et al. 2022, introduction; importances and densities are ours)."""

TWENTY_IN_FIVE = ToyTask(20, 5, 0.7, (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001))
"""Twenty features in five dimensions (Elhage et al. 2022, "Demonstrating Superposition"; the densities are ours)."""


class ToyFit(NamedTuple):
    """The best model of each density."""

    densities: tuple[float, ...]
    """Chance that a feature is present."""
    W: Tensor
    """Weights [density, d_hidden, n_features]; a column is a feature's direction."""
    b: Tensor
    """Biases [density, n_features]."""
    loss: Tensor
    """Loss of the best model on fresh inputs [density], weighted squared units a vector."""


def reconstruct(
    x: Float[Tensor, "*model batch n_features"],
    W: Float[Tensor, "*model d_hidden n_features"],
    b: Float[Tensor, "*model n_features"],
    relu: bool = True,
) -> Float[Tensor, "*model batch n_features"]:
    """What each model makes of its inputs.

        x' = ReLU(x @ W.T @ W + b)

    Args:
        x: inputs, each model's own.
        W: weights; a column is a feature's direction.
        b: biases.
        relu: False leaves the ReLU out, which makes the model linear.

    Source: Elhage et al. 2022, "Demonstrating Superposition".
    """
    h = x @ W.mT
    x_out = h @ W + b.unsqueeze(-2)
    return F.relu(x_out) if relu else x_out


def draw_features(
    density: Float[Tensor, " model"], batch: int, n_features: int, generator: torch.Generator
) -> Float[Tensor, "model batch n_features"]:
    """Inputs in which each feature is absent, or present with a uniform size.

        x_i = 0 with probability 1 - density, else uniform on [0, 1]

    Args:
        density: one value a model.
        batch: inputs a model.
        n_features: features an input.
        generator: of the draw.

    Source: Elhage et al. 2022, "Demonstrating Superposition".
    """
    u = torch.rand(len(density), batch, n_features, generator=generator)
    # Given that u < p, u / p is itself uniform on [0, 1]: one draw decides presence and size.
    p = density[:, None, None]
    return torch.where(u < p, u / p, torch.zeros(()))


def toy_loss(
    x: Float[Tensor, "*model batch n_features"], x_out: Float[Tensor, "*model batch n_features"], importance: Float[Tensor, " n_features"]
) -> Float[Tensor, "*model"]:
    """Squared error of each model, weighted by importance, summed over features, averaged over inputs.

        loss = mean over x of sum_i importance_i * (x_i - x'_i)^2

    Source: Elhage et al. 2022, "Demonstrating Superposition".
    """
    return ((x - x_out).square() @ importance).mean(-1)


def fit(task: ToyTask, n_restarts: int = 16, n_steps: int = 1_500, batch_size: int = 256, lr: float = 1e-2, seed: int = 0) -> ToyFit:
    """Train models at every density of a task, all at once, and keep the best of each density.

    Args:
        task: what to learn.
        n_restarts: models a density; few dimensions are easy to get stuck in.
        n_steps: steps of Adam.
        batch_size: fresh inputs a step.
        lr: learning rate at the start; it falls to zero along a cosine.
        seed: of weights and inputs.

    Returns:
        The model with the lowest loss on fresh inputs for each density.

    Raises:
        BookError: `n_restarts` is below 1.

    Source: Elhage et al. 2022, "Demonstrating Superposition" (fit several times, keep the lowest loss).
    Differs: weights start by Xavier's normal rule; steps, batch and rate are ours.
    """
    if n_restarts < 1:
        raise BookError(f"n_restarts is {n_restarts}; every density needs at least 1 model")
    generator = torch.Generator().manual_seed(seed)
    density, n_models = torch.tensor(task.densities), len(task.densities) * n_restarts
    deviation = math.sqrt(2 / (task.n_features + task.d_hidden))
    W = (deviation * torch.randn(n_models, task.d_hidden, task.n_features, generator=generator)).requires_grad_()
    b = torch.zeros(n_models, task.n_features, requires_grad=True)
    optimizer = torch.optim.Adam([W, b], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for _ in range(n_steps):
        # The restarts of a density see the same inputs, so they differ by their start alone.
        x = draw_features(density, batch_size, task.n_features, generator).repeat_interleave(n_restarts, dim=0)
        # The sum keeps the models apart: none of them sees another's gradient.
        toy_loss(x, reconstruct(x, W, b, task.relu), task.importance).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return _best_of(W.detach().unflatten(0, (-1, n_restarts)), b.detach().unflatten(0, (-1, n_restarts)), task, generator)


def _best_of(
    W: Float[Tensor, "density restart d_hidden n_features"],
    b: Float[Tensor, "density restart n_features"],
    task: ToyTask,
    generator: torch.Generator,
) -> ToyFit:
    """The restart with the lowest loss at each density, all held to the same fresh inputs."""
    best, lowest = [], []
    for i, density in enumerate(task.densities):
        x = draw_features(torch.tensor([density]), TEST_INPUTS, task.n_features, generator).expand(W.shape[1], -1, -1)
        loss = toy_loss(x, reconstruct(x, W[i], b[i], task.relu), task.importance)
        best.append(int(loss.argmin()))
        lowest.append(loss.min())
    rows = torch.arange(len(best))
    return ToyFit(task.densities, W[rows, best], b[rows, best], torch.stack(lowest))


def represented(W: Float[Tensor, "*model d_hidden n_features"], norm: float = REPRESENTED) -> Bool[Tensor, "*model n_features"]:
    """The features that have a direction at all: those whose column is longer than `norm`.

    Source: Elhage et al. 2022, "Demonstrating Superposition" (norms lie near 0 or near 1).
    """
    return W.norm(dim=-2) > norm


def overlap(W: Float[Tensor, "*model d_hidden n_features"]) -> Float[Tensor, "*model n_features"]:
    """How much of a feature's direction other features use too.

        overlap_i = sum over j other than i of (W_i / |W_i| . W_j)^2

    Returns:
        0 for a direction of its own, 1 or more for one that is fully shared; 0 for a feature without a direction.

    Source: Elhage et al. 2022, "Demonstrating Superposition" (the measure of superposition).
    """
    return _projections(W).sum(-1) - W.square().sum(-2)


def feature_dimensionality(W: Float[Tensor, "*model d_hidden n_features"]) -> Float[Tensor, "*model n_features"]:
    """The share of a dimension that each feature has.

        D_i = |W_i|^2 / sum over j of (W_i / |W_i| . W_j)^2

    Returns:
        1 for a feature with a dimension of its own, 1/2 for each of an antipodal pair, 2/5 in a pentagon, 0 for none.

    Source: Elhage et al. 2022, "The Geometry of Superposition".
    """
    return W.square().sum(-2) / _projections(W).sum(-1).clamp_min(1e-12)


def _projections(W: Float[Tensor, "*model d_hidden n_features"]) -> Float[Tensor, "*model n_features n_features"]:
    direction = W / W.norm(dim=-2, keepdim=True).clamp_min(1e-12)
    return (direction.mT @ W).square()


def density_of_first_overlap(fitted: ToyFit, above: float = ORTHOGONAL) -> Float[Tensor, " n_features"]:
    """The highest density at which each represented feature shares its direction; 0 for one that never does.

    Args:
        fitted: models of several densities.
        above: overlap that counts as sharing.

    Source: ours, for the claim that the most important feature is the last to lose orthogonality.
    """
    shares = represented(fitted.W) & (overlap(fitted.W) > above)
    return (shares * torch.tensor(fitted.densities)[:, None]).amax(0)
