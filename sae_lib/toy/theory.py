"""Closed forms: what the solutions of the smallest toy models cost, where one becomes cheaper than another, and one-hot codes.

With p the density of every feature and I the importance of the last one (the others have importance 1):

    ignored               I_i * (p/3 - p^2/4)       the best answer is the mean
    two in one dimension  p^2 * (I_i + I_j) / 6     opposite directions; an error only where both are present
    a dimension of its own  0

Source: Elhage et al. 2022, "Superposition as a Phase Change"; Bricken et al. 2023, "Why not use architectural approaches?".
"""

import itertools
import math

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lib.errors import BookError

PHASES = {
    2: ("last ignored", "first ignored", "both opposite"),
    3: ("last ignored", "another ignored", "last opposite another", "the others opposite", "all three share"),
}
"""Names of the solutions for two features in one dimension and for three in two."""

_NULL = {
    2: ((0, (0, 1)), (1, (1, 0)), (2, (1, 1))),
    3: ((0, (0, 0, 1)), (1, (1, 0, 0)), (1, (0, 1, 0)), (2, (0, 1, 1)), (2, (1, 0, 1)), (3, (1, 1, 0)), (4, (1, 1, 1))),
}
"""The input direction that the weights of each solution do not see."""


def phase_losses(n_features: int, density: Float[Tensor, "*cell"], importance: Float[Tensor, "*cell"]) -> Float[Tensor, "solution *cell"]:
    """What each solution costs, for two features in one dimension or three in two.

    Args:
        n_features: 2 or 3.
        density: p of all features.
        importance: I of the last feature.

    Returns:
        Losses in the order of PHASES; for three features without the last, which has no closed form.

    Source: Elhage et al. 2022, "Superposition as a Phase Change". Every solution is taken with weights of length 1, so the
    losses are upper bounds: trained weights may do a little better.
    """
    _check(n_features)
    ignored = density / 3 - density.square() / 4
    losses = [importance * ignored, ignored, density.square() * (1 + importance) / 6]
    return torch.stack(losses if n_features == 2 else [*losses, density.square() / 3])


def boundary(importance: Float[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
    """The density below which two features in one dimension are superposed.

        p < 4 I / (2 + 5 I)   and   p < 4 / (5 + 2 I)

    Returns:
        The smaller of the two; 4/7 for equal importance.

    Source: Elhage et al. 2022, "Superposition as a Phase Change"; solved from `phase_losses` by us.
    """
    return torch.minimum(4 * importance / (2 + 5 * importance), 4 / (5 + 2 * importance))


def phase(W: Float[Tensor, "*model d_hidden n_features"]) -> Int[Tensor, "*model"]:
    """Which solution trained weights are: the one whose unseen direction lies nearest to theirs.

    Args:
        W: two features in one dimension or three in two.

    Returns:
        Places in PHASES.

    Source: Elhage et al. 2022, "Superposition as a Phase Change" (it names solutions by the vector that W is orthogonal to).
    """
    n = W.shape[-1]
    _check(n)
    if W.shape[-2] != n - 1:
        raise BookError(f"phase reads two features in one dimension or three in two, not {n} in {W.shape[-2]}")
    unseen = torch.linalg.svd(W).Vh[..., -1, :]
    candidates = torch.tensor([vector for _, vector in _NULL[n]], dtype=W.dtype)
    cosine = unseen @ torch.nn.functional.normalize(candidates, dim=-1).T
    return torch.tensor([place for place, _ in _NULL[n]])[cosine.abs().argmax(-1)]


def code_losses(n_features: int = 4) -> pd.DataFrame:
    """Every way in which one neuron that is on or off can answer to features of which exactly one is present.

    The loss is the cross-entropy of naming the feature from the neuron's state alone:

        loss = sum over states s of (|s| / n) * ln |s|          |s|: features that share the state

    Args:
        n_features: equally likely, never two at once.

    Returns:
        One row for each number of features that the neuron answers to: `answers_to`, `loss` in nats.

    Source: Bricken et al. 2023, the argument that sparse activations alone do not make neurons monosemantic.
    """
    if n_features < 2:
        raise BookError(f"with {n_features} features there is nothing to tell apart; give at least 2")
    found = {}
    for code in itertools.product((0, 1), repeat=n_features):
        states = (sum(code), n_features - sum(code))
        found[sum(code)] = sum(size / n_features * math.log(size) for size in states if size)
    return pd.DataFrame({"answers_to": list(found), "loss": list(found.values())}).sort_values("answers_to", ignore_index=True)


def _check(n_features: int) -> None:
    if n_features not in PHASES:
        raise BookError(f"closed forms are known for 2 and 3 features here, not for {n_features}")
