"""Builds the memories and the recipe of students, by method, and those of fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from policykd.core.fields import change, require
from policykd.core.recurrent import GRU
from policykd.core.seeding import Generators
from policykd.distillation.divergences import Divergence
from policykd.distillation.labels import Labels
from policykd.distillation.methods import TeacherMethod
from policykd.distillation.teaching_config import TaughtPPOConfig, TeachingConfig
from policykd.learners import PPO, Learner, OffPolicyLearner
from policykd.learners.config import Config, OffPolicyConfig
from policykd.memory import LabelledStates, Rollout, SharedReplay
from policykd.memory.sequences import LabelledSequences
from policykd.training.collector import Collector
from policykd.training.recipes import Recipe
from policykd.training.recipes.fine_tune import Anchor, FineTune, Span
from policykd.training.recipes.fine_tune_replay import FineTuneOnReplay
from policykd.training.recipes.imitation import Imitation
from policykd.training.recipes.recurrent_imitation import RecurrentImitation
from policykd.training.recipes.recurrent_rollouts import RecurrentFineTune, RecurrentRollouts
from policykd.training.recipes.taught_replay import TaughtOnReplay
from policykd.training.recipes.taught_rollouts import TaughtOnRollouts
from policykd.training.tutor import FrozenTeacher


class RecipeAndMemories(NamedTuple):
    """A recipe and the memories it fills; those that the method does not use are None."""

    recipe: Recipe
    dataset: LabelledStates | LabelledSequences | None = None
    rollout: Rollout | None = None
    replay: SharedReplay | None = None

    @property
    def memories(self) -> dict[str, Any]:
        """The memories that there are, by the names that checkpoints give them."""
        named = {"dataset": self.dataset, "rollout": self.rollout, "replay": self.replay}
        return {name: memory for name, memory in named.items() if memory is not None}


@dataclass(frozen=True)
class Students:
    """Factory of recipes for students.

    Args:
        sizes: lengths of an observation, as students see it, and of an action.
        device: where they compute.
        tutor: who answers.
        collector: their environments.
        exploration: one generator per student, for who acts and with what noise.
        sampling: one generator per student, for batches.
        buffer_folder: where a replay on disk has its file.
    """

    sizes: tuple[int, int]
    device: torch.device
    tutor: FrozenTeacher
    collector: Collector
    exploration: Generators
    sampling: Generators
    buffer_folder: Callable[[], Path]

    def learn(
        self, learner: Learner, method: TeacherMethod, config: TeachingConfig, divergence: Divergence | None
    ) -> RecipeAndMemories:
        """By a method: a rollout with answers; a data set of answered states; or that beside a replay."""
        streams = self.collector, self.exploration, self.sampling
        network = getattr(learner, "actor_network", None)
        if isinstance(learner, PPO) and method.coupling != "alone":
            assert isinstance(config, TaughtPPOConfig)
            rollout = self.rollout(learner, config)
            on_rollouts = RecurrentRollouts if isinstance(network, GRU) else TaughtOnRollouts
            recipe = on_rollouts(learner, method, config, rollout, self.tutor, divergence, *streams)
            return RecipeAndMemories(recipe, rollout=rollout)
        assert divergence is not None
        student = cast(Any, learner)
        if isinstance(network, GRU):
            steps = self.sequences(learner, config, network)
            return RecipeAndMemories(
                RecurrentImitation(student, method, config, steps, self.tutor, divergence, *streams), steps
            )
        dataset = self.dataset(learner, config)
        if method.coupling == "alone":
            return RecipeAndMemories(
                Imitation(student, method, config, dataset, self.tutor, divergence, *streams), dataset
            )
        assert isinstance(learner, OffPolicyLearner) and isinstance(config, OffPolicyConfig)
        replay = self.replay(config)
        taught = TaughtOnReplay(learner, method, config, replay, dataset, self.tutor, divergence, *streams)
        return RecipeAndMemories(taught, dataset, replay=replay)

    def tune(
        self, learner: Learner, config: Config, span: Span, known: LabelledStates | None, fresh: bool
    ) -> RecipeAndMemories:
        """By RL, held by what the students were, or off policy by the teacher.

        Args:
            learner: the students, whose actors are distilled.
            config: their settings from now on.
            span: where fine-tuning begins and how long it is.
            known: states with the teacher's answers from before.
            fresh: whether it begins now, or goes on from a checkpoint.
        """
        streams = self.collector, self.exploration, self.sampling, span
        assert isinstance(config, TeachingConfig)
        # No anchor's value is what RL's critic learns, and the task pays, whatever distillation did without.
        config = change(config, {"distill_value_coef": 0.0, "environment_reward": None})
        if isinstance(learner, PPO):
            assert isinstance(config, TaughtPPOConfig)
            rollout = self.rollout(learner, config)
            fine_tune = RecurrentFineTune if isinstance(learner.actor_network, GRU) else FineTune
            return RecipeAndMemories(fine_tune(learner, config, rollout, *streams, fresh), rollout=rollout)
        assert isinstance(learner, OffPolicyLearner) and isinstance(config, OffPolicyConfig)
        by_teacher = config.anchor == "teacher"
        dataset = known if by_teacher and known is not None else self.dataset(learner, config)
        tutor, replay = self.tutor if by_teacher else Anchor(learner, self.collector), self.replay(config)
        return RecipeAndMemories(
            FineTuneOnReplay(learner, config, replay, dataset, tutor, *streams), dataset, replay=replay
        )

    def rollout(self, learner: PPO, config: TaughtPPOConfig) -> Rollout:
        """Steps with room for the teacher's answers, and for the state of students that have one."""
        network, state_size = learner.actor_network, 0
        if isinstance(network, GRU):
            state_size, steps = network.width, config.n_steps
            whole = steps % config.bptt_steps == 0
            require(
                whole,
                "bptt_steps",
                config.bptt_steps,
                f"must divide n_steps={steps}: a rollout consists of whole windows",
            )
        width = Labels.width(self.sizes[1], learner.discrete)
        return Rollout(config.n_steps, config.n_envs, *self.sizes, len(self.sampling), width, self.device, state_size)

    def dataset(self, learner: Learner, config: TeachingConfig) -> LabelledStates:
        """States with answers, none so far."""
        rule = "exceeds what the data set keeps: dataset_size"
        require(config.n_envs <= config.dataset_size, "n_envs", config.n_envs, rule)
        width = Labels.width(self.sizes[1], learner.discrete)
        return LabelledStates(config.dataset_size, self.sizes[0], width, len(self.sampling), self.device)

    def sequences(self, learner: Learner, config: TeachingConfig, network: GRU) -> LabelledSequences:
        """Steps of episodes with answers, none so far."""
        envs, burn_in = self.collector.n_envs, config.burn_in
        rule = f"keeps no steps of n_envs={envs:,} environments beyond burn_in={burn_in}: raise it or lower n_envs"
        require(config.dataset_size // envs > burn_in, "dataset_size", config.dataset_size, rule)
        sizes = self.sizes[0], Labels.width(self.sizes[1], learner.discrete), network.width
        return LabelledSequences(config.dataset_size, envs, *sizes, len(self.sampling), self.device)

    def replay(self, config: OffPolicyConfig) -> SharedReplay:
        """Transitions, none so far."""
        shape = *self.sizes, len(self.sampling), 1, self.device, config.n_envs
        folder = self.buffer_folder if config.buffer_on_disk else None
        return SharedReplay(config.buffer_size, *shape, config.buffer_dtype, folder)
