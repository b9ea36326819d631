"""TransformerLens as it comes: `train` on a `HookedTransformer`."""

import contextlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.train import HookedTransformerTrainConfig, train
from turns import Finished, Turns


class Contexts(torch.utils.data.Dataset):
    """The contexts of the token file; before the first of every batch it waits for its turn."""

    def __init__(self, path: Path, n_ctx: int, batch: int, turns: Turns) -> None:
        tokens = np.memmap(path, "<u2", mode="r")
        self.contexts = tokens[: len(tokens) // n_ctx * n_ctx].reshape(-1, n_ctx)
        self.batch, self.turns, self.given = batch, turns, 0

    def __len__(self) -> int:
        return len(self.contexts) // self.batch * self.batch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self.given % self.batch == 0:
            self.turns.step()
        self.given += 1
        return {"tokens": torch.from_numpy(self.contexts[index].astype(np.int64))}


def main() -> None:
    """Train until told to stop."""
    turns = Turns()
    settings, geometry = turns.settings, turns.settings["geometry"]
    model = HookedTransformer(HookedTransformerConfig(n_layers=1, act_fn="relu", normalization_type="LN", device="cpu", **geometry))
    start = load_file(settings["start"])
    model.load_state_dict(start, strict=False)  # theirs also holds the attention mask
    batch = settings["batch_tokens"] // geometry["n_ctx"]
    # The settings of our recipe that theirs knows; it has no other decay of the rate than none.
    cfg = HookedTransformerTrainConfig(
        num_epochs=10**6,
        batch_size=batch,
        lr=settings["lr"],
        weight_decay=0.1,
        max_grad_norm=1.0,
        warmup_steps=settings["warmup"],
        print_every=None,
        device="cpu",
    )
    with contextlib.suppress(Finished):
        train(model, cfg, Contexts(settings["tokens"], geometry["n_ctx"], batch, turns))
    turns.finish({name: tensor for name, tensor in model.state_dict().items() if name in start})


if __name__ == "__main__":
    main()
