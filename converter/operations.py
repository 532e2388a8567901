"""What a run costs: synaptic operations, and the energy of their arithmetic.

Names follow NeuroBench (Yik et al., Nat. Commun. 2025). A synaptic operation is one non-zero input reaching
one non-zero weight: an addition (AC) where the input is a spike, a multiplication and addition (MAC) where
it is analog. Counts are exact: a border pixel reaches fewer weights than one in the middle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from converter.energy import costs, counts_of
from converter.errors import Refusal
from converter.graph import Node, batch_axes, size_of
from converter.ops import Conv, ConvTranspose, Linear
from converter.quantise import weight_bytes
from converter.spiking import SpikingModel

PICOJOULE_MAC = 4.6
PICOJOULE_AC = 0.9
ENERGY_ASSUMPTION = (
    "45 nm CMOS, 32-bit floating point: 4.6 pJ for a multiply-accumulate, 0.9 pJ for an accumulate "
    "(Horowitz, ISSCC 2014); arithmetic only, memory traffic not included; "
    "the analog first layer is computed once an image; "
    "a spike of several levels counts as one accumulate for each of its bits, a burst as all of its spikes"
)


def saved(graph: Iterable[Node]) -> int:
    """The bytes by which weights held as codes are smaller than as floats."""
    nodes = [n for n in graph if isinstance(n.op, Conv | ConvTranspose | Linear) and n.op.packed is not None]
    return sum(4 * n.op.tensors()["weight"].numel() for n in nodes) - weight_bytes(nodes)


def fan_out_of(node: Node) -> Tensor:
    """How many non-zero weights each input of a synapse reaches: the input's shape, 1 where the batch is."""
    ones = node.op.map_tensors(lambda t: (t != 0).to(t.dtype))
    assert isinstance(ones, Conv | ConvTranspose | Linear)
    batch = batch_axes(node.inputs[0].shape)
    shape = [1 if i in batch else d for i, d in enumerate(node.inputs[0].shape)]
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.zeros(shape, device=ones.weight.device, dtype=ones.weight.dtype, requires_grad=True)
        replace(ones, bias=None, weight=ones.weight.clone())(x).sum().backward()
    if x.grad is None:
        raise Refusal("reaches no weight")
    return x.grad


def macs_of(nodes: Iterable[Node]) -> float:
    """Multiply-accumulates of these nodes for one sample of the ANN (weights that are zero left out)."""
    total = 0.0
    for node in nodes:
        if isinstance(node.op, Conv | ConvTranspose | Linear):
            shape = node.inputs[0].shape
            rows = size_of(tuple(shape[i] for i in batch_axes(shape)))  # 12 of a sample, where it is 12N
            total += rows * float(fan_out_of(node).sum(dtype=torch.float64))
    return total


def microjoules(accumulates: float, multiplications: float) -> float:
    """The energy of so many ACs and MACs, in µJ, under `ENERGY_ASSUMPTION`."""
    return (accumulates * PICOJOULE_AC + multiplications * PICOJOULE_MAC) * 1e-6


def summary(
    model: SpikingModel,
    ann: Iterable[Node],
    spikes_per_neuron: float,
    active: float,
    operations: float,
    timesteps: int,
) -> dict[str, Any]:
    """The NeuroBench metrics of a run, for one sample, beside what its ANN costs.

    `active`: steps in which a neuron is not silent; `operations`: accumulates at all weights reached.
    """
    tensors = [t for node in model.graph for t in node.op.tensors().values()]
    weights = [n.op.weight for n in model.graph if isinstance(n.op, Conv | ConvTranspose | Linear)]
    macs_ann, macs_static = macs_of(ann), macs_of(model.plan.static)
    neurons = sum(size_of(n.shape) for n in model.neurons)
    found: dict[str, Any] = {
        "footprint": sum(t.numel() * t.element_size() for t in tensors) - saved(model.graph),
        "connection_sparsity": 1
        - sum(int((w != 0).sum()) for w in weights) / max(sum(w.numel() for w in weights), 1),
        "activation_sparsity": 1 - active / timesteps,
        "neurons": neurons,
        "timesteps": timesteps,
        "spikes_per_neuron": spikes_per_neuron,
        "synaptic_operations": {
            "Dense": macs_of(model.graph) * timesteps,
            "Effective_ACs": operations,
            "Effective_MACs": macs_static,
        },
        "membrane_updates": neurons * timesteps,
        "ann_macs": macs_ann,
    }
    energy = {
        "snn_microjoule": microjoules(operations, macs_static),
        "ann_microjoule": microjoules(0, macs_ann),
        "assumption": ENERGY_ASSUMPTION,
    }
    return {**found, "energy": {**energy, "models": costs(counts_of(found))}}
