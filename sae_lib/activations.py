"""MLP activations, generated and shuffled in memory; nothing of them needs the disk.

The training contexts of an epoch are put in a random order and cut into blocks. A block's contexts are run
through the model up to the hook, all their activations are shuffled together, and batches are dealt from them.
Every order is a function of the seed and the block's number alone, so batch number n can be had again at any time.
"""

import hashlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lib import parallel
from sae_lib.corpus import TokenSplit
from sae_lib.errors import BookError
from sae_lib.transformer import OneLayerTransformer


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator whose stream is a function of all the given numbers."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@runtime_checkable
class Stream(Protocol):
    """What a dictionary is trained on: batches of activations that can be had by number, again and in any order."""

    def batch(self, number: int) -> Tensor:
        """The activations of one batch, or this process's part of them."""

    def batches(self, n: int) -> Iterator[Tensor]:
        """The first n batches, whole."""

    def elsewhere(self, number: int) -> "Stream":
        """Other activations of the same kind."""


class ContextOrder:
    """The contexts of a token split in a new random order each epoch.

    Args:
        split: the tokens.
        n_ctx: tokens a context.
        seed: makes the order.

    Raises:
        BookError: the split holds not one whole context.
    """

    def __init__(self, split: TokenSplit, n_ctx: int, seed: int) -> None:
        self.split, self.n_ctx, self.seed = split, n_ctx, seed
        self.n_contexts = split.n_contexts(n_ctx)
        if self.n_contexts == 0:
            raise BookError(f"the corpus has {split.n_tokens} tokens, less than one context of {n_ctx}; give it more text")
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def contexts(self, start: int, n: int) -> Int[Tensor, "n n_ctx"]:
        """Contexts number start to start + n - 1 of the endless order, as token ids."""
        wanted = np.empty(n, dtype=np.int64)
        for i in range(n):
            epoch, place = divmod(start + i, self.n_contexts)
            if epoch != self._epoch:
                self._epoch = epoch
                self._order = torch.randperm(self.n_contexts, generator=seeded(self.seed, epoch)).numpy()
            wanted[i] = self._order[place]
        return torch.from_numpy(self.split.contexts(wanted, self.n_ctx))


class ActivationStream:
    """Endless shuffled batches of MLP activations, addressed by number.

    Args:
        model: run without gradient, up to its MLP activations.
        split: the tokens.
        batch_size: activations a batch.
        seed: makes the order of contexts and of activations.
        block_size: activations shuffled together, which bounds the memory (times d_mlp times the bytes of `dtype`).
        dtype: in which activations wait in the block.
        whole: every process has the whole of every batch.

    Of several processes each runs the model on its own share of a block's contexts and deals what comes of them to the
    batches they belong to, so that its parts of a batch differ a little in size and all parts together are the batch.

    Source: Bricken et al. 2023, "Sparse Autoencoder Setup" (activations of many contexts, all shuffled together).
    Differs: the paper samples 250 tokens a context and shuffles all 10 billion; ours are shuffled within a block of
    contexts that are themselves in random order.
    """

    def __init__(
        self,
        model: OneLayerTransformer,
        split: TokenSplit,
        batch_size: int,
        seed: int,
        block_size: int = 2**18,
        dtype: torch.dtype = torch.float32,
        whole: bool = False,
    ) -> None:
        self.model, self.batch_size, self.seed, self.dtype = model, batch_size, seed, dtype
        self.rank, self.world = (0, 1) if whole else (parallel.rank(), parallel.world())
        self.order = ContextOrder(split, model.cfg.n_ctx, seed)
        self.batches_per_block = max(1, block_size // batch_size)
        # Whole contexts that fill whole batches; what is left over of the last context is not used.
        self.contexts_per_block = -(-self.batches_per_block * batch_size // model.cfg.n_ctx)
        self._number, self._block, self._starts = -1, torch.empty(0), []

    def batch(self, number: int) -> Float[Tensor, "batch d_mlp"]:
        """Batch `number` (from 0) of the stream, or this process's part of it; reading in order computes each block once."""
        block, place = divmod(number, self.batches_per_block)
        if block != self._number:
            self._block, self._number = torch.empty(0), -1
            self._block, self._starts = self._fill(block)
            self._number = block
        return self._block[self._starts[place] : self._starts[place + 1]]

    def elsewhere(self, number: int) -> "ActivationStream":
        """Another stream over the same tokens, in an order of its own: the random inputs of a resampling."""
        block_size = self.batches_per_block * self.batch_size
        seed = int(torch.randint(2**31, (), generator=seeded(self.seed, 3, number)))
        return ActivationStream(self.model, self.order.split, self.batch_size, seed, block_size, self.dtype, whole=True)

    def batches(self, n: int) -> Iterator[Float[Tensor, "batch d_mlp"]]:
        """The first n batches, whole."""
        stream = self
        if self.world > 1:
            block_size = self.batches_per_block * self.batch_size
            stream = ActivationStream(self.model, self.order.split, self.batch_size, self.seed, block_size, self.dtype, whole=True)
        return (stream.batch(number) for number in range(n))

    @torch.no_grad()
    def _fill(self, block: int) -> tuple[Float[Tensor, "part d_mlp"], list[int]]:
        """This process's activations of a block in the order in which they are dealt, and where each batch of them starts."""
        tokens = self.order.contexts(block * self.contexts_per_block, self.contexts_per_block)
        n_ctx, d_mlp = self.model.cfg.n_ctx, self.model.cfg.d_mlp
        # At which place of the block's random order each of this process's activations comes.
        place = torch.empty(tokens.numel(), dtype=torch.int64)
        place[torch.randperm(len(place), generator=seeded(self.seed, 1, block))] = torch.arange(len(place))
        place, row = place.view(-1, n_ctx)[self.rank :: self.world].flatten().sort()
        where = torch.empty_like(row)
        where[row] = torch.arange(len(row))
        acts = torch.empty(len(row), d_mlp, dtype=self.dtype, device=self.model.device)
        per_pass = max(1, 2**14 // n_ctx)
        passes = zip(tokens[self.rank :: self.world].split(per_pass), where.split(per_pass * n_ctx), strict=True)
        for contexts, to in passes:
            _, mlp_post = self.model.begin(contexts.to(self.model.device))
            acts[to.to(acts.device)] = mlp_post.flatten(0, 1).to(self.dtype)
        starts = torch.searchsorted(place, torch.arange(self.batches_per_block + 1) * self.batch_size)
        return acts, starts.tolist()
