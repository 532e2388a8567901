"""`python -m benchmarks` lists the benchmarks, `python -m benchmarks NAME …` runs one."""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = {
    "import": (
        "imports",
        "does every network mean what it means to onnxruntime, and what does reading it cost?",
    ),
    "accuracy": ("accuracy", "how accurate is a converted network after each number of time steps?"),
    "latency": (
        "latency",
        "what does a step cost, beside an inference of the ANN and a peer's step?",
    ),
    "profile": ("profile", "where does a step's time go, and what would its convolutions alone take?"),
    "crossover": (
        "crossover",
        "below which firing rate is a layer computed faster spike by spike than densely?",
    ),
    "scaling": ("scaling", "how do time and memory grow with steps, samples and layers?"),
    "early-exit": ("early_exit", "how much sooner do samples have their answer, and at what cost?"),
    "weights": ("weights", "what do quantised weights cost a network, as an ANN and in spikes?"),
    "training": ("training", "what does a network gain that was trained for its conversion?"),
    "first-spike": (
        "first_spike",
        "how accurate is a first-spike network for each window, and how soon does it answer?",
    ),
    "c": ("c_code", "what does a network in C take, in flash, RAM and instructions?"),
    "dense": ("dense", "how well do whole detectors and segmenters do as spiking networks?"),
    "nir": ("neuromorphic", "do NIR files of ours mean in other people's tools what they mean here?"),
    "export": (
        "exported",
        "what does a step of the exported ONNX cost in onnxruntime, and does it fire the same spikes?",
    ),
    "page": ("page", "write docs/benchmarks.md from the results that are kept"),
}
"""Name -> the module that has its `main(arguments) -> exit code`, and what it answers."""


def main(arguments: list[str]) -> int:
    """Run the benchmark that the first argument names; the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m benchmarks NAME [--help]\n")
        print("\n".join(f"  {name:<10} {question}" for name, (_, question) in BENCHMARKS.items()))
        return 0
    name, *rest = arguments
    if name not in BENCHMARKS:
        print(f"there is no benchmark {name!r}; one of {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    code: int = import_module(f"benchmarks.{BENCHMARKS[name][0]}").main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
