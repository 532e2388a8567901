"""First spikes in whole numbers: by hand, then every spike of the float network, then in what is emitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converter import exports
from converter.data import open_source
from converter.errors import ConversionError
from converter.exporters import _c_run, c, read_compact
from converter.exporters._c_neurons import shared
from converter.exporters._check import Order
from converter.exporters.torch import tensors
from converter.first_spike import FirstSpikeModel, spike_of
from converter.fixed_point import fixed_point
from converter.graph import Graph
from converter.importer import load
from converter.integer import IntegerModel
from converter.neurons import Neuron
from converter.neurons.first_spike import FirstSpike
from converter.passes import apply
from converter.passes.spike import Spike
from converter.program import Program, program_of
from converter.quantise import quantise
from converter.store import code_tensors, from_json, to_json
from converter.unroll import unroll
from tests.conftest import ROOT
from tests.models import parse as network
from tests.test_export_c import QUICK, drawn, needs_compiler
from tests.test_export_torch import emitted
from tests.test_integer import branched, format_of, made

KINDS: dict[str, dict[str, Any]] = {
    "base-2": {},
    "slow": {"tau": 4.0},
    "floor": {"coder": "floor"},
    "linear": {"form": "linear"},
}


def single(**options: Any) -> Graph:
    """One neuron in fixed point: w = 127/256, θ₀ = 1."""
    model = network(
        "h = MatMul(x, w)  a = Relu(h)  y = MatMul(a, v)",
        {"w": torch.full((1, 1), 127 / 256), "v": torch.full((1, 1), 127 / 256)},
        inputs="float[N,1] x",
    )
    graph = quantise(Spike(FirstSpike(**options))(apply(load(model))[0]), format_of("int8"))
    one = graph.map(
        lambda n: replace(n, op=replace(n.op, threshold=torch.tensor(1.0))) if isinstance(n.op, Neuron) else n
    )
    return fixed_point(one, 2.0)


def whole(program: Program, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The answer, and by name what each instruction gave."""
    heard: dict[str, Tensor] = {}
    return next(IntegerModel(program).steps(x, listen=heard.__setitem__)), heard


def test_one_neuron_by_hand() -> None:
    """Thresholds 2^(−(k+½)/2) in units of 2^-19, rounded up; worth 2^(−k/2) in units of 2^-14.

    At x = 1.5 the membrane is 1.5 · 127/256 = 0.744, which is below 0.841 and above 0.595: step 1.
    """
    program = program_of(single(tau=2.0), 4)
    _, weigh, once, _ = program.instructions
    assert [i.kind for i in program.instructions] == ["input", "weigh", "once", "weigh"]
    assert (weigh.exponent, once.exponent) == (-19, -14)
    assert once.tensors["threshold"].tolist() == [440872, 311744, 220436, 155872]
    assert once.tensors["worth"].tolist() == [16384, 11585, 8192, 5793]
    for x, worth in ((1.5, 11585), (1.8, 16384), (0.0, 0), (0.59, 0), (0.61, 5793)):
        answer, heard = whole(program, torch.tensor([[x]]))
        assert heard[once.name].tolist() == [[worth]]
        assert float(answer) == pytest.approx(worth * 2**-14 * 127 / 256)


def assert_same_spikes(graph: Graph, x: Tensor, window: int) -> None:
    """Whole numbers against the float network in double precision: what every spike carries, the answer."""
    program, model = program_of(graph, window), FirstSpikeModel(graph).double()
    answer, heard = whole(program, x)
    exponents = {i.name: i.exponent for i in program.instructions}
    with torch.inference_mode():
        (readout,), times = model.spikes(x.double(), window)
    fired = 0
    for node in model.neurons:
        carried = spike_of(node).worth(times[node.name], window)
        assert torch.equal(heard[node.name].double() * 2.0 ** exponents[node.name], carried)
        fired += int((carried != 0).sum())
    assert fired > 100
    torch.testing.assert_close(answer.double(), readout, rtol=1e-6, atol=1e-6)


@settings(max_examples=12)
@given(
    st.sampled_from(("int8", "int4", "log2:5", "pow2:4")),
    st.sampled_from(tuple(KINDS)),
    st.booleans(),
    st.integers(0, 1000),
)
def test_every_spike_is_that_of_the_float_network(name: str, kind: str, per_channel: bool, seed: int) -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    assert_same_spikes(made(branched(seed), name, FirstSpike(**KINDS[kind]), x, per_channel), x, 12)


@pytest.fixture(scope="module")
def digits() -> tuple[Graph, Tensor]:
    """The embedded network with exponents for weights, and a hundred digits."""
    graph, _ = apply(load(ROOT / "converter" / "models" / "digits.onnx"))
    data = open_source("digits", expected=graph.inputs[0].shape)
    x, _ = next(data.batches(range(100), 100))
    return made(graph, "log2:5", FirstSpike(), x), x


def test_digits_spike_alike(digits: tuple[Graph, Tensor]) -> None:
    assert_same_spikes(*digits, 24)


def test_the_network_is_the_same_stored_and_emitted(digits: tuple[Graph, Tensor]) -> None:
    graph, x = digits
    model = FirstSpikeModel(graph)
    stored = from_json(to_json(model), {**tensors(model), **code_tensors(model)})
    with torch.inference_mode():
        want = model(x, 24)
        assert torch.equal(stored(x, 24), want)  # type: ignore[arg-type]
        assert torch.equal(emitted(model)(x, 24), want)  # type: ignore[arg-type]


def test_what_a_spike_carries_is_the_same_window_by_window_and_step_by_step(
    digits: tuple[Graph, Tensor],
) -> None:
    from converter.first_spike import StepByStep

    graph, x = digits
    (mean,) = unroll(graph, x[:10], 12, StepByStep(12), lambda *_: None)
    with torch.inference_mode():
        torch.testing.assert_close(mean, FirstSpikeModel(graph)(x[:10], 12), rtol=1e-4, atol=1e-4)


def test_grains_change_what_a_spike_carries_by_less_than_a_step(digits: tuple[Graph, Tensor]) -> None:
    """In units of the largest: at most half of 2^-14, which is 1 in 350 of the last of 24 steps."""
    for node in digits[0]:
        if isinstance(node.op, FirstSpike):
            steps, scale = torch.arange(24).reshape(-1, 1, 1, 1), node.op.calibrated()
            exact = replace(node.op, grain=None).worth(steps, 24)
            off = (node.op.worth(steps, 24) - exact).abs() / scale.max()
            assert 0 < float(off.max()) <= 2**-14
            assert float(exact.min() / scale.min()) > 2**-6


def exported(graph: Graph, folder: Path, form: str, x: Tensor, window: int) -> exports.Check:
    found = exports.export(FirstSpikeModel(graph), Order(window), form, folder / f"net-{form}", (x,))
    assert found is not None
    assert (found.differing, found.timesteps if form != "onnx-loop" else 1) == (0, 1)
    return found


@needs_compiler
def test_digits_are_written_in_every_form(digits: tuple[Graph, Tensor], tmp_path: Path) -> None:
    """ONNX, the compact file and C answer alike; the reader that stands alone gives the classes."""
    graph, x = digits
    assert exported(graph, tmp_path, "onnx-loop", x[:20], 24).difference < 1e-6
    assert exported(graph, tmp_path, "compact", x[:20], 24).difference == 0
    assert exported(graph, tmp_path, "c", x[:20], 24).difference == 0
    with torch.inference_mode():
        wanted = FirstSpikeModel(graph)(x[:20], 24).argmax(1)  # type: ignore[union-attr]
    header, arrays = read_compact.load(tmp_path / "net-compact")
    assert header["timesteps"] == 1
    for image, answer in zip(x[:20].numpy(), wanted.tolist(), strict=True):
        ((sums, _),) = read_compact.run(header, arrays, image, 1)
        assert int(sums.argmax()) == answer


@needs_compiler
@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=4),
    st.sampled_from(("int8", "int4", "log2:5", "pow2:4")),
    st.sampled_from(tuple(KINDS)),
    st.integers(0, 1000),
)
def test_random_networks_are_the_same_in_c_and_in_the_compact_file(
    tmp_path_factory: pytest.TempPathFactory, genes: list[int], name: str, kind: str, seed: int
) -> None:
    x = torch.rand(2, 4, 7, 6, generator=torch.Generator().manual_seed(seed))
    graph = made(drawn(genes, seed), name, FirstSpike(**KINDS[kind]), x)
    folder, model = tmp_path_factory.mktemp("fuzz"), FirstSpikeModel(graph)
    assert exported(graph, folder, "compact", x, 8).difference == 0
    n = c.made(model, Order(8, name="net"))
    c.write(model, Order(8, name="net"), folder)
    told = _c_run.run(folder, c.sizes(n), c.pixels_of(n, x), 1, QUICK)
    assert all(map(torch.equal, told, c.expected(n, c.pixels_of(n, x), 1)))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"form": "linear", "continuous": True}, "continuous time"),
        ({"offset": 3}, "fires while its input still arrives"),
    ],
)
def test_what_is_no_table_is_refused_before_anything_is_written(
    options: dict[str, Any], why: str, tmp_path: Path
) -> None:
    window = 1 if "continuous" in options else 6
    for form in ("compact", "c"):
        with pytest.raises(ConversionError, match="does not run in whole numbers") as refused:
            exports.export(FirstSpikeModel(single(**options)), Order(window), form, tmp_path / "net", None)
        assert why in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scale", "rows", "lower", "wanted"),
    [
        # ceil(0.7 m): of 3 and 5, 3 and 4. Quarters: 3 · 3 = 9 in (8, 12], 3 · 5 = 15 in (12, 16].
        ([3, 5], [[3], [4]], 2, ([3], 2)),
        # 0.7 m to the nearest: 2.1 and 3.5, 2 and 4. Quarters: 3 · 3 / 4 = 2.25 and 5 · 3 / 4 = 3.75.
        ([3, 5], [[2], [4]], 1, ([3], 2)),
        ([1, 2], [[7, 5], [14, 10]], 2, ([7, 5], 0)),
        ([1, 1], [[7], [8]], 2, None),
    ],
)
def test_a_row_for_all_channels_by_hand(
    scale: list[int], rows: list[list[int]], lower: int, wanted: tuple[list[int], int] | None
) -> None:
    found = shared(torch.tensor(scale), torch.tensor(rows), lower, 2**30)
    assert (None if found is None else (found[0].tolist(), found[1])) == wanted
    assert shared(torch.tensor(scale), torch.tensor(rows), lower, 3) is None


def test_thresholds_of_a_layer_are_one_row_for_all_channels(digits: tuple[Graph, Tensor]) -> None:
    """24 thresholds and 24 worths a layer, not a channel; one scale a channel."""
    n = c.made(FirstSpikeModel(digits[0]), Order(24, name="net"))
    kept = {table.name: table.values.numel() for table in n.tables}
    for layer in n.neurons:
        channels = layer.shape[1]
        assert channels > 1
        sizes = [kept[f"{layer.name}_{part}"] for part in ("threshold", "worth", "scale")]
        assert sizes == [24, 24, channels]
