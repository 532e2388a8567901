"""A whole window at once: a neuron that has integrated T steps of its current, and then fires for T steps.

    charge T·z̄, z̄ the mean current of the window;  spikes of the window: scan(init, [T·z̄, 0, 0, …])

Nothing arrives while it fires, so the order in which its current came in does not matter: its mean over the
window is the clip-quantised activation θ·parts/n · clip(⌊n·z̄/(θ·parts) + ½⌋, 0, n), n = T·parts, without the
error of uneven arrival (parallel conversion: Hao et al., ICML 2025, has the same counts). A network of such
layers is its ANN with each activation replaced by this one: `windowed`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from converter.errors import UsageError
from converter.graph import Graph, Node, Op
from converter.neurons import Neuron
from converter.neurons.leaky import Leaky
from converter.stateful import Stateful


@dataclass(frozen=True, eq=False)
class Window(Op):
    """What `neuron` says in a window of `timesteps` steps of the mean current of the window before."""

    neuron: Neuron
    timesteps: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.neuron.window(inputs[0], self.timesteps)


def windowed(graph: Graph, timesteps: int) -> Graph:
    """The network whose values are the window means of the spiking `graph`, run layer after layer.

    Raises `UsageError` for what has no meaning there: see `refuse_unfit`.
    """
    refuse_unfit(graph)

    def rule(node: Node) -> Node:
        return replace(node, op=Window(node.op, timesteps)) if isinstance(node.op, Neuron) else node

    return graph.map(rule)


def refuse_unfit(graph: Graph) -> None:
    """`UsageError` naming the first op of `graph` with a state that cannot work window by window."""
    for node in graph:
        if isinstance(node.op, Neuron) and getattr(node.op, "reset", "soft") == "hard":
            raise UsageError(
                f"{node.where} resets to zero, which the schedule pipelined cannot have",
                why="the first spike of a window would lose the charge of all of it",
                hint="--reset soft, or --schedule stream",
            )
        if isinstance(node.op, Leaky) and node.op.leak < 1:
            raise UsageError(
                f"{node.where} leaks, which the schedule pipelined cannot have",
                why="the charge of a whole window would leak away while it fires",
                hint="--leak 1, or --schedule stream",
            )
        if isinstance(node.op, Stateful) and not isinstance(node.op, Neuron):
            raise UsageError(
                f"{node.where} works step by step, and the schedule pipelined window by window",
                hint="leave it out: where every window is whole, uneven arrival is no error; "
                "or --schedule stream",
            )


def stages(graph: Graph) -> dict[Node, int]:
    """In which window, counted from that of the image, each value is there; what needs no input has none.

    The image and what is linear in it: 0. A layer of neurons: one later than its input.
    """
    found: dict[Node, int] = dict.fromkeys(graph.inputs, 0)
    for node in graph:
        if reached := [found[i] for i in node.inputs if i in found]:
            found[node] = max(reached) + isinstance(node.op, Neuron)
    return found


@dataclass(frozen=True)
class Wait:
    """A branch that meets a longer one: `source` waits in a buffer for `windows`, until `reader` reads it."""

    source: Node
    reader: Node
    windows: int


def waits(graph: Graph) -> tuple[Wait, ...]:
    """Every value that must be kept for whole windows, so that all that an op reads is of the same image."""
    found, kept = stages(graph), []
    for node in graph:
        sources = [i for i in dict.fromkeys(node.inputs) if i in found]
        last = max((found[i] for i in sources), default=0)
        kept += [Wait(i, node, last - found[i]) for i in sources if found[i] < last]
    return tuple(kept)
