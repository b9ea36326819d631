"""What the workers share: the inputs, and where their answers go."""

import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FOLDER, EXPORTS = Path(sys.argv[1]), sys.argv[2:]
"""Where everything lies, and the exports to load."""


def inputs() -> dict[str, torch.Tensor]:
    """Activations `x` and token ids `rows`."""
    return load_file(FOLDER / "inputs.safetensors")


def answer(name: str, package: str, **outputs: torch.Tensor) -> None:
    """Leave what was computed for the comparison, with the package's version."""
    contiguous = {output: tensor.detach().float().contiguous() for output, tensor in outputs.items()}
    save_file(contiguous, FOLDER / f"{name}.safetensors", metadata={"version": version(package)})
