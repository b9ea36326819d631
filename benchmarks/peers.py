"""How fast this book trains beside other people's trainers: `make bench-peers`, or python benchmarks/peers.py [--quick].

    dictionary_vs_saelens_fp32           SAELens as it comes
    dictionary_vs_saelens_bf16           SAELens with its bfloat16 autocast
    dictionary_vs_dictionary_learning    dictionary_learning as it comes
    model_vs_hookedtransformer           TransformerLens' HookedTransformer in its own training loop

Each peer runs in a virtual environment of its own below `.peers/`, made on the first use (minutes, about a gigabyte each).
Both sides have the same activations, first weights, batch, learning rate, sparsity weight and threads, train the same
number of steps in turn, A B A B, and are judged by the same code on held-out text.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import ROOT, DictionaryTask, ModelTask, compare, keep, show

# torch is pinned to the book's own, so that both sides multiply with the same kernels.
TORCH = "torch==2.13.0"
PEERS = {
    "saelens": {"install": ["sae-lens==6.54.*", TORCH], "remove": []},
    # It never looks at an image, and a torchvision that does not match torch's build keeps `transformers` from loading.
    "dictionary_learning": {"install": ["dictionary_learning==0.1.0", TORCH], "remove": ["torchvision"]},
    # Not trainers: `make test-interop` asks them to load what the book exports.
    "sparsify": {"install": ["eai-sparsify==1.3.*", TORCH], "remove": []},
    "circuit_tracer": {"install": ["circuit-tracer==0.5.*", TORCH], "remove": []},
}
ROWS = {
    "dictionary_vs_saelens_fp32": ("saelens", False),
    "dictionary_vs_saelens_bf16": ("saelens", True),
    "dictionary_vs_dictionary_learning": ("dictionary_learning", False),
    "model_vs_hookedtransformer": ("hookedtransformer", False),
}
"""Each row's peer, and whether it is told to multiply in bfloat16."""


def environment(peer: str) -> dict[str, Path]:
    """Where a peer's packages are; they are installed if need be.

    Raises:
        RuntimeError: they could not be.
    """
    if peer == "hookedtransformer":
        folder = Path(sys.prefix) / "transformer-lens-3.9"
        if not folder.is_dir():
            raise RuntimeError(f"{folder} is missing; run `make setup` and then the same command again")
        return {"pythonpath": folder}
    folder = ROOT / ".peers" / peer
    python, stamp = folder / "bin" / "python", folder / ".installed"
    recipe = repr(PEERS[peer])
    if not stamp.exists() or stamp.read_text() != recipe:
        print(f"Installing {peer} into .peers/{peer} (minutes).", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        (ROOT / ".peers" / ".gitignore").write_text("*\n")
        commands = [[sys.executable, "-m", "venv", folder], [python, "-m", "pip", "install", "--quiet", *PEERS[peer]["install"]]]
        if PEERS[peer]["remove"]:
            commands.append([python, "-m", "pip", "uninstall", "--quiet", "--yes", *PEERS[peer]["remove"]])
        for command in commands:
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
                raise RuntimeError(f"{peer} could not be installed ({'; '.join(said[-2:])}); delete .peers/{peer} and try again online")
        stamp.write_text(recipe)
    return {"python": python}


def main() -> None:
    """Install, measure, print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of each, rough, and nothing is written")
    parser.add_argument("--only", default="", metavar="PART", help="only rows whose names hold this")
    parser.add_argument("--install", action="store_true", help="only make the environments")
    chosen = parser.parse_args()
    rounds = 2 if chosen.quick else 15
    rows, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        tasks = {}
        for name, (peer, bf16) in ROWS.items():
            if chosen.only not in name:
                continue
            try:
                where = environment(peer)
                if chosen.install:
                    continue
                kind = DictionaryTask if name.startswith("dictionary") else ModelTask
                if kind not in tasks:
                    own = Path(folder) / kind.__name__
                    own.mkdir()
                    tasks[kind] = kind(own, 8) if chosen.quick and kind is DictionaryTask else kind(own)
                steps = 2 if chosen.quick else 25 if kind is DictionaryTask else 10
                rows.append(compare(name, tasks[kind], peer, bf16, rounds, steps, **where))
                if not chosen.quick:
                    keep(rows[-1], "peers.json")
            except RuntimeError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                failed.append(name)
    if not chosen.install:
        show(rows)
    if failed:
        sys.exit(f"Not measured: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
