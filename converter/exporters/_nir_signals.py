"""A graph of spikes that carry their threshold, as NIR nodes whose spikes are 1.

What a value is in NIR is a `Part`, or several along dimension 1 where values were joined: the sum over NIR
nodes, each times a factor (one sample's shape), of what they emit. Convolutions, matrices and pools take the
factor into their weights; a reshape hands it on; before a neuron or an output it becomes a node of its own.

Neurons of a layer have one threshold: where channels differ, what they read is divided by it, and it is 1.
A mean is a convolution. So a file is of Conv2d, Affine, IF and Flatten, which is what every tool reads; only
what would be too wide, or differs from place to place, is an AvgPool2d or a Scale.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

import nir
import numpy as np
import torch
from torch import Tensor

from converter import ops
from converter.errors import Refusal
from converter.exporters._nir_nodes import absorbed, affine, array, conv, diagonal, equal, full, times, whole
from converter.graph import BATCH, Input, Node, batch_axes
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire


@dataclass(frozen=True)
class Part:
    """Σ factor · what the NIR node emits; `shape` without the batch. A factor that is None is 1."""

    sources: tuple[tuple[str, Tensor | None], ...]
    shape: tuple[int, ...]


@dataclass
class Signals:
    """NIR nodes and edges in the making."""

    nodes: dict[str, nir.NIRNode] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    known: dict[Node, tuple[Part, ...]] = field(default_factory=dict)

    def write(self, node: Node) -> None:
        """Raise `Refusal` for a node that NIR has no way to say."""
        if batch_axes(node.shape) != (0,) or node.shape[0] != BATCH:
            raise Refusal("does not have the batch in front")
        self.known[node] = self._parts(node)

    def stand_in(self, node: Node) -> None:
        """Go on after a refusal, so that all are named."""
        self.known[node] = (Part((), node.shape[1:]),)

    def output(self, node: Node, name: str) -> None:
        """`node` as an output of the graph."""
        (part,) = self.known[node]
        sources = self._plain(part)
        if len(sources) > 1:  # nirtorch 2.6 does not add up what an output reads
            sources = [self._add(f"{name}_sum", nir.Scale(array(torch.ones(part.shape))), sources)]
        self._add(name, nir.Output({"output": np.array(part.shape)}), sources)

    def _parts(self, node: Node) -> tuple[Part, ...]:
        shape = node.shape[1:]
        given = [self.known[i] for i in node.inputs]
        if not shape:
            raise Refusal(
                "is one number for a sample, without a dimension, which NIR's nodes are not made for"
            )
        match node.op:
            case Input():
                return (self._made("input", nir.Input({"input": np.array(shape)}), (), shape),)
            case IntegrateFire():
                return (self._neuron(node, given[0]),)
            case Neuron():
                raise Refusal(f"emits {node.op.spikes} spikes; NIR's are 0 or 1")
            case ops.Conv() | ops.Linear():
                return (self._weighted(node, given[0]),)
            case ops.Add():
                if any(len(parts) > 1 or parts[0].shape != shape for parts in given):
                    raise Refusal("adds values that are joined, or of different shapes")
                return (Part(tuple(s for parts in given for s in parts[0].sources), shape),)
            case ops.AvgPool(kernel, stride, padding, ceil, include):
                if len(kernel) != 2 or ceil or (any(padding) and not include):
                    raise Refusal("is not a pool of NIR's: 2-d, whole windows, zeros counted")
                return tuple(self._pool(node, p, kernel, stride, padding, i) for i, p in enumerate(given[0]))
            case ops.ReduceMean(dims, keep) if dims == (2, 3) and len(given[0][0].shape) == 3:
                size = given[0][0].shape[1:]
                pooled = [self._pool(node, p, size, size, (0, 0), i) for i, p in enumerate(given[0])]
                return tuple(pooled if keep else [self._flat(f"{node.name}_flat", p) for p in pooled])
            case ops.Reshape() if shape == (prod(node.inputs[0].shape[1:]),):
                if all(len(part.shape) == 1 for part in given[0]):
                    return given[0]
                return tuple(
                    self._flat(f"{node.name}_{i}" if i else node.name, p) for i, p in enumerate(given[0])
                )
            case ops.Concat(1):
                return tuple(part for parts in given for part in parts)
            case ops.Affine(scale, None) if scale is not None and len(given[0]) == 1:
                (part,) = given[0]
                scaled = [(n, times(f, scale, part.shape)) for n, f in part.sources]
                return (replace(part, sources=tuple(scaled)),)
            case ops.MaxPool() | ops.ReduceMax():
                raise Refusal("is a maximum, which NIR has no node for", "--maxpool average")
        raise Refusal("has no node in NIR")

    def _neuron(self, node: Node, given: tuple[Part, ...]) -> Part:
        op = node.op
        assert isinstance(op, IntegrateFire)
        if len(given) > 1:
            raise Refusal("reads values that are joined")
        shape = node.shape[1:]
        worth = full(op.calibrated(), shape)
        parts, initial, threshold = given[0], full(op.init()[0], shape), worth
        if not bool((worth == worth.flatten()[0]).all()):
            parts = replace(parts, sources=tuple((n, times(f, 1 / worth, shape)) for n, f in parts.sources))
            initial, threshold = initial / worth, torch.ones(shape)
        told = {
            "layer": node.name,
            "worth": array(worth),
            "v_initial": array(initial),
            "reset": "subtract" if op.reset == "soft" else "zero",
        }
        made = nir.IF(
            r=np.ones(shape, dtype=np.float32),
            v_threshold=array(threshold),
            v_reset=np.zeros(shape, dtype=np.float32),
            metadata=told,
        )
        part = self._made(node.name, made, self._plain(parts), shape)
        return replace(part, sources=((part.sources[0][0], worth),))

    def _weighted(self, node: Node, given: tuple[Part, ...]) -> Part:
        """A convolution or matrix for each part; factors go into its weights, the bias into the first."""
        op = node.op
        assert isinstance(op, ops.Conv | ops.Linear)
        weight, bias = op.weight, torch.zeros(len(op.weight)) if op.bias is None else op.bias
        if isinstance(op, ops.Conv) and weight.dim() != 4:
            raise Refusal("is a convolution in other than two dimensions")
        if isinstance(op, ops.Conv):
            weight = whole(weight, op.groups)
        if isinstance(op, ops.Linear) and len(node.shape) != 2:
            raise Refusal("is a matrix on a dimension of many")
        sources: list[tuple[str, Tensor | None]] = []
        start = 0
        for place, part in enumerate(given):
            width = part.shape[0]
            columns = weight[:, start : start + width]
            start += width
            names, factor = self._common(part, spatial=isinstance(op, ops.Conv))
            if factor is not None:
                columns = absorbed(columns, factor)
            name = node.name if len(given) == 1 else f"{node.name}_{place}"
            own = bias if place == 0 else torch.zeros_like(bias)
            if isinstance(op, ops.Conv):
                windows = (op.stride or (1, 1), op.padding or (0, 0), op.dilation or (1, 1))
                made = conv(columns, own, windows, part.shape)
            else:
                made = affine(columns, own)
            sources += self._made(name, made, names, node.shape[1:]).sources
        return Part(tuple(sources), node.shape[1:])

    def _pool(
        self,
        node: Node,
        part: Part,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        place: int,
    ) -> Part:
        names, factor = self._common(part, spatial=True)
        size = [
            (n + 2 * p - k) // s + 1
            for n, k, s, p in zip(part.shape[1:], kernel, stride, padding, strict=True)
        ]
        weight = diagonal(part.shape[0], kernel, 1 / prod(kernel))
        if weight is None:
            made = nir.AvgPool2d(np.array(kernel), np.array(stride), np.array(padding))
        else:
            weight = weight if factor is None else absorbed(weight, factor)
            made = conv(weight, torch.zeros(len(weight)), (stride, padding, (1, 1)), part.shape)
            factor = None
        pooled = self._made(
            f"{node.name}_{place}" if place else node.name, made, names, (part.shape[0], *size)
        )
        if factor is None:
            return pooled
        each = factor.reshape(part.shape[0], -1)[:, 0].reshape(-1, 1, 1).expand(pooled.shape)
        return replace(pooled, sources=((pooled.sources[0][0], each),))

    def _flat(self, name: str, part: Part) -> Part:
        names, factor = self._common(part)
        made = nir.Flatten({"input": np.array(part.shape)}, start_dim=0, end_dim=-1)
        flat = self._made(name, made, names, (prod(part.shape),))
        return replace(flat, sources=((flat.sources[0][0], None if factor is None else factor.reshape(-1)),))

    def _common(self, part: Part, *, spatial: bool = False) -> tuple[list[str], Tensor | None]:
        """The sources of a part, and their factor if it is one for all (and for all places, if `spatial`)."""
        factors = [factor for _, factor in part.sources]
        names = [name for name, _ in part.sources]
        same = len(set(names)) == len(names) and all(equal(a, factors[0]) for a in factors)
        first = factors[0] if factors else None
        even = (
            first is None or not spatial or bool((first == first.reshape(len(first), -1)[:, :1, None]).all())
        )
        return (names, first) if same and even else (self._plain(part), None)

    def _plain(self, part: Part) -> list[str]:
        """NIR nodes whose sum is the part: a scale after each that has a factor, or is read again."""
        found = []
        for name, factor in part.sources:
            if factor is None and name not in found:
                found.append(name)
                continue
            by = torch.ones(part.shape) if factor is None else factor.expand(part.shape)
            found.append(self._add(f"{name}_scaled", nir.Scale(array(by)), [name]))
        return found

    def _made(self, name: str, made: nir.NIRNode, sources: Sequence[str], shape: tuple[int, ...]) -> Part:
        return Part(((self._add(name, made, sources), None),), shape)

    def _add(self, wanted: str, made: nir.NIRNode, sources: Sequence[str]) -> str:
        plain = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "node"
        name, count = plain, 1
        while name in self.nodes:
            count += 1
            name = f"{plain}_{count}"
        self.nodes[name] = made
        self.edges += [(source, name) for source in sources]
        return name
