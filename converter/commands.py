"""What each command does, given its options: the pipeline, and what is printed of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from converter import (
    artefact,
    config,
    distributed,
    energy,
    exports,
    gates,
    oracle,
    pipeline,
    showing,
    targets,
    terminal,
)
from converter import diagnose as diagnosing
from converter import early_exit as exiting
from converter import inspection as inspecting
from converter.data import DATA_ROOT, Source, open_source, range_warning, split
from converter.errors import UsageError
from converter.exporters._check import Order
from converter.files import refuse_directory, sha256
from converter.graph import Graph
from converter.importer import load
from converter.metrics import Labelled, Measurement, batch_that_fits, measure
from converter.neurons import neurons
from converter.passes import apply, pipeline_for
from converter.preprocessing import Preprocessing
from converter.rate import RateModel
from converter.registry import Registry
from converter.report import Report
from converter.schedules import Model
from converter.sources.images import LABELS
from converter.spiking import refuse_early
from converter.tasks import pictures
from converter.tasks.judge import Judge

Options = Mapping[str, Any]
EMBEDDED = "digits"
SEARCH = ("trials", "groups", "spike_weight", "jobs", "search")
"""The options of a search."""
FIRST_SPIKE = "first-spike"
OF_FIRST_SPIKE = {"kernel": "form", "tau": "tau", "coder": "coder", "slack": "slack", "offset": "offset"}
"""Options of the first-spike code, and the fields of its neuron that they set."""
OF_RATES = ("timesteps", "schedule", "delay", "spikes", "neuron", "reset", "initial", "leak", "burst")
"""Options of the rate code."""
CALIBRATE_RATES = ("bayesian", "distillation", "initial-membrane", "temporal-bias", "spike-calibration")
"""Calibrators that work on the first membrane, or on steps, of neurons which spike many times."""
READOUTS = 9
"""How many delays of the read-out a search looks at."""
WINDOWS = (8, 16, 24, 32, 64)
"""Steps of a window, unless they are asked for."""
PICTURED = 4
"""At how many of the last times of a curve the page shows what a dense network found."""
VERIFIED = 8
"""How many samples `--verify` compares."""


def model_path(model: str) -> Path:
    """The ONNX file that MODEL means: the word `digits` is the network in the package."""
    return (
        Path(str(resources.files("converter") / "models" / "digits.onnx"))
        if model == EMBEDDED
        else Path(model)
    )


def inspect(given: Options) -> int:
    """Print what is in a network; 1 if it does not convert."""
    found = inspecting.inspect(
        model_path(given["model"]),
        shapes=dict(map(config.shape_of, given["input_shape"])),
        outputs=given["cut"],
        keep_analog=given["keep_analog"],
    )
    if given["as_json"]:
        print(terminal.document({**asdict(found), "convertible": found.convertible}))
    else:
        show(*terminal.inspection(found, every=given["verbose"]))
    return 0 if found.convertible else 1


def convert(given: Options, calibrators: Registry[Any], run: Options) -> None:
    """Convert, write the artefact with `run` as its run.toml, print the curve, hold it against the gate."""
    report = converted(given, calibrators, run)
    gates.hold(report, report.task, given["max_drop"], given["gate"])


def converted(given: Options, calibrators: Registry[Any], run: Options) -> Report:
    """Convert, write the artefact with `run` as its run.toml, print the curve."""
    target = Path(given["directory"])
    refuse_directory(target, given["force"])
    given = {**given, **code_options(given), "calibrator": calibrator_names(given)}
    kinds = [calibrators[name] for name in given["calibrator"]]
    chosen = calibrator_options(kinds, given)
    neuron, neuron_options = neuron_of(given)
    settings = pipeline.Settings(
        neuron=neuron,
        neuron_options=neuron_options,
        weights=given["weights"],
        encoding=given["encoding"],
        timesteps=tuple(sorted(set(given["timesteps"]))),
        schedule=given["schedule"],
        delay=given["delay"],
        keep_analog=given["keep_analog"],
        calibration_samples=given["calibration_samples"],
        samples=given["samples"],
        batch_size=given["batch_size"],
        seed=given["seed"],
        device=device(given),
        input_shapes=dict(map(config.shape_of, given["input_shape"])),
        outputs=given["cut"],
    )
    steps = [
        (name, kind(**option)) for name, kind, option in zip(given["calibrator"], kinds, chosen, strict=True)
    ]
    path = model_path(given["model"])
    asked = showing.question(given)
    judge = Judge(asked) if asked else None

    def source(graph: Graph) -> Source:
        data = opened(given, graph, preprocessing(given, Preprocessing()), dense=asked is not None)
        if given["verify"]:
            samples = range(min(graph.batch or VERIFIED, len(data)))
            x, _ = next(data.batches(samples, len(samples)))
            difference = oracle.check(path, graph, x, given["cut"])
            tell(
                given,
                f"the imported network agrees with onnxruntime: largest relative difference {difference:.1e}",
            )
        return data

    with terminal.Bars(quiet=given["quiet"], stages=given["verbose"]) as progress:
        done = pipeline.convert(path, source, steps, settings, progress, judge)
    # What was chosen is written down, not that it was to be chosen.
    chose = done.calibrators != given["calibrator"]
    run = {**run, "calibrator": done.calibrators, "budget": None if chose else run["budget"]}
    toml = config.dumps({k: v for k, v in run.items() if v is not None and v != ()}, config.RUN)
    report = done.report
    drawn = (
        pictures.png(pictures.sheet(judge.pictures, [p.timesteps for p in report.curve][-PICTURED:]))
        if judge
        else None
    )
    artefact.write(done, target, run=toml, search=given["search"], picture=drawn, force=given["force"])
    for warning in report.warnings:
        warn(given, warning)
    if given["as_json"]:
        sys.stdout.write(report.to_json())
    else:
        show(*terminal.conversion(report, target, every=given["verbose"]))
    return report


def tune(given: Options, calibrators: Registry[Any], run: Options) -> None:
    """Convert with a search that goes on where an earlier one ended; meanwhile its file is beside DIR."""
    target = Path(given["directory"])
    refuse_directory(target, given["force"])
    beside = target.with_name(f"{target.name}.{artefact.SEARCH}")
    search = Path(given["search"] or beside)
    if given["resume"] is not None and not search.exists():
        earlier = Path(given["resume"], artefact.SEARCH)
        if not earlier.is_file():
            raise UsageError(
                f"'{given['resume']}' holds no {artefact.SEARCH}", hint="ann2snn tune leaves one"
            )
        shutil.copyfile(earlier, search)
    try:
        report = converted({**given, "search": str(search)}, calibrators, run)
    except KeyboardInterrupt:
        if search.exists():
            tell(given, f"the trials so far are in {search}: the same command goes on from there")
        raise
    if search == beside:
        search.unlink(missing_ok=True)
    gates.hold(report, report.task, given["max_drop"], given["gate"])


def evaluate(given: Options) -> None:
    """Measure an artefact on data and print the curve and what it costs."""
    constants = energy.read(Path(given["energy"])) if given["energy"] else None
    stored = artefact.read(given["artefact"])
    target = torch.device(pipeline.Settings(device=device(given)).torch_device())
    share = distributed.join(target.type) if given["distributed"] else distributed.ALONE
    model = at_precision(stored.model.to(target), given["precision"], target)
    asked = showing.question(given, stored.report.get("task"))
    data = opened(given, model.graph, preprocessing(given, stored.preprocessing), dense=asked is not None)
    part, said = measured_part(data, stored, given["samples"])
    judge, warnings = Judge(asked) if asked else None, list[str]()
    if judge and share.count > 1:
        raise UsageError("a task is measured by one process", hint="leave --distributed out")
    if judge:
        part, warning = judge.measurable(data, part)
        warnings += [warning] if warning else []
    timesteps = given["timesteps"] or stored.report["settings"]["timesteps"]
    refuse_early(timesteps, model.delay)
    size = batch_that_fits(model.graph, given["batch_size"], max(timesteps))
    scaled = range_warning(*stored.input_range, next(data.batches(part[:size], size))[0])
    warnings += [scaled] if scaled else []
    given = {**given, "quiet": given["quiet"] or share.rank > 0}
    for warning in warnings:
        warn(given, warning)
    ann = stored.ann.to(target)
    with terminal.Bars(quiet=given["quiet"], stages=given["verbose"]) as progress:
        told = counter(progress, "measuring", len(part) * max(timesteps) // share.count)
        own = [part[i : i + size] for i in share.mine(range(0, len(part), size))]
        each = (pair for samples in own for pair in data.batches(samples, size))
        measured = measure(model, ann, pipeline.on(each, target), timesteps, told, share=share, witness=judge)
    distributed.leave()
    if share.rank:
        return
    measured = with_weights(measured, stored.report)
    if constants:
        measured = replace(measured, metrics=energy.with_model(measured.metrics, constants))
    exits = early_exit(given, model, ann, data.batches(part, size), max(timesteps))
    task = judge.task() if judge else None
    if given["as_json"]:
        facts = {"source": data.name, "sha256": data.sha256, "measurement": said}
        about = {"artefact": str(given["artefact"]), "data": facts, "warnings": warnings}
        about |= {"early_exit": asdict(exits)} if exits else {}
        about |= {"task": asdict(task)} if task else {}
        print(terminal.document({**asdict(measured), **about, "versions": pipeline.versions()}))
    else:
        show(*terminal.evaluation(measured, said, task, every=given["verbose"]))
        if exits:
            show(terminal.exits(exits))
    gates.hold(measured, task, given["max_drop"], given["gate"])


def at_precision(model: Model, precision: str, target: torch.device) -> Model:
    """The model with its synapses in these numbers. Raises `UsageError` where that is for nothing."""
    if precision == "float32":
        return model
    if target.type != "cuda" or not isinstance(model, RateModel):
        raise UsageError(
            f"--precision {precision} is for rate codes on a GPU",
            why=f"this network runs on {target.type}, as {type(model).__name__}",
            hint="leave --precision out; weights of 8 bits (--weights int8) run in whole numbers on a CPU",
        )
    return model.at_precision(precision)


def with_weights(measured: Measurement, report: Mapping[str, Any]) -> Measurement:
    """What was measured, and what the conversion's report says of the weights: they are the same ones."""
    errors = {layer["name"]: layer.get("weight_error") for layer in report["layers"]}
    layers = tuple(replace(layer, weight_error=errors.get(layer.name)) for layer in measured.layers)
    return replace(
        measured, layers=layers, metrics=measured.metrics | {"weights": report["metrics"]["weights"]}
    )


def early_exit(
    given: Options, model: Model, ann: Graph, batches: Labelled, cap: int
) -> exiting.EarlyExit | None:
    """What `--early-exit` asks for: samples answered as soon as they are decided."""
    if given["early_exit"] is None:
        return None
    if not isinstance(model, RateModel):
        raise UsageError(
            "the schedule pipelined answers at the end of a window", hint="leave --early-exit out"
        )
    pairs = pipeline.on(batches, next(model.buffers()).device)
    return exiting.measure(model, ann, pairs, cap, given["early_exit"])


def measured_part(data: Source, stored: artefact.Artefact, samples: int | None) -> tuple[Sequence[int], str]:
    """The samples to measure on, and in words: for the data of the conversion, not those it calibrated on."""
    settings = stored.report["settings"]
    same = data.sha256 == stored.report["data"]["sha256"]
    parts = split(data, settings["calibration_samples"] if same else 0, samples, settings["seed"])
    said = parts.measurement_words
    return parts.measurement, said if same else said.replace("the rest", data.name)


def diagnose(given: Options) -> None:
    """Print where an artefact leaves its ANN, and why."""
    stored = artefact.read(given["artefact"])
    target = torch.device(pipeline.Settings(device=device(given)).torch_device())
    path, settings = model_path(given["model"]), stored.report["settings"]
    shapes = {name: tuple(shape) for name, shape in settings["input_shapes"].items()}
    kind = neurons[settings["neuron"]]
    ann, _ = apply(load(path, shapes=shapes, outputs=settings["outputs"]).verify(), pipeline_for(kind()))
    if sha256(path) != stored.report["model"]["sha256"]:
        warn(given, f"{path} is not byte for byte the file that {given['artefact']} was converted from")
    model = stored.model.to(target)
    data = opened(given, model.graph, preprocessing(given, stored.preprocessing))
    part, _ = measured_part(data, stored, given["samples"])
    timesteps = given["timesteps"]
    size = batch_that_fits(model.graph, given["batch_size"], timesteps)
    with terminal.Bars(quiet=given["quiet"], stages=given["verbose"]) as progress:
        told = counter(progress, "simulating", len(part) * timesteps)
        batches = (x.to(target) for x, _ in data.batches(part, size))
        found = diagnosing.diagnose(model, ann.to(target), batches, timesteps, given["tolerance"], told)
    if given["as_json"]:
        print(terminal.document(asdict(found)))
    else:
        show(*terminal.diagnosis(found))


def export(given: Options) -> None:
    """Write an artefact in another form, or say what of it fits a chip, or both."""
    if given["form"] is None and given["target"] is None:
        raise UsageError("nothing is asked for", hint=f"--to {', '.join(exports.FORMS)}; or --target CHIP")
    if (given["form"] is None) != (given["file"] is None):
        raise UsageError("--to and -o go together: the form, and the file to write")
    form = page_or(given)
    stored = artefact.read(given["artefact"])
    said: dict[str, Any] = {"artefact": str(given["artefact"])}
    if given["target"] is not None:
        found = targets.fit(stored.model, given["target"])
        said["target"] = {**asdict(found), "fits": found.fits}
        if not given["as_json"]:
            show(*terminal.fit(found))
    if form is not None:
        exports.refuse(form, given["file"], given["force"])
        steps = given["timesteps"] or stored.report["settings"]["timesteps"][-1]
        refuse_early([steps], stored.model.delay)
        order = Order(
            steps,
            given["opset"],
            given["allow"],
            stored.report,
            runtime=given["runtime"] and Path(given["runtime"]),
        )
        if given["maxpool"] is not None:
            before, stored = stored, replace(stored, model=exports.averaged(stored.model))
            said["maxpool"] = cost = averaging(given, before, stored, steps)
            if not given["as_json"]:
                show(f"max-pools became means: {terminal.cost(cost)}")
        x = None if given["no_verify"] else samples_of(given, stored)
        check = exports.export(stored.model, order, form, given["file"], x, force=given["force"])
        words = "not verified" if check is None else check.words
        note = exports.noted(form, given["file"])
        said |= {"file": str(given["file"]), "form": form, "verified": check and asdict(check)}
        said |= {"note": note} if note else {}
        if not given["as_json"]:
            show(f"{escape(str(given['file']))}: {escape(words)}")
            if note:
                show(escape(note))
    if given["as_json"]:
        print(terminal.document(said))


def page_or(given: Options) -> str | None:
    """The form that is asked for. Raises `UsageError` for what belongs to a page and asks for none."""
    if given["with_page"] and given["form"] != "onnx":
        raise UsageError(
            "--with-page is of --to onnx: the page runs the network step by step",
            hint="--to onnx --with-page",
        )
    form: str | None = "onnx-page" if given["with_page"] else given["form"]
    if given["runtime"] and form != "onnx-page":
        raise UsageError("--runtime is what a page runs on, and none is asked for", hint="--with-page")
    return form


def averaging(
    given: Options, before: artefact.Artefact, after: artefact.Artefact, steps: int
) -> dict[str, Any]:
    """How well the network answers with max-pools and with means. Raises `UsageError` without data."""
    if given["data"] is None:
        raise UsageError(
            "--maxpool average makes another network of it", hint="--data SOURCE says what that costs"
        )
    found: dict[str, Any] = {"timesteps": steps}
    for name, stored in (("before", before), ("after", after)):
        data = opened(given, stored.model.graph, preprocessing(given, stored.preprocessing))
        part, found["samples"] = measured_part(data, stored, None)
        size = batch_that_fits(stored.model.graph, 100)
        point = measure(stored.model, stored.ann, data.batches(part, size), [steps]).curve[-1]
        found[name] = {"accuracy": point.accuracy, "agreement": point.agreement}
    return found


def samples_of(given: Options, stored: artefact.Artefact) -> tuple[torch.Tensor, ...]:
    """A few samples to verify an export on: of the data, or random within the range of the calibration."""
    graph = stored.model.graph
    if given["data"] is None:
        return exports.random_samples(graph, *stored.input_range)
    data = opened(given, graph, preprocessing(given, stored.preprocessing))
    count = graph.batch or min(exports.SAMPLES, len(data))
    return (next(data.batches(range(count), count))[0],)


OF_CALIBRATORS = (
    *("budget", "percentile", "per_channel", "rounds", "iterations", "allowance", "timesteps", "schedule"),
    *("delay", "delays", "headroom", *SEARCH),
)


def calibrator_names(given: Options) -> tuple[str, ...]:
    """The calibrators asked for; an option of percentile alone asks for that one."""
    names = tuple(given["calibrator"])
    if names == ("auto",) and (given["percentile"] is not None or given["per_channel"] is not None):
        return ("percentile",)
    return names


def calibrator_options(kinds: Sequence[type], given: Options) -> list[dict[str, Any]]:
    """For each calibrator its options, of those given; one that depends on the run's length is told it."""
    timed = any(f.name == "timesteps" for kind in kinds for f in fields(kind))
    if given["target"] is not None and not timed:
        raise UsageError(f"the calibrator {' or '.join(given['calibrator'])} has no option --target")
    target = given["target"] or max(given["timesteps"])
    scheduled = any(f.name == "schedule" for kind in kinds for f in fields(kind))
    searched = any(f.name == "delays" for kind in kinds for f in fields(kind))
    delayed = any(f.name == "delay" for kind in kinds for f in fields(kind))
    told = {
        **given,
        "timesteps": target if timed else None,
        "schedule": given["schedule"] if scheduled else None,
        "delay": given["delay"] if delayed else None,
        "delays": delays(given, kinds[-1]) if searched else None,
    }
    return taken(
        "the calibrator",
        kinds,
        given["calibrator"],
        told,
        OF_CALIBRATORS,
    )


def delays(given: Options, last: type) -> tuple[int, ...]:
    """The delays that a search chooses from: the one asked for, else a few that leave each answer a step.

    What corrections mend is the mean of the whole run: a search before them leaves the read-out as it is.
    """
    if given["delay"] or given["schedule"] != "stream" or all(f.name != "delays" for f in fields(last)):
        return (given["delay"],)
    most = min(*given["timesteps"], given["target"] or max(given["timesteps"])) - 1
    return tuple(sorted({round(place * most / (READOUTS - 1)) for place in range(READOUTS)}))


def code_options(given: Options) -> dict[str, Any]:
    """What the code asked for makes of the options; `UsageError` for those that belong to the other one."""
    if given["code"] != FIRST_SPIKE:
        for name in ("window", *OF_FIRST_SPIKE):
            if given[name] is not None:
                raise UsageError(
                    f"--{name} belongs to the first-spike code", hint=f"--code {FIRST_SPIKE} --{name} …"
                )
        return {}
    for name in OF_RATES:
        if given[name] is not None and name in given["asked"]:
            raise UsageError(
                f"--{name} belongs to the rate code, in which a neuron spikes many times",
                hint="--window gives the steps of first spikes" if name == "timesteps" else "--code rate",
            )
    for name in given["calibrator"]:
        if name in CALIBRATE_RATES:
            raise UsageError(
                f"the calibrator {name} mends many spikes of a neuron; a first spike is the only one",
                hint="ann2snn convert with auto, least-squares, bias-correction, coordinate, …",
            )
    window = given["window"] or WINDOWS
    continuous = window == config.CONTINUOUS
    if continuous and given["kernel"] is None:
        given = {**given, "kernel": "linear"}
    return {
        "timesteps": (1,) if continuous else window,
        "schedule": "pipelined",
        "kernel": given["kernel"],
    }


def neuron_of(given: Options) -> tuple[str, dict[str, Any]]:
    """The neuron that stands for a ReLU, and its options."""
    if given["code"] == FIRST_SPIKE:
        return FIRST_SPIKE, {
            "continuous": given["window"] == config.CONTINUOUS,
            **{field: given[name] for name, field in OF_FIRST_SPIKE.items() if given[name] is not None},
        }
    if given["spikes"] is not None and given["neuron"] is not None:
        raise UsageError("--spikes chooses a neuron and so does --neuron", hint="give one of them")
    name, levels = config.neuron_for(given["spikes"] or "binary")
    name = given["neuron"] or name
    kind = neurons[name]
    if not kind.choosable:
        raise UsageError(f"the neuron {name} has an activation of its own and stands for no ReLU")
    (options,) = taken(
        "the neuron",
        [kind],
        [name],
        {**given, "levels": levels},
        ("reset", "initial", "levels", "leak", "burst"),
    )
    return name, options


def taken(
    what: str, kinds: Sequence[type], names: Sequence[str], given: Options, optional: Sequence[str]
) -> list[dict[str, Any]]:
    """For each kind the options it has, of those given. Raises `UsageError` for one that none of them has."""
    found = [
        {f.name: given[f.name] for f in fields(k) if f.name in optional and given[f.name] is not None}
        for k in kinds
    ]
    for name in optional:
        if given[name] is not None and not any(name in options for options in found):
            raise UsageError(f"{what} {' or '.join(names)} has no option --{name.replace('_', '-')}")
    return found


def preprocessing(given: Options, base: Preprocessing) -> Preprocessing:
    """`base` with what the options say instead."""
    changed = {f.name: given[f.name] for f in fields(base) if given[f.name] is not None}
    if given["normalize"] is not None:
        if {"mean", "std"} & changed.keys():
            raise UsageError(
                "--normalize sets the mean and std; --mean and --std do so too", hint="give one of them"
            )
        normal = Preprocessing.normalized(given["normalize"], channels=changed.get("channels", base.channels))
        changed |= {"mean": normal.mean, "std": normal.std}
    return replace(base, **changed)


def opened(given: Options, graph: Graph, prepared: Preprocessing, *, dense: bool = False) -> Source:
    """The data source, for the network's input; for a `dense` one, labels are no classes of images."""
    if len(graph.inputs) != 1:
        raise UsageError(f"{graph.name} has {len(graph.inputs)} inputs; a data source feeds one")
    root = given["data_root"] or DATA_ROOT
    labels = "none" if dense else given["labels"]
    if labels not in (None, *LABELS):
        raise UsageError(
            f"there is no kind of labels {labels!r} of images", hint="folder or sorted; boxes, masks: --task"
        )
    return open_source(given["data"], prepared, graph.inputs[0].shape, labels=labels, root=root)


def device(given: Options) -> str:
    """The device asked for, if it is there."""
    if given["device"] == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here", hint="--device cpu, or auto")
    return str(given["device"])


def counter(progress: terminal.Bars, what: str, of: int) -> Any:
    """A function that is told how many more are done."""
    done = 0

    def told(more: int) -> None:
        nonlocal done
        done += more
        progress(what, done, of)

    return told


def show(*lines: Any) -> None:
    """Tables and lines to standard output."""
    out = terminal.console()
    for line in lines:
        out.print(line)


def tell(given: Options, line: str) -> None:
    """A line to standard error."""
    if not given["quiet"]:
        print(line, file=sys.stderr)


def warn(given: Options, warning: str) -> None:
    """A warning to standard error."""
    tell(given, f"warning: {warning}")
