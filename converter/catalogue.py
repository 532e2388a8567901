"""What there is, by name, with a sentence each: docstrings read as text; only operators need an import."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap

from converter.errors import UsageError
from converter.registry import Registry, did_you_mean

WIDTH = 100
NEWEST = 10**6
"""An opset beyond all that there are."""
PACKAGES = {
    "ops": "converter.ops",
    "passes": "converter.passes",
    "calibrators": "calibrators",
    "recipes": "calibrators.training",
    "neurons": "converter.neurons",
    "weights": "converter.weights",
    "encodings": "converter.encodings",
    "exporters": "converter.exporters",
    "decoders": "converter.tasks.decoders",
}
TOLD = {
    "codes": {
        "rate": "How many spikes come, and how large they are, is the value; any --schedule.",
        "first-spike": "When the one spike of a neuron comes is the value; a window for each layer in a row.",
    },
    "kernels": {
        "base-2": "Of first spikes: a spike at step k of its window carries 2^(-k/tau) of the scale.",
        "linear": "Of first spikes: it carries (T - k)/T of the scale; exact in continuous time.",
    },
}
"""What has no file of its own."""
GROUPS = {"decoders": "ann2snn.decoders"}
"""Where other packages add theirs, as entry points."""
KINDS = (*TOLD, *PACKAGES)


def names(package: str, group: str | None = None) -> tuple[str, ...]:
    """The public names of the things in `package`, and of the entry points of `group`."""
    return Registry[object]("thing", package, group).names()


def chosen(kind: str | None) -> tuple[str, ...]:
    """All of `KINDS`, or the one named. Raises `UsageError` when there is no such kind."""
    if kind is not None and kind not in KINDS:
        raise UsageError(f"there is no list of {kind!r}", hint=did_you_mean(kind, KINDS))
    return KINDS if kind is None else (kind,)


def page(kind: str) -> str:
    """The entries of one kind, a line each, below its name; below a family of operators, its operators."""
    told = TOLD.get(kind) or sentences(kind)
    operators = families() if kind == "ops" else {}
    width = max(map(len, told))
    lines = [kind]
    for name, said in told.items():
        lines.append(f"  {name:<{width}}  {said}")
        indent = " " * (width + 4)
        lines += wrap(
            ", ".join(operators.get(name, ())), WIDTH, initial_indent=indent, subsequent_indent=indent
        )
    return "\n".join(lines)


def sentences(kind: str) -> dict[str, str]:
    """What there is in the package of this kind, and of other packages, with what is said of each."""
    package = PACKAGES[kind]
    told = {name: sentence(package, name) for name in names(package)}
    strangers = Registry[object]("thing", package, GROUPS.get(kind)).entries()
    return told | {name: f"{entry.value}, of another package" for name, entry in sorted(strangers.items())}


def sentence(package: str, name: str) -> str:
    """The first line of the docstring of the module that `name` stands for, without an import of it."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, package  # noqa: PT018
    source = Path(spec.origin).with_name(f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def families() -> dict[str, list[str]]:
    """Module of converter/ops -> the ONNX operators it reads."""
    import converter.ops
    from converter.view import lowerings

    assert converter.ops
    found: dict[str, list[str]] = {}
    for (name, since), lower in sorted(lowerings.items()):
        family = found.setdefault(lower.__module__.rpartition(".")[2].replace("_", "-"), [])
        if lowerings.find(name, NEWEST) is lowerings[name, since]:
            family.append(name)
    return found
