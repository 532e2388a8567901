"""The ANN of a corrected network: what it is measured against, also when its artefact is read back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import cli
from calibrators import with_ranges
from calibrators._layerwise import with_neurons
from calibrators.bias_correction import BiasCorrection
from calibrators.initial_membrane import InitialMembrane
from calibrators.least_squares import LeastSquares
from calibrators.reconstruction import Reconstruction
from calibrators.spike_calibration import SpikeCalibration
from calibrators.temporal_bias import TemporalBiasCorrection, with_biases
from converter.artefact import read, write
from converter.data import Source, open_source, split
from converter.diagnose import diagnose
from converter.errors import ArtefactError
from converter.graph import Graph, Node
from converter.importer import load
from converter.metrics import measure
from converter.neurons import Neuron
from converter.ops import Linear
from converter.passes import apply
from converter.passes.spike import Spike
from converter.pipeline import Calibrate, Conversion, Settings, convert
from converter.rate import RateModel
from converter.reference import ann_of, same_ann
from converter.store import ann_from_json, ann_tensors, from_json, to_json
from converter.withdrawal import Withdrawal
from tests.models import parse

T = 4
THRESHOLDS = LeastSquares(timesteps=T)
BIAS = BiasCorrection(timesteps=T, rounds=1)
SETTINGS = Settings(timesteps=(2, T), samples=60, calibration_samples=64, batch_size=32)


def digits(graph: Graph) -> Source:
    return open_source("digits", expected=graph.inputs[0].shape)


def conversion_of(file: Path, calibrators: Sequence[Calibrate], schedule: str = "stream") -> Conversion:
    chain = [(type(c).__name__, c) for c in calibrators]
    return convert(file, digits, chain, replace(SETTINGS, schedule=schedule))


@pytest.fixture(scope="module")
def corrected(digits_model: Path) -> Conversion:
    """Other biases, then other weights."""
    return conversion_of(digits_model, [THRESHOLDS, BIAS, Reconstruction(T, 10)])


@pytest.fixture(scope="module")
def artefact(corrected: Conversion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("reference") / "digits.snn"
    write(corrected, target, run="")
    return target


# by hand


def one_neuron() -> Graph:
    """y = 2 · relu(x + ½), threshold 1."""
    weights = {"w": torch.ones(1, 1), "b": torch.tensor([0.5]), "v": torch.tensor([[2.0]])}
    body = "a = Gemm(x, w, b) h = Relu(a) y = Gemm(h, v)"
    graph = Spike()(apply(load(parse(body, weights, inputs="float[N,1] x")))[0])
    return with_ranges(graph, {n: torch.ones(()) for n in graph if isinstance(n.op, Neuron)})


def no_synapse_before() -> Graph:
    """y = relu(x), threshold 1: no bias can take a shift of the current."""
    parsed = parse("h = Relu(x) y = Gemm(h, w)", {"w": torch.eye(2)}, inputs="float[N,2] x")
    graph = Spike()(apply(load(parsed))[0])
    return with_ranges(graph, {n: torch.ones(()) for n in graph if isinstance(n.op, Neuron)})


def test_a_layer_is_held_against_the_activation_before_its_bias_moved() -> None:
    """x = ½: the activation is 1. The bias moved by −½, so the current is ½: spikes at 1 and 3 of 4 steps.

    The mean of the spikes is ½, wrong by a half, though it is what the corrected weights ask for. Of the
    answer, 1 instead of 2, as much is missing.
    """
    before = one_neuron()
    after = with_neurons(before, {}, {"h": torch.tensor([-0.5])})
    data = [(torch.tensor([[0.5]]), None)]
    found = measure(RateModel(after), before, data, (T,))
    assert (found.layers[0].spikes_per_neuron, found.layers[0].error) == (2.0, 0.5)
    assert found.curve[0].output_error == 0.5
    # answers from one graph, activations from the other
    found = measure(RateModel(after), after, data, (T,), spiking=before)
    assert (found.layers[0].error, found.curve[0].output_error) == (0.5, 0.0)


def test_what_is_clipped_and_silent_is_of_the_ann_too() -> None:
    """x = 1: the activation 1.5 is above the threshold, while the shifted current −½ never fires."""
    before = one_neuron()
    after = with_neurons(before, {}, {"h": torch.tensor([-2.0])})
    (layer,) = measure(RateModel(after), before, [(torch.ones(1, 1), None)], (T,)).layers
    assert (layer.clipped, layer.silent, layer.error) == (1.0, 1.0, 1.0)


def changed(graph: Graph, name: str, change: Callable[[Node], Node]) -> Graph:
    return graph.map(lambda node: change(node) if node.name == name else node)


def test_a_weight_that_was_zero_costs_the_network_and_not_its_ann() -> None:
    """2 x 2 weights, of which the ANN has the diagonal, and a correction gave the network all four."""
    before = no_synapse_before()
    after = changed(before, "y", lambda n: replace(n, op=replace(n.op, weight=torch.ones(2, 2))))  # type: ignore[call-arg]
    found = measure(RateModel(after), before, [(torch.ones(1, 2), None)], (T,)).metrics
    assert found["ann_macs"] == 2
    assert found["energy"]["ann_microjoule"] == pytest.approx(2 * 4.6e-6)
    assert found["synaptic_operations"]["Dense"] == 4 * T


def test_thresholds_membranes_and_what_mends_spikes_leave_the_ann_as_it_is() -> None:
    graph = one_neuron()
    neuron = replace(graph["h"].op, threshold=torch.tensor([3.0]), initial=torch.tensor([0.1]))  # type: ignore[call-arg]
    assert isinstance(neuron, Neuron)
    tuned = with_neurons(graph, {"h": neuron}, {})
    assert same_ann(graph, tuned)
    biased = with_biases(tuned, {"h": torch.ones(T, 1)})
    mended = changed(biased, "h", lambda n: Node.of(Withdrawal(torch.ones(()), 2), n, name="h.withdrawal"))
    assert len(mended) == len(graph) + 2
    assert same_ann(graph, mended)
    assert str(ann_of(mended)) == str(ann_of(graph))


def test_a_weight_a_bias_or_a_node_more_make_another_ann() -> None:
    graph = one_neuron()

    def least(node: Node) -> Node:
        assert isinstance(node.op, Linear)
        return replace(node, op=replace(node.op, weight=node.op.weight.nextafter(torch.tensor(9.0))))

    assert not same_ann(graph, changed(graph, "a", least))
    assert not same_ann(graph, with_neurons(graph, {}, {"h": torch.tensor([1e-3])}))
    bare = no_synapse_before()
    shifted = with_neurons(bare, {}, {"h": torch.ones(2)})
    assert len(shifted) == len(bare) + 1
    assert not same_ann(bare, shifted)


# the artefact


def test_an_evaluation_repeats_the_figures_of_a_corrected_conversion(
    artefact: Path, corrected: Conversion
) -> None:
    options = ["--data", "digits", "--samples", "60", "--batch-size", "32", "--json"]
    found = json.loads(CliRunner().invoke(cli.main, ["evaluate", str(artefact), *options]).stdout)
    report = json.loads(corrected.report.to_json())
    for key in ("layers", "metrics", "ann_accuracy"):
        assert found[key] == report[key], key
    for again, before in zip(found["curve"], report["curve"], strict=True):
        # the conversion held the answers against the network before its batch norms were folded
        near = {key: pytest.approx(before[key], rel=1e-5) for key in ("output_error", "divergence")}
        assert again == {**before, **near}


def test_the_artefact_has_what_differs_from_the_network_and_no_more(
    artefact: Path, corrected: Conversion
) -> None:
    """The last layer and what feeds the first neuron were not reconstructed: their weights are in it once."""
    own, weights = load_file(artefact / "ann.safetensors"), load_file(artefact / "weights.safetensors")
    assert weights.keys() == corrected.model.state_dict().keys(), "what model.py loads, strictly"
    assert own
    assert all(not torch.equal(weights[name.removeprefix("ann.")], value) for name, value in own.items())
    assert {f"ann.{name}" for name in weights} - own.keys()
    x = torch.rand(3, 1, 8, 8)
    back = read(artefact)
    assert torch.equal(back.ann.run(x)[0], corrected.spiking.run(x)[0])
    assert not torch.equal(back.model.graph.run(x)[0], corrected.spiking.run(x)[0])
    assert torch.equal(back.model(x, T), corrected.model(x, T))


@pytest.mark.parametrize(
    "more", [[], [InitialMembrane(timesteps=T, rounds=1), SpikeCalibration(timesteps=T)]]
)
def test_without_a_correction_of_weights_the_network_is_its_ann(
    digits_model: Path, tmp_path: Path, more: list[Calibrate]
) -> None:
    conversion = conversion_of(digits_model, [THRESHOLDS, *more])
    write(conversion, tmp_path / "n.snn", run="")
    assert not (tmp_path / "n.snn" / "ann.safetensors").exists()
    assert json.loads((tmp_path / "n.snn" / "graph.json").read_text())["ann"] is None
    back = read(tmp_path / "n.snn")
    assert back.ann is back.model.graph
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(back.ann.run(x)[0], conversion.spiking.run(x)[0])


def test_an_ann_of_the_same_weights_needs_no_tensors_beside() -> None:
    """A shift of the input is a node more; the ANN, one less, has nothing the network has not."""
    bare = no_synapse_before()
    model = RateModel(with_neurons(bare, {}, {"h": torch.ones(2)}))
    assert ann_tensors(model, ann_of(bare)) == {}
    text = to_json(model, ann_of(bare))
    back = ann_from_json(text, model.state_dict(), from_json(text, model.state_dict()))
    assert str(back) == str(ann_of(bare))
    assert back.run(torch.tensor([[1.0, -1.0]]))[0].tolist() == [[1.0, 0.0]]


def test_an_artefact_whose_ann_is_damaged_is_refused(artefact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(artefact, tmp_path / "n.snn")
    whole = (copy / "ann.safetensors").read_bytes()
    (copy / "ann.safetensors").unlink()
    with pytest.raises(ArtefactError, match=r"ann\.safetensors do not make the network's ANN.*\n.*'ann\."):
        read(copy)
    (copy / "ann.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match="is damaged"):
        read(copy)
    (copy / "ann.safetensors").write_bytes(whole)
    document = json.loads((copy / "graph.json").read_text())
    ann = json.dumps(document["ann"]).replace('"/Relu"', '"/Other"')
    (copy / "graph.json").write_text(json.dumps({**document, "ann": json.loads(ann)}))
    with pytest.raises(ArtefactError, match=r"do not make the network's ANN.*\n.*the ANN has no .*'/Relu'"):
        read(copy)


# two judges: the file's own graph, layer by layer, and the report


@pytest.mark.parametrize(
    ("schedule", "calibrators"),
    [
        ("stream", [BIAS, Reconstruction(T, 10), BIAS]),
        ("stream", [BIAS, TemporalBiasCorrection(timesteps=T, rounds=1), SpikeCalibration(timesteps=T)]),
        (
            "pipelined",
            [replace(BIAS, schedule="pipelined"), InitialMembrane(timesteps=T, schedule="pipelined")],
        ),
    ],
)
def test_a_diagnosis_beside_the_file_finds_the_errors_of_the_report(
    digits_model: Path, schedule: str, calibrators: list[Calibrate]
) -> None:
    conversion = conversion_of(digits_model, [THRESHOLDS, *calibrators], schedule)
    ann, _ = apply(load(digits_model))
    data = digits(ann)
    part = split(data, SETTINGS.calibration_samples, SETTINGS.samples, SETTINGS.seed).measurement
    found = diagnose(conversion.model, ann, (x for x, _ in data.batches(part, 32)), T)
    assert found.samples == conversion.report.data.samples
    for drift, layer in zip(found.layers, conversion.report.layers, strict=True):
        assert drift.name == layer.name
        assert drift.error == pytest.approx(layer.error, rel=1e-6)
        assert (drift.clipped, drift.silent) == pytest.approx((layer.clipped, layer.silent))


def test_a_bias_for_each_step_hides_no_pool_that_moved(digits_model: Path, corrected: Conversion) -> None:
    mended = conversion_of(digits_model, [THRESHOLDS, TemporalBiasCorrection(timesteps=T, rounds=1)])
    assert any(node.op.kind == "TemporalBias" for node in mended.model.graph)
    assert mended.report.pooling == corrected.report.pooling
    assert any("moved before the neuron" in said for said in mended.report.pooling)
