"""Features and neurons against labels that are known to be true.

Everything streams over the tokens. What is kept of an activation is its size in steps of a quarter of an octave, so
memory is a table of units, steps and sets of labels, whatever the number of tokens.

Source: ours; Bricken et al. 2023 judge a feature by proxies, since nobody knows what the tokens of the Pile are.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from sae_lib.corpus import LabelledText
from sae_lib.corpus.pocket import PocketSource
from sae_lib.errors import BookError
from sae_lib.features import Kind, encoder_of
from sae_lib.lab import Lab
from sae_lib.metrics import check_fits, context_batches
from sae_lib.runs import runs_folder
from sae_lib.sae import SparseAutoencoder
from sae_lib.storage import alone, fingerprint, load_tensors, save_tensors
from sae_lib.transformer import OneLayerTransformer

STEPS_PER_OCTAVE, LOWEST_OCTAVE, N_STEPS = 4, -10, 64
"""Thresholds lie at 1, 1.25, 1.5 and 1.75 times the powers of two from 2^-10 to 2^5."""
UNITS_AT_A_TIME = 4_096
"""Units counted in one pass over the tokens; bounds the memory."""
BATCH_ELEMENTS = 2**21
"""Activations computed at a time."""
MIN_TOKENS = 50
"""A label with fewer tokens in either half of a text is not judged."""
FORMAT = 1
"""Of what `kept_scores` keeps; raised when `truth_scores` measures something else, or on other text."""

Scores = Float[np.ndarray, "unit label"]


class TruthScores(NamedTuple):
    """Every unit of one kind against every label: threshold chosen on the first half of a text, the rest measured on the second."""

    chosen_at: Scores
    """F1 on the first half at the best threshold, in [0, 1]."""
    threshold: Scores
    """That threshold, in activation units: a unit says "label" when its activation is at least so large."""
    precision: Scores
    """Share of the tokens named that are `label`, in [0, 1]; 0 where none is named."""
    recall: Scores
    """Share of the tokens of `label` that are named, in [0, 1]."""
    f1: Scores
    """Harmonic mean of the two."""
    average_precision: Scores
    """Mean precision over all thresholds, weighted by the recall each adds, in [0, 1]."""
    pearson: Scores
    """Correlation of the activation with the label, in [-1, 1]; nan where one of the two does not vary."""


class Tally:
    """How often each of some units was active how strongly on each set of labels.

    Args:
        width: number of units.
        sets: the sets of labels.
        device: where the counts are kept.
    """

    def __init__(self, width: int, sets: Bool[np.ndarray, "code label"], device: torch.device) -> None:
        self.sets = torch.from_numpy(sets.astype(np.float64)).to(device)
        self.n_codes = len(sets)
        self.counts = torch.zeros(width * N_STEPS * self.n_codes, dtype=torch.int32, device=device)
        self.totals = torch.zeros(width * self.n_codes, dtype=torch.float64, device=device)
        self.squares = torch.zeros(width, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(self.n_codes, dtype=torch.float64, device=device)

    def add(self, acts: Float[Tensor, "token unit"], codes: Int[Tensor, " token"]) -> None:
        """Count one batch of non-negative activations."""
        self.tokens += torch.bincount(codes, minlength=self.n_codes)
        token, unit = acts.nonzero(as_tuple=True)
        values = acts[token, unit].float()
        cell = unit * N_STEPS + _step(values)
        self.counts.scatter_add_(0, cell.mul_(self.n_codes).add_(codes[token]), torch.ones_like(token, dtype=torch.int32))
        self.totals.scatter_add_(0, unit.mul_(self.n_codes).add_(codes[token]), values.double())
        self.squares.scatter_add_(0, unit.div_(self.n_codes, rounding_mode="floor"), values.double().square())

    def curves(self, units: slice) -> tuple[Float[Tensor, "unit step label"], Float[Tensor, "unit step 1"], Float[Tensor, " label"]]:
        """For each threshold, the tokens named that are `label` and the tokens named; and the tokens of each label."""
        counts = self.counts.view(-1, N_STEPS, self.n_codes)[units].double()
        hits = (counts @ self.sets).flip(1).cumsum(1).flip(1)
        return hits, counts.sum(-1, keepdim=True).flip(1).cumsum(1).flip(1), self.tokens @ self.sets

    def pearson(self) -> Float[Tensor, "unit label"]:
        """Correlation of every unit with every label."""
        n, totals = self.tokens.sum(), self.totals.view(-1, self.n_codes)
        mean, share = totals.sum(1) / n, self.tokens @ self.sets / n
        variance = self.squares / n - mean.square()
        variance = torch.where(variance > 1e-6 * self.squares / n, variance, torch.nan)
        spread = torch.where((share > 0) & (share < 1), share * (1 - share), torch.nan)
        return (totals @ self.sets / n - mean[:, None] * share) / (variance[:, None] * spread).sqrt()


def _step(values: Float[Tensor, " value"]) -> Int[Tensor, " value"]:
    # The exponent and the first two bits of the mantissa of a float32 number its quarter of an octave.
    return (values.view(torch.int32) >> 21).sub((127 + LOWEST_OCTAVE) * STEPS_PER_OCTAVE).clamp(0, N_STEPS - 1).long()


def thresholds() -> Float[np.ndarray, " step"]:
    """The lower end of each step, in activation units; the first also takes what is smaller."""
    octave, quarter = np.divmod(np.arange(N_STEPS), STEPS_PER_OCTAVE)
    return 2.0 ** (octave + LOWEST_OCTAVE) * (1 + quarter / STEPS_PER_OCTAVE)


def halves(text: LabelledText) -> tuple[LabelledText, LabelledText]:
    """The contexts to choose on and those to measure on.

    Raises:
        BookError: there is one context only.
    """
    middle = len(text.tokens) // 2
    if not middle:
        raise BookError("one context cannot be halved; ask for more tokens")
    return text.part(slice(0, middle)), text.part(slice(middle, None))


@torch.inference_mode()
def truth_scores(
    model: OneLayerTransformer, sae: SparseAutoencoder, text: LabelledText, kinds: Sequence[Kind] = ("feature", "neuron")
) -> dict[Kind, TruthScores]:
    """Score every feature and every neuron against every label.

        F1 = 2 * precision * recall / (precision + recall)
        average precision = sum over thresholds of (recall gained) * precision

    The threshold of each pair is the best on the first half of the contexts; it is applied to the second.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        text: labelled contexts, best not trained on.
        kinds: what to score; neurons are active so often that they take most of the time.

    Returns:
        Under each kind, arrays with one row a unit and one column a label of `text.labels`.

    Source: ours.
    """
    check_fits(model, sae)
    everything: list[tuple[Kind, int, Callable[[slice], Callable[[Tensor], Tensor]]]] = [
        ("feature", sae.W_dec.shape[0], lambda units: encoder_of(sae, units)),
        ("neuron", model.W_out.shape[0], lambda units: lambda x: x[:, units]),
    ]
    found: dict[Kind, TruthScores] = {}
    for kind, width, encoder_of_units in everything:
        if kind not in kinds:
            continue
        parts = []
        for start in range(0, width, UNITS_AT_A_TIME):
            units = slice(start, min(width, start + UNITS_AT_A_TIME))
            chosen, measured = (_tally(model, encoder_of_units, units, half) for half in halves(text))
            parts.append(_scores(chosen, measured, units.stop - start))
        found[kind] = TruthScores(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return found


def kept_scores(lab: Lab) -> dict[Kind, TruthScores]:
    """The `truth_scores` of a lab's A and A/1 on its labelled text, computed once and kept among the runs.

    Args:
        lab: says which runs and which text.

    Returns:
        As `truth_scores`, in single precision.

    Raises:
        BookError: a run cannot be opened, or what was kept is damaged.

    Source: ours.
    """
    key = [FORMAT, lab.config("A"), lab.config("A/1"), lab.scale.truth_tokens, PocketSource(lab.seed).identity()]
    path = runs_folder() / f"{lab.scale.name}-truth-{fingerprint(key)}" / "scores.safetensors"
    with alone(path.parent):
        if not path.exists():
            found = truth_scores(lab.model("A"), lab.dictionary("A/1"), lab.truth)
            columns = {f"{kind}.{column}": values for kind, scores in found.items() for column, values in scores._asdict().items()}
            save_tensors(path, {column: torch.from_numpy(values).float() for column, values in columns.items()})
        kept, _ = load_tensors(path)
    return {kind: TruthScores(*(kept[f"{kind}.{column}"].numpy() for column in TruthScores._fields)) for kind in ("feature", "neuron")}


def _tally(
    model: OneLayerTransformer, encoder_of_units: Callable[[slice], Callable[[Tensor], Tensor]], units: slice, text: LabelledText
) -> Tally:
    width, tokens = units.stop - units.start, torch.from_numpy(text.tokens)
    tally, encode = Tally(width, text.sets, model.device), encoder_of_units(units)
    # Small enough that the steps between two matrix products find the activations in the processor's cache.
    batch_contexts = max(1, BATCH_ELEMENTS // (max(width, model.W_out.shape[0]) * tokens.shape[1]))
    for rows in context_batches(tokens, width, batch_contexts):
        x = model.begin(tokens[rows].to(model.device))[1].flatten(0, 1)
        codes = torch.from_numpy(text.codes[rows].astype(np.int64)).flatten().to(model.device)
        tally.add(encode(x), codes)
    return tally


def _scores(chosen: Tally, measured: Tally, width: int) -> TruthScores:
    parts = []
    for start in range(0, width, 256):
        units = slice(start, min(width, start + 256))
        hits, named, wanted = chosen.curves(units)
        f1, step = _f1(hits, named, wanted).max(1)
        hits, named, wanted = measured.curves(units)
        precision, recall = hits / named.clamp_min(1), hits / wanted.clamp_min(1)
        gained = recall - torch.cat([recall[:, 1:], torch.zeros_like(recall[:, :1])], 1)
        # Tokens on which a unit is silent come last, all at once, and among all tokens the label has its own share.
        silent = (1 - recall[:, 0]) * wanted / measured.tokens.sum()
        at = step[:, None]
        there = [table.gather(1, at)[:, 0] for table in (precision, recall, _f1(hits, named, wanted))]
        parts.append((f1, step, *there, (gained * precision).sum(1) + silent))
    f1, step, *rest = (torch.cat(columns).cpu().numpy() for columns in zip(*parts, strict=True))
    return TruthScores(f1, thresholds()[step], *rest, measured.pearson().cpu().numpy())


def _f1(hits: Tensor, named: Tensor, wanted: Tensor) -> Tensor:
    return 2 * hits / (named + wanted).clamp_min(1)


def judged(text: LabelledText, labels: Sequence[str] | None = None) -> list[str]:
    """The labels that enough tokens of both halves carry, of those given or of all."""
    first, second = (half.counts for half in halves(text))
    return [label for i, label in enumerate(text.labels) if min(first[i], second[i]) >= MIN_TOKENS and (labels is None or label in labels)]


def best_for_labels(scores: dict[Kind, TruthScores], text: LabelledText, labels: Sequence[str]) -> pd.DataFrame:
    """The best feature and the best neuron for each label, chosen by F1 on the first half and measured on the second.

    Args:
        scores: what `truth_scores` returned.
        text: what it was given.
        labels: rows wanted, for instance `judged(text)`.

    Returns:
        Two rows a label: `label`, `n_tokens` (in the second half), `kind`, `index`, and the fields of `TruthScores`.

    Source: ours.
    """
    rows = []
    counts = halves(text)[1].counts
    for label in labels:
        column = text.labels.index(label)
        for kind, table in scores.items():
            index = int(table.chosen_at[:, column].argmax())
            row = {"label": label, "n_tokens": int(counts[column]), "kind": kind, "index": index}
            rows.append(row | {name: float(values[index, column]) for name, values in table._asdict().items()})
    return pd.DataFrame(rows)


def feature_beside_neuron(best: pd.DataFrame) -> pd.DataFrame:
    """The rows of `best_for_labels`, one a label: the best feature with its scores, and F1 and average precision of the best neuron.

    Source: ours.
    """
    features, neurons = (best[best["kind"] == kind].set_index("label") for kind in ("feature", "neuron"))
    shown = features[["n_tokens", "index", "precision", "recall", "f1", "average_precision"]].rename(columns={"index": "feature"})
    theirs = neurons[["index", "f1", "average_precision"]].set_axis(["neuron", "neuron's f1", "neuron's average precision"], axis=1)
    return shown.join(theirs).reset_index().rename(columns={"n_tokens": "tokens", "average_precision": "average precision"})


def by_family(best: pd.DataFrame) -> pd.DataFrame:
    """The rows of `best_for_labels`, one a family of labels and one for all: how many labels, median F1 of both kinds, features' wins.

    Source: ours.
    """
    f1 = best.pivot(index="label", columns="kind", values="f1")
    families = f1.index.str.split("/").str[0]
    groups = [(family, f1[families == family]) for family in dict.fromkeys(families)] + [("all", f1)]
    rows = {
        family: (len(rows), *rows[["feature", "neuron"]].median(), (rows["feature"] > rows["neuron"]).mean()) for family, rows in groups
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["labels", "feature's F1", "neuron's F1", "share won by features"])


def agreement(named: Bool[np.ndarray, "*tokens"], meant: Bool[np.ndarray, "*tokens"]) -> dict[str, float]:
    """How well a yes-or-no proxy says what is true: precision, recall, F1 and Pearson correlation.

    Args:
        named: tokens that the proxy calls so.
        meant: tokens that are so.

    Returns:
        Four numbers in [0, 1] ([-1, 1] for `pearson`); nan where nothing is named or meant.

    Source: ours.
    """
    both, n_named, n_meant, n = (float(count) for count in ((named & meant).sum(), named.sum(), meant.sum(), meant.size))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = np.float64(both) / n_named, np.float64(both) / n_meant
        spread = np.sqrt(n_named * (n - n_named) * n_meant * (n - n_meant))
        pearson = np.float64(n * both - n_named * n_meant) / spread
    return {"precision": float(precision), "recall": float(recall), "f1": 2 * both / max(n_named + n_meant, 1), "pearson": float(pearson)}


def best_labels(scores: dict[Kind, TruthScores], text: LabelledText, labels: Sequence[str]) -> pd.DataFrame:
    """For each feature and each neuron the label that it fits best on the first half.

        skill = (F1 - F1 of always "yes") / (1 - F1 of always "yes")

    A label that half of the tokens have is fitted well by a unit that always fires, so F1 alone would call every such unit by it.

    Args:
        scores: what `truth_scores` returned.
        text: what it was given.
        labels: labels to choose from.

    Returns:
        One row a unit: `kind`, `index`, `label`, and the fields of `TruthScores`, measured on the second half.

    Source: ours.
    """
    columns = np.array([text.labels.index(label) for label in labels])
    share = halves(text)[0].counts[columns] / halves(text)[0].tokens.size
    always = 2 * share / (1 + share)
    tables = []
    for kind, table in scores.items():
        best = columns[((table.chosen_at[:, columns] - always) / (1 - always)).argmax(1)]
        units = np.arange(len(best))
        found = {name: values[units, best] for name, values in table._asdict().items()}
        tables.append(pd.DataFrame({"kind": kind, "index": units, "label": np.array(text.labels)[best]} | found))
    return pd.concat(tables, ignore_index=True)


def average_precision(scores: Float[np.ndarray, " token"], truth: Bool[np.ndarray, " token"]) -> float:
    """Mean precision over all thresholds, weighted by the recall that each adds.

        AP = sum over thresholds t of (R_t - R_{t-1}) * P_t

    Args:
        scores: larger means more likely; equal scores are one threshold.
        truth: which tokens are meant.

    Returns:
        A value in (0, 1]; nan if no token is meant.

    Source: ours (the usual definition, without interpolation).
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    is_last = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(truth[order])[is_last]
    precision = hits / (np.flatnonzero(is_last) + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])


def learnability(model: OneLayerTransformer, text: LabelledText, labels: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """How well each label can be read off the model's MLP activations, and how well off the token alone.

        probe: sigmoid(w . x + b), a logistic regression on the MLP activations x
        token: share of the token's occurrences in the first half that carry the label

    Both are fitted on the first half of the contexts and scored on the second.

    Args:
        model: gives the activations.
        text: labelled contexts, not trained on.
        labels: which to judge.
        seed: of the probe's batches.

    Returns:
        One row a label: `label`, `n_tokens` (in the second half), `probe` and `token` (average precision), `context` (their difference).

    Source: ours.
    """
    fit, test = halves(text)
    columns = [text.labels.index(label) for label in labels]
    truth = [torch.from_numpy(half.sets[:, columns][half.codes].reshape(-1, len(columns))) for half in (fit, test)]
    x = [_mlp_activations(model, half) for half in (fit, test)]
    probe = _probe(x[0], truth[0], x[1], seed)
    token = _token_only(fit.tokens, truth[0], test.tokens)
    known = truth[1].numpy()
    rows = []
    for i, label in enumerate(labels):
        found = [average_precision(scores[:, i], known[:, i]) for scores in (probe, token)]
        rows.append(
            {"label": label, "n_tokens": int(known[:, i].sum()), "probe": found[0], "token": found[1], "context": found[0] - found[1]}
        )
    return pd.DataFrame(rows)


@torch.inference_mode()
def _mlp_activations(model: OneLayerTransformer, text: LabelledText) -> Float[Tensor, "token d_mlp"]:
    tokens = torch.from_numpy(text.tokens)
    batches: Iterator[slice] = context_batches(tokens, model.W_out.shape[0])
    return torch.cat([model.begin(tokens[rows].to(model.device))[1].flatten(0, 1).cpu() for rows in batches]).clone()


def _probe(
    x: Float[Tensor, "token d_mlp"], truth: Bool[Tensor, "token label"], x_test: Float[Tensor, "test d_mlp"], seed: int
) -> Float[np.ndarray, "test label"]:
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    share = truth.float().mean(0).clamp(1e-6, 1 - 1e-6)
    weights = torch.zeros(x.shape[1], truth.shape[1], requires_grad=True)
    bias = share.logit().requires_grad_()
    optimiser = torch.optim.Adam([weights, bias], lr=1e-2)
    n_steps, batch = 2_000, 2_048
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / n_steps)
    draws = torch.Generator().manual_seed(seed)
    scaled = (x - mean) / deviation
    for _ in range(n_steps):
        rows = torch.randint(len(x), (batch,), generator=draws)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scaled[rows] @ weights + bias, truth[rows].float())
        optimiser.zero_grad()
        (loss * truth.shape[1]).backward()
        optimiser.step()
        decay.step()
    with torch.no_grad():
        weights = weights / deviation[:, None]
        return (x_test @ weights + (bias - mean @ weights)).numpy()


def _token_only(
    tokens: Integer[np.ndarray, "context pos"], truth: Bool[Tensor, "token label"], test: Integer[np.ndarray, "rest pos"]
) -> Float[np.ndarray, "test label"]:
    n_ids = int(max(tokens.max(), test.max())) + 1
    seen = np.bincount(tokens.ravel(), minlength=n_ids)[:, None] + 1.0
    carry = torch.zeros(n_ids, truth.shape[1], dtype=torch.float64).index_add_(0, torch.from_numpy(tokens.ravel()), truth.double())
    # One occurrence more, with the label's own share, so that an unknown token is not called impossible.
    return ((carry.numpy() + truth.double().mean(0).numpy()) / seen)[test.ravel()]
