"""How much faster many toy models train together than one after another.

    python benchmarks/toy.py [--models 40] [--steps 500]

The phase diagram of two features in one dimension: 20 x 20 cells, 10 models a cell. All 4,000 are trained in one batch;
then some of them are trained one after another by the same function, and by autograd as a newcomer would write it, and
their time is scaled to 4,000.
"""

import argparse
import time

import torch

from sae_lib import toy

CELLS, RESTARTS, BATCH = 20, 10, 128


def grid() -> toy.ToyTask:
    """The 400 experiments of the diagram."""
    density = torch.logspace(0, -2, CELLS).repeat_interleave(CELLS)[:, None].expand(-1, 2)
    importance = torch.ones(CELLS * CELLS, 2)
    importance[:, 1] = torch.logspace(-1, 1, CELLS).repeat(CELLS)
    return toy.ToyTask(density.contiguous(), importance, d_hidden=1)


def alone(task: toy.ToyTask, cell: int) -> toy.ToyTask:
    """One experiment of them."""
    return toy.ToyTask(task.density[cell : cell + 1], task.importance[cell : cell + 1], task.d_hidden)


def by_autograd(task: toy.ToyTask, n_steps: int, seed: int) -> None:
    """One model, inputs as the paper draws them (most of them empty), gradients by autograd."""
    generator = torch.Generator().manual_seed(seed)
    W, b = torch.randn(1, 2, generator=generator).requires_grad_(), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([W, b], lr=3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for _ in range(n_steps):
        x = torch.rand(BATCH, 2, generator=generator) * (torch.rand(BATCH, 2, generator=generator) < task.density[0])
        loss = ((x - (x @ W.T @ W + b).relu()).square() * task.importance[0]).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    """Time the three and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=40, help="models trained one after another (default 40)")
    parser.add_argument("--steps", type=int, default=500, help="training steps of every model (default 500)")
    chosen = parser.parse_args()
    task, n_models = grid(), CELLS * CELLS * RESTARTS
    settings = {"n_steps": chosen.steps, "batch_size": BATCH, "lr": 3e-2}
    toy.fit(task, n_restarts=1, **settings | {"n_steps": 20})

    start = time.perf_counter()
    together = toy.fit(task, n_restarts=RESTARTS, **settings)
    batched = time.perf_counter() - start
    closed = toy.phase_losses(2, task.density[:, 0], task.importance[:, 1]).argmin(0)
    agree = (toy.phase(together.best.W) == closed).float().mean().item()
    print(f"{n_models:,} models together, {chosen.steps} steps: {batched:.1f} s; {100 * agree:.1f}% of the cells as in the closed form")

    cells = torch.linspace(0, len(closed) - 1, chosen.models).long().tolist()
    for name, train in (
        ("the same function", lambda cell: toy.fit(alone(task, cell), n_restarts=1, **settings)),
        ("autograd", lambda cell: by_autograd(alone(task, cell), chosen.steps, seed=cell)),
    ):
        start = time.perf_counter()
        for cell in cells:
            train(cell)
        looped = (time.perf_counter() - start) * n_models / len(cells)
        print(f"one after another, {name}: {looped:,.0f} s for {n_models:,} (from {len(cells)}); {looped / batched:.0f} times as long")


if __name__ == "__main__":
    main()
