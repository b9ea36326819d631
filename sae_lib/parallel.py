"""Several processes that train one thing; `torchrun` starts them.

Every process has the whole of the weights and a part of each batch; gradients and counts are sums over the processes.
Or, for a dictionary that no device can hold, every process has a part of the features and the whole of each batch.
With a single process everything here does nothing, and PyTorch's distributed tensors, slow to import, stay where they are.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sae_lib.errors import BookError


def join() -> None:
    """Meet the other processes, if `torchrun` started this one among several.

    Raises:
        BookError: `WORLD_SIZE` was set by something other than `torchrun`, or there are more processes on this machine than
            accelerators, where there are accelerators at all.
    """
    asked = os.environ.get("WORLD_SIZE") or "1"
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if not asked.isdecimal() or (int(asked) > 1 and missing):
        why = f"asks for several processes, and {missing[0]} is not set" if asked.isdecimal() else "is no number of processes"
        raise BookError(f"WORLD_SIZE={asked} {why}; unset it, or start the command with torchrun")
    if int(asked) < 2 or dist.is_initialized():
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise BookError(f"process {local} has no accelerator: this machine has {torch.cuda.device_count()}; lower --nproc-per-node")
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their sums over the processes."""
    if world() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def copy_from_first_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of process 0."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def share(n: int, what: str) -> int:
    """How many of n each process takes.

    Raises:
        BookError: the processes do not divide n.
    """
    if n % world():
        raise BookError(f"{world()} processes do not divide the {n} {what} of a step; start {_divisors(n)} of them")
    return n // world()


def _divisors(n: int) -> str:
    return " or ".join(str(k) for k in range(1, min(n, 2 * world()) + 1) if n % k == 0)


@contextlib.contextmanager
def first_goes_first() -> Iterator[None]:
    """Let process 0 do something before the others, which then find it done, such as a file written once."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and world() > 1:
        dist.barrier()


def shard_features_(sae: nn.Module) -> None:
    """Give each process its part of a dictionary's features, as PyTorch's distributed tensors; `b_dec` stays whole.

    Raises:
        BookError: the processes do not divide the features.
    """
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    share(sae.W_dec.shape[0], "features")
    mesh = init_device_mesh(sae.W_dec.device.type, (world(),))
    for name, place in (("W_enc", Shard(1)), ("b_enc", Shard(0)), ("W_dec", Shard(0)), ("b_dec", Replicate())):
        setattr(sae, name, nn.Parameter(distribute_tensor(getattr(sae, name).data, mesh, [place])))


def is_sharded(tensor: Tensor) -> bool:
    """Whether the processes have parts of it."""
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes; all of them must ask for it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A tensor that every process has, spread over them as another one is."""
    if not is_sharded(other):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)


def beside(x: Tensor, weight: Tensor) -> Tensor:
    """A batch that every process has, fit to be multiplied with weights that may be spread."""
    if not is_sharded(weight):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(x, weight.device_mesh, [Replicate()])
