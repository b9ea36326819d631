"""Run folders: what was trained, from what, by which machine, and whether the files are still whole.

runs/<name>-<fingerprint of the config>/
    config.json            everything that decides the result
    log.jsonl              the training curve, one row a line
    weights.safetensors    the result
    run.json               provenance and the weights' SHA-256; written last, so a folder with it is complete
    checkpoint.*           while training only
"""

import contextlib
import json
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from sae_lib import parallel
from sae_lib.errors import BookError
from sae_lib.storage import alone, fingerprint, load_tensors, project_root, read_json, save_tensors, sha256_of, write_atomic, write_json

FORMAT = 2
"""Version of the folder's layout, and of the checkpoint in it."""


def runs_folder() -> Path:
    """Where runs are kept: `SAE_BOOK_RUNS` if set, seen from the project's folder, else `runs/` there."""
    return project_root() / (os.environ.get("SAE_BOOK_RUNS") or "runs")


_stop = threading.Event()


class Stopped(BookError):  # noqa: N818  it is no error
    """Training was asked to stop, and has saved its state."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C, or a cluster's SIGTERM, end training after the step at hand with its state saved; the second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: object) -> None:
        if _stop.is_set():
            raise KeyboardInterrupt
        _stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _stop.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


class Checkpoint:
    """The state of an unfinished run on disk: tensors and counters in one file that is whole or absent.

    Args:
        folder: the run's.
        every_s: seconds between two writes.
    """

    def __init__(self, folder: Path, every_s: float = 120.0) -> None:
        self.path = Path(folder) / "checkpoint.safetensors"
        self.every_s, self._written = every_s, time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], int, list[dict]] | None:
        """Tensors, steps done and log rows so far; None where the run has not begun.

        Raises:
            BookError: the file is damaged, of another kind, of another run, or of another version of the book.
        """
        if not self.path.exists():
            return None
        tensors, meta = load_tensors(self.path)
        try:
            layout, run, step, rows = int(meta["format"]), meta["run"], int(meta["step"]), json.loads(meta["rows"])
        except (KeyError, ValueError):
            raise BookError(f"{self.path} is no checkpoint of this book; delete it and run the same command again") from None
        if layout != FORMAT:
            age = "a newer" if layout > FORMAT else "an older"
            raise BookError(
                f"{self.path} was written by {age} version of the book; continue with that one, or delete the file to begin anew"
            )
        if run != self.path.parent.name:
            raise BookError(f"{self.path} belongs to the run {run}, with another config or corpus; move it back there, or delete it")
        return tensors, step, rows

    def is_due(self) -> bool:
        """Whether it is time to write, or somebody asked the run to stop."""
        return _stop.is_set() or time.monotonic() - self._written >= self.every_s

    def save(self, tensors: Mapping[str, Tensor], step: int, rows: list[dict]) -> None:
        """Write the state and the training curve up to it, and stop if that was asked for.

        Raises:
            BookError: the disk refused.
            Stopped: that was asked for.
        """
        if parallel.rank() == 0:
            facts = {"format": str(FORMAT), "run": self.path.parent.name, "step": str(step), "rows": json.dumps(rows)}
            save_tensors(self.path, tensors, facts)
        self._written = time.monotonic()
        if _stop.is_set():
            raise Stopped(f"stopped after step {step:,}; all of it is saved, and the same command goes on from there")


class Run:
    """A finished run.

    Args:
        folder: a run folder.

    Raises:
        BookError: the folder is no finished run, is of a newer layout, or a file in it is missing or altered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.provenance = read_json(self.folder / "run.json")
        layout = self.provenance.get("format", 0) if isinstance(self.provenance, dict) else None
        if isinstance(layout, int) and layout > FORMAT:
            raise BookError(f"{self.folder} was written by a newer version of the book; update the package")
        if not isinstance(layout, int) or "weights_sha256" not in self.provenance:
            raise BookError(f"{self.folder / 'run.json'} describes no run; delete {self.folder} and run the same command again")
        weights = self.folder / "weights.safetensors"
        if not weights.is_file():
            raise BookError(f"{weights} is missing; delete the folder {self.folder} and run the same command again")
        if sha256_of(weights) != self.provenance["weights_sha256"]:
            raise BookError(
                f"{weights} is not what training wrote (its SHA-256 differs); delete {self.folder} and run the same command again"
            )

    @property
    def config(self) -> dict:
        """Everything that decided the result."""
        found = read_json(self.folder / "config.json")
        if not isinstance(found, dict):
            raise BookError(f"{self.folder / 'config.json'} holds no config; delete {self.folder} and run the same command again")
        return found

    @property
    def log(self) -> pd.DataFrame:
        """The training curve, one row a logged step."""
        path = self.folder / "log.jsonl"
        try:
            return pd.read_json(path, lines=True)
        except (OSError, ValueError) as error:
            raise BookError(f"{path} is missing or damaged ({error}); delete {self.folder} and run the same command again") from None

    def load_into(self, module: torch.nn.Module) -> torch.nn.Module:
        """Put the weights into a module of the same geometry.

        Raises:
            BookError: names or shapes differ.
        """
        tensors, _ = load_tensors(self.folder / "weights.safetensors")
        load_state(module, tensors, self.folder / "weights.safetensors")
        return module


def load_state(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a module, or say which of them does not fit.

    Raises:
        BookError: a name is missing or foreign, or a shape differs.
    """
    own = module.state_dict()
    if odd := sorted(set(own) ^ set(tensors)):
        raise BookError(
            f"{path} is of another kind of model: {', '.join(odd[:3])} should be in both; choose the file that belongs to this model"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise BookError(
                f"{path} is of another geometry: {name} is {tuple(tensor.shape)} there and {tuple(own[name].shape)} here; "
                "choose the scale it was trained at"
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(parallel.like(tensor, own[name]))


def hardware() -> dict[str, Any]:
    """The machine in words: processor, threads, accelerator, memory in GiB."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    found: dict[str, Any] = {"processor": model, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    if hasattr(os, "sysconf"):
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return found


def versions(packages: Iterable[str] = ("sae_lib", "torch", "numpy", "tokenizers", "transformer-lens")) -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found


def run_steps(
    name: str,
    config: dict,
    train: Callable[[Checkpoint], Iterator[tuple[int, dict | None]]],
    result: Callable[[], torch.nn.Module],
    on_row: Callable[[dict], None] = lambda row: None,
    facts: Mapping[str, Any] | None = None,
) -> Generator[int, None, Run]:
    """Give back the finished run of a config, or train it (from its checkpoint, where there is one) and keep it.

    Args:
        name: what the folder is called, before the fingerprint.
        config: everything that decides the result; its fingerprint names the folder.
        train: trains, given a checkpoint to resume from and to write; yields every step's number, and a log row with some of them.
        result: the trained module, asked for once `train` is exhausted.
        on_row: called with every log row as it comes, for progress.
        facts: more provenance, known beforehand.

    Yields:
        The number of each step that was done, so that several runs can take turns.

    Returns:
        The finished run.

    Raises:
        BookError: a finished run is damaged, the disk refused, or the memory is too small.
    """
    folder = runs_folder() / f"{name}-{fingerprint(config)}"
    if parallel.world() == 1 and (folder / "run.json").exists():
        return Run(folder)
    with contextlib.ExitStack() as held:
        with parallel.first_goes_first():
            if parallel.rank() == 0:
                held.enter_context(alone(folder))
            # Who had to wait for another process finds its work.
            is_done = (folder / "run.json").exists()
        if not is_done:
            yield from _steps(folder, name, config, train, result, on_row, facts or {})
    return Run(folder)


def _steps(
    folder: Path,
    name: str,
    config: dict,
    train: Callable[[Checkpoint], Iterator[tuple[int, dict | None]]],
    result: Callable[[], torch.nn.Module],
    on_row: Callable[[dict], None],
    facts: Mapping[str, Any],
) -> Iterator[int]:
    with parallel.first_goes_first():
        write_json(folder / "config.json", config)
    started, rows = time.monotonic(), []
    try:
        for step, row in train(Checkpoint(folder)):
            if row is not None:
                rows.append(row)
                on_row(row)
            yield step
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise BookError(
            f"{name} does not fit into memory ({str(error).splitlines()[0]}); choose a smaller scale, a narrower dictionary or a smaller "
            f"batch. What was saved of it stays in {folder}"
        ) from None
    state = {tensor_name: parallel.whole(tensor) for tensor_name, tensor in result().state_dict().items()}
    with parallel.first_goes_first():
        if parallel.rank() == 0:
            save_tensors(folder / "weights.safetensors", state)
            write_atomic(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            write_json(
                folder / "run.json",
                {
                    "format": FORMAT,
                    "name": name,
                    "weights_sha256": sha256_of(folder / "weights.safetensors"),
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                    "wall_s": round(sum(row.get("seconds", 0.0) for row in rows) or time.monotonic() - started, 1),
                    "processes": parallel.world(),
                    "hardware": hardware(),
                    "versions": versions(),
                    **facts,
                },
            )
            (folder / "checkpoint.safetensors").unlink(missing_ok=True)


def finish(runs: list[Generator[int, None, Run]]) -> list[Run]:
    """Carry several runs to their ends, always the one that is furthest behind, so that they read a shared stream together.

    Raises:
        BookError: one of them failed; the others keep their last checkpoints.
        Stopped: they were asked to stop; all have saved their state.
    """
    done: dict[int, Run] = {}
    stopped: Stopped | None = None
    at = dict.fromkeys(range(len(runs)), 0)
    with stoppable():
        while at:
            behind = min(at, key=at.get)
            try:
                at[behind] = next(runs[behind])
            except StopIteration as end:
                done[behind] = end.value
                del at[behind]
            except Stopped as reason:
                stopped = reason
                del at[behind]
    if stopped is not None:
        raise stopped
    return [done[number] for number in range(len(runs))]
