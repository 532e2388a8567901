"""Several processes that measure one data set: which batches are whose, and how the counts come together.

Batches are dealt out in turn, and what was counted on each is collected in the order of the batches, so that
any number of processes gives what one gives, to the last digit. `torchrun` starts the processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import TypeVar

from converter.errors import UsageError

T = TypeVar("T")
NOTHING = object()


@dataclass(frozen=True)
class Share:
    """The part of process `rank`, one of `count`."""

    rank: int = 0
    count: int = 1

    def mine(self, items: Iterable[T]) -> Iterable[T]:
        """Those of `items` that this process takes."""
        return islice(items, self.rank, None, self.count)

    def together(self, mine: list[T]) -> list[T]:
        """What all processes made of their items, in the order of the items; each process gets all of it."""
        if self.count == 1:
            return mine
        from torch import distributed

        found: list[list[T]] = [[] for _ in range(self.count)]
        distributed.all_gather_object(found, mine)
        return dealt_back(found)


ALONE = Share()


def dealt_back(hands: list[list[T]]) -> list[T]:
    """Items that were dealt out in turn, in their order again."""
    rounds = chain.from_iterable(zip_longest(*hands, fillvalue=NOTHING))
    return [item for item in rounds if item is not NOTHING]  # type: ignore[misc]  # what is left is a T


def join(device: str) -> Share:
    """Join the processes that torchrun started. Raises `UsageError` where it did not start this one.

    On GPUs each process of a machine takes its own, as far as there are so many; then some share one.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise UsageError(
            "--distributed needs several processes, and this one was started alone",
            hint="torchrun --nproc-per-node 2 --no-python ann2snn evaluate DIR --distributed …",
        )
    from torch import distributed

    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device == "cuda" and own_gpu() else "gloo")
    return Share(distributed.get_rank(), distributed.get_world_size())


def own_gpu() -> bool:
    """Choose the GPU of this process; whether it is its alone, without which NCCL does not work."""
    import torch

    here, processes = (int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    torch.cuda.set_device(here % torch.cuda.device_count())
    return processes <= torch.cuda.device_count()


def leave() -> None:
    """Part from the other processes."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
