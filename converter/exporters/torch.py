"""The spiking network as a file to read and to run: `model.py`, which needs torch and nothing of ours.

It does, line by line and bit by bit, what the model in memory does: the sources of the neurons are copied in
as they stand, every other node is the expression its op gives (`Op.code`). Names come from the ONNX file, so
all that goes into code is an identifier first, and all that goes into text is made harmless.
"""

from __future__ import annotations

import builtins
import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from converter import schedules
from converter.cumulative import telescope, telescope_mean
from converter.exporters import _words as words
from converter.exporters._layout import fold, shorten
from converter.exporters._templates import environment
from converter.first_spike import FirstSpikeModel
from converter.graph import BATCH, Input, Node, batch_axes, show_shape
from converter.neurons import Neuron
from converter.pipelined import PipelinedModel
from converter.report import Report
from converter.stateful import Stateful

# Names with a meaning of their own in the emitted file: a value of the network called so gets an underscore.
_TAKEN = frozenset(dir(builtins)) | {
    *(
        "torch",
        "F",
        "nn",
        "Tensor",
        "Any",
        "Path",
        "Callable",
        "State",
        "Sums",
        "Model",
        "Parameters",
        "load",
        "WEIGHTS",
    ),
    *(
        "self",
        "x",
        "state",
        "spikes",
        "currents",
        "timesteps",
        "generator",
        "readout",
        "readouts",
        "s",
        "time",
        "counted",
        "drawn",
        "each",
        "views",
    ),
}


def source(model: schedules.Model, report: Report | None = None) -> str:
    """The text of `model.py`; with a report its head says where the network came from and what it expects."""
    writer, plan = _Writer.of(model), model.plan
    functions = [inspect.getsource(f).rstrip() for f in writer.functions()]
    lines = {
        "layers": [row for n in model.graph if n.op.tensors() for row in writer.layer(n)],
        **(writer.windows() if writer.pipelined else writer.steps()),
    }
    everything = "\n".join([*functions, *itertools.chain(*lines.values())])
    template = environment(html=False).get_template("model.py.jinja")
    return template.render(
        **lines,
        functions=functions,
        uses=lambda name: re.search(rf"\b{name}\b", everything) is not None,
        title=_plain(model.graph.name),
        maker=_plain(words.maker(report)) if report else "ann2snn",
        notes=[(key, _plain(note)) for key, note in _notes(report)] if report else [],
        neurons=sorted({n.op.kind for n in model.neurons}),
        encoding=type(model.encoding).__name__.lower(),
        constant=model.encoding.constant,
        encode=writer.encode(),
        pipelined=writer.pipelined,
        once=isinstance(model, FirstSpikeModel),
        offset=writer.offset,
        delay=model.delay,
        timing=[_plain(each) for each in schedules.words(model)],
        seed=model.seed,
        inputs=[(_plain(n.name), writer.local[n], show_shape(n.shape)) for n in model.graph.inputs],
        outputs=[(_plain(n.name), writer.local[n], show_shape(n.shape)) for n in model.graph.outputs],
        frontier=[writer.local[n] for n in plan.frontier],
        examples=[f"torch.rand({_example(n)})" for n in model.graph.inputs],
        timesteps=report.curve[-1].timesteps if report and report.curve else 32,
    )


def tensors(model: schedules.Model) -> dict[str, Tensor]:
    """The contents of `weights.safetensors`: every parameter as `layer.field`, each in memory of its own."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


@dataclass(frozen=True)
class _Writer:
    """Turns nodes into lines. `local` names the variable that holds a node's value."""

    model: schedules.Model
    local: dict[Node, str]

    @staticmethod
    def of(model: schedules.Model) -> _Writer:
        taken = (
            _TAKEN | {f.__name__ for f in _kernels(model)} | {"telescope", "telescope_mean", "fire_window"}
        )
        names = ((n, model.names[n.name]) for n in model.graph)
        local = {n: f"{name}_" if name in taken else name for n, name in names}
        if len(model.graph.inputs) == 1:
            local[model.graph.inputs[0]] = "x"
        return _Writer(model, local)

    @property
    def pipelined(self) -> bool:
        """Whether the file runs window by window."""
        return isinstance(self.model, PipelinedModel)

    @property
    def offset(self) -> int | None:
        """After how many steps each layer begins to fire, where that is not a window."""
        return self.model.code.offset if isinstance(self.model, FirstSpikeModel) else None

    def attribute(self, node: Node) -> str:
        return f"self.{self.model.names[node.name]}"

    def functions(self) -> Iterator[Callable[..., Any]]:
        """The functions of ours that the file holds a copy of, in the order of their use."""
        yield from _kernels(self.model)
        if self.pipelined:
            return
        told = [n for n in self.model.plan.step if n in self.model.plan.cumulative]
        if any(n.op.homogeneous for n in told):
            yield telescope
        if any(not n.op.homogeneous for n in told):
            yield telescope_mean

    def layer(self, node: Node) -> list[str]:
        """The line of the constructor that makes room for a node's parameters."""
        made = node.op.module()
        if made:
            return fold(f"{self.attribute(node)} = {shorten(made)}", 8)
        rooms = ", ".join(f"{name}={_room(t)}" for name, t in node.op.tensors().items())
        return fold(f"{self.attribute(node)} = Parameters({rooms})", 8)

    def initial(self, node: Node) -> list[str]:
        """The entry of the state a simulation starts with, for nodes that have a state."""
        if isinstance(node.op, Stateful):
            return fold(f'"{self.local[node]}": {node.op.code_init(self.attribute(node))},', 12)
        return [f'            "{self.local[node]}": None,'] if node in self.model.plan.cumulative else []

    def value(self, node: Node) -> list[str]:
        """The line that computes a node's value, with its shape beside it; an input's is given."""
        if isinstance(node.op, Input):
            return []
        name, given = self.local[node], [self.local[i] for i in node.inputs]
        shape = f"  # {show_shape(node.shape)}"
        own = f'state["{name}"]'
        if isinstance(node.op, Stateful):
            return fold(f"{own}, {name} = {self.code(node, own, *given)}{shape}", 8)
        if node in self.model.plan.cumulative:
            held = [f"s{i}" for i in range(len(given))] if len(given) > 1 else ["s"]
            function = f"lambda {', '.join(held)}: {self.code(node, *held)}"
            kind, time = ("telescope", []) if node.op.homogeneous else ("telescope_mean", ['state["time"]'])
            arguments = ", ".join([function, own, *time, *given])
            return fold(f"{own}, {name} = {kind}({arguments}){shape}", 8)
        return fold(f"{name} = {self.code(node, *given)}{shape}", 8)

    def code(self, node: Node, *inputs: str) -> str:
        """The op's expression, its strings in double quotes as everywhere in the file."""
        return node.op.code(self.attribute(node), *inputs).replace("'", '"')

    def kept(self) -> list[Node]:
        """The static values that the steps or the read-out use, in order."""
        plan = self.model.plan
        used = {i for n in plan.step for i in n.inputs} | set(plan.frontier)
        return [n for n in plan.static if n in used]

    def together(self, nodes: list[Node]) -> str:
        """The values of `nodes` as a tuple."""
        return f"({', '.join(self.local[n] for n in nodes)}{',' * (len(nodes) == 1)})"

    def mean(self, node: Node) -> list[str]:
        """The lines that turn a value of this step into its mean over all steps so far."""
        name = self.local[node]
        total = f'state["{name}.sum"]'
        if self.model.delay:
            first = f"{name} if counted == 1 else {total} + {name}"
            return [*fold(f"{total} = {first}", 8), *fold(f"{name} = {total} / counted", 8)]
        return [*fold(f"{total} = {total} + {name}", 8), *fold(f'{name} = {total} / state["time"]', 8)]

    def outputs(self) -> str:
        """The network's outputs: the variable of one, several as a tuple."""
        outputs = list(self.model.graph.outputs)
        return self.local[outputs[0]] if len(outputs) == 1 else self.together(outputs)

    def steps(self) -> dict[str, list[str]]:
        """The parts of a model that runs step by step."""
        plan = self.model.plan
        return {
            "static": [row for n in plan.static for row in self.value(n)],
            "states": [row for n in plan.step for row in self.initial(n)],
            "steps": [row for n in plan.step for row in self.value(n)],
            "head": [row for n in plan.head for row in self.value(n)],
            "fired": self.fired(),
            "hand_over": fold(f"return {self.together(self.kept())}", 8),
            "take_over": fold(f"{self.together(self.kept())} = currents", 8),
            "reading": [row for n in plan.frontier for row in self.mean(n)],
            "answer": fold(f"return {self.outputs()}, state", 8),
        }

    def windows(self) -> dict[str, list[str]]:
        """The parts of a model that runs window by window: from the mean input of a window to the answer."""
        rows = [row for n in self.model.graph for row in self.windowed(n)]
        if self.offset:
            ends = [self.local[n] for n in dict.fromkeys(self.model.graph.outputs)]
            starts = [self.local[n] for n in self.model.graph.inputs]
            rows = [
                f"        views = timesteps - {self.offset} + 1",
                *(f"        {name} = torch.cat([{name}] * views)" for name in starts),
                *rows,
                *(f"        {name} = {name}.chunk(views)[-1]" for name in ends),
            ]
        return {"window": [*rows, *fold(f"return {self.outputs()}", 8)]}

    def windowed(self, node: Node) -> list[str]:
        """The line that computes a node's mean over a window; an input's is given."""
        if isinstance(node.op, Input):
            return []
        name, shape = self.local[node], show_shape(node.shape)
        if not isinstance(node.op, Neuron):
            return fold(f"{name} = {self.code(node, *(self.local[i] for i in node.inputs))}  # {shape}", 8)
        own, current = self.attribute(node), self.local[node.inputs[0]]
        call = node.op.code_window(own, current).replace("'", '"')
        return fold(f"{name} = {call}  # {shape}", 8)

    def fired(self) -> list[str]:
        names = [self.local[n] for n in self.model.neurons]
        return fold(f"spikes.update({', '.join(f'{n}={n}' for n in names)})", 12) if names else []

    def encode(self) -> str:
        """The expression that encodes one input for one step; empty when the encoding is the identity."""
        encoding = self.model.encoding
        if encoding.kernel is None:
            return ""
        settings = [repr(getattr(encoding, f.name)) for f in fields(encoding)]
        return f"{encoding.kernel.__name__}(%s, {', '.join(['generator', *settings])})"


def _kernels(model: schedules.Model) -> list[Callable[..., Any]]:
    """The functions of the ops with a state and of the encoding, each once."""
    stateful = [n.op for n in model.plan.step if isinstance(n.op, Stateful)]
    kernels: list[Callable[..., Any]] = []
    for op in stateful:
        windowed = isinstance(model, PipelinedModel) and isinstance(op, Neuron)
        kernels += op.window_functions if windowed and isinstance(op, Neuron) else (op.kernel,)
    if model.encoding.kernel is not None:
        kernels.append(model.encoding.kernel)
    return list(dict.fromkeys(kernels))


def _room(tensor: Tensor) -> str:
    """An expression for a tensor of this shape and type, to be filled when weights are loaded."""
    kind = "" if tensor.is_floating_point() else f", dtype={tensor.dtype}"
    return f"torch.zeros({tuple(tensor.shape)}{kind})"


def _example(node: Node) -> str:
    """The numbers of an input's shape, for a batch of one."""
    return ", ".join(str(d // BATCH if batch_axes((d,)) else d) for d in node.shape)


def _plain(text: object) -> str:
    """`text` as part of a docstring: one line, no escape, no quote that could end it."""
    flat = "".join(sign if sign.isprintable() else " " for sign in str(text))
    return " ".join(flat.split()).replace("\\", "/").replace('"', "'")


def _notes(report: Report) -> Iterator[tuple[str, str]]:
    """What the head of the file says of its origin, a line each."""
    yield "Source", f"{report.model.file}, SHA-256 {report.model.sha256}"
    yield "Expects", f"input with {words.value('preprocessing', report.data.preprocessing)}"
    yield "Result", words.headline(report)
