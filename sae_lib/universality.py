"""Do two models learn the same features? Correlations of activations between dictionaries of different models.

Source: Bricken et al. 2023, "Universality".
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int, Int64
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from sae_lib import bootstrap
from sae_lib.errors import BookError
from sae_lib.evidence import Related
from sae_lib.features import Moments, encoder_of, logit_matrix
from sae_lib.metrics import SPARSE_BELOW, check_fits, context_batches
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

_TOKENS_A_PRODUCT = 2**16
"""Tokens whose activations a sparse product sums over; fewer would spend the time on adding products up."""
_BATCH_ELEMENTS = 2**21
"""Activations computed at a time: few enough that the steps after a product find them in the processor's cache."""


class PairSums(NamedTuple):
    """What the similarities of chosen pairs are computed from, kept apart for blocks of documents."""

    activation: Float64[np.ndarray, "block pair 6"]
    """Sums over the block's tokens of 1, x, y, x², y² and xy, where x and y are the activations of the two sides."""
    attribution: Float64[np.ndarray, "block pair 6"]
    """The same of the attributions, over the tokens whose next token is in the context."""
    logit: Float64[np.ndarray, " pair"]
    """Pearson correlation of the two sides' logit weights over the vocabulary."""

    def similarities(self) -> pd.DataFrame:
        """One row a pair: the correlations `activation`, `logit` and `attribution`, over all blocks; nan where a side does not vary."""
        activation, attribution = (_pearson(sums.sum(0)) for sums in (self.activation, self.attribution))
        return pd.DataFrame({"activation": activation, "logit": self.logit, "attribution": attribution})


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

    All pairs are computed, in one pass and in memory of d_a x d_b numbers (float64).

    Args:
        model_a: the first model.
        sae_a: its dictionary; None compares its neurons.
        model_b: the second model, with the same tokenizer; it may be the first one again.
        sae_b: its dictionary; None compares its neurons.
        tokens: token ids that both models read.
        batch_contexts: contexts a batch; None chooses so that a batch stays in the processor's cache.

    Returns:
        One row for each feature of A: `feature` (`neuron` if `sae_a` is None), `match` (index in B), `pearson`, and
        `firings` (tokens on which it is active). A feature that never varies on these tokens has match -1 and pearson
        nan, so that a median leaves it out.

    Raises:
        BookError: a dictionary does not belong to its model, or the models cannot read the same tokens.

    Source: Bricken et al. 2023, "Universality" (median best match 0.72 for features, 0.46 for neurons,
    on 40,960,000 tokens).
    """
    pearson, _, _, firings = _all_pairs(model_a, sae_a, model_b, sae_b, tokens, batch_contexts)
    found, match = pearson.max(1)
    known = found.isfinite()
    return pd.DataFrame(
        {
            "neuron" if sae_a is None else "feature": np.arange(len(match)),
            "match": torch.where(known, match, -1).cpu().numpy(),
            "pearson": torch.where(known, found.clamp(-1, 1), torch.nan).cpu().numpy(),
            "firings": firings.cpu().numpy(),
        }
    )


@torch.inference_mode()
def closest(
    model_a: OneLayerTransformer,
    sae_a: SparseAutoencoder | None,
    model_b: OneLayerTransformer,
    sae_b: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    k: int = 3,
    batch_contexts: int | None = None,
) -> Related:
    """For every feature of A, the features of B whose activations correlate with it most, over identical tokens.

        cosine_ij = mean f_i g_j / sqrt(mean f_i² * mean g_j²)

    Args:
        model_a: the first model.
        sae_a: its dictionary; None compares its neurons.
        model_b: the second model, with the same tokenizer. If both sides are the same, each leaves itself out.
        sae_b: its dictionary; None compares its neurons.
        tokens: token ids that both models read.
        k: how many of each.
        batch_contexts: contexts a batch; None chooses so that a batch stays in the processor's cache.

    Returns:
        A `Related` with one row for each feature of A; fewer columns if B has fewer features.

    Raises:
        BookError: a dictionary does not belong to its model, the models cannot read the same tokens, or k is below 1.

    Source: Bricken et al. 2023, the interface published beside the paper (three features of the other model, Pearson and cosine).
    """
    if k < 1:
        raise BookError(f"k is {k}; ask for at least 1")
    pearson, a, b, _ = _all_pairs(model_a, sae_a, model_b, sae_b, tokens, batch_contexts)
    if model_a is model_b and sae_a is sae_b:
        pearson.fill_diagonal_(-torch.inf)
    found, index = pearson.topk(min(k, pearson.shape[1]), dim=1)
    known = found.isfinite()
    products = found * a.deviation[:, None] * b.deviation[index] + a.mean[:, None] * b.mean[index]
    cosine = products / (a.squares[:, None] * b.squares[index]).sqrt() * a.n_tokens
    shown = (torch.where(known, values, torch.nan).float().cpu().numpy() for values in (found.clamp(-1, 1), cosine))
    return Related(torch.where(known, index, -1).cpu().numpy(), *shown)


def _all_pairs(
    model_a: OneLayerTransformer,
    sae_a: SparseAutoencoder | None,
    model_b: OneLayerTransformer,
    sae_b: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    batch_contexts: int | None,
) -> tuple[Float64[Tensor, "d_a d_b"], Moments, Moments, Int64[Tensor, " d_a"]]:
    """Correlations of all pairs (-inf where a side does not vary), both sides' moments, and how often each of A fires."""
    _check_sides(model_a, model_b)
    width_a, width_b = _width(model_a, sae_a), _width(model_b, sae_b)
    moments_a, moments_b = Moments(width_a, model_a.device), Moments(width_b, model_a.device)
    products, firings = _Products(width_a, width_b, model_a.device), torch.zeros(width_a, dtype=torch.int64, device=model_a.device)
    for rows in context_batches(tokens, max(width_a, width_b), batch_contexts or _batch(tokens, max(width_a, width_b))):
        acts_a = _activations(model_a, sae_a, tokens[rows])
        acts_b = _activations(model_b, sae_b, tokens[rows]).to(acts_a.device)
        moments_a.add(acts_a)
        moments_b.add(acts_b)
        products.add(acts_a, acts_b)
        firings += acts_a.sign().sum(0).long()

    # In place from here on: one such matrix is the largest thing in memory.
    pearson = products.total.div_(moments_a.n_tokens).addr_(moments_a.mean, moments_b.mean, alpha=-1)
    pearson.div_(moments_a.deviation[:, None]).div_(moments_b.deviation).nan_to_num_(nan=-torch.inf)
    return pearson, moments_a, moments_b, firings


@torch.inference_mode()
def pair_sums(
    model_a: OneLayerTransformer,
    sae_a: SparseAutoencoder | None,
    model_b: OneLayerTransformer,
    sae_b: SparseAutoencoder | None,
    pairs: Int[np.ndarray, "pair 2"],
    tokens: Int[Tensor, "context pos"],
    documents: Int[np.ndarray, "..."] | None = None,
    n_blocks: int = 40,
    batch_contexts: int | None = None,
    exchanged: Int[np.ndarray, " pair"] | None = None,
) -> PairSums:
    """What three similarities of given pairs need, summed within blocks of documents, in one pass.

        attribution of feature i at token t:  f_i(token t) * v_i(token t+1),   v_i its logit weights

    Args:
        model_a: the first model.
        sae_a: its dictionary; None takes its neurons.
        model_b: the second model, with the same tokenizer.
        sae_b: its dictionary; None takes its neurons.
        pairs: a feature of A and a feature of B in each row.
        tokens: token ids that both models read, at least 2 a context.
        documents: which document each token belongs to; None takes all tokens for one block.
        n_blocks: the documents are dealt out to so many blocks, fewer if there are fewer documents.
        batch_contexts: contexts a batch; None chooses so that a batch stays in the processor's cache.
        exchanged: for each pair, the pair whose logit weights the side of B is given; None leaves each its own. What is left
            of the similarity of attributions is then what the activations in them bring about.

    Raises:
        BookError: a pair names a feature that is not there, the contexts are too short, or the documents are of other tokens.

    Source: Bricken et al. 2023, "Universality" (logit-weight and attribution similarity).
    """
    _check_sides(model_a, model_b)
    widths = _width(model_a, sae_a), _width(model_b, sae_b)
    if len(pairs) == 0 or pairs.min() < 0 or (pairs.max(0) >= widths).any():
        raise BookError("the pairs are none or name a feature that is in neither dictionary; take them from best_match")
    if tokens.shape[1] < 2:
        raise BookError("attributions need contexts of at least 2 tokens; give longer contexts")
    block, n_blocks = _blocks(tokens, documents, n_blocks)
    home, n = model_a.device, len(pairs)
    sides = [
        (model, sae, torch.as_tensor(pairs[:, side].copy(), device=model.device))
        for side, (model, sae) in enumerate([(model_a, sae_a), (model_b, sae_b)])
    ]
    weights = [_median_free(logit_matrix(model, _directions(model, sae)[chosen])).to(home) for model, sae, chosen in sides]
    if exchanged is not None:
        weights[1] = weights[1][torch.from_numpy(exchanged).to(home)]
    activation, attribution = (torch.zeros(6, n_blocks * n, dtype=torch.float64, device=home) for _ in range(2))
    width = max(n, *(model.W_out.shape[0] for model in (model_a, model_b)))
    encoders = [(model, (lambda x, of=chosen: x[:, of]) if sae is None else encoder_of(sae, chosen)) for model, sae, chosen in sides]
    for rows in context_batches(tokens, width, batch_contexts or _batch(tokens, width)):
        x, y = (encode(model.begin(tokens[rows].to(model.device))[1].flatten(0, 1)).to(home) for model, encode in encoders)
        # Only where one of the two is active is there anything to add.
        token, pair = ((x > 0) | (y > 0)).nonzero(as_tuple=True)
        x, y = x[token, pair].double(), y[token, pair].double()
        here = torch.from_numpy(block[rows]).to(home)
        cell = here.flatten()[token] * n + pair
        _add_moments(activation, cell, x, y)
        has_next = (token + 1) % tokens.shape[1] != 0
        token, pair, cell = token[has_next], pair[has_next], cell[has_next]
        following = tokens[rows].to(home).flatten()[token + 1]
        effects = (values[has_next] * weight[pair, following] for values, weight in zip((x, y), weights, strict=True))
        _add_moments(attribution, cell, *effects)
        activation[0] += torch.bincount(here.flatten(), minlength=n_blocks).repeat_interleave(n)
        attribution[0] += torch.bincount(here[:, :-1].flatten(), minlength=n_blocks).repeat_interleave(n)
    shape = (6, n_blocks, n)
    kept = [total.view(shape).permute(1, 2, 0).cpu().numpy() for total in (activation, attribution)]
    logit = [_row_pearson(*(side.double().cpu().numpy() for side in piece)) for piece in zip(*(w.split(256) for w in weights), strict=True)]
    return PairSums(*kept, np.concatenate(logit))


def pair_similarities(
    model_a: OneLayerTransformer,
    sae_a: SparseAutoencoder | None,
    model_b: OneLayerTransformer,
    sae_b: SparseAutoencoder | None,
    pairs: Int[np.ndarray, "pair 2"],
    tokens: Int[Tensor, "context pos"],
    batch_contexts: int | None = None,
) -> pd.DataFrame:
    """Three similarities of given pairs of features: of activations, of logit weights, and of attributions.

    Args:
        model_a: the first model.
        sae_a: its dictionary; None takes its neurons.
        model_b: the second model, with the same tokenizer.
        sae_b: its dictionary; None takes its neurons.
        pairs: a feature of A and a feature of B in each row.
        tokens: token ids that both models read, at least 2 a context.
        batch_contexts: contexts a batch; None chooses so that a batch stays in the processor's cache.

    Returns:
        One row a pair: `feature`, `match`, and the Pearson correlations `activation`, `logit`, `attribution`
        (nan where one side does not vary).

    Raises:
        BookError: as of `pair_sums`.

    Source: Bricken et al. 2023, "Universality" (logit-weight and attribution similarity).
    """
    sums = pair_sums(model_a, sae_a, model_b, sae_b, pairs, tokens, batch_contexts=batch_contexts)
    return pd.concat([pd.DataFrame(pairs, columns=["feature", "match"]), sums.similarities()], axis=1)


def median_interval(sums: PairSums, n: int = 500, seed: int = 0) -> tuple[float, float, float]:
    """Median over the pairs of the correlation of activations, and its 95% interval over documents drawn anew.

    A draw takes as many blocks of documents as there are, with replacement, and correlates every pair anew. The pairs
    stay as they are: that another text would have chosen other matches is not in the interval.

    Args:
        sums: of `pair_sums`, with documents.
        n: draws.
        seed: of the draws.

    Returns:
        Median, lower and upper end; the ends are nan where all tokens are one block. A pair that does not vary in a draw
        keeps its value there, because such a draw says nothing about it; one that never varies is left out. The draws are
        centred on the median (`bootstrap.interval`), and the ends kept within [-1, 1].

    Source: ours; the paper gives the median 0.72 without an interval.
    """
    value, low, high = _interval(partial(_medians, sums), _by_block(sums), n, seed)
    return value, max(low, -1.0), min(high, 1.0)


def median_difference(sums: PairSums, others: PairSums, n: int = 500, seed: int = 0) -> tuple[float, float, float]:
    """Median of one set of pairs less that of another on the same tokens, and its 95% interval over documents drawn anew.

    Args:
        sums: of `pair_sums`, with documents, for instance of features.
        others: the same of other pairs on the same tokens, for instance of neurons; both are drawn together.
        n: draws.
        seed: of the draws.

    Returns:
        Difference of the medians in [-2, 2], lower and upper end; draws and ends as of `median_interval`.

    Raises:
        BookError: the two were summed over different blocks of documents.

    Source: ours; the paper gives 0.72 and 0.46 without intervals.
    """
    if len(sums.activation) != len(others.activation):
        raise BookError(
            f"{len(sums.activation)} blocks do not go with {len(others.activation)}; sum both over the same tokens and documents"
        )
    ours, theirs = _by_block(sums), _by_block(others)
    width = ours.shape[1]

    def difference(totals: Float64[np.ndarray, "draw column"]) -> Float64[np.ndarray, " draw"]:
        return _medians(sums, totals[:, :width]) - _medians(others, totals[:, width:])

    value, low, high = _interval(difference, np.concatenate([ours, theirs], axis=1), n, seed)
    return value, max(low, -2.0), min(high, 2.0)


def relations(sums: PairSums, n: int = 500, seed: int = 0) -> pd.DataFrame:
    """How closely the similarity of logit weights, and that of attributions, follow the similarity of activations.

        relation = Pearson correlation, over the pairs, of their activation similarity with the other similarity

    Args:
        sums: of `pair_sums`, with documents.
        n: draws of the bootstrap over blocks of documents.
        seed: of the draws.

    Returns:
        Rows `logit`, `attribution` and `difference` (attribution less logit), with `relation` in [-1, 1] (the difference in
        [-2, 2]) and the ends `low` and `high` of its 95% interval, centred on it and kept within that range. Pairs for which
        one of the three is not defined are left out; one that does not vary in a draw keeps its value there.

    Source: Bricken et al. 2023, "Universality" (two scatter plots; the correlation is ours).
    """
    both = np.stack([sums.activation, sums.attribution], axis=1)
    by_block, whole = both.reshape(len(both), -1), _pearson(both.sum(0))

    def relation(totals: Float64[np.ndarray, "draw column"], similarity: str) -> Float64[np.ndarray, " draw"]:
        if similarity == "difference":
            return relation(totals, "attribution") - relation(totals, "logit")
        drawn = _pearson(totals.reshape(-1, *both.shape[1:]))
        activation, attribution = np.where(np.isfinite(drawn), drawn, whole).swapaxes(0, 1)
        return _row_pearson(activation, attribution if similarity == "attribution" else np.broadcast_to(sums.logit, activation.shape))

    rows = []
    for name, bound in (("logit", 1.0), ("attribution", 1.0), ("difference", 2.0)):
        statistic = partial(relation, similarity=name)
        value, low, high = _interval(statistic, by_block, n, seed)
        rows.append({"similarity": name, "relation": value, "low": max(low, -bound), "high": min(high, bound)})
    return pd.DataFrame(rows)


def _by_block(sums: PairSums) -> Float64[np.ndarray, "block column"]:
    return sums.activation.reshape(len(sums.activation), -1)


def _medians(sums: PairSums, totals: Float64[np.ndarray, "draw column"]) -> Float64[np.ndarray, " draw"]:
    """The median over the pairs in each draw; a pair that does not vary there keeps its value over all blocks."""
    whole = _pearson(sums.activation.sum(0))
    known = np.isfinite(whole)
    drawn = _pearson(totals.reshape(-1, *sums.activation.shape[1:]))[:, known]
    return np.median(np.where(np.isfinite(drawn), drawn, whole[known]), axis=1)


def _interval(
    statistic: Callable[[Float64[np.ndarray, "draw column"]], Float64[np.ndarray, " draw"]],
    by_block: Float64[np.ndarray, "block column"],
    n: int,
    seed: int,
) -> tuple[float, float, float]:
    """A statistic of all blocks, and its interval over blocks drawn anew, centred on it."""
    value = float(statistic(by_block.sum(0)[None])[0])
    return value, *bootstrap.interval(statistic, by_block, n, seed=seed, value=value)


class _Products:
    """Sums over tokens of a_i b_j for all pairs: products of batches in float32, their total in float64 and in place."""

    def __init__(self, width_a: int, width_b: int, device: torch.device) -> None:
        self._total = torch.zeros(width_a, width_b, dtype=torch.float64, device=device)
        self._waiting: list[tuple[csr_matrix, csr_matrix]] = []

    def add(self, a: Float[Tensor, "token d_a"], b: Float[Tensor, "token d_b"]) -> None:
        """Count one more batch."""
        few_a, few_b = (acts.device.type == "cpu" and acts.count_nonzero() < SPARSE_BELOW * acts.numel() for acts in (a, b))
        if few_a and few_b:
            self._waiting.append((_sparse(a), _sparse(b)))
            if sum(piece.shape[0] for piece, _ in self._waiting) >= _TOKENS_A_PRODUCT:
                self._flush()
        elif few_a:
            self._total += torch.from_numpy(_sparse(a).T @ b.numpy())
        elif few_b:
            self._total += torch.from_numpy(_sparse(b).T @ a.numpy()).T
        else:
            self._total += a.T @ b

    @property
    def total(self) -> Float[Tensor, "d_a d_b"]:
        """The sums so far."""
        self._flush()
        return self._total

    def _flush(self) -> None:
        if self._waiting:
            a, b = (vstack(pieces, format="csr") for pieces in zip(*self._waiting, strict=True))
            product = (a.T.tocsr() @ b).tocoo()
            # Only the entries that are there: spread out, the product would be as large as the total.
            self._total.numpy()[product.row, product.col] += product.data
            self._waiting.clear()


def _batch(tokens: Int[Tensor, "context pos"], width: int) -> int:
    return max(1, _BATCH_ELEMENTS // (width * max(1, tokens.shape[1])))


def _check_sides(model_a: OneLayerTransformer, model_b: OneLayerTransformer) -> None:
    words = model_a.W_U.shape[1], model_b.W_U.shape[1]
    if words[0] != words[1]:
        raise BookError(
            f"the models know {words[0]:,} and {words[1]:,} tokens, so one stream means two texts; compare models of one tokenizer"
        )


def _width(model: OneLayerTransformer, sae: SparseAutoencoder | None) -> int:
    if sae is None:
        return model.W_out.shape[0]
    check_fits(model, sae)
    return sae.W_dec.shape[0]


def _directions(model: OneLayerTransformer, sae: SparseAutoencoder | None) -> Float[Tensor, "row d_mlp"]:
    return torch.eye(model.W_out.shape[0], device=model.device) if sae is None else sae.W_dec


def _activations(
    model: OneLayerTransformer, sae: SparseAutoencoder | None, tokens: Int[Tensor, "context pos"]
) -> Float[Tensor, "token width"]:
    x = model.begin(tokens.to(model.device))[1].flatten(0, 1)
    return x if sae is None else sae.encode(x)


def _blocks(
    tokens: Int[Tensor, "context pos"], documents: Int[np.ndarray, "..."] | None, n_blocks: int
) -> tuple[Int[np.ndarray, "context pos"], int]:
    """Which block each token is in, and how many blocks there are."""
    if documents is None:
        return np.zeros(tuple(tokens.shape), np.int64), 1
    if documents.shape != tuple(tokens.shape):
        raise BookError(f"documents has shape {documents.shape} but the tokens have {tuple(tokens.shape)}; take both from the same text")
    if n_blocks < 2:
        raise BookError(f"{n_blocks} blocks of documents give no interval; ask for at least 2")
    present, number = np.unique(documents, return_inverse=True)
    n_blocks = min(n_blocks, len(present))
    return (number % n_blocks).reshape(documents.shape), n_blocks


def _add_moments(
    total: Float[Tensor, "6 cell"], cell: Int[Tensor, " entry"], x: Float[Tensor, " entry"], y: Float[Tensor, " entry"]
) -> None:
    for row, values in zip(total[1:], (x, y, x * x, y * y, x * y), strict=True):
        row += torch.bincount(cell, values, minlength=len(row))


def _pearson(totals: Float64[np.ndarray, "... 6"]) -> Float64[np.ndarray, "..."]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return bootstrap.pearson(totals.reshape(-1, 6)).reshape(totals.shape[:-1])


def _row_pearson(x: Float64[np.ndarray, "row column"], y: Float64[np.ndarray, "row column"]) -> Float64[np.ndarray, " row"]:
    """Correlation of each row of x with that of y, over the columns where both are known."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = (np.where(known, values, 0) for values in (x, y))
    sums = [known.sum(1), x.sum(1), y.sum(1), *((a * b).sum(1) for a, b in ((x, x), (y, y), (x, y)))]
    return _pearson(np.stack(sums, axis=-1).astype(np.float64))


def _sparse(acts: Float[Tensor, "token width"]) -> csr_matrix:
    where = acts.nonzero(as_tuple=True)
    return csr_matrix((acts[where].numpy(), tuple(place.numpy() for place in where)), acts.shape)


def _median_free(weights: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """Rows shifted so that the median of each is 0, as `features.logit_weights` shifts one."""
    # NumPy's median takes the mean of the two middle values as pandas does, and sorts no more than it must.
    return weights - torch.from_numpy(np.median(weights.cpu().numpy(), axis=1, keepdims=True)).to(weights.device)
