"""The guarantee of max-pooling: after every step the pooled sum is the pool of the sums, for any pool.

500 random pools, ten behind each of 50 random networks, through the importer, the passes and both
simulators. Thresholds are powers of two, so sums are exact and so are the comparisons; onnxruntime says what
the pool of a sum is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto
from torch import Tensor

from converter import unroll
from converter.engine import program
from converter.engine.instructions import Apply
from converter.graph import Graph, size_of
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.multi_level import MultiLevel
from converter.neurons.signed import Signed
from converter.ops import MaxPool, ReduceMax
from converter.passes import PIPELINE, apply
from converter.passes.pool_first import pool_first
from converter.passes.spike import Spike
from converter.rate import RateModel
from tests.models import judge, worst
from tests.onnx_builder import Builder, Shape
from tests.random_windows import window

T = 8
NEURONS = (IntegrateFire(), Signed(), MultiLevel(levels=3))
SIZES: tuple[Shape, ...] = ((9,), (5, 6), (4, 7), (3, 4, 3))


@dataclass(frozen=True)
class Example:
    """A network that ends in `pools` of `pooled`: neurons, layer after layer, or their Concat or Add."""

    model: ModelProto
    alone: ModelProto
    """The pools by themselves, their input called x."""
    shape: Shape
    pooled: str
    pools: tuple[str, ...]
    neuron: Neuron


def example(seed: int, count: int = 10) -> Example:
    """More pools than one are too many readers for any to move before the neurons."""
    r = random.Random(seed)
    shape = (2, *r.choice(SIZES))
    b = Builder(True, r, {"x": (1, *shape)})
    (first,) = b.add("Relu", "x")
    branches = []
    for _ in range(2):
        mixed = b.add("Conv", first, b.normal(2, 2, *[1] * (len(shape) - 1), scale=1.0))
        branches += b.add(*r.choice([("Relu", *mixed), ("Clip", *mixed, b.constant(0.0), b.constant(4.0))]))
    match r.randrange(3):
        case 0:
            pooled = branches[0]
        case 1:
            (pooled,) = b.add("Concat", *branches, axis=r.choice([1, len(shape)]))
        case _:
            (pooled,) = b.add("Add", *branches)
    alone = Builder(True, r, {"x": b.shapes[pooled]}, weights=b.weights)
    pools: list[str] = []
    while len(pools) < count:
        pools += any_pool(b, pooled)
    alone.nodes = [_reading_x(node, pooled) for node in b.nodes[-count:]]
    outputs = [*pools, pooled] if count > 1 else pools
    return Example(b.model(outputs), alone.model(pools), shape, pooled, tuple(pools), r.choice(NEURONS))


def _reading_x(node: NodeProto, pooled: str) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[0] = "x"
    assert node.input[0] == pooled
    return copy


def any_pool(b: Builder, x: str) -> list[str]:
    """A max-pool of any kernel, stride, dilation, padding and rounding; or of whole dimensions."""
    r, size = b.rng, b.shapes[x][2:]
    match r.randrange(5):
        case 0:
            return b.add("GlobalMaxPool", x)
        case 1:
            axes = b.constant(r.sample(range(2, 2 + len(size)), r.randint(1, len(size))))
            return b.add("ReduceMax", x, axes, keepdims=r.randint(0, 1))
    kernel = [r.randint(2, 3) for _ in size]
    told = window(r, size, kernel, 1) | {"kernel_shape": kernel}
    if "auto_pad" not in told:
        told["ceil_mode"] = r.randint(0, 1)
    return b.add("MaxPool", x, **told)


def spiking(one: Example) -> Graph:
    """The spiking graph, each channel with a threshold of its own, the same in every layer."""
    graph = Spike(one.neuron)(apply(load(one.model))[0])
    thresholds = torch.tensor([0.25, 0.5]).reshape(2, *[1] * (len(one.shape) - 1))
    return graph.map(
        lambda n: replace(n, op=replace(n.op, threshold=thresholds)) if isinstance(n.op, Neuron) else n
    )


def images(one: Example) -> Tensor:
    return torch.randn(2, *one.shape, generator=torch.Generator().manual_seed(1))


def steps_of(graph: Graph, x: Tensor) -> dict[str, Tensor]:
    """What every node says at each of T steps, [T, batch, …], from the step-by-step simulation."""
    heard: dict[str, list[Tensor]] = {}
    RateModel(graph)(x, T, listen=lambda node, value: heard.setdefault(node.name, []).append(value.clone()))
    return {name: torch.stack(values) for name, values in heard.items()}


def pools_of(one: Example, sums: Tensor) -> list[Tensor]:
    """By onnxruntime, all steps as one batch."""
    return [found.unflatten(0, sums.shape[:2]) for found in judge(one.alone, sums.flatten(0, 1))]


def stepwise(one: Example, graph: Graph) -> list[bool]:
    """For each pool: the sum is the pool of the sums after each step, and no step says more than an input."""
    said = steps_of(graph, images(one))
    given = said[one.pooled]
    low, high = min(float(given.min()), 0.0), float(given.max())
    found = []
    for name, want in zip(one.pools, pools_of(one, given.cumsum(0)), strict=True):
        bounded = low <= float(said[name].min()) and float(said[name].max()) <= high
        found.append(bounded and torch.equal(said[name].cumsum(0), want))
    return found


def at_once(one: Example, graph: Graph) -> list[bool]:
    """The same after T steps, operator by operator."""
    *sums, given = (T * mean for mean in unroll.unroll(graph, images(one), T))
    return [torch.equal(total, want[0]) for total, want in zip(sums, pools_of(one, given[None]), strict=True)]


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(seed=SEEDS)
def test_the_pooled_sum_is_the_pool_of_the_sums_after_every_step(seed: int) -> None:
    one = example(seed)
    graph = spiking(one)
    assert all(stepwise(one, graph))
    assert all(at_once(one, graph))


def test_pooling_each_step_by_itself_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the property could not fail. A window of one value, or of silent ones, is no different."""
    monkeypatch.setattr(program, "Telescope", lambda node, function, inputs: Apply(node, function))
    monkeypatch.setattr(unroll, "_cumulative", unroll.each_step)
    examples = [(one, spiking(one)) for one in map(example, range(5))]
    assert sum(stepwise(*one).count(False) for one in examples) >= 40
    assert sum(at_once(*one).count(False) for one in examples) >= 40


def test_the_examples_hold_what_they_should() -> None:
    """Every way to pool, behind every kind of node, of every kind of spikes, also such as are taken back."""
    examples = [example(seed) for seed in range(40)]
    kinds = {(node.op_type, len(one.shape)) for one in examples for node in one.alone.graph.node}
    assert kinds == {(kind, rank) for kind in ("MaxPool", "GlobalMaxPool", "ReduceMax") for rank in (2, 3, 4)}
    assert {one.model.graph.node[-11].op_type for one in examples} == {"Relu", "Clip", "Concat", "Add"}
    assert {one.neuron.kind for one in examples} == {neuron.kind for neuron in NEURONS}
    for neuron in NEURONS:
        several = [one for one in examples if one.neuron is neuron][:6]
        said = [steps_of(spiking(one), images(one))[name] for one in several for name in one.pools]
        assert any(bool((values < 0).any()) for values in said) is (neuron.kind != "IntegrateFire")


@settings(max_examples=30, derandomize=True, deadline=None)
@given(seed=SEEDS)
def test_a_pool_before_the_neurons_pools_their_currents(seed: int) -> None:
    """As onnxruntime has it, with fewer neurons; after each step the sum is the pool of the currents'."""
    one = example(seed, count=1)
    plain, _ = apply(load(one.model), tuple(p for p in PIPELINE if p is not pool_first))
    graph, _ = apply(load(one.model))
    x = images(one)
    for ours, theirs in zip(graph.run(x), judge(one.model, x), strict=True):
        assert worst(ours, theirs) < 1e-5
    moved = spiking(one)
    kinds = [node.op.kind for node in moved]
    growth = size_of(graph.outputs[0].shape) - size_of(plain[one.pooled].shape)
    if "Add" in kinds or across(one) or growth > 0:
        assert str(graph) == str(plain)
        return
    assert neurons_of(moved) == neurons_of(Spike(one.neuron)(plain)) + growth
    said = steps_of(moved, x)
    pools = [node for node in moved if isinstance(node.op, MaxPool | ReduceMax)]
    assert len(pools) == 1 + kinds.count("Concat")
    for pool in pools:
        want = pool.op(said[pool.inputs[0].name].cumsum(0).flatten(0, 1)).unflatten(0, (T, len(x)))
        assert torch.allclose(said[pool.name].cumsum(0), want, atol=1e-5)


def across(one: Example) -> bool:
    """Whether its windows extend over the dimension of its Concat."""
    return any(
        node.op_type == "Concat" and node.attribute[0].i == len(one.shape) for node in one.model.graph.node
    )


def neurons_of(graph: Graph) -> int:
    return sum(size_of(node.shape) for node in graph if isinstance(node.op, Neuron))
