"""What can go wrong, said once: what, where, why, and what would work.

A rule deep inside raises `Refusal` with the local reason; the boundary that knows the place
(importer, pass, command line) completes it to a `ConversionError`.
"""

from __future__ import annotations

from collections.abc import Sequence


class Refusal(Exception):
    """The local reason why one node cannot be treated, raised deep, completed by whoever knows the node."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.why, self.hint = why, hint


class ConversionError(Exception):
    """An error the user can act on. `exit_code` is what the command line returns for it.

    `problem` says what is wrong and where, `why` the reason, `hint` what would work.
    """

    exit_code = 1

    def __init__(self, problem: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(problem, why, hint)
        self.problem, self.why, self.hint = problem, why, hint

    def __str__(self) -> str:
        lines = [self.problem]
        lines += [f"       {line}" for line in self.why.splitlines()]
        lines += [f"hint:  {self.hint}"] if self.hint else []
        return "\n".join(lines)


class ModelError(ConversionError):
    """The model file is missing, damaged or contradicts itself."""


class Unsupported(ModelError):
    """One or more nodes cannot be treated; all of them are named at once."""

    def __init__(self, problem: str, refusals: Sequence[tuple[str, str]], *, hint: str = "") -> None:
        shown = [f"{where}: {why}" if why else where for where, why in refusals]
        super().__init__(problem, why="\n".join(shown), hint=hint)
        self.refusals = tuple(refusals)


class DataError(ConversionError):
    """The data source is missing, damaged, or does not fit the model."""


class ArtefactError(ConversionError):
    """A file or directory to be written or read back is in the way, damaged, or cannot be written."""


class UsageError(ConversionError):
    """The request itself contradicts itself."""

    exit_code = 2


class GateError(ConversionError):
    """The conversion succeeded and was written, but a quality gate the user set was missed."""

    exit_code = 3
