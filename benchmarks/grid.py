"""`accuracy --grid`: methods × time steps × spikes on a network, other people's converters in the same table.

    python -m benchmarks accuracy --grid resnet20 mnist_cntk
    python -m benchmarks accuracy --grid resnet20 -T 1 2 4 8 --seeds 0 1 2 --methods maximum least-squares

Every cell is kept in benchmarks/results/grid-NETWORK.json as soon as it is measured, so an interrupted grid
goes on where it stopped; what is there from the same versions and as many samples is not measured again. Rows
of other methods, seeds and time steps stay.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks import _common
from benchmarks._common import environment, made_by, package_version, read_result, write_result
from benchmarks.methods import METHODS, Measured, Method
from benchmarks.plots import draw
from benchmarks.presets import PRESETS
from benchmarks.rows import Row
from converter.config import neuron_for
from converter.errors import ConversionError, Unsupported, UsageError
from converter.pipeline import Settings
from converter.report import Point

TIMESTEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KEY = ("method", "spikes", "schedule", "seed", "timesteps")
"""What tells the rows of a network apart."""


@dataclass(frozen=True)
class Job:
    """One measurement: a method with one kind of spikes and one seed, read out at `timesteps`."""

    method: Method
    spikes: str
    seed: int
    timesteps: tuple[int, ...]

    def __str__(self) -> str:
        aim = "T = " + ", ".join(map(str, self.timesteps))
        return f"{self.spikes}, {self.method.name}, {aim}, seed {self.seed}"


def jobs(methods: Iterable[Method], timesteps: Sequence[int], seeds: Sequence[int]) -> Iterator[Job]:
    """The whole grid: those that aim at a T for each T alone, the others with all T at once."""
    for method in methods:
        for spikes in method.spikes:
            for seed in seeds:
                for group in [(t,) for t in timesteps] if method.aimed else [tuple(timesteps)]:
                    yield Job(method, spikes, seed, group)


def settings_of(job: Job, calibration_samples: int, limit: int | None) -> Settings:
    """What the pipeline is asked for this job."""
    neuron, levels = neuron_for(job.spikes)
    return Settings(
        neuron=neuron,
        neuron_options={} if levels is None else {"levels": levels},
        timesteps=job.timesteps,
        schedule=job.method.schedule,
        calibration_samples=calibration_samples,
        samples=limit,
        seed=job.seed,
    )


def identity(row: Row) -> tuple[Any, ...]:
    """What a row is of; a newer row with the same one replaces it."""
    return tuple(row[key] for key in KEY)


def conditions(job: Job, calibration_samples: int, limit: int | None) -> Row:
    """What else a row depends on: one that differs here is measured again."""
    packages = dict.fromkeys((job.method.package, "torch"))
    versions = {name: package_version(name) for name in packages}
    return {"versions": versions, "calibration_samples": calibration_samples, "limit": limit}


def rows_of(job: Job, measured: Measured, conditions: Row, run: int) -> list[Row]:
    """The rows of one measurement; `run` says which command made them."""
    facts = asdict(measured)
    points = facts.pop("points")
    told: Row = {"method": job.method.name, "package": job.method.package, "spikes": job.spikes}
    told |= {"schedule": job.method.schedule, "seed": job.seed}
    return [{**told, **point, **facts, **conditions, "run": run} for point in points]


def done(record: Row, job: Job, conditions: Row) -> bool:
    """Whether every row of this job is there, measured under these conditions."""
    same = {identity(r) for r in record["rows"] if all(r[key] == v for key, v in conditions.items())}
    name, schedule = job.method.name, job.method.schedule
    return all((name, job.spikes, schedule, job.seed, t) in same for t in job.timesteps)


def merged(record: Row, rows: Sequence[Row]) -> Row:
    """The record with these rows in the place of older ones; runs that no row is from are forgotten."""
    together = {identity(row): row for row in [*record["rows"], *rows]}.values()
    used = sorted({row["run"] for row in together})
    renumbered = [{**row, "run": used.index(row["run"])} for row in together]
    return {**record, "rows": renumbered, "runs": [record["runs"][i] for i in used]}


def opened(name: str) -> Row:
    """The rows that are kept under this name, the runs they are from, and what was refused."""
    there = (_common.RESULTS / f"{name}.json").is_file()
    record = read_result(name, _common.RESULTS) if there else {}
    return {key: record.get(key, []) for key in ("rows", "runs", "refused")}


def grid(network: str, work: Iterable[Job], asked: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Measure what of `work` is not there yet, keeping each result at once."""
    preset, name, record = PRESETS[network], f"grid-{network}", opened(f"grid-{network}")
    this = {**made_by(arguments), **environment(torch.get_num_threads())}
    limit = asked.samples or preset.samples
    for job in work:
        under = conditions(job, asked.calibration_samples, limit)
        if done(record, job, under) and not asked.force:
            continue
        started = time.perf_counter()
        what = {"method": job.method.name, "spikes": job.spikes}
        refused = [r for r in record["refused"] if what.items() - r.items()]
        try:
            measured = job.method.measure(preset, settings_of(job, asked.calibration_samples, limit))
        except Unsupported as error:
            why = "; ".join([error.problem, *error.why.split("\n")]).rstrip("; ")
            record |= {"refused": [*refused, {**what, "why": why}]}
            told = f"refused: {why}"
        else:
            runs = record["runs"] if this in record["runs"] else [*record["runs"], this]
            rows = rows_of(job, measured, under, runs.index(this))
            record = merged({**record, "runs": runs, "refused": refused}, rows)
            told = ", ".join(f"{100 * shown(point):.2f}" for point in measured.points)
        write_result(name, arguments, {**environment(torch.get_num_threads()), **record})
        print(
            f"{network}: {job}: {told} ({time.perf_counter() - started:.0f} s)", file=sys.stderr, flush=True
        )


def shown(point: Point) -> float:
    """Accuracy, or agreement where there are no labels."""
    share = point.agreement if point.accuracy is None else point.accuracy
    return math.nan if share is None else share


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code is 1 when data do not fit, 2 when a peer that is asked for is not installed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks accuracy", description=(__doc__ or "").partition("\n\n")[0]
    )
    names = tuple(method.name for method in METHODS)
    parser.add_argument("--grid", nargs="+", choices=tuple(PRESETS), required=True, metavar="NETWORK")
    parser.add_argument("--methods", nargs="+", choices=names, default=names, help="default: all of them")
    parser.add_argument("--spikes", nargs="+", metavar="KIND", help="default: those of each method")
    parser.add_argument("-T", "--timesteps", nargs="+", type=int, default=list(TIMESTEPS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, help="how many to measure (default: the preset's, or all)")
    parser.add_argument("--calibration-samples", type=int, default=256)
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: torch's own choice)")
    parser.add_argument("--force", action="store_true", help="measure again what is there")
    asked = parser.parse_args(arguments[1:])
    if asked.threads:
        torch.set_num_threads(asked.threads)
    chosen = [method for method in METHODS if method.name in asked.methods]
    try:
        for method in chosen:
            if package_version(method.package) == "not installed":
                hint = "pip install -e '.[peers]', or leave it out with --methods"
                raise UsageError(
                    f"{method.package} is not installed, '{method.name}' is its method", hint=hint
                )
        for network in asked.grid:
            work = jobs(chosen, sorted(asked.timesteps), asked.seeds)
            wanted = (job for job in work if asked.spikes is None or job.spikes in asked.spikes)
            grid(network, wanted, asked, arguments)
            draw(network)
    except ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
