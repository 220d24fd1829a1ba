"""Tune settings with Optuna, which prunes trials that fall behind: pip install optuna.

    python examples/tune_with_optuna.py --env Hopper-v5 --trials 30

Each trial trains several groups of peers at once, one per seed, so that its score depends less on a single seed.
Settings are tuned on these seeds: report results on others.
"""

from __future__ import annotations

import argparse

import optuna
from stable_baselines3.common.callbacks import BaseCallback

from policykd import DualStudent

SEEDS = (1_000, 1_001, 1_002)
"""Seeds for tuning, which no reported run may use."""


class Prune(BaseCallback):
    """Report every evaluation to the trial, and stop training if the trial is pruned."""

    def __init__(self, trial: optuna.Trial, agent: DualStudent) -> None:
        super().__init__()
        self.trial, self.agent, self.told, self.pruned = trial, agent, 0, False

    def _on_step(self) -> bool:
        if len(self.agent.evaluations) > self.told:
            self.told = len(self.agent.evaluations)
            self.trial.report(score(self.agent), self.told)
            self.pruned = self.trial.should_prune()
        return not self.pruned


def score(agent: DualStudent) -> float:
    """Mean return of all learners in the latest evaluation."""
    return float(agent.evaluations[-1].returns.mean())


def main(env: str, trials: int, steps: int) -> optuna.Study:
    def objective(trial: optuna.Trial) -> float:
        settings = {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
            "distill_learning_rate": trial.suggest_float("distill_learning_rate", 1e-5, 1e-3, log=True),
            "alpha": trial.suggest_float("alpha", 0.0, 4.0),
            "eval_freq": max(1, steps // 5),
        }
        agent = DualStudent(env, backbone="td3", seeds=SEEDS, config="quick", overrides=settings)
        prune = Prune(trial, agent)
        agent.learn(steps, callback=prune)
        if prune.pruned:
            raise optuna.TrialPruned
        return score(agent)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=trials)
    print(f"best of {len(study.trials)} trials: {study.best_value:,.1f} with {study.best_params}")
    return study


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--steps", type=int, default=50_000)
    main(**vars(parser.parse_args()))
