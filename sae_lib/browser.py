"""The feature browser's data: every feature and neuron as small JSON files, which a page fetches when they are wanted.

atlas.json                    what there is: sets of units, labels, texts
vocab.json                    every token as a reader sees it
A-1/index.json                columns over all units of A/1: density, maximum, best label, top tokens
A-1/cards-003.json            the cards of units 96 to 127
A-1/text-07.json              which units fire on the tokens of a text
texts.json, map.json          the texts; where the features lie

All text shown is the book's own, whatever the models were trained on, so that no page shows anybody else's.

Source: Bricken et al. 2023, the interface published beside the paper.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Int64
from tqdm import tqdm

from sae_lib.corpus import STRATA, Document, LabelledText, anthology, labelled_text, labels_for_tokens, pocket_documents, pocket_labels
from sae_lib.corpus.labels import TRUTH_SPLIT
from sae_lib.corpus.pocket import PocketSource
from sae_lib.errors import BookError
from sae_lib.evidence import CONTEXT, Evidence, Examples, gather, nearest_rows, neuron_alignment, windows
from sae_lib.features import Kind
from sae_lib.interpret import Judge, opinions
from sae_lib.interventions import logit_effects, place_effects
from sae_lib.judges import Rules
from sae_lib.lab import Lab
from sae_lib.metrics import ULTRALOW_FIRINGS
from sae_lib.proxies import TokenTable
from sae_lib.rating import RUBRIC
from sae_lib.runs import runs_folder
from sae_lib.sae import SparseAutoencoder
from sae_lib.splitting import clusters, embed, masked_cosine
from sae_lib.storage import fingerprint, project_root, read_json, reading, write_atomic, write_folder
from sae_lib.transformer import OneLayerTransformer
from sae_lib.truth import TruthScores, best_labels, judged, kept_scores, truth_scores
from sae_lib.universality import closest
from sae_lib.viz.text import visible

FORMAT = 3
"""Version of the files' layout; the page refuses another."""
NEURONS = "A/neurons"
"""The set of all neurons of model A."""
CHUNK = 32
"""Cards in one file."""
AT_A_TIME = 2_048
"""Units whose examples are looked up together: for fewer the model would read the same contexts again and again."""
MIN_F1, MIN_PRECISION = 0.2, 0.5
"""What a label must reach, one of the two, for a unit to be called by it; a part of a script has a low F1 and a high precision."""
MIN_FIRED = 20
"""Tokens that a unit must fire on before it is called by a label."""
N_TEXTS = 25
"""Texts of the text view, as in the paper's."""
PER_TOKEN = 20
"""Units listed at a token of a text, the strongest."""
RELATIVES = 5
"""Parents, children, nearest features and neurons shown on a card."""
TWINS = 3
"""Features shown whose activations go with a unit's most, in its own dictionary and in the other model's, as in the paper's."""
MAP = ("A/0", "A/1")
"""Dictionaries on the map, as in the paper's."""
_OPINIONS = ("f1", "precision", "explanation", "score")
_RESTORE = "restore it from the repository, or delete it"


class Sizes(NamedTuple):
    """How much an atlas is made from, and how much a card shows."""

    n_tokens: int = 600_000
    """Labelled tokens looked at."""
    n_top: int = 20
    """Strongest examples of each unit."""
    n_each: int = 5
    """Examples from each interval and from the bottom."""
    n_related: int = 200_000
    """Of the tokens, those on which features of different dictionaries are compared; the widest dictionary is costly."""


QUICK = Sizes(100_000, 8, 1, 24_576)
"""Enough to see how the browser works, in a minute or two."""


class Units(NamedTuple):
    """The features of a dictionary or some of them, or the neurons of a model."""

    name: str
    """Such as A/1 or A/neurons."""
    model: OneLayerTransformer
    """The model that they belong to."""
    sae: SparseAutoencoder | None
    """The dictionary, with these features only; None for neurons."""
    numbers: Int64[np.ndarray, " unit"]
    """What each is called in the whole dictionary."""
    n: int
    """Features of the whole dictionary."""


class Passage(NamedTuple):
    """A text of the text view."""

    name: str
    """What it is called."""
    document: Document
    """The text and its labels."""


def atlas(lab: Lab, quick: bool = False, progress: bool = False) -> Path:
    """The folder of a lab's atlas, computed unless it is there already.

    Args:
        lab: says which runs; what is not trained yet is trained.
        quick: be content with a look at less text and without explanations, unless more is there already.
        progress: show bars.

    Returns:
        A folder below the runs, named by the fingerprint of everything that decides its contents.
    """
    known = kept_opinions(lab) if quick else None
    for sizes, judge in ((Sizes(), Rules()), (QUICK, None))[: 1 + quick]:
        said = judge.name if judge else known
        key = [FORMAT, _runs(lab), sizes, said, lab.scale.truth_tokens, lab.seed, PocketSource(lab.seed).identity()]
        folder = runs_folder() / f"{lab.scale.name}-atlas-{fingerprint(key)}"
        # The folder is renamed into its place once it is whole.
        if folder.is_dir():
            return folder
    return write_atlas(folder, lab, sizes, judge=judge, known=known, progress=progress)


def keep_opinions(lab: Lab, progress: bool = False) -> Path:
    """Keep what the whole atlas of a lab calls each unit, so that a quick look need not find it out: labels, explanations, scores.

    Args:
        lab: says which runs; their atlas is computed unless it is there already.
        progress: show bars.

    Returns:
        `results/<scale>/browser.json`.
    """
    folder = atlas(lab, progress=progress)
    contents = _read(folder / "atlas.json")
    sets = {}
    for each in contents["sets"]:
        columns = _read(folder / each["folder"] / "index.json")
        names = [None if label is None else contents["labels"][label] if label >= 0 else "" for label in columns["label"]]
        sets[each["name"]] = {"label": names} | {name: columns[name] for name in _OPINIONS}
    facts = {"format": FORMAT, "judge": Rules.name} | {name: contents[name] for name in ("runs", "tokens", "judged")}
    path = _kept(lab)
    # Letters as they are: an escaped quotation mark is as long as a word, and half a surrogate pair is made visible before.
    write_atomic(path, json.dumps(facts | {"sets": sets}, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n")
    return path


def kept_opinions(lab: Lab) -> dict[str, Any] | None:
    """What `keep_opinions` kept of these very runs, or None.

    Raises:
        BookError: the file is damaged.
    """
    path = _kept(lab)
    if not path.is_file():
        return None
    found = _read(path)
    try:
        is_theirs = found["format"] == FORMAT and found["runs"] == fingerprint(_runs(lab))
        n_units = lab.scale.d_sae | {NEURONS: lab.model("A").cfg.d_mlp}
        is_whole = all({len(of[column]) for column in ("label", *_OPINIONS)} == {n_units[name]} for name, of in found["sets"].items())
    except (LookupError, TypeError, AttributeError):
        is_theirs, is_whole = True, False
    if is_theirs and not is_whole:
        raise BookError(f"{path} is damaged; {_RESTORE}")
    return found if is_theirs else None


def _kept(lab: Lab) -> Path:
    return project_root() / "results" / lab.scale.name / "browser.json"


def _read(path: Path) -> Any:
    return read_json(path, _RESTORE)


def write_atlas(
    folder: Path,
    lab: Lab,
    sizes: Sizes = Sizes(),  # noqa: B008  it cannot change
    text: LabelledText | None = None,
    passages: Sequence[Passage] | None = None,
    judge: Judge | None = None,
    known: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Path:
    """Compute and write the data of the feature browser.

    Args:
        folder: where; what stands there gives way once the new one is whole.
        lab: gives models, dictionaries and tokenizer.
        sizes: how much to look at and to show.
        text: labelled text that examples are taken from; None means text of the `truth` side of the pocket corpus. Labels are
            judged on the lab's own, which is longer than that of a quick look, since some are rare.
        passages: texts of the text view; None chooses some of every stratum of the pocket corpus.
        judge: explains the units that fire often, and predicts them from what it said; None leaves that out.
        known: labels, explanations and scores of an earlier and longer look, from `kept_opinions`; None computes them.
        progress: show bars.

    Returns:
        The folder.

    Raises:
        BookError: nothing to look at, the judge's endpoint refuses, or the disk does.

    Source: Bricken et al. 2023, the interface published beside the paper (its panels, listed on the browser's page).
    Differs: the text is generated, and its truth known (departure D29).
    """
    _check(sizes)
    sets = _sets(lab)
    text = text or _text(lab, sizes.n_tokens)
    found = passages or passages_of_every_stratum()
    tokens, table = torch.from_numpy(text.tokens), TokenTable(lab.tokenizer)
    counts = lab.shards.train.unigram_counts(len(table)) if judge else None
    relations = _relations(lab, sets, tokens[: max(1, sizes.n_related // tokens.shape[1])])
    sets |= _children(lab, relations["children"])

    def fill(aside: Path) -> None:
        columns = {}
        for units in tqdm(sets.values(), desc="sets", disable=not progress):
            evidence = gather(units.model, units.sae, tokens, sizes.n_top, sizes.n_each, RELATIVES, progress=progress)
            often = np.flatnonzero(evidence.fired >= ULTRALOW_FIRINGS)
            said = opinions(judge, units.model, units.sae, tokens, often, table, counts, lab.seed, progress) if judge else None
            opinion = _known_opinion(units, known) if known else _opinion(lab, units, evidence, said)
            columns[units.name] = _index(units, evidence, tokens) | opinion
            _write(
                aside / _folder(units.name) / "index.json", {name: _scattered(units, each) for name, each in columns[units.name].items()}
            )
            _write_cards(aside, units, evidence, tokens, table, relations)
            if _is_whole(units):
                _write_activities(aside, units, found, lab)
        d_vocab = lab.model("A").cfg.d_vocab
        _write(aside / "vocab.json", [visible(table.text(token)) for token in range(d_vocab)])
        _write(aside / "texts.json", [_shown(passage, lab) for passage in found])
        _write(aside / "map.json", _map(sets, columns))
        _write(aside / "atlas.json", _contents(lab, sets, text, found, known))

    write_folder(Path(folder), fill, replace=True)
    return Path(folder)


def check_room(folder: Path) -> None:
    """Raise a BookError if something other than an older atlas stands where an atlas is to go."""
    with reading(folder):
        if folder.exists() and not (folder / "atlas.json").is_file():
            raise BookError(f"{folder} is there and holds no data of the browser; choose a folder that does not exist yet")


def put(atlas: Path, folder: Path) -> None:
    """Copy an atlas; an older one at that place gives way once the copy is whole.

    Raises:
        BookError: something else stands there, or the disk refused.
    """
    check_room(folder)
    write_folder(folder, lambda aside: shutil.copytree(atlas, aside, dirs_exist_ok=True), replace=True)


def passages_of_every_stratum(n: int = N_TEXTS) -> list[Passage]:
    """Texts of every kind: passages of the anthology where a stratum has some, else generated documents; one each, then a second.

    Args:
        n: how many.

    Source: Bricken et al. 2023, the interface published beside the paper (25 texts).
    """
    found = []
    for turn in range(n):
        for stratum in STRATA:
            generated = islice(pocket_documents(stratum, 0, TRUTH_SPLIT), turn, turn + 1)
            written = anthology(stratum)[turn : turn + 1]
            # After the first turn only what was written for the book: it reads better.
            document = next(iter(written or (generated if turn == 0 else ())), None)
            if document is not None and len(found) < n:
                found.append(Passage(f"{stratum} {turn + 1}", document))
    return found


def _check(sizes: Sizes) -> None:
    for name, value in sizes._asdict().items():
        if value < 1:
            raise BookError(f"{name} is {value}; an atlas needs at least 1")


def _dictionaries(lab: Lab) -> list[str]:
    return [name for name in ("A/0", "A/1", "A/2", "B/1") if name in lab.scale.d_sae]


def _runs(lab: Lab) -> dict[str, dict]:
    return {name: lab.config(name) for name in ("A", "B", *_dictionaries(lab))}


def _sets(lab: Lab) -> dict[str, Units]:
    """The sets that the browser opens as a whole."""

    def units(name: str, sae: SparseAutoencoder | None) -> Units:
        n = lab.model(name[0]).cfg.d_mlp if sae is None else len(sae.W_dec)
        return Units(name, lab.model(name[0]), sae, np.arange(n), n)

    return {name: units(name, lab.dictionary(name)) for name in _dictionaries(lab) if name != "A/2"} | {NEURONS: units(NEURONS, None)}


def _children(lab: Lab, children: Mapping[str, Mapping[int, Sequence[Sequence]]]) -> dict[str, Units]:
    """Of A/2 the features that a card of A/0 or A/1 names as a child, so that its link leads somewhere; empty where there are none."""
    rows = [row for of in children.values() for rows in of.values() for row in rows]
    numbers = np.unique(np.array([number for name, number, _ in rows if name == "A/2"], np.int64))
    if not len(numbers):
        return {}
    whole = lab.dictionary("A/2")
    some = SparseAutoencoder(replace(whole.cfg, d_sae=len(numbers))).requires_grad_(False).to(whole.W_dec.device)
    for name, weights in whole.named_parameters():
        getattr(some, name).copy_(weights[:, numbers] if name == "W_enc" else weights if name == "b_dec" else weights[numbers])
    return {"A/2": Units("A/2", lab.model("A"), some, numbers, len(whole.W_dec))}


def _is_whole(units: Units) -> bool:
    return len(units.numbers) == units.n


def _scattered(units: Units, values: Sequence[Any]) -> list:
    """A value for each unit of the whole dictionary; None for those that are not opened."""
    found = [None] * units.n
    for number, value in zip(units.numbers.tolist(), values, strict=True):
        found[number] = value
    return found


def _text(lab: Lab, n_tokens: int) -> LabelledText:
    return lab.truth if n_tokens == lab.scale.truth_tokens else labelled_text(lab.tokenizer, n_tokens, lab.scale.n_ctx, lab.seed)


def _folder(name: str) -> str:
    return name.replace("/", "-")


def _write(path: Path, value: Any) -> None:
    """JSON without spaces; characters beyond ASCII are escaped, so that half a surrogate pair does no harm."""
    write_atomic(path, json.dumps(value, separators=(",", ":"), allow_nan=False))


def _round(values: Any, digits: int = 3) -> Any:
    """Numbers to some digits, in lists as they come; what is not finite becomes None."""
    if isinstance(values, np.ndarray):
        return [_round(value, digits) for value in values.tolist()]
    if isinstance(values, list):
        return [_round(value, digits) for value in values]
    return float(f"{values:.{digits}g}") if values is not None and np.isfinite(values) else None


def _contents(
    lab: Lab, sets: Mapping[str, Units], text: LabelledText, passages: Sequence[Passage], known: Mapping[str, Any] | None
) -> dict:
    labels = pocket_labels()
    return {
        "format": FORMAT,
        "scale": lab.scale.name,
        # Ratings kept in a browser belong to these runs, whatever text they were looked at on.
        "runs": fingerprint(_runs(lab)),
        "tokens": int(text.tokens.size),
        "judged": known["judged"] if known else _judged(lab),
        "labels": list(text.labels),
        "meanings": [labels.get(label, "") for label in text.labels],
        "sets": [
            {
                "name": name,
                "kind": "neuron" if units.sae is None else "feature",
                "n": units.n,
                "whole": _is_whole(units),
                "folder": _folder(name),
                "chunk": CHUNK,
            }
            for name, units in sets.items()
        ],
        "rubric": [[item.name, item.most, item.question] for item in RUBRIC],
        "texts": [visible(passage.name) for passage in passages],
    }


def _index(units: Units, evidence: Evidence, tokens: torch.Tensor) -> dict[str, list]:
    """What the list of units is searched, sorted and filtered by, as columns."""
    ids, top = tokens.numpy(), evidence.top
    centre = np.where(top.context >= 0, ids[top.context, top.pos], -1)
    common = [[token for token, _ in Counter(row[row >= 0].tolist()).most_common(4)] for row in centre]
    return {"density": _round(evidence.density), "max": _round(evidence.maximum), "top": common}


def _judged(lab: Lab) -> dict[str, int]:
    """On how many tokens labels are judged, and how many of the labels are there often enough."""
    return {"tokens": int(lab.truth.tokens.size), "labels": len(judged(lab.truth))}


def _opinion(lab: Lab, units: Units, evidence: Evidence, said: pd.DataFrame | None) -> dict[str, list]:
    """What a unit is called, as columns: the number of its best label or -1, how well that fits, and what a judge said."""
    n, fired, text = len(units.numbers), evidence.fired > 0, lab.truth
    label, f1, precision = np.full(n, -1), np.zeros(n), np.zeros(n)
    if known := judged(text):
        best = best_labels(_scores(lab, units, evidence.kind), text, known)
        f1, precision = (np.where(fired, best[name], 0) for name in ("f1", "precision"))
        # Of every unit some label is the best; where it is a bad one, its name would mislead.
        fits = (evidence.fired >= MIN_FIRED) & ((f1 >= MIN_F1) | (precision >= MIN_PRECISION))
        label = np.where(fits, [text.labels.index(name) for name in best["label"]], -1)
    held: dict[str, list] = {"score": [None] * n, "explanation": [""] * n}
    for unit, explanation, score in [] if said is None else said.itertuples(index=False):
        held["explanation"][unit], held["score"][unit] = visible(explanation), _round(float(score))
    return {"label": label.tolist(), "f1": _round(f1), "precision": _round(precision), **held}


def _scores(lab: Lab, units: Units, kind: Kind) -> dict[Kind, TruthScores]:
    if units.name in ("A/1", NEURONS):
        return {kind: kept_scores(lab)[kind]}
    return truth_scores(units.model, units.sae, lab.truth, [kind])


def _known_opinion(units: Units, known: Mapping[str, Any]) -> dict[str, list]:
    """The columns of `_opinion` out of those that are kept, where a label stands by its name."""
    numbers = {name: i for i, name in enumerate(pocket_labels())} | {"": -1, None: -1}
    columns = {name: [column[unit] for unit in units.numbers] for name, column in known["sets"][units.name].items()}
    missing = {"f1": 0, "precision": 0, "explanation": ""}
    found = {name: [missing[name] if value is None else value for value in columns[name]] for name in missing}
    return {"label": [numbers[name] for name in columns["label"]], "score": columns["score"], **found}


def _examples(units: Units, tokens: torch.Tensor, evidence: Evidence, rows: slice) -> list[list]:
    """For each unit its groups of examples: top, the intervals from the weakest, bottom; each example its tokens, activations, effects.

    Activations are in thousandths of the unit's maximum, effects in thousandths of a nat.
    """
    shape = (-1, evidence.intervals.context.shape[1] * evidence.intervals.context.shape[2])
    parts = [evidence.top, Examples(*(part.reshape(shape) for part in evidence.intervals)), evidence.bottom]
    places = Examples(*(np.concatenate(columns, 1)[rows] for columns in zip(*parts, strict=True)))
    numbers = evidence.units[rows]
    found = windows(units.model, units.sae, tokens, numbers, places)
    # The paper underlines a token by the effect on its own prediction, which is made one token before it.
    pos = places.pos[..., None] + np.arange(-CONTEXT, CONTEXT + 1) - 1
    there = (found.token >= 0) & (pos >= 0)
    context = np.where(there, places.context[..., None], -1)
    unit = np.broadcast_to(numbers[:, None, None], pos.shape)
    effect = place_effects(units.model, units.sae, tokens, unit, context, np.where(there, pos, 0))
    maximum = np.maximum(evidence.maximum[rows], 1e-9)[:, None, None]
    act = np.where(found.act > 0, np.maximum(np.rint(1_000 * found.act / maximum), 1), 0).astype(int)
    nats = np.rint(1_000 * effect).astype(int)
    n_each = evidence.bottom.context.shape[1]
    n_top, n_intervals = evidence.top.context.shape[1], evidence.intervals.context.shape[1]
    edges = [0, *range(n_top, n_top + n_intervals * n_each + 1, n_each), places.context.shape[1]]

    def example(row: int, place: int) -> list:
        shown = found.token[row, place] >= 0
        centre = int(shown[:CONTEXT].sum())
        return [*(values[row, place][shown].tolist() for values in (found.token, act, nats)), centre]

    return [
        [[example(row, place) for place in range(low, high) if places.context[row, place] >= 0] for low, high in pairwise(edges)]
        for row in range(len(numbers))
    ]


def _write_cards(
    folder: Path, units: Units, evidence: Evidence, tokens: torch.Tensor, table: TokenTable, relations: Mapping[str, Mapping[str, Mapping]]
) -> None:
    """The cards of a set, `CHUNK` to a file."""
    known = (np.arange(units.model.cfg.d_vocab) < len(table)).astype(np.int64)
    logits = logit_effects(units.model, units.sae, unigram_counts=known, min_count=1)
    tables, n = _relatives(units, evidence), len(units.numbers)
    cards: list[dict[str, Any]] = []
    for start in range(0, n, AT_A_TIME):
        rows = slice(start, min(start + AT_A_TIME, n))
        for unit, examples in zip(range(rows.start, rows.stop), _examples(units, tokens, evidence, rows), strict=True):
            number = int(units.numbers[unit])
            card = {
                "unit": number,
                "histogram": evidence.histogram[unit].tolist(),
                "logits": {
                    "top": [logits.top[unit].tolist(), _round(logits.top_weight[unit])],
                    "bottom": [logits.bottom[unit].tolist(), _round(logits.bottom_weight[unit])],
                    "histogram": logits.histogram[unit].tolist(),
                },
                "examples": examples,
            }
            card |= {name: rows_of(unit) for name, rows_of in tables.items()}
            card |= {name: of[units.name][number] for name, of in relations.items() if number in of.get(units.name, {})}
            cards.append(card)
    for chunk in range(-(-units.n // CHUNK)):
        low, high = np.searchsorted(units.numbers, (chunk * CHUNK, (chunk + 1) * CHUNK))
        _write(folder / _folder(units.name) / f"cards-{chunk:03d}.json", cards[low:high])


def _relatives(units: Units, evidence: Evidence) -> dict[str, Any]:
    """Tables that each card has, as functions of the unit."""

    def rows(*columns: np.ndarray) -> Any:
        return lambda unit: [
            [int(index), *_round([float(value) for value in values])]
            for index, *values in zip(*(column[unit] for column in columns), strict=True)
            if index >= 0
        ]

    found = {"neurons": rows(evidence.neurons.index, evidence.neurons.pearson, evidence.neurons.cosine)}
    if units.sae is not None:
        found["aligned"] = rows(*neuron_alignment(units.sae, k=RELATIVES))
        # Among some of the features, the nearest would not be the nearest.
        found |= {"nearest": rows(*nearest_rows(units.sae, k=RELATIVES))} if _is_whole(units) else {}
    return found


def _relations(lab: Lab, sets: Mapping[str, Units], tokens: torch.Tensor) -> dict[str, dict[str, dict[int, list]]]:
    """For each set and unit rows of set, number and similarities, the closest first.

    Under `alike` features of the same dictionary and under `twins` of the other model's (for neurons, of both models), with
    Pearson correlation and cosine of activations; under `parents` and `children` with the masked cosine.
    """
    found: dict[str, dict[str, dict[int, list]]] = {"alike": {}, "twins": {}, "parents": {}, "children": {}}
    dictionaries = [name for name in sets if name != NEURONS]
    pairs = [("alike", name, name) for name in dictionaries]
    pairs += [("twins", name, "B/1" if name[0] == "A" else "A/1") for name in dictionaries]
    pairs += [("twins", NEURONS, "A/1"), ("twins", NEURONS, "B/1")]
    for relation, name, other in pairs:
        if other in sets:
            ours, theirs = sets[name], sets[other]
            match, rows = closest(ours.model, ours.sae, theirs.model, theirs.sae, tokens, TWINS), found[relation].setdefault(name, {})
            for unit, row in enumerate(zip(*(column.tolist() for column in match), strict=True)):
                rows.setdefault(unit, []).extend([other, index, *_round(values)] for index, *values in zip(*row, strict=True) if index >= 0)
    widths = {name: lab.dictionary(name) for name in _dictionaries(lab) if name.startswith("A")}
    edges = masked_cosine(lab.model("A"), widths, tokens).sort_values("cosine", ascending=False)
    for source, small, target, large, cosine in edges[["source_dictionary", "source", "target_dictionary", "target", "cosine"]].itertuples(
        index=False
    ):
        for relation, name, unit, row in (
            ("children", source, small, [target, int(large)]),
            ("parents", target, large, [source, int(small)]),
        ):
            rows = found[relation].setdefault(name, {}).setdefault(int(unit), [])
            if len(rows) < RELATIVES:
                rows.append([*row, _round(float(cosine))])
    return found


def _ids(passage: Passage, lab: Lab) -> Int[np.ndarray, " pos"]:
    encoded = lab.tokenizer.encode(passage.document.text, add_special_tokens=False)
    return np.array([0, *encoded.ids][: lab.scale.n_ctx], dtype=np.int64)


def _shown(passage: Passage, lab: Lab) -> dict[str, Any]:
    """A text as the text view shows it: token ids, and of each the innermost of its labels."""
    encoded = lab.tokenizer.encode(passage.document.text, add_special_tokens=False)
    truth = labels_for_tokens(passage.document, encoded.offsets)
    depth = np.array([label.count("/") + 1 for label in pocket_labels()])
    innermost = np.where(truth.any(1), (truth * depth).argmax(1), -1) if len(truth) else np.zeros(0, int)
    ids = _ids(passage, lab)
    return {"name": visible(passage.name), "tokens": ids.tolist(), "labels": [-1, *innermost.tolist()][: len(ids)]}


@torch.inference_mode()
def _write_activities(folder: Path, units: Units, passages: Sequence[Passage], lab: Lab) -> None:
    for number, passage in enumerate(passages):
        ids = torch.from_numpy(_ids(passage, lab))[None].to(units.model.device)
        x = units.model.begin(ids)[1][0]
        acts = (x if units.sae is None else units.sae.encode(x)).float()
        value, unit = acts.topk(min(PER_TOKEN, acts.shape[1]), dim=1)
        kept = [int(count) for count in (value > 0).sum(1)]
        active = [int(count) for count in (acts > 0).sum(1)]
        listed = {
            "units": [row[:n] for row, n in zip(unit.tolist(), kept, strict=True)],
            "acts": [_round(row[:n]) for row, n in zip(value.tolist(), kept, strict=True)],
            "active": active,
        }
        _write(folder / _folder(units.name) / f"text-{number:02d}.json", listed)


def _map(sets: Mapping[str, Units], columns: Mapping[str, dict]) -> dict[str, Any]:
    """Where the features of `MAP` lie that fire at all, and the clusters that they form."""
    names = [name for name in MAP if name in sets]
    of = [(name, unit) for name in names for unit, density in enumerate(columns[name]["density"]) if density]
    if len(of) < 3:
        return {"sets": names, "set": [], "unit": [], "x": [], "y": [], "cluster": [], "clusters": []}
    directions = np.stack([sets[name].sae.W_dec[unit].detach().float().cpu().numpy() for name, unit in of])
    places = _to_square(embed(directions))
    cluster = clusters(directions)["cluster"].to_numpy()
    label = [columns[name]["label"][unit] for name, unit in of]
    tokens = [columns[name]["top"][unit] for name, unit in of]
    found = []
    for number in range(int(cluster.max(initial=-1)) + 1):
        members = np.flatnonzero(cluster == number)
        common, count = Counter(label[i] for i in members).most_common(1)[0]
        top = [token for token, _ in Counter(token for i in members for token in tokens[i]).most_common(4)]
        found.append({"n": len(members), "label": common, "share": _round(count / len(members)), "top": top})
    return {
        "sets": names,
        "set": [names.index(name) for name, _ in of],
        "unit": [unit for _, unit in of],
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "cluster": cluster.tolist(),
        "clusters": found,
    }


def _to_square(places: Float[np.ndarray, "point 2"]) -> Int[np.ndarray, "point 2"]:
    """Coordinates from 0 to 1,000."""
    low, high = places.min(0), places.max(0)
    return np.rint(1_000 * (places - low) / np.maximum(high - low, 1e-9)).astype(np.int64)
