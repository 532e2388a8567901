"""How it goes on samples held out: agreement with the ANN, and accuracy where there are labels."""

from __future__ import annotations

import torch
from torch import Tensor

from calibrators.training import Phase
from calibrators.training._network import Network
from calibrators.training._samples import Samples
from calibrators.training._team import Team
from converter.graph import Graph


def held_out(
    network: Network,
    phase: Phase,
    student: Graph,
    ann: Graph,
    samples: Samples,
    size: int,
    device: torch.device,
    team: Team,
) -> dict[str, float]:
    """Agreement with the ANN, and accuracy where there are labels, on the samples held out, as shares."""
    counts = torch.zeros(3, dtype=torch.float64, device=device)
    labelled = samples.source.labelled
    mine = team.share(samples.held_out)
    with torch.inference_mode():
        for at in range(0, len(mine), size):
            x, y = samples.take(mine[at : at + size])
            answer = _top(network.run(student, phase, x.to(device))[0])
            theirs = _top(ann.run(x.to(device))[0])
            right = 0.0 if y is None else float((answer == y).sum())
            same = (answer == theirs).reshape(len(x), -1).double().mean(1).sum()
            counts += torch.tensor([len(x), float(same), right], dtype=torch.float64, device=device)
    team.add_up([counts])
    return {
        "agreement": float(counts[1] / counts[0]),
        **({"accuracy": float(counts[2] / counts[0])} if labelled else {}),
    }


def ann_accuracy(
    ann: Graph, samples: Samples, size: int, device: torch.device, team: Team
) -> dict[str, float]:
    """The ANN's own, on the samples held out."""
    if not samples.source.labelled:
        return {}
    right = torch.zeros(1, dtype=torch.float64, device=device)
    mine = team.share(samples.held_out)
    with torch.inference_mode():
        for at in range(0, len(mine), size):
            x, y = samples.take(mine[at : at + size])
            assert y is not None
            right += float((_top(ann.run(x.to(device))[0]) == y).sum())
    team.add_up([right])
    return {"accuracy": float(right) / len(samples.held_out)}


def _top(answer: Tensor) -> Tensor:
    return answer.argmax(1).cpu()
