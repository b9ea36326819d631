"""Features whose truth is known: a dictionary is trained on a toy model's hidden activations and held against what was planted.

    h_t = W x_t                  x_t sparse, as `toy.draw` gives it; column i of W is planted feature i

The loop, the loss and the resampling are those that read the language model.

Source: ours; Sharkey et al. 2022, "Taking features out of superposition with sparse autoencoders", score such a test by the
mean of the largest cosines.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lib import toy
from sae_lib.activations import seeded
from sae_lib.errors import BookError
from sae_lib.resampling import ResamplingSchedule
from sae_lib.runs import Checkpoint
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.train import DictionaryTraining, train_dictionary

RECOVERED = 0.95
"""Cosine above which a planted feature counts as recovered."""


class PlantedStream:
    """Endless batches of a toy model's hidden activations, addressed by number, in place of a language model's.

    Args:
        task: how inputs are drawn; one experiment.
        W: the model's matrix [d_hidden, n_features].
        batch_size: activations a batch.
        seed: of the inputs.

    Raises:
        BookError: the matrix does not fit the task.
    """

    def __init__(self, task: toy.ToyTask, W: Float[Tensor, "d_hidden n_features"], batch_size: int, seed: int = 0) -> None:
        if len(task.density) != 1 or W.shape != (task.d_hidden, task.n_features):
            raise BookError(f"planting needs one experiment and its W [{task.d_hidden}, {task.n_features}], not {list(W.shape)}")
        self.task, self.W, self.batch_size, self.seed = task, W, batch_size, seed

    def truth(self, number: int) -> Float[Tensor, "batch n_features"]:
        """The sizes of the planted features in batch number so and so."""
        return toy.draw(self.task, self.batch_size, seeded(self.seed, number))[0]

    def batch(self, number: int) -> Float[Tensor, "batch d_hidden"]:
        """The hidden activations of that batch."""
        return self.truth(number) @ self.W.T

    def batches(self, n: int) -> Iterator[Float[Tensor, "batch d_hidden"]]:
        """The first n batches."""
        return (self.batch(number) for number in range(n))

    def elsewhere(self, number: int) -> "PlantedStream":
        """A stream of other inputs of the same kind."""
        seed = int(torch.randint(2**31, (), generator=seeded(self.seed, 3, number)))
        return PlantedStream(self.task, self.W, self.batch_size, seed)


class Recovery(NamedTuple):
    """A dictionary held against the truth."""

    mmcs: float
    """Mean over planted features of the largest cosine with a row of `W_dec`, -1 to 1."""
    recovered: float
    """Share of the planted features whose largest cosine is above 0.95."""
    precision: float
    """How often a feature of the dictionary fires rightly: the planted feature it matches best is present; mean over planted features."""
    recall: float
    """How often it fires where that planted feature is present; mean over planted features."""
    l0: float
    """Features of the dictionary that fire on an input."""
    planted_l0: float
    """Planted features present in an input."""
    dead: float
    """Share of the dictionary's features that never fire here."""
    spare: float
    """Share of the features that fire whose largest cosine with any planted feature is 0.95 or less."""


def train_on_planted(
    stream: PlantedStream, d_sae: int, l1_coeff: float, n_steps: int, lr: float = 3e-3, method: str = "paper", seed: int = 0
) -> SparseAutoencoder:
    """Train the book's dictionary on planted features.

    Args:
        stream: the activations.
        d_sae: features of the dictionary.
        l1_coeff: sparsity weight, with the error averaged over elements.
        n_steps: batches.
        lr: Adam's learning rate.
        method: of resampling, at 15, 30, 45 and 60% of the steps.
        seed: of the initial weights and of every draw.

    Source: Bricken et al. 2023, "Sparse Autoencoder Setup" and appendix "Neuron Resampling".
    """
    sae = SparseAutoencoder(SAEConfig(stream.task.d_hidden, d_sae, l1_coeff), seed=seed)
    steps = tuple(max(1, n_steps * percent // 100) for percent in (15, 30, 45, 60))
    schedule = ResamplingSchedule(steps, max(1, n_steps // 10), 10 * stream.batch_size, method)
    recipe = DictionaryTraining(n_steps * stream.batch_size, stream.batch_size, lr, seed, schedule)
    with tempfile.TemporaryDirectory() as folder:
        for _ in train_dictionary(sae, stream, recipe, Checkpoint(Path(folder))):
            pass
    return sae.requires_grad_(False)


@torch.no_grad()
def recovery(sae: SparseAutoencoder, stream: PlantedStream, n_batches: int = 16) -> Recovery:
    """Hold a dictionary against the planted features.

    Only features that the toy model represents are planted: what it ignores nobody could find.

    Args:
        sae: the dictionary.
        stream: the truth; batches that training has not seen are drawn from elsewhere in it.
        n_batches: on which firing is compared.

    Raises:
        BookError: the toy model represents no feature.

    Source: Sharkey et al. 2022 (the mean of the largest cosines); the rest is ours.
    """
    planted = toy.represented(stream.W)
    if not planted.any():
        raise BookError("the toy model represents no feature, so nothing is planted; take a sparser task")
    directions = torch.nn.functional.normalize(stream.W[:, planted], dim=0)
    cosine = sae.W_dec @ directions
    best, match = cosine.max(0)
    unseen = stream.elsewhere(-1)
    truth = torch.cat([unseen.truth(number) for number in range(n_batches)])
    fires = sae.encode(truth @ stream.W.T) > 0
    present = truth[:, planted] > 0
    both = (fires[:, match] & present).sum(0)
    alive = fires.any(0)
    return Recovery(
        mmcs=best.mean().item(),
        recovered=(best > RECOVERED).float().mean().item(),
        precision=(both / fires[:, match].sum(0).clamp_min(1)).mean().item(),
        recall=(both / present.sum(0).clamp_min(1)).mean().item(),
        l0=fires.sum(1).float().mean().item(),
        planted_l0=present.sum(1).float().mean().item(),
        dead=1 - alive.float().mean().item(),
        spare=(cosine.amax(1)[alive] <= RECOVERED).float().mean().item() if alive.any() else 0.0,
    )
