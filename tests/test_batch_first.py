"""batch_first: values that are only moved are picked in one step, the batch in front all the way."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calibrators.bias_correction import BiasCorrection
from calibrators.least_squares import LeastSquares
from converter.graph import BATCH, Graph, Input, Node, Op
from converter.importer import load
from converter.ops import Gather, Relu, Reshape, Slice, Transpose
from converter.passes import apply
from converter.passes.batch_first import batch_first
from converter.passes.drop_identity import drop_identity
from converter.passes.spike import Spike
from tests.models import judge, parse, weight, worst


def network(*ops: Op, shape: tuple[int, ...]) -> Graph:
    """One op after the other on [N, *shape]."""
    node = first = Node(Input(), (), "x", (BATCH, *shape))
    for i, op in enumerate(ops):
        node = Node.of(op, node, name=f"n{i}")
    return Graph((first,), (node,))


def lines(graph: Graph) -> list[str]:
    """The graph after the pass, a node a line, the input left out; its answers are as before."""
    x = weight(3, *graph.inputs[0].shape[1:], seed=1)
    changed = drop_identity(batch_first(graph))
    assert torch.equal(changed.run(x)[0], graph.run(x)[0])
    return str(changed).splitlines()[1:-1]


def halves(half: int) -> tuple[Op, ...]:
    """ShuffleNet's: eight channels as four pairs, the first or the second of each; at batch 1."""
    turned = (Reshape((-1, 2, 9)), Transpose((1, 0, 2)), Reshape((2, -1, 4, 3, 3)))
    return (*turned, Slice(0, half, half + 1), Reshape((-1, 4, 3, 3)))


def test_halves_of_shuffled_channels_are_every_other_channel() -> None:
    assert lines(network(*halves(0), shape=(8, 3, 3))) == [
        "n4 = Slice(x, dim=1, start=0, stop=7, step=2) : Nx4x3x3"
    ]
    assert lines(network(*halves(1), shape=(8, 3, 3))) == [
        "n4 = Slice(x, dim=1, start=1, stop=8, step=2) : Nx4x3x3"
    ]


def test_a_shuffle_of_all_channels_is_a_gather() -> None:
    """Six channels in two groups: 0 1 2 | 3 4 5 become 0 3 1 4 2 5."""
    turned = (
        *(Transpose((1, 0, 2, 3)), Reshape((2, 3, -1, 4))),
        *(Transpose((2, 1, 0, 3)), Reshape((-1, 6, 2, 2))),
    )
    assert lines(network(*turned, shape=(6, 2, 2))) == ["n2.gather = Gather(x, dim=1, index:6) : Nx6x2x2"]
    x = torch.arange(6.0).reshape(1, 6, 1, 1).expand(1, 6, 2, 2)
    (answer,) = batch_first(network(*turned, shape=(6, 2, 2))).run(x)
    assert answer[0, :, 0, 0].tolist() == [0, 3, 1, 4, 2, 5]


def test_there_and_back_is_the_value_itself() -> None:
    graph = network(Relu(), Transpose((1, 0, 2)), Transpose((1, 0, 2)), shape=(2, 3))
    assert [n.op.kind for n in batch_first(graph)] == ["Input", "Relu"]


def test_values_that_are_not_whole_rows_are_picked_one_by_one() -> None:
    """[N, 2, 3] transposed to [3, N, 2] and back to [N, 3, 2]: columns become rows."""
    ops = (Transpose((2, 0, 1)), Transpose((1, 0, 2)))
    assert lines(network(*ops, shape=(2, 3))) == [
        "n1.reshape = Reshape(x, shape=(-1, 6)) : Nx6",
        "n1.gather = Gather(n1.reshape, dim=1, index:6) : Nx6",
        "n1 = Reshape(n1.gather, shape=(-1, 3, 2)) : Nx3x2",
    ]


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param((Transpose((0, 2, 1)), Reshape((-1, 6))), id="batch-never-moved"),
        pytest.param((Transpose((1, 0, 2)), Relu(), Transpose((1, 0, 2))), id="more-than-moved"),
        pytest.param((Transpose((1, 0, 2)),), id="never-back"),
    ],
)
def test_what_is_none_of_its_business_stays(ops: tuple[Op, ...]) -> None:
    graph = network(*ops, shape=(2, 3))
    assert batch_first(graph) is graph


@st.composite
def moves(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Op, ...]]:
    """A shape of a sample, and moves that take the batch away from the front and bring it back."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    here, ops = [BATCH, *shape], list[Op]()
    for _ in range(draw(st.integers(1, 5))):
        at = here.index(BATCH)
        free = [d for d in range(len(here)) if d != at]
        dim = draw(st.sampled_from(free))
        kind = draw(st.sampled_from(["turn", "part", "pick", "merge"]))
        if kind == "part":
            start = draw(st.integers(0, here[dim] - 1))
            stop, step = draw(st.integers(start + 1, here[dim])), draw(st.integers(1, 2))
            ops.append(Slice(dim, start, stop, step))
            here[dim] = len(range(start, stop, step))
        elif kind == "pick":
            index = draw(st.lists(st.integers(0, here[dim] - 1), min_size=1, max_size=4))
            ops.append(Gather(torch.tensor(index), dim))
            here[dim] = len(index)
        elif kind == "merge" and len(free) > 1 and at in (0, len(here) - 1):
            inner = prod(here[d] for d in free)
            here = [BATCH, inner] if at == 0 else [inner, BATCH]
            ops.append(Reshape(tuple(-1 if d == BATCH else d for d in here)))
        else:
            order = tuple(draw(st.permutations(range(len(here)))))
            ops.append(Transpose(order))
            here = [here[d] for d in order]
    at = here.index(BATCH)
    ops.append(Transpose((at, *(d for d in range(len(here)) if d != at))))
    return shape, tuple(ops)


@given(moves())
def test_any_way_there_and_back_is_the_same_to_the_last_bit(
    made: tuple[tuple[int, ...], tuple[Op, ...]],
) -> None:
    shape, ops = made
    graph = network(*ops, shape=shape)
    changed = batch_first(graph).with_unique_names().verify()
    x = torch.arange(2 * prod(shape), dtype=torch.float32).reshape(2, *shape)
    assert torch.equal(changed.run(x)[0], graph.run(x)[0])
    assert all(node.shape[0] == BATCH for node in changed)
    assert batch_first(changed) is changed


BODY = """
    c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c)
    a = Reshape(r, s) b = Transpose<perm=[1,0,2]>(a) d = Reshape(b, t)
    l = Gather<axis=0>(d, zero) m = Gather<axis=0>(d, one)
    e = Conv<pads=[1,1,1,1]>(m, v) f = Relu(e) y = Concat<axis=1>(l, f)
"""


def test_a_shuffle_exported_at_batch_1_runs_in_batches_and_takes_corrections() -> None:
    """As ShuffleNetV2 and its detectors come out of torch; corrections want the batch in front."""
    weights = {
        "w": weight(8, 3, 3, 3, seed=2),
        "v": weight(4, 4, 3, 3, seed=3),
        "s": torch.tensor([4, 2, 16]),
        "t": torch.tensor([2, -1, 4, 4, 4]),
        "zero": torch.tensor(0),
        "one": torch.tensor(1),
    }
    model = parse(BODY, weights, inputs="float[1,3,4,4] x", outputs="float[A,B,C,D] y")
    graph, done = apply(load(model))
    x = weight(4, 3, 4, 4, seed=4, scale=1.0)
    each = torch.cat([judge(model, x[i : i + 1])[0] for i in range(4)])
    assert worst(graph.run(x)[0], each) < 1e-6
    assert (done[0].name, done[0].after < done[0].before) == ("batch_first", True)
    assert [n.op.kind for n in graph] == ["Input", "Conv", "Relu", *["Slice"] * 2, "Conv", "Relu", "Concat"]
    spiking = Spike()(graph)
    started = LeastSquares(timesteps=8)(spiking, lambda: iter([x]))
    mended = BiasCorrection(timesteps=8)(started, lambda: iter([x]))
    assert len(mended) == len(spiking)
