"""This book's own training loops, and its activation stream, driven by `measure.py`."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from turns import Finished, Turns

from sae_lib.activations import ActivationStream
from sae_lib.corpus.shards import TokenSplit
from sae_lib.lab import Lab
from sae_lib.machine import keep_freed_memory
from sae_lib.resampling import ResamplingSchedule
from sae_lib.runs import Checkpoint
from sae_lib.sae import SAEConfig, SparseAutoencoder, geometric_median
from sae_lib.train import LOG_ROWS, DictionaryTraining, ModelTraining, train_dictionary, train_model
from sae_lib.transformer import OneLayerTransformer, TransformerConfig


class FileStream:
    """The batches of a file, over and over."""

    def __init__(self, path: str) -> None:
        self.kept = torch.from_numpy(np.load(path, mmap_mode="c"))

    def batch(self, number: int) -> torch.Tensor:
        return self.kept[number % len(self.kept)]

    def batches(self, n: int) -> Iterator[torch.Tensor]:
        return (self.batch(number) for number in range(n))

    def elsewhere(self, number: int) -> "FileStream":
        return self


def dictionary(settings: dict, checkpoint: Checkpoint) -> tuple[torch.nn.Module, Iterator[dict]]:
    """A dictionary on the file's activations, or on an untrained model's, from the given weights or from its own."""
    d_in, d_sae = settings["d_in"], settings["d_sae"]
    stream = FileStream(settings["activations"]) if settings.get("activations") else untrained_stream(settings)
    sae = SparseAutoencoder(SAEConfig(d_in, d_sae, settings["l1_coeff"]), seed=0)
    if settings.get("start"):
        sae.load_state_dict(load_file(settings["start"]))
    n_activations = settings["turn"] * LOG_ROWS * settings["batch_size"]
    recipe = DictionaryTraining(
        n_activations, settings["batch_size"], settings["lr"], seed=0, resampling=ResamplingSchedule(method="none"), bf16=settings["bf16"]
    )
    if settings.get("l0"):
        sparsen(sae, torch.cat(list(stream.batches(-(-recipe.n_median // recipe.batch_size))))[: recipe.n_median], settings["l0"])
    return sae, train_dictionary(sae, stream, recipe, checkpoint)


def untrained_stream(settings: dict) -> ActivationStream:
    """Activations of a model that was not trained, made as for any other."""
    model = OneLayerTransformer(TransformerConfig(**settings["geometry"])).requires_grad_(False)
    dtype = torch.bfloat16 if settings["bf16"] else torch.float32
    return ActivationStream(model, tokens_of(settings), settings["batch_size"], seed=0, dtype=dtype)


def tokens_of(settings: dict) -> TokenSplit:
    """The file's tokens."""
    path = Path(settings["tokens"])
    return TokenSplit([path], [path.stat().st_size // 2])


@torch.no_grad()
def sparsen(sae: SparseAutoencoder, sample: torch.Tensor, l0: float) -> None:
    """Lower the encoder's bias until about so many features fire, as in a dictionary that has been trained for a while."""
    pre = (sample[:128] - geometric_median(sample)) @ sae.W_enc
    sae.b_enc.fill_(-pre.flatten().topk(round(l0 * len(pre))).values[-1])


def language_model(settings: dict, checkpoint: Checkpoint) -> tuple[torch.nn.Module, Iterator[dict]]:
    """A language model on the file's tokens, from the given weights, at a rate that stays after its warm-up."""
    model = OneLayerTransformer(TransformerConfig(**settings["geometry"]))
    if settings.get("start"):
        model.load_state_dict(load_file(settings["start"]))
    split, n_ctx, n_steps = tokens_of(settings), settings["geometry"]["n_ctx"], settings["turn"] * LOG_ROWS
    recipe = ModelTraining(
        n_steps * settings["batch_tokens"],
        settings["batch_tokens"],
        settings["lr"],
        seed=0,
        warmup_share=settings["warmup"] / n_steps,
        final_share=1.0,
        bf16=settings["bf16"],
    )
    # One held-out context: the peers do not stop to validate.
    return model, train_model(model, split, torch.from_numpy(split.contexts([0], n_ctx)), recipe, checkpoint)


def activations(turns: Turns) -> None:
    """Only make activations, as training would ask for them."""
    keep_freed_memory()  # as training does
    lab = Lab("smoke")
    dtype = torch.bfloat16 if turns.settings["bf16"] else torch.float32
    sizes = {"batch_size": turns.settings["batch_size"], "block_size": turns.settings["turn"] * turns.settings["batch_size"]}
    stream = ActivationStream(lab.model("A"), lab.shards.train, seed=0, dtype=dtype, **sizes)
    while True:
        stream.batch(turns.step())


def main() -> None:
    """Train until told to stop."""
    turns = Turns()
    module = None
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Finished):
        if turns.settings["kind"] == "activations":
            activations(turns)
        make = {"dictionary": dictionary, "model": language_model}[turns.settings["kind"]]
        module, rows = make(turns.settings, Checkpoint(Path(folder), every_s=float("inf")))
        while True:
            turns.wait()
            turns.done = next(rows)["step"]
    turns.finish(module.state_dict() if module and turns.settings.get("weights") else None)


if __name__ == "__main__":
    main()
