"""Checks of the chapter on geometry."""

from collections.abc import Callable
from typing import Any

import torch

SLACK = 1e-3
"""How far an answer may lie from the right one, relative or absolute."""

PAIR_DENSITY = 0.6
"""Density at which the pair of the exercise is to beat the closed form."""

_GRID = 200
"""Sizes of a present feature at which the exact loss of a pair is summed."""


def _boundary(answer: Any) -> str | None:
    """Density below which both features are kept, where the first is the less important one."""
    importances = (1.0, 1.5, 3.0, 10.0)
    if _same(answer, importances, lambda i: 4 / (5 + 2 * i)):
        return None
    wrong = {
        "that is the boundary for importances below 1, where the last feature is the one to forget; above 1 it is the first": (
            lambda i: 4 * i / (2 + 5 * i)
        ),
        "that is right for equal importance alone; the last feature's importance weighs the error of the pair": lambda _: 4 / 7,
        "a forgotten feature is answered with its mean, which saves p²/4; you have charged it p/3": lambda i: 2 / (1 + i),
        "you have turned the fraction over; a density lies between 0 and 1": lambda i: (5 + 2 * i) / 4,
    }
    for sentence, formula in wrong.items():
        if _same(answer, importances, formula):
            return sentence
    if abs(float(answer(1.0)) - 4 / 7) > SLACK:
        return f"at importance 1 both boundaries must meet at 4/7, and yours gives {float(answer(1.0)):.3g}"
    return "at importance 1 it is right; above 1 set p/3 - p²/4, the cost of forgetting the first, equal to (1 + I) p²/6"


def _bipyramid(answer: Any) -> str | None:
    """Dimensionalities of the five corners of a triangular bipyramid, in any order."""
    share = torch.as_tensor(answer, dtype=torch.float64).flatten().sort().values
    if len(share) != 5:
        return f"a triangular bipyramid has five corners, two poles and three on the equator; you gave {len(share)} numbers"
    if _close(share, [1 / 2, 1 / 2, 2 / 3, 2 / 3, 2 / 3]):
        return None
    if _close(share, [3 / 5] * 5):
        return "3/5 is the mean; the corners are not alike, since a pole meets only its opposite and a corner of the equator two others"
    if _close(share, [1 / 2, 1 / 2, 1 / 2, 2 / 3, 2 / 3]):
        return "the poles and the equator have changed places: two corners form a digon and three a triangle"
    if _close(share, [2 / 5] * 5):
        return "2/5 belongs to a pentagon, five corners in two dimensions; here there are three"
    if _close(share, [2 / 3, 2 / 3, 2 / 3, 1.0, 1.0]):
        return "each pole has the other in its sum: opposite directions have a cosine of -1, and its square counts"
    if abs(float(share.sum()) - 3) > SLACK:
        return f"the shares of all corners must sum to the number of dimensions, 3, and yours sum to {float(share.sum()):.3g}"
    return "the sum is right; now take the poles and the equator apart, they are at right angles"


def _pair(answer: Any) -> str | None:
    """A weight and a bias with which a pair beats both closed forms."""
    w, b = (float(value) for value in answer)
    p = PAIR_DENSITY
    forget, unit, loss = p / 3 - p**2 / 4, p**2 / 3, pair_loss(w, b, p)
    if loss < forget:
        return None
    if abs(abs(w) - 1) < SLACK and abs(b) < SLACK:
        return f"that is the pair of the closed form itself, which costs {unit:.4g}; give it a bias and shorten the arrows"
    if b < 0:
        return f"a negative bias takes from what comes out, and shadows are cut off already; it costs {loss:.4g}, try a positive one"
    if b < SLACK:
        return f"without a bias this pair costs {loss:.4g}; an absent or shadowed feature should be answered with something"
    if abs(w) > 1 + SLACK:
        return f"longer arrows throw longer shadows; this costs {loss:.4g}, try a weight below 1"
    return f"this pair costs {loss:.4g} and forgetting one {forget:.4g}; move one of the two numbers and watch the loss"


def pair_loss(w: float, b: float, density: float) -> float:
    """What two equally important features cost that share one dimension with weights w and -w and a bias.

        x'_1 = ReLU(w^2 (x_1 - x_2) + b),   x'_2 = ReLU(w^2 (x_2 - x_1) + b)

    Args:
        w: length of both arrows.
        b: bias of both outputs.
        density: p of both features, 0 to 1.

    Returns:
        Expected squared error, 0 or more, summed over all inputs by the midpoint rule; no draw is involved.

    Source: Elhage et al. 2022, "Superposition as a Phase Change" (the task).
    Differs: the closed form takes w = 1 and b = 0.
    """
    size = (torch.arange(_GRID, dtype=torch.float64) + 0.5) / _GRID

    def cost(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one - (w**2 * (one - other) + b).relu()).square().mean()

    none, p = torch.zeros(1, dtype=torch.float64), density
    first = (1 - p) ** 2 * cost(none, none) + p * (1 - p) * (cost(size, none) + cost(none, size)) + p**2 * cost(size[:, None], size)
    return float(2 * first)


def _triangle(answer: Any) -> str | None:
    """Loss of three rare features that form a triangle, divided by the squared density."""
    c = float(answer)
    wrong = {
        1 / 2: "that is without the ReLU: where the shadow is larger than the feature, it cannot push the output below 0",
        1 / 3: "that is the price of a digon; in a triangle the cosine is -1/2 and there are three pairs",
        1 / 16: "that is the error of one feature beside one other; three features have two others each",
        3 / 16: "in each of the three pairs both features err, so there are six errors to add up",
        1 / 4: "an error counts squared: half of a shadow is a quarter of its square, and the ReLU takes some of that away",
    }
    if abs(c - 3 / 8) <= SLACK:
        return None
    for value, sentence in wrong.items():
        if abs(c - value) <= SLACK:
            return sentence
    return f"you say {c:.4g}; find the mean of (x - ReLU(x - y/2))² for sizes x and y between 0 and 1, and multiply by six"


def _same(answer: Callable[..., float], cases: Any, right: Callable[..., float]) -> bool:
    """Whether two formulas agree; losses of rare features are small, so nearness is relative."""
    pairs = [(float(answer(*case)), right(*case)) for case in (each if isinstance(each, tuple) else (each,) for each in cases)]
    return all(abs(given - wanted) <= SLACK * abs(wanted) for given, wanted in pairs)


def _close(share: torch.Tensor, wanted: list[float]) -> bool:
    # Two decimals are enough to tell one fraction from another.
    return bool((share - torch.tensor(wanted, dtype=torch.float64)).abs().max() < 0.006)


CHECKS: dict[str, Callable[[Any], str | None]] = {
    "geometry-boundary": _boundary,
    "geometry-bipyramid": _bipyramid,
    "geometry-pair": _pair,
    "geometry-triangle": _triangle,
}
