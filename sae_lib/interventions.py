"""What happens when a feature is changed while the model runs: taken off, held at a value, and what is written then.

    x' = x + sum over the features i that are changed of (a_i - f_i(x)) * W_dec[i]

x are the MLP activations, f_i(x) the feature's activation and a_i the one it is given: 0 to take it off. What the
dictionary does not explain of x stays as it is. With no dictionary the units are neurons, and x'_j = a_j.

A one-layer model reads its MLP's output at one position only, to predict the token after it. So changing a feature on the
whole context changes each prediction by what the change at that position alone does, and positions where the
feature does not fire need no computing. The functions here are exact, not linearised.

Source: Bricken et al. 2023, "Feature Downstream Effects" and the case studies' ablations and samples.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor

from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer


class Ablation(NamedTuple):
    """What taking a feature off does to tokens of a class and to others."""

    intervals: pd.DataFrame
    """One row for each interval of the feature's activation, weakest first: `interval`, `left`, `right` (activation),
    `n_in_class` and `n_other` (next tokens counted), `in_class` and `other` (mean change of their log-likelihood, nats)."""
    in_class: float
    """Mean change of log-likelihood of next tokens of the class where the feature fires, in nats; negative where it helped."""
    other: float
    """The same of all other next tokens."""
    ratio: float
    """-in_class / |other|: how much more of its likelihood a token of the class loses than another gains or loses."""
    low: float
    """Lower end of the ratio's 95% interval, by bootstrap over documents."""
    high: float
    """Its upper end."""


class Steered(NamedTuple):
    """What clamping features does to the predictions on a text."""

    logits: Float[Tensor, "context pos d_vocab"]
    """Logits with the features clamped."""
    effects: Float32[np.ndarray, "context pos"]
    """Change of the log-likelihood of each actual next token, in nats; 0 at the last position, whose next token is not known."""
    loss_clean: float
    """Loss of the untouched model, in nats per token."""
    loss: float
    """Loss with the features clamped."""


class LogitEffects(NamedTuple):
    """The tokens that units make likelier and less likely, for many units at once."""

    top: Int64[np.ndarray, "unit k"]
    """Ids of the tokens with the largest logit weights, the largest first."""
    top_weight: Float32[np.ndarray, "unit k"]
    """Their weights, shifted so that the median over the counted tokens is 0."""
    bottom: Int64[np.ndarray, "unit k"]
    """Ids of the tokens with the smallest, the smallest first."""
    bottom_weight: Float32[np.ndarray, "unit k"]
    """Their weights."""
    histogram: Int64[np.ndarray, "unit bin"]
    """Counted tokens in equal bins from the smallest weight to the largest."""


def clamp(sae: SparseAutoencoder | None, x: Float[Tensor, "... d_mlp"], pinned: Mapping[int, float]) -> Float[Tensor, "... d_mlp"]:
    """MLP activations in which some features have the activation they are told to have, and nothing else changes.

        x' = x + sum over pinned i of (a_i - f_i(x)) * W_dec[i]

    Args:
        sae: the dictionary; None means that neurons are pinned.
        x: MLP activations.
        pinned: activation of each pinned feature or neuron, finite and not negative; 0 takes it off.

    Raises:
        BookError: there is no such feature, or its activation is negative or not finite.

    Source: Bricken et al. 2023, "Feature Downstream Effects".
    """
    raise NotImplementedError


def ablation_effects(
    model: OneLayerTransformer, sae: SparseAutoencoder | None, tokens: Int[Tensor, "context pos"], feature: int
) -> Float32[np.ndarray, "context pos"]:
    """Change of the log-likelihood of every actual next token when a feature is taken off on the whole context.

        effect[t] = log P(token t+1 | x - f_i(x) W_dec[i]) - log P(token t+1 | x)

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary; None takes off a neuron.
        tokens: token ids, at least 2 a context.
        feature: number of the feature (or neuron).

    Returns:
        Nats, negative where the feature helped the token that follows; 0 where it does not fire and at the last
        position, whose next token is not known. The effect on a token's own likelihood stands one position before it.

    Raises:
        BookError: there are no tokens, the dictionary reads another model, or there is no such feature.

    Source: Bricken et al. 2023, "Feature Downstream Effects" (ablation on the whole context, reconstruction error kept).
    """
    raise NotImplementedError


def place_effects(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    features: Int[np.ndarray, "*place"],
    context: Int[np.ndarray, "*place"],
    pos: Int[np.ndarray, "*place"],
) -> Float32[np.ndarray, "*place"]:
    """What taking a feature off at a place does to the log-likelihood of the token after it, at many places at once.

        effect = log P(token after the place | x - f_i(x) W_dec[i]) - log P(token after the place | x)

    Only the final LayerNorm and the unembedding run again, at these places. It equals `ablation_effects` there.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary; None takes off neurons.
        tokens: the token ids that the places lie in.
        features: number of the feature (or neuron) of each place.
        context: row of the tokens of each place; -1 stands for no place.
        pos: position in the row of each place.

    Returns:
        Nats; 0 where the feature does not fire, at last positions, and where there is no place. To underline token t by
        its own ablation effect, as the paper does, ask for the place t-1.

    Raises:
        BookError: a place lies outside the tokens, there is no such feature, or the dictionary reads another model.

    Source: Bricken et al. 2023, "Feature visualisation" (blue and red underlines).
    """
    raise NotImplementedError


def ablation_by_class(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    feature: int,
    in_class: Bool[np.ndarray, "context pos"],
    document: Int[np.ndarray, "context pos"],
    n_intervals: int = 11,
    seed: int = 0,
) -> Ablation:
    """Whom it hurts when a feature is taken off: next tokens of a class against others, by how strongly it fired.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary; None takes off a neuron.
        tokens: token ids, at least 2 a context.
        feature: number of the feature (or neuron).
        in_class: which tokens belong to the class; the next token's membership is what counts.
        document: number of the document of each token, as `lab.documents` gives it.
        n_intervals: equal intervals of the activation, from 0 to its largest on these tokens.
        seed: of the bootstrap.

    Returns:
        An `Ablation`, over the positions where the feature fires and the next token is known; means of nothing are nan.

    Raises:
        BookError: as `ablation_effects`, or `in_class` or `document` has another shape than the tokens.

    Source: Bricken et al. 2023, "Feature Downstream Effects" (ablating A/1/3450 hurts Arabic tokens).
    Differs: the paper shows examples; the table and its ratio are ours.
    """
    raise NotImplementedError


def steer(
    model: OneLayerTransformer, sae: SparseAutoencoder | None, tokens: Int[Tensor, "context pos"], pinned: Mapping[int, float]
) -> Steered:
    """Predictions on a text with features held at given activations on every token, reconstruction error kept.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary; None clamps neurons.
        tokens: token ids, at least 2 a context; few, since all logits are returned.
        pinned: activation of each clamped feature (or neuron).

    Returns:
        A `Steered`.

    Raises:
        BookError: as `clamp` and `ablation_effects`.

    Source: Bricken et al. 2023, "Feature Downstream Effects".
    """
    raise NotImplementedError


def sample(
    model: OneLayerTransformer,
    prompt: Sequence[int] | Int[Tensor, " pos"],
    n_samples: int = 200,
    n_tokens: int = 50,
    sae: SparseAutoencoder | None = None,
    pinned: Mapping[int, float] | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> Int64[np.ndarray, "sample pos"]:
    """Continuations of a prompt, while features are held at given activations at every position.

        next token ~ softmax(logits(x') / temperature),   x' as in `clamp`

    Args:
        model: the model whose MLP activations the dictionary reads.
        prompt: token ids, at least one, such as those of `1,2,3,4,5,6,7,8,9,10`.
        n_samples: continuations.
        n_tokens: tokens to write after the prompt.
        sae: the dictionary; None with `pinned` holds neurons.
        pinned: activation of each pinned feature (or neuron); None samples from the untouched model.
        temperature: above 0; 1 samples from the model as it is.
        seed: of the draws.

    Returns:
        Token ids, the prompt included: `sample[:, len(prompt):]` is what was written.

    Raises:
        BookError: the prompt is empty, holds an id beyond the vocabulary, or is with `n_tokens` longer than a context; a
        number is below 1; an activation is negative or not finite; there is no such feature.

    Source: Bricken et al. 2023, "Feature Downstream Effects" (pinned sampling from `1,2,3,4,5,6,7,8,9,10`).
    Differs: which positions are pinned is not said; we pin all of them, those of the prompt included (departure D22).
    """
    raise NotImplementedError


def logit_effects(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    features: Sequence[int] | None = None,
    unigram_counts: Int[np.ndarray, " d_vocab"] | None = None,
    min_count: int = 10,
    k: int = 10,
    n_bins: int = 40,
) -> LogitEffects:
    """The tokens that each feature makes likelier and less likely through the MLP's output, for many features at once.

    The weights are those of `features.logit_weights`.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary; None means neurons.
        features: their numbers; None means all.
        unigram_counts: occurrences of each token id; if given, tokens below `min_count` are left out.
        min_count: fewest occurrences a token needs.
        k: tokens at either end.
        n_bins: bins of the histogram.

    Returns:
        A `LogitEffects` with one row for each feature.

    Raises:
        BookError: there is no such feature, no token is common enough, or a number is below 1.

    Source: Bricken et al. 2023, "Feature Downstream Effects" (logit weights, median shifted to 0).
    """
    raise NotImplementedError
