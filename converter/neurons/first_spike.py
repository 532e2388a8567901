"""First spike: a neuron spikes at most once a window, and when it does is what it says.

Its membrane has integrated the spikes of a whole window; in the next one its threshold falls, and it spikes
at the first step at which the membrane reaches it (`converter.kernels`). `threshold` is its scale θ₀, what a
spike at step 0 carries. In continuous time a layer's window reaches `slack` times as far as its largest
scale, so that what calibration has not seen is still in it (1.5: Stanojevic et al., Nat. Commun. 2024), and
the code is exact up to there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from converter.errors import Refusal, UsageError
from converter.kernels import (
    CODERS,
    KERNELS,
    early_steps,
    fire_in_time,
    fire_once,
    kernel_thresholds,
    kernel_values,
    spike_steps,
    spike_times,
    spike_values,
)
from converter.neurons import Kernel, Neuron, State, neurons

OCTAVES = 6.0
"""A window reaches down over so many powers of two unless `tau` says otherwise: T/τ = 12/2, 24/4, 48/8."""


@neurons.register
@dataclass(frozen=True, eq=False)
class FirstSpike(Neuron):
    """`form` of the kernel, `base-2` with its `tau` in steps (None: a sixth of the window) or `linear`.

    `coder` is `round` or `floor`. `continuous` time takes the linear form and knows no steps: its window is
    one step. `slack` is for continuous time alone. `offset`: how many steps after the window of its input it
    begins to fire, at most a window (None: that); what comes later is integrated later.
    `grain`: what a spike carries is a multiple of 2^grain (None: whatever it is), as on a machine that counts
    in whole numbers.
    """

    form: str = "base-2"
    tau: float | None = None
    coder: str = "round"
    continuous: bool = False
    slack: float = 1.5
    offset: int | None = None
    grain: int | None = None

    choosable: ClassVar[bool] = False
    pools_spikes: ClassVar[bool] = True
    one_sided: ClassVar[bool] = True
    alphabet: ClassVar[str] = "first"

    def __post_init__(self) -> None:
        """Raise `UsageError` for a kernel or a coder there is not, or that cannot be together."""
        if self.form not in KERNELS:
            raise UsageError(f"there is no first-spike kernel {self.form!r}", hint=" or ".join(KERNELS))
        if self.coder not in CODERS:
            raise UsageError(f"there is no first-spike coder {self.coder!r}", hint=" or ".join(CODERS))
        if self.tau is not None and (self.form != "base-2" or self.tau <= 0):
            raise UsageError(f"tau is {self.tau:g}; it is of the kernel base-2 alone, and above 0")
        if self.continuous and (self.form != "linear" or self.coder != "round"):
            raise UsageError(
                "continuous time has the linear kernel and rounds nothing", hint="--kernel linear alone"
            )
        if self.slack < 1:
            raise UsageError(f"the slack is {self.slack:g}; a window reaches at least as far as its scale")
        if self.offset is not None and (self.continuous or self.offset < 1):
            raise UsageError(
                f"the offset is {self.offset} steps; it is 1 or more, and continuous time has no steps"
            )

    @property
    def kernel(self) -> Kernel:
        raise Refusal("spikes once a window, it has no step of its own")

    def init(self) -> State:
        raise Refusal("spikes once a window, it has no state between steps")

    @property
    def spikes(self) -> str:
        return "continuous first" if self.continuous else f"{self.form} first"

    def reach(self, window: int) -> float:
        """τ, in steps."""
        return self.tau or window / OCTAVES

    def begins(self, window: int) -> int:
        """How many steps after the window of its input its own begins."""
        return self.offset or window

    def views(self, timesteps: int) -> int:
        return timesteps - self.begins(timesteps) + 1

    def check(self, window: int) -> None:
        """`UsageError` for a window that is over before the next layer begins, or too small for its code.

        Base-2 should hold two values a factor two apart.
        """
        if self.begins(window) > window:
            raise UsageError(
                f"a window of {window} step{'s' * (window > 1)} is over before the next layer fires, "
                f"{self.offset} after it began",
                hint=f"--window {self.offset} or more, or a smaller --offset",
            )
        if self.continuous and window != 1:
            raise UsageError(f"time is continuous, there is no window of {window} steps", hint="-T 1")
        if self.form == "base-2" and window - 1 < self.reach(window):
            least = int(self.tau or 1) + 1
            raise UsageError(
                f"a window of {window} step{'s' * (window > 1)} is too small for the range of its values",
                why=f"with tau {self.reach(window):g} its smallest value is "
                f"{100 * 2 ** (-(window - 1) / self.reach(window)):.0f} % of its largest",
                hint=f"--window {least} or more, or a smaller --tau",
            )

    def limit(self) -> Tensor:
        if not self.continuous:
            return self.calibrated()
        limit = self.slack * self.calibrated().amax()  # a layer has one window
        return limit if self.ceiling is None else limit.clamp(max=self.ceiling)

    def times(self, current: Tensor, window: int) -> Tensor:
        """When membranes that have integrated `current` spike: [views · batch, …] -> [batch, …].

        The step 0 … window − 1, `window` for never (int64); in continuous time windows, 1 for never.
        """
        if self.continuous:
            return spike_times(current, self.limit())
        falling = kernel_thresholds(self.form, window, self.reach(window), self.coder)
        return early_steps(current, self.calibrated(), falling, self.views(window))

    def worth(self, times: Tensor, window: int) -> Tensor:
        """What spikes at these `times` carry, 0 for never."""
        if self.continuous:
            return self.limit() * (1 - times)
        values = kernel_values(self.form, window, self.reach(window))
        return spike_values(times, self.calibrated(), values, self.grain)

    def fires(self, times: Tensor, window: int) -> Tensor:
        """Which of these `times` are those of a spike: boolean, as `times`."""
        return times < (1 if self.continuous else window)

    def window(self, current: Tensor, timesteps: int) -> Tensor:
        """What the one spike in a window of `timesteps` steps carries, after one that gave `current`.

        Both are [views · batch, …], see `converter.kernels`.
        """
        if self.continuous:
            return self.worth(self.times(current, timesteps), timesteps)
        how = (self.form, self.tau, self.coder, self.offset, self.grain)
        return fire_once(current, self.calibrated(), timesteps, *how)

    def quantised(self, x: Tensor, ranges: Tensor, timesteps: int) -> Tensor:
        if self.continuous:
            return x.clamp(min=0).minimum(self.slack * ranges.amax())
        return fire_once(x, ranges, timesteps, self.form, self.tau, self.coder)

    @property
    def window_functions(self) -> tuple[Callable[..., Any], ...]:
        if self.continuous:
            return (spike_times, fire_in_time)
        return (kernel_values, kernel_thresholds, spike_steps, early_steps, spike_values, fire_once)

    def code_window(self, name: str, current: str) -> str:
        scale = f"{name}.threshold"
        if not self.continuous:
            settings = [self.form, self.tau, self.coder, self.offset, self.grain]
            while settings[-1] is None:
                settings.pop()
            return f"fire_once({current}, {scale}, timesteps, {', '.join(map(repr, settings))})"
        limit = f"{self.slack!r} * {scale}.amax()"
        limit = limit if self.ceiling is None else f"({limit}).clamp(max={self.ceiling!r})"
        return f"fire_in_time({current}, {limit})"
