"""What a page about a feature or a neuron shows, for all of them at once: counts, histograms, examples, relatives.

Two passes over the tokens. The first finds how often each unit fires, its maximum, its strongest tokens and how it goes
with the neurons; the second, which knows the maxima, fills histograms and draws examples from equal intervals. A *unit*
is a feature of the dictionary, or a neuron where no dictionary is given. Activations are only ever held for a batch of
tokens, and those above zero for the second pass while they are few, so that the model need not run again.

Source: Bricken et al. 2023, "Feature visualisation" and the interface published beside the paper.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Float64, Int, Int32, Int64, UInt64
from scipy.sparse import csr_matrix
from torch import Tensor
from tqdm import tqdm

from sae_lib.errors import BookError
from sae_lib.features import Kind, Moments, encoder_of
from sae_lib.metrics import SPARSE_BELOW, check_fits, context_batches
from sae_lib.proxies import TokenTable
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

N_BINS = 40
"""Bins of a histogram of activations."""
N_INTERVALS = 11
"""Equal intervals of activation that examples are drawn from."""
CONTEXT = 4
"""Tokens shown on either side of an example."""

_BOTTOM_SAMPLE = 1_024
"""Tokens that the bottom examples are drawn from."""
_LISTED = 2**27
"""Activations above zero that are kept between the passes, at most (8 bytes each); where more fire, the model runs twice."""
_WAITING = 2**20
"""Entries that wait at least before they are sorted in."""
_PLACES = 2_048
"""Places that are computed at once; the logits there are some dozens of megabytes."""


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
        found = np.flatnonzero(self.units == unit)
        if not len(found):
            raise BookError(f"there is no evidence of {self.kind} {unit}; gather it with the others")
        return int(found[0])


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
    for name, value in (("n_top", n_top), ("n_each", n_each), ("k", k)):
        if value < 1:
            raise BookError(f"{name} is {value}; keep at least 1 of each unit")
    units = units_of(model, sae, chosen)
    columns = None if chosen is None else torch.from_numpy(units).to(model.device)
    width = max(len(units), 8 * model.W_out.shape[0])
    batches = list(context_batches(tokens, width))
    first, listed, room = _FirstPass(model, units, n_top, neighbours), [], _LISTED
    with tqdm(total=tokens.numel(), desc=_kind(sae) + "s", unit=" tokens", unit_scale=True, disable=not progress) as bar:
        for start, x, acts, active in _batches(model, sae, tokens, columns, batches):
            first.add(start, x, acts, active)
            room -= active.nnz
            listed = [*listed, (start, active)] if room >= 0 else []
            bar.update(len(acts))
    again = listed if room >= 0 else ((start, active) for start, _, _, active in _batches(model, sae, tokens, columns, batches))
    second = _SecondPass(first.maximum, units, tokens.numel(), n_each, seed)
    for start, active in again:
        second.add(start, active)

    n_pos, itself = tokens.shape[1], units if sae is None else None
    return Evidence(
        kind=_kind(sae),
        n_tokens=tokens.numel(),
        units=units,
        fired=first.fired,
        maximum=first.maximum,
        histogram=second.histogram,
        top=_spread(*first.top.table(), n_pos, n_top),
        intervals=_examples(*second.intervals.table(), n_pos, (len(units), N_INTERVALS, n_each)),
        bottom=_examples(*second.bottom(n_each), n_pos, (len(units), n_each)),
        neurons=_related(first.products, first.moments, first.neurons, itself, k),
        neighbours=first.neighbours(k),
    )


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
    numbers = units_of(model, sae, units)
    if len(places.context) != len(numbers):
        raise BookError(f"{len(numbers)} units have {len(places.context)} rows of places; give one row for each unit")
    check_places(tokens, places.context, places.pos)
    row = np.broadcast_to(places.context[..., None], (*places.context.shape, 2 * context + 1))
    pos = places.pos[..., None] + np.arange(-context, context + 1)
    unit = np.broadcast_to(numbers.reshape(-1, *[1] * (pos.ndim - 1)), pos.shape)
    inside = (row >= 0) & (pos >= 0) & (pos < tokens.shape[1])
    token, act = np.full(pos.shape, -1, np.int32), np.zeros(pos.shape, np.float32)
    token[inside] = tokens[row[inside], pos[inside]].cpu().numpy()
    act[inside] = acts_at(model, sae, tokens, unit[inside], row[inside], pos[inside])
    return Windows(token, act)


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
    found = windows(model, sae, tokens, [unit], Examples(*(part.reshape(1, -1) for part in places)), context)
    rows = []
    for place, (row, pos, act) in enumerate(zip(*(part.ravel().tolist() for part in places), strict=True)):
        if row < 0:
            continue
        shown = zip(found.token[0, place].tolist(), found.act[0, place].tolist(), strict=True)
        strip = [(table.text(token), value) for token, value in shown if token >= 0]
        rows.append((len(rows) + 1, act, row, pos, strip))
    return pd.DataFrame(rows, columns=["rank", "activation", "context", "pos", "tokens"])


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
    if k < 1:
        raise BookError(f"k is {k}; ask for at least 1")
    directions = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    numbers = torch.from_numpy(_numbers(features, len(directions), "feature")).to(directions.device)
    found = []
    for part in numbers.split(_PLACES):
        cosine = directions[part] @ directions.T
        cosine[torch.arange(len(part)), part] = -torch.inf
        found.append(cosine.topk(min(k, len(directions) - 1), dim=1))
    index, cosine = (torch.cat([part[i] for part in found]).cpu().numpy() for i in (1, 0))
    return Nearest(index, cosine.clip(-1, 1))


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
    if k < 1:
        raise BookError(f"k is {k}; ask for at least 1")
    rows = sae.W_dec.detach()[torch.from_numpy(_numbers(features, len(sae.W_dec), "feature"))].cpu()
    size, neuron = rows.abs().topk(min(k, rows.shape[1]), dim=1)
    share = size / rows.abs().sum(1, keepdim=True)
    return Alignment(neuron.numpy(), rows.gather(1, neuron).numpy(), share.numpy())


def units_of(
    model: OneLayerTransformer, sae: SparseAutoencoder | None, units: Sequence[int] | Int[np.ndarray, " unit"] | None = None
) -> Int64[np.ndarray, " unit"]:
    """The numbers of the features (neurons without a dictionary) asked for, all of them for None.

    Raises:
        BookError: there is no such feature or neuron, or the dictionary reads another model.
    """
    if sae is not None:
        check_fits(model, sae)
    return _numbers(units, model.W_out.shape[0] if sae is None else sae.W_dec.shape[0], _kind(sae))


@torch.inference_mode()
def acts_at(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    units: Int[np.ndarray, " place"],
    context: Int[np.ndarray, " place"],
    pos: Int[np.ndarray, " place"],
) -> Float32[np.ndarray, " place"]:
    """Activations of units at places, each place with a unit of its own."""
    first, same = distinct(units, context, pos, tokens.shape[1])
    units, context, pos = units[first], context[first], pos[first]
    found = np.zeros(len(units), np.float32)
    for which, _, x in at_places(model, tokens, context, pos):
        found[which] = unit_acts(sae, x, torch.from_numpy(units[which]).to(x.device)).float().cpu().numpy()
    return found[same]


def distinct(
    units: Int[np.ndarray, " place"], context: Int[np.ndarray, " place"], pos: Int[np.ndarray, " place"], n_pos: int
) -> tuple[Int64[np.ndarray, " some"], Int64[np.ndarray, " place"]]:
    """One of each place of each unit, and which of them each place is; the examples of a rare unit share many."""
    key = (units.astype(np.int64) * (int(context.max(initial=0)) + 1) + context) * n_pos + pos
    _, first, same = np.unique(key, return_index=True, return_inverse=True)
    return first, same


@torch.inference_mode()
def at_places(
    model: OneLayerTransformer, tokens: Int[Tensor, "context pos"], context: Int[np.ndarray, " place"], pos: Int[np.ndarray, " place"]
) -> Iterator[tuple[Int64[np.ndarray, " some"], Float[Tensor, "some d_model"], Float[Tensor, "some d_mlp"]]]:
    """The model at places, some at a time: which they are, the residual stream before the MLP, and the MLP activations.

    Only contexts that hold a place are read, each once, and as few together as in `gather`: places may lie in thousands.
    """
    if not len(context):
        return
    order = np.argsort(context, kind="stable")
    needed, row = np.unique(context[order], return_inverse=True)
    read = tokens[torch.from_numpy(needed)]
    for rows in context_batches(read, 8 * model.W_out.shape[0]):
        resid_mid, x = model.begin(read[rows].to(model.device))
        first, last = np.searchsorted(row, [rows.start, rows.stop])
        for start in range(first, last, _PLACES):
            some = slice(start, min(start + _PLACES, last))
            at = torch.from_numpy(row[some] - rows.start).to(x.device), torch.from_numpy(pos[order[some]]).to(x.device)
            yield order[some], resid_mid[at], x[at]


def check_places(tokens: Int[Tensor, "context pos"], context: Int[np.ndarray, "*place"], pos: Int[np.ndarray, "*place"]) -> None:
    """Raise a BookError unless every place whose context is not -1 lies in the tokens."""
    there = context >= 0
    if (context[there] >= tokens.shape[0]).any() or (pos[there] < 0).any() or (pos[there] >= tokens.shape[1]).any():
        raise BookError(f"a place lies beyond the {tokens.shape[0]} contexts of {tokens.shape[1]} tokens; give the tokens it was found in")


def unit_acts(sae: SparseAutoencoder | None, x: Float[Tensor, "place d_mlp"], units: Int[Tensor, " place"]) -> Float[Tensor, " place"]:
    """The activation of one unit for each row of MLP activations.

    f_i = ReLU((x - b_dec) . W_enc[:, i] + b_enc[i])
    """
    if sae is None:
        return x.gather(1, units[:, None])[:, 0]
    if type(sae).encode is not SparseAutoencoder.encode:
        return sae.encode(x).gather(1, units[:, None])[:, 0]
    return torch.relu(((x - sae.b_dec) * sae.W_enc.T[units]).sum(1) + sae.b_enc[units])


class _Kept:
    """The entries with the smallest keys of every group, at most n of each, while entries stream by; ties go to the earlier token."""

    def __init__(self, n_groups: int, n: int) -> None:
        self.n_groups, self.n = n_groups, n
        # The n-th smallest key so far: what is not below it need not be looked at again.
        self.bar = np.full(n_groups, np.inf)
        self.entries = [np.empty(0, kind) for kind in (np.int64, np.float64, np.int64, np.float32)]
        self.waiting: list[list[np.ndarray]] = []

    def add(
        self,
        group: Int64[np.ndarray, " entry"],
        key: Float[np.ndarray, " entry"],
        token: Int64[np.ndarray, " entry"],
        act: Float32[np.ndarray, " entry"],
    ) -> None:
        passes = np.flatnonzero(key < self.bar[group])
        self.waiting.append([group[passes], key[passes].astype(np.float64), token[passes], act[passes]])
        if sum(len(part[0]) for part in self.waiting) > max(len(self.entries[0]), _WAITING):
            self.settle()

    def settle(self) -> None:
        """Let the waiting entries in, and drop what is not among the smallest n of its group."""
        group, key, token, act = (np.concatenate(parts) for parts in zip(self.entries, *self.waiting, strict=True))
        self.waiting = []
        order = np.lexsort((token, key, group))
        rank = _rank(group[order], self.n_groups)
        order = order[rank < self.n]
        self.entries = [part[order] for part in (group, key, token, act)]
        last = rank[rank < self.n] == self.n - 1
        self.bar[self.entries[0][last]] = self.entries[1][last]

    def table(self) -> tuple[Int64[np.ndarray, "group n"], Float32[np.ndarray, "group n"]]:
        """Tokens and activations of every group, the smallest key first; -1 and 0 where there are fewer."""
        self.settle()
        group, _, token, act = self.entries
        at = group, _rank(group, self.n_groups)
        tokens, acts = np.full((self.n_groups, self.n), -1), np.zeros((self.n_groups, self.n), np.float32)
        tokens[at], acts[at] = token, act
        return tokens, acts


class _FirstPass:
    """Counts, maxima, strongest tokens and products with the neurons."""

    def __init__(self, model: OneLayerTransformer, units: Int64[np.ndarray, " unit"], n_top: int, neighbours: bool) -> None:
        n, d_mlp = len(units), model.W_out.shape[0]
        self.units = units
        self.fired, self.maximum = np.zeros(n, np.int64), np.zeros(n, np.float32)
        # An example keeps at most 2 * CONTEXT tokens around it from being one, so these are enough to choose from.
        self.top = _Kept(n, (2 * CONTEXT + 1) * n_top)
        self.moments, self.neurons = Moments(n, model.device), Moments(d_mlp, model.device)
        self.products = np.zeros((n, d_mlp))
        self.own = np.zeros((n, n), np.float32) if neighbours else None

    def add(self, start: int, x: Float[Tensor, "token d_mlp"], acts: Float[Tensor, "token unit"], active: csr_matrix) -> None:
        # The sums of what is above zero are those of everything, and there is little of it.
        self.moments.n_tokens += len(acts)
        for total, values in ((self.moments.total, active), (self.moments.squares, active.multiply(active))):
            total += torch.from_numpy(values.sum(axis=1, dtype=np.float64).A1).to(total.device)
        self.neurons.add(x)
        sparse = x.device.type == "cpu" and active.nnz < SPARSE_BELOW * acts.numel()
        self.products += active @ x.numpy() if sparse else (acts.T @ x).cpu().numpy()
        if self.own is not None:
            common = (active @ active.T).tocoo()
            self.own[common.row, common.col] += common.data
        self.fired += np.diff(active.indptr)
        self.maximum = np.maximum(self.maximum, active.max(axis=1).toarray()[:, 0])
        unit = np.repeat(np.arange(len(self.fired)), np.diff(active.indptr))
        self.top.add(unit, -active.data, start + active.indices.astype(np.int64), active.data)

    def neighbours(self, k: int) -> Related | None:
        return None if self.own is None else _related(self.own, self.moments, self.moments, np.arange(len(self.units)), k, self.units)


class _SecondPass:
    """Histograms, and draws from equal intervals and from the bottom."""

    def __init__(
        self, maximum: Float32[np.ndarray, " unit"], units: Int64[np.ndarray, " unit"], n_tokens: int, n_each: int, seed: int
    ) -> None:
        # A unit that never fires has no entry to divide.
        self.maximum = np.where(maximum > 0, maximum, 1).astype(np.float64)
        self.salt = _mixed(units.astype(np.uint64) + _mixed(np.array([seed], np.uint64)))
        self.histogram = np.zeros((len(units), N_BINS), np.int64)
        self.intervals = _Kept(len(units) * N_INTERVALS, n_each)
        rng = np.random.default_rng(seed)
        self.sample = np.sort(rng.choice(n_tokens, min(n_tokens, _BOTTOM_SAMPLE), replace=False))
        self.silent = np.zeros((len(self.sample), len(units)), bool)

    def add(self, start: int, active: csr_matrix) -> None:
        unit = np.repeat(np.arange(len(self.maximum)), np.diff(active.indptr))
        token, share = start + active.indices.astype(np.int64), active.data / self.maximum[unit]
        bins = unit * N_BINS + _interval(share, N_BINS)
        self.histogram += np.bincount(bins, minlength=self.histogram.size).reshape(self.histogram.shape)
        self.intervals.add(unit * N_INTERVALS + _interval(share, N_INTERVALS), _uniform(self.salt[unit], token), token, active.data)
        first, last = np.searchsorted(self.sample, [start, start + active.shape[1]])
        self.silent[first:last] = (active[:, self.sample[first:last] - start].toarray() == 0).T

    def bottom(self, n_each: int) -> tuple[Int64[np.ndarray, "unit n"], Float32[np.ndarray, "unit n"]]:
        """Tokens of the sample on which each unit is silent, those with the smallest keys, and activations of 0."""
        token, unit = np.nonzero(self.silent)
        kept, token = _Kept(len(self.salt), n_each), self.sample[token]
        kept.add(unit, _uniform(self.salt[unit], token), token, np.zeros(len(token), np.float32))
        return kept.table()


@torch.inference_mode()
def _batches(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    columns: Int[Tensor, " unit"] | None,
    batches: list[slice],
) -> Iterator[tuple[int, Float[Tensor, "token d_mlp"], Float[Tensor, "token unit"], csr_matrix]]:
    """Number of the first token, MLP activations, activations of the units, and the same as [unit, token] without its zeros."""
    some = slice(None) if columns is None else columns
    encode = (lambda x: x[:, some]) if sae is None else encoder_of(sae, some)
    for rows in batches:
        x = model.begin(tokens[rows].to(model.device))[1].flatten(0, 1)
        acts = encode(x)
        token, unit = (acts > 0).nonzero(as_tuple=True)
        data = acts[token, unit].float().cpu().numpy()
        active = csr_matrix((data, (unit.cpu().numpy(), token.cpu().numpy())), acts.T.shape)
        yield rows.start * tokens.shape[1], x, acts, active


def _kind(sae: SparseAutoencoder | None) -> Kind:
    return "neuron" if sae is None else "feature"


def _numbers(units: Sequence[int] | Int[np.ndarray, " unit"] | None, width: int, kind: Kind) -> Int64[np.ndarray, " unit"]:
    numbers = np.arange(width) if units is None else np.asarray(units, np.int64)
    wrong = numbers[(numbers < 0) | (numbers >= width)]
    if wrong.size:
        raise BookError(f"there is no {kind} {wrong[0]}; they run from 0 to {width - 1}")
    return numbers


def _rank(group: Int64[np.ndarray, " entry"], n_groups: int) -> Int64[np.ndarray, " entry"]:
    """The place of each entry within its group; the groups are sorted."""
    return np.arange(len(group)) - np.searchsorted(group, np.arange(n_groups))[group]


def _interval(share: Float64[np.ndarray, " entry"], n: int) -> Int64[np.ndarray, " entry"]:
    """Which of n equal intervals (left, right] of the range from 0 to 1 a share lies in."""
    return (np.ceil(share * n).astype(np.int64) - 1).clip(0, n - 1)


def _mixed(z: UInt64[np.ndarray, " entry"]) -> UInt64[np.ndarray, " entry"]:
    """A number that looks random for every number: the output function of splitmix64 (Steele et al. 2014)."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _uniform(salt: UInt64[np.ndarray, " entry"], token: Int64[np.ndarray, " entry"]) -> Float64[np.ndarray, " entry"]:
    """A number in [0, 1) for every unit and token, the same whenever it is asked for."""
    return (_mixed(salt ^ token.astype(np.uint64)) >> np.uint64(11)) * 2.0**-53


def _examples(token: Int64[np.ndarray, "..."], act: Float32[np.ndarray, "..."], n_pos: int, shape: tuple[int, ...]) -> Examples:
    """Places of tokens numbered through, the strongest first, in the shape wanted."""
    token, act = token.reshape(shape), act.reshape(shape)
    order = np.lexsort((token, -act, token < 0), axis=-1)
    token, act = np.take_along_axis(token, order, -1), np.take_along_axis(act, order, -1)
    return Examples(np.where(token < 0, -1, token // n_pos), np.where(token < 0, -1, token % n_pos), act)


def _spread(token: Int64[np.ndarray, "unit m"], act: Float32[np.ndarray, "unit m"], n_pos: int, n: int) -> Examples:
    """Of tokens, strongest first, the first n of each row of which none shows another."""
    rows, left = np.arange(len(token)), token >= 0
    places, acts = np.full((len(token), n), -1), np.zeros((len(token), n), np.float32)
    for rank in range(n):
        first = left.argmax(1)
        there = left[rows, first]
        places[there, rank], acts[there, rank] = token[rows, first][there], act[rows, first][there]
        taken = token[rows, first][:, None]
        left &= (token // n_pos != taken // n_pos) | (np.abs(token - taken) > CONTEXT)
    return _examples(places, acts, n_pos, places.shape)


def _related(
    products: Float[np.ndarray, "unit other"],
    moments: Moments,
    others: Moments,
    itself: Int64[np.ndarray, " unit"] | None,
    k: int,
    numbers: Int64[np.ndarray, " other"] | None = None,
) -> Related:
    """The others whose activations correlate most, from sums of products; `itself` is the column of each unit, which is left out."""
    mean, deviation, squares, other_mean, other_deviation, other_squares = (
        part.cpu().numpy() for each in (moments, others) for part in (each.mean, each.deviation, each.squares)
    )
    k = min(k, products.shape[1])
    index, pearson, cosine = (np.full((len(products), k), fill) for fill in (-1, np.float32(np.nan), np.float32(np.nan)))
    for row, product in enumerate(products):
        found = (product / moments.n_tokens - mean[row] * other_mean) / (deviation[row] * other_deviation)
        if itself is not None:
            found[itself[row]] = np.nan
        best = np.argsort(-found, kind="stable")[:k]
        best = best[np.isfinite(found[best])]
        known = np.s_[row, : len(best)]
        index[known] = best if numbers is None else numbers[best]
        pearson[known] = found[best].clip(-1, 1)
        cosine[known] = product[best] / np.sqrt(squares[row] * other_squares[best])
    return Related(index, pearson, cosine)
