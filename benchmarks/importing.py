"""Import one file and hold it against onnxruntime: the process behind one row of the `import` benchmark.

    python -m benchmarks.importing '{"path": "model.onnx", "cut": [], "peak": 1.0}'   ->   JSON on stdout

Half-precision files: onnxruntime on a CPU rounds to half precision after every operator and some of its
kernels do not exist there, so the reference is the same file with its weights and casts in float32, which
is what the importer reads too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_model
from torch import Tensor

from converter.errors import Unsupported
from converter.graph import Graph
from converter.importer import load_with_source
from converter.passes import apply


def measure(path: Path, cut: Sequence[str] = (), peak: float = 1.0) -> dict[str, Any]:
    """What importing `path` gives and costs; `refused` names the nodes in the way, if there are any.

    Raises `ModelError` for a file that is no network at all.
    """
    torch.set_num_threads(1)
    size = path.stat().st_size + sum(f.stat().st_size for f in path.parent.glob(f"{path.name}.data"))
    facts: dict[str, Any] = {"bytes": size, "refused": [], "difference": None}
    reset_peak()
    before, started = resident(), time.perf_counter()
    try:
        graph, source = load_with_source(path, outputs=cut or None)
    except Unsupported as error:
        return {**facts, "refused": [f"{where}: {why}" for where, why in error.refusals]}
    facts |= {"seconds": time.perf_counter() - started, "memory": resident("VmHWM") - before}
    facts |= {"producer": source.producer, "opset": source.opset}
    facts |= {"file_nodes": source.nodes, "graph_nodes": len(graph)}
    final, _ = apply(graph.verify())
    facts |= {"final_nodes": len(final), "batch": "free" if graph.batch is None else graph.batch}
    reference = Reference(path, cut)
    facts["note"] = reference.note
    found = {}
    for batch in batches(graph):
        inputs = drawn(graph, batch, peak)
        expected = reference.run(inputs)
        for stage, meant in (("imported", graph), ("passed", final)):
            with torch.inference_mode():
                found[f"{stage}, batch {batch}"] = distance(meant.run(*inputs), expected)
    worst = max(found.values())
    return {**facts, "differences": found, "difference": worst if np.isfinite(worst) else None}


def batches(graph: Graph) -> tuple[int, ...]:
    """The batch sizes to compare at."""
    return (1, 2) if graph.batch is None else (graph.batch,)


def drawn(graph: Graph, batch: int, peak: float) -> list[Tensor]:
    """Seeded inputs: standard normal, or uniform from 0 to `peak` where that is above 1."""
    torch.manual_seed(batch)
    shapes = [(batch, *node.shape[1:]) for node in graph.inputs]
    return [torch.rand(shape) * peak if peak > 1 else torch.randn(shape) for shape in shapes]


def distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """max|a − b| / max|b|, the largest over all outputs; infinite for unlike shapes or non-finite values."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.double(), b.double()
        if a.shape != b.shape or not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
            return float("inf")
        worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)))
    return worst


class Reference:
    """onnxruntime on the same file, in float32; a file fixed at batch 1 is run sample by sample."""

    def __init__(self, path: Path, cut: Sequence[str] = (), *, threads: int = 1) -> None:
        proto = onnx.load(path, load_external_data=False)
        load_external_data_for_model(proto, str(path.parent))
        self.note = ""
        if any(t.data_type == TensorProto.FLOAT16 for t in proto.graph.initializer):
            proto, self.note = in_float32(proto), "fp16 file: compared with its float32 form"
        if cut:
            end_at(proto, cut)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        content: bytes | str = proto.SerializeToString() if self.note or cut else str(path)
        del proto
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for these inputs."""
        names, count = [i.name for i in self.session.get_inputs()], len(inputs[0])
        fixed = [i.shape[0] == 1 for i in self.session.get_inputs()]
        if count == 1 or not any(fixed):
            feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
            return [torch.from_numpy(np.asarray(y)) for y in self.session.run(None, feeds)]
        singles = [self.run([x[i : i + 1] for x in inputs]) for i in range(count)]
        return [torch.cat(each) for each in zip(*singles, strict=True)]


def end_at(proto: ModelProto, names: Sequence[str]) -> None:
    """Make the first output of each named node (or each named value) the outputs of `proto`."""
    made = {node.name: node.output[0] for node in proto.graph.node}
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=made.get(name, name)) for name in names)


def in_float32(proto: ModelProto) -> ModelProto:
    """The same network with every half-precision weight, constant, input, output and cast in float32."""
    wide = ModelProto()
    wide.CopyFrom(proto)
    for tensor in wide.graph.initializer:
        _widen(tensor)
    for value in (*wide.graph.input, *wide.graph.output, *wide.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in wide.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
    return wide


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def resident(what: str = "VmRSS") -> float:
    """Bytes this process holds (`VmRSS`) or held at its peak (`VmHWM`); NaN where the system is silent."""
    facts = Path("/proc/self/status")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    kilobytes = [line.split()[1] for line in lines if line.startswith(f"{what}:")]
    return float(kilobytes[0]) * 1024 if kilobytes else float("nan")


def reset_peak() -> None:
    """Let the peak begin from now: what starting Python and torch took is not part of an import."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(measure(Path(asked["path"]), asked["cut"], asked["peak"])))
