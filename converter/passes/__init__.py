"""Passes: Graph -> Graph, the same outputs, less to do. `PIPELINE` is the order they run in.

A pass is a function; its file is its name. Valid in, valid out: the driver verifies after each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from converter.errors import ModelError
from converter.graph import Graph
from converter.neurons import Neuron
from converter.passes.batch_first import batch_first
from converter.passes.drop_identity import drop_identity
from converter.passes.fold_affine import fold_affine
from converter.passes.fold_batchnorm import fold_batchnorm
from converter.passes.merge_activation import merge_activation
from converter.passes.pool_first import pool_first

Pass = Callable[[Graph], Graph]

PIPELINE: tuple[Pass, ...] = (
    batch_first,
    drop_identity,
    fold_batchnorm,
    fold_affine,
    pool_first,
    merge_activation,
    fold_affine,
    drop_identity,
)
"""The algebra before spikes. Pools move before activations are merged, for that brings some together; a clip
not from 0 becomes a shifted one, so fold_affine runs again."""


def pipeline_for(neuron: Neuron) -> tuple[Pass, ...]:
    """The passes before activations become neurons like this one."""
    return tuple(p for p in PIPELINE if not (neuron.pools_spikes and p is pool_first))


@dataclass(frozen=True)
class Applied:
    """What one pass did."""

    name: str
    before: int
    after: int


def apply(graph: Graph, passes: tuple[Pass, ...] = PIPELINE) -> tuple[Graph, tuple[Applied, ...]]:
    """Run `passes` in order, verifying after each; the graph and what each did. Raises `ModelError`."""
    done = []
    for change in passes:
        name, before = change.__name__, len(graph)
        try:
            # A rule that folds into a node with other readers leaves the original beside its copy.
            graph = change(graph).with_unique_names().verify()
        except ModelError as error:
            raise ModelError(
                f"after the pass {name}: {error.problem}", why=error.why, hint=error.hint
            ) from error
        done.append(Applied(name, before, len(graph)))
    return graph, tuple(done)
