"""Whole numbers only, and the same spikes: by hand, then against the float simulation, then against NumPy."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators.percentile import Percentile
from converter.data import open_source
from converter.errors import ConversionError, ModelError
from converter.fixed_point import fixed_point
from converter.graph import Graph, Node
from converter.importer import load
from converter.integer import IntegerModel, State, computed
from converter.neurons import Neuron, neurons
from converter.ops import Affine, Conv
from converter.passes import apply
from converter.passes.fold_affine import fold_affine
from converter.passes.spike import Spike
from converter.program import program_of
from converter.quantise import check, quantise
from converter.rate import RateModel
from converter.weights import Format, parse
from tests.conftest import ROOT
from tests.models import parse as network
from tests.models import weight

SHARED = ROOT.parent / "shared"


def format_of(name: str) -> Format:
    found = parse(name)
    assert found is not None
    return found


def made(graph: Graph, name: str, neuron: Neuron, x: Tensor, per_channel: bool = True) -> Graph:
    """`graph` with weights of the format `name`, calibrated on `x`, in fixed point."""
    spiking = Spike(neuron)(apply(graph)[0])
    calibrated = Percentile(99, per_channel)(quantise(spiking, format_of(name)), lambda: iter([x]), spiking)
    return fixed_point(calibrated, float(x.abs().max())).verify()


def different(graph: Graph, x: Tensor, timesteps: int) -> tuple[int, int, State]:
    """Spikes that differ between the float64 simulation and whole numbers; all spikes; where it ended."""
    program, state = program_of(graph), State()
    exponents = {i.name: i.exponent for i in program.instructions}
    floats: dict[str, Tensor] = {}
    wholes: dict[str, Tensor] = {}

    def listen(node: Node, value: Tensor) -> None:
        if isinstance(node.op, Neuron):
            floats[node.name] = value.clone()

    told = IntegerModel(program).steps(x, state, wholes.__setitem__)
    wrong = fired = 0
    with torch.no_grad():
        simulated = RateModel(graph, plain=True).double().run(x.double(), range(1, timesteps + 1), listen)
        for (_, (readout,)), whole in zip(simulated, told, strict=False):
            torch.testing.assert_close(whole.double(), readout, rtol=1e-6, atol=1e-6)
            for name, spikes in floats.items():
                wrong += int((spikes != wholes[name].double() * 2.0 ** exponents[name]).sum())
                fired += int((spikes != 0).sum())
    return wrong, fired, state


def single() -> Graph:
    """One neuron in fixed point: w = 127/256, θ = 1, v₀ = ½."""
    model = network(
        "h = MatMul(x, w)  a = Relu(h)  y = MatMul(a, v)",
        {"w": torch.full((1, 1), 127 / 256), "v": torch.full((1, 1), 127 / 256)},
        inputs="float[N,1] x",
    )
    graph = quantise(Spike(neurons["integrate-fire"]())(apply(load(model))[0]), format_of("int8"))
    one = graph.map(
        lambda n: replace(n, op=replace(n.op, threshold=torch.tensor(1.0))) if isinstance(n.op, Neuron) else n
    )
    return fixed_point(one, 2.0)


def test_one_neuron_by_hand() -> None:
    """At x = ¾ the current is 0.372, so it fires in steps 2 and 5, by 64 · 2^-6."""
    program = program_of(single())
    grid, weigh, fire, _ = program.instructions
    assert [i.kind for i in program.instructions] == ["input", "weigh", "fire", "weigh"]
    assert (grid.exponent, weigh.exponent, fire.exponent) == (2 - 9, -7 - 12, -6)
    assert weigh.tensors["codes"].tolist() == [[127]]
    assert weigh.tensors["factor"].tolist() == [16]
    assert fire.tensors["threshold"].tolist() == 1 << 19
    heard: list[int] = []

    def listen(name: str, value: Tensor) -> None:
        if name == fire.name:
            heard.append(int(value))

    answers = list(islice(IntegerModel(program).steps(torch.tensor([[0.75]]), listen=listen), 5))
    assert heard == [0, 64, 0, 0, 64]
    assert [float(y) for y in answers] == pytest.approx([0, 127 / 512, 127 / 768, 127 / 1024, 127 / 640])


BODY = """
    h1 = Conv<pads=[1,1,1,1]>(x, w1, b1)  a1 = Relu(h1)
    h2 = Conv<pads=[1,1,1,1]>(a1, w2, b2)  s = Add(h2, a1)  a2 = Relu(s)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a2)
    p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(a2)
    c = Concat<axis=1>(m, p)
    h3 = ConvTranspose<strides=[2,2], group=2>(c, w3)  a3 = Relu(h3)
    f = Flatten(a3)  y = Gemm<transB=1>(f, w4, b4)
"""


def branched(seed: int) -> Graph:
    """Sums, both pools, a concatenation, groups, and channels of very different sizes."""
    sizes = torch.logspace(0, -4, 4)
    weights = {
        "w1": weight(4, 3, 3, 3, seed=seed) * sizes[:, None, None, None],
        "b1": weight(4, seed=seed + 1) * sizes,
        "w2": weight(4, 4, 3, 3, seed=seed + 2),
        "b2": weight(4, seed=seed + 3),
        "w3": weight(8, 2, 2, 2, seed=seed + 4),
        "w4": weight(5, 4 * 64, seed=seed + 5),
        "b4": weight(5, seed=seed + 6),
    }
    return load(network(BODY, weights))


@settings(max_examples=12)
@given(
    st.sampled_from(("int8", "int4", "log2:5", "log2:4", "pow2:4")),
    st.sampled_from(("integrate-fire", "signed", "multi-level", "burst")),
    st.booleans(),
    st.integers(0, 1000),
)
def test_every_spike_is_that_of_the_float_simulation(
    name: str, kind: str, per_channel: bool, seed: int
) -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    graph = made(branched(seed), name, neurons[kind](), x, per_channel)
    wrong, fired, _ = different(graph, x, 12)
    assert fired > 100
    assert wrong == 0


@pytest.mark.parametrize(("name", "spikes"), [("int8", "signed"), ("log2:5", "integrate-fire")])
def test_digits_spike_alike(name: str, spikes: str) -> None:
    graph, _ = apply(load(ROOT / "converter" / "models" / "digits.onnx"))
    data = open_source("digits", expected=graph.inputs[0].shape)
    x, _ = next(data.batches(range(100), 100))
    fixed = made(graph, name, neurons[spikes](), x)
    wrong, fired, state = different(fixed, x[:40], 16)
    assert fired > 10_000
    assert wrong == 0
    assert state.widest < 2**31 if name == "int8" else state.widest < 2**40


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8", "log2:5"])
@pytest.mark.parametrize("network_name", ["resnet20", "mnist_cntk"])
def test_trained_networks_spike_alike(network_name: str, name: str) -> None:
    from benchmarks.presets import PRESETS

    preset = PRESETS[network_name]
    if not preset.model.exists():
        pytest.skip(f"{preset.model} is not here")
    graph, _ = apply(load(preset.model))
    data = preset.source(graph)
    x, _ = next(data.batches(data.parts["train"][:64], 64))
    fixed = made(graph, name, neurons["signed"](), x)
    test, _ = next(data.batches(data.parts["test"][:48], 48))
    wrong, fired, _ = different(fixed, test, 16)
    assert fired > 100_000
    assert wrong == 0


@pytest.mark.parametrize("name", ["int8", "log2:5", "pow2:4"])
def test_an_instruction_is_what_it_says(name: str) -> None:
    """A synapse in NumPy's int64 from its tensors alone, a shift and an addition for each exponent code."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    fixed = made(branched(3), name, neurons["signed"](), x)
    weigh = [i for i in program_of(fixed).instructions if i.kind == "weigh"][-1]
    tensors = {key: t.numpy() for key, t in weigh.tensors.items()}
    spikes = np.random.default_rng(0).integers(-127, 128, (2, 256))
    codes = tensors["codes"].astype(np.int64)
    if "factor" in tensors:
        total = spikes @ codes.T * tensors["factor"]
    else:
        table = weigh.settings["table"]
        total = np.zeros((2, 5), np.int64)
        for out, row in enumerate(codes):
            for source, code in enumerate(row):
                if code:
                    octave, entry = divmod(int(tensors["start"][out]) - (abs(int(code)) - 1), len(table))
                    product = spikes[:, source] * table[entry] << octave
                    total[:, out] += product if code > 0 else -product
    wanted = (total << tensors["shift"]) + tensors["bias"]
    assert np.array_equal(computed(weigh, [torch.from_numpy(spikes)]).numpy(), wanted)


def test_a_program_is_data() -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    program = program_of(made(branched(5), "int8", neurons["signed"](), x))
    document = json.loads(json.dumps(program.document()))
    assert len(document["instructions"]) == len(program.instructions)
    conv = next(i for i in document["instructions"] if i["kind"] == "weigh")
    assert conv["geometry"]["padding"] == [1, 1]
    assert conv["settings"] == {"format": "int8"}
    assert all(not t.is_floating_point() for t in program.tensors().values())


@pytest.mark.parametrize(
    ("body", "kind", "why"),
    [
        ("a = Relu(x)  y = AveragePool<kernel_shape=[3,3]>(a)", "signed", "power of two"),
        ("a = Relu(x)  y = Flatten(a)", "power-of-two", "has no instruction"),
    ],
)
def test_what_has_no_whole_numbers_is_refused_by_name(body: str, kind: str, why: str) -> None:
    x = torch.rand(2, 3, 8, 8)
    graph = made(load(network(body)), "int8", neurons[kind](), x)
    with pytest.raises(ConversionError, match="does not run in whole numbers") as refused:
        program_of(graph)
    assert why in str(refused.value)


def test_float_weights_have_no_program() -> None:
    x = torch.randn(2, 3, 8, 8)
    spiking = Spike(neurons["signed"]())(apply(branched(1))[0])
    calibrated = Percentile()(spiking, lambda: iter([x]))
    with pytest.raises(ConversionError, match="its weights are no codes"):
        program_of(fixed_point(calibrated, 4.0))


def test_a_scale_is_not_folded_into_codes_and_a_shift_goes_into_the_bias() -> None:
    graph = quantise(load(network("y = Conv(x, w)", {"w": weight(4, 3, 3, 3)})), format_of("int8"))
    (conv,) = graph.outputs
    scaled = replace(graph, outputs=(Node.of(Affine(torch.tensor(2.0)), conv, name="scaled"),))
    shifted = replace(graph, outputs=(Node.of(Affine(None, torch.tensor(2.0)), conv, name="shifted"),))
    assert fold_affine(scaled) is scaled
    (folded,) = check(fold_affine(shifted)).outputs
    assert isinstance(folded.op, Conv)
    assert folded.op.bias is not None
    assert folded.op.packed is not None


def test_weights_that_are_not_their_codes_are_found() -> None:
    graph = quantise(load(network("y = Conv(x, w)", {"w": weight(4, 3, 3, 3)})), format_of("int8"))
    changed = graph.map(
        lambda n: replace(n, op=replace(n.op, weight=n.op.weight * 2)) if isinstance(n.op, Conv) else n
    )
    with pytest.raises(ModelError, match="not what their codes say"):
        check(changed)
