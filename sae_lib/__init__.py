"""The library of *Towards Monosemanticity, run for yourself*.

A one-layer transformer, the paper's sparse autoencoder, and what it takes to train both and to look inside.
"""

from typing import Any

__version__ = "0.1.0"


def released(name: str) -> Any:
    """A released model (A, B), dictionary (A/0, A/1, …) or the "tokenizer", ready to use: see `sae_lib.release`."""
    from sae_lib.release import released as opened

    return opened(name)
