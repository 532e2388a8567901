"""NIR: what it can say comes back from its file as the same spikes, what it cannot is refused by name."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from converter import ops
from converter.encodings.poisson import Poisson
from converter.errors import Unsupported, UsageError
from converter.exporters import nir as nir_form
from converter.exporters._check import Check, Order
from converter.exports import averaged, export
from converter.graph import BATCH, Graph, Input, Node, Op
from converter.neurons import Neuron, neurons
from converter.neurons.integrate_fire import IntegrateFire
from converter.rate import RateModel
from converter.temporal_bias import TemporalBias
from tests.models import weight

IMAGE = (BATCH, 2, 6, 6)


ONE = float(weight(1, seed=9).abs() + 0.3)
"""The threshold of a layer that has one for all; where channels differ, it is 1 in the file."""


def neurons_of(graph: nir.NIRGraph) -> list[nir.NIRNode]:
    return [node for node in graph.nodes.values() if isinstance(node, nir.IF)]


def fires(*shape: int, initial: float = 0.0, reset: str = "soft") -> IntegrateFire:
    return IntegrateFire(weight(*shape, seed=9).abs() + 0.3, initial, reset=reset)


def network(*, initial: float = 0.0, reset: str = "soft") -> Graph:
    """A shortcut of another threshold, grouped convolution, pool, join, flatten, matrix."""
    x = Node(Input(), (), "image", IMAGE)
    told = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    first = Node.of(ops.Conv(weight(4, 2, 3, 3), weight(4), **told), x, name="first")
    a = Node.of(fires(4, 1, 1, initial=initial, reset=reset), first, name="a")
    second = Node.of(ops.Conv(weight(4, 2, 3, 3, seed=1), None, **told, groups=2), a, name="second")
    b = Node.of(fires(1, initial=initial, reset=reset), Node.of(ops.Add(), a, second, name="sum"), name="b")
    small = Node.of(ops.AvgPool((2, 2), (2, 2), (0, 0)), b, name="small")
    other = Node.of(ops.AvgPool((2, 2), (2, 2), (0, 0)), a, name="other")
    both = Node.of(ops.Concat(1), small, other, name="both")
    flat = Node.of(ops.Reshape((-1, 72)), both, name="flat")
    return Graph((x,), (Node.of(ops.Linear(weight(5, 72), weight(5)), flat, name="logits"),))


def written(graph: Graph, path: Path, *allow: str) -> Check:
    x = torch.rand(4, *graph.inputs[0].shape[1:], generator=torch.Generator().manual_seed(2))
    check = export(RateModel(graph), Order(16, allow=allow), "nir", path, (x,))
    assert check is not None
    assert check.spikes > 1000
    return check


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_a_network_comes_back_as_the_same_spikes(reset: str, tmp_path: Path) -> None:
    check = written(network(reset=reset), tmp_path / "m.nir")
    assert (check.differing, check.difference < 1e-5) == (0, True)
    graph = nir.read(str(tmp_path / "m.nir"))
    said = json.loads(graph.metadata["conventions"])
    assert said["reset"] == ("subtract" if reset == "soft" else "zero")
    # A convolution more is the shortcut's scale, a matrix more the sum that the output reads.
    kinds = Counter(type(node).__name__ for node in graph.nodes.values())
    assert kinds == {"Input": 1, "Conv2d": 5, "IF": 2, "Flatten": 2, "Affine": 3, "Output": 1}
    assert {float(t) for node in neurons_of(graph) for t in np.unique(node.v_threshold)} == {1.0, ONE}


def test_a_spike_is_one_and_its_threshold_is_in_the_weights_that_read_it() -> None:
    """θ = 0.5, weights 3 and −1: a spike adds 1.5 and −0.5."""
    x = Node(Input(), (), "x", (BATCH, 1))
    a = Node.of(IntegrateFire(torch.tensor(0.5), 0.0), x, name="a")
    y = Node.of(ops.Linear(torch.tensor([[3.0], [-1.0]])), a, name="y")
    made = nir_form.graph_of(RateModel(Graph((x,), (y,))))
    assert made.nodes["y"].weight.tolist() == [[1.5], [-0.5]]
    assert made.nodes["y"].bias.tolist() == [0, 0]
    assert made.nodes["a"].v_threshold.tolist() == [0.5]
    assert set(made.edges) == {("input", "a"), ("a", "y"), ("y", "output")}


def test_a_first_membrane_is_refused_or_allowed_and_said(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"IntegrateFire 'a'.*charge.*--initial 0"):
        written(network(initial=0.5), tmp_path / "m.nir")
    assert not list(tmp_path.iterdir())
    assert written(network(initial=0.5), tmp_path / "m.nir", "initial-membrane").differing == 0
    node = nir.read(str(tmp_path / "m.nir")).nodes["a"]
    np.testing.assert_allclose(node.metadata["v_initial"], node.v_threshold / 2)


def chain(*each: Op) -> Graph:
    node = first = Node(Input(), (), "x", IMAGE)
    for place, op in enumerate(each):
        node = Node.of(op, node, name=f"n{place}")
    return Graph((first,), (node,))


def neuron(name: str) -> Neuron:
    slope = {"slope": torch.tensor(0.5)} if name == "negative-slope" else {}
    return neurons[name](threshold=torch.tensor(1.0), initial=0.0, **slope)


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (ops.MaxPool((2, 2), (2, 2), (0, 0), (1, 1)), "a maximum.*--maxpool average"),
        (ops.AvgPool((3, 3), (1, 1), (1, 1), include_pad=False), "not a pool of NIR"),
        (ops.Affine(None, torch.tensor(1.0)), "no node in NIR"),
        (TemporalBias(torch.ones(4, 2, 1, 1)), "no node in NIR"),
        *((neuron(name), "emits|no node") for name in neurons.names() if name != "integrate-fire"),
    ],
)
def test_what_nir_cannot_say_is_refused_by_name(op: Op, why: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=f"'n1'.*({why})"):
        written(chain(fires(1), op, fires(1)), tmp_path / "m.nir")
    assert not list(tmp_path.iterdir())


def test_time_that_nir_does_not_have_is_refused() -> None:
    for model in (RateModel(chain(fires(1)), delay=1), RateModel(chain(fires(1)), Poisson(1.0))):
        with pytest.raises(UsageError, match="no windows, no delay"):
            nir_form.graph_of(model)


def test_a_mean_takes_the_place_of_a_maximum_where_asked_for(tmp_path: Path) -> None:
    graph = chain(fires(1), ops.MaxPool((2, 2), (2, 2), (0, 0), (1, 1)), fires(1))
    made = averaged(RateModel(graph))
    assert [node.op.kind for node in made.graph][2] == "AvgPool"
    assert written(made.graph, tmp_path / "m.nir").differing == 0
    with pytest.raises(UsageError, match="holes or padding"):
        averaged(RateModel(chain(fires(1), ops.MaxPool((2, 2), (2, 2), (1, 1), (1, 1)))))
