"""Writes a run's logs, evaluations and best models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.logger import Logger
from torch import Tensor

from policykd.tasks import Evaluation
from policykd.teachers import TeacherScore
from policykd.training.progress import Progress
from policykd.training.run_folder import RunFolder


class Records:
    """Writes into the logs of a run and of its learners.

    Args:
        run: how far the run has come.
        folder: where files go; None writes none.
        logger: the run's own logger, opened when first asked for.
        groups: independent repetitions that train at once.
        teacher: the teacher's returns, where there is one and they were measured.
    """

    def __init__(
        self,
        run: Progress,
        folder: RunFolder | None,
        logger: Callable[[], Logger],
        groups: int,
        teacher: TeacherScore | None,
    ) -> None:
        self.run, self.folder, self.logger, self.groups, self.teacher = run, folder, logger, groups, teacher

    def log(self, info: dict[str, Tensor], n_updates: int) -> None:
        """Write one row of progress per learner, and their means into the run's own log."""
        run, rows = self.run, self._rows(info)
        of_group = np.reshape(run.ended, (self.groups, -1)).sum(1)
        for k, episodes in enumerate(run.episodes):
            row = rows[k]
            row["time/episodes"] = int(of_group[k * self.groups // len(run.ended)])
            if episodes:
                row["rollout/ep_rew_mean"] = float(np.mean([episode["r"] for episode in episodes]))
                row["rollout/ep_len_mean"] = float(np.mean([episode["l"] for episode in episodes]))
        common = {
            "time/fps": int(run.num_timesteps * self.groups / max(run.elapsed, 1e-9)),
            "time/time_elapsed": int(run.elapsed),
            "train/n_updates": n_updates,
        }
        self.write(rows, common)

    def scored(self, score: TeacherScore) -> None:
        """Write one row of what the teacher, and random actions, return."""
        row = {"teacher/mean_reward": score.mean, "teacher/random_reward": score.random_mean}
        self.write([row] * len(self.run.episodes), {})

    def fitted(self, info: dict[str, Tensor], n_updates: int) -> None:
        """Write one row per learner of gradient steps without environment steps, which are its steps in TensorBoard."""
        rows = self._rows({f"offline/{key.split('/')[-1]}": values for key, values in info.items()})
        self.write(rows, {"train/n_updates": n_updates}, n_updates)

    def _rows(self, info: dict[str, Tensor]) -> list[dict[str, float]]:
        """A row of each learner, of diagnostics ``(K,)``."""
        columns = {key: tensor.detach().cpu().tolist() for key, tensor in info.items()}
        return [{key: column[k] for key, column in columns.items()} for k in range(len(self.run.episodes))]

    def evaluated(self, result: Evaluation, save_model: Callable[[int], None]) -> None:
        """Keep an evaluation, and the model of every learner that did better than ever before."""
        run, before = self.run, [e.means for e in self.run.evaluations]
        run.evaluation_steps.append(run.num_timesteps)
        run.evaluation_seconds.append(run.elapsed)
        run.evaluations.append(result)
        means = result.means
        shown = {"eval/mean_reward": means, "eval/min_reward": result.returns.min(1)}
        shown["eval/mean_ep_length"] = result.lengths.mean(1)
        if self.teacher is not None and self.teacher.mean > self.teacher.random_mean:  # else there is nothing to keep
            shown["eval/return_ratio"] = self.teacher.ratio(means)
        self.write([{name: float(values[k]) for name, values in shown.items()} for k in range(len(means))], {})
        if self.folder is not None:
            for k in range(len(means)):
                self._write_evaluations(self.folder, k)
                if all(means[k] > earlier[k] for earlier in before):
                    save_model(k)

    def write(self, rows: list[dict[str, float]], common: dict[str, Any], step: int | None = None) -> None:
        """Dump ``rows`` (one per learner) and, in the run's own log, their means, at ``step`` or the run's steps."""
        names = {name: 0 for row in rows for name in row}
        mean = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
        logger = self.logger()
        loggers = [] if self.folder is None else self.folder.loggers
        for log, row in [*zip(loggers, rows, strict=False), (logger, mean)]:
            for name, value in {**row, **common, "time/total_timesteps": self.run.num_timesteps}.items():
                log.record(name, value)
            log.dump(self.run.num_timesteps if step is None else step)

    def _write_evaluations(self, folder: RunFolder, k: int) -> None:
        """SB3's ``evaluations.npz`` is an array: evaluations of another number of episodes go into a file of theirs."""
        run = self.run
        latest = run.evaluations[-1].returns.shape[1]
        for episodes in sorted({e.returns.shape[1] for e in run.evaluations}):
            kept = [
                (steps, e.returns[k], e.lengths[k])
                for steps, e in zip(run.evaluation_steps, run.evaluations, strict=True)
                if e.returns.shape[1] == episodes
            ]
            steps, returns, lengths = (list(column) for column in zip(*kept, strict=True))
            name = "evaluations.npz" if episodes == latest else f"evaluations_{episodes}_episodes.npz"
            folder.write_evaluations(k, name, steps, np.stack(returns), np.stack(lengths))
