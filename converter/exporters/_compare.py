"""A program that does one step, beside the model in memory: each step from the same states.

One spike that rounding has moved is counted once, and not also all that follows from it: in this step the
layers behind it, and the answer, are not compared. That is fair only if it happens now and then. Where fewer
than half of the steps are whole, with no spike moved, nothing is left out, and the networks are not the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from converter.exporters._check import SAME, Check, apart
from converter.exporters._onnx_step import Step
from converter.graph import BATCH, Graph, Node
from converter.rate import RateModel
from converter.spiking import State

Tensors = Sequence[Tensor]
Told = Callable[[tuple[Tensor, ...], dict[str, Tensor]], tuple[Tensors, Tensors]]
"""(inputs, states by name) of a step -> (its answers, the spikes of its layers), in order."""


def compare_steps(where: str, told: Told, model: RateModel, x: tuple[Tensor, ...], timesteps: int) -> Check:
    """What `told` says of every step, beside what `model` says."""
    step, state, batch = Step.of(model), State(), len(x[0])
    shapes = {h.name: [batch * (d // BATCH) if d >= BATCH else d for d in h.shape] for h in step.all}
    behind = layers_ahead(model.graph, model.neurons)
    counted = differing = everything = moved = whole = 0
    worst = 0.0
    heard: dict[Node, Tensor] = {}
    with torch.inference_mode():
        for frame, currents, _ in zip(model.encoded(x), model.each_step(x), range(timesteps), strict=False):
            answers, spikes = told(frame, step.values(state, shapes))
            readout, state = model.advance(currents, state, heard.__setitem__)
            apart_now: set[Node] = set()
            for node, other in zip(model.neurons, spikes, strict=True):
                differ = int((other != heard[node]).sum())
                everything, moved = everything + other.numel(), moved + differ
                if not apart_now & behind[node]:
                    counted, differing = counted + other.numel(), differing + differ
                    apart_now |= {node} if differ else set()
            if not apart_now:
                whole += 1
                worst = max(worst, *(apart(mine, a) for mine, a in zip(readout, answers, strict=True)))
    if 2 * whole < timesteps:
        return Check(where, batch, timesteps, float("inf"), everything, moved, SAME)
    return Check(where, batch, timesteps, worst, counted, differing, SAME)


def layers_ahead(graph: Graph, layers: Sequence[Node]) -> dict[Node, frozenset[Node]]:
    """For each of `layers` those of them that it hears of within a step."""
    found: dict[Node, frozenset[Node]] = {}
    for node in graph.order:
        mine = (found[source] | {source} & {*layers} for source in node.inputs)
        found[node] = frozenset().union(*mine)
    return {layer: found[layer] for layer in layers}
