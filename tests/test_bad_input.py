"""Bad input: what is said, what is returned, and that nothing is left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import ModelProto, TensorProto, helper
from onnx.external_data_helper import set_external_data
from PIL import Image

import cli
from converter import artefact, pipeline
from tests.conftest import ROOT
from tests.models import parse, weight

WEIGHTS = {"w": weight(4, 3, 3, 3), "v": weight(10, 256)}
BODY = "a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Relu(a) c = Flatten(b) y = Gemm <transB = 1> (c, v)"
QUICK = ("-T", "1,2", "--calibration-samples", "4")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests name files as a user does who stands beside them; `net.onnx` and `data.npz` are sound."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    x = np.random.default_rng(0).random((12, 3, 8, 8), dtype=np.float32)
    np.savez("data.npz", x=x, y=np.arange(12) % 10)


def network(body: str = BODY, **weights: torch.Tensor) -> ModelProto:
    return parse(body, {**WEIGHTS, **weights} if body == BODY else weights)


def files() -> dict[str, int]:
    """Every file and folder here, hidden ones too, with its time of change."""
    return {str(p): p.stat().st_mtime_ns for p in Path().rglob("*")}


def convert(model: str = "net.onnx", data: str = "data.npz", *options: str) -> Result:
    """Convert to out.snn; whatever fails leaves the folder as it was."""
    before = files()
    arguments = ["convert", model, "-o", "out.snn", "--data", data, *QUICK, *options]
    result = CliRunner().invoke(cli.main, arguments)
    if result.exit_code:
        assert files() == before
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
    return result


def refused(result: Result, *lines: str, code: int = 1) -> None:
    """The message is exactly these lines, `…` standing for anything."""
    assert result.exit_code == code, result.output
    told = result.stderr.splitlines()
    assert len(told) == len(lines), result.stderr
    for line, wanted in zip(told, lines, strict=True):
        start, dots, end = wanted.partition("…")
        assert line == wanted or (dots and line.startswith(start) and line.endswith(end)), (line, wanted)


def test_what_is_sound_is_converted() -> None:
    result = convert()
    assert (result.exit_code, result.stderr) == (0, "")
    assert Path("out.snn/report.html").is_file()


# The model


def test_no_file() -> None:
    refused(convert("none.onnx"), "error: there is no file 'none.onnx'")


def test_not_an_onnx_file() -> None:
    Path("photo.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(
        convert("photo.onnx"),
        "error: 'photo.onnx' is not an ONNX file, or is cut short",
        "       …",
        "hint:  export it anew, or copy the whole file again",
    )


@pytest.mark.parametrize("content", [b"", b"import torch\n"])
def test_an_empty_file_and_one_of_text(content: bytes) -> None:
    Path("text.onnx").write_bytes(content)
    result = convert("text.onnx")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        ("error: 'text.onnx' is not an ONNX file", "error: 'text.onnx' holds no ONNX")
    )


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 0.999])
def test_a_truncated_file(share: float) -> None:
    whole = Path("net.onnx").read_bytes()
    Path("half.onnx").write_bytes(whole[: int(len(whole) * share)])
    refused(
        convert("half.onnx"),
        "error: 'half.onnx' is not an ONNX file, or is cut short",
        "       …",
        "hint:  export it anew, or copy the whole file again",
    )


def external(location: str) -> None:
    model = network()
    for tensor in model.graph.initializer:
        set_external_data(tensor, location, offset=0, length=len(tensor.raw_data))
        tensor.ClearField("raw_data")
    onnx.save(model, "split.onnx")


def test_external_data_missing() -> None:
    external("split.onnx.data")
    refused(
        convert("split.onnx"),
        "error: the weights of 'w' cannot be read from 'split.onnx.data'",
        "       …",
        "hint:  the model needs 'split.onnx.data' whole, in the same folder",
    )


@pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "/etc/hostname"])
def test_external_data_outside_the_folder(location: str) -> None:
    external(location)
    refused(
        convert("split.onnx"),
        f"error: the weight 'w' points outside the model's folder: '{location}'",
        "hint:  external data must lie beside the model file",
    )


def test_external_data_behind_a_link_that_leads_outside(tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.bin"
    secret.write_bytes(bytes(100_000))
    Path("inside.bin").symlink_to(secret)
    external("inside.bin")
    assert "points outside the model's folder: 'inside.bin'" in convert("split.onnx").stderr


def test_unknown_operators_are_all_named() -> None:
    model = network("a = Relu(x) b = NonZero(a) c = Relu(x) d = Det(c) e = Cast <to = 1> (b) y = Add(e, d)")
    for node, name in zip(model.graph.node, "abcdef", strict=False):
        node.name = name
    onnx.save(model, "odd.onnx")
    result = convert("odd.onnx")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: odd has 2 nodes that cannot be imported\n")
    assert "NonZero 'b' (opset 20, input " in result.stderr
    assert "Det 'd' (opset 20, input " in result.stderr


def test_an_operator_of_another_domain() -> None:
    node = helper.make_node("Magic", ["x"], ["y"], name="wand", domain="com.example")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3, 8, 8]) for n in "xy"]
    graph = helper.make_graph([node], "net", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), "odd.onnx")
    said = convert("odd.onnx").stderr
    assert "Magic 'wand'" in said
    assert "is of the domain 'com.example', which is not standard ONNX" in said


def test_activations_that_cannot_spike_are_all_named_with_what_would_help() -> None:
    onnx.save(
        parse(
            "a = Tanh(x) b = Relu(a) c = Softplus(b) d = Relu(c) y = Sigmoid(d)", outputs="float[N,3,8,8] y"
        ),
        "odd.onnx",
    )
    result = convert("odd.onnx")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: odd has 2 nodes that cannot be converted\n")
    assert result.stderr.splitlines()[1].startswith("       Tanh 'a' (input Nx3x8x8): only activations")
    assert result.stderr.splitlines()[2].startswith("       Softplus 'c' (input Nx3x8x8): only activations")
    assert "--keep-analog Tanh --keep-analog Softplus" in result.stderr.splitlines()[3]
    assert convert("odd.onnx", "data.npz", "--keep-analog", "Tanh").exit_code == 1
    looked = CliRunner().invoke(cli.main, ["inspect", "odd.onnx"])
    assert looked.exit_code == 1
    assert "does not convert: 2 in the way" in looked.stdout
    assert CliRunner().invoke(cli.main, ["inspect", "odd.onnx", "--keep-analog", "Tanh"]).exit_code == 1


def test_a_cyclic_graph() -> None:
    model = network("a = Add(x, c) b = Relu(a) c = Neg(b) y = Flatten(c)")
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.save(model, "ring.onnx")
    result = convert("ring.onnx")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the network has a cycle through ")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(value: float) -> None:
    broken = WEIGHTS["w"].clone()
    broken[0, 0, 0, :2] = value
    onnx.save(network(w=broken), "nan.onnx")
    result = convert("nan.onnx")
    assert result.exit_code == 1
    assert "has 2 non-finite values (NaN or infinite) in its weight" in result.stderr
    assert "hint:  the checkpoint is damaged, or its training diverged" in result.stderr


def test_zero_sized_tensors() -> None:
    onnx.save(network(w=torch.zeros(0, 3, 3, 3)), "zero.onnx")
    refused(convert("zero.onnx"), "error: the weight 'w' has a dimension of size zero: (0, 3, 3, 3)")
    onnx.save(parse(BODY, WEIGHTS, inputs="float[N,3,0,8] x"), "zero.onnx")
    refused(convert("zero.onnx"), "error: input 'x' has a dimension of size zero or less: ['N', 3, 0, 8]")


def test_a_size_left_open() -> None:
    onnx.save(parse(BODY, WEIGHTS, inputs="float[N,3,H,W] x"), "open.onnx")
    result = convert("open.onnx")
    assert result.exit_code == 1
    assert "input 'x' leaves its size open" in result.stderr
    assert "hint:  --input-shape x=3,?,?" in result.stderr
    assert convert("open.onnx", "data.npz", "--input-shape", "x=3,8,8").exit_code == 0


def test_nothing_that_spikes() -> None:
    onnx.save(parse("a = Flatten(x) y = Gemm(a, v)", {"v": weight(192, 10)}), "flat.onnx")
    result = convert("flat.onnx")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: flat has nothing to convert\n")


# The data


def test_no_data() -> None:
    refused(convert(data="none.npz"), "error: there is no file or folder none.npz")


def test_data_of_the_wrong_shape() -> None:
    np.savez("big.npz", x=np.zeros((12, 3, 9, 9), np.float32))
    refused(
        convert(data="big.npz"),
        "error: big.npz: the data's samples are 3x9x9, the model's input is Nx3x8x8",
        "hint:  …",
    )


def test_data_with_nan() -> None:
    x = np.zeros((12, 3, 8, 8), np.float32)
    x[0, 0, 0, 0] = np.nan
    np.savez("nan.npz", x=x)
    result = convert(data="nan.npz")
    assert (result.exit_code, "the data hold NaN or infinite values" in result.stderr) == (1, True)


def test_data_that_would_run_code_when_read() -> None:
    np.savez("pickled.npz", x=np.array([{"not": "numbers"}], dtype=object))
    result = convert(data="pickled.npz")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: pickled.npz cannot be read as arrays\n")


def test_a_data_file_cut_short() -> None:
    Path("half.npz").write_bytes(Path("data.npz").read_bytes()[:2000])
    result = convert(data="half.npz")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: half.npz cannot be read as arrays\n")


def test_too_few_samples() -> None:
    result = convert("net.onnx", "data.npz", "--calibration-samples", "12")
    assert result.exit_code == 1
    assert "12 of 12 samples for calibration leave none to measure" in result.stderr


def test_labels_that_are_no_classes_of_the_network() -> None:
    np.savez("many.npz", x=np.zeros((12, 3, 8, 8), np.float32), y=np.arange(12) + 100)
    result = convert(data="many.npz")
    assert result.exit_code == 1
    assert "label" in result.stderr


def test_unlabelled_data_give_agreement_and_no_accuracy() -> None:
    np.save("data.npy", np.random.default_rng(0).random((12, 3, 8, 8), dtype=np.float32))
    result = convert(data="data.npy")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line.split() for line in result.stdout.splitlines()]
    (row,) = (row for row in rows if row[:1] == ["2"])
    assert row[1] == "–"
    assert row[3] == "%"
    assert ["ANN", "–"] in rows
    assert "after 2 steps of binary spikes it answers as the ANN does on" in result.stdout
    assert "accuracy" not in result.stdout.replace(" accuracy ", "", 1)  # but for the column's name


def test_the_gate_is_on_agreement_where_there_are_no_labels() -> None:
    np.save("data.npy", np.random.default_rng(0).random((40, 3, 8, 8), dtype=np.float32))
    arguments = ["convert", "net.onnx", "-o", "out.snn", "--data", "data.npy", "-T", "1", "--initial", "0"]
    result = CliRunner().invoke(cli.main, [*arguments, "--calibration-samples", "4", "--max-drop", "0"])
    assert result.exit_code == 3
    assert "after 1 step the agreement is " in result.stderr
    assert Path("out.snn").is_dir()


def test_an_unreadable_image() -> None:
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (40 * i, 10, 20)).save(f"photos/{name}/{i}.png")
    Path("photos/cat/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    refused(
        convert("net.onnx", "photos"),
        "error: the image photos/cat/broken.png cannot be read",
        "       it is …",
    )
    Path("photos/cat/broken.png").unlink()
    assert convert("net.onnx", "photos").exit_code == 0


# The output


def test_a_directory_that_exists_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out.snn").mkdir()
    Path("out.snn/notes.txt").write_text("mine")
    refused(
        convert("none.onnx", "none.npz"),
        "error: out.snn exists",
        "hint:  --force replaces it, or write to another name",
    )
    result = convert("net.onnx", "data.npz", "--force")
    assert result.exit_code == 1
    assert "so it is not replaced even with --force" in result.stderr
    assert os.listdir("out.snn") == ["notes.txt"]


def test_force_replaces_what_a_conversion_wrote() -> None:
    assert convert().exit_code == 0
    assert convert().stderr.startswith("error: out.snn exists\n")
    assert convert("net.onnx", "data.npz", "--force", "--calibrator", "maximum").exit_code == 0
    assert '"maximum"' in Path("out.snn/run.toml").read_text()
    assert sorted(os.listdir()) == ["data.npz", "net.onnx", "out.snn"]


def test_no_folder_to_write_in() -> None:
    result = CliRunner().invoke(cli.main, ["convert", "net.onnx", "-o", "no/out.snn", "--data", "data.npz"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no/out.snn cannot be written: there is no directory")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = Path.write_text

    def fill(path: Path, *arguments: object, **options: object) -> int:
        written.append(path.name)
        if path.name == "report.html":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", fill)
    result = convert()
    assert "model.py" in written  # it failed in the middle
    assert result.exit_code == 1
    assert "out.snn cannot be written: the disk is full" in result.stderr
    assert "hint:  free some space, or write to another disk" in result.stderr


@pytest.mark.parametrize(
    ("module", "name"), [(pipeline, "measure"), (artefact.html, "page"), (artefact.store, "to_json")]
)
def test_ctrl_c_while_measuring_and_while_writing(
    module: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, stop)
    refused(convert(), "", "error: interrupted; nothing half-written is left", code=130)


def test_ctrl_c_in_a_running_process() -> None:
    before = files()
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "convert",
        "net.onnx",
        "-o",
        "out.snn",
        "--data",
        "data.npz",
    ]
    options = ["--calibration-samples", "4", "-T", "10000000", "-v", "--calibrator", "percentile"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *options],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    ) as run:
        try:
            assert run.stderr is not None
            assert any("measuring" in line for line in run.stderr)
            run.send_signal(signal.SIGINT)
            said = run.stderr.read()
            assert run.wait(timeout=30) == 130
        finally:
            run.kill()
    assert said.strip() == "error: interrupted; nothing half-written is left"
    assert files() == before
