"""Matrices of tasks, methods and seeds, beside Stable-Baselines3 and a random policy: runs, statistics, reports."""
