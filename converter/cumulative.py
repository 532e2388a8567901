"""Telescoping: an op that is not linear, run through time so that nothing is lost or invented.

With S_t the sum of the inputs up to step t, emitting the *change* of what the op makes of it sums up to
what the op makes of the whole, at every t and for any window, stride, padding or overlap:

    homogeneous f (max-pool)   y_t = f(S_t) − f(S_{t−1})                          so Σ y = f(Σ x)
    any other f                y_t = t·f(S_t/t) − (t−1)·f(S_{t−1}/(t−1))          so mean y = f(mean x)

A max-pool of binary spikes emits binary spikes: the maximum is 1-Lipschitz and stays on the spikes' grid.
The first form is LIPooling (Li & Zeng, IJCAI 2022) freed of its restriction to windows that do not overlap;
the second is expectation compensation (Huang et al., ACM MM 2024). The functions go into emitted models as
they stand, so they use nothing but torch.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Sums = tuple[Tensor, ...]


def telescope(f: Callable[..., Tensor], state: Sums | None, *now: Tensor) -> tuple[Sums, Tensor]:
    """One step of a homogeneous f: y_t = f(S_t) − f(S_{t−1}); the state is every S, then f(S)."""
    state = state or (now[0].new_zeros(()),) * (len(now) + 1)
    sums = tuple(total + x for total, x in zip(state, now, strict=False))
    result = f(*sums)
    return (*sums, result), result - state[-1]


def telescope_mean(
    f: Callable[..., Tensor], state: Sums | None, time: int, *now: Tensor
) -> tuple[Sums, Tensor]:
    """One step of any f: y_t = t·f(S_t/t) − (t−1)·f(S_{t−1}/(t−1)); the state is every S, then t·f(S/t)."""
    state = state or (now[0].new_zeros(()),) * (len(now) + 1)
    sums = tuple(total + x for total, x in zip(state, now, strict=False))
    result = time * f(*(total / time for total in sums))
    return (*sums, result), result - state[-1]
