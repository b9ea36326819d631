"""The library of *Towards Monosemanticity, run for yourself*.

A one-layer transformer, the paper's sparse autoencoder, and what it takes to train both and to look inside.
"""

__version__ = "0.1.0"
