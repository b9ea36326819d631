"""How features split as dictionaries grow: the graph of parents and children, families, maps, and what a feature spends itself on.

Sparse activations of some thousands of tokens are in memory at a time, never a matrix of all tokens by features.

Source: Bricken et al. 2023, "Feature Splitting".
"""

import base64
import re
import string
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64, Integer
from scipy.sparse import csr_array, vstack
from torch import Tensor
from torch.nn.functional import normalize

from sae_lib.errors import BookError
from sae_lib.features import columns_of, encoder_of
from sae_lib.metrics import ULTRALOW_FIRINGS, check_fits, context_batches
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

EDGE = 0.4
"""Masked cosine above which the paper links two features."""
COMMON = 1e-3
"""Share of the text from which a token counts as common (claim 49)."""
N_NEIGHBORS = 15
"""Neighbours that each point of a map is placed by."""
_CHUNK_TOKENS = 2**17
"""Tokens whose sparse activations are multiplied at once; fewer would add to the dense sums more often."""
_PRINTABLE = frozenset(string.printable.encode())


# The graph


@torch.inference_mode()
def masked_cosine(
    model: OneLayerTransformer,
    dictionaries: Mapping[str, SparseAutoencoder],
    tokens: Int[Tensor, "context pos"],
    pairs: Sequence[tuple[str, str]] | None = None,
    threshold: float = EDGE,
    min_firings: int = ULTRALOW_FIRINGS,
    batch_contexts: int | None = None,
    only: Mapping[str, Sequence[int]] | None = None,
) -> pd.DataFrame:
    """The graph of feature splitting: which features of one dictionary and the next fire alike where one of them fires.

        over_source_ij = sum f_i g_j / (|f_i| sqrt(sum over tokens with f_i > 0 of g_j^2))
        over_target_ij = sum f_i g_j / (sqrt(sum over tokens with g_j > 0 of f_i^2) |g_j|)
        cosine_ij      = the larger of the two

    Three sparse products a chunk of tokens give all pairs; memory is three matrices of source x target, whatever the number of tokens.

    Args:
        model: the model whose MLP activations all the dictionaries read.
        dictionaries: by name, such as A/0, A/1 and A/2, from small to large.
        tokens: token ids.
        pairs: which dictionaries to link; None links each to the next. One with itself gives each two of its features once.
        threshold: edges have a cosine above this.
        min_firings: features that fire more rarely are left out; 100 is the cut for ultralow features.
        batch_contexts: contexts encoded at a time; None chooses so that a batch fits in about 128 MiB.
        only: features of each dictionary to link, in ascending order, where it is known which can be; None takes all.

    Returns:
        One row an edge: `source_dictionary`, `source`, `target_dictionary`, `target` (indices of features), and
        `over_source`, `over_target` and `cosine` in (0, 1], by source and target. No rows where no pair is close.

    Raises:
        BookError: dictionaries of different models or widths, an unknown name or feature, nothing to pair, no tokens.

    Source: Bricken et al. 2023, "Feature Splitting" (cosine over the tokens where one fires, repeated for the other,
    the larger above 0.4, without ultralow features).
    """
    check_one_model(model, dictionaries)
    pairs = list(pairwise(dictionaries)) if pairs is None else list(pairs)
    unknown = [name for pair in pairs for name in pair if name not in dictionaries]
    if unknown or not pairs:
        raise BookError(f"there is no dictionary {unknown[0]!r} to link" if unknown else "a graph links dictionaries; give at least two")
    used = {name: dictionaries[name] for pair in pairs for name in pair}
    of = {name: _chosen(sae, None if only is None else only[name]) for name, sae in used.items()}
    width = {name: len(of[name]) for name in used}
    sums = {(small, large): np.zeros((3, width[small], width[large]), np.float32) for small, large in pairs}
    squares, firings = ({name: np.zeros(width[name]) for name in used} for _ in range(2))
    for rows in _chunks(tokens):
        acts = {name: _sparse_acts(model, sae, tokens[rows], of[name], batch_contexts) for name, sae in used.items()}
        fired = {name: (f > 0).astype(np.float64) for name, f in acts.items()}
        squared = {name: f.power(2) for name, f in acts.items()}
        for name in used:
            squares[name] += squared[name].sum(0)
            firings[name] += fired[name].sum(0)
        for (small, large), totals in sums.items():
            for total, left, right in zip(totals, (acts, fired, squared), (acts, squared, fired), strict=True):
                total += (left[small].T.tocsr() @ right[large]).astype(np.float32).toarray()
    tables = []
    for small, large in pairs:
        totals = sums.pop((small, large))
        rare = (firings[small] < min_firings)[:, None] | (firings[large] < min_firings)
        found = _edges((small, large), totals, squares[small], squares[large], rare, threshold)
        tables.append(found.assign(source=of[small][found["source"]], target=of[large][found["target"]]))
    return pd.concat(tables, ignore_index=True)


def _edges(
    pair: tuple[str, str],
    totals: Float[np.ndarray, "3 source target"],
    source_squares: Float64[np.ndarray, " source"],
    target_squares: Float64[np.ndarray, " target"],
    rare: Bool[np.ndarray, "source target"],
    threshold: float,
) -> pd.DataFrame:
    # In place: at the widths of the book each of these matrices is hundreds of megabytes.
    product, over_source, over_target = totals
    over_source *= source_squares[:, None].astype(np.float32)
    over_target *= target_squares.astype(np.float32)
    product[rare] = 0
    if pair[0] == pair[1]:
        for feature, row in enumerate(product):
            row[: feature + 1] = 0
    for norm in (over_source, over_target):
        np.sqrt(norm, out=norm)
        np.divide(product, norm, out=norm, where=product > 0)
        norm[product <= 0] = 0
    largest = np.maximum(over_source, over_target, out=product)
    source, target = np.nonzero(largest > threshold)
    ends = {"source_dictionary": pair[0], "source": source, "target_dictionary": pair[1], "target": target}
    found = {"over_source": over_source, "over_target": over_target, "cosine": largest}
    return pd.DataFrame(ends | {name: values[source, target].clip(max=1).astype(float) for name, values in found.items()})


def check_one_model(model: OneLayerTransformer, dictionaries: Mapping[str, SparseAutoencoder]) -> None:
    """Raise a BookError unless all the dictionaries are named after one model and read activations of its width."""
    models = sorted({name.split("/")[0] for name in dictionaries})
    if len(models) > 1:
        raise BookError(f"dictionaries of the models {' and '.join(models)} cannot split into each other; give those of one model")
    for sae in dictionaries.values():
        check_fits(model, sae)


def families(edges: pd.DataFrame) -> pd.DataFrame:
    """For every linked feature, its closest parent, how many parents and children it has, and the family that it belongs to.

    A feature follows its closest parent, and so up to a feature without one, after which the family is named.

    Args:
        edges: from `masked_cosine`, between different dictionaries, smaller ones as sources.

    Returns:
        `dictionary`, `feature`, `parent` and its `cosine` (-1 and nan where there is none), `parents`, `children` (their
        numbers), and `family`, such as A/0/45.

    Raises:
        BookError: the edges lie within one dictionary.

    Source: Bricken et al. 2023, "Feature Splitting" (a graph and not a tree). Following the closest parent is ours.
    """
    if (edges["source_dictionary"] == edges["target_dictionary"]).any():
        raise BookError("edges within one dictionary have no parents and children; give those between a dictionary and the next")
    ends = {side: edges[[f"{side}_dictionary", side]].set_axis(["dictionary", "feature"], axis=1) for side in ("source", "target")}
    nodes = pd.concat(ends.values()).drop_duplicates().sort_values(["dictionary", "feature"], ignore_index=True)
    key = ["dictionary", "feature"]
    closest = edges.sort_values("cosine", ascending=False, kind="stable").drop_duplicates(["target_dictionary", "target"])
    up = {(row.target_dictionary, row.target): (row.source_dictionary, row.source, row.cosine) for row in closest.itertuples()}
    found = nodes.merge(ends["target"].value_counts(sort=False).rename("parents").reset_index(), "left", on=key)
    found = found.merge(ends["source"].value_counts(sort=False).rename("children").reset_index(), "left", on=key)
    found = found.fillna({"parents": 0, "children": 0}).astype({"parents": int, "children": int})
    places = list(zip(found["dictionary"], found["feature"], strict=True))
    above = [up.get(place, ("", -1, np.nan)) for place in places]
    return found.assign(
        parent=[parent for _, parent, _ in above], cosine=[cosine for *_, cosine in above], family=[_root(place, up) for place in places]
    )[["dictionary", "feature", "parent", "cosine", "parents", "children", "family"]]


def _root(place: tuple[str, int], up: Mapping[tuple[str, int], tuple[str, int, float]]) -> str:
    while place in up:
        place = up[place][:2]
    return f"{place[0]}/{place[1]}"


def family(edges: pd.DataFrame, dictionary: str, feature: int, most: int = 4) -> pd.DataFrame:
    """One family as a graph: a feature's closest children, theirs, and every edge between those found, merges included.

    Args:
        edges: from `masked_cosine`.
        dictionary: where the family begins.
        feature: its first feature.
        most: at most so many closest children of each feature are followed.

    Returns:
        The rows of `edges` whose two ends both belong to the family.

    Raises:
        BookError: the feature has no children.

    Source: Bricken et al. 2023, "Feature Splitting".
    """
    layer, members = {(dictionary, feature)}, {(dictionary, feature)}
    sources = pd.MultiIndex.from_frame(edges[["source_dictionary", "source"]])
    targets = pd.MultiIndex.from_frame(edges[["target_dictionary", "target"]])
    while layer:
        below = edges[sources.isin(layer)].sort_values("cosine", ascending=False, kind="stable")
        below = below.groupby(["source_dictionary", "source"], sort=False).head(most)
        layer = set(zip(below["target_dictionary"], below["target"], strict=True)) - members
        members |= layer
    if len(members) == 1:
        raise BookError(f"the family of {dictionary}/{feature} is empty: no feature of a larger dictionary is linked to it; choose another")
    return edges[sources.isin(members) & targets.isin(members)].reset_index(drop=True)


def _chunks(tokens: Int[Tensor, "context pos"]) -> Iterator[slice]:
    return context_batches(tokens, 1, max(1, _CHUNK_TOKENS // max(1, tokens.shape[1])))


def _chosen(sae: SparseAutoencoder, only: Sequence[int] | None) -> Int64[np.ndarray, " feature"]:
    return np.arange(len(sae.W_dec)) if only is None else columns_of(only, len(sae.W_dec), "feature").numpy()


def _sparse_acts(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    features: Int[np.ndarray, " feature"],
    batch_contexts: int | None,
) -> csr_array:
    """The activations of these features, as a sparse matrix of token by feature."""
    is_all = np.array_equal(features, np.arange(len(sae.W_dec)))
    parts, encode = [], encoder_of(sae, slice(None) if is_all else torch.from_numpy(features).to(model.device))
    for rows in context_batches(tokens, max(1, len(features)), batch_contexts):
        x = model.begin(tokens[rows].to(model.device))[1].flatten(0, 1)
        acts = encode(x)
        where = acts.nonzero(as_tuple=True)
        token, feature = (place.cpu().numpy() for place in where)
        starts = np.concatenate([[0], np.bincount(token, minlength=len(acts)).cumsum()])
        parts.append(csr_array((acts[where].double().cpu().numpy(), feature, starts), acts.shape))
    return vstack(parts, format="csr")


# What a feature spends itself on


@torch.inference_mode()
def concentration(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    keys: Mapping[str, Integer[np.ndarray, "..."]],
    batch_contexts: int | None = None,
    only: Sequence[int] | None = None,
) -> dict[str, pd.DataFrame]:
    """The one token, the one phrase, or the one kind of text on which each feature spends most of its activation.

        share_i = max over keys k of (sum over tokens of key k of f_i / sum over all tokens of f_i)

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.
        keys: under each name a key for every token, such as its id; -1 for a token that has none.
        batch_contexts: contexts encoded at a time; None chooses so that a batch fits in about 128 MiB.
        only: the features to ask about; None takes all.

    Returns:
        Under each name one row a feature, by its number: `feature`, `firings`, `key` (-1 if it fires on none), `share` of its activation
        on that key in [0, 1], and `recall`, the share of the key's tokens on which it fires.

    Raises:
        BookError: the keys are not those of the tokens, a feature is not there, or the dictionary is not the model's.

    Source: Bricken et al. 2023, "Feature Splitting" (features of one token in many contexts).
    Differs: the paper describes such features; the measure is ours.
    """
    check_fits(model, sae)
    for name, key in keys.items():
        _check_tokens(tokens, key, name)
    n_keys = {name: int(key.max()) + 1 for name, key in keys.items()}
    features = _chosen(sae, only)
    totals = {name: [csr_array((len(features), max(1, n))) for _ in range(2)] for name, n in n_keys.items()}
    activation, firings = np.zeros(len(features)), np.zeros(len(features), np.int64)
    for rows in _chunks(tokens):
        acts = _sparse_acts(model, sae, tokens[rows], features, batch_contexts)
        columns = [matrix.T.tocsr() for matrix in (acts, (acts > 0).astype(np.float64))]
        activation += columns[0].sum(1)
        firings += columns[1].sum(1).astype(np.int64)
        for name, key in keys.items():
            here = key[rows].ravel()
            where = np.flatnonzero(here >= 0)
            onehot = csr_array((np.ones(len(where)), (where, here[where])), (len(here), max(1, n_keys[name])))
            totals[name] = [total + column @ onehot for total, column in zip(totals[name], columns, strict=True)]
    return {name: _concentrated(features, activation, firings, *totals[name], keys[name]) for name in keys}


def _concentrated(
    features: Int64[np.ndarray, " feature"],
    activation: Float64[np.ndarray, " feature"],
    firings: Int64[np.ndarray, " feature"],
    spent: csr_array,
    fired: csr_array,
    keys: Integer[np.ndarray, "context pos"],
) -> pd.DataFrame:
    row, key = np.arange(len(features)), np.asarray(spent.argmax(axis=1)).ravel()
    most, times = (np.asarray(matrix[row, key]).ravel() for matrix in (spent, fired))
    occurrences = np.bincount(keys[keys >= 0], minlength=spent.shape[1])
    share, recall = (part / np.maximum(whole, 1e-30) for part, whole in ((most, activation), (times, occurrences[key])))
    found = {"feature": features, "firings": firings, "key": np.where(most > 0, key, -1), "share": share, "recall": recall}
    return pd.DataFrame(found, index=features)


def phrases(tokens: Int[Tensor, "context pos"], min_count: int = 10) -> tuple[Int64[np.ndarray, "context pos"], Int64[np.ndarray, "key 3"]]:
    """Every token with the one before and the one after it as a key, for `concentration`.

    Args:
        tokens: token ids.
        min_count: three tokens that occur more rarely have no key.

    Returns:
        A key for each token (-1 at both ends of a context and for rare phrases), and the three token ids of each key.

    Source: Bricken et al. 2023, "Feature Splitting" (trigram features, such as that of the 19 after COVID).
    """
    ids = tokens.cpu().numpy().astype(np.int64)
    d_vocab = int(ids.max(initial=0)) + 1
    packed = (ids[:, :-2] * d_vocab + ids[:, 1:-1]) * d_vocab + ids[:, 2:]
    found, key, count = np.unique(packed, return_inverse=True, return_counts=True)
    often = count >= min_count
    number = np.where(often, np.cumsum(often) - 1, -1)
    keys = np.full(ids.shape, -1, np.int64)
    keys[:, 1:-1] = number[key].reshape(packed.shape)
    kept = found[often]
    return keys, np.stack([kept // d_vocab**2, kept // d_vocab % d_vocab, kept % d_vocab], axis=1)


@torch.inference_mode()
def sums_by_document(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    features: Sequence[int],
    keys: Integer[np.ndarray, "..."],
    key_of: Integer[np.ndarray, " feature"],
    document: Int[np.ndarray, "..."],
    batch_contexts: int | None = None,
) -> Float64[np.ndarray, "document feature 4"]:
    """For a few features, what each document adds to their firings and their activation: in all, and on a key of each feature's own.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.
        features: indices of features.
        keys: a key for every token.
        key_of: which key counts for each feature.
        document: which document each token belongs to.
        batch_contexts: contexts encoded at a time; None chooses so that a batch fits in about 128 MiB.

    Returns:
        Firings, firings on the key, activation and activation on the key, for a bootstrap over documents.

    Raises:
        BookError: the keys or the documents are not those of the tokens, or there are no features.

    Source: ours; the paper gives no intervals.
    """
    check_fits(model, sae)
    _check_tokens(tokens, keys, "keys")
    _check_tokens(tokens, document, "documents")
    if len(features) == 0 or len(features) != len(key_of):
        raise BookError(f"{len(features)} features and {len(key_of)} keys of theirs: the family is empty or the two do not match")
    chosen = torch.tensor([int(feature) for feature in features], device=model.device)
    number = np.unique(document, return_inverse=True)[1].reshape(document.shape)
    found, encode = np.zeros((4, number.max() + 1, len(chosen))), encoder_of(sae, chosen)
    for rows in context_batches(tokens, len(chosen), batch_contexts):
        acts = encode(model.begin(tokens[rows].to(model.device))[1]).flatten(0, 1).double().cpu().numpy()
        token, feature = acts.nonzero()
        on_key = keys[rows].ravel()[token] == np.asarray(key_of)[feature]
        values = acts[token, feature]
        place = number[rows].ravel()[token] * len(chosen) + feature
        for total, weights in zip(found, (None, on_key, values, values * on_key), strict=True):
            total += np.bincount(place, weights, total.size).reshape(total.shape)
    return found.transpose(1, 2, 0)


def _check_tokens(tokens: Int[Tensor, "context pos"], values: np.ndarray, what: str) -> None:
    if values.shape != tuple(tokens.shape):
        raise BookError(
            f"{what} of shape {values.shape} do not match tokens of shape {tuple(tokens.shape)}; compute them on the same tokens"
        )


class Decoded(NamedTuple):
    """What a run of base64 characters says."""

    share: float
    """Printable bytes among the bytes decoded, in [0, 1]; nan where the run is too short to decode."""
    text: bytes
    """The bytes."""


def decoded_ascii(text: str, at: int, least: int = 8) -> Decoded:
    """Decode the run of base64 characters around a place of a text, at the alignment that gives the most printable bytes.

    Args:
        text: a piece of text that may begin and end inside the run.
        at: a place in it, in characters.
        least: a shorter run says nothing.

    Returns:
        The share of printable bytes, and the bytes.

    Raises:
        BookError: the place is not in the text.

    Source: Bricken et al. 2023, "Feature Splitting" (substrings with the most printable characters after Python's base64 decoding).
    Differs: a run is decoded from each of its first four characters to its end; the paper's choice of substrings is not stated.
    """
    if not 0 <= at < len(text):
        raise BookError(f"place {at} is not in a text of {len(text)} characters")
    run = next((match[0] for match in re.finditer(r"[A-Za-z0-9+/]+", text) if match.start() <= at < match.end()), "")
    if len(run) < least:
        return Decoded(float("nan"), b"")
    pieces = [run[start : start + (len(run) - start) // 4 * 4] for start in range(4)]
    found = [base64.b64decode(piece) for piece in pieces if piece]
    return max((Decoded(sum(byte in _PRINTABLE for byte in piece) / len(piece), piece) for piece in found), key=lambda one: one.share)


# Against the planted hierarchy


def label_information(groups: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """How much the family of a feature says about what the feature is, at each level of a hierarchy of labels.

        I(group; label) = sum p(g, l) log2 (p(g, l) / (p(g) p(l)))

    Args:
        groups: the family of each feature.
        labels: the label of each, such as encoded/base64/pem; at depth 2 it counts as encoded/base64.

    Returns:
        One row a depth, over the features whose labels reach so far: `depth`, `features`, `labels` (different ones), `bits`
        (the mutual information), `entropy` (of the labels, in bits), and `adjusted`: 0 for families drawn by chance, 1 for
        families and labels that are one partition.

    Raises:
        BookError: there are no features, or not a label for each.

    Source: ours; `adjusted` is Vinh, Epps and Bailey 2010, "Information theoretic measures for clusterings comparison".
    """
    from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score

    if len(groups) == 0 or len(groups) != len(labels):
        raise BookError(f"{len(groups)} families and {len(labels)} labels: the family is empty or the two do not match")
    rows, paths = [], [label.split("/") for label in labels]
    for depth in range(1, max(map(len, paths)) + 1):
        members = [(group, "/".join(path[:depth])) for group, path in zip(groups, paths, strict=True) if len(path) >= depth]
        theirs, ours = zip(*members, strict=True)
        bits, entropy = (mutual_info_score(first, ours) / np.log(2) for first in (theirs, ours))
        adjusted = round(adjusted_mutual_info_score(theirs, ours), 9) + 0.0
        rows.append((depth, len(members), len(set(ours)), bits, entropy, adjusted))
    return pd.DataFrame(rows, columns=["depth", "features", "labels", "bits", "entropy", "adjusted"])


# Maps


def embed(
    directions: Float[np.ndarray, "feature d_in"], n_components: int = 2, min_dist: float = 0.05, seed: int = 0
) -> Float[np.ndarray, "feature n"]:
    """UMAP of decoder directions, with the paper's settings: 15 neighbours, cosine.

    Args:
        directions: one row a feature, of one dictionary or several, all on one model; at least 3.
        n_components: 2 for a map, 10 for clusters, 1 for a list.
        min_dist: how close points may lie: 0.05 for A/0 and A/1, 0.01 with A/2, 0.1 for clusters.
        seed: of the layout.

    Returns:
        Coordinates without a unit; only who lies near whom has a meaning.

    Raises:
        BookError: fewer than 3 features, or a direction of length 0 or not finite.

    Source: Bricken et al. 2023, "Feature Splitting" (UMAP, n_neighbors 15, cosine).
    Differs: fewer neighbours where there are fewer than 16 features (D30).
    """
    lengths = np.linalg.norm(directions, axis=1)
    if len(directions) < 3 or not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise BookError(f"a map of {len(directions)} directions cannot be drawn: it needs 3, each finite and longer than 0")
    with warnings.catch_warnings():
        # It says at import that it found no TensorFlow, and of a graph in several pieces that it places them one by one.
        warnings.filterwarnings("ignore", module=r"(umap|pynndescent|numba|sklearn)(\.|$)")
        from sklearn.neighbors import NearestNeighbors
        from umap import UMAP

        directions, n_neighbors = directions.astype(np.float32), min(N_NEIGHBORS, len(directions) - 1)
        # Exact, and of a few thousand directions four times faster than UMAP's own search, which calls a function for each pair.
        nearest = NearestNeighbors(n_neighbors=n_neighbors, metric="cosine").fit(directions).kneighbors(directions)[::-1]
        # The spectral start needs more points than it gives coordinates.
        init = "spectral" if len(directions) > n_components + N_NEIGHBORS else "random"
        settings = {"metric": "cosine", "min_dist": min_dist, "init": init, "random_state": seed, "n_jobs": 1}
        layout = UMAP(n_neighbors, n_components, precomputed_knn=nearest, force_approximation_algorithm=True, **settings)
        return np.asarray(layout.fit_transform(directions))


def clusters(directions: Float[np.ndarray, "feature d_in"], seed: int = 0) -> pd.DataFrame:
    """Clusters of decoder directions, in an order that puts like beside like: HDBSCAN on a UMAP in 10 dimensions.

    Args:
        directions: one row a feature.
        seed: of the layouts.

    Returns:
        One row a feature, in the order given: `cluster`, -1 outside of any, and `place` in the list of clusters and of
        features outside of any, the same for all features of a cluster.

    Raises:
        BookError: as `embed`.

    Source: Bricken et al. 2023, "Feature Splitting" (min_cluster_size 3, min_dist 0.1; the list is ordered by a UMAP in
    one dimension over the clusters' medoids and the points outside).
    """
    from sklearn.cluster import HDBSCAN

    points = embed(directions, 10, 0.1, seed)
    found = HDBSCAN(min_cluster_size=3, store_centers="medoid", copy=True).fit(points)
    cluster = found.labels_.astype(np.int64)
    medoids = [int((points == medoid).all(1).argmax()) for medoid in found.medoids_]
    outside = np.flatnonzero(cluster < 0)
    listed = np.concatenate([np.array(medoids, np.int64), outside])
    line = embed(directions[listed], 1, 0.1, seed)[:, 0] if len(listed) > 2 else np.arange(len(listed))
    place_of = np.argsort(np.argsort(line, kind="stable"), kind="stable")
    place = np.where(cluster >= 0, place_of[cluster], 0)
    place[outside] = place_of[len(medoids) :]
    return pd.DataFrame({"cluster": cluster, "place": place})


# Directions and the family of one context


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
def firings_in_classes(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    classes: Mapping[str, Bool[np.ndarray, "..."]],
    batch_contexts: int | None = None,
) -> pd.DataFrame:
    """How often every feature fires, in all and inside each of several classes of tokens, in one pass.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.
        classes: under each name, which tokens belong.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Returns:
        One row a feature: `firings`, and under each name the firings inside.

    Raises:
        BookError: a class is not one of the tokens given.

    Source: Bricken et al. 2023, "Feature Splitting". Counting is ours; the paper picks its families by eye.
    """
    check_fits(model, sae)
    for name, in_class in classes.items():
        _check_tokens(tokens, in_class, name)
    counts = torch.zeros(len(sae.W_dec), 1 + len(classes), dtype=torch.float64, device=model.device)
    member = np.stack([np.ones(tuple(tokens.shape), bool), *classes.values()], axis=-1)
    for rows in context_batches(tokens, len(sae.W_dec), batch_contexts):
        x = model.begin(tokens[rows].to(model.device))[1].flatten(0, 1)
        counts += sae.encode(x).sign().T @ torch.from_numpy(member[rows]).flatten(0, 1).to(model.device).float()
    return pd.DataFrame(counts.cpu().numpy().astype(np.int64), columns=["firings", *classes])


def class_members(counts: pd.DataFrame, name: str, size: int, precision: float = 0.5, min_firings: int = 10) -> pd.DataFrame:
    """The features that fire mostly inside a class of tokens.

        precision_i = #(f_i > 0 and in class) / #(f_i > 0),   recall_i = #(f_i > 0 and in class) / #(in class)

    Args:
        counts: from `firings_in_classes`.
        name: the class.
        size: tokens of the class.
        precision: lowest precision that counts.
        min_firings: fewest firings that count; below, precision is chance.

    Returns:
        `feature`, `firings`, `precision`, `recall`, the highest recall first; no rows if no feature qualifies.

    Raises:
        BookError: the class was not counted.

    Source: Bricken et al. 2023, "Feature Splitting" (several base64 features in A/1, many in A/2).
    Differs: the paper picks the family by eye; the rule is ours.
    """
    if name not in counts:
        raise BookError(f"the class {name!r} was not counted; there are {', '.join(map(repr, counts.columns[1:])) or 'none'}")
    firings, inside = counts["firings"].to_numpy(), counts[name].to_numpy()
    table = pd.DataFrame(
        {
            "feature": np.arange(len(counts)),
            "firings": firings,
            "precision": inside / np.maximum(firings, 1),
            "recall": inside / max(1, size),
        }
    )
    kept = table[(table["precision"] >= precision) & (table["firings"] >= max(1, min_firings)) & (size > 0)]
    return kept.sort_values(["recall", "feature"], ascending=[False, True], ignore_index=True)


def in_class_features(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    in_class: Bool[np.ndarray, "..."],
    precision: float = 0.5,
    min_firings: int = 10,
    batch_contexts: int | None = None,
) -> pd.DataFrame:
    """`class_members` of one class, counted on the spot.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.
        in_class: which tokens belong.
        precision: lowest precision that counts.
        min_firings: fewest firings that count.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Returns:
        As `class_members`.

    Raises:
        BookError: the class is not one of the tokens given.

    Source: Bricken et al. 2023, "Feature Splitting" (several base64 features in A/1, many in A/2).
    """
    counts = firings_in_classes(model, sae, tokens, {"in class": in_class}, batch_contexts)
    return class_members(counts, "in class", int(in_class.sum()), precision, min_firings)


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
