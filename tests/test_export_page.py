"""The page of an exported network: what it knows, what it refuses, and what a browser makes of it.

The tests that run one need Chromium and npm's onnxruntime-web: `make test-page` fetches it.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from calibrators.maximum import Maximum
from converter.encodings.poisson import Poisson
from converter.errors import ConversionError, DataError, Unsupported, UsageError
from converter.exporters import onnx_page
from converter.exporters._check import Order
from converter.exports import export, noted
from converter.fixed_point import fixed_point
from converter.graph import BATCH, Graph, Input, Node
from converter.importer import load
from converter.neurons import neurons
from converter.ops import Conv, Linear, Reshape
from converter.passes import apply
from converter.passes.spike import Spike
from converter.pipelined import PipelinedModel
from converter.preprocessing import Preprocessing
from converter.quantise import quantise
from converter.rate import RateModel
from converter.schedules import Model
from converter.weights import parse
from tests.chromium import Tab, browser, chromium, served
from tests.conftest import ROOT
from tests.models import weight

ARCHIVE = ROOT / "build" / f"onnxruntime-web-{onnx_page.VERSION}.tgz"
STEPS = 16


def facts(prepared: Preprocessing | None = None, low: float = 0.0, high: float = 1.0) -> dict[str, Any]:
    """What a report says of the data."""
    preprocessing = {**(prepared or Preprocessing()).to_dict(), "range": [low, high]}
    return {
        "data": {"preprocessing": preprocessing, "classes": []},
        "model": {"file": "d.onnx", "sha256": ""},
    }


def images() -> Tensor:
    """The embedded digits as 8-bit pixels, [n, 8, 8]."""
    return torch.from_numpy(np.round(load_digits().images * 255 / 16).astype(np.uint8))


@pytest.fixture(scope="module")
def model() -> RateModel:
    """The embedded network in whole numbers, so that its spikes are the same wherever it runs."""
    quantised = parse("int8")
    assert quantised is not None
    graph = quantise(apply(load(ROOT / "converter" / "models" / "digits.onnx"))[0], quantised)
    x = images()[:100, None] / 255
    return RateModel(fixed_point(Maximum()(Spike()(graph), lambda: [x]), 1.0))


def colours(*shape: int) -> Graph:
    """A convolution, a layer of neurons and five classes of images of this shape."""
    x = Node(Input(), (), "x", (BATCH, *shape))
    nchw = shape[0] == 3
    told = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    seen = x
    if nchw:
        seen = Node.of(Conv(weight(4, 3, 3, 3, scale=0.01), None, **told), x, name="conv")
    fires = Node.of(neurons["integrate-fire"](threshold=torch.tensor(0.5)), seen, name="fires")
    size = int(np.prod(fires.shape[1:]))
    flat = Node.of(Reshape((-1, size)), fires, name="flat")
    return Graph((x,), (Node.of(Linear(weight(5, size)), flat, name="answer"),))


def page(model: Model, target: Path, told: dict[str, Any], runtime: Path | None = None) -> dict[str, Any]:
    """The folder, and what its network.json says."""
    x = tuple(torch.rand(2, *node.shape[1:]) for node in model.graph.inputs)
    check = export(model, Order(STEPS, report=told, runtime=runtime), "onnx-page", target, x)
    assert check is not None
    known: dict[str, Any] = json.loads((target / "network.json").read_text())
    return known


def test_a_page_knows_what_it_has_to(model: RateModel, tmp_path: Path) -> None:
    known = page(model, tmp_path / "page", facts())
    assert sorted(f.name for f in (tmp_path / "page").iterdir()) == [
        "index.html",
        "network.json",
        "network.onnx",
    ]
    assert (known["name"], known["timesteps"], known["runtime"]) == ("d", STEPS, "")
    assert [n["name"] for n in known["neurons"]] == [n.name for n in model.neurons]
    assert {s["next"] for s in known["states"]} >= {f"{n.name}.membrane.next" for n in model.neurons}
    assert known["input"] == {"name": model.graph.inputs[0].name, "shape": ["N", 1, 8, 8]}
    assert (known["prepare"]["resize"], known["prepare"]["crop"]) == (8, 8)
    assert "npm pack onnxruntime-web@1.30.0" in noted("onnx-page", tmp_path / "page")


def test_the_page_names_no_other_server() -> None:
    text = (ROOT / "converter" / "exporters" / "onnx_page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|//cdn|@import", text)
    assert "default-src 'self'" in text


@pytest.mark.parametrize(
    ("prepared", "low", "high", "wanted"),
    [
        (Preprocessing(), 0.0, 1.0, (0.0, 1.0)),  # 8 bits, or floats up to 1
        (Preprocessing(), 0.0, 0.4, (0.0, 1.0)),  # dark ones
        (Preprocessing(scale=1.0), 0.0, 255.0, (0.0, 255.0)),
        (Preprocessing(), 0.0, 16.0, (0.0, 16.0)),  # floats: the brightest of the calibration
        (Preprocessing(), -1.0, 1.0, (-1.0, 1.0)),
        (Preprocessing(mean=(0.5,), std=(0.25,)), -2.0, 2.0, (0.0, 1.0)),
        (Preprocessing(scale=1.0, mean=(104.0, 117.0, 123.0)), -123.0, 151.0, (0.0, 255.0)),
    ],
)
def test_black_and_white_are_those_of_the_data(
    prepared: Preprocessing, low: float, high: float, wanted: tuple[float, float]
) -> None:
    _, black, white = onnx_page.preparation(
        RateModel(colours(3, 6, 6)), facts(prepared, low, high)["data"]["preprocessing"]
    )
    assert (black, white) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("shape", "prepared", "resize", "crop"),
    [
        ((3, 6, 6), Preprocessing(), 6, 6),  # whatever comes: the middle
        ((3, 6, 6), Preprocessing(resize=7, crop=6), 7, 6),  # as it was
        ((3, 6, 6), Preprocessing(crop=6), 6, 6),
        ((3, 5, 8), Preprocessing(), (5, 8), None),
        ((3, 5, 8), Preprocessing(resize=(5, 8), fit="letterbox"), (5, 8), None),
        ((5, 8, 3), Preprocessing(layout="nhwc"), (5, 8), None),
    ],
)
def test_an_image_of_any_size_becomes_the_networks(
    shape: tuple[int, ...], prepared: Preprocessing, resize: object, crop: object
) -> None:
    made, _, _ = onnx_page.preparation(RateModel(colours(*shape)), facts(prepared)["data"]["preprocessing"])
    assert (made.resize, made.crop, made.fit) == (resize, crop, prepared.fit)
    big = np.zeros((19, 23, 3), np.uint8)
    assert made([big], (BATCH, *shape)).shape == (1, *shape)


def flat() -> Graph:
    x = Node(Input(), (), "x", (BATCH, 64))
    return Graph((x,), (Node.of(neurons["integrate-fire"](threshold=torch.tensor(0.5)), x, name="y"),))


def maps() -> Graph:
    """An image in, an image out."""
    x = Node(Input(), (), "x", (BATCH, 3, 6, 6))
    return Graph((x,), (Node.of(neurons["integrate-fire"](threshold=torch.tensor(0.5)), x, name="y"),))


@pytest.mark.parametrize(
    ("made", "kind", "said"),
    [
        (lambda: RateModel(flat()), Unsupported, "Nx64 is no image, grey or in colour"),
        (lambda: RateModel(colours(3, 6, 6), Poisson()), Unsupported, "drawn at random"),
        (lambda: PipelinedModel(colours(3, 6, 6)), UsageError, "no step of its own"),
        (
            lambda: RateModel(maps()),
            Unsupported,
            "one score for each class",
        ),
    ],
)
def test_what_no_page_can_serve_is_refused_before_anything_is_written(
    made: Callable[[], Model], kind: type[ConversionError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said):
        page(made(), tmp_path / "page", facts())
    assert not list(tmp_path.iterdir())


def pretended(folder: Path, version: str) -> Path:
    """Something that looks like the runtime."""
    folder.mkdir()
    for name in onnx_page.RUNTIME:
        (folder / name).write_text(f"/*! ONNX Runtime Web v{version} */")
    return folder


def test_a_runtime_is_taken_from_a_folder_or_from_npms_archive(tmp_path: Path) -> None:
    folder = pretended(tmp_path / "dist", "9.8.7")
    archive = tmp_path / "web.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, "package/dist")
        packed.addfile(tarfile.TarInfo("package/README.md"), io.BytesIO())
    for source in (folder, tmp_path, archive):
        version, found = onnx_page.runtime(source)
        assert (version, found.keys()) == ("9.8.7", onnx_page.RUNTIME.keys())
    model = RateModel(colours(3, 6, 6))
    assert page(model, tmp_path / "page", facts(), archive)["runtime"] == "9.8.7"
    assert {f.name for f in (tmp_path / "page" / "ort").iterdir()} == onnx_page.RUNTIME.keys()
    assert "9.8.7 (tried with 1.30.0)" in noted("onnx-page", tmp_path / "page")


def test_a_runtime_that_is_none_or_another_is_refused(tmp_path: Path) -> None:
    for source, said in (
        (tmp_path, "has no ort"),
        (tmp_path / "no.tgz", "there is no"),
        (pretended(tmp_path / "damaged", onnx_page.VERSION), "is not that of onnxruntime-web 1.30.0"),
        (ROOT / "README.md", "cannot be read"),
    ):
        with pytest.raises(DataError, match=said) as raised:
            onnx_page.runtime(source)
        assert "npm pack" in raised.value.hint


# ---- in a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if browser() is None:
        pytest.skip("there is no Chromium here")
    if not ARCHIVE.is_file():
        pytest.skip(f"{ARCHIVE.relative_to(ROOT)} is not here: make test-page fetches it")
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        still = {"name": "prefers-reduced-motion", "value": "reduce"}  # as fast as it runs
        opened.call("Emulation.setEmulatedMedia", features=[still])
        yield opened


def opened(tab: Tab, url: str) -> None:
    tab.call("Page.navigate", url=url)
    tab.wait("document.body?.dataset.state === 'ready'")


def chosen(tab: Tab, file: Path) -> dict[str, Any]:
    """What the page found out about an image that is chosen as a file."""
    tab.value("document.body.dataset.state = 'waiting'")
    tab.choose("#file", file)
    tab.wait("document.body.dataset.state === 'done'")
    found: dict[str, Any] = tab.value("({...run, spikes: 0, said: $('answer').textContent})")
    return found


def counted(model: RateModel, x: Tensor) -> tuple[Tensor, dict[str, list[int]]]:
    """The answer after each step, and how many neurons of each layer spike at it, of one image."""
    counts: dict[str, list[int]] = {node.name: [] for node in model.neurons}

    def listen(node: Node, value: Tensor) -> None:
        if node.name in counts:
            counts[node.name].append(int((value != 0).sum()))

    with torch.inference_mode():
        answers = model(x, STEPS, listen=listen)
    assert isinstance(answers, Tensor)
    return answers[:, 0], counts


def test_a_digit_is_answered_in_a_browser_as_in_memory(tab: Tab, model: RateModel, tmp_path: Path) -> None:
    """Ten digits as files: the answer of every step, and the spikes of every layer at every step."""
    page(model, tmp_path / "page", facts(), ARCHIVE)
    labels = load_digits().target
    with served(tmp_path / "page") as url:
        opened(tab, url)
        right = 0
        for digit in range(10):
            place = int(np.flatnonzero(labels == digit)[3])
            Image.fromarray(images()[place].numpy()).save(tmp_path / "digit.png")
            found = chosen(tab, tmp_path / "digit.png")
            x = Preprocessing()([images()[place].numpy()], (BATCH, 1, 8, 8))
            answers, counts = counted(model, x)
            assert torch.equal(torch.tensor(found["input"]), x.flatten())
            assert found["counts"] == counts
            assert sum(map(sum, counts.values())) > 1000
            torch.testing.assert_close(torch.tensor(found["answers"]), answers, rtol=1e-5, atol=1e-6)
            assert found["said"] == str(int(answers[-1].argmax()))
            right += found["said"] == str(digit)
        assert right >= 9
        assert tab.value("document.querySelectorAll('#layers .layer').length") == len(model.neurons)
    assert not tab.errors
    assert not tab.strangers, "the page asks its own server alone"


SEVEN = [(0.25, 0.2), (0.72, 0.2), (0.66, 0.35), (0.58, 0.5), (0.5, 0.65), (0.44, 0.8)]


def test_a_drawn_seven_is_a_seven_and_what_the_network_saw_is_answered_so(
    tab: Tab, model: RateModel, tmp_path: Path
) -> None:
    page(model, tmp_path / "page", facts(), ARCHIVE)
    with served(tmp_path / "page") as url:
        opened(tab, url)
        left, top, size = tab.value("(b => [b.left, b.top, b.width])($('draw').getBoundingClientRect())")
        tab.drag([(left + x * size, top + y * size) for x, y in SEVEN])
        tab.wait("document.body.dataset.state === 'done'")
        found = tab.value("({...run, spikes: 0})")
        assert tab.value("$('answer').textContent") == "7"
        answers, counts = counted(model, torch.tensor(found["input"]).reshape(1, 1, 8, 8))
        assert found["counts"] == counts
        tab.value("$('step').value = 3, $('step').dispatchEvent(new Event('input'))")
        assert tab.value("$('stepped').textContent") == f"step 3 of {STEPS}"
        assert tab.value("$('answer').textContent") == str(int(answers[2].argmax()))


@pytest.mark.parametrize(
    ("shape", "prepared"),
    [
        ((3, 12, 10), Preprocessing(resize=(12, 10), fit="letterbox", pad=114, scale=1.0)),
        ((3, 9, 9), Preprocessing.normalized("imagenet", resize=11, crop=9, channels="bgr")),
        ((12, 12, 3), Preprocessing(layout="nhwc", resize=(12, 12), fit="corner", mean=(0.5,), std=(0.25,))),
        ((3, 40, 50), Preprocessing()),
    ],
)
def test_a_photograph_becomes_the_input_that_python_makes_of_it(
    tab: Tab, shape: tuple[int, ...], prepared: Preprocessing, tmp_path: Path
) -> None:
    """Pillow's bilinear filter, padding, order and normalization: to the last bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (31, 37, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    model = RateModel(colours(*shape))
    pairs = list(zip(prepared.mean or (0.0,), prepared.std or (1.0,), strict=True))
    white = 255.0 if prepared.scale else 1.0
    low, high = min(-m / s for m, s in pairs), max((white - m) / s for m, s in pairs)
    told = facts(prepared, low, high)
    page(model, tmp_path / "page", told, ARCHIVE)
    made, _, _ = onnx_page.preparation(model, told["data"]["preprocessing"])
    with served(tmp_path / "page") as url:
        opened(tab, url)
        found = chosen(tab, tmp_path / "photo.png")
    x = made([pixels], (BATCH, *shape))
    assert torch.equal(torch.tensor(found["input"]), x.flatten())
    _, counts = counted(model, x)
    assert found["counts"] == counts
    assert sum(map(sum, counts.values())) > 50


def test_without_its_runtime_a_page_says_where_it_is(tab: Tab, model: RateModel, tmp_path: Path) -> None:
    page(model, tmp_path / "page", facts())
    with served(tmp_path / "page") as url:
        tab.call("Page.navigate", url=url)
        tab.wait("document.body?.dataset.state === 'no runtime'")
        assert "npm pack onnxruntime-web@1.30.0" in tab.value("$('warning').textContent")
