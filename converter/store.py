"""A graph as data: JSON for the structure, tensors beside it. Reading it back executes nothing.

`graph.json` lists the nodes, sources first; the batch is written `N` (`12N`). A tensor is stored under
`layer.field`, the layer being the node's identifier in the emitted model, so `weights.safetensors` serves
both the emitted `model.py` and this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from converter.encodings import encodings
from converter.errors import ArtefactError
from converter.graph import BATCH, Graph, Node, Op, Shape, show_dim
from converter.rate import RateModel

FORMAT = 1


def to_json(model: RateModel) -> str:
    """The structure of a rate model; its tensors are `model.state_dict()`."""
    graph = model.graph
    document = {
        "format": FORMAT,
        "name": graph.name,
        "inputs": [n.name for n in graph.inputs],
        "outputs": [n.name for n in graph.outputs],
        "seed": model.seed,
        "encoding": {
            "name": type(model.encoding).__module__.rpartition(".")[2].replace("_", "-"),
            **{f.name: getattr(model.encoding, f.name) for f in fields(model.encoding)},
        },
        "nodes": [
            {
                "name": n.name,
                "op": type(n.op).__name__,
                "settings": n.op.settings(),
                "tensors": {field: f"{model.names[n.name]}.{field}" for field in n.op.tensors()},
                "inputs": [i.name for i in n.inputs],
                "shape": [d if d < BATCH else show_dim(d) for d in n.shape],
            }
            for n in graph
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def from_json(text: str, tensors: Mapping[str, Tensor]) -> RateModel:
    """The rate model that `to_json` wrote. Raises `ArtefactError` when text or tensors are not whole."""
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ArtefactError(
                f"graph.json has format {document['format']}; this version reads {FORMAT}",
                hint="convert anew",
            )
        known = kinds()
        nodes: dict[str, Node] = {}
        for entry in document["nodes"]:
            settings = {k: _tuples(v) for k, v in entry["settings"].items()}
            settings |= {field: tensors[key] for field, key in entry["tensors"].items()}
            inputs = tuple(nodes[i] for i in entry["inputs"])
            nodes[entry["name"]] = Node(
                known[entry["op"]](**settings), inputs, entry["name"], _shape(entry["shape"])
            )
        ends = [tuple(nodes[n] for n in document[end]) for end in ("inputs", "outputs")]
        graph = Graph(ends[0], ends[1], document["name"]).verify()
        encoding = dict(document["encoding"])
        return RateModel(graph, encodings[encoding.pop("name")](**encoding), seed=document["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(
            "graph.json and weights.safetensors do not make a network",
            why=f"{type(error).__name__}: {error}",
            hint="the directory is damaged or from another version; convert anew",
        ) from error


def kinds() -> dict[str, type[Op]]:
    """Every op class, by the name it is stored under."""
    import converter.ops  # noqa: F401  (defines the ops)
    from converter.neurons import neurons

    _ = dict(neurons)  # defines the neurons
    found: dict[str, type[Op]] = {}
    waiting = [Op]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            found[kind.__name__] = kind
            waiting.append(kind)
    return found


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _shape(dims: list[int | str]) -> Shape:
    return tuple(d if isinstance(d, int) else int(d[:-1] or 1) * BATCH for d in dims)
