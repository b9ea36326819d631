"""Toy models on finite data: they may memorise points before they learn features.

    h    = x @ W.T                       each data point x becomes a point h in d_hidden dimensions
    x'   = ReLU(h @ W + b)
    loss = mean over the T points of |x - x'|^2

Source: Henighan et al. 2023, "Superposition, Memorization, and Double Descent".
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sae_lib.errors import BookError
from sae_lib.toy.models import ToyFit, loss_and_gradients, run
from sae_lib.toy.tasks import ToyTask, draw

PAPER_STEPS, PAPER_LR = 50_000, 1e-3
"""Length and peak learning rate of the paper's runs."""

MOST_POINTS = 4_000
"""Points a step."""

TEST_POINTS = 4_096
"""Fresh points for the test loss."""


class PointFit(NamedTuple):
    """Models trained on T points each, one a data set."""

    x: Tensor
    """The points [dataset, T, n_features], of norm 1."""
    model: ToyFit
    """Weights [dataset, …]; `loss` is that on fresh points."""
    train_loss: Tensor
    """Loss on the points [dataset]."""

    @property
    def h(self) -> Tensor:
        """Where the model puts the points, as columns [dataset, d_hidden, T]."""
        return self.model.W @ self.x.mT


def draw_points(task: ToyTask, n: int, n_datasets: int, seed: int) -> Float[Tensor, "dataset n n_features"]:
    """Inputs of norm 1, none empty.

    Args:
        task: one experiment.
        n: points a data set.
        n_datasets: data sets.
        seed: of the draw.

    Source: Henighan et al. 2023, first part (inputs rescaled to unit norm).
    """
    x = draw(task, n * n_datasets, torch.Generator().manual_seed(seed))[0].unflatten(0, (n_datasets, n))
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def fit_points(
    task: ToyTask, n_points: int, n_datasets: int = 1, n_steps: int = 5_000, lr: float = 1e-2, weight_decay: float = 1e-2, seed: int = 0
) -> PointFit:
    """Train on T points, a model for each data set.

    Args:
        task: one experiment.
        n_points: T.
        n_datasets: data sets, and models, trained side by side.
        n_steps: steps of AdamW; the rate rises over the first twentieth and falls to zero along a cosine.
        lr: peak learning rate.
        weight_decay: as the paper counts it, on weights and biases; a shorter run decays as much in all.
        seed: of data and weights.

    Raises:
        BookError: a size is below 1.

    Source: Henighan et al. 2023, first part (AdamW, weight decay 1e-2, 50,000 steps to a rate of 1e-3, Xavier weights).
    Differs: fewer steps at ten times the rate, with the decay scaled so that rate times decay times steps is the paper's;
    of more than 4,000 points each step sees 4,000, drawn anew.
    """
    if min(n_points, n_datasets, n_steps) < 1:
        raise BookError(f"n_points is {n_points}, n_datasets {n_datasets} and n_steps {n_steps}; all must be at least 1")
    n, m = task.n_features, task.d_hidden
    # Data set k is the same whatever the number of points, up to its length.
    x = torch.cat([draw_points(task, n_points, 1, seed * 1_000 + k) for k in range(n_datasets)])
    generator = torch.Generator().manual_seed(seed)
    W = math.sqrt(2 / (n + m)) * torch.randn(n_datasets, m, n, generator=generator)
    model = ToyFit(W, W, torch.zeros(n_datasets, n), torch.zeros(n_datasets))
    decay = weight_decay * PAPER_STEPS * PAPER_LR / (n_steps * lr)
    optimizer = torch.optim.AdamW([model.W_in, model.b], lr=lr, weight_decay=decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / n_steps))
    batch = min(n_points, MOST_POINTS)
    weight = torch.full((n_datasets, batch), 1 / batch)
    whole = ToyTask(task.density.expand(n_datasets, -1), task.importance.expand(n_datasets, -1), m)
    for _ in tqdm(range(n_steps), desc=f"{n_points:,} points", delay=2, leave=False):
        seen = x if batch == n_points else x[:, torch.randint(n_points, (batch,), generator=generator)]
        loss_and_gradients(whole, seen, weight, model)
        optimizer.step()
        schedule.step()
    fresh = draw_points(task, TEST_POINTS, 1, seed * 1_000 + 999)
    return PointFit(x, model._replace(loss=_loss(fresh, model, task)), _loss(x, model, task))


def _rate(progress: float, warmup: float = 0.05) -> float:
    return min(progress / warmup, 1.0) if progress < warmup else 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _loss(x: Float[Tensor, "*dataset n n_features"], model: ToyFit, task: ToyTask) -> Float[Tensor, " dataset"]:
    """Loss of each model on its own points, or of all on the same."""
    return (x - run(task, x, model)).square().sum(-1).mean(-1)


def bump(n_points: Tensor, test_loss: Tensor) -> float:
    """How far the test loss rises above both sides of its peak.

        max over inner T of loss(T) / max(lowest loss before, lowest loss after) - 1

    Source: ours, for the claim of double descent.
    """
    order = n_points.argsort()
    loss = test_loss[order]
    rises = [loss[i] / torch.maximum(loss[:i].min(), loss[i + 1 :].min()) - 1 for i in range(1, len(loss) - 1)]
    return float(max(rises))
