"""What a recipe lets a network say while it trains: by hand, by its gradients, and as the neuron says it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from calibrators import calibrators
from calibrators.training import recipes
from calibrators.training._network import Network
from calibrators.training._through_time import fire
from calibrators.training.cat import Cat
from calibrators.training.qcfs import Qcfs
from calibrators.training.tcl import Tcl
from converter import kernels
from converter.errors import DataError, Unsupported, UsageError
from converter.graph import Graph
from converter.importer import load
from converter.neurons import Neuron
from converter.neurons.integrate_fire import IntegrateFire
from converter.passes import apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from converter.window import Window
from tests.models import parse

CURRENTS = [-1.0, 0.2, 0.25, 0.9, 1.3, 1.99, 2.5]
numbers = st.floats(-3, 6, width=32)
limits = st.floats(0.125, 4, width=32)


def gradients(recipe: object, z: float, threshold: float, progress: float = 1.0) -> tuple[float, float]:
    """∂a/∂z and ∂a/∂λ."""
    x = torch.tensor(z, requires_grad=True)
    limit = torch.tensor(threshold, requires_grad=True)
    recipe.phase(progress).activation(x, limit).backward()  # type: ignore[attr-defined]
    assert x.grad is not None
    assert limit.grad is not None
    return float(x.grad), float(limit.grad)


def spiking(body: str, **weights: Tensor) -> Graph:
    return Spike()(load(parse(body, weights, inputs="float[N,3] x", outputs="float[N,3] y")))


def test_there_are_three() -> None:
    assert recipes.names() == ("cat", "qcfs", "tcl")


# QCFS


def test_qcfs_by_hand() -> None:
    said = Qcfs(4).phase(0.0).activation(torch.tensor(CURRENTS), torch.tensor(2.0))
    assert said.tolist() == [0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.0]


@given(numbers, limits, st.integers(1, 16))
def test_qcfs_is_what_a_neuron_says_in_a_window_of_l_steps(z: float, limit: float, levels: int) -> None:
    current, threshold = torch.tensor([z]), torch.tensor(limit)
    share = z / limit * levels + 0.5
    said = Qcfs(levels).quantised(current, threshold)
    window = Window(IntegrateFire(threshold=threshold), levels)(current)
    if abs(share - round(share)) > 1e-4:  # at the edge of a level rounding decides
        assert float(said) == pytest.approx(float(window), rel=1e-6, abs=1e-6)


@given(numbers, limits, st.integers(1, 16))
def test_gradients_of_qcfs(z: float, limit: float, levels: int) -> None:
    by_current, by_limit = gradients(Qcfs(levels), z, limit)
    a = float(Qcfs(levels).quantised(torch.tensor(z), torch.tensor(limit)))
    share = float(torch.tensor(z) / torch.tensor(limit))
    if 0 < share < 1:
        assert (by_current, by_limit) == pytest.approx((1, (a - z) / limit), rel=1e-4, abs=1e-4)
    elif share > 1:
        assert (by_current, by_limit) == (0, 1)
    elif share < 0:
        assert (by_current, by_limit) == (0, 0)


# TCL


def test_tcl_by_hand() -> None:
    said = Tcl().phase(0.5).activation(torch.tensor(CURRENTS), torch.tensor(2.0))
    assert said.tolist() == pytest.approx([0.0, 0.2, 0.25, 0.9, 1.3, 1.99, 2.0])


@given(numbers, limits)
def test_gradients_of_tcl_are_its_differences(z: float, limit: float) -> None:
    if abs(z - limit) < 0.01 or abs(z) < 0.01:
        return  # a corner has no derivative
    step = 2.0**-10

    def a(x: float, c: float) -> float:
        return min(max(x, 0.0), c)

    by_current = (a(z + step, limit) - a(z - step, limit)) / (2 * step)
    by_limit = (a(z, limit + step) - a(z, limit - step)) / (2 * step)
    assert gradients(Tcl(), z, limit) == pytest.approx((by_current, by_limit), abs=1e-6)


# CAT


def test_the_phases_of_cat_follow_one_another() -> None:
    recipe = Cat(phases=(0.1, 0.4, 0.6), weights="log2:5")
    names = [recipe.phase(p / 10).name for p in range(11)]
    assert names == ["relu"] + ["clip"] * 3 + ["spikes"] * 2 + ["spikes, weights log2:5"] * 5
    assert Cat().phase(1.0).name == "spikes"
    x, limit = torch.tensor([-1.0, 1.0, 9.0]), torch.tensor(2.0)
    assert recipe.phase(0.0).activation(x, limit).tolist() == [0, 1, 9]
    assert recipe.phase(0.2).activation(x, limit).tolist() == [0, 1, 2]


def test_a_spike_says_a_power_of_two() -> None:
    # λ = 2, τ = 2, T = 4: a spike is worth 2, √2, 1, √½, or nothing; it rounds in the logarithm
    said = Cat(window=4, tau=2.0).spiked(
        torch.tensor([-1.0, 0.5, 0.6, 0.8, 1.0, 1.2, 1.6, 1.7, 5.0]), torch.tensor(2.0)
    )
    worth = [0, 0, 2**-0.5, 2**-0.5, 1, 2**0.5, 2**0.5, 2, 2]
    assert said.tolist() == pytest.approx(worth)


@given(numbers, limits)
def test_a_spike_is_that_of_the_kernel_and_passes_gradients_also_where_it_is_silent(
    z: float, limit: float
) -> None:
    recipe = Cat(window=12, tau=2.0)
    said = recipe.spiked(torch.tensor([z]), torch.tensor(limit))
    share = torch.tensor([z]) / torch.tensor(limit)
    kernel = limit * kernels.quantise(share, torch.tensor(1.0), 2.0, 12)
    assert torch.allclose(said, kernel, rtol=1e-6, atol=1e-7)
    by_current, _ = gradients(recipe, z, limit)
    assert by_current == (1 if 0 < float(share) < 1 else 0) or float(share) in (0, 1)


def test_the_input_of_cat_is_spikes_of_either_sign() -> None:
    assert Cat().phase(1.0).encode is None
    encode = Cat(window=4, tau=2.0, spiking_input=True).phase(1.0).encode
    assert encode is not None
    said = encode(torch.tensor([-2.0, -1.0, 0.1, 1.4]), torch.tensor(2.0))
    assert said.tolist() == pytest.approx([-2, -1, 0, math.sqrt(2)])


def test_cat_refuses_what_a_spike_without_sign_cannot_say() -> None:
    graph = spiking("h = LeakyRelu(x) y = Relu(h)")
    with pytest.raises(Unsupported, match="cannot say 1 activation") as raised:
        Cat().refuse(graph)
    assert "below zero" in raised.value.why
    Cat().refuse(spiking("y = Relu(x)"))
    Qcfs().refuse(graph)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Qcfs(0),
        lambda: Tcl(-1.0),
        lambda: Qcfs(steps=0),
        lambda: Tcl(phases=(0.1, 0.5)),
        lambda: Cat(window=1),
        lambda: Cat(tau=0.0),
        lambda: Cat(coder="ceil"),
        lambda: Cat(phases=(0.5, 0.2, 0.6)),
        lambda: Cat(weights="log3:5"),
    ],
)
def test_options_that_cannot_be(wrong: object) -> None:
    with pytest.raises(UsageError):
        wrong()  # type: ignore[operator]


# in time


def test_two_steps_by_hand() -> None:
    """λ = 1, φ = ½: v = 1.2, 0.4; the triangle 0.8, 0.4; ∂v₂ = 0.4, ∂v₁ = 0.4 + 0.8 · (1 − 0.4) = 0.88."""
    currents = torch.tensor([0.7, 0.2], requires_grad=True)
    limit = torch.tensor(1.0, requires_grad=True)
    spikes = fire(currents, limit, 0.5)
    assert spikes.tolist() == [1.0, 0.0]
    spikes.sum().backward()  # type: ignore[no-untyped-call]
    assert currents.grad is not None
    assert limit.grad is not None
    assert currents.grad.tolist() == pytest.approx([0.88, 0.4])
    assert float(limit.grad) == pytest.approx(1 - 0.7 * 0.88 - 0.2 * 0.4)


class Triangle(torch.autograd.Function):
    """The step function, with a triangle for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.relu(1 - ctx.saved_tensors[0].abs())


@given(st.integers(1, 6), st.floats(0.1, 3), st.floats(0, 1), st.integers(0, 1000))
def test_its_gradients_are_those_that_autograd_finds_step_by_step(
    steps: int, threshold: float, initial: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    currents = torch.randn(steps, 3, 4, generator=generator) + 0.5
    weights = torch.randn(steps, 3, 4, generator=generator)
    found = []
    for differentiable in (True, False):
        z, limit = currents.clone().requires_grad_(), torch.tensor(threshold, requires_grad=True)
        if differentiable:
            emitted = fire(z, limit, initial)
        else:
            membrane, spikes = torch.full((3, 4), initial), []
            for now in z / limit:
                membrane = membrane + now
                spikes.append(Triangle.apply(membrane - 1))  # type: ignore[no-untyped-call]
                membrane = membrane - spikes[-1]
            emitted = limit * torch.stack(spikes)
        (emitted * weights).sum().backward()
        found.append((emitted.detach(), z.grad, limit.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


IN_TIME = [Qcfs(4, steps=3, phases=(0.0,)), Tcl(steps=3, phases=(0.0,))]


@pytest.mark.parametrize("recipe", IN_TIME)
def test_what_it_learns_in_time_is_what_a_stream_answers(digits_model: Path, recipe: Qcfs | Tcl) -> None:
    graph = Spike()(apply(load(digits_model))[0])
    starts = {n.name: torch.tensor(2.0 + 0.1 * i) for i, n in enumerate(graph) if isinstance(n.op, Neuron)}
    network, phase = Network.of(graph, starts, torch.tensor(1.0)), recipe.phase(0.0)
    x = torch.rand(4, 1, 8, 8)
    heard: dict[str, Tensor] = {}
    (answer,) = network.run(network.at(phase), phase, x, lambda node, value: heard.update({node.name: value}))
    assert {name: value.shape[0] for name, value in heard.items()} == dict.fromkeys(starts, 4)
    thresholds = {node.name: starts[node.name] for node in graph if node.name in starts}
    ready = graph.map(
        lambda n: replace(n, op=replace(n.op, threshold=thresholds[n.name])) if n.name in thresholds else n
    )
    stepped = RateModel(ready)(x, timesteps=3)[-1]
    assert torch.allclose(answer, stepped, atol=1e-5)
    answer.square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters.values())
    assert float(network.parameters[f"{next(iter(starts))}.threshold"].grad.abs()) > 0  # type: ignore[union-attr]


def test_time_begins_at_a_share_of_the_training() -> None:
    recipe = Qcfs(4, steps=2, phases=(0.25,))
    names = [recipe.phase(progress).name for progress in (0.0, 0.24, 0.25, 1.0)]
    assert names == ["quantised, L = 4"] * 2 + ["stream, T = 2"] * 2
    assert Tcl().phase(1.0).name == "clip"


def test_time_needs_a_threshold() -> None:
    sloped = spiking("h = LeakyRelu(x) y = Relu(h)")
    Qcfs().refuse(sloped)
    with pytest.raises(Unsupported, match="1 activation of net cannot learn in time"):
        Qcfs(steps=4).refuse(sloped)


# what it is for


def test_the_calibrator_ceiling_takes_what_was_trained() -> None:
    graph = spiking(
        "l = Constant<value = float {0.0}>() h = Constant<value = float {1.5}>() "
        "c = Clip(x, l, h) d = Neg(c) y = Relu(d)"
    )
    seen = torch.tensor([[0.1, 0.2, 5.0], [-2.0, -4.0, 0.0]])
    made = calibrators["ceiling"]()(graph, lambda: [seen])
    found = [float(n.op.threshold) for n in made if hasattr(n.op, "threshold")]
    # the Relu after it saw nothing above zero, and a silent layer takes 1
    assert found == [1.5, 1.0]
    relu = calibrators["ceiling"]()(spiking("y = Relu(x)"), lambda: [seen])
    assert [float(n.op.threshold) for n in relu if hasattr(n.op, "threshold")] == [5.0]
    with pytest.raises(DataError, match="no calibration samples"):
        calibrators["ceiling"]()(spiking("y = Relu(x)"), list)
