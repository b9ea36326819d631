"""How fast this book trains, against what its arithmetic allows: `make bench`, or python benchmarks/bench.py [--quick].

    dictionary_vs_floor_*    our dictionary step over the five matrix products alone, in the same dtype
    model_vs_nanogpt_style   our language-model step against a nanoGPT-style loop of the same model
    stream_share             the share of a dictionary's training that goes into making its activations
    width_*                  cost of an activation over that of 512 features times the growth in width; and memory
    memory_*                 the most memory that training at a scale holds: of its model, and of its widest dictionary

Both sides of a row work in turn, A B A B. `python benchmarks/peers.py` compares with other people's trainers.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median

from measure import BATCH, N_BATCHES, DictionaryTask, ModelTask, Worker, compare, keep, race, rounded, row, show
from tqdm import tqdm

from sae_lib.runs import hardware
from sae_lib.scales import SCALES, scale
from sae_lib.transformer import TransformerConfig

WIDTHS = tuple(512 * 2**i for i in range(9) if i != 1)
TRAINED_L0 = 64
"""Features that fire on an input once a dictionary is trained, about."""


def floor(task: DictionaryTask, bf16: bool, rounds: int, steps: int) -> dict:
    """Our step against its five products."""
    name = f"dictionary_vs_floor_{'bf16' if bf16 else 'fp32'}"
    settings = task.settings("ours", bf16, steps)
    with Worker("ours", settings) as ours, Worker("floor", settings) as theirs:
        our_s, floor_s, ratio = race(name, ours, theirs, rounds, steps)
        quality = task.quality("ours", ours.finish()["steps"])
    return row(name, 1 / ratio, 1e3 * our_s, 1e3 * floor_s, "ms a step", {"activations_per_s": round(BATCH / our_s), "ours": quality})


def stream_share(task: DictionaryTask, rounds: int, steps: int) -> dict:
    """Making the activations of a batch against training on them."""
    settings = task.settings("ours", task.bf16, steps)
    with Worker("ours", settings | {"kind": "activations"}) as making, Worker("ours", settings) as training:
        made_s, trained_s, ratio = race("stream_share", making, training, rounds, steps)
    note = {"ours": "making a batch", "theirs": "training on it"}
    return row("stream_share", 1 / (1 + ratio), 1e3 * made_s, 1e3 * trained_s, "ms a batch", note)


def width(task: DictionaryTask, d_sae: int, base: dict | None) -> dict:
    """What an activation costs at a width: with few features firing, as in most of a training, and at its start, where half do."""
    steps = max(2, min(40, 2**17 // d_sae))
    cost, peak = {}, 0
    for state, l0 in (("trained", TRAINED_L0), ("start", None)):
        # So small a rate leaves the number of features that fire where it is.
        settings = task.settings("ours", task.bf16, steps, d_sae=d_sae, start=None, weights=None, l0=l0, lr=1e-7)
        with Worker("ours", settings) as worker:
            worker.turn(steps)
            cost[state] = 1e6 * median(worker.turn(steps) for _ in range(3)) / BATCH
            peak = max(peak, worker.finish()["peak_bytes"])
    linear = base["ours"] * d_sae / WIDTHS[0] if base else cost["trained"]
    quality = {"l0_about": TRAINED_L0, "us_an_activation_at_the_start": rounded(cost["start"]), "peak_gb": rounded(peak / 1e9)}
    return row(f"width_{d_sae}", cost["trained"] / linear, cost["trained"], linear, "us an activation; theirs: linear from 512", quality)


def memory(task: ModelTask, name: str) -> dict:
    """The most memory that two steps of a scale's model, and of its widest dictionary on the stream, hold; no timing."""
    sizes, peaks = scale(name), {}
    geometry = asdict(TransformerConfig(sizes.d_model, sizes.n_heads, sizes.d_head, sizes.d_mlp, sizes.n_ctx, sizes.d_vocab))
    shared = {"tokens": task.settings("ours", task.bf16, 2)["tokens"], "geometry": geometry, "bf16": task.bf16, "turn": 2}
    model = {"kind": "model", "batch_tokens": sizes.model_batch, "lr": sizes.model_lr, "warmup": 1}
    dictionary = {"kind": "dictionary", "batch_size": sizes.sae_batch, "d_in": sizes.d_mlp, "d_sae": max(sizes.d_sae.values())}
    for kind, more in (("model", model), ("dictionary", dictionary | {"lr": sizes.sae_lr, "l1_coeff": sizes.l1_coeff})):
        with Worker("ours", shared | more) as worker:
            worker.turn(2)
            peaks[kind] = worker.finish()["peak_bytes"] / 2**30
    worst = max(peaks.values()) / hardware()["memory_gib"]
    return row(f"memory_{name}", worst, peaks["model"], peaks["dictionary"], "GiB; theirs: the dictionary; ratio: of this machine", {})


def measured(folder: Path, only: str, quick: bool) -> Iterator[dict]:
    """The rows, as they come."""
    rounds, steps = (2, 4) if quick else (12, 25)
    for part in ("d", "m"):
        (folder / part).mkdir()
    task = DictionaryTask(folder / "d", 8 if quick else N_BATCHES)
    for bf16 in (True, False):
        if only not in f"dictionary_vs_floor_{'bf16' if bf16 else 'fp32'}":
            continue
        if bf16 and not task.bf16:
            print("This processor has no bfloat16 units; dictionary_vs_floor_bf16 is left out.")
            continue
        yield floor(task, bf16, rounds, steps)
    if only in "model_vs_nanogpt_style":
        yield compare("model_vs_nanogpt_style", ModelTask(folder / "m"), "nanogpt_style", task.bf16, rounds, steps // 2)
    if only in "stream_share":
        yield stream_share(task, max(2, rounds // 3), 8 if quick else 64)
    base = None
    for d_sae in tqdm(WIDTHS[:4:2] if quick else WIDTHS, desc="widths", unit="width", leave=False):
        # Every other width is held against the first.
        if (base is None and only.startswith("width_")) or only in f"width_{d_sae}":
            each = width(task, d_sae, base)
            base = base or each
            yield each
    for name in SCALES:
        if only in f"memory_{name}" and not quick:
            yield memory(ModelTask(folder / "m"), name)


def main() -> None:
    """Measure, print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute or two, rough, and nothing is written")
    parser.add_argument("--only", default="", metavar="PART", help="only rows whose names hold this")
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for each in measured(Path(folder), chosen.only, chosen.quick):
            rows.append(each)
            if not chosen.quick:
                keep(each, "model.json" if each["row"].startswith("model") else "dictionary.json")
    show(rows)


if __name__ == "__main__":
    main()
