"""`crossover`: below which firing rate is a layer computed faster spike by spike than densely?

    python -m benchmarks crossover
    python -m benchmarks crossover resnet20 squeezenet --samples 4

For each shape of layer, computed in whole numbers or (bits 32) in floats: nanoseconds for a place of its
output densely and event by event, on spikes at random of several rates, and where the two meet; then the
same on the spikes that the layer gets on test images (thresholds at the 99.9th percentile, steps 9 to 16 of a
run), what the engine takes (`share_for_events` of `engine.bytes`, `share_for_spikes` of `engine.sparse`), and
how often there is nothing to compute: no spike in a whole step of a sample, none in sight of 8 places in a
row, or the same spikes as in the step before.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks._common import environment, markdown, write_result
from benchmarks.presets import PRESETS
from benchmarks.profile import usual
from calibrators.percentile import Percentile
from converter.engine import Tiling, native, onednn, sparse
from converter.engine.bytes import Within
from converter.engine.codes import Weighed
from converter.engine.instructions import Apply
from converter.engine.sparse import Sparse
from converter.engine.whole import Fire
from converter.fixed_point import fixed_point
from converter.graph import Node
from converter.importer import load
from converter.ops import Conv, Linear
from converter.passes import apply
from converter.passes.spike import Spike
from converter.quantise import quantise
from converter.rate import RateModel
from converter.weights.integer import Integer

NETWORKS = ("digits", "mnist_cntk", "resnet20", "squeezenet")
RATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
BEFORE, STEPS = 8, 8
FLOATS = 32
"""Bits of weights that are not quantised."""
PLACES = 4096
"""At least so many different places are computed, so that no branch is foreseen that would not be."""


@dataclass(frozen=True)
class Codes:
    """A synapse that is computed in whole numbers, in the pass over its neurons; the spikes of some steps."""

    node: Node
    within: Within
    spikes: Tensor
    comes: Sequence[int]

    @property
    def few(self) -> float:
        """The share of spikes below which the engine goes event by event."""
        return self.within.few

    @property
    def op(self) -> Conv | Linear:
        """What it computes."""
        return self.within.term.op

    @property
    def zero(self) -> int:
        """What stands for no spike."""
        return self.within.term.zero

    def nanoseconds(self, x: Tensor, steps: int, events: bool) -> float:
        """For a place of the output, spikes x being those of some steps."""
        found, (rows, columns) = native.loaded(), (*self.comes[2:], 1, 1)[:2]
        within = self.within
        within(x, steps, self.comes)
        within.what.one_by_one = events
        places = len(x) // steps * rows * columns
        out = torch.empty(places * self.comes[1], dtype=torch.int32)
        base = within.what.data

        def run() -> None:
            for step in range(steps):
                within.what.data = base + step * within.what.step
                found.weigh_places(
                    ctypes.byref(within.what), ctypes.c_int64(places), ctypes.c_void_p(out.data_ptr())
                )

        return usual(run, 5) / (places * steps) * 1e9


@dataclass(frozen=True)
class Floats:
    """A convolution in floats, which may be dense or go spike by spike."""

    node: Node
    op: Conv
    spikes: Tensor
    comes: Sequence[int]
    zero: int = 0

    @property
    def few(self) -> float:
        """The share of spikes below which the engine goes event by event."""
        return Sparse(self.op, tuple(self.spikes.shape)).few

    def nanoseconds(self, x: Tensor, steps: int, events: bool) -> float:
        """For a place of the output."""
        shape, x = tuple(x.shape), x.float()
        by_spike, rows = Sparse(self.op, shape), sparse.laid(self.op)
        packed = onednn.pack(self.op, shape)
        places = len(x) * self.comes[2] * self.comes[3]

        def run() -> object:
            return by_spike(x, rows) if events else onednn.convolve(self.op, packed, x)

        return usual(run, 5) / places * 1e9


def at_random(like: Tensor, rate: float, zero: int, count: int) -> Tensor:
    """Spikes at random, in the shape of these, so many samples."""
    draw = torch.Generator().manual_seed(0)
    size = (count, *like.shape[1:])
    worth = torch.randint(64, 128, size, generator=draw)
    x = torch.where(torch.rand(size, generator=draw) < rate, zero + worth % (256 - zero), zero)
    return laid(x.to(torch.uint8))


def laid(x: Tensor) -> Tensor:
    """Channels innermost."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def meeting(rates: Sequence[float], dense: Sequence[float], events: Sequence[float]) -> float:
    """The rate at which events begin to cost more, in a straight line between two that were measured."""
    over = [e - d for e, d in zip(events, dense, strict=True)]
    if over[0] >= 0:
        return 0.0
    for i in range(1, len(over)):
        if over[i] >= 0:
            return rates[i - 1] + (rates[i] - rates[i - 1]) * -over[i - 1] / (over[i] - over[i - 1])
    return rates[-1]


def idle(x: Tensor, op: object, zero: int, steps: int) -> tuple[float, float, float]:
    """Shares of steps without a spike, of rows of 8 places with none in sight, of steps like the last."""
    fired = (x != zero).reshape(steps, -1, *x.shape[1:])
    empty = float((~fired.flatten(2).any(2)).double().mean())
    same = float((fired[1:] == fired[:-1]).flatten(2).all(2).double().mean())
    seen = fired.flatten(0, 1).any(1).double()
    if isinstance(op, Conv) and seen.dim() == 3:
        seen = F.max_pool2d(
            F.pad(seen[:, None], [p for p in reversed(op.padding or (0, 0)) for _ in range(2)]),
            op.weight.shape[2:],
            op.stride,
        )
        seen = F.max_pool2d(F.pad(seen, (0, -seen.shape[3] % 8)), (1, 8))
    return empty, float((seen == 0).double().mean()), same


def layers(model: RateModel, x: Tensor) -> Iterator[Codes | Floats]:
    """Each synapse that may go event by event, with the spikes it gets in some steps."""
    frame, _ = model.begin(x, BEFORE + STEPS)
    model.program.advance(frame, BEFORE)
    heard: dict[Node, Tensor] = {}

    def listen(node: Node, value: Tensor) -> None:
        heard[node] = torch.cat([heard[node], value]) if node in heard else value.clone()

    model.program.advance(frame, STEPS, listen if model.codes is None else None)
    for node, run, _ in model.program.instructions:
        if isinstance(run, Fire):
            for term, within in run.within.items():
                assert isinstance(term, Weighed)
                yield Codes(node, within, frame.codes[term.source], run.charge.comes.shape)
        elif isinstance(run, Apply) and isinstance(node.op, Conv) and model.codes is None:
            spikes = laid(heard[node.inputs[0]])
            if sparse.fits(node.op, tuple(spikes.shape)):
                yield Floats(node, node.op, spikes, node.shape)


@torch.no_grad()
def rows(name: str, samples: int, bits: int) -> list[dict[str, Any]]:
    """One network with weights of so many bits, or as floats."""
    preset = PRESETS[name]
    imported = load(preset.model)
    ann, _ = apply(imported)
    source = preset.source(imported)
    test = source.parts.get("test", range(len(source)))[:samples]
    train = source.parts.get("train", range(samples, 2 * samples + 32))[:32]
    given = next(iter(source.batches(train, 32)))[0]
    graph, whole = Spike()(ann), bits < FLOATS
    graph = quantise(graph, Integer(bits)) if whole else graph
    graph = Percentile(99.9)(graph, lambda: iter([given]))
    model = RateModel(fixed_point(graph, float(given.abs().max())) if whole else graph)
    x = next(iter(source.batches(test, samples)))[0]
    model.tiling = lambda batch: Tiling(batch, STEPS)  # type: ignore[method-assign]  # all in one tile
    found, seen = [], dict[tuple[object, ...], tuple[list[float], list[float]]]()
    for layer in layers(model, x):
        op, zero, spikes, comes = layer.op, layer.zero, layer.spikes, layer.comes
        shape = (*op.weight.shape, *comes[2:])
        if shape not in seen:
            count = max(1, -(-PLACES // max(1, torch.Size(comes[2:]).numel())))
            drawn = [at_random(spikes, rate, zero, count) for rate in RATES]
            dense, event = ([layer.nanoseconds(d, 1, events) for d in drawn] for events in (False, True))
            seen[shape] = dense, event
        dense, event = seen[shape]
        empty, unseen, same = idle(spikes, op, zero, STEPS)
        found.append(
            {
                "network": name,
                "bits": bits,
                "layer": layer.node.name,
                "shape": shape,
                "rates": RATES,
                "tiles": dense,
                "events": event,
                "meet": meeting(RATES, dense, event),
                "share_for_events": layer.few,
                "rate": float((spikes != zero).double().mean()),
                "tiles_here": layer.nanoseconds(spikes, STEPS, False),
                "events_here": layer.nanoseconds(spikes, STEPS, True),
                "steps_without_spikes": empty,
                "places_without_spikes": unseen,
                "steps_as_before": same,
            }
        )
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """A line for each network and size of weights: layers, which of them win by events, by how much."""
    lines = []
    for name, bits in dict.fromkeys((r["network"], r["bits"]) for r in found):
        of = [r for r in found if (r["network"], r["bits"]) == (name, bits)]
        taken = [r for r in of if r["rate"] < r["share_for_events"]]
        gain = [r["tiles_here"] / r["events_here"] for r in taken]
        wrong = [r for r in of if (r["rate"] < r["share_for_events"]) != (r["events_here"] < r["tiles_here"])]
        low, high = min(r["rate"] for r in of), max(r["rate"] for r in of)
        meet = max(r["meet"] for r in of)
        idle_most = max(r["places_without_spikes"] for r in of)
        lines.append(
            [
                *(
                    name,
                    bits,
                    len(of),
                    f"{100 * low:.1f} to {100 * high:.1f}",
                    f"{100 * meet:.0f}",
                    len(taken),
                ),
                f"{min(gain):.2f} to {max(gain):.2f} ×" if gain else "",
                *(len(wrong), f"{100 * max(r['steps_without_spikes'] for r in of):.1f}"),
                *(f"{100 * idle_most:.1f}", f"{100 * max(r['steps_as_before'] for r in of):.1f}"),
            ]
        )
    return markdown(
        "network|bits|layers|spikes in a step, % of neurons|events win up to, %|layers by events|"
        "faster there|choices that are wrong|steps without a spike, at most, %|"
        "rows of 8 places without, at most, %|steps like the last, at most, %",
        lines,
    )


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, keep `crossover.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks crossover", description=__doc__)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="[default: all]")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--keep", metavar="NAME", default="crossover", help="the JSON's name")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not native.sums_bytes():
        print("this machine has no AVX-512 VNNI, or no C compiler: nothing to compare", file=sys.stderr)
        return 1
    found = [
        r
        for name in given.networks or NETWORKS
        for bits in (8, 15, FLOATS)
        for r in rows(name, given.samples, bits)
    ]
    print(table(found))
    write_result(given.keep, ["crossover", *arguments], {**environment(1), "rows": found})
    return 0
