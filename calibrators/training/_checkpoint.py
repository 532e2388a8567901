"""How far a training is, in one file: parameters and the optimizer's state as safetensors, the rest as JSON.

The file is replaced whole or not at all; nothing in it is unpickled. `identity` is what the run depends on:
a checkpoint of another run is refused, and what differs is named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from converter.errors import ArtefactError, UsageError
from converter.files import atomic_file

FREE = ("lr",)
"""What may differ: a run that diverged goes on with a smaller step."""


@dataclass(frozen=True)
class Checkpoint:
    """`step` steps are done; `history` is the epochs so far.

    `running` is (sum, samples) of the loss of the epoch that is not over.
    """

    step: int
    history: list[dict[str, Any]]
    running: tuple[float, int]


def write(
    path: Path,
    identity: Mapping[str, Any],
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
    state: Checkpoint,
) -> None:
    """Replace the checkpoint at `path`. Raises `ArtefactError`."""
    tensors = {f"parameter/{name}": p.detach().contiguous().cpu() for name, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value).contiguous().cpu()
    told = {"identity": identity, "step": state.step, "history": state.history, "running": state.running}
    with atomic_file(path, force=True) as unfinished:
        save_file(tensors, unfinished, metadata={"training": json.dumps(told)})


def read(
    path: Path,
    identity: Mapping[str, Any],
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
) -> Checkpoint:
    """Put parameters and optimizer as they were; how far it was. Raises `ArtefactError`, `UsageError`."""
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads(file.metadata()["training"])
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        theirs = told["identity"]
        state = Checkpoint(int(told["step"]), list(told["history"]), (told["running"][0], told["running"][1]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtefactError(
            f"{path} is no checkpoint of a training", why=str(error), hint="--force starts afresh"
        ) from error
    ours = json.loads(json.dumps(identity))
    other = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key) and key not in FREE]
    if other:
        raise UsageError(
            f"{path} is the checkpoint of another run",
            why="\n".join(f"{key}: it has {theirs.get(key)}, this run {ours.get(key)}" for key in other),
            hint="give the options of that run, or --force to start afresh",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            prefix = f"optimizer/{name}/"
            kept = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            if kept:
                optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in kept.items()
                }
    return state
