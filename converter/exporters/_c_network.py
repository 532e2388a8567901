"""A whole network in C: its functions in order, where their values lie, what all of it takes.

What lives from step to step has an array of its own. The values of a step lie in arrays that are used again
as soon as nothing reads them any more; before the first step the same arrays serve what the image determines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from converter.errors import Refusal, Unsupported
from converter.exporters._bounds import Bound, bounds, width
from converter.exporters._c_layer import Held, Layer
from converter.exporters._c_layers import written
from converter.exporters._c_text import Table, identifier, kind
from converter.exporters._whole import SPIKES, one
from converter.program import Program
from converter.units import INPUT_BITS

LIMITS = (2**15 - 1, 2 ** (INPUT_BITS + 2) - 1, 2 ** (INPUT_BITS + 1) - 1)
"""How large inputs may be: all of 16 bits where that costs no memory, else four times or twice the data's."""
MOST = 2**31 - 1


@dataclass(frozen=True)
class Call:
    """A function and its arguments; `y` last."""

    layer: Layer
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """What the template writes."""

    name: str
    program: Program
    limit: int
    steps: int
    """After so many nothing overflows."""
    layers: tuple[Layer, ...]
    given: tuple[Call, ...]
    """What runs once for an image."""
    step: tuple[Call, ...]
    arrays: tuple[Held, ...]
    """Values of a step, and those of the image that steps read."""
    source: str
    """The array of pixels, and what is read out."""
    readout: str
    sums: Held
    delay: int

    @property
    def neurons(self) -> tuple[Layer, ...]:
        """The functions that fire, in order."""
        return tuple(layer for layer in self.layers if layer.instruction.kind in SPIKES)

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every constant."""
        return tuple(table for layer in self.layers for table in layer.tables)

    @property
    def held(self) -> tuple[Held, ...]:
        """Every array of the memory."""
        return (*self.arrays, *(h for layer in self.layers for h in layer.held), self.sums)

    @property
    def flash(self) -> int:
        """Bytes of constants; the instructions are what the compiler makes of them."""
        return sum(table.bytes for table in self.tables)

    @property
    def ram(self) -> int:
        """Bytes of arrays, and the time."""
        return sum(h.bits // 8 * h.size for h in self.held) + 4

    @property
    def input(self) -> Layer:
        """The image as whole numbers."""
        return self.layers[0]


def network(program: Program, name: str, steps: int, delay: int = 0) -> Network:
    """The network for so many steps, in the least memory. Raises `Unsupported` naming what has no form."""
    made = [built(program, name, steps, delay, limit) for limit in LIMITS]
    return min(made, key=lambda n: n.ram)


def built(program: Program, name: str, steps: int, delay: int, limit: int) -> Network:
    """The network for inputs of at most `limit`."""
    found = bounds(program, limit)
    shapes = {i.name: one(i.shape) for i in program.instructions}
    taken = {"spike"}
    identifier(name, taken)
    layers: dict[str, Layer] = {}
    refused = []
    for instruction in program.instructions:
        if any(i not in layers and i in shapes for i in instruction.inputs):
            continue
        bound = found[instruction.name]
        least = {"input": 16, "weigh": 32}.get(instruction.kind, 8)
        try:
            layer = Layer(
                identifier(f"{instruction.kind}_{instruction.name}", taken),
                instruction,
                width(bound.largest, least),
                tuple(layers[i].bits for i in instruction.inputs if i in layers),
                steps,
                sum(other.instruction.kind in SPIKES for other in layers.values()),
            )
            if instruction.kind == "weigh" and "table" in instruction.settings:
                reads = found[instruction.inputs[0]].largest * 2 * max(instruction.settings["table"])
                layer.bits = max(layer.bits, width(reads))
            given = [i for i in instruction.inputs if i in shapes]
            written(layer, bound, [found[i] for i in given], [shapes[i] for i in given])
        except Refusal as refusal:
            refused.append((f"{instruction.op.kind} '{instruction.name}'", refusal.why))
            continue
        layers[instruction.name] = layer
    if refused:
        raise Unsupported(f"{program.graph.name} is not written in C", refused)
    (read,) = program.frontier
    rising = Bound(found[read].value, 0, found[read].largest)
    sums = Held("sums", width(rising.held(steps), 32), prod(shapes[read]))
    arrays, place = placed(tuple(layers.values()), layers, read)
    calls = [
        Call(layer, (*(place(i) for i in layer.instruction.inputs), place(layer.instruction.name)))
        for layer in layers.values()
        if layer.instruction.kind != "input" and not layer.same
    ]
    most = min(
        [(2 ** (sums.bits - 1) - 1) // max(rising.rise, 1)]
        + [longest(layer, found[layer.instruction.name]) for layer in layers.values()]
    )
    if any(i.kind == "once" for i in program.instructions):
        most = 1  # all windows are in it
    static, step = ([c for c in calls if c.layer.instruction.static is on] for on in (True, False))
    source = place(next(iter(layers)))
    return Network(
        name, program, limit, min(most, MOST), tuple(layers.values()), tuple(static), tuple(step), arrays,
        source, place(read), sums, delay,
    )  # fmt: skip


def longest(layer: Layer, bound: Bound) -> int:
    """The steps after which the states of a layer still fit their types."""
    most = MOST
    for held in layer.held:
        if held.name.endswith("_net"):
            rise, start = int(layer.instruction.settings.get("levels", 1)), 0
        elif held.name.endswith(("_membrane", "_sums", "_before")):
            rise, start = bound.rise, bound.start
        most = min(most, (2 ** min(held.bits - 1, 62) - 1 - start) // max(rise, 1))
    return most


def placed(
    order: Sequence[Layer], layers: dict[str, Layer], read: str
) -> tuple[tuple[Held, ...], Callable[[str], str]]:
    """The arrays of all values, and the array of each by the name of its instruction."""

    def root(name: str) -> str:
        layer = layers[name]
        return root(layer.instruction.inputs[0]) if layer.same else name

    last = dict.fromkeys(layers, -1)
    lasting = {root(read)} if layers[root(read)].instruction.static else set()
    for time, layer in enumerate(order):
        for i in layer.instruction.inputs:
            if i in layers:
                last[root(i)] = time
                if layers[root(i)].instruction.static and not layer.instruction.static:
                    lasting.add(root(i))
    last[root(read)] = max(len(order), last[root(read)])
    sizes: dict[tuple[int, int], int] = {}
    where: dict[str, str] = {}
    for static in (True, False):
        busy: dict[tuple[int, int], int] = {}
        for time, layer in enumerate(order):
            name = layer.instruction.name
            if layer.same or layer.instruction.static is not static:
                continue
            if name in lasting:
                where[name] = f"{layer.name}_values"
                continue
            free = [s for s in sizes if s[0] == layer.bits and busy.get(s, -1) < time]
            fits = [s for s in free if sizes[s] >= layer.size]
            new = (layer.bits, sum(s[0] == layer.bits for s in sizes))
            slot = (
                min(fits, key=lambda s: sizes[s]) if fits else max(free, key=lambda s: sizes[s], default=new)
            )
            sizes[slot] = max(sizes.get(slot, 0), layer.size)
            busy[slot] = max(last[name], time)
            where[name] = f"work{slot[0]}_{slot[1]}"
    arrays = [Held(f"work{bits}_{n}", bits, size) for (bits, n), size in sizes.items()]
    arrays += [Held(f"{layers[n].name}_values", layers[n].bits, layers[n].size) for n in lasting]
    return tuple(arrays), lambda name: where[root(name)]


def types(held: Held) -> str:
    """The declaration of an array."""
    return f"static {kind(held.bits)} {held.name}[{held.size}];"
