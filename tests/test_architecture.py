"""The import rules of docs/architecture.md, read from the source: who may know whom.

A rule holds for every import, or only for those at module level, where a library may be imported by the
function that needs it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

FILES = [*ROOT.glob("converter/**/*.py"), *ROOT.glob("calibrators/**/*.py"), *ROOT.glob("cli.py")]
SOURCES = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}

# library -> the only modules that may import it at module level; inside a function it is lazy, and free
OWNERS = {
    "click": {"cli"},
    "onnx": {
        *("converter.importer", "converter.onnx_file", "converter.constants"),
        *("converter.exporters.onnx", "converter.exporters.onnx_loop", "converter.exporters._onnx"),
        *("converter.exporters._onnx_neurons", "converter.exporters._onnx_window"),
    },
    "onnxruntime": {"converter.exporters.onnx"},
    "skopt": {"calibrators.bayesian"},
    "torchvision": set[str](),
    "pycocotools": set[str](),
    "nir": {
        *("converter.exporters.nir", "converter.exporters._nir_signals"),
        *("converter.exporters._nir_nodes", "converter.exporters._nir_scales"),
    },
}
BASE = {"converter.errors", "converter.registry", "converter.files"}
LEAVES = {"converter.graph", "converter.packed", "converter.view", *BASE}
SPIKING = {"converter.stateful", "converter.neurons", "converter.encodings", "converter.cumulative"}
SCHEDULES = {
    *("converter.spiking", "converter.rate", "converter.window", "converter.pipelined"),
    *("converter.first_spike", "converter.schedules"),
}
FIRST_SPIKE = {"converter.first_spike", "converter.kernels"}
QUANTISED = {"converter.quantise", "converter.weights"}
MENDING = {"converter.temporal_bias", "converter.withdrawal"}
# package or module -> what of ours it may import at module level, its own private modules aside
ALLOWED = {
    "converter.errors": set[str](),
    "converter.registry": BASE,
    "converter.files": BASE,
    "converter.divergence": set[str](),
    "converter.packed": set[str](),
    "converter.energy": {"converter.errors"},
    "converter.graph": {"converter.packed", *BASE},
    "converter.kernels": set[str](),
    "converter.view": LEAVES,
    "converter.ops": LEAVES,
    "converter.stateful": LEAVES,
    "converter.neurons": {"converter.stateful", "converter.kernels", *LEAVES},
    "converter.temporal_bias": {"converter.stateful", *LEAVES},
    "converter.withdrawal": {"converter.stateful", *LEAVES},
    "converter.encodings": LEAVES,
    "converter.weights": LEAVES,
    "converter.importer": {"converter.constants", "converter.onnx_file", "converter.ops", *LEAVES},
    "converter.quantise": {"converter.ops", "converter.weights", *SPIKING, *LEAVES},
    "converter.units": {"converter.ops", "converter.quantise", "converter.weights", *SPIKING, *LEAVES},
    "converter.sizes": {"converter.units", "converter.ops", *QUANTISED, *SPIKING, *LEAVES},
    "converter.sums": {"converter.sizes", "converter.units", "converter.ops", *QUANTISED, *SPIKING, *LEAVES},
    "converter.fixed_point": {"converter.sums", "converter.units", "converter.ops", *SPIKING, *LEAVES},
    "converter.program": {
        *("converter.units", "converter.ops", "converter.quantise", "converter.plan"),
        *("converter.weights", "converter.kernels", *SPIKING, *LEAVES),
    },
    "converter.integer": {"converter.units", "converter.ops", "converter.program", *LEAVES},
    "converter.reference": {"converter.neurons", "converter.stateful", *MENDING, *LEAVES},
    "converter.observe": {"converter.neurons", "converter.stateful", *LEAVES},
    "converter.unroll": {"converter.plan", "converter.window", *SPIKING, *LEAVES},
    "converter.plan": {*SPIKING, *LEAVES},
    "converter.engine": {
        *("converter.engine", "converter.plan", "converter.ops", *SPIKING, *LEAVES),
        # Layers whose weights are codes run the instructions of the integer program.
        *("converter.program", "converter.units", "converter.weights"),
    },
    "converter.early_exit": {*SCHEDULES, *SPIKING, *LEAVES},
    "converter.spiking": {"converter.plan", "converter.engine", *SPIKING, *LEAVES},
    "converter.rate": {"converter.spiking", "converter.engine", "converter.plan", *SPIKING, *LEAVES},
    "converter.spike_bits": set[str](),
    "converter.segments": {"converter.spike_bits", "converter.plan", "converter.unroll", *SPIKING, *LEAVES},
    "converter.window": {*SPIKING, *LEAVES},
    "converter.pipelined": {"converter.spiking", "converter.window", *SPIKING, *LEAVES},
    "converter.first_spike": {*SCHEDULES, "converter.kernels", "converter.unroll", *SPIKING, *LEAVES},
    "converter.decision": {"converter.report", *FIRST_SPIKE, *SPIKING, *LEAVES},
    "converter.events": {"converter.ops", *FIRST_SPIKE, *SPIKING, *LEAVES},
    "converter.schedules": {*SCHEDULES, *SPIKING, *LEAVES},
    "converter.passes": {"converter.ops", "converter.plan", *SPIKING, *LEAVES},
    "converter.sizing": BASE,
    "converter.preprocessing": {"converter.sizing", "converter.graph", *BASE},
    "converter.sources": {
        *("converter.preprocessing", "converter.sources.reading", "converter.sources.tree"),
        *("converter.vision", *BASE),
    },
    "converter.fidelity": {"converter.divergence", "converter.report"},
    # What a network found is held against labels beside its images; nobody below knows of tasks.
    "converter.tasks": {
        *(
            "converter.tasks",
            "converter.data",
            "converter.sources.images",
            "converter.sources.tree",
            "converter.sizing",
        ),
        *("converter.report", "converter.graph", *BASE),
    },
    # Exporters of whole numbers write the integer program, and hold what they wrote against its machine.
    "converter.exporters": {
        *(*SCHEDULES, "converter.ops", "converter.report", *MENDING, *SPIKING, *LEAVES),
        *("converter.program", "converter.integer", "converter.units", "converter.weights"),
        *("converter.exporters.read_compact", "converter.kernels"),
        # The page runs the step model, and has to say how an image becomes its input; a loop is held to it.
        *("converter.exporters.onnx", "converter.preprocessing"),
    },
    # A corrector runs the spiking network, and folds what it found into the weights as a pass would.
    "calibrators": {
        *("calibrators.statistics", "converter.observe", "converter.unroll", "converter.ops"),
        *("converter.spike_bits", "converter.segments", "converter.plan"),
        *("converter.passes.fold_affine", "converter.schedules", *MENDING, *SPIKING, *LEAVES),
        # A search starts at least squares and weighs answers; its trials are in the report.
        *(
            "converter.divergence",
            "converter.report",
            "calibrators.least_squares",
            "calibrators.reconstruction",
        ),
        # A recipe says what spikes and weights can; the trainer writes checkpoints.
        *("calibrators.training", "converter.kernels", "converter.weights"),
    },
    "calibrators.training": {
        *("calibrators.statistics", "converter.observe", "converter.ops", "converter.neurons"),
        *("converter.divergence", "converter.kernels", "converter.weights", "converter.unroll"),
        *("calibrators", *LEAVES),
    },
}


def imports(tree: ast.AST, module: str, everywhere: bool) -> Iterator[str]:
    """The full names imported by `module`; `from a import b` gives both `a` and `a.b`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            yield node.module
            submodules = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in submodules if name in SOURCES)
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, module, everywhere)


def imported(module: str, everywhere: bool = False) -> set[str]:
    return set(imports(ast.parse(SOURCES[module].read_text()), module, everywhere))


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_known_in_its_own_place_only(library: str) -> None:
    users = {m for m in SOURCES if any(within(name, library) for name in imported(m))}
    assert users <= OWNERS[library]


@pytest.mark.parametrize("part", ALLOWED)
def test_a_lower_floor_does_not_know_the_upper_ones(part: str) -> None:
    for module in (m for m in SOURCES if within(m, part)):
        if module == part and SOURCES[module].name == "__init__.py":
            continue  # a package's __init__ gathers its parts
        ours = {n for n in imported(module) if n.split(".")[0] in ("converter", "calibrators", "cli")}
        private = {n for n in ours if n.startswith(f"{part}._")}
        known = {n for n in ours if any(within(n, a) for a in ALLOWED[part])}
        strangers = ours - known - private - {"converter", part}
        assert not strangers, f"{module} imports {sorted(strangers)}"


@pytest.mark.parametrize("module", sorted(BASE & SOURCES.keys()))
def test_the_ground_floor_needs_the_standard_library_only(module: str) -> None:
    names = imported(module, everywhere=True)
    assert {n.split(".")[0] for n in names} <= sys.stdlib_module_names | {"converter"}


def test_calibrators_never_know_the_pipeline_or_the_command_line() -> None:
    for module in (m for m in SOURCES if within(m, "calibrators")):
        names = imported(module, everywhere=True)
        assert not {n for n in names if within(n, "cli") or within(n, "converter.pipeline")}, module


def test_nobody_imports_the_command_line() -> None:
    assert not [m for m in SOURCES if "cli" in imported(m, everywhere=True)]


def test_the_command_line_starts_with_click_and_the_standard_library() -> None:
    names = {n for n in imported("cli") if n != "__future__"}
    assert {n.split(".")[0] for n in names} <= sys.stdlib_module_names | {"click"}
