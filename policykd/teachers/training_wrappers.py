"""Applies the wrappers of a teacher's training, such as the zoo's, and refuses those that cannot be applied."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.teachers.policy import Policy, preprocessed
from policykd.teachers.task import TIME_LEFT, TaskSpaces, as_yaml, base_name, other_task
from policykd.teachers.zoo import VELOCITIES, Training, Wrapper

log = logging.getLogger("policykd")
KNOWN = (
    *("rl_zoo3.wrappers.", "utils.wrappers.", "sb3_contrib.common.wrappers.", "gym.wrappers.", "gymnasium.wrappers."),
    "stable_baselines3.",
)
"""Prefixes of wrappers known by name: the zoo's (now and before), sb3-contrib's, Gymnasium's, SB3's."""
ALIKE = {
    *("Monitor", "TimeLimit", "OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics", "RecordVideo"),
    *("FlattenObservation", "ClipAction", "NormalizeReward", "TransformReward", "ClipReward"),
    *("DelayedRewardWrapper", "TruncatedOnSuccessWrapper", "DoneOnSuccessWrapper", "ActionNoiseWrapper", "Autoreset"),
    *("HumanRendering", "RenderCollection", "VecMonitor", "VecCheckNan", "VecVideoRecorder", "UnflattenObservation"),
}
"""Wrappers that change neither the observation vector nor the best action."""
ADVICE = {
    "TimeFeatureWrapper": f"; or observation_map={TIME_LEFT}, the wrapper's test_mode",
}


def apply(policy: Policy, training: Training, task: TaskSpaces | None) -> Policy:
    """The policy with the wrappers of its training applied to the task's observations.

    Args:
        policy: reads wrapped observations.
        training: settings from the agent's folder.
        task: the task to act on; its own wrappers count as applied.

    Raises:
        PolicyKDError: a wrapper changes observations or actions in a way that only the task can apply.
    """
    for wrapper in reversed(training.wrappers):  # the last one is nearest to the agent
        known = wrapper.name.startswith(KNOWN)
        if task is None or wrapper.short not in task.wrappers or (wrapper.short in task.of_gymnasium and not known):
            policy = _through(policy, wrapper, training, task)
        elif wrapper.short not in ALIKE:
            _check_options(policy.source, wrapper, task.wrappers[wrapper.short])
    if training.frame_stack > 1:
        _check_stack(policy, training.frame_stack, task)
    if task is not None:
        if training.env_id is not None and other_task(policy.source, task.env_id) is None:
            trained, here = base_name(training.env_id), base_name(task.env_id)
            if not here.startswith(trained):
                log.warning("teacher %s was trained on %s but teaches %s", policy.source, trained, here)
        kwargs = {name: value for name, value in as_yaml(training.env_kwargs).items() if name != "render_mode"}
        differing = {name: value for name, value in kwargs.items() if task.kwargs.get(name, ...) != value}
        if differing:
            said = ", ".join(f"{name}={value!r}" for name, value in differing.items())
            log.warning(
                "teacher %s was trained on a task with %s, but %s is made without: it is another task "
                "(gym.make(..., %s) makes the teacher's)",
                *(policy.source, said, task.env_id, said),
            )
    return policy


def warn_wrappers(model: BaseAlgorithm, source: str, task: TaskSpaces | None) -> None:
    """Warn about wrappers of a live agent's environment that the task lacks and that may change more than rewards."""
    env = model.get_env()
    inner = None if env is None or task is None else getattr(env.unwrapped, "envs", [None])[0]
    lacking = []
    while isinstance(inner, gym.Wrapper):
        known = ALIKE | {"RescaleAction", *(task.wrappers if task else ())}
        if not isinstance(inner, gym.RewardWrapper) and type(inner).__name__ not in known:
            lacking.append(type(inner).__name__)
        inner = inner.env
    if lacking:
        said = ", ".join(lacking)
        log.warning("teacher %s was trained in %s, but the task given by env= is not wrapped in it", source, said)


def _check_options(source: str, wrapper: Wrapper, here: Mapping[str, Any]) -> None:
    """Refuse a task whose wrapper has other options than in training; warn if it does not tell its options."""
    differing = {name: here[name] for name, value in wrapper.options.items() if name in here and here[name] != value}
    if differing:
        said = ", ".join(f"{name}={value!r}" for name, value in differing.items())
        raise PolicyKDError(f"teacher: {source} was trained in {wrapper}, but the task's {wrapper.short} has {said}")
    if unsaid := ", ".join(name for name in wrapper.options if name not in here):
        log.warning(
            "teacher %s was trained in %s: check that the task's has the same %s, which cannot be read from it",
            *(source, wrapper, unsaid),
        )


def _check_stack(policy: Policy, frames: int, task: TaskSpaces | None) -> None:
    """Refuse a task that does not stack observations; warn if it pads the start of episodes otherwise than SB3's zeros.

    If the zoo normalises before stacking, these zeros stand for the means of its ``VecNormalize``.
    """
    inside = any(normaliser.frames > 1 for normaliser in policy.normalisers)
    padding = 'obs_rms.mean.astype("float32") of its VecNormalize' if inside else '"zero"'
    advice = f"FrameStackObservation(env, {frames}, padding_type={padding})"
    if task is None or task.observation_size != policy.observation_size:
        raise PolicyKDError(
            f"teacher: {policy.source} was trained on {frames} stacked observations (frame_stack): wrap the task so "
            f"that it stacks them: {advice}"
        )
    own = "StackObservation" in task.wrappers  # of policykd_envs
    begins = "reset" if own else task.wrappers.get("FrameStackObservation", {}).get("padding_type")
    if begins == "reset" or (inside and begins == "zero"):
        log.warning("teacher %s padded the start of its episodes with zeros: %s", policy.source, advice)


def _through(policy: Policy, wrapper: Wrapper, training: Training, task: TaskSpaces | None) -> Policy:
    """The policy with one wrapper applied that the task lacks."""
    if wrapper.name.startswith(KNOWN):
        if wrapper.short in ALIKE:
            return policy
        if wrapper.short == "RescaleAction" and task is not None:  # to [-1, 1], as here
            bounds = wrapper.options.get("min_action", -1), wrapper.options.get("max_action", 1)
            if bounds == (-1, 1):
                low, high = task.bounds(policy.source)
                return policy.changed(low=low, high=high)
        name = base_name(training.env_id or (task.env_id if task else ""))
        if wrapper.short == "MaskVelocityWrapper" and name in VELOCITIES:
            return _masked(policy, VELOCITIES[name])
    advice = ADVICE.get(wrapper.short, "")
    raise PolicyKDError(
        f"teacher: {policy.source} was trained in {wrapper} ({wrapper.name}), which only the task can apply: "
        f"env=lambda: {wrapper.of('gym.make(...)')}{advice}; or give observation_map, then all that is applied"
    )


def _masked(policy: Policy, columns: tuple[int, ...]) -> Policy:
    """The policy with some columns of its observation set to 0."""
    assert policy.observation_size is not None
    keep = torch.ones(policy.observation_size)
    keep[list(columns)] = 0.0

    def hide(observations: Tensor) -> Tensor:
        return observations * keep.to(observations)

    return preprocessed(policy, hide)
