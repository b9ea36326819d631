"""One feature or neuron at a time: what it correlates with, when it fires, what it writes, where it is strongest.

Source: Bricken et al. 2023, "Detailed Investigations of Individual Features".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from sae_lib import bootstrap
from sae_lib.errors import BookError
from sae_lib.metrics import check_fits, context_batches
from sae_lib.proxies import TokenTable
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

Kind = Literal["feature", "neuron"]


class CaseStudy(NamedTuple):
    """The best feature and the best neuron for one class of tokens: chosen on some tokens, measured on others."""

    feature: int
    """Index of the feature."""
    neuron: int
    """Index of the neuron."""
    correlations: pd.DataFrame
    """Two rows, feature and neuron: `target`, `kind`, `index`, `chosen_at` (Pearson on the tokens of the choice),
    `pearson` (on the other tokens), and the ends `low` and `high` of its 95% interval."""
    acts: Float[np.ndarray, "context pos"]
    """The feature's activations on the tokens it is measured on."""
    neuron_acts: Float[np.ndarray, "context pos"]
    """The neuron's activations on the same tokens."""
    in_class: Bool[np.ndarray, "context pos"]
    """Which of these tokens belong to the class."""
    document: Int[np.ndarray, "context pos"]
    """Which document each of these tokens belongs to."""

    def pearson(self, kind: Kind) -> float:
        """The correlation of the feature or of the neuron, on the tokens it is measured on."""
        return float(self.correlations.set_index("kind").loc[kind, "pearson"])


class Moments:
    """Running sums of the columns of an activation matrix, enough for their means and deviations.

    Batch sums are float32, their totals float64.

    Args:
        width: number of columns.
        device: where the sums are kept.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.n_tokens = 0
        self.total = torch.zeros(width, dtype=torch.float64, device=device)
        self.squares = torch.zeros(width, dtype=torch.float64, device=device)

    def add(self, acts: Float[Tensor, "token width"]) -> None:
        """Count one more batch."""
        self.n_tokens += len(acts)
        self.total += acts.sum(0)
        self.squares += acts.square().sum(0)

    @property
    def mean(self) -> Float[Tensor, " width"]:
        """Mean of each column."""
        return self.total / self.n_tokens

    @property
    def deviation(self) -> Float[Tensor, " width"]:
        """Standard deviation of each column; nan where it does not vary, since no correlation is defined there."""
        square = self.squares / self.n_tokens
        variance = square - self.mean.square()
        # A constant column's variance is rounding, not zero.
        return torch.where(variance > 1e-6 * square, variance.clamp_min(0).sqrt(), torch.nan)


@torch.inference_mode()
def correlations(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    targets: Mapping[str, Shaped[np.ndarray, "..."]],
    batch_contexts: int | None = None,
) -> pd.DataFrame:
    """Pearson correlation of every feature and every neuron with every target, in one pass over the tokens.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.
        targets: one value a token under each name, such as a proxy's ratio or `in_class`; the shape of `tokens`.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Returns:
        One row for each kind ("feature" or "neuron"), index and target; `pearson` in [-1, 1], nan where the
        activation or the target does not vary on these tokens.

    Raises:
        BookError: a target has another shape than the tokens or holds a value that is not finite.

    Source: Bricken et al. 2023, "Detailed Investigations of Individual Features" (activations against proxies).
    """
    check_fits(model, sae)
    width = {"feature": sae.W_dec.shape[0], "neuron": model.W_out.shape[0]}
    batches = context_batches(tokens, max(width.values()), batch_contexts)
    names, standard = list(targets), _standardised(tokens, targets)
    moments = {kind: Moments(n, model.device) for kind, n in width.items()}
    products = {kind: torch.zeros(n, len(names), dtype=torch.float64, device=model.device) for kind, n in width.items()}
    for rows in batches:
        x = model.begin(tokens[rows].to(model.device))[1].flatten(0, 1)
        y = standard[rows].flatten(0, 1).to(model.device)
        for kind, acts in (("feature", sae.encode(x)), ("neuron", x)):
            moments[kind].add(acts)
            products[kind] += acts.T @ y

    tables = []
    for kind, n in width.items():
        # The targets have mean 0 and deviation 1 over all tokens, so the product alone carries the correlation.
        pearson = products[kind] / (moments[kind].n_tokens * moments[kind].deviation[:, None])
        rows = {"kind": kind, "index": np.repeat(np.arange(n), len(names)), "target": names * n}
        tables.append(pd.DataFrame(rows | {"pearson": pearson.clamp(-1, 1).flatten().cpu().numpy()}))
    return pd.concat(tables, ignore_index=True)


def best(table: pd.DataFrame, target: str, kind: Kind) -> tuple[int, float]:
    """The feature or neuron with the largest correlation with a target.

    Args:
        table: what `correlations` returned.
        target: a target's name.
        kind: "feature" or "neuron".

    Returns:
        Its index and its Pearson correlation.

    Raises:
        BookError: nothing of that kind has a correlation with that target.
    """
    rows = table[(table["target"] == target) & (table["kind"] == kind)].dropna(subset="pearson")
    if rows.empty:
        known = ", ".join(sorted(set(table["target"])))
        raise BookError(
            f"no {kind} has a correlation with {target!r}: it is not among the targets ({known}), "
            "or it never varies on these tokens; take another target or more tokens"
        )
    row = rows.loc[rows["pearson"].idxmax()]
    return int(row["index"]), float(row["pearson"])


@torch.inference_mode()
def case_studies(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    classes: Mapping[str, Bool[np.ndarray, "context pos"]],
    document: Int[np.ndarray, "context pos"],
) -> dict[str, CaseStudy]:
    """Choose the best feature and neuron for each class on the first half of the contexts; measure both on the second.

    The largest of thousands of correlations is partly luck, and the luck stays behind with the tokens of the choice.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.
        classes: which tokens belong to each class; the shape of `tokens`.
        document: which document each token belongs to, as `lab.documents` gives it.

    Returns:
        One `CaseStudy` a class. Its arrays are about the second half, `tokens[len(tokens) // 2:]`.

    Raises:
        BookError: a class is missing from one of the halves.

    Source: ours; Bricken et al. 2023 name a feature and its correlation without saying how it was chosen.
    """
    half = len(tokens) // 2
    for name, member in classes.items():
        for part, chosen in (("first", member[:half]), ("second", member[half:])):
            if not chosen.any():
                raise BookError(f"the {part} half of the tokens holds none of class {name!r}; give a text that has more of it")
    table = correlations(model, sae, tokens[:half], {name: member[:half] for name, member in classes.items()})
    chosen = {kind: [best(table, name, kind) for name in classes] for kind in ("feature", "neuron")}
    acts = {
        "feature": activations_of(model, sae, tokens[half:], [index for index, _ in chosen["feature"]]),
        "neuron": neuron_activations(model, tokens[half:], [index for index, _ in chosen["neuron"]]),
    }
    studies = {}
    for column, (name, member) in enumerate(classes.items()):
        rows = []
        for kind in ("feature", "neuron"):
            index, chosen_at = chosen[kind][column]
            pearson, low, high = pearson_interval(acts[kind][..., column], member[half:], document[half:])
            row = {"target": name, "kind": kind, "index": index, "chosen_at": chosen_at}
            rows.append(row | {"pearson": pearson, "low": low, "high": high})
        ours, theirs = acts["feature"][..., column], acts["neuron"][..., column]
        table_of = pd.DataFrame(rows)
        studies[name] = CaseStudy(rows[0]["index"], rows[1]["index"], table_of, ours, theirs, member[half:], document[half:])
    return studies


def pearson_interval(
    acts: Float[np.ndarray, "context pos"],
    target: Shaped[np.ndarray, "context pos"],
    document: Int[np.ndarray, "context pos"],
    n_draws: int = 1_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Pearson correlation of one activation with one target, and its 95% bootstrap interval over documents.

    Args:
        acts: activations of one feature or neuron.
        target: one number a token.
        document: which document each token belongs to; tokens of one document are not independent of each other.
        n_draws: of the bootstrap.
        seed: of the draws.

    Returns:
        Correlation, lower and upper end; three zeros where one of the two does not vary, since then nothing is explained;
        ends that are nan where there is a single document.

    Raises:
        BookError: the shapes differ.

    Source: ours.
    """
    sums = bootstrap.moments(acts, target, document)
    if (acts == acts.flat[0]).all() or (target == target.flat[0]).all():
        return 0.0, 0.0, 0.0
    return float(bootstrap.pearson(sums.sum(0, keepdims=True))[0]), *bootstrap.interval(bootstrap.pearson, sums, n_draws, seed=seed)


@torch.inference_mode()
def activations_of(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    features: Sequence[int],
    batch_contexts: int | None = None,
) -> Float[np.ndarray, "context pos feature"]:
    """Activations of a few features at every token.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.
        features: indices of the features, in the order wanted.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Returns:
        float32 activations, non-negative.

    Raises:
        BookError: a feature is not in the dictionary.
    """
    check_fits(model, sae)
    columns = columns_of(features, sae.W_dec.shape[0], "feature").to(model.device)
    found, encode = np.empty((*tokens.shape, len(columns)), np.float32), encoder_of(sae, columns)
    for rows in context_batches(tokens, sae.W_dec.shape[0], batch_contexts):
        x = model.begin(tokens[rows].to(model.device))[1]
        found[rows] = encode(x).float().cpu().numpy()
    return found


@torch.inference_mode()
def neuron_activations(
    model: OneLayerTransformer,
    tokens: Int[Tensor, "context pos"],
    neurons: Sequence[int],
    batch_contexts: int | None = None,
) -> Float[np.ndarray, "context pos neuron"]:
    """Activations of a few MLP neurons at every token.

    Args:
        model: the model.
        tokens: token ids.
        neurons: indices of the neurons, in the order wanted.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Returns:
        float32 activations, non-negative.

    Raises:
        BookError: a neuron is not in the model.
    """
    columns = columns_of(neurons, model.W_out.shape[0], "neuron").to(model.device)
    found = np.empty((*tokens.shape, len(columns)), np.float32)
    for rows in context_batches(tokens, model.W_out.shape[0], batch_contexts):
        found[rows] = model.begin(tokens[rows].to(model.device))[1][..., columns].float().cpu().numpy()
    return found


def encoder_of(sae: SparseAutoencoder, features: Int[Tensor, " feature"] | slice) -> Callable[[Tensor], Tensor]:
    """The encoder of some features only, from x [..., d_in] to activations [..., feature].

        f_i = ReLU((x - b_dec) @ W_enc[:, i] + b_enc[i])

    Their weights are copied once, those of a slice not at all.

    The paper's encoder computes each feature alone, so the others cost nothing; a dictionary with its own
    `encode` may let features compete, and is asked for all of them.
    """
    if type(sae).encode is not SparseAutoencoder.encode:
        return lambda x: sae.encode(x)[..., features]
    W_enc, b_enc = sae.W_enc[:, features], sae.b_enc[features]
    return lambda x: torch.relu((x - sae.b_dec) @ W_enc + b_enc)


def activation_histogram(acts: Float[np.ndarray, "*tokens"], in_class: Bool[np.ndarray, "*tokens"], n_bins: int = 40) -> pd.DataFrame:
    """Histogram of a feature's non-zero activations, and how much of each bin a class accounts for.

    Args:
        acts: activations of one feature or neuron.
        in_class: which tokens belong.
        n_bins: bins of equal width from 0 to the largest activation.

    Returns:
        One row a bin: `left`, `right` (activation units), `count` of active tokens, `n_in_class` of them,
        `share_in_class` (nan in an empty bin), and `mass` and `mass_in_class`, the same two weighted by
        activation (the paper's expected-value plot). All counts are 0 if it never fires.

    Source: Bricken et al. 2023, "Activation Specificity" (coloured histogram and expected value).
    """
    if n_bins < 1:
        raise BookError(f"a histogram of {n_bins} bins cannot be drawn; ask for at least 1")
    active = acts > 0
    values, member = acts[active].astype(np.float64), in_class[active]
    edges, bin_of = _bins(values, n_bins)

    def tally(chosen: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(bin_of[chosen], None if weight is None else weight[chosen], minlength=n_bins)

    everything = np.ones(values.shape, bool)
    count, n_in_class = tally(everything), tally(member)
    return pd.DataFrame(
        {
            "left": edges[:-1],
            "right": edges[1:],
            "count": count,
            "n_in_class": n_in_class,
            "share_in_class": np.where(count > 0, n_in_class / np.maximum(count, 1), np.nan),
            "mass": tally(everything, values),
            "mass_in_class": tally(member, values),
        }
    )


def _bins(values: Float[np.ndarray, " active"], n_bins: int) -> tuple[Float[np.ndarray, " edge"], Int[np.ndarray, " active"]]:
    """Edges of equal bins from 0 to the largest value, and the bin of each; (left, right], so that the largest is in the last one."""
    edges = np.linspace(0, values.max() if values.size else 1.0, n_bins + 1)
    return edges, np.clip(np.searchsorted(edges, values, side="left") - 1, 0, n_bins - 1)


def specificity_by_interval(
    acts: Float[np.ndarray, "*tokens"], in_class: Bool[np.ndarray, "*tokens"], n_intervals: int = 11
) -> pd.DataFrame:
    """Share of a feature's active tokens that belong to a class, in equal intervals of its activation.

    Args:
        acts: activations of one feature or neuron.
        in_class: which tokens belong.
        n_intervals: intervals from 0 to the largest activation.

    Returns:
        One row an interval, weakest first: `interval`, `left`, `right` (activation units), `count`, `n_in_class`,
        `specificity` (nan where nothing fell).

    Source: Bricken et al. 2023 (11 equal intervals from 0 to the largest activation).
    """
    table = activation_histogram(acts, in_class, n_intervals)
    table.insert(0, "interval", np.arange(n_intervals))
    return table.rename(columns={"share_in_class": "specificity"}).drop(columns=["mass", "mass_in_class"])


def rising_intervals(table: pd.DataFrame) -> int:
    """How many intervals of activation are at least as specific as the one beneath; the lowest counts.

    Args:
        table: what `specificity_by_interval` returned.

    Returns:
        0 to the number of intervals. An interval in which nothing fell does not count, and the next is held
        against the last one in which something fell.

    Source: ours (the criterion of claim 27).
    """
    known = table["specificity"].dropna()
    return int((known.diff().fillna(0) >= 0).sum())


def rising_interval(
    acts: Float[np.ndarray, "*tokens"], in_class: Bool[np.ndarray, "*tokens"], document: Int[np.ndarray, "*tokens"], n_intervals: int = 11
) -> tuple[float, float]:
    """The 95% interval of `rising_intervals` over documents drawn anew; the intervals of activation stay where they are.

    Args:
        acts: activations of one feature or neuron.
        in_class: which tokens belong.
        document: which document each token belongs to.
        n_intervals: intervals from 0 to the largest activation.

    Returns:
        Lower and upper end, from 0 to the number of intervals.

    Raises:
        BookError: it never fires.

    Source: ours.
    """
    active = acts > 0
    here = np.eye(n_intervals)[_bins(acts[active].astype(np.float64), n_intervals)[1]]
    sums = bootstrap.sums(document[active], np.concatenate([here, here * in_class[active][:, None]], axis=1))

    def rising(totals: Float[np.ndarray, "draw column"]) -> Float[np.ndarray, " draw"]:
        shares = totals[:, n_intervals:] / totals[:, :n_intervals]
        return np.array([rising_intervals(pd.DataFrame({"specificity": row})) for row in shares], float)

    return bootstrap.interval(rising, sums)


def specificity(
    acts: Float[np.ndarray, "*tokens"], in_class: Bool[np.ndarray, "*tokens"], above: float = 0.0, weighted: bool = False
) -> float:
    """Share of a feature's active tokens that belong to a class.

        sum over tokens with act > above of w * [in class]  /  sum over the same tokens of w

    Args:
        acts: activations of one feature or neuron.
        in_class: which tokens belong.
        above: count only activations above this.
        weighted: weigh each token by its activation (w = act, the expected value) instead of w = 1.

    Returns:
        A value in [0, 1]; nan if nothing is that active.

    Source: Bricken et al. 2023, "Activation Specificity" (81% of the tokens that activate A/1/3450 are Arabic).
    """
    active = acts > above
    if not active.any():
        return float("nan")
    return float(np.average(in_class[active], weights=acts[active].astype(np.float64) if weighted else None))


def activation_by_kind(acts: Float[np.ndarray, "*tokens"], kinds: Mapping[str, Bool[np.ndarray, "*tokens"]]) -> pd.DataFrame:
    """How often and how strongly a feature fires on each of several kinds of text.

    Args:
        acts: activations of one feature or neuron.
        kinds: which tokens are of each kind; a token of several kinds counts for the first of them.

    Returns:
        One row a kind, and a last one for `everything else`: `kind`, `tokens`, `fires` (share of these tokens on which
        it is active), `mean` (activation, zeros included; nan where there is no token) and `mass` (share of all its
        activation that falls here).

    Source: ours (the question behind the paper's remarks on hexadecimal text and on companion features).
    """
    left, rows, total = np.ones(acts.shape, bool), [], max(float(acts.sum(dtype=np.float64)), np.finfo(np.float64).tiny)
    for kind, member in (*kinds.items(), ("everything else", left.copy())):
        values = acts[member & left].astype(np.float64)
        left &= ~member
        fires, mean = ((values > 0).mean(), values.mean()) if values.size else (np.nan, np.nan)
        rows.append({"kind": kind, "tokens": values.size, "fires": fires, "mean": mean, "mass": values.sum() / total})
    return pd.DataFrame(rows)


@torch.inference_mode()
def logit_weights(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    feature: int,
    unigram_counts: Int[np.ndarray, " d_vocab"] | None = None,
    min_count: int = 10,
) -> pd.Series:
    """What one feature adds to the logit of every token, through the MLP's output alone.

        v = (W_dec[i] @ W_out - its mean) * ln_final.w @ W_U,   shifted so that its median is 0

    Args:
        model: the model.
        sae: the dictionary.
        feature: index of the feature.
        unigram_counts: occurrences of each token id; if given, tokens below `min_count` are dropped first.
        min_count: fewest occurrences a token needs.

    Returns:
        Weights indexed by token id, in logits per unit of activation (up to the scale of the final LayerNorm,
        which is left out).

    Raises:
        BookError: the feature is not in the dictionary, or no token is common enough.

    Source: Bricken et al. 2023, "Feature Downstream Effects" (logit weights, linearised LayerNorm).
    """
    check_fits(model, sae)
    column = columns_of([feature], sae.W_dec.shape[0], "feature").to(model.device)
    weights = pd.Series(logit_matrix(model, sae.W_dec[column])[0].cpu().numpy(), name="logit_weight")
    if unigram_counts is not None:
        common = np.asarray(unigram_counts)[: len(weights)] >= min_count
        if not common.any():
            raise BookError(f"no token occurs {min_count} times; lower min_count")
        weights = weights[: len(common)][common]
    return weights - weights.median()


def logit_matrix(model: OneLayerTransformer, directions: Float[Tensor, "direction d_mlp"]) -> Float[Tensor, "direction d_vocab"]:
    """Logit weights of several directions of the MLP's activations, before the shift of their median."""
    written = directions @ model.W_out
    return (written - written.mean(1, keepdim=True)) * model.ln_final.w @ model.W_U


def top_examples(
    acts: Float[np.ndarray, "context pos"],
    tokens: Int[np.ndarray, "context pos"] | Int[Tensor, "context pos"],
    table: TokenTable,
    n: int = 20,
    context: int = 4,
) -> pd.DataFrame:
    """The strongest activations of a feature, each with the tokens around it.

    Taken from the strongest down, ties in order of the text; a token that an earlier example already shows is skipped.

    Args:
        acts: activations of one feature or neuron.
        tokens: the token ids they belong to.
        table: the bytes of the tokens.
        n: at most so many examples; fewer if it fires more rarely.
        context: tokens shown on either side.

    Returns:
        `rank` (from 1), `activation`, `context` and `pos` (where it lies), `tokens` (a list of text and activation pairs).

    Source: Bricken et al. 2023, "Feature visualisation" (4 tokens on each side).
    Differs: overlapping examples are skipped.
    """
    ids = tokens.cpu().numpy() if isinstance(tokens, Tensor) else tokens
    where = np.flatnonzero(acts > 0)
    order = where[np.argsort(-acts.ravel()[where], kind="stable")]
    shown, found = np.zeros(acts.shape, bool), []
    for row, pos in zip(*np.unravel_index(order, acts.shape), strict=True):
        if len(found) == n:
            break
        if shown[row, pos]:
            continue
        window = slice(max(0, pos - context), pos + context + 1)
        shown[row, window] = True
        strip = [(table.text(int(token)), float(act)) for token, act in zip(ids[row, window], acts[row, window], strict=True)]
        found.append((len(found) + 1, float(acts[row, pos]), int(row), int(pos), strip))
    return pd.DataFrame(found, columns=["rank", "activation", "context", "pos", "tokens"])


def vocabulary(
    tokens: Int[np.ndarray, "context pos"] | Int[Tensor, "context pos"], in_class: Bool[np.ndarray, "context pos"], d_vocab: int
) -> pd.DataFrame:
    """Which entries of the vocabulary belong to a class: those most of whose occurrences lie in it.

    Args:
        tokens: token ids.
        in_class: which tokens belong.
        d_vocab: size of the vocabulary.

    Returns:
        One row a token id: `count`, `share` of its occurrences in the class (nan for a token that does not occur)
        and `in_class`, whether that is more than half.

    Source: ours; the paper's proxies judge a token where it stands, not an entry of the vocabulary.
    """
    ids = np.asarray(tokens)
    count, inside = (np.bincount(chosen.ravel(), minlength=d_vocab) for chosen in (ids, ids[in_class]))
    share = np.where(count > 0, inside / np.maximum(count, 1), np.nan)
    return pd.DataFrame({"count": count, "share": share, "in_class": 2 * inside > count})


def _standardised(tokens: Int[Tensor, "context pos"], targets: Mapping[str, np.ndarray]) -> Float[Tensor, "context pos target"]:
    """The targets side by side, each with mean 0 and deviation 1 over all tokens; nan where one does not vary."""
    if not targets:
        raise BookError("there is no target to correlate with; give at least one")
    columns = []
    for name, values in targets.items():
        values = np.asarray(values, dtype=np.float64)
        if values.shape != tuple(tokens.shape):
            raise BookError(
                f"target {name!r} has shape {values.shape} but the tokens have {tuple(tokens.shape)}; compute it on the same tokens"
            )
        if not np.isfinite(values).all():
            raise BookError(f"target {name!r} holds values that are not finite; a correlation needs numbers")
        deviation = values.std()
        # Rounding of a constant must not pass for variation.
        varies = deviation > 1e-9 * np.abs(values).max(initial=0.0)
        columns.append((values - values.mean()) / deviation if varies else np.full_like(values, np.nan))
    return torch.from_numpy(np.stack(columns, axis=-1).astype(np.float32))


def columns_of(indices: Sequence[int], width: int, kind: Kind) -> Int[Tensor, " index"]:
    """The columns that the caller asks for, as a tensor, once it is known that they are there.

    Args:
        indices: of features or neurons.
        width: how many there are.
        kind: what to call them.

    Raises:
        BookError: one of them is not there.

    Source: ours.
    """
    for index in indices:
        if not 0 <= index < width:
            raise BookError(f"there is no {kind} {index}; they run from 0 to {width - 1}")
    return torch.tensor(list(indices), dtype=torch.long)
