"""How long all correlations between two dictionaries take, and in what memory: `python benchmarks/universality.py`.

What it should take: 4,096 x 4,096 features over 2 million tokens in under 8 minutes on 2 cores and under 3 GB; 4,096 x 16,384 under 6 GB.
Without `--scale`, two models and dictionaries that were never trained, of which about as many features fire as of trained ones.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from measure import hold

from sae_lib.lab import Lab
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig
from sae_lib.universality import best_match, median_interval, pair_sums

FIRES_PER_TOKEN = 20
LIMITS = {(4_096, 4_096): {"seconds": 480, "peak_gb": 3}, (4_096, 16_384): {"peak_gb": 6}}
"""By the features of both sides, over 2 million tokens."""


def side(seed: int, width: int, tokens: torch.Tensor) -> tuple[OneLayerTransformer, SparseAutoencoder]:
    """An untrained model of the paper's geometry and a dictionary of which as many features fire a token as of a trained one."""
    model = OneLayerTransformer(TransformerConfig(128, 4, 32, 512, 256, 8_192), seed=seed).eval().requires_grad_(False)
    sae = SparseAutoencoder(SAEConfig(512, width, 0.004), seed=seed).requires_grad_(False)
    pre = sae.encode(model.begin(tokens[:16])[1].flatten(0, 1))
    sae.b_enc.sub_(pre.topk(max(1, len(pre) * FIRES_PER_TOKEN // width), dim=0).values[-1])
    return model, sae


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2_000_000, help="that both dictionaries read")
    parser.add_argument("--widths", type=int, nargs=2, default=(4_096, 4_096), help="features of the two dictionaries")
    parser.add_argument("--scale", help="take A/1 and B/1 of this scale instead, and say their median and that of the neurons")
    parser.add_argument("--corpus", default="", help="whose held-out text they read then (default: the scale's own)")
    chosen = parser.parse_args()
    if chosen.scale:
        lab = Lab(chosen.scale, corpus=chosen.corpus)
        lab.scale = replace(lab.scale, validation_tokens=chosen.tokens)
        tokens, documents = lab.validation(chosen.tokens), lab.documents(chosen.tokens)
        sides = [(lab.model(name[0]), lab.dictionary(name)) for name in ("A/1", "B/1")]
    else:
        tokens = torch.randint(0, 8_192, (chosen.tokens // 256, 256), generator=torch.Generator().manual_seed(0))
        documents = np.arange(tokens.numel()).reshape(tokens.shape) // 500
        sides = [side(seed, width, tokens) for seed, width in enumerate(chosen.widths)]
    (model_a, sae_a), (model_b, sae_b) = sides
    l0 = [float((sae.encode(model.begin(tokens[:8])[1]) > 0).sum(-1).float().mean()) for model, sae in sides]
    print(f"{tokens.numel():,} tokens, {sae_a.cfg.d_sae:,} x {sae_b.cfg.d_sae:,} features, {l0[0]:.0f} and {l0[1]:.0f} firing a token")
    figures = {"tokens": tokens.numel()}
    for kind, of_a, of_b in (("features", sae_a, sae_b), *([("neurons", None, None)] if chosen.scale else [])):
        start = time.perf_counter()
        matches = best_match(model_a, of_a, model_b, of_b, tokens)
        figures[f"{kind}_best_match_s"] = time.perf_counter() - start
        start, pairs = time.perf_counter(), matches.loc[matches["match"] >= 0].iloc[:, :2].to_numpy()
        sums = pair_sums(model_a, of_a, model_b, of_b, pairs, tokens, documents)
        figures |= {f"{kind}_pairs": len(pairs), f"{kind}_pair_sums_s": time.perf_counter() - start}
        if chosen.scale:
            print("{}: median {:.3f} [{:.3f}, {:.3f}]".format(kind, *median_interval(sums)))
    is_meant = chosen.tokens == 2_000_000 and not chosen.scale
    figures["seconds"] = sum(value for name, value in figures.items() if name.endswith("_s"))
    hold(figures, LIMITS.get(tuple(chosen.widths), {}) if is_meant else {})
