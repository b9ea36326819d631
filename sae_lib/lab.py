"""Names to runs: `Lab("smoke").dictionary("A/1")` gives the trained dictionary, training what is not there yet.

A and B are models of the same sizes and data from different seeds; A/0, A/1 and A/2 are dictionaries of growing width
on A, A/1b is A/1 from another seed, and B/1 is its twin on B. S is A with its weights shuffled, the control, and S/1 a
dictionary on that.

Source: Bricken et al. 2023, "Problem Setup" (models A and B, dictionaries A/0, A/1, …).
"""

import sys
import time
from collections.abc import Generator
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, Int64
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from sae_lib import corpus as text
from sae_lib import parallel
from sae_lib.activations import ActivationStream
from sae_lib.errors import BookError
from sae_lib.machine import device_named, has_fast_bf16, keep_freed_memory
from sae_lib.release import TOKENIZER, Released, released
from sae_lib.resampling import ResamplingSchedule, reinitialise
from sae_lib.runs import Run, finish, run_steps, runs_folder
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.scales import Scale, scale
from sae_lib.storage import alone, fingerprint, sha256_of, write_atomic
from sae_lib.train import DictionaryTraining, ModelTraining, dictionary_steps, model_steps
from sae_lib.transformer import OneLayerTransformer, TransformerConfig, with_shuffled_weights

MODELS = ("A", "B", "S")
CONTROL = "S"
"""The model that is not trained but made of A."""
_TEXT_IDENTITY = ("corpus_fingerprint", "tokenizer_sha256", "n_tokens", "validation_tokens", "seed")
"""What decides the token ids, of all that the shards' JSON says."""


class Lab:
    """Everything trained at one scale, from one seed, on one text.

    Args:
        scale_name: a preset of `scales`.
        seed: of the data order, the initial weights and every draw; 0 or above.
        corpus: the text, as `open_corpus` reads it; empty means the scale's own.
        device: where to train and measure; None means the accelerator if there is one.
        at_length: measure released weights on as many tokens as the numbers that the book keeps.

    Raises:
        BookError: the scale is unknown, the seed out of its range, the text cannot be read, or there is no such device.
    """

    def __init__(self, scale_name: str, seed: int = 0, corpus: str = "", device: str | None = None, at_length: bool = False) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise BookError(f"SEED={seed!r} is no seed; give a whole number from 0 to {2**32 - 1}")
        self.scale: Scale = scale(scale_name, at_length)
        self.seed = seed
        self.corpus_spec = corpus or self.scale.corpus
        self.is_at_length = at_length
        parallel.join()
        keep_freed_memory()
        self.device = device_named(device)
        self._models: dict[str, OneLayerTransformer] = {}
        self._dictionaries: dict[tuple[str, str], SparseAutoencoder] = {}
        self._streams: dict[tuple[str, int], ActivationStream] = {}
        self._sharded = False

    @cached_property
    def corpus(self) -> "text.Corpus":
        """The text."""
        return text.open_corpus(self.corpus_spec, self.seed)

    @cached_property
    def _text_folder(self):
        sizes = self.scale
        words = [released(TOKENIZER).to_str()] if sizes.is_released else [sizes.d_vocab, sizes.tokenizer_bytes]
        key = [self.corpus.fingerprint, self.seed, *words, sizes.corpus_tokens, sizes.validation_tokens]
        return runs_folder() / f"{sizes.name}-text-{fingerprint(key)}"

    @property
    def tokenizer_path(self) -> Path:
        """The file of `tokenizer`."""
        return self._text_folder / "tokenizer.json"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The byte-level BPE: trained on this text, or of released weights the one that they were trained with."""
        path = self.tokenizer_path
        with parallel.first_goes_first(), alone(path):
            if not path.exists() and self.scale.is_released:
                write_atomic(path, released(TOKENIZER).to_str(pretty=True))
            if path.exists():
                return text.load_tokenizer(path)
            return text.train_tokenizer(self.corpus, self.scale.d_vocab, self.scale.tokenizer_bytes, path)

    @cached_property
    def shards(self) -> "text.TokenShards":
        """The text as token ids, packed once and memory-mapped."""
        sizes = self.scale
        folder = self._text_folder / "shards"
        tokenizer = self.tokenizer
        with parallel.first_goes_first(), alone(folder):
            return text.build_shards(self.corpus, tokenizer, folder, sizes.corpus_tokens, sizes.validation_tokens, self.seed)

    def validation(self, n_tokens: int | None = None) -> Int[Tensor, "n n_ctx"]:
        """Held-out contexts from all over the split, `analysis_tokens` of the scale unless told otherwise."""
        return torch.from_numpy(self.shards.validation.contexts(self._held_out(n_tokens), self.scale.n_ctx))

    def documents(self, n_tokens: int | None = None) -> Int64[np.ndarray, "n n_ctx"]:
        """Which document each token of `validation(n_tokens)` belongs to."""
        return self.shards.validation.documents(self._held_out(n_tokens), self.scale.n_ctx)

    def _held_out(self, n_tokens: int | None) -> Int64[np.ndarray, " n"]:
        n_ctx, split = self.scale.n_ctx, self.shards.validation
        n = min(max(1, (n_tokens or self.scale.analysis_tokens) // n_ctx), split.n_contexts(n_ctx))
        if n == 0:
            raise BookError(f"the held-out text has {split.n_tokens} tokens, less than one context of {n_ctx}; give the corpus more text")
        # Every k-th context, so that a sample smaller than the split still runs through all of it.
        return np.arange(n) * (split.n_contexts(n_ctx) // n)

    @cached_property
    def truth(self) -> "text.LabelledText":
        """Pocket text whose generated documents nothing is trained on, cut by this run's tokenizer, with the truth about every token."""
        return text.labelled_text(self.tokenizer, self.scale.truth_tokens, self.scale.n_ctx, self.seed)

    @cached_property
    def anthology(self) -> "text.LabelledText":
        """The passages written for the book, cut by this run's tokenizer: what examples are shown from first."""
        return text.anthology_text(self.tokenizer, self.scale.n_ctx)

    def model(self, name: str) -> OneLayerTransformer:
        """Model A or B, released or trained if need be, or the control S."""
        if name not in MODELS:
            raise BookError(f"there is no model {name!r}; choose one of {', '.join(MODELS)}")
        if name not in self._models:
            if name == CONTROL:
                model = with_shuffled_weights(self.model("A"), seed=self._model_seed(name))
            else:
                model = self.run(name).load_into(OneLayerTransformer(self._geometry))
            model.lineage = f"{name}-{self._recipe(name)}"
            self._models[name] = model.to(self.device).eval().requires_grad_(False)
        return self._models[name]

    def dictionary(self, name: str, resampling: str = "paper", arm: bool = False) -> SparseAutoencoder:
        """A dictionary such as A/1, released or trained if need be.

        Args:
            name: model and dictionary.
            resampling: "paper", "naive" or "none".
            arm: train it for `arm_activations` only, for the comparison of the three.
        """
        key = (name, resampling, arm)
        if key not in self._dictionaries:
            sae = self._new_dictionary(name)
            self.run(name, resampling, arm).load_into(sae)
            self._dictionaries[key] = sae.eval().requires_grad_(False)
        return self._dictionaries[key]

    def log(self, name: str, resampling: str = "paper", arm: bool = False) -> pd.DataFrame:
        """The training curve of a model or a dictionary."""
        return self.run(name, resampling, arm).log

    def provenance(self, name: str, resampling: str = "paper", arm: bool = False) -> dict:
        """Where a model or a dictionary comes from."""
        return self.run(name, resampling, arm).provenance

    def config(self, name: str) -> dict:
        """Everything that decides a model or a dictionary."""
        if self.scale.is_released and "/" in name:
            return Released(name).config
        return self._model_config(name) if name in MODELS else self._dictionary_config(name, "paper", False)

    def train(self, names: list[str], resampling: str = "paper", shard_features: bool = False) -> None:
        """Train models and dictionaries that are not there yet; dictionaries on one model read its activations together.

        Args:
            names: such as A, A/1 or B/1.
            resampling: of the dictionaries, "paper", "naive" or "none".
            shard_features: give each process a part of the features and the whole of a batch, instead of the other way round.

        Raises:
            BookError: the scale's weights are released, or the features are to be spread, but there is only one process, or
                they cannot be divided.
        """
        if self.scale.is_released:
            raise BookError("the weights of this scale ship with the book; SCALE=night is what they were trained with")
        if shard_features and parallel.world() == 1:
            raise BookError("features are spread over several processes, and this is one; start the command with torchrun")
        self._sharded = shard_features
        for name in sorted({name[0] for name in names}):
            self.model(name)
        # In one order, so that no two processes wait for each other.
        dictionaries = sorted({name for name in names if "/" in name})
        finish([self._dictionary_run(name, resampling, False, place) for place, name in enumerate(dictionaries)])
        self._streams.clear()
        self._sharded = False

    def sweep(self, name: str, settings: list[dict]) -> list[SparseAutoencoder]:
        """Train a dictionary several times, each time with other settings; equal batches share one pass over the activations.

        Args:
            name: such as A/1.
            settings: fields of the scale to change, such as `{"l1_coeff": 3e-3, "sae_lr": 5e-4}`; `n_activations` is a number.

        Returns:
            The dictionaries, in the order of the settings.

        Raises:
            BookError: two settings are the same, or as training does.
        """
        if len({fingerprint(changed) for changed in settings}) < len(settings):
            raise BookError("two of the settings are the same; name each of them once")
        self.model(name[0])
        variants = []
        for changed in settings:
            variant = copy(self)
            n = changed.get("n_activations", self.scale.n_activations[name])
            variant.scale = replace(self.scale, **changed | {"n_activations": {name: n}})
            variants.append(variant)
        runs = finish([variant._dictionary_run(name, "paper", False, place) for place, variant in enumerate(variants)])
        self._streams.clear()
        trained = [run.load_into(variant._new_dictionary(name)) for run, variant in zip(runs, variants, strict=True)]
        return [sae.eval().requires_grad_(False) for sae in trained]

    def run(self, name: str, resampling: str = "paper", arm: bool = False) -> Run | Released:
        """The run of a model or a dictionary, released or finished, trained if need be; arguments as for `dictionary`.

        The arm of a model is its training cut short, to `model_arm_tokens` of the scale.
        """
        if self.scale.is_released and resampling == "paper" and not arm:
            return Released(name)
        run = finish([self._model_run(name, arm) if name in MODELS else self._dictionary_run(name, resampling, arm)])[0]
        self._streams.clear()
        return run

    @property
    def _geometry(self) -> TransformerConfig:
        sizes = self.scale
        return TransformerConfig(sizes.d_model, sizes.n_heads, sizes.d_head, sizes.d_mlp, sizes.n_ctx, sizes.d_vocab)

    def _model_seed(self, name: str) -> int:
        if self.scale.is_released and name == CONTROL:
            # The one that the released S/1 was trained on, whatever seed the pages draw by.
            return 1_000 * Released("A").provenance["seed"] + MODELS.index(name)
        return 1_000 * self.seed + MODELS.index(name)

    @property
    def _bf16(self) -> bool:
        return self.scale.bf16 and has_fast_bf16(self.device.type)

    def _model_recipe(self, name: str, arm: bool) -> ModelTraining:
        # A and B see the same text in different orders and start from different weights.
        sizes = self.scale
        n = sizes.model_arm_tokens if arm else sizes.model_tokens
        return ModelTraining(n, sizes.model_batch, sizes.model_lr, self._model_seed(name), bf16=self._bf16)

    def _model_config(self, name: str, arm: bool = False) -> dict:
        if self.scale.is_released and name != CONTROL and not arm:
            return Released(name).config
        if name == CONTROL:
            return {"kind": "model", "name": name, "shuffled": fingerprint(self._model_config("A")), "seed": self._model_seed(name)}
        return {
            "kind": "model",
            "name": name,
            "text": {key: self.shards.meta[key] for key in _TEXT_IDENTITY},
            "geometry": asdict(self._geometry),
            "training": asdict(self._model_recipe(name, arm)),
        }

    def _recipe(self, model: str) -> str:
        """Fingerprint of what a model was trained by; of released weights, as their dictionaries have it."""
        config = {key: value for key, value in self._model_config(model).items() if key != "weights"}
        return fingerprint(config | ({"shuffled": self._recipe("A")} if model == CONTROL else {}))

    def _model_run(self, name: str, arm: bool = False) -> Generator[int, None, Run]:
        recipe = self._model_recipe(name, arm)
        model = OneLayerTransformer(self._geometry, seed=self._model_seed(name)).to(self.device)
        # The curve asks for it a hundred times, which must not cost more than a fraction of the training.
        n_held_out = min(64 * 1_024, recipe.n_tokens // 256)

        def train(checkpoint):
            return model_steps(model, self.shards.train, self.validation(n_held_out), recipe, checkpoint)

        bar = _Bar(f"model {name}", "n_tokens", "tokens", ("loss", "validation_loss"))
        return run_steps(f"{self.scale.name}-{name}", self._model_config(name, arm), train, lambda: model, bar, self._text_facts)

    def _sae_config(self, name: str) -> SAEConfig:
        if name not in self.scale.d_sae:
            raise BookError(f"there is no dictionary {name!r}; choose one of {', '.join(self.scale.d_sae)}")
        return SAEConfig(self.scale.d_mlp, self.scale.d_sae[name], self.scale.l1_coeff)

    def _sae_seed(self, name: str) -> int:
        return 1_000 * self.seed + 100 + list(self.scale.d_sae).index(name)

    def _new_dictionary(self, name: str) -> SparseAutoencoder:
        sae = SparseAutoencoder(self._sae_config(name), seed=self._sae_seed(name))
        sae.lineage = f"{name[0]}-{self._recipe(name[0])}"
        if self.scale.tied_start:
            reinitialise(sae, torch.ones(sae.cfg.d_sae, dtype=torch.bool), sae.W_dec.data)
        return sae.to(self.device)

    def _dictionary_recipe(self, name: str, resampling: str, arm: bool) -> DictionaryTraining:
        sizes = self.scale
        n = sizes.arm_activations if arm else sizes.n_activations[name]
        schedule: ResamplingSchedule = sizes.resampling(n // sizes.sae_batch, resampling)
        return DictionaryTraining(n, sizes.sae_batch, sizes.sae_lr, self._sae_seed(name), schedule, bf16=self._bf16)

    def _dictionary_config(self, name: str, resampling: str, arm: bool) -> dict:
        return {
            "kind": "dictionary",
            "name": name,
            "model": fingerprint(self._model_config(name[0])),
            "geometry": asdict(self._sae_config(name)),
            "stream": self._stream_seed(name[0]),
            "training": asdict(self._dictionary_recipe(name, resampling, arm)),
        } | ({"start": "tied"} if self.scale.tied_start else {})

    def _stream_seed(self, model: str) -> int:
        return 1_000 * self.seed + 200 + MODELS.index(model)

    def _stream(self, model: str) -> ActivationStream:
        """The activations that every dictionary on a model is trained on, in one order for all of them."""
        batch = self.scale.sae_batch
        if (model, batch) not in self._streams:
            dtype = torch.bfloat16 if self._bf16 else torch.float32
            seed = self._stream_seed(model)
            stream = ActivationStream(self.model(model), self.shards.train, batch, seed, dtype=dtype, whole=self._sharded)
            self._streams[model, batch] = stream
        return self._streams[model, batch]

    def _dictionary_run(self, name: str, resampling: str, arm: bool, place: int = 0) -> Generator[int, None, Run]:
        config = self._dictionary_config(name, resampling, arm)
        recipe = self._dictionary_recipe(name, resampling, arm)
        sae = self._new_dictionary(name)
        if self._sharded:
            parallel.shard_features_(sae)

        def train(checkpoint):
            return dictionary_steps(sae, self._stream(name[0]), recipe, checkpoint)

        label = name if resampling == "paper" and not arm else f"{name} ({resampling} resampling)"
        bar = _Bar(f"dictionary {label}", "n_activations", "activations", ("loss", "l0", "dead_share"), place)
        # An arm as long as the run itself is that run.
        is_arm = config != self._dictionary_config(name, "paper", False)
        folder = f"{self.scale.name}-{name.replace('/', '-')}" + (f"-{resampling}" if is_arm else "")
        facts = self._text_facts | {"lambda": sae.cfg.describe_l1_coeff()}
        return run_steps(folder, config, train, lambda: sae, bar, facts)

    @property
    def _text_facts(self) -> dict:
        shards = self.shards
        return {
            "scale": self.scale.name,
            "seed": self.seed,
            "corpus": self.corpus.fingerprint,
            "tokenizer_sha256": sha256_of(self.tokenizer_path),
            "train_tokens": shards.train.n_tokens,
            "validation_tokens": shards.validation.n_tokens,
        }


class _Bar:
    """A progress bar that is fed log rows; it appears with the first of them, so a loaded run shows none.

    Its time is the rows' own: a resumed run is fed its old rows at once, and by the clock would promise an early end.
    """

    def __init__(self, label: str, counter: str, unit: str, shown: tuple[str, ...], place: int = 0) -> None:
        self.label, self.counter, self.unit, self.shown, self.place = label, counter, unit, shown, place
        self.bar: tqdm | None = None
        self.trained_s = 0.0

    def __call__(self, row: dict) -> None:
        done = row[self.counter]
        self.trained_s += row["seconds"]
        if self.bar is None:
            total = row["n_steps"] * done // row["step"]
            settings = {"unit": f" {self.unit}", "unit_scale": True, "smoothing": 0, "file": sys.stderr, "position": self.place}
            self.bar = tqdm(total=total, desc=self.label, **settings | ({"disable": True} if parallel.rank() else {}))
        self.bar.set_postfix({name: f"{row[name]:.3g}" for name in self.shown}, refresh=False)
        self.bar.start_t = time.time() - self.trained_s
        self.bar.update(done - self.bar.n)
        if row["step"] == row["n_steps"]:
            self.bar.close()
