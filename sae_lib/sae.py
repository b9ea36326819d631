"""The paper's sparse autoencoder, exactly.

    x_cent = x - b_dec
    f      = ReLU(x_cent @ W_enc + b_enc)
    x_hat  = f @ W_dec + b_dec                   every row of W_dec has norm 1
    loss   = mse(x, x_hat) + l1_coeff * sum_i f_i, averaged over the batch

The paper multiplies columns, the code multiplies rows: our `W_enc` is the transpose of the paper's W_e,
and the rows of `W_dec` are its dictionary vectors.

Source: Bricken et al. 2023, "Sparse Autoencoder Setup" and the appendix "Advice for Training Sparse Autoencoders".
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sae_lib.errors import BookError


@dataclass(frozen=True)
class SAEConfig:
    """What defines a dictionary and its loss."""

    d_in: int
    """Width of the activations it reads (512 in the paper)."""
    d_sae: int
    """Number of features (512 to 131,072 in the paper)."""
    l1_coeff: float
    """Weight of the L1 term, in the units that `mse` sets."""
    mse: str = "mean"
    """Whether the squared error is averaged over the elements of x (the paper's text) or summed (its formula)."""

    def __post_init__(self) -> None:
        if self.d_in < 1 or self.d_sae < 1:
            raise BookError(f"d_in is {self.d_in} and d_sae is {self.d_sae}; both must be at least 1")
        if not self.l1_coeff >= 0:
            raise BookError(f"l1_coeff is {self.l1_coeff}; it must be zero or more")
        if self.mse not in ("mean", "sum"):
            raise BookError(f"mse is {self.mse!r}; choose 'mean' (the paper's text) or 'sum' (its formula)")

    def describe_l1_coeff(self) -> str:
        """The sparsity weight in both units, since the paper's text and its formula differ by a factor d_in."""
        mean = self.l1_coeff if self.mse == "mean" else self.l1_coeff / self.d_in
        return f"lambda = {mean:.3g} (error averaged over {self.d_in} elements) = {mean * self.d_in:.3g} (error summed)"


class SAEOutput(NamedTuple):
    """What one pass through a dictionary gives."""

    x_hat: Tensor
    """Reconstruction, [..., d_in]."""
    feature_acts: Tensor
    """Feature activations f, [..., d_sae], non-negative."""
    loss: Tensor
    """mse + l1_coeff * l1, a scalar."""
    mse: Tensor
    """Squared error, averaged over the batch and averaged or summed over elements as the config says."""
    l1: Tensor
    """Sum of the feature activations of one input, averaged over the batch."""


class SparseAutoencoder(nn.Module):
    """A dictionary of `d_sae` unit directions and the encoder that reads them.

    Args:
        cfg: sizes and loss.
        seed: seeds the initial weights and nothing else.

    Source: Bricken et al. 2023, "Sparse Autoencoder Setup". Weights start by PyTorch's default Kaiming
    rule (uniform within 1/sqrt(fan-in)); the rows of `W_dec` are then scaled to norm 1.
    Differs: `b_enc` starts at zero (the paper does not say).
    """

    lineage = ""
    """The model on whose activations it was trained, such as A-e21f8aa11508, where that is known; no weight, and not saved."""

    def __init__(self, cfg: SAEConfig, seed: int = 0) -> None:
        super().__init__()
        self.cfg = cfg
        generator = torch.Generator().manual_seed(seed)
        self.W_enc = nn.Parameter(kaiming_uniform(cfg.d_in, cfg.d_sae, fan_in=cfg.d_in, generator=generator))
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae))
        self.W_dec = nn.Parameter(kaiming_uniform(cfg.d_sae, cfg.d_in, fan_in=cfg.d_sae, generator=generator))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in))
        self.normalize_decoder_()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_enc.device

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Feature activations.

            f = ReLU((x - b_dec) @ W_enc + b_enc)

        Source: Bricken et al. 2023, "Sparse Autoencoder Setup".
        """
        x_cent = x - self.b_dec
        return F.relu(F.linear(x_cent, self.W_enc.T, self.b_enc))

    def decode(self, feature_acts: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """Reconstruction.

            x_hat = f @ W_dec + b_dec

        Source: Bricken et al. 2023, "Sparse Autoencoder Setup".
        """
        return F.linear(feature_acts, self.W_dec.T, self.b_dec)

    def forward(self, x: Float[Tensor, "... d_in"]) -> SAEOutput:
        """Encode, decode, and the loss with its two parts."""
        feature_acts = self.encode(x)
        x_hat = self.decode(feature_acts)
        mse = self.squared_error(x, x_hat).mean()
        l1 = feature_acts.sum(-1, dtype=torch.float32).mean()
        return SAEOutput(x_hat, feature_acts, mse + self.cfg.l1_coeff * l1, mse, l1)

    def squared_error(self, x: Float[Tensor, "... d_in"], x_hat: Float[Tensor, "... d_in"]) -> Float[Tensor, "..."]:
        """Squared error of each input, averaged (`mse="mean"`) or summed (`mse="sum"`) over its elements."""
        error = (x.float() - x_hat.float()).square()
        return error.mean(-1) if self.cfg.mse == "mean" else error.sum(-1)

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        """Scale every row of `W_dec` to norm 1.

        Source: Bricken et al. 2023, appendix "Advice for Training Sparse Autoencoders". A step along the
        tangent lengthens the row, so this follows every optimiser step even though the gradient was projected.
        """
        self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)

    @torch.no_grad()
    def project_decoder_gradient_(self) -> None:
        """Remove from each row's gradient the part along the row, before the optimiser sees it.

            g_i  <-  g_i - (g_i . d_i) d_i

        Source: Bricken et al. 2023, appendix "Advice for Training Sparse Autoencoders".
        """
        gradient = self.W_dec.grad
        if gradient is None:
            raise BookError("the decoder has no gradient yet; call loss.backward() before project_decoder_gradient_()")
        along = (gradient * self.W_dec).sum(1, keepdim=True)
        gradient.addcmul_(along, self.W_dec, value=-1)


def kaiming_uniform(rows: int, columns: int, fan_in: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    """PyTorch's default for linear layers: uniform within plus or minus 1/sqrt(fan_in).

    Source: Bricken et al. 2023, appendix "Advice for Training Sparse Autoencoders" (PyTorch's default initialisation).
    """
    return torch.empty(rows, columns).uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)


@torch.no_grad()
def geometric_median(x: Float[Tensor, "sample d_in"], n_steps: int = 100, tolerance: float = 1e-6) -> Float[Tensor, " d_in"]:
    """The point with the smallest summed distance to a sample, by Weiszfeld's iteration.

        m  <-  sum_j x_j / |x_j - m|  /  sum_j 1 / |x_j - m|

    Args:
        x: the sample, in activation units.
        n_steps: at most so many iterations.
        tolerance: stop when the point moves less than this share of its norm.

    Returns:
        The median, in activation units.

    Raises:
        BookError: the sample is empty.

    Source: Bricken et al. 2023, "Sparse Autoencoder Setup" (the bias starts at the geometric median of the data).
    """
    if len(x) == 0:
        raise BookError("the geometric median of an empty sample is not defined; give it at least one activation")
    x = x.float()
    median = x.mean(0)
    for _ in range(n_steps):
        weights = 1 / (x - median).norm(dim=1).clamp_min(1e-8)
        moved = (weights @ x) / weights.sum()
        if (moved - median).norm() <= tolerance * moved.norm().clamp_min(1e-12):
            return moved
        median = moved
    return median
