"""What dense networks are built of, in spikes: nothing is lost between neurons, and what is analog is said.

After every step the answer is what onnxruntime makes of the mean of the spikes so far. Thresholds are powers
of two, so sums of spikes are exact.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from converter.account import analog_words
from converter.graph import Graph, Node
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.signed import Signed
from converter.passes import apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from tests.models import judge, parse, weight, worst

STEPS = 6
SIZES = '<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">'
LINEAR = '<mode="linear", coordinate_transformation_mode="half_pixel">'
TWICE = "k = Constant<value_floats=[1.0, 1.0, 2.0, 2.0]>()"
WEIGHTS = {
    "w": weight(4, 4, 3, 3, seed=1),
    "d": weight(4, 1, 3, 3, seed=2),
    "t": weight(4, 2, 2, 2, seed=3),
    "b": weight(4, seed=4),
}
STRUCTURES = {
    "Resize nearest": f"{TWICE} y = Resize {SIZES} (r, , k)",
    "Resize linear": f"{TWICE} y = Resize {LINEAR} (r, , k)",
    "ConvTranspose": "y = ConvTranspose<strides=[2, 2]>(r, t)",
    "dilated Conv with a bias": "y = Conv<dilations=[2, 2], pads=[2, 2, 2, 2]>(r, w, b)",
    "depthwise Conv": "y = Conv<group=4, pads=[1, 1, 1, 1]>(r, d)",
    "channel shuffle": "s = Constant<value_ints=[-1, 2, 2, 6, 6]>() z = Constant<value_ints=[-1, 4, 6, 6]>()"
    " a = Reshape(r, s) c = Transpose<perm=[0, 2, 1, 3, 4]>(a) y = Reshape(c, z)",
    "Split and Concat": "a, c = Split<axis=1, num_outputs=2>(r) y = Concat<axis=1>(c, a, r)",
    "Slice of channels": "s = Constant<value_ints=[1]>() e = Constant<value_ints=[4]>()"
    " i = Constant<value_ints=[1]>() p = Constant<value_ints=[2]>() y = Slice(r, s, e, i, p)",
    "feature pyramid": f"{TWICE} l = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(r)"
    f" u = Resize {SIZES} (l, , k) y = Add(r, u)",
    "stack of max-pools": "a = MaxPool<kernel_shape=[5, 5], pads=[2, 2, 2, 2]>(r)"
    " c = MaxPool<kernel_shape=[5, 5], pads=[2, 2, 2, 2]>(a) y = Concat<axis=1>(r, a, c)",
    "Sigmoid": "y = Sigmoid(r)",
    "Softmax": "y = Softmax<axis=1>(r)",
    "Exp": "y = Exp(r)",
}
ANALOG = ("Sigmoid", "Softmax", "Exp")


def network(tmp_path: Path, body: str, inputs: str = "float[N,4,6,6] r") -> onnx.ModelProto:
    used = {name: value for name, value in WEIGHTS.items() if f", {name}" in body}
    return parse(body, used, inputs=inputs, outputs="float[N,A,B,C] y")


def calibrated(graph: Graph, threshold: float) -> Graph:
    """The graph with this threshold in every neuron that has none."""

    def rule(node: Node) -> Node | None:
        if not isinstance(node.op, Neuron) or node.op.threshold is not None:
            return None
        return replace(node, op=replace(node.op, threshold=torch.tensor(threshold)))

    return graph.rewrite(rule)


@pytest.mark.parametrize("neuron", [IntegrateFire(), Signed()], ids=lambda n: n.kind)
@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_loses_nothing(name: str, neuron: Neuron, tmp_path: Path) -> None:
    body = STRUCTURES[name]
    whole = network(tmp_path, f"r = Relu(x) {body}", "float[N,4,6,6] x")
    onnx.save(whole, tmp_path / "net.onnx")
    graph, _ = apply(load(tmp_path / "net.onnx").verify())
    model = RateModel(calibrated(Spike(neuron)(graph), 0.5))
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(5))
    (relu,) = [n for n in model.neurons if n.shape[1:] == (4, 6, 6)][:1]
    total = torch.zeros(2, 4, 6, 6)

    def listen(node: Node, value: Tensor) -> None:
        if node is relu:
            total.add_(value)

    alone = network(tmp_path, body)
    for time, (answer,) in model.run(x, range(1, STEPS + 1), listen):
        (expected,) = judge(alone, total / time)
        assert worst(answer, expected) < 1e-5, (name, time)
    assert bool(total.abs().sum() > 0)
    said = analog_words(model, ())
    assert (name in ANALOG) == any(f"{name} '" in each for each in said), said


@pytest.mark.parametrize(
    "body",
    [
        "y = Clip(x, lo, hi)",
        "y = LeakyRelu<alpha=0.125>(x)",
        "y = PRelu(x, slope)",
    ],
)
def test_an_activation_is_met_to_a_threshold_over_time(body: str, tmp_path: Path) -> None:
    values = {"lo": torch.tensor(0.0), "hi": torch.tensor(6.0), "slope": torch.full((4, 1, 1), 0.25)}
    used = {name: value for name, value in values.items() if f", {name}" in body}
    model = parse(body, used, inputs="float[N,4,6,6] x", outputs="float[N,4,6,6] y")
    onnx.save(model, tmp_path / "net.onnx")
    graph, _ = apply(load(tmp_path / "net.onnx").verify())
    spiking = RateModel(calibrated(Spike()(graph), 6.0))
    x = (3 * torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(6))).clamp(
        -6, 6 + ("Clip" in body)
    )
    (expected,) = judge(model, x)
    for steps in (16, 64):
        readout = spiking(x, steps)
        assert isinstance(readout, Tensor)
        assert float((readout[-1] - expected).abs().max()) <= 6.0 / steps + 1e-5
