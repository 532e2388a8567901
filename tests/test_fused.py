"""Neurons in one pass that torch compiles: the bits of their kernels, or they run operator by operator."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibrators.maximum import Maximum
from converter.data import open_source
from converter.engine import Tiling, fused, native, one_pass
from converter.engine.fused import Fused, Layout
from converter.engine.one_pass import Kind, built, function_of, right
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.burst import fire_burst
from converter.neurons.integrate_fire import IntegrateFire, integrate_fire
from converter.neurons.leaky import leaky
from converter.neurons.signed import Signed
from converter.passes import apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from converter.stateful import Kernel, State, Stateful
from converter.temporal_bias import TemporalBias
from converter.withdrawal import Withdrawal
from tests.test_engine import NEURONS, images, network, run, same

CPU, IN_MACHINE_CODE = torch.device("cpu"), native.fire_floats
PLAIN: dict[Kind, one_pass.Built] = {}
"""Passes as functions that were not compiled, for every example of a test."""
ALL: list[Stateful] = [
    *(replace(n, threshold=torch.tensor(0.75)) for n in NEURONS),
    Withdrawal(torch.tensor(0.75), 1.5),
]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes on this processor, as functions that were not compiled, and no neurons in machine code."""
    monkeypatch.setattr(fused, "DEVICES", ("cpu",))
    monkeypatch.setattr(one_pass, "BUILT", {})
    monkeypatch.setattr(one_pass, "compiled", function_of)
    monkeypatch.setattr(native, "fire_floats", lambda *neurons: False)


@pytest.fixture
def torch_compiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Passes on this processor as torch compiles them, and no neurons in machine code."""
    if shutil.which("c++") is None:
        pytest.skip("this machine has no C++ compiler, which torch.compile needs on a CPU")
    monkeypatch.setattr(fused, "DEVICES", ("cpu",))
    monkeypatch.setattr(one_pass, "BUILT", {})
    monkeypatch.setattr(native, "fire_floats", lambda *neurons: False)
    yield
    torch.compiler.reset()


def test_how_values_lie_is_channels_and_what_is_around_them() -> None:
    image, row = torch.zeros(2, 3, 4, 5), torch.zeros(6, 7)
    last = image.contiguous(memory_format=torch.channels_last)
    one, three = torch.tensor(1.0), torch.ones(3, 1, 1)
    assert Layout.of(image, [three]) == Layout((2, 3, 20))
    assert Layout.of(last, [three, one]) == Layout((40, 3, 1))
    assert Layout.of(last, [one]) == Layout((40, 3, 1))
    assert Layout.of(image, [torch.ones(5)]) == Layout((24, 5, 1)), "channels may be the last axis"
    assert Layout.of(row, [torch.ones(7)]) == Layout((6, 7, 1))
    assert Layout.of(row[0], [one]) == Layout((1, 7, 1))


def test_what_lies_otherwise_has_no_pass() -> None:
    image = torch.zeros(2, 3, 4, 5)
    last = image.contiguous(memory_format=torch.channels_last)
    assert Layout.of(image[:, :, ::2], [torch.tensor(1.0)]) is None, "gaps"
    assert Layout.of(image, [torch.ones(3, 4, 1)]) is None, "a threshold a neuron"
    assert Layout.of(image, [torch.ones(3, 1, 1), torch.ones(5)]) is None, "two kinds of channels"
    assert Layout.of(last, [torch.ones(5)]) is None, "channels that are not innermost"
    assert Layout.of(image[:0], [torch.tensor(1.0)]) is None, "nothing"
    assert Layout.of(torch.zeros(3), [torch.ones(2, 1, 1, 1)]) is None, "a state of more dimensions"


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(ALL),
    seed=st.integers(0, 10_000),
    how=st.sampled_from(["over", "beside", "same"]),
    per_channel=st.booleans(),
    last=st.booleans(),
)
def test_a_layer_in_passes_is_its_kernel_bit_for_bit(
    kind: Stateful, seed: int, how: str, per_channel: bool, last: bool
) -> None:
    """Chunks of 1 to 9 steps: passes of four and of one; states broadcast at first, as a run begins."""
    draw = torch.Generator().manual_seed(seed)
    threshold = 0.1 + torch.rand(3, 1, 1, generator=draw) if per_channel else torch.tensor(0.3)
    op = replace(kind, threshold=threshold)
    layout = torch.channels_last if last else torch.contiguous_format
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "DEVICES", ("cpu",))
        patch.setattr(one_pass, "BUILT", PLAIN)
        patch.setattr(one_pass, "compiled", function_of)
        state, memory, layer = op.init(), op.init(), Fused()
        for steps in (1, 9, 4, 2):
            chunk = torch.randn(steps * 2, 3, 4, 5, generator=draw).contiguous(memory_format=layout)
            values = chunk[:2] if how == "same" else chunk
            out = values if how == "over" else torch.full_like(chunk, 7)
            want = []
            for step in range(steps):
                state, spikes = op.step(
                    state, values[:2] if how == "same" else values[2 * step :][:2].clone()
                )
                want.append(spikes)
            after = layer.fire(op, memory, values, out, steps)
            assert after is not None
            assert torch.equal(out, torch.cat(want))
            assert all(torch.equal(a, b.expand_as(a)) for a, b in zip(after, state, strict=True))
            memory = after


def test_thresholds_written_to_are_laid_out_anew(passes: None) -> None:
    op, layer = IntegrateFire(threshold=torch.tensor([1.0, 2.0]), initial=0.0), Fused()
    out = torch.empty(1, 2)
    layer.fire(op, (torch.zeros(1, 2),), torch.full((1, 2), 1.5), out, 1)
    assert out.tolist() == [[1, 0]]
    assert op.threshold is not None
    op.threshold.copy_(torch.tensor([1.6, 1.25]))
    layer.fire(op, (torch.zeros(1, 2),), torch.full((1, 2), 1.5), out, 1)
    assert out.tolist() == [[0, 1.25]]


def test_doubles_and_states_that_are_no_floats_have_no_pass(passes: None) -> None:
    op, x = IntegrateFire(threshold=torch.tensor(1.0)), torch.zeros(4, 3)
    assert Fused().fire(op, op.init(), x, torch.empty_like(x), 2) is not None
    assert Fused().fire(op, op.init(), x.double(), torch.empty_like(x.double()), 2) is None
    late = TemporalBias(torch.zeros(3, 3))
    assert Fused().fire(late, late.init(), x, torch.empty_like(x), 2) is None


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda n: f"{n.kind}{getattr(n, 'reset', '')}")
def test_a_network_has_the_same_spikes_in_passes(neuron: Neuron, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against machine code where there is some, and torch operator by operator."""
    model, x = RateModel(network(neuron)), images(5)
    want = run(model, x, 9, Tiling(5, 1))
    monkeypatch.setattr(native, "fire_floats", lambda *neurons: False)
    same(run(model, x, 9, Tiling(5, 5)), want)
    monkeypatch.setattr(fused, "DEVICES", ("cpu",))
    monkeypatch.setattr(one_pass, "BUILT", {})
    monkeypatch.setattr(one_pass, "compiled", function_of)
    same(run(model, x, 9, Tiling(5, 5)), want)
    assert {(k.kernel, k.steps) for k in one_pass.BUILT} >= {(neuron.kernel, 4), (neuron.kernel, 1)}
    assert all(b.run for b in one_pass.BUILT.values())
    assert re.search(r"; neurons in one pass over memory, which took \d+ s to compile$", model.execution(5))


def test_a_cpu_compiles_nothing_by_itself() -> None:
    before = dict(one_pass.BUILT)
    model = RateModel(network(Signed()))
    model(images(2), 3)
    assert before == one_pass.BUILT
    assert "neurons" not in model.execution(2)


def kind(**changes: object) -> Kind:
    return replace(Kind(integrate_fire, 1, (None,), True, "over", 1, CPU), **changes)  # type: ignore[arg-type]


def at_the_threshold(state: State, current: Tensor, threshold: Tensor) -> tuple[State, Tensor]:
    """Integrate-and-fire above its threshold, and not on it."""
    membrane = state[0] + current
    spikes = (membrane > threshold).float() * threshold
    return (membrane - spikes,), spikes


def contracted(state: State, current: Tensor, threshold: Tensor, leak: float) -> tuple[State, Tensor]:
    """A leak whose product is not rounded before it is added, as in a fused multiply-add."""
    membrane = (torch.tensor(leak).double() * state[0].double() + current.double()).float()
    spikes = (membrane >= threshold).float() * threshold
    return (membrane - spikes,), spikes


def inverted(state: State, current: Tensor, threshold: Tensor, burst: int) -> tuple[State, Tensor]:
    """A burst that multiplies by the inverse of its threshold, as a fast division does."""
    membrane = state[0] + current
    spikes = (membrane * (1 / threshold)).floor().clamp(0, burst) * threshold
    return (membrane - spikes,), spikes


def flushed(state: State, current: Tensor, threshold: Tensor) -> tuple[State, Tensor]:
    """Integrate-and-fire in which what is smaller than normal numbers is zero."""
    (membrane,), spikes = integrate_fire(state, current, threshold)
    return (torch.where(membrane.abs() < 2.0**-126, 0.0, membrane),), spikes


@pytest.mark.parametrize(
    ("kernel", "setting", "wrong"),
    [
        (integrate_fire, (), at_the_threshold),
        (leaky, (0.9,), contracted),
        (fire_burst, (5,), inverted),
        (integrate_fire, (), flushed),
    ],
)
@pytest.mark.parametrize("inner", [True, False])
def test_a_pass_with_other_bits_is_found_out(
    kernel: Kernel, setting: tuple[float, ...], wrong: Kernel, inner: bool
) -> None:
    here = kind(kernel=kernel, settings=(None, *setting), inner=inner)
    assert right(here, function_of(here))
    assert not right(here, function_of(replace(here, kernel=wrong)))


def test_a_pass_with_other_bits_is_not_used(passes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(kind: Kind) -> one_pass.Pass:
        mine = kind.kernel is integrate_fire
        return function_of(replace(kind, kernel=at_the_threshold) if mine else kind)

    monkeypatch.setattr(one_pass, "compiled", wrong)
    model, x = RateModel(network(IntegrateFire())), images(3)
    with monkeypatch.context() as patch:
        patch.setattr(fused, "DEVICES", ())
        want = run(model, x, 6, Tiling(3, 2))
    same(run(model, x, 6, Tiling(3, 2)), want)
    assert re.search(
        r"; neurons in one pass over memory, which took \d+ s to compile, but integrate_fire operator by "
        r"operator \(what torch.compile makes of them has other bits\)$",
        model.execution(3),
    )


def test_what_cannot_be_compiled_runs_operator_by_operator_and_says_why(
    passes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(kind: Kind) -> one_pass.Pass:
        raise RuntimeError("no Triton\n  here" + 500 * ".")

    monkeypatch.setattr(one_pass, "compiled", refuse)
    assert built(kind()).why == "torch.compile: no Triton here" + 186 * "."
    model = RateModel(network(IntegrateFire()))
    assert model(images(2), 4).isfinite().all()
    assert "neurons operator by operator (torch.compile: no Triton here.." in model.execution(2)


def test_the_switch_of_torch_compile_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_pass, "BUILT", {})
    monkeypatch.setattr(torch._dynamo.config, "disable", True)
    assert built(kind()).why == "torch.compile: it is switched off"


@pytest.mark.slow
@pytest.mark.parametrize("op", ALL, ids=lambda n: f"{n.kind}{getattr(n, 'reset', '')}")
def test_what_torch_compiles_has_the_bits_of_the_kernel(op: Stateful, torch_compiles: None) -> None:
    """On this processor; `right` is asked on a GPU for every pass before it is used."""
    arguments = [getattr(op, name) for name in op.arguments]
    slots = tuple(None if isinstance(a, Tensor) else a for a in arguments)
    for inner, how, steps in ((True, "over", 4), (False, "same", 1)):
        found = built(Kind(op.kernel, len(op.init()), slots, inner, how, steps, CPU))
        assert found.why == ""
        assert found.run is not None


@pytest.mark.slow
def test_digits_has_the_same_spikes_in_machine_code_compiled_and_operator_by_operator(
    digits_model: Path, torch_compiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every spike of 64 images over 11 steps; other tiles of them compile nothing anew."""
    plain, _ = apply(load(digits_model))
    source = open_source("digits", expected=plain.inputs[0].shape)
    x, _ = next(source.batches(range(64), 64))
    model = RateModel(Maximum()(Spike(IntegrateFire())(plain), lambda: [x]))
    compiled = run(model, x, 9, Tiling(64, 5))
    count = len(one_pass.BUILT)
    same(run(model, x, 9, Tiling(7, 4)), compiled)
    assert len(one_pass.BUILT) == count
    assert "neurons in one pass over memory" in model.execution(64)
    with monkeypatch.context() as patch:
        patch.setattr(fused, "DEVICES", ())
        same(run(model, x, 9, Tiling(64, 5)), compiled)
        patch.setattr(native, "fire_floats", IN_MACHINE_CODE)
        same(run(model, x, 9, Tiling(64, 5)), compiled)
