"""`latency`: what does one time step cost, beside one inference of the ANN, and beside a peer's step?

    python -m benchmarks latency
    python -m benchmarks latency resnet20 --batch 1 100 --threads 1 2 -T 32

In one process the contestants take turns, A B C A B C, so what else the machine does meets all of them:
onnxruntime on the ANN's file (T inferences), our model (T steps of one run) with float weights, with 8-bit
codes and with 15-bit codes in two planes of bytes, and SpikingJelly's conversion step by step and layer by
layer (not with --without-peers). Ratios are taken within a round, and of these the median; times are medians
and smallest. Inputs are test images, thresholds the 99.9th percentiles of other images, as layers in whole
numbers are computed spike by spike where there are few. Of a network without such data (and of all of them
with --noise) they are uniform noise, thresholds the largest activation on it.

With --device cuda the ANN is torch's on that GPU, ours has float weights, and synapses also in 16 bits.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, fx

from benchmarks._common import SHARED, environment, markdown, write_result
from benchmarks.importing import Reference
from benchmarks.peers import applied, rate_coding
from benchmarks.peers import convert as peer_of
from benchmarks.presets import PRESETS
from calibrators import Calibrator
from calibrators.maximum import Maximum
from calibrators.percentile import Percentile
from converter.data import split
from converter.engine import native, onednn
from converter.errors import ConversionError
from converter.fixed_point import fixed_point
from converter.graph import Graph, size_of
from converter.importer import load
from converter.passes import apply
from converter.passes.spike import Spike
from converter.quantise import quantise
from converter.rate import RateModel
from converter.weights.integer import Integer

NETWORKS = {
    "resnet20": "resnet20_cifar10",
    "squeezenet": "squeezenet11_imagenet_fp16",
    "fastestdet": "fastestdet_coco",
}
ON_GPU, NARROW = "torch, ANN", {"ours, bfloat16": "bfloat16", "ours, float16": "float16"}
ANN, OURS, STEPS, LAYERS = "onnxruntime, ANN", "ours", "SpikingJelly, single-step", "SpikingJelly, multi-step"
WHOLE = {"ours, int8": 8, "ours, two planes": 15}
"""Those whose weights are codes of so many bits."""
REST = 0.1
"""Seconds between two contestants: the threads of the one before wait for work in a loop for a while."""
Run = Callable[[], object]
ROOM = 1 << 30
"""Bytes that one value of all steps may take: multi-step mode holds several, and is left out beyond."""


CALIBRATION = 64
"""Images that thresholds are from."""


@dataclass(frozen=True)
class Given:
    """What the networks are run on: a batch, and what thresholds are from; in words, which."""

    x: Tensor
    calibration: Tensor
    calibrator: Calibrator
    words: str

    @staticmethod
    def of(name: str, ann: Graph, batch: int, *, noise: bool) -> Given:
        """Test images of the network's preset, or noise; a file made for one batch keeps its size."""
        batch = ann.batch or batch
        if noise or name not in PRESETS:
            x = torch.rand(batch, *ann.inputs[0].shape[1:], generator=torch.Generator().manual_seed(0))
            return Given(x, x, Maximum(), "noise")
        source = PRESETS[name].source(ann)
        parts = split(source, CALIBRATION, batch, 0)
        x, other = (
            torch.cat([x for x, _ in source.batches(which, len(which))])
            for which in (parts.measurement, parts.calibration)
        )
        return Given(x, other, Percentile(99.9), "images")


def opened(name: str, threads: int) -> tuple[Graph, Reference]:
    """A network, and its file in onnxruntime."""
    path = SHARED / "models" / f"{NETWORKS[name]}.onnx"
    return apply(load(path).verify())[0], Reference(path, threads=threads)


def models_of(ann: Graph, given: Given, device: str = "cpu") -> dict[str, RateModel]:
    """Our models of a network: in whole numbers on a CPU, in 16 bits on a GPU."""
    spiking = Spike(keep_analog=("Sigmoid", "Softmax"))(ann)
    models = {OURS: RateModel(given.calibrator(spiking, lambda: [given.calibration])).to(device)}
    if device == "cuda":
        return models | {who: models[OURS].at_precision(number) for who, number in NARROW.items()}
    for who, bits in WHOLE.items():
        coded = given.calibrator(quantise(spiking, Integer(bits)), lambda: [given.calibration])
        models[who] = RateModel(fixed_point(coded, float(given.calibration.abs().max())))
    return models


def contestants(
    name: str, batch: int, timesteps: int, threads: int, others: bool, noise: bool, device: str
) -> tuple[dict[str, Run], dict[str, RateModel], Given]:
    """What takes turns, the ANN first, our models among them, and what on."""
    ann, reference = opened(name, threads)
    given = Given.of(name, ann, batch, noise=noise)
    models = models_of(ann, given, device)
    x, there = given.x.to(device), ann.to(device)

    def infer() -> None:
        for _ in range(timesteps):
            there.run(x) if device == "cuda" else reference.run([x])

    runs = dict[str, Run]({ON_GPU if device == "cuda" else ANN: infer})
    runs |= {who: partial(model, x, timesteps, at=(timesteps,)) for who, model in models.items()}
    return runs | (peers(ann, given, timesteps, device) if others else {}), models, given


def peers(ann: Graph, given: Given, timesteps: int, device: str) -> dict[str, Run]:
    """SpikingJelly's two modes; none where it does not convert the network."""
    from spikingjelly.activation_based.functional import reset_net

    try:
        peer = peer_of(ann, rate_coding, lambda size: list(given.calibration[:size].split(size)))
    except ConversionError as refused:
        print(f"  SpikingJelly: {refused}", file=sys.stderr)
        return {}
    x, head = given.x.to(device), [replace(n, op=n.op.map_tensors(lambda t: t.to(device))) for n in peer.head]
    assert isinstance(peer.step, fx.GraphModule)
    peer.step.to(device)

    def prepared(mode: str) -> None:
        reset_net(peer.step)
        for neuron in peer.neurons:
            neuron.step_mode = mode  # type: ignore[assignment]  # a property of SpikingJelly's, no submodule

    def step_by_step() -> None:
        prepared("s")
        total = x.new_zeros(())
        for _ in range(timesteps):
            total = total + peer.step(x)
        applied(head, total / timesteps)

    def layer_by_layer() -> None:
        prepared("m")
        assert isinstance(peer.step, fx.GraphModule)
        steps = Layerwise(peer.step, frozenset(map(id, peer.neurons)), timesteps)
        spikes = steps.run(x.repeat(timesteps, *[1] * (x.dim() - 1)))
        applied(head, spikes.unflatten(0, (timesteps, -1)).mean(0))

    largest = max(4 * size_of(node.shape) for node in ann) * len(x) * timesteps
    modes: dict[str, Run] = {STEPS: step_by_step, LAYERS: layer_by_layer}
    return modes if largest <= ROOM else {STEPS: step_by_step}


class Layerwise(fx.Interpreter):
    """A converted network in multi-step mode: neurons take [T, N, …], what has no state [T·N, …]."""

    def __init__(self, module: fx.GraphModule, neurons: frozenset[int], timesteps: int) -> None:
        super().__init__(module)
        self.neurons, self.timesteps = neurons, timesteps

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Neurons see time."""
        module = self.fetch_attr(target)
        if id(module) not in self.neurons:
            return super().call_module(target, args, kwargs)
        return module(args[0].unflatten(0, (self.timesteps, -1))).flatten(0, 1)


@torch.no_grad()
def rounds(runs: dict[str, Run], repeats: int, device: str) -> dict[str, list[tuple[float, float]]]:
    """(Seconds by the clock, of the processor) of each contestant in each round, the first not counted.

    A GPU has done all that it was given before the clock is read.
    """
    done = torch.cuda.synchronize if device == "cuda" else tuple
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for count in range(repeats + 1):
        for name, run in runs.items():
            time.sleep(REST)
            clock, processor = time.perf_counter(), time.process_time()
            run()
            done()
            if count:
                found[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return found


def summarised(found: dict[str, list[tuple[float, float]]], images: int) -> dict[str, dict[str, float]]:
    """Microseconds per image and step; ratios to the ANN, the first, the median of those of each round.

    `cpu` is the ratio in processor time, which other programs on the machine disturb less.
    """
    first = next(iter(found.values()))
    return {
        name: {
            "median": median(clock for clock, _ in each) / images * 1e6,
            "smallest": min(clock for clock, _ in each) / images * 1e6,
            "ratio": median(ours[0] / ann[0] for ours, ann in zip(each, first, strict=True)),
            "cpu": median(ours[1] / ann[1] for ours, ann in zip(each, first, strict=True)),
        }
        for name, each in found.items()
    }


def row(
    name: str,
    batch: int,
    timesteps: int,
    threads: int,
    repeats: int,
    *,
    others: bool,
    noise: bool,
    device: str = "cpu",
) -> dict[str, Any]:
    """One network at one batch size."""
    torch.set_num_threads(threads)
    runs, models, given = contestants(name, batch, timesteps, threads, others, noise, device)
    found, batch = rounds(runs, repeats, device), len(given.x)
    schedule = {who: model.execution(batch) for who, model in models.items()}
    facts = {
        "network": name,
        "inputs": given.words,
        "batch": batch,
        "timesteps": timesteps,
        "threads": threads,
        "schedule": schedule,
    }
    return {**facts, "repeats": repeats, "costs": summarised(found, batch * timesteps)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each contestant: µs per image and step, and the ratio to one inference of the ANN."""
    return markdown(
        "network|inputs|batch|T|threads|who|µs per image and step|smallest|× ANN|× ANN, processor time",
        [
            [*(r[key] for key in ("network", "inputs", "batch", "timesteps", "threads")), who, *shown(cost)]
            for r in rows
            for who, cost in r["costs"].items()
        ],
    )


def shown(cost: dict[str, float]) -> list[str]:
    """Times to the microsecond, ratios to two decimals."""
    return [
        *(f"{cost[k]:.0f}" for k in ("median", "smallest")),
        *(f"{cost[k]:.2f}" for k in ("ratio", "cpu")),
    ]


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, keep `latency.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks latency", description=__doc__)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="[default: all]")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 100])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("-T", "--timesteps", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--noise", action="store_true", help="not images, where there are some")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--keep", metavar="NAME", default="latency", help="the JSON's name")
    given = parser.parse_args(arguments)
    rows, done = [], set()
    for threads in given.threads:
        for name in given.networks or NETWORKS:
            for batch in given.batch:
                shape = name, batch, given.timesteps, threads, given.repeats
                one = row(*shape, others=not given.without_peers, noise=given.noise, device=given.device)
                if (name, one["batch"], threads) not in done:
                    done.add((name, one["batch"], threads))
                    rows.append(one)
                    print(table(rows[-1:]), file=sys.stderr)
    print(table(rows))
    facts = {**environment(max(given.threads)), "onednn": onednn.available(), "whole": onednn.whole()}
    facts |= {"compiled": native.library() is not None, "load": os.getloadavg()[1], "rows": rows}
    write_result(given.keep, ["latency", *arguments], facts)
    return 0
