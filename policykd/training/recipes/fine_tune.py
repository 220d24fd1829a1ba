"""After distillation: RL on the task's own reward, without losing what the students have learnt.

PPO as it stands can destroy a distilled policy: its value network knows nothing yet, so its advantages are noise, and
a standard deviation that was never trained shakes its actions. So: a fresh optimiser; a small standard deviation, fixed
at first; the critic is fitted while the actor is frozen; and a KL divergence from what the student was, which fades.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policykd.core.errors import PolicyKDError
from policykd.core.fields import change
from policykd.core.networks import Adam
from policykd.distillation.teaching_config import TaughtPPOConfig
from policykd.learners import PPO

if TYPE_CHECKING:
    from policykd.training.recipes.taught_rollouts import TaughtRolloutUpdate
    from policykd.training.teacher_student import TeacherStudent


def begin(agent: TeacherStudent, total_timesteps: int, changes: dict[str, Any]) -> None:
    """Turn a distilled agent into one that is fine-tuned; ``learn`` then does the rest.

    Raises:
        PolicyKDError: the students have not PPO's Gaussian policy, or a setting is unknown.
    """
    learner = agent.learner
    if not isinstance(learner, PPO):
        raise PolicyKDError(f"fine_tune: needs students with the backbone ppo, not {agent.backbone}")
    config = change(agent.config, changes)
    assert isinstance(config, TaughtPPOConfig)
    agent.config = learner.config = config
    agent.method_name, agent.fine_tune_start, agent.fine_tune_span = "fine_tune", agent.num_timesteps, total_timesteps
    agent.update, agent.answers = None, None
    agent.memories = agent.make_memories(agent.observation_space.shape[0], agent.action_space.shape[0])
    learner.log_std.copy_((config.fine_tune_std * learner.half).log().expand_as(learner.log_std))
    learner.adam = Adam(learner.parameters, eps=learner.adam.eps)


def freeze(update: TaughtRolloutUpdate, steps: int) -> None:
    """Say what may move after ``steps`` environment steps: the critic; then the actor; then its deviation, too."""
    learner, config, mask = update.learner, update.config, update.teaching.mask
    assert mask is not None
    actor, std, _ = learner.sizes
    was_frozen = float(mask[0]) == 0.0
    mask.fill_(1.0)
    if steps <= config.critic_steps:
        mask[:actor] = 0.0
    elif was_frozen:  # the actor's first steps must not be scaled by moments that have counted zeros
        for tensor in (learner.adam.exp_avg, learner.adam.exp_avg_sq, learner.adam.steps):
            tensor.zero_()
    if steps <= max(config.critic_steps, config.fixed_std_steps):
        mask[actor : actor + std] = 0.0


def anchor_progress(update: TaughtRolloutUpdate, agent: TeacherStudent) -> float:
    """From 0 to 1 while the pull towards the distilled student fades."""
    return min(1.0, agent.fine_tuned_steps / (update.config.anchor_steps or max(1, agent.fine_tune_span)))
