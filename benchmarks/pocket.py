"""How fast the pocket corpus writes, and how fast features are scored against it: `python benchmarks/pocket.py`.

One core: `taskset -c 0 python benchmarks/pocket.py`.
"""

import argparse
import resource
import time

import numpy as np
import torch

from sae_lib.corpus import STRATA, LabelledText, pocket_documents, pocket_labels
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig
from sae_lib.truth import truth_scores


def writing(seconds: float) -> None:
    """Print megabytes a second of every stratum and of the mixture."""
    cost = 0.0
    for stratum, share in STRATA.items():
        stream = pocket_documents(stratum)
        next(stream)
        start, n_bytes = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds:
            n_bytes += len(next(stream).text.encode())
        cost += share * spent / n_bytes
        print(f"{stratum:12} {n_bytes / spent / 1e6:6.2f} MB/s")
    print(f"{'mixture':12} {1 / cost / 1e6:6.2f} MB/s   peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def scoring(n_tokens: int, n_labels: int) -> None:
    """Print the seconds that 4,096 features and 512 neurons take against so many labels."""
    model = OneLayerTransformer(TransformerConfig(128, 4, 32, 512, 128, 8_192), seed=0).eval().requires_grad_(False)
    sae = SparseAutoencoder(SAEConfig(512, 4_096, 0.004), seed=0).requires_grad_(False)
    rng = np.random.default_rng(0)
    shape = (n_tokens // 128, 128)
    labels = tuple(pocket_labels())[:n_labels]
    sets = rng.random((150, len(labels))) < 0.05
    text = LabelledText(rng.integers(0, 8_192, shape), rng.integers(0, 150, shape).astype(np.uint16), sets, labels)
    # Every feature fires on a two-hundredth of the tokens, as a trained one does: 20 features a token.
    pre = sae.encode(model.begin(torch.from_numpy(text.tokens[:64]))[1].flatten(0, 1))
    sae.b_enc.sub_(pre.topk(len(pre) // 200, dim=0).values[-1])
    start = time.perf_counter()
    truth_scores(model, sae, text)
    print(f"{text.tokens.size:,} tokens x 4,096 features and 512 neurons x {len(labels)} labels: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of writing, for each stratum")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="scored")
    parser.add_argument("--labels", type=int, default=60, help="scored against")
    chosen = parser.parse_args()
    writing(chosen.seconds)
    scoring(chosen.tokens, chosen.labels)
