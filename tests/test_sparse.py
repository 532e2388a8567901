"""Convolutions of spikes one by one: the bits of the dense ones, wherever and whenever they are taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converter.engine import Tiling, onednn, sparse
from converter.engine.functions import Convolution
from converter.engine.sparse import EVERY, Sparse, fits, laid, passes, share_for_spikes
from converter.importer import load
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.signed import Signed
from converter.ops import Conv
from converter.passes import apply
from converter.rate import RateModel
from tests.test_engine import images, network, run, same

pytestmark = pytest.mark.skipif(
    not sparse.there(), reason="no AVX-512 or no C compiler: spikes in floats are convolved densely"
)


def nested(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def by_spike(conv: Conv, x: Tensor) -> Tensor:
    return Sparse(conv, tuple(x.shape))(x, laid(conv))


def test_sums_go_channel_by_channel_and_the_bias_comes_last() -> None:
    """2^24 + 1 is rounded to 2^24, so (2^24 + 1) - 2^24 is 0, and 2^24 - 2^24 + 1 is 1; the bias is 1/4."""
    large = float(1 << 24)
    conv = Conv(
        torch.tensor([[large, 1.0, -large], [large, -large, 1.0]])[..., None, None], torch.full((2,), 0.25)
    )
    assert by_spike(conv, torch.ones(1, 3, 1, 1)).flatten().tolist() == [0.25, 1.25]
    alone = torch.tensor([0.0, 2.0, 0.0]).reshape(1, 3, 1, 1)
    assert by_spike(conv, alone).flatten().tolist() == [2.25, -2 * large]


def test_taps_at_the_border_see_nothing() -> None:
    """Ones under a 3x3 kernel of ones with a border of one: 4 in the corners, 6 at the sides, 9 within."""
    conv = Conv(torch.ones(1, 1, 3, 3), None, (1, 1), (1, 1), (1, 1))
    assert by_spike(conv, torch.ones(1, 1, 3, 3)).reshape(3, 3).tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]


@given(
    channels=st.sampled_from([1, 3, 16, 20, 40]),
    outputs=st.sampled_from([1, 5, 16, 24, 40, 64, 70, 100, 128, 150]),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 1)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 3)]),
    dilation=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
    padding=st.sampled_from([(0, 0), (1, 1), (2, 0), (0, 5)]),
    share=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_any_geometry_is_that_of_torch(
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    share: float,
    seed: int,
) -> None:
    """In doubles up to rounding; and where it is said to have the bits of oneDNN, bit for bit."""
    draw = torch.Generator().manual_seed(seed)
    weight, bias = (
        torch.randn(outputs, channels, *kernel, generator=draw),
        torch.randn(outputs, generator=draw),
    )
    conv = Conv(weight, bias if seed % 2 else None, stride, padding, dilation)
    x = torch.randn(2, channels, 9, 11, generator=draw)
    x = nested(torch.where(torch.rand(x.shape, generator=draw) < share, x, 0.0))
    found = by_spike(conv, x)
    exact = Conv(weight.double(), bias.double() if seed % 2 else None, stride, padding, dilation)(x.double())
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)
    if fits(conv, tuple(x.shape)):
        assert torch.equal(found, onednn.convolve(conv, onednn.pack(conv, tuple(x.shape)), x))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(64, 16, 3, 3, 55, 55), (16, 128, 1, 1, 55, 55), (1000, 512, 1, 1, 13, 13)])
def test_layers_of_squeezenet_have_the_bits_of_onednn(size: tuple[int, ...], threads: int) -> None:
    """So for these the choice is free; two threads share rows."""
    torch.set_num_threads(threads)
    try:
        draw = torch.Generator().manual_seed(1)
        conv = Conv(torch.randn(size[:4], generator=draw), None, (1, 1), (size[2] // 2, size[2] // 2), (1, 1))
        x = nested((torch.rand(3, size[1], *size[4:], generator=draw) < 0.1).float() * 0.7)
        assert fits(conv, tuple(x.shape))
        assert torch.equal(by_spike(conv, x), onednn.convolve(conv, onednn.pack(conv, tuple(x.shape)), x))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["resnet20_cifar10", "squeezenet11_imagenet_fp16", "fastestdet_coco"])
def test_layers_of_trained_networks_have_them_for_any_batch_and_threads(name: str, shared: Path) -> None:
    """What one image has shown holds for several, and for two threads."""
    tried = 0
    for node in apply(load(shared / "models" / f"{name}.onnx"))[0]:
        if not isinstance(node.op, Conv) or not fits(node.op, (1, *node.inputs[0].shape[1:])):
            continue
        for batch in (2, 3, 8):
            x = torch.randn(batch, *node.inputs[0].shape[1:])
            x = nested(torch.where(torch.rand(x.shape) < 0.3, x, 0.0))
            for threads in (1, 2):
                torch.set_num_threads(threads)
                try:
                    dense = onednn.convolve(node.op, onednn.pack(node.op, tuple(x.shape)), x)
                    assert torch.equal(by_spike(node.op, x), dense), (node.where, batch, threads)
                finally:
                    torch.set_num_threads(1)
                tried += 1
    assert tried >= 36


def test_what_is_not_known_to_have_the_same_bits_is_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups; what lies in memory in either of two ways; and layers of which oneDNN goes another way."""
    conv = Conv(torch.randn(8, 4, 3, 3), None, (1, 1), (1, 1), (1, 1), 2)
    assert not fits(conv, (1, 8, 6, 6))
    single = Conv(torch.randn(64, 1, 3, 3), None, (1, 1), (1, 1), (1, 1))
    place = Conv(torch.randn(64, 32, 1, 1), None, (1, 1), (0, 0), (1, 1))
    assert not fits(single, (1, 1, 6, 6))
    assert not fits(place, (1, 32, 1, 1))
    dense = Conv(torch.randn(64, 32, 3, 3), None, (1, 1), (1, 1), (1, 1))
    assert fits(dense, (1, 32, 6, 6))
    monkeypatch.setattr(sparse, "same_bits", lambda *_: False)
    assert not fits(dense, (1, 32, 6, 6))
    monkeypatch.setattr(sparse, "there", lambda: False)
    assert not fits(dense, (1, 32, 6, 6))


def test_spikes_pay_where_they_are_few_and_outputs_many() -> None:
    """And where weights lie near; a kernel of 3x3 has nine places for each spike that it finds."""

    def share(outputs: int, channels: int, size: int) -> float:
        return share_for_spikes(
            Conv(torch.empty(outputs, channels, size, size), None, (1, 1), (0, 0), (1, 1))
        )

    assert 0.3 < share(1000, 512, 1) < 0.4
    assert share(192, 48, 1) > share(64, 48, 1) > share(16, 48, 1) == 0
    assert 0.6 > share(64, 32, 3) > share(16, 16, 3) > 0.3 > share(16, 16, 1)
    assert share(128, 32, 3) > share(128, 128, 3)


@pytest.mark.parametrize(
    ("outputs", "vectors"), [(5, [1]), (32, [2]), (40, [3]), (64, [2, 2]), (70, [2, 2, 1])]
)
def test_weights_to_scatter_lie_pass_by_pass(outputs: int, vectors: list[int]) -> None:
    """Of channel 1, tap 5, the outputs of the last pass, which are filled up with zeros."""
    weight = torch.arange(float(outputs * 27)).reshape(outputs, 3, 3, 3) + 1
    conv = Conv(weight, None, (1, 1), (1, 1), (1, 1))
    assert passes(outputs) == vectors
    last = laid(conv)[-27 * 16 * vectors[-1] :].reshape(3, 9, -1)[1, 5]
    first = 16 * sum(vectors[:-1])
    assert last[: outputs - first].tolist() == weight[first:, 1, 1, 2].tolist()
    assert last[outputs - first :].tolist() == [0.0] * (16 * sum(vectors) - outputs)


def test_spikes_are_counted_in_some_places() -> None:
    """Every ninth of 24 places of 20 channels: 1 + 20 + 3 of them are not zero."""
    x = torch.zeros(24, 20)
    x[0, 19], x[EVERY], x[2 * EVERY, :3], x[1:EVERY] = -0.5, 1.0, torch.nan, 9.0
    images_ = x.reshape(2, 3, 4, 20).permute(0, 3, 1, 2)
    assert sparse.spikes_among(images_, EVERY) == 24


@pytest.mark.parametrize("neuron", [IntegrateFire(), Signed()], ids=lambda n: n.kind)
@pytest.mark.parametrize("few", [0.1, 0.3, 2.0])
def test_whenever_spikes_are_added_one_by_one_no_bit_of_a_run_changes(
    neuron: IntegrateFire | Signed, few: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never, at some chunks of some layers, always."""
    graph, x = network(neuron), images(6)
    monkeypatch.setattr(sparse, "share_for_spikes", lambda *_: 0.0)
    want = run(RateModel(graph), x, 12, Tiling(6, 12))
    taken = []
    monkeypatch.setattr(sparse, "share_for_spikes", lambda *_: few)
    pays = Sparse.pays
    monkeypatch.setattr(Sparse, "pays", lambda self, x: taken.append(pays(self, x)) or taken[-1])
    for tiling in (Tiling(6, 12), Tiling(4, 3), Tiling(1, 5)):
        same(run(RateModel(graph), x, 12, tiling), want)
    assert set(taken) == ({True} if few > 1 else {True, False})


def test_weights_written_to_are_listed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and biases in place."""
    monkeypatch.setattr(sparse, "share_for_spikes", lambda *_: 2.0)
    conv = Conv(torch.randn(20, 4, 3, 3), torch.randn(20), (1, 1), (1, 1), (1, 1))
    x, function = nested(torch.rand(2, 4, 5, 5)), Convolution(conv)
    before = function(x)
    conv.weight.mul_(2)
    assert conv.bias is not None
    conv.bias.mul_(2)
    assert torch.equal(function(x), 2 * before)


def test_the_report_says_that_spikes_may_be_taken_one_by_one() -> None:
    graph = network(IntegrateFire())
    assert RateModel(graph).execution(4).endswith("; convolutions spike by spike where there are few")
    for model in (RateModel(graph, plain=True), RateModel(graph).double()):
        assert "spike by spike" not in model.execution(4)
