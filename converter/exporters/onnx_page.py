"""A page that runs the network in a browser: draw a digit or choose an image, watch the answer form.

A folder for any file server, which loads nothing from elsewhere:

    index.html      the page, the same for every network
    network.onnx    one time step, as `onnx` writes it
    network.json    what the page has to know: how an image becomes the input, the states, the classes
    ort/            three files of npm's onnxruntime-web, copied from where `Order.runtime` says
"""

from __future__ import annotations

import json
import math
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from converter.encodings.current import Current
from converter.errors import DataError, Unsupported
from converter.exporters import onnx
from converter.exporters._check import Check, Order
from converter.exporters._onnx import OPSET
from converter.exporters._onnx_notes import dims
from converter.graph import BATCH, show_shape
from converter.preprocessing import Preprocessing
from converter.schedules import Model

MARK = "network.json"
"""The file by which a folder of ours is known."""
VERSION = "1.30.0"
"""The onnxruntime-web that the page was tried with."""
RUNTIME = {
    "ort.wasm.min.js": "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""Its files and their SHA-256."""
GET = f"npm pack onnxruntime-web@{VERSION}, then --runtime onnxruntime-web-{VERSION}.tgz"


def runtime(source: Path) -> tuple[str, dict[str, bytes]]:
    """(version, files) of onnxruntime-web, from npm's archive or a folder. Raises `DataError`."""
    if not source.exists():
        raise DataError(f"there is no {source} to take onnxruntime-web from", hint=GET)
    try:
        found = _archived(source) if source.is_file() else _folder(source)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{source} cannot be read", why=str(error), hint=GET) from error
    if missing := sorted(RUNTIME.keys() - found.keys()):
        raise DataError(f"{source} has no {missing[0]} of onnxruntime-web", hint=GET)
    banner = re.search(rb"ONNX Runtime Web v([\w.-]+)", found["ort.wasm.min.js"][:400])
    version = banner[1].decode() if banner else "unknown"
    if version == VERSION:
        for name, digest in RUNTIME.items():
            if sha256(found[name]).hexdigest() != digest:
                raise DataError(f"{name} in {source} is not that of onnxruntime-web {VERSION}", hint=GET)
    return version, found


def _archived(source: Path) -> dict[str, bytes]:
    with tarfile.open(source) as archive:
        wanted = {f"package/dist/{name}": name for name in RUNTIME}
        found = {wanted[m.name]: archive.extractfile(m) for m in archive if m.name in wanted}
        return {name: file.read() for name, file in found.items() if file is not None}


def _folder(source: Path) -> dict[str, bytes]:
    places = (source, source / "dist", source / "node_modules" / "onnxruntime-web" / "dist")
    place = next((p for p in places if (p / "ort.wasm.min.js").is_file()), source)
    return {name: (place / name).read_bytes() for name in RUNTIME if (place / name).is_file()}


def preparation(model: Model, recorded: Mapping[str, Any]) -> tuple[Preprocessing, float, float]:
    """(what is done to an 8-bit image, what black and white are before mean and std).

    It is the recorded preprocessing; where that leaves images as large as they come, the shorter side is
    made the network's and the middle cut out. Data that had other values than 0 … 255 times the scale were
    not 8 bits; then the darkest and brightest of the calibration are black and white.

    Raises `Unsupported` for a network that takes no image or gives no answer of classes.
    """
    graph = model.graph
    shape, refused = graph.inputs[0].shape, []
    values = dict(recorded)
    low, high = values.pop("range", (0.0, 1.0))
    made = Preprocessing.from_dict(values)
    channels = made.wanted_channels(shape)
    if len(graph.inputs) != 1:
        refused.append((", ".join(node.where for node in graph.inputs), "the page gives one image"))
    elif channels not in (1, 3) or shape[0] not in (1, BATCH):
        refused.append((graph.inputs[0].where, f"{show_shape(shape)} is no image, grey or in colour"))
    sizes = [d for d in graph.outputs[0].shape if d != BATCH]
    classes = math.prod(sizes)
    if len(graph.outputs) != 1 or not 2 <= classes < BATCH or max(sizes) != classes:
        told = ", ".join(f"{node.where} of {show_shape(node.shape)}" for node in graph.outputs)
        refused.append((told, "the page shows one score for each class"))
    if not isinstance(model.encoding, Current):
        refused.append((graph.inputs[0].where, "is drawn at random at each step, the page gives the image"))
    if refused:
        raise Unsupported(f"there is no page for {graph.name}", refused, hint="leave out --with-page")
    height, width = shape[2:] if made.layout == "nchw" else shape[1:3]
    if made.crop is None and not isinstance(made.resize, tuple):
        if height == width:
            made = replace(made, resize=made.resize or height, crop=height)
        else:
            made = replace(made, resize=(height, width))
    elif made.resize is None:
        made = replace(made, resize=made.crop)
    black, white = _extremes(made, float(low), float(high))
    return made, black, white


def _extremes(made: Preprocessing, low: float, high: float) -> tuple[float, float]:
    """What black and white are before mean and std, the extremes of the input being `low` and `high`."""
    channels = max(len(made.mean), len(made.std), 1)
    means, stds = made.mean or (0.0,), made.std or (1.0,)
    pairs = [(means[c % len(means)], stds[c % len(stds)]) for c in range(channels)]
    least = max(low * std + mean for mean, std in pairs)
    most = min(high * std + mean for mean, std in pairs)
    white = 255 * (1 / 255 if made.scale is None else made.scale)
    if least >= -0.01 * abs(white) and abs(white) / 4 <= most <= 1.01 * abs(white):
        return 0.0, white
    return min(least, 0.0), most


def write(model: Model, order: Order, path: Path) -> None:
    """The folder. Raises `Unsupported` for a network that it has no page for, `DataError` for the runtime."""
    version, parts = ("", {}) if order.runtime is None else runtime(order.runtime)
    step = onnx.export(model, order.report, order.timesteps, opset=order.opset or OPSET)
    made, black, white = preparation(model, order.report.get("data", {}).get("preprocessing", {}))
    notes = {entry.key: entry.value for entry in step.metadata_props}
    first = model.graph.inputs[0]
    told = {
        **{key: json.loads(notes.get(key, "[]")) for key in ("timesteps", "states", "neurons", "classes")},
        "name": Path(notes.get("source", order.name)).stem,
        "input": {"name": first.name, "shape": dims(first.shape)},
        "prepare": {**made.to_dict(), "black": black, "white": white},
        "runtime": version,
        "wanted": VERSION,
    }
    (path / "network.onnx").write_bytes(step.SerializeToString())
    (path / MARK).write_text(json.dumps(told), encoding="utf-8")
    (path / "index.html").write_bytes(files("converter.exporters").joinpath("onnx_page.html").read_bytes())
    if parts:
        (path / "ort").mkdir()
    for name, content in parts.items():
        (path / "ort" / name).write_bytes(content)


def note(path: Path) -> str:
    """How to open it, and what is not there."""
    version = json.loads((path / MARK).read_text(encoding="utf-8"))["runtime"]
    serve = f"python -m http.server --directory {path}"
    if not version:
        return f"the page has no runtime yet: {GET}; then {serve}"
    tried = "" if version == VERSION else f" (tried with {VERSION})"
    return f"the page runs on onnxruntime-web {version}{tried}: {serve}"


def check(path: Path, model: Model, x: tuple[Tensor, ...], timesteps: int) -> Check:
    """The step in onnxruntime."""
    return onnx.check(path / "network.onnx", model, x, timesteps)
