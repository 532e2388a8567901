"""Random networks: read as onnxruntime runs them, kept by every pass, and the same in every spiking form."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from torch import Tensor

from calibrators.maximum import Maximum
from converter.exporters.torch import tensors
from converter.graph import Graph, batch_axes
from converter.importer import load
from converter.passes import PIPELINE, apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from converter.store import from_json, to_json
from tests.models import judge
from tests.onnx_builder import Shape
from tests.random_networks import network
from tests.test_export_torch import emitted

TOLERANCE = 1e-4
GENES = st.lists(st.integers(0, 2**32 - 1), min_size=10, max_size=25)


def images(batch: int | None, shape: Shape) -> Tensor:
    """As many random samples as the graph takes, or three."""
    return torch.randn(batch or 3, *shape, generator=torch.Generator().manual_seed(1))


def assert_same(ours: tuple[Tensor, ...], theirs: list[Tensor] | tuple[Tensor, ...]) -> None:
    """To 1e-4 of the output's magnitude, or of 0.1 where it is smaller than what it came from."""
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        error, size = float((mine - other).abs().max()), float(other.abs().max())
        assert error <= TOLERANCE * max(size, 0.1), f"{error} of {size}"


def judged(model: ModelProto, x: Tensor, *, dynamic: bool) -> list[Tensor]:
    """onnxruntime's outputs: sample by sample where the file has a batch of one."""
    if dynamic:
        return judge(model, x)
    return [torch.cat(parts) for parts in zip(*(judge(model, sample[None]) for sample in x), strict=True)]


@settings(max_examples=150, derandomize=True, deadline=None)
@given(genes=GENES, dynamic=st.booleans())
def test_random_networks_are_read_as_onnxruntime_runs_them(genes: list[int], dynamic: bool) -> None:
    model, shape = network(genes, dynamic=dynamic)
    graph = load(model)
    assert graph.batch is None, "nothing but the number 1 stands against a free batch"
    for batch in (1, 3):
        x = images(batch, shape)
        assert_same(graph.run(x), judged(model, x, dynamic=dynamic))


@settings(max_examples=100, derandomize=True, deadline=None)
@given(genes=GENES, dynamic=st.booleans())
def test_passes_keep_the_outputs_and_change_nothing_a_second_time(genes: list[int], dynamic: bool) -> None:
    model, shape = network(genes, dynamic=dynamic)
    graph = load(model)
    x = images(graph.batch, shape)
    outputs = graph.run(x)
    for change in PIPELINE:
        assert_same(apply(graph, (change,))[0].run(x), outputs)
    folded, _ = apply(graph)
    assert_same(folded.run(x), outputs)
    for change in PIPELINE:
        assert change(folded) is folded, change.__name__


@settings(max_examples=60, derandomize=True, deadline=None)
@given(genes=GENES, dynamic=st.booleans())
def test_spikes_approach_the_ann_alike_in_memory_stored_and_emitted(genes: list[int], dynamic: bool) -> None:
    model, shape = network(genes, dynamic=dynamic)
    graph = load(model)
    x = images(graph.batch, shape)
    snn = spiking(graph, x)
    if snn is None:
        return
    for node in snn.neurons:  # a threshold belongs to a channel, never to a sample of the calibration data
        batch = batch_axes(node.shape)
        size = torch.Size(1 if i in batch else d for i, d in enumerate(node.shape))
        assert torch.broadcast_shapes(node.op.tensors()["threshold"].shape, size) == size
    with torch.inference_mode():
        pairs = list(zip(outputs_of(snn(x, 256, at=(8, 256))), graph.run(x), strict=True))
        early, late = (max(distance(curve[at], ann) for curve, ann in pairs) for at in (0, 1))
        assert late < 0.06
        assert late < early or late < 0.001
        plain = RateModel(snn.graph, plain=True)
        for one, other in ((snn, from_json(to_json(snn), tensors(snn))), (plain, emitted(snn))):
            want = outputs_of(one(x, 6))
            assert all(torch.equal(a, b) for a, b in zip(outputs_of(other(x, 6)), want, strict=True))


def spiking(graph: Graph, x: Tensor) -> RateModel | None:
    """The calibrated spiking network; None where nothing in it can spike."""
    folded, _ = apply(graph)
    if not any(node.op.kind in ("Relu", "Clip", "LeakyRelu", "PRelu") for node in folded):
        return None
    return RateModel(Maximum()(Spike(keep_analog=("Mul", "Div"))(folded), lambda: [x]))


def outputs_of(readout: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One curve for each output, [steps, batch, …]."""
    return readout if isinstance(readout, tuple) else (readout,)


def distance(mine: Tensor, ann: Tensor) -> float:
    """The mean difference, as a share of the mean magnitude (or of 0.1)."""
    return float((mine - ann).abs().mean() / ann.abs().mean().clamp_min(0.1))
