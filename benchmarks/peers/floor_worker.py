"""The five matrix products of a dictionary's step and nothing else: what no step of this shape and dtype can be faster than."""

import contextlib

import torch
from turns import Finished, Turns


def main() -> None:
    """Multiply until told to stop."""
    turns = Turns()
    batch, d_in, d_sae = (turns.settings[name] for name in ("batch_size", "d_in", "d_sae"))
    dtype = torch.bfloat16 if turns.settings["bf16"] else torch.float32
    x, g = torch.randn(2, batch, d_in).to(dtype)
    f, dpre = torch.randn(2, batch, d_sae).relu().to(dtype)
    W_enc, W_dec = torch.randn(d_in, d_sae).to(dtype), torch.randn(d_sae, d_in).to(dtype)
    pre, x_hat, df = torch.empty_like(f), torch.empty_like(x), torch.empty_like(f)
    dW_dec, dW_enc = torch.empty_like(W_dec), torch.empty_like(W_enc)
    with torch.no_grad(), contextlib.suppress(Finished):
        while True:
            turns.step()
            torch.mm(x, W_enc, out=pre)
            torch.mm(f, W_dec, out=x_hat)
            torch.mm(f.T, g, out=dW_dec)
            torch.mm(g, W_dec.T, out=df)
            torch.mm(x.T, dpre, out=dW_enc)
    turns.finish()


if __name__ == "__main__":
    main()
