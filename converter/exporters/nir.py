"""Neuromorphic Intermediate Representation (.nir): the graph for simulators and chips that read it.

A neuron there emits 1, not its threshold θ: the weights that read it are multiplied by θ. What NIR leaves
open, or says otherwise (its IF goes back to v_reset), is said in the metadata, `conventions`:

    v ← v + R·I each step (dt = 1);  spike where v ≥ v_threshold;  reset subtract: v ← v − v_threshold,
    reset zero: v ← v_reset;  the answer is the mean of the output over the steps

Refused by name: max-pools, neurons that say more than 0 or 1, a bias of its own for each step, and all else
NIR has no node for. Its neurons begin at 0: another first membrane is only said in the metadata of the neuron
(`v_initial`), so it has to be allowed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nir

from converter.errors import Refusal, Unsupported, UsageError
from converter.exporters._check import Check, Order
from converter.exporters._nir_run import check_run
from converter.exporters._nir_scales import without_scales
from converter.exporters._nir_signals import Signals
from converter.graph import Node
from converter.neurons.integrate_fire import IntegrateFire
from converter.rate import RateModel
from converter.schedules import Model

CONVENTIONS = {
    "dt": 1.0,
    "spike": "v >= v_threshold",
    "readout": "mean of the output over the steps",
}


def graph_of(model: Model, allow: tuple[str, ...] = ()) -> nir.NIRGraph:
    """`model` in NIR. Raises `Unsupported` naming every node it cannot say, `UsageError` for a schedule."""
    if not isinstance(model, RateModel) or model.delay or not model.encoding.constant:
        raise UsageError(
            "NIR says what a network does in a step, with the image as a current",
            why="it has no windows, no delay of the read-out, no random input",
            hint="convert with --schedule stream, --delay 0, --encoding current",
        )
    writer = Signals()
    refusals = []
    for node in model.graph:
        try:
            writer.write(node)
            if isinstance(node.op, IntegrateFire) and "initial-membrane" not in allow:
                begins_at_zero(node)
        except Refusal as refusal:
            why = f"{refusal.why} ({refusal.hint})" if refusal.hint else refusal.why
            refusals.append((node.where, why))
            writer.stand_in(node)
    if refusals:
        count = len(refusals)
        raise Unsupported(
            f"{model.graph.name} has {count} node{'s' * (count > 1)} that NIR cannot say", refusals
        )
    for place, output in enumerate(model.graph.outputs):
        writer.output(output, "output" if len(model.graph.outputs) == 1 else f"output_{place}")
    resets = {n.op.reset for n in model.neurons if isinstance(n.op, IntegrateFire)}
    said = CONVENTIONS | {"reset": "subtract" if resets == {"soft"} else "zero"}
    nodes, edges = without_scales(writer.nodes, writer.edges)
    return nir.NIRGraph(nodes, edges, metadata={"conventions": json.dumps(said)})


def begins_at_zero(node: Node) -> None:
    """Raise `Refusal` where the first membrane is not 0."""
    if bool((node.op.init()[0] != 0).any()):  # type: ignore[attr-defined]
        raise Refusal(
            "begins with charge in its membrane, NIR's neurons at 0",
            "convert with --initial 0, or --allow initial-membrane, which says it in the metadata",
        )


def write(model: Model, order: Order, path: Path) -> None:
    """The file of `graph_of`."""
    if len(model.graph.inputs) != 1:
        raise UsageError(f"{model.graph.name} has {len(model.graph.inputs)} inputs; NIR is written for one")
    made = graph_of(model, order.allow)
    made.metadata |= {"timesteps": order.timesteps}
    nir.write(str(path), made)


def check(path: Path, model: Model, x: tuple[Any, ...], timesteps: int) -> Check:
    """In our own reader of NIR, which does what the conventions say."""
    assert isinstance(model, RateModel)
    return check_run(nir.read(str(path)), model, x[0], timesteps)
