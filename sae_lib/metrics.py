"""How good a dictionary is: sparsity, reconstruction, what the model loses, and how often each feature fires.

Every function that runs the model does so a few contexts at a time, so memory does not grow with the number of tokens.

Source: Bricken et al. 2023, "How much of the model does our interpretation explain?" and "Feature density histograms".
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_lib import bootstrap
from sae_lib.errors import BookError
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

Loss = float | Float[np.ndarray, " draw"]

ULTRALOW_FIRINGS = 100
"""The paper's cut for ultralow features, 1e-6 on its 100 million tokens, is this many firings."""

SPARSE_BELOW = 0.02
"""Share of non-zero activations under which a sparse product is the faster one on a CPU."""
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
    intervals: Mapping[str, tuple[float, float]] = {}
    """95% intervals over documents, by the name of the field; empty where no documents were named."""
    sums: Float[np.ndarray, "document 9"] | None = None
    """What these numbers are computed from, summed within each document; None where no documents were named."""


class TokenCosts(NamedTuple):
    """What each token contributes to an `Evaluation`; losses stand at the token that is read, and are 0 at a context's last."""

    n_active: Int64[np.ndarray, "context pos"]
    """Features that fire."""
    error: Float32[np.ndarray, "context pos"]
    """Squared error, summed over the elements of x."""
    variance: Float32[np.ndarray, "context pos"]
    """Squared distance of x to the mean of x, summed over its elements."""
    losses: Float32[np.ndarray, "arm context pos"]
    """Loss of predicting the next token, in nats: untouched, with x_hat, with zeros, with the mean of x."""
    fired: Int64[np.ndarray, " d_sae"]
    """Tokens on which each feature fires."""
    d_in: int
    """Elements of x."""


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


@torch.inference_mode()
def firings(model: OneLayerTransformer, sae: SparseAutoencoder, tokens: Int[Tensor, "context pos"]) -> Int64[np.ndarray, " d_sae"]:
    """On how many tokens each feature fires, counted a few contexts at a time.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.

    Raises:
        BookError: there are no tokens, or the dictionary reads another width than the model's MLP.

    Source: Bricken et al. 2023, "Feature density histograms".
    """
    check_fits(model, sae)
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.int64, device=model.device)
    for rows in context_batches(tokens, sae.cfg.d_sae):
        feature_acts = sae.encode(model.begin(tokens[rows].to(model.device))[1])
        # None is negative, and adding ones up in float32 is several times faster than counting what is above zero.
        fired += feature_acts.sign().sum((0, 1)).long()
    return fired.cpu().numpy()


def coordinates(sae: SparseAutoencoder, density: Float[np.ndarray, " d_sae"]) -> pd.DataFrame:
    """The three numbers by which the paper tells ultralow features from the others.

    Args:
        sae: the dictionary.
        density: share of tokens per feature, in [0, 1].

    Returns:
        One row a feature, by its number: `log10_density` (-inf if it never fired), `b_enc` (activation units) and `product`,
        the inner product of its encoder and decoder vectors.

    Source: Bricken et al. 2023, "The Ultralow Density Cluster".
    """
    product = (sae.W_enc.T * sae.W_dec).sum(1)
    with np.errstate(divide="ignore"):
        logs = np.log10(density)
    columns = {"log10_density": logs, "b_enc": sae.b_enc.detach().cpu().numpy(), "product": product.detach().cpu().numpy()}
    return pd.DataFrame(columns)


def separation(points: pd.DataFrame, inside: Bool[np.ndarray, " feature"], n_folds: int = 5) -> float:
    """How well a logistic fit on some coordinates tells the features inside a cluster from those outside.

        (share of the inside called inside + share of the outside called outside) / 2

    Each fold of the features is judged by a fit on the others, with both groups given the same weight.

    Args:
        points: coordinates, one row a feature, all finite.
        inside: which features belong to the cluster.
        n_folds: folds; each group needs as many features.

    Returns:
        A balanced accuracy in [0, 1]; 0.5 is as good as a coin.

    Raises:
        BookError: a group has fewer features than there are folds.

    Source: Bricken et al. 2023, "The Ultralow Density Cluster" (the coordinates).
    Differs: the paper shows a plot and fits nothing.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = int(inside.sum()), int((~inside).sum())
    if min(counts) < n_folds:
        raise BookError(f"{counts[0]} features inside and {counts[1]} outside cannot be cut into {n_folds} folds; look at more features")
    fit = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    return float(cross_val_score(fit, points.to_numpy(), inside, cv=folds, scoring="balanced_accuracy").mean())


@torch.inference_mode()
def top_tokens(
    model: OneLayerTransformer, sae: SparseAutoencoder, tokens: Int[Tensor, "context pos"], n: int = 20
) -> Int[Tensor, "feature n"]:
    """The token at the peak of each feature, in the contexts where the feature is strongest.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids, at least n contexts.
        n: contexts a feature.

    Returns:
        Token ids, strongest context first; -1 where the feature fires in fewer contexts.

    Raises:
        BookError: there are fewer contexts than asked for, or the dictionary reads another width than the model's MLP.

    Source: Bricken et al. 2023, appendix on the shuffled weights (the top group's 20 examples).
    Differs: one example a context.
    """
    check_fits(model, sae)
    if len(tokens) < n:
        raise BookError(f"{n} examples of a feature come from as many contexts, and there are {len(tokens)}; give more tokens")
    strongest = torch.zeros(n, sae.cfg.d_sae, device=model.device)
    found = torch.full((n, sae.cfg.d_sae), -1, device=model.device)
    for rows in context_batches(tokens, sae.cfg.d_sae):
        batch = tokens[rows].to(model.device)
        peak, pos = sae.encode(model.begin(batch)[1]).max(1)
        peak, token = torch.cat([strongest, peak]), torch.cat([found, batch.gather(1, pos)])
        strongest, order = peak.topk(n, dim=0)
        found = token.gather(0, order).masked_fill(strongest <= 0, -1)
    return found.T.cpu()


def single_token(top: Int[Tensor, "feature n"]) -> Bool[np.ndarray, " feature"]:
    """Which features have the same token at the peak of all their top examples.

    Args:
        top: of `top_tokens`; only features with all n examples should be asked about.

    Source: Bricken et al. 2023, appendix on the shuffled weights (the same top token in all 20 examples).
    """
    return ((top == top[:, :1]) & (top >= 0)).all(1).numpy()


def loss_recovered(loss_clean: Loss, loss_spliced: Loss, loss_ablated: Loss) -> Loss:
    """How much of what an ablation costs the reconstruction keeps; of one measurement or of many.

        (loss_ablated - loss_spliced) / (loss_ablated - loss_clean)

    Args:
        loss_clean: loss of the untouched model, in nats.
        loss_spliced: loss with the reconstruction in place, in nats.
        loss_ablated: loss with the baseline in place, in nats.

    Returns:
        1 for no harm, 0 for as bad as the baseline, negative for worse; nan where the baseline costs nothing.

    Source: Bricken et al. 2023, "How much of the model does our interpretation explain?".
    """
    gap = np.asarray(loss_ablated - loss_clean)
    return np.divide(loss_ablated - loss_spliced, gap, out=np.full(gap.shape, np.nan), where=gap != 0)[()]


def evaluate(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    batch_contexts: int | None = None,
    document: Int[np.ndarray, "context pos"] | None = None,
) -> Evaluation:
    """Measure a dictionary on tokens: sparsity, reconstruction, and the model's loss with it spliced in.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids, at least 2 a context.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.
        document: which document each token belongs to; with it come intervals over documents.

    Returns:
        An `Evaluation`; losses are means over predicted tokens, all else over all tokens.

    Raises:
        BookError: there are no tokens, or the dictionary reads another width than the model's MLP.

    Source: Bricken et al. 2023, "How much of the model does our interpretation explain?".
    Differs: measured on the tokens given (the book gives held-out ones, the paper used training data);
    mean ablation is added beside the paper's zero ablation, and intervals over documents.
    """
    costs = token_costs(model, sae, tokens, batch_contexts)
    density = torch.from_numpy(costs.fired).double() / tokens.numel()
    everything = np.zeros(costs.error.shape, dtype=np.int64)
    measured = {name: float(value[0]) for name, value in _measures(_sums(costs, everything), costs.d_in).items()}
    sums = None if document is None else _sums(costs, document)
    known = {} if sums is None else {"intervals": _intervals(sums, costs.d_in), "sums": sums}
    return Evaluation(**measured, density=density, n_tokens=tokens.numel(), **known)


def gain(evaluation: Evaluation, other: Evaluation, n: int = 1_000, seed: int = 0) -> tuple[float, float, float]:
    """How much more of the loss one dictionary recovers than another on the same text, with its 95% interval over documents.

        loss_recovered of the first less loss_recovered of the second, both from the same documents in each draw

    Args:
        evaluation: of `evaluate`, with documents.
        other: the same of another dictionary on the same tokens.
        n: draws.
        seed: of the draws.

    Returns:
        Difference, lower and upper end.

    Raises:
        BookError: one of the two was measured without documents, or on others.

    Source: ours (departure D33; the paper gives no intervals).
    """
    if evaluation.sums is None or other.sums is None or len(evaluation.sums) != len(other.sums):
        raise BookError("the two evaluations are not of the same documents; evaluate both on the same tokens and name the documents")

    def difference(totals: Float[np.ndarray, "draw 18"]) -> Float[np.ndarray, " draw"]:
        # The width of x does not enter into losses.
        ours, theirs = (_measures(part, 1)["loss_recovered"] for part in np.split(totals, 2, axis=1))
        return ours - theirs

    sums = np.concatenate([evaluation.sums, other.sums], axis=1)
    return float(difference(sums.sum(0, keepdims=True))[0]), *bootstrap.interval(difference, sums, n, seed=seed)


@torch.inference_mode()
def token_costs(
    model: OneLayerTransformer, sae: SparseAutoencoder, tokens: Int[Tensor, "context pos"], batch_contexts: int | None = None
) -> TokenCosts:
    """What `evaluate` averages, token by token, so that it can be averaged over kinds of token and over documents.

    Four forward passes share one beginning: untouched, with x_hat for x, with zeros for x, with the mean of x for x.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids, at least 2 a context.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Raises:
        BookError: as `evaluate`.

    Source: Bricken et al. 2023, "How much of the model does our interpretation explain?".
    """
    check_fits(model, sae)
    if tokens.shape[1] < 2:
        raise BookError("the loss needs contexts of at least 2 tokens; give longer contexts")
    # Logits, their log-softmax and copies are alive at once: a quarter of a batch each.
    width = 4 * max(sae.W_dec.shape[0], model.W_U.shape[1])
    mean = _mean_activation(model, tokens, batch_contexts, width)
    n_active = np.zeros(tokens.shape, dtype=np.int64)
    error, variance = (np.zeros(tokens.shape, dtype=np.float32) for _ in range(2))
    losses = np.zeros((4, *tokens.shape), dtype=np.float32)
    fired = torch.zeros(sae.W_dec.shape[0], dtype=torch.int64, device=model.device)
    for rows in context_batches(tokens, width, batch_contexts):
        batch = tokens[rows].to(model.device)
        resid_mid, x = model.begin(batch)
        feature_acts = sae.encode(x).flatten(0, 1)
        # So few features fire that walking them takes a tenth of the time of a dense product and dense counts.
        token, feature = feature_acts.nonzero(as_tuple=True)
        n_at = torch.bincount(token, minlength=len(feature_acts))
        strength = feature_acts[token, feature]
        x_hat = sae.b_dec + embedding_bag(feature, sae.W_dec, n_at.cumsum(0) - n_at, mode="sum", per_sample_weights=strength)
        x_hat = x_hat.view_as(x)
        fired += torch.bincount(feature, minlength=len(fired))
        n_active[rows] = n_at.view(batch.shape).cpu()
        error[rows] = (x - x_hat).square().sum(-1).cpu()
        variance[rows] = (x - mean).square().sum(-1).cpu()
        for arm, replacement in enumerate((x, x_hat, torch.zeros_like(x), mean.expand_as(x))):
            losses[arm, rows, :-1] = model.token_loss(model.finish(resid_mid, replacement), batch).cpu()
    return TokenCosts(n_active, error, variance, losses, fired.cpu().numpy(), mean.numel())


def intervals(costs: TokenCosts, document: Int[np.ndarray, "..."], n: int = 1_000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """The 95% interval of each number of an `Evaluation`, over documents drawn anew.

    Args:
        costs: of `token_costs`.
        document: which document each token belongs to.
        n: draws.
        seed: of the draws.

    Raises:
        BookError: the documents do not go with the tokens.

    Source: ours (departure D33; the paper gives no intervals).
    """
    return _intervals(_sums(costs, document), costs.d_in, n, seed)


def _intervals(sums: Float[np.ndarray, "document 9"], d_in: int, n: int = 1_000, seed: int = 0) -> dict[str, tuple[float, float]]:
    names = list(_measures(sums, d_in))
    return {name: bootstrap.interval(lambda totals, name=name: _measures(totals, d_in)[name], sums, n, seed=seed) for name in names}


def by_kind(
    costs: TokenCosts, kinds: Mapping[str, Bool[np.ndarray, "context pos"]], document: Int[np.ndarray, "context pos"]
) -> pd.DataFrame:
    """Where the error of a dictionary lies: the numbers of an `Evaluation` over the tokens of each kind.

    Args:
        costs: of `token_costs`.
        kinds: which tokens are of a kind, by its name; kinds may overlap.
        document: which document each token belongs to.

    Returns:
        One row a kind: `kind`, `tokens` (share of all), `error` (share of the whole squared error), `l0`,
        `explained_variance`, `added` (loss with x_hat less the untouched loss, in nats a token), and `low` and `high`, the ends
        of the 95% interval of `added`.

    Raises:
        BookError: there is no kind, or one has no tokens or another shape than the tokens.

    Source: ours.
    """
    if not kinds:
        raise BookError("by_kind was given no kind of token; name one at least")
    whole = costs.error.sum(dtype=np.float64)
    rows = []
    for name, chosen in kinds.items():
        if chosen.shape != costs.error.shape or not chosen.any():
            raise BookError(f"the kind {name!r} names {chosen.sum()} of {chosen.shape} tokens; {costs.error.shape} were measured")
        sums = _sums(costs, document, chosen)
        found = {key: float(value[0]) for key, value in _measures(sums.sum(0, keepdims=True), costs.d_in).items()}
        low, high = bootstrap.interval(_added, sums)
        rows.append(
            {"kind": name, "tokens": chosen.mean(), "error": costs.error[chosen].sum(dtype=np.float64) / whole}
            | {key: found[key] for key in ("l0", "explained_variance")}
            | {"added": found["loss_spliced"] - found["loss_clean"], "low": low, "high": high}
        )
    return pd.DataFrame(rows)


def _sums(
    costs: TokenCosts, document: Int[np.ndarray, "..."], chosen: Bool[np.ndarray, "context pos"] | None = None
) -> Float[np.ndarray, "document 9"]:
    """Of each document: tokens, predictions, active features, squared error, variance, and the four losses; of all tokens or some."""
    if document.shape != costs.error.shape:
        raise BookError(
            f"documents of {document.shape} tokens do not go with {costs.error.shape} measured ones; give those of the same contexts"
        )
    if chosen is None:
        chosen = np.ones(costs.error.shape, dtype=bool)
    predicted = np.broadcast_to(np.arange(chosen.shape[1]) < chosen.shape[1] - 1, chosen.shape)
    columns = [np.ones(chosen.shape), predicted, costs.n_active, costs.error, costs.variance, *costs.losses]
    return bootstrap.sums(document[chosen], np.stack([column[chosen] for column in columns], axis=-1))


def _measures(totals: Float[np.ndarray, "draw 9"], d_in: int) -> dict[str, Float[np.ndarray, " draw"]]:
    """The numbers of an `Evaluation` from the columns of `_sums`, added up."""
    n, predicted, active, error, variance, *losses = totals.T
    with np.errstate(divide="ignore", invalid="ignore"):
        clean, spliced, zero, mean = (loss / predicted for loss in losses)
        return {
            "l0": active / n,
            "mse": error / (n * d_in),
            "explained_variance": 1 - error / variance,
            "loss_clean": clean,
            "loss_spliced": spliced,
            "loss_zero": zero,
            "loss_mean": mean,
            "loss_recovered": loss_recovered(clean, spliced, zero),
            "loss_recovered_mean": loss_recovered(clean, spliced, mean),
        }


def _added(totals: Float[np.ndarray, "draw 9"]) -> Float[np.ndarray, " draw"]:
    """What the dictionary adds to the loss, from the columns of `_sums`."""
    return (totals[:, 6] - totals[:, 5]) / totals[:, 1]


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
    """Raise a BookError unless the dictionary reads as many activations as the model's MLP has, and, where both are known, this model's."""
    d_mlp, d_in = model.W_out.shape[0], sae.W_dec.shape[1]
    if d_in != d_mlp:
        raise BookError(f"the dictionary reads {d_in} activations but the model's MLP has {d_mlp}; use the dictionary of this model")
    if sae.lineage and model.lineage and sae.lineage != model.lineage:
        raise BookError(f"the dictionary was trained on model {sae.lineage} and this is {model.lineage}; use the dictionary of this model")


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
