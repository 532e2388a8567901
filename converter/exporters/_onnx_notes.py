"""What an exported network says of itself: the metadata of an ONNX file, each entry JSON or a word.

Whoever runs it needs nothing else: the states and what they are before the first step, how many steps, how
the image is prepared, which output is the answer, what a spike is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from converter.exporters._onnx_step import Held
from converter.graph import BATCH, Node, Shape, show_dim
from converter.neurons import Neuron
from converter.schedules import Model

FORMAT = "1"


def notes(model: Model, report: Mapping[str, Any], timesteps: int, form: str) -> dict[str, str]:
    """What holds for every form; `report` is the content of report.json, or empty."""
    told: dict[str, Any] = {
        "ann2snn": FORMAT,
        "form": form,
        "network": model.graph.name,
        "schedule": model.schedule,
        "timesteps": timesteps,
        "delay": model.delay,
        "encoding": type(model.encoding).__name__.lower(),
        "neurons": [_neuron(node) for node in model.neurons],
    }
    if report:
        data = report["data"]
        told |= {"preprocessing": data["preprocessing"], "classes": data["classes"]}
        told |= {"source": report["model"]["file"], "sha256": report["model"]["sha256"]}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}


def _neuron(node: Node) -> dict[str, Any]:
    op = node.op
    assert isinstance(op, Neuron)
    return {
        "name": node.name,
        "kind": op.kind,
        "spikes": op.spikes,
        "reset": getattr(op, "reset", "soft"),
        "threshold": numbers(op.calibrated()),
        "shape": dims(node.shape),
    }


def states(held: Sequence[Held]) -> str:
    """Each state: its name, the output that is its next value, its shape, and what it is before step 1."""
    return json.dumps(
        [
            {"name": h.name, "next": h.next, "shape": dims(h.shape), "initial": numbers(h.initial)}
            for h in held
        ]
    )


def dims(shape: Shape) -> list[int | str]:
    """A shape with N where the batch is."""
    return [d if d < BATCH else show_dim(d) for d in shape]


def numbers(value: Tensor) -> Any:
    """A tensor as nested lists that broadcast as it does; one number where all are the same."""
    array = value.detach().cpu().numpy()
    if array.size and (array == array.flat[0]).all():
        return _shortest(array.flat[0])
    shortened: Any = np.vectorize(_shortest, otypes=[float])(array).tolist()
    return shortened


def _shortest(number: Any) -> float:
    """The decimal number with the fewest digits that is this float32."""
    return float(str(np.float32(number)))
