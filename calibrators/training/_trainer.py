"""The one trainer of all recipes: steps, their length, checkpoints, and how it goes on samples held out.

The step length rises to `lr` over the first steps and falls along a cosine. Everything that a step does is a
function of (settings, step, parameters, the optimizer's state), and the latter two are in the checkpoint: a
run that went on from one ends with the weights of a run that never stopped.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from calibrators import watch
from calibrators.statistics import Histogram, Largest
from calibrators.training import Phase, Recipe
from calibrators.training._checkpoint import Checkpoint, read, write
from calibrators.training._loss import Loss
from calibrators.training._network import Network, learns
from calibrators.training._samples import Samples, Transform, augmented, order
from calibrators.training._team import Team
from converter.errors import ConversionError, Unsupported, UsageError
from converter.graph import Graph, Node
from converter.neurons import Neuron

Progress = Callable[[str, int, int], None]
Log = Callable[[Mapping[str, float], int], None]
"""Takes numbers by name, and the step they are of."""


@dataclass(frozen=True)
class Settings:
    """How to train, whatever the recipe. `batch_size` is that of all processes together."""

    epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    warmup: float = 0.05
    """The share of all steps over which the step length rises."""
    clip: float = 1.0
    """The largest norm of a step's gradient; longer ones are shortened."""
    loss: Loss = field(default_factory=Loss)
    percentile: float = 99.9
    """Where λ begins: this percentile of the ANN's activations."""
    calibration: int = 512
    """On so many samples."""
    precision: str = "float32"
    seed: int = 0
    checkpoint_every: int | None = None
    """Steps between checkpoints; None is an epoch."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be."""
        for name in ("epochs", "batch_size", "calibration", "checkpoint_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name} is {value}; it is at least 1")
        if not self.lr > 0 or not self.clip > 0:
            raise UsageError("the length of a step and of a gradient lie above 0")


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


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """The length of this step of `steps`: up a line to lr, then down a cosine towards 0."""
    warm = max(1, round(settings.warmup * steps))
    if step < warm:
        return settings.lr * (step + 1) / warm
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


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
    optimizer = _optimizer(network, settings)
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

    with _stoppable() as stopped:
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
                    **held_out(network, phase, student[1], ann, samples, settings, device, team),
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
        _accuracy(ann, samples, settings.batch_size, device, team),
    )


def held_out(
    network: Network,
    phase: Phase,
    student: Graph,
    ann: Graph,
    samples: Samples,
    settings: Settings,
    device: torch.device,
    team: Team,
) -> dict[str, float]:
    """Agreement with the ANN, and accuracy where there are labels, on the samples held out, as shares."""
    counts = torch.zeros(3, dtype=torch.float64)
    labelled = samples.source.labelled
    mine = team.share(samples.held_out)
    with torch.inference_mode():
        for at in range(0, len(mine), settings.batch_size):
            x, y = samples.take(mine[at : at + settings.batch_size])
            answer = _top(network.run(student, phase, x.to(device))[0])
            theirs = _top(ann.run(x.to(device))[0])
            right = 0.0 if y is None else float((answer == y).sum())
            same = (answer == theirs).reshape(len(x), -1).double().mean(1).sum()
            counts += torch.tensor([len(x), float(same), right], dtype=torch.float64)
    team.add_up([counts])
    return {
        "agreement": float(counts[1] / counts[0]),
        **({"accuracy": float(counts[2] / counts[0])} if labelled else {}),
    }


def _accuracy(ann: Graph, samples: Samples, size: int, device: torch.device, team: Team) -> dict[str, float]:
    """The ANN's own, on the samples held out."""
    if not samples.source.labelled:
        return {}
    right, mine = torch.zeros(1, dtype=torch.float64), team.share(samples.held_out)
    with torch.inference_mode():
        for at in range(0, len(mine), size):
            x, y = samples.take(mine[at : at + size])
            assert y is not None
            right += float((_top(ann.run(x.to(device))[0]) == y).sum())
    team.add_up([right])
    return {"accuracy": float(right) / len(samples.held_out)}


def _top(answer: Tensor) -> Tensor:
    return answer.argmax(1).cpu()


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


def _optimizer(network: Network, settings: Settings) -> torch.optim.Optimizer:
    """Weights decay; biases and thresholds do not (a recipe has its own penalty on these)."""
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in network.parameters.items() if n.endswith(".weight")]},
        {
            "params": [p for n, p in network.parameters.items() if not n.endswith(".weight")],
            "weight_decay": 0.0,
        },
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, settings.lr, weight_decay=settings.weight_decay)
    raise UsageError(f"there is no optimizer {settings.optimizer!r}", hint="adamw or sgd")


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


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C is remembered until the step is whole; the second interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
