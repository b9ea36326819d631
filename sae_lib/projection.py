"""What the projection of the decoder's gradient is worth: the same training with it and without.

Source: Bricken et al. 2023, "Sparse Autoencoder Setup" (the projection is reported to be a small but real gain).
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from sae_lib.activations import ActivationStream
from sae_lib.corpus import TokenSplit
from sae_lib.errors import BookError
from sae_lib.resampling import reinitialise
from sae_lib.runs import Checkpoint
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.train import DictionaryTraining, dictionary_steps
from sae_lib.transformer import OneLayerTransformer


class Unprojected(SparseAutoencoder):
    """A dictionary whose decoder's gradient keeps its part along the rows; their length is still restored after each step."""

    def project_decoder_gradient_(self) -> None:
        """Leave the gradient as it is."""


def with_and_without(
    model: OneLayerTransformer,
    tokens: TokenSplit,
    cfg: SAEConfig,
    recipe: DictionaryTraining,
    seeds: Sequence[int],
    tied_start: bool = False,
) -> pd.DataFrame:
    """Train pairs of dictionaries from the same weights on the same activations, one of each pair without the projection.

    Args:
        model: whose activations are read.
        tokens: the text.
        cfg: of every dictionary.
        recipe: of every training, its seed aside.
        seeds: one pair a seed, of the weights and of the order of the activations.
        tied_start: start every feature as resampling makes one, as the scale's `tied_start` says (departure D32).

    Returns:
        One row a seed: `seed`, and the total loss over the last tenth of the training `with` and `without` (activation units
        squared); `gain` is their difference, above 0 where the projection helps.

    Raises:
        BookError: there are fewer than two seeds, so that no spread could be told.

    Source: Bricken et al. 2023, "Sparse Autoencoder Setup".
    """
    if len(seeds) < 2:
        raise BookError(f"{len(seeds)} seeds tell no spread; give at least 2")
    rows = []
    for seed in seeds:
        stream = ActivationStream(model, tokens, recipe.batch_size, seed, min(2**18, recipe.n_activations))
        arms = {"with": SparseAutoencoder(cfg, seed), "without": Unprojected(cfg, seed)}
        if tied_start:
            for sae in arms.values():
                reinitialise(sae, torch.ones(cfg.d_sae, dtype=torch.bool), sae.W_dec.data)
        with tempfile.TemporaryDirectory() as folder:
            steps = [
                dictionary_steps(sae.to(model.device), stream, replace(recipe, seed=seed), Checkpoint(Path(folder) / name, math.inf))
                for name, sae in arms.items()
            ]
            # A step each in turn, so that both read a batch while it is there.
            logged = [found for found in zip(*steps, strict=True) if found[0][1]]
        last = logged[-max(1, len(logged) // 10) :]
        losses = {name: sum(found[place][1]["loss"] for found in last) / len(last) for place, name in enumerate(arms)}
        rows.append({"seed": seed} | losses | {"gain": losses["without"] - losses["with"]})
    return pd.DataFrame(rows)
