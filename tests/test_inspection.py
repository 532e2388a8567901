"""Inspection: the part each node plays, and what is in the way."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from converter.inspection import ROLES, Inspection, inspect
from tests.models import parse, weight

WEIGHTS = {"w": weight(4, 3, 3, 3), "u": weight(4, 4, 3, 3), "v": weight(10, 36)}
BODY = (
    "a = Conv (x, w) b = Relu(a) t = Tanh(b) p = MaxPool <kernel_shape = [2, 2], strides = [1, 1]> (t)"
    "c = Conv(p, u) d = Relu(c) e = Flatten(d) f = Gemm <transB = 1> (e, v) y = Softmax(f)"
)


def inspected(folder: Path, body: str = BODY, **options: tuple[str, ...]) -> Inspection:
    model = parse(body, WEIGHTS, outputs="float[N,10] y")
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.save(model, folder / "net.onnx")
    return inspect(folder / "net.onnx", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("keep", "tanh"), [((), "refused"), (("Tanh",), "kept")])
def test_every_node_has_a_part(tmp_path: Path, keep: tuple[str, ...], tanh: str) -> None:
    found = inspected(tmp_path, keep_analog=keep)
    assert {part.name: part.role for part in found.parts} == {
        "a": "input",
        "b": "neuron",
        "t": tanh,
        "p": "pool",
        "c": "synapse",
        "d": "neuron",
        "e": "synapse",
        "f": "synapse",
        "y": "head",
    }
    assert found.convertible is (tanh == "kept")
    assert [where for where, _ in found.refused] == ["Tanh 't' (input Nx4x6x6)"] * (tanh == "refused")
    assert ("--keep-analog Tanh" in found.hint) is (tanh == "refused")


def test_the_facts(tmp_path: Path) -> None:
    found = inspected(tmp_path)
    assert (found.name, found.opset, found.nodes) == ("net", 20, 9)
    assert found.parameters == sum(w.numel() for w in WEIGHTS.values())
    assert found.inputs == {"x": "Nx3x8x8"}
    assert found.outputs == {"y": "Nx10"}
    assert found.neurons == 4 * 6 * 6 + 4 * 3 * 3


def test_kinds_are_counted_in_the_order_of_the_roles(tmp_path: Path) -> None:
    rows = inspected(tmp_path).kinds()
    assert rows[0] == ("neuron", "IntegrateFire", 2)
    assert [role for role, _, _ in rows] == sorted((role for role, _, _ in rows), key=list(ROLES).index)


def test_a_network_with_unknown_operators_still_tells_its_facts(tmp_path: Path) -> None:
    found = inspected(tmp_path, "a = Det(x) b = NonZero(a) y = Cast <to = 1> (b)")
    assert not found.convertible
    assert found.parts == ()
    assert found.nodes == 3
    assert found.inputs == {"x": "Nx3x8x8"}
    assert [where.split()[0] for where, _ in found.refused] == ["Det", "NonZero"]
    assert "--output NAME" in found.hint
