"""The library of *Towards Monosemanticity, run for yourself*: a one-layer transformer, the paper's sparse autoencoder, and what it takes to look at both."""

__version__ = "0.1.0"
