"""The gradients of a dictionary's loss, written out: five matrix products instead of the six that autograd needs.

    f      = ReLU((x - b_dec) @ W_enc + b_enc)                              product 1
    g      = s * (f @ W_dec + b_dec - x)                                    product 2;  s = 2 / (batch * d_in), or 2 / batch
    dpre   = (g @ W_dec.T + l1_coeff / batch) where f > 0, else 0           product 3
    dW_dec = f.T @ g                                                        product 4
    dW_enc = (x - b_dec).T @ dpre                                           product 5
    db_enc = sum of dpre;   db_dec = sum of g - db_enc @ W_enc.T            the sixth, done on sums

`SparseAutoencoder.forward` is the loss to read; a test holds these gradients to autograd's.

Once a dictionary is trained, one feature in hundreds fires on an input, and products 2 to 5 touch nothing else:

    f @ W_dec        for each input, the rows of W_dec of its features, weighted by f and summed
    dpre             for each feature that fired, one inner product
    f.T @ g          for each feature, the rows of g of its inputs, weighted by f and summed; dW_enc likewise

Source: Bricken et al. 2023, "Sparse Autoencoder Setup" (the loss); the derivatives are ours.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_lib import parallel
from sae_lib.sae import SparseAutoencoder


class Step(NamedTuple):
    """What one step measured; good until the next step, which uses the same memory."""

    mse: Tensor
    """Squared error as in `SAEOutput`, a scalar."""
    l1: Tensor
    """Sum of feature activations of an input, averaged over the batch, a scalar."""
    activation_sums: Tensor
    """Sum of each feature's activations over the batch, [d_sae]; zero where it did not fire."""
    fired: Tensor
    """Not zero where a feature fired, [batch, d_sae]; of a dictionary that is spread, this process's features."""


class DictionaryStep:
    """The loss of a batch and its gradients, computed in memory that is kept from one batch to the next.

    Of 4,096 inputs and as many features the activations are 34 MB in bfloat16. A product on a processor with matrix units
    takes a few milliseconds, and a walk through so much memory as long again; so there are as few walks as can be:

    - the biases ride along in the products, as one more column of the input and one more row of the weights;
    - ReLU and its derivative work on the bits of the numbers, as integers: a negative number has its first bit set;
    - the factors that a product needs transposed are transposed beforehand, being the small ones.

    Args:
        sae: its `.grad` fields are overwritten by every call.
        bf16: products in bfloat16; weights, sums of errors and the stored gradients stay float32.

    Source: Bricken et al. 2023, "Sparse Autoencoder Setup".
    """

    PAD = 32
    """Columns that are added for the bias; matrix units take them by so many."""
    FEW = (1 / 20, 1 / 128)
    """Below this share of activations above zero, in float32 and in bfloat16, to walk their list is faster than whole products."""
    PIECE = 256
    """Features whose gradients are turned over at a time."""
    LOOK = 64
    """Inputs whose activations are counted to find out; the order of inputs is random, so any will do."""

    def __init__(self, sae: SparseAutoencoder, bf16: bool = False) -> None:
        self.sae, self.dtype = sae, torch.bfloat16 if bf16 else torch.float32
        self.bits = torch.int16 if bf16 else torch.int32
        self.few, self._room = self.FEW[bf16], 0

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "batch d_in"], n_inputs: int | None = None) -> Step:
        """Leave the gradients of a batch's loss in the parameters' `.grad`.

        Args:
            x: activations.
            n_inputs: what the sums over inputs are divided by, where this is a part of a larger batch; else the batch's size.
        """
        sae, n, d_in = self.sae, n_inputs or len(x), self.sae.cfg.d_in
        self._make_room(len(x))
        x_cent, f = self.x_cent[: len(x)], self.f[: len(x)]
        self.W_enc[:d_in] = sae.W_enc
        self.W_enc[d_in] = sae.b_enc
        centred = x - sae.b_dec
        x_cent[:, :d_in] = centred
        torch.mm(x_cent, self.W_enc, out=f)
        f.view(self.bits).clamp_min_(0)
        few = f[: self.LOOK].count_nonzero() < self.few * f[: self.LOOK].numel()
        scale = 1 / (n * d_in) if sae.cfg.mse == "mean" else 1 / n
        return (self._over_the_few if few else self._over_all)(centred, f, scale, n)

    def _over_all(self, centred: Float[Tensor, "batch d_in"], f: Float[Tensor, "batch d_sae"], scale: float, n: int) -> Step:
        """Products 2 to 5 as matrix products."""
        sae, d_in = self.sae, self.sae.cfg.d_in
        x_cent, g, dpre, ones = self.x_cent[: len(f)], self.g[: len(f)], self.dpre[: len(f)], self.ones[:, : len(f)]
        self.W_dec[:, :d_in] = sae.W_dec
        # The derivative of the L1 term, the same for every feature that fires, is the bias of the product behind it.
        self.W_dec[:, d_in] = sae.cfg.l1_coeff / n
        error = torch.mm(f, self.W_dec[:, :d_in]).float().sub_(centred)
        mse = torch.linalg.vector_norm(error).square() * scale
        g[:, :d_in] = error.mul_(2 * scale)
        activation_sums = (ones @ f)[0].float()
        sae.W_dec.grad.copy_(_transposed(_transposed(g[:, :d_in]) @ f))
        torch.mm(g, self.W_dec.T, out=dpre)
        fired = f.view(self.bits).neg_().bitwise_right_shift_(8 * f.element_size() - 1)
        dpre.view(self.bits).bitwise_and_(fired)
        db_enc = (ones @ dpre)[0].float()
        sae.W_enc.grad.copy_(_transposed(x_cent[:, :d_in]) @ dpre)
        self._biases(db_enc, error)
        return Step(mse, activation_sums.sum() / n, activation_sums, fired)

    def _over_the_few(self, centred: Float[Tensor, "batch d_in"], f: Float[Tensor, "batch d_sae"], scale: float, n: int) -> Step:
        """Products 2 to 5 over the activations above zero, in float32."""
        sae, d_sae = self.sae, self.sae.cfg.d_sae
        found = _not_zero(f)
        inputs, acts = found // d_sae, f.flatten()[found].float()
        features = found - inputs * d_sae
        of_input = {"offsets": _ends(inputs, len(f)), "mode": "sum", "include_last_offset": True}
        with torch.enable_grad():
            acts.requires_grad_()
            decoded = embedding_bag(features, sae.W_dec.detach(), per_sample_weights=acts, **of_input)
        error = decoded.detach() - centred
        mse = torch.linalg.vector_norm(error).square() * scale
        g = error.mul_(2 * scale)
        (dpre,) = torch.autograd.grad(decoded, acts, g)
        dpre += sae.cfg.l1_coeff / n
        acts = acts.detach()
        order = features.argsort(stable=True)
        of_feature = {"input": inputs[order], "offsets": _ends(features, d_sae), "mode": "sum", "include_last_offset": True}
        sae.W_dec.grad.copy_(embedding_bag(weight=g, per_sample_weights=acts[order], **of_feature))
        dW_enc = embedding_bag(weight=centred, per_sample_weights=dpre[order], **of_feature)
        # Turned over in pieces that fit a cache, which takes a third of the time.
        for columns, rows in zip(sae.W_enc.grad.split(self.PIECE, 1), dW_enc.split(self.PIECE), strict=True):
            columns.copy_(rows.T)
        self._biases(features.bincount(dpre, d_sae).float(), g)
        activation_sums = features.bincount(acts, d_sae).float()
        return Step(mse, activation_sums.sum() / n, activation_sums, f)

    def _biases(self, db_enc: Float[Tensor, " d_sae"], g: Float[Tensor, "batch d_in"]) -> None:
        self.sae.b_enc.grad.copy_(db_enc)
        self.sae.b_dec.grad.copy_(g.sum(0) - self.sae.W_enc @ db_enc)

    def _make_room(self, batch: int) -> None:
        if batch <= self._room:
            return
        d_in, d_sae, self._room = self.sae.cfg.d_in, self.sae.cfg.d_sae, batch

        def room(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=self.dtype, device=self.sae.device)

        wide = d_in + self.PAD
        self.f, self.dpre, self.x_cent, self.g = room(batch, d_sae), room(batch, d_sae), room(batch, wide), room(batch, wide)
        self.W_enc, self.W_dec, self.ones = room(wide, d_sae), room(d_sae, wide), room(1, batch).fill_(1)
        self.x_cent[:, d_in] = self.g[:, d_in] = 1
        for parameter in self.sae.parameters():
            parameter.grad = torch.empty_like(parameter)


class CompiledStep:
    """The same for an accelerator: the formulas above as they stand, which PyTorch's compiler makes a few kernels of.

    Args:
        sae: its `.grad` fields are overwritten by every call.
        bf16: products in bfloat16; weights, sums of errors and the stored gradients stay float32.
        backend: of the compiler.
    """

    def __init__(self, sae: SparseAutoencoder, bf16: bool = False, backend: str = "inductor") -> None:
        self.sae, self.dtype = sae, torch.bfloat16 if bf16 else torch.float32
        self._gradients = torch.compile(_gradients, backend=backend)

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "batch d_in"], n_inputs: int | None = None) -> Step:
        """Leave the gradients of a batch's loss in the parameters' `.grad`; arguments as for `DictionaryStep`."""
        sae, n = self.sae, n_inputs or len(x)
        elements = sae.cfg.d_in if sae.cfg.mse == "mean" else 1
        parameters = (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
        found, error, sums, f = self._gradients(x.float(), *parameters, sae.cfg.l1_coeff / n, 1 / (n * elements), self.dtype)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
        return Step(error / (n * elements), sums.sum() / n, sums, f)


def _gradients(x, W_enc, b_enc, W_dec, b_dec, l1_slope: float, scale: float, dtype: torch.dtype):
    """Gradients of the parameters, the summed squared error, the sums of the activations, and the activations."""
    centred, low_enc, low_dec = x - b_dec, W_enc.to(dtype), W_dec.to(dtype)
    x_cent = centred.to(dtype)
    f = (x_cent @ low_enc + b_enc.to(dtype)).relu()
    error = (f @ low_dec).float() - centred
    g = error * (2 * scale)
    low_g = g.to(dtype)
    dpre = torch.where(f > 0, low_g @ low_dec.T + l1_slope, 0).to(dtype)
    db_enc = dpre.sum(0, dtype=torch.float32)
    found = (x_cent.T @ dpre).float(), db_enc, (f.T @ low_g).float(), g.sum(0) - W_enc @ db_enc
    return found, error.square().sum(), f.sum(0, dtype=torch.float32), f


class ReadableStep:
    """The same from `SparseAutoencoder.forward` and autograd: for dictionaries whose features are spread over processes.

    Args:
        sae: its `.grad` fields are overwritten by every call.
    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae

    def __call__(self, x: Float[Tensor, "batch d_in"], n_inputs: int | None = None) -> Step:
        """Leave the gradients of a whole batch's loss in the parameters' `.grad`."""
        self.sae.zero_grad(set_to_none=True)
        out = self.sae(parallel.beside(x.float(), self.sae.W_enc))
        out.loss.backward()
        f = out.feature_acts.detach()
        mine = f.to_local() if parallel.is_sharded(f) else f
        return Step(parallel.whole(out.mse.detach()), parallel.whole(out.l1.detach()), parallel.whole(f.sum(0)), mine)


def _transposed(x: Float[Tensor, "rows columns"]) -> Float[Tensor, "columns rows"]:
    return x.T.contiguous()


def _not_zero(f: Float[Tensor, "batch d_sae"]) -> Int[Tensor, " n"]:
    """Where in the flattened matrix the few numbers are that are not zero; looked for by words of eight bytes first."""
    per_word = 8 // f.element_size()
    if f.numel() % per_word:
        return f.flatten().nonzero()[:, 0]
    words = f.flatten().view(torch.int64).nonzero()[:, 0]
    within = f.view(-1, per_word)[words].flatten().nonzero()[:, 0]
    return words[within // per_word] * per_word + within % per_word


def _ends(groups: Int[Tensor, " n"], n_groups: int) -> Int[Tensor, " ends"]:
    """Where each group begins in a list sorted by group, and where the last one ends."""
    return torch.cat([groups.new_zeros(1), groups.bincount(minlength=n_groups).cumsum(0)])
