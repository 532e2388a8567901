"""Generated Python, laid out as a person would: short constructors, lines broken at their brackets.

The layout is that of `ruff format` for the assignments and calls an emitted model consists of.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

from torch import nn

WIDTH = 110
_INDENT = " " * 4
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def shorten(constructor: str) -> str:
    """A torch.nn constructor without arguments at their default, and `(3, 3)` as `3` in a convolution.

    `nn.Conv2d(3, 8, (3, 3), stride=(1, 1), padding=(1, 1), groups=1)` -> `nn.Conv2d(3, 8, 3, padding=1)`
    """
    call = ast.parse(constructor, mode="eval").body
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
        return constructor
    known = getattr(nn, call.func.attr, None)
    if known is None or ast.unparse(call.func) != f"nn.{call.func.attr}":
        return constructor
    if "Conv" in call.func.attr:
        call.args = [_collapsed(value) for value in call.args]
        for keyword in call.keywords:
            keyword.value = _collapsed(keyword.value)
    defaults = inspect.signature(known).parameters
    call.keywords = [k for k in call.keywords if not _is(k.value, defaults[str(k.arg)].default)]
    return ast.unparse(call).replace("'", '"')


def _collapsed(value: ast.expr) -> ast.expr:
    """One number for a tuple that repeats it: torch takes it for every dimension."""
    if isinstance(value, ast.Tuple) and value.elts and len({ast.unparse(e) for e in value.elts}) == 1:
        return value.elts[0]
    return value


def _is(value: ast.expr, default: object) -> bool:
    """Whether an argument says just what its default is; True is not 1 here."""
    return isinstance(value, ast.Constant) and type(value.value) is type(default) and value.value == default


def fold(line: str, indent: int = 0) -> list[str]:
    """The lines of one statement, indented by `indent` spaces; a comment at its end follows the last bracket.

    A line that is too long is opened at its last bracket: arguments go on one line if they fit, else one a
    line, as the entries of a tuple, list or dictionary always do.
    """
    code, mark, said = line.partition("  # ")
    comment, margin = mark + said, " " * indent
    if indent + len(code + comment) <= WIDTH:
        return [margin + code + comment]
    group = _last_group(code)
    if group is None:
        return _sum(code, comment, margin)
    head, inside, tail = code[: group[0] + 1], code[group[0] + 1 : group[1]], code[group[1] :]
    joined = f"{margin}{_INDENT}{inside}"
    if _called(code, group[0]) and len(joined) <= WIDTH:
        return [margin + head, joined, margin + tail + comment]
    body = [row for part in _parts(inside) for row in fold(f"{part},", indent + 4)]
    return [margin + head, *body, margin + tail + comment]


def _sum(code: str, comment: str, margin: str) -> list[str]:
    """A long assignment without a call to open: in brackets, one summand a line if it must be."""
    name, is_, terms = code.partition(" = ")
    if not is_:
        return [margin + code + comment]
    rows = [f"{margin}{_INDENT}{terms}"]
    if len(rows[0]) > WIDTH:
        first, *rest = terms.split(" + ")
        rows = [f"{margin}{_INDENT}{first}", *(f"{margin}{_INDENT}+ {term}" for term in rest)]
    return [f"{margin}{name} = (", *rows, f"{margin}){comment}"]


def _last_group(code: str) -> tuple[int, int] | None:
    """Where the last call or display of `code` that is in no other one opens and closes; not an empty one.

    Neither an index nor brackets around an expression: the comma that is put after an argument would turn
    these into tuples; nor a comprehension, where it is no Python.
    """
    found, stack = None, []
    for position, sign in _outside_strings(code):
        if sign in _PAIRS:
            stack.append(position)
        elif stack and sign == _PAIRS[code[stack[-1]]]:
            start = stack.pop()
            inside, called = code[start + 1 : position], _called(code, start)
            opens = called or _has_comma(inside) if code[start] == "(" else not called
            if not stack and inside and opens and " for " not in inside:
                found = (start, position)
    return found


def _called(code: str, bracket: int) -> bool:
    """Whether a bracket belongs to what stands before it: a call or an index, no display."""
    return bracket > 0 and (code[bracket - 1].isalnum() or code[bracket - 1] in "_)]")


def _has_comma(inside: str) -> bool:
    """Whether brackets with this inside make a tuple."""
    return inside.endswith(",") or len(list(_parts(inside))) > 1


def _parts(inside: str) -> Iterator[str]:
    """The arguments of a call: `inside` split at its outermost commas."""
    depth, begin = 0, 0
    for position, sign in _outside_strings(inside):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            yield inside[begin:position].strip()
            begin = position + 1
    if rest := inside[begin:].strip():
        yield rest


def _outside_strings(code: str) -> Iterator[tuple[int, str]]:
    """The characters of `code` that are not part of a string literal."""
    quote = ""
    for position, sign in enumerate(code):
        if quote:
            quote = "" if sign == quote and code[position - 1] != "\\" else quote
        elif sign in "\"'":
            quote = sign
        else:
            yield position, sign
