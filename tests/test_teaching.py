"""The mathematics of teaching: closed forms, rewards, weights and schedules against numbers worked out by hand."""

import dataclasses
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import make_learner, random_batch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from policykd.core.networks import PolicyOutput, gradient
from policykd.distillation.divergences import (
    TEACHER_DIVERGENCES,
    at_temperature,
    cross_entropy,
    distance,
    divergence_of,
    executed,
    gaussian_kl,
    kl_forward,
)
from policykd.distillation.labels import (
    Labels,
    confidence,
    from_next,
    proximal_weight,
    shaping,
    squashed_gaussian,
    unsquashed_gaussian,
)
from policykd.distillation.methods import TEACHER_METHODS
from policykd.distillation.schedules import beta_exponential, beta_linear, dual_ascent, return_ratio
from policykd.distillation.teacher_loss import JointTeaching
from policykd.distillation.teaching_config import TaughtPPOConfig
from policykd.distillation.teaching_step import TeachingStep, value_error
from policykd.distillation.weights import value_gate
from policykd.learners.off_policy import beside_teacher
from policykd.learners.ppo import Minibatch
from policykd.training.recipes.taught_rollouts import TaughtOnRollouts


def gaussians(seed, count=2, actions=3):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, count, actions)
    return torch.randn(shape, generator=generator).double(), torch.rand(shape, generator=generator).double() + 0.5


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_cross_entropy_is_that_of_samples(direction):
    own, target = gaussians(0), gaussians(1)
    p, q = (target, own) if direction == "forward" else (own, target)
    torch.manual_seed(0)
    draws = torch.distributions.Normal(*p).sample((400_000,))
    estimate = -torch.distributions.Normal(*q).log_prob(draws).sum(-1)
    found = cross_entropy(*own, *target, direction)
    error = estimate.std(0) / math.sqrt(len(draws))
    assert ((found - estimate.mean(0)).abs() < 4 * error).all()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_cross_entropy_is_kl_and_entropy(direction):
    own, target = gaussians(2), gaussians(3)
    p = target if direction == "forward" else own
    entropy = torch.distributions.Normal(*p).entropy().sum(-1)
    expected = gaussian_kl(*own, *target, direction) + entropy
    torch.testing.assert_close(cross_entropy(*own, *target, direction), expected)


@pytest.mark.parametrize("name", [n for n in TEACHER_DIVERGENCES if not n.startswith(("cross", "gaussian_nll"))])
def test_distance_is_exactly_0_when_student_equals_teacher(name):
    mean, std = gaussians(4)
    policy = PolicyOutput(mean.tanh(), mean, std)
    assert (TEACHER_DIVERGENCES[name](policy, policy) == 0).all()
    moved = PolicyOutput((mean + 0.1).tanh(), mean + 0.1, std)
    assert (TEACHER_DIVERGENCES[name](policy, moved) > 0).all()


@pytest.mark.parametrize("name", ["cross_entropy_forward", "gaussian_nll"])
def test_cross_entropies_are_least_where_student_equals_teacher(name):
    mean, std = gaussians(5)
    teacher = PolicyOutput(mean, mean, std)
    own = mean.clone().requires_grad_()
    divergence_of(name, taught=True)(PolicyOutput(own, own, std), teacher).sum().backward()
    assert own.grad.abs().max() < 1e-12


def test_actions_beyond_a_bound_are_executed_at_it_where_the_teacher_is_there():
    actions = torch.tensor([[[1.5, -3.0, 1.5, 1.5, 0.5, -1.5]]], requires_grad=True)
    target = torch.tensor([[[1.0, -0.96, 0.5, -1.0, 1.0, 0.0]]])
    found = executed(actions, target)
    assert found.tolist() == [[[1.0, -1.0, 1.5, 1.5, 0.5, -1.5]]]
    assert executed(torch.tensor(1.5), torch.tensor(0.94)) == 1.5  # a target near the bound is not one at it
    (found - target).square().sum().backward()
    assert (actions.grad != 0).tolist() == [[[False, False, True, True, True, True]]]
    teacher, student = (PolicyOutput(x, x, torch.ones_like(x)) for x in (target, actions.detach()))
    distance = TEACHER_DIVERGENCES["action_mse"](student, teacher)
    assert distance.item() == pytest.approx(0.04**2 + 1.0 + 2.5**2 + 0.5**2 + 1.5**2)
    huber = TEACHER_DIVERGENCES["action_huber"](student, teacher)
    assert huber.item() == pytest.approx((0.04**2 + 1.0 + 0.5**2) / 2 + (2.5 - 0.5) + (1.5 - 0.5))


def test_labels_are_packed_and_unpacked():
    mean, std = gaussians(6)
    labels = Labels(PolicyOutput(mean.tanh(), mean, std), torch.tensor([[1.0, 2.0]]).double())
    assert labels.pack().shape == (1, 2, Labels.width(3))
    again = Labels.unpack(labels.pack())
    for part, other in zip((*labels.policy[:3], labels.value), (*again.policy[:3], again.value), strict=True):
        assert torch.equal(part, other)


def test_how_likely_the_teacher_finds_an_action_by_hand():
    gaussian = Labels(PolicyOutput(*(torch.tensor([[[x, x]]]) for x in (0.5, 0.5, 2.0))), torch.zeros(1, 1))
    found = gaussian.log_prob(torch.tensor([[[2.5, 0.5]]]))  # one deviation away, and none
    assert found.item() == pytest.approx(-0.5 - 2 * math.log(2.0) - math.log(2 * math.pi))
    choice = Labels(PolicyOutput.categorical(torch.tensor([[[1.0, 1.0 + math.log(3.0)]]])), torch.zeros(1, 1))
    assert choice.log_prob(torch.tensor([[[0.0, 1.0]]])).item() == pytest.approx(math.log(0.75))


def test_the_kl_from_an_experts_choice_is_the_likelihood_of_the_choice():
    logits = torch.tensor([[[0.3, -1.0, 2.0]]]).double()
    expert = Labels.of_actions(torch.tensor([[[0.0, 1.0, 0.0]]]).double(), True, 0.1)
    found = kl_forward(PolicyOutput.categorical(logits), expert.policy)
    assert found.item() == pytest.approx(-logits.log_softmax(-1)[0, 0, 1].item(), abs=1e-6)


def test_a_squashed_teacher_in_the_units_of_actions_is_what_samples_say():
    mean, std = torch.tensor([0.0, 0.5, -0.8]).double(), torch.full((3,), 0.1).double()
    torch.manual_seed(0)
    draws = (mean + std * torch.randn(400_000, 3, dtype=torch.float64)).tanh()
    found_mean, found_std = squashed_gaussian(mean, std)
    # To first order in std: what is left out is of the order of std^2.
    torch.testing.assert_close(found_mean, draws.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(found_std, draws.std(0), atol=0.005, rtol=0)
    assert squashed_gaussian(torch.tensor([9.0]), torch.tensor([0.1]))[1].item() == pytest.approx(0.05)  # the floor


def test_unsquashing_undoes_squashing():
    mean, std = torch.tensor([0.3, -1.2]).double(), torch.tensor([0.2, 0.16]).double()
    torch.testing.assert_close(unsquashed_gaussian(*squashed_gaussian(mean, std)), (mean, std), rtol=0.06, atol=0)
    assert torch.isfinite(torch.stack(unsquashed_gaussian(torch.tensor([1.0]), torch.tensor([0.1])))).all()


def test_an_unsquashed_teacher_is_after_tanh_where_the_teacher_is_up_to_the_bounds():
    means = torch.tensor([0.0, 0.5, 0.7, -0.9, 0.99, 1.0, -1.5]).double().view(-1, 1, 1)
    stds = torch.tensor([0.02, 0.1, 0.2, 0.5, 1.0]).double().view(-1, 1)
    torch.manual_seed(0)
    mean, std = unsquashed_gaussian(means.expand(-1, 5, 1), stds.expand(7, -1, 1))
    draws = (mean + std * torch.randn(20_000, dtype=torch.float64)).tanh()
    torch.testing.assert_close(mean.tanh(), means.clamp(-0.999, 0.999).expand_as(mean))
    assert (draws.std(-1) < 1.03 * stds.squeeze(-1)).all()
    assert (draws * means.sign() > 0)[-3:].double().mean(-1).min() > 0.98  # at the bounds samples keep to their side
    assert unsquashed_gaussian(torch.tensor([0.1]), torch.tensor([1e-4]))[1].item() == pytest.approx(1e-4, rel=0.02)
    assert (draws.std(-1)[:3, :3] > 0.9 * stds.squeeze(-1)[:3]).all()  # elsewhere it is as wide as the teacher's


def test_beta_of_dagger():
    assert [beta_linear(k, 4) for k in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [beta_exponential(k, 0.5) for k in range(4)] == [1.0, 0.5, 0.25, 0.125]


def test_return_ratio():
    students = torch.tensor([0.0, 25.0, 100.0, 150.0])
    assert return_ratio(students, 100.0, 0.0).tolist() == [1.0, 0.75, 0.0, 0.0]  # max(0, 1 - G_S / G_T)
    # Returns that are all negative: -300 is as bad as random, -200 half way, -100 the teacher's.
    assert return_ratio(torch.tensor([-300.0, -200.0, -100.0]), -100.0, -300.0).tolist() == [1.0, 0.5, 0.0]
    assert return_ratio(torch.tensor([-400.0]), -100.0, -300.0).tolist() == [1.0]
    for worthless in (-1.0, 0.0):  # nothing to learn from such a teacher
        assert return_ratio(students, worthless, 0.0).tolist() == [0.0] * 4


def test_held_kl_rises_above_its_target_and_falls_below():
    found = dual_ascent(torch.zeros(4), torch.tensor([0.2, 0.1, 0.05, 9.0]), target=0.1, rate=0.5)
    assert found.tolist() == pytest.approx([0.5, 0.0, -0.25, 0.5])
    bounds = dual_ascent(torch.tensor([-9.9, 4.9]), torch.tensor([0.0, 1.0]), target=0.1, rate=0.5)
    assert bounds.tolist() == [-10.0, 5.0]


def held(divergence, own, target):
    """What held_kl compares with its target, for one learner."""
    config, method = TaughtPPOConfig(distill_schedule="held_kl"), TEACHER_METHODS["kickstarting"]
    teaching = JointTeaching(method, config, torch.zeros(1, 3), divergence, 1)
    return float(teaching.losses(own, Labels(target, torch.zeros(1, 2)), lambda: None)[1]["distill/held"])


@pytest.mark.parametrize("name", ["cross_entropy_forward", "cross_entropy_reverse", "gaussian_nll", "nll"])
@pytest.mark.parametrize("width", [0.05, 2.0])  # the entropy is below and above 0
def test_held_kl_holds_what_is_0_between_equals_also_by_losses_that_are_not(name, width):
    mean, std = gaussians(4)
    teacher = PolicyOutput(mean, mean, width * std)
    moved = PolicyOutput(mean + 0.1, mean + 0.1, width * std)
    divergence = divergence_of(name, taught=True)
    assert held(divergence, teacher, teacher) == pytest.approx(0, abs=1e-9)
    expected = gaussian_kl(*moved[1:3], *teacher[1:3]).mean()
    assert held(divergence, moved, teacher) == pytest.approx(float(expected))


def test_held_kl_holds_choices_at_their_temperature():
    own, teacher = (PolicyOutput.categorical(gaussians(seed)[0]) for seed in (0, 1))
    softened = at_temperature(divergence_of("cross_entropy_forward", taught=True), 2.0)
    assert held(softened, own, teacher) == pytest.approx(float(distance(own, teacher, kl_forward, 2.0).mean()))


def test_proximal_weight_by_hand():
    ratio = torch.tensor([[0.5, 0.8, 1.0, 1.5]])
    assert proximal_weight(ratio, 0.2).tolist()[0] == pytest.approx([0.8, 0.8, 1.0, 1.5])


def test_confidence_of_advisor():
    distance = torch.tensor([[0.0, 0.5, 2.0]])
    assert confidence(distance, 2.0).tolist()[0] == pytest.approx([1.0, math.exp(-1), math.exp(-4)])
    assert confidence(distance, 0.0).tolist()[0] == [1.0, 1.0, 1.0]


def test_value_gate_keeps_its_scale():
    gate = value_gate(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[2.0, 2.0, 2.0, 2.0]]))
    assert gate.tolist() == [[0.0, 0.0, 1.0, 1.0]]
    with pytest.raises(ValueError, match=r"\(K, B\)"):
        value_gate(torch.zeros(4, 1), torch.zeros(4))


def test_rewards_of_what_comes_next_by_hand():
    # One learner, four steps, one environment; the episode ends with the second step.
    costs, dones = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1), torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 4, 1)
    found = from_next(-costs, torch.tensor([[-5.0]]), dones)
    assert found.flatten().tolist() == [-2.0, 0.0, -4.0, -5.0]


def test_shaping_by_hand_and_it_telescopes():
    values, after = torch.tensor([2.0, 4.0]).view(1, 2, 1), torch.tensor([4.0, 0.0]).view(1, 2, 1)
    paid = shaping(values, after, 0.5)
    assert paid.flatten().tolist() == [0.0, -4.0]
    assert paid[0, 0] + 0.5 * paid[0, 1] == -values[0, 0]  # the discounted sum over an episode is -V(first state)


def joint_loss(method, **changes):
    """The loss of one learner on a minibatch of two steps, and what it is made of."""
    return joint_step(method, **changes)[0]


def joint_step(method, unit=1.0, values=(0.0, 0.0), **changes):
    """The same and the learner, whose value network's unit is worth ``unit``; ``values`` are the teacher's."""
    changes = {"normalize_advantage": False, "normalize_observation": False, "normalize_reward": False, **changes}
    changes |= {"net_arch": (), "max_grad_norm": 1e9, "divergence": "gaussian_kl_forward"}
    config = TaughtPPOConfig(**changes)
    learner = make_learner("ppo", 1, 1, 1, double=True, net_arch=(), normalize_advantage=False, max_grad_norm=1e9)
    learner.config = config
    learner.return_stats.var[:] = unit**2
    # Policy mean = 2 s, std 1; value = s.
    learner.parameters[:] = torch.tensor([[2.0, 0.0, 0.0, 1.0, 0.0]])
    divergence = divergence_of(config.divergence, taught=True)
    update = TaughtOnRollouts(learner, TEACHER_METHODS[method], config, None, None, divergence, None, [None], [None])
    update.teaching.lambdas.fill_(0.5)
    states, actions = torch.tensor([[[1.0], [-1.0]]]).double(), torch.tensor([[[2.0], [-1.0]]]).double()
    log_prob = learner.head.log_prob(2 * states, torch.zeros(1, 1).double(), actions)
    ratios = torch.tensor([[0.5, 1.1]]).double()
    labels = Labels(
        PolicyOutput(*(torch.full((1, 2, 1), x).double() for x in (0.0, 0.0, 1.0))), torch.tensor([values]).double()
    )
    advantages, returns = torch.tensor([[1.0, -2.0]]).double(), torch.tensor([[1.0, 1.0]]).double()
    batch = Minibatch(states, actions, log_prob - ratios.log(), advantages, returns)
    info = update.descend(batch, torch.tensor(0.0), torch.tensor(0.2).double(), labels.pack())
    return {key: float(value[0]) for key, value in info.items()}, learner


# KL(N(0, 1) || N(2 s, 1)) = (2 s)^2 / 2 = 2 at both states. Surrogate: -min(0.5, 0.8) = -0.5; -min(-2.2, -2.2) = 2.2;
# their mean is 0.85. Value: ((1 - 1)^2 + (1 + 1)^2) / 2 = 2, times 0.5.
RL = 0.85 + 0.5 * 2.0


def test_kickstarting_loss_by_hand():
    info = joint_loss("kickstarting")
    assert info["distill/distance"] == pytest.approx(2.0)
    assert info["train/loss"] == pytest.approx(RL + 0.5 * 2.0)


def test_entropy_is_rewarded_beside_a_teacher_too():
    entropy = 0.5 * math.log(2 * math.pi * math.e)  # of N(2 s, 1)
    expected = RL + 0.5 * 2.0 - 0.1 * entropy
    assert joint_loss("kickstarting", ent_coef=0.1)["train/loss"] == pytest.approx(expected)
    # ADVISOR's weight is of PPO's surrogate alone.
    rest = joint_loss("advisor", alpha=0.25)["train/loss"] - 0.1 * entropy
    assert joint_loss("advisor", alpha=0.25, ent_coef=0.1)["train/loss"] == pytest.approx(rest)


def test_ppd_loss_by_hand():
    info = joint_loss("ppd")
    # max(0.5, 0.8) = 0.8 and 1.1: lambda * mean(0.8 * 2, 1.1 * 2) = 0.5 * 1.9
    assert info["train/loss"] == pytest.approx(RL + 0.5 * 1.9)


def test_ppds_gradient_flows_through_the_ratio():
    """d(rho KL) = rho (KL d log pi + d KL) at the second state, and 0.8 d KL at the first, whose ratio is floored."""
    gradients = 10 * joint_step("ppd")[1].adam.exp_avg[0, :2]  # Adam's first mean is a tenth of them
    # By the mean: KL' is 2 and -2, (log pi)' is a - 2 s, which is 0 and 1; the surrogate's are 0 and 2 * 1.1.
    first, second = 0.5 * 0.8 * 2, 0.5 * 1.1 * (2 * 1 - 2) + 2.2
    assert gradients.tolist() == pytest.approx([(first - second) / 2, (first + second) / 2])


def test_loss_without_rewards_is_the_teachers_alone():
    assert joint_loss("on_policy_distill")["train/loss"] == pytest.approx(0.5 * 2.0)


def test_advisor_splits_each_state_between_imitation_and_rl():
    info = joint_loss("advisor", alpha=0.25)
    # The imitator is the student as it began: it acts 2 s, clipped by nothing, so its squared distance is 4 everywhere.
    trust = math.exp(-0.25 * 4)
    expected = (1 - trust) * 0.85 + 0.5 * 2.0 + 0.5 * trust * 2.0
    assert info["train/loss"] == pytest.approx(expected)
    assert info["distill/weight_mean"] == pytest.approx(trust)


def test_value_gated_loss_by_hand():
    info = joint_loss("value_gated")
    # The teacher's value is 0 at both states, the student's 1 and -1: only the second state is copied.
    assert info["train/loss"] == pytest.approx(RL + 0.5 * (2.0 / 2))
    assert info["distill/weight_mean"] == pytest.approx(0.5)


@pytest.mark.parametrize(("unit", "passes"), [(1.0, 1.0), (4.0, 0.5), (0.25, 1.0)])
def test_the_value_gate_compares_returns_of_the_task(unit, passes):
    """The student's network says 1 and -1, in units of its own; the teacher's values are 2 and 0.5."""
    info, _ = joint_step("value_gated", unit, (2.0, 0.5), normalize_reward=True)
    assert info["distill/weight_mean"] == pytest.approx(passes)


def test_lambda_follows_its_schedule():
    class Score:
        mean, random_mean = 100.0, 0.0

    def lambdas(schedule, progress=0.0, returns=((50.0,), ())):
        config = TaughtPPOConfig(distill_schedule=schedule, distill_coef=2.0)
        teaching = JointTeaching(TEACHER_METHODS["kickstarting"], config, torch.zeros(2, 3), None, 1)
        teaching.fade(progress, returns, Score())
        return teaching.lambdas.tolist()

    assert lambdas("constant", 0.7) == [2.0, 2.0]
    assert lambdas("auto", 0.25) == [1.5, 1.5]  # kickstarting's own is linear
    assert lambdas("exponential", 0.5) == pytest.approx([0.2, 0.2])
    assert lambdas("return_ratio") == [1.0, 2.0]  # half way; and not one episode yet


def test_the_return_ratio_is_that_of_the_ten_latest_episodes():
    class Score:
        mean, random_mean = 100.0, 0.0

    config = TaughtPPOConfig(distill_schedule="return_ratio")
    teaching = JointTeaching(TEACHER_METHODS["qdagger"], config, torch.zeros(2, 3), None, 1)
    teaching.fade(0.5, [[100.0] * 5 + [40.0] * 9 + [90.0], [10.0, 30.0]], Score())
    assert teaching.lambdas.tolist() == pytest.approx([1 - 0.45, 1 - 0.2])


def test_held_kl_aims_at_the_target_that_was_asked_for():
    config = TaughtPPOConfig(distill_schedule="held_kl", kl_target=0.4, distill_coef=3.0)
    teaching = JointTeaching(TEACHER_METHODS["kickstarting"], config, torch.zeros(3, 3), None, 1)
    teaching.adapt(torch.tensor([0.4, 0.6, 0.2]))
    teaching.fade(0.0, [], None)
    step = 0.05 * 0.5
    assert teaching.lambdas.tolist() == pytest.approx([3.0, 3.0 * math.exp(step), 3.0 * math.exp(-step)])


def imitator(divergence, alpha):
    """ADVISOR's imitator of one action or choice whose answers are its two parameters, which begin at 0."""
    config = TaughtPPOConfig(alpha=alpha)
    return JointTeaching(TEACHER_METHODS["advisor"], config, torch.zeros(1, 2).double(), divergence_of(divergence), 1)


def test_the_imitator_of_advisor_learns_from_the_teacher_and_is_trusted_as_far_as_it_got():
    teaching = imitator("action_mse", alpha=0.5)
    labels = Labels(PolicyOutput(torch.tensor([[[1.0, -1.0]]]).double()), torch.zeros(1, 1))
    trusts = [teaching.imitate(lambda rows: PolicyOutput(rows.view(1, 1, 2)), labels, 0.1).item() for _ in range(2)]
    # 2 from the teacher at first; a step of Adam is 0.1 of each: then 2 * 0.9^2.
    assert trusts == pytest.approx([math.exp(-0.5 * 2), math.exp(-0.5 * 2 * 0.81)])


def test_trust_in_an_imitator_that_chooses_is_by_the_kl_divergence_from_the_teacher():
    teaching = imitator("cross_entropy_forward", alpha=2.0)
    logits = torch.tensor([[[math.log(3.0), 0.0]]]).double()  # 3/4 and 1/4 beside 1/2 and 1/2
    trust = teaching.imitate(
        lambda rows: PolicyOutput.categorical(rows.view(1, 1, 2)),
        Labels(PolicyOutput.categorical(logits), torch.zeros(1, 1)),
        0.1,
    )
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert trust.item() == pytest.approx(math.exp(-2 * kl))


def test_teacher_rewards_are_scaled_as_vecnormalize_scales_rewards():
    rewards, dones = np.random.default_rng(0).normal(3, 2, (6, 2)), np.zeros((6, 2))
    dones[2, 0] = dones[4, 1] = 1
    env = VecNormalize(DummyVecEnv([lambda: gym.make("InvertedPendulum-v5")] * 2), gamma=0.9, clip_reward=np.inf)
    expected = []
    for reward, done in zip(rewards, dones, strict=True):  # as its step_wait does
        env._update_reward(reward)
        expected.append(env.normalize_reward(reward))
        env.returns[done > 0] = 0
    teaching = JointTeaching(TEACHER_METHODS["n_distill"], TaughtPPOConfig(), torch.zeros(1, 3), None, 2)
    found = teaching.scale_rewards(torch.from_numpy(rewards)[None], torch.from_numpy(dones)[None], 0.9)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_teacher_rewards_are_brought_to_unit_returns():
    teaching = JointTeaching(TEACHER_METHODS["n_distill"], TaughtPPOConfig(), torch.zeros(2, 3), None, 1)
    rewards = torch.randn(2, 5_000, 1) * torch.tensor([1.0, 100.0]).view(2, 1, 1)
    scaled = teaching.scale_rewards(rewards, torch.zeros(2, 5_000, 1), 0.9)
    spread = scaled[:, 2_500:].std(1).flatten()
    assert spread.tolist() == pytest.approx([(1 - 0.81) ** 0.5] * 2, rel=0.1)  # var of the return: var / (1 - gamma^2)


def test_an_off_policy_loss_beside_a_teacher_by_hand():
    values, actor = torch.tensor([[2.0, -4.0], [10.0, 20.0]]), torch.zeros(2, 3)

    def teacher(rows):
        return torch.tensor([0.5, 0.25]), {"distill/distance": torch.tensor([1.0, 2.0])}

    losses, info = beside_teacher(torch.tensor([1.0, -15.0]), values, actor, teacher)
    assert losses.tolist() == pytest.approx([1 / 3 + 0.5, -1.0 + 0.25])  # mean |Q| is 3 and 15
    assert info["distill/distance"].tolist() == [1.0, 2.0]
    flat, _ = beside_teacher(torch.tensor([0.0, 2.0]), torch.zeros(2, 2), actor, teacher)
    assert flat.tolist() == pytest.approx([0.5, 2000.25])  # critics that say 0 everywhere divide by no less than 0.001
    alone, nothing = beside_teacher(torch.tensor([1.0, -15.0]), values, actor, None)
    assert alone.tolist() == [1.0, -15.0]
    assert nothing == {}


def test_values_are_distilled_in_the_units_of_the_students_value_network():
    """PPO's predicts normalised rewards of normalised observations; the teacher's value is a return of the task."""
    learner = make_learner("ppo", 2, 1, 1, net_arch=(), normalize_observation=True, normalize_reward=True)
    learner.critic[:] = torch.tensor([2.0, 1.0])  # V = 2 s + 1 of what the network sees
    learner.observation_stats.mean[:], learner.observation_stats.var[:] = 3.0, 4.0
    learner.return_stats.var[:] = torch.tensor([1.0, 25.0])
    states, teacher = torch.full((2, 1, 1), 5.0).double(), torch.full((2, 1), 10.0).double()
    labels = Labels(PolicyOutput(torch.zeros(2, 1, 1).double()), teacher)
    # (5 - 3) / 2 = 1, so V = 3; the teacher's 10 are 10 and 2 of the value networks' units.
    found = value_error(learner, learner.critic, states, labels)
    assert found.flatten().tolist() == pytest.approx([49.0, 1.0], rel=1e-6)
    seen = value_error(learner, learner.critic, torch.ones_like(states), labels, normalised=True)
    assert seen.flatten().tolist() == pytest.approx([49.0, 1.0], rel=1e-6)


def test_critics_of_actions_learn_the_teachers_value_at_its_own_action():
    learner = make_learner("td3", 1, 1, 1, net_arch=())
    learner.critic[:] = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 0.0]])  # Q = s + 2 a and -a
    labels = Labels(PolicyOutput(torch.tensor([[[0.5]]]).double()), torch.tensor([[4.0]]).double())
    found = value_error(learner, learner.critic, torch.tensor([[[1.0]]]).double(), labels)
    assert found.item() == pytest.approx((2 - 4) ** 2 + (-0.5 - 4) ** 2)


def test_a_students_step_without_rl_is_down_the_mean_squared_distances_by_hand():
    """E |S(s) - T(s)|^2, a sum over actions and a mean over states, and half of E (V - V_T)^2."""
    bare = {"net_arch": (), "normalize_observation": False, "normalize_reward": False}
    learner = make_learner("ppo", 1, 1, 2, **bare)
    learner.parameters[:] = torch.tensor([[0.1, -0.2, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]])  # acts (0.1 s, -0.2 s); V = s
    labels = Labels(PolicyOutput(*(torch.zeros(1, 2, 2).double(),) * 3), torch.zeros(1, 2).double())
    config = TaughtPPOConfig(**bare, distill_value_coef=0.5)
    step = TeachingStep(TEACHER_METHODS["dagger"], config, learner, divergence_of("action_mse", taught=True))
    states = torch.tensor([[[1.0], [3.0]]]).double()
    info = step.teach(states, labels.pack(), torch.tensor(0.0).double(), True)
    assert info["distill/loss"].item() == pytest.approx((0.05 + 0.45) / 2)
    assert info["distill/value_loss"].item() == pytest.approx((1 + 9) / 2)
    # Adam's first mean is a tenth of the gradient; those of a state s are 2 a s and 2 a, and 2 V s and 2 V.
    assert (10 * step.adam.exp_avg).flatten().tolist() == pytest.approx([1.0, -2.0, 0.4, -0.8, 0.0, 0.0])
    assert (10 * step.critic_adam.exp_avg).flatten().tolist() == pytest.approx([0.5 * 10, 0.5 * 4])


def test_a_weight_of_teaching_compares_the_teachers_value_with_the_students():
    learner, seen = make_learner("td3", 1, 1, 1, net_arch=()), []

    def weight(compared, config):
        seen.append((compared.source_value.item(), compared.own_value.item()))
        return torch.ones_like(compared.own_value)

    learner.actor[:], learner.critic[:] = 0.0, torch.tensor([0.0, 0.0, 7.0])
    method = dataclasses.replace(TEACHER_METHODS["dagger"], weight=weight)
    labels = Labels(PolicyOutput(*(torch.ones(1, 1, 1).double(),) * 3), torch.tensor([[4.0]]).double())
    step = TeachingStep(method, TaughtPPOConfig(), learner, divergence_of("action_mse"))
    step.teach(torch.zeros(1, 1, 1).double(), labels.pack(), torch.tensor(0.0).double(), False)
    assert seen == [(4.0, 7.0)]


def test_a_loss_beside_that_of_the_critics_is_added_to_it():
    learner, reference = make_learner("td3", 2), make_learner("td3", 2)
    batch, targets = random_batch(np.random.default_rng(0), 2), torch.ones(2, 1, dtype=torch.float64)
    targets = targets.expand_as(batch.rewards)

    def pull(critic):
        return 3 * critic.view(2, -1).square().sum(1), {"seen": torch.zeros(2)}

    def both(critic):
        values = reference.q_values(critic, batch.observations, batch.actions)
        return (values - targets.unsqueeze(1)).square().sum(1).mean(1) + pull(critic)[0], {}

    assert "seen" in learner.update_critic(batch, targets, pull)
    reference.critic_adam.step(reference.critic, gradient(both, reference.critic)[0], reference.critic_learning_rate)
    torch.testing.assert_close(learner.critic_adam.exp_avg, reference.critic_adam.exp_avg)


@pytest.mark.parametrize(
    ("backbone", "divergence"),
    [
        ("td3", "action_mse"),
        *((b, d) for b in ("ppo", "sac") for d in ("action_mse", "gaussian_kl_forward", "wasserstein2")),
    ],
)
def test_a_student_that_equals_its_teacher_does_not_move(backbone, divergence):
    learner = make_learner(backbone, 2)
    states = torch.randn(2, 16, 4, dtype=torch.float64)
    with torch.no_grad():
        own = learner.outputs(learner.actor, states)
        filled = PolicyOutput(own.actions, *(own.actions if part is None else part for part in own[1:3]))
        answers = Labels(filled, torch.zeros(2, 16, dtype=torch.float64)).pack()
        step = TeachingStep(
            TEACHER_METHODS["dagger"], TaughtPPOConfig(), learner, divergence_of(divergence, taught=True)
        )
        before = learner.actor.clone()
        info = step.teach(states, answers, torch.tensor(1e-3).double(), True)
        assert (info["distill/loss"].abs() < 1e-12).all()
        torch.testing.assert_close(learner.actor, before, atol=1e-9, rtol=0)
        answers[..., : 2 * learner.action_size] += 0.5
        step.teach(states, answers, torch.tensor(1e-3).double(), True)
        assert ((learner.actor - before).abs().amax(1) > 1e-4).all()
