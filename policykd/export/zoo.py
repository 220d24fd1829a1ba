"""Exports a learner in the layout of SB3's zoo: ``<task>.zip``, and a folder ``<task>`` with settings for ``enjoy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from policykd.core.files import file_path, write_bytes
from policykd.core.normaliser import pickle_for_inference
from policykd.export.equivalence import Act, require_free, write_compared
from policykd.export.exportable import Exportable, Which
from policykd.export.sb3 import to_sb3, unflatten_for_sb3
from policykd.export.zoo_settings import zoo_settings


def to_zip(agent: Exportable, k: Which, path: str | Path, statistics: Path | None = None) -> float:
    """Write learner ``k`` as an SB3 agent, with its optimisers, ready to predict and to continue training.

    With its ``VecNormalize`` it gets the zoo's ``config.yml`` and ``args.yml``, without which ``enjoy`` ignores it.

    Args:
        agent: whose learner.
        k: its index, or "best".
        path: the zip; ``.zip`` is appended if it has no suffix, as in SB3's ``save``.
        statistics: path for a normalised learner's ``VecNormalize``, which SB3 saves separately; None is the zoo's.

    Returns:
        The largest distance from the learner, in actions scaled to [-1, 1].

    Raises:
        PolicyKDError: the agent does not act like the learner, or a file exists (nothing is written).
    """
    k, path = agent.learner_index(k), file_path("export", path, "agent.zip")
    path = path if path.suffix else path.with_suffix(".zip")
    model = to_sb3(agent, k)
    agent.check_finite("export", k)  # SB3's predict would fail
    normalizer = model.get_vec_normalize_env()
    statistics = path.with_suffix("") / "vecnormalize.pkl" if statistics is None else statistics
    beside = {name: text.encode() for name, text in zoo_settings(agent, k).items()}
    if normalizer is not None:  # SB3 reads a pickle; policykd never does
        beside[statistics.name] = pickle_for_inference(normalizer)
    for name in beside:
        require_free(statistics.parent / name)
    # SB3's class reads the file back; load needs no environment.
    difference = write_compared(
        agent, k, path, model.save, lambda temporary: _act(type(model).load(temporary), normalizer)
    )
    statistics.parent.mkdir(parents=True, exist_ok=True)
    for name, content in beside.items():
        write_bytes(statistics.parent / name, content)
    return difference.worst


def _act(model: Any, normalizer: VecNormalize | None) -> Act:
    def act(observations: np.ndarray) -> np.ndarray:
        rows = unflatten_for_sb3(model.observation_space, observations)
        inputs = rows if normalizer is None else normalizer.normalize_obs(rows)
        return model.predict(inputs, deterministic=True)[0]

    return act
