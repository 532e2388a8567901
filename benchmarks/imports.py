"""`import`: does every network mean here what it means to onnxruntime, and what does reading it cost?

Every file of ../shared/models, and torchvision's architectures from both of torch's exporters (`zoo`). Each
is read in a process of its own, once as imported and once after the algebraic passes, and run beside
onnxruntime on the same random input: at the file's batch, and at batch 2 where our graph has a free batch (a
file fixed at batch 1 is then run twice). The difference is max|a − b| / max|b| over each output.

    ok        imported, and nowhere further from onnxruntime than 1e-4
    refused   not imported; every offending node is named
    WRONG     imported, and further away than that
    error     anything else: a bug
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import zoo
from benchmarks._common import ROOT, SHARED, environment, markdown, write_result

TOLERANCE = 1e-4
"""Of an output's largest magnitude."""


@dataclass(frozen=True)
class Case:
    """One file to import; `cut` are the values to cut it at, `peak` the largest input value it is used to."""

    name: str
    origin: str
    """Who exported it: `shared`, or a dialect of `zoo`."""
    cut: tuple[str, ...] = ()
    peak: float = 1.0

    def path(self) -> Path:
        """The file; a torchvision architecture is exported first where that has not been done."""
        if self.origin == "shared":
            return SHARED / "models" / f"{self.name}.onnx"
        return zoo.exported(self.name, self.origin)


PEAKS = {"mnist_cntk": 255.0, "squeezenet11_imagenet_fp16": 128.0, "yunet_n_640_640": 255.0}
"""Shared networks that read pixels as they are."""

LOGITS = "unet_carvana", ("Conv_82",)
"""U-Net's own outputs count errors (ArgMax, OneHot); its logits are those of its last convolution."""


def cases(shared: bool = True) -> Iterator[Case]:
    """Everything to import. `shared` says whether the shared networks are there."""
    if shared:
        for path in sorted((SHARED / "models").glob("*.onnx")):
            yield Case(path.stem, "shared", peak=PEAKS.get(path.stem, 1.0))
        yield Case(LOGITS[0], "shared", cut=LOGITS[1])
    for architecture in zoo.ARCHITECTURES:
        for dialect in zoo.DIALECTS:
            yield Case(architecture.name, dialect)


def measured(case: Case, timeout: float = 300.0) -> dict[str, Any]:
    """The row of one case, made in a process of its own so that memory is its own and a crash is only its."""
    try:
        path = case.path()
    except RuntimeError as error:
        return {**asdict(case), "status": "error", "why": str(error)}
    asked = json.dumps({"path": str(path), "cut": case.cut, "peak": case.peak})
    command = [sys.executable, "-m", "benchmarks.importing", asked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {**asdict(case), "status": "error", "why": f"took longer than {timeout:.0f} s"}
    if done.returncode:
        return {**asdict(case), "status": "error", "why": done.stderr.strip()[-2000:]}
    row: dict[str, Any] = json.loads(done.stdout)
    return {**asdict(case), **row, "status": status(row)}


def status(row: dict[str, Any]) -> str:
    """What a row means: see the head of this file."""
    if row["refused"]:
        return "refused"
    worst = row["difference"]
    return "ok" if worst is not None and worst <= TOLERANCE else "WRONG"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""

    def line(row: dict[str, Any]) -> list[object]:
        name = f"{row['name']}, cut at {row['cut'][0]}" if row["cut"] else row["name"]
        facts = [row.get(k) for k in ("file_nodes", "graph_nodes", "final_nodes")]
        worst = row.get("difference")
        costs = [f"{row['seconds']:.2f}", f"{row['memory'] / 2**20:.0f}"] if "seconds" in row else ["", ""]
        return [name, row["origin"], *facts, None if worst is None else f"{worst:.1e}", *costs, row["status"]]

    header = "network|from|nodes in the file|imported|after passes|difference|s|MiB|status"
    return markdown(header, [line(row) for row in rows])


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code is 1 when anything is WRONG or an error."""
    summary = (__doc__ or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks import", description=summary)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks, or `shared`, or a dialect")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    asked = parser.parse_args(arguments)
    there = (SHARED / "models").is_dir()
    if not there:
        print("../shared/models is not here: torchvision only", file=sys.stderr)
    chosen = [c for c in cases(there) if asked.only is None or {c.name, c.origin} & set(asked.only)]
    if not chosen:
        parser.error(f"no network is called {' or '.join(asked.only)}")
    rows = []
    with ThreadPoolExecutor(asked.jobs) as pool:
        for row in pool.map(measured, chosen):
            rows.append(row)
            far = f", {row['difference']:.1e}" if row.get("difference") is not None else ""
            told = f"{row['name']} ({row['origin']}): {row['status']}{far}"
            print(f"{len(rows)}/{len(chosen)} {told}", file=sys.stderr)
            for reason in (*row.get("refused", ()), *row.get("why", "").splitlines()):
                print(f"    {reason}", file=sys.stderr)
    print(table(rows))
    if asked.only is None:
        facts = {**environment(threads=1), "tolerance": TOLERANCE, "inputs": INPUTS, "rows": rows}
        print(f"written to {write_result('import', ['import', *arguments], facts)}", file=sys.stderr)
    return int(any(row["status"] in ("WRONG", "error") for row in rows))


INPUTS = (
    "standard normal images, scaled to the input range of shared networks that read 0..255; torchvision at "
    "224x224, inception_v3 at 299x299, fcn_resnet50 and deeplabv3_resnet50 at 96x96"
)
