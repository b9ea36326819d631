"""Checks of the chapter on what superposition is."""

import math
from collections.abc import Callable
from typing import Any

import torch

from sae_lib import toy


def _turn(answer: Callable[[float], float]) -> str | None:
    for importance in (1.0, 0.5, 0.1):
        given, right = float(answer(importance)), float(toy.boundary(torch.tensor(importance)))
        if math.isclose(given, right, rel_tol=1e-3):
            continue
        if math.isclose(given, 4 / 7, rel_tol=1e-3):
            return f"4/7 is right for equal importance only; at I = {importance:g} the pair is judged by an error of (1 + I) p^2 / 6."
        if math.isclose(given, 2 * importance / (1 + importance), rel_tol=1e-3):
            return "you left out the p^2/4: a model that forgets answers with the mean, and that is better than answering with nothing."
        if given > 1 or given <= 0:
            return f"at I = {importance:g} you give {given:.3g}, which is no density between 0 and 1."
        return f"at I = {importance:g} you give {given:.4g}; there the two losses are not equal."
    return None


def _polygon(answer: Callable[[int], float]) -> str | None:
    for n in (5, 3, 8):
        given = float(answer(n))
        if math.isclose(given, 2 / n, rel_tol=1e-3):
            continue
        if math.isclose(given, 1 / n, rel_tol=1e-3):
            return f"1/{n} shares out one dimension, but the {n} vectors span two."
        if math.isclose(given, n / 2, rel_tol=1e-3):
            return "that is the denominator, the sum of the squared cosines; the dimensionality is 1 divided by it."
        return f"for n = {n} you give {given:.4g}; the {n} dimensionalities would sum to {n * given:.3g} and not to 2."
    return None


def _code(answer: Any) -> str | None:
    features, nats = answer
    losses = toy.code_losses(6).set_index("answers_to")["loss"]
    if features not in losses.index:
        return f"the neuron can answer to 0 to 6 features, not to {features}."
    if features != 3:
        return f"a neuron that answers to {features} leaves {losses[features]:.3f} nats; another number leaves fewer."
    if math.isclose(nats, math.log2(3), rel_tol=1e-3):
        return "three is right, but log2(3) is in bits; give nats, the natural logarithm."
    if not math.isclose(nats, math.log(3), rel_tol=1e-3):
        return f"three is right, but {nats:.3g} nats are not what is left when three features share either state."
    return None


def _density(answer: Any) -> str | None:
    density = torch.as_tensor(answer, dtype=torch.float32)
    if tuple(density.shape) != (1, 20):
        return f"the densities have shape {list(density.shape)}; one experiment with twenty features has [1, 20]."
    if not ((density > 0) & (density <= 1)).all():
        return "every density must lie above 0 and at most at 1."
    ratio = density[0, 1:] / density[0, :-1]
    if torch.allclose(ratio, torch.ones(19)):
        return "all your features are equally dense, so nothing tells them apart."
    if (ratio > 1).any():
        return "the densities should fall from the first feature to the last, as the importances did."
    if not torch.allclose(ratio, torch.full((19,), 0.7), atol=0.01):
        return f"each feature should be 0.7 times as dense as the one before; yours fall by {ratio.mean().item():.2f} on average."
    return None


CHECKS: dict[str, Callable[[Any], str | None]] = {
    "superposition-turn": _turn,
    "superposition-polygon": _polygon,
    "superposition-code": _code,
    "superposition-density": _density,
}
