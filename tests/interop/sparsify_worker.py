"""sparsify: our export through `SparseCoder.load_from_disk`."""

import torch
from sparsify import SparseCoder
from worker import EXPORTS, FOLDER, answer, inputs


def main() -> None:
    """Load and compute."""
    x = inputs()["x"]
    for to in EXPORTS:
        coder = SparseCoder.load_from_disk(FOLDER / to)
        acts, indices, _ = coder.encode(x)
        features = torch.zeros(len(x), coder.num_latents).scatter_(1, indices, acts)
        answer(f"sparsify-{to}", "eai-sparsify", features=features, x_hat=coder.decode(acts, indices))


if __name__ == "__main__":
    with torch.no_grad():
        main()
