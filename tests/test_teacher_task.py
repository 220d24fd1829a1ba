"""A teacher acts on the task as it was trained: the zoo's settings beside it are applied, or refused with advice."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from policykd_envs.wrappers import SelectObservation
from sb3_agents import Lopsided, agent
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from policykd import PolicyKDError, Teacher
from policykd.teachers import zoo
from policykd.teachers.task import TIME_LEFT

MASK = np.array([1, 1, 0], np.float32)


class MaskVelocityWrapper(gym.ObservationWrapper):
    """The zoo's, for Pendulum."""

    def observation(self, observation):
        return observation * MASK


def pendulum_agent(folder, config, args=(), env_kwargs=None, wrap=MaskVelocityWrapper):
    """A zoo folder with an agent that was trained in a wrapper."""
    settings = folder / "Pendulum-v1_1" / "Pendulum-v1"
    settings.mkdir(parents=True)
    model = SAC("MlpPolicy", wrap(gym.make("Pendulum-v1")), seed=0, policy_kwargs={"net_arch": [4]}, buffer_size=9)
    model.policy.actor.mu.weight.data.mul_(20)
    model.save(folder / "Pendulum-v1_1" / "Pendulum-v1.zip")
    tag = "!!python/object/apply:collections.OrderedDict\n"
    for name, pairs in (("config", config), ("args", args)):
        lines = [f"{'- - -' if k == 0 else '  - -'} {key}\n    - {value}\n" for k, (key, value) in enumerate(pairs)]
        (settings / f"{name}.yml").write_text(tag + "".join(lines))
    if env_kwargs is not None:
        (settings / "env_kwargs.yml").write_text(env_kwargs)
    return folder / "Pendulum-v1_1", model


RAW = np.stack([gym.make("Pendulum-v1").reset(seed=seed)[0] for seed in range(20)])


def refused(source, env="Pendulum-v1", **options):
    with pytest.raises(PolicyKDError) as error:
        Teacher.load(source, env, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["rl_zoo3.wrappers.MaskVelocityWrapper", "utils.wrappers.MaskVelocityWrapper"])
def test_the_zoos_mask_of_velocities_is_applied(tmp_path, name):
    folder, model = pendulum_agent(tmp_path, [("env_wrapper", name), ("policy", "MlpPolicy")])
    wanted = model.predict(RAW * MASK, deterministic=True)[0]
    assert not np.allclose(wanted, model.predict(RAW, deterministic=True)[0], atol=1e-3)
    np.testing.assert_allclose(Teacher.load(folder, "Pendulum-v1").predict(RAW)[0], wanted, atol=1e-5)
    wrapped = Teacher.load(folder, lambda: MaskVelocityWrapper(gym.make("Pendulum-v1")))
    np.testing.assert_allclose(wrapped.predict(RAW * MASK)[0], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("wrapper", "said"),
    [
        (
            "my_package.Own",
            "was trained in Own() (my_package.Own), which only the task can apply: env=lambda: Own(",
        ),
        ("rl_zoo3.wrappers.HistoryWrapper", "HistoryWrapper(gym.make(...))"),
        ("sb3_contrib.common.wrappers.TimeFeatureWrapper", "the wrapper's test_mode"),
        ("my_package.MaskVelocityWrapper", "which only the task can apply"),
        (
            "my_package.TimeLimit",
            "was trained in TimeLimit() (my_package.TimeLimit), which only the task can apply",
        ),
        ("gym.wrappers_of_mine.ClipAction", "which only the task can apply"),
        ("!!python/name:my_package.Own ''", "was trained in Own() (my_package.Own)"),
        ("[{rl_zoo3.wrappers.FrameSkip: {skip: 2}}]", "env=lambda: FrameSkip(gym.make(...), skip=2); or"),
        ("[1]", "has no name in its env_wrapper: 1"),
    ],
)
def test_a_wrapper_that_only_the_task_can_apply_is_refused_with_advice(tmp_path, wrapper, said):
    folder, _ = pendulum_agent(tmp_path, [("env_wrapper", wrapper)])
    assert said in refused(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"vec_env_wrapper": "[{my_mod.ScaleObs: {k: 3}}]"}, "in ScaleObs(k=3) (my_mod.ScaleObs), which only the task"),
        ({"vec_env_wrapper": "stable_baselines3.common.vec_env.VecMonitor"}, None),
        ({"vec_env_wrapper": "[{stable_baselines3.common.vec_env.VecFrameStack: {n_stack: 4}}]"}, "on 4 stacked"),
        ({"frame_stack": "'4'"}, "was trained on 4 stacked observations"),
        ({"frame_stack": "four"}, "config.yml has a frame_stack that is not a number: 'four'"),
    ],
)
def test_what_wraps_the_vector_of_environments_counts(tmp_path, caplog, config, said):
    stacks = "stacked" in (said or "")
    folder, _ = pendulum_agent(tmp_path, config.items(), wrap=lambda env: stacked(4) if stacks else env)
    if said is None:
        Teacher.load(folder, "Pendulum-v1")
        assert not caplog.text
    else:
        assert said in refused(folder)


def test_env_kwargs_that_are_a_text_are_one_line(tmp_path):
    folder, _ = pendulum_agent(tmp_path, [], [("env_kwargs", "\"{'g': 5.0}\"")], wrap=lambda env: env)
    assert "args.yml has env_kwargs that are not settings: \"{'g': 5.0}\"" in refused(folder)


class FrameSkip(gym.Wrapper):
    def __init__(self, env, skip=4):
        super().__init__(env)
        self._skip = skip


def test_options_of_wrappers_that_leave_observations_and_actions_alone_do_not_count(tmp_path):
    limits = (
        "[{gymnasium.wrappers.TimeLimit: {max_episode_steps: 9}}, {gymnasium.wrappers.ClipReward: {max_reward: 1}}]"
    )
    folder, _ = pendulum_agent(tmp_path, [("env_wrapper", limits)], wrap=lambda env: env)
    Teacher.load(folder, "Pendulum-v1")
    Teacher.load(folder, lambda: gym.wrappers.ClipReward(gym.make("Pendulum-v1"), -5, 5))


def test_options_of_the_tasks_own_wrapper_are_the_trainings(tmp_path, caplog):
    zoos = "[{rl_zoo3.wrappers.FrameSkip: {skip: 8}}, {gymnasium.wrappers.RescaleAction: {min_action: -0.5}}]"
    folder, _ = pendulum_agent(tmp_path, [("env_wrapper", zoos)], wrap=lambda env: env)

    def task(least=-0.5, **options):
        return lambda: gym.wrappers.RescaleAction(FrameSkip(gym.make("Pendulum-v1"), **options), least, 1)

    Teacher.load(folder, task(skip=8))
    assert "which cannot be read from it" not in caplog.text
    assert "was trained in FrameSkip(skip=8), but the task's FrameSkip has skip=4" in refused(folder, task())
    assert "the task's RescaleAction has min_action=-1" in refused(folder, task(-1, skip=8))

    config = folder / "Pendulum-v1" / "config.yml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(zoos, "[{policykd_envs.wrappers.SelectObservation: {columns: [2, 0, 1]}}]"))
    Teacher.load(folder, lambda: SelectObservation(gym.make("Pendulum-v1"), (2, 0, 1)))
    assert "which cannot be read from it" not in caplog.text

    class Own(FrameSkip):
        def __init__(self, env, number):
            super().__init__(env, number)

    config.write_text(text.replace(zoos, "[{my_mod.Own: {number: 8}}]"))
    Teacher.load(folder, lambda: Own(gym.make("Pendulum-v1"), 8))
    said = "was trained in Own(number=8): check that the task's has the same number, which cannot be read from it"
    assert said in caplog.text


def test_a_task_in_the_same_wrapper_or_an_observation_map_is_accepted(tmp_path):
    class Own(MaskVelocityWrapper):
        pass

    folder, model = pendulum_agent(tmp_path, [("env_wrapper", "my_package.Own")], wrap=Own)
    wanted = model.predict(RAW * MASK, deterministic=True)[0]
    inside = Teacher.load(folder, lambda: Own(gym.make("Pendulum-v1")))
    np.testing.assert_allclose(inside.predict(RAW * MASK)[0], wanted, atol=1e-5)
    mapped = Teacher.load(folder, "Pendulum-v1", observation_map=lambda o: o * torch.from_numpy(MASK))
    np.testing.assert_allclose(mapped.predict(RAW)[0], wanted, atol=1e-5)


@pytest.mark.parametrize(
    "wrapper", ["stable_baselines3.common.monitor.Monitor", "gymnasium.wrappers.RescaleAction", "null"]
)
def test_wrappers_that_change_nothing_here_are_silent(tmp_path, caplog, wrapper):
    def wrap(env):
        return gym.wrappers.RescaleAction(env, -1, 1) if "Rescale" in wrapper else env

    folder, model = pendulum_agent(tmp_path, [("env_wrapper", wrapper)], wrap=wrap)
    scale = 2 if "Rescale" in wrapper else 1
    wanted = scale * model.predict(RAW, deterministic=True)[0]
    np.testing.assert_allclose(Teacher.load(folder, "Pendulum-v1").predict(RAW)[0], wanted, atol=1e-5)
    assert not caplog.text


def stacked(n=2):
    return gym.wrappers.FlattenObservation(gym.wrappers.FrameStackObservation(gym.make("Pendulum-v1"), n))


def test_stacked_observations_are_refused_where_the_task_does_not_stack(tmp_path):
    folder, _ = pendulum_agent(tmp_path, [("frame_stack", 2)], wrap=lambda env: stacked())
    assert "was trained on 2 stacked observations (frame_stack): wrap the task" in refused(folder)
    Teacher.load(folder, stacked)


def in_sb3(normalised_first):
    """The vectors of the zoo, which stacks normalised observations, or those of a VecNormalize around the stack."""
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    return VecFrameStack(VecNormalize(env), 3) if normalised_first else VecNormalize(VecFrameStack(env, 3))


@pytest.mark.parametrize("how", ["zoo", "live"])
@pytest.mark.parametrize("normalised_first", [True, False])
def test_a_stack_and_a_normaliser_act_as_in_sb3_from_the_first_step(tmp_path, caplog, how, normalised_first):
    env = in_sb3(normalised_first)
    model = PPO("MlpPolicy", env, n_steps=64, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu").learn(128)
    normalizer = model.get_vec_normalize_env()
    normalizer.training = False
    mean = normalizer.obs_rms.mean.astype(np.float32)
    (tmp_path / "Pendulum-v1").mkdir()
    model.save(tmp_path / "Pendulum-v1.zip")
    normalizer.save(tmp_path / "Pendulum-v1" / "vecnormalize.pkl")
    (tmp_path / "Pendulum-v1" / "config.yml").write_text("frame_stack: 3\nnormalize: true\n")
    source = tmp_path / "Pendulum-v1.zip" if how == "zoo" else model

    def stacked(padding):
        return lambda: gym.wrappers.FrameStackObservation(gym.make("Pendulum-v1"), 3, padding_type=padding)

    right = stacked(mean if normalised_first else "zero")
    teacher = Teacher.load(source, right)
    here, theirs = right(), env
    theirs.seed(7)
    seen, (observation, _) = theirs.reset(), here.reset(seed=7)
    for _ in range(5):
        action = model.predict(seen, deterministic=True)[0]
        np.testing.assert_allclose(teacher.predict(observation)[0], action[0], atol=1e-5)
        seen, observation = theirs.step(action)[0], here.step(action[0])[0]
    said = "padded the start of its episodes with zeros" if how == "zoo" else "was trained on 3 stacked observations"
    assert (said in caplog.text) == (how == "live")
    Teacher.load(source, stacked("reset"))
    assert said in caplog.text


def test_a_normaliser_that_may_belong_before_a_stack_says_how_to_tell(tmp_path):
    model = PPO("MlpPolicy", in_sb3(True), policy_kwargs={"net_arch": [8]}, device="cpu")
    model.save(tmp_path / "agent.zip")
    model.get_vec_normalize_env().save(tmp_path / "agent_vecnormalize.pkl")
    assert "or 3 are stacked after it (VecFrameStack): then give the live model" in refused(tmp_path / "agent.zip")


@pytest.mark.parametrize("place", ["env_kwargs", "args", "config"])
def test_other_settings_of_the_task_are_named(tmp_path, caplog, place):
    args = [("env", "Pendulum-v1"), ("env_kwargs", "{g: 5.0}" if place == "args" else "null")]
    config = [("env_kwargs", "{g: 5.0}")] if place == "config" else []
    folder, _ = pendulum_agent(tmp_path, config, args, "g: 5.0\n" if place == "env_kwargs" else None, lambda env: env)
    Teacher.load(folder, gym.make("Pendulum-v1", g=5.0))
    assert not caplog.text
    Teacher.load(folder, "Pendulum-v1")
    assert "was trained on a task with g=5.0, but Pendulum-v1 is made without" in caplog.text


def test_settings_of_the_task_are_the_same_as_lists_and_as_tuples(tmp_path, caplog):
    class Ranged(Lopsided):
        def __init__(self, healthy=(0.0, 1.0)):
            super().__init__()

    gym.register("Ranged-v0", Ranged)
    settings = tmp_path / "agent"
    settings.mkdir()
    agent("TD3").save(tmp_path / "agent.zip")
    for written in ("[0.5, 2.0]", "!!python/tuple [0.5, 2.0]"):
        (settings / "args.yml").write_text(f"env: Ranged-v0\nenv_kwargs: {{healthy: {written}}}\n")
        Teacher.load(tmp_path / "agent.zip", gym.make("Ranged-v0", healthy=(0.5, 2.0)))
        assert not caplog.text
        Teacher.load(tmp_path / "agent.zip", gym.make("Ranged-v0", healthy=(0.5, 3.0)))
        assert "with healthy=[0.5, 2.0]" in caplog.text
        caplog.clear()
    gym.registry.pop("Ranged-v0")


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['true']", "a: [", "!!python/name:os.system ''", "[a, b]", "text"]
)
def test_settings_that_are_damaged_or_programs_are_refused(tmp_path, text):
    folder, _ = pendulum_agent(tmp_path, [])
    (folder / "Pendulum-v1" / "config.yml").write_text(text)
    assert "config.yml cannot be read as settings" in refused(folder)


def test_what_was_recorded_is_of_the_agents_own_moment(tmp_path):
    np.savez(tmp_path / "evaluations.npz", timesteps=[10, 20, 30], results=[[1.0, 3.0], [9.0, 9.0], [5.0, 5.0]])
    moments = {"best_model": 9.0, "last": 5.0, "rl_model_11_steps": 2.0}
    for name, mean in moments.items():
        assert zoo.recorded(tmp_path / f"{name}.zip").mean == mean


def test_other_action_bounds_are_named_with_their_factor(tmp_path, caplog):
    class Weak(gym.ActionWrapper):
        def __init__(self, env, low=-1, high=1):
            super().__init__(env)
            self.action_space = gym.spaces.Box(low, high, (1,), np.float32)

        def action(self, action):
            return action

    model = PPO("MlpPolicy", Weak(gym.make("Pendulum-v1")), policy_kwargs={"net_arch": [4]}, seed=0, device="cpu")
    model.save(tmp_path / "agent.zip")
    teacher = Teacher.load(tmp_path / "agent.zip", "Pendulum-v1")
    said = "trained with actions from -1 to 1, and Pendulum-v1 takes -2 to 2: its actions are scaled by 2"
    assert said in caplog.text
    np.testing.assert_allclose(teacher.predict(RAW)[0], 2 * model.predict(RAW, deterministic=True)[0], atol=1e-5)
    assert "shifted" not in caplog.text
    Teacher.load(SAC("MlpPolicy", Weak(gym.make("Pendulum-v1"), 0, 4), buffer_size=9), "Pendulum-v1")
    assert "from 0 to 4, and Pendulum-v1 takes -2 to 2: its actions are scaled by 1 and shifted" in caplog.text
    caplog.clear()
    Teacher.load(agent("TD3"), Lopsided, vecnormalize=False)
    assert not caplog.text


def test_a_live_agent_that_was_trained_in_wrappers_which_the_task_lacks_is_named(caplog):
    model = PPO("MlpPolicy", MaskVelocityWrapper(gym.make("Pendulum-v1")), policy_kwargs={"net_arch": [4]})
    Teacher.load(model, lambda: MaskVelocityWrapper(gym.make("Pendulum-v1")))
    Teacher.load(model, "Pendulum-v1", observation_map=lambda o: o * torch.from_numpy(MASK))
    assert not caplog.text
    Teacher.load(model, "Pendulum-v1")
    assert (
        "a live PPO was trained in MaskVelocityWrapper, but the task given by env= is not wrapped in it" in caplog.text
    )


def test_a_live_agent_that_was_trained_in_a_wrapper_of_whatever_base_is_named(caplog):
    """What a plain ``gym.Wrapper`` does, only its code tells; one of rewards changes no policy."""

    class Twice(gym.RewardWrapper):
        def reward(self, reward):
            return 2 * reward

    model = PPO("MlpPolicy", Twice(FrameSkip(gym.make("Pendulum-v1"))), policy_kwargs={"net_arch": [4]}, device="cpu")
    Teacher.load(model, lambda: FrameSkip(gym.make("Pendulum-v1")))
    assert not caplog.text
    Teacher.load(model, "Pendulum-v1")
    assert "a live PPO was trained in FrameSkip, but the task given by env= is not wrapped in it" in caplog.text


def test_a_folder_that_names_another_task_inside_is_named(tmp_path, caplog):
    folder, _ = pendulum_agent(tmp_path, [], [("env", "Acrobat-v1")], wrap=lambda env: env)
    renamed = folder.rename(tmp_path / "agent")
    (renamed / "Pendulum-v1").rename(renamed / "best")
    (renamed / "Pendulum-v1.zip").rename(renamed / "best.zip")
    Teacher.load(renamed, "Pendulum-v1")
    assert "was trained on Acrobat but teaches Pendulum" in caplog.text


@pytest.mark.parametrize("task", ["Ant", "Humanoid", "HumanoidStandup", "Reacher", "InvertedDoublePendulum"])
def test_an_older_versions_observations_are_made_of_version_5(task):
    from policykd.teachers.versions import CONTACT_FORCES, older

    options = {"use_contact_forces": True} if task == "Ant" else {}
    old, new = gym.make(f"{task}-v4", **options), gym.make(f"{task}-v5")
    pairs = [(old.reset(seed=1)[0], new.reset(seed=1)[0])]
    for _ in range(5):
        action = old.action_space.sample()
        pairs.append((old.step(action)[0], new.step(action)[0]))
    before, after = (torch.from_numpy(np.stack(each)) for each in zip(*pairs, strict=True))
    for own in (after, before.clone()):  # an older version's own observations are not made anew of themselves
        torch.testing.assert_close(older("v4", task, own.shape[1])(own), before, rtol=0, atol=1e-9)
    without = before.clone()
    if forces := CONTACT_FORCES.get(task):
        without[:, -forces:] = 0.0
    for own in (after, before):
        torch.testing.assert_close(older("v3", task, own.shape[1])(own), without, rtol=0, atol=1e-9)


def test_the_time_that_the_error_gives_is_that_of_the_wrappers_test_mode():
    wrapped = TimeFeatureWrapper(gym.make("Pendulum-v1"), test_mode=True)
    observation, _ = wrapped.reset(seed=0)
    made = eval(TIME_LEFT)(torch.from_numpy(observation[None, :-1]))
    np.testing.assert_array_equal(made.numpy()[0], observation)


def test_objects_in_settings_are_not_made_and_do_not_count(tmp_path, caplog):
    kwargs = "{activation_fn: !!python/name:torch.nn.modules.activation.ReLU '', other: !!python/object:my.Own {a: 1}}"
    number = "!!python/object/apply:numpy.core.multiarray.scalar [!!python/object/apply:numpy.dtype {args: [f8]}, a]"
    settings = [("policy_kwargs", kwargs), ("learning_rate", number)]
    folder, _ = pendulum_agent(tmp_path, settings, wrap=lambda env: env)
    Teacher.load(folder, "Pendulum-v1")
    assert not caplog.text


def test_the_error_gives_the_map_that_works():
    class Old(Lopsided):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (111,), np.float32)
        action_space = gym.spaces.Box(-1, 1, (8,), np.float32)

    model = agent("TD3", Old())
    assert 'give observation_map="v3" (contact forces of 0' in refused(model, "Ant-v5", vecnormalize=False)
    teacher = Teacher.load(model, "Ant-v5", vecnormalize=False, observation_map="v3")
    raw = np.random.default_rng(0).standard_normal((4, 105)).astype(np.float32)
    old = np.concatenate([raw[:, :27], np.zeros((4, 84), np.float32)], 1)
    np.testing.assert_allclose(teacher.predict(raw)[0], model.predict(old, deterministic=True)[0], atol=1e-5)
    assert "observation_map: 'v9' of Ant is unknown" in refused(model, "Ant-v5", observation_map="v9")
    said = "'v3' makes 111 observations of Ant-v5's 105, and the task has 27: make Ant-v5"
    assert said in refused(model, "Ant-v4", vecnormalize=False, observation_map="v3")
