"""How long the evidence for all features of a dictionary takes, and how much memory: `python benchmarks/cards.py`.

    python benchmarks/cards.py [--tokens 2000000] [--features 4096] [--scale smoke] [--neurons]

What it should take: 4,096 features over 2 million tokens in under 5 minutes on 2 cores and under 4 GB.
Without `--scale`, a model and a dictionary of the paper's sizes that were never trained, in which every feature fires on a
two-hundred-and-fiftieth of the tokens, 16 features a token; with it, A/1 of that scale on its held-out text.
"""

import argparse
import sys
import time

import torch
from measure import hold

from sae_lib.evidence import gather
from sae_lib.lab import Lab
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig


def untrained(n_features: int, n_tokens: int) -> tuple[OneLayerTransformer, SparseAutoencoder, torch.Tensor]:
    """The paper's sizes and about its sparsity."""
    model = OneLayerTransformer(TransformerConfig(128, 4, 32, 512, 128, 8_192), seed=0).eval().requires_grad_(False)
    sae = SparseAutoencoder(SAEConfig(512, n_features, 0.004), seed=0).requires_grad_(False)
    tokens = torch.randint(0, 8_192, (max(1, n_tokens // 128), 128), generator=torch.Generator().manual_seed(0))
    pre = sae.encode(model.begin(tokens[:64])[1].flatten(0, 1))
    sae.b_enc.sub_(pre.topk(max(1, len(pre) // 250), dim=0).values[-1])
    return model, sae, tokens


def main() -> None:
    """Gather once and hold seconds and the peak of the process's memory to the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000, help="looked at (default 2,000,000)")
    parser.add_argument("--features", type=int, default=4_096, help="of the untrained dictionary (default 4,096)")
    parser.add_argument("--scale", help="take A/1 of this scale and its text")
    parser.add_argument("--neurons", action="store_true", help="gather for the model's neurons instead")
    asked = parser.parse_args()
    if asked.scale:
        lab = Lab(asked.scale)
        model, sae, tokens = lab.model("A"), lab.dictionary("A/1"), lab.validation(asked.tokens)
    else:
        model, sae, tokens = untrained(asked.features, asked.tokens)
    before = time.perf_counter()
    found = gather(model, None if asked.neurons else sae, tokens, progress=sys.stderr.isatty())
    seconds = time.perf_counter() - before
    figures = {"tokens": found.n_tokens, f"{found.kind}s": len(found.units), "l0": found.density.sum(), "seconds": seconds}
    is_meant = (asked.tokens, asked.features, asked.scale, asked.neurons) == (2_000_000, 4_096, None, False)
    hold(figures, {"seconds": 300, "peak_gb": 4} if is_meant else {})


if __name__ == "__main__":
    main()
