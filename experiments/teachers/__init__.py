"""Which agents of rl-baselines3-zoo can teach, and do they play here as they were recorded?"""
