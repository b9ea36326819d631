"""The rubric: cards drawn blind, ratings kept and found again, and the tool as a person would use it."""

import json

import numpy as np
import pytest

from sae_lib import rating
from sae_lib.errors import BookError
from sae_lib.interpret import Brief, Example, Trial

GOOD = {"confidence": 3, "activation consistency": 5, "logit consistency": 3, "separation": 1, "specificity": 3}
ZERO = dict.fromkeys(GOOD, 0)


def trial(kind: str, unit: int) -> Trial:
    def examples(*groups: str) -> tuple[Example, ...]:
        return tuple(Example(group, ("<b>x", "</textarea>"), (9, 0), 0) for group in groups)

    brief = Brief(examples("top", "top", "random"), (" up",), (" down",))
    by_interval = examples("interval 2", "interval 2", "interval 9", "random")
    return Trial(kind, unit, brief, examples("top"), by_interval, {}, 0.9, ("a", "b"), np.array([True, False]))


@pytest.fixture
def trials():
    return [trial(kind, unit) for kind in ("feature", "neuron") for unit in range(60)]


@pytest.fixture
def cards(trials):
    return rating.draw_cards(trials, 3, seed=1)


def test_the_sample_has_as_many_of_each_and_depends_on_the_seed_only(trials):
    cards = rating.draw_cards(trials, seed=4)
    assert [sum(card.kind == kind for card in cards) for kind in ("feature", "neuron")] == [40, 40]
    assert len({(card.kind, card.unit) for card in cards}) == 80
    assert cards == rating.draw_cards(trials, seed=4)
    assert [card.hidden for card in cards] != [card.hidden for card in rating.draw_cards(trials, seed=5)]
    assert {card.interval for card in cards} == {"interval 2", "interval 9"}
    # Shuffled: the kinds do not stand in two blocks.
    assert len({card.kind for card in cards[:20]}) == 2


def test_fewer_units_than_cards(trials):
    assert len(rating.draw_cards(trials[:5], 40)) == 5


def test_a_unit_without_examples_in_any_interval_shows_its_strongest(trials):
    bare = trials[0]._replace(by_interval=())
    assert rating.draw_cards([bare])[0].interval == "top"
    assert rating.draw_cards([bare])[0].examples == bare.asked


def test_a_card_is_blind_and_escaped(cards):
    html = rating.show(7, cards[0]._replace(unit=123_456)).data
    assert "Card 7" in html
    for told in ("123456", "feature", "neuron", "interval 2", "interval 9", "<b>", "</textarea>"):
        assert told not in html.replace("<b>makes", "")
    assert "&lt;/textarea&gt;" in html


def test_ratings_are_kept_at_once_and_found_again(cards, tmp_path):
    folder = tmp_path / "deep"
    ratings = rating.Ratings(cards, folder, "abc")
    assert ratings.left == [1, 2, 3, 4, 5, 6]
    ratings.add(2, GOOD)
    ratings.add(5, ZERO)
    again = rating.Ratings(cards, folder, "abc")
    assert again.given == {2: GOOD, 5: ZERO}
    assert again.left == [1, 3, 4, 6]
    again.add(5, GOOD)
    assert rating.Ratings(cards, folder, "abc").given[5] == GOOD


def test_totals_and_medians(cards, tmp_path):
    ratings = rating.Ratings(cards, tmp_path)
    for number, card in enumerate(cards, 1):
        ratings.add(number, (GOOD if card.kind == "feature" else ZERO) | {"confidence": number % 2})
    table = ratings.table()
    assert table["total"].tolist() == [sum(ratings.given[number].values()) for number in range(1, 7)]
    expected = {kind: float(np.median(table[table["kind"] == kind]["total"])) for kind in ("feature", "neuron")}
    assert ratings.measured() == {
        "feature_median": expected["feature"],
        "neuron_median": expected["neuron"],
        "rated_features": 3,
        "rated_neurons": 3,
    }
    assert expected["feature"] - expected["neuron"] >= 11


def test_nothing_rated_says_so(cards, tmp_path):
    measured = rating.Ratings(cards, tmp_path).measured()
    assert (measured["rated_features"], measured["rated_neurons"]) == (0, 0)
    assert np.isnan(measured["feature_median"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "marks", "message"),
    [
        (0, GOOD, "no card 0; they run from 1 to 6"),
        (7, GOOD, "no card 7"),
        (1, GOOD | {"confidence": 4}, "card 1 has 4 for confidence; give a whole number from 0 to 3"),
        (1, GOOD | {"separation": -1}, "from 0 to 1"),
        (1, GOOD | {"specificity": 2.5}, "card 1 has 2.5 for specificity"),
        (1, GOOD | {"specificity": True}, "card 1 has True"),
        (1, {name: mark for name, mark in GOOD.items() if name != "separation"}, "card 1 has no mark for separation"),
        (1, GOOD | {"beauty": 1}, "no item 'beauty'"),
    ],
)
def test_marks_outside_the_rubric_change_nothing(cards, tmp_path, number, marks, message):
    ratings = rating.Ratings(cards, tmp_path)
    with pytest.raises(BookError, match=message):
        ratings.add(number, marks)
    assert ratings.given == {}
    assert not ratings.path.exists()


def test_ratings_of_other_cards_are_not_mixed_in(cards, trials, tmp_path):
    mine = rating.Ratings(cards, tmp_path, "abc")
    mine.add(1, GOOD)
    for other, of in ((cards, "def"), (rating.draw_cards(trials, 3, seed=2), "abc")):
        theirs = rating.Ratings(other, tmp_path, of)
        assert theirs.given == {}
        theirs.add(2, ZERO)
    assert len(list(tmp_path.glob("ratings-*.json"))) == 3
    assert rating.Ratings(cards, tmp_path, "abc").given == {1: GOOD}
    mine.path.write_bytes(theirs.path.read_bytes())
    with pytest.raises(BookError, match="ratings of other cards; restore it"):
        rating.Ratings(cards, tmp_path, "abc")


@pytest.mark.parametrize("damage", [{"1": GOOD | {"confidence": 9}}, {"99": GOOD}, {"one": GOOD}, {"1": 3}, [1]])
def test_a_damaged_file_is_named(cards, tmp_path, damage):
    ratings = rating.Ratings(cards, tmp_path)
    ratings.add(1, GOOD)
    kept = json.loads(ratings.path.read_text())
    ratings.path.write_text(json.dumps(kept | {"ratings": damage}))
    with pytest.raises(BookError, match=r"ratings-\w+\.json is damaged"):
        rating.Ratings(cards, tmp_path)
    ratings.path.write_text("{")
    with pytest.raises(BookError, match="is damaged"):
        rating.Ratings(cards, tmp_path)


def test_the_rubric_is_the_papers():
    assert [item.most for item in rating.RUBRIC] == [3, 5, 3, 1, 3]


def test_the_tool_as_a_person_uses_it(cards, tmp_path):
    widgets = pytest.importorskip("ipywidgets")
    ratings = rating.Ratings(cards[:2], tmp_path)
    tool = rating.tool(ratings)
    card, *rows, keep, says = tool.children
    buttons = [row.children[1] for row in rows]
    assert all(isinstance(row, widgets.ToggleButtons) and row.value is None for row in buttons)
    assert "Card 1" in card.value
    keep.click()
    assert "no mark for confidence" in says.value
    assert ratings.given == {}
    for number in (1, 2):
        assert f"Card {number}" in card.value
        for row, mark in zip(buttons, GOOD.values(), strict=True):
            row.value = mark
        keep.click()
        assert ratings.given[number] == GOOD
        assert [row.value for row in buttons] == [None] * 5
    assert keep.disabled
    assert "All cards are rated" in card.value


def test_the_tool_says_what_it_needs(cards, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    with pytest.raises(BookError, match="needs ipywidgets"):
        rating.tool(rating.Ratings(cards, tmp_path))
