"""What there is, by name, with a sentence each. Only the operators need an import; docstrings are read as text."""

from __future__ import annotations

import ast
from importlib.util import find_spec

from converter.registry import Registry

PACKAGES = {
    "passes": "converter.passes",
    "calibrators": "calibrators",
    "neurons": "converter.neurons",
    "encodings": "converter.encodings",
    "exporters": "converter.exporters",
}
KINDS = ("ops", *PACKAGES)


def names(package: str) -> tuple[str, ...]:
    """The public names of the things in `package`."""
    return Registry[object]("thing", package).names()


def entries(kind: str) -> list[tuple[str, str]]:
    """(name, first sentence of its docstring) for every thing of one of `KINDS`."""
    if kind == "ops":
        return operators()
    package = PACKAGES[kind]
    return [(name, sentence(f"{package}.{name.replace('-', '_')}")) for name in names(package)]


def sentence(module: str) -> str:
    """The first line of a module's docstring, the module not being imported."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        return (ast.get_docstring(ast.parse(file.read())) or "").partition("\n")[0]


def operators() -> list[tuple[str, str]]:
    """(ONNX operator, what of it is read) for all that are read."""
    import converter.ops
    from converter.view import lowerings

    assert converter.ops
    newest: dict[str, int] = {}
    for name, since in lowerings:
        newest[name] = max(since, newest.get(name, 0))
    return [(name, (lowerings[name, since].__doc__ or "").partition("\n")[0]) for name, since in sorted(newest.items())]
