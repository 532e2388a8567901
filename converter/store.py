"""A graph as data: JSON for the structure, tensors beside it. Reading it back executes nothing.

`graph.json` lists the nodes, sources first; the batch is written `N` (`12N`). A tensor is stored under
`layer.field`, the layer being the node's identifier in the emitted model, so `weights.safetensors` serves
both the emitted `model.py` and this file. Where the model's own weights are not the ANN's any more, `ann`
holds the ANN's graph; the tensors it shares with the model are shared here, its own are `ann.layer.field`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from torch import Tensor

from converter.encodings import encodings
from converter.errors import ArtefactError, ModelError
from converter.graph import BATCH, Graph, Node, Op, Shape, show_dim
from converter.packed import Packed
from converter.quantise import check
from converter.reference import equal
from converter.schedules import Model, model_of
from converter.spiking import identifiers

FORMAT = 3


def to_json(model: Model, ann: Graph | None = None) -> str:
    """The structure of a spiking model, its schedule, and its ANN where `model.graph` is not the same one.

    The tensors are `model.state_dict()` and `ann_tensors(model, ann)`.
    """
    document = {
        "format": FORMAT,
        "name": model.graph.name,
        "seed": model.seed,
        "schedule": model.schedule,
        "delay": model.delay,
        "encoding": {
            "name": type(model.encoding).__module__.rpartition(".")[2].replace("_", "-"),
            **{f.name: getattr(model.encoding, f.name) for f in fields(model.encoding)},
        },
        **graph_entries(model.graph, lambda node, field: f"{model.names[node.name]}.{field}"),
        "ann": None if ann is None else graph_entries(ann, ann_keys(model, ann)),
    }
    return json.dumps(document, indent=1) + "\n"


def ann_tensors(model: Model, ann: Graph) -> dict[str, Tensor]:
    """What `ann` has and `model` has not: `ann.layer.field`, each in memory of its own on the CPU."""
    key, held = ann_keys(model, ann), model.state_dict()
    found = {key(node, field): tensor for node in ann for field, tensor in node.op.tensors().items()}
    return {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items() if name not in held
    }


def ann_keys(model: Model, ann: Graph) -> Callable[[Node, str], str]:
    """Where the tensor of a field of a node of `ann` is stored: the model's own, where that is the same."""
    names, held = identifiers(ann, dir(type(model))), model.state_dict()

    def key(node: Node, field: str) -> str:
        own = f"{names[node.name]}.{field}"
        return own if own in held and equal(held[own], node.op.tensors()[field]) else f"ann.{own}"

    return key


def graph_entries(graph: Graph, key: Callable[[Node, str], str]) -> dict[str, Any]:
    """Ends and nodes of `graph` as plain data; `key(node, field)` is where a tensor is stored."""
    return {
        "inputs": [n.name for n in graph.inputs],
        "outputs": [n.name for n in graph.outputs],
        "nodes": [
            {
                "name": n.name,
                "op": type(n.op).__name__,
                "settings": n.op.settings(),
                "tensors": {field: key(n, field) for field in n.op.tensors()},
                **({"packed": packed.format} if (packed := packed_of(n)) else {}),
                "inputs": [i.name for i in n.inputs],
                "shape": [d if d < BATCH else show_dim(d) for d in n.shape],
            }
            for n in graph
        ],
    }


def packed_of(node: Node) -> Packed | None:
    """The codes of a node's weights, if it has some."""
    return getattr(node.op, "packed", None)


def code_tensors(model: Model) -> dict[str, Tensor]:
    """The codes of all weights that are held as such, `layer.codes` and `layer.scale`."""
    found: dict[str, Tensor] = {}
    for node in model.graph:
        if packed := packed_of(node):
            name = model.names[node.name]
            found |= {f"{name}.codes": packed.codes.clone(), f"{name}.scale": packed.scale.clone()}
    return found


def from_json(text: str, tensors: Mapping[str, Tensor]) -> Model:
    """The model that `to_json` wrote. Raises `ArtefactError` when text or tensors are not whole."""
    with whole("graph.json and weights.safetensors do not make a network"):
        document = read(text)
        graph = graph_from(document, tensors, document["name"])
        encoding = dict(document["encoding"])
        time = {key: document[key] for key in ("schedule", "delay", "seed")}
        return model_of(graph, encodings[encoding.pop("name")](**encoding), **time)


def ann_from_json(text: str, tensors: Mapping[str, Tensor], model: Model) -> Graph:
    """The ANN of the `model` that `text` holds. Raises `ArtefactError` when text or tensors are not whole."""
    with whole("graph.json, weights.safetensors and ann.safetensors do not make the network's ANN"):
        document = read(text)
        if document["ann"] is None:
            return model.graph
        ann = graph_from(document["ann"], tensors, document["name"])
        shapes = {node.name: node.shape for node in ann}
        if strange := [
            n.where for n in (*model.neurons, *model.graph.inputs) if shapes.get(n.name) != n.shape
        ]:
            raise ValueError(f"the ANN has no {strange[0]}")
        return ann


def read(text: str) -> dict[str, Any]:
    """The document, if it is of this format."""
    document: dict[str, Any] = json.loads(text)
    if document["format"] != FORMAT:
        raise ArtefactError(
            f"graph.json has format {document['format']}; this version reads {FORMAT}",
            hint="convert anew",
        )
    return document


def graph_from(entries: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> Graph:
    """The graph of what `graph_entries` gave."""
    known = kinds()
    nodes: dict[str, Node] = {}
    for entry in entries["nodes"]:
        settings = {k: _tuples(v) for k, v in entry["settings"].items()}
        settings |= {field: tensors[key] for field, key in entry["tensors"].items()}
        if "packed" in entry:
            layer = entry["tensors"]["weight"].removesuffix(".weight")
            settings["packed"] = Packed(entry["packed"], tensors[f"{layer}.codes"], tensors[f"{layer}.scale"])
        inputs = tuple(nodes[i] for i in entry["inputs"])
        op = known[entry["op"]](**settings)
        nodes[entry["name"]] = Node(op, inputs, entry["name"], _shape(entry["shape"]))
    inputs, outputs = (tuple(nodes[n] for n in entries[end]) for end in ("inputs", "outputs"))
    return check(Graph(inputs, outputs, name).verify())


@contextmanager
def whole(problem: str) -> Iterator[None]:
    """`ArtefactError` with this problem where data do not fit together."""
    try:
        yield
    except (KeyError, TypeError, ValueError, ModelError) as error:
        raise ArtefactError(
            problem,
            why=f"{type(error).__name__}: {error}",
            hint="the directory is damaged or from another version; convert anew",
        ) from error


def kinds() -> dict[str, type[Op]]:
    """Every op class, by the name it is stored under."""
    import converter.ops
    import converter.temporal_bias
    import converter.withdrawal  # noqa: F401  (these define the ops)
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
