"""The gradients of a dictionary's loss, written out: five matrix products instead of the six that autograd needs.

    f      = ReLU((x - b_dec) @ W_enc + b_enc)                              product 1
    g      = s * (f @ W_dec + b_dec - x)                                    product 2;  s = 2 / (batch * d_in), or 2 / batch
    dW_dec = f.T @ g                                                        product 3
    dpre   = (g @ W_dec.T + l1_coeff / batch) where f > 0, else 0           product 4
    dW_enc = (x - b_dec).T @ dpre                                           product 5
    db_enc = sum of dpre;   db_dec = sum of g - db_enc @ W_enc.T            the sixth, done on sums

`SparseAutoencoder.forward` is the loss to read; a test holds these gradients to autograd's.

Source: Bricken et al. 2023, "Sparse Autoencoder Setup" (the loss); the derivatives are ours.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lib.sae import SparseAutoencoder


class Step(NamedTuple):
    """What one step measured."""

    mse: Tensor
    """Squared error as in `SAEOutput`, a scalar."""
    l1: Tensor
    """Sum of feature activations of an input, averaged over the batch, a scalar."""
    activation_sums: Tensor
    """Sum of each feature's activations over the batch, [d_sae]; zero where it did not fire."""
    feature_acts: Tensor
    """Feature activations, [batch, d_sae]."""


@torch.no_grad()
def loss_and_gradients(sae: SparseAutoencoder, x: Float[Tensor, "batch d_in"], bf16: bool = False) -> Step:
    """Compute the loss of a batch and leave its gradients in the parameters' `.grad`.

    Args:
        sae: its `.grad` fields are overwritten.
        x: activations.
        bf16: products in bfloat16; weights, sums of errors and the stored gradients stay float32.

    Source: Bricken et al. 2023, "Sparse Autoencoder Setup".
    """
    batch, d_in = x.shape
    dtype = torch.bfloat16 if bf16 else torch.float32
    W_enc, W_dec, ones = sae.W_enc.to(dtype), sae.W_dec.to(dtype), torch.ones(1, batch, dtype=dtype, device=x.device)
    x_cent = (x.float() - sae.b_dec).to(dtype)
    feature_acts = torch.addmm(sae.b_enc.to(dtype), x_cent, W_enc).relu_()
    error = (feature_acts @ W_dec).float() + sae.b_dec - x.float()
    elements = d_in if sae.cfg.mse == "mean" else 1
    g = error * (2 / (batch * elements))
    low_g = g.to(dtype)
    # The bias of the product is the derivative of the L1 term, the same for every feature that fires.
    df = torch.addmm(W_dec.new_full((len(W_dec),), sae.cfg.l1_coeff / batch), low_g, W_dec.T)
    dpre = torch.ops.aten.threshold_backward(df, feature_acts, 0)
    activation_sums = (ones @ feature_acts)[0].float()
    db_enc = (ones @ dpre)[0].float()
    sae.W_dec.grad = (feature_acts.T @ low_g).float()
    sae.W_enc.grad = (x_cent.T @ dpre).float()
    sae.b_enc.grad = db_enc
    sae.b_dec.grad = g.sum(0) - sae.W_enc @ db_enc
    return Step(error.square().sum() / (batch * elements), activation_sums.sum() / batch, activation_sums, feature_acts)
