"""Optuna at the steps of one group: learning rates of Q2 by successive halving; pip install optuna.

    python -m experiments.peers.optuna_control --task HalfCheetah-v5

A study of one seed spends 50,000 environment steps, as a group of Q2 does. Four agents with rates that TPE draws
(its first ten, so all of these, at random: four returns are too few for its model) take 5,000 steps each, the
better two 5,000 more, and the best of these all that is left (20,000). They are judged by their latest two training
episodes, as peers are; random first steps are 1,250 per agent, together those of a group. The agent that is left is
judged by the evaluator, and on the initial states, of the other rows. Finished seeds are kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import yaml

from policykd import DualStudent
from policykd.cli import guarded
from policykd.core.compute import one_thread
from policykd.core.files import versions, write_text
from policykd.tasks import Evaluator

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
AGENTS, RUNG, EPISODES = 4, 5_000, 2
RATES = (1e-4, 3e-3)


def study(task: str, seed: int, settings: dict[str, object], total_timesteps: int, random_steps: int) -> DualStudent:
    """The agent that is left of one study."""
    search = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    agents = {}
    for _ in range(AGENTS):
        trial = search.ask()
        rate = trial.suggest_float("learning_rate", *RATES, log=True)
        config = settings | {"learning_rate": rate, "learning_starts": random_steps // AGENTS}
        arguments = {"method": "independent", "backbone": "sac", "peers": 1, "seeds": [seed], "compile": False}
        agents[trial.number] = DualStudent(task, config=config, **arguments)  # type: ignore[arg-type]
        agents[trial.number].learn(RUNG)
        search.tell(trial, latest_return(agents[trial.number]))
    best = sorted(agents.values(), key=latest_return, reverse=True)[: AGENTS // 2]
    for agent in best:
        agent.learn(RUNG)
    winner = max(best, key=latest_return)
    winner.learn(total_timesteps - RUNG * (AGENTS + AGENTS // 2))
    return winner


def latest_return(agent: DualStudent) -> float:
    """Mean return of the latest training episodes; minus infinity before there is one."""
    returns = agent.run.returns()[0][-EPISODES:]
    return float(np.mean(returns)) if returns else -np.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--seeds", type=int, default=10)
    asked = parser.parse_args()
    spec = yaml.safe_load((HERE / "tuning.yaml").read_text(encoding="utf-8"))
    settings = spec["settings"] | {"eval_freq": 0, "n_eval_episodes": 0, "log_freq": 5_000}
    path = ROOT / "results" / "peers_optuna" / f"{asked.task}.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    for seed in range(asked.seeds):
        if seed in [row["seed"] for row in rows]:
            continue
        with one_thread():
            agent = study(asked.task, seed, settings, spec["total_timesteps"], spec["random_steps"])
        evaluator = Evaluator(agent.factory, 1, agent.action_scale.to_env)
        # The number of a benchmark's final evaluation (policykd.benchmark.rows.final_evaluation_number).
        result = evaluator.run(agent.policies, spec["final_episodes"], [seed], spec["total_timesteps"] + 1)
        evaluator.close()
        rate, steps = agent.config.learning_rate, agent.num_timesteps
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.append({"seed": seed, "learning_rate": rate, "steps": steps, "return": float(result.returns.mean())})
        write_text(path, pd.DataFrame(rows).to_csv(index=False))
        made_with = versions() | {"optuna": optuna.__version__}
        write_text(path.with_suffix(".versions.json"), json.dumps(made_with, indent=2) + "\n")
        print(rows[-1], flush=True)


if __name__ == "__main__":
    guarded(main)
