"""A teacher of SB3 acts just as the agent's own predict does, or it is refused: never another policy without a word."""

import functools
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sb3_agents import ACTIONS, OBSERVATIONS, Lopsided, agent, observations
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from policykd import PolicyKDError, Teacher
from policykd.teachers import equivalence
from policykd.teachers.policy import Policy


class ELU(nn.Module):
    """A user's own, named like torch's."""

    def forward(self, inputs):
        return torch.where(inputs > 0, 3 * inputs, -0.3 * inputs)


class Scaled(BaseFeaturesExtractor):
    """Leaves no tensor."""

    def __init__(self, space):
        super().__init__(space, space.shape[0])

    def forward(self, inputs):
        return inputs.flip(-1) * 0.3


class Wider(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 2 * space.shape[0])

    def forward(self, inputs):
        return torch.cat((inputs.sin(), inputs.cos()), -1)


class WithLayer(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 4)
        self.net = nn.Sequential(nn.Linear(space.shape[0], 4), nn.ReLU())

    def forward(self, inputs):
        return self.net(inputs)


class Halved(ActorCriticPolicy):
    def _predict(self, observation, deterministic=False):
        return super()._predict(observation, deterministic) / 2


class Shifted(ActorCriticPolicy):
    def get_distribution(self, obs):
        return super().get_distribution(obs + 1)


class Flipped(SACPolicy):
    def _predict(self, observation, deterministic=False):
        return -super()._predict(observation, deterministic)


class Same(ActorCriticPolicy):
    """A class of its own that changes nothing."""


class FarExtractor(FlattenExtractor):
    """Like SB3's own but far out."""

    def forward(self, observations):
        return super().forward(observations).clamp(-50, 50)


class FarPolicy(ActorCriticPolicy):
    def _predict(self, observation, deterministic=False):
        actions = super()._predict(observation, deterministic)
        return torch.where(observation[:, :1] > 60, torch.zeros_like(actions), actions)


class RareDistribution(DiagGaussianDistribution):
    """Like SB3's own but at one action."""

    def mode(self):
        mode = super().mode()
        return torch.where((mode - self.rare).abs() < 1e-5, mode + 0.1, mode)


class FarPPO(PPO):
    def predict(self, observation, *arguments, **options):
        return super().predict(np.clip(observation, -50, 50), *arguments, **options)


def leaky():
    return nn.LeakyReLU(0.3)


ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.SELU, nn.LeakyReLU, nn.Hardtanh, nn.Identity]
FOREIGN = [functools.partial(nn.LeakyReLU, 0.3), lambda: nn.LeakyReLU(0.3), leaky, ELU, nn.PReLU, nn.Softmax]
EXTRACTORS = [None, FlattenExtractor, Scaled, Wider, WithLayer]
ALGORITHMS = ["PPO", "A2C", "SAC", "TD3", "DDPG", "TQC", "TRPO", "ARS", "CrossQ"]
OWN_POLICIES = {"PPO": [Halved, Shifted, Same], "A2C": [Halved], "TRPO": [Shifted], "SAC": [Flipped]}
HEADS = ("action_net.weight", "action_net.2.weight", "action_net.0.weight", "mu.weight", "mu.0.weight")


OFF_POLICY = ("SAC", "TD3", "DDPG", "TQC", "CrossQ")


@st.composite
def agents(draw):
    """Algorithm, policy, policy_kwargs and settings of an agent."""
    algorithm = draw(st.sampled_from(ALGORITHMS))
    options = {"net_arch": draw(st.lists(st.integers(1, 8), max_size=3))}
    settings_ = {}
    if draw(st.booleans()):
        options["activation_fn"] = draw(st.sampled_from(ACTIVATIONS + FOREIGN))
    policy = "MlpPolicy"
    if algorithm == "ARS":
        options |= draw(st.fixed_dictionaries({"with_bias": st.booleans(), "squash_output": st.booleans()}))
        if draw(st.booleans()):
            policy, options = "LinearPolicy", {k: options[k] for k in ("with_bias", "squash_output")}
    else:
        if (extractor := draw(st.sampled_from(EXTRACTORS))) is not None:
            options["features_extractor_class"] = extractor
        options["share_features_extractor"] = draw(st.booleans())
        policy = draw(st.sampled_from(["MlpPolicy", *OWN_POLICIES.get(algorithm, [])]))
    if algorithm in ("PPO", "A2C", "SAC", "TQC") and draw(st.booleans()):
        settings_["use_sde"] = True
        options["use_expln"] = draw(st.booleans())
        if algorithm in ("PPO", "A2C"):
            options["squash_output"] = draw(st.booleans())
        else:
            options["clip_mean"] = draw(st.sampled_from([0.0, 0.5, 2.0]))
    if algorithm == "CrossQ":
        options["batch_norm_eps"] = draw(st.sampled_from([0.001, 0.1]))
        options["batch_norm"] = draw(st.booleans())
    if algorithm in OFF_POLICY:
        settings_["buffer_size"] = 10
    return algorithm, policy, options, {**settings_, "seed": draw(st.integers(0, 9))}


def build(algorithm, policy, options, settings_):
    """The agent, its last layer made large, its batch statistics moved."""
    kind = getattr(stable_baselines3, algorithm, None) or getattr(sb3_contrib, algorithm)
    model = kind(policy, Lopsided(), policy_kwargs=options, device="cpu", **settings_)
    for name, parameter in model.policy.named_parameters():
        if name.endswith(HEADS):
            parameter.data.mul_(10)
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.policy.named_buffers():
        if name.endswith(("ra_mean", "ra_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model


def check(model, path):
    """Load an agent in all ways; returns how many of them loaded."""
    inputs = observations(1000)
    wanted = model.predict(inputs, deterministic=True)[0]
    model.save(path)
    loaded = 0
    for source in (path, model, model.policy):
        try:
            teacher = Teacher.load(source, Lopsided, vecnormalize=False)
        except PolicyKDError as error:
            assert "\n" not in str(error)
            continue
        np.testing.assert_allclose(teacher.predict(inputs)[0], wanted, atol=1e-5, rtol=1e-5)
        loaded += 1
    return loaded


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


@settings(max_examples=12, derandomize=True, **QUIET)
@given(drawn=agents())
def test_a_drawn_agent_is_exact_or_refused(tmp_path_factory, drawn):
    check(build(*drawn), tmp_path_factory.mktemp("drawn") / "agent.zip")


@pytest.mark.nightly
@settings(max_examples=400, **QUIET)
@given(drawn=agents())
def test_many_drawn_agents_are_exact_or_refused(tmp_path_factory, drawn):
    check(build(*drawn), tmp_path_factory.mktemp("drawn") / "agent.zip")


def refused(source, **options):
    with pytest.raises(PolicyKDError) as error:
        Teacher.load(source, Lopsided, **options)
    return str(error.value)


@pytest.mark.parametrize("activation", FOREIGN, ids=["partial", "lambda", "function", "own ELU", "PReLU", "Softmax"])
def test_an_activation_that_only_code_can_make_is_refused_in_a_zip_and_exact_live(tmp_path, activation):
    options = {"activation_fn": activation, "net_arch": [4]}
    model = PPO("MlpPolicy", Lopsided(), policy_kwargs=options, seed=0, device="cpu")
    assert check(model, tmp_path / "agent.zip") == 2
    said = refused(tmp_path / "agent.zip")
    assert "has activation_fn" in said and "Teacher.load(model)" in said and 'activation="ELU"' in said


def test_the_activation_can_be_told_where_a_zip_has_a_function_that_makes_a_usual_one(tmp_path):
    options = {"activation_fn": lambda: nn.LeakyReLU(), "net_arch": [4]}
    model = PPO("MlpPolicy", Lopsided(), policy_kwargs=options, seed=0, device="cpu")
    model.save(tmp_path / "agent.zip")
    teacher = Teacher.load(tmp_path / "agent.zip", Lopsided, activation="LeakyReLU")
    wanted = model.predict(observations(), deterministic=True)[0]
    np.testing.assert_allclose(teacher.predict(observations())[0], wanted, atol=1e-5)
    assert "with Tanh, a live PPO does not act as its own predict" in refused(model, activation="Tanh")


@pytest.mark.parametrize("extractor", [Scaled, Wider, WithLayer])
@pytest.mark.parametrize("algorithm", [PPO, SAC])
@pytest.mark.parametrize("use_sde", [False, True])  # which keeps noise of a graph in the policy
def test_an_own_feature_extractor_is_refused_in_a_zip_and_exact_live(tmp_path, extractor, algorithm, use_sde):
    options = {"features_extractor_class": extractor, "net_arch": [4]}
    model = algorithm("MlpPolicy", Lopsided(), use_sde=use_sde, policy_kwargs=options, seed=0, device="cpu")
    assert check(model, tmp_path / "agent.zip") == 2
    said = refused(tmp_path / "agent.zip")
    assert f"features_extractor_class <class 'test_teacher_exact.{extractor.__name__}'>" in said
    teacher = Teacher.load(model, Lopsided)
    assert teacher.distribution(torch.from_numpy(observations()))[1] is None  # its predict is all that is sure


@pytest.mark.parametrize(("algorithm", "policy"), [(PPO, Halved), (A2C, Shifted), (PPO, Same), (SAC, Flipped)])
def test_an_own_policy_class_is_refused_in_a_zip_and_exact_live(tmp_path, algorithm, policy):
    model = algorithm(policy, Lopsided(), policy_kwargs={"net_arch": [4]}, seed=0, device="cpu")
    assert check(model, tmp_path / "agent.zip") == 2
    said = refused(tmp_path / "agent.zip")
    assert "a custom policy class (a class of test_teacher_exact)" in said
    # That it acts alike at some observations, as Same does at all, is no proof.
    assert Teacher.load(model, Lopsided).distribution(torch.from_numpy(observations()))[1] is None


def far_agents():
    """Agents that are SB3's own at usual observations, and not at 60."""
    settings = {"seed": 0, "device": "cpu"}
    for kind in (PPO, SAC, stable_baselines3.TD3):
        options = {"net_arch": [4], "features_extractor_class": FarExtractor}
        buffer = {} if kind is PPO else {"buffer_size": 9}
        yield kind("MlpPolicy", Lopsided(), policy_kwargs=options, **buffer, **settings)
    yield PPO(FarPolicy, Lopsided(), policy_kwargs={"net_arch": [4]}, **settings)
    replaced, hooked = (PPO("MlpPolicy", Lopsided(), policy_kwargs={"net_arch": [4]}, **settings) for _ in range(2))
    original = replaced.policy._predict
    replaced.policy._predict = lambda o, deterministic=False: original(o.clamp(-50, 50), deterministic)
    hooked.policy.action_net.register_forward_hook(lambda _, inputs, outputs: outputs.clamp(-0.1, 0.1))
    yield from (replaced, hooked)


def test_what_differs_from_sb3s_own_far_out_alone_acts_by_its_own_code():
    """No number of questions shows that: the code must be known."""
    inputs = observations(200) * np.random.default_rng(2).uniform(0, 100, (200, 1)).astype(np.float32)
    for model in far_agents():
        wanted = model.predict(inputs, deterministic=True)[0]
        for source in (model, model.policy):
            teacher = Teacher.load(source, Lopsided, vecnormalize=False)
            np.testing.assert_allclose(teacher.predict(inputs)[0], wanted, atol=1e-5)
    assert "overrides its policy's predict" in refused(FarPPO("MlpPolicy", Lopsided(), device="cpu"))


def test_a_distribution_of_its_own_acts_by_its_own_code():
    model = PPO("MlpPolicy", Lopsided(), policy_kwargs={"net_arch": [4]}, seed=0, device="cpu")
    model.policy.action_net.weight.data.mul_(30)
    plain = model.predict(observations(), deterministic=True)[0]
    model.policy.action_dist = RareDistribution(2)
    model.policy.action_dist.rare = torch.from_numpy(plain[0])
    wanted = model.predict(observations(), deterministic=True)[0]
    assert not np.allclose(plain, wanted, atol=1e-2)
    np.testing.assert_allclose(Teacher.load(model, Lopsided).predict(observations())[0], wanted, atol=1e-5)


def test_observations_to_ask_at_fill_a_bounded_space_and_go_far_in_another():
    low, high = np.array([-np.inf, 2.0, -1e38], np.float32), np.array([np.inf, 3.0, 300.0], np.float32)
    wide = equivalence.inputs(gym.spaces.Box(low, high))[equivalence.USUAL :]
    least, most = wide.min(0), wide.max(0)
    assert least[0] < -500 and most[0] > 500 and 2 <= least[1] < most[1] <= 3 and least[2] < -500 and most[2] <= 300


class FarFromZero(Lopsided):
    """Actions such as kelvins: a step of float32 at 300 is more than 1e-5 of their half range."""

    action_space = gym.spaces.Box(np.array([297.4, -1], np.float32), np.array([299.7, 1], np.float32))


@pytest.mark.parametrize("name", ["SAC", "PPO, gSDE, squashed"])
def test_actions_that_float32_rounds_coarsely_do_not_hide_the_networks(name):
    """The agent acted by its own predict, without a standard deviation and a value, or was refused."""
    teacher = Teacher.load(agent(name, FarFromZero()), FarFromZero)
    assert teacher.distribution(torch.from_numpy(observations()))[1] is not None
    assert teacher.value(torch.from_numpy(observations())) is not None


@pytest.mark.parametrize(("apart", "same"), [(1e-8, True), (1e-3, False)])
def test_of_two_actions_that_are_worth_the_same_rounding_decides(apart, same):
    class FlatPredict:
        examples = np.zeros((2, 1), np.float32)

        def __call__(self, observations, **options):
            return np.array([3, 4]), None

    def scores(observations):
        return torch.tensor([[1.0, 1.0 + apart], [1.0, 2.0]], dtype=torch.float64), None

    policy = Policy("a policy", 1, 2, scores, "logits", first=3)
    assert equivalence.same_actions(policy, FlatPredict(), torch.device("cpu")) == same


@pytest.mark.parametrize("name", ["PPO", "ARS"])
def test_no_observations_are_no_actions(name):
    assert Teacher.load(agent(name)).predict(np.zeros((0, OBSERVATIONS), np.float32))[0].shape == (0, ACTIONS)


def test_settings_that_are_not_known_are_refused(tmp_path):
    class Scaling(ActorCriticPolicy):
        def __init__(self, *arguments, gain=1.0, **options):
            super().__init__(*arguments, **options)
            self.gain = gain

    model = PPO(Scaling, Lopsided(), policy_kwargs={"net_arch": [4], "gain": 3.0}, seed=0, device="cpu")
    model.policy_class = ActorCriticPolicy  # the text of its class is hidden
    model.save(tmp_path / "agent.zip")
    assert "policy_kwargs gain=3.0, which is unknown" in refused(tmp_path / "agent.zip")


def test_a_zip_without_its_settings_is_refused(tmp_path):
    model = PPO("MlpPolicy", Lopsided(), policy_kwargs={"net_arch": [4], "activation_fn": nn.ReLU}, device="cpu")
    model.save(tmp_path / "agent.zip", exclude=["policy_kwargs"])
    assert "does not contain its policy_kwargs, such as activation_fn" in refused(tmp_path / "agent.zip")


def test_an_agent_that_needs_masks_of_its_actions_is_refused():
    masked = sb3_contrib.MaskablePPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, device="cpu")
    for source in (masked, masked.policy):
        with pytest.raises(PolicyKDError, match="needs action_masks, without which it may choose invalid actions"):
            Teacher.load(source, "CartPole-v1", vecnormalize=False)


def test_a_live_teacher_is_a_copy_even_where_it_acts_by_its_own_code():
    model = PPO(Halved, Lopsided(), policy_kwargs={"net_arch": [4]}, seed=0, device="cpu")
    teacher, inputs = Teacher.load(model, Lopsided), observations()
    before = teacher.predict(inputs)[0]
    for parameter in model.policy.parameters():
        parameter.data.add_(1.0)
    assert np.array_equal(teacher.predict(inputs)[0], before)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_live_agent_that_samples_or_whose_predict_is_its_own_is_refused():
    class Noisy(ActorCriticPolicy):
        def _predict(self, observation, deterministic=False):
            return super()._predict(observation, deterministic=False)

    class Own(PPO):
        def predict(self, observation, *arguments, **options):
            actions, state = super().predict(observation, *arguments, **options)
            return actions * 0.5, state

    assert "gives different answers to the same observation" in refused(PPO(Noisy, Lopsided(), device="cpu"))
    assert "overrides its policy's predict" in refused(Own("MlpPolicy", Lopsided(), seed=0, device="cpu"))


def test_spaces_that_are_no_vectors_are_refused(tmp_path):
    dqn = stable_baselines3.DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, buffer_size=9)
    dqn.save(tmp_path / "dqn.zip")
    assert "reads 4 observations and chooses one of 2 actions, Lopsided has 5 and 2" in refused(tmp_path / "dqn.zip")


def test_a_linear_agent_of_old_sb3_contrib_is_read(tmp_path):
    """One layer without a Sequential around it: ``action_net.weight``, as the zoo's ARS agents have it."""
    model = agent("ARS, linear")
    model.save(tmp_path / "new.zip")
    state = {name.replace("action_net.0.", "action_net."): part for name, part in model.policy.state_dict().items()}
    assert list(state) == ["action_net.weight"]
    with zipfile.ZipFile(tmp_path / "new.zip") as new, zipfile.ZipFile(tmp_path / "old.zip", "w") as old:
        old.writestr("data", new.read("data"))
        with old.open("policy.pth", "w") as file:
            torch.save(state, file)
    wanted = model.predict(observations(), deterministic=True)[0]
    np.testing.assert_allclose(Teacher.load(tmp_path / "old.zip").predict(observations())[0], wanted, atol=1e-5)


def test_the_standard_deviation_of_crossq_is_sb3s(tmp_path):
    model = sb3_contrib.CrossQ("MlpPolicy", Lopsided(), policy_kwargs={"net_arch": [4, 3]}, device="cpu", buffer_size=9)
    model.save(tmp_path / "agent.zip")
    inputs = torch.from_numpy(observations())
    teacher = Teacher.load(tmp_path / "agent.zip", Lopsided)
    model.policy.set_training_mode(False)
    with torch.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(inputs)
        value = torch.cat(model.critic(inputs, mean.tanh()), 1).amin(1)
    torch.testing.assert_close(teacher.distribution(inputs), (mean, log_std.exp()), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(teacher.value(inputs), value, atol=1e-5, rtol=1e-5)
    assert teacher.squashed and teacher.policy.network.algorithm == "CrossQ"
    assert teacher.observation_size == OBSERVATIONS
