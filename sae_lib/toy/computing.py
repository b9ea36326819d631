"""Neurons of toy models: which features each answers to, and the pattern by which two features share one.

Source: Elhage et al. 2022, "Superposition in a Privileged Basis" and "Computation in Superposition".
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lib.toy.models import ToyFit

SHARE = 0.25
"""A neuron answers to a feature that has at least this share of the neuron's largest contribution."""

ALIVE = 0.05
"""Largest contribution below which a neuron counts as dead."""

MOTIF_RATIO = 2.5
"""Ratio of two features' input weights, and of their output weights the other way round, from which they form the motif."""


def contributions(model: ToyFit) -> Float[Tensor, "*model neuron n_features"]:
    """How much of each feature passes through each neuron.

        c_ki = |W_in[k, i] * W_out[k, i]|

    Returns:
        Near 1 where one neuron carries a feature alone; 0 or more.

    Source: ours; Elhage et al. 2022, "Superposition in a Privileged Basis", draw the weights themselves.
    """
    return (model.W_in * model.W_out).abs()


def answers(model: ToyFit) -> Bool[Tensor, "*model neuron n_features"]:
    """Which features each neuron answers to: those with at least a quarter of its largest contribution; none for a dead neuron."""
    c = contributions(model)
    largest = c.amax(-1, keepdim=True)
    return (c >= SHARE * largest) & (largest > ALIVE)


def polysemantic(model: ToyFit) -> Float[Tensor, "*model"]:
    """Share of the live neurons that answer to more than one feature, 0 to 1.

    Source: Elhage et al. 2022, "Computation in Superposition" (the threshold is ours).
    """
    n = answers(model).sum(-1)
    return (n > 1).sum(-1) / (n > 0).sum(-1).clamp_min(1)


def neuron_counts(model: ToyFit) -> Float[Tensor, "*model 4"]:
    """Neurons of each model: monosemantic, polysemantic, dead; and the number of features that any neuron answers to.

    Source: Elhage et al. 2022, "Superposition in a Privileged Basis".
    """
    which = answers(model)
    n = which.sum(-1)
    return torch.stack([(n == 1).sum(-1), (n > 1).sum(-1), (n == 0).sum(-1), which.any(-2).sum(-1)], -1).float()


class Motif(NamedTuple):
    """One neuron that two features share unequally."""

    model: int
    """Which model, counted through all experiments and restarts."""
    neuron: int
    """Which neuron of it."""
    features: tuple[int, int]
    """The feature with the larger input weight, and the other."""
    w_in: tuple[float, float]
    """Their input weights."""
    w_out: tuple[float, float]
    """Their output weights."""


def motifs(model: ToyFit) -> list[Motif]:
    """The neurons in which the asymmetric motif appears.

        |w_in_a / w_in_b| > 2.5,  |w_out_b / w_out_a| > 2.5,  w_in_a and w_in_b of opposite sign

    The neuron answers to a and b alone. It reads a strongly and writes it weakly, and b the other way round: what it says
    about b when a is present would be large, and so another neuron has to forbid it.

    Args:
        model: any number of models.

    Source: Elhage et al. 2022, "Computation in Superposition", "The Asymmetric Superposition Motif" (the ratio is the ledger's).
    """
    which = answers(model).flatten(0, -3)
    W_in, W_out = model.W_in.flatten(0, -3), model.W_out.flatten(0, -3)
    found = []
    for m, k in (which.sum(-1) == 2).nonzero().tolist():
        a, b = torch.where(which[m, k])[0].tolist()
        if W_in[m, k, a].abs() < W_in[m, k, b].abs():
            a, b = b, a
        reads, writes = W_in[m, k, [a, b]], W_out[m, k, [a, b]]
        unequal = (reads[0] / reads[1]).abs() > MOTIF_RATIO and (writes[1] / writes[0]).abs() > MOTIF_RATIO
        if unequal and reads[0] * reads[1] < 0:
            found.append(Motif(m, k, (a, b), tuple(reads.tolist()), tuple(writes.tolist())))
    return found
