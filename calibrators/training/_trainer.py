"""The one trainer of all recipes: steps, their length, checkpoints, and how it goes on samples held out.

The step length rises to `lr` over the first steps and falls along a cosine. Everything that a step does is a
function of (settings, step, parameters, the optimizer's state), and the latter two are in the checkpoint: a
run that went on from one ends with the weights of a run that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calibrators import watch
from calibrators.statistics import Histogram, Largest
from calibrators.training import Phase, Recipe
from calibrators.training._checkpoint import Checkpoint, read, write
from calibrators.training._interrupt import stoppable
from calibrators.training._judge import ann_accuracy, held_out
from calibrators.training._loss import Loss
from calibrators.training._network import Network, learns
from calibrators.training._samples import Samples, Transform, augmented, order
from calibrators.training._settings import Settings, learning_rate, optimizer_of
from calibrators.training._team import Team
from converter.errors import ConversionError, Unsupported
from converter.graph import Graph, Node
from converter.neurons import Neuron

Progress = Callable[[str, int, int], None]
Log = Callable[[Mapping[str, float], int], None]
"""Takes numbers by name, and the step they are of."""


@dataclass(frozen=True)
class Result:
    """What a training made: the ANN with its new weights and thresholds, and how it went, an epoch a row."""

    graph: Graph
    thresholds: Mapping[str, float]
    peak: float
    """The largest magnitude of the input, on the samples that λ began with."""
    history: tuple[Mapping[str, Any], ...]
    ann: Mapping[str, float]
    """The ANN's accuracy on the samples held out, where there are labels."""


def prepared(spiking: Graph, samples: Samples, settings: Settings, device: torch.device) -> Network:
    """The parameters to train: weights as they are, thresholds at a percentile of the activations."""
    chosen = order(samples.train, settings.seed, 0)[: settings.calibration]
    size = settings.batch_size

    def batches() -> Iterator[Tensor]:
        for at in range(0, len(chosen), size):
            yield samples.take(chosen[at : at + size])[0].to(device)

    seen = watch(spiking, batches, lambda has_channels: Histogram(False))
    peak = Largest(False)
    for x in batches():
        peak.update(x.abs())
    starts = {
        node.name: _start(node, found, settings.percentile) for node, found in seen.items() if learns(node)
    }
    if not starts:
        raise Unsupported(
            f"{spiking.name} has no threshold to train",
            [(node.where, "a neuron with a slope below zero has none") for node in seen],
        )
    return Network.of(spiking, starts, peak.value()[0])


def _start(node: Node, seen: Histogram, percentile: float) -> Tensor:
    assert isinstance(node.op, Neuron)
    value = seen.quantile(percentile / 100)[0]
    value = value if float(value) > 0 else torch.ones_like(value)
    return value if node.op.ceiling is None else value.clamp(max=node.op.ceiling)


def fit(
    recipe: Recipe,
    network: Network,
    ann: Graph,
    samples: Samples,
    settings: Settings,
    device: torch.device,
    *,
    checkpoint: Path,
    identity: Mapping[str, Any],
    resume: bool = False,
    transform: Transform | None = None,
    team: Team = Team(),  # noqa: B008  (frozen)
    progress: Progress = lambda what, done, of: None,
    log: Log = lambda numbers, step: None,
) -> Result:
    """Train `network` after `recipe`; `ann` is what it came from, and what it may learn from.

    `checkpoint` is kept up to date, and left there: the caller removes it once the result is safe. Raises
    `ConversionError` when the loss is no number any more, and `KeyboardInterrupt`, with a checkpoint of the
    last whole step.
    """
    identity = {**asdict(settings), "recipe": type(recipe).__name__, **asdict(recipe), **identity}  # type: ignore[call-overload]
    parameters = network.parameters
    optimizer = optimizer_of(network, settings)
    team.agree(p.data for p in parameters.values())
    per_epoch = math.ceil(len(samples.train) / settings.batch_size)
    steps, every = settings.epochs * per_epoch, settings.checkpoint_every or per_epoch
    state = read(checkpoint, identity, parameters, optimizer) if resume else Checkpoint(0, [], (0.0, 0))
    history, (total, seen) = list(state.history), state.running
    student: tuple[Phase, Graph] | None = None
    kept = state.step if resume else None

    def keep(done: int) -> None:
        nonlocal kept
        if team.leads:
            write(checkpoint, identity, parameters, optimizer, Checkpoint(done, history, (total, seen)))
        kept = done

    with stoppable() as stopped:
        for step in range(state.step, steps):
            epoch, at = divmod(step, per_epoch)
            if at == 0 or step == state.step:
                drawn = order(samples.train, settings.seed, epoch)
            batch = drawn[at * settings.batch_size :][: settings.batch_size]
            phase = recipe.phase(step / steps)
            if student is None or student[0].name != phase.name:
                student = phase, network.at(phase)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, settings)
            optimizer.zero_grad()
            mine = list(team.share(batch))
            loss = _penalty(recipe, network) / team.size
            if mine:
                x, y = samples.take(mine)
                x = augmented(x, mine, transform, settings.seed, epoch).to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                    labels = None if y is None else y.to(device)
                    data = _loss(settings.loss, network, *student, ann, x, labels)
                loss = loss + data * (len(mine) / len(batch))
            loss.backward()
            told, stop = loss.detach().clone(), torch.tensor(float(stopped()), device=device)
            team.add_up([*map(_gradient, parameters.values()), told, stop])
            norm = torch.nn.utils.clip_grad_norm_(parameters.values(), settings.clip)
            if not bool(torch.isfinite(told)) or not bool(torch.isfinite(norm)):
                raise _diverged(step, settings, checkpoint, kept)
            optimizer.step()
            network.bound()
            total, seen = total + float(told) * len(batch), seen + len(batch)
            progress("training", step + 1, steps)
            if at + 1 == per_epoch:
                row = {
                    "epoch": epoch + 1,
                    "phase": phase.name,
                    "lr": learning_rate(step, steps, settings),
                    "loss": total / seen,
                    **held_out(network, phase, student[1], ann, samples, settings.batch_size, device, team),
                }
                history.append(row)
                total, seen = 0.0, 0
                log({k: v for k, v in row.items() if isinstance(v, float)}, step + 1)
            if (step + 1) % every == 0 or bool(stop) or step + 1 == steps:
                keep(step + 1)
            if bool(stop):
                raise KeyboardInterrupt
    last = recipe.phase(1.0)
    return Result(
        network.trained(last),
        network.thresholds(),
        float(network.peak),
        tuple(history),
        ann_accuracy(ann, samples, settings.batch_size, device, team),
    )


def _loss(
    loss: Loss, network: Network, phase: Phase, student: Graph, ann: Graph, x: Tensor, labels: Tensor | None
) -> Tensor:
    theirs: tuple[Tensor, ...] = ()
    ann_activations: dict[str, Tensor] = {}
    activations: dict[str, Tensor] = {}

    def into(found: dict[str, Tensor]) -> Callable[[Node, Tensor], None]:
        def listen(node: Node, value: Tensor) -> None:
            if node.name in network.starts:
                found[node.name] = value

        return listen

    if loss.asks_the_ann:
        with torch.no_grad():
            theirs = ann.run(x, listen=into(ann_activations) if loss.features else None)
    ours = network.run(student, phase, x, listen=into(activations) if loss.features else None)
    return loss(ours, activations, labels, theirs, ann_activations)


def _penalty(recipe: Recipe, network: Network) -> Tensor:
    shares = [p for name, p in network.parameters.items() if name.endswith(".threshold")]
    return recipe.decay * torch.stack([share.square().sum() for share in shares]).sum()


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _diverged(step: int, settings: Settings, checkpoint: Path, kept: int | None) -> ConversionError:
    left = "no checkpoint was written yet"
    if kept is not None:
        left = f"{checkpoint} has the network after step {kept}, the last good checkpoint"
    smaller = f"--lr {settings.lr / 10:g}"
    return ConversionError(
        f"the training diverged: in step {step + 1} the loss or its gradient is no finite number",
        why=left,
        hint=f"{smaller}{' --resume goes on from there with smaller steps' if kept is not None else ''}",
    )
