"""Checks that method, student and teacher fit; each raises a one-line error."""

from __future__ import annotations

from collections import ChainMap

from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.distillation.divergences import DIVERGENCES, TEACHER_DIVERGENCES, Divergence, divergence_of
from policykd.distillation.methods import TeacherMethod
from policykd.distillation.schedules import BY_STUDENT, schedule_of
from policykd.distillation.teaching_config import TeachingConfig
from policykd.learners import Learner
from policykd.teachers.panel import Panel
from policykd.training.recipes.fine_tune import METHOD


def choose_divergence(
    method: TeacherMethod, config: TeachingConfig, gaussian: bool, panel: Panel | None, discrete: bool
) -> str | Divergence | None:
    """How far apart student and teacher are; None where the teacher only gives rewards.

    Args:
        method: the row of the table.
        config: settings.
        gaussian: whether students have a mean and a standard deviation.
        panel: the teachers, if they are there.
        discrete: whether both sides choose one of several actions.

    Raises:
        PolicyKDError: what was asked for compares what one side has not.
    """
    if config.temperature != 1 and not discrete:
        raise PolicyKDError(
            f"temperature: {config.temperature} softens logits, but continuous actions have none: use "
            "variance_scale, which multiplies the teacher's variance"
        )
    if method.divergence is None:
        return None
    both = (gaussian or discrete) and (panel is None or panel.has_std)
    auto = config.divergence == "auto"
    asked = method.divergence if auto else config.divergence
    if not isinstance(asked, str):
        return asked
    if discrete:
        return _choose_categorical(asked, both, auto)
    name = asked if both or not auto else "action_mse"
    free = name in ("mse", "action_mse", "action_huber") or (gaussian and name in ("nll", "gaussian_nll"))
    if name in ChainMap(TEACHER_DIVERGENCES, DIVERGENCES) and not (both or free):
        if not gaussian:
            raise PolicyKDError(
                f"divergence: {name} compares Gaussians, but the student is deterministic: use action_mse, "
                "action_huber or mse, or the backbone ppo or sac"
            )
        source = "" if panel is None else f" {panel.source}"
        raise PolicyKDError(
            f"divergence: {name} compares Gaussians, but the teacher{source} has no standard deviation: set "
            "teacher_std, or use action_mse, action_huber, mse, nll or gaussian_nll"
        )
    return name


def _choose_categorical(name: str, both: bool, auto: bool) -> str:
    """The divergence of choices; ``both``: the teacher says how likely each action is."""
    if auto:
        name = "nll" if not both else "kl_forward" if name == "action_mse" else name
    if name.startswith(("gaussian_", "wasserstein")):
        raise PolicyKDError(
            f"divergence: {name} compares Gaussians, but this task's actions are discrete: use kl_forward, kl_reverse, "
            "nll or mse"
        )
    if not both and name not in ("nll", "action_mse", "action_huber"):
        raise PolicyKDError(f"divergence: {name} needs a teacher with action probabilities: use nll")
    return name


def check_method(
    method: TeacherMethod, config: TeachingConfig, learner: type[Learner], panel: Panel | None, discrete: bool
) -> None:
    """Refuse what a method cannot do with this student and teacher.

    Raises:
        PolicyKDError: it needs another student, another teacher or another setting.
    """
    name = method.name
    if method.on_policy and learner.memory != "rollout":
        raise PolicyKDError(f"backbone: {name} is on-policy: use ppo, not {learner.name}")
    if method.coupling != "alone" and learner.memory == "replay" and config.environment_reward is False:
        raise PolicyKDError(
            f"environment_reward: {name} with {learner.name} always learns from the task's reward: use ppo"
        )
    if config.gru is not None and method.coupling != "alone" and learner.memory != "rollout":
        raise PolicyKDError(
            f"gru: {name} with {learner.name} cannot train recurrent students: use ppo, or history= for memory"
        )
    if config.gru is not None and method.confident:
        raise PolicyKDError(f"gru: {name}'s imitator keeps no hidden state: use kickstarting, or history=")
    if method.coupling == "alone" and config.distill_schedule in BY_STUDENT:
        raise PolicyKDError(
            f"distill_schedule: {config.distill_schedule} weighs the teacher against RL, but {name} has no RL loss"
        )
    if discrete and config.collect_noise_std > 0:
        raise PolicyKDError(
            "collect_noise_std: adds noise to continuous actions, but this task's are discrete: leave it 0"
        )
    if panel is None:
        return
    why = " that can be used: it has memory, and values are needed for single states" if panel.remembers else ""
    if (method.weight is not None or method.reward == "value") and not panel.has_value:
        raise PolicyKDError(f"method: {name} needs a teacher with a value, but {panel.source} has none{why}")
    if config.distill_value_coef > 0 and not panel.has_value:
        raise PolicyKDError(f"distill_value_coef: the teacher {panel.source} has no value{why or ' to distil'}")
    if method.reward in ("log_prob", "next_log_prob") and not panel.has_std:
        wanted = "with action probabilities" if discrete else "with a standard deviation: set teacher_std"
        raise PolicyKDError(f"method: {name} needs a teacher {wanted}")
    choose_divergence(method, config, learner.gaussian, panel, discrete)


def check_tunable(config: TeachingConfig, learner: type[Learner], panel: Panel | None, discrete: bool) -> None:
    """Refuse what fine-tuning cannot do with these students and their anchor, before anything is changed.

    Raises:
        PolicyKDError: recurrent students off policy, of whom a replay keeps no states; or an anchor, a schedule or a
            divergence that does not fit them.
    """
    on_policy = learner.memory == "rollout"
    if config.gru is not None and not on_policy:
        raise PolicyKDError(
            f"fine_tune: {learner.name} cannot train students with gru: distil with ppo, or use history= instead"
        )
    require(
        not on_policy or config.anchor != "teacher",
        "anchor",
        "teacher",
        "is not available with ppo, whose anchor is the student itself",
    )
    by_teacher = config.anchor == "teacher" or (config.anchor == "auto" and not on_policy and panel is not None)
    known_return = by_teacher or config.distill_schedule != "return_ratio"
    require(known_return, "distill_schedule", "return_ratio", "needs a teacher as the anchor: use auto, or linear")
    if config.distill_schedule not in ("auto", *BY_STUDENT):
        schedule_of(config.distill_schedule)
    divergence = choose_divergence(METHOD, config, learner.gaussian, panel if by_teacher else None, discrete)
    assert divergence is not None
    divergence_of(divergence, taught=True)
