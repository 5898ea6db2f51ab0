"""Thin entry points: set-up, demo, tests, benchmarks, cluster launchers."""
