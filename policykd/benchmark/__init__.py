"""Speed measurements and reference results: PolicyKD beside Stable-Baselines3 and a random policy."""
