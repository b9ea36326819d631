"""dictionary_learning: our export through `load_dictionary`."""

import torch
from dictionary_learning.utils import load_dictionary
from worker import EXPORTS, FOLDER, answer, inputs


def main() -> None:
    """Load and compute."""
    x = inputs()["x"]
    for to in EXPORTS:
        dictionary, config = load_dictionary(str(FOLDER / to), device="cpu")
        assert config["trainer"]["activation_dim"] == x.shape[1]
        features = dictionary.encode(x)
        answer(f"dictionary_learning-{to}", "dictionary_learning", features=features, x_hat=dictionary.decode(features))


if __name__ == "__main__":
    with torch.no_grad():
        main()
