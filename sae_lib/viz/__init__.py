"""Every figure of the book: tables and arrays in, `go.Figure` out. No torch, no files, no titles (the caption is the title).

Colours have one meaning each, and no two series differ by colour alone: *this run* is filled or solid,
the *reference run* dashed, the *paper* a black rule or dot. Each figure carries a text alternative in `layout.meta["alt"]`.
"""

from sae_lib.viz.automata import state_diagram, state_strips
from sae_lib.viz.base import (
    CONTROL,
    CONTROL_PATTERN,
    DEAD,
    FEATURE,
    GRID,
    IN_CLASS_PATTERN,
    LABELS,
    MAX_POINTS,
    NEURON,
    PAPER,
    PROXY,
    TEMPLATE,
    BookRenderer,
    figure_html,
)
from sae_lib.viz.dictionary import (
    ablation_by_interval,
    activation_spectrum,
    density_histogram,
    family_counts,
    feature_vs_neuron,
    logit_histogram,
    neighbour_histogram,
    similarity_histogram,
    specificity,
)
from sae_lib.viz.explained import cluster, cost_by_kind, frontier
from sae_lib.viz.families import family_graph, feature_map
from sae_lib.viz.lines import resampling_arms, training_curves
from sae_lib.viz.scores import interval_scores, score_curves
from sae_lib.viz.text import blind_card, labelled_text, token_strips
from sae_lib.viz.toy import curves, dimensionality_strip, gram, learning, neuron_stack, phase_diagram, polytopes, toy_vectors
from sae_lib.viz.universality import similarity_scatter

__all__ = [
    "CONTROL",
    "CONTROL_PATTERN",
    "DEAD",
    "FEATURE",
    "GRID",
    "IN_CLASS_PATTERN",
    "LABELS",
    "MAX_POINTS",
    "NEURON",
    "PAPER",
    "PROXY",
    "TEMPLATE",
    "BookRenderer",
    "ablation_by_interval",
    "activation_spectrum",
    "blind_card",
    "cluster",
    "cost_by_kind",
    "curves",
    "density_histogram",
    "dimensionality_strip",
    "family_counts",
    "family_graph",
    "feature_map",
    "feature_vs_neuron",
    "figure_html",
    "frontier",
    "gram",
    "interval_scores",
    "labelled_text",
    "learning",
    "logit_histogram",
    "neighbour_histogram",
    "neuron_stack",
    "phase_diagram",
    "polytopes",
    "resampling_arms",
    "score_curves",
    "similarity_histogram",
    "similarity_scatter",
    "specificity",
    "state_diagram",
    "state_strips",
    "token_strips",
    "toy_vectors",
    "training_curves",
]
