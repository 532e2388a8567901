"""The graph: values are nodes, nothing mutates, contradictions are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from converter.errors import ModelError, Refusal
from converter.graph import BATCH, Graph, Input, Node, Op, infer_shape, show_shape
from converter.ops import Add, Affine, Conv, Linear, Relu, Reshape


def image(name: str = "x", *shape: int) -> Node:
    return Node(Input(), (), name, (BATCH, *(shape or (1, 4, 4))))


def residual() -> Graph:
    """x -> conv -> (+ x) -> relu -> reshape -> fc."""
    x = image()
    conv = Node.of(
        Conv(torch.ones(1, 1, 3, 3), padding=(1, 1), stride=(1, 1), dilation=(1, 1)), x, name="conv"
    )
    add = Node.of(Add(), conv, x, name="add")
    relu = Node.of(Relu(), add, name="relu")
    flat = Node.of(Reshape((-1, 16)), relu, name="flat")
    return Graph((x,), (Node.of(Linear(torch.eye(16)[:2]), flat, name="fc"),), "residual")


def test_a_graph_reads_as_one_line_a_node() -> None:
    assert str(residual()) == (
        "x = Input() : Nx1x4x4\n"
        "conv = Conv(x, stride=(1, 1), padding=(1, 1), dilation=(1, 1), weight:1x1x3x3) : Nx1x4x4\n"
        "add = Add(conv, x) : Nx1x4x4\n"
        "relu = Relu(add) : Nx1x4x4\n"
        "flat = Reshape(relu, shape=(-1, 16)) : Nx16\n"
        "fc = Linear(flat, weight:2x16) : Nx2\n"
        "return fc"
    )


def test_running_gives_the_value_of_every_node_at_any_batch() -> None:
    seen = {}
    x = torch.ones(3, 1, 4, 4)
    (out,) = residual().run(x, listen=lambda node, value: seen.setdefault(node.name, value))
    # A corner of ones under a 3x3 kernel of ones sums 4, its neighbour on the edge 6; plus the pixel itself.
    assert out.tolist() == [[5.0, 7.0]] * 3
    assert list(seen) == ["x", "conv", "add", "relu", "flat", "fc"]


def test_a_value_is_freed_after_its_last_reader() -> None:
    import weakref

    alive: dict[str, weakref.ref[torch.Tensor]] = {}
    at_the_end: list[str] = []

    def listen(node: Node, value: torch.Tensor) -> None:
        alive[node.name] = weakref.ref(value)
        if node.name == "flat":
            at_the_end.extend(name for name, ref in alive.items() if ref() is not None)

    residual().run(torch.ones(1, 1, 4, 4), listen=listen)
    assert "conv" not in at_the_end
    assert "flat" in at_the_end


def test_the_batch_is_found_and_a_fixed_one_too() -> None:
    assert residual().batch is None
    fixed = Node(Input(), (), "x", (1, 5))
    assert Graph((fixed,), (Node.of(Relu(), fixed, name="y"),)).batch == 1


def test_a_wrong_input_is_named_with_both_shapes() -> None:
    with pytest.raises(ModelError, match="input 'x' of residual is Nx1x4x4, 2x3x4x4 was given"):
        residual().run(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ModelError, match="takes 1 inputs, 2 were given"):
        residual().run(torch.zeros(1, 1, 4, 4), torch.zeros(1))


def test_rewriting_replaces_to_a_fixpoint_and_leaves_the_original_alone() -> None:
    x = image("x", 3)
    chain = x
    for i in range(4):
        chain = Node.of(Affine(torch.tensor(2.0)), chain, name=f"double{i}")
    graph = Graph((x,), (chain,))
    before = str(graph)

    def merge(node: Node) -> Node | None:
        match node:
            case Node(op=Affine(a), inputs=(Node(op=Affine(b), inputs=source),)) if (
                a is not None and b is not None
            ):
                return replace(node, op=Affine(a * b), inputs=source)
        return None

    merged = graph.rewrite(merge)
    assert len(merged) == 2
    assert merged.run(torch.ones(1, 3))[0].tolist() == [[16.0, 16.0, 16.0]]
    assert str(graph) == before
    assert merged.rewrite(merge) is merged


def test_a_rule_cannot_break_a_branch_it_did_not_look_at() -> None:
    x = image("x", 2)
    shared = Node.of(Affine(torch.tensor(3.0)), x, name="shared")
    left, right = (Node.of(Relu(), shared, name=n) for n in ("left", "right"))
    graph = Graph((x,), (left, right))
    turned = graph.rewrite(
        lambda n: replace(n, inputs=(x,)) if n.name == "left" and n.inputs != (x,) else None
    )
    a, b = turned.run(torch.ones(1, 2))
    assert (a.tolist(), b.tolist()) == ([[1.0, 1.0]], [[3.0, 3.0]])


def test_a_rule_that_never_rests_is_a_bug_that_is_told() -> None:
    with pytest.raises(RuntimeError, match="does not come to rest"):
        residual().rewrite(lambda n: replace(n) if n.name == "relu" else None)


def test_verify_catches_a_cycle() -> None:
    x = image("x", 2)
    a = Node.of(Add(), x, x, name="a")
    b = Node.of(Relu(), a, name="b")
    object.__setattr__(a, "inputs", (x, b))
    with pytest.raises(ModelError, match=r"part of a cycle through '[ab]'"):
        Graph((x,), (b,))


def test_verify_catches_a_contradicting_shape_and_a_foreign_input() -> None:
    graph = residual()
    lying = graph.rewrite(
        lambda n: replace(n, shape=(BATCH, 7)) if n.name == "fc" and n.shape[1] == 2 else None
    )
    with pytest.raises(ModelError, match=r"'fc' .* is said to be Nx7, but computes Nx2"):
        lying.verify()
    with pytest.raises(ModelError, match="input 'x' is read but is not among"):
        Graph((image("other"),), graph.outputs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_verify_catches_weights_that_are_not_finite(bad: float) -> None:
    x = image("x", 2)
    weight = torch.tensor([[1.0, bad], [bad, 0.0]])
    graph = Graph((x,), (Node.of(Linear(weight), x, name="fc"),))
    with pytest.raises(
        ModelError, match=r"Linear 'fc' \(input Nx2\) has 2 non-finite values .* in its weight"
    ):
        graph.verify()


def test_an_op_that_does_not_fit_says_why_in_terms_of_the_batch() -> None:
    with pytest.raises(Refusal, match="does not fit its input Nx3"):
        infer_shape(Linear(torch.zeros(2, 5)), (BATCH, 3))


def test_an_op_without_a_meaning_is_an_unknown_op() -> None:
    class Unknown(Op):
        pass

    with pytest.raises(Refusal, match="Unknown"):
        Node.of(Unknown(), image(), name="u")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 12))
def test_shapes_are_shown_with_the_batch_as_a_letter(rest: list[int], factor: int) -> None:
    shown = show_shape((factor * BATCH, *rest))
    assert shown == "x".join(["N" if factor == 1 else f"{factor}N", *map(str, rest)])


def test_verify_catches_a_name_given_twice() -> None:
    x = image("x", 2)
    one = Node.of(Relu(), x, name="same")
    with pytest.raises(ModelError, match="two nodes are called 'same'"):
        Graph((x,), (Node.of(Add(), one, x, name="same"),)).verify()


def test_repeated_names_become_unique() -> None:
    x = image("x", 2)
    one = Node.of(Relu(), x, name="relu")
    two = Node.of(Relu(), one, name="relu")
    names = [n.name for n in Graph((x,), (two,)).with_unique_names()]
    assert names == ["x", "relu", "relu.2"]
