"""How the exporters' templates are read."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(*, html: bool) -> Environment:
    """Templates beside this file: a missing value is an error, blocks leave no blank lines."""
    return Environment(
        loader=PackageLoader("converter.exporters", "."),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
