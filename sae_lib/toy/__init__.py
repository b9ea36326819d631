"""Toy models of superposition: what they are asked, thousands of them trained at once, and what their weights look like.

Source: Elhage et al. 2022, "Toy Models of Superposition"; Henighan et al. 2023, "Superposition, Memorization, and Double Descent".
"""

from sae_lib.toy.computing import (
    Motif,
    answers,
    contributions,
    motifs,
    neuron_counts,
    polysemantic,
)
from sae_lib.toy.geometry import (
    ORTHOGONAL,
    POLYTOPES,
    attack_damage,
    collapsed_pairs,
    components,
    density_of_first_overlap,
    dimensions_per_feature,
    feature_dimensionality,
    nearest_polytope,
    overlap,
    pair_cosines,
    represented,
    swaps,
)
from sae_lib.toy.models import (
    ToyFit,
    fit,
    history,
    loss_and_gradients,
    run,
    toy_loss,
)
from sae_lib.toy.points import (
    PointFit,
    bump,
    draw_points,
    fit_points,
)
from sae_lib.toy.tasks import (
    ToyTask,
    draw,
)
from sae_lib.toy.theory import (
    PHASES,
    boundary,
    code_losses,
    phase,
    phase_losses,
)

__all__ = [
    "ORTHOGONAL",
    "PHASES",
    "POLYTOPES",
    "Motif",
    "PointFit",
    "ToyFit",
    "ToyTask",
    "answers",
    "attack_damage",
    "boundary",
    "bump",
    "code_losses",
    "collapsed_pairs",
    "components",
    "contributions",
    "density_of_first_overlap",
    "dimensions_per_feature",
    "draw",
    "draw_points",
    "feature_dimensionality",
    "fit",
    "fit_points",
    "history",
    "loss_and_gradients",
    "motifs",
    "nearest_polytope",
    "neuron_counts",
    "overlap",
    "pair_cosines",
    "phase",
    "phase_losses",
    "polysemantic",
    "represented",
    "run",
    "swaps",
    "toy_loss",
]
