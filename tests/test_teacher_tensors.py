"""Files of tensors of rsl_rl and skrl, their own and of the same layout, act as those libraries' policies do."""

import importlib.util
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from other_libraries import Noise, rsl_rl, skrl
from sb3_agents import ACTIONS, OBSERVATIONS
from torch import nn

from policykd import PolicyKDError, Teacher

DATA = Path(__file__).parent / "data" / "other_libraries"
needs_rsl_rl = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("rsl_rl", "tensordict", "git"))), reason="rsl_rl is not installed"
)
needs_skrl = pytest.mark.skipif(not importlib.util.find_spec("skrl"), reason="skrl is not installed")
HIDDEN = 4


class Task(Noise):
    action_space = type(Noise.action_space)(-9, 9, (ACTIONS,), np.float32)


class Net(nn.Module):
    """The network of skrl's policy in ``other_libraries``."""

    def __init__(self, std=True):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(OBSERVATIONS, 8), nn.ELU(), nn.Linear(8, ACTIONS), nn.Tanh())
        if std:
            self.log_std_parameter = nn.Parameter(torch.zeros(ACTIONS))

    def forward(self, observations):
        return self.net(observations)


def refused(*source, **options):
    with pytest.raises(PolicyKDError) as error:
        Teacher.load(*source, Task, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_plays(teacher, inputs, actions):
    state = None
    for step, (rows, wanted) in enumerate(zip(inputs, actions, strict=True)):
        acted, state = teacher.predict(rows, state=state, episode_start=np.full(len(rows), step == 0))
        np.testing.assert_allclose(acted, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["rsl_rl_2.3.3_ppo", "rsl_rl_3.3.0_distillation_lstm", "rsl_rl_5.5.1_lstm"])
def test_files_that_rsl_rl_wrote_act_as_there(name, caplog):
    saved = np.load(DATA / f"{name}.npz")

    class Sized(Task):
        observation_space = type(Task.observation_space)(-np.inf, np.inf, saved["inputs"].shape[-1:], np.float32)

    teacher = Teacher.load(DATA / f"{name}.pt", Sized, activation="ELU")
    assert_plays(teacher, saved["inputs"], saved["actions"])
    assert ("is the student of rsl_rl's distillation" in caplog.text) == ("distillation" in name)


def test_a_file_that_skrl_wrote_acts_as_there():
    saved = np.load(DATA / "skrl_2.1.1_ppo.npz")
    teacher = Teacher.load(DATA / "skrl_2.1.1_ppo.pt", Task, network=Net())
    assert_plays(teacher, saved["inputs"], saved["actions"])


@needs_rsl_rl
@pytest.mark.parametrize("memory", [None, "lstm", "gru"])
@pytest.mark.parametrize("normalised", [True, False])
def test_what_rsl_rl_writes_now_acts_as_there(tmp_path, memory, normalised):
    path, inputs, actions = rsl_rl(tmp_path, memory, obs_normalization=normalised)
    assert_plays(Teacher.load(path, Task, activation="ELU"), inputs, actions)


@needs_rsl_rl
@pytest.mark.parametrize("distribution", ["HeteroscedasticGaussian", "Beta"])
def test_distributions_that_rsl_rls_file_does_not_tell_apart_are_refused(tmp_path, distribution):
    path, _, _ = rsl_rl(tmp_path, distribution=distribution)
    assert "of an unknown distribution" in refused(path, activation="ELU")


@needs_skrl
@pytest.mark.parametrize(("algorithm", "separately"), [("PPO", False), ("PPO", True), ("TD3", False)])
def test_what_skrl_writes_now_acts_as_there(tmp_path, algorithm, separately):
    path, inputs, actions, _ = skrl(tmp_path, algorithm, separately)
    teacher = Teacher.load(path, Task, network=Net(algorithm == "PPO"))
    assert_plays(teacher, inputs[None], actions[None])


def layers(prefix, *sizes):
    linear = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    parts = [(f"{prefix}{2 * i}", layer) for i, layer in enumerate(linear)]
    state = {f"{name}.{part}": t.detach() for name, layer in parts for part, t in layer.named_parameters()}
    return nn.Sequential(*[part for layer in linear for part in (layer, nn.ELU())][:-1]), state


def statistics(prefix="", size=OBSERVATIONS, mean=3.0):
    mean, std = torch.full((1, size), mean), torch.full((1, size), 2.0)
    return {f"{prefix}_mean": mean, f"{prefix}_var": std**2, f"{prefix}_std": std, f"{prefix}count": torch.tensor(9)}


def rsl_rl_content(version, who, memory):
    """A file with the keys of that version, and its network."""
    first = HIDDEN if memory else OBSERVATIONS
    rnn = {"lstm": nn.LSTM, "gru": nn.GRU}[memory](OBSERVATIONS, HIDDEN, 2) if memory else None
    short, other = {"actor": ("a", "critic"), "student": ("s", "teacher")}[who]
    network, state = layers(f"{who}." if version < 4 else "mlp.", first, 8, ACTIONS)
    _, others = layers(f"{other}." if version < 4 else "mlp.", OBSERVATIONS + 4, 8, 1)
    prefix = f"memory_{short}.rnn." if version < 4 else "rnn.rnn."
    state |= {f"{prefix}{name}": t.detach() for name, t in rnn.named_parameters()} if memory else {}
    std = {2: "std", 3: "log_std", 4: "std", 5: "distribution.log_std_param"}[version]
    state[std] = torch.full((ACTIONS,), 0.3)
    content = {"optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}}, "iter": 1, "infos": None}
    if version == 2:
        content |= {"model_state_dict": state | others, "obs_norm_state_dict": statistics()}
        content["privileged_obs_norm_state_dict"] = statistics(size=OBSERVATIONS + 4)
    elif version == 3:
        of_others = statistics(f"{other}_obs_normalizer.", OBSERVATIONS + 4)
        content["model_state_dict"] = state | others | statistics(f"{who}_obs_normalizer.") | of_others
    else:
        others |= statistics("obs_normalizer.", OBSERVATIONS + 4)
        content |= {f"{other}_state_dict": others, f"{who}_state_dict": state | statistics("obs_normalizer.")}
    return content, network, rnn, 0.3 if std in ("std",) else float(np.exp(0.3))


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("who", ["actor", "student"])
@pytest.mark.parametrize("memory", [None, "lstm", "gru"])
def test_all_layouts_of_rsl_rl_are_read(tmp_path, version, who, memory):
    content, network, rnn, std = rsl_rl_content(version, who, memory)
    torch.save(content, tmp_path / "model_1.pt")
    assert 'give activation="ELU"' in refused(tmp_path / "model_1.pt")
    teacher = Teacher.load(tmp_path / "model_1.pt", Task, activation="ELU")
    inputs = torch.randn(3, 5, OBSERVATIONS)
    with torch.no_grad():
        seen = (inputs - 3.0) / (2.0 + 1e-2)
        actions = network(rnn(seen)[0] if memory else seen)
    assert_plays(teacher, inputs.numpy(), actions.numpy())
    if not memory:
        np.testing.assert_allclose(teacher.distribution(inputs[0])[1], np.full((5, ACTIONS), std / 9), rtol=1e-5)


def test_parts_of_rsl_rls_files_that_are_not_known_are_refused(tmp_path):
    for layout, part in (
        ({"mlp.1.weight": torch.ones(8)}, "mlp.0, mlp.1, mlp.2"),
        ({"cnns.camera.0.weight": torch.ones(8)}, "cnns.camera.0.weight"),
        ({"rnn.rnn.weight_ih_l0": torch.ones(8, 7)}, "unusual LSTM or GRU"),
    ):
        content, *_ = rsl_rl_content(5, "actor", None)
        content["actor_state_dict"] |= layout
        torch.save(content, tmp_path / "model_1.pt")
        assert part in refused(tmp_path / "model_1.pt", activation="ELU")
    content, *_ = rsl_rl_content(5, "actor", None)
    del content["actor_state_dict"]["distribution.log_std_param"]  # as of a Beta distribution
    content["actor_state_dict"] |= layers("mlp.", OBSERVATIONS, 8, 2 * ACTIONS)[1]
    torch.save(content, tmp_path / "model_1.pt")
    assert 'Teacher.load("FOLDER/policy.pt", env, trust=True)' in refused(tmp_path / "model_1.pt", activation="ELU")


def scaler(mean, size=OBSERVATIONS):
    moments = {"running_mean": torch.full((size,), mean), "running_variance": torch.full((size,), 4.0)}
    return {name: value.double() for name, value in moments.items()} | {"current_count": torch.tensor(9.0)}


@pytest.mark.parametrize(
    ("beside", "mean"),
    [
        ({"observation_preprocessor": scaler(1.0)}, 1.0),
        ({"state_preprocessor": scaler(2.0), "observation_preprocessor": scaler(1.0)}, 1.0),
        ({"state_preprocessor": scaler(2.0)}, 2.0),  # of skrl 1
        ({"state_preprocessor": scaler(2.0, 11)}, None),  # of skrl 2, for the critic alone
        ({"value_preprocessor": scaler(2.0, 1)}, None),
    ],
)
@pytest.mark.parametrize("place", ["one", "many", "apart"])
def test_a_policy_of_skrls_has_its_own_normaliser(tmp_path, beside, mean, place, caplog):
    network, inputs, path = Net(), torch.randn(5, OBSERVATIONS), tmp_path / "agent_40.pt"
    content = {"policy": network.state_dict(), **beside}
    if place == "apart":
        path = tmp_path / "best_policy.pt"
        for name, part in content.items():
            torch.save(part, tmp_path / f"best_{name}.pt")
    else:
        torch.save({"robot_0": content} if place == "many" else content, path)
    seen = inputs if mean is None else ((inputs - mean) / (2.0 + 1e-8)).clamp(-5, 5)
    teacher = Teacher.load(path, Task, network=Net())
    assert_plays(teacher, inputs[None].numpy(), network(seen)[None].detach().numpy())
    assert ("as in skrl 1; if skrl 2 wrote it, give vecnormalize=False" in caplog.text) == (mean == 2.0)


def test_statistics_beside_a_network_are_not_passed_over(tmp_path):
    moments = {"mean": torch.ones(OBSERVATIONS), "var": torch.ones(OBSERVATIONS), "count": torch.tensor(1.0)}
    torch.save({"agent": Net().state_dict(), "obs_rms": moments}, tmp_path / "agent.pt")
    said = refused(tmp_path / "agent.pt", network=Net())
    assert "has statistics beside its networks (obs_rms: mean, var, count)" in said and "vecnormalize=False" in said
    Teacher.load(tmp_path / "agent.pt", Task, network=Net(), vecnormalize=False)


def test_modules_that_remember_or_sample_are_told(caplog):
    class Counts(Net):
        calls = 0

        def forward(self, observations):
            self.calls += 1
            return super().forward(observations) + self.calls

    class Remembers(nn.Module):
        state = None

        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(OBSERVATIONS, ACTIONS)

        def forward(self, observations):
            outputs, self.state = self.rnn(observations.unsqueeze(0), self.state)
            return outputs[0]

    class ByItsBatch(Net):  # as dynamic quantisation does
        def forward(self, observations):
            return super().forward(observations) + 1e-3 * observations.std(unbiased=False)

    Teacher.load(Net(), Task)
    Teacher.load(ByItsBatch(), Task)
    assert not caplog.text
    Teacher.load(Counts(), Task)
    assert "module Counts gives different answers to the same observation" in caplog.text
    assert "fails on an observation (B, O)" in refused(Remembers())
