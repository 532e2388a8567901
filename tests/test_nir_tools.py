"""NIR files of ours in other people's tools: the same answers, where those tools are installed.

They may be in another interpreter, which the variable ANN2SNN_NIR_TOOLS names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.neuromorphic import held, outside
from converter.exporters._check import Order
from converter.exports import export
from converter.rate import RateModel
from tests.test_export_nir import network

PYTHON = os.environ.get("ANN2SNN_NIR_TOOLS", sys.executable)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "reset"),
    [
        ("spikingjelly", "hard"),
        ("spikingjelly:adjusted", "soft"),
        ("sinabs:adjusted", "soft"),
        ("norse:adjusted", "hard"),
        ("snntorch:adjusted", "hard"),
    ],
)
def test_a_tool_answers_as_we_do(tool: str, reset: str, tmp_path: Path, tell: Callable[[str], None]) -> None:
    """Shortcut, join, groups, means, a threshold a channel: everything that a file of ours may hold."""
    package = tool.partition(":")[0]
    if subprocess.run(
        [PYTHON, "-c", f"import nirtorch, {package}"], capture_output=True, check=False
    ).returncode:
        pytest.skip(f"{PYTHON} has no {package} with nirtorch (ANN2SNN_NIR_TOOLS names another interpreter)")
    model = RateModel(network(reset=reset))
    x = torch.rand(3, 2, 6, 6, generator=torch.Generator().manual_seed(4))
    export(model, Order(16), "nir", tmp_path / "m.nir", (x,))
    np.save(tmp_path / "x.npy", x.numpy())
    with torch.inference_mode():
        readout = model(x, 16)
    assert isinstance(readout, torch.Tensor)
    found = held(readout[-1], outside(PYTHON, tool, tmp_path / "m.nir", tmp_path / "x.npy", 16))
    assert "error" not in found, found
    tell(f"{found['versions']}: apart by {found['difference']:.1e}")
    assert found["same"] == 1
    assert found["difference"] < 1e-5
