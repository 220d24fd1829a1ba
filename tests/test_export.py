"""What leaves acts as the learner did, its normaliser and its scale of actions inside, or is not written."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from sb3_agents import Lopsided, at_the_bounds, observations
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tiny import POINT, TINY, contents

from policykd import DualStudent, PolicyKDError, Teacher
from policykd.cli import main
from policykd.export import deploy, equivalence
from policykd.export.c import to_c
from policykd.export.hub import to_hub_folder
from policykd.export.onnx import to_onnx
from policykd.export.torchscript import to_torchscript
from policykd.export.zoo import to_zip

SHORT = {"eval_freq": 0, "n_eval_episodes": 1}
ROLLOUTS = {"n_steps": 32, "batch_size": 16, "net_arch": (8, 6), "distill_batch_size": 8, **SHORT}
NORMALISED = {"normalize_observation": True, "normalize_reward": True}
STUDENTS = {
    "ddpg": ("ddpg", {**TINY, **SHORT}),
    "td3": ("td3", {**TINY, **SHORT}),
    "sac": ("sac", {**TINY, **SHORT}),
    "ppo": ("ppo", ROLLOUTS),
    "ppo, normalised": ("ppo", {**ROLLOUTS, **NORMALISED}),
    "ppo, normalised, relu": ("ppo", {**ROLLOUTS, **NORMALISED, "activation_fn": "relu"}),
}
MODELS = {"ddpg": DDPG, "td3": TD3, "sac": SAC, "ppo": PPO}
LEARNER = 1


@pytest.fixture(scope="module", params=STUDENTS)
def student(request):
    backbone, config = STUDENTS[request.param]
    return at_the_bounds(backbone, config)


def at_bounds(student):
    """How many of its actions are at a bound, to know that clipping is tested."""
    actions, space = student.predict(observations(200), learner=LEARNER)[0], student.action_space
    return np.isclose(actions, space.low, atol=1e-3).sum() + np.isclose(actions, space.high, atol=1e-3).sum()


def assert_acts_alike(student, act):
    for n in (1, 7, 50):
        inputs = observations(n)
        np.testing.assert_allclose(act(inputs), student.predict(inputs, learner=LEARNER)[0], atol=2e-5)
    assert not np.allclose(act(inputs), student.predict(inputs, learner=0)[0], atol=1e-3)  # so the row mattered


def test_the_module_is_the_learner(student):
    policy = deploy(student, LEARNER)
    assert_acts_alike(student, lambda inputs: policy(torch.from_numpy(inputs)).numpy())
    assert not any(parameter.requires_grad for parameter in policy.parameters())
    assert at_bounds(student) > 0


def test_onnx(student, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    assert to_onnx(student, LEARNER, tmp_path / "policy.onnx") <= 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"))
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("observations", ["batch", 5])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("actions", ["batch", 2])]
    assert_acts_alike(student, lambda inputs: session.run(None, {"observations": inputs})[0])
    assert_acts_alike(student, lambda inputs: Teacher.load(tmp_path / "policy.onnx").predict(inputs)[0])
    assert [file.name for file in tmp_path.iterdir()] == ["policy.onnx"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript(student, tmp_path):
    assert to_torchscript(student, LEARNER, tmp_path / "policy.pt") <= 1e-5
    program = torch.jit.load(tmp_path / "policy.pt")
    assert_acts_alike(student, lambda inputs: program(torch.from_numpy(inputs)).numpy())
    assert_acts_alike(student, lambda inputs: Teacher.load(tmp_path / "policy.pt", trust=True).predict(inputs)[0])
    assert [file.name for file in tmp_path.iterdir()] == ["policy.pt"]


def test_sb3(student, tmp_path):
    assert to_zip(student, LEARNER, tmp_path / "task.zip") <= 1e-5
    model, env = MODELS[student.backbone].load(tmp_path / "task.zip"), None
    if (tmp_path / "task" / "vecnormalize.pkl").exists():
        env = VecNormalize.load(str(tmp_path / "task" / "vecnormalize.pkl"), DummyVecEnv([Lopsided]))
        assert not env.training and not env.norm_reward
    assert (env is not None) == getattr(student.config, "normalize_observation", False)

    def act(inputs):
        return model.predict(inputs if env is None else env.normalize_obs(inputs), deterministic=True)[0]

    assert_acts_alike(student, act)
    assert_acts_alike(student, lambda inputs: Teacher.load(tmp_path / "task.zip").predict(inputs)[0])


def test_a_normaliser_survives_every_format(tmp_path):
    """With statistics far from (0, 1) a format that lost them could not act alike."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    backbone, config = STUDENTS["ppo, normalised"]
    student = DualStudent(Lopsided, backbone=backbone, config=config).learn(128)
    student.learner.observation_stats.mean.add_(1000.0)
    student.learner.observation_stats.var.mul_(25.0)
    inputs = (1000 + 10 * np.random.default_rng(0).standard_normal((50, 5))).astype(np.float32)
    actions = student.predict(inputs, learner=LEARNER)[0]
    assert actions.std(0).min() > 1e-3  # not all at one bound
    to_zip(student, LEARNER, tmp_path / "a.zip")
    to_onnx(student, LEARNER, tmp_path / "a.onnx")
    to_torchscript(student, LEARNER, tmp_path / "a.pt")
    for name in ("a.zip", "a.onnx", "a.pt"):
        np.testing.assert_allclose(Teacher.load(tmp_path / name, trust=True).predict(inputs)[0], actions, atol=2e-5)


@pytest.mark.parametrize("write", [to_zip, to_onnx, to_torchscript, to_hub_folder])
def test_what_acts_otherwise_is_not_written(tmp_path, monkeypatch, write):
    if write is to_onnx:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    backbone, config = STUDENTS["ppo, normalised"]
    student = DualStudent(Lopsided, backbone=backbone, config=config)
    act = student.actions_at
    half = student.action_scale.half_range
    monkeypatch.setattr(student, "actions_at", lambda *a: act(*a) + 2e-5 * half)
    with pytest.raises(PolicyKDError, match=r"from the learner \(allowed 1e-05\): not written"):
        write(student, 0, tmp_path / "new" / "a" / "out.x")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(equivalence, "CHECKED", 8)
    monkeypatch.setattr(student, "actions_at", lambda *a: act(*a) * np.nan)
    with pytest.raises(PolicyKDError, match="not written"):
        write(student, 0, tmp_path / "new" / "a" / "out.x")
    assert list(tmp_path.iterdir()) == []


def test_a_hub_folder_is_whole(tmp_path):
    backbone, config = STUDENTS["ppo, normalised"]
    student = DualStudent(POINT, backbone=backbone, config=config).learn(128)
    score = to_hub_folder(student, LEARNER, tmp_path / "hub", n_eval_episodes=3, seed=5)
    files = contents(tmp_path / "hub")
    name = "ppo-PolicyKD-PointReach-v0"
    assert {f"{name}.zip", f"{name}/data", f"{name}/policy.pth", "config.json", "vec_normalize.pkl"} <= files.keys()
    assert json.loads(files["config.json"])["n_steps"] == 32
    results = json.loads(files["results.json"])
    assert (results["mean_reward"], results["n_eval_episodes"]) == (score.mean, 3)
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: stable-baselines3\ntags:\n- PolicyKD/PointReach-v0\n")
    assert f"value: {score.mean:.2f} +/- {score.returns.std():.2f}\n" in card.split("---\n")[1]
    assert f"| {score.mean:,.1f} +/- " in card and "VecNormalize.load" in card and "training | 128 |" in card

    teacher = Teacher.load(tmp_path / "hub", POINT)
    inputs = np.random.default_rng(0).standard_normal((20, teacher.observation_size)).astype(np.float32)
    np.testing.assert_allclose(teacher.predict(inputs)[0], student.predict(inputs, learner=LEARNER)[0], atol=2e-5)
    assert np.array_equal(teacher.score(POINT, 3, 5).returns, score.returns)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    DualStudent(POINT, config={**TINY, **SHORT}, run_dir=folder).learn(40)
    return folder


def test_the_command_writes_what_was_asked(run, tmp_path, capfd):
    before = contents(run)
    out = tmp_path / "out"
    main(["export", str(run), "--format", "sb3", "torchscript", "--out", str(out), "--learner", "0"])
    agents = ["PolicyKD-PointReach-v0.pt", "PolicyKD-PointReach-v0.zip"]
    beside = {f"PolicyKD-PointReach-v0/{name}.yml" for name in ("args", "config")}
    assert contents(out).keys() == {*agents, *beside}
    said = capfd.readouterr()
    assert said.out.startswith(f"learner 0 of {run} (PolicyKD/PointReach-v0)")
    assert said.out.count("differs by at most") == 2 and said.err == ""
    student = DualStudent.load(run)
    inputs = np.zeros((1, student.observation_space.shape[0]), np.float32)
    for name in agents:
        acts = Teacher.load(out / name, trust=True).predict(inputs)[0]
        np.testing.assert_allclose(acts, student.predict(inputs, learner=0)[0], atol=2e-5)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing"], "there is no file missing"),
        (["RUN", "--learner", "9"], "learner 9 does not exist: take 0 to 1"),
        (["RUN", "--format", "onnx", "torchscript"], "PolicyKD-PointReach-v0.pt exists: choose another --out"),
        (["RUN", "--n-eval-episodes", "0"], "n_eval_episodes=0 must be positive"),
        (["RUN", "--seed", "-1"], "seed=-1 must not be negative"),
    ],
)
def test_the_command_says_why_it_cannot(run, tmp_path, monkeypatch, capfd, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "PolicyKD-PointReach-v0.pt").write_text("mine")
    with pytest.raises(SystemExit) as error:
        main(["export", *[str(run) if word == "RUN" else word for word in arguments]])
    assert error.value.code == 2
    line = capfd.readouterr().err
    assert said in line and line.count("\n") == 1
    assert contents(tmp_path) == {"exported/PolicyKD-PointReach-v0.pt": b"mine"}


@pytest.mark.parametrize("to", [to_c, to_onnx, to_torchscript, to_zip, to_hub_folder])
def test_every_export_takes_a_plain_path_and_the_best_learner(run, tmp_path, monkeypatch, to):
    monkeypatch.chdir(tmp_path)
    student = DualStudent.load(run)
    to(student, "best", "exported")
    assert contents(tmp_path)
    with pytest.raises(PolicyKDError, match="learner 9 does not exist: take 0 to 1, or 'best'"):
        to(student, 9, "more")


def test_a_missing_package_is_named_with_its_extra(run, tmp_path, monkeypatch, capfd):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(PolicyKDError, match=r'ONNX needs more packages: pip install "policykd\[export\]"'):
        to_onnx(DualStudent(POINT, config=TINY), 0, tmp_path / "out.onnx")
    with pytest.raises(SystemExit):  # and before the other formats are written
        main(["export", str(run), "--out", str(tmp_path / "out")])
    assert "ONNX needs more packages" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
