"""The exports, loaded by the packages they are written for: `make test-interop`, or python tests/interop/check.py [--only WORD].

Each package runs in a virtual environment of its own below `.peers/`, made on the first use (minutes, one to two gigabytes each).
A worker there loads an export with the package's own loader and writes what it computes on the same random inputs;
here that is held against ours. A package that cannot be had is left out, and the reason is printed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from peers import environment

from sae_lib.errors import BookError
from sae_lib.interchange import DICTIONARIES, MODELS, Facts, export_dictionary, export_model, import_dictionary
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.storage import load_tensors, save_tensors
from sae_lib.transformer import HOOK, OneLayerTransformer, TransformerConfig

TOLERANCE = 1e-5
"""Largest absolute difference allowed, in units of the inputs, whose deviation is 1."""
HERE = Path(__file__).parent

CASES = {
    "saelens": ("saelens", ["saelens", "gemma-scope"]),
    "dictionary_learning": ("dictionary_learning", ["dictionary_learning"]),
    "sparsify": ("sparsify", ["sparsify"]),
    "circuit-tracer": ("circuit_tracer", ["circuit-tracer", "gemma-scope"]),
    "transformer-lens-3": ("hookedtransformer", ["transformer-lens"]),
    "transformer-lens-4": (None, ["transformer-lens"]),
    "transformers": (None, ["hf"]),
}
"""The environment in which each worker runs (None is the book's own), and the exports it loads."""


def dictionary() -> SparseAutoencoder:
    """A dictionary of the smallest scale's sizes, with biases that matter."""
    sae, generator = SparseAutoencoder(SAEConfig(512, 1_024, 2e-3), seed=1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        sae.b_enc += 0.1 * torch.randn(1_024, generator=generator)
        sae.b_dec += torch.rand(512, generator=generator)
    return sae.requires_grad_(False)


def language_model() -> OneLayerTransformer:
    """A model of the paper's widths, with biases and gains that are not their starting zeros and ones."""
    model, generator = OneLayerTransformer(TransformerConfig(128, 4, 32, 512, 64, 1_000), seed=1), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 2:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval().requires_grad_(False)


def prepare(folder: Path) -> dict[str, torch.Tensor]:
    """Write every export and the inputs; what our own code computes on them."""
    sae, model, facts = dictionary(), language_model(), Facts("interop", 64, "pocket:")
    for to in DICTIONARIES:
        export_dictionary(sae, folder / to, to, facts)
    for to in MODELS:
        export_model(model, folder / to, to, facts)
    generator = torch.Generator().manual_seed(4)
    x, rows = torch.randn(300, 512, generator=generator), torch.randint(0, 1_000, (4, 64), generator=generator)
    save_tensors(folder / "inputs.safetensors", {"x": x, "rows": rows})
    post = model(rows, stop_at_hook=HOOK)
    return {"features": sae.encode(x), "x_hat": sae(x).x_hat, "logits": model(rows), "mlp_post": post}


def differences(name: str, folder: Path, ours: dict[str, torch.Tensor]) -> tuple[str, dict[str, float]]:
    """A package's version, and its largest absolute difference from ours in each output of each export."""
    peer, exports = CASES[name]
    where = environment(peer) if peer else {}
    lookup = {"PYTHONPATH": os.pathsep.join(str(path) for path in (where.get("pythonpath"), HERE) if path)}
    script = HERE / f"{name.replace('-', '_')}_worker.py"
    command = [where.get("python", sys.executable), script, folder, *exports]
    done = subprocess.run(command, env=os.environ | lookup, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script.name} ended with {done.returncode}:\n{done.stderr[-3_000:]}")
    found = {}
    for to in exports:
        theirs, meta = load_tensors(folder / f"{name}-{to}.safetensors")
        found |= {f"{to}: {output}": float((theirs[output] - ours[output]).abs().max()) for output in theirs}
    return meta["version"], found


def backwards(folder: Path) -> dict[str, float]:
    """The dictionaries that SAELens saved, read by us, against what it computed itself."""
    x, found = load_tensors(folder / "inputs.safetensors")[0]["x"], {}
    for saved in sorted(path for path in folder.glob("saved-*") if path.is_dir()):
        sae, theirs = import_dictionary(saved).sae, load_tensors(folder / f"{saved.name}.safetensors")[0]
        name = f"import of {saved.name.removeprefix('saved-')}"
        found |= {
            f"{name}: features": float((theirs["features"] - sae.encode(x)).abs().max()),
            f"{name}: x_hat": float((theirs["x_hat"] - sae(x).x_hat).abs().max()),
        }
    return found


def main() -> None:
    """Compare with every package that can be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="only packages whose names hold this")
    chosen = parser.parse_args()
    failed = unequal = compared = 0
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        ours = prepare(folder)
        for package in (package for package in CASES if chosen.only in package):
            try:
                if CASES[package][0]:
                    environment(CASES[package][0])
            except RuntimeError as error:
                print(f"{package} is left out: {error}")
                continue
            try:
                release, found = differences(package, folder, ours)
                if package == "saelens":
                    found |= backwards(folder)
            except (RuntimeError, BookError) as error:
                print(f"{package} failed: {error}")
                failed += 1
                continue
            for output, difference in found.items():
                # A difference that is no number is no agreement either.
                good = difference <= TOLERANCE
                unequal, compared = unequal + (not good), compared + 1
                print(f"{package + ' ' + release:26s} {output:42s} {difference:.1e}{'' if good else '   MORE THAN ' + str(TOLERANCE)}")
    print(f"{compared - unequal} of {compared} outputs are equal to {TOLERANCE:g} (torch {version('torch')}).")
    if failed or unequal or not compared:
        sys.exit(1)


if __name__ == "__main__":
    main()
