"""Regression: what a synapse reads, the direction by hand, and answers nearer than by a shift alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.bias_correction import BiasCorrection
from calibrators.least_squares import LeastSquares
from calibrators.regression import RIDGE, Moments, Regression, able, rows
from converter.data import open_source
from converter.errors import DataError, UsageError
from converter.graph import BATCH, Graph, Input, Node
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.signed import Signed
from converter.ops import Conv, Linear
from converter.passes import apply
from converter.passes.spike import Spike
from converter.unroll import unroll
from tests.models import parse, weight


def synapse(op: Conv | Linear, *shape: int) -> Node:
    """`op` on an input [batch, *shape]."""
    return Node.of(op, Node(Input(), (), "x", (BATCH, *shape)), name="y")


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 2, 4]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 1)),
    st.integers(1, 2),
)
def test_a_convolution_is_its_weight_times_the_rows_it_reads(
    groups: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: int
) -> None:
    """Torch's own convolution is the judge."""
    op = Conv(weight(8, 4 // groups, *kernel), None, stride, padding, (dilation, dilation), groups)
    node, x = synapse(op, 4, 7, 6), weight(1, 4, 7, 6, seed=1)
    found = op.weight.reshape(groups, 8 // groups, -1) @ rows(node, x)
    torch.testing.assert_close(found.reshape(node.op(x).shape), node.op(x), rtol=1e-5, atol=1e-6)


def test_a_direction_by_hand() -> None:
    """x = 0 and 2 have the mean 1 and the variance 1; with r = 0 and 1 the mean of r·(x − 1) is ½."""
    node, x = synapse(Linear(torch.zeros(1, 1)), 1), torch.tensor([[0.0], [2.0]])
    moments = Moments.of(node, x)
    assert moments.middle.flatten().tolist() == [1.0]
    turn = moments.direction(x, torch.tensor([[0.0], [1.0]]))
    assert turn.tolist() == [[pytest.approx(0.5 / (1 + RIDGE))]]


def test_which_weights_can_be_solved_for() -> None:
    assert able(synapse(Linear(torch.zeros(2, 3)), 3))
    assert not able(synapse(Linear(torch.zeros(2, 3)), 5, 3)), "its channels are places"
    assert able(synapse(Conv(torch.zeros(2, 3, 1, 1), None, (1, 1), (0, 0), (1, 1)), 3, 4, 4))
    assert not able(synapse(Conv(torch.zeros(2, 3, 1), None, (1,), (0,), (1,)), 3, 4))


def test_a_weight_of_half_its_size_is_made_whole() -> None:
    body = "a = Gemm(x, w) r = Relu(a) b = Gemm(r, v) s = Relu(b) y = Gemm(s, u)"
    unit, x = (
        torch.tensor([[1.0]]),
        torch.cat([torch.arange(64.0)[::2], torch.arange(64.0)[1::2]])[:, None] / 63,
    )
    ann, halved = (
        Spike(Signed())(
            apply(load(parse(body, {"w": unit, "v": unit * f, "u": unit}, inputs="float[N,1] x")))[0]
        )
        for f in (1.0, 0.5)
    )
    start = LeastSquares(64)(halved, lambda: [x], ann)
    found = Regression(64)(start, lambda: [x], ann)
    off = [float((unroll(g, x, 64)[0] - x).abs().mean()) for g in (start, found)]
    assert off[0] == pytest.approx(0.25, abs=0.02), "half of it was missing"
    assert off[1] < 1 / 64, "a spike"


@pytest.mark.parametrize("neuron", [IntegrateFire(), Signed()], ids=lambda n: n.kind)
def test_on_digits_unseen_answers_come_nearer_than_by_a_shift(neuron: Neuron, digits_model: Path) -> None:
    graph: Graph = Spike(neuron)(apply(load(digits_model))[0])
    source = open_source("digits", expected=graph.inputs[0].shape)
    x, _ = next(source.batches(source.parts["train"][:256], 256))
    unseen, _ = next(source.batches(source.parts["test"], 300))
    plain, (wanted,) = LeastSquares(4)(graph, lambda: [x]), graph.run(unseen)
    off = [
        float((unroll(kind(4)(plain, lambda: [x], graph), unseen, 4)[0] - wanted).square().mean())
        for kind in (BiasCorrection, Regression)
    ]
    assert off[1] < 0.9 * off[0]


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(UsageError, match="0 rounds"):
        Regression(rounds=0)
    graph = Spike()(apply(load(parse("y = Relu(x)", {}, inputs="float[N,2] x")))[0])
    ready = LeastSquares(4)(graph, lambda: [torch.rand(4, 2)])
    with pytest.raises(DataError, match="regression needs two samples"):
        Regression(4)(ready, lambda: [torch.rand(1, 2)])
