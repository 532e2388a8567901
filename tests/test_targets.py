"""What of a network fits a chip: fan-in, fan-out, bits and neurons counted by hand, and held to limits."""

from __future__ import annotations

import pytest
import torch

from converter import ops
from converter.errors import UsageError
from converter.graph import BATCH, Graph, Input, Node
from converter.neurons.integrate_fire import IntegrateFire
from converter.rate import RateModel
from converter.targets import TARGETS, bits_of, fit, target_of, unplaced


def model() -> RateModel:
    """3x3 windows over 2 channels of 4x4, padded, 8 filters, one neuron each: all weights 1 or −1."""
    x = Node(Input(), (), "x", (BATCH, 2, 4, 4))
    weight = torch.ones(8, 2, 3, 3)
    weight[0] = -1
    conv = Node.of(ops.Conv(weight, None, (1, 1), (1, 1), (1, 1)), x, name="conv")
    return RateModel(Graph((x,), (Node.of(IntegrateFire(torch.tensor(1.0)), conv, name="n"),)))


def test_a_layer_by_hand() -> None:
    """A pixel inside reaches 9 places of 8 filters; 4x4 places see 100 of their 144 pixels."""
    (layer,) = fit(model(), "loihi2").layers
    assert (layer.neurons, layer.axons, layer.fanout, layer.bits) == (128, 18, 72, 2)
    assert layer.synapses == 100 * 2 * 8
    assert layer.memory == (2 * 16 * 8, 8 * 4 * 4)
    assert layer.refused == ()


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        ("axons=18,fanout=72,bits=2,neurons=128,synapses=1600", ()),
        ("axons=17", ("18 axons, 17 at most",)),
        ("fanout=71", ("72 fanout, 71 at most",)),
        ("bits=1", ("2 bits, 1 at most",)),
        ("neurons=127", ("128 neurons, 127 at most",)),
        ("synapses=1599", ("1,600 synapses, 1,599 at most",)),
    ],
)
def test_a_limit_holds_up_to_itself(limits: str, refused: tuple[str, ...]) -> None:
    found = fit(model(), f"generic:{limits}")
    assert (*found.refused, *found.layers[0].refused) == refused
    assert found.fits is (not refused)


def test_bits_are_those_of_the_grid_the_weights_lie_on() -> None:
    assert bits_of(torch.zeros(3)) == 1
    assert bits_of(torch.tensor([-1.0, 0.0, 1.0])) == 2
    assert bits_of(torch.tensor([-3.0, 1.0, 2.0])) == 3
    assert bits_of(torch.arange(-127.0, 128.0) * 0.01) == 8
    assert bits_of(torch.randn(1000)) == 32


def test_layers_find_cores_of_their_own_as_far_as_there_are() -> None:
    """The small layer must leave the large core to the large one."""
    assert unplaced([(1, 1), (5, 1)], [(9, 9), (2, 2)]) == 0
    assert unplaced([(5, 1), (5, 1)], [(9, 9), (2, 2)]) == 1
    assert unplaced([(1, 1)] * 10, TARGETS["speck"].cores) == 1


def test_a_chip_that_is_not_known_is_an_error() -> None:
    with pytest.raises(UsageError, match="did you mean 'speck'"):
        target_of("spek")
    for wrong in ("generic:foo=1", "generic:axons=many", "generic:source=1"):
        with pytest.raises(UsageError, match="no limit of a chip"):
            target_of(wrong)
    with pytest.raises(UsageError, match="limits it is given"):
        target_of("generic")
    assert all(target.source for target in TARGETS.values())
