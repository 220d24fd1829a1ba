"""Teachers answer exactly as the agents they were loaded from."""

import os
import pickle
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_agents import ACTIONS, AGENTS, OBSERVATIONS, Lopsided, agent, normalised_agent, observations
from stable_baselines3.common.utils import obs_as_tensor
from tiny import POINT, TINY

from policykd import DualStudent, PolicyKDError, Teacher


def to_unit(actions):
    """Actions of Lopsided in [-1, 1]."""
    low, high = Lopsided.action_space.low, Lopsided.action_space.high
    return 2 * (actions - low) / (high - low) - 1


def expected(model, inputs):
    """Mean, standard deviation and value of an agent by SB3's own classes, in SB3's units; None where it has none."""
    policy, inputs = model.policy, obs_as_tensor(inputs, "cpu")
    with torch.no_grad():
        if hasattr(policy, "predict_values"):
            gaussian = policy.get_distribution(inputs).distribution
            return gaussian.mean, gaussian.stddev, policy.predict_values(inputs).squeeze(1)
        if not hasattr(policy, "critic"):
            return policy._predict(inputs), None, None
        scaled = policy._predict(inputs, deterministic=True)
        q = model.critic(inputs, scaled)
        value = q.mean((1, 2)) if type(model).__name__ == "TQC" else torch.cat(q, 1).amin(1)
        if not hasattr(policy.actor, "action_dist"):
            return scaled, None, value
        mean, log_std, extra = policy.actor.get_action_dist_params(inputs)
        gaussian = policy.actor.action_dist.proba_distribution(mean, log_std, **extra).distribution
        return gaussian.mean, gaussian.stddev, value


@pytest.mark.parametrize("source", ["zip", "live"])
@pytest.mark.parametrize("name", AGENTS)
def test_a_teacher_is_its_agent(tmp_path, name, source):
    model, inputs = agent(name), observations()
    model.save(tmp_path / "agent.zip")
    teacher = Teacher.load(tmp_path / "agent.zip" if source == "zip" else model, Lopsided)
    algorithm = type(model).__name__
    assert teacher.policy.network.algorithm == algorithm
    assert (teacher.observation_size, teacher.action_size) == (OBSERVATIONS, ACTIONS)
    assert teacher.squashed == (algorithm in ("SAC", "TQC") or "squashed" in name)

    actions = model.predict(inputs, deterministic=True)[0]
    np.testing.assert_allclose(teacher.predict(inputs)[0], actions, atol=2e-6)
    np.testing.assert_allclose(teacher.predict(inputs[0])[0], actions[0], atol=2e-6)
    tensor = torch.from_numpy(inputs)
    np.testing.assert_allclose(teacher.actions(tensor), to_unit(actions), atol=2e-6)

    in_task_units = (not teacher.squashed and algorithm in ("PPO", "A2C", "TRPO")) or name == "ARS, linear"
    half_range = (Lopsided.action_space.high - Lopsided.action_space.low) / 2
    mean, std, value = expected(model, inputs)
    found_mean, found_std = teacher.distribution(tensor)
    np.testing.assert_allclose(found_mean, to_unit(mean.numpy()) if in_task_units else mean, atol=1e-5, rtol=1e-5)
    assert (found_std is None) == (std is None)
    if std is not None:
        np.testing.assert_allclose(found_std, std.numpy() / half_range if in_task_units else std, rtol=1e-5)
    assert (teacher.value(tensor) is None) == (value is None)
    if value is not None:
        torch.testing.assert_close(teacher.value(tensor), value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3", "ARS"])
def test_a_teacher_is_frozen(name):
    model = agent(name)
    teacher, inputs = Teacher.load(model, Lopsided), torch.from_numpy(observations())
    before, values = teacher.actions(inputs), [parameter.clone() for parameter in teacher.parameters()]
    for parameter in model.policy.parameters():  # the agent itself goes on learning
        parameter.data.add_(1.0)
    assert torch.equal(teacher.actions(inputs), before)
    assert values and all(map(torch.equal, teacher.parameters(), values))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.policy.network.training
    outputs = [*teacher.distribution(inputs), teacher.actions(inputs), teacher.value(inputs)]
    assert not any(output.requires_grad for output in outputs if output is not None)


def test_arrays_are_answered_as_tensors_are():
    teacher, array = Teacher.load(agent("SAC")), observations(5).astype(np.float64)
    for ask in (teacher.actions, lambda seen: teacher.distribution(seen)[0], teacher.value):
        torch.testing.assert_close(ask(array), ask(torch.from_numpy(array).float()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_without_determinism_actions_are_samples_of_the_distribution(name):
    teacher, inputs = Teacher.load(agent(name), Lopsided), torch.from_numpy(observations(1))
    mean, std = teacher.distribution(inputs)
    torch.manual_seed(0)
    actions = to_unit(teacher.predict(inputs.expand(20_000, -1).numpy(), deterministic=False)[0])
    noise = mean + std * torch.randn(200_000, ACTIONS)
    samples = noise.tanh() if teacher.squashed else noise.clamp(-1, 1)
    np.testing.assert_allclose(actions.mean(0), samples.mean(0), atol=0.03)
    np.testing.assert_allclose(actions.std(0), samples.std(0), atol=0.03)
    assert np.array_equal(teacher.predict(inputs.numpy())[0], teacher.predict(inputs.numpy())[0])


@pytest.mark.parametrize("layout", ["zoo", "beside", "hub", "best", "argument", "live"])
def test_a_normaliser_is_found_and_works_inside(tmp_path, layout):
    model, env = normalised_agent()
    name = {"best": "best_model", "zoo": "Lopsided-v0"}.get(layout, "agent")
    folder = tmp_path / "Lopsided-v0_1"
    folder.mkdir()
    model.save(folder / f"{name}.zip")
    statistics = {
        "zoo": folder / "Lopsided-v0" / "vecnormalize.pkl",
        "beside": folder / "vecnormalize.pkl",
        "hub": folder / "vec_normalize.pkl",
        "best": folder / "Lopsided-v0" / "vecnormalize.pkl",
        "argument": tmp_path / "elsewhere.pkl",
        "live": tmp_path / "unused.pkl",
    }[layout]
    statistics.parent.mkdir(exist_ok=True)
    env.save(statistics)
    chosen = {"vecnormalize": statistics} if layout == "argument" else {}
    teacher = Teacher.load(model if layout == "live" else folder, Lopsided, **chosen)

    raw = 4 * observations()  # some beyond the clip of 10 deviations
    normalised = env.normalize_obs(raw)
    assert np.abs(normalised).max() > 5
    np.testing.assert_allclose(teacher.predict(raw)[0], model.predict(normalised, deterministic=True)[0], atol=2e-6)
    value = expected(model, normalised)[2] * np.sqrt(env.ret_rms.var + env.epsilon)
    torch.testing.assert_close(teacher.value(torch.from_numpy(raw)), value.float(), atol=1e-5, rtol=1e-5)
    assert float(env.ret_rms.var) != pytest.approx(1.0, abs=0.1)  # else the scale was not tested


@pytest.mark.parametrize(("norm_obs", "norm_reward"), [(False, True), (True, False)])
def test_only_what_was_normalised_is(norm_obs, norm_reward):
    model, env = normalised_agent(norm_obs=norm_obs, norm_reward=norm_reward)
    teacher, raw = Teacher.load(model, Lopsided), observations()
    inputs = env.normalize_obs(raw)
    assert np.array_equal(inputs, raw) == (not norm_obs)
    np.testing.assert_allclose(teacher.predict(raw)[0], model.predict(inputs, deterministic=True)[0], atol=2e-6)
    scale = float(np.sqrt(env.ret_rms.var + env.epsilon)) if norm_reward else 1.0
    value = expected(model, inputs)[2] * scale
    torch.testing.assert_close(teacher.value(torch.from_numpy(raw)), value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_statistics_of_any_pickle_protocol_and_of_old_libraries(tmp_path, protocol):
    from policykd.teachers import vecnormalize

    _, env = normalised_agent()
    content = pickle.dumps(env, protocol)
    if protocol == 2:  # names are plain text here: write them as NumPy 1 and Gym did
        for new, old in ((b"numpy._core", b"numpy.core"), (b"gymnasium.spaces", b"gym.spaces")):
            assert new in content
            content = content.replace(new, old)
    (tmp_path / "vecnormalize.pkl").write_bytes(content)
    read = vecnormalize.read(tmp_path / "vecnormalize.pkl")
    np.testing.assert_array_equal(read.mean, env.obs_rms.mean)
    np.testing.assert_array_equal(read.std, np.sqrt(env.obs_rms.var + env.epsilon))
    assert read.clip == env.clip_obs
    assert read.reward_std == float(np.sqrt(env.ret_rms.var + env.epsilon))


def test_an_agent_of_sb3_1_with_shared_layers(tmp_path):
    """SB3 1.x could share the first layers of policy and value network, and wrote pickles of the module ``gym``."""
    model = agent("PPO")
    model.save(tmp_path / "new.zip")
    state = model.policy.state_dict()
    shared = torch.nn.Linear(OBSERVATIONS, OBSERVATIONS)
    state |= {"mlp_extractor.shared_net.0.weight": shared.weight, "mlp_extractor.shared_net.0.bias": shared.bias}
    with zipfile.ZipFile(tmp_path / "new.zip") as new, zipfile.ZipFile(tmp_path / "old.zip", "w") as old:
        old.writestr("data", new.read("data").replace(b"gymnasium.spaces", b"gym.spaces"))
        with old.open("policy.pth", "w") as file:
            torch.save(state, file)
    teacher, inputs = Teacher.load(tmp_path / "old.zip"), observations()
    with torch.no_grad():
        latent = shared(torch.from_numpy(inputs)).tanh().numpy()
    np.testing.assert_allclose(teacher.predict(inputs)[0], model.predict(latent, deterministic=True)[0], atol=2e-6)
    value = expected(model, latent)[2]
    torch.testing.assert_close(teacher.value(torch.from_numpy(inputs)), value, atol=1e-5, rtol=1e-5)


def test_the_activation_can_be_told(tmp_path):
    agent("PPO, ELU").save(tmp_path / "agent.zip")
    inputs = torch.from_numpy(observations())
    found, told, wrong = (
        Teacher.load(tmp_path / "agent.zip", activation=activation).actions(inputs)
        for activation in (None, "ELU", "Tanh")
    )
    assert torch.equal(found, told)
    assert not torch.allclose(found, wrong, atol=1e-3)


@pytest.mark.parametrize("backbone", ["ddpg", "td3", "sac", "ppo"])
def test_our_own_agents_are_teachers(tmp_path, backbone):
    config = {"n_steps": 16, "batch_size": 8, "normalize_observation": True, "normalize_reward": True}
    config = {**config, "net_arch": (8,), "distill_batch_size": 8} if backbone == "ppo" else TINY
    student = DualStudent(POINT, backbone=backbone, config={**config, "eval_freq": 0, "n_eval_episodes": 1})
    student.learn(64)
    student.save(tmp_path / "agent.safetensors")
    best = student.learner_index("best")
    inputs = np.random.default_rng(0).standard_normal((10, student.observation_space.shape[0])).astype(np.float32)
    for source in (tmp_path / "agent.safetensors", student):
        teacher = Teacher.load(source, POINT)
        np.testing.assert_allclose(teacher.predict(inputs)[0], student.predict(inputs)[0], atol=2e-6)
        rows = torch.from_numpy(inputs).expand(2, -1, -1)
        values = student.learner.value(rows, student.learner.outputs(student.learner.actor, rows))[best]
        torch.testing.assert_close(teacher.value(rows[0]), values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backbone", ["ddpg", "td3", "sac", "ppo"])
def test_any_learner_of_a_run_can_be_the_best(tmp_path, monkeypatch, backbone):
    from policykd.teachers import own_run

    config = {"n_steps": 16, "batch_size": 8, "net_arch": (8,), "distill_batch_size": 8} if backbone == "ppo" else TINY
    student = DualStudent(POINT, backbone=backbone, config={**config, "eval_freq": 0, "n_eval_episodes": 1})
    student.learn(32)
    student.save(tmp_path / "agent.safetensors")
    inputs = np.random.default_rng(0).standard_normal((10, student.observation_space.shape[0])).astype(np.float32)
    for k in range(2):
        monkeypatch.setattr(own_run, "_best", lambda loaded, k=k: k)
        teacher = Teacher.load(tmp_path / "agent.safetensors", POINT)
        np.testing.assert_allclose(teacher.predict(inputs)[0], student.predict(inputs, learner=k)[0], atol=2e-6)


def test_a_learner_that_has_diverged_is_not_the_best_of_a_file(tmp_path):
    student = DualStudent(POINT, backbone="td3", config={**TINY, "eval_freq": 40, "n_eval_episodes": 1})
    student.learner.actor[0] = np.nan
    student.run.evaluations.append(student.evaluate())
    student.run.evaluation_steps.append(0)
    student.save(tmp_path / "agent.safetensors")
    asked = np.ones(student.observation_space.shape, np.float32)
    said = Teacher.load(tmp_path / "agent.safetensors", POINT).predict(asked)[0]
    np.testing.assert_allclose(said, student.predict(asked, learner=1)[0], atol=2e-6)


def test_a_run_folder_is_a_teacher(tmp_path):
    student = DualStudent(POINT, config=TINY, run_dir=tmp_path / "run").learn(40)
    inputs = np.zeros((1, student.observation_space.shape[0]), np.float32)
    np.testing.assert_allclose(Teacher.load(tmp_path / "run").predict(inputs)[0], student.predict(inputs)[0], atol=1e-6)
    learner = tmp_path / "run" / "dpd-ddpg" / "PolicyKD-PointReach-v0_2"  # one learner's folder, laid out as the zoo's
    second = student.predict(inputs, learner=1)[0]
    np.testing.assert_allclose(Teacher.load(learner).predict(inputs)[0], second, atol=1e-6)


def one(observation):
    assert observation.shape == (OBSERVATIONS,)
    return np.array([observation[0], -observation[1]])


class Several:
    """SB3's protocol, for one observation and for several."""

    def predict(self, observation, deterministic=True):
        assert deterministic
        return np.stack([observation[..., 0], -observation[..., 1]], -1), None


class Alone(Several):
    """A predict that returns the action and no state beside it."""

    def predict(self, observation, deterministic=True):
        return super().predict(observation, deterministic)[0]


class Module(torch.nn.Module):
    def forward(self, inputs):
        return torch.stack([inputs[:, 0], -inputs[:, 1]], 1)


@pytest.mark.parametrize("source", [one, Several(), Alone(), Module()])
def test_functions_and_modules_give_actions_in_the_tasks_units(source):
    teacher, inputs = Teacher.load(source, Lopsided), observations()
    low, high = Lopsided.action_space.low, Lopsided.action_space.high
    clipped = np.clip(np.stack([inputs[:, 0], -inputs[:, 1]], 1), low, high)
    np.testing.assert_allclose(teacher.predict(inputs)[0], clipped, atol=1e-6)
    np.testing.assert_allclose(teacher.actions(torch.from_numpy(inputs)), to_unit(clipped), atol=1e-6)
    mean, std = teacher.distribution(torch.from_numpy(inputs))
    assert std is None and torch.equal(mean, teacher.actions(torch.from_numpy(inputs)))
    assert teacher.value(torch.from_numpy(inputs)) is None


def test_actions_are_within_bounds_of_double_precision():
    """0.3 in float32 is more than 0.3."""

    class Double(Lopsided):
        action_space = gym.spaces.Box(-0.1, 0.3, (2,), np.float64)

    action, _ = Teacher.load(lambda o: np.full(2, 0.4), Double).predict(observations(1)[0])
    assert Double.action_space.contains(action) and np.array_equal(action, [0.3, 0.3])


def test_a_policy_of_sb3_acts_by_its_predict():
    model, inputs = agent("PPO"), observations()
    wanted = model.predict(inputs, deterministic=True)[0]
    np.testing.assert_allclose(Teacher.load(model.policy, Lopsided).predict(inputs)[0], wanted, atol=2e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda observation: observation[:ACTIONS],  # of a batch these would be two observations
        lambda observation: (observation - observation.mean())[..., :ACTIONS],  # and this would mix them
    ],
)
def test_a_function_that_would_take_a_batch_for_an_observation_is_asked_one_by_one(function):
    teacher, inputs = Teacher.load(function, Lopsided), observations()
    wanted = np.clip(np.stack([function(row) for row in inputs]), Lopsided.action_space.low, Lopsided.action_space.high)
    np.testing.assert_allclose(teacher.predict(inputs)[0], wanted, atol=1e-6)


@pytest.mark.parametrize("observation_map", [[6, 1, 2, 3, 4], lambda full: full[:, [6, 1, 2, 3, 4]]])
def test_a_teacher_may_read_other_observations_than_the_student(observation_map):
    class Wide(Lopsided):
        observation_space = type(Lopsided.observation_space)(-np.inf, np.inf, (7,), np.float32)

        def _observe(self):
            return self.np_random.standard_normal(7).astype(np.float32)

    model = agent("SAC")
    teacher = Teacher.load(model, Wide, observation_map=observation_map)
    assert teacher.observation_size == 7
    inputs = np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32)
    wanted = model.predict(inputs[:, [6, 1, 2, 3, 4]], deterministic=True)[0]
    np.testing.assert_allclose(teacher.predict(inputs)[0], wanted, atol=2e-6)
    assert teacher.score(Wide, 2, 0).returns.shape == (2,)
    with pytest.raises(PolicyKDError, match="reads 5 observations and gives 2 actions, Wide has 7 and 2"):
        Teacher.load(model, Wide)


def test_a_score_is_the_agents_return_beside_random_actions():
    teacher = Teacher.load(lambda observation: np.array([0.3, 0.3]), Lopsided)
    score = teacher.score(Lopsided, 6, seed=3)
    np.testing.assert_allclose(score.returns, 0.0, atol=1e-5)
    assert score.random_returns.mean() == pytest.approx(-10 * _distance(), rel=0.3)
    assert score.better_than_random and "6 episodes" in str(score)
    again, other = teacher.score(Lopsided, 6, seed=3), teacher.score(Lopsided, 6, seed=4)
    assert np.array_equal(score.random_returns, again.random_returns)
    assert not np.array_equal(score.random_returns, other.random_returns)
    assert len(set(score.random_returns)) == 6
    worst = Teacher.load(lambda observation: np.array([-2.0, 3.0]), Lopsided).score(Lopsided, 6, 3)
    assert not worst.better_than_random


def _distance():
    """E|a - 0.3| of uniform actions, summed over both dimensions."""
    total = 0.0
    for low, high in zip(Lopsided.action_space.low, Lopsided.action_space.high, strict=True):
        total += ((0.3 - low) ** 2 + (high - 0.3) ** 2) / (2 * (high - low))
    return total


@pytest.mark.parametrize(
    ("returns", "random", "better"),
    [
        ([3.0], [2.0], True),
        ([2.0], [2.0], False),
        ([1.0, 3.0], [0.0, 0.0], False),  # 2 above, standard error 1: exactly two of them
        ([1.1, 3.1], [0.0, 0.0], True),
        ([10.0, 10.0], [9.0, 9.0], True),
        ([np.nan, 10.0], [0.0, 0.0], False),
    ],
)
def test_better_than_random_means_by_two_standard_errors(returns, random, better):
    from policykd.teachers import TeacherScore

    assert TeacherScore("", "", np.array(returns), np.array(random)).better_than_random is better


ZOO = os.environ.get("POLICYKD_TEACHERS")


@pytest.mark.skipif(not ZOO or not Path(ZOO).is_dir(), reason="POLICYKD_TEACHERS names no folder of the zoo's agents")
@pytest.mark.parametrize(
    ("folder", "task", "least", "most"),
    [
        ("sac/HalfCheetah-v3_1", "HalfCheetah-v5", 9200, 9700),
        ("ppo/HalfCheetah-v3_1", "HalfCheetah-v5", 5600, 6100),
        ("tqc/Hopper-v3_1", "Hopper-v5", 3000, 3600),
        ("sac/Pendulum-v1_1", "Pendulum-v1", -250, -50),
    ],
)
def test_agents_of_the_zoo_return_what_they_did(folder, task, least, most):
    score = Teacher.load(Path(ZOO) / folder, task).score(task, 5, seed=0)
    assert least < score.mean < most
    assert score.better_than_random
