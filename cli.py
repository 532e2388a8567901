"""The command line of ann2snn.

At module level there is click and the standard library, so that `--help` answers at once; what does the work
is imported inside the commands. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import copy
from typing import Any, NoReturn

import click


class Commands(click.Group):
    """The group of all commands: turns whatever goes wrong into one shape of message and an exit code."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run and exit: 0 done · 1 bad model or data · 2 usage · 3 gate missed · 130 interrupted."""
        from converter.errors import ConversionError

        options["standalone_mode"] = False
        options.setdefault("prog_name", "ann2snn")
        try:
            code = super().main(*args, **options)
        except ConversionError as error:
            fail(str(error), error.exit_code)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "ann2snn"
            fail(f"{error.format_message()}\nhint:  {command} --help shows what there is", 2)
        except click.Abort:
            fail("interrupted; nothing half-written is left", 130)
        except Exception:
            import traceback

            traceback.print_exc()
            fail("this is a bug in ann2snn: please report the command and the lines above", 1)
        sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> NoReturn:
    """`error: …` on standard error, and out."""
    click.echo(click.style("error: ", fg="red", bold=True) + message, err=True)
    sys.exit(code)


class Written(click.ParamType[Any]):
    """A value as converter/config.py reads it; its parser there is the type's name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, or a usage error."""
        from converter import config

        try:
            return getattr(config, self.name)(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Thing(click.ParamType[Any]):
    """The name of something that has a file in `package`."""

    name = "name"

    def __init__(self, kind: str, package: str, group: str | None = None) -> None:
        self.kind, self.package, self.group = kind, package, group

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name, if there is such a thing."""
        from converter.catalogue import names
        from converter.registry import did_you_mean

        if value not in (known := names(self.package, self.group)):
            self.fail(f"there is no {self.kind} {value!r}; {did_you_mean(str(value), known)}", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """The names that begin so."""
        from click.shell_completion import CompletionItem

        from converter.catalogue import names

        return [
            CompletionItem(name) for name in names(self.package, self.group) if name.startswith(incomplete)
        ]


def options(*each: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several decorators as one, listed in this order."""

    def decorate(command: Any) -> Any:
        for one in reversed(each):
            command = one(command)
        return command

    return decorate


def load_config(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    """The options of a run.toml become the defaults of this command."""
    if path is not None:
        from converter import config

        known = recorded(ctx.command)
        lists = [key for key, p in known.items() if p.multiple or isinstance(p.type, Written)]
        values = config.read(path, tuple(known), lists)
        ctx.default_map = {
            known[key].name: [value] if known[key].multiple and not isinstance(value, list) else value
            for key, value in values.items()
        }


def recorded(command: click.Command) -> dict[str, Any]:
    """The parameters that run.toml holds, by their key: what the option is called without its dashes."""
    return {max(p.opts, key=len).lstrip("-"): p for p in command.params if p.name not in OF_THE_MOMENT}


def asked(ctx: click.Context) -> frozenset[str]:
    """The parameters that stand on the command line."""
    written = click.core.ParameterSource.COMMANDLINE
    return frozenset(name for name in ctx.params if ctx.get_parameter_source(name) is written)


OF_THE_MOMENT = ("directory", "search", "resume", "force", "config", "as_json", "quiet", "verbose")
"""Parameters that are no part of what a run computes."""
COUNT, EXAMPLE = click.IntRange(min=1), "Example:\n\n\b\n"
SOURCES = "Folder or .zip of images, .npz, .npy, digits, or a torchvision name; NAME:test takes a part."
PREPARATION = options(
    click.option("--resize", type=Written("size"), metavar="SIZE", help="HEIGHTxWIDTH, or the shorter side."),
    click.option(
        "--fit",
        type=click.Choice(["stretch", "letterbox", "corner"]),
        help="Where --resize HEIGHTxWIDTH has other proportions; the latter two keep them.",
    ),
    click.option("--pad", type=click.IntRange(0, 255), help="8-bit value beside an image that keeps them."),
    click.option("--crop", type=COUNT, help="Side of the square kept, from the centre."),
    click.option("--normalize", metavar="HOW", help="imagenet, cifar10, none, or MEAN/STD such as 0.5/0.25."),
    click.option("--mean", type=Written("channels"), metavar="M,…", help="Subtracted after scaling."),
    click.option("--std", type=Written("channels"), metavar="S,…", help="Divided by."),
    click.option("--scale", type=float, help="Multiplies the pixels. [default: 1/255 if 8-bit]"),
    click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Of the model's input."),
    click.option("--channels", type=click.Choice(["rgb", "bgr"]), help="Of the model's input."),
    click.option(
        "--labels",
        metavar="WHAT",
        help="classify: folder, or sorted (each image its own). Else: a .json, a YOLO or mask folder.",
    ),
    click.option("--data-root", metavar="DIR", help="Where torchvision data sets are."),
)
TASK = options(
    click.option(
        "--task",
        type=click.Choice(["classify", "detect", "segment"]),
        help="What it is for. [default: classify]",
    ),
    click.option(
        "--decoder",
        type=Thing("decoder", "converter.tasks.decoders", "ann2snn.decoders"),
        help="How the outputs are read (ann2snn list decoders). [default for segment: argmax]",
    ),
    click.option("--score", type=click.FloatRange(0, 1), help="For decoders of boxes: the least score."),
    click.option("--threshold", type=float, help="For decoder threshold. [default: 0.5]"),
    click.option("--min-size", type=click.FloatRange(min=0), help="Smaller objects do not count, in pixels."),
    click.option(
        "--foreground", type=click.IntRange(0, 254), help="The masks' value that is class 1, others 0."
    ),
)
GATES = options(
    click.option(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="Exit with 3 if accuracy, mAP50 or mIoU (no labels: agreement) falls by more.",
    ),
    click.option(
        "--gate",
        multiple=True,
        type=Written("gate"),
        metavar="NAME=VALUE",
        help="Exit with 3 if output-error or divergence is above, or a figure of the task below.",
    ),
)
DATA = options(click.option("--data", required=True, metavar="SOURCE", help=SOURCES), PREPARATION)
SAMPLES = click.option("--samples", type=COUNT, help="How many to measure on. [default: all]")
CODE = options(
    click.option(
        "--code",
        type=click.Choice(["rate", "first-spike"]),
        default="rate",
        show_default=True,
        help="What spikes say: how many come, or when the one of a neuron comes.",
    ),
    click.option(
        "--window",
        type=Written("windows"),
        metavar="T,…",
        help="For code first-spike: steps of a window, or continuous. [default: 8,16,24,32,64]",
    ),
    click.option(
        "--kernel",
        type=click.Choice(["base-2", "linear"]),
        help="For code first-spike: what a later spike is worth. [default: base-2; continuous: linear]",
    ),
    click.option("--tau", type=float, help="For kernel base-2: steps that halve a spike. [default: T/6]"),
    click.option(
        "--coder", type=click.Choice(["round", "floor"]), help="For code first-spike. [default: round]"
    ),
    click.option(
        "--slack",
        type=float,
        help="For window continuous: reach, in largest activations calibrated. [default: 1.5]",
    ),
    click.option(
        "--offset",
        type=COUNT,
        help="For code first-spike: steps from a layer's window to that of the next. [default: the window]",
    ),
)
NETWORK = options(
    click.option(
        "--input-shape",
        multiple=True,
        type=Written("input_shape"),
        metavar="NAME=3,224,224",
        help="A size that the file leaves open.",
    ),
    click.option("--output", "cut", multiple=True, metavar="NAME", help="Cut the network here."),
    click.option("--keep-analog", multiple=True, metavar="OP", help="Leave this operator in floating point."),
)
MACHINE = options(
    click.option("--batch-size", type=COUNT, default=100, show_default=True, help="Samples at a time."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
)
SAYING = options(
    click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no warnings."),
    click.option("-v", "--verbose", is_flag=True, help="Say more: every layer, every stage."),
)


COMPLETION = 'Completion: eval "$(_ANN2SNN_COMPLETE=bash_source ann2snn)", or zsh_source, fish_source.\n\n'


@click.group(
    cls=Commands, epilog=COMPLETION + EXAMPLE + "  ann2snn convert digits -o digits.snn --data digits"
)
@click.version_option(package_name="ann2snn")
def main() -> None:
    """Turn a trained ONNX network into a spiking network, measured and documented.

    MODEL is an ONNX file, or `digits`: the small network that comes with the package.
    """


@main.command(epilog=EXAMPLE + "  ann2snn inspect digits")
@click.argument("model")
@NETWORK
@SAYING
def inspect(**given: Any) -> int:
    """Say what is in MODEL, what of it converts and what does not. Exits with 1 if it does not convert."""
    from converter import commands

    return commands.inspect(given)


@main.command(
    epilog=EXAMPLE
    + "  ann2snn convert digits -o digits.snn --data digits -T 1,2,4,8,16,32\n"
    + "  ann2snn convert digits -o small.snn --data digits -T 16 --spikes signed --weights log2:5"
)
@click.argument("model")
@click.option(
    "-o", "directory", required=True, metavar="DIR", help="The directory to write, for example NAME.snn."
)
@DATA
@click.option(
    "--calibration-samples",
    type=COUNT,
    default=256,
    show_default=True,
    help="To set thresholds on, not to measure on.",
)
@SAMPLES
@click.option(
    "-T",
    "--timesteps",
    type=Written("steps"),
    default="1,2,4,8,16,32,64",
    show_default=True,
    metavar="T,…",
    help="Read out after these steps.",
)
@CODE
@click.option(
    "--schedule",
    type=click.Choice(["stream", "pipelined"]),
    default="stream",
    show_default=True,
    help="Layers fire at every step, or each in a window of T steps after the one before it.",
)
@click.option(
    "--delay",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="STEPS",
    help="For schedule stream: first steps that are run and not read out.",
)
@click.option(
    "--calibrator",
    multiple=True,
    type=Thing("calibrator", "calibrators"),
    default=["auto"],
    show_default=True,
    help="Sets thresholds or corrects what they leave (ann2snn list calibrators); several: in this order.",
)
@click.option(
    "--budget",
    type=Written("seconds"),
    metavar="TIME",
    help="For calibrators auto and distillation: 60s, 5m. [default: 180s, 600s]",
)
@click.option("--percentile", type=float, help="For calibrator percentile, and chooses it. [default: 99.9]")
@click.option(
    "--rounds",
    type=COUNT,
    help="Of local-balancing (40), regression (4), coordinate (2), the other corrections (3).",
)
@click.option(
    "--headroom",
    type=float,
    metavar="TIMES",
    help="For calibrator least-squares: thresholds so many times as wide. [default: 1]",
)
@click.option("--iterations", type=COUNT, help="Steps of Adam of reconstruction (60), distillation (100).")
@click.option(
    "--allowance", type=float, metavar="STEPS", help="For calibrator spike-calibration. [default: T/2]"
)
@click.option(
    "--target",
    type=COUNT,
    metavar="T",
    help="The run that least-squares, bayesian and the corrections are for. [default: the last of -T]",
)
@click.option("--trials", type=COUNT, help="For calibrator bayesian, in all. [default: 40]")
@click.option("--groups", type=COUNT, help="For calibrator bayesian: blocks of layers. [default: 4]")
@click.option(
    "--spike-weight",
    type=click.FloatRange(min=0),
    help="For calibrator bayesian: nats that a spike per neuron costs. [default: 0]",
)
@click.option("--jobs", type=COUNT, help="For calibrator bayesian: trials at a time. [default: 1]")
@click.option(
    "--search", metavar="FILE", help="For calibrator bayesian: keeps the trials; a search goes on from it."
)
@click.option(
    "--per-channel/--per-layer", default=None, help="Of percentile and others. [default: per-channel]"
)
@click.option(
    "--spikes",
    type=Written("spikes"),
    metavar="KIND",
    help="binary, signed (may take back), levels:N (up to N at once), powers:N (of two). [default: binary]",
)
@click.option(
    "--neuron",
    type=Thing("neuron", "converter.neurons"),
    help="Instead of --spikes. [default: integrate-fire]",
)
@click.option(
    "--reset", type=click.Choice(["soft", "hard"]), help="After a spike. [default: soft, by subtraction]"
)
@click.option("--initial", type=click.FloatRange(0, 1), help="First membrane, in thresholds. [default: 0.5]")
@click.option(
    "--leak",
    type=click.FloatRange(0, 1, min_open=True),
    help="For neuron leaky: the share of the membrane that stays. [default: 0.99]",
)
@click.option("--burst", type=COUNT, help="For neuron burst: spikes in one step, at most. [default: 5]")
@click.option(
    "--weights",
    type=Written("weights"),
    default="float32",
    show_default=True,
    metavar="FORMAT",
    help="int8, int4 (intN), exact15, log2:5 (sign, exponent), pow2:4 (ann2snn list weights).",
)
@click.option(
    "--encoding", type=Thing("encoding", "converter.encodings"), default="current", show_default=True
)
@NETWORK
@MACHINE
@click.option("--seed", type=int, default=0, show_default=True, help="For every draw of chance.")
@click.option("--verify", is_flag=True, help="Compare the import with onnxruntime first.")
@TASK
@GATES
@click.option(
    "--config",
    type=click.Path(),
    is_eager=True,
    expose_value=False,
    callback=load_config,
    help="Take options from a run.toml.",
)
@click.option("--force", is_flag=True, help="Replace DIR, if a conversion wrote it.")
@SAYING
@click.pass_context
def convert(ctx: click.Context, /, **given: Any) -> None:
    """Convert MODEL, measure the spiking network, and write it to DIR.

    DIR holds model.py and its weights, report.html, report.json, a model card, and run.toml, which repeats
    this run: ann2snn convert --config DIR/run.toml -o ANOTHER.
    """
    from calibrators import calibrators
    from converter import commands

    run = {key: given[str(p.name)] for key, p in recorded(ctx.command).items()}
    commands.convert({**given, "asked": asked(ctx)}, calibrators, run)


def same(command: click.Command, **defaults: Any) -> list[click.Parameter]:
    """The parameters of `command`, some with another default."""
    found = [copy(parameter) for parameter in command.params]
    for parameter in found:
        parameter.default = defaults.get(str(parameter.name), parameter.default)
    return found


@main.command(
    params=same(convert, calibrator=("bayesian", "coordinate", "reconstruction", "coordinate")),
    epilog=EXAMPLE + "  ann2snn tune digits -o digits.snn --data digits -T 1,2,4,8 --trials 10",
)
@click.option("--resume", metavar="DIR", help="Go on with the search that an earlier tune left in DIR.")
@click.pass_context
def tune(ctx: click.Context, /, **given: Any) -> None:
    """Convert MODEL like `convert`, with a search for the best thresholds, and write it to DIR.

    Under what the search has found, thresholds, first membranes and biases are moved and weights adjusted,
    layer by layer, for the run that --target names.

    The search is kept beside DIR while it runs: interrupted, the same command goes on with it. Done, it is
    DIR/search.json: --resume DIR with more --trials searches further.
    """
    from calibrators import calibrators
    from converter import commands

    run = {key: given[str(p.name)] for key, p in recorded(ctx.command).items()}
    commands.tune({**given, "asked": asked(ctx)}, calibrators, run)


@main.command(
    epilog=EXAMPLE
    + "  ann2snn train digits --recipe qcfs --levels 2 --data digits -o trained.onnx --epochs 3"
)
@click.argument("model")
@click.option(
    "--recipe",
    required=True,
    type=Thing("recipe", "calibrators.training"),
    help="What it learns to say (ann2snn list recipes).",
)
@click.option("-o", "file", required=True, metavar="FILE", help="The ONNX file to write.")
@DATA
@click.option("--samples", type=COUNT, help="How many to train on, at most. [default: all]")
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="The share of them that is held out.",
)
@click.option(
    "--augment",
    type=Written("augmentations"),
    default="none",
    show_default=True,
    help="crop, flip, zoom, erase: any of them.",
)
@click.option("--epochs", type=COUNT, default=10, show_default=True)
@click.option(
    "--batch-size", type=COUNT, default=64, show_default=True, help="A step's samples, of all processes."
)
@click.option("--lr", type=float, default=1e-3, show_default=True, help="The largest step length.")
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True)
@click.option("--weight-decay", type=click.FloatRange(min=0), default=1e-4, show_default=True)
@click.option(
    "--warmup",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="The share of the training over which the step length rises.",
)
@click.option("--clip", type=float, default=1.0, show_default=True, help="The longest gradient of a step.")
@click.option(
    "--distill",
    type=float,
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="How much of the loss is by the ANN's own answers; 1 needs no labels.",
)
@click.option(
    "--temperature", type=float, default=2.0, show_default=True, help="Of the answers, for --match kl."
)
@click.option(
    "--match",
    type=click.Choice(["kl", "mse"]),
    default="kl",
    show_default=True,
    help="How answers are compared: as class probabilities, or all outputs as numbers.",
)
@click.option(
    "--features",
    type=float,
    default=0.0,
    show_default=True,
    help="Weight of the distance from the ANN's activations, layer by layer.",
)
@click.option(
    "--percentile",
    type=float,
    default=99.9,
    show_default=True,
    help="Of the activations: where thresholds begin.",
)
@click.option("--levels", type=COUNT, help="For qcfs: the steps it is meant to run. [default: 4]")
@click.option("--steps", type=COUNT, help="For qcfs, tcl: learn at last with a stream of so many steps.")
@click.option("--decay", type=float, help="For tcl: what pulls thresholds down. [default: 0.001]")
@click.option("--window", type=COUNT, help="For cat: steps of a layer's window. [default: 24]")
@click.option("--tau", type=float, help="For cat: steps in which a spike's value halves. [default: a sixth]")
@click.option(
    "--phases",
    type=Written("channels"),
    metavar="A,B,C",
    help="For cat: where in the training clip, spikes and weights begin [default: 0.1,0.4,0.6]; "
    "for qcfs, tcl: where the stream does [0.5].",
)
@click.option(
    "--weights", type=Written("weights"), metavar="FORMAT", help="For cat: as in convert, in the last phase."
)
@click.option(
    "--spiking-input/--analog-input",
    default=None,
    help="For cat: the input comes in as spikes too. [default: analog-input]",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="auto: bfloat16 where a GPU has it.",
)
@click.option("--checkpoint-every", type=COUNT, metavar="STEPS", help="[default: an epoch]")
@click.option("--resume", is_flag=True, help="Go on from FILE.checkpoint, which an interrupted run left.")
@click.option("--log", metavar="DIR", help="Write what TensorBoard reads there.")
@NETWORK
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="For every draw of chance.")
@click.option("--force", is_flag=True, help="Replace FILE, and a checkpoint that is in the way.")
@SAYING
def train(**given: Any) -> None:
    """Train MODEL for its conversion, and write it to FILE, an ONNX file again.

    It learns from the labels of the data, from its own answers (--distill), or both. Its activations become
    Clip(0, λ); λ is the threshold of the spiking neuron: convert FILE with --calibrator ceiling.

    Interrupted, the same command with --resume ends with the same weights. Several processes share the work:
    torchrun --nproc-per-node 2 --no-python ann2snn train …
    """
    from converter import training

    training.train(given)


@main.command(epilog=EXAMPLE + "  ann2snn evaluate digits.snn --data digits:test --samples 200")
@click.argument("artefact", metavar="DIR")
@DATA
@TASK
@SAMPLES
@click.option(
    "-T",
    "--timesteps",
    type=Written("steps"),
    metavar="T,…",
    help="Read out after these steps. [default: as converted]",
)
@click.option(
    "--early-exit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MARGIN",
    help="Also answer each sample once T times the lead of its class is MARGIN, by the last T at most.",
)
@click.option(
    "--energy",
    metavar="FILE.toml",
    help="Also with these picojoules: [picojoule] add, multiply_add, update, weight, membrane_read, …",
)
@click.option("--distributed", is_flag=True, help="Share the data with the processes that torchrun started.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Of synapses on a GPU; membranes stay float32.",
)
@GATES
@MACHINE
@SAYING
def evaluate(**given: Any) -> None:
    """Measure the spiking network in DIR on data: answers over time, spikes, operations, energy.

    The data are prepared as they were for the conversion, except where an option says otherwise. Nothing in
    DIR is executed.
    """
    from converter import commands

    commands.evaluate(given)


@main.command(epilog=EXAMPLE + "  ann2snn show detector.snn street.jpg -o street.png -T 4,16,64")
@click.argument("artefact", metavar="DIR")
@click.argument("images", metavar="IMAGE…", nargs=-1, required=True)
@click.option("-o", "output", required=True, metavar="FILE", help="The .png to write, or an animated .gif.")
@TASK
@click.option(
    "-T",
    "--timesteps",
    type=Written("steps"),
    metavar="T,…",
    help="Draw after these steps. [default: as converted]",
)
@click.option(
    "--certain", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="Boxes above it."
)
@click.option("--width", type=COUNT, default=240, show_default=True, help="Of each picture, in pixels.")
@click.option("--force", is_flag=True, help="Replace FILE.")
@MACHINE
@SAYING
def show(**given: Any) -> None:
    """Draw what the network in DIR and its ANN find in images, side by side, after each number of steps."""
    from converter import showing

    showing.show(given)


@main.command(epilog=EXAMPLE + "  ann2snn diagnose digits.snn digits --data digits:test -T 16 --samples 100")
@click.argument("artefact", metavar="DIR")
@click.argument("model")
@DATA
@click.option("--samples", type=COUNT, default=100, show_default=True, help="How many samples to run.")
@click.option(
    "-T",
    "--timesteps",
    type=click.IntRange(min=2),
    default=64,
    show_default=True,
    metavar="T",
    help="Steps to run; compared with half of them.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="Relative error that is a drift.",
)
@MACHINE
@SAYING
def diagnose(**given: Any) -> None:
    """Compare the network in DIR with MODEL, layer by layer, and say where it leaves the ANN, and why."""
    from converter import commands

    commands.diagnose(given)


@main.command(epilog=EXAMPLE + "  ann2snn export digits.snn --to onnx -o digits-step.onnx")
@click.argument("artefact", metavar="DIR")
@click.option("--to", "form", metavar="FORM", help="onnx (a step), onnx-loop (a run), nir, pt2; c, compact.")
@click.option("-o", "file", metavar="FILE", help="The file to write; for c and a page, the folder.")
@click.option(
    "-T", "--timesteps", type=COUNT, metavar="T", help="Steps of a run. [default: the last as converted]"
)
@click.option("--opset", type=COUNT, metavar="N", help="ONNX operators to write with. [default: 20]")
@click.option(
    "--with-page", is_flag=True, help="With onnx: a folder, the step and a page that runs it in a browser."
)
@click.option("--runtime", metavar="PATH", help="onnxruntime-web for the page: npm's archive, or a folder.")
@click.option(
    "--target",
    metavar="CHIP",
    help="Say what of the network fits: loihi2, speck, generic:axons=4096,bits=8. Needs no --to.",
)
@click.option(
    "--allow", multiple=True, metavar="WHAT", help="Write what the form says less exactly (it is named)."
)
@click.option(
    "--maxpool", type=click.Choice(["average"]), help="Means instead of max-pools; --data says at what cost."
)
@click.option("--no-verify", is_flag=True, help="Do not run what was written beside the network.")
@click.option("--data", metavar="SOURCE", help="Samples to verify on. [default: random, seeded]")
@PREPARATION
@click.option("--force", is_flag=True, help="Replace FILE.")
@SAYING
def export(**given: Any) -> None:
    """Write the network in DIR in a form that other programs run.

    What is written is run on a few samples beside the network, and has its name only if it is the same.
    """
    from converter import commands

    commands.export(given)


@main.command("list", epilog=EXAMPLE + "  ann2snn list calibrators")
@click.argument(
    "kind",
    required=False,
    metavar="[ops|passes|calibrators|recipes|codes|kernels|neurons|weights|encodings|exporters|decoders]",
)
def list_(kind: str | None) -> None:
    """Say what there is to choose from."""
    from converter import catalogue

    for one in catalogue.chosen(kind):
        click.echo(catalogue.page(one))


if __name__ == "__main__":
    main()
