"""What every benchmark shares: what the machine is, how results are kept, tables of text."""

from __future__ import annotations

import json
import math
import platform
import shlex
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from converter.files import atomic_file

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SHARED = ROOT.parent / "shared"
"""Other people's trained networks and data, beside the project and not part of it."""

PACKAGES = ("ann2snn", "torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "numpy", "spikingjelly")


def environment(threads: int) -> dict[str, Any]:
    """What a result depends on beside the code: versions, processor, threads."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: package_version(name) for name in PACKAGES},
        },
        "processor": processor(),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def spent(device: torch.device | str) -> float:
    """Seconds of the processor, or by the clock once a GPU has done all that it was given."""
    if torch.device(device).type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def package_version(package: str) -> str:
    """Of an installed package, or `not installed`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def made_by(arguments: Sequence[str]) -> dict[str, str]:
    """The command with these arguments, and the date."""
    command = shlex.join(["python", "-m", "benchmarks", *arguments])
    return {"command": command, "date": datetime.now(UTC).isoformat(timespec="seconds")}


def write_result(name: str, arguments: Sequence[str], facts: dict[str, Any]) -> Path:
    """Keep `facts` as `NAME.json`, with the command that made them and the date; whole or not at all."""
    record = {"benchmark": name, **made_by(arguments), **facts}
    path = RESULTS / f"{name}.json"
    with atomic_file(path, force=True) as unfinished:
        unfinished.write_text(json.dumps(_plain(record), indent=1, allow_nan=False) + "\n")
    return path


def read_result(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """What `write_result` kept."""
    record: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return record


def _plain(value: Any) -> Any:
    """For JSON: floats to 6 significant digits, NaN and infinity as null, paths as seen from the project."""
    if isinstance(value, str):
        return value.replace(str(SHARED), "../shared").replace(f"{ROOT}/", "")
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def markdown(columns: str, rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with these `columns` ("a|b|c"); numbers are aligned to the right."""
    header = columns.split("|")
    body = [[("" if cell is None else str(cell)) for cell in row] for row in rows]
    right = [all(_is_number(row[i]) for row in body) for i in range(len(header))]
    lines = [header, ["---:" if r else "---" for r in right], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _is_number(cell: str) -> bool:
    return cell.rstrip(" %×").replace(".", "").replace("-", "").replace("e", "").isdigit() or not cell
