"""A model, a text and two recipes that train in seconds; also a program, for a training that is killed or is one of several.

python tests/small.py model|dictionary FOLDER [--die-at STEP] [--die-in-write NUMBER] [--steps N] [--shard]
"""

import argparse
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sae_lib import parallel
from sae_lib.activations import ActivationStream
from sae_lib.corpus import TokenSplit
from sae_lib.resampling import ResamplingSchedule
from sae_lib.runs import Checkpoint
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.storage import save_tensors
from sae_lib.train import DictionaryTraining, ModelTraining, dictionary_steps, model_steps
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

GEOMETRY = TransformerConfig(d_model=16, n_heads=2, d_head=8, d_mlp=32, n_ctx=12, d_vocab=50)
MODEL = ModelTraining(n_tokens=36_000, batch_tokens=240, lr=1e-2, seed=5)
DICTIONARY = DictionaryTraining(
    n_activations=4_800, batch_size=48, lr=1e-3, seed=7, resampling=ResamplingSchedule((30, 60), 10, 480), n_median=200
)


def text(folder: Path) -> TokenSplit:
    """4,800 tokens with something to learn: each is mostly its predecessor plus one."""
    rng = np.random.default_rng(0)
    jumps = rng.random(4_800) < 0.2
    steps = np.where(jumps, rng.integers(0, 50, 4_800), 1)
    path = Path(folder) / "train-00000.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    (np.cumsum(steps) % 50).astype("<u2").tofile(path)
    return TokenSplit([path], [4_800])


def fresh_dictionary() -> SparseAutoencoder:
    """A dictionary in which a few features cannot fire, so that there is something to resample."""
    sae = SparseAutoencoder(SAEConfig(d_in=32, d_sae=128, l1_coeff=5e-2), seed=2)
    sae.b_enc.data[:9] = -10
    return sae


def held_out(tokens: TokenSplit) -> torch.Tensor:
    """The last fifty contexts."""
    return torch.from_numpy(tokens.contexts(range(350, 400), 12))


def model_run(model, tokens, folder, recipe=MODEL, every_s=0.0):
    """A fresh model and its training, step by step."""
    trained = OneLayerTransformer(model.cfg, seed=2)
    return trained, model_steps(trained, tokens, held_out(tokens), recipe, Checkpoint(folder, every_s))


def dictionary_run(model, tokens, folder, recipe=DICTIONARY, every_s=0.0, shard=False):
    """A fresh dictionary and its training, step by step."""
    sae = fresh_dictionary()
    if shard:
        parallel.shard_features_(sae)
    stream = ActivationStream(model, tokens, recipe.batch_size, recipe.seed, block_size=480, whole=shard)
    return sae, dictionary_steps(sae, stream, recipe, Checkpoint(folder, every_s))


def die() -> None:
    """What `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Train in this process and write `trained.safetensors` and `rows.json`, unless killed before."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["model", "dictionary"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die-at", type=int)
    parser.add_argument("--die-in-write", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--shard", action="store_true")
    asked = parser.parse_args()
    parallel.join()
    tokens = text(asked.folder / f"text-{parallel.rank()}")
    model = OneLayerTransformer(GEOMETRY, seed=1).eval()
    if asked.die_in_write:
        left, fsync = [asked.die_in_write], os.fsync

        def cut_short(descriptor: int) -> None:
            left[0] -= 1
            fsync(descriptor)
            if not left[0]:
                die()

        os.fsync = cut_short
    run, recipe = (model_run, MODEL) if asked.kind == "model" else (dictionary_run, DICTIONARY)
    if asked.steps:
        size = {"n_tokens": 240 * asked.steps} if asked.kind == "model" else {"n_activations": 48 * asked.steps}
        recipe = replace(recipe, **size)
    module, steps = run(model, tokens, asked.folder, recipe, **({"shard": True} if asked.shard else {}))
    rows = []
    for step, row in steps:
        rows += [row] if row else []
        if step == asked.die_at:
            die()
    state = {name: parallel.whole(value) for name, value in module.state_dict().items()}
    if parallel.rank() == 0:
        save_tensors(asked.folder / "trained.safetensors", state)
        (asked.folder / "rows.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
