"""Neurons: traces worked by hand, then what holds for every neuron and every current."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converter.errors import Refusal, UsageError
from converter.neurons import Neuron, State, neurons
from converter.neurons.burst import Burst
from converter.neurons.first_spike import FirstSpike
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.leaky import Leaky
from converter.neurons.multi_level import MultiLevel
from converter.neurons.negative_slope import NegativeSlope
from converter.neurons.power_of_two import PowerOfTwo
from converter.neurons.signed import Signed

ONE = torch.tensor(1.0)


def trace(neuron: Neuron, currents: list[float]) -> tuple[list[float], list[float]]:
    """The spikes and the membranes over these currents."""
    state: State = neuron.init()
    spikes, membranes = [], []
    for current in currents:
        state, fired = neuron.step(state, torch.tensor(current))
        spikes.append(round(float(fired), 6))
        membranes.append(round(float(state[0]), 6))
    return spikes, membranes


def test_soft_reset_keeps_the_surplus() -> None:
    spikes, membranes = trace(IntegrateFire(ONE, initial=0.0), [0.75, 0.75, 0.75, 0.75, -0.5, 2.5])
    #        charged to      .75   1.5   1.25  1.0   -.5   2.0
    assert spikes == [0, 1, 1, 1, 0, 1]
    assert membranes == [0.75, 0.5, 0.25, 0.0, -0.5, 1.0]


def test_hard_reset_loses_it() -> None:
    spikes, membranes = trace(IntegrateFire(ONE, initial=0.0, reset="hard"), [0.75, 0.75, 0.75, 0.75])
    assert spikes == [0, 1, 0, 1]
    assert membranes == [0.75, 0.0, 0.75, 0.0]


def test_a_membrane_exactly_at_the_threshold_fires() -> None:
    assert trace(IntegrateFire(torch.tensor(2.0), initial=0.0), [1.0, 1.0])[0] == [0, 2]


def test_a_spike_carries_the_threshold_of_its_channel() -> None:
    neuron = IntegrateFire(torch.tensor([[[1.0]], [[4.0]]]), initial=0.0)
    _, spikes = neuron.step(neuron.init(), torch.full((1, 2, 1, 1), 4.0))
    assert spikes.flatten().tolist() == [1.0, 4.0]


@given(st.floats(-0.5, 1.5), st.integers(1, 32), st.floats(0.25, 4.0))
def test_a_constant_current_gives_the_rounded_count(share: float, steps: int, threshold: float) -> None:
    """N = clip(floor(zT/θ + ½), 0, T): Bu et al., ICLR 2022."""
    exact = share * steps + 0.5
    if abs(exact - round(exact)) < 1e-3:
        return  # a tie, where rounding of the sum decides
    neuron = IntegrateFire(torch.tensor(threshold))
    _, spikes = neuron.scan(neuron.init(), torch.full((steps,), share * threshold))
    assert round(float(spikes.sum()) / threshold) == min(max(math.floor(exact), 0), steps)


def test_a_leak_by_hand() -> None:
    spikes, membranes = trace(Leaky(ONE, initial=0.0, leak=0.5), [0.75, 0.75, 0.75, 0.75])
    # half of what was there, charged to  .75  1.125  .8125  1.15625
    assert spikes == [0, 1, 0, 1]
    assert membranes == [0.75, 0.125, 0.8125, 0.15625]


def test_a_current_that_the_leak_outweighs_never_fires() -> None:
    """λ = 0.75: a current of 0.24 charges the membrane to 0.96 at most, one of 0.26 to 1.04."""
    neuron = Leaky(ONE, leak=0.75)
    currents = torch.tensor([0.24, 0.26])
    _, spikes = neuron.scan(neuron.init(), currents.expand(1000, 2))
    assert spikes.count_nonzero(0).tolist()[0] == 0
    assert spikes.count_nonzero(0).tolist()[1] > 50
    assert neuron.rate(currents)[0] == 0
    assert 0.05 < float(neuron.rate(currents)[1]) < 0.25


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=40))
def test_without_a_leak_it_is_integrate_and_fire(currents: list[float]) -> None:
    run = torch.tensor(currents)
    (leaky, plain) = (
        neuron.scan(neuron.init(), run) for neuron in (Leaky(ONE, leak=1.0), IntegrateFire(ONE))
    )
    assert torch.equal(leaky[1], plain[1])
    assert torch.equal(leaky[0][0], plain[0][0])
    assert torch.equal(Leaky(ONE, leak=1.0).rate(run), IntegrateFire(ONE).rate(run))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.999), st.lists(st.floats(-1, 3), min_size=1, max_size=8), st.floats(0, 1))
def test_the_rate_under_a_leak_is_the_mean_of_any_long_run(
    leak: float, currents: list[float], initial: float
) -> None:
    neuron, steps = Leaky(torch.tensor(2.0), leak=leak), 1000
    start = Leaky(torch.tensor(2.0), leak=leak, initial=initial)
    _, spikes = start.scan(start.init(), torch.tensor(currents).expand(steps, len(currents)))
    # Either count is off by less than two spikes: what was there first, and where in the cycle it ends.
    assert torch.allclose(
        spikes.mean(0), neuron.rate(torch.tensor(currents)), rtol=0, atol=2 * 2 * (1 / 840 + 1 / steps)
    )


def test_a_burst_by_hand() -> None:
    spikes, membranes = trace(Burst(ONE, burst=3), [2.75, 4.0, -5.0, 0.5])
    # charged to       3.25  4.25  -3.75  -3.25
    assert spikes == [3, 3, 0, 0]
    assert membranes == [0.25, 1.25, -3.75, -3.25]


@given(st.floats(-0.5, 4.5), st.integers(1, 32), st.integers(1, 4))
def test_a_burst_says_a_constant_current_up_to_so_many_thresholds(
    share: float, steps: int, burst: int
) -> None:
    exact = share * steps + 0.5
    if abs(exact - round(exact)) < 1e-3:
        return
    neuron = Burst(torch.tensor(2.0), burst=burst)
    _, spikes = neuron.scan(neuron.init(), torch.full((steps,), share * 2))
    assert round(float(spikes.sum()) / 2) == min(max(math.floor(exact), 0), burst * steps)


def test_a_burst_of_one_is_integrate_and_fire() -> None:
    currents = torch.randn(50, 40)
    _, one = Burst(ONE, burst=1).scan(Burst(ONE, burst=1).init(), currents)
    _, other = IntegrateFire(ONE).scan(IntegrateFire(ONE).init(), currents)
    assert torch.equal(one, other)


def test_what_a_spike_is_and_what_it_costs() -> None:
    """Three levels are two bits of one spike; a burst of three is three spikes."""
    values = torch.tensor([0.0, 1.0, 3.0])
    told = [
        (n.spikes, n.parts, n.most, n.bits, n.count(values).tolist())
        for n in (
            IntegrateFire(ONE),
            Signed(ONE),
            Leaky(ONE),
            MultiLevel(ONE, levels=3),
            PowerOfTwo(ONE, levels=3),
            Burst(ONE, burst=3),
        )
    ]
    assert told == [
        ("binary", 1, 1, 1, [0, 1, 1]),
        ("signed", 1, 1, 1, [0, 1, 1]),
        ("binary", 1, 1, 1, [0, 1, 1]),
        ("levels:3", 3, 3, 2, [0, 1, 1]),
        ("powers:3", 4, 4, 1, [0, 1, 1]),
        ("burst:3", 1, 3, 1, [0, 1, 3]),
    ]


def test_negative_slope_by_hand() -> None:
    neuron = NegativeSlope(ONE, initial=0.5, slope=torch.tensor(0.25))
    spikes, membranes = trace(neuron, [-0.75, -1.0, 0.5, 1.0, 1.0])
    # charged to     -.25  -.25  1.25  1.25  1.25  1.25;  the count goes -1, -2, -1, 0, 1
    assert spikes == [-0.25, -0.25, 0.25, 0.25, 1.0]
    assert membranes == [0.75, 0.75, 0.25, 0.25, 0.25]


@settings(max_examples=200)
@given(st.lists(st.floats(-0.95, 0.95), min_size=1, max_size=40), st.floats(0, 0.9))
def test_negative_slope_forgets_the_order_of_its_inputs(currents: list[float], slope: float) -> None:
    """Once the input ends and the neuron has come to rest, Σ o = θ·φ(round(X/θ)), whatever came when."""
    total = sum(currents)
    if abs((total + 0.5) - round(total + 0.5)) < 1e-3:
        return
    neuron = NegativeSlope(ONE, slope=torch.tensor(slope))
    run = torch.tensor(currents + [0.0] * len(currents))
    _, spikes = neuron.scan(neuron.init(), run)
    count = math.floor(total + 0.5)
    assert float(spikes.sum()) == pytest.approx(count if count >= 0 else slope * count, abs=1e-4)


def test_a_signed_neuron_takes_back_what_it_gave_and_no_more() -> None:
    spikes, membranes = trace(Signed(ONE), [0.75, -1.0, -1.0, 1.5, 0.0])
    # charged to     1.25  -.75   -.75   .75   .75 ;  the count goes 1, 0, 0, 0, 0
    assert spikes == [1, -1, 0, 0, 0]
    assert membranes == [0.25, 0.25, -0.75, 0.75, 0.75]


def test_levels_by_hand() -> None:
    spikes, membranes = trace(MultiLevel(ONE, levels=3), [2.75, 4.0, -1.5, -9.0, 0.0])
    # charged to       3.25  4.25  -.25  -8.25  -5.25 ;  the count goes 3, 6, 5, 2, 0
    assert spikes == [3, 3, -1, -3, -2]
    assert membranes == [0.25, 1.25, 0.75, -5.25, -3.25]


def test_one_level_is_the_signed_neuron() -> None:
    currents = torch.randn(50, 40)
    _, one = MultiLevel(ONE, levels=1).scan(MultiLevel(ONE, levels=1).init(), currents)
    _, other = Signed(ONE).scan(Signed(ONE).init(), currents)
    assert torch.equal(one, other)


@settings(max_examples=200)
@given(st.lists(st.floats(-0.95, 0.95), min_size=1, max_size=40), st.sampled_from([1, 4]))
def test_signed_neurons_round_the_total_whatever_came_when(currents: list[float], levels: int) -> None:
    """N = max(round(X/θ), 0) once the neuron is at rest: You et al., ICML 2024."""
    total = sum(currents)
    if abs((total + 0.5) - round(total + 0.5)) < 1e-3:
        return
    neuron = MultiLevel(ONE, levels=levels)
    _, spikes = neuron.scan(neuron.init(), torch.tensor(currents + [0.0] * (2 * len(currents))))
    assert float(spikes.sum()) == max(math.floor(total + 0.5), 0)
    assert float(spikes.cumsum(0).min()) >= 0


def test_powers_of_two_by_hand() -> None:
    """Levels 1, 2, 4 at thresholds ¼ + ¾·level: 1, 1¾, 3¼; back at −½, −1¼, −2¾, if there is as much."""
    spikes, membranes = trace(PowerOfTwo(ONE, levels=3), [2.75, 5.5, -2.0, -9.0, 1.0, 0.0])
    # charged to       3.25  4.75  -1.25  -8.25  -3.25  -1.25 ;  the count goes 4, 8, 6, 2, 0, 0
    assert spikes == [4, 4, -2, -4, -2, 0]
    assert membranes == [-0.75, 0.75, 0.75, -4.25, -1.25, -1.25]


@settings(max_examples=200)
@given(st.floats(-2, 10), st.integers(1, 5), st.integers(1, 40))
def test_a_settled_sum_of_powers_is_off_by_one_smallest_level_at_most(
    current: float, levels: int, steps: int
) -> None:
    neuron, most = PowerOfTwo(ONE, levels=levels), 2.0 ** (levels - 1)
    run = torch.tensor([min(current, most)] * steps + [0.0] * 60)
    _, spikes = neuron.scan(neuron.init(), run)
    assert abs(float(spikes.sum()) - max(float(run.sum()), 0.0)) <= 1 + 1e-3
    assert float(spikes.cumsum(0).min()) >= 0
    assert set(spikes.abs().tolist()) <= {0.0, *(2.0**k for k in range(levels))}


def test_one_power_of_two_is_one_level_that_goes_back_later() -> None:
    """Up at the threshold as the signed neuron, back at −½ where that goes back at 0."""
    currents = [0.75, -0.5, -0.5, -0.5, 0.0]
    # both charged to 1.25 and -0.25, where the one goes back and the other waits for -0.75
    assert trace(PowerOfTwo(ONE, levels=1), currents)[0] == [1, 0, -1, 0, 0]
    assert trace(Signed(ONE), currents)[0] == [1, -1, 0, 0, 0]


EVERY: list[Neuron] = [
    IntegrateFire(torch.tensor(1.5)),
    IntegrateFire(torch.tensor(1.5), initial=0.0),
    IntegrateFire(torch.tensor([0.5, 1.0, 2.0]), ceiling=2.0),
    Signed(torch.tensor(1.5)),
    Signed(torch.tensor([0.5, 1.0, 2.0]), ceiling=2.0),
    MultiLevel(torch.tensor(0.25), levels=4),
    MultiLevel(torch.tensor([0.1, 0.5, 0.125]), levels=15),
    PowerOfTwo(torch.tensor(0.25)),
    PowerOfTwo(torch.tensor([0.1, 0.5, 0.25]), levels=5),
    Leaky(torch.tensor(1.5), leak=0.9),
    Leaky(torch.tensor([0.5, 1.0, 2.0]), leak=1.0),
    Burst(torch.tensor(1.5)),
    Burst(torch.tensor([0.5, 1.0, 2.0]), burst=2),
    NegativeSlope(torch.tensor(2.0), slope=torch.tensor(0.1)),
    NegativeSlope(torch.tensor([0.5, 1.0, 2.0]), slope=torch.tensor([0.1, 0.0, -0.3])),
]


@pytest.mark.parametrize("neuron", EVERY, ids=lambda n: f"{n.kind}-{tuple(n.threshold.shape)}-{n.initial}")
def test_every_neuron_converges_to_its_rate(neuron: Neuron) -> None:
    current = torch.tensor([-0.7, 0.3, 1.7])
    steps = 400
    _, spikes = neuron.scan(neuron.init(), current.expand(steps, 3))
    largest = float(neuron.calibrated().max())
    assert torch.allclose(spikes.mean(0), neuron.rate(current), atol=1.01 * largest / steps)


@pytest.mark.parametrize("neuron", EVERY, ids=lambda n: f"{n.kind}-{tuple(n.threshold.shape)}-{n.initial}")
def test_scan_is_step_by_step(neuron: Neuron) -> None:
    currents = torch.randn(20, 5, 3)
    state, spikes = neuron.scan(neuron.init(), currents)
    stepped: State = neuron.init()
    for current, fired in zip(currents, spikes, strict=True):
        stepped, now = neuron.step(stepped, current)
        assert torch.equal(now, fired)
    assert all(torch.equal(a, b) for a, b in zip(state, stepped, strict=True))


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=30), st.sampled_from([IntegrateFire(ONE), Burst(ONE)]))
def test_soft_reset_conserves_charge(currents: list[float], neuron: Neuron) -> None:
    """Σ out = Σ in − (v(T) − v(0)), whatever it emits."""
    (membrane,), spikes = neuron.scan(neuron.init(), torch.tensor(currents))
    assert float(spikes.sum()) == pytest.approx(sum(currents) - (float(membrane) - 0.5), abs=1e-4)


def test_an_uncalibrated_neuron_is_refused() -> None:
    with pytest.raises(Refusal, match="has no threshold yet"):
        IntegrateFire().init()


def test_a_reset_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no reset 'gentle'"):
        IntegrateFire(reset="gentle")


@pytest.mark.parametrize("leak", [0.0, -0.5, 1.5])
def test_a_leak_that_is_no_share_is_refused(leak: float) -> None:
    with pytest.raises(UsageError, match="lies above 0 and up to 1"):
        Leaky(leak=leak)


def test_a_burst_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="a burst of 0 spikes cannot fire"):
        Burst(burst=0)


def test_the_registry_has_them_by_file_name() -> None:
    assert dict(neurons) == {
        "burst": Burst,
        "first-spike": FirstSpike,
        "integrate-fire": IntegrateFire,
        "leaky": Leaky,
        "multi-level": MultiLevel,
        "negative-slope": NegativeSlope,
        "power-of-two": PowerOfTwo,
        "signed": Signed,
    }


def test_the_emitted_code_is_the_kernel() -> None:
    from converter.neurons.burst import fire_burst
    from converter.neurons.integrate_fire import integrate_fire, integrate_fire_hard
    from converter.neurons.leaky import leaky
    from converter.neurons.multi_level import multi_level
    from converter.neurons.negative_slope import negative_slope
    from converter.neurons.power_of_two import power_of_two
    from converter.neurons.signed import signed

    known = {
        f.__name__: f
        for f in (
            integrate_fire,
            integrate_fire_hard,
            leaky,
            fire_burst,
            power_of_two,
            negative_slope,
            signed,
            multi_level,
        )
    }
    for neuron in [*EVERY, IntegrateFire(torch.tensor(1.0), reset="hard")]:
        space: dict[str, object] = {**known, "torch": torch, "layer": neuron, "x": torch.randn(4, 3)}
        space["s"] = eval(neuron.code_init("layer"), space)
        (state, spikes) = eval(neuron.code("layer", "s", "x"), space)
        x = space["x"]
        assert isinstance(x, Tensor)
        want_state, want = neuron.step(neuron.init(), x)
        assert torch.equal(spikes, want)
        assert all(torch.equal(a, b) for a, b in zip(state, want_state, strict=True))
