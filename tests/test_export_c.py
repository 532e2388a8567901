"""Export to C and to the compact file: by hand, then against whole numbers, spike by spike, then fuzzed."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converter import exports
from converter.encodings.poisson import Poisson
from converter.errors import ArtefactError, ConversionError
from converter.exporters import _c_run, c, compact, read_compact
from converter.exporters._bounds import width
from converter.exporters._c_text import identifier, said, spread
from converter.exporters._check import Order
from converter.graph import Graph
from converter.importer import load
from converter.integer import IntegerModel
from converter.neurons import Neuron, neurons
from converter.passes import apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from tests.conftest import ROOT
from tests.models import parse as network
from tests.models import weight
from tests.test_integer import branched, made, single

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler `cc` here")
STRICT = (*_c_run.FLAGS, "-O0", "-fsanitize=undefined,address", "-fno-sanitize-recover=all")
"""What overflows, or reads past an array, fails."""
QUICK = (*_c_run.FLAGS, "-O0", "-fsanitize=undefined", "-fno-sanitize-recover=all")
"""The first half of it, compiled in a third of the time."""


def exported(graph: Graph, folder: Path, form: str, x: Tensor, steps: int, **others: int) -> exports.Check:
    """The check of an export to `folder`/net."""
    model = RateModel(graph, **others)  # type: ignore[arg-type]
    found = exports.export(model, Order(steps), form, folder / "net", (x,))
    assert found is not None
    return found


@needs_compiler
def test_one_neuron_by_hand(tmp_path: Path) -> None:
    """The grid is 2^-7, so x = ¾ is 96; w is 127 · 16 · 2^-12, a spike 64, θ 2^19 units of 2^-19."""
    graph = single()
    n = c.made(RateModel(graph), Order(5, name="net"))
    exported(graph, tmp_path, "c", torch.tensor([[0.75]]), 5)
    spikes, sums = _c_run.run(tmp_path / "net", c.sizes(n), torch.tensor([[96]]), 5, STRICT)
    assert spikes.flatten().tolist() == [0, 64, 0, 0, 64]
    assert sums.flatten().tolist() == [0, *[64 * 127 * 16] * 3, 2 * 64 * 127 * 16]
    text = (tmp_path / "net" / "net.c").read_text()
    assert "static const int8_t weigh_h_codes[1] = {\n    127\n};" in text
    assert "const int32_t threshold = 524288;" in text


def test_the_memory_of_one_neuron_by_hand() -> None:
    """Codes: 2 bytes. Pixel 2, spike 1, current 4, once more 4 for the answer, membrane, sum, time."""
    n = c.made(RateModel(single()), Order(5, name="net"))
    assert (n.flash, n.limit) == (2, 2**15 - 1)
    assert n.ram == 2 + 1 + 4 + 4 + 4 + 4 + 4
    # At most |x| · 127 · 16 a step; the membrane begins at 2^18, and θ = 2^19 is above it twice.
    assert n.steps == (2**31 - 1 - 2 * 2**19) // ((2**15 - 1) * 127 * 16)


@needs_compiler
def test_what_is_written_is_what_is_counted(tmp_path: Path) -> None:
    """The symbols of the object file: constants, and arrays beside them."""
    if shutil.which("nm") is None:
        pytest.skip("there is no `nm` here")
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    graph = made(branched(3), "int4", neurons["signed"](), x)
    exported(graph, tmp_path, "c", x, 6)
    folder = tmp_path / "net"
    subprocess.run(
        [*_c_run.compiler(), *_c_run.FLAGS, "-O0", "-c", "net.c", "-o", "net.o"], cwd=folder, check=True
    )
    told = subprocess.run(["nm", "-S", "net.o"], cwd=folder, capture_output=True, text=True, check=True)
    sizes = {"b": 0, "r": 0}
    for line in told.stdout.splitlines():
        words = line.split()
        if len(words) == 4 and words[2] in sizes:
            sizes[words[2]] += int(words[1], 16)
    kept = json.loads((folder / "network.json").read_text())
    assert (sizes["b"], sizes["r"]) == (kept["ram"], kept["flash"])


@needs_compiler
@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(("int8", "int4", "exact15", "log2:5", "log2:4", "pow2:4")),
    st.sampled_from(("integrate-fire", "signed", "multi-level", "burst")),
    st.booleans(),
    st.sampled_from((0, 2)),
    st.integers(0, 1000),
)
def test_every_spike_of_every_format_and_neuron(
    tmp_path_factory: pytest.TempPathFactory, name: str, kind: str, per_channel: bool, delay: int, seed: int
) -> None:
    """Sums, pools, a concatenation, groups and transposed convolutions; what overflows fails."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    graph = made(branched(seed), name, neurons[kind](), x, per_channel)
    model, folder = RateModel(graph, delay=delay), tmp_path_factory.mktemp("c")
    n = c.made(model, Order(8, name="net"))
    c.write(model, Order(8, name="net"), folder)
    extremes = torch.where(x > 0, n.limit, -n.limit)
    pixels = torch.cat([c.pixels_of(n, x), extremes])
    spikes, sums = _c_run.run(folder, c.sizes(n), pixels, 8, STRICT)
    wanted, answers = c.expected(n, pixels, 8)
    assert torch.equal(spikes, wanted)
    assert torch.equal(sums, answers)
    assert int((wanted[:2] != 0).sum()) > 100


OPERATORS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("{h} = Conv<strides=[2,1], pads=[1,2,1,2], dilations=[1,2]>({v}, {k})", (4, 4, 3, 3)),
    ("{h} = Conv<group=4, pads=[1,0,0,1]>({v}, {k})", (4, 1, 2, 2)),
    ("{h} = ConvTranspose<strides=[2,3], pads=[1,0,1,0]>({v}, {k})", (4, 4, 3, 2)),
    (
        "{h} = ConvTranspose<group=2, dilations=[2,1], output_padding=[1,0], strides=[2,1]>({v}, {k})",
        (4, 2, 2, 2),
    ),
    ("{h} = MaxPool<kernel_shape=[3,2], strides=[2,1], pads=[1,0,2,1]>({v})", ()),
    ("{h} = MaxPool<kernel_shape=[2,2], dilations=[2,2], pads=[1,1,1,1]>({v})", ()),
    ("{h} = AveragePool<kernel_shape=[2,4], strides=[2,3], pads=[1,2,1,2], count_include_pad=1>({v})", ()),
    ("{h}p = Transpose<perm=[0,2,3,1]>({v})  {h}q = Relu({h}p)  {h} = Transpose<perm=[0,3,1,2]>({h}q)", ()),
    ("{h} = Concat<axis=2>({v}, {v})", ()),
    ("{h} = Add({v}, {k})", (4, 1, 1)),
    ("{h}m = GlobalMaxPool({v})  {h} = Add({v}, {h}m)", ()),
    (
        "{h}t = Transpose<perm=[0,2,3,1]>({v})  {h}l = MatMul({h}t, {k})  "
        "{h} = Transpose<perm=[0,3,1,2]>({h}l)",
        (4, 4),
    ),
)
"""An operator on 4 channels that gives 4 channels, and the shape of what it weighs with."""


def drawn(genes: list[int], seed: int) -> Graph:
    """A network of `OPERATORS`, each on what an earlier one gave, a neuron after each; all ends are read."""
    rank = "v0 = Relu(x)"
    weights: dict[str, Tensor] = {}
    for place, gene in enumerate(genes, 1):
        text, shape = OPERATORS[gene % len(OPERATORS)]
        if shape:
            weights[f"k{place}"] = weight(*shape, seed=seed + place)
        before = f"v{gene // len(OPERATORS) % place}"
        rank += "  " + text.format(h=f"h{place}", v=before, k=f"k{place}") + f"  v{place} = Relu(h{place})"
    ends = ", ".join(f"f{place}" for place in range(len(genes) + 1))
    rank += "".join(f"  f{place} = Flatten(v{place})" for place in range(len(genes) + 1))
    rank += f"  c = Concat<axis=1>({ends})"
    (end,) = load(network(f"{rank}  y = Identity(c)", weights, inputs="float[N,4,7,6] x")).outputs
    weights |= {"w": weight(3, end.shape[1], seed=seed), "b": weight(3, seed=seed + 1)}
    return load(network(f"{rank}  y = Gemm<transB=1>(c, w, b)", weights, inputs="float[N,4,7,6] x"))


@needs_compiler
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=4),
    st.sampled_from(("int8", "int4", "log2:5", "pow2:4")),
    st.sampled_from(("integrate-fire", "signed", "multi-level", "burst")),
    st.integers(0, 1000),
)
def test_random_networks_are_the_same_in_c_and_in_the_compact_file(
    tmp_path_factory: pytest.TempPathFactory, genes: list[int], name: str, kind: str, seed: int
) -> None:
    x = torch.rand(2, 4, 7, 6, generator=torch.Generator().manual_seed(seed))
    graph = made(drawn(genes, seed), name, neurons[kind](), x)
    folder, model = tmp_path_factory.mktemp("fuzz"), RateModel(graph)
    found = exports.export(model, Order(6), "compact", folder / "net", (x,))
    assert found is not None
    assert (found.differing, found.difference) == (0, 0.0)
    assert found.spikes >= 2 * 6 * 4 * 7 * 6
    n = c.made(model, Order(6, name="net"))
    c.write(model, Order(6, name="net"), folder)
    told = _c_run.run(folder, c.sizes(n), c.pixels_of(n, x), 6, QUICK)
    assert all(map(torch.equal, told, c.expected(n, c.pixels_of(n, x), 6)))


def test_a_compact_file_runs_without_us(tmp_path: Path) -> None:
    """The reader, copied elsewhere, with NumPy alone: torch and we cannot be imported there."""
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    graph = made(branched(7), "log2:5", neurons["signed"](), x)
    exported(graph, tmp_path, "compact", x, 12)
    shutil.copyfile(read_compact.__file__, tmp_path / "reader.py")
    (tmp_path / "torch.py").write_text("raise ImportError")
    (tmp_path / "converter.py").write_text("raise ImportError")
    np.save(tmp_path / "images.npy", x.numpy())
    words = [sys.executable, "reader.py", "net", "images.npy"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = RateModel(graph).double()(x.double(), 12)[-1].argmax(1)  # type: ignore[union-attr]
    assert list(map(int, done.stdout.split())) == wanted.tolist()
    assert len(Path(read_compact.__file__).read_text().splitlines()) <= 200


def test_codes_are_packed_by_hand() -> None:
    """3 bits, 4 added to each: −3, 0, 2 are 1, 4, 6; the lowest bit first, 100 001 011 makes 0xA1 and 1."""
    bytes_ = compact.packed(torch.tensor([-3, 0, 2]), 3)
    assert bytes_.tolist() == [0b10100001, 0b1]
    assert read_compact.codes(bytes_, 3, [3]).tolist() == [-3, 0, 2]


def test_a_compact_file_is_safetensors_with_the_program_inside(tmp_path: Path) -> None:
    exported(single(), tmp_path, "compact", torch.tensor([[0.75]]), 5)
    data = (tmp_path / "net").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + length])
    header = json.loads(entries["__metadata__"]["ann2snn"])
    assert [layer["kind"] for layer in header["layers"]] == ["input", "weigh", "fire", "weigh"]
    *_, (sums, values) = read_compact.run(*read_compact.load(tmp_path / "net"), [0.75], 5)
    assert (sums.tolist(), values["a"].tolist()) == ([[2 * 64 * 127 * 16]], [[64]])


def test_a_file_that_is_not_the_network_is_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One unit more in one threshold: a single spike that differs is refused."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    graph = made(branched(1), "int8", neurons["signed"](), x)
    real = compact.smallest
    changed = {"left": 1}

    def wrong(values: Tensor) -> np.ndarray:
        changed["left"] -= 1
        return real(values * 2 if changed["left"] == 0 else values)

    monkeypatch.setattr(compact, "smallest", wrong)
    with pytest.raises(ArtefactError, match="not the one it was made from"):
        exported(graph, tmp_path, "compact", x, 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["c", "compact"])
@pytest.mark.parametrize(
    ("body", "name", "kind", "why"),
    [
        ("a = Relu(x)  y = GlobalAveragePool(a)", "int8", "signed", "no whole numbers|power of two"),
        ("a = Conv(x, w)  b = Relu(a)  s = Sigmoid(b)  y = Flatten(s)", "int8", "signed", "floating point"),
        ("a = Conv(x, w)  b = Relu(a)  y = Flatten(b)", "float32", "signed", "its weights are no codes"),
    ],
)
def test_what_has_no_whole_numbers_is_refused_before_anything_is_written(
    tmp_path: Path, form: str, body: str, name: str, kind: str, why: str
) -> None:
    x = torch.rand(2, 3, 6, 6)
    weights = {"w": weight(4, 3, 3, 3)} if "w)" in body else {}
    graph = load(network(body, weights, inputs="float[N,3,6,6] x"))
    if name == "float32":
        spiking = Spike(neurons[kind]())(apply(graph)[0])
        fixed = spiking.map(
            lambda n: (
                replace(n, op=replace(n.op, threshold=torch.tensor(1.0))) if isinstance(n.op, Neuron) else n
            )
        )
    else:
        fixed = made(graph, name, neurons[kind](), x)
    with pytest.raises(ConversionError, match="whole numbers") as refused:
        exports.export(RateModel(fixed), Order(4), form, tmp_path / "net", (x,))
    assert any(part in str(refused.value) for part in why.split("|"))
    if name == "float32":
        assert "--weights int8" in str(refused.value.hint)
    assert not list(tmp_path.iterdir())


def test_images_drawn_at_random_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="draws at random"):
        exports.export(RateModel(single(), Poisson()), Order(4), "c", tmp_path / "net", None)


def test_without_a_compiler_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ConversionError, match="no C compiler 'no-such-compiler'") as refused:
        exported(single(), tmp_path, "c", torch.tensor([[0.75]]), 2)
    assert "--no-verify" in str(refused.value.hint)
    assert not list(tmp_path.iterdir())
    assert exports.export(RateModel(single()), Order(2), "c", tmp_path / "net", None) is None
    assert {f.name for f in (tmp_path / "net").iterdir()} == {"net.c", "net.h", "network.json"}


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "thesis.tex").touch()
    with pytest.raises(ArtefactError, match=r"holds no network\.json"):
        exports.refuse("c", tmp_path / "net", True)


def test_names_and_comments_are_harmless() -> None:
    taken: set[str] = set()
    assert identifier('Conv/ß*"1', taken) == "conv_1"
    assert identifier("conv__1", taken) == "conv_1_2"
    assert identifier("9", taken) == "n9"
    assert identifier("while", taken) == "while_2"
    assert said("*/ int x; /* ??/") == "_/ int x_ /_ __/"
    assert [width(n) for n in (127, 128, 2**31 - 1, 2**31)] == [8, 16, 32, 64]


def test_values_spread_over_channels() -> None:
    per_channel = torch.tensor([1, 2]).reshape(2, 1, 1)
    assert spread((1, 2, 3, 4), per_channel)[:3] == (1, 2, 12)
    assert spread((1, 2, 3, 4), torch.tensor([5, 6, 7, 8]))[:3] == (6, 4, 1)
    assert spread((1, 2, 3, 4), torch.tensor(5), torch.tensor(6))[:3] == (1, 1, 24)
    assert spread((1, 2, 3, 4), per_channel, torch.arange(4))[:3] == (1, 24, 1)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8", "log2:5"])
@pytest.mark.parametrize("network_name", ["digits", "mnist_cntk"])
def test_trained_networks_are_bit_equal_and_valgrind_finds_nothing(
    network_name: str, name: str, tmp_path: Path
) -> None:
    from benchmarks.presets import PRESETS

    preset = PRESETS[network_name]
    if not preset.model.exists():
        pytest.skip(f"{preset.model} is not here")
    if shutil.which("valgrind") is None:
        pytest.skip("there is no valgrind here")
    graph, _ = apply(load(preset.model))
    data = preset.source(graph)
    x, _ = next(data.batches(range(64), 64))
    model = RateModel(made(graph, name, neurons["signed"](), x))
    n = c.made(model, Order(16, name="net"))
    c.write(model, Order(16, name="net"), tmp_path)
    test, _ = next(data.batches(data.parts["test"][:24], 24))
    pixels = c.pixels_of(n, test)
    spikes, sums = _c_run.run(tmp_path, c.sizes(n), pixels, 16)
    wanted, answers = c.expected(n, pixels, 16)
    assert int((wanted != 0).sum()) > 10_000
    assert torch.equal(spikes, wanted)
    assert torch.equal(sums, answers)
    checked = ("valgrind", "-q", "--error-exitcode=9", "--leak-check=full")
    again, _ = _c_run.run(tmp_path, c.sizes(n), pixels[:1], 4, under=checked)
    assert torch.equal(again, wanted[:1, :4])


def test_the_package_holds_its_templates() -> None:
    assert {f.name for f in (ROOT / "converter" / "exporters").glob("network.*.jinja")} == {
        "network.c.jinja",
        "network.h.jinja",
    }


CHAIN = """
    h1 = Conv<pads=[1,1,1,1]>(x, w1)  a1 = Relu(h1)
    d = Conv<group=4, pads=[1,1,1,1]>(a1, w2)  h2 = Conv(d, w3)  a2 = Relu(h2)
    f = Flatten(a2)  y = Gemm<transB=1>(f, w4)
"""


@needs_compiler
@pytest.mark.parametrize("name", ["int8", "int15", "exact15"])
def test_what_a_synapse_hands_to_another_is_rounded_alike(name: str, tmp_path: Path) -> None:
    """Downwards also below 0, and weights of 16 bits: in C, in the compact file, in whole numbers."""
    sizes = {"w1": (4, 3, 3, 3), "w2": (4, 1, 3, 3), "w3": (4, 4, 1, 1), "w4": (5, 256)}
    weights = {key: weight(*size, seed=place) for place, (key, size) in enumerate(sizes.items())}
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    graph = made(load(network(CHAIN, weights)), name, neurons["signed"](), x)
    model, order = RateModel(graph), Order(8, name="net")
    n = c.made(model, order)
    (layer,) = [layer for layer in n.layers if layer.instruction.kind == "round"]
    c.write(model, order, tmp_path)
    pixels = c.pixels_of(n, x)
    told = _c_run.run(tmp_path, c.sizes(n), pixels, 8, STRICT)
    assert all(map(torch.equal, told, c.expected(n, pixels, 8)))
    heard: list[Tensor] = []
    steps = IntegerModel(n.program).steps(
        x, listen=lambda name, value: heard.append(value) if name == layer.instruction.inputs[0] else None
    )
    for _ in zip(range(8), steps, strict=False):
        pass
    assert min(int(value.min()) for value in heard) < 0 < max(int(value.max()) for value in heard)
    compact.write(model, order, tmp_path / "net.snnc")
    assert compact.check(tmp_path / "net.snnc", model, (x,), 8).passed().differing == 0
