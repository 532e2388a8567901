"""Operator by operator is step by step: the same spikes in another order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from calibrators.maximum import Maximum
from converter.graph import Graph, Node
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.multi_level import MultiLevel
from converter.neurons.signed import Signed
from converter.passes import apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from converter.unroll import fire_in_turn, unroll
from tests.models import parse, weight

BODY = """
    c0 = Conv<pads=[1,1,1,1]>(x, w) r0 = Relu(c0)
    p0 = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r0)
    c1 = Conv<pads=[1,1,1,1]>(p0, w1) a1 = Add(c1, p0) l1 = LeakyRelu<alpha=0.2>(a1) s1 = Sigmoid(l1)
    k1 = Concat<axis=1>(s1, p0) c2 = Conv(k1, w2) r2 = Relu(c2) f = Flatten(r2) g = Gemm(f, w3) y = Softmax(g)
"""
WEIGHTS = {
    "w": weight(4, 3, 3, 3),
    "w1": weight(4, 4, 3, 3, seed=1, scale=0.2),
    "w2": weight(5, 8, 2, 2, seed=2),
}


def network(neuron: Neuron) -> Graph:
    plain, _ = apply(load(parse(BODY, WEIGHTS | {"w3": weight(45, 3, seed=3)}, outputs="float[N,M] y")))
    return Maximum()(Spike(neuron, keep_analog=("Sigmoid",))(plain), lambda: [weight(6, 3, 8, 8, seed=4)])


@pytest.mark.parametrize("neuron", [IntegrateFire(), Signed(), MultiLevel(levels=4)], ids=lambda n: n.kind)
def test_the_same_spikes_and_the_same_answer(neuron: Neuron) -> None:
    graph, x, spikes = network(neuron), weight(3, 3, 8, 8, seed=5), {}

    def fire(node: Node, currents: Tensor) -> Tensor:
        spikes[node.name] = fire_in_turn(node, currents)
        return spikes[node.name]

    with torch.inference_mode():
        (answer,) = unroll(graph, x, 12, fire)
        heard: dict[str, list[Tensor]] = {}
        model = RateModel(graph)
        readout = model(x, 12, listen=lambda n, v: heard.setdefault(n.name, []).append(v.clone()))
    assert set(spikes) == {"r0", "l1", "r2"}
    for name, fired in spikes.items():
        # The order of summation differs, so a membrane within rounding of the threshold may fall either way.
        differing = (torch.stack(heard[name]) - fired).abs() > 1e-4
        assert differing.float().mean() < 1e-3, name
    assert isinstance(readout, Tensor)
    assert torch.allclose(readout[-1], answer, atol=1e-3)
