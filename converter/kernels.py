"""First-spike kernels: what a spike is worth at each step of a window, and when a neuron sends it.

A layer's scale is θ₀, its window T steps, its kernel a falling row κ(0) = 1 > κ(1) > … > κ(T−1) > 0:

    a spike at step k carries θ₀·κ(k), no spike carries 0
    a membrane u spikes at the first step k with u ≥ θ₀·ϑ(k), once

    base-2    κ(k) = 2^(−k/τ)     ϑ(k) = 2^(−(k+½)/τ): to the nearest in the logarithm; or κ(k): the floor
    linear    κ(k) = (T−k)/T      ϑ(k) = (T−k−½)/T: to the nearest; or κ(k): the floor

Rounding errs by up to a factor 2^(1/2τ) (base-2), or θ₀/2T (linear); the floor by all of a step. In
continuous time, T → ∞, the linear kernel is exact. Spikes are found by comparison with the row, never with a
logarithm, so what was decoded encodes to the same step.

A neuron that begins to fire S < T steps after the window of its input began compares, at step k, with what
has arrived in the steps before S + k of that window (early firing: T2FSNN, Park et al., DAC 2020). What it
sees differs in T − S + 1 views, the last of them the whole window; they stand one after the other in the
batch, [views · batch, …], and what it says is told in as many. S = T is one view.

Pure functions of tensors: base-2 is the kernel of conversion-aware training (Lew et al., DAC 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

KERNELS = ("base-2", "linear")
CODERS = ("round", "floor")


def kernel_values(kernel: str, window: int, tau: float) -> Tensor:
    """κ(0), …, κ(T−1), and 0 for no spike: [window + 1], double precision. `tau` is of base-2 alone."""
    step = torch.arange(window + 1, dtype=torch.float64)
    worth = torch.exp2(-step / tau) if kernel == "base-2" else (window - step) / window
    worth[window] = 0.0
    return worth


def kernel_thresholds(kernel: str, window: int, tau: float, coder: str) -> Tensor:
    """ϑ(0), …, ϑ(T−1): [window], double precision. `coder` is `round` or `floor`."""
    if coder == "floor":
        return kernel_values(kernel, window, tau)[:window]  # to the last bit
    step = torch.arange(window, dtype=torch.float64) + 0.5
    return torch.exp2(-step / tau) if kernel == "base-2" else (window - step) / window


def spike_steps(membrane: Tensor, scale: Tensor, falling: Tensor) -> Tensor:
    """The first step at which `membrane` ≥ scale·falling, T for none: int64, the membrane's shape.

    `falling` [T] are thresholds; `scale` broadcasts to the membrane. The quotient finds the step to within
    one, comparisons with the thresholds themselves decide.
    """
    row, window = falling.to(membrane), len(falling)
    steps = window - torch.bucketize((membrane / scale).contiguous(), row.flip(0), right=True)
    earlier = (steps > 0) & (membrane >= scale * row[(steps - 1).clamp_min(0)])
    later = (steps < window) & (membrane < scale * row[steps.clamp_max(window - 1)])
    return steps - earlier.long() + later.long()


def early_steps(membrane: Tensor, scale: Tensor, falling: Tensor, views: int) -> Tensor:
    """The same while spikes still arrive: [views · batch, …] -> [batch, …].

    The first step sees the first view, and so on; the last view holds from its own step on.
    """
    seen, row = membrane.chunk(views), falling.to(membrane)
    steps = spike_steps(seen[-1], scale, falling).clamp_min(views - 1)
    for step in reversed(range(views - 1)):
        steps = torch.where(seen[step] >= scale * row[step], step, steps)
    return steps


def spike_values(steps: Tensor, scale: Tensor, worth: Tensor, grain: int | None = None) -> Tensor:
    """What spikes at these steps carry: scale·worth[step], of the type of `scale`; `worth` is [T + 1].

    With a `grain` the nearest multiple of 2^grain, found in double precision.
    """
    if grain is None:
        return scale * worth.to(scale)[steps]
    return (scale.double() * worth[steps] * 2.0**-grain).round().mul(2.0**grain).to(scale)


def fire_once(
    membrane: Tensor,
    scale: Tensor,
    window: int,
    kernel: str,
    tau: float | None,
    coder: str,
    offset: int | None = None,
    grain: int | None = None,
) -> Tensor:
    """What the one spike of each neuron carries, 0 for none or none yet: [views · batch, …], as `membrane`.

    `tau` None is window / 6, `offset` None the window: one view; `grain` as in `spike_values`.
    """
    reach, begins = tau or window / 6, offset or window
    falling = kernel_thresholds(kernel, window, reach, coder)
    steps = early_steps(membrane, scale, falling, window - begins + 1)
    values = spike_values(steps, scale, kernel_values(kernel, window, reach), grain)
    return torch.cat([torch.where(steps < end, values, 0.0) for end in range(begins, window + 1)])


def spike_times(membrane: Tensor, scale: Tensor) -> Tensor:
    """Continuous time, linear: the moment in [0, 1], in windows, at which a membrane spikes; 1 is no spike.

    The threshold falls from the scale to 0 in a window: t = 1 − u/θ₀ (Stanojevic et al., Nat. Commun. 2024).
    """
    return (1 - membrane / scale).clamp(0, 1)


def fire_in_time(membrane: Tensor, scale: Tensor) -> Tensor:
    """What a spike in continuous time carries, θ₀·(1 − t): the membrane itself, from 0 up to the scale."""
    return scale * (1 - spike_times(membrane, scale))


def encode(z: Tensor, theta0: Tensor, tau: float, window: int, coder: str = "round") -> Tensor:
    """Base-2: the step 0 … window − 1 of the spike of membranes `z`, `window` for none; int64, as `z`."""
    return spike_steps(z, theta0, kernel_thresholds("base-2", window, tau, coder))


def decode(steps: Tensor, theta0: Tensor, tau: float, window: int) -> Tensor:
    """Base-2: what a spike at these steps carries, θ₀·2^(−step/τ), 0 for none; of the type of `theta0`."""
    return spike_values(steps, theta0, kernel_values("base-2", window, tau))


def quantise(z: Tensor, theta0: Tensor, tau: float, window: int, coder: str = "round") -> Tensor:
    """Base-2: what a neuron that integrated `z` says, decode(encode(z)): at most θ₀, 0 below the window."""
    return decode(encode(z, theta0, tau, window, coder), theta0, tau, window)
