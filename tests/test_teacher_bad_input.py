"""What is no teacher is refused in one line, and nothing in a file is ever run."""

import json
import os
import pickle
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_agents import OBSERVATIONS, Lopsided, agent, normalised_agent, observations

from policykd import PolicyKDError, Teacher


@pytest.fixture
def refused():
    """Load what must be refused; returns the one line."""

    def load(source, env=Lopsided, **options):
        with pytest.raises(PolicyKDError) as error:
            Teacher.load(source, env, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    return load


class Several(Lopsided):
    """Two choices at once."""

    action_space = gym.spaces.MultiDiscrete([2, 3])


class Payload:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def payloads(marker):
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Payload(os.system, f"touch {marker}"),
        "builtins.exec": Payload(exec, code),
        "builtins.eval": Payload(eval, f"open({str(marker)!r}, 'w')"),
        "io.open": Payload(open, str(marker), "w"),
        "builtins.getattr": Payload(getattr, "text", "upper"),
        "numpy.load": Payload(np.load, str(marker)),
        "functools.partial": Payload(__import__("functools").partial, os.system, f"touch {marker}"),
    }


KINDS = list(payloads(""))


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["whole", "attribute", "array"])
def test_a_malicious_normaliser_does_nothing(tmp_path, refused, kind, place, protocol):
    marker, file = tmp_path / "marker", tmp_path / "vecnormalize.pkl"
    model, env = normalised_agent()
    model.save(tmp_path / "agent.zip")
    payload = payloads(marker)[kind]
    if place == "attribute":
        env.norm_obs_keys = payload
    if place == "array":
        env.obs_rms.mean = np.array([payload], dtype=object)
    file.write_bytes(pickle.dumps(payload if place == "whole" else env, protocol))
    said = refused(tmp_path / "agent.zip")
    assert "vecnormalize.pkl asks for" in said and "it was not loaded" in said
    name = f"{os.name}.system" if kind == "os.system" else kind
    assert name in said.replace("__builtin__", "builtins")
    assert not marker.exists()


def test_the_payloads_do_work(tmp_path):
    """Else the tests above would prove nothing."""
    for kind in ("os.system", "builtins.exec", "io.open"):
        marker = tmp_path / kind
        pickle.loads(pickle.dumps(payloads(marker)[kind]))
        assert marker.exists()


def test_trust_reads_a_normaliser_with_foreign_parts_and_runs_nothing(tmp_path):
    model, env = normalised_agent()
    model.save(tmp_path / "agent.zip")
    env.norm_obs_keys = payloads(tmp_path / "marker")["builtins.exec"]
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps(env))
    env.norm_obs_keys = None
    teacher, raw = Teacher.load(tmp_path / "agent.zip", Lopsided, trust=True), observations()
    assert not (tmp_path / "marker").exists()
    wanted = model.predict(env.normalize_obs(raw), deterministic=True)[0]
    np.testing.assert_allclose(teacher.predict(raw)[0], wanted, atol=2e-6)


def repacked(source, target, **members):
    """A copy of a zip with other members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = members.pop(name.replace(".", "_"), old.read(name))
            if content is not None:
                new.writestr(name, content)
        assert not members


def test_malicious_weights_do_nothing(tmp_path, refused):
    agent("PPO").save(tmp_path / "agent.zip")
    torch.save({"log_std": payloads(tmp_path / "marker")["builtins.exec"]}, tmp_path / "weights")
    repacked(tmp_path / "agent.zip", tmp_path / "bad.zip", policy_pth=(tmp_path / "weights").read_bytes())
    assert "bad.zip cannot be read as an agent of SB3" in refused(tmp_path / "bad.zip")
    assert not (tmp_path / "marker").exists()


def test_pickles_in_the_json_of_a_zip_are_never_read(tmp_path):
    import base64

    model = agent("PPO, ELU")
    model.save(tmp_path / "agent.zip")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        data = json.loads(archive.read("data"))
    bad = base64.b64encode(pickle.dumps(payloads(tmp_path / "marker")["builtins.exec"])).decode()
    serialised = [value for value in data.values() if isinstance(value, dict) and ":serialized:" in value]
    for value in serialised:
        value[":serialized:"] = bad
    assert len(serialised) > 5
    repacked(tmp_path / "agent.zip", tmp_path / "bad.zip", data=json.dumps(data))
    wanted = model.predict(observations(), deterministic=True)[0]
    np.testing.assert_allclose(Teacher.load(tmp_path / "bad.zip").predict(observations())[0], wanted, atol=2e-6)
    assert not (tmp_path / "marker").exists()


class Writes(torch.nn.Module):
    def __init__(self, path):
        super().__init__()
        self.path: str = path

    def forward(self, inputs):
        torch.save(inputs, self.path)
        return inputs[:, :2]


class WritesWhenLoaded(torch.nn.Module):
    def __init__(self, path):
        super().__init__()
        self.path: str = path

    @torch.jit.export
    def __getstate__(self):
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path = state[0]
        self.training = state[1]
        torch.save([1], self.path)

    def forward(self, inputs):
        return inputs[:, :2]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", [Writes, WritesWhenLoaded])
def test_a_torchscript_program_that_writes_files_does_not(tmp_path, refused, kind):
    marker = tmp_path / "marker"
    torch.jit.script(kind(str(marker))).save(str(tmp_path / "bad.pt"))
    assert "bad.pt is a TorchScript program" in refused(tmp_path / "bad.pt")
    assert not marker.exists()
    Teacher.load(tmp_path / "bad.pt", Lopsided, trust=True)
    assert marker.exists()  # so the refusal was needed


def test_what_is_no_teacher_says_so(tmp_path, refused):
    assert "there is no file" in refused(tmp_path / "missing.zip")
    assert "must contain one SB3 agent (zip); found: none" in refused(tmp_path)
    for name, content in (("text.zip", b"hello"), ("text.pt", b"hello")):
        (tmp_path / name).write_bytes(content)
        assert f"{name} is not an SB3 agent (a zip with policy.pth)" in refused(tmp_path / name)
    (tmp_path / "empty.zip").touch()
    assert "empty.zip is empty" in refused(tmp_path / "empty.zip")
    (tmp_path / "lfs.zip").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "lfs.zip is a git-lfs pointer" in refused(tmp_path / "lfs.zip")
    for address in ("https://huggingface.co/sb3/ppo-Pendulum-v1", "sb3/ppo-Pendulum-v1"):
        assert "teachers are not downloaded: huggingface_hub.hf_hub_download" in refused(address)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "other.zip is not an SB3 agent" in refused(tmp_path / "other.zip")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt")
    assert "state.pt holds tensors (weight) but not their network" in refused(tmp_path / "state.pt")
    (tmp_path / "bad.onnx").write_bytes(b"hello")
    assert "bad.onnx cannot be read as ONNX" in refused(tmp_path / "bad.onnx")
    (tmp_path / "bad.safetensors").write_bytes(b"hello")
    assert "damaged or not a checkpoint" in refused(tmp_path / "bad.safetensors")
    assert "a int cannot act" in refused(3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_damaged_agent_says_so(tmp_path, refused):
    agent("SAC").save(tmp_path / "agent.zip")
    content = (tmp_path / "agent.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    assert "cut.zip cannot be read as tensors" in refused(tmp_path / "cut.zip")
    torch.jit.script(torch.nn.Linear(OBSERVATIONS, 2)).save(str(tmp_path / "program.pt"))
    with zipfile.ZipFile(tmp_path / "program.pt") as archive:
        data = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
    repacked(tmp_path / "program.pt", tmp_path / "cut.pt", **{data.replace(".", "_"): b"hello"})
    assert "cut.pt cannot be read as TorchScript" in refused(tmp_path / "cut.pt", trust=True)
    repacked(tmp_path / "agent.zip", tmp_path / "weights.zip", policy_pth=b"hello")
    assert "weights.zip cannot be read as an agent of SB3" in refused(tmp_path / "weights.zip")
    for content in (b"hello", b"[1, 2]"):
        repacked(tmp_path / "agent.zip", tmp_path / "json.zip", data=content)
        assert "json.zip cannot be read as an agent of SB3" in refused(tmp_path / "json.zip")
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "vecnormalize.pkl").write_bytes(b"hello")
    assert "vecnormalize.pkl is damaged or not a VecNormalize" in refused(tmp_path / "agent.zip")
    (tmp_path / "agent" / "vecnormalize.pkl").write_bytes(pickle.dumps({"a": 1}))
    assert "has no VecNormalize of observations" in refused(tmp_path / "agent.zip")


def test_two_agents_in_a_folder_are_not_guessed_between(tmp_path, refused):
    for name in ("a.zip", "b.zip"):
        agent("PPO").save(tmp_path / name)
    assert "must contain one SB3 agent (zip); found: a.zip, b.zip" in refused(tmp_path)


def test_networks_that_are_no_mlp_are_refused(tmp_path, refused):
    model = agent("SAC")
    model.policy.actor.extra = torch.nn.LayerNorm(3)
    model.save(tmp_path / "agent.zip")
    assert "parts that are no MLP (actor.extra.weight, actor.extra.bias)" in refused(tmp_path / "agent.zip")
    from stable_baselines3 import PPO

    several = PPO("MlpPolicy", Several(), policy_kwargs={"net_arch": [4]}, device="cpu")
    assert "has MultiDiscrete actions; policykd needs continuous ones (Box) or one choice" in refused(several)
    several.save(tmp_path / "several.zip")
    assert "several.zip has MultiDiscrete actions" in refused(tmp_path / "several.zip")


def test_options_that_do_not_fit_are_named(tmp_path, refused):
    agent("SAC").save(tmp_path / "agent.zip")
    assert "algorithm: 'SACC' is unknown; nearest: SAC" in refused(tmp_path / "agent.zip", algorithm="sacc")
    assert "the tensors are those of squashed, not of PPO" in refused(tmp_path / "agent.zip", algorithm="ppo")
    assert "activation: 'Rleu' is unknown; nearest: ReLU" in refused(tmp_path / "agent.zip", activation="Rleu")
    assert Teacher.load(tmp_path / "agent.zip", algorithm="sac").action_size == 2


def test_statistics_of_another_run_are_refused(tmp_path, refused):
    agent("PPO").save(tmp_path / "agent.zip")
    _, env = normalised_agent()
    env.obs_rms.mean, env.obs_rms.var = np.zeros(7), np.ones(7)
    env.save(tmp_path / "vecnormalize.pkl")
    assert "reads 5 observations and its VecNormalize has statistics of 7" in refused(tmp_path / "agent.zip")


def sized(size, actions):
    """A task of these sizes, for agents without an environment."""
    env = Lopsided()
    env.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
    env.action_space = gym.spaces.Box(-1, 1, (actions,), np.float32)
    return env


@pytest.mark.parametrize(
    ("sizes", "task", "said"),
    [
        (
            (111, 8),
            "Ant-v5",
            "reads 111 observations and gives 8 actions, Ant-v5 has 105 and 8; Ant-v2 and v3 have 111",
        ),
        ((27, 8), "Ant-v5", 'gym.make("Ant-v5", include_cfrc_ext_in_observation=False)'),
        ((376, 17), "Humanoid-v5", "Humanoid-v2 to v4 have 376 observations and Humanoid-v5 has 348"),
        ((12, 3), "Hopper-v5", "Hopper-v5 has 11 and 3; one more may be the time of the zoo's TimeFeatureWrapper"),
        ((106, 8), "Ant-v5", "or give observation_map=lambda o: torch.nn.functional.pad(o, (0, 1), value=1.0)"),
        ((112, 8), "Ant-v5", "the zoo's TimeFeatureWrapper, and Ant-v2 and v3 have 111 observations: make the task"),
        ((111, 8), "Ant-v4", 'make Ant-v5 and give observation_map="v3"'),
        ((3, 1), "Hopper-v5", "reads 3 observations and gives 1 actions, Hopper-v5 has 11 and 3"),
        ((8, 3), "Hopper-v5", "give observation_map"),
        ((33, 3), "Hopper-v5", 'wrap the task: FrameStackObservation(env, 3, padding_type="zero")'),
    ],
)
def test_a_teacher_of_another_size_is_refused_with_the_likely_cause(refused, sizes, task, said):
    assert said in refused(agent("TD3", sized(*sizes)), task)


def test_a_teacher_named_after_another_task_is_refused_or_warned_about(tmp_path, refused, caplog):
    agent("TD3", sized(17, 6)).save(tmp_path / "Walker2d-v3.zip")
    assert "its name says that it was trained on Walker2d" in refused(tmp_path / "Walker2d-v3.zip", "Hopper-v5")
    Teacher.load(tmp_path / "Walker2d-v3.zip", "HalfCheetah-v5")  # of the same sizes
    assert "named after Walker2d but teaches HalfCheetah-v5" in caplog.text


def test_answers_that_are_not_finite_are_refused(tmp_path, refused):
    model = agent("SAC")
    model.policy.actor.mu.bias.data[1] = np.nan
    assert "gives actions that are not finite" in refused(model)
    model.save(tmp_path / "agent.zip")
    assert "gives actions that are not finite (observation 0 of a batch)" in refused(tmp_path / "agent.zip")
    teacher = Teacher.load(lambda o: np.full(2, np.inf if o[0] > 100 else 0.0), Lopsided)
    inputs = torch.zeros(4, OBSERVATIONS)
    inputs[2] = 200.0
    with pytest.raises(PolicyKDError, match="observation 2 of a batch"):
        teacher.actions(inputs)
    model = agent("PPO")
    model.policy.value_net.bias.data[0] = np.nan
    with pytest.raises(PolicyKDError, match="gives values that are not finite"):
        Teacher.load(model, Lopsided).value(inputs)


def test_functions_of_a_wrong_shape_are_refused(refused):
    assert "gives actions of shape (3, 3), not (3, 2)" in refused(lambda observation: np.zeros(3))
    assert "give env=" in refused(lambda observation: np.zeros(2), None)
    module = torch.nn.Linear(OBSERVATIONS, 2)
    assert "give env=" in refused(module, None)


class TwoOutputs(torch.nn.Module):
    def forward(self, inputs):
        return inputs[:, :2], inputs[:, 2:4]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_programs_with_two_outputs_are_refused(tmp_path, refused):
    assert "gives 2 outputs (tuple); a teacher gives one" in refused(TwoOutputs())
    torch.jit.trace(TwoOutputs(), torch.zeros(2, OBSERVATIONS)).save(str(tmp_path / "two.pt"))
    assert "two.pt gives 2 outputs" in refused(tmp_path / "two.pt", trust=True)
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    values = [helper.make_tensor_value_info(name, kind, ["batch", OBSERVATIONS]) for name in ("in", "mean", "std")]
    nodes = [helper.make_node("Identity", ["in"], [name]) for name in ("mean", "std")]
    graph = helper.make_graph(nodes, "two", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "two.onnx")
    said = refused(tmp_path / "two.onnx")
    assert "two.onnx has 1 inputs ['in'] and 2 outputs ['mean', 'std']" in said


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("- - - n_steps\n    - 512\n  - - normalize\n    - true\n", True),
        ("- - - normalize\n    - '{''norm_obs'': True, ''norm_reward'': False}'\n", True),
        ("normalize: \"{'norm_obs': False, 'norm_reward': True}\"\n", False),
        ("- - - normalize\n    - false\n", False),
        ("- - - normalize_advantage\n    - true\n", False),
        ("- - - policy\n    - MlpPolicy\n", False),
    ],
)
def test_a_normalised_teacher_without_its_normaliser_is_warned_about(tmp_path, caplog, text, missing):
    folder = tmp_path / "Lopsided-v0_1"
    (folder / "Lopsided-v0").mkdir(parents=True)
    agent("PPO").save(folder / "Lopsided-v0.zip")
    (folder / "Lopsided-v0" / "config.yml").write_text(text)
    teacher = Teacher.load(folder, Lopsided)
    assert ("there is no vecnormalize.pkl" in caplog.text) == missing
    caplog.clear()
    score = teacher.score(Lopsided, 2, 0)
    assert (f"return {score.mean:,.1f}" in caplog.text) == missing


def test_observations_of_another_size_are_refused():
    teacher = Teacher.load(agent("TD3", sized(17, 6)))
    for wrong in (torch.zeros(4, 11), torch.zeros(17), torch.zeros(2, 4, 17)):
        with pytest.raises(PolicyKDError, match=r"reads observations \(B, 17\), not \("):
            teacher.actions(wrong)
    with pytest.raises(PolicyKDError, match="reads 17 observations and gives 6 actions, Hopper-v5 has 11 and 3"):
        teacher.score("Hopper-v5", 2, 0)
    with pytest.raises(PolicyKDError, match="observation_map, which needs a task: give env="):
        Teacher.load(agent("TD3", sized(2, 1)), observation_map=[0, 1])


def test_a_score_needs_episodes():
    teacher = Teacher.load(lambda observation: np.zeros(2), Lopsided)
    with pytest.raises(PolicyKDError, match="needs at least 1 episode and a seed >= 0, got 0 and 0"):
        teacher.score(Lopsided, 0, 0)
