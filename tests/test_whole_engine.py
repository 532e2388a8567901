"""Layers in whole numbers: by hand, then spike for spike as the integer machine has it."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators.percentile import Percentile
from converter.engine import Frame, Tiling, layers, native, onednn
from converter.engine import bytes as within
from converter.engine.bytes import share_for_events
from converter.engine.codes import Charge, Weighed
from converter.engine.whole import Fire
from converter.errors import UsageError
from converter.fixed_point import fixed_point
from converter.graph import BATCH, Graph, Input, Node
from converter.importer import load
from converter.integer import IntegerModel
from converter.neurons import Neuron
from converter.neurons.burst import Burst
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.multi_level import MultiLevel
from converter.neurons.signed import Signed
from converter.ops import Conv, Linear
from converter.packed import Packed
from converter.passes import apply
from converter.passes.spike import Spike
from converter.program import program_of
from converter.quantise import quantise
from converter.rate import RateModel
from converter.watch import Watch
from converter.weights import parse as format_of
from tests.models import parse, weight

SHARED = Path(__file__).parents[2] / "shared"
NEURONS = [
    *(IntegrateFire(), IntegrateFire(reset="hard"), Signed()),
    *(MultiLevel(levels=3), Burst(burst=2)),
]
BODY = """
    c0 = Conv<pads=[1,1,1,1]>(x, w) r0 = Relu(c0)
    c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1) a1 = Add(c1, r0) r1 = Relu(a1)
    c2 = Conv<pads=[1,1,1,1], group=8>(r1, w2) r2 = Relu(c2)
    c3 = Conv<pads=[1,1,1,1]>(r1, w1, b1) r3 = Relu(c3)
    k = Concat<axis=1>(r2, r3) c4 = Conv(k, w4, b4)
    m4 = MaxPool<kernel_shape=[3,3], strides=[2,2]>(c4) r4 = Relu(m4)
    f = Flatten(r4) l = Gemm(f, w6, b6) r6 = Relu(l) y = Gemm(r6, w7)
"""
WEIGHTS = {
    "w": weight(8, 3, 3, 3, scale=0.3),
    "w1": weight(8, 8, 3, 3, seed=1, scale=0.2),
    "b1": weight(8, seed=2, scale=0.1),
    "w2": weight(8, 1, 3, 3, seed=3, scale=0.5),
    "w4": weight(6, 16, 1, 1, seed=4, scale=0.4),
    "b4": weight(6, seed=5, scale=0.1),
    "w6": weight(54, 10, seed=6, scale=0.3),
    "b6": weight(10, seed=7, scale=0.1),
    "w7": weight(10, 4, seed=8, scale=0.5),
}


def images(batch: int, seed: int = 20) -> Tensor:
    return weight(batch, 3, 8, 8, seed=seed, scale=1.0)


def network(
    neuron: Neuron,
    bits: str = "int8",
    per_channel: bool = True,
    body: str = BODY,
    weights: dict[str, Tensor] = WEIGHTS,
) -> Graph:
    """A network of convolutions, shortcuts, parts put together, a pool and products, in fixed point."""
    format = format_of(bits)
    assert format is not None
    graph = Spike(neuron)(apply(load(parse(body, weights)))[0])
    graph = Percentile(97, per_channel)(quantise(graph, format), lambda: iter([images(16)]), graph)
    return fixed_point(graph, float(images(16).abs().max()))


def spikes(model: RateModel, x: Tensor, steps: int, tiling: Tiling | None = None) -> dict[str, Tensor]:
    """What every neuron said at each step: [steps, batch, …]."""
    heard: dict[str, list[Tensor]] = {}

    def listen(node: Node, value: Tensor) -> None:
        if isinstance(node.op, Neuron):
            heard.setdefault(node.name, []).append(value.double())

    list(model.run(x, [steps], listen, tiling))
    return {name: torch.stack(values) for name, values in heard.items()}


def reference(graph: Graph, x: Tensor, steps: int) -> dict[str, Tensor]:
    """The same of the integer machine."""
    program = program_of(graph)
    kept: dict[str, list[Tensor]] = {i.name: [] for i in program.instructions if i.kind == "fire"}
    scale = {i.name: 2.0**i.exponent for i in program.instructions}

    def listen(name: str, value: Tensor) -> None:
        if name in kept:
            kept[name].append(value.double() * scale[name])

    list(islice(IntegerModel(program).steps(x, listen=listen), steps))
    return {name: torch.stack(values) for name, values in kept.items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(params=["machine code", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Neurons compiled, or in torch where there is no compiler."""
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("there is no C compiler here")
    return str(request.param)


@pytest.fixture(autouse=True)
def exact() -> None:
    if not onednn.whole():
        pytest.skip("oneDNN does not add up bytes exactly here")


def test_two_steps_by_hand(kernels: str) -> None:
    """Current 3: θ = 4, v = 2 → 5, a spike of 4, 1 left → 4, a spike. It weighs 2, so 8 each time: θ = 16."""
    first = node = Node(Input(), (), "x", (BATCH, 1, 1, 1))
    for name, code, threshold in (("a", 3, 4.0), ("b", 2, 16.0)):
        packed = Packed("int8", torch.full((1, 1, 1, 1), code, dtype=torch.int8), torch.ones(1))
        conv = Conv(torch.full((1, 1, 1, 1), float(code)), None, (1, 1), (0, 0), (1, 1), packed=packed)
        node = Node.of(
            IntegrateFire(torch.tensor(threshold)), Node.of(conv, node, name=f"c{name}"), name=name
        )
    model = RateModel(fixed_point(Graph((first,), (node,)), 1.0))
    assert model.codes is not None
    assert len(model.codes.charges) == 2
    heard = spikes(model, torch.ones(1, 1, 1, 1), 3)
    assert heard["a"].flatten().tolist() == [4, 4, 0]  # 2+3−4 = 1, 1+3−4 = 0, 0+3 = 3
    assert heard["b"].flatten().tolist() == [16, 0, 0]  # 8+8−16 = 0, 0+8 = 8, 8


@pytest.mark.parametrize("bits", ["int4", "int8", "int15", "exact15"])
@pytest.mark.parametrize("neuron", NEURONS, ids=lambda n: f"{n.kind}-{getattr(n, 'reset', '')}")
def test_the_spikes_of_the_integer_machine(neuron: Neuron, bits: str, kernels: str) -> None:
    per_channel = neuron.parts == 1 and not isinstance(neuron, Burst)
    graph, x = network(neuron, bits, per_channel), images(3)
    model = RateModel(graph)
    assert model.codes is not None
    assert len(model.codes.charges) == 6
    assert equal(spikes(model, x, 12), reference(graph, x, 12))


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_any_tiling_gives_the_same_read_out(batch: int, samples: int, steps: int, seed: int) -> None:
    model, x = RateModel(network(Signed())), images(batch, seed)
    whole = [r[0] for _, r in model.run(x, range(1, 8))]
    tiling = Tiling(samples, steps)
    parts = [[r[0] for _, r in model.run(x[t], [7], None, tiling)][-1] for t in tiling.tiles(batch)]
    assert torch.equal(torch.cat(parts), whole[-1])


def test_who_listens_changes_nothing(kernels: str) -> None:
    model, x = RateModel(network(Signed())), images(2)
    silent = [r[0] for _, r in model.run(x, range(1, 9))]
    told = [r[0] for _, r in model.run(x, range(1, 9), lambda node, value: None)]
    neurons = {n: n for n in model.neurons}
    watched = [r[0] for _, r in model.run(x, range(1, 9), Watch(frozenset(), neurons))]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(silent, told, watched, strict=True))


def test_membranes_that_may_outgrow_an_int32_are_doubles() -> None:
    """The same network for more steps, or with finer weights, whose membranes have smaller units."""

    def kinds(bits: str, steps: int) -> set[torch.dtype]:
        model = RateModel(network(IntegrateFire(), bits))
        frame, _ = model.begin(images(2), steps)
        model.program.advance(frame, 1)
        return {state[0].dtype for state in frame.states.values()}

    assert kinds("int4", 4) == {torch.int32}
    assert torch.float64 in kinds("int15", 4)
    assert kinds("int15", 10**5) == {torch.float64}


def test_samples_may_leave_the_batch() -> None:
    model, x = RateModel(network(Signed())), images(4)
    alone, _ = model.begin(x[2:3], 6)
    frame, _ = model.begin(x, 6)
    want = [model.program.advance(alone, 1)[0][0].clone() for _ in range(6)]
    assert torch.equal(model.program.advance(frame, 1)[0][0][2:3], want[0])
    frame.keep(torch.tensor([1, 2]))
    for step in range(1, 6):
        assert torch.equal(model.program.advance(frame, 1)[0][0][1:], want[step])


def test_floats_are_left_to_the_floating_point_engine() -> None:
    graph = network(Signed())
    assert RateModel(graph, engine="float").codes is None
    assert RateModel(graph, plain=True).codes is None
    assert RateModel(graph).double().codes is None
    bare = graph.map(
        lambda n: replace(n, op=replace(n.op, packed=None)) if isinstance(n.op, Conv | Linear) else n
    )
    assert RateModel(bare).codes is None
    with pytest.raises(UsageError, match="no engine"):
        RateModel(graph, engine="fast")


def test_where_oneDNN_is_inexact_floats_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "whole", lambda: False)
    model = RateModel(network(Signed()))
    assert model.codes is None
    assert model.execution(4).endswith(
        "; in floating point, though weights are codes of bytes: oneDNN adds up no bytes exactly here"
    )


def test_nothing_is_said_of_whole_numbers_where_there_are_none_or_none_were_asked_for() -> None:
    graph = network(Signed())
    assert "bytes: its numbers are no float32 on a CPU" in RateModel(graph).double().execution(4)
    assert "floating point" not in RateModel(graph, engine="float").execution(4)
    assert "floating point" not in RateModel(graph, plain=True).execution(4)


def test_floats_take_over_where_little_of_a_step_would_be_in_whole_numbers() -> None:
    """A sum of sums is rounded to a grid between, and is no sum of spikes; what comes before it is little.

    The first layer has the image's current, the second 8 x 8 products at 64 places: 4,096 of the 47,616 of a
    step, 36,864 and 4,608 being those of the two sums after it, 2,048 those of the read-out.
    """
    body = """
        c0 = Conv<pads=[1,1,1,1]>(x, w) r0 = Relu(c0) c1 = Conv(r0, p) r1 = Relu(c1)
        c2 = Conv<pads=[1,1,1,1]>(r1, w1) c3 = Conv<pads=[1,1,1,1], group=8>(c2, w2) r3 = Relu(c3)
        f = Flatten(r3) y = Gemm(f, q)
    """
    more = {"p": weight(8, 8, 1, 1, seed=9, scale=0.5), "q": weight(512, 4, seed=10, scale=0.1)}
    graph = network(IntegrateFire(), body=body, weights={**WEIGHTS, **more})
    model = RateModel(graph)
    assert model.codes is None
    assert "whole numbers do not pay for the 2 of 3 layers of neurons" in model.execution(4)
    x = images(3)
    assert equal(spikes(model, x, 6), reference(graph, x, 6))
    with patch.object(layers, "PAYS", 0.05):
        mixed = RateModel(graph)
        assert "; 2 of 3 layers of neurons in whole numbers" in mixed.execution(4)
        assert equal(spikes(mixed, x, 6), reference(graph, x, 6))


def test_the_report_says_what_runs_so() -> None:
    assert "all of 6 layers of neurons in whole numbers" in RateModel(network(Signed())).execution(4)


@given(
    *(st.integers(1, 3), st.integers(1, 9), st.sampled_from([1, 5, 16, 17, 40]), st.integers(1, 3)),
    *(st.integers(1, 3), st.integers(1, 2), st.sampled_from([0, 128]), st.booleans(), st.booleans()),
    st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_bytes_summed_up_within_are_what_a_convolution_says(
    batch: int,
    fours: int,
    outputs: int,
    kernel: int,
    stride: int,
    dilation: int,
    zero: int,
    fine: bool,
    events: bool,
    seed: int,
) -> None:
    """Neurons of a threshold beyond reach keep all that charged them: their membranes are the sums.

    In tiles, and event by event.
    """
    if not native.sums_bytes():
        pytest.skip("the compiled kernels do not sum up bytes here")
    draw, channels, most = torch.Generator().manual_seed(seed), 4 * fours, 16383 if fine else 127
    drawn = torch.randint(-most, most + 1, (outputs, channels, kernel, kernel), generator=draw)
    codes = drawn.to(torch.int16 if fine else torch.int8)
    pad = (kernel // 2 * dilation, kernel - 1)
    op = Conv(codes.double(), None, (stride, 1), pad, (dilation, 1))
    source = Node(Input(), (), "x", (BATCH, channels, 9, 7))
    node = Node.of(IntegrateFire(torch.tensor(1.0)), Node.of(op, source, name="c"), name="r")
    whole = torch.full((outputs,), 1, dtype=torch.int64)
    charge = Charge(
        *(node, (Weighed(source, op, codes, zero, whole),), 0, native.SOFT, 1, whole << 50, whole, 0 * whole),
        *(0 * whole, 2.0**40, zero),
    )
    x = torch.randint(0, 256, (3 * batch, channels, 9, 7), generator=draw, dtype=torch.uint8)
    x = torch.where(torch.rand(x.shape, generator=draw) < 0.3, x, zero).to(torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    frame, fire = Frame({}, batch, 3, steps=3, codes={source: x}), Fire(charge)
    assert len(fire.within) == (1 if int(codes.long().abs().flatten(1).sum(1).max()) * 255 < 1 << 31 else 0)
    with patch("converter.engine.bytes.share_for_events", lambda *_: 2.0 if events else 0.0):
        fire(frame)
    assert [w.what.one_by_one for w in fire.within.values()] in ([], [int(events)])
    want = sum(op(now.double() - zero) for now in x.split(batch))
    assert isinstance(want, Tensor)
    assert torch.equal(frame.states[node][0].double().permute(0, 3, 1, 2), want)


def test_events_pay_where_spikes_are_few_and_outputs_many() -> None:
    """A 3x3 convolution of 64 channels has three runs of 192 bytes in sight, 9 times 64.

    16 outputs take 0.034·576 = 19.6 ns in tiles, and spike by spike 6 + 9·4 = 42 before the first; 64 outputs
    take 78.3, so 36.3 are left for spikes of 1.08 ns each.
    """
    assert share_for_events(16, 1, 3, 192) == 0
    assert share_for_events(64, 1, 3, 192) == pytest.approx(36.336 / 576 / 1.08)
    assert share_for_events(64, 2, 3, 192) > 2 * share_for_events(64, 1, 3, 192)
    assert share_for_events(256, 1, 3, 192) > share_for_events(64, 1, 3, 192)


@pytest.mark.parametrize("zero", [0, 128])
def test_spikes_are_counted(zero: int) -> None:
    if not native.sums_bytes():
        pytest.skip("the compiled kernels do not sum up bytes here")
    codes = torch.full((3, 7, 11), zero, dtype=torch.uint8)
    codes[1, 2, 3], codes[2, 6, 10], codes[0, 0, 0] = 1, 255, 127
    assert native.spikes(codes, zero) == 3


def test_without_vnni_the_spikes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums are then taken by oneDNN, and stand in memory."""
    graph, x = network(Signed(), "int15"), images(3)
    want = spikes(RateModel(graph), x, 6)
    monkeypatch.setattr(native, "sums_bytes", lambda: False)
    assert equal(spikes(RateModel(graph), x, 6), want)


def test_planes_put_together_are_the_codes() -> None:
    codes = torch.arange(-16383, 16384, dtype=torch.int16).reshape(-1, 1)
    node = Node(Input(), (), "x", (BATCH, 1))
    high, low = Weighed(node, Linear(codes.float()), codes, 0, torch.ones(1)).planes
    assert high.dtype == low.dtype == torch.int8
    assert torch.equal(128 * high.long() + low.long(), codes.long())


def test_spikes_larger_than_a_byte_stay_floats() -> None:
    model = RateModel(network(MultiLevel(levels=15), per_channel=True))
    assert model.codes is None or all(int(c.largest.max()) <= 127 for c in model.codes.codes.values())


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["int8", "int15"])
def test_resnet20(bits: str) -> None:
    path = SHARED / "models" / "resnet20_cifar10.onnx"
    if not path.exists():
        pytest.skip("there is no ../shared/models")
    format = format_of(bits)
    assert format is not None
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    graph = quantise(Spike(Signed())(apply(load(path))[0]), format)
    graph = fixed_point(Percentile(99)(graph, lambda: iter([x])), 1.0)
    assert equal(spikes(RateModel(graph), x, 16), reference(graph, x, 16))


@pytest.mark.parametrize("wrong", ["zero", "planes"])
def test_sums_in_machine_code_are_tried_before_they_are_used(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native.sums_bytes():
        pytest.skip("this processor has no AVX-512 VNNI")
    assert within.right()

    def spoilt(self: within.Within, *_: object) -> None:
        laid(self)
        setattr(self.what, wrong, getattr(self.what, wrong) - 1)

    laid = within.Within.__post_init__
    monkeypatch.setattr(within.Within, "__post_init__", spoilt)
    within.right.cache_clear()
    assert not within.right()
    within.right.cache_clear()
