"""What every test may ask for: the shared material, the embedded network, fixed seeds, and a way to tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# how long an example takes says more of the machine than of the code
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)  # the workers of pytest-xdist share the cores


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of other people's networks and data beside the project (not part of it)."""
    folder = ROOT.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("needs the trained networks and data of ../shared, which are not here")
    return folder


@pytest.fixture(scope="session")
def digits_model() -> Path:
    """The embedded network, an ONNX file."""
    return ROOT / "converter" / "models" / "digits.onnx"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """`tell("512 cases pass")` prints the line in pytest's summary, also when the test succeeds."""
    return lambda line: record_property("told", line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [r for group in ("passed", "failed") for r in terminalreporter.stats.get(group, ())]
    told = [(r.nodeid, line) for r in reports for key, line in r.user_properties if key == "told"]
    if told:
        terminalreporter.section("what the tests measured")
    for where, line in sorted(told):
        terminalreporter.write_line(f"{where.partition('::')[2]}: {line}")
