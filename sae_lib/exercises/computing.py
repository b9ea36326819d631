"""Checks of the chapter on computing."""

from collections.abc import Callable
from typing import Any

import torch

SLACK = 1e-3
"""How far an answer may lie from the right one, relative or absolute."""


def _absolute(answer: Any) -> str | None:
    """Weights in and out of two neurons that compute an absolute value."""
    weights = torch.as_tensor(answer, dtype=torch.float64)
    if weights.shape != (2, 2):
        return f"the answer has the shape {list(weights.shape)}; give a pair of lists, what two neurons read and what they write"
    reads, writes = weights
    if not weights.isfinite().all():
        return "a weight is not a finite number"
    if reads[0] * reads[1] >= 0:
        return "both neurons read with the same sign, or one reads nothing, so for half of all inputs both are silent and 0 comes out"
    x = torch.linspace(-1, 1, 201, dtype=torch.float64)
    said = ((x[:, None] * reads).relu() @ writes).relu()
    if torch.allclose(said, x.abs(), atol=SLACK):
        return None
    if (writes < 0).any():
        return "a neuron writes with a negative sign; the last ReLU cuts that off, so one half of the inputs gives 0"
    if torch.allclose(said, said[-1] * x.abs(), atol=SLACK):
        return f"that is {said[-1]:.3g} times the absolute value; what a neuron reads times what it writes must have size 1"
    return f"an input of 1 gives {said[-1]:.3g} and one of -1 gives {said[0]:.3g}; for each neuron reads times writes must have size 1"


def _polygon(answer: Any) -> str | None:
    """Share of a dimension of each corner of a regular polygon."""
    cases = [(n_points, length) for n_points in (3, 5, 12) for length in (1.0, 2.5)]
    if _same(answer, cases, lambda n, _: 2 / n):
        return None
    if _same(answer, cases, lambda n, _: 2 / (n - 2)):
        return "the sum runs over all points, the point itself included; you have left its own square out"
    if _same(answer, cases, lambda n, _: 1 / n):
        return "that would be right on a line; in the plane the shares of all points sum to 2"
    if _same(answer, cases, lambda n, _: n / 2):
        return "you have turned the fraction over; more points must leave less for each"
    if abs(answer(5, 1.0) - answer(5, 2.5)) > SLACK:
        return "the length must cancel: it stands squared above and below, and the hat makes the other vector a unit vector"
    return f"three points of length 1 get {answer(3, 1.0):.3g} by your function; draw them, and add up the squares of three projections"


def _recall(answer: Any) -> str | None:
    """Share of present features that a dictionary with an L1 norm lets fire."""
    cases = [(0.01, 20, 1.0), (0.03, 20, 0.9), (0.002, 512, 1.0), (0.004, 100, 0.5)]
    if not _same(answer, cases, _kept(lambda l1, d, w: l1 * d / (2 * w))):
        wrong = {
            "the squared error is averaged over d_in elements, which makes it that many times weaker; you have left d_in out": (
                lambda l1, d, w: l1 / (2 * w)
            ),
            "the derivative of a square brings a factor of 2, which is missing": lambda l1, d, w: l1 * d / w,
            "the direction's length is missing: what has to pass the threshold is w times x": lambda l1, d, w: l1 * d / 2,
        }
        for sentence, threshold in wrong.items():
            if _same(answer, cases, _kept(threshold)):
                return sentence
        if _same(answer, cases, lambda l1, d, w: l1 * d / (2 * w)):
            return "that is the smallest size that fires; the recall is the share of sizes above it"
        return f"for a coefficient of 0.01, 20 elements and length 1 you say {answer(0.01, 20, 1.0):.3g}; one size in ten is lost there"
    if abs(answer(0.3, 20, 1.0)) > SLACK:
        return "where the coefficient is so large that nothing fires, the recall is 0; yours leaves the range from 0 to 1"
    return None


def _present(answer: Any) -> str | None:
    """Features present in an input that is not empty."""
    cases = [(40, 0.03), (100, 0.1), (5, 0.5), (1_000, 1e-4)]
    if _same(answer, cases, lambda n, p: n * p / (1 - (1 - p) ** n)):
        return None
    if _same(answer, cases, lambda n, p: n * p):
        return "that is the mean over all inputs, empty ones included; they are left out here"
    if _same(answer, cases, lambda n, p: 1 - (1 - p) ** n):
        return "that is the chance that an input is not empty; divide the mean over all inputs by it"
    if _same(answer, cases, lambda n, p: 1 + (n - 1) * p):
        return "that holds for inputs in which one given feature is present; here any of them may be the one that is"
    if answer(1_000, 1e-6) < 1 - SLACK:
        return "an input that is not empty holds at least one feature, and for rare features your function gives less"
    return f"for 5 features of density 0.5 you say {answer(5, 0.5):.4g}; list the 31 inputs that are not empty and count"


def _kept(threshold: Callable[..., float]) -> Callable[..., float]:
    return lambda *case: max(0.0, 1 - threshold(*case))


def _same(answer: Callable[..., float], cases: list[tuple], right: Callable[..., float]) -> bool:
    return all(abs(float(answer(*case)) - right(*case)) <= SLACK * max(1.0, abs(right(*case))) for case in cases)


CHECKS: dict[str, Callable[[Any], str | None]] = {
    "computing-absolute": _absolute,
    "computing-polygon": _polygon,
    "computing-recall": _recall,
    "computing-present": _present,
}
