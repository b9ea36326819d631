"""What a page about a feature or a neuron shows, for all of them at once: counts, histograms, examples, relatives.

Two passes over the tokens. The first finds how often each unit fires, its maximum, its strongest tokens and how it goes
with the neurons; the second, which knows the maxima, fills histograms and draws examples from equal intervals. A *unit*
is a feature of the dictionary, or a neuron where no dictionary is given. What is kept does not grow with the tokens.

Source: Bricken et al. 2023, "Feature visualisation" and the interface published beside the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int, Int32, Int64
from torch import Tensor

from sae_lib.features import Kind
from sae_lib.proxies import TokenTable
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

N_BINS = 40
"""Bins of a histogram of activations."""
N_INTERVALS = 11
"""Equal intervals of activation that examples are drawn from."""
CONTEXT = 4
"""Tokens shown on either side of an example."""


class Examples(NamedTuple):
    """Places in the tokens, each with the unit's activation there; context -1, pos -1 and act 0 where there are fewer."""

    context: Int64[np.ndarray, "*place"]
    """Row of the tokens."""
    pos: Int64[np.ndarray, "*place"]
    """Position in the row."""
    act: Float32[np.ndarray, "*place"]
    """Activation."""

    def of(self, row: int) -> "Examples":
        """The places of one unit, by its row in the evidence."""
        return Examples(self.context[row], self.pos[row], self.act[row])


class Related(NamedTuple):
    """The features or neurons that go with each unit most, the closest first; index -1 and nan where there are fewer."""

    index: Int64[np.ndarray, "unit k"]
    """Their numbers."""
    pearson: Float32[np.ndarray, "unit k"]
    """Correlation of the two activations over the tokens, in [-1, 1]."""
    cosine: Float32[np.ndarray, "unit k"]
    """The same without subtracting the means, in [0, 1]."""


class Nearest(NamedTuple):
    """The dictionary rows that lie closest to each of some features, the closest first."""

    index: Int64[np.ndarray, "feature k"]
    """Their numbers."""
    cosine: Float32[np.ndarray, "feature k"]
    """Cosine of the two rows of W_dec, in [-1, 1]."""


class Alignment(NamedTuple):
    """The neurons that a feature writes to most, the largest coefficient (by its size) first."""

    neuron: Int64[np.ndarray, "feature k"]
    """Their numbers."""
    coefficient: Float32[np.ndarray, "feature k"]
    """The entry of the row of W_dec, of either sign."""
    share: Float32[np.ndarray, "feature k"]
    """Its size as a share of the row's L1 norm, in [0, 1]."""


class Windows(NamedTuple):
    """The tokens around places, `CONTEXT` on either side; token -1 and act 0 beyond the ends of the context."""

    token: Int32[np.ndarray, "*place window"]
    """Token ids."""
    act: Float32[np.ndarray, "*place window"]
    """Activations of the unit that the place belongs to."""


@dataclass(frozen=True)
class Evidence:
    """What streaming over the tokens tells of many units; every array has one row a unit, in the order of `units`."""

    kind: Kind
    """"feature" or "neuron"."""
    n_tokens: int
    """Tokens looked at."""
    units: Int64[np.ndarray, " unit"]
    """Number of the feature or neuron that each row is about."""
    fired: Int64[np.ndarray, " unit"]
    """Tokens on which it is active."""
    maximum: Float32[np.ndarray, " unit"]
    """Largest activation; 0 if it never fires."""
    histogram: Int64[np.ndarray, "unit bin"]
    """Active tokens in `N_BINS` equal bins (left, right] from 0 to the maximum."""
    top: Examples
    """[unit, n_top] the strongest tokens, those skipped that an earlier example already shows."""
    intervals: Examples
    """[unit, N_INTERVALS, n_each] drawn uniformly from each of the equal intervals (left, right], the weakest interval first."""
    bottom: Examples
    """[unit, n_each] drawn among the tokens where it does not fire."""
    neurons: Related
    """The neurons that correlate with it most (of a neuron: the other neurons)."""
    neighbours: Related | None
    """The units of this evidence that correlate with it most; None unless asked for."""

    @property
    def density(self) -> Float[np.ndarray, " unit"]:
        """Share of the tokens on which each unit is active."""
        return self.fired / self.n_tokens

    def row(self, unit: int) -> int:
        """The row of a feature or neuron.

        Raises:
            BookError: it is not among `units`.
        """
        raise NotImplementedError


def gather(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    n_top: int = 20,
    n_each: int = 5,
    k: int = 5,
    seed: int = 0,
    chosen: Sequence[int] | None = None,
    neighbours: bool = False,
    progress: bool = False,
) -> Evidence:
    """Everything that a page about a unit shows, for all features or all neurons, in two passes over the tokens.

    Examples of an interval are those with the smallest keys, where a token's key is a hash of the seed, the unit and the
    token's place: a uniform draw that depends on nothing else, so it is the same in whatever batches the tokens come.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary; None looks at the model's neurons.
        tokens: token ids.
        n_top: strongest examples kept of each unit.
        n_each: examples drawn from each interval, and from the bottom.
        k: correlated neurons (and neighbours) kept of each unit.
        seed: of the draws.
        chosen: only these features or neurons, in this order; None means all.
        neighbours: also correlate the units with each other; needs memory for the square of their number.
        progress: show a bar.

    Returns:
        An `Evidence`.

    Raises:
        BookError: there are no tokens, the dictionary reads another model, a chosen unit is not there, or a number is below 1.

    Source: Bricken et al. 2023, "Feature visualisation" (20 top examples, 11 equal intervals, bottom, correlated neurons).
    Differs: overlapping top examples are skipped (departure D23).
    """
    raise NotImplementedError


def windows(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    units: Sequence[int] | Int[np.ndarray, " unit"],
    places: Examples,
    context: int = CONTEXT,
) -> Windows:
    """The tokens around the places of each unit, with that unit's activations on them.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary; None means that the units are neurons.
        tokens: the token ids that the places lie in.
        units: numbers of the features or neurons.
        places: one row (of any shape) for each of `units`, such as `Evidence.top`.
        context: tokens on either side.

    Returns:
        Token ids and activations, the shape of `places` with `2 * context + 1` columns appended.

    Raises:
        BookError: a place lies outside the tokens, there is no such unit, or the rows are not one for each unit.

    Source: Bricken et al. 2023, "Feature visualisation" (4 tokens on each side).
    """
    raise NotImplementedError


def strips(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    unit: int,
    places: Examples,
    table: TokenTable,
    context: int = CONTEXT,
) -> pd.DataFrame:
    """Examples of one unit as `features.top_examples` returns them, so that `viz.token_strips` draws them.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary; None means that the unit is a neuron.
        tokens: the token ids that the places lie in.
        unit: number of the feature or neuron.
        places: its examples, in one row, such as `Evidence.top.of(row)` or one interval of `Evidence.intervals`.
        table: the bytes of the tokens.
        context: tokens shown on either side.

    Returns:
        `rank` (from 1), `activation`, `context`, `pos`, `tokens` (a list of text and activation pairs); places that are
        not there (-1) have no row.

    Raises:
        BookError: as `windows`.

    Source: Bricken et al. 2023, "Feature visualisation".
    """
    raise NotImplementedError


def nearest_rows(sae: SparseAutoencoder, features: Sequence[int] | None = None, k: int = 5) -> Nearest:
    """The features whose rows of W_dec point the same way.

        cosine_ij = W_dec[i] . W_dec[j] / (|W_dec[i]| |W_dec[j]|),   j other than i

    Args:
        sae: the dictionary.
        features: their numbers; None means all.
        k: neighbours of each.

    Returns:
        A `Nearest` with one row for each of `features`; fewer columns if the dictionary has no more than k features.

    Raises:
        BookError: there is no such feature, or k is below 1.

    Source: Bricken et al. 2023, "Feature Splitting" (features that lie close together).
    """
    raise NotImplementedError


def neuron_alignment(sae: SparseAutoencoder, features: Sequence[int] | None = None, k: int = 5) -> Alignment:
    """The neurons with the largest coefficients in the rows of W_dec, and their share of all.

        share_ij = |W_dec[i, j]| / sum over j of |W_dec[i, j]|

    Args:
        sae: the dictionary.
        features: their numbers; None means all.
        k: neurons of each.

    Returns:
        An `Alignment` with one row for each of `features`; fewer columns if there are fewer than k neurons.

    Raises:
        BookError: there is no such feature, or k is below 1.

    Source: Bricken et al. 2023, "The feature is not a neuron" (27 neurons with a coefficient of at least 0.1 in size).
    """
    raise NotImplementedError
