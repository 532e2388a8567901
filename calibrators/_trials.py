"""What a search has tried, in a file from which it goes on: JSON, complete after every round.

Beside the trials it holds what they depend on; a search for another network, other data or another aim is
refused, not continued.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from converter.errors import ArtefactError, UsageError
from converter.files import atomic_file, refuse_file
from converter.report import Trial

Identity = Mapping[str, Any]
"""What the value of a trial depends on beside its knobs, as plain data."""


def read(path: Path, identity: Identity, knobs: Sequence[str]) -> tuple[Trial, ...]:
    """The trials in the file; none if there is no file yet.

    Raises `ArtefactError` when it cannot be written later or is no such file, `UsageError` when it is of
    another search.
    """
    refuse_file(path, force=True)
    if not path.exists():
        return ()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found, trials = dict(kept["search"]), tuple(Trial(**trial) for trial in kept["trials"])
        if not all(set(trial.knobs) == set(knobs) and is_numeric(trial) for trial in trials):
            raise ValueError(f"a trial turns other knobs than {', '.join(knobs)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"'{path}' is not the file of a search",
            why=str(error),
            hint="name another file with --search, or remove it",
        ) from error
    for key, value in identity.items():
        if found.get(key) != value:
            raise UsageError(
                f"'{path}' is of another search: its {key} is {found.get(key)}, here it is {value}",
                hint="name another file with --search, or remove it",
            )
    return trials


def is_numeric(trial: Trial) -> bool:
    """Whether all that a trial says is numbers."""
    said = (*trial.knobs.values(), trial.objective, trial.divergence, trial.spikes_per_neuron)
    return all(isinstance(value, int | float) for value in said)


def write(path: Path, identity: Identity, trials: Sequence[Trial]) -> None:
    """Keep `trials`, whole or not at all."""
    kept = {"search": dict(identity), "trials": [asdict(trial) for trial in trials]}
    with atomic_file(path, force=True) as unfinished:
        unfinished.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
