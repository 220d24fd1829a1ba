"""Runs a cell of SB3's agents: trained by SB3, one seed after another, and evaluated as ours are."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import policykd_envs
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from policykd import export
from policykd.benchmark.progress import Report, Throttled
from policykd.benchmark.rows import Row, final_evaluation_number, gradient_updates, row
from policykd.benchmark.spec import Cell
from policykd.core.compute import one_thread
from policykd.core.errors import PolicyKDError
from policykd.core.fields import change
from policykd.core.files import versions, write_text
from policykd.core.networks import MLP
from policykd.learners import LEARNERS
from policykd.learners.config import Config, PPOConfig
from policykd.tasks import Evaluation, Evaluator
from policykd.tasks.spaces import ActionSpace, action_scale, check_spaces, find_task


def train_sb3_seeds(cell: Cell, folder: Path, report: Report) -> tuple[list[Row], dict[str, Any]]:
    """Train the missing seeds; an interrupted seed starts again.

    Args:
        cell: a cell of ``sb3`` or ``sb3_double``.
        folder: the cell's folder, for SB3's files of every seed and the result ``seed_<n>.json`` of finished ones,
            which names its cell: a seed with other settings is trained again.
        report: called with the completed steps of all seeds.
    """
    net_arch = _net_arch(cell)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    commits: list[str | None] = []
    for number, seed in enumerate(cell.seeds):
        done = folder / f"seed_{seed}.json"
        if (trained := _kept(done, cell)) is None:
            shutil.rmtree(folder / f"seed_{seed}", ignore_errors=True)
            trained = _train(
                cell, seed, net_arch, folder / f"seed_{seed}", Throttled(report, number * cell.total_timesteps)
            )
            _keep(done, cell.plain(), [list(vars(r).values()) for r in trained], versions()["git_commit"])
        rows += trained
        commits.append(json.loads(done.read_text(encoding="utf-8")).get("git_commit"))
        report((number + 1) * cell.total_timesteps)
    seconds = sum(r.seconds for r in rows if r.phase == "final")
    return rows, {
        "net_arch": list(net_arch),
        "learners_at_once": 1,
        "computed_by": "stable-baselines3, torch, cpu",
        "seconds": round(seconds, 1),
        "seed_commits": commits,  # a stored seed may be older than the cell's git_commit
    }


def name_cell(folder: Path, fields: Any) -> None:
    """Write their cell into seeds' files of an older version, where only ``cell.json`` names it.

    Args:
        folder: the cell's folder.
        fields: plain fields of the cell computed there so far.
    """
    for done in folder.glob("seed_*.json"):
        with suppress(OSError, ValueError):
            if isinstance(rows := json.loads(done.read_text(encoding="utf-8")), list):
                _keep(done, fields, rows)


def _keep(done: Path, fields: dict[str, Any], rows: list[list[Any]], commit: str | None = None) -> None:
    write_text(done, json.dumps({"cell": fields, "rows": rows, "git_commit": commit}))


def _kept(done: Path, cell: Cell) -> list[Row] | None:
    """Stored rows of a seed; None if there are none, or if they belong to a cell with other settings."""
    try:
        content = json.loads(done.read_text(encoding="utf-8"))
        before = Cell.from_plain(content["cell"])
        same = _without_seeds(before) == _without_seeds(cell)
        return [Row(*values) for values in content["rows"]] if same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, PolicyKDError):
        return None


def _without_seeds(cell: Cell) -> tuple[Cell, Config]:
    """A cell without its seeds, and its settings completed with defaults for those its version lacked."""
    return replace(cell, seeds=(), config={}), cell.settings


def training_env(env_id: str, config: Config, run_dir: Path) -> VecEnv:
    """Make the environments of one agent, monitored in ``run_dir`` and normalised if the settings say so."""

    def monitored(n: int) -> Callable[[], Monitor]:
        return lambda: Monitor(policykd_envs.make(env_id), str(run_dir / str(n)))

    return export.vec_env(DummyVecEnv([monitored(n) for n in range(config.n_envs)]), config)


def _train(cell: Cell, seed: int, net_arch: tuple[int, ...], run_dir: Path, progress: BaseCallback) -> list[Row]:
    """Train one seed, evaluated at the same steps and initial states as ours."""
    config = change(cell.settings, {"net_arch": net_arch})
    run_dir.mkdir(parents=True)
    evaluation = SameEvaluation(cell, seed)
    with closing(evaluation.evaluator), closing(training_env(cell.task, config, run_dir)) as env:
        model = export.make_model(cell.backbone, config, env, seed)
        started = time.perf_counter()
        with one_thread():
            model.learn(cell.total_timesteps, callback=CallbackList([progress, evaluation]))
            seconds = time.perf_counter() - started - evaluation.seconds
            final = evaluation.play(model, cell.final_episodes, final_evaluation_number(cell))
        updates = _updates(cell, model)
        _check_updates(cell, updates)
        model.save(run_dir / "model.zip")
    return [*evaluation.rows, row(cell, "final", (seed, 0), cell.total_timesteps, updates, final.returns[0], seconds)]


class SameEvaluation(BaseCallback):
    """Evaluates an SB3 model as our learners are: the same episodes, initial states and intervals."""

    def __init__(self, cell: Cell, seed: int) -> None:
        super().__init__()
        self.cell, self.seed = cell, seed
        self.evaluator = Evaluator(find_task(cell.task).make, 1, lambda actions: actions)
        self.rows: list[Row] = []
        self.seconds = 0.0
        self._started = time.perf_counter()

    def play(self, model: BaseAlgorithm, n_episodes: int, number: int) -> Evaluation:
        """Run evaluation ``number`` deterministically; returns and lengths are ``(1, n_episodes)``."""
        normalize = model.get_vec_normalize_env()

        def act(observations: np.ndarray) -> np.ndarray:
            seen = observations if normalize is None else np.asarray(normalize.normalize_obs(observations))
            return model.predict(seen, deterministic=True)[0]

        return self.evaluator.run(act, n_episodes, [self.seed], number)

    def _on_training_start(self) -> None:
        self._started = time.perf_counter()

    def _on_step(self) -> bool:
        steps = self.num_timesteps
        if steps % self.cell.eval_freq == 0 and steps <= self.cell.total_timesteps:
            began = time.perf_counter()
            training = began - self._started - self.seconds
            evaluation = self.play(self.model, self.cell.n_eval_episodes, steps)
            updates = _updates(self.cell, self.model)  # SB3 calls callbacks before the step's updates
            self.rows.append(row(self.cell, "curve", (self.seed, 0), steps, updates, evaluation.returns[0], training))
            self.seconds += time.perf_counter() - began
        return True


def _updates(cell: Cell, model: Any) -> int:
    """Gradient updates of a model; SB3's PPO counts epochs."""
    config = cell.settings
    each = math.ceil(config.n_steps * config.n_envs / config.batch_size) if isinstance(config, PPOConfig) else 1
    return int(model._n_updates) * each


def _check_updates(cell: Cell, made: int) -> None:
    """Check that a trained agent made the declared number of gradient updates, as for ours."""
    if made != (said := gradient_updates(cell.settings, cell.total_timesteps)):
        raise PolicyKDError(f"benchmark: {cell.name} made {made} gradient updates, not {said}")


def _net_arch(cell: Cell) -> tuple[int, ...]:
    if cell.base == "sb3":
        return cell.settings.net_arch
    with find_task(cell.task).make() as env:
        observations, actions = check_spaces(env)
    return double_width(cell, observations, actions)


def double_width(cell: Cell, observations: spaces.Box, actions: ActionSpace) -> tuple[int, ...]:
    """Hidden layers with which actor and critics together have as nearly as possible twice the parameters.

    All layers are widened by one factor and rounded. The factor, from 1 to 2 in steps of 0.001, is the one that comes
    nearest to twice the parameters, the smallest in a tie.
    """
    wanted = 2 * parameters(cell, cell.settings.net_arch, observations, actions)
    factors = 1 + np.arange(1001) / 1000
    choices = list(dict.fromkeys(tuple(round(w * f) for w in cell.settings.net_arch) for f in factors))
    return min(choices, key=lambda widths: abs(parameters(cell, widths, observations, actions) - wanted))


def parameters(cell: Cell, net_arch: tuple[int, ...], observations: spaces.Box, actions: ActionSpace) -> int:
    """Number of trained parameters of one agent's actor and critics; target networks do not count."""
    n_observations, n_actions = observations.shape[0], action_scale(actions).size
    if cell.backbone == "ppo":
        log_std = n_actions if isinstance(actions, spaces.Box) else 0
        policy = MLP((n_observations, *net_arch, n_actions)).parameter_count + log_std
        return policy + MLP((n_observations, *net_arch, 1)).parameter_count
    heads = 2 if cell.backbone == "sac" else 1
    actor = MLP((n_observations, *net_arch, heads * n_actions)).parameter_count
    critics: int = LEARNERS[cell.backbone].critics  # type: ignore[attr-defined]
    return actor + critics * MLP((n_observations + n_actions, *net_arch, 1)).parameter_count
