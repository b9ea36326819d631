"""The scales of the book: one word decides every size of a run.

Source: Bricken et al. 2023, "Problem Setup" and "Sparse Autoencoder Setup", for the preset `paper`; the others are ours.
"""

from dataclasses import dataclass, replace

from sae_lib.errors import BookError
from sae_lib.resampling import ResamplingSchedule

PILE = "hub:monology/pile-uncopyrighted"
"""The Pile as it can be had today."""

PAPER_STEPS = 1_000_000
"""Training steps of the paper's dictionaries."""


@dataclass(frozen=True)
class Scale:
    """Every size of a run."""

    name: str
    """What the reader types."""
    corpus: str
    """The text, as `open_corpus` reads it."""
    corpus_tokens: int
    """Training tokens packed into shards."""
    validation_tokens: int
    """Held-out tokens packed into shards."""
    tokenizer_bytes: int
    """Bytes of text the tokenizer is trained on."""
    d_model: int
    """Width of the residual stream."""
    n_heads: int
    """Attention heads."""
    d_head: int
    """Width of one head."""
    d_mlp: int
    """MLP neurons."""
    n_ctx: int
    """Context length in tokens."""
    d_vocab: int
    """Vocabulary size."""
    model_tokens: int
    """Tokens a language model sees in training."""
    model_batch: int
    """Tokens a step."""
    model_lr: float
    """Peak learning rate of the language model."""
    d_sae: dict[str, int]
    """Features of each dictionary."""
    n_activations: dict[str, int]
    """Activations each dictionary sees in training."""
    model_arm_tokens: int
    """Tokens of the short training that chapter 4 does before the reader's eyes; as many as `model_tokens` means that training."""
    arm_activations: int
    """Activations each arm of the resampling comparison sees."""
    sae_batch: int
    """Activations a step."""
    sae_lr: float
    """Adam's learning rate for dictionaries."""
    l1_coeff: float
    """Sparsity weight, with the squared error averaged over elements."""
    analysis_tokens: int
    """Held-out tokens that the chapters measure on."""
    truth_tokens: int
    """Labelled tokens that features are scored on; of 600,000 the rarest leaves have some dozens in either half."""
    toy_steps: int
    """Training steps of a toy model."""
    toy_points: int
    """Most data points that a toy model on finite data is given."""
    bf16: bool
    """Products in bfloat16 where the processor has it."""
    tied_start: bool = False
    """Every feature of a dictionary starts as resampling makes one: reading, softly, the direction that it writes."""
    is_released: bool = False
    """The weights ship with the book and are opened, not trained; only the arms of a comparison are trained in the run."""

    def resampling(self, n_steps: int, method: str = "paper") -> ResamplingSchedule:
        """The paper's schedule, or its shape squeezed into a shorter run.

        Args:
            n_steps: of the run.
            method: "paper", "naive" or "none".

        Source: Bricken et al. 2023, appendix "Neuron Resampling".
        Differs: the paper resamples four times in the first tenth of a million steps. A run a hundred times shorter
        would resample features that have had no time to fire, so there the four come at 20, 40, 60 and 80% of the
        steps, with a window of 10%; the sample is 100 batches, as in the paper.
        """
        if n_steps >= PAPER_STEPS // 4:
            return ResamplingSchedule(n_inputs=100 * self.sae_batch, method=method)
        steps = tuple(max(1, n_steps * percent // 100) for percent in (20, 40, 60, 80))
        return ResamplingSchedule(steps, max(1, n_steps // 10), 100 * self.sae_batch, method)


_PAPER_GEOMETRY = {"d_model": 128, "n_heads": 4, "d_head": 32, "d_mlp": 512, "d_vocab": 8_192}
_WIDTHS = {"A/0": 512, "A/1": 4_096, "A/2": 16_384, "B/1": 4_096}
_RELEASED = {
    **_PAPER_GEOMETRY,
    "n_ctx": 256,
    "model_tokens": 204_800_000,
    "model_batch": 8_192,
    "model_lr": 3e-3,
    "d_sae": _WIDTHS | {"A/1b": 4_096, "S/1": 4_096},
    "n_activations": dict.fromkeys(("A/0", "A/1", "B/1", "A/1b", "S/1"), 60_000_000) | {"A/2": 30_000_000},
    "sae_batch": 2_048,
    "sae_lr": 5e-4,
    "l1_coeff": 1.7e-3,
    "tied_start": True,
    "bf16": True,
}
"""How the released runs are trained, and what a chapter that opens them says of them."""
_AT_LENGTH = {
    "corpus": "book/recipes/released.toml",
    "corpus_tokens": 16_000_000,
    "validation_tokens": 1_000_000,
    "analysis_tokens": 1_000_000,
    "truth_tokens": 600_000,
    "arm_activations": 6_000_000,
    "toy_steps": 4_000,
    "toy_points": 10_000,
}
"""Sizes at which a released scale is measured for the numbers that the book keeps, in hours instead of minutes.

The text is mixed as it was for the training, so that what is rare there is rare here; no more of it is held out."""

SCALES: dict[str, Scale] = {
    preset.name: preset
    for preset in (
        Scale(
            name="smoke",
            corpus="pocket:",
            corpus_tokens=3_000_000,
            validation_tokens=300_000,
            tokenizer_bytes=8_000_000,
            d_model=128,
            n_heads=4,
            d_head=32,
            d_mlp=512,
            n_ctx=128,
            d_vocab=4_096,
            model_tokens=3_000_000,
            model_arm_tokens=3_000_000,
            model_batch=4_096,
            model_lr=4e-3,
            d_sae={"A/0": 256, "A/1": 1_024, "A/2": 4_096, "B/1": 1_024},
            n_activations={"A/0": 1_000_000, "A/1": 1_000_000, "A/2": 500_000, "B/1": 1_000_000},
            arm_activations=500_000,
            sae_batch=1_024,
            sae_lr=4e-3,
            l1_coeff=2e-3,
            analysis_tokens=100_000,
            truth_tokens=300_000,
            toy_steps=500,
            toy_points=1_000,
            bf16=True,
        ),
        Scale(
            name="laptop",
            corpus="book/recipes/real.toml",
            corpus_tokens=24_000_000,
            validation_tokens=1_000_000,
            tokenizer_bytes=40_000_000,
            **_PAPER_GEOMETRY,
            n_ctx=256,
            model_tokens=20_500_000,
            model_arm_tokens=20_500_000,
            model_batch=8_192,
            model_lr=3e-3,
            d_sae=_WIDTHS,
            n_activations={"A/0": 6_000_000, "A/1": 10_500_000, "A/2": 2_000_000, "B/1": 6_000_000},
            arm_activations=1_500_000,
            sae_batch=2_048,
            sae_lr=1e-3,
            l1_coeff=4e-3,
            analysis_tokens=500_000,
            truth_tokens=600_000,
            toy_steps=4_000,
            toy_points=10_000,
            bf16=True,
        ),
        Scale(
            name="night",
            corpus="book/recipes/released.toml",
            corpus_tokens=52_000_000,
            validation_tokens=1_000_000,
            tokenizer_bytes=60_000_000,
            analysis_tokens=500_000,
            truth_tokens=600_000,
            model_arm_tokens=1_000_000,
            arm_activations=1_000_000,
            toy_steps=4_000,
            toy_points=10_000,
            **_RELEASED,
        ),
        Scale(
            name="released",
            corpus="pocket:",
            corpus_tokens=4_000_000,
            validation_tokens=300_000,
            tokenizer_bytes=8_000_000,
            analysis_tokens=49_152,
            truth_tokens=300_000,
            model_arm_tokens=1_000_000,
            arm_activations=150_000,
            toy_steps=1_000,
            toy_points=1_000,
            is_released=True,
            **_RELEASED,
        ),
        Scale(
            name="colab",
            corpus=PILE,
            corpus_tokens=300_000_000,
            validation_tokens=5_000_000,
            tokenizer_bytes=100_000_000,
            **_PAPER_GEOMETRY,
            n_ctx=512,
            model_tokens=600_000_000,
            model_arm_tokens=600_000_000,
            model_batch=65_536,
            model_lr=2e-3,
            d_sae=_WIDTHS,
            n_activations={"A/0": 200_000_000, "A/1": 200_000_000, "A/2": 100_000_000, "B/1": 200_000_000},
            arm_activations=50_000_000,
            sae_batch=8_192,
            sae_lr=3e-4,
            l1_coeff=4e-3,
            analysis_tokens=2_000_000,
            truth_tokens=600_000,
            toy_steps=10_000,
            toy_points=10_000,
            bf16=True,
        ),
        Scale(
            name="paper",
            corpus=PILE,
            corpus_tokens=100_000_000_000,
            validation_tokens=100_000_000,
            tokenizer_bytes=1_000_000_000,
            **_PAPER_GEOMETRY,
            n_ctx=1_024,
            model_tokens=100_000_000_000,
            model_arm_tokens=100_000_000_000,
            model_batch=524_288,
            model_lr=1e-3,
            d_sae=_WIDTHS,
            n_activations=dict.fromkeys(_WIDTHS, 8_192_000_000),
            arm_activations=8_192_000_000,
            sae_batch=8_192,
            sae_lr=1e-4,
            l1_coeff=4e-3,
            analysis_tokens=100_000_000,
            truth_tokens=600_000,
            toy_steps=50_000,
            toy_points=10_000,
            bf16=True,
        ),
    )
}


def scale(name: str, at_length: bool = False) -> Scale:
    """The preset of a name.

    Args:
        name: of the preset.
        at_length: let a released scale measure on as many tokens as the numbers that the book keeps.

    Raises:
        BookError: there is none; the message lists those there are.
    """
    if name not in SCALES:
        raise BookError(f"SCALE={name} is unknown; choose one of {', '.join(SCALES)}")
    found = SCALES[name]
    return replace(found, **_AT_LENGTH) if found.is_released and at_length else found
