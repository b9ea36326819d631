"""The measurements of a case study that need several tools at once: companions, the twin, what is written, and whole cards.

Source: Bricken et al. 2023, "Detailed Investigations of Individual Features".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from sae_lib import evidence, features, interventions, splitting, universality
from sae_lib.errors import BookError
from sae_lib.features import CaseStudy
from sae_lib.metrics import check_fits, context_batches
from sae_lib.proxies import TokenTable
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer
from sae_lib.truth import MIN_TOKENS

FOUND_PEARSON, FOUND_PRECISION = 0.3, 0.5
"""A category has its feature if the correlation and the precision at the top reach these; fixed before any run."""
TOP_TOKENS = 10
"""The top of a feature's range is its highest interval, and those beneath it until so many tokens lie in them."""
CARD = ("category", "share", "verdict", "feature", "pearson", "low", "high", "precision_top", "n_top", "recall", "neuron")
CARD += ("neuron_pearson", "loss_in_class", "loss_other", "writes")
"""The columns of a table of cards."""
FEW = 10
"""A mean over fewer tokens, or a feature that fires on fewer, says nothing."""


class Twin(NamedTuple):
    """The feature of another model that fires most like one of ours."""

    feature: int
    """Its index in the other dictionary."""
    activation: float
    """Pearson correlation of the two activations over the tokens."""
    logit: float
    """Pearson correlation of the two vectors of logit weights."""
    attribution: float
    """Pearson correlation of activation times logit weight of the actual next token."""
    neuron: int
    """The neuron of the other model that fires most like it."""
    neuron_activation: float
    """The correlation with that neuron."""


class Cards(NamedTuple):
    """What `compact_cards` found."""

    table: pd.DataFrame
    """One row a category; see `compact_cards`."""
    studies: dict[str, CaseStudy]
    """The case study of each category that the text has enough of."""


@torch.inference_mode()
def companions(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    study: CaseStudy,
    precision: float = 0.5,
    min_filled: int = FEW,
) -> pd.DataFrame:
    """Other features of the same class that fire where the main one is silent.

        gap = tokens in the class on which the main feature does not fire
        precision_i = #(f_i > 0 and in class) / #(f_i > 0),   filled_i = #(f_i > 0 and in the gap)

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: the tokens that the study is measured on.
        study: the class and the main feature.
        precision: a companion's precision lies above this.
        min_filled: fewest tokens of the gap that it fires on.

    Returns:
        `feature`, `firings`, `precision`, `filled` and `share_of_gap`, the one that fills most first; no rows if none does.

    Raises:
        BookError: the study was measured on other tokens.

    Source: Bricken et al. 2023, "Arabic Script Feature" (companions for the prefix and for split characters).
    Differs: the paper finds them by eye; the rule is ours (departure D25).
    """
    check_fits(model, sae)
    if study.in_class.shape != tuple(tokens.shape):
        raise BookError(f"the study is about {study.in_class.shape} tokens and {tuple(tokens.shape)} were given; give the measured half")
    gap = study.in_class & (study.acts == 0)
    member = torch.from_numpy(np.stack([np.ones_like(gap), study.in_class, gap], axis=-1).astype(np.float32))
    counts = torch.zeros(len(sae.W_dec), 3, dtype=torch.float64, device=model.device)
    for rows in context_batches(tokens, len(sae.W_dec)):
        x = model.begin(tokens[rows].to(model.device))[1].flatten(0, 1)
        counts += sae.encode(x).sign().T @ member[rows].flatten(0, 1).to(model.device)
    firings, inside, filled = counts.cpu().numpy().astype(np.int64).T
    table = pd.DataFrame({"feature": np.arange(len(firings)), "firings": firings, "precision": inside / np.maximum(firings, 1)})
    table["filled"], table["share_of_gap"] = filled, filled / max(1, gap.sum())
    kept = table[(table["precision"] > precision) & (table["filled"] >= min_filled) & (table["feature"] != study.feature)]
    return kept.sort_values(["filled", "feature"], ascending=[False, True], ignore_index=True)


def twin(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    other_model: OneLayerTransformer,
    other_sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    study: CaseStudy,
) -> Twin:
    """The feature of another model's dictionary that fires most like the study's, over identical tokens.

    As in `features.case_studies`, it is chosen on the first half of the contexts and measured on the second.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        other_model: the other model, with the same tokenizer.
        other_sae: its dictionary.
        tokens: both halves, of which the study is measured on the second.
        study: the feature.

    Raises:
        BookError: nothing in the other model varies on these tokens, or the study was measured on others.

    Source: Bricken et al. 2023, "Universality" (B/1/1334 beside A/1/3450: 0.91).
    """
    half = len(tokens) // 2
    if study.acts.shape != tuple(tokens[half:].shape):
        raise BookError(f"the study is about {study.acts.shape} tokens and {tuple(tokens.shape)} were given; give both halves")
    ours = features.activations_of(model, sae, tokens[:half], [study.feature])[..., 0]
    table = features.correlations(other_model, other_sae, tokens[:half], {"ours": ours})
    (match, _), (neuron, _) = (features.best(table, "ours", kind) for kind in ("feature", "neuron"))
    pair = np.array([[study.feature, match]])
    found = universality.pair_similarities(model, sae, other_model, other_sae, pair, tokens[half:]).iloc[0]
    of_neuron = features.neuron_activations(other_model, tokens[half:], [neuron])[..., 0]
    likeness = features.pearson_interval(of_neuron, study.acts, study.document)[0]
    return Twin(match, *(float(found[name]) for name in ("activation", "logit", "attribution")), neuron, likeness)


def examples_of_neurons(
    model: OneLayerTransformer, tokens: Int[Tensor, "context pos"], in_class: Bool[np.ndarray, "context pos"], n: int = 20
) -> pd.DataFrame:
    """How many of each neuron's strongest examples belong to a class.

    Args:
        model: the model.
        tokens: token ids.
        in_class: which tokens belong.
        n: examples of each neuron; one that an earlier example already shows is skipped.

    Returns:
        One row a neuron: `neuron`, `examples` (fewer than n if it fires more rarely) and `in_class`, how many of them belong.

    Source: Bricken et al. 2023, "Arabic Script Feature" (one Arabic example among the 20 strongest of all 512 neurons).
    """
    top = evidence.gather(model, None, tokens, n_top=n, n_each=1, k=1).top
    there = top.context >= 0
    inside = there & in_class[top.context, top.pos]
    return pd.DataFrame({"neuron": np.arange(len(there)), "examples": there.sum(1), "in_class": inside.sum(1)})


def growth(intervals: pd.DataFrame, n_least: int = FEW) -> float:
    """Whether taking a feature off costs its class more, the stronger it fired.

        Spearman correlation of the interval's number with the mean loss of next tokens in the class

    Args:
        intervals: of `interventions.ablation_by_class`.
        n_least: an interval with fewer such tokens is left out.

    Returns:
        A value in [-1, 1]; 0 where fewer than three intervals are left, or all lose alike.

    Source: ours; Bricken et al. 2023 show examples of two intervals.
    """
    known = intervals[intervals["n_in_class"] >= n_least]
    found = known["interval"].rank().corr(-known["in_class"].rank()) if len(known) > 2 and known["in_class"].nunique() > 1 else 0.0
    return float(found)


def share_written(
    written: Int[np.ndarray, "sample pos"],
    background: Int[Tensor, "context n_ctx"],
    judge: Callable[[Int[Tensor, "row n_ctx"]], Bool[np.ndarray, "row n_ctx"]],
) -> float:
    """Share of the tokens that a model wrote which belong to a class.

    A proxy that asks how common a class is at large must not ask samples that hold little else. So they are judged among
    other text.

    Args:
        written: token ids of the samples, without the prompt.
        background: text at large, in contexts at least as long as a sample.
        judge: which tokens belong, for instance by a proxy.

    Raises:
        BookError: a sample is longer than a context.

    Source: ours.
    """
    if written.shape[1] > background.shape[1]:
        raise BookError(f"a sample has {written.shape[1]} tokens and a context {background.shape[1]}; write fewer tokens")
    # Token 0 ends a document, so what follows a sample has nothing to do with it.
    padded = torch.zeros(len(written), background.shape[1], dtype=background.dtype)
    padded[:, : written.shape[1]] = torch.from_numpy(written)
    return float(judge(torch.cat([background, padded]))[len(background) :, : written.shape[1]].mean())


def written_strips(
    written: Int[np.ndarray, "sample pos"], acts: Float[np.ndarray, "sample pos"], table: TokenTable, n: int = 3
) -> pd.DataFrame:
    """The first samples as `viz.token_strips` takes them.

    Args:
        written: token ids of the samples.
        acts: how strongly a feature fires when it reads them.
        table: the bytes of the tokens.
        n: samples shown.

    Returns:
        `rank` (number of the sample), `activation` (its largest) and `tokens` (pairs of text and activation).

    Source: ours.
    """
    rows = zip(written[:n], acts[:n], strict=True)
    strips = [[(table.text(int(token)), float(act)) for token, act in zip(ids, values, strict=True)] for ids, values in rows]
    return pd.DataFrame({"rank": range(1, len(strips) + 1), "activation": acts[:n].max(1), "tokens": strips})


def preferred_kinds(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    chosen: Sequence[int],
    word: Bool[np.ndarray, "..."],
    kind: Integer[np.ndarray, "..."],
    least: int = 10,
) -> pd.DataFrame:
    """The kind of text in which each feature of a word prefers it: chosen on the first half of the contexts, measured on the second.

        lift_ik = (f_i on the word in kind k / f_i on the word) / (the word's tokens in kind k / the word's tokens)

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.
        chosen: indices of features.
        word: which tokens are the word.
        kind: the kind of text that each token stands in, numbered from 0.
        least: a kind with fewer of the word in either half is not judged.

    Returns:
        One row a feature: `feature`, `on_word` (share of its activation in [0, 1]), `kind` (-1 where none is judged or it is silent on
        the word in the first half) and `lift` in that kind on the second half, 0 or above (nan where it is silent there).

    Raises:
        BookError: `word` or `kind` is not of the tokens.

    Source: ours; Bricken et al. 2023, "Feature Splitting" ("the" in mathematical prose), name the kinds by reading.
    """
    for name, values in (("word", word), ("kind", kind)):
        if values.shape != tuple(tokens.shape):
            raise BookError(f"{name} of shape {values.shape} does not go with tokens of shape {tuple(tokens.shape)}; give one a token")
    n_kinds, n = int(kind.max(initial=0)) + 1, len(chosen)
    place = kind + n_kinds * (2 * np.arange(len(kind)) // len(kind))[:, None]
    words = np.bincount(place[word], minlength=2 * n_kinds).reshape(2, n_kinds)
    found = np.zeros((2 * n_kinds, n, 4))
    if n:
        keys, ones = word.astype(np.int64), np.ones(n, np.int64)
        found[np.unique(place)] = splitting.sums_by_document(model, sae, tokens, chosen, keys, ones, place)
    spent = found[..., 3].reshape(2, n_kinds, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = spent / spent.sum(1, keepdims=True) / (words / words.sum(1, keepdims=True))[..., None]
    first = np.where((words >= least).all(0)[:, None] & (lift[0] > 0), lift[0], -np.inf)
    best = first.argmax(0)
    is_known = np.isfinite(first.max(0))
    on_word = found[..., 3].sum(0) / np.maximum(found[..., 2].sum(0), 1e-30)
    columns = {"feature": np.array(chosen, np.int64), "on_word": on_word, "kind": np.where(is_known, best, -1)}
    return pd.DataFrame(columns | {"lift": np.where(is_known, lift[1, best, np.arange(n)], np.nan)})


def precision_at_top(
    acts: Float[np.ndarray, "*tokens"], in_class: Bool[np.ndarray, "*tokens"], n_least: int = TOP_TOKENS
) -> tuple[float, int]:
    """Share of a feature's strongest tokens that belong to a class.

    The strongest are those in the highest of eleven equal intervals of its activation, and in those beneath it until
    there are enough.

    Args:
        acts: activations of one feature or neuron.
        in_class: which tokens belong.
        n_least: fewest tokens to judge by.

    Returns:
        The share in [0, 1] and the number of tokens; nan and 0 if it never fires.

    Source: Bricken et al. 2023 (11 equal intervals); that they are joined is ours (departure D26).
    """
    from_top = features.specificity_by_interval(acts, in_class)[["count", "n_in_class"]].iloc[::-1].cumsum()
    enough = from_top[from_top["count"] >= n_least]
    count, inside = (enough if len(enough) else from_top.tail(1)).iloc[0]
    return (float(inside / count), int(count)) if count else (float("nan"), 0)


def compact_cards(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    classes: Mapping[str, Bool[np.ndarray, "context pos"]],
    document: Int[np.ndarray, "context pos"],
    table: TokenTable,
    unigram_counts: Int[np.ndarray, " d_vocab"] | None = None,
) -> Cards:
    """Take several categories to a verdict, each by the same six measurements.

    The feature is chosen on the first half of the contexts; what follows is measured on the second: its correlation with
    the category, the precision at the top of its range, its recall, the best neuron's correlation, what taking it off
    costs next tokens of the category and others, and the tokens that it writes.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.
        classes: which tokens belong to each category.
        document: which document each token belongs to.
        table: the bytes of the tokens.
        unigram_counts: occurrences of each token id; if given, rare tokens are not named among those that it writes.

    Returns:
        `Cards`, whose table has for each category, in the order given: `category`, `share` (of all tokens), `verdict`
        ("found", "not found", or "not in this text" where either half has too few tokens), `feature`, `pearson` with
        `low` and `high` (95% interval over documents), `precision_top` and `n_top`, `recall`, `neuron`,
        `neuron_pearson`, `loss_in_class` and `loss_other` (nats a next token where the feature fires) and `writes`.

    Raises:
        BookError: as `features.case_studies`.

    Source: ours; the measurements are those of the paper's case studies, and the rule of the verdict is departure D26.
    """
    half = len(tokens) // 2
    present = {name: member for name, member in classes.items() if min(member[:half].sum(), member[half:].sum()) >= MIN_TOKENS}
    studies = features.case_studies(model, sae, tokens, present, document) if present else {}
    chosen = [study.feature for study in studies.values()]
    top = interventions.logit_effects(model, sae, chosen, unigram_counts, k=5).top if chosen else []
    writes = {name: " | ".join(_shown(table.text(int(token))) for token in row) for name, row in zip(studies, top, strict=True)}
    rows = []
    for name, member in classes.items():
        row = {"category": name, "share": float(member.mean()), "verdict": "not in this text"}
        if name in studies:
            row |= _card(model, sae, tokens[half:], studies[name]) | {"writes": writes[name]}
            found = row["pearson"] >= FOUND_PEARSON and row["precision_top"] >= FOUND_PRECISION
            row["verdict"] = "found" if found else "not found"
        rows.append(row)
    # As objects, so that a number of a feature stays whole beside a row that has none.
    return Cards(pd.DataFrame(rows, columns=list(CARD), dtype=object), studies)


def _card(model: OneLayerTransformer, sae: SparseAutoencoder, tokens: Int[Tensor, "context pos"], study: CaseStudy) -> dict:
    ours = study.correlations.set_index("kind").loc["feature"]
    precision, n_top = precision_at_top(study.acts, study.in_class)
    ablation = interventions.ablation_by_class(model, sae, tokens, study.feature, study.in_class, study.document)
    return {
        "feature": study.feature,
        **{name: float(ours[name]) for name in ("pearson", "low", "high")},
        "precision_top": precision,
        "n_top": n_top,
        "recall": float((study.acts[study.in_class] > 0).mean()),
        "neuron": study.neuron,
        "neuron_pearson": study.pearson("neuron"),
        "loss_in_class": -ablation.in_class,
        "loss_other": -ablation.other,
    }


def _shown(text: str) -> str:
    # What does not print could reorder or hide what stands beside it.
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
