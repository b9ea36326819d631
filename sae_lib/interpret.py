"""Automated interpretability: explain a unit from some examples, predict others from the explanation, score the prediction.

1. Draw features and neurons at random among those that fire often enough.
2. From the first half of the text take the examples that explain (49 of each unit), from the second those that test (60).
3. A *judge* explains the unit from the first and from its logit weights, and predicts its activation on the second.
4. The score is the rank correlation of prediction and activation; for logits it is the share of tokens judged rightly.

A *unit* is a feature or a neuron. A judge sees text and whole numbers only; `sae_lib.judges` has two of them.

Source: Bricken et al. 2023, "Automated Interpretability" (activations and logit weights) and the appendix of that name.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Int64, Shaped
from torch import Tensor
from tqdm import tqdm

from sae_lib import bootstrap, evidence
from sae_lib.endpoint import Nonsense
from sae_lib.errors import BookError
from sae_lib.evidence import CONTEXT, N_BINS, N_INTERVALS, Evidence, Examples
from sae_lib.features import logit_matrix
from sae_lib.metrics import ULTRALOW_FIRINGS, check_fits, context_batches
from sae_lib.proxies import TokenTable
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

N_UNITS = 100
"""Features drawn, and neurons."""
N_TOP = 20
"""Examples of the top group; a unit with fewer is left out, as in the paper."""
LEVELS = 9
"""The largest of the whole numbers, from 0, that an activation is shown as."""
N_SHOWN, N_LIKELY = 10, 60
"""Logit weights: the explanation is given so many of the largest, and the test has those from there to the 60th."""
AT_A_TIME = 512
"""Units whose examples are in memory together."""
MIN_COUNT = 10
"""Occurrences in the training text below which a token has no part in the test of logits."""


class Plan(NamedTuple):
    """How many examples of each group a question has."""

    top: int
    """Of the top group, the strongest first."""
    each: int
    """Of each of the 11 intervals of activation, and of the bottom."""
    random: int
    """Anywhere in the text."""
    same_token: int
    """The tokens that the top examples are about, wherever else they occur."""

    @property
    def groups(self) -> list[str]:
        """The group of each example, in the order in which they are asked for."""
        drawn = [group for group in (*interval_names(), "bottom") for _ in range(self.each)]
        return ["top"] * self.top + drawn + ["random"] * self.random + ["same token"] * self.same_token


EXPLAIN = Plan(10, 2, 5, 10)
"""49 examples."""
PREDICT = Plan(6, 2, 10, 20)
"""60 examples, of nine tokens each: 540 predictions."""
BY_INTERVAL = Plan(0, 5, 20, 0)
"""80 examples."""


class Example(NamedTuple):
    """A piece of text around one place; at most nine tokens, fewer where a context ends."""

    group: str
    """"top", "interval 0" (weakest) to "interval 10", "bottom", "random" or "same token"."""
    tokens: tuple[str, ...]
    """The tokens as a reader sees them."""
    levels: tuple[int, ...]
    """The unit's activation on each of them, 0 (silent) to 9 (its maximum)."""
    at: int
    """Which of the tokens the place is."""


class Brief(NamedTuple):
    """What a judge is shown of a unit before it explains it."""

    examples: tuple[Example, ...]
    """The 49."""
    raises: tuple[str, ...]
    """The 10 tokens with the largest logit weights, the largest first."""
    lowers: tuple[str, ...]
    """The 10 with the smallest, the smallest first."""


class Trial(NamedTuple):
    """Everything that one unit is explained and tested with."""

    kind: str
    """"feature", "neuron" or the name of a control."""
    unit: int
    """Its number."""
    brief: Brief
    """What the explanation is made from: the first half of the text."""
    asked: tuple[Example, ...]
    """What it is tested on: the second half."""
    by_interval: tuple[Example, ...]
    """Five examples of each interval, and random ones: the second half too."""
    weight: dict[str, float]
    """Weight of an example in importance scoring by group; groups that are missing have none."""
    silent: float
    """Share of tokens, in the second half, on which the unit is silent, in [0, 1]."""
    candidates: tuple[str, ...]
    """The 100 tokens of the test of logits, in random order."""
    likely: Bool[np.ndarray, " candidate"]
    """Which of them have a large logit weight."""


class Explanation(NamedTuple):
    """What a judge made of a brief."""

    text: str
    """In words."""
    rules: Any = None
    """Whatever else this judge predicts from; nothing where words suffice."""


@runtime_checkable
class Judge(Protocol):
    """Explains units and predicts from explanations; each method raises `endpoint.Nonsense` where it fails for one unit.

    Source: Bricken et al. 2023, "Automated Interpretability" (there it is Claude 2).
    """

    name: str

    def explain(self, brief: Brief) -> Explanation:
        """What makes the unit fire, and which tokens it makes likelier."""
        ...

    def predict(self, explanation: Explanation, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """A level from 0 to 9 for every token of every text."""
        ...

    def plausible(self, explanation: Explanation, tokens: Sequence[str]) -> list[bool]:
        """For every token whether the unit makes it likelier; half of them are."""
        ...


def interval_names() -> list[str]:
    """The groups of the eleven intervals, the weakest first.

    Source: Bricken et al. 2023, "Feature visualisation".
    """
    return [f"interval {number}" for number in range(N_INTERVALS)]


# Which units, and what they are explained and tested with


@torch.inference_mode()
def sample_units(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    n: int = N_UNITS,
    seed: int = 0,
    min_firings: int = ULTRALOW_FIRINGS,
) -> Int64[np.ndarray, " unit"]:
    """Features, or neurons, drawn at random among those that fire often enough to be studied.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary; None draws neurons.
        tokens: token ids on which firings are counted.
        n: how many; fewer if there are no more.
        seed: of the draw.
        min_firings: tokens on which a unit must be active.

    Returns:
        Their numbers, ascending.

    Raises:
        BookError: fewer than two units fire that often.

    Source: Bricken et al. 2023, "How interpretable is the typical feature?" (a random sample, features of ultralow density left out).
    Differs: below 100 firings on the tokens given, not below a density of 1e-6 (departure D5).
    """
    width = model.W_out.shape[0]
    if sae is not None:
        check_fits(model, sae)
        width = sae.W_dec.shape[0]
    fired = torch.zeros(width, dtype=torch.int64, device=model.device)
    for rows in context_batches(tokens, max(width, model.W_out.shape[0])):
        x = model.begin(tokens[rows].to(model.device))[1]
        fired += ((x if sae is None else sae.encode(x)) > 0).flatten(0, 1).sum(0)
    often = np.flatnonzero((fired >= min_firings).cpu().numpy())
    if len(often) < 2:
        raise BookError(f"{len(often)} of {width} units fire on {min_firings} of {tokens.numel():,} tokens; give more tokens")
    return np.sort(np.random.default_rng(seed).choice(often, min(n, len(often)), replace=False))


def prepare(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    units: Sequence[int] | Int[np.ndarray, " unit"],
    table: TokenTable,
    unigram_counts: Int[np.ndarray, " d_vocab"],
    kind: str = "",
    seed: int = 0,
) -> list[Trial]:
    """Draw everything that units are explained and tested with: examples from the two halves of the text, and tokens for the logits.

        level = ceil(9 * activation / largest activation in the first half), at most 9

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary; None means that the units are neurons.
        tokens: token ids; explanations come from the first half of the contexts, tests from the second.
        units: numbers of the features or neurons.
        table: the bytes of the tokens.
        unigram_counts: occurrences of each token id in the training text.
        kind: what the units are called; empty means "feature" or "neuron".
        seed: of the draws, which for one unit do not depend on the others.

    Returns:
        One trial a unit, without those that have fewer than 20 top examples in one of the halves.

    Raises:
        BookError: there is one context only, or too few tokens of the vocabulary are common.

    Source: Bricken et al. 2023, "Automated Interpretability": 49 = 10 top + 2 from each of 12 other groups + 5 random + 10 top
    tokens out of context; 60 = 6 + 2 x 12 + 10 + 20; logits: 50 random tokens and the 10th to 60th largest.
    Differs: explanation and test come from different halves of the text; where an interval is empty, there are fewer
    examples; random tokens of the test of logits are drawn from below the 60th (departure D27).
    """
    half, units = len(tokens) // 2, [int(unit) for unit in units]
    if not half:
        raise BookError("one context cannot be halved into examples that explain and examples that test; give more tokens")
    kind = kind or ("neuron" if sae is None else "feature")
    halves = [tokens[:half], tokens[half:]]
    found = [evidence.gather(model, sae, part, N_TOP, BY_INTERVAL.each, k=1, seed=seed, chosen=units) for part in halves]
    shown = _examples(model, sae, halves[0], found[0], EXPLAIN, table, found[0].maximum, seed)
    asked = _examples(model, sae, halves[1], found[1], PREDICT, table, found[0].maximum, seed)
    by_interval = _examples(model, sae, halves[1], found[1], BY_INTERVAL, table, found[0].maximum, seed)
    logits = _logit_tests(model, sae, units, table, unigram_counts, seed)
    enough = np.minimum(*((part.top.context >= 0).sum(1) for part in found)) >= N_TOP
    trials = []
    for row, unit in enumerate(units):
        if enough[row]:
            raises, lowers, candidates, likely = logits[row]
            weight, silent = _importance(found[1], row), float(1 - found[1].density[row])
            brief = Brief(shown[row], raises, lowers)
            trials.append(Trial(kind, unit, brief, asked[row], by_interval[row], weight, silent, candidates, likely))
    return trials


def _examples(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    found: Evidence,
    plan: Plan,
    table: TokenTable,
    maximum: Float[np.ndarray, " unit"],
    seed: int,
) -> list[tuple[Example, ...]]:
    """The examples of a plan for each unit."""
    ids = tokens.cpu().numpy()
    order = np.argsort(ids, axis=None, kind="stable")
    starts = np.searchsorted(ids.ravel()[order], np.arange(len(table) + 1))
    places = [_places(found, row, plan, ids, order, starts, seed) for row in range(len(found.units))]
    context, pos = (np.stack(axis).astype(np.int64) for axis in zip(*places, strict=True))
    around = evidence.windows(model, sae, tokens, found.units, Examples(context, pos, np.zeros(context.shape, np.float32)))
    scale = LEVELS / np.where(maximum > 0, maximum, 1)[:, None, None]
    levels = np.minimum(np.ceil(around.act * scale), LEVELS).astype(int)
    examples = []
    for row in range(len(found.units)):
        mine = []
        for column, group in enumerate(plan.groups):
            here = around.token[row, column] >= 0
            if context[row, column] >= 0:
                text = tuple(table.text(int(token)) for token in around.token[row, column, here])
                mine.append(Example(group, text, tuple(levels[row, column, here].tolist()), int(here[:CONTEXT].sum())))
        examples.append(tuple(mine))
    return examples


def _places(
    found: Evidence, row: int, plan: Plan, ids: Int[np.ndarray, "context pos"], order: np.ndarray, starts: np.ndarray, seed: int
) -> tuple[Int[np.ndarray, " place"], Int[np.ndarray, " place"]]:
    """Context and position of each example of a plan for one unit, -1 where there is none."""
    rng = np.random.default_rng([seed, int(found.units[row])])
    top, drawn, bottom = (places.of(row) for places in (found.top, found.intervals, found.bottom))
    # Away from the ends of the context, so that nine tokens are there to show.
    margin = CONTEXT if ids.shape[1] > 2 * CONTEXT else 0
    anywhere = rng.integers(0, len(ids), plan.random), rng.integers(margin, ids.shape[1] - margin, plan.random)
    there = top.context >= 0
    taken = np.ravel_multi_index((top.context[there], top.pos[there]), ids.shape)
    pools = []
    for token in rng.permutation(np.unique(ids.ravel()[taken])):
        occurrences = order[starts[token] : starts[token + 1]]
        some = rng.choice(occurrences, min(plan.same_token + len(taken), len(occurrences)), replace=False)
        pools.append(some[~np.isin(some, taken)])
    # Each of the top tokens has its turn, until there are enough.
    turns = [place for turn in zip_longest(*pools) for place in turn if place is not None][: plan.same_token]
    same = np.unravel_index(np.array(turns, dtype=np.int64), ids.shape)
    missing = np.full(plan.same_token - len(turns), -1)
    groups = [np.vstack([of_intervals, of_bottom]) for of_intervals, of_bottom in zip(drawn[:2], bottom[:2], strict=True)]
    # The examples of an interval stand strongest first, so the first of them are no fair sample of it.
    lots = np.where(groups[0] < 0, 2, rng.random(groups[0].shape)).argsort(1)[:, : plan.each]
    parts = [
        (axis[0][: plan.top], np.take_along_axis(axis[1], np.sort(lots, 1), 1).ravel(), axis[2], axis[3], missing)
        for axis in ((top.context, groups[0], anywhere[0], same[0]), (top.pos, groups[1], anywhere[1], same[1]))
    ]
    return np.concatenate(parts[0]), np.concatenate(parts[1])


def _importance(found: Evidence, row: int) -> dict[str, float]:
    """Weight of a group's examples: 1 for random ones, density times probability for those of an interval."""
    below = np.concatenate([[0], np.cumsum(found.histogram[row])]) / max(found.fired[row], 1)
    shares = np.diff(np.interp(np.linspace(0, 1, N_INTERVALS + 1), np.linspace(0, 1, N_BINS + 1), below))
    return {"random": 1.0} | {name: float(found.density[row] * share) for name, share in zip(interval_names(), shares, strict=True)}


@torch.inference_mode()
def _logit_tests(
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    units: Sequence[int],
    table: TokenTable,
    counts: Int[np.ndarray, " d_vocab"],
    seed: int,
) -> list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], Bool[np.ndarray, " candidate"]]]:
    """For each unit the tokens it raises and lowers most, the hundred to judge, and which of them are likely."""
    n_likely = N_LIKELY - N_SHOWN
    common = np.flatnonzero(np.asarray(counts)[: min(len(table), model.W_U.shape[1])] >= MIN_COUNT)
    if len(common) < N_LIKELY + n_likely + N_SHOWN:
        raise BookError(f"{len(common)} tokens occur {MIN_COUNT} times, too few to draw a hundred for the test of logits; give more text")
    directions = torch.eye(model.W_out.shape[0], device=model.device) if sae is None else sae.W_dec
    weights = logit_matrix(model, directions[list(units)])[:, torch.from_numpy(common).to(model.device)].float().cpu().numpy()
    tests = []
    for unit, row in zip(units, weights, strict=True):
        rng, ranked = np.random.default_rng([seed, unit]), common[np.argsort(-row, kind="stable")]
        drawn = rng.choice(ranked[N_LIKELY:-N_SHOWN], n_likely, replace=False)
        shuffled = rng.permutation(2 * n_likely)
        asked = np.concatenate([ranked[N_SHOWN:N_LIKELY], drawn])[shuffled]
        raises, lowers, candidates = (
            tuple(table.text(int(token)) for token in ids) for ids in (ranked[:N_SHOWN], ranked[: -N_SHOWN - 1 : -1], asked)
        )
        tests.append((raises, lowers, candidates, shuffled < n_likely))
    return tests


# Scores


def spearman(x: Shaped[np.ndarray, " token"], y: Shaped[np.ndarray, " token"], weight: Float[np.ndarray, " token"] | None = None) -> float:
    """Rank correlation; 0 where one of the two does not vary.

        Pearson correlation of the ranks, equal values sharing the mean of theirs

    Args:
        x: numbers.
        y: numbers to hold against them.
        weight: of each pair, 0 or above; None weighs all alike. A rank is then the weight of what lies below.

    Returns:
        A value in [-1, 1].

    Source: Bricken et al. 2023, "Automated Interpretability" (Spearman; constant predictions score 0).
    """
    weight = np.ones(len(x)) if weight is None else weight
    x, y, weight = (values[weight > 0] for values in (x, y, weight))
    if not len(x) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    a, b = _ranks(x, weight), _ranks(y, weight)
    a, b = a - np.average(a, weights=weight), b - np.average(b, weights=weight)
    return float((weight * a * b).sum() / np.sqrt((weight * a * a).sum() * (weight * b * b).sum()))


def _ranks(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    _, place = np.unique(values, return_inverse=True)
    mass = np.bincount(place, weight)
    return (np.cumsum(mass) - mass / 2)[place]


def score(judge: Judge, trials: Sequence[Trial], progress: bool = False) -> pd.DataFrame:
    """Explain every unit, predict, and score; beside it what the explanation of another unit would have scored.

        spearman    rank correlation of predicted and true level over the 540 tokens
        importance  the same over random examples and those of intervals, weighted by how much of the text they stand for
        accuracy    share of the 100 tokens that are rightly called plausible or not
        interval i  P(predicted level of its examples' own tokens > that of a token of a random example) + P(equal) / 2

    Args:
        judge: who explains and predicts.
        trials: of units of one kind, at least two.
        progress: show a bar, for a judge that takes its time.

    Returns:
        One row a unit: `kind`, `unit`, `explanation`, `failed` (a question about it got nothing usable), `spearman`, `importance`,
        `accuracy`, `dealt_spearman` and `dealt_accuracy` (with the explanation of the unit before it in the list), `silent`
        (share of tokens on which it is silent), and `interval 0` to `interval 10` (nan where there is no example).
        Scores that hang on a question without a usable answer are nan; those of the unit's other questions are kept.

    Raises:
        BookError: there are fewer than two trials, or the judge's endpoint refuses.

    Source: Bricken et al. 2023, "Automated Interpretability" and "Activation interval study" (there a person scores the intervals).
    Differs: the control deals out explanations; the paper's is a dictionary on shuffled weights, which the book has besides.
    """
    if len(trials) < 2:
        raise BookError(f"{len(trials)} units fired often enough to be scored; give more tokens")
    bar = {"disable": None if progress else True, "unit": "unit"}
    explanations = [_or_none(judge.explain, trial.brief) for trial in tqdm(trials, f"{judge.name} explains", **bar)]
    rows = []
    for place, trial in enumerate(tqdm(trials, f"{judge.name} predicts", **bar)):
        own, other = explanations[place], explanations[place - 1]
        row = {"kind": trial.kind, "unit": trial.unit, "explanation": own.text if own else ""}
        scores = _scores(judge, own, trial) if own else {}
        dealt = _scores(judge, other, trial, False) if other else {}
        row |= {"failed": not {"spearman", "accuracy", *interval_names()} <= scores.keys(), "silent": trial.silent} | scores
        rows.append(row | {f"dealt_{name}": dealt.get(name, np.nan) for name in ("spearman", "accuracy")})
    columns = ["kind", "unit", "explanation", "failed", "spearman", "importance", "accuracy", "dealt_spearman", "dealt_accuracy", "silent"]
    return pd.DataFrame(rows).reindex(columns=[*columns, *interval_names()])


def opinions(
    judge: Judge,
    model: OneLayerTransformer,
    sae: SparseAutoencoder | None,
    tokens: Int[Tensor, "context pos"],
    units: Sequence[int] | Int[np.ndarray, " unit"],
    table: TokenTable,
    unigram_counts: Int[np.ndarray, " d_vocab"],
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """What a judge says of many units, and how well it predicts each: the first number of `score`, some hundred units at a time.

    Args:
        judge: who explains and predicts.
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary; None means that the units are neurons.
        tokens: token ids; explanations come from the first half of the contexts, tests from the second.
        units: numbers of the features or neurons.
        table: the bytes of the tokens.
        unigram_counts: occurrences of each token id in the training text.
        seed: of the draws.
        progress: show a bar.

    Returns:
        `unit`, `explanation` and `score` (the rank correlation, in [-1, 1]) of the units with enough examples that the judge
        explained and predicted.

    Raises:
        BookError: as `prepare`, or the judge's endpoint refuses.

    Source: Bricken et al. 2023, "Automated Interpretability" (some cards of the interface show explanation and score).
    """
    rows = []
    with tqdm(total=len(units), desc=f"{judge.name} explains", unit="unit", disable=not progress) as bar:
        for start in range(0, len(units), AT_A_TIME):
            some = units[start : start + AT_A_TIME]
            for trial in prepare(model, sae, tokens, some, table, unigram_counts, seed=seed):
                explanation = _or_none(judge.explain, trial.brief)
                predicted = _predicted(judge, explanation, trial.asked) if explanation else None
                if predicted is not None:
                    rows.append((trial.unit, explanation.text, _agreement(predicted, trial.asked)))
            bar.update(len(some))
    return pd.DataFrame(rows, columns=["unit", "explanation", "score"])


def _or_none(ask: Any, *question: Any) -> Any:
    """What a judge says, or None where it says nothing usable; that is counted, not skipped."""
    try:
        return ask(*question)
    except Nonsense:
        return None


def _predicted(judge: Judge, explanation: Explanation, examples: Sequence[Example]) -> list[list[float]] | None:
    return _or_none(judge.predict, explanation, [example.tokens for example in examples])


def _agreement(predicted: list[list[float]], examples: Sequence[Example], weight: dict[str, float] | None = None) -> float:
    guess, truth = (np.concatenate(rows) for rows in (predicted, [example.levels for example in examples]))
    if weight is None:
        return spearman(guess, truth)
    return spearman(guess, truth, np.array([weight.get(one.group, 0.0) for one in examples for _ in one.levels]))


def _scores(judge: Judge, explanation: Explanation, trial: Trial, whole: bool = True) -> dict[str, float]:
    """The scores of one explanation; those of a question that got nothing usable are missing."""
    scores = {}
    if (predicted := _predicted(judge, explanation, trial.asked)) is not None:
        scores["spearman"] = _agreement(predicted, trial.asked)
        if whole:
            scores["importance"] = _agreement(predicted, trial.asked, trial.weight)
    if (called := _or_none(judge.plausible, explanation, trial.candidates)) is not None:
        scores["accuracy"] = float((np.array(called) == trial.likely).mean())
    if whole and (predicted := _predicted(judge, explanation, trial.by_interval)) is not None:
        own = {name: [] for name in (*interval_names(), "bottom", "random")}
        for example, levels in zip(trial.by_interval, predicted, strict=True):
            own[example.group] += list(levels) if example.group == "random" else [levels[example.at]]
        scores |= {name: _exceeds(own[name], own["random"]) for name in interval_names()}
    return scores


def _exceeds(values: Sequence[float], others: Sequence[float]) -> float:
    if not values:
        return float("nan")
    difference = np.subtract.outer(values, others)
    return float(((difference > 0) + (difference == 0) / 2).mean())


# What the scores say


def falls(scores: pd.DataFrame, least: float = 0.5, n_intervals: int = 8) -> pd.Series:
    """Whether a unit's score falls from its top interval to its bottom one.

        spearman(number of the interval, score of the interval) >= 1/2

    Args:
        scores: what `score` returned.
        least: rank correlation asked for; scores without any order reach a half once in seventeen times if they are eleven,
            once in nine if they are eight, and once in four or five if they are five.
        n_intervals: scored intervals that a unit needs; one with fewer is left out.

    Returns:
        True or False under the index of `scores`, for the units that can be judged.

    Source: ours (the criterion of claim 41; the paper shows the scores of a person in a figure).
    """
    by_interval = scores[interval_names()]
    judged = by_interval[by_interval.notna().sum(axis=1) >= n_intervals].astype(float)
    found = [spearman(np.flatnonzero(np.isfinite(row)), row[np.isfinite(row)]) >= least for row in judged.to_numpy()]
    return pd.Series(found, index=judged.index, dtype=bool)


def difference(features: Float[np.ndarray, " feature"], neurons: Float[np.ndarray, " neuron"], seed: int = 0) -> tuple[float, float, float]:
    """Difference of two means and its 95% interval, units being drawn anew.

    Args:
        features: a score of each; nan is left out.
        neurons: the same.
        seed: of the draws.

    Returns:
        Mean of the first less mean of the second, lower and upper end.

    Source: ours.
    """
    a, b = (values[np.isfinite(values)] for values in (features, neurons))
    rows = np.zeros((len(a) + len(b), 4))
    rows[: len(a), 0], rows[: len(a), 1], rows[len(a) :, 2], rows[len(a) :, 3] = a, 1, b, 1
    low, high = bootstrap.interval(lambda sums: sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3], rows, seed=seed)
    return float(a.mean() - b.mean()), low, high


def interval_means(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean score of each interval over the units of each kind, with a 95% interval over units.

    Args:
        scores: what `score` returned, for one kind or several.
        seed: of the draws.

    Returns:
        One row a kind and interval: `kind`, `interval` (0 is the weakest), `score`, `low`, `high`, `units` (that have examples there).

    Source: Bricken et al. 2023, "Activation interval study".
    """
    rows = []
    for kind, units in scores.groupby("kind", sort=False):
        for number, name in enumerate(interval_names()):
            values = units[name].dropna().to_numpy(float)
            row = {"kind": kind, "interval": number, "score": np.nan, "low": np.nan, "high": np.nan, "units": len(values)}
            if len(values):
                sums = np.stack([values, np.ones(len(values))], 1)
                low, high = bootstrap.interval(lambda drawn: drawn[:, 0] / drawn[:, 1], sums, seed=seed)
                row |= {"score": values.mean(), "low": low, "high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and median of the scores of each kind.

    Args:
        scores: what `score` returned, for one kind or several.

    Returns:
        One row a kind: `kind`, `units`, `failed` (of these, units that lack an answer), then mean and median of `spearman`,
        `importance`, `accuracy`, `silent` and the means of the scores with dealt explanations, each over the units that have it.

    Source: Bricken et al. 2023, "Automated Interpretability" (means and medians are both given for logits).
    """
    rows = []
    for kind, units in scores.groupby("kind", sort=False):
        row = {"kind": kind, "units": len(units), "failed": int(units["failed"].sum())}
        for name in ("spearman", "importance", "accuracy", "silent"):
            row |= {f"{name} mean": units[name].mean(), f"{name} median": units[name].median()}
        rows.append(row | {f"{name} dealt": units[f"dealt_{name}"].mean() for name in ("spearman", "accuracy")})
    return pd.DataFrame(rows)
