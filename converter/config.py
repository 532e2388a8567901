"""Options as they are written, on the command line or in a run.toml, which repeats a run.

In the file there is one `key = value` a line, the keys being the names of the options. Python's tomllib reads
it; writing needs no more of TOML than text, numbers, booleans and lists of them.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.errors import UsageError
from converter.registry import did_you_mean

RUN = """ann2snn convert --config run.toml -o DIR repeats this run.
Paths are as they were given, relative to where it was started."""
"""The comment above a run."""
Scalar = str | int | float | bool
Value = Scalar | Sequence[Scalar]


SPIKES = {
    "binary": "integrate-fire",
    "signed": "signed",
    "levels": "multi-level",
    "powers": "power-of-two",
}
"""What a spike may be -> the neuron that emits such spikes."""
COUNTED = ("levels", "powers")
"""Those of which there are N."""


def dumps(values: Mapping[str, Value], comment: str = "") -> str:
    """The TOML document of `values`, `comment` above it. `tomllib.loads` gives them back, tuples as lists."""
    lines = [f"# {line}" for line in comment.splitlines()]
    return "\n".join([*lines, *(f"{key} = {_value(value)}" for key, value in values.items())]) + "\n"


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's strings are TOML's, but for DEL and for what Python may hold and Unicode may not
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    return f"[{', '.join(map(_value, value))}]"


def read(path: str | os.PathLike[str], known: Sequence[str], lists: Collection[str] = ()) -> dict[str, Value]:
    """The options in a run.toml; those in `lists` may be lists.

    Raises `UsageError` for what is no TOML, for keys not in `known`, and for values no option has.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are both
        raise UsageError(f"'{path}' is not TOML", why=str(error)) from error
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"'{path}' has an unknown key '{key}'", hint=did_you_mean(key, tuple(known)))
        if isinstance(value, list) and key not in lists:
            raise UsageError(f"'{path}': {key} is a list, but is one value")
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, str | int | float | bool):
                raise UsageError(f"'{path}': {key} is not text, a number, true, false or a list of them")
    return values


def steps(value: Any) -> tuple[int, ...]:
    """`1,2,4` or a list -> (1, 2, 4), each at least 1. Raises `ValueError`, as all parsers here."""
    found = _numbers(value, int)
    if min(found) < 1:
        raise ValueError(f"{value!r}: whole numbers of 1 or more are wanted")
    return found


CONTINUOUS = "continuous"
"""The window of first spikes in continuous time."""


def windows(value: Any) -> tuple[int, ...] | str:
    """`8,16` or a list -> (8, 16); `continuous` as it stands."""
    return CONTINUOUS if value == CONTINUOUS else steps(value)


def channels(value: Any) -> tuple[float, ...]:
    """`0.5` or `0.4,0.5,0.6` or a list -> the numbers."""
    return _numbers(value, float)


def augmentations(value: Any) -> tuple[str, ...]:
    """`crop,flip` -> the names; `none` -> ()."""
    names = tuple(value.split(",")) if isinstance(value, str) else tuple(value)
    if not all(names):
        raise ValueError(f"{value!r} is no list of names such as crop,flip, and not none")
    return () if names == ("none",) else names


def size(value: Any) -> int | tuple[int, int]:
    """`224` -> 224, the shorter side; `240x320` or a list of two -> (240, 320), height and width."""
    try:
        sides = tuple(map(int, value if isinstance(value, list | tuple) else str(value).split("x")))
    except ValueError:
        sides = ()
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ValueError(f"{value!r} is neither a side such as 224 nor HEIGHTxWIDTH such as 240x320")
    return (sides[0], sides[1]) if len(sides) == 2 else sides[0]


def input_shape(value: Any) -> str:
    """`image=3,224,224`, checked and kept as it is; `shape_of` takes it apart."""
    name, _, dims = str(value).rpartition("=")
    if not name or not all(d.isdecimal() and int(d) for d in dims.split(",")):
        raise ValueError(f"{value!r} is not NAME=3,224,224, an input and its size without the batch")
    return str(value)


def shape_of(value: str) -> tuple[str, tuple[int, ...]]:
    """`image=3,224,224` -> ("image", (3, 224, 224))."""
    name, _, dims = value.rpartition("=")
    return name, tuple(map(int, dims.split(",")))


def spikes(value: Any) -> str:
    """`binary`, `signed`, `levels:N` or `powers:N`, as it stands. Raises ValueError for anything else."""
    neuron_for(str(value))
    return str(value)


def weights(value: Any) -> str:
    """`float32`, `int8`, `log2:5`, …, as it stands. Raises ValueError for anything else."""
    from converter.weights import parse

    try:
        parse(str(value))
    except UsageError as error:
        raise ValueError(f"{error.problem}; {error.hint}") from error
    return str(value)


def gate(value: Any) -> str:
    """`output-error=0.02`, checked and kept as it is; `gate_of` takes it apart."""
    gate_of(str(value))
    return str(value)


def gate_of(value: str) -> tuple[str, float]:
    """`output-error=0.02` -> ("output-error", 0.02)."""
    name, _, number = value.rpartition("=")
    try:
        found = float(number)
    except ValueError:
        found = math.nan
    if not name or not math.isfinite(found):
        raise ValueError(f"{value!r} is not NAME=VALUE such as output-error=0.02 or mAP50=0.3")
    return name, found


def seconds(text: str) -> float:
    """`60`, `60s`, `5m`, `1h` in seconds. Raises `ValueError` for anything else, and for no time at all."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        found = float(number) * UNITS[unit]
    except ValueError:
        found = 0.0
    if not 0 < found < math.inf:
        raise ValueError(f"{text!r} is no length of time; 60s, 5m or 1h is")
    return found


UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def neuron_for(value: str) -> tuple[str, int | None]:
    """`levels:4` -> ("multi-level", 4): the neuron with these spikes, and its levels where it has them."""
    name, colon, count = value.partition(":")
    if not colon and name in SPIKES and name not in COUNTED:
        return SPIKES[name], None
    if name in COUNTED and count.isdigit() and int(count) >= 1:
        return SPIKES[name], int(count)
    raise ValueError(f"{value!r} is none of binary, signed, levels:N, powers:N with N from 1")


def _numbers(value: Any, kind: Callable[[Any], Any]) -> tuple[Any, ...]:
    try:
        found = tuple(kind(v) for v in (value.split(",") if isinstance(value, str) else value))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{value!r} is not a list of numbers such as 1,2,4") from error
    if not found:
        raise ValueError("the list is empty")
    return found
