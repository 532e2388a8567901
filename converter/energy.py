"""What a run costs in energy under named models: counts times constants, each model with what it assumes.

    SNN  accumulates · (add + weight + membrane read + membrane write)
         + membrane updates · (update + membrane read + membrane write) + spikes · spike
         + multiply-accumulates of the first layer, as the ANN's
    ANN  multiply-accumulates · (multiply-add + weight + activation) + activations · activation

A membrane is where the spikes of a step meet, so each accumulate reads and writes one; an ANN adds up in a
register, and reads an activation where a spike is the event itself. All of it is for one sample.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from converter.errors import UsageError


@dataclass(frozen=True)
class Constants:
    """Picojoules for each of what a run does; what is not given costs nothing."""

    add: float = 0.0
    multiply_add: float = 0.0
    update: float = 0.0
    """The arithmetic of a membrane in a step: its threshold compared, and subtracted."""
    weight: float = 0.0
    membrane_read: float = 0.0
    membrane_write: float = 0.0
    activation: float = 0.0
    spike: float = 0.0
    """To take a spike from the neuron to where its weights are."""


@dataclass(frozen=True)
class EnergyModel:
    """Constants, and in words what they stand for."""

    name: str
    assumption: str
    picojoule: Constants


@dataclass(frozen=True)
class Counts:
    """What one sample costs in operations."""

    accumulates: float
    multiplications: float
    updates: float
    spikes: float
    neurons: float
    ann_multiplications: float


HOROWITZ = "45 nm (Horowitz, ISSCC 2014)"
NEAR = "an 8 KiB memory, 10 pJ for 64 bits"
WITHIN = "every weight, membrane and activation comes from and goes to"
MODELS = (
    EnergyModel(
        "45 nm, fp32",
        f"{HOROWITZ}, 32-bit floating point: add 0.9 pJ, multiply 3.7; no memory",
        Constants(add=0.9, multiply_add=4.6, update=1.8),
    ),
    EnergyModel(
        "45 nm, int8",
        f"{HOROWITZ}, 8-bit products 0.2 pJ, sums and membranes of 32 bits 0.1; no memory",
        Constants(add=0.1, multiply_add=0.3, update=0.2),
    ),
    EnergyModel(
        "45 nm, fp32, memory",
        f"the same in fp32, and {WITHIN} {NEAR}; the ANN's sums stay in a register",
        Constants(0.9, 4.6, 1.8, weight=5, membrane_read=5, membrane_write=5, activation=5, spike=5),
    ),
    EnergyModel(
        "45 nm, int8, memory",
        f"the same in int8 with membranes of 32 bits, and {WITHIN} {NEAR}",
        Constants(
            *(0.1, 0.3, 0.2), weight=1.25, membrane_read=5, membrane_write=5, activation=1.25, spike=1.25
        ),
    ),
    EnergyModel(
        "SATA, 16 bit",
        "operations and scratchpad of Yin et al., TCAD 2023, in words of 16 bits; no buffer, no DRAM",
        # Of the authors' SATA_Sim: accumulate + and; multiply + accumulate (as much as a scratchpad's word);
        # an update adds, compares, chooses twice, writes three registers and shifts.
        Constants(0.0397, 0.2779, 0.1126, *(0.2779,) * 5),
    ),
)


def cost(model: EnergyModel, counts: Counts) -> dict[str, Any]:
    """Microjoules of the spiking network in parts and in all, of the ANN, and how many times that is."""
    each, reached = model.picojoule, counts.accumulates + counts.multiplications
    access = each.membrane_read + each.membrane_write
    parts = {
        "arithmetic": counts.accumulates * each.add + counts.multiplications * each.multiply_add,
        "weights": reached * each.weight,
        "membranes": counts.accumulates * access,
        "updates": counts.updates * (each.update + access),
        "spikes": counts.spikes * each.spike + counts.multiplications * each.activation,
    }
    ann = counts.ann_multiplications * (each.multiply_add + each.weight + each.activation)
    ann += counts.neurons * each.activation
    snn = sum(parts.values())
    return {
        **{f"{name}_microjoule": value * 1e-6 for name, value in parts.items()},
        "snn_microjoule": snn * 1e-6,
        "ann_microjoule": ann * 1e-6,
        "snn_to_ann_ratio": snn / ann if ann else None,
        "assumption": model.assumption,
    }


def costs(counts: Counts, models: Sequence[EnergyModel] = MODELS) -> dict[str, dict[str, Any]]:
    """`cost` by the models' names."""
    return {model.name: cost(model, counts) for model in models}


def counts_of(metrics: Mapping[str, Any]) -> Counts:
    """The counts among the metrics of a measurement."""
    synaptic, neurons = metrics["synaptic_operations"], float(metrics["neurons"])
    return Counts(
        synaptic["Effective_ACs"],
        synaptic["Effective_MACs"],
        metrics["membrane_updates"],
        metrics["spikes_per_neuron"] * neurons,
        neurons,
        metrics["ann_macs"],
    )


def read(path: Path) -> EnergyModel:
    """The model in a TOML file: `name`, `assumption`, and a table `picojoule`. Raises `UsageError`."""
    try:
        given = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the energy model {path}", why=str(error)) from error
    known = {field.name for field in fields(Constants)}
    constants = given.get("picojoule")
    hint = f"name, assumption, and under [picojoule] any of {', '.join(sorted(known))}"
    if set(given) - {"name", "assumption", "picojoule"} or not isinstance(constants, dict):
        raise UsageError(f"{path} is no energy model", hint=hint)
    for name, value in constants.items():
        if name not in known:
            raise UsageError(f"{path} has a constant {name!r} that is not known", hint=hint)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise UsageError(f"{path} has {value!r} for {name}, picojoules are 0 or more")
    said = given.get("assumption") or ", ".join(f"{k} {v:g} pJ" for k, v in constants.items())
    return EnergyModel(str(given.get("name") or path.stem), str(said), Constants(**constants))


def with_model(metrics: Mapping[str, Any], model: EnergyModel) -> dict[str, Any]:
    """The metrics, the energy under this model first among the models."""
    energy = metrics["energy"]
    models = {model.name: cost(model, counts_of(metrics)), **energy["models"]}
    return {**metrics, "energy": {**energy, "models": models}}
