"""What happens when a feature is changed while the model runs: taken off, held at a value, and what is written then.

    x' = x + sum over the features i that are changed of (a_i - f_i(x)) * W_dec[i]

x are the MLP activations, f_i(x) the feature's activation and a_i the one it is given: 0 to take it off. What the
dictionary does not explain of x stays as it is. With no dictionary the units are neurons, and x'_j = a_j.

A one-layer model reads its MLP's output at one position only, to predict the token after it. So changing a feature on the
whole context changes each prediction by what the change at that position alone does, and positions where the
feature does not fire need no computing. The functions here are exact, not linearised.

Source: Bricken et al. 2023, "Feature Downstream Effects" and the case studies' ablations and samples.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor

from sae_lib import bootstrap
from sae_lib.errors import BookError
from sae_lib.evidence import at_places, check_places, distinct, unit_acts, units_of
from sae_lib.features import activations_of, encoder_of, logit_matrix, neuron_activations
from sae_lib.metrics import check_fits
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import KeyValueCache, OneLayerTransformer

STRONG = 1 / 3
"""Share of a feature's maximum above which it does not barely fire."""
_WEIGHTS = 2**22
"""Logit weights that are held at once, in elements."""


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
    ratio_strong: float
    """The same over the places where the activation exceeds `STRONG` of its maximum."""
    other_size: float
    """Mean size of the change of those other tokens, in nats: gains and losses do not cancel as they do in `other`."""
    low: float
    """Lower end of the 95% interval of `ratio`, by bootstrap over documents."""
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
    width, kind = (x.shape[-1], "neuron") if sae is None else (len(sae.W_dec), "feature")
    for unit, act in pinned.items():
        if not 0 <= unit < width:
            raise BookError(f"there is no {kind} {unit}; they run from 0 to {width - 1}")
        if not (math.isfinite(act) and act >= 0):
            raise BookError(f"{kind} {unit} cannot be held at {act}; an activation is a finite number, 0 or more")
    units = torch.tensor(list(pinned), dtype=torch.long, device=x.device)
    wanted = torch.tensor(list(pinned.values()), dtype=x.dtype, device=x.device)
    if sae is None:
        held = x.clone()
        held[..., units] = wanted
        return held
    return x + (wanted - encoder_of(sae, units)(x)) @ sae.W_dec[units]


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
    return _effects(model, sae, tokens, feature)[1]


@torch.inference_mode()
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
    units_of(model, sae, features.ravel())
    check_places(tokens, context, pos)
    flat_units, rows, columns = (np.ascontiguousarray(part).ravel() for part in (features, context, pos))
    asked = np.flatnonzero((rows >= 0) & (columns < tokens.shape[1] - 1))
    first, same = distinct(flat_units[asked], rows[asked], columns[asked], tokens.shape[1])
    known, found = asked[first], np.zeros(flat_units.shape, np.float32)
    for which, resid_mid, x in at_places(model, tokens, rows[known], columns[known]):
        place = known[which]
        units = torch.from_numpy(flat_units[place]).to(x.device)
        acts = unit_acts(sae, x, units)
        fires = acts > 0
        place, x, resid_mid, units, acts = place[fires.cpu().numpy()], x[fires], resid_mid[fires], units[fires], acts[fires]
        ablated = x.scatter(1, units[:, None], 0.0) if sae is None else x - acts[:, None] * sae.W_dec[units]
        following = tokens[rows[place], columns[place] + 1].to(x.device)
        # Many features fire at one place; what the model says there with all of them is asked once.
        _, *found_once = np.unique(rows[place] * tokens.shape[1] + columns[place], return_index=True, return_inverse=True)
        once, again = (torch.from_numpy(numbers).to(x.device) for numbers in found_once)
        untouched = _log_likelihood(model, resid_mid[once], x[once], following[once])[again]
        change = _log_likelihood(model, resid_mid, ablated, following) - untouched
        found[place] = change.float().cpu().numpy()
    found[asked] = found[known][same]
    return found.reshape(features.shape)


def ablation_by_class(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    feature: int,
    in_class: Bool[np.ndarray, "..."],
    document: Int[np.ndarray, "..."],
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
    for name, given in (("in_class", in_class), ("document", document)):
        if given.shape != tuple(tokens.shape):
            raise BookError(f"{name} has shape {given.shape} but the tokens have {tuple(tokens.shape)}; compute it on the same tokens")
    if n_intervals < 1:
        raise BookError(f"{n_intervals} intervals cannot be told apart; ask for at least 1")
    acts, effects = _effects(model, sae, tokens, feature)
    fires = np.zeros(acts.shape, bool)
    fires[:, :-1] = acts[:, :-1] > 0
    follows = np.roll(in_class, -1, axis=1)[fires]
    acts, effects, document = acts[fires].astype(np.float64), effects[fires].astype(np.float64), document[fires]

    edges = np.linspace(0, acts.max(initial=0) or 1, n_intervals + 1)
    interval = (np.searchsorted(edges, acts, side="left") - 1).clip(0, n_intervals - 1)
    table = pd.DataFrame({"interval": np.arange(n_intervals), "left": edges[:-1], "right": edges[1:]})
    for name, member in (("in_class", follows), ("other", ~follows)):
        count = np.bincount(interval[member], minlength=n_intervals)
        total = np.bincount(interval[member], weights=effects[member], minlength=n_intervals)
        table[f"n_{name}"], table[name] = count, np.where(count > 0, total / np.maximum(count, 1), np.nan)
    columns = np.stack([effects * follows, follows, effects * ~follows, ~follows], axis=-1)
    low, high = bootstrap.interval(_ratio, bootstrap.sums(document, columns), seed=seed) if len(acts) else (np.nan, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside, count, other, n_other = columns.sum(0)
        strong = columns[acts > STRONG * acts.max(initial=0)]
        ratio, ratio_strong = (float(_ratio(part.sum(0, keepdims=True))[0]) for part in (columns, strong))
        size = float(np.abs(effects[~follows]).sum() / n_other)
        return Ablation(table, float(inside / count), float(other / n_other), ratio, ratio_strong, size, low, high)


@torch.inference_mode()
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
    _check_text(model, sae, tokens)
    tokens = tokens.to(model.device)
    resid_mid, x = model.begin(tokens)
    logits = model.finish(resid_mid, clamp(sae, x, pinned))
    before, after = model.token_loss(model.finish(resid_mid, x), tokens), model.token_loss(logits, tokens)
    effects = F.pad(before - after, (0, 1)).float().cpu().numpy()
    return Steered(logits, effects, float(before.double().mean()), float(after.double().mean()))


@torch.inference_mode()
def sample(
    model: OneLayerTransformer,
    prompt: Sequence[int] | Int[Tensor, " prompt"],
    n_samples: int = 200,
    n_tokens: int = 50,
    sae: SparseAutoencoder | None = None,
    pinned: Mapping[int, float] | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> Int64[np.ndarray, "sample written"]:
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
    ids = torch.as_tensor(prompt, dtype=torch.long)
    if len(ids) < 1 or n_samples < 1 or n_tokens < 1:
        raise BookError(f"{n_samples} samples of {n_tokens} tokens after {len(ids)} of a prompt: all three must be at least 1")
    if len(ids) + n_tokens > model.cfg.n_ctx:
        raise BookError(
            f"a prompt of {len(ids)} tokens and {n_tokens} more are longer than the model's context of {model.cfg.n_ctx}; ask for fewer"
        )
    if not 0 <= int(ids.min()) <= int(ids.max()) < model.cfg.d_vocab:
        raise BookError(f"the prompt's token ids must lie in 0..{model.cfg.d_vocab - 1}; they come from another tokenizer")
    if not (math.isfinite(temperature) and temperature > 0):
        raise BookError(f"the temperature is {temperature}; give a finite number above 0, such as 1")
    if sae is not None:
        check_fits(model, sae)
    generator = torch.Generator().manual_seed(seed)
    written, cache = ids.repeat(n_samples, 1), KeyValueCache()
    new = written
    for _ in range(n_tokens):
        resid_mid, x = model.begin(new.to(model.device), cache)
        # In one layer the MLP at a position reaches no other, so what is pinned before the last one cannot matter.
        logits = model.finish(resid_mid[:, -1:], clamp(sae, x[:, -1:], pinned or {}))[:, 0]
        # One number a sample, looked up among the sums of the probabilities; `multinomial` draws one for every token there is.
        sums = torch.softmax(logits.double() / temperature, -1).cpu().cumsum(-1)
        drawn = torch.rand(n_samples, 1, generator=generator, dtype=torch.float64) * sums[:, -1:]
        new = torch.searchsorted(sums, drawn, right=True).clamp_max(sums.shape[1] - 1)
        written = torch.cat([written, new], 1)
    return written.numpy()


@torch.inference_mode()
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
    if k < 1 or n_bins < 1:
        raise BookError(f"{k} tokens at either end and {n_bins} bins: both must be at least 1")
    units = torch.from_numpy(units_of(model, sae, features)).to(model.device)
    counted = np.ones(model.cfg.d_vocab, bool)
    if unigram_counts is not None:
        counted[: len(unigram_counts)] = unigram_counts[: len(counted)] >= min_count
        counted[len(unigram_counts) :] = False
    if not counted.any():
        raise BookError(f"no token occurs {min_count} times; lower min_count")
    ids = torch.from_numpy(np.flatnonzero(counted)).to(model.device)
    rows = torch.eye(model.W_out.shape[0], device=model.device) if sae is None else sae.W_dec
    parts = []
    for part in units.split(max(1, _WEIGHTS // model.cfg.d_vocab)):
        weights = logit_matrix(model, rows[part])[:, ids]
        weights -= weights.quantile(0.5, dim=1, keepdim=True)
        top, bottom = (weights.topk(min(k, len(ids)), dim=1, largest=largest) for largest in (True, False))
        low, high = bottom.values[:, :1], top.values[:, :1]
        bins = ((weights - low) / (high - low).clamp_min(1e-30) * n_bins).long().clamp(0, n_bins - 1)
        bins += n_bins * torch.arange(len(part), device=bins.device)[:, None]
        histogram = bins.flatten().bincount(minlength=n_bins * len(part)).view(-1, n_bins)
        parts.append((ids[top.indices], top.values, ids[bottom.indices], bottom.values, histogram))
    return LogitEffects(*(torch.cat(columns).cpu().numpy() for columns in zip(*parts, strict=True)))


def _log_likelihood(
    model: OneLayerTransformer, resid_mid: Float[Tensor, "place d_model"], x: Float[Tensor, "place d_mlp"], targets: Int[Tensor, " place"]
) -> Float[Tensor, " place"]:
    """Log-likelihood of one token at each place, in nats."""
    return -F.cross_entropy(model.finish(resid_mid[None], x[None])[0], targets, reduction="none")


def _effects(
    model: OneLayerTransformer, sae: SparseAutoencoder | None, tokens: Int[Tensor, "context pos"], feature: int
) -> tuple[Float32[np.ndarray, "context pos"], Float32[np.ndarray, "context pos"]]:
    """The feature's activations, and the effects of taking it off."""
    _check_text(model, sae, tokens)
    acts = neuron_activations(model, tokens, [feature]) if sae is None else activations_of(model, sae, tokens, [feature])
    context, pos = np.nonzero(acts[..., 0] > 0)
    effects = np.zeros(tuple(tokens.shape), np.float32)
    effects[context, pos] = place_effects(model, sae, tokens, np.full(len(pos), feature), context, pos)
    return acts[..., 0], effects


def _check_text(model: OneLayerTransformer, sae: SparseAutoencoder | None, tokens: Int[Tensor, "context pos"]) -> None:
    if sae is not None:
        check_fits(model, sae)
    if tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise BookError(f"tokens of shape {tuple(tokens.shape)} predict nothing; give at least one context of at least 2 tokens")


def _ratio(totals: Float[np.ndarray, "draw 4"]) -> Float[np.ndarray, " draw"]:
    """-(mean change in the class) / |mean change of the others|, from summed effects and counts of both."""
    inside, n_inside, other, n_other = totals.T
    return -(inside / n_inside) / np.abs(other / n_other)
