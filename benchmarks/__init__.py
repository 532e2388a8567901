"""Measurements of ann2snn itself, kept as JSON with versions and date: `python -m benchmarks NAME`."""
