"""The human rubric: blind cards of features and neurons, ratings that are kept at once, and a small tool to give them.

A card shows what a person needs to guess what a unit means, and neither its number nor whether it is a feature. Nobody
but a person fills one in: no score of a machine is ever put among the ratings.

Source: Bricken et al. 2023, "How interpretable is the typical feature?" (manual analysis).
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sae_lib import storage, viz
from sae_lib.errors import BookError
from sae_lib.interpret import Example, Trial, interval_names

N_EACH = 40
"""Features rated, and neurons."""


class Item(NamedTuple):
    """One line of the rubric."""

    name: str
    """As it is kept."""
    most: int
    """The best mark; 0 is the worst."""
    question: str
    """What the rater is asked."""


RUBRIC = (
    Item("confidence", 3, "How sure are you that you know what the upper examples have in common?"),
    Item("activation consistency", 5, "How well do the lower examples fit that?"),
    Item("logit consistency", 3, "How well do the tokens that it makes likelier fit that?"),
    Item("separation", 1, "Do those that do not fit stand below those that do?"),
    Item("specificity", 3, "How narrow is it: 0 is almost anything, 3 is one thing that has a name?"),
)
"""The paper's five items. They sum to 15, though the paper gives 14 as the largest total."""


class Card(NamedTuple):
    """One unit as a rater sees it, and what the rater does not see."""

    kind: str
    """"feature" or "neuron"; hidden."""
    unit: int
    """Its number; hidden."""
    interval: str
    """The interval of activation that the lower examples come from; hidden."""
    top: tuple[Example, ...]
    """The strongest examples, from which a hypothesis is made."""
    examples: tuple[Example, ...]
    """Examples of the interval, which are judged against it."""
    raises: tuple[str, ...]
    """Tokens with the largest logit weights."""
    lowers: tuple[str, ...]
    """Tokens with the smallest."""

    @property
    def hidden(self) -> list:
        """What a kept rating is about."""
        return [self.kind, self.unit, self.interval]


def draw_cards(trials: Sequence[Trial], n: int = N_EACH, seed: int = 0) -> list[Card]:
    """A random sample of units of each kind, with one interval of activation of each, in random order.

    Args:
        trials: of features and of neurons.
        n: cards of each kind; fewer if there are no more units.
        seed: of the sample, the intervals and the order.

    Returns:
        The cards, to be rated in this order.

    Source: Bricken et al. 2023 (blind; intervals judged against one hypothesis of the unit).
    Differs: one interval of each unit, where the paper's rater judged 412 intervals of 162 units (departure D28).
    """
    rng, cards = np.random.default_rng(seed), []
    for kind in dict.fromkeys(trial.kind for trial in trials):
        mine = [trial for trial in trials if trial.kind == kind]
        for place in rng.choice(len(mine), min(n, len(mine)), replace=False):
            trial = mine[place]
            there = [name for name in interval_names() if any(example.group == name for example in trial.by_interval)]
            # No activation fell in an interval of the second half: its strongest examples stand for it.
            drawn = str(rng.choice(there)) if there else "top"
            source = trial.by_interval if there else trial.asked
            top, examples = (
                [one for one in part if one.group == group] for part, group in ((trial.brief.examples, "top"), (source, drawn))
            )
            cards.append(Card(kind, trial.unit, drawn, tuple(top), tuple(examples), trial.brief.raises, trial.brief.lowers))
    return [cards[place] for place in rng.permutation(len(cards))]


def show(number: int, card: Card) -> Any:
    """A card as HTML: no number of the unit, no kind, no interval.

    Args:
        number: of the card, from 1.
        card: what to show.
    """
    tables = []
    for examples in (card.top, card.examples):
        strips = [list(zip(one.tokens, map(float, one.levels), strict=True)) for one in examples]
        rows = {"rank": range(1, len(examples) + 1), "activation": [float(one.levels[one.at]) for one in examples], "tokens": strips}
        tables.append(pd.DataFrame(rows))
    return viz.blind_card(number, *tables, card.raises, card.lowers)


def kept_at(scale_name: str) -> Path:
    """The folder in which the ratings of a scale are kept."""
    return storage.project_root() / "results" / scale_name


class Ratings:
    """Ratings of some cards, written at once and found again.

    The file is named by the cards' units and intervals, so that those of another text have a file of their own.

    Args:
        cards: what `draw_cards` gave.
        folder: where the file is; one that is there is gone on with.
        of: what decides the cards' units, such as a fingerprint of the dictionary.

    Raises:
        BookError: the file is damaged, or its ratings are of other cards.
    """

    def __init__(self, cards: Sequence[Card], folder: Path, of: str = "") -> None:
        self.cards = list(cards)
        self._sample = {"of": of, "cards": [card.hidden for card in self.cards]}
        self.path = Path(folder) / f"ratings-{storage.fingerprint(self._sample)}.json"
        self.given: dict[int, dict[str, int]] = {}
        if self.path.is_file():
            self._load()

    def add(self, number: int, marks: Mapping[str, int | None]) -> None:
        """Keep the marks of a card; given again, they replace the earlier ones.

        Args:
            number: of the card, from 1.
            marks: one whole number for each item of `RUBRIC`.

        Raises:
            BookError: there is no such card, or a mark is missing, unknown or out of its range; nothing is changed.
        """
        self.given = self.given | {number: self._checked(number, marks)}
        storage.write_json(self.path, {"sample": self._sample, "ratings": {str(key): self.given[key] for key in sorted(self.given)}})

    @property
    def left(self) -> list[int]:
        """Numbers of the cards that nobody has rated."""
        return [number for number in range(1, len(self.cards) + 1) if number not in self.given]

    def table(self) -> pd.DataFrame:
        """One row a rated card: `card`, `kind`, `unit`, `interval`, the items and their `total` (0 to 15)."""
        rows = []
        for number, marks in sorted(self.given.items()):
            card = self.cards[number - 1]
            facts = {"card": number, "kind": card.kind, "unit": card.unit, "interval": card.interval}
            rows.append(facts | marks | {"total": sum(marks.values())})
        return pd.DataFrame(rows, columns=["card", "kind", "unit", "interval", *(item.name for item in RUBRIC), "total"])

    def summary(self) -> pd.DataFrame:
        """One row a kind: `kind`, `rated`, and `median`, `lower quartile` and `upper quartile` of the total; nan where none is rated."""
        rows, rated = [], self.table()
        for kind in dict.fromkeys(["feature", "neuron", *rated["kind"]]):
            totals = rated.loc[rated["kind"] == kind, "total"].astype(float)
            quartiles = {"median": totals.median(), "lower quartile": totals.quantile(0.25), "upper quartile": totals.quantile(0.75)}
            rows.append({"kind": kind, "rated": len(totals)} | quartiles)
        return pd.DataFrame(rows)

    def measured(self) -> dict[str, float]:
        """What claim 38 asks for: medians of the total, and how many cards of each kind they rest on."""
        of = self.summary().set_index("kind")
        medians = {f"{kind}_median": float(of.loc[kind, "median"]) for kind in ("feature", "neuron")}
        return medians | {f"rated_{kind}s": int(of.loc[kind, "rated"]) for kind in ("feature", "neuron")}

    def _checked(self, number: int, marks: Any) -> dict[str, int]:
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(self.cards):
            raise BookError(f"there is no card {number}; they run from 1 to {len(self.cards)}")
        unknown = set(marks) - {item.name for item in RUBRIC}
        if unknown:
            raise BookError(f"the rubric has no item {min(unknown)!r}; it has {', '.join(item.name for item in RUBRIC)}")
        for item in RUBRIC:
            mark = marks.get(item.name)
            if isinstance(mark, bool) or not isinstance(mark, int) or not 0 <= mark <= item.most:
                given = "no mark" if mark is None else repr(mark)
                raise BookError(f"card {number} has {given} for {item.name}; give a whole number from 0 to {item.most}")
        return {item.name: int(marks[item.name]) for item in RUBRIC}

    def _load(self) -> None:
        found = storage.read_json(self.path, "Restore it from the repository, or move it away to begin anew")
        if not isinstance(found, dict) or found.get("sample") != self._sample:
            raise BookError(f"{self.path} holds ratings of other cards; restore it from the repository, or move it away to begin anew")
        try:
            self.given = {int(number): self._checked(int(number), marks) for number, marks in found["ratings"].items()}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise BookError(f"{self.path} is damaged ({error}); restore it from the repository, or move it away to begin anew") from None


def tool(ratings: Ratings) -> Any:
    """The tool itself, for a notebook: a card, five rows of buttons, and one that keeps the marks and goes on.

    Args:
        ratings: what is given goes there, card by card; what was given is not asked for again.

    Returns:
        A widget.

    Raises:
        BookError: ipywidgets is not installed.
    """
    try:
        import ipywidgets as widgets
    except ImportError:
        raise BookError(
            "the rating tool needs ipywidgets, which is not installed; run pip install ipywidgets and start the kernel anew"
        ) from None

    card, says = widgets.HTML(), widgets.HTML()
    marks = {item.name: widgets.ToggleButtons(options=list(range(item.most + 1)), style={"button_width": "3em"}) for item in RUBRIC}
    keep = widgets.Button(description="Keep and go on", button_style="primary")

    def turn() -> None:
        done = len(ratings.cards) - len(ratings.left)
        says.value = f"{done} of {len(ratings.cards)} cards are rated; every rating is kept at once."
        for buttons in marks.values():
            buttons.value = None
        keep.disabled = not ratings.left
        card.value = (
            show(ratings.left[0], ratings.cards[ratings.left[0] - 1]).data if ratings.left else "<p>All cards are rated. Thank you!</p>"
        )

    def kept(_button: Any) -> None:
        try:
            ratings.add(ratings.left[0], {name: buttons.value for name, buttons in marks.items()})
        except BookError as error:
            says.value = escape(str(error))
        else:
            turn()

    keep.on_click(kept)
    turn()
    rows = [widgets.VBox([widgets.HTML(escape(item.question)), marks[item.name]]) for item in RUBRIC]
    return widgets.VBox([card, *rows, keep, says])
