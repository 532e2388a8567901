"""A graph written as ONNX is the same network: to onnxruntime, and to our own importer."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from torch import Tensor

from converter import ops
from converter.errors import ConversionError, Unsupported, UsageError
from converter.exporters._onnx import graph_to_onnx
from converter.exporters._onnx_forms import FORMS
from converter.graph import BATCH, Constant, Graph, Input, Node, Op
from converter.importer import load
from converter.passes import apply
from tests.models import judge, parse, weight
from tests.random_networks import network
from tests.test_conformance import array, frozen
from tests.test_fuzz import GENES

TOLERANCE = 1e-5


def assert_same(ours: tuple[Tensor, ...], theirs: list[Tensor] | tuple[Tensor, ...]) -> None:
    """To 1e-5 of the output's magnitude, or of 0.1 where it is smaller than what it came from."""
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE * max(float(mine.abs().max()), 0.1))


def assert_written(graph: Graph, *x: Tensor, opset: int = 20) -> ModelProto:
    """The ONNX form of `graph`, found to be the same network."""
    model = graph_to_onnx(graph, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    with torch.inference_mode():
        outputs = graph.run(*x)
        assert_same(outputs, judge(model, *x))
        assert_same(outputs, load(model).run(*x))
    return model


def images(graph: Graph, batch: int = 3) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn([batch if d == BATCH else d for d in i.shape], generator=draw) for i in graph.inputs]


@settings(max_examples=12, derandomize=True, deadline=None)
@given(genes=GENES, dynamic=st.booleans(), opset=st.sampled_from([13, 17, 20, 22]))
def test_random_networks_are_written_as_they_are(genes: list[int], dynamic: bool, opset: int) -> None:
    graph = load(network(genes, dynamic=dynamic)[0])
    assert_written(graph, *images(graph), opset=opset)
    folded, _ = apply(graph)
    assert_written(folded, *images(folded), opset=opset)


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_what_the_official_cases_read_as_is_written_as_it_is(step: int, tell: Callable[[str], None]) -> None:
    """Every operator in every way the specification shows, if it can be read; or every twelfth of them."""
    counts: Counter[str] = Counter()
    wrong = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators divide by zero on purpose
        from onnx.backend.test.case.node import collect_testcases

        for case in collect_testcases(None)[::step]:
            inputs, _ = case.data_sets[0]
            for model in filter(None, (case.model, frozen(case.model, inputs))):
                try:
                    graph = load(model)
                except ConversionError:
                    continue
                x = [torch.from_numpy(array(a).astype(np.float32)) for a in inputs[: len(graph.inputs)]]
                try:
                    same_as_read(graph, x)
                    counts["are the same"] += 1
                except Unsupported:
                    counts["need another opset"] += 1
                except Exception as error:  # whatever it is, it is told by the case's name
                    wrong.append(f"{case.name}: {type(error).__name__}: {str(error)[:200]}")
                break
    tell(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    assert wrong == []
    assert counts["are the same"] > 480 // step


def same_as_read(graph: Graph, x: list[Tensor]) -> None:
    """Written and read, and run by onnxruntime, `graph` computes what it does; NaN where it has NaN."""
    model = graph_to_onnx(graph, opset=21)
    with torch.inference_mode():
        ours, theirs, again = graph.run(*x), judge(model, *x), load(model).run(*x)
    for mine, *others in zip(ours, theirs, again, strict=True):
        for other in others:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_every_op_that_the_importer_makes_has_a_form() -> None:
    kinds = {kind for name in ops.__all__ if isinstance(kind := getattr(ops, name), type)}
    bare = {kind.__name__ for kind in kinds if not any(base in FORMS for base in kind.__mro__)}
    assert bare == {"Movement"}, "what others derive from"


@pytest.mark.slow
def test_the_networks_of_other_people_are_written_as_they_are(
    shared: Path, tell: Callable[[str], None]
) -> None:
    for file in sorted((shared / "models").glob("*.onnx")):
        cut = None  # what follows the last convolution of the U-Net only counts its errors
        if file.stem == "unet_carvana":
            cut = [[n.output[0] for n in onnx.load(file).graph.node if n.op_type == "Conv"][-1]]
        graph = load(file, outputs=cut)
        model = assert_written(graph, *images(graph, 1))
        tell(f"{file.stem}: {len(graph)} nodes, {len(model.graph.node)} in ONNX")


def one(op: Op, *shapes: tuple[int, ...]) -> Graph:
    inputs = tuple(Node(Input(), (), f"x{i}", shape) for i, shape in enumerate(shapes))
    return Graph(inputs, (Node.of(op, *inputs, name="y"),))


def test_a_convolution_is_one_node_with_its_weights_beside_it() -> None:
    model = graph_to_onnx(
        one(ops.Conv(weight(4, 3, 3, 3), weight(4), (2, 2), (1, 1), (1, 1)), (BATCH, 3, 8, 8))
    )
    (node,) = model.graph.node
    assert (node.op_type, node.name, list(node.output)) == ("Conv", "y", ["y"])
    assert list(node.input) == ["x0", "y.weight", "y.bias"]
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [
        "N",
        3,
        8,
        8,
    ]


def test_a_pool_that_rounds_up_tells_the_padding_its_windows_reach() -> None:
    """6 wide, windows of 3 in steps of 2: 3 windows, the last one reaches one beyond the end."""
    pool = ops.AvgPool((3,), (2,), (0,), ceil=True, include_pad=False)
    model = assert_written(one(pool, (BATCH, 2, 6)), weight(3, 2, 6))
    (told,) = [list(a.ints) for a in model.graph.node[0].attribute if a.name == "pads"]
    assert told == [0, 1]
    assert_written(one(ops.MaxPool((3,), (2,), (1,), (1,), ceil=True), (BATCH, 2, 6)), weight(3, 2, 6))
    counted = ops.AvgPool((3,), (2,), (1,), ceil=True, include_pad=True)
    assert_written(one(counted, (BATCH, 2, 6)), weight(3, 2, 6))


@pytest.mark.parametrize("target", [(1, -1, 12), (-1, 1, 4), (3, -1, 4), (-1,)])
def test_a_batch_that_is_not_in_front_is_computed(target: tuple[int, ...]) -> None:
    """[N, 3, 4] in another shape, where −1 alone would not say where the batch is."""
    graph = one(ops.Reshape(target), (BATCH, 3, 4))
    with torch.inference_mode():
        (result,) = judge(graph_to_onnx(graph), x := weight(5, 3, 4))
        assert torch.equal(result, x.reshape(target))


def test_an_operator_older_than_the_opset_is_written_by_its_parts() -> None:
    x = weight(2, 6, 5)
    for op in (ops.GroupNorm(weight(6), weight(6), 2, 1e-5), ops.RmsNorm(weight(5), 1e-5), ops.Swish(1.5)):
        assert_written(one(op, (BATCH, 6, 5)), x, opset=18)
    assert_written(one(ops.Smooth("Mish"), (BATCH, 6, 5)), x, opset=13)


def test_what_an_opset_cannot_say_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"Gelu 'y'.*opset 20"):
        graph_to_onnx(one(ops.Smooth("Gelu", "none"), (BATCH, 5)), opset=19)
    with pytest.raises(UsageError, match="opset 12 is not written"):
        graph_to_onnx(one(ops.Relu(), (BATCH, 5)), opset=12)


def test_an_input_a_constant_and_the_same_value_twice_can_be_outputs() -> None:
    x = Node(Input(), (), "x", (BATCH, 2))
    y = Node.of(ops.Relu(), x, name="y")
    k = Node(Constant(torch.tensor([1.0])), (), "k", (1,))
    model = graph_to_onnx(Graph((x,), (x, y, y, k)))
    given = torch.tensor([[-1.0, 2.0]])
    want = [given, given.relu(), given.relu(), torch.tensor([1.0])]
    assert all(map(torch.equal, judge(model, given), want))


def test_names_of_the_network_stay_and_are_kept_apart() -> None:
    graph = load(
        parse(
            "y = Gemm(x, y_weight) z = Relu(y)",
            {"y_weight": weight(4, 3)},
            inputs="float[N,4] x",
            outputs="float[N,3] z",
        )
    )
    model = graph_to_onnx(graph)
    names = [o for node in model.graph.node for o in node.output] + [w.name for w in model.graph.initializer]
    assert len(set(names)) == len(names)
    assert [node.output[0] for node in model.graph.node] == ["y", "z"]
