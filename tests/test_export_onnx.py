"""A spiking network as ONNX: a step with its states, a whole run, both found to fire the same spikes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators.maximum import Maximum
from converter.encodings.poisson import Poisson
from converter.errors import ArtefactError, Unsupported, UsageError
from converter.exporters import onnx as step_form
from converter.exporters import onnx_loop as loop_form
from converter.exporters import pt2
from converter.exporters._check import Check, Order
from converter.exporters._onnx import graph_to_onnx
from converter.exporters._onnx_neurons import KERNELS
from converter.exporters._onnx_run import check_step, session, steps
from converter.exports import export, exporter
from converter.first_spike import FirstSpikeModel
from converter.fixed_point import fixed_point
from converter.graph import BATCH, Graph, Input, Node, Op
from converter.importer import load
from converter.neurons import Neuron, neurons
from converter.ops import Conv, ConvTranspose, Linear, MaxPool, Mul
from converter.passes import apply
from converter.passes.spike import Spike
from converter.pipelined import PipelinedModel
from converter.quantise import quantise
from converter.rate import RateModel
from converter.schedules import Model
from converter.temporal_bias import TemporalBias
from converter.weights import parse
from converter.withdrawal import Withdrawal
from tests.models import weight
from tests.random_networks import network
from tests.test_fuzz import GENES, outputs_of, spiking

INT8 = parse("int8")
assert INT8 is not None
THETA = torch.tensor([0.7, 1.3, 0.9])


def neuron_of(name: str) -> Neuron:
    """The neuron, three of it with a threshold each."""
    slope = {"slope": torch.tensor(0.25)} if name == "negative-slope" else {}
    return neurons[name](threshold=THETA, **slope)


def layer(*ops: Op) -> Graph:
    """These ops one after the other, on [batch, 3]."""
    node = first = Node(Input(), (), "x", (BATCH, 3))
    for place, op in enumerate(ops):
        node = Node.of(op, node, name=f"n{place}")
    return Graph((first,), (node,))


def run_step(model: RateModel, x: Tensor, timesteps: int, tmp_path: Path) -> list[dict[str, Tensor]]:
    """The outputs of every step in onnxruntime."""
    path = tmp_path / "step.onnx"
    proto = step_form.export(model, {}, timesteps)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    frames: Iterator[dict[str, Any]] = repeat({"x": x.numpy()})
    made = steps(session(path), frames, len(x), timesteps)
    return [{name: torch.from_numpy(np.asarray(v)) for name, v in each.items()} for each in made]


def test_a_step_by_hand(tmp_path: Path) -> None:
    """A threshold of 1, half of it to start with, a current of 0.4: 0.9, 1.3 fires, 0.7, 1.1 fires."""
    neuron = neurons["integrate-fire"](threshold=torch.tensor(1.0))
    made = run_step(RateModel(layer(neuron)), torch.full((1, 3), 0.4), 4, tmp_path)
    assert [float(each["n0"][0, 0]) for each in made] == [0, 1, 0, 1]
    assert [round(float(each["n0.membrane.next"][0, 0]), 5) for each in made] == [0.9, 0.3, 0.7, 0.1]
    assert [round(float(each["readout"][0, 0]), 4) for each in made] == [0, 0.5, 0.3333, 0.5]
    assert [float(each["time.next"]) for each in made] == [1, 2, 3, 4]


STEPPING = [name for name in neurons.names() if name != "first-spike"]
"""A first spike is of a window, not of a step."""


@pytest.mark.parametrize("name", [*STEPPING, "hard"])
def test_every_neuron_fires_as_in_torch(name: str, tmp_path: Path) -> None:
    """Currents of either sign that change from step to step: bit for bit the same spikes and states."""
    neuron = neuron_of("integrate-fire" if name == "hard" else name)
    if name == "hard":
        neuron = neurons["integrate-fire"](threshold=THETA, reset="hard")
    drive = TemporalBias(weight(12, 3, scale=1.0))  # what a current does in 12 steps, then nothing
    model = RateModel(layer(drive, neuron))
    x = weight(5, 3, seed=3, scale=1.0)
    heard: list[Tensor] = []

    def listen(node: Node, value: Tensor) -> None:
        if node.name == "n1":
            heard.append(value.clone())

    with torch.inference_mode():
        want = outputs_of(model(x, 16, listen=listen))[0]
    made = run_step(model, x, 16, tmp_path)
    assert all(torch.equal(a["n1"], b) for a, b in zip(made, heard, strict=True))
    assert torch.stack(heard).unique().numel() > 2
    torch.testing.assert_close(torch.stack([each["readout"] for each in made]), want, rtol=0, atol=1e-6)


def test_every_neuron_there_is_has_a_form() -> None:
    assert {type(neuron_of(name)) for name in STEPPING} <= KERNELS.keys()


@pytest.mark.parametrize(
    ("options", "window"),
    [
        ({}, 12),
        ({"coder": "floor"}, 12),
        ({"form": "linear"}, 8),
        ({"grain": -7}, 12),
        ({"form": "linear", "continuous": True}, 1),
    ],
)
def test_first_spikes_are_a_table(options: dict[str, Any], window: int, tmp_path: Path) -> None:
    """Bit for bit what the model in memory answers, also where a membrane stands on a threshold."""
    neuron = neurons["first-spike"](threshold=THETA, **options)
    model = FirstSpikeModel(layer(neuron))
    proto = loop_form.export(model, {}, window)
    onnx.checker.check_model(proto, full_check=True)
    path = tmp_path / "run.onnx"
    path.write_bytes(proto.SerializeToString())
    x = torch.cat([weight(40, 3, seed=3, scale=1.0), THETA[None] / 2, THETA[None] * 2**-0.25])
    with torch.inference_mode():
        want = outputs_of(model(x, window))[0]
    (made,) = session(path).run(None, {"x": x.numpy()})
    assert torch.equal(torch.from_numpy(made), want)
    assert want.unique().numel() > 4


def test_a_withdrawal_and_a_delay_are_as_in_torch(tmp_path: Path) -> None:
    neuron = neurons["integrate-fire"](threshold=THETA)
    graph = layer(TemporalBias(weight(6, 3, scale=2.0)), neuron, Withdrawal(THETA, 2.0))
    model = RateModel(graph, delay=3)
    x = weight(4, 3, seed=5, scale=0.5)
    with torch.inference_mode():
        want = outputs_of(model(x, 14))[0]
    made = run_step(model, x, 14, tmp_path)
    assert any(bool((each["n1"] == 0).any()) for each in made)
    torch.testing.assert_close(torch.stack([each["readout"] for each in made]), want, rtol=0, atol=1e-6)


@settings(max_examples=12, derandomize=True, deadline=None)
@given(genes=GENES, dynamic=st.booleans())
def test_random_networks_fire_alike_in_every_form(
    tmp_path_factory: pytest.TempPathFactory, genes: list[int], dynamic: bool
) -> None:
    fuzz(tmp_path_factory.mktemp("fuzz"), genes, dynamic, SAYING_RATES, ("compact",))


@pytest.mark.slow
@settings(max_examples=300, derandomize=True, deadline=None)
@given(genes=GENES, dynamic=st.booleans())
def test_300_random_networks_fire_alike_in_every_form(
    tmp_path_factory: pytest.TempPathFactory, genes: list[int], dynamic: bool
) -> None:
    fuzz(tmp_path_factory.mktemp("fuzz"), genes, dynamic, (*SAYING_RATES, "pt2"), ("compact", "c"))


SAYING_RATES = ("onnx", "onnx-loop", "nir")


def fuzz(folder: Path, genes: list[int], dynamic: bool, forms: Sequence[str], whole: Sequence[str]) -> None:
    """Every form writes the network and it is the same one, or refuses it before anything is written.

    `whole` are the forms of whole numbers, which take the network with int8 weights.
    """
    model, shape = network(genes, dynamic=dynamic)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    made = spiking(load(model), x)
    if made is None:
        return
    spikes = Spike(keep_analog=("Mul", "Div"))(quantise(apply(load(model))[0], INT8))
    counted = RateModel(fixed_point(Maximum()(spikes, lambda: [x]), float(x.abs().max())))
    for form in (*forms, *whole):
        target = folder / f"net-{form}.pt2"
        try:
            check = export(
                counted if form in whole else made, Order(6, allow=("initial-membrane",)), form, target, (x,)
            )
        except Unsupported:
            refused = True
        else:
            refused = check is None
        assert target.exists() is not refused
        assert refused <= (form == "nir" or form in whole), "ONNX and torch say all that there is"
        assert refused <= (not list(folder.glob(f"*{target.name}*")))


def digits(digits_model: Path, x: Tensor) -> Graph:
    return Maximum()(Spike()(apply(load(digits_model))[0]), lambda: [x])


@pytest.mark.parametrize("kind", [RateModel, PipelinedModel])
def test_a_run_answers_as_in_torch(kind: type[Model], digits_model: Path, tmp_path: Path) -> None:
    x = torch.rand(3, 1, 8, 8)
    check = export(kind(digits(digits_model, x)), Order(6), "onnx-loop", tmp_path / "run.onnx", (x,))
    assert check is not None
    assert check.difference < 1e-5
    proto = onnx.load(tmp_path / "run.onnx")
    onnx.checker.check_model(proto, full_check=True)
    sizes = [d.dim_param or d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim]
    assert sizes == ([6, "N", 10] if kind is RateModel else ["N", 10])


@pytest.mark.parametrize(("form", "count"), [("int8", 7), ("exact8", 7), ("log2:5", 0)])
def test_weights_with_codes_are_int8_and_a_scale_where_that_is_what_they_are(
    form: str, count: int, digits_model: Path, tmp_path: Path
) -> None:
    """All seven layers of the embedded network; no spike differs. Exponents are no multiples of a scale."""
    x = torch.rand(4, 1, 8, 8)
    format = parse(form)
    assert format is not None
    quantised = quantise(apply(load(digits_model))[0], format)
    model = RateModel(fixed_point(Maximum()(Spike()(quantised), lambda: [x]), 1.0))
    for name in ("onnx", "onnx-loop"):
        check = export(model, Order(16), name, tmp_path / name, (x,))
        assert check is not None
        assert (check.differing, check.difference < 1e-6) == (0, True)
        proto = onnx.load(tmp_path / name)
        onnx.checker.check_model(proto, full_check=True)
        bodies = [a.g for node in proto.graph.node for a in node.attribute if a.name == "body"]
        held = [w for graph in (proto.graph, *bodies) for w in graph.initializer]
        assert sum(w.data_type == onnx.TensorProto.INT8 for w in held) == count
    whole = export(RateModel(digits(digits_model, x)), Order(16), "onnx", tmp_path / "whole", (x,))
    assert whole is not None
    share = (tmp_path / "onnx").stat().st_size / (tmp_path / "whole").stat().st_size
    assert (share < 0.5) is (count > 0)


def test_a_scale_is_of_the_channel_that_is_written() -> None:
    """Which of a transposed convolution is the second dimension; a matrix on many rows stays in floats."""
    for op, shape, axis in (
        (Linear(weight(3, 4)), (BATCH, 5, 4), None),
        (Linear(weight(3, 4)), (BATCH, 4), 0),
        (ConvTranspose(weight(4, 3, 2), None, (1,), (0,), (0,), (1,)), (BATCH, 4, 5), 1),
        (Conv(weight(3, 4, 2), None, (1,), (0,), (1,)), (BATCH, 4, 5), 0),
    ):
        x = Node(Input(), (), "x", shape)
        graph = quantise(Graph((x,), (Node.of(op, x, name="y"),)), INT8)
        proto = graph_to_onnx(graph)
        found = [n.attribute[0].i for n in proto.graph.node if n.op_type == "DequantizeLinear"]
        assert found == [axis] * (axis is not None)
        given = torch.rand(2, *shape[1:])
        runner = onnxruntime.InferenceSession(proto.SerializeToString())
        (made,) = runner.run(None, {"x": given.numpy()})
        torch.testing.assert_close(torch.from_numpy(made), graph.run(given)[0], rtol=1e-5, atol=1e-6)


def test_a_program_of_torch_runs_where_only_torch_is(tmp_path: Path) -> None:
    import subprocess
    import sys

    first, last = (neurons[name](threshold=THETA) for name in ("integrate-fire", "signed"))
    model = RateModel(layer(first, Linear(weight(3, 3)), last))
    check = export(model, Order(4), "pt2", tmp_path / "d.pt2", (torch.rand(2, 3),))
    assert check is not None
    assert (check.differing, check.difference) == (0, 0.0)
    program = (
        "import json, sys, torch\n"
        "notes = {'notes.json': ''}\n"
        "step = torch.export.load(sys.argv[1], extra_files=notes).module()\n"
        "states = json.loads(json.loads(notes['notes.json'])['states'])\n"
        "x = torch.linspace(0, 1, 15).reshape(5, 3)\n"
        "held = tuple(torch.tensor(s['initial'], dtype=torch.float32).expand(\n"
        "    [5 if d == 'N' else d for d in s['shape']]).clone() for s in states)\n"
        "for _ in range(3):\n"
        "    (answer,), spikes, held = step((x,), held)\n"
        "print(json.dumps(answer.tolist()), 'converter' in sys.modules)\n"
    )
    command = [sys.executable, "-I", "-W", "ignore", "-c", program, str(tmp_path / "d.pt2")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    told, ours = done.stdout.rsplit(maxsplit=1)
    assert ours == "False"
    with torch.inference_mode():
        want = outputs_of(model(torch.linspace(0, 1, 15).reshape(5, 3), 3))[0][-1]
    assert torch.equal(torch.tensor(json.loads(told)), want)


def test_a_program_of_torch_counts_steps_as_the_network_does(tmp_path: Path) -> None:
    """With a delay, a bias in time, spikes withdrawn and what runs on sums."""
    neuron = neurons["signed"](threshold=THETA)
    graph = layer(TemporalBias(weight(5, 3)), neuron, Withdrawal(THETA, 2.0), Linear(weight(3, 3)))
    x = weight(4, 3, scale=1.0)
    check = export(RateModel(graph, delay=2), Order(8), "pt2", tmp_path / "m.pt2", (x,))
    assert check is not None
    assert (check.differing, check.difference) == (0, 0.0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("first-spike", {}),
        ("first-spike", {"form": "linear", "coder": "floor"}),
        ("first-spike", {"offset": 3}),
        ("first-spike", {"grain": -9}),
        ("signed", {}),
    ],
)
def test_a_program_of_torch_runs_windows(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Of any batch: the answers, and what each layer says in its window."""
    graph = layer(*[neurons[kind](threshold=THETA, **options), Linear(weight(3, 3))] * 2)
    model = FirstSpikeModel(graph) if kind == "first-spike" else PipelinedModel(graph)
    check = export(model, Order(8), "pt2", tmp_path / "w.pt2", (torch.rand(2, 3),))
    assert check is not None
    assert (check.differing, check.difference, check.spikes) == (0, 0.0, 12)
    x = weight(7, 3, seed=4, scale=1.0)
    (answer,), said = torch.export.load(tmp_path / "w.pt2").module()((x,))
    with torch.inference_mode():
        assert torch.equal(answer, model(x, 8))
    assert [value.shape for value in said] == [(7, 3), (7, 3)]
    assert said[0].unique().numel() > 4


def test_the_notes_say_all_that_is_needed(digits_model: Path) -> None:
    x = torch.rand(3, 1, 8, 8)
    report = {
        "data": {"preprocessing": {"scale": 0.0625}, "classes": ["0", "1"]},
        "model": {"file": "digits.onnx", "sha256": "ab"},
    }
    proto = step_form.export(RateModel(digits(digits_model, x), delay=1), report, 32)
    told = {entry.key: entry.value for entry in proto.metadata_props}
    assert told["timesteps"] == "32"
    assert told["delay"] == "1"
    assert json.loads(told["preprocessing"]) == {"scale": 0.0625}
    assert json.loads(told["classes"]) == ["0", "1"]
    names = {i.name for i in proto.graph.input}
    assert {s["name"] for s in json.loads(told["states"])} | {"image"} == names
    outputs = {o.name for o in proto.graph.output}
    assert {s["next"] for s in json.loads(told["states"])} <= outputs
    layers = json.loads(told["neurons"])
    assert {n["name"] for n in layers} <= outputs
    assert {n["spikes"] for n in layers} == {"binary"}


def test_a_step_given_what_chance_drew_is_as_in_torch(tmp_path: Path) -> None:
    model = RateModel(layer(neurons["integrate-fire"](threshold=THETA)), Poisson(1.0))
    check = export(model, Order(8), "onnx", tmp_path / "p.onnx", (torch.rand(4, 3),))
    assert check is not None
    assert check.differing == 0


def test_what_a_form_cannot_say_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    graph = layer(neurons["integrate-fire"](threshold=THETA))
    with pytest.raises(UsageError, match="at random"):
        export(RateModel(graph, Poisson(1.0)), Order(8), "onnx-loop", tmp_path / "p.onnx", None)
    with pytest.raises(UsageError, match="window by window"):
        export(PipelinedModel(graph), Order(8), "onnx", tmp_path / "p.onnx", None)
    with pytest.raises(UsageError, match="at random"):
        export(PipelinedModel(graph, Poisson(1.0)), Order(8), "pt2", tmp_path / "p.pt2", None)
    early = FirstSpikeModel(layer(neurons["first-spike"](threshold=THETA, offset=3)))
    with pytest.raises(Unsupported, match="fires while its input still arrives"):
        export(early, Order(8), "onnx-loop", tmp_path / "p.onnx", None)
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        exporter("onxn")
    assert not list(tmp_path.iterdir())


class Unknown(neurons["integrate-fire"]):  # type: ignore[misc]
    """A neuron that no exporter has heard of."""


def test_a_neuron_that_no_one_knows_is_refused_by_name() -> None:
    model = RateModel(layer(Unknown(threshold=THETA)))
    for form in (step_form.export, loop_form.export):
        with pytest.raises(Unsupported, match="Unknown 'n0'"):
            form(model, {}, 4)


def test_a_file_that_is_not_the_network_is_found_out(tmp_path: Path) -> None:
    graph = layer(neurons["integrate-fire"](threshold=THETA))
    path = tmp_path / "m.onnx"
    step_form.write(RateModel(graph), Order(4), path)
    other = RateModel(layer(neurons["integrate-fire"](threshold=THETA / 2)))
    found = check_step(path, other, (torch.rand(4, 3),), 4)
    assert found.differing > 10
    with pytest.raises(ArtefactError, match="not the one it was made from"):
        found.passed()


def test_a_loop_is_held_to_its_step_and_that_to_the_network(tmp_path: Path) -> None:
    """Every spike of the steps is counted; a loop of another network, and another network, are found out."""
    model = RateModel(layer(neurons["integrate-fire"](threshold=THETA)))
    other = RateModel(layer(neurons["integrate-fire"](threshold=THETA / 2)))
    path, x = tmp_path / "run.onnx", (torch.rand(4, 3),)
    loop_form.write(model, Order(8, opset=17), path)
    found = loop_form.check(path, model, x, 8).passed()
    assert (found.spikes, found.differing, found.difference) == (8 * 4 * 3, 0, 0.0)
    wrong = loop_form.check(path, other, x, 8)
    assert wrong.differing == 0
    assert wrong.difference > 0.1
    with pytest.raises(ArtefactError):
        wrong.passed()


@pytest.mark.parametrize(
    ("difference", "spikes", "differing", "good"),
    [
        (1e-5, 1000, 0, True),
        (1e-3, 1000, 0, False),
        (1e-3, 1000, 1, True),
        (1e-3, 1000, 2, False),
        (1e-3, 10**6, 100, True),
        (1e-3, 10**6, 101, False),
        (1e-2, 0, 0, True),
        (1e-1, 0, 0, False),
        (float("inf"), 1000, 0, False),
    ],
)
def test_how_much_rounding_may_do(difference: float, spikes: int, differing: int, good: bool) -> None:
    check = Check("there", 4, 8, difference, spikes, differing)
    if good:
        assert check.passed() is check
    else:
        with pytest.raises(ArtefactError):
            check.passed()


def test_a_pool_on_sums_and_a_product_on_means_are_as_in_torch(tmp_path: Path) -> None:
    """Telescoping of both kinds: a max-pool, and what is neither linear nor homogeneous before a neuron."""
    x = Node(Input(), (), "x", (BATCH, 3, 6))
    first = Node.of(neurons["integrate-fire"](threshold=torch.tensor(0.8)), x, name="first")
    pool = Node.of(MaxPool((2,), (2,), (0,), (1,)), first, name="pool")
    square = Node.of(Mul(), pool, pool, name="square")
    last = Node.of(neurons["signed"](threshold=torch.tensor(0.5)), square, name="last")
    model = RateModel(Graph((x,), (last,)))
    given = torch.rand(4, 3, 6)
    for form in ("onnx", "onnx-loop", "pt2"):
        check = export(model, Order(9), form, tmp_path / f"{form}.pt2", (given,))
        assert check is not None
        assert check.difference < 1e-5
    assert pt2.NOTES == "notes.json"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet20_cifar10", "mnist_cntk", "squeezenet11_imagenet_fp16", "fastestdet_coco"]
)
def test_trained_networks_fire_alike(
    shared: Path, tmp_path: Path, tell: Callable[[str], None], name: str
) -> None:
    graph = apply(load(shared / "models" / f"{name}.onnx"))[0]
    x = torch.rand(1, *graph.inputs[0].shape[1:])
    made = Maximum()(Spike(keep_analog=("Mul", "Sigmoid"))(graph), lambda: [x])
    check = export(RateModel(made), Order(32), "onnx", tmp_path / "step.onnx", (x,))
    assert check is not None
    tell(check.words)
    assert check.differing <= 1e-5 * check.spikes
