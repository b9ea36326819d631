"""Features that drive one another through the tokens they write, as the states of a finite automaton.

    edge i -> j:  feature i fires, one of the tokens it raises most comes next, and there feature j fires far more often than usual

Nothing passes from feature to feature inside a one-layer model: a step of the automaton is a token that is written and
read again. So the edges are counted on text, best on text that the model itself has written.

Source: Bricken et al. 2023, "Finite State Automata" (loops read off by eye from logit weights and activations).
Differs: found by rule, and held against a control in which the features' tokens are exchanged.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import networkx as nx
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Int32, Int64, UInt64
from scipy.sparse import csr_matrix
from torch import Tensor

from sae_lib import bootstrap
from sae_lib.errors import BookError
from sae_lib.metrics import check_fits, context_batches
from sae_lib.sae import SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer

EDGE_COLUMNS = ("source", "target", "hits", "steps", "probability", "base", "lift", "gain", "together")
"""Columns of `edges`."""


class Transitions(NamedTuple):
    """How often one feature fires after another, on some text."""

    n_tokens: int
    """Tokens that have one before them in their context."""
    fired: Int64[np.ndarray, " feature"]
    """On how many of these each feature fires."""
    before: Int64[np.ndarray, " feature"]
    """On how many tokens with a next one each feature fires."""
    steps: Int64[np.ndarray, " feature"]
    """After how many of these the next token is among those that the feature raises most."""
    hits: Int32[np.ndarray, "feature feature"]
    """After how many of the row's steps the column's feature fires on that next token."""
    after: Int32[np.ndarray, "feature feature"]
    """How often the column's feature fires on the next token, whatever it is, after the row's fired."""
    together: Int32[np.ndarray, "feature feature"]
    """Tokens with a next one on which both fire."""


class Phrase(NamedTuple):
    """A run of tokens that a text repeats."""

    tokens: Int64[np.ndarray, " length"]
    """Token ids."""
    context: Int64[np.ndarray, " place"]
    """Rows of the text in which it stands."""
    pos: Int64[np.ndarray, " place"]
    """Where in the row its first token stands."""
    n_documents: int
    """Different documents that hold it."""


def raised_tokens(top: Int[np.ndarray, "feature k"], d_vocab: int) -> Bool[np.ndarray, "feature d_vocab"]:
    """Which tokens each feature raises most, as a table of yes and no.

    Args:
        top: ids of each feature's tokens of largest logit weight, such as `interventions.logit_effects(...).top`.
        d_vocab: size of the vocabulary.

    Raises:
        BookError: an id lies outside the vocabulary.

    Source: Bricken et al. 2023, "Finite State Automata" (the top positive logits).
    """
    if top.size and not 0 <= top.min() <= top.max() < d_vocab:
        raise BookError(f"token ids from {top.min()} to {top.max()} are not those of a vocabulary of {d_vocab}; take them from this model")
    raised = np.zeros((len(top), d_vocab), bool)
    np.put_along_axis(raised, top, True, axis=1)
    return raised


@torch.inference_mode()
def transitions(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    raised: Bool[np.ndarray, "..."],
    batch_contexts: int | None = None,
) -> Transitions:
    """Count, over a text, which features fire on the token after each feature.

        hits_ij = #{t : f_i(t) > 0, token t+1 in raised_i, f_j(t+1) > 0},   steps_i = #{t : f_i(t) > 0, token t+1 in raised_i}

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids, at least 2 a context; best sampled from the model.
        raised: one row a feature and one column a token, of `raised_tokens`.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Returns:
        Counts in memory of three tables of features by features; the tokens stream.

    Raises:
        BookError: the dictionary or the table of tokens belongs to another model, or the contexts are too short.

    Source: Bricken et al. 2023, "Finite State Automata".
    """
    check_fits(model, sae)
    d_sae, d_vocab = sae.W_dec.shape[0], model.W_U.shape[1]
    if raised.shape != (d_sae, d_vocab):
        raise BookError(f"raised has shape {raised.shape}, but the dictionary has {d_sae} features and the model {d_vocab} tokens")
    if tokens.shape[1] < 2:
        raise BookError("a step needs a token and the next one; give contexts of at least 2 tokens")
    hits, after, together = (np.zeros((d_sae, d_sae), np.int32) for _ in range(3))
    fired, before, steps = (np.zeros(d_sae, np.int64) for _ in range(3))
    for rows in context_batches(tokens, max(d_sae, model.W_out.shape[0]), batch_contexts):
        active = (sae.encode(model.begin(tokens[rows].to(model.device))[1]) > 0).cpu()
        now, then = (_indicator(part.flatten(0, 1)) for part in (active[:, :-1], active[:, 1:]))
        where = now.tocoo()
        chosen = raised[where.col, tokens[rows, 1:].cpu().numpy().ravel()[where.row]]
        stepping = csr_matrix((where.data[chosen], (where.row[chosen], where.col[chosen])), now.shape)
        for table, left, right in ((hits, stepping, then), (after, now, then), (together, now, now)):
            product = (left.T.tocsr() @ right).tocoo()
            table[product.row, product.col] += product.data
        for total, part in ((fired, then), (before, now), (steps, stepping)):
            total += np.bincount(part.indices, minlength=d_sae)
    return Transitions(tokens.shape[0] * (tokens.shape[1] - 1), fired, before, steps, hits, after, together)


def edges(counts: Transitions, min_lift: float = 10.0, min_hits: int = 10, max_together: float = 0.5) -> pd.DataFrame:
    """The pairs of features of which one drives the other.

        probability = hits / steps,   base = fired_j / tokens,   lift = probability / base
        gain = probability / P(j on the next token | i fires),   together = P(both fire) / min(P(i fires), P(j fires))

    Two features that fire on the same tokens follow each other without driving each other, so a pair that fires together
    too often is left out. A feature may drive itself.

    Args:
        counts: of `transitions`.
        min_lift: smallest lift.
        min_hits: fewest transitions seen; below, a lift is chance.
        max_together: largest share of the rarer feature's tokens on which the other fires too.

    Returns:
        One row an edge, the most probable first: `source`, `target` (features), `hits`, `steps`, `probability`, `base`, `lift`,
        `gain` (above 1 where it matters that a raised token came) and `together`; no rows if there is none.

    Source: Bricken et al. 2023, "Finite State Automata". Differs: the paper looks at examples; the rule is ours.
    """
    source, target = np.nonzero(counts.hits >= max(1, min_hits))
    hits, steps = counts.hits[source, target].astype(np.int64), counts.steps[source]
    probability, base = hits / steps, counts.fired[target] / counts.n_tokens
    share = counts.together[source, target] / np.minimum(counts.before[source], np.maximum(counts.before[target], 1))
    columns = (source, target, hits, steps, probability, base, probability / base)
    columns += (probability / (counts.after[source, target] / counts.before[source]), share)
    table = pd.DataFrame(dict(zip(EDGE_COLUMNS, columns, strict=True)))
    kept = table[(table["lift"] >= min_lift) & ((table["together"] <= max_together) | (table["source"] == table["target"]))]
    return kept.sort_values(["probability", "source", "target"], ascending=[False, True, True], ignore_index=True)


def loops(table: pd.DataFrame, n: int = 20, shortest: int = 2) -> list[list[int]]:
    """Cycles of features, those first whose least probable step is most probable; no feature is in two of them.

    Edges are let in from the most probable down until a cycle closes; it is taken out with its features, and so on.

    Args:
        table: of `edges`.
        n: at most so many.
        shortest: fewest features of a cycle; 1 also takes features that drive themselves.

    Returns:
        The features of each cycle in the order of its steps; the last one drives the first. An empty list where there is none.

    Source: Bricken et al. 2023, "Finite State Automata" (loops of one, two and four features). Differs: the rule is ours.
    """
    left = table if shortest == 1 else table[table["source"] != table["target"]]
    left = left.sort_values(["probability", "source", "target"], ascending=[False, True, True])
    found = []
    while len(found) < n:
        pairs = list(left[["source", "target"]].itertuples(index=False, name=None))

        def closes(n_edges: int, pairs: list[tuple[int, int]] = pairs) -> bool:
            return not nx.is_directed_acyclic_graph(nx.DiGraph(pairs[:n_edges]))

        high = 1
        while high < len(pairs) and not closes(high):
            high *= 2
        if not closes(high):
            break
        n_edges = bisect_left(range(high), True, lo=high // 2, key=closes)
        last, first = pairs[min(n_edges, len(pairs)) - 1]
        # The edge let in last closes the cycle; it begins with the feature of the lowest number.
        cycle = nx.shortest_path(nx.DiGraph(pairs[:n_edges]), first, last)
        turn = cycle.index(min(cycle))
        found.append([int(feature) for feature in cycle[turn:] + cycle[:turn]])
        left = left[~(left["source"].isin(cycle) | left["target"].isin(cycle))]
    return found


def chains(table: pd.DataFrame, n: int = 10) -> list[list[int]]:
    """Walks along the most probable edge of each feature, as far as no feature comes twice; the longest first.

    Args:
        table: of `edges`.
        n: at most so many; a walk that lies within one already taken is left out.

    Returns:
        The features of each walk in order, at least 2.

    Source: Bricken et al. 2023, "Finite State Automata". Differs: the rule is ours.
    """
    left = table[table["source"] != table["target"]].sort_values(["probability", "target"], ascending=[False, True])
    following = left.drop_duplicates("source").set_index("source")["target"].to_dict()
    walks = []
    for start in sorted(following):
        walk = [int(start)]
        while (feature := following.get(walk[-1])) is not None and feature not in walk:
            walk.append(int(feature))
        walks.append(walk)
    taken: list[list[int]] = []
    for walk in sorted(walks, key=len, reverse=True):
        if len(taken) < n and not any(set(walk) <= set(longer) for longer in taken):
            taken.append(walk)
    return taken


def loop_edges(table: pd.DataFrame, loop: list[int]) -> pd.DataFrame:
    """The rows of `edges` along a loop, in its order, each with what drives each feature.

    Raises:
        BookError: a step of the loop is no edge of the table.

    Source: ours.
    """
    wanted = list(zip(loop, [*loop[1:], loop[0]], strict=True))
    rows = table.set_index(["source", "target"], drop=False)
    missing = [pair for pair in wanted if pair not in rows.index]
    if missing:
        raise BookError(f"{missing[0][0]} does not drive {missing[0][1]} in this table; take loop and edges from the same counts")
    return rows.loc[wanted].reset_index(drop=True)


def lift(
    source: Bool[np.ndarray, "context pos"],
    target: Bool[np.ndarray, "context pos"],
    raised: Bool[np.ndarray, "context pos"],
    document: Int[np.ndarray, "context pos"],
    seed: int = 0,
) -> dict[str, int | float]:
    """The lift of one edge on some text, with its interval by bootstrap over documents.

    Args:
        source: tokens on which the driving feature fires.
        target: tokens on which the driven feature fires.
        raised: tokens that the driving feature raises most.
        document: which document each token belongs to; for samples of a model, which sample.
        seed: of the draws.

    Returns:
        `hits`, `steps`, `lift` (0 where nothing was hit, nan where no step was made), and the ends `low` and `high` of its
        95% interval.

    Raises:
        BookError: the contexts are shorter than 2 tokens.

    Source: ours.
    """
    if source.shape[1] < 2:
        raise BookError("a step needs a token and the next one; give contexts of at least 2 tokens")
    step, then = source[:, :-1] & raised[:, 1:], target[:, 1:]
    sums = bootstrap.sums(document[:, 1:], np.stack([step & then, step, then, np.ones_like(then)], axis=-1).astype(np.float64))

    def statistic(totals: Float[np.ndarray, "draw 4"]) -> Float[np.ndarray, " draw"]:
        hits, steps, fired, n = totals.T
        return hits * n / (steps * fired)

    total = sums.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # A driven feature that never fires here has a lift of nothing by nothing.
        found = 0.0 if total[1] > 0 and total[0] == 0 else float(statistic(total[None])[0])
    low, high = bootstrap.interval(statistic, sums, seed=seed)
    return {"hits": int(total[0]), "steps": int(total[1]), "lift": found, "low": low, "high": high}


@torch.inference_mode()
def features_by_kind(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    kinds: Mapping[str, Bool[np.ndarray, "..."]],
    precision: float = 0.5,
    min_firings: int = 10,
) -> dict[str, list[int]]:
    """The features that fire mostly on tokens of each of several kinds, in one pass.

        precision = #(fires on a token of the kind) / #(fires)

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: token ids.
        kinds: which tokens are of each kind; the shape of `tokens`.
        precision: lowest precision that counts.
        min_firings: fewest firings that count.

    Returns:
        Features under each kind, the most frequent first.

    Raises:
        BookError: a kind is of other tokens.

    Source: ours; the paper's machines are named by what their features fire on.
    """
    check_fits(model, sae)
    for kind, member in kinds.items():
        if member.shape != tuple(tokens.shape):
            raise BookError(f"{kind!r} has shape {member.shape} but the tokens have {tuple(tokens.shape)}; compute it on the same tokens")
    d_sae = sae.W_dec.shape[0]
    classes = torch.from_numpy(np.stack([np.ones(tuple(tokens.shape), bool), *kinds.values()], axis=-1))
    counts = torch.zeros(d_sae, len(kinds) + 1, dtype=torch.float64, device=model.device)
    for rows in context_batches(tokens, max(d_sae, model.W_out.shape[0])):
        active = (sae.encode(model.begin(tokens[rows].to(model.device))[1]) > 0).flatten(0, 1)
        counts += active.T.float() @ classes[rows].flatten(0, 1).float().to(model.device)
    fired, *inside = counts.T.cpu().numpy()
    frequent = np.argsort(-fired, kind="stable")
    return {
        kind: [int(i) for i in frequent if fired[i] >= max(1, min_firings) and found[i] >= precision * fired[i]]
        for kind, found in zip(kinds, inside, strict=True)
    }


def walks(fires: Bool[np.ndarray, "context pos state"], n: int = 5) -> pd.DataFrame:
    """The longest stretches of text on which the states of a loop fire one after the other, token by token.

    Args:
        fires: whether each state of the loop fires on each token, in the order of the loop.
        n: at most so many, the longest first; no two share a token.

    Returns:
        `context`, `pos` (first token), `length` (tokens) and `state` (which state of the loop it begins with); no rows if no
        state fires.

    Source: Bricken et al. 2023, "Finite State Automata" (samples that go round the loop).
    """
    run = fires[:, 0].astype(np.int64)
    runs = [run]
    for pos in range(1, fires.shape[1]):
        run = np.where(fires[:, pos], 1 + np.roll(run, 1, axis=1), 0)
        runs.append(run)
    length = np.stack(runs, axis=1)
    free, found = np.ones(fires.shape[:2], bool), []
    for flat in np.argsort(-length, axis=None, kind="stable"):
        context, last, state = (int(place) for place in np.unravel_index(flat, length.shape))
        steps = int(length[context, last, state])
        if len(found) == n or steps == 0:
            break
        taken = slice(last - steps + 1, last + 1)
        if free[context, taken].all():
            free[context, taken] = False
            found.append((context, last - steps + 1, steps, (state - steps + 1) % fires.shape[2]))
    return pd.DataFrame(found, columns=["context", "pos", "length", "state"])


def repeated_phrases(
    tokens: Int[Tensor, "context pos"],
    documents: Int[np.ndarray, "context pos"],
    length: int = 8,
    n: int = 20,
    min_documents: int = 5,
    min_distinct: int = 5,
) -> list[Phrase]:
    """The phrases that most documents of a text share.

    Args:
        tokens: token ids.
        documents: which document each token belongs to.
        length: tokens a phrase.
        n: at most so many, those of most documents first; a phrase that mostly overlaps with one already taken is left out.
        min_documents: fewest documents that hold it.
        min_distinct: fewest different tokens in it, so that a ruled line is no phrase.

    Raises:
        BookError: the documents are of other tokens, or a context is shorter than the phrase.

    Source: ours (the paper's phrase, the end of a software licence, was found by eye).
    """
    ids = tokens.cpu().numpy().astype(np.uint64)
    if documents.shape != ids.shape:
        raise BookError(f"documents has shape {documents.shape} but the tokens have {ids.shape}; take both from the same text")
    if not 1 <= length <= ids.shape[1]:
        raise BookError(f"a phrase of {length} tokens does not fit in contexts of {ids.shape[1]}; ask for a shorter one")
    n_starts = ids.shape[1] - length + 1
    # Equal windows have equal hashes; 64 bits leave no room for two windows of one text to meet by chance.
    key = np.zeros((len(ids), n_starts), np.uint64)
    for offset in range(length):
        key = key * np.uint64(0x9E3779B97F4A7C15) + ids[:, offset : offset + n_starts] + np.uint64(1)
    # Within one document only the first of several equal windows counts, and none that runs on into the next document.
    inside = documents[:, :n_starts] == documents[:, length - 1 :]
    pairs = np.unique(np.stack([key[inside], documents[:, :n_starts][inside].astype(np.uint64)], axis=1), axis=0)
    keys, n_documents = np.unique(pairs[:, 0], return_counts=True)
    common = n_documents >= min_documents
    keys, n_documents = keys[common], n_documents[common]
    places = _places(key, inside, keys)
    covered, found = np.zeros(ids.shape, bool), []
    first = np.array([(context[0], pos[0]) for context, pos in places], np.int64).reshape(-1, 2)
    for rank in np.lexsort((first[:, 1], first[:, 0], -n_documents)):
        if len(found) == n:
            break
        context, pos = places[rank]
        words = ids[context[0], pos[0] : pos[0] + length].astype(np.int64)
        if len(set(words.tolist())) < min_distinct or covered[context[:, None], pos[:, None] + np.arange(length)].mean() > 0.5:
            continue
        covered[context[:, None], pos[:, None] + np.arange(length)] = True
        found.append(Phrase(words, context, pos, int(n_documents[rank])))
    return found


@torch.inference_mode()
def phrase_chains(
    model: OneLayerTransformer,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "context pos"],
    phrases: list[Phrase],
    agreement: float = 0.5,
    batch_contexts: int | None = None,
) -> pd.DataFrame:
    """For each token of each phrase, the feature that fires there and nowhere else, and how long a chain they form.

        precision = #(fires at this token of the phrase) / #(fires),   recall = #(fires at this token) / #(the phrase occurs)

    The feature is chosen by F1 on the first half of the contexts and held to `agreement` on the second half.

    Args:
        model: the model whose MLP activations the dictionary reads.
        sae: the dictionary.
        tokens: the text that the phrases were found in.
        phrases: of `repeated_phrases`.
        agreement: what precision and recall must both reach on the second half.
        batch_contexts: contexts a batch; None chooses so that a batch fits in about 128 MiB.

    Returns:
        One row for each token of each phrase: `phrase` and `place` (from 0), `token`, `feature`, `precision` and `recall` (on the
        second half, in [0, 1]), `holds`, and `chain`: how many tokens in a row, up to this one, each hold a feature of their own.
        No rows if there is no phrase.

    Source: Bricken et al. 2023, "Finite State Automata" (the memorised phrase). Differs: the rule is ours.
    """
    check_fits(model, sae)
    columns = ["phrase", "place", "token", "feature", "precision", "recall", "holds", "chain"]
    if not phrases:
        return pd.DataFrame(columns=columns)
    length, d_sae = len(phrases[0].tokens), sae.W_dec.shape[0]
    cell = np.full(tuple(tokens.shape), -1, np.int64)
    for number, phrase in enumerate(phrases):
        cell[phrase.context[:, None], phrase.pos[:, None] + np.arange(length)] = number * length + np.arange(length)
    n_cells, half = len(phrases) * length, len(tokens) // 2
    inside, fired, occurs = np.zeros((2, n_cells, d_sae), np.int32), np.zeros((2, d_sae), np.int64), np.zeros((2, n_cells), np.int64)
    for part, start, stop in ((0, 0, half), (1, half, len(tokens))):
        for rows in context_batches(tokens[start:stop], d_sae, batch_contexts) if stop > start else ():
            batch = tokens[start:stop][rows].to(model.device)
            active = _indicator((sae.encode(model.begin(batch)[1]) > 0).cpu().flatten(0, 1)).tocoo()
            here = cell[start:stop][rows].ravel()
            fired[part] += np.bincount(active.col, minlength=d_sae)
            kept = here[active.row] >= 0
            np.add.at(inside[part], (here[active.row[kept]], active.col[kept]), 1)
            occurs[part] += np.bincount(here[here >= 0], minlength=n_cells)
    f1 = 2 * inside[0] / np.maximum(fired[0] + occurs[0][:, None], 1)
    best, everywhere = f1.argmax(1), np.arange(n_cells)
    precision = inside[1, everywhere, best] / np.maximum(fired[1, best], 1)
    recall = inside[1, everywhere, best] / np.maximum(occurs[1], 1)
    table = pd.DataFrame({"phrase": everywhere // length, "place": everywhere % length})
    table["token"] = np.concatenate([phrase.tokens for phrase in phrases])
    table = table.assign(feature=best, precision=precision, recall=recall, holds=(precision >= agreement) & (recall >= agreement))
    table["chain"] = list(_chain_lengths(table))
    return table[columns]


def _chain_lengths(table: pd.DataFrame) -> Iterator[int]:
    chain: list[int] = []
    for row in table.itertuples():
        if row.place == 0 or not row.holds:
            chain = []
        if row.holds:
            # A feature that comes again ends what came before it, since a chain is of different features.
            chain = [*(chain[chain.index(row.feature) + 1 :] if row.feature in chain else chain), row.feature]
        yield len(chain)


def _indicator(active: Bool[Tensor, "token feature"]) -> csr_matrix:
    row, column = (place.numpy() for place in active.nonzero(as_tuple=True))
    return csr_matrix((np.ones(len(row), np.int32), (row, column)), tuple(active.shape))


def _places(
    key: UInt64[np.ndarray, "context start"], inside: Bool[np.ndarray, "context start"], keys: UInt64[np.ndarray, " key"]
) -> list[tuple[Int64[np.ndarray, " place"], Int64[np.ndarray, " place"]]]:
    """Row and position of every window with each of some hashes."""
    context, pos = np.nonzero(inside & np.isin(key, keys))
    order = np.argsort(key[context, pos], kind="stable")
    context, pos = context[order], pos[order]
    edges_of = np.searchsorted(key[context, pos], keys, side="left"), np.searchsorted(key[context, pos], keys, side="right")
    return [(context[low:high], pos[low:high]) for low, high in zip(*edges_of, strict=True)]
