"""Networks of other libraries teach as they are: their modules, and their files of tensors, of which nothing is run."""

import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from sb3_agents import ACTIONS, OBSERVATIONS, Lopsided, observations
from torch import nn

from policykd import PolicyKDError, Teacher

INPUTS = observations()
LOW, HIGH = Lopsided.action_space.low, Lopsided.action_space.high


def mlp(*sizes, activation=nn.Tanh):
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


class PPOAgent(nn.Module):
    """Like CleanRL's ppo_continuous_action: no forward."""

    def __init__(self):
        super().__init__()
        self.actor_mean, self.critic = mlp(OBSERVATIONS, 8, 8, ACTIONS), mlp(OBSERVATIONS, 8, 1)
        self.actor_logstd = nn.Parameter(torch.tensor([[-1.0, 0.5]]))


class TD3Actor(nn.Module):
    """Like CleanRL's td3_continuous_action."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc_mu = nn.Linear(OBSERVATIONS, 8), nn.Linear(8, 8), nn.Linear(8, ACTIONS)
        self.register_buffer("action_scale", torch.from_numpy((HIGH - LOW) / 2))
        self.register_buffer("action_bias", torch.from_numpy((HIGH + LOW) / 2))

    def forward(self, x):
        return torch.tanh(self.fc_mu(self.fc2(self.fc1(x).relu()).relu())) * self.action_scale + self.action_bias


class SACActor(nn.Module):
    """Like CleanRL's sac_continuous_action: its forward gives two things."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(OBSERVATIONS, 8), nn.Linear(8, 8)
        self.fc_mean, self.fc_logstd = nn.Linear(8, ACTIONS), nn.Linear(8, ACTIONS)
        self.register_buffer("action_scale", torch.from_numpy((HIGH - LOW) / 2))
        self.register_buffer("action_bias", torch.from_numpy((HIGH + LOW) / 2))

    def forward(self, x):
        x = self.fc2(self.fc1(x).relu()).relu()
        return self.fc_mean(x), -5 + 0.5 * (2 + 5) * (self.fc_logstd(x).tanh() + 1)


class RslRl(nn.Module):
    def __init__(self, normaliser=False):
        super().__init__()
        self.std = nn.Parameter(torch.tensor([0.3, 0.6]))
        self.actor, self.critic = (mlp(OBSERVATIONS, 8, size, activation=nn.ELU) for size in (ACTIONS, 1))
        if normaliser:
            self.actor_obs_normalizer = nn.Module()
            for name, value in (("_mean", 3.0), ("_var", 4.0), ("_std", 2.0)):
                self.actor_obs_normalizer.register_buffer(name, torch.full((1, OBSERVATIONS), value))
            self.actor_obs_normalizer.register_buffer("count", torch.tensor(9))

    def act_inference(self, x):
        return self.actor(x)


def refused(source, **options):
    with pytest.raises(PolicyKDError) as error:
        Teacher.load(source, Lopsided, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def same(teacher, wanted, inputs=INPUTS):
    wanted = wanted.detach().numpy() if isinstance(wanted, torch.Tensor) else wanted
    np.testing.assert_allclose(teacher.predict(inputs)[0], np.clip(wanted, LOW, HIGH), atol=1e-5)


@pytest.mark.parametrize("kind", [PPOAgent, TD3Actor, RslRl])
def test_live_modules_of_other_libraries_act(kind):
    module = kind()
    act = {PPOAgent: "actor_mean", TD3Actor: "forward", RslRl: "act_inference"}[kind]
    same(Teacher.load(module, Lopsided), getattr(module, act)(torch.from_numpy(INPUTS)))


@pytest.mark.parametrize("kind", ["scripted", "loaded", "traced", "inside"])
def test_live_torchscript_modules_are_copied_and_frozen(tmp_path, kind):
    module, inputs = mlp(OBSERVATIONS, 8, ACTIONS), torch.from_numpy(INPUTS)
    program = torch.jit.trace(module, inputs) if kind == "traced" else torch.jit.script(module)
    if kind == "loaded":
        program.save(tmp_path / "program.pt")
        program = torch.jit.load(tmp_path / "program.pt")
    source = nn.Sequential(program, nn.Identity()) if kind == "inside" else program
    wanted, teacher = module(inputs).detach(), Teacher.load(source, Lopsided)
    for parameter in source.parameters():
        parameter.data.add_(1.0)
    same(teacher, wanted)
    assert teacher.parameters() and not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_module_of_double_precision_is_asked_in_it():
    module = mlp(OBSERVATIONS, 8, ACTIONS).double()
    same(Teacher.load(module, Lopsided), module(torch.from_numpy(INPUTS).double()))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_module_of_half_precision_is_asked_in_it(kind):
    module = mlp(OBSERVATIONS, 8, ACTIONS).to(kind)
    same(Teacher.load(module, Lopsided), module(torch.from_numpy(INPUTS).to(kind)).float())


def test_a_compiled_module_acts_as_what_it_was_compiled_from():
    module = mlp(OBSERVATIONS, 8, ACTIONS)
    same(Teacher.load(torch.compile(module, backend="eager"), Lopsided), module(torch.from_numpy(INPUTS)))


def test_a_module_that_answers_with_a_dict_gives_its_action():
    class Answers(nn.Module):
        def __init__(self, key):
            super().__init__()
            self.key, self.net = key, mlp(OBSERVATIONS, ACTIONS)

        def forward(self, x):
            return {self.key: self.net(x), "value": x.sum(1)}

    module = Answers("loc")
    same(Teacher.load(module, Lopsided), module.net(torch.from_numpy(INPUTS)))
    assert "returns other, value, none of which is its action" in refused(Answers("other"))


def test_modules_that_cannot_act_say_why():
    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.actor = mlp(OBSERVATIONS, ACTIONS)

    class WantsDict(nn.Module):
        def forward(self, observation):
            raise KeyError("observation")

    class Uncopyable(nn.Module):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

        def forward(self, x):
            return x[:, :2]

    assert "has no forward; give the part that maps observations to actions (it has actor)" in refused(Nothing())
    assert "module WantsDict fails on an observation (B, O) of float32 (" in refused(WantsDict())
    assert "Uncopyable cannot be copied, so not frozen" in refused(Uncopyable())
    assert "gives 2 outputs (tuple)" in refused(SACActor())


def test_a_teacher_is_a_teacher_with_all_that_it_says():
    from sb3_agents import agent

    class Wide(Lopsided):
        observation_space = type(Lopsided.observation_space)(-np.inf, np.inf, (OBSERVATIONS + 2,), np.float32)

        def _observe(self):
            return self.np_random.standard_normal(OBSERVATIONS + 2).astype(np.float32)

    first = Teacher.load(agent("SAC"), Wide, observation_map=range(2, 7), vecnormalize=False)
    again, inputs = Teacher.load(first, Wide), torch.randn(4, OBSERVATIONS + 2)
    torch.testing.assert_close(again.distribution(inputs), first.distribution(inputs))
    torch.testing.assert_close(again.value(inputs), first.value(inputs))
    assert again.squashed


def test_functions_may_give_tensors_with_a_gradient():
    module = mlp(OBSERVATIONS, ACTIONS)
    wanted = module(torch.from_numpy(INPUTS))
    same(Teacher.load(lambda o: module(torch.as_tensor(o)), Lopsided), wanted)
    same(Teacher.load(lambda o: module(torch.as_tensor(o)).tolist(), Lopsided), wanted)


def test_functions_that_fail_say_why(caplog):
    assert "fails on an observation (O,) of NumPy (TypeError" in refused(mlp(OBSERVATIONS, ACTIONS).forward)
    assert "gives 2 outputs (tuple); a teacher gives one, the action: take its [0]" in refused(lambda o: (o[:2], None))
    assert "fails on an observation" in refused(lambda o: o["a"])
    Teacher.load(lambda o: np.random.default_rng().uniform(-1, 1, ACTIONS), Lopsided)
    assert "gives different answers to the same observation" in caplog.text


def test_cleanrls_file_of_ppo_is_read_with_a_word_about_its_normaliser(tmp_path, caplog):
    agent = PPOAgent()
    torch.save(agent.state_dict(), tmp_path / "ppo.cleanrl_model")
    teacher = Teacher.load(tmp_path / "ppo.cleanrl_model", Lopsided)
    same(teacher, agent.actor_mean(torch.from_numpy(INPUTS)))
    _, std = teacher.distribution(torch.from_numpy(INPUTS))
    expected = agent.actor_logstd.exp().detach().numpy() * 2 / (HIGH - LOW)
    np.testing.assert_allclose(std[:1], expected, rtol=1e-5)
    assert teacher.missing_normaliser and "CleanRL normalises observations" in caplog.text
    assert not Teacher.load(tmp_path / "ppo.cleanrl_model", Lopsided, vecnormalize=False).missing_normaliser


def test_cleanrls_files_of_td3_and_sac_are_read(tmp_path):
    td3, sac, inputs = TD3Actor(), SACActor(), torch.from_numpy(INPUTS)
    torch.save((td3.state_dict(), mlp(3, 1).state_dict(), mlp(3, 1).state_dict()), tmp_path / "td3.cleanrl_model")
    torch.save((sac.state_dict(), mlp(3, 1).state_dict()), tmp_path / "sac.cleanrl_model")
    same(Teacher.load(tmp_path / "td3.cleanrl_model", Lopsided), td3(inputs))
    teacher, (mean, log_std) = Teacher.load(tmp_path / "sac.cleanrl_model"), sac(inputs)  # bounds are in the file
    same(teacher, mean.tanh() * sac.action_scale + sac.action_bias)
    torch.testing.assert_close(teacher.distribution(inputs), (mean.detach(), log_std.exp().detach()))
    assert teacher.squashed


@pytest.mark.parametrize("place", [None, "beside", "inside"])
def test_rsl_rls_file_is_read_with_its_normaliser(tmp_path, place):
    network = RslRl(place == "inside")
    content = {"model_state_dict": network.state_dict(), "iter": 3, "infos": None}
    if place == "beside":
        content["critic_obs_norm_state_dict"] = {"_mean": torch.zeros(1, 7), "_std": torch.ones(1, 7)}
        content["obs_norm_state_dict"] = RslRl(True).actor_obs_normalizer.state_dict()
    torch.save(content, tmp_path / "model_3.pt")
    assert 'does not store its activation: give activation="ELU"' in refused(tmp_path / "model_3.pt")
    teacher = Teacher.load(tmp_path / "model_3.pt", Lopsided, activation="ELU")
    inputs = torch.from_numpy(INPUTS)
    same(teacher, network.actor(inputs if place is None else (inputs - 3.0) / (2.0 + 1e-2)))
    np.testing.assert_allclose(teacher.distribution(inputs)[1][0], [0.3 * 2 / 2.5, 0.6 * 2 / 4.0], rtol=1e-5)


def without(state, *names):
    return {name: tensor for name, tensor in state.items() if not name.startswith(names)}


def test_files_of_actors_with_parts_that_are_not_known_are_refused(tmp_path):
    """A part with tensors of its own, a part without between two layers, memory, statistics."""
    sac, ppo, rsl, more = SACActor().state_dict(), PPOAgent().state_dict(), RslRl().state_dict(), torch.ones(8)
    gaps = {"actor.0.weight": rsl["actor.0.weight"], "actor.3.weight": rsl["actor.2.weight"], "std": rsl["std"]}
    third = {**without(sac, "fc2"), "fc3.weight": sac["fc2.weight"], "fc3.bias": sac["fc2.bias"]}
    for content, part in (
        ((sac | {"ln1.weight": more, "ln1.bias": more}, {}), "ln1.weight, ln1.bias"),
        ((third, {}), "fc1, fc3"),
        ({"actor": sac, "obs_rms": {"mean": more, "var": more}}, "mean, var"),
        (ppo | {"obs_rms.mean": more, "obs_rms.var": more}, "obs_rms.mean, obs_rms.var"),
        (ppo | {"encoder.weight": torch.eye(OBSERVATIONS)}, "encoder.weight"),
        ({"model_state_dict": rsl | {"memory_b.rnn.bias_hh_l0": more}}, "memory_b.rnn.bias_hh_l0"),
        ({"model_state_dict": gaps}, "actor.0, actor.3"),
        ({"model_state_dict": rsl | {"actor.1.weight": more}}, "actor.0, actor.1, actor.2"),
    ):
        torch.save(content, tmp_path / "file.pt")
        said = refused(tmp_path / "file.pt", activation="ELU")
        assert f"has parts ({part})" in said and "network=MyNetwork()" in said


def test_skrls_file_needs_its_network_and_brings_its_normaliser(tmp_path):
    network = mlp(OBSERVATIONS, 8, ACTIONS, activation=nn.ELU)
    scaler = {"running_mean": torch.full((OBSERVATIONS,), 3.0), "running_variance": torch.full((OBSERVATIONS,), 0.04)}
    content = {"policy": network.state_dict(), "value": mlp(3, 1).state_dict(), "state_preprocessor": scaler}
    torch.save(content, tmp_path / "agent.pt")
    assert "network=MyNetwork()" in refused(tmp_path / "agent.pt")
    shape = mlp(OBSERVATIONS, 8, ACTIONS, activation=nn.ELU)
    before = [parameter.clone() for parameter in shape.parameters()]
    teacher = Teacher.load(tmp_path / "agent.pt", Lopsided, network=shape)
    same(teacher, network(((torch.from_numpy(INPUTS) - 3.0) / 0.2).clamp(-5, 5)))
    assert all(map(torch.equal, before, shape.parameters()))  # the user's own is left alone
    assert "it matches the network's names and shapes" in refused(tmp_path / "agent.pt", network=mlp(3, 1, 1, 1))
    assert "it matches the network's names and shapes" in refused(
        tmp_path / "agent.pt", network=mlp(OBSERVATIONS, 9, ACTIONS)
    )


def test_the_actor_of_a_file_is_not_its_target(tmp_path, caplog):
    actor, target, third = TD3Actor(), TD3Actor(), TD3Actor()
    states = {"actor_target": target.state_dict(), "actor": actor.state_dict()}
    torch.save(states, tmp_path / "agent.pt")
    for options in ({}, {"network": TD3Actor()}):
        same(Teacher.load(tmp_path / "agent.pt", Lopsided, **options), actor(torch.from_numpy(INPUTS)))
        assert "networks like this one" not in caplog.text
    torch.save(states | {"actor_2": third.state_dict()}, tmp_path / "agent.pt")
    for options in ({}, {"network": TD3Actor()}):
        caplog.clear()
        same(Teacher.load(tmp_path / "agent.pt", Lopsided, **options), actor(torch.from_numpy(INPUTS)))
        assert "holds 3 networks like this one; the first is the teacher" in caplog.text


def test_modules_without_weights_say_so():
    for module in (nn.Linear(OBSERVATIONS, ACTIONS, device="meta"), nn.LazyLinear(ACTIONS)):
        assert "cannot be frozen (" in (said := refused(module)) and "give a module whose weights are there" in said


def test_a_whole_module_in_a_file_is_not_run(tmp_path):
    torch.save(TD3Actor(), tmp_path / "whole.pt")
    assert "holds more than tensors, and loading it would run code: it was not loaded" in refused(tmp_path / "whole.pt")


def test_a_zip_of_data_alone_and_bare_tensors_of_sb3_say_what_to_give(tmp_path):
    import json
    import zipfile

    with zipfile.ZipFile(tmp_path / "sbx.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {"__module__": "my.policies"}}))
    assert "load it with its library, and give the live model: Teacher.load" in refused(tmp_path / "sbx.zip")
    torch.save({"mlp_extractor.policy_net.0.weight": torch.zeros(2, 2)}, tmp_path / "policy.pth")
    assert "an SB3 policy without its settings, such as the activation" in refused(tmp_path / "policy.pth")


@pytest.mark.parametrize("form", ["no ending", "other ending", "unpacked", "hub"])
def test_an_agent_is_found_however_its_path_is_written(tmp_path, form):
    import shutil

    from sb3_agents import agent

    model = agent("PPO")
    model.save(tmp_path / "agent.zip")
    path = tmp_path / "agent"
    if form == "other ending":
        path = shutil.move(tmp_path / "agent.zip", tmp_path / "agent.pkl")
    elif form in ("unpacked", "hub"):
        shutil.unpack_archive(tmp_path / "agent.zip", tmp_path / "agent")
        path = tmp_path if form == "hub" else path
    same(Teacher.load(path, Lopsided), model.predict(INPUTS, deterministic=True)[0])
