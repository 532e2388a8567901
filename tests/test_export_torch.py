"""The emitted model.py: what it reads like, and that it does what the model in memory does, bit for bit."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from converter.encodings import Encoding
from converter.encodings.poisson import Poisson
from converter.exporters._layout import WIDTH, fold, shorten
from converter.exporters.torch import source, tensors
from converter.graph import BATCH, Graph, Input, Node, Op
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.burst import Burst
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.leaky import Leaky
from converter.neurons.multi_level import MultiLevel
from converter.neurons.negative_slope import NegativeSlope
from converter.neurons.power_of_two import PowerOfTwo
from converter.neurons.signed import Signed
from converter.ops._basic import Add, Affine, Linear, Reshape
from converter.ops.affine import Conv
from converter.ops.pooling import MaxPool
from converter.ops.softmax import Softmax
from converter.passes import apply
from converter.passes.spike import Spike
from converter.pipelined import PipelinedModel
from converter.rate import RateModel
from converter.schedules import SCHEDULES, Model, model_of

POOL = MaxPool((3, 3), (1, 1), (1, 1), (1, 1))


SHARED = (
    *(
        "resnet20_cifar10",
        "resnet44_cifar10",
        "resnet4b_cifar10_robust",
        "mnist_cntk",
        "convnet_maxpool_mnist",
    ),
    *("convnet_nhwc_cifar10", "squeezenet11_imagenet_fp16", "ultraface_rfb_320", "yunet_n_640_640"),
    *("fastestdet_coco", "deeplab_portrait"),
)


@dataclass(frozen=True, eq=False)
class Product(Op):
    """Not linear, not homogeneous, two inputs."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * torch.tanh(inputs[1])

    def code(self, name: str, *inputs: str) -> str:
        return f"{inputs[0]} * torch.tanh({inputs[1]})"


def conv(inputs: int, outputs: int, kernel: int = 3) -> Conv:
    weight = torch.randn(outputs, inputs, kernel, kernel) * (2 / inputs / kernel**2) ** 0.5
    return Conv(weight, 0.1 * torch.randn(outputs), (1, 1), (kernel // 2,) * 2, (1, 1), 1)


def image(name: str = "image", channels: int = 3) -> Node:
    return Node(Input(), (), name, (BATCH, channels, 6, 6))


def neuron(threshold: float = 0.7, channels: int = 4) -> IntegrateFire:
    return IntegrateFire(threshold * (0.5 + torch.rand(channels, 1, 1)))


def small(name: str = "small") -> Graph:
    """Every part a node can play: static, synapse, neurons of two kinds, both telescopes, a head."""
    x = image()
    first = Node.of(neuron(), Node.of(conv(3, 4), x, name="/stem/conv"), name="/stem/relu")
    pool = Node.of(POOL, first, name="pool")
    branch = Node.of(conv(4, 4), pool, name="branch")
    gate = Node.of(Product(), branch, pool, name="gate")
    total = Node.of(Add(), gate, first, name="total")
    shifted = Node.of(Affine(torch.rand(4, 1, 1), torch.rand(4, 1, 1)), total, name="shifted")
    second = Node.of(
        NegativeSlope(torch.tensor(0.9), slope=torch.full((4, 1, 1), 0.1)), shifted, name="/prelu/PRelu"
    )
    flat = Node.of(Reshape((-1, 144)), second, name="flat")
    scores = Node.of(Linear(torch.randn(5, 144), torch.randn(5)), flat, name="fc")
    return Graph((x,), (Node.of(Softmax(1), scores, name="prob"),), name)


def emitted(model: Model) -> Any:
    """The emitted model, in this process."""
    space: dict[str, Any] = {"__name__": "emitted", "__file__": "model.py"}
    exec(compile(source(model), "model.py", "exec"), space)
    network = space["Model"]()
    network.load_state_dict(tensors(model))
    return network.requires_grad_(False)


def in_memory(model: RateModel, x: Tensor, steps: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The read-outs, and for every step what each layer of neurons emitted."""
    spikes: list[dict[str, Tensor]] = []
    neurons = set(model.neurons)

    def listen(node: Node, value: Tensor) -> None:
        if node is model.neurons[0]:
            spikes.append({})
        if node in neurons:
            spikes[-1][model.names[node.name]] = value.clone()

    readout = model(x, steps, listen=listen)
    assert isinstance(readout, Tensor)
    return readout, spikes


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# In a clean interpreter

DEPLOYED = """
import sys, importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"{{name}} is not on this machine", name=name)
sys.meta_path.insert(0, Absent())
sys.path.insert(0, {folder!r})
import torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
from model import load
network, x = load(), load_file({folder!r} + "/x.safetensors")["x"]
found, state = {{"readout": network(x, timesteps={steps})}}, network.init()
for t in range({steps}):
    spikes = {{}}
    answer, state = network.step(x, state, spikes)
    assert torch.equal(answer, found["readout"][t])
    found.update({{f"{{t}}.{{name}}": value for name, value in spikes.items()}})
save_file(found, {folder!r} + "/found.safetensors")
known = [m for m in sys.modules if m.split(".")[0] in {absent!r}]
assert not known, known
"""
ABSENT = {
    *("converter", "calibrators", "cli", "onnx", "onnxruntime", "sklearn", "skopt", "click", "rich"),
    *("matplotlib", "torchvision", "PIL", "scipy"),
}


def test_with_torch_and_safetensors_alone_the_spikes_are_the_same_step_for_step(tmp_path: Path) -> None:
    model, x, steps = RateModel(small(), plain=True), torch.randn(2, 3, 6, 6), 12
    (tmp_path / "model.py").write_text(source(model))
    save_file(tensors(model), tmp_path / "weights.safetensors")
    save_file({"x": x}, tmp_path / "x.safetensors")
    script = DEPLOYED.format(absent=ABSENT, folder=str(tmp_path), steps=steps)
    command = [sys.executable, "-I", "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "found.safetensors")
    readout, spikes = in_memory(model, x, steps)
    assert torch.equal(found.pop("readout"), readout)
    expected = {f"{t}.{name}": value for t, step in enumerate(spikes) for name, value in step.items()}
    assert same(found, expected)
    assert sum(int((value != 0).sum()) for value in expected.values()) > 100


def test_started_by_itself_it_shows_its_answer(tmp_path: Path) -> None:
    model = RateModel(small())
    (tmp_path / "model.py").write_text(source(model))
    save_file(tensors(model), tmp_path / "weights.safetensors")
    command = [sys.executable, "-W", "error", str(tmp_path / "model.py")]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.stdout.startswith("(32, 1, 5)"), done.stderr


# Bit for bit, over many networks


def spiking(path: Path) -> RateModel:
    """The network in a file, each layer's threshold its largest activation on one random image."""
    graph, _ = apply(load(path))
    graph = Spike()(graph)
    image = torch.rand([1 if d == BATCH else d for d in graph.inputs[0].shape])
    thresholds: dict[str, Tensor] = {}

    def listen(node: Node, value: Tensor) -> None:
        if isinstance(node.op, Neuron):
            thresholds[node.name] = node.op.magnitude(value).max().clamp_min(1e-3)

    def calibrated(node: Node) -> Node | None:
        if isinstance(node.op, Neuron) and node.op.threshold is None:
            return replace(node, op=replace(node.op, threshold=thresholds[node.name]))
        return None

    graph.run(image, listen=listen)
    return RateModel(graph.rewrite(calibrated), plain=True)


def agrees(model: RateModel, steps: int) -> bool:
    """Whether both forms read out the same after every step."""
    x = torch.rand([1 if d == BATCH else d for d in model.graph.inputs[0].shape])
    there, here = emitted(model)(x, timesteps=steps), model(x, steps)
    pairs = zip(there, here, strict=True) if isinstance(here, tuple) else [(there, here)]
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_embedded_network_answers_the_same_in_both_forms(digits_model: Path, tmp_path: Path) -> None:
    model = spiking(digits_model)
    assert agrees(model, 32)
    assert laid_out(source(model), tmp_path) == ""


@pytest.mark.parametrize(
    "prototype",
    [Signed(), MultiLevel(levels=4), Leaky(leak=0.9), Burst(burst=3), PowerOfTwo(levels=3)],
    ids=lambda n: n.kind,
)
def test_every_kind_of_neuron_answers_the_same_in_both_forms(prototype: Neuron, digits_model: Path) -> None:
    graph = spiking(digits_model).graph

    def changed(node: Node) -> Node:
        if not isinstance(node.op, Neuron):
            return node
        return replace(node, op=replace(prototype, threshold=node.op.calibrated() / prototype.parts))

    assert agrees(RateModel(graph.map(changed), plain=True), 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_networks_of_other_people_answer_the_same_in_both_forms(shared: Path, name: str) -> None:
    assert agrees(spiking(shared / "models" / f"{name}.onnx"), 3)


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """A random network of four channels: each node reads any earlier ones, the last is read out."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    x = image(draw(st.sampled_from(["image", "x", "self", "input"])))
    nodes = [Node.of(conv(3, 4), x, name="stem")]
    for i in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from(["conv", "neuron", "sloped", "pool", "add", "product", "affine"]))
        a, b = (nodes[draw(st.integers(0, len(nodes) - 1))] for _ in range(2))
        name = (
            draw(st.sampled_from(["state", "/a/b.c", "init", "torch", "1", "lambda", "sum", "層", ""]))
            + f"{i}"
        )
        match kind:
            case "conv":
                nodes.append(Node.of(conv(4, 4, 1), a, name=name))
            case "neuron":
                nodes.append(Node.of(neuron(), a, name=name))
            case "sloped":
                nodes.append(Node.of(NegativeSlope(torch.tensor(0.8), slope=torch.tensor(0.2)), a, name=name))
            case "pool":
                nodes.append(Node.of(POOL, a, name=name))
            case "add":
                nodes.append(Node.of(Add(), a, b, name=name))
            case "product":
                nodes.append(Node.of(Product(), a, b, name=name))
            case _:
                nodes.append(Node.of(Affine(None, torch.rand(4, 1, 1)), a, name=name))
    outputs = (nodes[-1], nodes[draw(st.integers(0, len(nodes) - 2))])
    return Graph((x,), outputs[: draw(st.integers(1, 2))], "random")


@settings(max_examples=100, deadline=None)
@given(
    graph=networks(),
    encoding=st.sampled_from([None, Poisson(2.0)]),
    seed=st.integers(0, 1000),
    time=st.sampled_from([("stream", 0), ("stream", 2), ("pipelined", 0)]),
)
def test_any_network_answers_the_same_in_both_forms(
    graph: Graph, encoding: Encoding | None, seed: int, time: tuple[str, int]
) -> None:
    model = model_of(graph, encoding, seed=seed, schedule=time[0], delay=time[1])
    if isinstance(model, RateModel):
        model = RateModel(graph, encoding, seed=seed, delay=time[1], plain=True)
    x = torch.randn(2, 3, 6, 6)
    there, here = emitted(model)(x, timesteps=5), model(x, 5)
    for a, b in zip(
        (there,) if isinstance(there, Tensor) else there,
        (here,) if isinstance(here, Tensor) else here,
        strict=True,
    ):
        assert torch.equal(a, b)


def test_several_inputs_come_as_a_tuple() -> None:
    left, right = image("left"), image("right")
    both = Node.of(
        Add(), Node.of(conv(3, 4), left, name="a"), Node.of(conv(3, 4), right, name="b"), name="both"
    )
    graph = Graph((left, right), (Node.of(neuron(), both, name="relu"),))
    x = torch.randn(1, 3, 6, 6), torch.randn(1, 3, 6, 6)
    for encoding, schedule in itertools.product((None, Poisson(2.0)), SCHEDULES):
        model = model_of(graph, encoding, schedule=schedule)
        there, here = emitted(model)(x, timesteps=4), model(x, 4)
        assert isinstance(here, Tensor)
        assert torch.equal(there, here)


def test_a_step_leaves_the_state_it_was_given_alone() -> None:
    network, x = emitted(RateModel(small())), torch.randn(1, 3, 6, 6)
    start = network.init()
    once, later = network.step(x, start)
    network.step(x, later)
    again, _ = network.step(x, start)
    assert start["time"] == 0
    assert torch.equal(once, again)


def test_weights_have_memory_of_their_own_and_the_names_of_the_layers() -> None:
    shared = conv(3, 3)
    first = Node.of(shared, image(), name="first")
    graph = Graph((image_of := first.inputs[0],), (Node.of(shared, first, name="second"),))
    assert image_of.name == "image"
    held = tensors(RateModel(graph))
    assert list(held) == ["first.weight", "first.bias", "second.weight", "second.bias"]
    assert held["first.weight"].data_ptr() != held["second.weight"].data_ptr()


# What it reads like


def test_it_reads_like_a_model_written_by_hand() -> None:
    text = source(RateModel(small()))
    for line in (
        '"""small as a spiking network, written by ann2snn',
        "Input    image: Nx3x6x6, the same at every step (direct current)",
        "        self.stem_conv = nn.Conv2d(3, 4, 3, padding=1)",
        "        self.fc = nn.Linear(144, 5)",
        "        self.prelu_PRelu = Parameters(threshold=torch.zeros(()), slope=torch.zeros((4, 1, 1)))",
        "        stem_conv = self.stem_conv(x)  # Nx4x6x6",
        "        branch = self.branch(pool)  # Nx4x6x6",
        "        total = gate + stem_relu  # Nx4x6x6",
        "        flat = prelu_PRelu.reshape((-1, 144))  # Nx144",
    ):
        assert line in text, line
    assert text.count("def integrate_fire(") == 1
    assert "converter" not in text


def test_of_windows_it_is_one_function_from_image_to_answer() -> None:
    text = source(PipelinedModel(small()))
    for line in (
        "Output   prob: Nx5, read out after a window of steps",
        "Time     windows of T steps, 2 layers of neurons in a row: an answer after 3·T steps",
        "        stem_relu = fire_window(",
        "            integrate_fire, (0.5 * self.stem_relu.threshold,), stem_conv, timesteps, ",
        "        gate = branch * torch.tanh(pool)  # Nx4x6x6",
        "    answer = model(x, timesteps=32)  # with windows of 32 steps",
    ):
        assert line in text, line
    for absent in ("def step", "def init", "telescope", "steps so far"):
        assert absent not in text, absent


def test_only_what_is_used_is_in_the_file() -> None:
    graph = Graph((x := image(),), (Node.of(neuron(), Node.of(conv(3, 4), x, name="conv"), name="relu"),))
    text = source(RateModel(graph))
    assert "telescope" not in text
    assert "functional" not in text
    assert "Callable" not in text
    assert "negative_slope" not in text


@pytest.mark.parametrize(("schedule", "delay"), [("stream", 0), ("stream", 2), ("pipelined", 0)])
@pytest.mark.parametrize("encoding", [None, Poisson(2.0)])
def test_ruff_finds_nothing_to_lay_out_or_to_complain_about(
    tmp_path: Path, encoding: Encoding | None, schedule: str, delay: int
) -> None:
    text = source(model_of(small(), encoding, schedule=schedule, delay=delay))
    assert laid_out(text, tmp_path) == ""
    (tmp_path / "model.py").write_text(text)
    command = [
        "check",
        "--isolated",
        "--line-length",
        str(WIDTH),
        "--select",
        "E,F,I,UP,B,SIM,C4",
        "model.py",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def laid_out(text: str, folder: Path) -> str:
    """What `ruff format` would change."""
    (folder / "model.py").write_text(text)
    options = ["--isolated", "--line-length", str(WIDTH)]
    command = [sys.executable, "-m", "ruff", "format", *options, "--diff", "model.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def test_a_name_from_the_file_never_becomes_code(tmp_path: Path) -> None:
    evil = '"""\nimport os; os.system("touch pwned")\n"""\\'
    x = image(f"in{evil}")
    node = Node.of(conv(3, 4), x, name=evil)
    model = RateModel(Graph((x,), (Node.of(neuron(), node, name=f"{evil}2"),), evil))
    text = source(model)
    space: dict[str, Any] = {"__name__": "emitted", "__file__": "model.py"}
    exec(compile(text, "model.py", "exec"), space)
    assert "os" not in space
    assert not [line for line in text.splitlines() if line.startswith("import os")]


# Layout


@pytest.mark.parametrize(
    ("long", "short"),
    [
        (
            "nn.Conv2d(3, 8, (3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1, bias=True)",
            "nn.Conv2d(3, 8, 3, padding=1)",
        ),
        (
            "nn.Conv2d(8, 8, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 1), groups=8, bias=False)",
            "nn.Conv2d(8, 8, (3, 1), stride=(2, 1), padding=(1, 0), groups=8, bias=False)",
        ),
        ("nn.Conv1d(1, 2, (5,), stride=(1,), padding=(0,))", "nn.Conv1d(1, 2, 5)"),
        ("nn.Linear(4, 1, bias=True)", "nn.Linear(4, 1)"),
        ('nn.Conv2d(1, 1, 3, padding_mode="reflect")', 'nn.Conv2d(1, 1, 3, padding_mode="reflect")'),
        ("nn.Sequential((1, 1))", "nn.Sequential((1, 1))"),
    ],
)
def test_a_constructor_says_only_what_is_not_the_default(long: str, short: str) -> None:
    assert shorten(long) == short


def test_a_line_is_broken_at_its_last_bracket_only_when_it_is_too_long() -> None:
    name = "a" * 40
    assert fold(f"y = f({name})  # N", 8) == [f"        y = f({name})  # N"]
    assert fold(f"y = f({name}, {name})  # {'9' * 30}", 8) == [
        "        y = f(",
        f"            {name}, {name}",
        f"        )  # {'9' * 30}",
    ]
    assert fold(f"y = f({name}, g({name}, {name}), {name})") == [
        "y = f(",
        f"    {name},",
        f"    g({name}, {name}),",
        f"    {name},",
        ")",
    ]


def test_a_long_sum_and_a_long_index_keep_their_meaning() -> None:
    name = "a" * 40
    summed = " + ".join([name] * 4)
    assert fold(f"y = {summed}") == ["y = (", f"    {name}", *[f"    + {name}"] * 3, ")"]
    assert fold(f"y = table[{name}, {name}, {name}]") == ["y = (", f"    table[{name}, {name}, {name}]", ")"]


def test_a_neuron_may_be_called_like_an_entry_of_the_state() -> None:
    x = image()
    graph = Graph((x,), (Node.of(neuron(channels=3), x, name="time"),))
    model = RateModel(graph)
    given = torch.rand(2, 3, 6, 6)
    assert torch.equal(emitted(model)(given, 5), model(given, 5))
