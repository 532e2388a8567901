"""What a GPU would run, run on one that is pretended: nothing mixes devices, and the numbers are a CPU's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import latency, scaling
from benchmarks._common import SHARED
from converter import early_exit
from converter.encodings.poisson import Poisson
from converter.engine import fused, gpu, native, onednn
from converter.neurons import Neuron
from converter.neurons.burst import Burst
from converter.neurons.integrate_fire import IntegrateFire
from converter.neurons.signed import Signed
from converter.plan import Plan
from converter.rate import RateModel
from tests import pretended
from tests.pretended import There
from tests.test_cli import ann2snn
from tests.test_engine import NEURONS, images, network
from tests.test_whole_engine import equal, spikes
from tests.test_whole_engine import network as in_fixed_point

PRODUCTS = torch.backends.cuda.matmul
ON = ("--data", "digits", "--device", "cuda", "--samples", 4, "--quiet")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pretended GPU; what is switched off for one is on again afterwards."""
    before, alike = (torch.backends.cudnn.allow_tf32, PRODUCTS.allow_tf32), torch.backends.cudnn.deterministic
    reduced = PRODUCTS.allow_fp16_reduced_precision_reduction, PRODUCTS.allow_bf16_reduced_precision_reduction
    monkeypatch.setattr(fused, "DEVICES", ())
    with pretended.gpu(monkeypatch):
        yield
    (torch.backends.cudnn.allow_tf32, PRODUCTS.allow_tf32), torch.backends.cudnn.deterministic = before, alike
    PRODUCTS.allow_fp16_reduced_precision_reduction, PRODUCTS.allow_bf16_reduced_precision_reduction = reduced


def test_a_pretended_gpu_does_what_one_does(there: None) -> None:
    x, y = torch.arange(4.0).to("cuda"), torch.arange(4.0)
    assert x.device == torch.zeros(2, device="cuda").device == (x + 1).device == torch.device("cuda", 0)
    assert (x * 2 + torch.tensor(1.0)).cpu().tolist() == [1, 3, 5, 7]
    assert (float(x.sum()), x[y > 2].tolist(), x.to("cpu").tolist()) == (6.0, [3.0], [0.0, 1.0, 2.0, 3.0])
    x.view(2, 2)[1] += 5
    assert x.cpu().tolist() == [0, 1, 7, 8]
    for mix in (lambda: x + y, lambda: y.add_(x), lambda: torch.cat([x, y]), lambda: y[x > 2]):
        with pytest.raises(RuntimeError, match="on the same device"):
            mix()
    with pytest.raises(TypeError, match="cuda:0"):
        x.numpy()


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda n: f"{n.kind}{getattr(n, 'reset', '')}")
def test_a_network_has_the_spikes_of_the_same_operators_on_a_cpu(
    neuron: Neuron, monkeypatch: pytest.MonkeyPatch, there: None
) -> None:
    """All that moves to it goes there, all that a run makes is made there."""
    model, x = RateModel(network(neuron)), images(5)
    with monkeypatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        patch.setattr(onednn, "available", lambda: False)
        want, heard = run(model, x)
    answers, said = run(model.to("cuda"), x.to("cuda"))
    assert isinstance(answers, There)
    assert torch.equal(answers.cpu(), want)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(said, heard, strict=True))


def run(model: RateModel, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The answers of 7 steps, and all that was said on the way."""
    said: list[Tensor] = []
    answers = model(x, 7, listen=lambda node, value: said.append(value.clone()))
    assert isinstance(answers, Tensor)
    return answers, said


def test_draws_and_samples_that_leave_stay_there(there: None) -> None:
    drawn = RateModel(network(IntegrateFire()), Poisson(3.0)).to("cuda")
    assert drawn(images(3).to("cuda"), 4).device.type == "cuda"
    model = RateModel(network(IntegrateFire())).to("cuda")
    choice, when, _ = early_exit.answer(model, images(6).to("cuda"), 12, 3.0)
    assert choice.device.type == when.device.type == "cuda"
    assert when.tolist() == [4, 4, 12, 12, 4, 5]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_16_bits_stay_there(precision: str, there: None) -> None:
    model = RateModel(network(IntegrateFire())).to("cuda").at_precision(precision)
    answers = model(images(3).to("cuda"), 4)
    assert (answers.device.type, answers.dtype) == ("cuda", torch.float32)


def test_weights_in_bytes_run_in_floating_point_there_and_say_so(there: None) -> None:
    model = RateModel(in_fixed_point(IntegrateFire()))
    assert model.codes is not None
    assert model.to("cuda").codes is None
    assert "weights are codes of bytes: its numbers are no float32 on a CPU" in model.execution(2)
    assert model(images(2).to("cuda"), 3).isfinite().all()


def test_float32_is_float32_there(there: None) -> None:
    """By default torch convolves in TF32 there, whose products have 10 bits."""
    torch.backends.cudnn.allow_tf32 = True
    model = RateModel(network(IntegrateFire()))
    assert torch.backends.cudnn.allow_tf32, "a model on a CPU leaves it as it is"
    model.to("cuda")
    assert not torch.backends.cudnn.allow_tf32
    assert not PRODUCTS.allow_tf32
    assert torch.backends.cudnn.deterministic
    assert model.execution(2).endswith("; on a pretended GPU, float32 in full precision")


def test_a_gpu_is_given_all_of_a_batch_and_some_steps_as_far_as_that_fits(there: None) -> None:
    """The largest value of the network is 4x8x8 float32, 1 KiB: 2^28 bytes are 2^18 of them."""
    graph = network(IntegrateFire())
    plan = Plan.of(graph)
    for batch, want in ((100, (100, 8)), (1 << 16, (1 << 16, 4)), (1 << 20, (1 << 18, 1))):
        tiling = gpu.tiling_on_gpu(graph, plan, batch)
        assert (tiling.samples, tiling.steps) == want
    assert gpu.tiling_on_gpu(graph, plan, 100, chunks=False).steps == 1
    assert RateModel(graph).to("cuda").tiling(100).samples == 100


def digits(options: str, out: Path, digits_model: Path) -> None:
    """Convert the digits network."""
    result = ann2snn("convert", digits_model, *ON, "--calibration-samples", 8, *options.split(), "-o", out)
    assert result.exit_code == 0, result.output


def test_digits_is_converted_measured_and_diagnosed_there(
    there: None, digits_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.snn"
    digits("-T 3 --calibrator maximum", out, digits_model)
    for command in (["evaluate", out, "--early-exit", 1.0], ["diagnose", out, digits_model]):
        result = ann2snn(
            *command, *["--data", "digits", "--device", "cuda", "-T", "3", "--samples", "4", "--quiet"]
        )
        assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "-T 3 --calibrator maximum --weights int8",
        "-T 3 --calibrator maximum --weights log2:5 --neuron signed",
        "-T 3 --calibrator maximum --schedule pipelined",
        "-T 3 --calibrator maximum --encoding poisson",
        "-T 3 --calibrator percentile --calibrator bias-correction",
        "-T 3 --calibrator percentile --calibrator temporal-bias",
        "-T 3 --calibrator percentile --calibrator spike-calibration",
        "-T 3 --calibrator percentile --calibrator regression",
        "-T 3 --calibrator percentile --calibrator reconstruction --iterations 2",
        "-T 3 --calibrator percentile --calibrator initial-membrane",
        "-T 3 --calibrator local-balancing",
        "--code first-spike --window 12",
    ],
)
def test_everything_else_is_converted_there_too(
    options: str, there: None, digits_model: Path, tmp_path: Path
) -> None:
    digits(options, tmp_path / "a.snn", digits_model)
    result = ann2snn(
        "evaluate", tmp_path / "a.snn", *["--data", "digits", "--device", "cuda", "--samples", "4", "--quiet"]
    )
    assert result.exit_code == 0, result.output


def test_what_runs_are_timed_by_waits_for_a_gpu(there: None, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    assert scaling.seconds(2, 3, 2, repeats=4, device="cuda") > 0
    assert waited == ["cuda"] * 8
    assert scaling.seconds(2, 3, 2, repeats=1) > 0
    assert len(waited) == 8, "a CPU has nothing to wait for"


@pytest.mark.slow
def test_resnet20_has_its_turns_with_the_ann_there(there: None) -> None:
    if not (SHARED / "models").is_dir():
        pytest.skip(f"there is no {SHARED}")
    found = latency.row("resnet20", 2, 3, 1, 1, others=False, noise=True, device="cuda")
    assert list(found["costs"]) == [latency.ON_GPU, latency.OURS, *latency.NARROW]
    assert all("on a pretended GPU" in how for how in found["schedule"].values())


@pytest.mark.parametrize("neuron", [IntegrateFire(), Signed(), Burst(burst=3)], ids=lambda n: n.kind)
def test_weights_with_exact_sums_have_the_spikes_of_a_cpu_there(neuron: Neuron, there: None) -> None:
    """Whatever order a device adds up in; here that of plain operators, against oneDNN and machine code."""
    model, x = RateModel(in_fixed_point(neuron, "exact15")), images(4)
    want = spikes(model, x, 12)
    found = spikes(model.to("cuda"), x.to("cuda"), 12)
    assert all(value.device.type == "cuda" for value in found.values())
    assert equal({name: value.cpu() for name, value in found.items()}, want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize("neuron", NEURONS, ids=lambda n: f"{n.kind}{getattr(n, 'reset', '')}")
def test_on_a_gpu_passes_have_the_bits_of_plain_operators(
    neuron: Neuron, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = RateModel(network(neuron)).to("cuda"), images(5).to("cuda")
    answers, said = run(model, x)
    assert "neurons in one pass over memory" in model.execution(5)
    assert "operator by operator" not in model.execution(5)
    monkeypatch.setattr(fused, "DEVICES", ())
    want, heard = run(model, x)
    assert torch.equal(answers, want)
    assert all(map(torch.equal, said, heard))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_on_a_gpu_weights_with_exact_sums_have_the_spikes_of_a_cpu() -> None:
    model, x = RateModel(in_fixed_point(Signed(), "exact15")), images(4)
    want = spikes(model, x, 12)
    found = spikes(model.to("cuda"), x.to("cuda"), 12)
    assert equal({name: value.cpu() for name, value in found.items()}, want)
