"""Conversion-aware training for first-spike codes: learning with the value that a single spike can carry.

    relu    a = max(z, 0)
    clip    a = clamp(z, 0, λ)
    spikes  a = λ · κ(k), k the first step of the window with z ≥ λ · ϑ(k), κ(k) = 2^(−k/τ)
    weights the same, and weights as the format leaves them

One after the other (Lew et al., DAC 2022): what a spike can say is only asked for when the network has
settled. Gradients pass the spike straight through where 0 < z < λ, also below the smallest value of the
window, where a unit would otherwise stay silent for good. The first-spike network of this window, τ and
scale λ says what the network said in its last phase: nothing is lost by the conversion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from calibrators.training import Phase, clipped, recipes, straight_through
from converter import kernels
from converter.errors import Unsupported, UsageError
from converter.graph import Graph
from converter.neurons.negative_slope import NegativeSlope
from converter.ops import ConvTranspose
from converter.weights import FLOAT, fake, parse


@recipes.register
@dataclass(frozen=True)
class Cat:
    """`window` T in steps, `tau` (None: T/6, a range of 2^-6 as in the paper), `coder` of the spike times.

    `spiking_input`: the image comes in as spikes of either sign too, from the third phase, and not as it is.

    `phases`: the shares of the training at which clip, spikes and weights begin. `weights`: their format in
    the last phase, such as `log2:5`, or None for floating point.
    """

    window: int = 24
    tau: float | None = None
    coder: str = "round"
    phases: tuple[float, ...] = (0.1, 0.4, 0.6)
    weights: str | None = None
    spiking_input: bool = False
    decay: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Raise `UsageError` for a window, or phases, that cannot be."""
        if self.window < 2 or (self.tau is not None and not self.tau > 0):
            raise UsageError("a first-spike window has at least 2 steps, and its tau lies above 0")
        if self.coder not in kernels.CODERS:
            raise UsageError(f"there is no coder {self.coder!r}", hint=", ".join(kernels.CODERS))
        if len(self.phases) != 3 or list(self.phases) != sorted(self.phases) or not self.phases[0] >= 0:
            raise UsageError(
                f"the phases are {', '.join(map(str, self.phases))}",
                hint="three shares of the training, ascending: where clip, spikes and weights begin",
            )
        parse(self.weights or FLOAT)

    def refuse(self, graph: Graph) -> None:
        """A neuron that says negative values too has no first spike."""
        found = [node for node in graph if isinstance(node.op, NegativeSlope)]
        if found:
            raise Unsupported(
                f"a first spike cannot say {len(found)} activation{'s' * (len(found) > 1)} of {graph.name}",
                [
                    (node.where, "it has values below zero, and a spike has a time and no sign")
                    for node in found
                ],
                hint="train it with Relu there, or use a recipe for rates: qcfs, tcl",
            )

    def phase(self, progress: float) -> Phase:
        """Relu, clip, spikes, weights."""
        clip, spikes, weights = self.phases
        encode = self.encoded if self.spiking_input else None
        if progress < clip:
            return Phase("relu", unclipped)
        if progress < spikes:
            return Phase("clip", clipped)
        if progress < weights or self.weights is None:
            return Phase("spikes", self.spiked, encode)
        return Phase(f"spikes, weights {self.weights}", self.spiked, encode, self.faked)

    def spiked(self, z: Tensor, threshold: Tensor) -> Tensor:
        """What a neuron that integrated z says by its one spike; `threshold` is λ, the scale of the layer."""
        with torch.no_grad():
            said = kernels.quantise(z, threshold, self.time_constant, self.window, self.coder)
        share = (z / threshold).clamp(0, 1)
        return straight_through(threshold * straight_through(share, said / threshold), said)

    def encoded(self, x: Tensor, peak: Tensor) -> Tensor:
        """The input as spikes of either sign on the scale of its largest magnitude."""
        said = kernels.quantise(x.abs(), peak, self.time_constant, self.window, self.coder)
        return torch.copysign(said, x)

    def faked(self, op: Any, weight: Tensor) -> Tensor:
        """The weight of `op` in its format, with the gradient of the weight itself."""
        form = parse(self.weights or FLOAT)
        if form is None:
            return weight
        transposed = op.groups if isinstance(op, ConvTranspose) else 0
        return straight_through(weight, fake(weight.detach(), form, transposed))

    @property
    def time_constant(self) -> float:
        """τ in steps."""
        return self.window / 6 if self.tau is None else self.tau


def unclipped(z: Tensor, threshold: Tensor) -> Tensor:
    """max(z, 0), whatever λ."""
    return torch.relu(z) + 0 * threshold
