"""What an op with a state does in one step, in ONNX's standard operators: the equations of its `kernel`.

The order of the arithmetic is that of the kernel, so in float32 the same current gives the same spikes. A
state that only counts the steps is not kept: the model has one `time`, the number of steps done, for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnx import TensorProto

from converter.errors import Refusal
from converter.exporters._onnx import Writer
from converter.neurons.burst import Burst
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.leaky import Leaky
from converter.neurons.multi_level import MultiLevel
from converter.neurons.negative_slope import NegativeSlope
from converter.neurons.power_of_two import PowerOfTwo
from converter.neurons.signed import Signed
from converter.stateful import Stateful
from converter.temporal_bias import TemporalBias
from converter.withdrawal import Withdrawal

Stepped = tuple[tuple[str, ...], str]
Kernel = Callable[[Writer, Any, Sequence[str], str, str], Stepped]

PARTS: dict[type[Stateful], tuple[str, ...]] = {
    IntegrateFire: ("membrane",),
    Leaky: ("membrane",),
    Burst: ("membrane",),
    Signed: ("membrane", "net"),
    MultiLevel: ("membrane", "net"),
    PowerOfTwo: ("membrane", "net"),
    NegativeSlope: ("membrane", "net"),
    TemporalBias: (),
    Withdrawal: ("fired", "interval", "last", "net"),
}
"""What the entries of a state are called, those that are kept."""


def stepped(w: Writer, op: Stateful, state: Sequence[str], value: str, time: str) -> Stepped:
    """The next state and the output, from `state`, the input, and the number of steps done, a float32 scalar.

    Raises `Refusal` for an op that has no form here.
    """
    if type(op) not in KERNELS:
        raise Refusal("has no form in ONNX")
    return KERNELS[type(op)](w, op, state, value, time)


def _threshold(w: Writer, op: Any) -> str:
    return w.weight(op.threshold, f"{w.scope}.threshold")


def _float(w: Writer, truth: str) -> str:
    return w.cast(truth, TensorProto.FLOAT)


def integrate_fire(w: Writer, op: IntegrateFire, state: Sequence[str], z: str, time: str) -> Stepped:
    """v ← v + z; s = [v ≥ θ]; o = s·θ; v ← v − o, or 0 where it fired."""
    return _fire(w, op, w.add("Add", state[0], z), hard=op.reset == "hard")


def leaky(w: Writer, op: Leaky, state: Sequence[str], z: str, time: str) -> Stepped:
    """v ← λ·v + z, and on as without a leak."""
    return _fire(w, op, w.add("Add", w.add("Mul", w.number(op.leak), state[0]), z), hard=False)


def _fire(w: Writer, op: IntegrateFire | Leaky, membrane: str, *, hard: bool) -> Stepped:
    threshold = _threshold(w, op)
    fires = w.add("GreaterOrEqual", membrane, threshold)
    if hard:
        zero = w.number(0)
        left = w.add("Where", fires, zero, membrane)
        return (left,), w.add("Where", fires, threshold, zero)
    spikes = w.add("Mul", _float(w, fires), threshold)
    return (w.add("Sub", membrane, spikes),), spikes


def burst(w: Writer, op: Burst, state: Sequence[str], z: str, time: str) -> Stepped:
    """k = clip(⌊v / θ⌋, 0, burst)."""
    threshold = _threshold(w, op)
    membrane = w.add("Add", state[0], z)
    count = w.add("Clip", w.add("Floor", w.add("Div", membrane, threshold)), w.number(0), w.number(op.burst))
    spikes = w.add("Mul", count, threshold)
    return (w.add("Sub", membrane, spikes),), spikes


def signed(w: Writer, op: Signed, state: Sequence[str], z: str, time: str) -> Stepped:
    """k = [v ≥ θ] − [v < 0 and N > 0]."""
    threshold, zero = _threshold(w, op), w.number(0)
    membrane = w.add("Add", state[0], z)
    back = w.add("And", w.add("Less", membrane, zero), w.add("Greater", state[1], zero))
    fires = w.add("GreaterOrEqual", membrane, threshold)
    count = w.add("Sub", _float(w, fires), _float(w, back))
    return _counted(w, membrane, state[1], count, threshold)


def _counted(w: Writer, membrane: str, net: str, count: str, threshold: str) -> Stepped:
    """o = k·θ; v ← v − o; N ← N + k."""
    spikes = w.add("Mul", count, threshold)
    return (w.add("Sub", membrane, spikes), w.add("Add", net, count)), spikes


def multi_level(w: Writer, op: MultiLevel, state: Sequence[str], z: str, time: str) -> Stepped:
    """k = clip(⌊v / θ⌋, −min(levels, N), levels)."""
    threshold, levels = _threshold(w, op), w.number(op.levels)
    membrane = w.add("Add", state[0], z)
    count = w.add("Min", w.add("Floor", w.add("Div", membrane, threshold)), levels)
    count = w.add("Max", count, w.add("Neg", w.add("Min", state[1], levels)))
    return _counted(w, membrane, state[1], count, threshold)


def power_of_two(w: Writer, op: PowerOfTwo, state: Sequence[str], z: str, time: str) -> Stepped:
    """The largest level reached by (|v/θ − ¼|) / ¾, its sign that of v/θ − ¼, and back no more than N."""
    threshold, zero = _threshold(w, op), w.number(0)
    membrane = w.add("Add", state[0], z)
    above = w.add("Sub", w.add("Div", membrane, threshold), w.number(0.25))
    size = w.add("Div", w.add("Abs", above), w.number(0.75))
    size = w.add("Where", w.add("Less", above, zero), w.add("Min", size, state[1]), size)
    count = zero
    for k in range(op.levels):
        level = w.number(2**k)
        count = w.add("Where", w.add("GreaterOrEqual", size, level), level, count)
    return _counted(w, membrane, state[1], w.add("Mul", count, w.add("Sign", above)), threshold)


def negative_slope(w: Writer, op: NegativeSlope, state: Sequence[str], z: str, time: str) -> Stepped:
    """k = [v ≥ θ] − [v < 0]; o = θ·(φ(N + k) − φ(N)); φ(n) = n, or slope·n below 0."""
    threshold, zero = _threshold(w, op), w.number(0)
    assert op.slope is not None
    slope = w.weight(op.slope, f"{w.scope}.slope")
    membrane, net = w.add("Add", state[0], z), state[1]
    above = _float(w, w.add("GreaterOrEqual", membrane, threshold))
    change = w.add("Sub", above, _float(w, w.add("Less", membrane, zero)))
    counted = w.add("Add", net, change)

    def sloped(count: str) -> str:
        return w.add("Where", w.add("Less", count, zero), w.add("Mul", slope, count), count)

    before, after = sloped(net), sloped(counted)
    left = w.add("Sub", membrane, w.add("Mul", change, threshold))
    return (left, counted), w.add("Mul", threshold, w.add("Sub", after, before))


def temporal_bias(w: Writer, op: TemporalBias, state: Sequence[str], z: str, time: str) -> Stepped:
    """z ← z + b of this step; nothing after the last."""
    last = w.number(len(op.bias) - 1)
    place = w.cast(w.add("Min", time, last), TensorProto.INT64)
    now = w.add("Gather", w.weight(op.bias, f"{w.scope}.bias"), place, axis=0)
    given = w.add("Where", w.add("LessOrEqual", time, last), now, w.number(0))
    return (), w.add("Add", z, given)


def withdrawal(w: Writer, op: Withdrawal, state: Sequence[str], spikes: str, time: str) -> Stepped:
    """Of a neuron that pauses longer than its mean interval and the allowance, one spike back a step."""
    fired, interval, last, net = state
    threshold, zero = _threshold(w, op), w.number(0)
    fires = w.add("Greater", spikes, zero)
    fired = w.add("Add", fired, _float(w, fires))
    moved = w.add("Sub", w.add("Sub", time, last), interval)
    moved = w.add("Add", interval, w.add("Div", moved, w.add("Max", fired, w.number(1))))
    interval = w.add("Where", fires, moved, interval)
    last = w.add("Where", fires, time, last)
    late = w.add("Greater", w.add("Sub", time, last), w.add("Add", interval, w.number(op.allowance)))
    back = w.add("And", w.add("And", w.add("Not", fires), late), w.add("Greater", net, zero))
    given = w.add("Where", back, w.add("Neg", threshold), spikes)
    net = w.add("Add", net, w.add("Round", w.add("Div", given, threshold)))
    return (fired, interval, last, net), given


KERNELS: dict[type[Stateful], Kernel] = {
    IntegrateFire: integrate_fire,
    Leaky: leaky,
    Burst: burst,
    Signed: signed,
    MultiLevel: multi_level,
    PowerOfTwo: power_of_two,
    NegativeSlope: negative_slope,
    TemporalBias: temporal_bias,
    Withdrawal: withdrawal,
}
