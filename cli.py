"""The command line of ann2snn.

At module level there is click and the standard library, so that `--help` answers at once; what does the work
is imported inside the commands. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click


class Commands(click.Group):
    """The group of all commands: turns whatever goes wrong into one shape of message and an exit code."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run and exit: 0 done · 1 bad model or data · 2 usage · 3 gate missed · 130 interrupted."""
        from converter.errors import ConversionError

        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except ConversionError as error:
            fail(str(error), error.exit_code)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "ann2snn"
            fail(f"{error.format_message()}\nhint:  {command} --help shows what there is", 2)
        except click.Abort:
            fail("interrupted; nothing was written", 130)
        except Exception:
            import traceback

            traceback.print_exc()
            fail("this is a bug in ann2snn: please report the command and the lines above", 1)
        sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> NoReturn:
    """`error: …` on standard error, and out."""
    click.echo(click.style("error: ", fg="red", bold=True) + message, err=True)
    sys.exit(code)


class Written(click.ParamType):
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


class Thing(click.ParamType):
    """The name of something that has a file in `package`."""

    name = "name"

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name, if there is such a thing."""
        from converter.catalogue import names
        from converter.registry import did_you_mean

        if value not in (known := names(self.package)):
            self.fail(f"there is no {self.kind} {value!r}; {did_you_mean(str(value), known)}", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """The names that begin so."""
        from click.shell_completion import CompletionItem

        from converter.catalogue import names

        return [CompletionItem(name) for name in names(self.package) if name.startswith(incomplete)]


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
        values = config.read(path, tuple(known))
        ctx.default_map = {known[key].name: config.fitting(key, v, known[key].multiple) for key, v in values.items()}


def recorded(command: click.Command) -> dict[str, Any]:
    """The parameters that run.toml holds, by their key: what the option is called without its dashes."""
    keys = {max(p.opts, key=len).lstrip("-"): p for p in command.params}
    return {key: p for key, p in keys.items() if key not in ("directory", "force", "config", "json", "quiet", "verbose")}


COUNT, EXAMPLE = click.IntRange(min=1), "Example:\n\n\b\n"
ONE_DATA = click.option("--data", required=True, metavar="SOURCE", help="Folder or .zip of images, .npz, .npy, digits, or a torchvision name; `:test` takes a part.")
DATA = options(
    ONE_DATA,
    click.option("--resize", type=Written("size"), metavar="SIZE", help="Images to HEIGHTxWIDTH, or their shorter side to this."),
    click.option("--crop", type=COUNT, help="The square of this side from the centre."),
    click.option("--normalize", metavar="HOW", help="imagenet, cifar10, none, or MEAN/STD such as 0.5/0.25."),
    click.option("--mean", type=Written("channels"), metavar="M,…", help="Subtracted after scaling."),
    click.option("--std", type=Written("channels"), metavar="S,…", help="Divided by."),
    click.option("--scale", type=float, help="Multiplies the pixels; 1/255 for 8-bit ones unless given."),
    click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Of the model's input."),
    click.option("--channels", type=click.Choice(["rgb", "bgr"]), help="Of the model's input."),
    click.option("--labels", type=click.Choice(["folder", "sorted"]), help="Images: sub-folders, or one a class in order of names."),
    click.option("--data-root", metavar="DIR", help="Where torchvision data sets are."),
)
SAMPLES = click.option("--samples", type=COUNT, help="How many samples to measure on; all unless given.")
NETWORK = options(
    click.option("--input-shape", multiple=True, type=Written("input_shape"), metavar="NAME=3,224,224", help="Fix a size that the file leaves open."),
    click.option("--output", "cut", multiple=True, metavar="NAME", help="Cut the network here instead of at its outputs."),
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


@click.group(cls=Commands, epilog="Completion: eval \"$(_ANN2SNN_COMPLETE=bash_source ann2snn)\" (or zsh_source, fish_source).\n\n" + EXAMPLE + "  ann2snn convert digits -o digits.snn --data digits")
@click.version_option(package_name="ann2snn")
def main() -> None:
    """Turn a trained ONNX network into a spiking network, measured and documented.

    MODEL is an ONNX file, or `digits`: the small network that comes with the package.
    """
