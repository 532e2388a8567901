"""A bias for every step: worked by hand, and the same in every form of the network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from calibrators.maximum import Maximum
from calibrators.temporal_bias import with_biases
from converter.graph import Graph
from converter.importer import load
from converter.neurons import Neuron
from converter.passes import apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from converter.store import from_json, to_json
from converter.temporal_bias import TemporalBias
from converter.unroll import unroll
from tests.models import parse, weight
from tests.test_export_torch import emitted


def test_each_step_has_its_bias_and_after_the_last_there_is_none() -> None:
    op = TemporalBias(torch.tensor([[0.5, -1.0], [0.25, 2.0]]))
    _, given = op.scan(op.init(), torch.ones(4, 3, 2))
    assert given[:, 0].tolist() == [[1.5, 0.0], [1.25, 3.0], [1.0, 1.0], [1.0, 1.0]]
    assert torch.equal(given[:, 0], given[:, 2]), "for every sample of the batch"
    x = torch.randn(3, 2)
    assert op(x) is x, "the ANN knows nothing of it"


def network() -> Graph:
    """Two layers, a bias of three steps for each channel before either."""
    body = "c = Conv(x, w) r = Relu(c) d = Conv(r, w1) q = Relu(d) f = Flatten(q) y = Gemm(f, w2)"
    weights = {"w": weight(4, 3, 3, 3), "w1": weight(4, 4, 3, 3, seed=1), "w2": weight(64, 3, seed=2)}
    plain, _ = apply(load(parse(body, weights)))
    graph = Maximum()(Spike()(plain), lambda: [weight(6, 3, 8, 8, seed=4)])
    return with_biases(graph, {name: weight(3, 4, 1, 1, seed=s) for s, name in enumerate(("r", "q"))})


def test_a_network_with_it_answers_the_same_in_every_form() -> None:
    graph, x = network(), weight(5, 3, 8, 8, seed=5)
    model = RateModel(graph, plain=True)
    here = model(x, 6)
    assert isinstance(here, Tensor)
    assert torch.equal(emitted(model)(x, timesteps=6), here)
    assert torch.equal(RateModel(network(), plain=True)(x, 6), here), "nothing is remembered from run to run"
    back = from_json(to_json(model), model.state_dict())(x, 6)
    assert isinstance(back, Tensor)
    assert torch.equal(back, RateModel(graph)(x, 6))
    assert torch.allclose(unroll(graph, x, 6)[0], here[-1], atol=1e-4)


def test_it_acts_before_the_neuron_it_is_named_after() -> None:
    graph = network()
    assert [n.inputs[0].name for n in graph if isinstance(n.op, Neuron)] == ["r.bias", "q.bias"]
    without = graph.map(lambda n: replace(n.inputs[0]) if isinstance(n.op, TemporalBias) else n)
    x = weight(5, 3, 8, 8, seed=5)
    assert torch.equal(without.run(x)[0], graph.run(x)[0])
    assert not torch.equal(unroll(without, x, 3)[0], unroll(graph, x, 3)[0])
