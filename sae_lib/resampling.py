"""Resampling of dead features, clause by clause.

1. At steps 25,000, 50,000, 75,000 and 100,000, take the features that have not fired in the last 12,500 steps.
2. Compute the loss of the current dictionary on 819,200 random inputs.
3. Give each input a probability proportional to its squared loss.
4. For each dead feature draw an input; scaled to norm 1 it becomes the feature's row of W_dec.
5. The feature's column of W_enc becomes the same direction, at 0.2 times the mean encoder norm of the live features.
6. Its b_enc becomes 0.
7. Adam's moments are zeroed at every entry that changed.

Source: Bricken et al. 2023, appendix "Neuron Resampling".
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lib import parallel
from sae_lib.errors import BookError
from sae_lib.sae import SparseAutoencoder, kaiming_uniform

ENCODER_SCALE = 0.2
"""Norm of a resampled encoder column, in units of the mean live encoder norm."""


@dataclass(frozen=True)
class ResamplingSchedule:
    """When features are resampled, who counts as dead, and how many inputs are looked at."""

    steps: tuple[int, ...] = (25_000, 50_000, 75_000, 100_000)
    """Training steps after which dead features are resampled."""
    window: int = 12_500
    """A feature is dead that has not fired in so many steps."""
    n_inputs: int = 819_200
    """Random inputs on which the loss is computed."""
    method: str = "paper"
    """'paper' for its rule, 'naive' for a fresh Kaiming draw, or 'none'."""

    def __post_init__(self) -> None:
        if self.method not in ("paper", "naive", "none"):
            raise BookError(f"resampling method {self.method!r} is unknown; choose 'paper', 'naive' or 'none'")
        if self.window < 1 or self.n_inputs < 1 or any(step < 1 for step in self.steps):
            raise BookError("the resampling steps, window and n_inputs must all be at least 1")

    def is_due(self, step: int) -> bool:
        """Whether features are resampled after this training step (counted from 1)."""
        return self.method != "none" and step in self.steps


def dead_features(last_fired: Int[Tensor, " d_sae"], step: int, window: int) -> Bool[Tensor, " d_sae"]:
    """The features that did not fire in any of the last `window` steps.

    Args:
        last_fired: the step at which each feature last fired, 0 for never.
        step: the step just done, counted from 1.
        window: in steps.

    Source: Bricken et al. 2023, appendix "Neuron Resampling".
    """
    return last_fired <= step - window


@torch.no_grad()
def input_losses(sae: SparseAutoencoder, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, " batch"]:
    """Loss of the current dictionary on each input, with the reduction that training uses.

    Source: Bricken et al. 2023, appendix "Neuron Resampling".
    """
    x = parallel.beside(x, sae.W_enc)
    feature_acts = sae.encode(x)
    l1 = feature_acts.sum(-1, dtype=torch.float32)
    return parallel.whole(sae.squared_error(x, sae.decode(feature_acts)) + sae.cfg.l1_coeff * l1)


def draw_inputs(
    sae: SparseAutoencoder, batches: Iterable[Float[Tensor, "_ d_in"]], n: int, generator: torch.Generator
) -> Float[Tensor, "n d_in"]:
    """Draw n inputs with probability proportional to their squared loss, in one pass and without holding them all.

    Each input gets an arrival time, exponential at a rate of its squared loss; the n earliest are the draw. That is
    sampling without replacement: the first is drawn with p_j = loss_j^2 / sum_k loss_k^2, the next likewise among the rest.

    Args:
        sae: the current dictionary.
        batches: the random inputs, batch by batch.
        n: how many to draw.
        generator: on the CPU, so that the draw is the same on every device.

    Raises:
        BookError: there are fewer than n inputs.

    Source: Bricken et al. 2023, appendix "Neuron Resampling".
    Differs: the paper does not say whether an input may serve two features; here it may not.
    """
    earliest, chosen = None, None
    for x in batches:
        waiting = torch.empty(len(x)).exponential_(generator=generator)
        times = waiting / input_losses(sae, x).cpu().square().clamp_min(1e-30)
        if earliest is not None:
            times, x = torch.cat([earliest, times]), torch.cat([chosen, x])
        keep = times.argsort()[:n]
        earliest, chosen = times[keep], x[keep.to(x.device)]
    if chosen is None or len(chosen) < n:
        raise BookError(f"{n} features are dead but only {0 if chosen is None else len(chosen)} inputs were sampled; raise n_inputs")
    return chosen


@torch.no_grad()
def reinitialise(sae: SparseAutoencoder, dead: Bool[Tensor, " d_sae"], inputs: Float[Tensor, "dead d_in"]) -> None:
    """Point each dead feature at its drawn input.

        d_i = x / |x|;   W_enc[:, i] = 0.2 * (mean live encoder norm) * d_i;   b_enc[i] = 0

    Args:
        sae: changed in place.
        dead: which features.
        inputs: one input for each dead feature, in order.

    Source: Bricken et al. 2023, appendix "Neuron Resampling".
    Differs: where no feature is alive the mean is over all of them; an input of norm 0 leaves its feature as it was.
    """
    direction = inputs.to(sae.W_dec.dtype)
    norm = direction.norm(dim=1, keepdim=True)
    direction = torch.where(norm > 0, direction / norm.clamp_min(1e-30), parallel.whole(sae.W_dec)[dead])
    alive = ~dead if (~dead).any() else torch.ones_like(dead)
    mean_norm = parallel.whole(sae.W_enc.norm(dim=0))[alive].mean()
    _replace(sae, dead, (ENCODER_SCALE * mean_norm * direction).T, direction)


def _replace(
    sae: SparseAutoencoder, dead: Bool[Tensor, " d_sae"], W_enc: Float[Tensor, "d_in dead"], W_dec: Float[Tensor, "dead d_in"]
) -> None:
    """Put new weights in the place of dead features, wherever their parts are, and zero in that of their biases."""
    for parameter, entries, new in ((sae.W_enc, (slice(None), dead), W_enc), (sae.W_dec, dead, W_dec), (sae.b_enc, dead, 0)):
        weight = parallel.whole(parameter.data)
        weight[entries] = new
        if parallel.is_sharded(parameter):
            parameter.copy_(parallel.like(weight, parameter))


@torch.no_grad()
def reinitialise_naively(sae: SparseAutoencoder, dead: Bool[Tensor, " d_sae"], generator: torch.Generator) -> None:
    """Give each dead feature fresh initial weights: the arm that the paper's rule is compared with.

    Source: Bricken et al. 2023, appendix "Neuron Resampling" (its baseline of random reinitialisation).
    """
    n, d_in, d_sae = int(dead.sum()), sae.cfg.d_in, sae.cfg.d_sae
    rows = kaiming_uniform(n, d_in, fan_in=d_sae, generator=generator).to(sae.device)
    columns = kaiming_uniform(d_in, n, fan_in=d_in, generator=generator).to(sae.device)
    _replace(sae, dead, columns, rows / rows.norm(dim=1, keepdim=True))


@torch.no_grad()
def reset_adam(optimizer: torch.optim.Optimizer, sae: SparseAutoencoder, dead: Bool[Tensor, " d_sae"]) -> None:
    """Zero Adam's first and second moments at exactly the entries that resampling changed.

    Source: Bricken et al. 2023, appendix "Neuron Resampling".
    """
    alive = parallel.like((~dead).to(sae.b_enc.dtype), sae.b_enc)
    for parameter, kept in ((sae.W_enc, alive[None]), (sae.b_enc, alive), (sae.W_dec, alive[:, None])):
        state = optimizer.state.get(parameter, {})
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in state:
                state[moment] *= kept


def resample_dead_features(
    sae: SparseAutoencoder,
    optimizer: torch.optim.Optimizer,
    dead: Bool[Tensor, " d_sae"],
    batches: Iterable[Float[Tensor, "_ d_in"]],
    method: str,
    generator: torch.Generator,
) -> int:
    """Carry out one resampling and return how many features it changed.

    Args:
        sae: changed in place.
        optimizer: its moments at the changed entries become zero.
        dead: which features.
        batches: random inputs, read only by the paper's rule.
        method: the paper's rule or the naive arm.
        generator: on the CPU.

    Source: Bricken et al. 2023, appendix "Neuron Resampling".
    """
    n = int(dead.sum())
    if n == 0:
        return 0
    if method == "paper":
        reinitialise(sae, dead, draw_inputs(sae, batches, n, generator))
    else:
        reinitialise_naively(sae, dead, generator)
    reset_adam(optimizer, sae, dead)
    return n
