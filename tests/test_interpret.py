"""Automated interpretability: the examples that are drawn, the scores, and what is said of them, held to hand-made cases."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import small
import torch
from scipy.stats import spearmanr
from tokenizers import Tokenizer, models, pre_tokenizers

from sae_lib import evidence, features, interpret
from sae_lib.endpoint import Nonsense
from sae_lib.errors import BookError
from sae_lib.interpret import BY_INTERVAL, EXPLAIN, PREDICT, Brief, Example, Explanation, Trial, interval_names, spearman
from sae_lib.judges import Rules
from sae_lib.proxies import TokenTable
from sae_lib.transformer import OneLayerTransformer


@pytest.fixture
def table():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return TokenTable(Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, [])))


@pytest.fixture
def wide():
    """A model with tokens enough for the test of logits."""
    return OneLayerTransformer(replace(small.GEOMETRY, d_vocab=200), seed=1).eval().requires_grad_(False)


@pytest.fixture
def sae(sae):
    """As a lab gives it out."""
    return sae.eval().requires_grad_(False)


@pytest.fixture
def ids(tokens):
    """400 contexts; the first half has the tokens 0 to 24, the second 25 to 49, so that one sees where an example comes from."""
    found = torch.from_numpy(tokens.contexts(range(400), 12)).long() % 25
    found[200:] += 25
    return found


COUNTS = np.full(256, 100)


def test_the_plans_are_the_papers():
    assert [len(plan.groups) for plan in (EXPLAIN, PREDICT, BY_INTERVAL)] == [49, 60, 80]
    assert Counter(PREDICT.groups) == {"top": 6, "random": 10, "same token": 20, "bottom": 2} | dict.fromkeys(interval_names(), 2)


def test_units_are_drawn_among_those_that_fire(wide, sae, ids):
    acts = features.activations_of(wide, sae, ids, range(64))
    fired = (acts > 0).sum((0, 1))
    least = int(np.median(fired)) + 1
    drawn = interpret.sample_units(wide, sae, ids, n=10, seed=3, min_firings=least)
    assert len(drawn) == 10
    assert (fired[drawn] >= least).all()
    assert (np.diff(drawn) > 0).all()
    assert (drawn == interpret.sample_units(wide, sae, ids, n=10, seed=3, min_firings=least)).all()
    assert set(interpret.sample_units(wide, sae, ids, n=1_000, min_firings=least)) == set(np.flatnonzero(fired >= least))
    assert interpret.sample_units(wide, None, ids, n=1_000).max() < 32
    with pytest.raises(BookError, match="0 of 64 units fire on 100000"):
        interpret.sample_units(wide, sae, ids, min_firings=100_000)


@pytest.mark.parametrize("kind", ["feature", "neuron"])
def test_examples_are_what_they_say(wide, sae, ids, table, kind):
    dictionary = sae if kind == "feature" else None
    units = interpret.sample_units(wide, dictionary, ids, n=4)
    trials = interpret.prepare(wide, dictionary, ids, units, table, COUNTS)
    assert trials
    numbers = units.tolist()
    whole = features.activations_of(wide, sae, ids, numbers) if dictionary else features.neuron_activations(wide, ids, numbers)
    letters = [table.text(token) for token in range(50)]
    text = np.array(letters)[ids.numpy()]
    for trial in trials:
        assert trial.kind == kind
        acts = whole[..., numbers.index(trial.unit)]
        scale = 9 / acts[:200].max()
        for half, examples, plan in ((0, trial.brief.examples, EXPLAIN), (1, trial.asked, PREDICT), (1, trial.by_interval, BY_INTERVAL)):
            assert len(examples) <= len(plan.groups)
            assert Counter(example.group for example in examples)["random"] == plan.random
            rows = slice(200 * half, 200 * half + 200)
            # Every example stands in its own half with just these levels; explanation and test share no token.
            places = {}
            for context, found in zip(text[rows], np.minimum(np.ceil(acts[rows] * scale), 9), strict=True):
                for pos in range(12):
                    window = slice(max(0, pos - 4), pos + 5)
                    places.setdefault((tuple(context[window]), min(pos, 4)), set()).add(tuple(found[window].astype(int)))
            for example in examples:
                assert example.levels in places[example.tokens, example.at]
                assert len(example.tokens) == len(example.levels) <= 9
                level = example.levels[example.at]
                assert {"bottom": level == 0, "random": len(example.tokens) == 9}.get(example.group, True)
                assert level > 0 or example.group in ("bottom", "random", "same token")
        top = [example.tokens[example.at] for example in trial.brief.examples if example.group == "top"]
        same = [example.tokens[example.at] for example in trial.brief.examples if example.group == "same token"]
        assert len(top) == 10
        strongest = evidence.gather(wide, dictionary, ids[:200], 20, 1, k=1, chosen=[trial.unit]).top
        assert set(same) <= set(text[:200][strongest.context[0], strongest.pos[0]])
        assert trial.brief.examples[0].levels[trial.brief.examples[0].at] == 9


def test_logit_tests_have_half_of_each(wide, sae, ids, table):
    trial = interpret.prepare(wide, sae, ids, interpret.sample_units(wide, sae, ids, n=2), table, COUNTS)[0]
    weights = features.logit_weights(wide, sae, trial.unit).sort_values(ascending=False)
    ranked = [table.text(token) for token in weights.index]
    assert trial.brief.raises == tuple(ranked[:10])
    assert trial.brief.lowers == tuple(ranked[:-11:-1])
    assert trial.likely.sum() == 50
    assert {token for token, likely in zip(trial.candidates, trial.likely, strict=True) if likely} == set(ranked[10:60])
    assert {token for token, likely in zip(trial.candidates, trial.likely, strict=True) if not likely} <= set(ranked[60:-10])
    # In random order: the likely ones do not come first.
    assert 10 < trial.likely[:50].sum() < 40


def test_draws_of_a_unit_do_not_depend_on_the_others(wide, sae, ids, table):
    units = interpret.sample_units(wide, sae, ids, n=3)
    together = interpret.prepare(wide, sae, ids, units, table, COUNTS)
    alone = interpret.prepare(wide, sae, ids, [together[-1].unit], table, COUNTS)[0]
    assert alone.brief == together[-1].brief
    assert alone.asked == together[-1].asked
    assert alone.candidates == together[-1].candidates


def test_examples_of_an_interval_are_drawn_and_not_its_strongest(wide, sae, ids, table):
    units = interpret.sample_units(wide, sae, ids, n=20)
    found = evidence.gather(wide, sae, ids[200:], 20, 5, k=1, chosen=units.tolist())
    order = np.argsort(ids[200:].numpy(), axis=None, kind="stable")
    starts = np.searchsorted(ids[200:].numpy().ravel()[order], np.arange(len(table) + 1))
    ranks = Counter()
    for row in range(len(units)):
        for seed in range(10):
            context, pos = interpret._places(found, row, PREDICT, ids[200:].numpy(), order, starts, seed)
            for group in range(12):
                there = (found.intervals if group < 11 else found.bottom).of(row)
                of_group = (
                    list(zip(there.context[group], there.pos[group], strict=True)) if group < 11 else list(zip(*there[:2], strict=True))
                )
                two = list(zip(context, pos, strict=True))[6 + 2 * group : 8 + 2 * group]
                n = sum(place[0] >= 0 for place in of_group)
                assert len(set(two) - {(-1, -1)}) == min(n, 2)
                assert set(two) <= set(of_group) | {(-1, -1)}
                if n == 5:
                    ranks.update(of_group.index(place) for place in two)
    shares = np.array([ranks[rank] for rank in range(5)]) / ranks.total()
    assert np.allclose(shares, 0.2, atol=0.03)


def test_what_cannot_be_prepared(wide, model, sae, ids, table):
    with pytest.raises(BookError, match="one context cannot be halved"):
        interpret.prepare(wide, sae, ids[:1], [0], table, COUNTS)
    with pytest.raises(BookError, match="50 tokens occur 10 times, too few"):
        interpret.prepare(model, sae, ids, [0, 1], table, COUNTS)


def test_a_unit_with_few_examples_is_left_out(wide, sae, ids, table):
    sae.b_enc.data[5] = -1e4
    alive = int(interpret.sample_units(wide, sae, ids, n=1)[0])
    assert [trial.unit for trial in interpret.prepare(wide, sae, ids, [5, alive], table, COUNTS)] == [alive]


def test_importance_weighs_by_what_an_example_stands_for(wide, sae, ids, table):
    trial = interpret.prepare(wide, sae, ids, interpret.sample_units(wide, sae, ids, n=1), table, COUNTS)[0]
    assert trial.weight["random"] == 1
    assert set(trial.weight) == {"random", *interval_names()}
    # The intervals together stand for all tokens on which it fires.
    assert sum(trial.weight[name] for name in interval_names()) == pytest.approx(1 - trial.silent)


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 10, 540), rng.integers(0, 4, 540) ** 2
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert spearman(x, x) == pytest.approx(1)
    assert spearman(x, -x) == pytest.approx(-1)
    times = rng.integers(0, 4, 540)
    assert spearman(x, y, times.astype(float)) == pytest.approx(spearmanr(x.repeat(times), y.repeat(times)).statistic)


@pytest.mark.parametrize(("x", "y"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0, 0, 0]), ([], [])])
def test_a_constant_scores_zero(x, y):
    assert spearman(np.array(x, float), np.array(y, float)) == 0


def hand_made(unit: int) -> Trial:
    """A unit that fires on its own number: strongly in the top interval, and on nothing that is drawn at random."""

    def example(group: str, level: int, at: int = 0) -> Example:
        mine = f"{unit}:{level}"
        return Example(group, (mine, "0") if at == 0 else ("0", mine), (level, 0) if at == 0 else (0, level), at)

    asked = (example("top", 9), example("interval 10", 8, 1), example("interval 0", 1), example("random", 0), example("random", 0, 1))
    by_interval = (example("interval 10", 9), example("interval 10", 8, 1), example("interval 0", 1), *(example("random", 0),) * 2)
    weight = {"random": 1.0, "interval 10": 0.01, "interval 0": 0.02}
    candidates, likely = ("a", "b", "c", "d"), np.array([True, False, True, False])
    return Trial("feature", unit, Brief((example("top", 9),), (), ()), asked, by_interval, weight, 0.8, candidates, likely)


class Oracle:
    """Knows everything of the unit that it explained, and takes 1 for 0."""

    name = "oracle"

    def explain(self, brief):
        return Explanation(brief.examples[0].tokens[0].split(":")[0])

    def predict(self, explanation, texts):
        known = [[token.split(":") if ":" in token else ("", "0") for token in text] for text in texts]
        return [[float(level) if unit == explanation.text and level != "1" else 0.0 for unit, level in row] for row in known]

    def plausible(self, explanation, tokens):
        return [True, False, True, False] if explanation.text == "1" else [True] * 4


def test_scores_by_hand():
    scores = interpret.score(Oracle(), [hand_made(1), hand_made(2)])
    assert scores["explanation"].tolist() == ["1", "2"]
    assert not scores["failed"].any()
    # Ten tokens: levels 9, 8, 1 and seven zeros, against 9, 8 and eight zeros.
    expected = spearmanr([9, 8, 0, 0, 0, 0, 0, 0, 0, 0], [9, 8, 1, 0, 0, 0, 0, 0, 0, 0]).statistic
    assert scores["spearman"].tolist() == pytest.approx([expected] * 2)
    assert scores["accuracy"].tolist() == [1, 0.5]
    # With the other's explanation nothing is predicted, and unit 2 gets the calls that are right for any.
    assert scores["dealt_spearman"].tolist() == [0, 0]
    assert scores["dealt_accuracy"].tolist() == [0.5, 1]
    # Both strong examples exceed every random token; the weak one ties with all of them.
    assert scores[["interval 10", "interval 0"]].to_numpy().tolist() == [[1, 0.5]] * 2
    assert scores["interval 5"].isna().all()
    weights = [0.01, 0.01, 0.02, 0.02, 1, 1, 1, 1]
    by_hand = spearman(np.array([0, 8, 0, 0, 0, 0, 0, 0.0]), np.array([0, 8, 1, 0, 0, 0, 0, 0]), np.array(weights))
    assert scores["importance"].tolist() == pytest.approx([by_hand] * 2)


class Dumb(Oracle):
    """Says nothing of unit 2."""

    def explain(self, brief):
        if "2:" in brief.examples[0].tokens[0]:
            raise Nonsense("it gave up")
        return super().explain(brief)

    def predict(self, explanation, texts):
        if "3:" in texts[0][0]:
            raise Nonsense("it gave up")
        return super().predict(explanation, texts)


def test_a_judge_that_fails_is_counted():
    scores = interpret.score(Dumb(), [hand_made(unit) for unit in (1, 2, 3)])
    assert scores["failed"].tolist() == [False, True, True]
    assert scores["spearman"].isna().tolist() == [False, True, True]
    assert scores["explanation"].tolist() == ["1", "", "3"]
    assert interpret.summary(scores)["failed"].tolist() == [2]


@pytest.mark.parametrize(
    ("question", "lost"),
    [("predict", ["spearman", "importance"]), ("plausible", ["accuracy"]), ("by interval", ["interval 0", "interval 10"])],
)
def test_what_a_judge_does_give_is_kept(question, lost):
    class Partly(Oracle):
        def predict(self, explanation, texts):
            # Of the examples by interval there are six.
            return self.unless(question == ("predict" if len(texts) == 5 else "by interval"), super().predict, explanation, texts)

        def plausible(self, explanation, tokens):
            return self.unless(question == "plausible", super().plausible, explanation, tokens)

        def unless(self, fails, ask, explanation, *rest):
            if fails and explanation.text == "2":
                raise Nonsense("it gave up")
            return ask(explanation, *rest)

    trials = [trial._replace(by_interval=(*trial.by_interval, trial.by_interval[-1])) for trial in map(hand_made, (1, 2))]
    whole, partly = (interpret.score(judge, trials) for judge in (Oracle(), Partly()))
    assert partly["failed"].tolist() == [False, True]
    assert interpret.summary(partly)["failed"].tolist() == [1]
    dealt = {"predict": "dealt_spearman", "plausible": "dealt_accuracy"}.get(question)
    # Unit 1 is dealt the explanation that nothing is got for; each lacks what hangs on that, and nothing else.
    for unit, gone in enumerate(([dealt] if dealt else [], lost)):
        assert partly.loc[unit, gone].isna().all()
        same = whole.columns.difference([*gone, "failed"])
        pd.testing.assert_series_equal(partly.loc[unit, same], whole.loc[unit, same])
    assert np.isfinite(interpret.summary(partly)["spearman mean"]).all()


def test_opinions_are_scores_without_controls(wide, sae, ids, table, monkeypatch):
    monkeypatch.setattr(interpret, "AT_A_TIME", 2)
    units = interpret.sample_units(wide, sae, ids, n=5)
    said = interpret.opinions(Rules(), wide, sae, ids, units, table, COUNTS)
    scores = interpret.score(Rules(), interpret.prepare(wide, sae, ids, units, table, COUNTS))
    assert said["unit"].tolist() == scores["unit"].tolist() == units.tolist()
    assert said["explanation"].tolist() == scores["explanation"].tolist()
    assert said["score"].tolist() == scores["spearman"].tolist()


def test_a_unit_that_nobody_can_explain_has_no_opinion(wide, sae, ids, table):
    class Silent(Rules):
        def explain(self, brief):
            raise Nonsense("it gave up")

    assert interpret.opinions(Silent(), wide, sae, ids, [0, 1], table, COUNTS).empty


def test_an_opinion_asks_for_no_more_than_it_says(wide, sae, ids, table):
    class Hesitant(Rules):
        def plausible(self, explanation, tokens):
            raise Nonsense("it gave up")

    units = interpret.sample_units(wide, sae, ids, n=2)
    said, wanted = (interpret.opinions(judge, wide, sae, ids, units, table, COUNTS) for judge in (Hesitant(), Rules()))
    assert len(said) == 2
    pd.testing.assert_frame_equal(said, wanted)


def test_one_unit_has_no_control():
    with pytest.raises(BookError, match="1 units fired often enough"):
        interpret.score(Oracle(), [hand_made(1)])


def frame(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=interval_names()).assign(kind="feature")


def test_scores_that_fall():
    rising, falling = np.linspace(0.5, 1, 11), np.linspace(1, 0.5, 11)
    mixed, flat, few = rising[[5, 0, 9, 3, 7, 1, 10, 2, 8, 4, 6]], np.full(11, 0.7), np.where(np.arange(11) < 4, rising, np.nan)
    gaps, seven = np.where(np.arange(11) % 4 == 1, np.nan, rising), np.where(np.arange(11) < 7, rising, np.nan)
    # From the top down a rising row of intervals falls; seven intervals are too few to tell.
    found = interpret.falls(frame([rising, falling, mixed, flat, few, gaps, seven]))
    assert found.to_dict() == {0: True, 1: False, 2: False, 3: False, 5: True}
    assert interpret.falls(frame([seven]), n_intervals=7).to_dict() == {0: True}


def test_difference_of_means():
    mean, low, high = interpret.difference(np.array([0.5, 0.7, np.nan, 0.6]), np.array([0.2, 0.3]))
    assert mean == pytest.approx(0.35)
    assert 0.2 < low < 0.35 < high < 0.5


def test_means_by_interval():
    scores = frame([np.linspace(0.5, 1, 11), np.where(np.arange(11) == 0, np.nan, 0.5)])
    means = interpret.interval_means(scores)
    assert means["units"].tolist() == [1] + [2] * 10
    assert means["score"].iloc[10] == pytest.approx(0.75)
    assert (means["low"].iloc[10], means["high"].iloc[10]) == (0.5, 1)
    assert means["interval"].tolist() == list(range(11))


def test_summary_by_hand():
    scores = interpret.score(Oracle(), [hand_made(1), hand_made(2), hand_made(3)])
    row = interpret.summary(scores).iloc[0]
    assert (row["kind"], row["units"], row["failed"]) == ("feature", 3, 0)
    assert row["accuracy mean"] == pytest.approx(2 / 3)
    assert row["accuracy median"] == 0.5
    assert row["spearman dealt"] == 0
    assert row["silent mean"] == pytest.approx(0.8)
