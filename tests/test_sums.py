"""Sums that are exact in float32 whatever their order: by hand, then as a property, then in onnxruntime."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converter.errors import UsageError
from converter.exporters import onnx
from converter.exporters._check import Order
from converter.exporters._onnx_run import session, steps
from converter.fixed_point import fixed_point
from converter.graph import BATCH, Graph, Input, Node, Op
from converter.importer import load
from converter.neurons import Neuron, neurons
from converter.neurons.integrate_fire import IntegrateFire
from converter.ops import Add, AvgPool, Conv, Grid, Linear
from converter.pipeline import Settings
from converter.quantise import quantise
from converter.rate import RateModel
from converter.sizes import Interval, axis_of, bits, charged, exponent, finest, intervals
from converter.spiking import State
from converter.sums import exact_layers
from tests.models import parse as network
from tests.models import weight
from tests.test_integer import branched, different, format_of, made

HEAD = "h1 = Conv<pads=[1,1,1,1]>(x, w1, b1)  a1 = Relu(h1)"
TAIL = "a2 = Relu(h2)  f = Flatten(a2)  h3 = Gemm<transB=1>(f, w4)  a3 = Relu(h3)  y = Gemm<transB=1>(a3, w5)"
CHAIN = "d = Conv<group=8, pads=[1,1,1,1]>(a1, w2)  h2 = Conv(d, w3, b3)"
MEANS = "m = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a1)  h2 = Conv(m, w3, b3)"


def between(body: str, seed: int) -> Graph:
    """A network of images [N, 3, 8, 8] with `body` between two layers of neurons, 8 channels each."""
    weights = {
        "w1": weight(8, 3, 3, 3, seed=seed),
        "b1": weight(8, seed=seed + 1),
        "w2": weight(8, 1, 3, 3, seed=seed + 2),
        "w3": weight(8, 8, 1, 1, seed=seed + 3),
        "b3": weight(8, seed=seed + 4),
        "w4": weight(16, 8 * 64, seed=seed + 5),
        "w5": weight(5, 16, seed=seed + 6),
    }
    used = {name: value for name, value in weights.items() if name in f"{HEAD} {body} {TAIL}"}
    return load(network(f"{HEAD} {body} {TAIL}", used))


def chained(*ops: Op, sizes: tuple[int, ...], format: str = "exact15") -> Graph:
    """x → Grid → identity → neurons of threshold 1 → ops → neuron; vectors of these sizes after each op."""
    x = node = Node(Input(), (), "x", (BATCH, sizes[0]))
    fires = IntegrateFire(threshold=torch.tensor(1.0))
    for place, (op, size) in enumerate(
        zip(
            (Linear(torch.eye(sizes[0])), fires, *ops, fires),
            (*(sizes[0], sizes[0]), *sizes[1:], sizes[-1]),
            strict=True,
        )
    ):
        node = Node(op, (node,), f"n{place}", (BATCH, size))
    return fixed_point(quantise(Graph((x,), (node,)), format_of(format)), 1.0)


def test_what_a_synapse_hands_to_another_keeps_twelve_bits() -> None:
    """It is 1 + 3·2^-12 at most, so 2^-11 is its unit: 1 + 2^-13 becomes 1, 1 + 3·2^-12 becomes 1 + 2^-10."""
    first = Linear(torch.tensor([[1.0, 2.0**-13], [1.0, 3 * 2.0**-12]]))
    graph = chained(first, Linear(torch.ones(1, 2)), sizes=(2, 2, 1))
    (grid,) = [n for n in graph if isinstance(n.op, Grid) and n.name == "n2.grid"]
    assert grid.op.exponent == -11
    (before,) = grid.inputs
    assert before.op(torch.ones(1, 2)).tolist() == [[1 + 2.0**-13, 1 + 3 * 2.0**-12]]
    assert grid.op(before.op(torch.ones(1, 2))).tolist() == [[1.0, 1 + 2.0**-10]]


def test_what_has_twelve_bits_already_is_handed_on_as_it_is() -> None:
    first = Linear(torch.tensor([[1.0, 0.5], [0.25, 0.5]]))
    graph = chained(first, Linear(torch.ones(1, 2)), sizes=(2, 2, 1))
    assert [n.name for n in graph if isinstance(n.op, Grid)] == ["x.grid"]


def test_an_exact_weight_is_as_fine_as_its_current_allows() -> None:
    """Its current is up to 1024 · ⅓ = 341.3 ≤ 0.97 · 2^24 · 2^g: g is -15, and 2^-6 the spike's."""
    third = 1 / 3
    graph = chained(Linear(torch.full((1, 1024), third)), sizes=(1024, 1))
    (op,) = [n.op for n in graph if isinstance(n.op, Linear) and n.op.weight.shape[0] == 1]
    assert op.packed is not None
    assert op.packed.scale.tolist() == [2.0**-9]
    assert set(op.packed.codes.flatten().tolist()) == {round(third * 2**9)}


def test_the_bias_counts_and_is_on_the_grid_of_its_channel() -> None:
    """The current is up to 335⅓, which is 2^24 · 0.97 units of 2^-15 at most; that of a spike is 2^-6."""
    op = Linear(torch.full((2, 2), 1.0), torch.tensor([0.0, 1000 / 3]))
    graph = chained(op, sizes=(2, 2))
    (made_op,) = [n.op for n in graph if isinstance(n.op, Linear) and n.op.bias is not None]
    assert made_op.bias is not None
    assert float(made_op.bias[1] * 2**15) == round(1000 / 3 * 2**15)


def test_a_shortcut_and_what_it_is_added_to_have_one_unit() -> None:
    """Two synapses of very different weights charge one layer: the currents of both are counted alike."""
    x = Node(Input(), (), "x", (BATCH, 64))
    fires = IntegrateFire(threshold=torch.tensor(1.0))
    a = Node(fires, (Node(Linear(torch.eye(64)), (x,), "e", (BATCH, 64)),), "a", (BATCH, 64))
    large = Node(Linear(torch.full((4, 64), 300 / 7)), (a,), "large", (BATCH, 4))
    small = Node(Linear(torch.full((4, 64), 0.01)), (a,), "small", (BATCH, 4))
    total = Node(Add(), (large, small), "total", (BATCH, 4))
    out = Node(fires, (total,), "out", (BATCH, 4))
    graph = fixed_point(quantise(Graph((x,), (out,)), format_of("exact15")), 1.0)
    scales = {n.name: n.op.packed.scale for n in graph if isinstance(n.op, Linear) and n.op.packed}
    assert torch.equal(scales["large"], scales["small"])
    assert exact_layers(graph) == (2, 2)


def test_a_mean_of_nine_becomes_whole_and_never_lies_halfway() -> None:
    """k/9 of a unit is at least 1/18 of the grid's unit, 1/16, away from the middle of two of its points."""
    graph = made(between(MEANS, 1), "int8", neurons["integrate-fire"](), torch.rand(4, 3, 8, 8))
    (grid,) = [n for n in graph if isinstance(n.op, Grid) and isinstance(n.inputs[0].op, AvgPool)]
    neuron = grid.inputs[0].inputs[0]
    assert isinstance(neuron.op, Neuron)
    unit = float(neuron.op.calibrated().max())
    assert isinstance(grid.op, Grid)
    assert 2.0**grid.op.exponent * 16 * 64 <= unit < 2.0**grid.op.exponent * 16 * 128
    k = torch.arange(9 * 127 + 1, dtype=torch.float64)
    away = (k / 9 * 16 - 0.5) % 1
    assert float(torch.minimum(away, 1 - away).min()) > 1 / 19
    assert torch.equal(grid.op(k.float() / 9), grid.op(k.float() * (torch.tensor(1.0) / 9)))


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from((CHAIN, MEANS, "h2 = Conv(a1, w3, b3)")),
    st.sampled_from(("integrate-fire", "signed", "multi-level", "burst")),
    st.booleans(),
    st.integers(0, 1000),
)
def test_every_sum_of_an_exact_network_has_24_bits(
    body: str, neuron: str, per_channel: bool, seed: int
) -> None:
    """Largest magnitude over unit, of all that charges a neuron; and shuffled sums are the same."""
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    graph = made(between(body, seed), "exact15", neurons[neuron](), x, per_channel)
    known, units = intervals(graph), {}
    for node in graph:
        units[node] = exponent(node.op, [units[i] for i in node.inputs])
        size = known[node]
        if isinstance(node.op, Conv | Linear) and node not in graph.outputs:
            assert size is not None
            assert bits(size, units[node], axis_of(node.op, len(node.shape))) <= 24
    layers = sum(isinstance(node.op, Neuron) for node in graph)
    assert exact_layers(graph) == (layers, layers)


def shuffled(graph: Graph, x: Tensor) -> int:
    """Currents of the layer `h2` that differ when float32 adds up their terms in another order."""
    node = next(n for n in graph if n.name == "h2")
    assert isinstance(node.op, Conv)
    heard: dict[str, Tensor] = {}
    model, state = RateModel(graph, plain=True), State()
    found = 0
    for time in range(8):
        _, state = model.advance(model.currents(x), state, lambda n, v: heard.__setitem__(n.name, v))
        terms = heard[node.inputs[0].name][:, None] * node.op.weight.reshape(1, 8, 8, 1, 1)
        totals = []
        for order in (range(8), torch.randperm(8, generator=torch.Generator().manual_seed(time)).tolist()):
            total = torch.zeros_like(terms[:, :, 0])
            for i in order:
                total = total + terms[:, :, i]
            totals.append(total)
        found += int((totals[0] != totals[1]).sum())
    return found


@pytest.mark.parametrize("body", [CHAIN, MEANS])
def test_the_order_of_terms_matters_only_without_a_grid(body: str) -> None:
    """Two synapses in a row, and a mean of nine."""
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    graph = made(between(body, 3), "exact15", neurons["integrate-fire"](), x)
    loose = graph.rewrite(
        lambda n: n.inputs[0] if isinstance(n.op, Grid) and not isinstance(n.inputs[0].op, Input) else None
    )
    assert shuffled(graph, x) == 0
    assert shuffled(loose, x) > 100


def drifted(graph: Graph, x: Tensor, timesteps: int, path: Path) -> int:
    """Spikes that differ between torch and onnxruntime, each with its own states."""
    model, heard, state, wrong = RateModel(graph, plain=True), dict[str, Tensor](), State(), 0
    onnx.write(model, Order(timesteps), path)
    frames = repeat({graph.inputs[0].name: x.numpy()})
    with torch.no_grad():
        for said in steps(session(path), frames, len(x), timesteps):
            _, state = model.advance(model.currents(x), state, lambda n, v: heard.__setitem__(n.name, v))
            wrong += sum(int((torch.from_numpy(said[n.name]) != heard[n.name]).sum()) for n in model.neurons)
    return wrong


@pytest.mark.parametrize("body", [CHAIN, MEANS])
@pytest.mark.parametrize("name", ["exact15", "int8"])
def test_onnxruntime_fires_the_same_along_a_run(body: str, name: str, tmp_path: Path) -> None:
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    graph = made(between(body, 7), name, neurons["integrate-fire"](), x)
    assert drifted(graph, x, 100, tmp_path / "m.onnx") == 0


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(("int8", "exact15", "log2:5")), st.sampled_from((True, False)), st.integers(0, 1000))
def test_whole_numbers_round_as_floats_do(name: str, chain: bool, seed: int) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    network = between(CHAIN, seed) if chain else branched(seed)
    graph = made(network, name, neurons["signed"](), x)
    wrong, fired, _ = different(graph, x, 12)
    assert wrong == 0
    assert fired > 100


def test_how_large_a_sum_becomes_by_hand() -> None:
    """Of spikes in [0, 1] and [0, ½] they lie between −½ · 4 and 3, and a bias; of signed ones between ±5."""
    op = Linear(torch.tensor([[3.0, -4.0]]), torch.tensor([0.25]))
    up = charged(op, Interval(torch.zeros(1, 2), torch.tensor([[1.0, 0.5]])))
    assert (up.low.tolist(), up.high.tolist()) == ([[-2.0]], [[3.25]])
    both = charged(op, Interval(-torch.tensor([[1.0, 0.5]]), torch.tensor([[1.0, 0.5]])))
    assert (both.low.tolist(), both.high.tolist()) == ([[-5.0]], [[5.25]])
    assert both.magnitudes(1).tolist() == [5.25]


def test_the_unit_of_weights_is_that_of_their_last_bit() -> None:
    """¾ and ½ are whole in quarters, 6 in twos; a channel of zeros has the finest unit of the others."""
    op = Linear(torch.tensor([[0.75, 0.5], [6.0, 0.0], [0.0, 0.0]]))
    assert finest(op).tolist() == [-2, 1, -2]


def test_exact_weights_have_a_schedule() -> None:
    with pytest.raises(UsageError, match="exact15 are for sums of the spikes of a step"):
        Settings(weights="exact15", schedule="pipelined", timesteps=(8,))
