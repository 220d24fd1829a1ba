"""What each setting of a teacher's students does, and what no other test would miss."""

import math

import numpy as np
import pytest
import torch
from helpers import make_learner
from tiny import POINT

from policykd import DualStudent, TeacherStudent
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.fields import change
from policykd.distillation.divergences import divergence_of
from policykd.distillation.labels import Labels
from policykd.distillation.methods import TEACHER_METHODS
from policykd.distillation.teaching_config import TaughtPPOConfig
from policykd.learners.config import PPOConfig
from policykd.learners.ppo import Minibatch
from policykd.memory import Rollout
from policykd.training.recipes.taught_rollouts import TaughtOnRollouts

QUIET = {"eval_freq": 0, "n_eval_episodes": 1, "teacher_episodes": 1, "net_arch": (8, 8), "allow_weak_teacher": True}
COPY = {**QUIET, "round_steps": 40, "round_updates": 5, "distill_batch_size": 16}
ROLL = {**QUIET, "n_steps": 25, "n_envs": 2, "n_epochs": 1, "batch_size": 25, "teacher_std": 0.2}
REPLAY = {**QUIET, "batch_size": 16, "buffer_size": 500, "learning_starts": 20, "distill_batch_size": 16}


def expert(observation):
    return np.clip(10 * observation[2:4], -1, 1)


def tuned(**changes):
    """Students that are being fine-tuned, before their first step of it."""
    config = {**COPY, "n_steps": 25, "n_envs": 2, "n_epochs": 1, "batch_size": 25}
    agent = TeacherStudent(POINT, expert, config=config, compile=False).learn(40)
    return agent.fine_tune(0, config=changes)


def test_variance_scale_is_a_factor_of_the_teachers_variance():
    agent = TeacherStudent(POINT, expert, config={**COPY, "teacher_std": 0.3, "variance_scale": 4.0})
    agent.get_env()
    std = Labels.unpack(agent.tutor.answers()).policy.std
    torch.testing.assert_close(std, torch.full_like(std, 0.6))  # twice the deviation is four times the variance


def test_what_was_once_called_temperature_is_read_as_what_it_was(tmp_path):
    agent = TeacherStudent(POINT, expert, config={**COPY, "teacher_std": 0.3})
    content = agent._state(False)
    del content["settings"]["config"]["variance_scale"]
    content["settings"]["config"]["temperature"] = 4.0
    content["made_by_id"] = True
    checkpoint.save(tmp_path / "old.safetensors", content)
    old = TeacherStudent.load(tmp_path / "old.safetensors", teacher=expert).teaching
    assert (old.variance_scale, old.temperature) == (4.0, 1.0)


@pytest.mark.parametrize(("target", "sign"), [(1e-6, 1), (1e6, -1)])
def test_held_kl_moves_the_teachers_weight_off_policy_too(target, sign):
    config = {**REPLAY, "distill_schedule": "held_kl", "kl_target": target, "teacher_std": 0.2}
    agent = TeacherStudent(POINT, expert, method="kickstarting", backbone="sac", config=config, compile=False)
    agent.learn(250)
    assert agent.recipe.n_updates >= 200
    assert (sign * agent.recipe.teaching.log_coefficient > 0.04).all()


@pytest.mark.parametrize("delay", [2, 3, 7])
def test_held_kl_adapts_once_in_a_hundred_updates_whatever_the_delay_of_the_actors(delay):
    held = {**REPLAY, "distill_schedule": "held_kl", "kl_target": 1e-6, "policy_delay": delay}
    agent = TeacherStudent(POINT, expert, method="kickstarting", backbone="td3", config=held, compile=False).learn(150)
    recipe, adapted = agent.recipe, []
    recipe.n_updates = 0
    recipe.teaching.adapt = lambda distance: adapted.append(recipe.n_updates)
    for _ in range(310):
        recipe.step(0.5, False)
    assert [number // 100 for number in adapted if number >= 100] == [1, 2, 3]


def test_the_actors_moments_begin_anew_when_it_thaws():
    agent = tuned(critic_steps=100, fixed_std_steps=100)
    recipe, adam = agent.recipe, agent.learner.adam
    recipe.freeze(100)
    assert not recipe.mask[: agent.learner.sizes[0]].any()
    for tensor in (adam.exp_avg, adam.exp_avg_sq, adam.steps):
        tensor.fill_(5.0)
    recipe.freeze(150)
    assert recipe.mask.all() and not any(t.any() for t in (adam.exp_avg, adam.exp_avg_sq, adam.steps))
    adam.steps.fill_(5.0)
    recipe.freeze(200)
    assert float(adam.steps) == 5.0  # once


def test_a_checkpoint_knows_that_the_actor_was_frozen():
    """Else a run that goes on from it would thaw with moments that have counted zeros."""
    before, after = (tuned(critic_steps=100, fixed_std_steps=100) for _ in range(2))
    before.recipe.freeze(100)
    after.recipe.freeze(150)
    after.recipe.restore(before.recipe.state())
    after.learner.adam.steps.fill_(5.0)
    after.recipe.freeze(150)
    assert float(after.learner.adam.steps) == 0.0


def test_fine_tuning_distils_no_values():
    """An anchor has none, and the critic's are to be those of rewards."""
    agent = tuned()
    agent.tuning, agent.config = None, change(agent.config, {"distill_value_coef": 1.0})
    agent.fine_tune(50)
    assert "train/value_loss" in agent.recipe.info and "distill/value_loss" not in agent.recipe.info
    with pytest.raises(PolicyKDError, match=r"distill_value_coef=2.0 does not apply to fine_tune"):
        agent.fine_tune(50, config={"distill_value_coef": 2.0})


@pytest.mark.parametrize(("anchor_steps", "expected"), [(None, 0.25), (200, 0.5), (50, 1.0)])
def test_the_anchor_fades_in_anchor_steps_or_over_the_whole_budget(anchor_steps, expected):
    agent = tuned(anchor_steps=anchor_steps, critic_steps=0)
    recipe = agent.recipe
    recipe.span = recipe.span._replace(length=400)
    agent.learn(100)
    assert recipe.fading == pytest.approx(expected)


def value_rewards(scale, coef):
    """What a teacher's value pays in a rollout of one step, for a student whose rewards have this deviation."""
    config = TaughtPPOConfig(n_steps=1, n_envs=2, net_arch=(), teacher_reward_coef=coef, gamma=0.5)
    learner = make_learner("ppo", 1, 1, 1, double=False, net_arch=(), normalize_reward=True)
    learner.return_stats.var.fill_(scale**2)
    rollout = Rollout(1, 2, 1, 1, 1, Labels.width(1))
    rollout.labels[..., -1], rollout.next_values[:] = 2.0, 6.0
    method = TEACHER_METHODS["teacher_value_reward"]
    recipe = TaughtOnRollouts(learner, method, config, rollout, None, None, None, [None], [None])
    recipe.teaching.reward_stats.var.fill_(0.0)
    return recipe.teacher_rewards(recipe.distributions()), recipe


def test_value_rewards_are_in_units_of_the_students_own_rewards():
    paid, recipe = value_rewards(4.0, 1.0)
    # shaping gamma V(s') - V(s) = 0.5 * 6 - 2 = 1, over the deviation
    std = float(recipe.learner.return_scale)
    assert std == pytest.approx(4.0, rel=1e-3)
    torch.testing.assert_close(paid, torch.full_like(paid, 1 / std))


def test_teacher_reward_coef_weighs_what_the_teacher_pays():
    rewards = {}
    for coef in (0.0, 1.0, 3.0):
        config = {**ROLL, "teacher_reward_coef": coef, "normalize_reward": False, "environment_reward": False}
        agent = TeacherStudent(POINT, expert, method="entropy_regularised", config=config, compile=False)
        seen = []
        ask = agent.recipe.rewards
        agent.recipe.rewards = lambda own, ask=ask, seen=seen: seen.append(ask(own)) or seen[-1]
        agent.learn(50)
        rewards[coef] = seen[0]
    assert not rewards[0.0].any() and rewards[1.0].any()
    torch.testing.assert_close(rewards[3.0], 3 * rewards[1.0])


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_an_exponential_beta_is_the_decay_to_the_power_of_the_round(decay):
    agent = TeacherStudent(POINT, expert, config={**COPY, "beta_schedule": "exponential", "beta_decay": decay})
    for number in range(4):
        agent.run.num_timesteps = 40 * number + 3
        assert agent.recipe.beta() == pytest.approx(decay**number)


@pytest.mark.parametrize(("distill_freq", "distilled"), [(1, 4), (2, 2), (3, 1)])
def test_peers_on_policy_distil_every_distill_freq_updates(monkeypatch, distill_freq, distilled):
    config = {"n_steps": 16, "n_epochs": 1, "batch_size": 16, "distill_freq": distill_freq, "distill_gradient_steps": 3}
    agent = DualStudent(POINT, backbone="ppo", config={**config, "net_arch": (8,), "eval_freq": 0}, compile=False)
    calls, update = [], agent.recipe.distillation.update
    monkeypatch.setattr(agent.recipe.distillation, "update", lambda *a: calls.append(1) or update(*a))
    agent.learn(4 * 2 * 16)
    assert len(calls) == 3 * distilled


@pytest.mark.parametrize("shared", [False, True])
def test_distill_optimizer_shared_is_ppos_own_adam(shared):
    config = {"n_steps": 16, "n_epochs": 1, "batch_size": 16, "distill_optimizer": "shared" if shared else "own"}
    agent = DualStudent(POINT, backbone="ppo", config={**config, "net_arch": (8,), "eval_freq": 0}, compile=False)
    agent.learn(2 * 16)
    assert agent.recipe.distillation.adam.exp_avg.any() != shared
    assert float(agent.learner.adam.steps) == (1 + 10 if shared else 1)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_ortho_init_begins_with_orthogonal_weights_and_no_bias(orthogonal):
    learner = make_learner("ppo", 1, 4, 2, net_arch=(16, 16), ortho_init=orthogonal)
    if orthogonal:  # the gains are SB3's: actions begin near 0
        networks = (
            (learner.actor_network, learner.actor[:, : learner.sizes[0]]),
            (learner.critic_network, learner.critic),
        )
        gains = [
            [torch.linalg.svdvals(layer[0][0]).mean().item() for layer in net.unpack(rows)] for net, rows in networks
        ]
        assert gains == [pytest.approx([2**0.5, 2**0.5, 0.01]), pytest.approx([2**0.5, 2**0.5, 1.0])]
    weight, bias = learner.actor_network.unpack(learner.actor[:, : learner.sizes[0]])[1]
    product = weight[0] @ weight[0].T
    distance = (product - 2 * torch.eye(16)).abs().max()
    assert (distance < 1e-5) == orthogonal and bias.any() != orthogonal


@pytest.mark.parametrize("vf_coef", [0.0, 0.5, 2.0])
def test_vf_coef_weighs_the_value_loss(vf_coef):
    config = PPOConfig(net_arch=(), vf_coef=vf_coef, max_grad_norm=1e9)
    learner = make_learner("ppo", 1, 1, 1, net_arch=())
    learner.config = config
    learner.parameters[:] = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0]])
    ones = torch.ones(1, 4, dtype=torch.float64)
    states = ones.unsqueeze(-1)
    log_prob = learner.head.log_prob(0 * states, torch.zeros(1, 1, dtype=torch.float64), states)
    batch = Minibatch(states, states, log_prob, torch.tensor([[1.0, -1.0, 1.0, -1.0]]).double(), 3 * ones)
    info = learner.update(batch, torch.tensor(0.0), torch.tensor(0.2).double())
    assert float(info["train/loss"]) == pytest.approx(vf_coef * 9.0, abs=1e-9)  # (3 - 0)^2, and advantages of mean 0


def test_kl_target_is_what_held_kl_aims_at():
    """At its target the weight stands still, above it rises, below it falls (dual ascent)."""
    divergence = divergence_of("gaussian_kl_forward", taught=True)
    learner = make_learner("ppo", 3, 1, 1, double=False)
    config = TaughtPPOConfig(distill_schedule="held_kl", kl_target=0.2)
    method = TEACHER_METHODS["kickstarting"]
    recipe = TaughtOnRollouts(learner, method, config, None, None, divergence, None, [None] * 3, [None] * 3)
    recipe.teaching.adapt(torch.tensor([0.2, 0.4, 0.1]))
    found = recipe.teaching.log_coefficient.tolist()
    assert found[0] == 0.0 and found[1] == pytest.approx(0.05) and found[2] == pytest.approx(-0.025)
    assert math.isfinite(sum(found))


def test_the_tasks_reward_cannot_be_left_out_where_nothing_else_is_learnt_from():
    with pytest.raises(PolicyKDError, match=r"environment_reward: kickstarting with td3 .*: use ppo"):
        config = {**REPLAY, "environment_reward": False}
        TeacherStudent(POINT, expert, method="kickstarting", backbone="td3", config=config)
    unpaid = TeacherStudent(POINT, expert, method="n_distill", config={**ROLL, "environment_reward": False})
    assert not unpaid.recipe.pays
    with pytest.raises(PolicyKDError, match="environment_reward=False does not apply to fine_tune"):
        unpaid.fine_tune(0, config={"environment_reward": False})
    assert unpaid.method_name == "n_distill"
    assert unpaid.fine_tune(0).recipe.pays and unpaid.config.environment_reward is False


def test_an_unknown_schedule_is_refused_before_the_first_update():
    learn = {"method": "kickstarting", "config": {**ROLL, "distill_schedule": "lineer"}}
    with pytest.raises(PolicyKDError, match="distill_schedule: 'lineer' is unknown; nearest: linear"):
        TeacherStudent(POINT, expert, **learn)
    with pytest.raises(PolicyKDError, match="distill_schedule: 'lineer' is unknown; nearest: linear"):
        DualStudent(POINT, backbone="ppo", config={"distill_schedule": "lineer"})
