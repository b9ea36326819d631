"""The claims ledger: what the papers say, how the book measures it, and the bands that decide, fixed before any run.

A claim's `holds` bands are its criterion; its `partly` bands say that the direction is met though the size is not.
Only claims with bands are measured by this version of the book. `verdict` turns measured values into one of four words.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sae_lib.errors import BookError

Number = int | float

VERDICTS = ("holds", "partly", "fails", "not testable here")
PARTS = {
    "A": "Toy models",
    "B": "Dictionary training",
    "C": "Case studies",
    "D": "The typical feature",
    "E": "Structure",
    "F": "Follow-ups",
}
ABOVE_ZERO = math.ulp(0.0)  # both ends of a band belong to it, so "greater than zero" starts at the smallest positive number
TOO_SMALL = "the smoke scale is too small to show it: its models only prove that the code runs"
GLANCE = "a glance, on few tokens of whatever text is at hand; the reference run measures on real text, at length"

_TMS = "Elhage et al. 2022 (Toy Models of Superposition)"
_DD = "Henighan et al. 2023 (Superposition, Memorization, and Double Descent)"
_TM = "Bricken et al. 2023 (Towards Monosemanticity)"
_GATED = "Rajamanoharan et al. 2024 (Gated SAEs)"
_TOPK = "Gao et al. 2024 (TopK SAEs)"
_MAT = "Bussmann et al. 2025 (Matryoshka SAEs)"
_TC = "Dunefsky et al. 2024 (Transcoders)"
_CC = "Lindsey et al. 2024 (Sparse Crosscoders)"
_CT = "Ameisen et al. 2025 (Circuit Tracing)"
_SB = "Karvonen et al. 2025 (SAEBench)"


@dataclass(frozen=True)
class Band:
    """An interval that a measured value must lie in; both ends belong to it."""

    name: str
    """A value's name, or two of them as "a - b" or "a / b"."""
    low: int | float | None = None
    """Smallest value that agrees, in the unit of the value; None means no lower end."""
    high: int | float | None = None
    """Largest value that agrees; None means no upper end."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the values that the band is computed from."""
        for operator in (" - ", " / "):
            if operator in self.name:
                return tuple(self.name.split(operator))
        return (self.name,)

    def of(self, values: Mapping[str, Number]) -> float:
        """The band's own number: a value, or the difference or ratio of two."""
        first, *second = (float(values[name]) for name in self.needs)
        if not second:
            return first
        if " - " in self.name:
            return first - second[0]
        if second[0] == 0:
            raise BookError(f"{self.name} divides by zero: {self.needs[1]} was measured as 0; measure on more tokens")
        return first / second[0]

    def holds(self, values: Mapping[str, Number]) -> bool:
        """Whether the number lies in the band."""
        number = self.of(values)
        return (self.low is None or number >= self.low) and (self.high is None or number <= self.high)

    def words(self) -> str:
        """The band as a reader says it, such as "l0 from 5 to 30"."""
        name = self.name.replace("_", " ")
        if self.low == ABOVE_ZERO:
            return f"{name} above 0" + ("" if self.high is None else f" and at most {self.high:g}")
        if self.low is None:
            return f"{name} at most {self.high:g}"
        if self.high is None:
            return f"{name} at least {self.low:g}"
        return f"{name} equal to {self.low:g}" if self.low == self.high else f"{name} from {self.low:g} to {self.high:g}"


class Verdict(NamedTuple):
    """A verdict and why it was given."""

    word: str
    """One of VERDICTS."""
    reason: str
    """One clause for the reader; empty when the claim holds."""


@dataclass(frozen=True)
class Claim:
    """One row of the ledger."""

    id: int
    """Number of the claim, 1 to 60."""
    part: str
    """Letter of the ledger's part, a key of PARTS."""
    text: str
    """What the paper claims, in our words."""
    paper: str
    """The paper's value as a reader sees it."""
    source: str
    """Paper and section."""
    measure: str
    """How the book measures it."""
    criterion: str
    """What counts as agreement, in words."""
    holds: tuple[Band, ...] = ()
    """All of these must be met; empty while the book does not measure the claim."""
    partly: tuple[Band, ...] = ()
    """Met when the direction is right though the size is not."""
    testable: tuple[Band, ...] = ()
    """Conditions of the test itself; one that is not met makes the claim not testable here."""
    numbers: Mapping[str, Number] = field(default_factory=dict, hash=False)
    """The paper's values by the name of our value, for figures."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the values that a verdict needs, in the order of the bands."""
        bands = (*self.holds, *self.partly, *self.testable)
        return tuple(dict.fromkeys(name for band in bands for name in band.needs))


SOMETHING_DIED = (Band("dead_share_none", 0.01),)
"""Resampling can only be judged where at least one feature in a hundred dies without it (departure D14)."""

_LEDGER = (
    # A. Toy models
    Claim(
        1,
        "A",
        "A linear model never superposes: it keeps exactly its most important features",
        "keeps exactly the top m features",
        f"{_TMS}, Demonstrating Superposition",
        "20 features, 5 dimensions, importance 0.7^i, linear, any sparsity",
        "5 norms above 0.9, 15 below 0.1, largest shared-ness below 0.05",
        holds=(Band("long", 5, 5), Band("short", 15, 15), Band("shared", None, 0.05)),
        partly=(Band("shared", None, 0.05),),
    ),
    Claim(
        2,
        "A",
        "A ReLU model superposes as sparsity grows, the least important features first",
        "qualitative",
        f"{_TMS}, Demonstrating Superposition",
        "the same sizes; features with a norm above 0.5 at density 1 and at density 0.03",
        "5 at density 1, at least 10 at density 0.03, and the most important feature is the last to lose orthogonality",
        holds=(Band("represented_sparse", 10), Band("represented_dense", 5, 5), Band("top_last", 1, 1)),
        partly=(Band("represented_sparse - represented_dense", 1),),
    ),
    Claim(
        3,
        "A",
        "Superposition is a phase change",
        "sharp edges, two features in one dimension",
        f"{_TMS}, Superposition as a Phase Change",
        "20 x 20 grid, best 9 of 10 models",
        "along equal importance the class flips between density 0.50 and 0.65 (theory: 4/7)",
        holds=(Band("flip", 0.50, 0.65),),
        partly=(Band("flip", ABOVE_ZERO, 1),),
        numbers={"flip": 4 / 7},
    ),
    Claim(
        4,
        "A",
        "Closed-form theory predicts the phase diagram",
        "closed form",
        f"{_TMS}, Superposition as a Phase Change",
        "classify each grid cell by theory and by experiment",
        "at least 90% of the cells agree, and the misses touch a boundary",
        holds=(Band("agreement", 0.90), Band("misses_at_boundary", 1, 1)),
        partly=(Band("agreement", 0.75),),
    ),
    Claim(
        5,
        "A",
        "Dimensions per feature stick at 1 and 1/2",
        "plateaus",
        f"{_TMS}, The Geometry of Superposition",
        "400 features, 30 dimensions, at least 20 densities",
        "at least 4 adjacent densities within 0.03 of 1/2",
        holds=(Band("plateau", 4),),
        partly=(Band("plateau", 2),),
    ),
    Claim(
        6,
        "A",
        "The dimensionality of single features clusters at simple fractions",
        "3/4, 2/3, 1/2, 2/5, 3/8",
        f"{_TMS}, The Geometry of Superposition",
        "histogram of feature dimensionality over densities",
        "mass within 0.02 of these values at least twice a uniform baseline, the peak at 1/2 the largest",
        holds=(Band("mass / uniform_mass", 2), Band("half_is_largest", 1, 1)),
        partly=(Band("mass / uniform_mass", 1),),
    ),
    Claim(
        7,
        "A",
        "Solutions are tegum products of small polytopes",
        "2/3 together with 1/2, no 3/5",
        f"{_TMS}, The Geometry of Superposition",
        "components of the interference graph",
        "no cluster at 0.60, and some models show 2/3 and 1/2 components together",
        holds=(Band("mass_060 / uniform_mass_060", None, 1), Band("models_with_both", 1)),
        partly=(Band("models_with_both", 1),),
    ),
    Claim(
        8,
        "A",
        "A pentagon turns into two digons when one feature grows rarer",
        "density ratio about 2.5",
        f"{_TMS}, Non-Uniform Superposition",
        "5 features, 2 dimensions, density 0.05, best of 20 fits",
        "transition at a ratio between 2 and 3.2, where the loss curves cross",
        holds=(Band("transition", 2, 3.2), Band("curves_cross", 1, 1)),
        partly=(Band("transition", 1, 10),),
        numbers={"transition": 2.5},
    ),
    Claim(
        9,
        "A",
        "Correlated features prefer to be orthogonal, anticorrelated ones opposite",
        "qualitative",
        f"{_TMS}, Correlated and Anticorrelated Features",
        "4 features, 2 dimensions, best of 20 seeds",
        "pair cosine under 0.15, and below -0.9",
        holds=(Band("cosine_together", -0.15, 0.15), Band("cosine_apart", None, -0.9)),
        partly=(Band("cosine_together - cosine_apart", ABOVE_ZERO),),
    ),
    Claim(
        10,
        "A",
        "Correlated pairs collapse to their principal component as density rises",
        "densities 0.05, 0.15, 0.25, 0.5",
        f"{_TMS}, Local Almost-Orthogonal Bases",
        "three correlated pairs in 2 dimensions",
        "the number of collapsed pairs never falls with density; 0 at 0.03 and 3 at 0.5",
        holds=(Band("never_falls", 1, 1), Band("collapsed_sparse", 0, 0), Band("collapsed_dense", 3, 3)),
        partly=(Band("collapsed_dense - collapsed_sparse", 1),),
    ),
    Claim(
        11,
        "A",
        "Features jump between dimensionalities, and the loss drops at the jump",
        "jumps coincide with loss drops",
        f"{_TMS}, Superposition and Learning Dynamics",
        "dimensionality of each feature during the training of the digon model",
        "at least one swap with a loss drop inside 1% of training",
        holds=(Band("swaps_with_drop", 1),),
        partly=(Band("swaps", 1),),
    ),
    Claim(
        12,
        "A",
        "Superposition makes a model vulnerable to adversarial examples",
        "over 3 times, tracks features per dimension",
        f"{_TMS}, Relationship to Adversarial Robustness",
        "analytic L2 attack of norm 0.1",
        "ratio above 2 and rank correlation with features per dimension above 0.9",
        holds=(Band("vulnerability_ratio", 2), Band("rank_correlation", 0.9)),
        partly=(Band("vulnerability_ratio", 1), Band("rank_correlation", 0.5)),
        numbers={"vulnerability_ratio": 3},
    ),
    Claim(
        13,
        "A",
        "A model can compute absolute values while in superposition",
        "100 features, 40 neurons",
        f"{_TMS}, Computation in Superposition",
        "polysemantic neurons against density",
        "none at density 1, at least 90% at density 0.001",
        holds=(Band("polysemantic_dense", 0, 0), Band("polysemantic_sparse", 0.9)),
        partly=(Band("polysemantic_sparse - polysemantic_dense", ABOVE_ZERO),),
    ),
    Claim(
        14,
        "A",
        "The asymmetric motif appears",
        "[2, -1/2] with [1/2, 2]",
        f"{_TMS}, Computation in Superposition",
        "two-feature neurons of unequal size",
        "at least one instance in 20 seeds with an input ratio over 2.5 and the inverse output ratio",
        holds=(Band("motifs", 1),),
    ),
    Claim(
        15,
        "A",
        "Finite data gives double descent between memorising points and learning features",
        "bump; points take m/T dimensions",
        f"{_DD}, first part",
        "1,000 features, 2 dimensions, 3 to 10,000 points",
        "dimensionality of points within 10% of 2/T below T = 10; a bump at least 10% above both sides, gone with weight decay 1",
        holds=(Band("point_error", None, 0.10), Band("bump", 0.10), Band("bump_decayed", None, 0.05)),
        partly=(Band("bump", ABOVE_ZERO), Band("bump - bump_decayed", ABOVE_ZERO)),
    ),
    # B. Dictionary training
    Claim(
        16,
        "B",
        "The dictionary of 4,096 features recovers most of the loss that the MLP is worth",
        "79%",
        f"{_TM}, how much of the model the interpretation explains",
        "zero-ablation score on held-out tokens",
        "60% to 95% at an L0 between 5 and 30",
        holds=(Band("loss_recovered", 0.60, 0.95), Band("l0", 5, 30)),
        partly=(Band("loss_recovered", 0.50), Band("l0", None, 50)),
        numbers={"loss_recovered": 0.79},
    ),
    Claim(
        17,
        "B",
        "Recovery rises with the width of the dictionary at a fixed L1 coefficient",
        "79% to 94.5%",
        f"{_TM}, how much of the model the interpretation explains",
        "A/0, A/1, A/2 at one L1 coefficient",
        "strictly increasing, A/2 at least 3 points above A/1",
        holds=(Band("recovered_a1 - recovered_a0", ABOVE_ZERO), Band("recovered_a2 - recovered_a1", 0.03)),
        partly=(Band("recovered_a1 - recovered_a0", ABOVE_ZERO), Band("recovered_a2 - recovered_a1", ABOVE_ZERO)),
        numbers={"recovered_a1": 0.79},
    ),
    Claim(
        18,
        "B",
        "A small L0 suffices",
        "below 10 to 20",
        f"{_TM}, appendix: advice for training",
        "mean L0 on held-out tokens",
        "L0 under 20 with the criterion of claim 16 met",
        holds=(Band("l0", 5, 20), Band("loss_recovered", 0.60, 0.95)),
        partly=(Band("l0", None, 50), Band("loss_recovered", 0.50)),
        numbers={"l0": 20},
    ),
    Claim(
        19,
        "B",
        "Some features die",
        "168 of 4,096 (4%)",
        f"{_TM}, appendix: resampling",
        "features that never fire on the analysis tokens, with and without resampling",
        "under 20% dead, and fewer than without resampling",
        holds=(Band("dead_share", None, 0.20), Band("dead_share_none - dead_share_paper", ABOVE_ZERO)),
        partly=(Band("dead_share_none - dead_share_paper", ABOVE_ZERO),),
        testable=SOMETHING_DIED,
        numbers={"dead_share": 168 / 4096},
    ),
    Claim(
        20,
        "B",
        "There is a cluster of features of ultralow density",
        "292 of 4,096 (7%) below 1e-6",
        f"{_TM}, appendix: feature density",
        "share of live features below the paper's cut of 100 firings in 1e8 tokens, scaled to our tokens",
        "at least 3% of live features below the scaled cut",
        holds=(Band("ultralow_share", 0.03),),
        partly=(Band("ultralow_share", ABOVE_ZERO),),
        # On few tokens the scaled cut lies among ordinary features, and no share below it could fail (departure D14).
        testable=(Band("cut", None, 1e-5),),
        numbers={"ultralow_share": 292 / 4096},
    ),
    Claim(
        21,
        "B",
        "The ultralow cluster separates by density, encoder bias and encoder-decoder product",
        "qualitative",
        f"{_TM}, appendix: feature density",
        "logistic fit on encoder bias and product, of a cluster cut by density on another half of the text",
        "balanced accuracy above 0.95 without the density, which defines the cluster",
        holds=(Band("accuracy_without_density", 0.95),),
        # Half-way from a coin to certainty.
        partly=(Band("accuracy_without_density", 0.75),),
        # As for claim 20 the cut must be the paper's kind of cut, and there must be features on either side of it (departure D34).
        testable=(Band("cut", None, 1e-5), Band("ultralow", 20), Band("ordinary", 20)),
    ),
    Claim(
        22,
        "B",
        "Resampling helps: more features live, at no cost in loss",
        "more features, lower loss",
        f"{_TM}, appendix: resampling",
        "three arms from one seed: none, fresh Kaiming weights, the paper's rule",
        "live features: the paper's rule above Kaiming above none, and a total loss no higher than without resampling",
        holds=(Band("alive_paper - alive_naive", 1), Band("alive_naive - alive_none", 1), Band("loss_none - loss_paper", 0)),
        partly=(Band("alive_paper - alive_none", 1),),
        testable=SOMETHING_DIED,
    ),
    Claim(
        23,
        "B",
        "The untied encoder is used: it is not the transpose of the decoder",
        "encoder not the transpose",
        f"{_TM}, sparse autoencoder setup",
        "cosine of each feature's encoder and decoder vectors; cosines of near pairs in both",
        "median under 0.9, and pairs that are near in the decoder are less near in the encoder",
        holds=(Band("median_cosine", None, 0.9), Band("near_decoder_cosine - near_encoder_cosine", ABOVE_ZERO)),
        partly=(Band("near_decoder_cosine - near_encoder_cosine", ABOVE_ZERO),),
    ),
    Claim(
        24,
        "B",
        "Projecting the decoder's gradient gives a small gain",
        "small but real",
        f"{_TM}, sparse autoencoder setup",
        "with and without, 3 seeds",
        "mean loss lower by more than 1 standard error",
        holds=(Band("gain - standard_error", ABOVE_ZERO), Band("gain", ABOVE_ZERO)),
    ),
    Claim(
        25,
        "B",
        "Wider dictionaries find rarer features",
        "the lowest recovered density falls with width",
        f"{_TM}, feature splitting",
        "5th percentile of log10 density over features that are not ultralow, by width",
        "falls from A/0 to A/1 and from A/1 to A/2",
        holds=(Band("log10_p5_a0 - log10_p5_a1", ABOVE_ZERO), Band("log10_p5_a1 - log10_p5_a2", ABOVE_ZERO)),
        partly=(Band("log10_p5_a0 - log10_p5_a2", ABOVE_ZERO),),
    ),
    # C. Case studies
    Claim(
        26,
        "C",
        "One feature is specific to a script",
        "Arabic, A/1/3450: 81% of active tokens",
        f"{_TM}, Arabic script feature",
        "best feature by correlation with the script's proxy",
        "at least 60% of its active tokens in the script, at least 90% in the top third of its range",
        holds=(Band("specificity", 0.60), Band("specificity_top_third", 0.90)),
        partly=(Band("specificity_top_third", 0.50),),
        numbers={"specificity": 0.81},
    ),
    Claim(
        27,
        "C",
        "Specificity grows with activation",
        "25% of barely active tokens, 98% above activation 5",
        f"{_TM}, Arabic script feature",
        "share in the script for each of 11 equal intervals of activation",
        "not below the interval beneath it in at least 8 of 11 intervals (the lowest counts), and the top above the bottom",
        # An interval that equals the one beneath counts as rising, and so would all of a flat profile.
        holds=(Band("rising_intervals", 8, 11), Band("share_top - share_bottom", ABOVE_ZERO)),
        partly=(Band("share_top - share_bottom", ABOVE_ZERO),),
        numbers={"share_bottom": 0.25, "share_top": 0.98},
    ),
    Claim(
        28,
        "C",
        "The feature correlates with the script's proxy",
        "0.74 (Arabic), 0.55 (Hebrew)",
        f"{_TM}, Arabic and Hebrew features",
        "Pearson correlation with the proxy above 0; the best of the scripts",
        "above 0.5 for at least one script",
        holds=(Band("pearson", 0.5),),
        partly=(Band("pearson", 0.25),),
        numbers={"arabic": 0.74, "hebrew": 0.55},
    ),
    Claim(
        29,
        "C",
        "One feature fires on DNA",
        "0.80",
        f"{_TM}, DNA feature",
        "Pearson correlation with the binarised proxy on real text; of the DNA that the released weights were trained on, one "
        "token in sixteen is generated (departure D9)",
        "above 0.5 where DNA makes up more than 1e-5 of the tokens",
        holds=(Band("pearson", 0.5),),
        partly=(Band("pearson", 0.25),),
        testable=(Band("dna_share", 1e-5),),
        numbers={"dna": 0.80},
    ),
    Claim(
        30,
        "C",
        "One feature fires on base64, with a weaker correlation",
        "0.38",
        f"{_TM}, base64 feature",
        "Pearson correlation with the proxy; features of base64 runs beside the most sensitive one (companions); share of the "
        "hexadecimal tokens that the proxy takes for base64 and the feature leaves alone, less the share of base64 runs that it "
        "leaves alone (confusion)",
        "between 0.2 and 0.7, with at least one companion feature or a confusion with hexadecimal text of at least one half",
        # `explanations` counts which of the two are there: companions, and the confusion.
        holds=(Band("pearson", 0.2, 0.7), Band("explanations", 1)),
        partly=(Band("pearson", 0.2, 0.7),),
        numbers={"base64": 0.38},
    ),
    Claim(
        31,
        "C",
        "The feature's logit weights have a second mode at its own tokens",
        "a second mode on the right",
        f"{_TM}, Arabic script feature",
        "share of the script's tokens in the top 1% of logit weights, over their share of the vocabulary",
        "at least 5 times the base rate",
        holds=(Band("in_class_top / in_class_base", 5),),
        partly=(Band("in_class_top / in_class_base", 1.5),),
    ),
    Claim(
        32,
        "C",
        "Ablating the feature hurts the right tokens",
        "qualitative",
        f"{_TM}, Arabic script feature",
        "change of log-likelihood of next tokens in and outside the script where the feature fires, and the rank correlation "
        "of the loss in the script with the interval of activation",
        "loss in the script rises, ratio above 5, growing with activation (rank correlation at least 0.5)",
        holds=(Band("ratio", 5), Band("in_class_loss", ABOVE_ZERO), Band("growth", 0.5)),
        partly=(Band("ratio", 1), Band("in_class_loss", ABOVE_ZERO)),
    ),
    Claim(
        33,
        "C",
        "Pinning the feature steers the text",
        "samples turn into the script",
        f"{_TM}, Arabic script feature",
        "feature held at its maximum, 200 samples of 50 tokens; Arabic against its share of the held-out tokens, and the best script",
        "share of script tokens above 10 times the base rate, and above 50% for one feature",
        holds=(Band("pinned_share / base_share", 10), Band("best_share", 0.5)),
        partly=(Band("pinned_share / base_share", 2),),
    ),
    Claim(
        34,
        "C",
        "No neuron does what the feature does",
        "best neuron 0.10 to 0.18 (Hebrew, base64)",
        f"{_TM}, Arabic, base64 and Hebrew features",
        "Pearson correlation of the best neuron with the same proxy",
        "the best neuron has under half the feature's correlation, where that is at least 0.25",
        holds=(Band("neuron_pearson / feature_pearson", None, 0.5),),
        partly=(Band("feature_pearson - neuron_pearson", ABOVE_ZERO),),
        testable=(Band("feature_pearson", 0.25),),
        numbers={"base64": 0.18, "hebrew": 0.10},
    ),
    Claim(
        35,
        "C",
        "The feature is spread over many neurons",
        "27 neurons with a coefficient of at least 0.1",
        f"{_TM}, Arabic script feature",
        "coefficients of the feature's decoder row",
        "at least 10 above 0.1 in size, and the largest squared share below 0.5",
        holds=(Band("neurons_above", 10), Band("largest_squared_share", None, 0.5)),
        partly=(Band("largest_squared_share", None, 0.5),),
        numbers={"neurons_above": 27},
    ),
    Claim(
        36,
        "C",
        "Weighted by activation, the feature is more specific",
        "most of the mass",
        f"{_TM}, Arabic script feature",
        "specificity weighted by activation",
        "higher than unweighted, and above 70%",
        holds=(Band("weighted - plain", ABOVE_ZERO), Band("weighted", 0.70)),
        partly=(Band("weighted - plain", ABOVE_ZERO),),
    ),
    Claim(
        37,
        "C",
        "Companion features fill the gaps",
        "first-byte and prefix features",
        f"{_TM}, Arabic script feature",
        "features that fire where the main one does not though the proxy does, on at least ten such tokens",
        "at least one with a precision above 50%",
        holds=(Band("companions", 1),),
    ),
    # D. The typical feature
    Claim(
        38,
        "D",
        "Features read better than neurons to a person",
        "median 12 against 0 of 14",
        f"{_TM}, how interpretable the typical feature is",
        "blinded rubric on 40 features and 40 neurons",
        "medians differ by at least 4 of 14",
        holds=(Band("feature_median - neuron_median", 4),),
        partly=(Band("feature_median - neuron_median", ABOVE_ZERO),),
        # The rubric asks for a person; where nobody has rated, nothing stands in for one (departure D28).
        testable=(Band("rated_features", 40), Band("rated_neurons", 40)),
        numbers={"feature_median": 12, "neuron_median": 0},
    ),
    Claim(
        39,
        "D",
        "Explanations predict logit effects better for features",
        "means 74% against 58%; shuffled 50%, a median",
        f"{_TM}, automated interpretability, logit weights",
        "a local judge or a documented proxy, half likely and half random tokens",
        "features at least 8 points above neurons, shuffled within 5 points of 50%",
        holds=(Band("feature_accuracy - neuron_accuracy", 0.08), Band("shuffled_accuracy", 0.45, 0.55)),
        partly=(Band("feature_accuracy - neuron_accuracy", ABOVE_ZERO),),
        numbers={"feature_accuracy": 0.74, "neuron_accuracy": 0.58, "shuffled_accuracy": 0.50},
    ),
    Claim(
        40,
        "D",
        "Explanations predict activations better for features",
        "features above neurons",
        f"{_TM}, automated interpretability, activations",
        "Spearman correlation over about 60 times 9 tokens",
        "mean difference positive with a 95% interval that excludes 0",
        # `difference_low` is the lower end of the interval.
        holds=(Band("difference_low", ABOVE_ZERO),),
        partly=(Band("feature_spearman - neuron_spearman", ABOVE_ZERO),),
    ),
    Claim(
        41,
        "D",
        "Upper activation intervals are cleaner",
        "consistent in the top 60%",
        f"{_TM}, how interpretable the typical feature is",
        "judge or proxy for each interval",
        "score falls from top to bottom for most features",
        # A feature's score falls if its rank correlation with the interval is at least one half, over eight intervals or more
        # (`interpret.falls`).
        holds=(Band("falling - not_falling", ABOVE_ZERO),),
        partly=(Band("score_top - score_bottom", ABOVE_ZERO),),
        testable=(Band("judged", 20),),
    ),
    Claim(
        42,
        "D",
        "A shuffled model gives single-token features",
        "many, bimodal",
        f"{_TM}, appendix: shuffled weights",
        "same top token in all 20 top examples, A/1 against shuffled",
        "shuffled share at least 1.5 times that of A/1",
        holds=(Band("share_shuffled - needed", 0), Band("share_shuffled - share_a1", ABOVE_ZERO)),
        partly=(Band("share_shuffled - share_a1", ABOVE_ZERO),),
        # There is no dictionary on the shuffled model at scales that train everything anew.
        testable=(Band("features_shuffled", 20), Band("features_a1", 20)),
    ),
    # E. Structure
    Claim(
        43,
        "E",
        "Features split as the dictionary grows",
        "base64: 1, 3, many",
        f"{_TM}, feature splitting",
        "features with a precision of at least 50% for one context, by width",
        "never falls from A/0 to A/1 to A/2, is larger at A/2 than at A/0, and larger than with the labels shifted",
        holds=(
            Band("in_class_a1 - in_class_a0", 0),
            Band("in_class_a2 - in_class_a1", 0),
            Band("in_class_a2 - in_class_a0", 1),
            Band("in_class_a2 - labels_shifted", 1),
        ),
        partly=(Band("in_class_a2 - in_class_a0", 1), Band("in_class_a2 - labels_shifted", 1)),
        # Where A/0 has no such feature nothing can split.
        testable=(Band("in_class_a0", 1),),
        numbers={"in_class_a0": 1, "in_class_a1": 3},
    ),
    Claim(
        44,
        "E",
        "Split features are neighbours",
        "clusters on a map",
        f"{_TM}, feature splitting",
        "mean decoder cosine within a family of at least two against random pairs",
        "within at least 0.2 above random, and the nearest neighbour in the family over half the time",
        holds=(Band("cosine_within - cosine_random", 0.2), Band("nearest_in_family", 0.5)),
        partly=(Band("cosine_within - cosine_random", ABOVE_ZERO),),
        testable=(Band("family", 2),),
    ),
    Claim(
        45,
        "E",
        "Splitting is a graph and not a tree",
        "splits and merges",
        f"{_TM}, feature splitting",
        "masked-cosine graph with an edge above 0.4",
        "at least one feature with two parents",
        holds=(Band("features_with_two_parents", 1),),
    ),
    Claim(
        46,
        "E",
        "Features are universal: another model has them too",
        "0.72",
        f"{_TM}, universality",
        "median over A/1 of the best activation correlation with a feature of B/1, on the same tokens",
        "0.5 to 0.9",
        holds=(Band("feature_median", 0.5, 0.9),),
        partly=(Band("feature_median", 0.3),),
        numbers={"feature_median": 0.72},
    ),
    Claim(
        47,
        "E",
        "Features are more universal than neurons",
        "0.72 against 0.46",
        f"{_TM}, universality",
        "the same median for the neurons of A and B",
        "the features' median at least 0.1 above the neurons'",
        holds=(Band("feature_median - neuron_median", 0.1),),
        partly=(Band("feature_median - neuron_median", ABOVE_ZERO),),
        numbers={"feature_median": 0.72, "neuron_median": 0.46},
    ),
    Claim(
        48,
        "E",
        "Logit similarity disagrees with activation similarity, attribution similarity agrees",
        "plots only",
        f"{_TM}, universality",
        "correlation over features of activation similarity with each of the two",
        "stronger for attribution by at least 0.2",
        holds=(Band("attribution_relation - logit_relation", 0.2),),
        partly=(Band("attribution_relation - logit_relation", ABOVE_ZERO),),
    ),
    Claim(
        49,
        "E",
        "Token-in-context features dominate",
        'over 100 features of "the" in A/4',
        f"{_TM}, feature motifs",
        "features with over 50% of their activation on one common token (at least one in a thousand tokens), by width",
        "their number grows from A/0 to A/1 and from A/1 to A/2",
        holds=(Band("one_token_a1 - one_token_a0", 1), Band("one_token_a2 - one_token_a1", 1)),
        partly=(Band("one_token_a2 - one_token_a0", 1),),
    ),
    Claim(
        50,
        "E",
        "Features drive each other like finite state automata",
        "a loop through HTML, snake case",
        f"{_TM}, finite state automata",
        "how often a feature fires after another and one of the tokens that the other raises most, over its base rate",
        "lift above 10, and a cycle of length 2 or more",
        holds=(Band("lift", 10), Band("cycle", 2)),
        partly=(Band("lift", 10),),
    ),
    Claim(
        51,
        "E",
        "A chain of features memorises a phrase",
        "A/4 only",
        f"{_TM}, finite state automata",
        "features that fire in order over a repeated phrase",
        "a chain of 4 or more at 16,384 features or above and with a repeated phrase in the text, else not testable",
        holds=(Band("chain", 4),),
        partly=(Band("chain", 2),),
        # Where the text repeats no phrase there is none to memorise.
        testable=(Band("d_sae", 16_384), Band("phrases", 1)),
    ),
    # F. Follow-ups
    Claim(
        52,
        "F",
        "TopK, Gated and JumpReLU dictionaries beat the L1 penalty at a fixed L0",
        "a better frontier",
        f"{_TOPK}; {_GATED}",
        "the same data at 5 sparsities",
        "lower loss at 4 or more of 5 matched values of L0",
    ),
    Claim(
        53,
        "F",
        "The L1 penalty shrinks activations",
        "bias below 1, gated about 1",
        f"{_GATED}, shrinkage",
        "relative reconstruction bias",
        "L1 under 0.97 and falling with its coefficient; gated or TopK from 0.97 to 1.03",
    ),
    Claim(
        54,
        "F",
        "The auxiliary loss and a tied start leave few dead features",
        "7% at 16 million (reported by others)",
        f"{_TOPK}, dead latents",
        "dead share with and without the auxiliary loss",
        "lower, and under 10% at 16,384 features",
    ),
    Claim(
        55,
        "F",
        "Matryoshka dictionaries absorb less and lose a little variance",
        "absorption 0.05 against 0.49; variance 70% against 72%",
        f"{_MAT}, results",
        "tree toy and letters",
        "parent recovered with a cosine above 0.9 where the plain one fails; under 5 points of variance lost",
    ),
    Claim(
        56,
        "F",
        "Transcoders are on par with sparse autoencoders",
        "on par or better",
        f"{_TC}, abstract",
        "the same L0, from MLP input to MLP output",
        "loss difference within 10%",
    ),
    Claim(
        57,
        "F",
        "Crosscoders find shared and exclusive features",
        "three groups",
        f"{_CC}, model diffing",
        "A against B by relative norm",
        "a central group and at least one edge group, and no edge group for two copies of one model",
    ),
    Claim(
        58,
        "F",
        "The attribution graph is linear and exact",
        "incoming edges sum to the pre-activation",
        f"{_CT}, attribution graphs",
        "one-layer model with a frozen norm",
        "relative error below 1e-4",
    ),
    Claim(
        59,
        "F",
        "Influence in the graph predicts ablation",
        "Spearman 0.72; 0.8 for attribution against ablation",
        f"{_CT}, evaluation",
        "many prompts",
        "above 0.5, and activation alone lower",
    ),
    Claim(
        60,
        "F",
        "Loss recovered alone does not rank dictionaries",
        "ranks differ",
        f"{_SB}, results",
        "rank the variants on 3 metrics",
        "at least one pair changes its order",
    ),
)

CLAIMS: dict[int, Claim] = {row.id: row for row in _LEDGER}
MEASURED = tuple(row.id for row in _LEDGER if row.holds)


def claim(number: int) -> Claim:
    """The claim of that number.

    Raises:
        BookError: the ledger has no such number.
    """
    if isinstance(number, bool) or number not in CLAIMS:
        raise BookError(f"there is no claim {number!r}: the ledger numbers its claims from 1 to {len(CLAIMS)}")
    return CLAIMS[number]


def verdict(number: int, values: Mapping[str, Number], undecided: str = "") -> Verdict:
    """Hold measured values against a claim's bands.

    A name that is missing is always an error. Where the run cannot decide about models of text, the numbers themselves
    are not looked at for claims about them, because a tiny model may have nothing to measure.

    Args:
        number: of the claim.
        values: measured values by name, at least those of `claim(number).needs`.
        undecided: why this run decides nothing about models of text; empty if it does.

    Returns:
        The word and its reason.

    Raises:
        BookError: unknown claim, a value missing, not a number or not finite.
    """
    row = claim(number)
    if not row.holds:
        return Verdict("not testable here", "this version of the book does not measure it")
    missing = [name for name in row.needs if name not in values]
    if missing:
        raise BookError(f"claim {number} needs the value {missing[0]!r} and was given {_listed(values)}; pass it to Measured")
    if undecided and row.part != "A":
        return Verdict("not testable here", undecided)
    for band in row.testable:
        _check_finite(row, band.needs, values)
        if not band.holds(values):
            return Verdict("not testable here", f"the test asks for {_in_words(band, values)}")
    _check_finite(row, row.needs, values)
    broken = [band for band in row.holds if not band.holds(values)]
    if not broken:
        return Verdict("holds", "")
    reason = "; ".join(f"the criterion asks for {_in_words(band, values)}" for band in broken)
    direction = bool(row.partly) and all(band.holds(values) for band in row.partly)
    return Verdict("partly" if direction else "fails", reason)


def _check_finite(row: Claim, names: tuple[str, ...], values: Mapping[str, Number]) -> None:
    for name in names:
        try:
            finite = math.isfinite(values[name])
        except TypeError:
            finite = False
        if not finite:
            raise BookError(f"claim {row.id} cannot be judged: its value {name!r} is {values[name]!r}, not a finite number")


def _in_words(band: Band, values: Mapping[str, Number]) -> str:
    return f"{band.words()}, measured {band.of(values):.3g}"


def _listed(values: Mapping[str, Number]) -> str:
    return ", ".join(repr(name) for name in values) or "none"
