"""Benchmarks: one file per claim, every peer in the same run. `python -m benchmarks [--short] [NAME...]`."""
