"""The official ONNX operator cases: each passes, or is refused with our error. None is wrong, none crashes.

A case that is refused as it stands (its weights are inputs, which a network to convert never has) is read
again with every input but the first turned into an initializer. Tolerances are the case's own, or one unit in
the last place where the expected values were rounded to half precision (we compute in float32).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper

from converter import importer
from converter.errors import ConversionError
from converter.graph import Graph

AT_LEAST = 500
HALF = {"float16": 2**-10, "bfloat16": 2**-7}
"""Types narrower than ours -> the distance from 1 to the next number."""


@dataclass
class Tally:
    """What became of the cases, and the names of those that must not be."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)


def frozen(model: ModelProto, arrays: Sequence[Any]) -> ModelProto | None:
    """The model with all inputs but the first as initializers; None when there is nothing to freeze."""
    inputs = list(model.graph.input)
    if len(inputs) < 2 or not all(isinstance(a, np.ndarray | np.generic) for a in arrays):
        return None
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.input[1:]
    for info, value in zip(inputs[1:], arrays[1:], strict=True):
        copy.graph.initializer.append(numpy_helper.from_array(np.asarray(value), info.name))
    return copy


def load(model: ModelProto) -> Graph | None:
    """The graph, or None when it is refused with our error."""
    try:
        return importer.load(model)
    except ConversionError:
        return None


def array(value: Any) -> np.ndarray[Any, Any]:
    """A case's value, some of which are stored as protobufs."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def mistake(graph: Graph, case: Any, inputs: Sequence[Any], expected: Sequence[Any]) -> str:
    """What is wrong with what the graph computes, or "" when it is right."""
    values = [torch.from_numpy(array(a).astype(np.float32)) for a in inputs[: len(graph.inputs)]]
    with torch.no_grad():
        results = graph.run(*values)
    for result, wanted in zip(results, map(array, expected), strict=True):
        if tuple(result.shape) != wanted.shape:
            return f"shape {tuple(result.shape)}, expected {wanted.shape}"
        near = max(case.rtol, HALF.get(wanted.dtype.name, 0))
        want = wanted.astype(np.float32)
        if not np.allclose(result.numpy(), want, rtol=near, atol=max(case.atol, 1e-6), equal_nan=True):
            return f"off by {np.abs(result.numpy() - want).max():.2g}"
    return ""


def judge(case: Any, tally: Tally) -> None:
    """One case, as it is or frozen."""
    inputs, expected = case.data_sets[0]
    for label, model in (("passed", case.model), ("passed, weights frozen", frozen(case.model, inputs))):
        graph = load(model) if model is not None else None
        if graph is None:
            continue
        if wrong := mistake(graph, case, inputs, expected):
            tally.counts["wrong"] += 1
            tally.wrong.append(f"{case.name} ({label}): {wrong}")
        else:
            tally.counts[label] += 1
            tally.passed.add(case.name)
        return
    tally.counts["refused"] += 1


@pytest.fixture(scope="module")
def tally() -> Tally:
    """Every node case, read once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators divide by zero on purpose
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
        result = Tally()
        for case in cases:
            try:
                judge(case, result)
            except Exception as error:  # whatever it is, the test reports it by the case's name
                result.counts["other exception"] += 1
                result.other.append(f"{case.name}: {type(error).__name__}: {error}")
    result.counts["cases"] = len(cases)
    return result


def test_no_case_is_silently_wrong(tally: Tally) -> None:
    assert tally.wrong == []


def test_nothing_but_our_own_errors_is_raised(tally: Tally) -> None:
    assert tally.other == []


def test_at_least_500_cases_pass(tally: Tally, tell: Callable[[str], None]) -> None:
    tell(", ".join(f"{count} {what}" for what, count in sorted(tally.counts.items())))
    assert tally.counts["cases"] > 1800
    assert len(tally.passed) >= AT_LEAST
