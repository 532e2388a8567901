"""A dictionary of named things: unique keys, did-you-mean errors, one file a thing.

The file name is the public name: `calibrators/least_squares.py` is `--calibrator least-squares`.
Listing the names reads the folder and imports nothing; asking for one imports its file.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Generic, TypeVar

from converter.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one `kind`, found in the modules of one `package`, each registered by its module.

    Where there is a `group`, other packages add theirs as entry points of that name.
    """

    def __init__(self, kind: str, package: str, group: str | None = None) -> None:
        self.kind, self.package, self.group = kind, package, group
        self._things: dict[str, T] = {}

    def register(self, thing: T) -> T:
        """Decorator: the thing's public name is the name of the module that defines it."""
        module = str(getattr(thing, "__module__", ""))
        name = module.rpartition(".")[2].replace("_", "-")
        if name in self._things:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._things[name] = thing
        return thing

    def __getitem__(self, name: str) -> T:
        if name not in self._things and name in self.own_names():
            importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        if name not in self._things and (strangers := self.entries().get(name)):
            self._things[name] = strangers.load()
        if name not in self._things:
            raise UsageError(f"there is no {self.kind} {name!r}", hint=did_you_mean(name, self.names()))
        return self._things[name]

    def names(self) -> tuple[str, ...]:
        """Every public name, sorted, without importing what they name."""
        return tuple(sorted({*self.own_names(), *self.entries()}))

    def entries(self) -> dict[str, EntryPoint]:
        """What other packages add, by name."""
        return {e.name: e for e in entry_points(group=self.group)} if self.group else {}

    def own_names(self) -> tuple[str, ...]:
        """The names of the modules in the package, sorted."""
        spec = find_spec(self.package)
        paths = spec.submodule_search_locations if spec else None
        found = [m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_")]
        return tuple(sorted(n.replace("_", "-") for n in found if n not in NOT_THINGS))

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return ((name, self[name]) for name in self.names())


# Modules that live beside the things of a registry and are not things themselves.
NOT_THINGS = frozenset({"statistics", "training"})


class Lowerings(dict[tuple[str, int], Callable[..., object]]):
    """(ONNX operator, since_version) -> how it becomes nodes; look-up takes the newest since <= the opset."""

    def register(self, kind: str, *since: int) -> Callable[[Callable[..., object]], Callable[..., object]]:
        """Decorator: this function lowers `kind` from each opset in `since` on, until a newer entry."""

        def keep(function: Callable[..., object]) -> Callable[..., object]:
            for version in since:
                if (kind, version) in self:
                    raise ValueError(f"{kind} since opset {version} is registered twice")
                self[kind, version] = function
            return function

        return keep

    def find(self, kind: str, opset: int) -> Callable[..., object] | None:
        versions = [since for name, since in self if name == kind and since <= opset]
        return self[kind, max(versions)] if versions else None


def did_you_mean(name: str, names: tuple[str, ...]) -> str:
    """A hint for `name`, which is none of `names`: the nearest of them, and all."""
    close = difflib.get_close_matches(name, names, n=1)
    listed = ", ".join(names)
    return f"did you mean {close[0]!r}? (of: {listed})" if close else f"known: {listed}"
