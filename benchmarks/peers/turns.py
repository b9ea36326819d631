"""The worker's side of a measurement: it trains when it is told to, and says how long that took.

The parent writes JSON, one object a line: the settings first, then `{"steps": n}` as often as it likes, `{"steps": 0}` at the
end. Each is answered by one line. So the two sides of a comparison stay alive, but only one of them works at any time.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path


class Finished(Exception):  # noqa: N818  it is no error
    """The parent wants no more steps."""


class Turns:
    """What a training loop asks before each of its steps."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print must not reach the parent as an answer
        self.settings: dict = self._read()
        self.done = self._wanted = self._first = 0
        self._start = time.perf_counter()

    def step(self) -> int:
        """Wait until one more step is wanted; its number, from 0."""
        self.wait()
        self.done += 1
        return self.done - 1

    def wait(self) -> None:
        """Return once more steps are wanted than are done.

        Raises:
            Finished: no more are.
        """
        if self.done < self._wanted:
            return
        self._answer({"steps": self.done - self._first, "seconds": time.perf_counter() - self._start})
        if not (steps := self._read()["steps"]):
            raise Finished
        self._first, self._wanted, self._start = self.done, self.done + steps, time.perf_counter()

    def finish(self, tensors: dict | None = None) -> None:
        """Leave the weights where the parent will look for them, and take leave."""
        if tensors:
            from safetensors.torch import save_file

            contiguous = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, self.settings["weights"])
        self._answer({"steps": self.done, "peak_bytes": peak_bytes()})

    def _read(self) -> dict:
        # The end of the input means that the parent is gone.
        return json.loads(sys.stdin.readline() or '{"steps": 0}')

    def _answer(self, value: dict) -> None:
        print(json.dumps(value), file=self._answers, flush=True)


def peak_bytes() -> int:
    """The most memory this process has held."""
    # `ru_maxrss` of a fresh process starts at what its parent held; VmHWM does not.
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
