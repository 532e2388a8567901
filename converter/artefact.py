"""The directory a conversion leaves behind, `NAME.snn/`: written whole or not at all, read as data.

model.py             the network as readable PyTorch, for deployment; imports only torch and safetensors
weights.safetensors  its parameters
graph.json           the same network as data, which `evaluate`, `diagnose` and `export` read, and its ANN
codes.safetensors    the codes and scales of weights that are held as such (--weights), beside their values
ann.safetensors      the ANN's parameters that are not the network's: only where a correction changed weights
report.json  report.html  README.md  run.toml
search.json          the trials of a search that kept a file: a longer one can go on from it
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from converter import store
from converter.errors import ArtefactError
from converter.exporters import card, html, torch
from converter.files import atomic_directory
from converter.graph import Graph
from converter.pipeline import Conversion
from converter.preprocessing import Preprocessing
from converter.reference import ann_of, same_ann
from converter.schedules import Model

GRAPH, WEIGHTS, REPORT, RUN = "graph.json", "weights.safetensors", "report.json", "run.toml"
ANN, CODES, SEARCH = "ann.safetensors", "codes.safetensors", "search.json"


@dataclass(frozen=True)
class Artefact:
    """A converted network read back. `report` is the plain content of report.json."""

    model: Model
    ann: Graph
    """What the network was converted from, its activations by the names of the network's neurons."""
    report: dict[str, Any]

    @property
    def preprocessing(self) -> Preprocessing:
        """What was done to the data the network was measured on."""
        recorded = dict(self.report["data"]["preprocessing"])
        recorded.pop("range")
        return Preprocessing.from_dict(recorded)

    @property
    def input_range(self) -> tuple[float, float]:
        """Smallest and largest input value of the calibration data."""
        low, high = self.report["data"]["preprocessing"]["range"]
        return float(low), float(high)


def write(
    conversion: Conversion,
    target: str | os.PathLike[str],
    *,
    run: str,
    search: str | None = None,
    picture: bytes | None = None,
    force: bool = False,
) -> None:
    """Write the directory, `run` being run.toml and `search` the file of a search, if one was kept.

    `picture` is a PNG for the page: what a dense network found in a few images.

    Raises `ArtefactError`, leaving nothing behind.
    """
    model, report = conversion.model, conversion.report
    ann = None if same_ann(model.graph, conversion.spiking) else ann_of(conversion.spiking)
    with atomic_directory(target, force=force) as folder:
        (folder / "model.py").write_text(torch.source(model, report), encoding="utf-8")
        (folder / WEIGHTS).write_bytes(save(torch.tensors(model)))
        (folder / GRAPH).write_text(store.to_json(model, ann), encoding="utf-8")
        if ann is not None and (beside := store.ann_tensors(model, ann)):
            (folder / ANN).write_bytes(save(beside))
        if codes := store.code_tensors(model):
            (folder / CODES).write_bytes(save(codes))
        (folder / REPORT).write_text(report.to_json(), encoding="utf-8")
        (folder / "report.html").write_text(html.page(report, picture), encoding="utf-8")
        (folder / "README.md").write_text(card.card(report), encoding="utf-8")
        (folder / RUN).write_text(run, encoding="utf-8")
        if search is not None:
            shutil.copyfile(search, folder / SEARCH)


def read(folder: str | os.PathLike[str]) -> Artefact:
    """Read a directory that `write` left. Raises `ArtefactError` when it is not one, or is damaged."""
    path = Path(folder)
    if missing := [name for name in (GRAPH, WEIGHTS, REPORT) if not (path / name).is_file()]:
        raise ArtefactError(
            f"'{path}' is not a converted network: it has no {missing[0]}", hint="ann2snn convert makes one"
        )
    try:
        report = json.loads((path / REPORT).read_text(encoding="utf-8"))
        tensors = load_file(path / WEIGHTS)
        beside = load_file(path / ANN) if (path / ANN).is_file() else {}
        codes = load_file(path / CODES) if (path / CODES).is_file() else {}
        text = (path / GRAPH).read_text(encoding="utf-8")
    except (SafetensorError, ValueError, OSError) as error:
        raise ArtefactError(
            f"'{path}' is damaged", why=str(error).splitlines()[0], hint="convert anew"
        ) from error
    model = store.from_json(text, {**tensors, **codes})
    return Artefact(model, store.ann_from_json(text, {**tensors, **beside}, model), report)
