"""SAELens as it comes: `SAETrainer.fit` on a `StandardTrainingSAE`, fed from the file."""

import contextlib
import itertools

import numpy as np
import torch
from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file
from turns import Finished, Turns


def main() -> None:
    """Train until told to stop."""
    turns = Turns()
    settings = turns.settings
    batch, d_in = settings["batch_size"], settings["d_in"]
    kept = torch.from_numpy(np.load(settings["activations"], mmap_mode="c"))
    # Their squared error is summed over the elements of an input, ours averaged: their loss and their lambda are d_in times ours.
    sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=d_in, d_sae=settings["d_sae"], l1_coefficient=settings["l1_coeff"] * d_in))
    sae.load_state_dict(load_file(settings["start"]))
    # More samples than anybody will ask for: the parent ends the run.
    cfg = SAETrainerConfig(10**12, batch, lr=settings["lr"], lr_end=settings["lr"], autocast=settings["bf16"])
    provider = (kept[turns.step() % len(kept)] for _ in itertools.count())
    with contextlib.suppress(Finished):
        SAETrainer(cfg, sae, provider).fit()
    # Their L1 term weighs a feature by the norm of its decoder row, which is free; with the norms moved into the encoder
    # the same function, the same loss and the same L0 belong to a decoder of norm 1.
    norm = sae.W_dec.detach().norm(dim=1)
    turns.finish(
        {"W_enc": sae.W_enc.detach() * norm, "b_enc": sae.b_enc.detach() * norm, "W_dec": sae.W_dec / norm[:, None], "b_dec": sae.b_dec}
    )


if __name__ == "__main__":
    main()
