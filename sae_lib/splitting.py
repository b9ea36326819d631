"""How features split as dictionaries grow: the graph of parents and children, nearest decoder directions, and one context's family.

Sparse activations of some thousands of tokens are in memory at a time, never a matrix of all tokens by features.

Source: Bricken et al. 2023, "Feature Splitting".
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float32, Int
from scipy.sparse import csr_matrix, vstack
from torch import Tensor
from torch.nn.functional import normalize

from sae_lib.errors import BookError
from sae_lib.metrics import ULTRALOW_FIRINGS, check_fits, context_batches
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer


@torch.inference_mode()
def decoder_neighbours(small: SparseAutoencoder, large: SparseAutoencoder, batch: int = 4096) -> pd.DataFrame:
    """For every feature of the larger dictionary, the feature of the smaller one with the closest direction.

        cosine_ij = d_i . d_j / (|d_i| |d_j|)

    Args:
        small: the smaller dictionary.
        large: the larger one, on the same model; the same dictionary gives each feature's nearest other feature.
        batch: features of `large` compared at a time.

    Returns:
        One row for each feature of `large`: `feature`, `neighbour` (index in `small`) and `cosine` in [-1, 1].

    Raises:
        BookError: the dictionaries read activations of different widths.

    Source: Bricken et al. 2023, "Feature Splitting".
    """
    if small.W_dec.shape[1] != large.W_dec.shape[1]:
        raise BookError(
            f"the dictionaries read {small.W_dec.shape[1]} and {large.W_dec.shape[1]} activations; compare two of the same model"
        )
    theirs, ours = normalize(small.W_dec, dim=1), normalize(large.W_dec, dim=1)
    cosines, neighbours = [], []
    for start in range(0, len(ours), batch):
        cosine = ours[start : start + batch] @ theirs.to(ours.device).T
        if small is large:
            cosine.diagonal(start).fill_(-torch.inf)
        nearest = cosine.max(1)
        cosines.append(nearest.values.clamp(-1, 1))
        neighbours.append(nearest.indices)
    return pd.DataFrame(
        {
            "feature": np.arange(len(ours)),
            "neighbour": torch.cat(neighbours).cpu().numpy(),
            "cosine": torch.cat(cosines).double().cpu().numpy(),
        }
    )


@torch.inference_mode()
def in_class_features(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    in_class: Bool[np.ndarray, "context pos"],
    precision: float = 0.5,
    min_firings: int = 10,
    batch_contexts: int | None = None,
) -> pd.DataFrame:
    """The features that fire mostly inside a class of tokens.

        precision_i = #(f_i > 0 and in class) / #(f_i > 0),   recall_i = #(f_i > 0 and in class) / #(in class)

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.
        in_class: which tokens belong.
        precision: lowest precision that counts.
        min_firings: fewest firings that count; below, precision is chance.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Returns:
        `feature`, `firings`, `precision`, `recall`, the highest recall first; no rows if no feature qualifies.

    Source: Bricken et al. 2023, "Feature Splitting" (several base64 features in A/1, many in A/2).
    Differs: the paper picks the family by eye; the rule is ours.
    """
    check_fits(model, sae)
    if in_class.shape != tuple(tokens.shape):
        raise BookError(f"in_class has shape {in_class.shape} but the tokens have {tuple(tokens.shape)}; compute it on the same tokens")
    d_sae = sae.W_dec.shape[0]
    counts = torch.zeros(d_sae, 2, dtype=torch.float64, device=model.device)
    member = torch.from_numpy(np.stack([np.ones_like(in_class), in_class], axis=-1).astype(np.float32))
    for rows in context_batches(tokens, d_sae, batch_contexts):
        x = model.begin(tokens[rows].to(model.device))[1].flatten(0, 1)
        counts += (sae.encode(x) > 0).float().T @ member[rows].flatten(0, 1).to(model.device)
    firings, inside = counts.cpu().numpy().T
    table = pd.DataFrame(
        {
            "feature": np.arange(d_sae),
            "firings": firings.astype(np.int64),
            "precision": inside / np.maximum(firings, 1),
            "recall": inside / max(1, in_class.sum()),
        }
    )
    kept = table[(table["precision"] >= precision) & (table["firings"] >= max(1, min_firings))]
    return kept.sort_values(["recall", "feature"], ascending=[False, True], ignore_index=True)


@torch.inference_mode()
def family_cosine(sae: SparseAutoencoder, features: Sequence[int]) -> float:
    """Mean cosine between the decoder directions of different features of a family.

    Args:
        sae: the dictionary.
        features: indices of the family's features; `range(d_sae)` gives the mean over all pairs to compare with.

    Returns:
        A value in [-1, 1]; nan for a family of fewer than two.

    Source: Bricken et al. 2023, "Feature Splitting" (split features have similar directions).
    """
    n = len(features)
    if n < 2:
        return float("nan")
    directions = normalize(sae.W_dec[torch.tensor(list(features))].double(), dim=1)
    # |sum of d|^2 counts each pair twice and each feature once with itself.
    return float((directions.sum(0).square().sum() - n) / (n * (n - 1)))
