"""The importer: every exporter's dialect becomes the same graph; what is wrong is refused by name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from converter.errors import ModelError, Unsupported, UsageError
from converter.graph import BATCH, Graph
from converter.importer import load, load_with_source
from tests.models import judge, parse, weight, worst


def kinds(graph: Graph) -> dict[str, int]:
    counted = Counter(n.op.kind for n in graph)
    del counted["Input"]
    return dict(counted)


def like_onnxruntime(model: ModelProto | Path, graph: Graph, *batches: int) -> None:
    for batch in batches or (1, 3):
        x = weight(batch, *graph.inputs[0].shape[1:], seed=batch, scale=1.0)
        for ours, theirs in zip(graph.run(x), judge(model, x), strict=True):
            assert worst(ours, theirs) < 1e-5


class Net(nn.Module):
    """Batch-norm, a functional pad, a view with the batch, a residual Add: what exporters disagree on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 4 * 4, 5)
        nn.init.uniform_(self.bn.running_mean, -1, 1)  # type: ignore[arg-type]
        nn.init.uniform_(self.bn.running_var, 0.5, 2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        y = nn.functional.pad(x[:, :4, ::2, ::2], (0, 0, 0, 0, 2, 2))
        x = torch.relu(nn.functional.avg_pool2d(x, 2) + y)
        out: Tensor = self.fc(x.view(x.size(0), -1))
        return out


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("free_batch", [True, False], ids=["dynamic", "batch-1"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_both_torch_exporters_give_a_graph_that_runs_in_batches(
    tmp_path: Path, dynamo: bool, free_batch: bool
) -> None:
    net, path = Net().eval(), tmp_path / "net.onnx"
    options: dict[str, object] = {}
    if free_batch and dynamo:
        options = {"dynamic_shapes": ({0: torch.export.Dim("n")},)}
    elif free_batch:
        options = {"dynamic_axes": {"x": {0: "n"}}}
    x = torch.randn(2 if free_batch else 1, 3, 8, 8)
    torch.onnx.export(
        net, (x,), path, dynamo=dynamo, input_names=["x"], do_constant_folding=False, verbose=False, **options
    )
    graph = load(path).verify()
    assert graph.batch is None
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        assert worst(graph.run(images)[0], net(images)) < 1e-5
    allowed = {"Conv", "BatchNorm", "Relu", "AvgPool", "Slice", "Pad", "Add", "Reshape", "Linear"}
    assert set(kinds(graph)) <= allowed, "the shape arithmetic around pad and view is gone"


def test_shape_arithmetic_folds_to_what_it_means() -> None:
    body = """
        s = Shape(x) i = Constant<value_int=0>() n = Gather(s, i) u = Unsqueeze(n, zero)
        m = Constant<value_ints=[-1]>() t = Concat<axis=0>(u, m) y = Reshape(x, t)
    """
    graph = load(parse(body, {"zero": torch.tensor([0])}))
    assert str(graph) == "x = Input() : Nx3x8x8\ny = Reshape(x, shape=(-1, 192)) : Nx192\nreturn y"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ([1, 192], (BATCH, 192)),
        ([1, -1], (BATCH, 192)),
        ([1, 3, 64], (BATCH, 3, 64)),
        ([3, 64], (3 * BATCH, 64)),
    ],
)
def test_a_batch_of_one_inside_a_reshape_does_not_bind(target: list[int], expected: tuple[int, ...]) -> None:
    model = parse(
        "a = Reshape(x, s) y = Reshape(a, t)",
        {"s": torch.tensor(target), "t": torch.tensor([1, 192])},
        inputs="float[1,3,8,8] x",
    )
    graph = load(model)
    assert graph["a"].shape == expected
    x = weight(3, 3, 8, 8)
    each = torch.cat([judge(model, x[i : i + 1])[0] for i in range(3)])
    assert torch.equal(graph.run(x)[0], each)


def test_channel_shuffle_exported_without_the_batch_runs_in_batches() -> None:
    """[1, 8, 4, 4] -> [4, 2, 16] -> swap -> [2, 1, 4, 4, 4], the halves gathered: as ShuffleNetV2 exports."""
    body = """
        a = Reshape(x, s) b = Transpose<perm=[1,0,2]>(a) c = Reshape(b, t)
        l = Gather<axis=0>(c, zero) r = Gather<axis=0>(c, one) y = Concat<axis=1>(r, l)
    """
    weights = {
        "s": torch.tensor([4, 2, 16]),
        "t": torch.tensor([2, -1, 4, 4, 4]),
        "zero": torch.tensor(0),
        "one": torch.tensor(1),
    }
    model = parse(body, weights, inputs="float[1,8,4,4] x", outputs="float[A,B,C,D] y")
    graph = load(model)
    assert graph.batch is None
    x = weight(3, 8, 4, 4)
    assert torch.equal(graph.run(x)[0], torch.cat([judge(model, x[i : i + 1])[0] for i in range(3)]))


@pytest.mark.parametrize(
    "body", ["y = Softmax<axis=0>(x)", "y = ReduceMax<keepdims=1>(x)", "y = Slice(x, a, b, a)"]
)
def test_a_network_that_works_along_the_batch_keeps_its_batch(body: str) -> None:
    weights = {"a": torch.tensor([0]), "b": torch.tensor([1])} if "Slice" in body else {}
    model = parse(body, weights, inputs="float[1,3,8,8] x", outputs="float[A,B,C,D] y")
    graph = load(model)
    assert graph.batch == 1
    like_onnxruntime(model, graph, 1)
    with pytest.raises(ModelError, match="1x3x8x8, 2x3x8x8 was given"):
        graph.run(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64], ids=["fp16", "bf16", "fp64"])
def test_weights_of_any_width_are_computed_in_fp32(kind: type) -> None:
    stored = weight(4, 3, 3, 3).numpy().astype(kind)
    graph = load(
        parse(
            "c = Cast<to=1>(w) k = Conv(x, c) y = Cast<to=10>(k)", {"w": stored}, outputs="float16[N,C,H,W] y"
        )
    )
    x = weight(2, 3, 8, 8, seed=1)
    want = nn.functional.conv2d(x, torch.from_numpy(stored.astype(np.float32)))
    assert graph.run(x)[0].dtype == torch.float32
    assert torch.allclose(graph.run(x)[0], want, atol=1e-6)
    assert kinds(graph) == {"Conv": 1}


def test_functions_are_inlined() -> None:
    function = helper.make_function(
        "own",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )
    node = helper.make_node("Twice", ["x"], ["y"], domain="own")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xy"]
    graph = helper.make_graph([node], "net", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    assert load(model).run(torch.ones(2, 4))[0].tolist() == [[2.0] * 4] * 2


def test_dropout_identity_and_float_casts_are_gone() -> None:
    graph = load(parse("a = Identity(x) b = Dropout(a) c = Cast<to=1>(b) y = Relu(c)", inputs="float[N,4] x"))
    assert str(graph).splitlines()[1] == "y = Relu(x) : Nx4"


def test_what_the_file_says_of_itself() -> None:
    model = parse("a = Relu(x) y = Relu(a)", inputs="float[N,4] x", opset=13)
    model.producer_name, model.producer_version = "toolbox", "2.1"
    _, source = load_with_source(model)
    assert (source.name, source.producer, source.opset, source.nodes) == ("net", "toolbox 2.1", 13, 2)


def external(tmp_path: Path, location: str = "w.bin", size: int | None = None) -> Path:
    """A model whose weight lies in another file."""
    model = parse("y = Gemm(x, w)", {"w": weight(4, 2)}, inputs="float[N,4] x")
    tensor = model.graph.initializer[0]
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
        tensor.external_data.add(key=key, value=value)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    if size != 0:
        (folder / location).resolve().write_bytes(raw[:size])
    return folder / "net.onnx"


def test_external_data_are_read(tmp_path: Path) -> None:
    assert torch.equal(load(external(tmp_path)).run(torch.eye(4))[0], weight(4, 2))


@pytest.mark.parametrize(
    ("location", "size", "problem"),
    [
        ("w.bin", 0, "the weights of 'w' cannot be read from 'w.bin'"),
        ("w.bin", 7, "the weights of 'w' cannot be read from 'w.bin'"),
        ("../w.bin", None, "the weight 'w' points outside the model's folder: '../w.bin'"),
    ],
    ids=["missing", "cut-short", "outside"],
)
def test_external_data_that_are_not_there(
    tmp_path: Path, location: str, size: int | None, problem: str
) -> None:
    with pytest.raises(ModelError) as caught:
        load(external(tmp_path, location, size))
    assert caught.value.problem == problem


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        load(tmp_path / "no.onnx")
    for name, content in {"text.onnx": b"not a model at all", "empty.onnx": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=r"is not an ONNX file|holds no ONNX network"):
            load(tmp_path / name)
    whole = parse("y = Gemm(x, w)", {"w": weight(400, 20)}, inputs="float[N,400] x").SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="is not an ONNX file, or is cut short"):
        load(tmp_path / "cut.onnx")


def test_every_node_that_cannot_be_read_is_named_once() -> None:
    body = "a = Relu(x) b = Bernoulli(a) c = Det(a) d = Add(b, c) y = Hardmax(d)"
    with pytest.raises(Unsupported) as caught:
        load(parse(body, inputs="float[N,4,4] x"))
    assert "net has 3 nodes that cannot be imported" in str(caught.value)
    assert [where.split(" (")[0] for where, _ in caught.value.refusals] == [
        "Bernoulli 'b'",
        "Det 'c'",
        "Hardmax 'y'",
    ]


def test_an_attribute_nobody_read_is_refused_and_not_ignored() -> None:
    model = parse("y = Conv(x, w)", {"w": weight(4, 3, 3, 3)}, outputs="float[N,C,H,W] y")
    model.graph.node[0].attribute.append(helper.make_attribute("surprise", 3))
    with pytest.raises(Unsupported, match=r"Conv 'y' \(opset 20, .*has surprise = 3, which is not supported"):
        load(model)


def test_a_custom_domain_is_refused() -> None:
    model = parse("y = Relu(x)", inputs="float[N,4] x")
    model.graph.node[0].domain = "com.vendor"
    with pytest.raises(Unsupported, match=r"is of the domain 'com.vendor'"):
        load(model)


def test_a_cycle_a_dangling_value_and_a_value_made_twice() -> None:
    with pytest.raises(
        ModelError, match=r"cycle through Add 'a' and Relu 'b'|cycle through Relu 'b' and Add 'a'"
    ):
        load(parse("a = Add(x, b) b = Relu(a) y = Relu(b)", inputs="float[N,4] x"))
    with pytest.raises(ModelError, match="Add 'y' reads 'ghost', which nothing computes"):
        load(parse("y = Add(x, ghost)", inputs="float[N,4] x"))
    with pytest.raises(ModelError, match="the value 'a' is computed twice"):
        load(parse("a = Relu(x) a = Neg(x) y = Relu(a)", inputs="float[N,4] x"))


def test_sizes_left_open_are_asked_for_and_given() -> None:
    model = parse("y = GlobalAveragePool(x)", inputs="float[N,3,H,W] x", outputs="float[N,C,A,B] y")
    with pytest.raises(ModelError) as caught:
        load(model)
    assert caught.value.hint == "--input-shape x=3,?,?"
    graph = load(model, shapes={"x": (3, 5, 7)})
    assert graph.inputs[0].shape == (BATCH, 3, 5, 7)
    with pytest.raises(UsageError, match="the model has no input 'z'"):
        load(model, shapes={"z": (3, 5, 7)})


def test_a_network_can_be_cut_at_a_value_or_a_node() -> None:
    model = parse(
        "a = Relu(x) b = Neg(a) y = ArgMax<axis=1>(b)", inputs="float[N,4] x", outputs="int64[N,M] y"
    )
    with pytest.raises(Unsupported, match="ArgMax 'y'"):
        load(model)
    assert load(model, outputs=["b"]).run(torch.ones(1, 4))[0].tolist() == [[-1.0] * 4]
    with pytest.raises(UsageError, match="no value or node 'q' to cut at"):
        load(model, outputs=["q"])


def test_inputs_and_weights_that_are_not_real_numbers_or_empty() -> None:
    with pytest.raises(ModelError, match="input 'x' is int64"):
        load(parse("y = Neg(x)", inputs="int64[N,4] x", outputs="int64[N,4] y"))
    with pytest.raises(ModelError, match="input 'x' has a dimension of size zero"):
        load(parse("y = Neg(x)", inputs="float[N,0] x"))
    with pytest.raises(ModelError, match="the weight 'w' has a dimension of size zero"):
        load(parse("y = Gemm(x, w)", {"w": np.zeros((4, 0), np.float32)}, inputs="float[N,4] x"))
    with pytest.raises(ModelError, match=r"the weight 'w' holds .*not numbers"):
        model = parse("y = Gemm(x, w)", inputs="float[N,4] x")
        model.graph.initializer.append(helper.make_tensor("w", TensorProto.STRING, [1], [b"text"]))
        load(model)


@pytest.mark.parametrize("opset", [6, onnx.defs.onnx_opset_version() + 1])
def test_opsets_beyond_what_is_known(opset: int) -> None:
    model = parse("y = Relu(x)", inputs="float[N,4] x", opset=opset)
    with pytest.raises(ModelError, match=f"uses ONNX opset {opset}; opsets 7 to"):
        load(model)


def test_reading_changes_nothing_in_the_model_it_was_given() -> None:
    model = parse("y = Gemm(x, w)", {"w": weight(4, 2)}, inputs="float[N,4] x")
    before = model.SerializeToString()
    load(model)
    assert model.SerializeToString() == before


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1), st.booleans())
def test_nodes_in_any_order_and_unnamed_are_the_same_network(
    depth: int, width: int, shift: int, reverse: bool
) -> None:
    nodes, last = [], "x"
    for i in range(depth):
        nodes.append(helper.make_node("Add", [last, "x"], [f"v{i}"]))
        last = f"v{i}"
    if reverse:
        nodes.reverse()
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", width]) for n in ("x", last)]
    weights = [numpy_helper.from_array(np.ones(width, np.float32), "unused")] * shift
    model = helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:], weights), ir_version=10)
    model.opset_import[0].version = 20
    assert load(model).run(torch.ones(2, width))[0].tolist() == [[depth + 1.0] * width] * 2
