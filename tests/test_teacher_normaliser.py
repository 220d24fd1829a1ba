"""Every teacher has its own normaliser: found under all names, never a neighbour's, never dropped."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_agents import Lopsided, agent, observations
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from policykd import PolicyKDError, Teacher


def trained(seed=0, normalised=True, scale=100.0):
    """A PPO that has learnt for a moment, behind a VecNormalize or not."""

    class Far(gym.ObservationWrapper):
        def observation(self, observation):
            return observation * scale

    env = DummyVecEnv([lambda: Far(Lopsided())])
    env = VecNormalize(env) if normalised else env
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=seed, policy_kwargs={"net_arch": [4]})
    model.learn(8)
    model.policy.action_net.weight.data.mul_(20)
    if normalised:
        env.training = False
    return model, env, lambda: Far(Lopsided())


def wanted(model, env, raw):
    return model.predict(env.normalize_obs(raw), deterministic=True)[0]


RAW = 100 * observations()


@pytest.mark.parametrize(
    ("agent_file", "statistics"),
    [
        ("rl_model_8_steps.zip", "rl_model_vecnormalize_8_steps.pkl"),
        ("other_prefix_8_steps.zip", "other_prefix_vecnormalize_8_steps.pkl"),
        ("model.zip", "model_vecnormalize.pkl"),
        ("model.zip", "model_vec_normalize.pkl"),
        ("model.zip", "vecnormalize_model.pkl"),
        ("model.zip", "model/vecnormalize.pkl"),
        ("model.zip", "vec_normalize.pkl"),
        ("Far-v0.zip", "Far-v0/vecnormalize.pkl"),
        ("best_model.zip", "Far-v0/vecnormalize.pkl"),
        ("rl_model_8_steps.zip", "Far-v0/vecnormalize.pkl"),
        ("rl_model_8_steps.zip", "rl_model_vecnormalize.pkl"),
    ],
)
def test_a_normaliser_is_found_under_every_name(tmp_path, caplog, agent_file, statistics):
    model, env, task = trained()
    folder = tmp_path / "Far-v0_1"
    (folder / statistics).parent.mkdir(parents=True)
    model.save(folder / agent_file)
    env.save(folder / statistics)
    teacher = Teacher.load(folder / agent_file, task)
    np.testing.assert_allclose(teacher.predict(RAW)[0], wanted(model, env, RAW), atol=1e-5)
    assert not teacher.missing_normaliser
    assert ("those from the end of its run are used" in caplog.text) == (
        agent_file[:8] == "rl_model" and "8" not in statistics
    )


def test_each_checkpoint_takes_its_own(tmp_path, caplog):
    models = {steps: trained(seed=steps, scale=50.0 * steps) for steps in (1, 2)}
    for steps, (model, env, _) in models.items():
        model.save(tmp_path / f"rl_model_{steps}_steps.zip")
        env.save(tmp_path / f"rl_model_vecnormalize_{steps}_steps.pkl")
    models[1][0].save(tmp_path / "rl_model_3_steps.zip")  # without one
    for steps, (model, env, task) in models.items():
        teacher = Teacher.load(tmp_path / f"rl_model_{steps}_steps.zip", task)
        np.testing.assert_allclose(teacher.predict(RAW)[0], wanted(model, env, RAW), atol=1e-5)
    assert not caplog.text
    assert Teacher.load(tmp_path / "rl_model_3_steps.zip", models[1][2]).missing_normaliser
    assert "there is no vecnormalize.pkl" in caplog.text


def test_a_neighbours_normaliser_is_not_taken(tmp_path, caplog):
    (model, env, task), (plain, _, _) = trained(), trained(normalised=False)
    model.save(tmp_path / "normalised.zip")
    env.save(tmp_path / "vec_normalize.pkl")
    plain.save(tmp_path / "plain.zip")
    agent("SAC").save(tmp_path / "sac.zip")
    found = Teacher.load(tmp_path / "normalised.zip", task)
    np.testing.assert_allclose(found.predict(RAW)[0], wanted(model, env, RAW), atol=1e-5)
    for name, own in (("plain", plain), ("sac", agent("SAC"))):
        teacher = Teacher.load(tmp_path / f"{name}.zip", Lopsided)
        np.testing.assert_allclose(teacher.predict(RAW)[0], own.predict(RAW, deterministic=True)[0], atol=1e-5)
        assert f"{name}.zip was trained without VecNormalize" in caplog.text


def test_whose_a_normaliser_is_is_not_guessed(tmp_path):
    for seed, name in enumerate("ab"):
        model, env, task = trained(seed)
        model.save(tmp_path / f"{name}.zip")
    env.save(tmp_path / "vecnormalize.pkl")
    with pytest.raises(
        PolicyKDError, match=r"may belong to another agent in .*: give vecnormalize=FILE, or vecnormalize=Fa"
    ):
        Teacher.load(tmp_path / "a.zip", task)
    given = Teacher.load(tmp_path / "b.zip", task, vecnormalize=tmp_path / "vecnormalize.pkl")
    np.testing.assert_allclose(given.predict(RAW)[0], wanted(model, env, RAW), atol=1e-5)
    none = Teacher.load(tmp_path / "b.zip", task, vecnormalize=False)
    np.testing.assert_allclose(none.predict(RAW)[0], model.predict(RAW, deterministic=True)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "statistics", "owner"),
    [
        ("best_model", "rl_model_vecnormalize_200_steps", None),
        ("model", "rl_model_vecnormalize_200_steps", None),
        ("final_model", "model_vecnormalize", None),
        ("best_model", "rl_model_vecnormalize_200_steps", "rl_model_200_steps"),
    ],
)
def test_statistics_that_may_be_an_off_policy_agents_are_not_passed_over(tmp_path, name, statistics, owner):
    """Its zip does not tell whether it was normalised; a file named after an agent of another run is not its own."""
    _, env, task = trained()
    off = agent("SAC")
    for stem in [name] if owner is None else [name, owner]:
        off.start_time = 3
        off.save(tmp_path / f"{stem}.zip")
    env.save(tmp_path / f"{statistics}.pkl")
    with pytest.raises(PolicyKDError, match=rf"{statistics}.pkl may hold the statistics of {name}.zip: give vecnorm"):
        Teacher.load(tmp_path / f"{name}.zip", task)
    assert not Teacher.load(tmp_path / f"{name}.zip", task, vecnormalize=False).missing_normaliser
    if owner is not None:
        off.start_time = 4
        off.save(tmp_path / f"{owner}.zip")
        assert not Teacher.load(tmp_path / f"{name}.zip", task).policy.normalisers


@pytest.mark.parametrize(
    ("agent_file", "statistics"),
    [
        *(("model.zip", name) for name in ("vecnorm.pkl", "VecNormalize.pkl", "env_stats.pickle", "statistics")),
        ("best_model/best_model.zip", "vec_normalize.pkl"),
        ("checkpoints/rl_model_8_steps.zip", "vecnormalize.pkl"),
    ],
)
def test_statistics_under_other_names_are_not_passed_over(tmp_path, caplog, agent_file, statistics):
    model, env, task = trained()
    path = tmp_path / agent_file
    path.parent.mkdir(exist_ok=True)
    (tmp_path / "replay.pkl").write_bytes(b"\x80\x04N.")
    agent("SAC").save(path)
    assert not Teacher.load(path, task).policy.normalisers
    env.save(tmp_path / statistics)
    with pytest.raises(PolicyKDError, match=f"{statistics} may hold the statistics of {path.name}: give vecnormalize="):
        Teacher.load(path, task)
    model.save(path)
    assert Teacher.load(path, task).missing_normaliser
    assert f"{statistics} may be it: vecnormalize=FILE" in caplog.text
    trained(normalised=False)[0].save(path)
    caplog.clear()
    assert not Teacher.load(path, task).missing_normaliser
    assert "may be it" not in caplog.text


def test_statistics_whose_name_begins_with_another_agents_are_that_agents(tmp_path):
    _, env, task = trained()
    for name in ("mine", "other"):
        agent("SAC").save(tmp_path / f"{name}.zip")
    env.save(tmp_path / "other_vecnormalize_stats.pkl")
    assert not Teacher.load(tmp_path / "mine.zip", task).policy.normalisers


def test_checkpoints_of_one_run_share_its_normaliser(tmp_path):
    model, env, task = trained()
    for name in ("best_model.zip", "final_model.zip"):
        model.save(tmp_path / name)
    env.save(tmp_path / "vecnormalize.pkl")
    np.testing.assert_allclose(Teacher.load(tmp_path, task).predict(RAW)[0], wanted(model, env, RAW), atol=1e-5)


def test_a_zip_that_was_trained_normalised_and_has_no_statistics_says_so(tmp_path, caplog):
    model, _, task = trained()
    model.save(tmp_path / "agent.zip")
    assert Teacher.load(tmp_path / "agent.zip", task).missing_normaliser
    assert "there is no vecnormalize.pkl" in caplog.text


@pytest.mark.parametrize("kind", ["loaded", "policy", "function", "module"])
def test_a_given_normaliser_is_never_dropped(tmp_path, caplog, kind):
    model, env, task = trained()
    model.save(tmp_path / "agent.zip")
    env.save(tmp_path / "elsewhere.pkl")

    class Module(torch.nn.Module):
        def forward(self, inputs):
            return torch.from_numpy(model.predict(inputs.numpy(), deterministic=True)[0])

    source = {
        "loaded": PPO.load(tmp_path / "agent.zip", device="cpu"),
        "policy": model.policy,
        "function": lambda o: model.predict(o, deterministic=True)[0],
        "module": Module(),
    }[kind]
    for given in (tmp_path / "elsewhere.pkl", env):
        teacher = Teacher.load(source, task, vecnormalize=given)
        np.testing.assert_allclose(teacher.predict(RAW)[0], wanted(model, env, RAW), atol=1e-5)
    with pytest.raises(PolicyKDError, match="vecnormalize: there is no file"):
        Teacher.load(source, task, vecnormalize=tmp_path / "missing.pkl")
    assert not caplog.text
    if kind == "loaded":
        assert Teacher.load(source, task).missing_normaliser
        assert "its environment has no VecNormalize: give vecnormalize=FILE" in caplog.text
    elif kind == "policy":
        Teacher.load(source, task)
        assert "has no environment, so it is unknown whether its observations were normalised" in caplog.text


def test_a_normaliser_is_given_as_a_file_or_an_environment_that_has_one():
    model, env, task = trained()
    teacher = Teacher.load(model.policy, task, vecnormalize=VecMonitor(env))
    np.testing.assert_allclose(teacher.predict(RAW)[0], wanted(model, env, RAW), atol=1e-5)
    for other in (True, env.obs_rms, DummyVecEnv([task])):
        with pytest.raises(
            PolicyKDError, match=f"vecnormalize: got a {type(other).__name__}; it must be a file, a live VecNorm"
        ):
            Teacher.load(model, task, vecnormalize=other)


def test_two_normalisers_on_one_another_are_both_applied_live_and_refused_from_a_file(tmp_path):
    class Far(gym.ObservationWrapper):
        def observation(self, observation):
            return observation * 100 + 10_000

    def task():
        return Far(Lopsided())

    inner = VecNormalize(DummyVecEnv([task]), clip_obs=2.0)
    outer = VecNormalize(VecMonitor(inner))
    model = PPO("MlpPolicy", outer, n_steps=64, batch_size=64, n_epochs=1, seed=0, policy_kwargs={"net_arch": [4]})
    model.learn(64)
    inner.training = outer.training = False
    raw = RAW + 10_000
    expected = model.predict(outer.normalize_obs(inner.normalize_obs(raw)), deterministic=True)[0]
    teacher = Teacher.load(model, task)
    np.testing.assert_allclose(teacher.predict(raw)[0], expected, atol=1e-5)
    scale = np.sqrt(inner.ret_rms.var + inner.epsilon) * np.sqrt(outer.ret_rms.var + outer.epsilon)
    normalised = torch.from_numpy(outer.normalize_obs(inner.normalize_obs(raw)))
    with torch.no_grad():
        value = model.policy.predict_values(normalised).squeeze(1) * scale
    torch.testing.assert_close(teacher.value(torch.from_numpy(raw)), value.float(), atol=1e-4, rtol=1e-4)
    model.save(tmp_path / "agent.zip")
    outer.save(tmp_path / "vecnormalize.pkl")  # SB3 saves the outer one alone
    with pytest.raises(PolicyKDError, match="VecNormalize whose statistics do not match these observations"):
        Teacher.load(tmp_path / "agent.zip", task)


@pytest.mark.parametrize(("scale", "warned"), [(20.0, True), (1.0, False)])
def test_statistics_of_what_was_normalised_already_are_named(tmp_path, caplog, scale, warned):
    """Starts that are far for them, and not so far as to refuse them."""

    class Around0(Lopsided):
        def _observe(self):
            return self.np_random.uniform(-scale, scale, 5).astype(np.float32)

    env = VecNormalize(DummyVecEnv([Around0]))
    env.obs_rms.mean, env.obs_rms.var = np.full(5, 0.03), np.linspace(0.94, 1.03, 5)
    agent("PPO").save(tmp_path / "agent.zip")
    env.save(tmp_path / "agent_vecnormalize.pkl")
    Teacher.load(tmp_path / "agent.zip", Around0)
    assert ("it wraps another VecNormalize, which is missing" in caplog.text) == warned


def test_a_wrapper_between_agent_and_environment_is_named(caplog):
    class Shifted(VecEnvWrapper):
        def reset(self):
            return self.venv.reset() + 1

        def step_wait(self):
            observations, *rest = self.venv.step_wait()
            return observations + 1, *rest

    model = PPO("MlpPolicy", Shifted(DummyVecEnv([Lopsided])), policy_kwargs={"net_arch": [4]}, device="cpu")
    Teacher.load(model, Lopsided)
    assert "was trained with Shifted, which is not applied" in caplog.text


def test_distill_takes_a_normaliser(tmp_path, monkeypatch):
    from policykd.cli import distill, distill_run
    from policykd.teachers import Teacher

    seen = {}

    def load(source, env, **options):
        seen.update(options)
        raise PolicyKDError("enough")

    monkeypatch.setattr(Teacher, "load", load)
    words = ["--teacher", "a.zip", "--env", "Pendulum-v1", "--vecnormalize", str(tmp_path / "v.pkl")]
    with pytest.raises(PolicyKDError, match="enough"):
        distill_run.run(distill.read(words))
    assert seen["vecnormalize"] == tmp_path / "v.pkl"
    with pytest.raises(PolicyKDError, match="vecnormalize: applies to a single teacher"):
        distill_run.run(distill.read([*words, "--teacher", "a.zip", "b.zip"]))


def test_a_teacher_far_below_its_record_is_named(tmp_path, caplog):
    agent("PPO").save(tmp_path / "agent.zip")
    folder = tmp_path
    np.savez(folder / "evaluations.npz", timesteps=[1, 2], results=[[-100.0] * 3, [29.0, 30.0, 31.0]])
    teacher = Teacher.load(folder / "agent.zip", Lopsided)
    score = teacher.score(Lopsided, 2, 0)
    assert "evaluations.npz recorded 30.0: most likely its vecnormalize.pkl is missing" in caplog.text
    caplog.clear()
    np.savez(folder / "evaluations.npz", timesteps=[1], results=[[score.mean]])
    Teacher.load(folder / "agent.zip", Lopsided).score(Lopsided, 2, 0)
    assert "recorded" not in caplog.text
    (folder / "evaluations.npz").unlink()
    (folder / "results.json").write_text('{"mean_reward": 30.0, "std_reward": 0.1}')
    Teacher.load(folder / "agent.zip", Lopsided).score(Lopsided, 2, 0)
    assert "results.json recorded 30.0" in caplog.text
    for damaged in ("{", '{"mean_reward": "x"}'):
        (folder / "results.json").write_text(damaged)
        Teacher.load(folder / "agent.zip", Lopsided)
