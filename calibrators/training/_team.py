"""Several processes that train one network, each on its share of every batch; alone, a team of one.

`torchrun --nproc-per-node 2 --no-python ann2snn train …` starts them. Each computes the gradients of its
share of the global batch, divided by the size of all of it; their sum is the gradient of one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """This process's `rank` among `size`."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of what all have to do."""
        return items[self.rank :: self.size]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Every tensor becomes its sum over all processes, in place."""
        found = list(tensors)
        if self.size == 1 or not found:
            return
        flat = torch.cat([t.reshape(-1) for t in found])
        dist.all_reduce(flat)
        for tensor, summed in zip(found, flat.split([t.numel() for t in found]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Every tensor becomes what the leader has, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def team(device: torch.device) -> Iterator[tuple[Team, torch.device]]:
    """The team that torchrun's environment speaks of, and this process's device: cuda:LOCAL_RANK or `device`.

    gloo on a processor, nccl on CUDA devices.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
