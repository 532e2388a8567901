"""The engine: the same spikes, bit for bit, however steps and samples are run together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators.maximum import Maximum
from converter.encodings.poisson import Poisson
from converter.engine import Frame, Tiling, native, tiling_for
from converter.engine.frame import channels_last
from converter.engine.functions import function_of
from converter.engine.instructions import Round, Telescope, Thresholds
from converter.engine.onednn import available
from converter.errors import UsageError
from converter.graph import BATCH, Graph, Input, Node
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.burst import Burst
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.leaky import Leaky
from converter.neurons.multi_level import MultiLevel
from converter.neurons.negative_slope import NegativeSlope
from converter.neurons.power_of_two import PowerOfTwo
from converter.neurons.signed import Signed
from converter.ops import Conv, Gather, Grid, MaxPool
from converter.passes import apply
from converter.passes.spike import Spike
from converter.plan import Plan
from converter.rate import RateModel
from converter.spiking import State
from tests.models import parse, weight

NEURONS = [
    *(IntegrateFire(), IntegrateFire(reset="hard"), Leaky(leak=0.9), Signed(), MultiLevel(levels=3)),
    *(Burst(burst=3), PowerOfTwo(levels=3), NegativeSlope(slope=torch.tensor(0.25))),
]
BODY = """
    c0 = Conv<pads=[1,1,1,1]>(x, w) r0 = Relu(c0)
    p0 = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r0)
    c1 = Conv<pads=[1,1,1,1]>(p0, w1) d1 = Conv<strides=[2,2], pads=[1,1,1,1]>(r0, w1)
    a1 = Add(c1, d1) r1 = Relu(a1) b1 = Conv<pads=[1,1,1,1]>(r1, w1) e1 = Add(b1, r1)
    q1 = LeakyRelu<alpha=0.2>(e1) s1 = Sigmoid(q1) k1 = Concat<axis=1>(s1, p0)
    c2 = Conv<strides=[2,2]>(k1, w2) r2 = Clip(c2, lo, hi)
    g = GlobalAveragePool(r2) f = Flatten(g) l = Gemm(f, w3, b3) y = Softmax(l)
"""
WEIGHTS = {
    "w": weight(4, 3, 3, 3, scale=0.3),
    "w1": weight(4, 4, 3, 3, seed=1, scale=0.2),
    "w2": weight(6, 8, 2, 2, seed=2, scale=0.3),
    "w3": weight(6, 5, seed=3, scale=1.0),
    "b3": weight(5, seed=4),
    "lo": torch.tensor(0.0),
    "hi": torch.tensor(6.0),
}
Heard = dict[str, list[Tensor]]


def network(neuron: Neuron, calibration: int = 6, **options: str) -> Graph:
    plain, _ = apply(load(parse(BODY, WEIGHTS, **options)))
    return Maximum()(Spike(neuron, keep_analog=("Sigmoid",))(plain), lambda: [images(calibration)])


def images(batch: int) -> Tensor:
    return weight(batch, 3, 8, 8, seed=20, scale=1.0)


def run(model: RateModel, x: Tensor, steps: int, tiling: Tiling) -> tuple[Tensor, Heard]:
    """The read-outs of all steps, and what every node said at each."""
    heard: Heard = {}
    with torch.inference_mode():
        given = (x[tile] for tile in tiling.tiles(len(x)))
        read, parts = [], []
        for tile in given:
            here: Heard = {}

            def listen(node: Node, value: Tensor, here: Heard = here) -> None:
                here.setdefault(node.name, []).append(value.clone())

            read.append(torch.stack([r[0] for _, r in model.run(tile, range(1, steps + 1), None, tiling)]))
            list(model.run(tile, [steps], listen, tiling))
            parts.append(here)
    for name in parts[0]:
        heard[name] = [torch.cat(step) for step in zip(*(part[name] for part in parts), strict=True)]
    return torch.cat(read, 1), heard


def same(a: tuple[Tensor, Heard], b: tuple[Tensor, Heard]) -> None:
    for name in a[1]:
        for time, (one, other) in enumerate(zip(a[1][name], b[1][name], strict=True), 1):
            assert torch.equal(one, other), f"{name} at step {time}"
    assert torch.equal(a[0], b[0])


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(NEURONS),
    seed=st.integers(0, 10_000),
    over=st.booleans(),
    per_channel=st.booleans(),
    last=st.booleans(),
)
def test_a_neuron_in_place_is_its_kernel_bit_for_bit(
    kind: Neuron, seed: int, over: bool, per_channel: bool, last: bool
) -> None:
    """`over`: what it emits is written over its input; `last`: in channels_last."""
    draw = torch.Generator().manual_seed(seed)
    threshold = 0.1 + torch.rand(3, 1, 1, generator=draw) if per_channel else torch.tensor(0.3)
    neuron = replace(kind, threshold=threshold)
    layout = torch.channels_last if last else torch.contiguous_format
    state, memory = neuron.init(), neuron.begin(torch.zeros(2, 3, 4, 5).contiguous(memory_format=layout))
    for steps in (1, 3, 2):
        currents = [
            torch.randn(2, 3, 4, 5, generator=draw).contiguous(memory_format=layout) for _ in range(steps)
        ]
        want = []
        for current in currents:
            state, spikes = neuron.step(state, current.clone())
            want.append(spikes)
        out = currents if over else [torch.full_like(current, 7) for current in currents]
        memory = neuron.fire(memory, currents, out)
        assert all(map(torch.equal, out, want))
        assert all(torch.equal(a, b.expand_as(a)) for a, b in zip(memory, state, strict=True))


@pytest.mark.parametrize("neuron", NEURONS[:-1], ids=lambda n: f"{n.kind}{getattr(n, 'reset', '')}")
def test_a_plain_run_is_the_steps_bit_for_bit(neuron: Neuron) -> None:
    model, x = RateModel(network(neuron), plain=True), images(5)
    state, stepped, heard = State(), [], dict[str, list[Tensor]]()
    with torch.inference_mode():
        currents = model.currents(x)
        for _ in range(9):
            (readout,), state = model.advance(
                currents, state, lambda n, v: heard.setdefault(n.name, []).append(v)
            )
            stepped.append(readout)
    same(run(model, x, 9, Tiling(5, 1)), (torch.stack(stepped), heard))


@pytest.mark.parametrize("neuron", [IntegrateFire(), Signed(), PowerOfTwo(levels=3)], ids=lambda n: n.kind)
def test_schedules_chunks_and_tiles_give_the_same_bits(neuron: Neuron) -> None:
    """Step-major, layer-major over chunks that divide the run or do not, and samples together or alone."""
    model, x = RateModel(network(neuron)), images(6)
    assert model.program.chunks
    want = run(model, x, 12, Tiling(6, 1))
    assert sum(int((v != 0).sum()) for v in want[1]["r1"]) > 100
    for tiling in (Tiling(6, 12), Tiling(6, 5), Tiling(4, 3), Tiling(1, 1), Tiling(1, 12), Tiling(2, 7)):
        same(run(model, x, 12, tiling), want)


def test_draws_of_chance_are_the_same_in_any_chunk() -> None:
    graph = network(IntegrateFire())
    model, x = RateModel(graph, Poisson(3.0), seed=4), images(3)
    want = run(model, x, 8, Tiling(3, 1))
    for steps in (2, 3, 8):
        same(run(model, x, 8, Tiling(3, steps)), want)


def test_fast_and_plain_runs_agree_up_to_rounding() -> None:
    graph, x = network(IntegrateFire()), images(6)
    fast, plain = RateModel(graph)(x, 64), RateModel(graph, plain=True)(x, 64)
    assert isinstance(fast, Tensor)
    assert isinstance(plain, Tensor)
    assert float((fast - plain).abs().max()) < 0.01
    assert torch.equal(fast.argmax(-1), plain.argmax(-1))


def test_answering_some_samples_early_leaves_the_others_as_they_are() -> None:
    """Batch compaction: the states of those that stay go on."""
    model, x = RateModel(network(Signed())), images(6)
    from converter.engine import Frame

    with torch.inference_mode():
        static = model.currents(x, model.functions)
        whole, part = Frame(static, 6), Frame(model.currents(x, model.functions), 6)
        for frame in (whole, part):
            for _ in range(3):
                model.program.advance(frame, 1)
        kept = torch.tensor([0, 3, 5])
        part.keep(kept)
        for steps in (1, 2, 4):
            a, b = model.program.advance(whole, steps), model.program.advance(part, steps)
            for (one,), (other,) in zip(a, b, strict=True):
                assert torch.equal(one[kept], other)


def test_samples_that_stay_lie_in_memory_as_they_did() -> None:
    """What runs in one pass over memory goes on so; a selection of samples alone would lie in order."""
    model = RateModel(network(Signed()))
    frame, _ = model.begin(images(6), 4)

    def layouts() -> list[bool]:
        held = [*frame.static.values(), *(s for state in frame.states.values() for s in state)]
        return [channels_last(value) for value in held]

    with torch.no_grad():
        model.program.advance(frame, 2)
        before = layouts()
        frame.keep(torch.tensor([1, 4]))
    assert any(before)
    assert layouts() == before


def test_weights_written_to_are_laid_out_anew() -> None:
    model, x = RateModel(network(IntegrateFire())), images(4)
    want = model(x, 6)
    other = RateModel(network(IntegrateFire()))
    other(x, 1)
    changed = {k: v * 2 if k == "c1.weight" else v for k, v in model.state_dict().items()}
    other.load_state_dict(changed)
    assert not torch.equal(other(x, 6), want)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x, 6), want)


def test_a_graph_for_one_batch_is_run_step_by_step() -> None:
    fixed = network(IntegrateFire(), 2, inputs="float[2,3,8,8] x", outputs="float[2,5] y")
    model = RateModel(fixed)
    assert not model.program.chunks
    assert tiling_for(fixed, Plan.of(fixed), 2) == Tiling(2, 1)
    free = RateModel(network(IntegrateFire(), 2))
    assert torch.equal(model(weight(2, 3, 8, 8, seed=20), 5), free(weight(2, 3, 8, 8, seed=20), 5))


def test_a_tile_fits_the_caches() -> None:
    """The largest value, 4 x 8 x 8 in float32, is 1 KiB: 32 samples or steps are what is worth while."""
    graph = network(IntegrateFire())
    plan = Plan.of(graph)
    assert tiling_for(graph, plan, 100) == Tiling(8, 4)
    assert tiling_for(graph, plan, 5) == Tiling(5, 6)
    assert tiling_for(graph, plan, 1) == Tiling(1, 32)
    assert tiling_for(graph, plan, 1, chunks=False) == Tiling(1, 1)
    assert tiling_for(graph, plan, 100, chunks=False) == Tiling(32, 1)
    assert [s.stop - s.start for s in Tiling(32, 1).tiles(100)] == [25, 25, 25, 25]
    assert Tiling(10, 3).schedule == "layer-major over chunks of 3 steps"


def test_onednn_is_there_and_right() -> None:
    """On the builds that this project names. Elsewhere the public operators are used, and this says so."""
    assert available()


@given(st.integers(1, 3), st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_one_pass_over_memory_rounds_as_torch_does(
    batch: int, channels: int, last: bool, each: bool, seed: int
) -> None:
    """Three steps of a chunk, compiled and operator by operator: the same spikes and the same membranes."""
    if native.library() is None:
        pytest.skip("there is no C compiler here")
    layout = torch.channels_last if last and channels > 1 else torch.contiguous_format
    threshold = weight(channels, 1, 1, seed=seed).abs() + 0.1 if each and last else torch.tensor(0.3)
    x = weight(3 * batch, channels, 3, 5, seed=seed).contiguous(memory_format=layout)
    membrane = (torch.zeros(batch, channels, 3, 5) + 0.5 * threshold).contiguous(memory_format=layout)
    want, left = [], membrane.clone()
    for now in x.split(batch):
        (left,), said = IntegrateFire(threshold).step((left,), now)
        want.append(said)
    laid = Thresholds().of(threshold, x)
    if laid is None:
        assert threshold.numel() > 1
        assert layout is torch.contiguous_format
        return
    assert native.fire_floats(laid, membrane, x, x, 3)
    assert torch.equal(x, torch.cat(want))
    assert torch.equal(membrane, left)


def test_a_current_that_never_changes_is_read_at_every_step() -> None:
    """v = 0.5, then +0.75, −1, +0.75, −1: a spike each time; the second neuron: 0.5, 0.75, 1 and spikes."""
    if native.library() is None:
        pytest.skip("there is no C compiler here")
    x, membrane, out = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.25]]), torch.empty(3, 2)
    assert native.fire_floats(torch.ones(2), membrane, x, out, 3)
    assert out.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert membrane.tolist() == [[0.75, 0.0]]


@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 1),
    st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_a_pool_through_time_in_one_pass_has_the_bits_of_torch(
    batch: int, channels: int, kernel: int, stride: int, pad: int, seed: int
) -> None:
    first = Node(Input(), (), "x", (BATCH, channels, 7, 6))
    pad = min(pad, kernel // 2)
    op = MaxPool((kernel, kernel), (stride, stride), (pad, pad), (1, 1))
    node = Node.of(op, first, name="p")
    x = weight(4 * batch, channels, 7, 6, seed=seed).contiguous(memory_format=torch.channels_last)
    found = []
    for last in (True, False):
        frame = Frame({}, batch, steps=2)
        for chunk in x.split(2 * batch):
            laid = chunk.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
            frame.values[first] = laid
            Telescope(node, op, (False,))(frame)
            found.append(frame.values[node].clone())
    assert all(torch.equal(a, b) for a, b in zip(found[:2], found[2:], strict=True))


@pytest.mark.parametrize(("precision", "number"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_synapses_in_16_bits_are_those_of_weights_and_inputs_rounded(
    precision: str, number: torch.dtype
) -> None:
    """On a CPU, for the numbers: a product of rounded factors, its sum rounded; membranes stay float32."""
    model, x = RateModel(network(IntegrateFire()), precision=precision), images(3)
    conv = next(n for n in model.graph if n.name == "c0")
    assert isinstance(conv.op, Conv)
    with torch.no_grad():
        said = model.functions[conv](x)
    exact = replace(conv.op, weight=conv.op.weight.to(number).float())(x.to(number).float())
    assert said.dtype == torch.float32
    assert torch.equal(said, said.to(number).float())
    assert float((said - exact).abs().max()) <= 2 * torch.finfo(number).eps * float(exact.abs().max())
    frame, _ = model.begin(x, 4)
    model.program.advance(frame, 1)
    assert {t.dtype for s in frame.states.values() for t in s} == {torch.float32}
    assert model.execution(3).endswith(f"; synapses in {precision}")


def test_another_precision_is_the_same_network_with_the_same_parameters() -> None:
    model = RateModel(network(IntegrateFire()), delay=2)
    other, back = model.at_precision("bfloat16"), model.at_precision("bfloat16").at_precision("float32")
    assert other.delay == 2
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))
    assert torch.equal(back(images(2), 6), model(images(2), 6))
    with pytest.raises(UsageError, match=r"there is no precision 'int3'"):
        model.at_precision("int3")


@given(st.integers(1, 5000), st.integers(-20, 10), st.booleans(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_rounding_to_a_grid_in_one_pass_has_the_bits_of_torch(
    size: int, exponent: int, over: bool, seed: int
) -> None:
    """In memory of its own, or over what is rounded; halves go up."""
    if native.library() is None:
        pytest.skip("there is no C compiler here")
    x = weight(size, seed=seed, scale=3.0)
    x[:1] = 1.5 * 2.0**exponent
    want, source = Grid(exponent)(x), Node(Input(), (), "x", (size,))
    assert float(want[0]) == 2 * 2.0**exponent
    node, frame = Node(Grid(exponent), (source,), "y", (size,)), Frame({}, 1)
    frame.values[source] = x
    Round(node, Grid(exponent), over)(frame)
    assert torch.equal(frame.values[node], want)
    assert (frame.values[node].data_ptr() == x.data_ptr()) == over


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1])
def test_values_by_index_stay_in_channels_last(dim: int) -> None:
    """What is repeated, left out and in another order, in either layout."""
    op = Gather(torch.tensor([2, 0, 0, 1]), dim)
    plain = weight(3, 4, 5, 6, seed=1)
    nested = plain.contiguous(memory_format=torch.channels_last)
    found = function_of(op)(nested)
    assert torch.equal(found, op(plain))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(function_of(op)(plain), op(plain))
