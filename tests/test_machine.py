"""What the machine is asked, and how several processes share a step."""

import subprocess
import sys

import pytest
import torch

from sae_lib import parallel
from sae_lib.errors import BookError
from sae_lib.machine import device_named, has_fast_bf16


def test_devices_that_are_not_there_are_named():
    assert device_named("cpu") == torch.device("cpu")
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(BookError, match=f"no device {missing} here; choose cpu"):
        device_named(missing)
    with pytest.raises(BookError, match="no device meta here"):
        device_named("meta")
    with pytest.raises(BookError, match="'toaster' is no device"):
        device_named("toaster")


def test_bfloat16_is_measured_once():
    has_fast_bf16.cache_clear()
    first = has_fast_bf16("cpu")
    assert has_fast_bf16("cpu") is first
    assert has_fast_bf16.cache_info().hits == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
@pytest.mark.parametrize("by", ["keep_freed_memory()", "Lab('smoke')"])
def test_freed_memory_is_kept_for_the_next_step(by):
    alone = f"""
import torch
from sae_lib.lab import Lab
from sae_lib.machine import keep_freed_memory
pages = lambda: int(open("/proc/self/statm").read().split()[1])
for kept in (False, True):
    assert not kept or {by}
    before, block = pages(), torch.ones(2**24)
    full = pages()
    del block
    print(before, full, pages())
"""
    said = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True).stdout.splitlines()
    given_back, kept = ((full - after) / (full - before) for before, full, after in (map(int, line.split()) for line in said))
    assert given_back > 0.9, "this C library keeps freed memory anyway"
    assert kept < 0.1


def test_alone_nothing_is_shared(monkeypatch):
    assert (parallel.rank(), parallel.world(), parallel.share(20, "contexts")) == (0, 1, 20)
    x = torch.arange(3)
    parallel.sum_([x])
    parallel.copy_from_first_([x])
    assert x.tolist() == [0, 1, 2]
    monkeypatch.setattr(parallel, "world", lambda: 3)
    with pytest.raises(BookError, match="3 processes do not divide the 20 contexts of a step; start 1 or 2 or 4 or 5 of them"):
        parallel.share(20, "contexts")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE=x is no number of processes; unset it, or start the command with torchrun"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 asks for several processes, and RANK is not set; unset it"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "and MASTER_ADDR is not set"),
    ],
)
def test_a_group_that_nobody_started_is_named(monkeypatch, given, message):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BookError, match=message):
        parallel.join()
