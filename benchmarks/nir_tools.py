"""Run a NIR file in somebody else's tool, in whichever interpreter has it; needs nothing of this project.

    python nir_tools.py TOOL[:adjusted] FILE.nir IMAGES.npy TIMESTEPS ANSWERS.npy

Every image is a current, the same in each of so many steps; the answers are the outputs' mean over the steps.
`adjusted` says to the tool what the file's conventions say and it does not read: how to reset, no leak, one
spike a step; and loads with nirtorch's present loader where the tool uses the one that is given up. One line
of JSON goes to standard output: the versions.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from importlib.metadata import version
from typing import Any

import nir
import numpy as np
import torch

Runner = Callable[[torch.Tensor, int], torch.Tensor]


def norse(graph: Any, adjusted: bool) -> Runner:
    """Its IF is set to 0 and has no other reset; its loader, nirtorch.load, takes branches in wrong order."""
    import norse.torch
    from norse.torch.utils.import_nir import _import_norse_module

    if not adjusted:
        return stepped(norse.torch.from_nir(graph, ignore_warnings=True))
    return stepped(in_order(graph, partial(_import_norse_module, ignore_warnings=True)))


def snntorch(graph: Any, adjusted: bool) -> Runner:
    """Its IF is loaded as a leaky neuron (beta 0.9) that gives its membrane on with its spikes."""
    from snntorch import Leaky
    from snntorch.import_nir import import_from_nir

    with redirect_stdout(sys.stderr):
        module = import_from_nir(graph)
    for part in module.modules():
        if adjusted and isinstance(part, Leaky):
            part.init_hidden, part.beta = True, torch.ones_like(torch.as_tensor(part.beta))
            part.reset_mechanism = "subtract" if subtracts(graph) else "zero"

    run = stepped(module)

    def fresh(image: torch.Tensor, timesteps: int) -> torch.Tensor:
        for part in module.modules():
            if isinstance(part, Leaky):
                part.reset_mem()
        return run(image, timesteps)

    return fresh


def spikingjelly(graph: Any, adjusted: bool) -> Runner:
    """Its IF goes to v_reset, or down by the threshold where that is None."""
    from spikingjelly.activation_based.neuron import IFNode
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    module = import_from_nir(graph, dt=1.0)
    for part in module.modules():
        if adjusted and subtracts(graph) and isinstance(part, IFNode):
            part.v_reset = None
    return stepped(module)


def sinabs(graph: Any, adjusted: bool) -> Runner:
    """Its IF is reset by subtraction, spikes more than once a step, and stops at minus its threshold."""
    import sinabs.nir
    from sinabs.activation import MembraneReset, SingleSpike
    from sinabs.layers import IAFSqueeze

    def run(image: torch.Tensor, timesteps: int) -> torch.Tensor:
        for node in graph.nodes.values():
            if isinstance(node, nir.IF):
                node.v_threshold = torch.as_tensor(node.v_threshold)
        sizes = {"batch_size": 1, "num_timesteps": timesteps}
        if adjusted:
            module = in_order(graph, partial(sinabs.nir._import_sinabs_module, **sizes))
        else:
            module = sinabs.nir.from_nir(graph, **sizes)
        for part in module.modules():
            if adjusted and isinstance(part, IAFSqueeze):
                part.spike_fn, part.min_v_mem = SingleSpike, None
                part.reset_fn = part.reset_fn if subtracts(graph) else MembraneReset()
        answer = module(image.expand(timesteps, *image.shape[1:]))
        return first(answer).reshape(timesteps, -1).mean(0)

    return run


def subtracts(graph: Any) -> bool:
    """Whether the file's conventions say that a spike takes the threshold from the membrane."""
    said: str = json.loads(graph.metadata["conventions"])["reset"]
    return said == "subtract"


def in_order(graph: Any, module_of: Callable[[Any], torch.nn.Module]) -> torch.nn.Module:
    """The tool's own modules in nirtorch's present loader, which takes branches in the right order."""
    from nirtorch import nir_to_torch

    kinds = {type(node) for node in graph.nodes.values()} - {nir.Input, nir.Output}
    loaded: torch.nn.Module = nir_to_torch(graph, dict.fromkeys(kinds, module_of))
    return loaded


def stepped(module: torch.nn.Module) -> Runner:
    """A module that is called once a step and gives (output, state)."""

    def run(image: torch.Tensor, timesteps: int) -> torch.Tensor:
        state, total = None, torch.zeros(())
        for _ in range(timesteps):
            output, state = module(image, state)
            total = total + output.reshape(-1)
        return total / timesteps

    return run


def first(value: Any) -> torch.Tensor:
    """The tensor of a tensor, or of a tuple of it and states."""
    tensor: torch.Tensor = value[0] if isinstance(value, tuple) else value
    return tensor


TOOLS = {"norse": norse, "snntorch": snntorch, "sinabs": sinabs, "spikingjelly": spikingjelly}


def main(tool: str, file: str, images: str, timesteps: str, answers: str) -> None:
    """One image at a time: some of the tools flatten the batch with the rest."""
    warnings.simplefilter("ignore")
    logging.disable()
    name, _, adjusted = tool.partition(":")
    run = TOOLS[name](nir.read(file), adjusted == "adjusted")
    with torch.no_grad():
        made = [run(torch.from_numpy(image)[None], int(timesteps)) for image in np.load(images)]
    np.save(answers, torch.stack(made).numpy())
    print(json.dumps({each: version(each) for each in (name, "nir", "nirtorch", "torch")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
