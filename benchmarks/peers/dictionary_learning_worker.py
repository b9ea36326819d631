"""dictionary_learning as it comes: `StandardTrainer.update` on its `AutoEncoder`, fed from the file."""

import contextlib

import numpy as np
import torch
from dictionary_learning.trainers.standard import StandardTrainer
from safetensors.torch import load_file
from turns import Finished, Turns


def main() -> None:
    """Train until told to stop."""
    turns = Turns()
    settings = turns.settings
    d_in = settings["d_in"]
    kept = torch.from_numpy(np.load(settings["activations"], mmap_mode="c"))
    # Their squared error is summed over the elements of an input, ours averaged: their loss and their lambda are d_in times ours.
    # Without their warm-ups, which are longer than this run.
    trainer = StandardTrainer(
        steps=10**9,
        activation_dim=d_in,
        dict_size=settings["d_sae"],
        layer=0,
        lm_name="",
        lr=settings["lr"],
        l1_penalty=settings["l1_coeff"] * d_in,
        warmup_steps=0,
        sparsity_warmup_steps=None,
        device="cpu",
    )
    start, ae = load_file(settings["start"]), trainer.ae
    ae.load_state_dict(
        {"bias": start["b_dec"], "encoder.weight": start["W_enc"].T, "encoder.bias": start["b_enc"], "decoder.weight": start["W_dec"].T}
    )
    with contextlib.suppress(Finished):
        while True:
            step = turns.step()
            trainer.update(step, kept[step % len(kept)])
    turns.finish({"b_dec": ae.bias, "W_enc": ae.encoder.weight.T, "b_enc": ae.encoder.bias, "W_dec": ae.decoder.weight.T})


if __name__ == "__main__":
    main()
