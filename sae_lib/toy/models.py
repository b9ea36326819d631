"""Toy models, many of them trained side by side in one batch.

    h    = x @ W_in.T                    n_features numbers squeezed into d_hidden; a ReLU makes them neurons
    x'   = ReLU(h @ W_out + b)           the linear model leaves the ReLU out
    loss = mean over inputs of sum_i importance_i * (x_i - x'_i)^2

A model that copies its input has one matrix, W_in = W_out = W, whose column i is the direction of feature i.
All tensors have the axes `experiment` and `restart` in front.

Source: Elhage et al. 2022, "Demonstrating Superposition" and "Computation in Superposition".
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sae_lib.errors import BookError
from sae_lib.toy.tasks import ToyTask, draw

TEST_INPUTS = 16_384
"""Fresh inputs on which the restarts of an experiment are compared."""


class ToyFit(NamedTuple):
    """Trained models: all restarts of each experiment, or the best of each."""

    W_in: Tensor
    """Weights into the hidden numbers [*experiment, d_hidden, n_features]; a column is a feature's direction."""
    W_out: Tensor
    """Weights out of them [*experiment, d_hidden, n_features]; the same tensor where the model copies."""
    b: Tensor
    """Biases [*experiment, n_features]."""
    loss: Tensor
    """Loss on fresh inputs [*experiment], weighted squared units an input."""

    @property
    def W(self) -> Tensor:
        """The one matrix of a model that copies."""
        return self.W_in

    @property
    def best(self) -> "ToyFit":
        """The restart with the lowest loss of each experiment."""
        place = self.loss.argmin(-1, keepdim=True)
        return ToyFit(*(tensor.take_along_dim(place.reshape(*place.shape, *[1] * (tensor.ndim - place.ndim)), 1)[:, 0] for tensor in self))


def run(task: ToyTask, x: Float[Tensor, "*any batch n_features"], model: ToyFit) -> Float[Tensor, "*model batch n_features"]:
    """What each model makes of its inputs.

        x' = ReLU(x @ W_in.T @ W_out + b)

    Args:
        task: says which ReLUs there are.
        x: inputs; axes in front are those of the models, or of size 1.
        model: weights.

    Source: Elhage et al. 2022, "Demonstrating Superposition".
    """
    h = x @ model.W_in.mT
    h = h.relu() if task.hidden_relu else h
    x_out = h @ model.W_out + model.b.unsqueeze(-2)
    return x_out.relu() if task.output_relu else x_out


def toy_loss(task: ToyTask, x: Float[Tensor, "experiment batch n_features"], model: ToyFit) -> Float[Tensor, "experiment *restart"]:
    """Squared error weighted by importance, summed over features, averaged over inputs.

        loss = (1 - c) * mean over x of sum_i importance_i * (x_i - x'_i)^2  +  c * the same of the empty input

    where c is the chance of an empty input, which `draw` leaves out.

    Args:
        task: targets, importances and chances.
        x: inputs as `draw` gives them.
        model: weights, of one restart for each experiment or of several.

    Source: Elhage et al. 2022, "Demonstrating Superposition" (the loss; that the empty input is kept apart is ours).
    """
    axes = (len(x), *[1] * (model.b.ndim - 2))
    empty, importance = task.empty_chance.reshape(axes), task.importance.reshape(*axes, 1, -1)
    full = _errors(task, x.reshape(*axes, *x.shape[1:]), model, importance).mean(-1)
    return (1 - empty) * full + empty * _errors(task, torch.zeros(*axes, 1, x.shape[-1]), model, importance)[..., 0]


def _errors(task: ToyTask, x: Tensor, model: ToyFit, importance: Tensor) -> Tensor:
    return ((task.wanted(x) - run(task, x, model)).square() * importance).sum(-1)


def fit(
    task: ToyTask,
    n_restarts: int = 10,
    n_steps: int = 2_000,
    batch_size: int = 256,
    lr: float = 1e-2,
    seed: int = 0,
    start: ToyFit | None = None,
) -> ToyFit:
    """Train the models of a task, all of them at once.

    Args:
        task: what to learn.
        n_restarts: models an experiment; few dimensions are easy to get stuck in.
        n_steps: steps of Adam.
        batch_size: fresh inputs a step, none of them empty.
        lr: learning rate at the start; it falls to zero along a cosine.
        seed: of weights and inputs.
        start: weights to start from, [experiment, restart, …], in place of random ones.

    Returns:
        Every restart, with its loss on fresh inputs; `.best` keeps one an experiment.

    Raises:
        BookError: `n_restarts` or `n_steps` is below 1.

    Source: Elhage et al. 2022, "Demonstrating Superposition" (fit several times, keep the lowest loss).
    Differs: weights start by Xavier's normal rule, where input and output weights are apart the latter as the absolute
    values of the former; steps, batch and rate are ours.
    """
    *_, last = _training(task, n_restarts, n_steps, batch_size, lr, seed, n_steps, start)
    return last[1]


def history(
    task: ToyTask, n_restarts: int = 1, n_steps: int = 10_000, every: int = 10, batch_size: int = 1_024, lr: float = 1e-3, seed: int = 0
) -> tuple[list[int], ToyFit]:
    """Train as `fit` does, at a constant rate, and keep the models of every so many steps.

    Args:
        task: what to learn.
        n_restarts: models an experiment.
        n_steps: steps of Adam.
        every: steps between two states kept.
        batch_size: fresh inputs a step.
        lr: learning rate, constant, so that what is seen is the model's doing and not the schedule's.
        seed: of weights and inputs.

    Returns:
        The steps, and the models at those steps with an axis `state` in front, all tested on the same inputs.

    Source: Elhage et al. 2022, "Superposition and Learning Dynamics".
    """
    states = list(_training(task, n_restarts, n_steps, batch_size, lr, seed, every, None, constant=True, n_test=TEST_INPUTS // 4))
    return [step for step, _ in states], ToyFit(*(torch.stack(tensors) for tensors in zip(*(state for _, state in states), strict=True)))


def _training(
    task: ToyTask,
    n_restarts: int,
    n_steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    every: int,
    start: ToyFit | None,
    constant: bool = False,
    n_test: int = TEST_INPUTS,
) -> Iterator[tuple[int, ToyFit]]:
    """The one training loop: yields the step and the models as they stand, every so many steps and at the end."""
    if n_restarts < 1 or n_steps < 1:
        raise BookError(f"n_restarts is {n_restarts} and n_steps is {n_steps}; every experiment needs at least 1 model and 1 step")
    generator = torch.Generator().manual_seed(seed)
    n, m, tied = task.n_features, task.d_hidden, task.target == "same"
    n_models = len(task.density) * n_restarts
    deviation = math.sqrt(2 / (n + m))
    W_in = deviation * torch.randn(n_models, m, n, generator=generator)
    # Out of a neuron only positive weights: with signs of their own, half of the outputs would start shut by the last ReLU.
    W_out = W_in if tied else W_in.abs()
    model = ToyFit(W_in, W_out, torch.zeros(n_models, n), torch.zeros(n_models))
    if start is not None:
        model = ToyFit(*(tensor.flatten(0, 1).clone() for tensor in start))
        model = model._replace(W_out=model.W_in) if tied else model
    parameters = [model.W_in, *([] if tied else [model.W_out]), model.b]
    optimizer = torch.optim.Adam(parameters, lr=lr, eps=1e-12, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    test = draw(task, n_test, torch.Generator().manual_seed(seed + 1))
    # The last row of every batch is the empty input, at its own weight.
    weight = torch.cat([((1 - task.empty_chance) / batch_size)[:, None].expand(-1, batch_size), task.empty_chance[:, None]], 1)
    for step in tqdm(range(1, n_steps + 1), desc=f"{n_models:,} toy models", delay=2, leave=False):
        x = torch.nn.functional.pad(draw(task, batch_size, generator), (0, 0, 0, 1))
        loss_and_gradients(task, x, weight, model)
        optimizer.step()
        if not constant:
            schedule.step()
        if step % every == 0 or step == n_steps:
            state = ToyFit(*(tensor.unflatten(0, (-1, n_restarts)).clone() for tensor in model))
            yield step, state._replace(loss=_tested(task, test, state))


@torch.no_grad()
def loss_and_gradients(
    task: ToyTask, x: Float[Tensor, "experiment batch n_features"], weight: Float[Tensor, "experiment batch"], model: ToyFit
) -> None:
    """Leave the gradients of every model's loss in the `.grad` of its weights: five products, few passes over the errors.

        error  = x' - y                          y: what is to come out
        g      = 2 * weight * importance * error where the output ReLU is open, else 0
        dW_out = h.T @ g;    db = sum of g
        dh     = g @ W_out.T where the hidden ReLU is open, else 0
        dW_in  = dh.T @ x                        added to dW_out where both are one matrix

    Args:
        task: ReLUs, target and importances.
        x: inputs, which the restarts of an experiment share, so that they differ by their start alone.
        weight: of each input in the loss.
        model: with one axis in front, [experiment * restart, …].

    Source: ours; a test holds it to autograd's gradients of `toy_loss`.
    """
    n_restarts = len(model.b) // len(x)
    scale = (2 * weight[..., None] * task.importance[:, None]).repeat_interleave(n_restarts, 0)
    x = x.repeat_interleave(n_restarts, 0) if n_restarts > 1 else x
    h = torch.bmm(x, model.W_in.mT)
    if task.hidden_relu:
        h.relu_()
    x_out = torch.baddbmm(model.b[:, None], h, model.W_out)
    if task.output_relu:
        x_out.relu_()
    g = (x_out - task.wanted(x)).mul_(scale)
    if task.output_relu:
        g.mul_(x_out.sign_())
    dh = torch.bmm(g, model.W_out.mT)
    if task.hidden_relu:
        dh.mul_(h.sign())
    model.b.grad = g.sum(1)
    if model.W_out is model.W_in:
        model.W_in.grad = torch.baddbmm(torch.bmm(dh.mT, x), h.mT, g)
    else:
        model.W_out.grad = torch.bmm(h.mT, g)
        model.W_in.grad = torch.bmm(dh.mT, x)


def _tested(task: ToyTask, x: Float[Tensor, "experiment batch n_features"], model: ToyFit) -> Float[Tensor, "experiment restart"]:
    """The loss on fresh inputs, in pieces that fit the processor's caches."""
    pieces = x.split(512, dim=1)
    return torch.stack([toy_loss(task, piece, model) * piece.shape[1] for piece in pieces]).sum(0) / x.shape[1]
