"""Exports a learner as a folder for the Hugging Face Hub, laid out as by ``huggingface_sb3``; uploads nothing.

That package itself is not used: its newest release needs ``huggingface_hub`` below 1, and current ``transformers``
need it above.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from policykd.core.files import atomic_path, write_text
from policykd.export.deployed import deploy
from policykd.export.equivalence import require_free
from policykd.export.exportable import Exportable, Which
from policykd.export.zoo import to_zip
from policykd.export.zoo_settings import env_differences, wrappers_of
from policykd.tasks.spaces import short_id
from policykd.tasks.views import View
from policykd.teachers import Teacher, TeacherScore

STATISTICS = "vec_normalize.pkl"


def to_hub_folder(
    agent: Exportable,
    k: Which,
    path: str | Path,
    n_eval_episodes: int = 20,
    seed: int = 0,
    record: Callable[..., object] | None = None,
) -> TeacherScore:
    """Write learner ``k`` with config, results, model card and, if the task can be rendered, a video.

    ``record`` makes the video (``policykd.measure.video.record_video``); None makes none. The results are measured by
    playing the written files, read back, not the learner in memory.

    Returns:
        The returns on the card.

    Raises:
        PolicyKDError: ``path`` exists, or the written agent does not act like the learner (nothing is written).
    """
    k, path = agent.learner_index(k), require_free(path)
    name = f"{agent.backbone}-{short_id(agent.env_id).replace('/', '-')}"
    with atomic_path(path) as folder:
        to_zip(agent, k, folder / f"{name}.zip", folder / STATISTICS)
        _write_config(folder, name)
        teacher = Teacher.load(folder, agent.factory)
        score = teacher.score(agent.factory, n_eval_episodes, seed)
        write_text(folder / "results.json", json.dumps(_results(score), indent=2) + "\n")
        drawn = record is not None and agent.made_by_id
        if record is not None and drawn:
            view, look = agent.view, agent.view.for_episode()
            record(agent.env_id, lambda o: teacher.predict(look(view.flat(o)))[0], folder / "replay.mp4", seed=seed)
        _write_card(agent, k, folder, name, score)
    return dataclasses.replace(score, source=str(path))


def _write_config(folder: Path, name: str) -> None:
    """Unpack the zip beside it, and write its JSON as ``config.json``."""
    from stable_baselines3 import get_system_info

    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        archive.extractall(folder / name)
    data = json.loads((folder / name / "data").read_text(encoding="utf-8"))
    data["system_info"] = get_system_info(print_info=False)[0]
    write_text(folder / "config.json", json.dumps(data))


def _results(score: TeacherScore) -> dict[str, Any]:
    return {
        "mean_reward": score.mean,
        "std_reward": float(score.returns.std()),
        "is_deterministic": True,
        "n_eval_episodes": len(score.returns),
        "eval_datetime": datetime.datetime.now().isoformat(),
    }


CARD = """---
library_name: stable-baselines3
tags:
- {task}
- deep-reinforcement-learning
- reinforcement-learning
- stable-baselines3
- policy-distillation
- policykd
model-index:
- name: {name}
  results:
  - task:
      type: reinforcement-learning
      name: reinforcement-learning
    dataset:
      name: {task}
      type: {task}
    metrics:
    - type: mean_reward
      value: {mean:.2f} +/- {std:.2f}
      name: mean_reward
      verified: false
---

# {name}: {algorithm} on {task}

A policy for [{task}](https://gymnasium.farama.org), trained with policykd (method `{method}`, backbone
`{backbone}`) and saved as an agent of [Stable-Baselines3](https://github.com/DLR-RM/stable-baselines3).

| | |
|---|---|
| return, {episodes} episodes without noise | {mean:,.1f} +/- {std:,.1f} |
| return of random actions, the same starts | {random:,.1f} |
| environment steps of training | {steps:,} |
| parameters of the policy network | {parameters:,} |
| hidden layers | {layers} |
| observations | {observations} |
| made with | {versions} |

The results are those of the files in this folder, read back and played.

## Usage

```python
{usage}
```

With policykd, which runs no code from the files: `Teacher.load("path/of/this/folder", env=make)`.
"""
USAGE = """import gymnasium as gym
from stable_baselines3 import {algorithm}
from stable_baselines3.common.vec_env import DummyVecEnv{imports}

{note}make = lambda: {made}
env = DummyVecEnv([make]){wrap}
model = {algorithm}.load("{name}.zip")
observation = env.reset()
action, _ = model.predict(observation, deterministic=True)"""
WRAP = """
env = VecNormalize.load("vec_normalize.pkl", env)
env.training = env.norm_reward = False"""


def _write_card(agent: Exportable, k: int, folder: Path, name: str, score: TeacherScore) -> None:
    task, algorithm = short_id(score.env_id), agent.backbone.upper()
    normalised = (folder / STATISTICS).exists()
    usage = USAGE.format(
        algorithm=algorithm,
        name=name,
        imports=(", VecNormalize" if normalised else "") + _imports(agent.view),
        note=env_differences(agent),
        made=_env_code(agent),
        wrap=WRAP if normalised else "",
    )
    packages = ("policykd", "stable-baselines3", "gymnasium", "mujoco", "torch")
    card = CARD.format(
        name=name,
        task=task,
        algorithm=algorithm,
        method=agent.method_name,
        backbone=agent.backbone,
        episodes=len(score.returns),
        mean=score.mean,
        std=score.returns.std(),
        random=score.random_mean,
        steps=agent.num_timesteps,
        parameters=sum(parameter.numel() for parameter in deploy(agent, k).parameters()),
        layers=" x ".join(map(str, agent.config.net_arch)),
        observations=_view_text(agent.view)
        + (f", normalised; statistics in `{STATISTICS}`" if normalised else ", as the task gives them"),
        versions=", ".join(f"{package} {metadata.version(package)}" for package in packages),
        usage=usage,
    )
    write_text(folder / "README.md", card)


def _env_code(agent: Exportable) -> str:
    """Code that makes the task with the policy's view."""
    module = "policykd_envs:" if agent.env_id.startswith("PolicyKD/") else ""
    made = f'gym.make("{module}{agent.env_id}")'
    for wrapper, given in wrappers_of(agent.view).items():
        arguments = ", ".join([made, *(f"{name}={value!r}" for name, value in given.items())])
        made = f"{wrapper.rpartition('.')[2]}({arguments})"
    return made


def _imports(view: View) -> str:
    """The import lines for this code."""
    places = [wrapper.rpartition(".") for wrapper in wrappers_of(view)]
    return "".join(f"\nfrom {module} import {name}" for module, _, name in places)


def _view_text(view: View) -> str:
    """Description of the part of the observation that the policy sees."""
    seen = "all" if view.is_full else "a function"
    if view.columns is not None:
        seen = f"columns {', '.join(map(str, view.columns))}"
    return f"{seen} of {view.size}" + (f", the latest {view.history} together" if view.history > 1 else "")
