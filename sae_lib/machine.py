"""What the machine does well, found by trying, and how its memory is kept."""

import ctypes
import os
import time
from functools import cache

import torch

from sae_lib.errors import BookError


def device_named(name: str | None = None) -> torch.device:
    """The device of that name, or the accelerator if there is one, else the processor.

    Raises:
        BookError: there is no such device here.
    """
    try:
        wanted = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise BookError(f"{name!r} is no device; choose cpu or cuda") from None
    n = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(wanted.type, 0)
    if (wanted.index or 0) >= n:
        raise BookError(f"there is no device {wanted} here; choose cpu{' or cuda' if torch.cuda.is_available() else ''}")
    return wanted


def cores() -> int:
    """The cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def has_fast_bf16(kind: str) -> bool:
    """Whether bfloat16 products take at most two thirds of the time of float32 ones, measured once on a kind of device.

    Where there are units for them it is a seventh or less; where there are none they are slower, so noise cannot tip it.
    """
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)

    # In turns, and often enough that a busy machine leaves each of the two alone at least once: a run is known by what this says.
    best: dict[torch.dtype, float] = {}
    operands = [torch.ones(1024, 1024, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    outs = [torch.empty_like(a) for a in operands]
    for _ in range(20):
        for a, out in zip(operands, outs, strict=True):
            start = time.perf_counter()
            torch.mm(a, a, out=out)
            best[a.dtype] = min(time.perf_counter() - start, best.get(a.dtype, float("inf")))
    return best[torch.bfloat16] <= best[torch.float32] * 2 / 3


@cache
def keep_freed_memory() -> bool:
    """Have the process keep large blocks that it frees, for the next step; says whether the C library can.

    By default glibc hands blocks of more than a few megabytes back to the system as soon as they are freed and asks for
    them again a moment later; the system clears them page by page, which costs a training step and a measurement a third of
    their time.
    The peak of the memory stays what it was, but it is given back only when the process ends.
    """
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # from malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all(mallopt(key, value) == 1 for key, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**26)))
