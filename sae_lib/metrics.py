"""How good a dictionary is: sparsity, reconstruction, what the model loses, and how often each feature fires.

Every function that runs the model does so a few contexts at a time, so memory does not grow with the number of tokens.

Source: Bricken et al. 2023, "How much of the model does our interpretation explain?" and "Feature density histograms".
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lib.errors import BookError
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

ULTRALOW_FIRINGS = 100
"""The paper's cut for ultralow features, 1e-6 on its 100 million tokens, is this many firings."""

_BATCH_ELEMENTS = 2**25
"""Largest activation matrix of one batch, in elements (128 MiB of float32)."""


class Evaluation(NamedTuple):
    """What replacing the MLP activations by their reconstruction costs, and how the dictionary fires."""

    l0: float
    """Active features per token."""
    mse: float
    """Squared error averaged over tokens and over the elements of x, in activation units squared."""
    explained_variance: float
    """Share of the variance of x that x_hat accounts for, at most 1."""
    loss_clean: float
    """Loss of the untouched model, in nats per token."""
    loss_spliced: float
    """Loss with x_hat in place of the MLP activations, in nats per token."""
    loss_zero: float
    """Loss with the MLP activations set to zero, in nats per token."""
    loss_mean: float
    """Loss with the MLP activations set to their mean over the same tokens, in nats per token."""
    loss_recovered: float
    """1 where the reconstruction costs nothing, 0 where it is as bad as zeros; the paper's score."""
    loss_recovered_mean: float
    """The same with the mean activation as the baseline."""
    density: Float[Tensor, " d_sae"]
    """Share of the tokens on which each feature fires (float64, on the CPU)."""
    n_tokens: int
    """Tokens that were measured."""


def l0(feature_acts: Float[Tensor, "... d_sae"]) -> Float[Tensor, ""]:
    """Mean number of active features per token.

        l0 = mean over tokens of #{i : f_i > 0}

    Args:
        feature_acts: non-negative activations f, any unit.

    Returns:
        A value in [0, d_sae]; nan for an empty batch.

    Source: Bricken et al. 2023, "Advice for Training Sparse Autoencoders" (the L0 norm as a proxy to watch).
    """
    return (feature_acts > 0).sum(-1).double().mean()


def explained_variance(x: Float[Tensor, "... d_in"], x_hat: Float[Tensor, "... d_in"]) -> Float[Tensor, ""]:
    """Share of the variance of the activations that the reconstruction accounts for.

        1 - sum over tokens of |x - x_hat|^2 / sum over tokens of |x - mean x|^2

    Args:
        x: activations.
        x_hat: their reconstruction, in the same unit.

    Returns:
        At most 1; 0 is as good as the mean; nan or -inf where x does not vary.

    Source: ours; the paper reports the loss only.
    """
    x, x_hat = x.flatten(0, -2).double(), x_hat.flatten(0, -2).double()
    return 1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()


def feature_density(feature_acts: Float[Tensor, "... d_sae"]) -> Float[Tensor, " d_sae"]:
    """Share of the tokens on which each feature is active.

        density_i = mean over tokens of [f_i > 0]

    Args:
        feature_acts: non-negative activations f, any unit.

    Returns:
        Values in [0, 1]; exactly 0 marks a feature that is dead on these tokens.

    Source: Bricken et al. 2023, "Feature density histograms".
    """
    return (feature_acts > 0).flatten(0, -2).double().mean(0)


def log_density_histogram(density: Float[Tensor, " d_sae"], n_tokens: int, n_bins: int = 40) -> pd.DataFrame:
    """Histogram of the log10 density of the features that fired.

    Args:
        density: share of tokens per feature, in [0, 1].
        n_tokens: tokens that the density was measured on; a density below 1 / n_tokens cannot be seen.
        n_bins: bins of equal width in log10, from 1 / n_tokens to 1.

    Returns:
        One row a bin: `left` and `right` edges (log10 of density) and `count`. Dead features are in no bin.

    Source: Bricken et al. 2023, "Feature density histograms".
    """
    _check_count(n_tokens)
    if n_bins < 1:
        raise BookError(f"a histogram of {n_bins} bins cannot be drawn; ask for at least 1")
    values = density.detach().cpu().double().numpy()
    lowest = -np.log10(n_tokens) if n_tokens > 1 else -1.0
    # A single firing lies exactly on the first edge; rounding must not push it out of the histogram.
    logs = np.clip(np.log10(values[values > 0]), lowest, 0.0)
    count, edges = np.histogram(logs, bins=n_bins, range=(lowest, 0.0))
    return pd.DataFrame({"left": edges[:-1], "right": edges[1:], "count": count})


def dead_share(density: Float[Tensor, " d_sae"]) -> float:
    """Share of the features that never fired on the tokens of `density`.

    Args:
        density: share of tokens per feature, in [0, 1].

    Returns:
        A value in [0, 1]. It falls as more tokens are looked at, so it is stated with their number.

    Source: Bricken et al. 2023, "Feature density histograms" (168 of 4,096 in A/1, on 100 million tokens).
    """
    return float((density == 0).double().mean())


def ultralow_cut(n_tokens: int, firings: int = ULTRALOW_FIRINGS) -> float:
    """The density below which a feature counts as ultralow on so many tokens.

        cut = 100 firings / n_tokens

    Args:
        n_tokens: tokens that the density was measured on.
        firings: the cut as a number of firings.

    Source: Bricken et al. 2023, "The Ultralow Density Cluster" (1e-6 on 100 million tokens).
    Differs: the paper fixes the density; we fix the number of firings that it meant there.
    """
    _check_count(n_tokens)
    return firings / n_tokens


def ultralow_share(density: Float[Tensor, " d_sae"], n_tokens: int, firings: int = ULTRALOW_FIRINGS) -> float:
    """Share of all features that fired, but fewer than `firings` times.

    Args:
        density: share of tokens per feature, in [0, 1].
        n_tokens: tokens that the density was measured on.
        firings: the cut as a number of firings.

    Returns:
        A value in [0, 1]; dead features are not counted as ultralow but stay in the denominator.

    Source: Bricken et al. 2023, "The Ultralow Density Cluster" (292 of 4,096 in A/1).
    Differs: the cut is `ultralow_cut`; the paper also looks at encoder bias and encoder-decoder alignment.
    """
    # Half a firing of slack: a density is a rounded quotient, and exactly `firings` firings is not below the cut.
    below = density < ultralow_cut(n_tokens, firings) - 0.5 / n_tokens
    return float(((density > 0) & below).double().mean())


def loss_recovered(loss_clean: float, loss_spliced: float, loss_ablated: float) -> float:
    """How much of what an ablation costs the reconstruction keeps.

        (loss_ablated - loss_spliced) / (loss_ablated - loss_clean)

    Args:
        loss_clean: loss of the untouched model, in nats.
        loss_spliced: loss with the reconstruction in place, in nats.
        loss_ablated: loss with the baseline in place, in nats.

    Returns:
        1 for no harm, 0 for as bad as the baseline, negative for worse; nan where the baseline costs nothing.

    Source: Bricken et al. 2023, "How much of the model does our interpretation explain?".
    """
    gap = loss_ablated - loss_clean
    return (loss_ablated - loss_spliced) / gap if gap else float("nan")


@torch.inference_mode()
def evaluate(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    batch_contexts: int | None = None,
) -> Evaluation:
    """Measure a dictionary on tokens: sparsity, reconstruction, and the model's loss with it spliced in.

    Four forward passes share one beginning: untouched, with x_hat for x, with zeros for x, with the mean of x for x.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids, at least 2 a context.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Returns:
        An `Evaluation`; losses are means over predicted tokens, all else over all tokens.

    Raises:
        BookError: there are no tokens, or the dictionary reads another width than the model's MLP.

    Source: Bricken et al. 2023, "How much of the model does our interpretation explain?".
    Differs: measured on the tokens given (the book gives held-out ones, the paper used training data);
    mean ablation is added beside the paper's zero ablation.
    """
    check_fits(model, sae)
    if tokens.shape[1] < 2:
        raise BookError("the loss needs contexts of at least 2 tokens; give longer contexts")
    # Logits, their log-softmax and copies are alive at once: a quarter of a batch each.
    width = 4 * max(sae.W_dec.shape[0], model.W_U.shape[1])
    mean, n_tokens = _mean_activation(model, tokens, batch_contexts, width), tokens.numel()

    losses = torch.zeros(4, dtype=torch.float64, device=model.device)
    fired = torch.zeros(sae.W_dec.shape[0], dtype=torch.float64, device=model.device)
    error = torch.zeros((), dtype=torch.float64, device=model.device)
    variance = torch.zeros((), dtype=torch.float64, device=model.device)
    for rows in context_batches(tokens, width, batch_contexts):
        batch = tokens[rows].to(model.device)
        resid_mid, x = model.begin(batch)
        feature_acts = sae.encode(x)
        x_hat = sae.decode(feature_acts)
        fired += (feature_acts > 0).flatten(0, 1).sum(0)
        error += (x - x_hat).square().sum(dtype=torch.float64)
        variance += (x - mean).square().sum(dtype=torch.float64)
        for arm, replacement in enumerate((x, x_hat, torch.zeros_like(x), mean.expand_as(x))):
            losses[arm] += model.token_loss(model.finish(resid_mid, replacement), batch).sum(dtype=torch.float64)

    clean, spliced, zero, mean_ablated = (losses / (n_tokens - tokens.shape[0])).tolist()
    density = (fired / n_tokens).cpu()
    return Evaluation(
        l0=float(density.sum()),
        mse=float(error) / (n_tokens * mean.numel()),
        explained_variance=float(1 - error / variance),
        loss_clean=clean,
        loss_spliced=spliced,
        loss_zero=zero,
        loss_mean=mean_ablated,
        loss_recovered=loss_recovered(clean, spliced, zero),
        loss_recovered_mean=loss_recovered(clean, spliced, mean_ablated),
        density=density,
        n_tokens=n_tokens,
    )


def context_batches(tokens: Int[Tensor, "context pos"], width: int, batch_contexts: int | None = None) -> Iterator[slice]:
    """Slices over the contexts, each small enough that an activation matrix of `width` columns stays near 128 MiB.

    Args:
        tokens: token ids.
        width: columns of the widest matrix that a batch will make.
        batch_contexts: contexts a batch, if the caller knows better.

    Raises:
        BookError: there are no tokens, or `batch_contexts` is below 1.
    """
    if tokens.numel() == 0:
        raise BookError("there are no tokens to measure on; give at least one context")
    if batch_contexts is None:
        batch_contexts = max(1, _BATCH_ELEMENTS // (width * tokens.shape[1]))
    if batch_contexts < 1:
        raise BookError(f"batch_contexts is {batch_contexts}; it must be at least 1")
    return (slice(start, start + batch_contexts) for start in range(0, tokens.shape[0], batch_contexts))


def check_fits(model: OneLayerTransformer, sae: SparseAutoencoder) -> None:
    """Raise a BookError unless the dictionary reads as many activations as the model's MLP has neurons."""
    d_mlp, d_in = model.W_out.shape[0], sae.W_dec.shape[1]
    if d_in != d_mlp:
        raise BookError(f"the dictionary reads {d_in} activations but the model's MLP has {d_mlp}; use the dictionary of this model")


def _mean_activation(
    model: OneLayerTransformer, tokens: Int[Tensor, "context pos"], batch_contexts: int | None, width: int
) -> Float[Tensor, " d_mlp"]:
    total = torch.zeros(model.W_out.shape[0], dtype=torch.float64, device=model.device)
    for rows in context_batches(tokens, width, batch_contexts):
        total += model.begin(tokens[rows].to(model.device))[1].sum((0, 1), dtype=torch.float64)
    return (total / tokens.numel()).float()


def _check_count(n_tokens: int) -> None:
    if n_tokens < 1:
        raise BookError(f"n_tokens is {n_tokens}; a density is measured on at least 1 token")
