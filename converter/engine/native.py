"""Neurons in whole numbers as machine code: `fire.c`, compiled where there is a C compiler, once a machine.

What was compiled is kept in the user's cache by the hash of all that went into it, and is used only if it
does what it should on numbers known by hand. The threads are torch's own: the library is not linked with an
OpenMP runtime of its own, but finds the one that is there.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

TERMS = 8
"""Terms that a current may have."""
MOST = 4096
"""Channels that a layer may have."""
NEAR = 512
"""About so many membranes are taken at once."""
ROOM = 8192
"""At most so many are."""
SHARED = 1 << 16
"""So many neurons times steps are worth waiting for another thread: 10 to 20 µs of work."""
SOURCE = Path(__file__).with_name("fire.c")
PARTS = (SOURCE, *map(SOURCE.with_name, ("bytes.h", "events.h", "pool.h", "scatter.h", "soft.h", "sparse.h")))
FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=off", "-fno-math-errno"),
    *("-fno-trapping-math", "-fwrapv", "-fPIC"),
)
KINDS = {torch.float32: 0, torch.uint8: 1, torch.int32: 2, torch.float64: 3}
"""How a term's values come: FLOAT32, CODES, INT32, FLOAT64."""
BYTES = 4
"""Or as spikes in bytes, to be weighed and summed up (`bytes`)."""
SOFT, HARD, SIGNED, LEVELS, BURST = range(5)
"""What a neuron does, as `fire.c` calls it."""


class Term(ctypes.Structure):
    """`Term` of fire.c."""

    _fields_ = (
        *(("data", ctypes.c_void_p), ("factor", ctypes.c_void_p), ("stride", ctypes.c_int64)),
        *((name, ctypes.c_int32) for name in ("kind", "zero", "channels", "row")),
    )


class Layer(ctypes.Structure):
    """`Layer` of fire.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("count", "steps", "block", "row", "together")),
        *((name, ctypes.c_int32) for name in ("terms", "weighed", "kind", "levels", "zero")),
        ("term", Term * TERMS),
        *(
            (name, ctypes.c_void_p)
            for name in ("bias", "threshold", "worth", "said", "membrane", "net", "codes")
        ),
    )


class Pool(ctypes.Structure):
    """`Pool` of fire.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "channels")),
        *((name, ctypes.c_int32) for name in ("height", "width", "rows", "columns")),
        *((name, ctypes.c_int32 * 2) for name in ("kernel", "stride", "padding", "dilation")),
        *((name, ctypes.c_void_p) for name in ("sums", "largest")),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None without a compiler, or where they do not compute what they should."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        return None
    for extra in (("-fopenmp",), ()):
        path = compiled(compiler, (*FLAGS, *extra))
        try:
            found = path and ctypes.CDLL(str(path))
        except OSError:
            continue
        if isinstance(found, ctypes.CDLL):
            return found if right(found) else None
    return None


def loaded() -> ctypes.CDLL:
    """The compiled kernels, where there are some."""
    found = library()
    assert found is not None
    return found


def shared(count: int) -> int:
    """How many threads share work on so many values."""
    return torch.get_num_threads() if count >= SHARED else 1


def sums_bytes() -> bool:
    """Whether the compiled kernels weigh and sum up spikes too: where the processor has VNNI."""
    found = library()
    return found is not None and bool(found.sums_bytes())


def spikes(codes: Tensor, zero: int) -> int:
    """How many bytes of memory are spikes."""
    counted = loaded().count_spikes
    counted.restype = ctypes.c_int64
    memory, count = ctypes.c_void_p(codes.data_ptr()), ctypes.c_int64(codes.numel())
    return int(counted(memory, count, ctypes.c_int32(zero)))


def compiled(compiler: str, flags: Sequence[str]) -> Path | None:
    """The library, made if it is not there: by way of objects, so that no runtime is linked in."""
    sources = [part.read_bytes() for part in PARTS]
    made_of = (*flags, compiler, platform.machine(), processor(), platform.platform())
    name = sha256(b"\0".join([*sources, *(part.encode() for part in made_of)])).hexdigest()[:24]
    try:
        place = cache_directory()
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"fire-{name}.so"
        if path.exists():
            return path
        with tempfile.TemporaryDirectory(dir=place) as room:
            objects, linked = Path(room) / "fire.o", Path(room) / "fire.so"
            for command in (
                [*flags, "-c", str(SOURCE), "-o", str(objects)],
                ["-shared", str(objects), "-o", str(linked)],
            ):
                subprocess.run([compiler, *command], check=True, capture_output=True, timeout=60)
            os.replace(linked, path)
    except (OSError, subprocess.SubprocessError):
        return None
    return path


def processor() -> str:
    """What the processor can do: code for one may not run on another that shares the directory."""
    try:
        return next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
        )
    except (OSError, StopIteration):
        return platform.processor()


def cache_directory() -> Path:
    """Where what was compiled is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ann2snn"


def fire(layer: Layer, pool: Pool | None, wide: bool) -> None:
    """Run a layer's neurons through a chunk of steps, behind a pool or not; `wide` numbers are doubles."""
    found, threads = loaded(), shared(layer.count * layer.steps)
    if pool is None:
        found.fire(ctypes.byref(layer), int(wide), threads)
    else:
        found.pool_and_fire(ctypes.byref(layer), ctypes.byref(pool), int(wide), threads)


def fire_floats(threshold: Tensor, membrane: Tensor, values: Tensor, out: Tensor, steps: int) -> bool:
    """Integrate-and-fire with soft reset in float32, in memory of its own; False where it cannot be done so.

    `values` and `out` [steps · batch, …], which may be the same, lie as `membrane` [batch, …] does, or all
    steps see the same `values` [batch, …]; `threshold` is laid out by `Thresholds`.
    """
    found, count = library(), membrane.numel()
    if found is None:
        return False
    each = count if values.numel() > count else 0
    numbers = (ctypes.c_int64(n) for n in (count, steps, len(threshold), each))
    memory = (ctypes.c_void_p(t.data_ptr()) for t in (threshold, membrane, values, out))
    found.fire_floats(*numbers, *memory, shared(count * steps))
    return True


def round_floats(scale: float, values: Tensor, out: Tensor) -> bool:
    """out = ⌊values · scale + ½⌋ / scale in float32, which lie alike; False where it cannot be done so."""
    found = library()
    if found is None:
        return False
    memory = (ctypes.c_void_p(t.data_ptr()) for t in (values, out))
    numbers = ctypes.c_int64(values.numel()), ctypes.c_float(scale)
    found.round_floats(*numbers, *memory, shared(values.numel()))
    return True


def pool_floats(pool: Pool, sums: Tensor, largest: Tensor, values: Tensor, out: Tensor, steps: int) -> bool:
    """A max-pool through time in float32, all of it in channels_last; False where it cannot be done so."""
    found = library()
    if found is None:
        return False
    pool.samples, pool.sums, pool.largest = len(sums), sums.data_ptr(), largest.data_ptr()
    memory = (ctypes.c_void_p(t.data_ptr()) for t in (values, out))
    found.pool_floats(ctypes.byref(pool), ctypes.c_int64(steps), *memory, shared(values.numel()))
    return True


def right(found: ctypes.CDLL) -> bool:
    """Whether each kind of neuron does on two steps of three currents what it does by hand."""
    want = {
        SOFT: ((131, 131, 128), (131, 131, 128)),
        HARD: ((131, 131, 128), (131, 128, 128)),
        SIGNED: ((131, 131, 125), (131, 131, 128)),
        LEVELS: ((134, 131, 125), (134, 131, 128)),
        BURST: ((134, 131, 128), (134, 131, 128)),
    }
    for kind, codes in want.items():
        for wide in (False, True):
            number = torch.float64 if wide else torch.int32
            membrane, current = torch.tensor([5, 5, 5], dtype=number), torch.tensor([20.0, 8.0, -9.0])
            out, net = torch.zeros(2, 3, dtype=torch.uint8), torch.ones(3, dtype=torch.int32)
            one, bias, threshold = (torch.full((3,), n, dtype=number) for n in (1, 0, 10))
            worth = torch.full((3,), 3, dtype=torch.int32)
            said = torch.full((3,), 131, dtype=torch.uint8)
            layer = Layer(
                count=3, steps=2, block=3, row=3, together=1, terms=1, kind=kind, levels=2, zero=128
            )
            layer.term[0] = Term(current.data_ptr(), one.data_ptr(), 0, KINDS[current.dtype], 0, 3, 3)
            layer.bias, layer.threshold, layer.worth = (t.data_ptr() for t in (bias, threshold, worth))
            layer.said = said.data_ptr()
            layer.membrane, layer.net, layer.codes = membrane.data_ptr(), net.data_ptr(), out.data_ptr()
            found.fire(ctypes.byref(layer), int(wide), 1)
            if tuple(map(tuple, out.tolist())) != codes:
                return False
    one, membrane = torch.ones(3), torch.full((3,), 0.5)
    values = torch.tensor([[0.75, 0.25, -1.0], [0.5, 0.0, 9.0]])
    numbers = (ctypes.c_int64(n) for n in (3, 2, 3, 3))
    memory = (ctypes.c_void_p(t.data_ptr()) for t in (one, membrane, values, values))
    found.fire_floats(*numbers, *memory, 1)
    spikes = values.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    return spikes and membrane.tolist() == [0.75, 0.75, 7.5]
