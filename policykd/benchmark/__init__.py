"""Benchmarks over tasks, methods and seeds, with Stable-Baselines3 as a baseline: runs, statistics and reports."""
