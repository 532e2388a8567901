"""Spikes kept small come back to the last bit, or are not packed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converter.neurons import Neuron
from converter.neurons.burst import Burst
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.multi_level import MultiLevel
from converter.neurons.negative_slope import NegativeSlope
from converter.neurons.power_of_two import PowerOfTwo
from converter.neurons.signed import Signed
from converter.spike_bits import Packed, packed


def test_bits_by_hand() -> None:
    """Threshold 0.5, ten steps: spikes at 1 and 4 are 0b1001 = 9, one at 10 is 0b10 in the next byte."""
    spikes = torch.zeros(10, 1)
    spikes[[0, 3, 9]] = 0.5
    small = packed(spikes, torch.tensor(0.5))
    assert isinstance(small, Packed)
    assert small.signs == (1,)
    assert small.codes.flatten().tolist() == [9, 2]
    spikes[1] = -0.5
    small = packed(spikes, torch.tensor(0.5))
    assert isinstance(small, Packed)
    assert small.signs == (1, -1)
    assert small.codes.flatten().tolist() == [9, 2, 2, 0]
    spikes[2] = 1.5
    small = packed(spikes, torch.tensor(0.5))
    assert isinstance(small, Packed)
    assert small.signs == ()
    assert small.codes.flatten().tolist() == [1, -1, 3, 1, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("value", [0.3, 64.0, torch.nan, torch.inf])
def test_what_is_not_a_small_number_of_thresholds_stays_as_it_is(value: float) -> None:
    spikes = torch.tensor([[0.5], [value]])
    assert packed(spikes, torch.tensor(0.5)) is spikes


KINDS = {
    1: (IntegrateFire(), IntegrateFire(reset="hard")),
    2: (Signed(),),
    8: (MultiLevel(levels=4), Burst(burst=3), PowerOfTwo(levels=3)),
}
WIDTHS = [(bits, neuron) for bits, neurons in KINDS.items() for neuron in neurons]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WIDTHS), st.integers(1, 20), st.integers(0, 1000))
def test_what_a_neuron_emits_comes_back_to_the_last_bit(
    kind: tuple[int, Neuron], steps: int, seed: int
) -> None:
    """In no more bits than its alphabet takes, thresholds being whatever they are."""
    bits, neuron = kind
    generator = torch.Generator().manual_seed(seed)
    threshold = torch.rand(3, 1, generator=generator) + 0.1
    currents = torch.randn(steps, 2, 3, 5, generator=generator)
    spikes = fired(neuron, threshold, currents)
    small = packed(spikes, threshold)
    assert isinstance(small, Packed)
    assert torch.equal(small.unpacked(), spikes)
    taken = -(-steps // 8) * bits if bits < 8 else steps
    assert small.codes.numel() <= spikes[0].numel() * taken


def test_sloped_spikes_stay_floats() -> None:
    neuron = NegativeSlope(slope=torch.tensor(0.1))
    spikes = fired(neuron, torch.tensor(1.0), torch.full((4, 1, 1), -1.0))
    assert packed(spikes, torch.tensor(1.0)) is spikes


def fired(neuron: Neuron, threshold: Tensor, currents: Tensor) -> Tensor:
    op = replace(neuron, threshold=threshold)
    return op.scan(op.init(), currents)[1]
