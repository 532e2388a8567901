"""A graph of spikes that carry their threshold, as NIR nodes whose spikes are 1.

What a value is in NIR is a `Part`, or several along dimension 1 where values were joined: the sum over NIR
nodes, each times a factor (one sample's shape), of what they emit. Convolutions and matrices take the factor
into their weights; a pool and a reshape hand it on; before a neuron or an output it becomes a Scale.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

from converter import ops
from converter.errors import Refusal
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
        self._add(name, nir.Output({"output": np.array(part.shape)}), self._plain(part))

    def _parts(self, node: Node) -> tuple[Part, ...]:
        shape = node.shape[1:]
        given = [self.known[i] for i in node.inputs]
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
                scaled = [(n, _times(f, scale, part.shape)) for n, f in part.sources]
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
        threshold = _full(op.calibrated(), shape)
        initial = _full(op.init()[0], shape)
        told = {
            "layer": node.name,
            "v_initial": _array(initial),
            "reset": "subtract" if op.reset == "soft" else "zero",
        }
        made = nir.IF(
            r=np.ones(shape, dtype=np.float32),
            v_threshold=_array(threshold),
            v_reset=np.zeros(shape, dtype=np.float32),
            metadata=told,
        )
        part = self._made(node.name, made, self._plain(given[0]), shape)
        return replace(part, sources=((part.sources[0][0], threshold),))

    def _weighted(self, node: Node, given: tuple[Part, ...]) -> Part:
        """A convolution or matrix for each part; factors go into its weights, the bias into the first."""
        op = node.op
        assert isinstance(op, ops.Conv | ops.Linear)
        weight, bias = op.weight, torch.zeros(len(op.weight)) if op.bias is None else op.bias
        if isinstance(op, ops.Conv) and weight.dim() != 4:
            raise Refusal("is a convolution in other than two dimensions")
        if isinstance(op, ops.Conv):
            weight = _whole(weight, op.groups)
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
                columns = _absorbed(columns, factor)
            name = node.name if len(given) == 1 else f"{node.name}_{place}"
            own = bias if place == 0 else torch.zeros_like(bias)
            made = _conv(op, columns, own, part.shape) if isinstance(op, ops.Conv) else _affine(columns, own)
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
        made = nir.AvgPool2d(np.array(kernel), np.array(stride), np.array(padding))
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
        same = len(set(names)) == len(names) and all(_equal(a, factors[0]) for a in factors)
        first = factors[0] if factors else None
        even = (
            first is None or not spatial or bool((first == first.reshape(len(first), -1)[:, :1, None]).all())
        )
        return (names, first) if same and even else (self._plain(part), None)

    def _plain(self, part: Part) -> list[str]:
        """NIR nodes whose sum is the part: a Scale after each that has a factor, or is read again."""
        found = []
        for name, factor in part.sources:
            if factor is None and name not in found:
                found.append(name)
                continue
            scale = torch.ones(part.shape) if factor is None else factor
            made = nir.Scale(_array(scale.expand(part.shape)))
            found.append(self._add(f"{name}_scaled", made, [name]))
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


def _whole(weight: Tensor, groups: int) -> Tensor:
    """The same convolution without groups: nir 1.0.8 takes one group's channels for those of the input."""
    out, each = len(weight) // groups, weight.shape[1]
    full = weight.new_zeros(len(weight), each * groups, *weight.shape[2:])
    for g in range(groups):
        full[g * out : (g + 1) * out, g * each : (g + 1) * each] = weight[g * out : (g + 1) * out]
    return full


def _absorbed(weight: Tensor, factor: Tensor) -> Tensor:
    """The weights of each input channel times its factor."""
    each = factor.reshape(len(factor), -1)[:, 0]
    return weight * each.reshape(1, -1, *[1] * (weight.dim() - 2))


def _conv(op: ops.Conv, weight: Tensor, bias: Tensor, shape: tuple[int, ...]) -> nir.NIRNode:
    return nir.Conv2d(
        (shape[1], shape[2]),
        _array(weight),
        op.stride or (1, 1),
        op.padding or (0, 0),
        op.dilation or (1, 1),
        1,
        _array(bias),
    )


def _affine(weight: Tensor, bias: Tensor) -> nir.NIRNode:
    return nir.Affine(_array(weight), _array(bias))


def _full(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A parameter of a neuron for each of its neurons; [C, 1, 1], or with a batch of one."""
    return value.reshape(value.shape[max(value.dim() - len(shape), 0) :]).expand(shape)


def _times(factor: Tensor | None, scale: Tensor, shape: tuple[int, ...]) -> Tensor:
    full = _full(scale, shape)
    return full if factor is None else factor * full


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _array(value: Tensor) -> Any:
    return np.ascontiguousarray(value.detach().cpu().numpy())
