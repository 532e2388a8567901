"""What of a network fits a chip: its layers against limits that are public.

A layer is a weighted sum and the neurons it drives. Its weights count as `bits` wide when they lie on an even
grid of that many bits, one for the layer (symmetric, up to 16); else they are as wide as they are stored, 32.
A chip is a table of limits, so what fits here may still not fit: how a compiler places a network is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from math import ceil, log2, prod

import torch
from torch import Tensor

from converter.errors import UsageError
from converter.graph import Node, batch_axes, size_of
from converter.operations import fan_out_of
from converter.ops import Conv, ConvTranspose, Linear
from converter.registry import did_you_mean
from converter.spiking import SpikingModel

WIDEST = 16


@dataclass(frozen=True)
class Target:
    """The most of each, None where no limit is known; `axons` is fan-in, neurons and synapses are in all."""

    axons: int | None = None
    fanout: int | None = None
    bits: int | None = None
    neurons: int | None = None
    synapses: int | None = None
    cores: tuple[tuple[int, int], ...] = ()
    """(weights, neurons) that fit the memory of each core, where a layer has a core of its own."""
    source: str = ""


KI = 1024
TARGETS = {
    "loihi2": Target(
        bits=8,
        neurons=1_000_000,
        synapses=120_000_000,
        source="open-neuromorphic.org on Loihi 2: up to 1 million neurons and 120 million synapses a chip; "
        "lava-nc/lava, src/lava/utils/weightutils.py (commit 19ad0c1): its weights have 8 bits. "
        "Fan-in and fan-out: not published",
    ),
    "speck": Target(
        bits=8,
        cores=tuple(
            (weights * KI, neurons * KI)
            for weights, neurons in zip(
                (16, 16, 16, 32, 32, 64, 64, 16, 16), (64, 64, 64, 32, 32, 16, 16, 16, 16), strict=True
            )
        ),
        source="sinabs 3.1.3, backend/dynapcnn: nine cores, a layer each; memory is addressed by powers of "
        "two; weights of 8 bits",
    ),
}
"""Chips by name. `generic:axons=4096,bits=8` is one of the limits named, of those of `Target`."""
SETTABLE = tuple(f.name for f in fields(Target) if f.name not in ("cores", "source"))


@dataclass(frozen=True)
class Layer:
    """One weighted sum; `memory` is (weights, neurons) as a core addresses them."""

    name: str
    neurons: int
    axons: int
    fanout: int
    bits: int
    synapses: int
    memory: tuple[int, int]
    refused: tuple[str, ...]
    """What is too much, in words; empty where the layer fits."""


@dataclass(frozen=True)
class Fit:
    """Every layer, and what of the whole network is too much."""

    target: str
    source: str
    layers: tuple[Layer, ...]
    refused: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing is too much."""
        return not self.refused and not any(layer.refused for layer in self.layers)


def target_of(text: str) -> Target:
    """`loihi2`, `speck`, or `generic:LIMIT=NUMBER,…`. Raises `UsageError` for what is not known."""
    name, _, told = text.partition(":")
    if name in TARGETS and not told:
        return TARGETS[name]
    if name != "generic":
        raise UsageError(f"no limits are known of {text!r}", hint=did_you_mean(name, (*TARGETS, "generic")))
    limits: dict[str, int] = {}
    for part in filter(None, told.split(",")):
        key, _, number = part.partition("=")
        if key not in SETTABLE or not number.isdecimal():
            raise UsageError(
                f"{part!r} is no limit of a chip", hint=f"LIMIT=NUMBER, with one of {', '.join(SETTABLE)}"
            )
        limits[key] = int(number)
    if not limits:
        raise UsageError("a generic chip has the limits it is given", hint="generic:axons=4096,bits=8")
    return Target(**limits, source="as given")  # type: ignore[arg-type]


def fit(model: SpikingModel, text: str) -> Fit:
    """The layers of `model` against the limits of the chip that `text` names."""
    target = target_of(text)
    layers = tuple(
        _layer(node, target) for node in model.graph if isinstance(node.op, Conv | ConvTranspose | Linear)
    )
    neurons = sum(size_of(node.shape) for node in model.neurons)
    synapses = sum(layer.synapses for layer in layers)
    refused = _over({"neurons": neurons, "synapses": synapses}, target)
    if target.cores and (left := unplaced([layer.memory for layer in layers], target.cores)):
        refused += (f"{left} of {len(layers)} layers find no core",)
    return Fit(text, target.source, layers, refused)


def _layer(node: Node, target: Target) -> Layer:
    op = node.op
    assert isinstance(op, Conv | ConvTranspose | Linear)
    weight, outputs = op.weight.detach(), size_of(node.shape)
    reached = fan_out_of(node)
    linked = weight.transpose(0, 1) if isinstance(op, ConvTranspose) else weight
    sample = size_of(tuple(node.inputs[0].shape[i] for i in batch_axes(node.inputs[0].shape)))
    facts = {
        "axons": int((linked != 0).flatten(1).sum(1).max()),
        "fanout": int(reached.max()),
        "bits": bits_of(weight),
    }
    filters, *_ = node.shape[1:] if not isinstance(op, Linear) else node.shape[-1:]
    places = [] if isinstance(op, Linear) else list(node.shape[2:])
    kernel = prod(weight.shape[2:])
    channels = weight.shape[1] if not isinstance(op, ConvTranspose) else weight.shape[0]
    memory = (
        channels * 2 ** (ceil(log2(kernel)) + ceil(log2(filters))),
        filters * prod(2 ** ceil(log2(n)) for n in places),
    )
    synapses = sample * int(reached.sum(dtype=torch.float64))
    return Layer(node.name, outputs, **facts, synapses=synapses, memory=memory, refused=_over(facts, target))


def _over(facts: dict[str, int], target: Target) -> tuple[str, ...]:
    """In words what of `facts` is beyond the limits."""
    limits = {name: getattr(target, name) for name in facts}
    return tuple(
        f"{value:,} {name}, {limits[name]:,} at most"
        for name, value in facts.items()
        if limits[name] is not None and value > limits[name]
    )


def bits_of(weight: Tensor) -> int:
    """The fewest bits of an even grid, symmetric about 0, that these weights lie on; 32 where none does."""
    largest = weight.abs().max()
    if not bool(largest > 0):
        return 1
    for bits in range(2, WIDEST + 1):
        levels = weight / largest * (2 ** (bits - 1) - 1)
        if bool((levels - levels.round()).abs().max() < 1e-3):
            return bits
    return 32


def unplaced(layers: Sequence[tuple[int, int]], cores: Sequence[tuple[int, int]]) -> int:
    """How many layers are left over when as many as can have a core of their own (a largest matching)."""
    holder: dict[int, int] = {}

    def place(layer: int, tried: set[int]) -> bool:
        for core in _fitting(layers[layer], cores):
            if core in tried:
                continue
            tried.add(core)
            if core not in holder or place(holder[core], tried):
                holder[core] = layer
                return True
        return False

    return sum(not place(layer, set()) for layer in range(len(layers)))


def _fitting(layer: tuple[int, int], cores: Sequence[tuple[int, int]]) -> Iterable[int]:
    return (i for i, core in enumerate(cores) if layer[0] <= core[0] and layer[1] <= core[1])
