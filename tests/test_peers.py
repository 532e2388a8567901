"""Other people's converters: they get the network as it is, and are counted by the same rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.importing import distance
from benchmarks.presets import PRESETS
from converter.data import open_source, split
from converter.errors import Unsupported
from converter.graph import Graph
from converter.importer import load
from converter.passes import apply
from tests.models import parse, weight


@pytest.fixture(scope="module")
def spikingjelly() -> None:
    """SpikingJelly, which only the extra `peers` brings."""
    pytest.importorskip("spikingjelly.activation_based.ann2snn", reason="SpikingJelly is not installed")


def network(body: str, weights: dict[str, Tensor], inputs: str) -> Graph:
    return apply(load(parse(body, weights, inputs=inputs)))[0]


def in_batches(x: Tensor) -> Callable[[int], list[Tensor]]:
    return lambda size: list(x.split(size))


BODIES = {
    "a pool, a mean and a sum of three": (
        """
        c = Conv<pads=[1,1,1,1]>(x, w) a = Relu(c) p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a)
        q = AveragePool<kernel_shape=[2,2],strides=[2,2]>(a) s = Add(p, q) t = Add(s, p)
        m = GlobalAveragePool(t) f = Flatten(m) y = Gemm(f, v)
        """,
        {"w": weight(4, 3, 3, 3), "v": weight(4, 5, seed=1)},
    ),
    "branches, concatenated": (
        "a = Conv(x, w) b = Conv(x, v) p = Relu(a) q = Relu(b) c = Concat<axis=1>(p, q) y = Conv(c, u)",
        {"w": weight(2, 3, 1, 1), "v": weight(3, 3, 1, 1, seed=1), "u": weight(4, 5, 8, 8, seed=2)},
    ),
    "a shortcut that leaves out pixels and adds empty channels": (
        """
        a = Relu(x) h = Slice(a, starts, ends, axes, steps) p = Pad(h, pads)
        c = Conv<strides=[2,2],pads=[1,1,1,1]>(a, w) s = Add(c, p) r = Relu(s) y = Conv(r, u)
        """,
        {
            "starts": torch.tensor([0, 0]),
            "ends": torch.tensor([8, 8]),
            "axes": torch.tensor([2, 3]),
            "steps": torch.tensor([2, 2]),
            "pads": torch.tensor([0, 2, 0, 0, 0, 2, 0, 0]),
            "w": weight(7, 3, 3, 3),
            "u": weight(4, 7, 4, 4, seed=2),
        },
    ),
}


@pytest.mark.parametrize("body", BODIES)
def test_the_module_answers_as_the_graph_does(body: str) -> None:
    graph = network(*BODIES[body], "float[N,3,8,8] x")
    x = weight(6, 3, 8, 8, seed=3, scale=1.0)
    assert distance([peers.module_of(graph)(x)], graph.run(x)) < peers.TOLERANCE


def test_a_head_is_left_out_of_the_module_and_applied_to_the_mean(spikingjelly: None) -> None:
    graph = network("h = Relu(x) g = Gemm(h, w) y = Softmax(g)", {"w": weight(3, 4)}, "float[N,3] x")
    x = weight(5, 3, seed=1, scale=1.0)
    made = peers.convert(graph, peers.rate_coding, in_batches(x))
    assert [node.name for node in made.head] == ["y"]
    (point,), _ = peers.measure(made, graph, [(x, None)], (256,))
    assert point.output_error < 0.02


def test_what_the_peer_would_leave_as_it_is_is_refused_by_name() -> None:
    graph = network(
        "a = Clip(x, low, high) y = LeakyRelu(a)",
        {"low": torch.tensor(0.0), "high": torch.tensor(6.0)},
        "float[N,3] x",
    )
    with pytest.raises(Unsupported, match="cannot be given to a peer") as refused:
        peers.module_of(graph)
    assert [where.split("'")[1] for where, _ in refused.value.refusals] == ["a", "y"]


def test_a_module_that_answers_otherwise_is_not_converted(
    spikingjelly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = network("h = Relu(x) y = Gemm(h, w)", {"w": weight(3, 4)}, "float[N,3] x")
    other = network("h = Relu(x) y = Gemm(h, w)", {"w": weight(3, 4) * 1.001}, "float[N,3] x")
    spoiled = peers.module_of(other)
    monkeypatch.setattr(peers, "module_of", lambda graph: spoiled)
    with pytest.raises(Unsupported, match=r"is off by 1\.0e-03, more than 1e-05"):
        peers.convert(graph, peers.rate_coding, in_batches(weight(5, 3, seed=1)))


def test_a_conversion_without_neurons_is_refused(spikingjelly: None) -> None:
    from spikingjelly.activation_based.ann2snn import ConversionRecipe

    graph = network("h = Relu(x) y = Gemm(h, w)", {"w": weight(3, 4)}, "float[N,3] x")
    with pytest.raises(Unsupported, match=r"made 0 layers of neurons in .*, not 1"):
        peers.convert(graph, lambda batches: ConversionRecipe(), in_batches(weight(5, 3, seed=1)))


def test_a_run_of_the_peer_counted_by_hand(spikingjelly: None) -> None:
    """Thresholds are the activations of the only sample, so both neurons fire at every step.

    The first reaches two weights, the second one: three operations a step, and the read-out is exact.
    """
    graph = network(
        "h = Relu(x) y = Gemm(h, w)", {"w": torch.tensor([[1.0, 2.0], [0.0, 4.0]])}, "float[N,2] x"
    )
    x = torch.tensor([[0.5, 1.0]])
    made = peers.convert(graph, peers.rate_coding, in_batches(x))
    points, accuracy = peers.measure(made, graph, [(x, torch.tensor([1]))], (1, 4))
    assert accuracy == 1.0
    assert [(p.timesteps, p.accuracy, p.agreement) for p in points] == [(1, 1.0, 1.0), (4, 1.0, 1.0)]
    assert [p.spikes_per_neuron for p in points] == [1.0, 4.0]
    assert [p.output_error for p in points] == pytest.approx([0, 0], abs=1e-6)
    assert [p.microjoules for p in points] == pytest.approx([3 * 0.9e-6, 12 * 0.9e-6])


def test_a_batch_starts_from_rest(spikingjelly: None) -> None:
    graph = network("h = Relu(x) y = Gemm(h, w)", {"w": weight(3, 4)}, "float[N,3] x")
    x = weight(6, 3, seed=1, scale=1.0)
    made = peers.convert(graph, peers.rate_coding, in_batches(x))
    once, _ = peers.measure(made, graph, [(x, None)], (3,))
    parts, _ = peers.measure(made, graph, [(x[:2], None), (x[2:], None)], (3,))
    assert once[0].spikes_per_neuron == parts[0].spikes_per_neuron
    assert once[0].output_error == pytest.approx(parts[0].output_error)


@pytest.mark.parametrize("recipe", [peers.rate_coding, peers.threshold_balancing])
def test_a_peer_comes_near_the_digits_network(
    recipe: peers.Recipe, spikingjelly: None, digits_model: Path, tell: Callable[[str], None]
) -> None:
    graph, _ = apply(load(digits_model))
    source = open_source("digits", expected=graph.inputs[0].shape)
    parts = split(source, 128, 200, seed=0)
    made = peers.convert(graph, recipe, lambda size: [x for x, _ in source.batches(parts.calibration, size)])
    samples = [(x, labels) for x, labels in source.batches(parts.measurement, 100)]
    right = sum(int((graph.run(x)[0].argmax(1) == labels).sum()) for x, labels in samples)
    (first, last), accuracy = peers.measure(made, graph, samples, (1, 64))
    assert accuracy == right / 200
    assert first.accuracy is not None
    assert last.accuracy is not None
    assert first.accuracy < accuracy - 0.2  # it does spike: one step is not enough
    assert accuracy - 0.05 <= last.accuracy <= accuracy + 0.02
    assert 0 < first.spikes_per_neuron < last.spikes_per_neuron < 64
    tell(f"{recipe.__name__}: T = 1 {first.accuracy:.3f}, T = 64 {last.accuracy:.3f}, ANN {accuracy:.3f}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet20", "resnet44", "resnet4b", "mnist_cntk", "convnet_maxpool", "squeezenet"]
)
def test_the_module_of_a_trained_network_answers_as_it_does(name: str, shared: Path) -> None:
    graph, _ = apply(load(PRESETS[name].model))
    x, _ = next(PRESETS[name].source(graph).batches(range(10), 10))
    head = [node for node in graph if node.op.kind == "Softmax"]
    with torch.inference_mode():
        assert distance(peers.applied(head, peers.module_of(graph)(x)), graph.run(x)) < peers.TOLERANCE
