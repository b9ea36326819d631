"""What the weights of a toy model look like: lengths, overlaps, shares of a dimension, polytopes, and how easily it is fooled.

Functions of weight matrices [*model, d_hidden, n_features] whose column W_i is the direction of feature i.

Source: Elhage et al. 2022, "The Geometry of Superposition" and "Relationship to Adversarial Robustness".
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from sae_lib.errors import BookError
from sae_lib.toy.models import ToyFit, run
from sae_lib.toy.tasks import ToyTask, draw

REPRESENTED = 0.5
"""Norm of its column above which a feature counts as represented."""

ORTHOGONAL = 0.05
"""Overlap with all other features up to which a feature counts as having a direction of its own."""

COLLAPSED = 0.25
"""A pair of features has collapsed where the model keeps less than this length of their unit difference."""

POLYTOPES = {
    "own dimension": (1, 1),
    "digon": (2, 1),
    "triangle": (3, 2),
    "tetrahedron": (4, 3),
    "pentagon": (5, 2),
    "square antiprism": (8, 3),
}
"""The figures of the paper: corners and dimensions; every corner has dimensions / corners of a dimension."""


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


def dimensions_per_feature(W: Float[Tensor, "*model d_hidden n_features"]) -> Float[Tensor, "*model"]:
    """Hidden dimensions for each feature that the model represents.

        D* = d_hidden / |W|_F^2

    Source: Elhage et al. 2022, "The Geometry of Superposition" (the squared Frobenius norm counts represented features).
    """
    return W.shape[-2] / W.square().sum((-2, -1)).clamp_min(1e-12)


def _projections(W: Float[Tensor, "*model d_hidden n_features"]) -> Float[Tensor, "*model n_features n_features"]:
    direction = W / W.norm(dim=-2, keepdim=True).clamp_min(1e-12)
    return (direction.mT @ W).square()


def density_of_first_overlap(
    densities: Sequence[float], W: Float[Tensor, "density d_hidden n_features"], above: float = ORTHOGONAL
) -> Float[Tensor, " n_features"]:
    """The highest density at which each represented feature shares its direction; 0 for one that never does.

    Args:
        densities: of the models.
        W: one model a density.
        above: overlap that counts as sharing.

    Source: ours, for the claim that the most important feature is the last to lose orthogonality.
    """
    shares = represented(W) & (overlap(W) > above)
    return (shares * torch.tensor(densities)[:, None]).amax(0)


def pair_cosines(W: Float[Tensor, "*model d_hidden n_features"]) -> Float[Tensor, "*model pair"]:
    """Cosine of the angle between the two features of each pair of neighbours: 0 and 1, 2 and 3, and so on.

    Source: Elhage et al. 2022, "Correlated and Anticorrelated Features".
    """
    return torch.cosine_similarity(W[..., 0::2], W[..., 1::2], dim=-2)


def collapsed_pairs(W: Float[Tensor, "*model d_hidden n_features"]) -> Bool[Tensor, "*model pair"]:
    """The pairs of neighbours of which the model keeps the sum alone, as principal component analysis would.

        |W_a - W_b| / sqrt(2) < 1/4

    Source: Elhage et al. 2022, "Local Almost-Orthogonal Bases" (collapse to the principal component; the threshold is ours).
    """
    return (W[..., 0::2] - W[..., 1::2]).norm(dim=-2) / math.sqrt(2) < COLLAPSED


class Component(NamedTuple):
    """Features of one model that interfere with each other, and with no other feature."""

    features: tuple[int, ...]
    """Their numbers."""
    dimensions: float
    """The sum of their dimensionalities."""
    figure: str
    """The polytope they form, a key of POLYTOPES, or "other"."""


def components(W: Float[Tensor, "d_hidden n_features"], edge: float = 0.15, tolerance: float = 0.02) -> list[Component]:
    """The interference graph of one model, cut into its connected parts.

    Two represented features are joined where |W_i . W_j| is above `edge`. In a tegum product the parts lie in spaces at
    right angles, and each part is a polytope by itself.

    Args:
        W: one model.
        edge: interference that joins two features.
        tolerance: how far every corner's dimensionality may lie from the polytope's.

    Returns:
        The parts, the largest first.

    Source: Elhage et al. 2022, "The Geometry of Superposition" (the interference graph).
    """
    kept = torch.where(represented(W))[0]
    directions = W[:, kept]
    joined = (directions.mT @ directions).abs() > edge
    n, label = connected_components(joined.numpy(), directed=False)
    share = feature_dimensionality(W)[kept].numpy()
    parts = [np.flatnonzero(label == part) for part in range(n)]
    found = [Component(tuple(kept[part].tolist()), float(share[part].sum()), nearest_polytope(share[part], tolerance)) for part in parts]
    return sorted(found, key=lambda part: (-len(part.features), part.features))


def nearest_polytope(share: Float[np.ndarray, " corner"], tolerance: float = 0.02) -> str:
    """The polytope with this number of corners whose corners all have about these dimensionalities.

    Args:
        share: dimensionality of each corner.
        tolerance: how far each may lie from the polytope's.

    Returns:
        A key of POLYTOPES, or "other".

    Source: Elhage et al. 2022, "The Geometry of Superposition".
    """
    for name, (corners, dimensions) in POLYTOPES.items():
        if len(share) == corners and (abs(share - dimensions / corners) <= tolerance).all():
            return name
    return "other"


class Swap(NamedTuple):
    """One jump of dimensionality during training. Places are states of the history."""

    start: int
    """Where it begins."""
    steepest: int
    """Where the dimensionality changes fastest."""
    loss_steepest: int
    """Where the loss falls fastest meanwhile."""
    drop: float
    """By what share the loss falls over it."""

    def has_drop(self, within: int, least: float = 0.01) -> bool:
        """Whether the loss falls by a hundredth or more, and fastest within so many states of the jump."""
        return self.drop >= least and abs(self.loss_steepest - self.steepest) <= within


def swaps(dimensionality: Float[Tensor, "state n_features"], loss: Float[Tensor, " state"], jump: float = 0.25) -> list[Swap]:
    """Where in training some feature's dimensionality jumps from one level to another, and what the loss does meanwhile.

    A jump is a change by more than `jump` within a tenth of training, after the first tenth, in which every feature is on
    the move. Rates of change are taken over a hundredth of training.

    Args:
        dimensionality: D_i of every feature at every state of one model.
        loss: at every state, on the same inputs.
        jump: change of D_i; from a digon's 1/2 to nothing is 1/2.

    Raises:
        BookError: the history has fewer than 100 states.

    Source: Elhage et al. 2022, "Superposition and Learning Dynamics" (the thresholds are ours).
    """
    n = len(loss)
    if n < 100:
        raise BookError(f"a history of {n} states is too coarse for jumps within a hundredth of training; keep at least 100")
    tenth, width = n // 10, max(1, n // 100)
    moved = (dimensionality[tenth:] - dimensionality[:-tenth]).abs()
    fall = (loss[:-width] / loss[width:].clamp_min(1e-30)).log()
    found: list[Swap] = []
    for start in torch.where(moved.amax(-1) > jump)[0].tolist():
        if start < tenth or (found and start < found[-1].start + 2 * tenth):
            continue
        # The first window to see the jump may hold only its first half.
        during = slice(start, min(start + 2 * tenth, n - width))
        track = dimensionality[:, moved[start].argmax()]
        speed = (track[width:] - track[:-width]).abs()[during]
        drop = 1 - float(loss[during.stop] / loss[start])
        found.append(Swap(start, start + int(speed.argmax()), start + int(fall[during].argmax()), drop))
    return found


def attack_damage(
    task: ToyTask, model: ToyFit, strength: float = 0.1, n_inputs: int = 2_048, seed: int = 0
) -> Float[Tensor, " experiment"]:
    """How much the best small change of an input raises the error, in units of the squared change.

    The change that moves output i most lies along the i-th column of W.T @ W, so for every input and for the feature that
    is largest in it we step along that column, forwards and backwards, and keep the worse:

        damage = mean over x of max over sign of (E(x, x + sign * e * u_i) - E(x, x)) / e^2,   u_i = W.T W_i / |W.T W_i|

    where E(x, z) is the summed squared difference between x and what the model makes of z, and e is `strength` times the
    mean norm of an input. A model without superposition has a damage of 1: it passes the change through.

    Args:
        task: how the inputs are drawn.
        model: one model an experiment.
        strength: length of the change, as a share of the mean norm of the inputs.
        n_inputs: inputs an experiment.
        seed: of the inputs.

    Source: Elhage et al. 2022, "Relationship to Adversarial Robustness" (an L2 attack found analytically).
    Differs: only the largest feature of an input is attacked, and only where the model represents it.
    """
    x = draw(task, n_inputs, torch.Generator().manual_seed(seed))
    length = strength * x.norm(dim=-1).mean(-1)[:, None, None]
    kept = represented(model.W)
    largest = torch.where(kept[:, None], x, -1.0).argmax(-1)
    columns = model.W.mT @ model.W
    along = torch.nn.functional.normalize(columns, dim=-1).take_along_dim(largest[..., None], 1)
    before = (run(task, x, model) - x).square().sum(-1)
    after = [(run(task, x + sign * length * along, model) - x).square().sum(-1) for sign in (-1, 1)]
    rise = (torch.maximum(*after) - before) / length[..., 0].square()
    return rise.mean(-1)
