"""Weight formats: by hand, then idempotent and exact for any weights, then as good as any other choice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converter.errors import UsageError
from converter.weights import Format, as_weight, by_channel, fake, parse

NAMES = (
    *("int8", "int4", "int2", "exact15", "exact6"),
    *("log2:6", "log2:5", "log2:4", "log2:2", "pow2:5", "pow2:3"),
)


def format_of(name: str) -> Format:
    found = parse(name)
    assert found is not None
    assert str(found) == name
    return found


def test_int4_by_hand() -> None:
    codes, scale = format_of("int4").encode(torch.tensor([[7.0, -3.2, 0.4, 0.0]]))
    assert codes.tolist() == [[7, -3, 0, 0]]
    assert scale.tolist() == [1.0]


def test_exact_by_hand() -> None:
    """Codes up to 7: of 14 the scale is 2, of 14.1 it is 4, of a channel of zeros the largest."""
    codes, scale = format_of("exact4").encode(torch.tensor([[14.0, -3.2], [14.1, 5.0], [0.0, 0.0]]))
    assert codes.tolist() == [[7, -2], [4, 1], [0, 0]]
    assert scale.tolist() == [2.0, 4.0, 4.0]


def test_log2_by_hand() -> None:
    """√2 is 362/256. The top is 4 steps of √2, which is 4; 0.7 lies nearest to 181/256."""
    format = format_of("log2:5")
    codes, top = format.encode(torch.tensor([[4.0, -2.9, 0.7, 0.015, 0.0]]))
    assert top.tolist() == [4.0]
    assert codes.tolist() == [[1, -2, 6, 0, 0]]  # ±(1 + e); 0.015 is less than half of √2^(4 − 14)
    assert format.decode(codes, top).tolist() == [[4.0, -2 * 362 / 256, 181 / 256, 0.0, 0.0]]


def test_pow2_by_hand() -> None:
    format = format_of("pow2:3")  # e is 0, 1 or 2
    codes, top = format.encode(torch.tensor([[1.0, 0.76, -0.24, 0.13, 0.12]]))
    assert format.decode(codes, top).tolist() == [[1.0, 1.0, -0.25, 0.25, 0.0]]


def test_a_transposed_convolution_has_its_channels_on_the_second_axis() -> None:
    weight = torch.arange(2 * 2 * 3 * 2.0).reshape(4, 3, 2)  # 2 groups: in 4, out 2 · 3
    rows = by_channel(weight, 2)
    assert rows.shape == (6, 4)
    assert rows[4].tolist() == [*weight[2, 1].tolist(), *weight[3, 1].tolist()]
    assert torch.equal(as_weight(rows, weight.shape, 2), weight)


def weights(seed: int) -> Tensor:
    """Channels of very different sizes, one silent, one with a weight that nothing adds up to."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 2, 3, 3, generator=generator) * torch.logspace(0, -5, 6)[:, None, None, None]
    weight[seed % 6] = 0
    weight[0, 0, 0, 0] = 1e-12
    return weight


@settings(max_examples=40)
@given(st.sampled_from(NAMES), st.integers(0, 10_000))
def test_what_is_quantised_is_quantised_to_itself(name: str, seed: int) -> None:
    format = format_of(name)
    once = fake(weights(seed), format)
    assert torch.equal(fake(once, format), once)


@settings(max_examples=40)
@given(st.sampled_from(NAMES), st.integers(0, 10_000))
def test_values_are_whole_numbers_times_a_power_of_two(name: str, seed: int) -> None:
    format = format_of(name)
    codes, scale = format.encode(by_channel(weights(seed)))
    whole, exponent = format.whole(codes, scale)
    assert int(codes.abs().max()) < 2 ** (format.bits - 1)
    assert torch.equal(torch.ldexp(whole.double(), exponent[:, None]), format.decode(codes, scale).double())


@pytest.mark.parametrize("name", ["log2:5", "pow2:5"])
def test_the_relative_error_of_an_exponent_is_bounded(name: str) -> None:
    """Between two values v and r·v the farthest is (r − 1) / (r + 1) of either sum from both."""
    limit = {"log2:5": 0.172, "pow2:5": 1 / 3}[name]
    rows = torch.linspace(0.1, 1.0, 5000)[None]
    error = (format_of(name).quantise(rows) / rows - 1).abs().max()
    assert limit - 0.01 < float(error) < limit + 1e-3


def test_more_bits_are_nearer() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    errors = [
        float((fake(weight, format_of(n)) - weight).norm() / weight.norm()) for n in ("int2", "int4", "int8")
    ]
    assert errors[0] > 2 * errors[1] > 8 * errors[2]
    assert errors[2] < 0.007


def test_the_scale_is_as_good_as_any() -> None:
    """The best of 2,000 scales between a tenth and all of the range is at most 2 % nearer."""
    row = torch.randn(1, 400, generator=torch.Generator().manual_seed(2)).double()
    reached = float((format_of("int4").quantise(row.float()).double() - row).norm())
    best = min(
        float(((row / s).round().clamp(-7, 7) * s - row).norm())
        for s in torch.linspace(0.1, 1, 2000).double() * row.abs().max() / 7
    )
    assert best <= reached < 1.02 * best


@pytest.mark.parametrize(
    "name", ["int3.5", "int", "int1", "int16", "log2:1", "log2:7", "log2", "float16", "pow2:6"]
)
def test_what_is_no_format_is_refused_with_what_is(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(name)
    assert refused.value.hint


def test_float_weights_have_no_format() -> None:
    assert parse("float32") is None
