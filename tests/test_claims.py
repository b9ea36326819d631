"""The claims ledger: whole, and judged by its bands."""

import math

import pytest

from sae_lib import claims
from sae_lib.claims import ABOVE_ZERO, Band, claim, verdict
from sae_lib.errors import BookError

MEASURED_NOW = tuple(range(1, 52))

# One set of values that meets the criterion, and one that meets the direction only (None: the ledger has no size to miss).
CASES = {
    1: ({"long": 5, "short": 15, "shared": 0.01}, {"long": 6, "short": 14, "shared": 0.04}),
    2: (
        {"represented_sparse": 12, "represented_dense": 5, "top_last": 1},
        {"represented_sparse": 8, "represented_dense": 5, "top_last": 1},
    ),
    3: ({"flip": 0.57}, {"flip": 0.3}),
    4: ({"agreement": 0.95, "misses_at_boundary": 1.0}, {"agreement": 0.8, "misses_at_boundary": 1.0}),
    5: ({"plateau": 6}, {"plateau": 3}),
    6: (
        {"mass": 0.6, "uniform_mass": 0.2, "half_is_largest": 1},
        {"mass": 0.3, "uniform_mass": 0.2, "half_is_largest": 1},
    ),
    7: (
        {"mass_060": 0.01, "uniform_mass_060": 0.04, "models_with_both": 3},
        {"mass_060": 0.1, "uniform_mass_060": 0.04, "models_with_both": 3},
    ),
    8: ({"transition": 2.5, "curves_cross": 1}, {"transition": 4.0, "curves_cross": 1}),
    9: ({"cosine_together": 0.01, "cosine_apart": -0.99}, {"cosine_together": 0.3, "cosine_apart": -0.99}),
    10: (
        {"never_falls": 1, "collapsed_sparse": 0, "collapsed_dense": 3},
        {"never_falls": 0, "collapsed_sparse": 0, "collapsed_dense": 3},
    ),
    11: ({"swaps_with_drop": 2, "swaps": 3}, {"swaps_with_drop": 0, "swaps": 3}),
    12: ({"vulnerability_ratio": 3, "rank_correlation": 0.95}, {"vulnerability_ratio": 3, "rank_correlation": 0.7}),
    13: ({"polysemantic_dense": 0, "polysemantic_sparse": 1.0}, {"polysemantic_dense": 0.1, "polysemantic_sparse": 1.0}),
    14: ({"motifs": 4}, None),
    15: (
        {"point_error": 0.02, "bump": 0.3, "bump_decayed": 0.0},
        {"point_error": 0.3, "bump": 0.3, "bump_decayed": 0.0},
    ),
    16: ({"loss_recovered": 0.79, "l0": 14}, {"loss_recovered": 0.55, "l0": 40}),
    17: (
        {"recovered_a0": 0.6, "recovered_a1": 0.79, "recovered_a2": 0.85},
        {"recovered_a0": 0.6, "recovered_a1": 0.79, "recovered_a2": 0.8},
    ),
    18: ({"loss_recovered": 0.79, "l0": 14}, {"loss_recovered": 0.79, "l0": 25}),
    19: (
        {"dead_share": 0.04, "dead_share_none": 0.5, "dead_share_paper": 0.1},
        {"dead_share": 0.3, "dead_share_none": 0.5, "dead_share_paper": 0.3},
    ),
    20: ({"ultralow_share": 0.07, "cut": 1e-6}, {"ultralow_share": 0.01, "cut": 1e-6}),
    21: (
        {"accuracy_without_density": 0.97, "cut": 1e-6, "ultralow": 292, "ordinary": 3_636},
        {"accuracy_without_density": 0.93, "cut": 1e-6, "ultralow": 292, "ordinary": 3_636},
    ),
    22: (
        {"alive_paper": 30, "alive_naive": 20, "alive_none": 10, "loss_none": 2.0, "loss_paper": 1.5, "dead_share_none": 0.5},
        {"alive_paper": 30, "alive_naive": 40, "alive_none": 10, "loss_none": 2.0, "loss_paper": 2.5, "dead_share_none": 0.5},
    ),
    23: (
        {"median_cosine": 0.7, "near_decoder_cosine": 0.6, "near_encoder_cosine": 0.4},
        {"median_cosine": 0.95, "near_decoder_cosine": 0.6, "near_encoder_cosine": 0.4},
    ),
    24: ({"gain": 0.002, "standard_error": 0.001}, None),
    25: ({"log10_p5_a0": -4, "log10_p5_a1": -4.5, "log10_p5_a2": -5}, {"log10_p5_a0": -4, "log10_p5_a1": -5.5, "log10_p5_a2": -5}),
    26: ({"specificity": 0.8, "specificity_top_third": 0.98}, {"specificity": 0.3, "specificity_top_third": 0.7}),
    27: ({"rising_intervals": 9, "share_top": 0.9, "share_bottom": 0.2}, {"rising_intervals": 6, "share_top": 0.9, "share_bottom": 0.2}),
    28: ({"pearson": 0.7}, {"pearson": 0.3}),
    29: ({"pearson": 0.7, "dna_share": 0.003}, {"pearson": 0.3, "dna_share": 0.003}),
    30: ({"pearson": 0.4, "explanations": 1}, {"pearson": 0.4, "explanations": 0}),
    31: ({"in_class_top": 0.2, "in_class_base": 0.01}, {"in_class_top": 0.02, "in_class_base": 0.01}),
    32: ({"in_class_loss": 0.2, "ratio": 9, "growth": 0.9}, {"in_class_loss": 0.2, "ratio": 3, "growth": 0.9}),
    33: (
        {"pinned_share": 0.4, "base_share": 0.01, "best_share": 0.6},
        {"pinned_share": 0.04, "base_share": 0.01, "best_share": 0.6},
    ),
    34: ({"neuron_pearson": 0.2, "feature_pearson": 0.8}, {"neuron_pearson": 0.7, "feature_pearson": 0.8}),
    35: ({"neurons_above": 27, "largest_squared_share": 0.2}, {"neurons_above": 5, "largest_squared_share": 0.2}),
    36: ({"weighted": 0.9, "plain": 0.8}, {"weighted": 0.6, "plain": 0.5}),
    37: ({"companions": 2}, None),
    38: (
        {"feature_median": 12, "neuron_median": 0, "rated_features": 40, "rated_neurons": 40},
        {"feature_median": 7, "neuron_median": 5, "rated_features": 40, "rated_neurons": 40},
    ),
    39: (
        {"feature_accuracy": 0.74, "neuron_accuracy": 0.58, "shuffled_accuracy": 0.5},
        {"feature_accuracy": 0.74, "neuron_accuracy": 0.70, "shuffled_accuracy": 0.6},
    ),
    40: (
        {"difference_low": 0.1, "feature_spearman": 0.5, "neuron_spearman": 0.3},
        {"difference_low": -0.1, "feature_spearman": 0.35, "neuron_spearman": 0.3},
    ),
    41: (
        {"falling": 60, "not_falling": 30, "judged": 90, "score_top": 0.9, "score_bottom": 0.6},
        {"falling": 30, "not_falling": 60, "judged": 90, "score_top": 0.9, "score_bottom": 0.8},
    ),
    42: (
        {"share_shuffled": 0.3, "needed": 0.15, "share_a1": 0.1, "features_shuffled": 900, "features_a1": 900},
        {"share_shuffled": 0.12, "needed": 0.15, "share_a1": 0.1, "features_shuffled": 900, "features_a1": 900},
    ),
    43: (
        {"in_class_a0": 1, "in_class_a1": 3, "in_class_a2": 9, "labels_shifted": 0},
        {"in_class_a0": 2, "in_class_a1": 1, "in_class_a2": 9, "labels_shifted": 0},
    ),
    44: (
        {"cosine_within": 0.5, "cosine_random": 0.0, "nearest_in_family": 0.8, "family": 5},
        {"cosine_within": 0.1, "cosine_random": 0.0, "nearest_in_family": 0.8, "family": 5},
    ),
    45: ({"features_with_two_parents": 1}, None),
    46: ({"feature_median": 0.72}, {"feature_median": 0.95}),
    47: ({"feature_median": 0.72, "neuron_median": 0.46}, {"feature_median": 0.5, "neuron_median": 0.46}),
    48: ({"attribution_relation": 0.9, "logit_relation": 0.4}, {"attribution_relation": 0.5, "logit_relation": 0.4}),
    49: ({"one_token_a0": 9, "one_token_a1": 50, "one_token_a2": 200}, {"one_token_a0": 9, "one_token_a1": 50, "one_token_a2": 40}),
    50: ({"lift": 20, "cycle": 2}, {"lift": 20, "cycle": 0}),
    51: ({"chain": 5, "d_sae": 16_384, "phrases": 20}, {"chain": 3, "d_sae": 16_384, "phrases": 20}),
}


def test_ledger_is_whole():
    assert list(claims.CLAIMS) == list(range(1, 61))
    assert claims.MEASURED == MEASURED_NOW == tuple(CASES)
    for row in claims.CLAIMS.values():
        assert row.part in claims.PARTS
        assert all((row.text, row.paper, row.source, row.measure, row.criterion))
    assert [row.part for row in claims.CLAIMS.values()] == sorted(row.part for row in claims.CLAIMS.values())


def test_papers_own_numbers_meet_the_bands_they_fall_under():
    for number, name in ((16, "loss_recovered"), (20, "ultralow_share"), (26, "specificity"), (46, "feature_median")):
        row = claim(number)
        assert all(band.holds(row.numbers) for band in row.holds if band.name == name)
    assert claim(47).holds[0].holds(claim(47).numbers)


@pytest.mark.parametrize("number", CASES)
def test_criterion_met_holds(number):
    assert verdict(number, CASES[number][0]) == ("holds", "")


@pytest.mark.parametrize("number", [number for number, case in CASES.items() if case[1]])
def test_direction_alone_is_partly_and_says_what_is_missing(number):
    word, reason = verdict(number, CASES[number][1])
    assert word == "partly"
    assert "criterion asks for" in reason


def test_wrong_direction_fails():
    assert verdict(16, {"loss_recovered": 0.2, "l0": 14}).word == "fails"
    assert verdict(22, CASES[22][0] | {"alive_paper": 10}).word == "fails"
    assert verdict(17, CASES[17][0] | {"recovered_a0": 0.8}).word == "fails"
    assert verdict(24, {"gain": 0.001, "standard_error": 0.002}).word == "fails"
    assert verdict(24, {"gain": -0.001, "standard_error": -0.002}).word == "fails"
    assert verdict(27, {"rising_intervals": 11, "share_top": 1.0, "share_bottom": 1.0}).word == "fails"
    assert verdict(30, {"pearson": 0.9, "explanations": 2}).word == "fails"
    assert verdict(45, {"features_with_two_parents": 0}).word == "fails"


def test_a_run_that_cannot_decide_about_text_models_judges_toys():
    for number in CASES:
        word, reason = verdict(number, CASES[number][0], claims.TOO_SMALL)
        assert word == ("holds" if claim(number).part == "A" else "not testable here")
        assert reason == ("" if word == "holds" else claims.TOO_SMALL)
    assert verdict(16, {"loss_recovered": math.nan, "l0": 0}, claims.TOO_SMALL).word == "not testable here"


def test_condition_of_the_test_comes_before_its_numbers():
    word, reason = verdict(29, {"pearson": math.nan, "dna_share": 1e-6})
    assert word == "not testable here"
    assert "dna share at least 1e-05" in reason


@pytest.mark.parametrize("feature_pearson", [0.0, 0.1])
def test_a_feature_that_does_not_find_its_script_is_not_held_against_a_neuron(feature_pearson):
    word, reason = verdict(34, {"neuron_pearson": 0.01, "feature_pearson": feature_pearson})
    assert word == "not testable here"
    assert "feature pearson at least 0.25" in reason


def test_unmeasured_claim_is_not_testable():
    assert verdict(52, {}).word == "not testable here"


@pytest.mark.parametrize("undecided", ["", claims.TOO_SMALL])
def test_missing_value_is_named(undecided):
    with pytest.raises(BookError, match=r"claim 16 needs the value 'l0' and was given 'loss_recovered'"):
        verdict(16, {"loss_recovered": 0.8}, undecided)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_value_that_is_no_finite_number_is_named(bad):
    with pytest.raises(BookError, match="claim 16 cannot be judged: its value 'loss_recovered'"):
        verdict(16, {"loss_recovered": bad, "l0": 10})


@pytest.mark.parametrize("number", [0, 61, -1, True])
def test_unknown_claim(number):
    with pytest.raises(BookError, match="there is no claim"):
        verdict(number, {})


def test_bands():
    assert Band("a", 1, 2).holds({"a": 1})
    assert Band("a", 1, 2).holds({"a": 2})
    assert not Band("a", ABOVE_ZERO).holds({"a": 0})
    assert Band("a", ABOVE_ZERO).holds({"a": 1e-300})
    assert Band("a - b", None, 0).of({"a": 1, "b": 3}) == -2
    assert Band("a / b").of({"a": 1, "b": 4}) == 0.25
    with pytest.raises(BookError, match="divides by zero"):
        Band("a / b", 1).holds({"a": 1, "b": 0})
    words = [band.words() for band in (Band("l0", 5, 30), Band("l0", 5), Band("l0", None, 30), Band("l0", 5, 5), Band("a_b", ABOVE_ZERO))]
    assert words == ["l0 from 5 to 30", "l0 at least 5", "l0 at most 30", "l0 equal to 5", "a b above 0"]


def test_resampling_and_the_ultralow_cluster_are_not_judged_where_they_cannot_show():
    assert verdict(22, CASES[22][0] | {"dead_share_none": 0.0005}).word == "not testable here"
    assert verdict(19, CASES[19][0] | {"dead_share_none": 0.0005}).word == "not testable here"
    assert verdict(20, CASES[20][0] | {"cut": 2e-4}).word == "not testable here"


def test_splitting_needs_something_to_split_and_more_than_chance_gives():
    assert verdict(43, CASES[43][0] | {"in_class_a0": 0, "in_class_a1": 0, "in_class_a2": 1}).word == "not testable here"
    assert verdict(43, CASES[43][0] | {"labels_shifted": 9}).word == "fails"


def test_a_text_that_repeats_no_phrase_says_nothing_about_memory():
    word, reason = verdict(51, {"chain": 0, "d_sae": 16_384, "phrases": 0})
    assert word == "not testable here"
    assert "phrases at least 1, measured 0" in reason


def test_density_does_not_tell_the_cluster_that_it_defines():
    told_by_density = {"accuracy": 0.999, "accuracy_density": 0.99}
    assert verdict(21, CASES[21][0] | told_by_density | {"accuracy_without_density": 0.6}).word == "fails"


def test_the_shuffled_control_is_not_judged_where_it_has_no_dictionary():
    word, reason = verdict(42, CASES[42][0] | {"share_shuffled": math.nan, "needed": math.nan, "features_shuffled": 0})
    assert word == "not testable here"
    assert "features shuffled at least 20" in reason
    assert verdict(21, CASES[21][0] | {"cut": 3e-5}).word == "not testable here"


def test_a_person_has_to_rate_before_the_rubric_says_anything():
    word, reason = verdict(38, {"feature_median": math.nan, "neuron_median": math.nan, "rated_features": 0, "rated_neurons": 0})
    assert word == "not testable here"
    assert "rated features at least 40, measured 0" in reason
