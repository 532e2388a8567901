"""Random networks: imported as onnxruntime runs them, kept by every pass, and the same in every spiking form."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from torch import Tensor

from calibrators.maximum import Maximum
from converter.errors import Unsupported
from converter.exporters.torch import source, tensors
from converter.graph import Graph
from converter.importer import load
from converter.passes import PIPELINE, apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from converter.store import from_json, to_json
from tests.models import judge
from tests.random_networks import Shape, network

TOLERANCE = 1e-4
genes = st.lists(st.integers(0, 2**32 - 1), min_size=10, max_size=25)


def images(batch: int, shape: Shape) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


def assert_same(ours: tuple[Tensor, ...], theirs: list[Tensor] | tuple[Tensor, ...]) -> None:
    """To 1e-4 of the output's magnitude, or of 0.1 where it is all but zero beside the values it came from."""
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        error, size = float((mine - other).abs().max()), float(other.abs().max())
        assert error <= TOLERANCE * max(size, 0.1), f"{error} of {size}"


def judged(model: ModelProto, x: Tensor, *, dynamic: bool) -> list[Tensor]:
    """onnxruntime's outputs: sample by sample where the file has a batch of one."""
    if dynamic or len(x) == 1:
        return judge(model, x)
    each = [judge(model, sample[None]) for sample in x]
    return [torch.cat(parts) for parts in zip(*each, strict=True)]


def check_import(genes: list[int], dynamic: bool) -> None:
    """(a) What the importer reads computes what onnxruntime computes, at one sample and at three."""
    model, shape = network(genes, dynamic=dynamic)
    graph = load(model)
    for batch in (1, 3) if graph.batch is None else (1,):
        x = images(batch, shape)
        assert_same(graph.run(x), judged(model, x, dynamic=dynamic))


def check_passes(genes: list[int], dynamic: bool) -> None:
    """(b) Every pass, and all of them in order, keep the outputs; a second time they change nothing."""
    model, shape = network(genes, dynamic=dynamic)
    graph = load(model)
    x = images(graph.batch or 3, shape)
    outputs = graph.run(x)
    for change in PIPELINE:
        assert_same(apply(graph, (change,))[0].run(x), outputs)
    folded, _ = apply(graph)
    assert_same(folded.run(x), outputs)
    for change in PIPELINE:
        assert change(folded) is folded, change.__name__


def spiking(graph: Graph, x: Tensor) -> Graph | None:
    """The calibrated spiking graph; None where nothing in the network can spike."""
    folded, _ = apply(graph)
    try:
        return Maximum()(Spike(keep_analog=("Mul", "Div"))(folded), lambda: [x])
    except Unsupported as refused:
        assert "nothing to convert" in str(refused)
        return None


def check_spiking(genes: list[int], dynamic: bool) -> None:
    """(c) Spikes approach the ANN, and the stored and the emitted network give the same read-outs bit for bit."""
    model, shape = network(genes, dynamic=dynamic)
    graph = load(model)
    x = images(graph.batch or 3, shape)
    network_ = spiking(graph, x)
    if network_ is None:
        return
    spikes = RateModel(network_)
    with torch.inference_mode():
        curve = spikes(x, 256, at=(8, 256))
        early, late = (
            max(
                float((c[i] - y).abs().mean() / y.abs().mean().clamp_min(0.1))
                for c, y in zip(curve if isinstance(curve, tuple) else (curve,), network_.run(x), strict=True)
            )
            for i in (0, 1)
        )
        assert late < max(early, 0.02)
        want = spikes(x, 6)
        assert_equal(from_json(to_json(spikes), tensors(spikes))(x, 6), want)
        assert_equal(emitted(spikes)(x, 6), want)


def emitted(model: RateModel) -> torch.nn.Module:
    """The network that the text of model.py makes, with its weights."""
    names: dict[str, object] = {"__name__": "emitted", "__file__": "model.py"}
    exec(compile(source(model), "model.py", "exec"), names)
    made = names["Model"]()  # type: ignore[operator]
    made.load_state_dict(tensors(model))
    assert isinstance(made, torch.nn.Module)
    return made


def assert_equal(ours: object, theirs: object) -> None:
    """The same bits."""
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]  # type: ignore[call-overload]
    assert all(torch.equal(a, b) for a, b in pairs)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(genes=genes, dynamic=st.booleans())
def test_random_networks_are_read_as_onnxruntime_runs_them(genes: list[int], dynamic: bool) -> None:
    check_import(genes, dynamic)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(genes=genes, dynamic=st.booleans())
def test_passes_keep_the_outputs_of_random_networks(genes: list[int], dynamic: bool) -> None:
    check_passes(genes, dynamic)


@settings(max_examples=15, derandomize=True, deadline=None)
@given(genes=genes, dynamic=st.booleans())
def test_random_networks_spike_alike_in_memory_stored_and_emitted(genes: list[int], dynamic: bool) -> None:
    check_spiking(genes, dynamic)
