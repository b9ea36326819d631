"""Do two models learn the same features? Correlations of activations between dictionaries of different models.

Source: Bricken et al. 2023, "Universality".
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor

from sae_lib.errors import BookError
from sae_lib.features import Moments, encode_columns, logit_matrix
from sae_lib.metrics import check_fits, context_batches
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

_SPARSE_BELOW = 0.01
"""Share of non-zero activations under which a sparse product is the faster one on a CPU."""


@torch.inference_mode()
def best_match(
    model_a: OneLayerTransformer,
    sae_a: SparseAutoencoder | None,
    model_b: OneLayerTransformer,
    sae_b: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    batch_contexts: int | None = None,
) -> pd.DataFrame:
    """For every feature of A, the feature of B whose activations correlate with it most, over identical tokens.

        pearson_ij = (mean f_i g_j - mean f_i * mean g_j) / (deviation f_i * deviation g_j)

    All pairs are computed, in one pass and in memory of d_a x d_b numbers.

    Args:
        model_a: the first model.
        sae_a: its dictionary; None compares its neurons.
        model_b: the second model, with the same tokenizer.
        sae_b: its dictionary; None compares its neurons.
        tokens: token ids that both models read.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Returns:
        One row for each feature of A: `feature` (`neuron` if `sae_a` is None), `match` (index in B) and
        `pearson`. A feature that never varies on these tokens has match -1 and pearson nan, so that a median
        leaves it out.

    Source: Bricken et al. 2023, "Universality" (median best match 0.72 for features, 0.46 for neurons,
    on 40,960,000 tokens).
    """
    width_a, width_b = _width(model_a, sae_a), _width(model_b, sae_b)
    moments_a, moments_b = Moments(width_a, model_a.device), Moments(width_b, model_a.device)
    products = torch.zeros(width_a, width_b, dtype=torch.float64, device=model_a.device)
    for rows in context_batches(tokens, max(width_a, width_b), batch_contexts):
        acts_a = _activations(model_a, sae_a, tokens[rows])
        acts_b = _activations(model_b, sae_b, tokens[rows]).to(acts_a.device)
        moments_a.add(acts_a)
        moments_b.add(acts_b)
        products += _products(acts_a, acts_b)

    # In place from here on: one such matrix is the largest thing in memory.
    pearson = products.div_(moments_a.n_tokens).addr_(moments_a.mean, moments_b.mean, alpha=-1)
    pearson.div_(moments_a.deviation[:, None]).div_(moments_b.deviation).nan_to_num_(nan=-torch.inf)
    found, match = pearson.max(1)
    known = found.isfinite()
    return pd.DataFrame(
        {
            "neuron" if sae_a is None else "feature": np.arange(width_a),
            "match": torch.where(known, match, -1).cpu().numpy(),
            "pearson": torch.where(known, found.clamp(-1, 1), torch.nan).cpu().numpy(),
        }
    )


@torch.inference_mode()
def pair_similarities(
    model_a: OneLayerTransformer,
    sae_a: SparseAutoencoder,
    model_b: OneLayerTransformer,
    sae_b: SparseAutoencoder,
    pairs: Int[np.ndarray, "pair 2"],
    tokens: Int[Tensor, "context pos"],
    batch_contexts: int | None = None,
) -> pd.DataFrame:
    """Three similarities of given pairs of features: of activations, of logit weights, and of attributions.

        attribution of feature i at token t:  f_i(token t) * v_i(token t+1),   v_i its logit weights

    Args:
        model_a: the first model.
        sae_a: its dictionary.
        model_b: the second model, with the same tokenizer.
        sae_b: its dictionary.
        pairs: a feature of A and a feature of B in each row.
        tokens: token ids that both models read, at least 2 a context.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Returns:
        One row a pair: `feature`, `match`, and the Pearson correlations `activation`, `logit`, `attribution`
        (nan where one side does not vary).

    Raises:
        BookError: a pair names a feature that is not there, or the contexts are too short.

    Source: Bricken et al. 2023, "Universality" (logit-weight and attribution similarity).
    """
    check_fits(model_a, sae_a)
    check_fits(model_b, sae_b)
    if len(pairs) == 0 or pairs.min() < 0 or (pairs.max(0) >= [len(sae_a.W_dec), len(sae_b.W_dec)]).any():
        raise BookError("the pairs are none or name a feature that is in neither dictionary; take them from best_match")
    if tokens.shape[1] < 2:
        raise BookError("attributions need contexts of at least 2 tokens; give longer contexts")
    sides = [
        (model, sae, torch.as_tensor(pairs[:, side].copy(), device=model.device))
        for side, (model, sae) in enumerate([(model_a, sae_a), (model_b, sae_b)])
    ]
    weights = [_median_free(logit_matrix(model, sae.W_dec[chosen])) for model, sae, chosen in sides]

    home = model_a.device
    activation, attribution = _PairMoments(len(pairs), home), _PairMoments(len(pairs), home)
    for rows in context_batches(tokens, 16 * len(pairs), batch_contexts):
        acts, effects = [], []
        for (model, sae, chosen), weight in zip(sides, weights, strict=True):
            batch = tokens[rows].to(model.device)
            f = encode_columns(sae, model.begin(batch)[1], chosen)
            acts.append(f.flatten(0, 1).to(home))
            effects.append((f[:, :-1] * weight.T[batch[:, 1:]]).flatten(0, 1).to(home))
        activation.add(*acts)
        attribution.add(*effects)
    logit = _PairMoments(len(pairs), home)
    logit.add(*(weight.T.to(home) for weight in weights))
    return pd.DataFrame(
        {
            "feature": pairs[:, 0],
            "match": pairs[:, 1],
            "activation": activation.pearson().cpu().numpy(),
            "logit": logit.pearson().cpu().numpy(),
            "attribution": attribution.pearson().cpu().numpy(),
        }
    )


class _PairMoments:
    """Running sums for the correlation of two matrices column by column."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.a, self.b = Moments(width, device), Moments(width, device)
        self.product = torch.zeros(width, dtype=torch.float64, device=device)

    def add(self, a: Float[Tensor, "token width"], b: Float[Tensor, "token width"]) -> None:
        self.a.add(a)
        self.b.add(b)
        self.product += (a * b).sum(0)

    def pearson(self) -> Float[Tensor, " width"]:
        covariance = self.product / self.a.n_tokens - self.a.mean * self.b.mean
        return (covariance / (self.a.deviation * self.b.deviation)).clamp(-1, 1)


def _width(model: OneLayerTransformer, sae: SparseAutoencoder | None) -> int:
    if sae is None:
        return model.W_out.shape[0]
    check_fits(model, sae)
    return sae.W_dec.shape[0]


def _activations(
    model: OneLayerTransformer, sae: SparseAutoencoder | None, tokens: Int[Tensor, "context pos"]
) -> Float[Tensor, "token width"]:
    x = model.begin(tokens.to(model.device))[1].flatten(0, 1)
    return x if sae is None else sae.encode(x)


def _products(a: Float[Tensor, "token d_a"], b: Float[Tensor, "token d_b"]) -> Float[Tensor, "d_a d_b"]:
    """Sum over tokens of a_i b_j."""
    if a.device.type == "cpu" and a.count_nonzero() < _SPARSE_BELOW * a.numel():
        return torch.from_numpy((_sparse(a).T @ _sparse(b)).toarray())
    return a.T @ b


def _sparse(acts: Float[Tensor, "token width"]) -> csr_matrix:
    where = acts.nonzero(as_tuple=True)
    return csr_matrix((acts[where].numpy(), tuple(place.numpy() for place in where)), acts.shape)


def _median_free(weights: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """Rows shifted so that the median of each is 0, as `features.logit_weights` shifts one."""
    # `median` takes the lower of two middle values; `quantile` takes their mean, as pandas does.
    return weights - weights.quantile(0.5, dim=1, keepdim=True)
