"""The network in C: one .c and one .h, whole numbers and static memory alone, for microcontrollers.

FOLDER/NAME.c and NAME.h, NAME being that of the folder. It is the integer program (`converter.program`) for
one image, and spikes as `converter.integer` does, one by one; what has a type of 32 bits has been proven to
fit it for as many steps as the header says.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converter.exporters._c_network import Network, network, types
from converter.exporters._c_run import Sizes, compiler, run
from converter.exporters._c_text import identifier, kind, said
from converter.exporters._check import Check, Order
from converter.exporters._templates import environment
from converter.exporters._whole import length, whole
from converter.first_spike import FirstSpikeModel
from converter.integer import IntegerModel
from converter.schedules import Model

MARK = "network.json"
"""The file by which a folder of its is known: what was written, as data."""


def named(order: Order) -> str:
    """The prefix of every function."""
    return identifier(order.name or "network", set())


def made(model: Model, order: Order) -> Network:
    """The network that is written."""
    steps = length(model, order.timesteps)
    return network(whole(model, order.timesteps), named(order), steps, model.delay)


def memory(n: Network) -> str:
    """What it takes, in words."""
    return (
        f"{n.flash:,} bytes of constants (flash, beside the code), {n.ram:,} bytes of state (RAM), for "
        f"{'a single step' if n.steps == 1 else f'up to {n.steps:,} steps'}"
    )


def write(model: Model, order: Order, path: Path) -> None:
    """The two files, in the folder `path`."""
    n = made(model, order)
    prepared: dict[str, Any] = dict(order.report.get("data", {}).get("preprocessing", {}))
    facts = [said(f"{key}: {value}") for key, value in prepared.items() if value not in (None, [], ())]
    if facts:
        facts = ["How x was made of a sample:", *(f"    {fact}" for fact in facts)]
    if n.program.plan.head:
        facts.append("The last softmax is left out: it changes no order.")
    exponents = {i.name: i.exponent for i in n.program.instructions}
    given: dict[str, Any] = {
        "n": n,
        "title": said(n.program.graph.name),
        "shape": "x".join(map(str, n.input.shape[1:])),
        "exponent": n.input.instruction.exponent,
        "out": exponents[n.program.frontier[0]],
        "steps": length(model, order.timesteps),
        "windows": isinstance(model, FirstSpikeModel),
        "facts": facts,
        "memory": memory(n),
        "upper": n.name.upper(),
        "guard": f"{n.name.upper()}_H",
        "sum_type": kind(n.sums.bits),
        "declared": types,
        "small": any(table.bits == 4 for table in n.tables),
    }
    for suffix in ("h", "c"):
        text = environment(html=False).get_template(f"network.{suffix}.jinja").render(given)
        (path / f"{n.name}.{suffix}").write_text(text, encoding="ascii")
    kept = {
        "name": n.name,
        "timesteps": order.timesteps,
        "flash": n.flash,
        "ram": n.ram,
        "most_steps": n.steps,
    }
    told = {**kept, "memory": memory(n), "program": n.program.document()}
    (path / MARK).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def note(path: Path) -> str:
    """What the files take."""
    told: str = json.loads((path / MARK).read_text(encoding="utf-8"))["memory"]
    return told


def sizes(n: Network) -> Sizes:
    """What its runner must know."""
    return Sizes(n.name, n.input.size, n.sums.size, tuple(layer.size for layer in n.neurons))


def pixels_of(n: Network, x: Tensor) -> Tensor:
    """Images as the whole numbers that go in."""
    return (x.double() * 2.0**-n.input.instruction.exponent + 0.5).floor().long().clamp(-n.limit, n.limit)


def expected(n: Network, pixels: Tensor, timesteps: int) -> tuple[Tensor, Tensor]:
    """What `IntegerModel` says: (spikes [image, step, neuron], sums [image, step, output])."""
    heard: dict[str, Tensor] = {}
    x = pixels.double() * 2.0**n.input.instruction.exponent
    told = IntegerModel(n.program).steps(x, listen=heard.__setitem__)
    (read,) = n.program.frontier
    spikes: list[Tensor] = []
    sums: list[Tensor] = []
    for time, _ in enumerate(islice(told, timesteps), 1):
        fired = [heard[layer.instruction.name] for layer in n.neurons]
        spikes.append(torch.cat([s.expand(len(x), *s.shape[1:]).reshape(len(x), -1) for s in fired], 1))
        now = heard[read].reshape(len(x), -1)
        sums.append(now if time <= n.delay + 1 else sums[-1] + now)
    return torch.stack(spikes, 1), torch.stack(sums, 1)


def check(path: Path, model: Model, x: tuple[Tensor, ...], timesteps: int) -> Check:
    """Compiled here, against the integer machine, which is the network spike for spike."""
    compiler()
    kept = json.loads((path / MARK).read_text(encoding="utf-8"))
    n = made(model, Order(kept["timesteps"], name=kept["name"]))
    pixels, timesteps = pixels_of(n, x[0]), length(model, timesteps)
    spikes, sums = run(path, sizes(n), pixels, timesteps)
    wanted, answers = expected(n, pixels, timesteps)
    worst = float((answers - sums).abs().max() / answers.abs().max().clamp_min(1))
    wrong = int((wanted != spikes).sum())
    where = f"{Path(compiler()[0]).name} against whole numbers"
    return Check(where, len(pixels), timesteps, worst, spikes.numel(), wrong, exact=True)
