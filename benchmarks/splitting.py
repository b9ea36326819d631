"""How long the graph of feature splitting takes, and in what memory: `python benchmarks/splitting.py`.

What it should take: 512, 4,096 and 16,384 features over 1 million tokens in under 10 minutes on 2 cores and under 6 GB.
The models are untrained, with biases set so that as many features fire as in trained dictionaries; tokens follow a power law.
"""

import argparse
import time

import torch
from measure import hold

from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.splitting import masked_cosine
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

FIRING = {"A/0": (512, 10), "A/1": (4_096, 20), "A/2": (16_384, 30)}
"""Features of each dictionary, and how many of them fire on a token."""


def dictionary(x: torch.Tensor, d_sae: int, l0: int) -> SparseAutoencoder:
    """A dictionary of which about `l0` features fire on each row of x."""
    sae = SparseAutoencoder(SAEConfig(512, d_sae, 1e-3), seed=1).requires_grad_(False)
    pre = (x - sae.b_dec) @ sae.W_enc
    sae.b_enc.data.copy_(-pre.quantile(1 - l0 / d_sae, dim=0))
    return sae


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="that the dictionaries read")
    n_tokens = parser.parse_args().tokens // 256 * 256
    model = OneLayerTransformer(TransformerConfig(128, 4, 32, 512, 256, 8_192), seed=0).eval().requires_grad_(False)
    often = 1 / torch.arange(1, 8_193, dtype=torch.float64)
    tokens = torch.multinomial(often, n_tokens, True, generator=torch.Generator().manual_seed(0)).view(-1, 256)
    x = model.begin(tokens[:16])[1].flatten(0, 1)
    dictionaries = {name: dictionary(x, *sizes) for name, sizes in FIRING.items()}
    l0 = ", ".join(f"{float((sae.encode(x) > 0).sum(1).float().mean()):.0f}" for sae in dictionaries.values())
    print(f"{n_tokens:,} tokens, {l0} features a token", flush=True)
    start = time.perf_counter()
    edges = masked_cosine(model, dictionaries, tokens)
    figures = {"tokens": n_tokens, "edges": len(edges), "seconds": time.perf_counter() - start}
    hold(figures, {"seconds": 600, "peak_gb": 6} if n_tokens == 1_000_000 // 256 * 256 else {})
