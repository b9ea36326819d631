"""What the benchmarks share: two sides that work in turn, the same data for both, rows of results, and limits held to."""

import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tqdm import tqdm

from sae_lib.activations import ActivationStream
from sae_lib.lab import Lab
from sae_lib.machine import has_fast_bf16
from sae_lib.metrics import evaluate
from sae_lib.runs import hardware
from sae_lib.sae import SAEConfig, SparseAutoencoder, geometric_median
from sae_lib.scales import scale
from sae_lib.storage import load_tensors, read_json, save_tensors, write_json
from sae_lib.train import DictionaryTraining, validation_loss
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WORKERS = Path(__file__).parent / "peers"

BATCH, D_IN, D_SAE = 4_096, 512, 4_096
N_BATCHES = 64
"""Batches of activations in the file that both sides read over and over (8 MiB each)."""
WARMUP = 30
"""Steps over which a language model's learning rate rises, on both sides."""

BARS = {
    "dictionary_vs_saelens_fp32": ">= 5",
    "dictionary_vs_saelens_bf16": ">= 3.5",
    "dictionary_vs_dictionary_learning": ">= 4.5",
    "model_vs_hookedtransformer": ">= 4",
    "model_vs_nanogpt_style": ">= 1.3",
    "dictionary_vs_floor_bf16": "<= 1.6",
    "dictionary_vs_floor_fp32": "<= 1.6",
    "stream_share": "<= 0.25",
}
"""What each ratio shall reach; a `width_` row shall not exceed 1."""

# An allocator or a thread pool that was set up for us is not what somebody who just runs the peer would have.
OURS_ONLY = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "GOMP_", "KMP_", "SAE_BOOK_")


class Worker:
    """A process that trains when it is told to.

    Args:
        script: in `benchmarks/peers`, without `_worker.py`.
        settings: what it is told at the start.
        python: the interpreter whose packages it needs; None means this one.
        pythonpath: a folder of packages that go before the interpreter's own.
    """

    def __init__(self, script: str, settings: dict, python: Path | None = None, pythonpath: Path | None = None) -> None:
        environment = dict(os.environ)
        if script != "ours":
            environment = {name: value for name, value in environment.items() if not name.startswith(OURS_ONLY)}
        environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads()), "WANDB_MODE": "disabled", "TQDM_DISABLE": "1"}
        if pythonpath:
            environment["PYTHONPATH"] = str(pythonpath)
        self.script, self._complaints = script, tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self._process = subprocess.Popen(
            [python or sys.executable, WORKERS / f"{script}_worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        try:
            self._ask(settings)
        except BaseException:
            self._process.kill()
            raise

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.wait()

    def turn(self, steps: int) -> float:
        """Train about so many steps; the seconds that one took."""
        answer = self._ask({"steps": steps})
        return answer["seconds"] / answer["steps"]

    def finish(self) -> dict:
        """Have the weights written; the steps trained in all, and the most memory held, in bytes."""
        return self._ask({"steps": 0})

    def _ask(self, request: dict) -> dict:
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._complaints.seek(0)
            last = "\n  ".join(self._complaints.read().decode(errors="replace").strip().splitlines()[-12:])
            raise RuntimeError(f"the {self.script} worker ended with code {self._process.wait()}; the last it said:\n  {last}")
        return json.loads(line)


def race(name: str, ours: Worker, theirs: Worker, rounds: int, steps: int) -> tuple[float, float, float]:
    """Let both sides train in turn, A B A B; the first turn of each warms up and is not counted.

    Returns:
        Medians over the rounds: our seconds a step, theirs, and how many times ours theirs are.
    """
    spent = []
    for number in tqdm(range(rounds + 1), desc=name, unit="round", leave=False):
        # The first steps meet a cold allocator, and half of all features fire in them.
        n = steps if number else max(steps, 10)
        pair = ours.turn(n), theirs.turn(n)
        if number:
            spent.append(pair)
        # Threads that wait by spinning have gone to sleep by then.
        time.sleep(0.2)
    return median(a for a, _ in spent), median(b for _, b in spent), median(b / a for a, b in spent)


def rounded(value: float) -> float:
    """Four digits, which is more than a timing or a loss of one run is worth."""
    return float(f"{value:.4g}")


def row(name: str, ratio: float, ours: float, theirs: float, unit: str, quality: dict) -> dict:
    """One line of the results."""
    numbers = {"ratio": rounded(ratio), "ours": rounded(ours), "theirs": rounded(theirs)}
    return {"row": name} | numbers | {"unit": unit, "quality": quality, "machine": hardware()}


def keep(each: dict, file: str) -> None:
    """Put a row into a file of the results; the rows that were not measured this time stay there."""
    path = RESULTS / file
    kept = {old["row"]: old for old in read_json(path)} if path.exists() else {}
    write_json(path, list((kept | {each["row"]: each}).values()))


def hold(figures: dict[str, float], limits: dict[str, float]) -> None:
    """Print what a script measured, and where there are limits for it keep both in `analyses.json`, under the script's command.

    Args:
        figures: what was measured, by name; the processor's time and the peak of memory of the whole process are added.
        limits: the most that some of them may be; none where another size was asked for than they are meant for.
    """
    # Where other programs run too, it is the processor's time that tells how much of the clock's was ours.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures |= {"processor_s": time.process_time(), "peak_gb": peak / 1e9}
    figures = {name: value if isinstance(value, int) else rounded(value) for name, value in figures.items()}
    for name, value in figures.items():
        print(f"{name:22}{value:12,}" + (f"  (limit {limits[name]:,})" if name in limits else ""))
    if limits:
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        met = all(figures[name] <= limit for name, limit in limits.items())
        keep({"row": command, "figures": figures, "limits": limits, "met": met, "machine": hardware()}, "analyses.json")
        if not met:
            sys.exit("A limit is exceeded.")


def show(rows: list[dict]) -> None:
    """Print the rows beside their bars."""
    print(f"{'row':36}{'ratio':>8}  {'bar':8}{'ours':>11}{'theirs':>11}  unit")
    for each in rows:
        bar = BARS.get(each["row"], "<= 1")
        print(f"{each['row']:36}{each['ratio']:8.3g}  {bar:8}{each['ours']:11,.4g}{each['theirs']:11,.4g}  {each['unit']}")
        print("".join(f"    {key}: {value}\n" for key, value in each["quality"].items()), end="")


class DictionaryTask:
    """What every dictionary of a comparison is given: activations of the smoke model, first weights, a recipe; and the judgement.

    Args:
        folder: gets the files.
        n_batches: of activations.
    """

    def __init__(self, folder: Path, n_batches: int = N_BATCHES) -> None:
        self.lab, self.folder = Lab("smoke", device="cpu"), folder
        self.bf16 = has_fast_bf16("cpu")
        stream = ActivationStream(self.lab.model("A"), self.lab.shards.train, BATCH, seed=0, block_size=n_batches * BATCH)
        kept = np.lib.format.open_memmap(folder / "activations.npy", "w+", np.float32, (n_batches, BATCH, D_IN))
        for number, batch in enumerate(tqdm(stream.batches(n_batches), "activations", n_batches, leave=False, unit="batch")):
            kept[number] = batch.numpy()
        kept.flush()
        self.cfg = SAEConfig(D_IN, D_SAE, self.lab.scale.l1_coeff)
        start = SparseAutoencoder(self.cfg, seed=0)
        # Where our trainer lets `b_dec` begin, so that all begin at the same point.
        sample = torch.from_numpy(kept[: -(-DictionaryTraining.n_median // BATCH)]).flatten(0, 1)[: DictionaryTraining.n_median]
        start.b_dec.data.copy_(geometric_median(sample))
        save_tensors(folder / "start.safetensors", start.state_dict())

    def settings(self, side: str, bf16: bool, turn: int, **more) -> dict:
        """What the worker of one side is told."""
        return {
            "kind": "dictionary",
            "activations": str(self.folder / "activations.npy"),
            "start": str(self.folder / "start.safetensors"),
            "weights": str(self.folder / f"{side}.safetensors"),
            "batch_size": BATCH,
            "d_in": D_IN,
            "d_sae": D_SAE,
            "lr": scale("laptop").sae_lr,
            "l1_coeff": self.cfg.l1_coeff,
            "bf16": bf16,
            "turn": turn,
        } | more

    @torch.no_grad()
    def quality(self, side: str, steps: int) -> dict:
        """Loss in our units, L0 and loss recovered of what a side has trained, on held-out text."""
        sae = SparseAutoencoder(self.cfg)
        sae.load_state_dict(load_tensors(self.folder / f"{side}.safetensors")[0])
        model, tokens = self.lab.model("A"), self.lab.validation(2**15)
        x = model.begin(tokens)[1].flatten(0, 1)
        loss = sum(sae(rows).loss.item() * len(rows) for rows in x.split(BATCH)) / len(x)
        found = evaluate(model, sae, tokens)
        return {"steps": steps, "loss": rounded(loss), "l0": rounded(found.l0), "loss_recovered": rounded(found.loss_recovered)}


class ModelTask:
    """What every language model of a comparison is given: tokens, first weights, a recipe; and the judgement.

    The sizes are the scale `laptop`'s. The text is the smoke scale's, whose tokenizer has half as many entries: the other
    half of the vocabulary never comes up, which makes no product smaller.

    Args:
        folder: gets the files.
    """

    def __init__(self, folder: Path) -> None:
        self.lab, self.folder, self.sizes = Lab("smoke", device="cpu"), folder, scale("laptop")
        self.bf16 = has_fast_bf16("cpu")
        sizes = self.sizes
        self.geometry = TransformerConfig(sizes.d_model, sizes.n_heads, sizes.d_head, sizes.d_mlp, sizes.n_ctx, sizes.d_vocab)
        train, n_ctx = self.lab.shards.train, sizes.n_ctx
        train.contexts(np.arange(train.n_contexts(n_ctx)), n_ctx).astype("<u2").tofile(folder / "tokens.u2")
        save_tensors(folder / "start.safetensors", OneLayerTransformer(self.geometry, seed=0).state_dict())

    def settings(self, side: str, bf16: bool, turn: int) -> dict:
        """What the worker of one side is told."""
        return {
            "kind": "model",
            "tokens": str(self.folder / "tokens.u2"),
            "start": str(self.folder / "start.safetensors"),
            "weights": str(self.folder / f"{side}.safetensors"),
            "geometry": asdict(self.geometry),
            "batch_tokens": self.sizes.model_batch,
            "lr": self.sizes.model_lr,
            "warmup": WARMUP,
            "bf16": bf16,
            "turn": turn,
        }

    def quality(self, side: str, steps: int) -> dict:
        """The loss of what a side has trained, in nats a token of held-out text."""
        model = OneLayerTransformer(self.geometry)
        model.load_state_dict(load_tensors(self.folder / f"{side}.safetensors")[0])
        held_out, n_ctx = self.lab.shards.validation, self.sizes.n_ctx
        contexts = torch.from_numpy(held_out.contexts(np.arange(min(128, held_out.n_contexts(n_ctx))), n_ctx))
        return {"steps": steps, "loss": rounded(validation_loss(model, contexts))}


def compare(name: str, task: DictionaryTask | ModelTask, peer: str, bf16: bool, rounds: int, steps: int, **environment) -> dict:
    """Race our trainer against a peer's on one task and judge what both have trained.

    Args:
        name: of the row.
        task: what both are given.
        peer: the peer's worker.
        bf16: whether the peer multiplies in bfloat16; ours does where the processor can, as it comes.
        rounds: turns that are counted.
        steps: of a turn.
        environment: where the peer's packages are, as `Worker` takes it.
    """
    per_step, unit = (BATCH, "activations/s") if isinstance(task, DictionaryTask) else (task.sizes.model_batch, "tokens/s")
    with (
        Worker("ours", task.settings("ours", task.bf16, steps)) as ours,
        Worker(peer, task.settings("theirs", bf16, steps), **environment) as theirs,
    ):
        our_s, their_s, ratio = race(name, ours, theirs, rounds, steps)
        quality = {side: task.quality(side, worker.finish()["steps"]) for side, worker in (("ours", ours), ("theirs", theirs))}
    return row(name, ratio, per_step / our_s, per_step / their_s, unit, quality)
