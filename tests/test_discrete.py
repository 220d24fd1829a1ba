"""Tasks of choices (Discrete): the same learners, teachers, methods and files as of continuous actions."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from choosing import KINDS, LENGTH, FromTwo, Largest, agent, expert, observations
from tiny import differences

from policykd import DualStudent, PolicyKDError, Teacher, TeacherStudent
from policykd.benchmark.spec_file import parse_spec
from policykd.cli import main
from policykd.distillation.divergences import DIVERGENCES, distance, divergence_of
from policykd.distillation.labels import Labels
from policykd.distillation.methods import PEER_METHODS, TEACHER_METHODS
from policykd.export.c import to_c
from policykd.export.onnx import to_onnx
from policykd.export.torchscript import to_torchscript
from policykd.export.zoo import to_zip
from policykd.learners.heads import Categorical
from policykd.measure.doctor import diagnose
from policykd.measure.fidelity import fidelity
from policykd.tasks.spaces import DiscreteActions

QUIET = {"eval_freq": 0, "n_eval_episodes": 2, "net_arch": (16, 16)}
PPO = {**QUIET, "n_steps": 24, "n_epochs": 1, "batch_size": 24}
TAUGHT = {**PPO, "teacher_episodes": 4, "allow_weak_teacher": True, "n_envs": 2, "round_steps": 24, "round_updates": 3}


@pytest.fixture(scope="module")
def taught():
    """A student of a function, good at its task."""
    config = {**QUIET, "round_steps": 300, "round_updates": 250, "n_envs": 1, "teacher_episodes": 4}
    return TeacherStudent(Largest, expert, config=config, compile=False).learn(1_500)


def test_a_learner_that_has_diverged_is_not_measured_by_its_first_choice():
    peers = DualStudent(Largest, method="independent", backbone="ppo", config=PPO, compile=False)
    peers.learner.actor[1] = np.nan
    found = peers.evaluate(2)
    assert np.isfinite(found.returns[0]).all() and np.isnan(found.returns[1]).all() and found.means[1] == -np.inf
    assert np.isnan(peers.evaluate_group(2).returns).all()


def zipped(kind, folder):
    """An agent of SB3 and its file."""
    model = agent(kind)
    model.save(folder / kind)
    return model, folder / f"{kind}.zip"


def test_a_choice_is_a_vector_whose_largest_entry_counts():
    choices = DiscreteActions(gym.spaces.Discrete(3, start=5))
    assert choices.to_env(np.array([[0.1, 0.0, -1.0], [0.0, 0.3, 0.7]])).tolist() == [5, 7]
    assert choices.one_hot(np.array([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert choices.from_env(np.array([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]
    votes = choices.one_hot(np.array([6, 5, 6])).mean(0)
    assert choices.to_env(votes) == 6


def test_samples_probabilities_and_entropy_are_those_of_the_softmax():
    logits = torch.randn(1, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth, head, own = torch.distributions.Categorical(logits=logits), Categorical(), logits[:, 0, :0]
    noise = torch.randn(1, 40_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = head.sample(logits.expand_as(noise), own, noise)
    assert (drawn.sum(-1) == 1).all()
    torch.testing.assert_close(drawn.mean(1), truth.probs[0], atol=0.01, rtol=0)
    actions = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    expected = truth.log_prob(torch.arange(3).view(3, 1, 1)).view(1, 3)
    torch.testing.assert_close(head.log_prob(logits.expand(1, 3, 3), own, actions), expected)
    torch.testing.assert_close(head.entropy(logits, own), truth.entropy()[0])
    wild = torch.tensor([[[-40.0, 0.0, 12.0]]])  # noise that no generator draws
    assert head.sample(torch.zeros(1, 1, 3), own.float(), wild).sum() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_of_sb3_teaches_as_it_acts(kind, tmp_path):
    model, path = zipped(kind, tmp_path)
    rows = observations()
    acted = model.predict(rows, deterministic=True)[0]
    assert len(set(acted)) > 1 or kind == "ARS"
    for teacher in (Teacher.load(model, Largest), Teacher.load(path, Largest), Teacher.load(path)):
        assert teacher.predict(rows)[0].tolist() == acted.tolist()
        assert teacher.actions(torch.from_numpy(rows)).argmax(1).tolist() == acted.tolist()
        assert teacher.predict(rows[0])[0] == acted[0]
    said, asked = teacher.distribution(torch.from_numpy(rows))[0], torch.from_numpy(rows)
    with torch.no_grad():
        if kind in ("DQN", "QRDQN"):
            q = model.policy.q_net(asked) if kind == "DQN" else model.policy.quantile_net(asked).mean(1)
            torch.testing.assert_close(said, q)
            torch.testing.assert_close(teacher.value(asked), q.amax(1))
        elif kind != "ARS":
            logits = model.policy.get_distribution(asked).distribution.logits
            torch.testing.assert_close(said.log_softmax(-1), logits)
            torch.testing.assert_close(teacher.value(asked), model.policy.predict_values(asked).squeeze(1))


def test_a_student_of_a_function_learns_its_choices(taught):
    returns = taught.evaluate(20).returns
    assert returns.mean() > 0.8 * LENGTH  # a third of it by chance
    rows = observations()
    assert taught.predict(rows)[0].shape == (len(rows),) and taught.predict(rows[0])[0].shape == ()
    alike = fidelity(taught, 0, steps=100)["student_states"]
    assert alike.agreement > 0.8 and np.isnan(alike.kl)
    assert alike.distance == pytest.approx(2**0.5 * (1 - alike.agreement), abs=1e-6)


def test_actions_may_count_from_any_number():
    teacher = Teacher.load(lambda observation: expert(observation) + 2, FromTwo)
    assert teacher.score(FromTwo, 3).mean == LENGTH
    student = TeacherStudent(FromTwo, teacher, config=TAUGHT, compile=False).learn(48)
    assert set(student.predict(observations())[0]) <= {2, 3, 4}
    with pytest.raises(PolicyKDError, match="gives actions outside 2 to 4"):
        Teacher.load(expert, FromTwo)


@pytest.mark.parametrize("method", TEACHER_METHODS)
def test_every_way_of_teaching_works_on_choices(method, tmp_path):
    _, path = zipped("PPO", tmp_path)
    student = TeacherStudent(Largest, path, method=method, config=TAUGHT, compile=False)
    before = student.learner.actor.clone()
    student.learn(48)
    assert torch.isfinite(student.learner.parameters).all()
    assert (student.learner.actor - before).abs().max() > 1e-4


@pytest.mark.parametrize("method", [name for name, row in PEER_METHODS.items() if row.source])
def test_peers_copy_choices_or_say_why_not(method):
    if PEER_METHODS[method].replay == "pooled" or PEER_METHODS[method].compares == "actions":
        with pytest.raises(PolicyKDError, match=f"method: {method} "):
            DualStudent(Largest, method=method, backbone="ppo", config=PPO)
        return
    config = {**PPO, "divergence": "kl_forward" if method == "mutual" else "action_mse"}
    apart, together = (
        DualStudent(Largest, method=name, backbone="ppo", config=config, compile=False).learn(96)
        for name in ("independent", method)
    )
    assert not torch.equal(apart.learner.actor, together.learner.actor)
    assert together.predict(observations(), learner="group")[0].shape == (40,)


@pytest.mark.parametrize("kind", ["peers", "dagger", "fine_tune"])
def test_a_run_on_cartpole_goes_on_bit_by_bit(kind, tmp_path):
    def begin():
        if kind == "peers":
            return DualStudent("CartPole-v1", backbone="ppo", config={**PPO, "normalize_observation": True})
        config = {**TAUGHT, "distill_schedule": "constant"}
        student = TeacherStudent("CartPole-v1", lambda o: int(o[2] + o[3] > 0), config=config, compile=False)
        return student.learn(24).fine_tune(48, config={"critic_steps": 0}) if kind == "fine_tune" else student

    whole, half = begin().learn(144), begin().learn(72)
    half.save(tmp_path / "half.safetensors", include_replay=True)
    again = type(half).load(
        tmp_path / "half.safetensors", **({} if kind == "peers" else {"env": None}), **teacher(kind)
    )
    again.learn(72)
    assert list(differences(whole._state(False)["learner"], again._state(False)["learner"])) == []


def teacher(kind):
    """What a student needs to go on."""
    return {"teacher": lambda o: int(o[2] + o[3] > 0)} if kind == "dagger" else {}


def test_students_leave_as_files_that_act_alike(taught, tmp_path):
    rows = observations()
    acted = taught.predict(rows)[0]
    to_zip(taught, 0, tmp_path / "student.zip")
    model = stable_baselines3.PPO.load(tmp_path / "student.zip", device="cpu")
    normaliser = taught.to_sb3(0).get_vec_normalize_env()
    assert model.predict(normaliser.normalize_obs(rows), deterministic=True)[0].tolist() == acted.tolist()
    pytest.importorskip("onnxruntime")
    to_onnx(taught, 0, tmp_path / "student.onnx")
    to_torchscript(taught, 0, tmp_path / "student.pt")
    taught.save(tmp_path / "student.safetensors")
    for name in ("student.zip", "student.onnx", "student.pt", "student.safetensors"):
        env = {"env": Largest} if name.endswith("safetensors") else {}
        again = Teacher.load(tmp_path / name, trust=True, **env)
        assert again.discrete and again.predict(rows)[0].tolist() == acted.tolist(), name
    with pytest.raises(PolicyKDError, match=r"C and NumPy support only continuous actions: use onnx or torchscript$"):
        to_c(taught, 0, tmp_path / "c", inputs="full")


def answer(student, rows):
    return Labels.unpack(student.panel.answer(torch.from_numpy(rows).unsqueeze(0)), True).policy.logits[0]


def test_q_values_make_a_policy_at_rusus_temperature_and_are_copied_as_they_are_by_mse(tmp_path):
    model, path = zipped("DQN", tmp_path)
    rows = observations()
    with torch.no_grad():
        q = model.policy.q_net(torch.from_numpy(rows))
    torch.testing.assert_close(answer(TeacherStudent(Largest, path), rows), q / 0.01)
    soft = TeacherStudent(Largest, path, config={"q_temperature": 2.0})
    torch.testing.assert_close(answer(soft, rows), q / 2)
    torch.testing.assert_close(answer(TeacherStudent(Largest, path, config={"divergence": "mse"}), rows), q)


def test_temperature_is_hintons_for_policies_too(tmp_path):
    _, path = zipped("PPO", tmp_path)
    student = TeacherStudent(Largest, path, config={"temperature": 2.0})
    rows = torch.from_numpy(observations()).unsqueeze(0)
    own, target = (
        student.learner.outputs(student.learner.actor, rows),
        Labels.unpack(student.panel.answer(rows), True).policy,
    )
    expected = distance(own, target, divergence_of("kl_forward"), 2.0)
    torch.testing.assert_close(student.recipe.distillation.divergence(own, target), expected)
    tuned = student.fine_tune(0).recipe
    torch.testing.assert_close(tuned.divergence(own, target), expected)
    with pytest.raises(PolicyKDError, match="continuous actions have none: use variance_scale"):
        TeacherStudent("Pendulum-v1", lambda o: np.zeros(1), config={"temperature": 2.0})
    peers = DualStudent(Largest, method="mutual", backbone="ppo", config={**PPO, "divergence": "nll", "temperature": 2})
    expected = distance(own, target, divergence_of("nll"), 2.0)
    torch.testing.assert_close(peers.recipe.distillation.divergence(own, target), expected)
    with pytest.raises(PolicyKDError, match=r"temperature: 2\.0 softens logits, but continuous actions have none"):
        DualStudent("Pendulum-v1", config={"temperature": 2.0})


def test_several_teachers_that_choose_are_the_mean_of_their_probabilities():
    models = [agent("PPO", seed) for seed in (0, 1)]
    rows = observations()
    asked = torch.from_numpy(rows)
    with torch.no_grad():
        mean = torch.stack([m.policy.get_distribution(asked).distribution.probs for m in models]).mean(0)
    said = answer(TeacherStudent(Largest, models), rows)
    torch.testing.assert_close(said.softmax(-1), mean)


def test_several_teachers_with_q_values_are_their_mean_where_these_are_copied():
    models, rows = [agent("DQN", seed) for seed in (0, 1)], observations()
    with torch.no_grad():
        mean = torch.stack([m.policy.q_net(torch.from_numpy(rows)) for m in models]).mean(0)
    torch.testing.assert_close(answer(TeacherStudent(Largest, models, config={"divergence": "mse"}), rows), mean)
    said = answer(TeacherStudent(Largest, models), rows)
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(len(rows)))  # elsewhere of their policies


def test_choices_that_begin_beyond_0_have_no_agent_of_sb3_and_leave_as_what_they_are(tmp_path, capsys):
    gym.register("FromTwo-v0", FromTwo, max_episode_steps=LENGTH)
    config = {"net_arch": (8,), "n_eval_episodes": 1, "eval_freq": 0, "round_steps": 40, "round_updates": 2}
    student = TeacherStudent("FromTwo-v0", lambda o: expert(o) + 2, config=config, run_dir=tmp_path / "run").learn(40)
    with pytest.raises(PolicyKDError, match="actions of FromTwo-v0 start at 2, but those of Stable-Baselines3's"):
        student.to_sb3()
    assert not list((tmp_path / "run").rglob("*.zip")) and list((tmp_path / "run").rglob("best_model.safetensors"))
    rows = observations()
    for source in (student, tmp_path / "run"):
        assert (Teacher.load(source, "FromTwo-v0").predict(rows)[0] == student.predict(rows)[0]).all()
    pytest.importorskip("onnxruntime")
    main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "files")])
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["FromTwo-v0.onnx", "FromTwo-v0.pt"]
    assert "without sb3 and hub: the actions of FromTwo-v0 start at 2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "more"), "--format", "onnx", "sb3"])
    assert "format: no sb3: the actions" in capsys.readouterr().err and not (tmp_path / "more").exists()


def test_distances_of_mean_actions_are_those_of_probabilities(taught):
    rows = torch.from_numpy(observations()).unsqueeze(0)
    own = taught.learner.outputs(taught.learner.actor, rows)
    other = own._replace(logits=own.logits.flip(-1))
    expected = (own.logits.softmax(-1) - other.logits.softmax(-1)).square().sum(-1)
    torch.testing.assert_close(DIVERGENCES["action_mse"](own, other), expected)


def test_the_doctor_looks_at_choices():
    page = diagnose(expert, Largest, n_episodes=8, updates=0)
    assert "of 3 actions it chooses" in str(page) and page.wrong == []
    stuck = diagnose(lambda o: 1, Largest, n_episodes=8, updates=0)
    assert "choices" in [finding.check for finding in stuck.wrong]


def test_the_command_line_trains_goes_on_distils_and_plans_benchmarks(tmp_path, capsys):
    settings = ["--n-steps", "16", "--batch-size", "16", "--n-epochs", "1", "--net-arch", "4", "--eval-freq", "0"]
    settings += ["--n-eval-episodes", "1", "--compile", "no"]
    train = ["train", "--env", "CartPole-v1", "--backbone", "ppo", "--run-dir", str(tmp_path / "run"), *settings]
    main([*train, "--total-timesteps", "30"])
    assert "no learner was trained: 30 steps end before the first update" in capsys.readouterr().out
    main([*train, "--total-timesteps", "128", "--resume"])
    assert "resuming from 30 steps" in (said := capsys.readouterr().out) and "was trained" not in said
    rounds = ["--round-steps", "16", "--round-updates", "1", "--allow-weak-teacher", "--teacher-episodes", "1"]
    words = f"distill --final-episodes 3 --env CartPole-v1 --teacher {tmp_path / 'run'}"
    distill = [*words.split(), *settings[-8:], *rounds]
    main([*distill, "--total-timesteps", "32", "--run-dir", str(tmp_path / "student")])
    assert "| student | parameters |" in capsys.readouterr().out
    cells = parse_spec(SPEC).cells
    assert [cell.name for cell in cells] == ["CartPole-v1/dpd-ppo", "CartPole-v1/sb3_double-ppo"]


SPEC = """
name: choices
tasks: {CartPole-v1: {backbones: [ppo], reference: {low: 20, high: 500, source: by hand}}}
methods: [dpd, sb3_double]
total_timesteps: 4096
seeds: 1
evaluations: 1
n_eval_episodes: 1
final_episodes: 1
settings: {n_steps: 512}
"""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DualStudent(Largest, backbone="td3"), "backbone: td3 has continuous actions only"),
        (lambda: TeacherStudent(Largest, expert, backbone="sac"), "backbone: sac has continuous actions"),
        (lambda: DualStudent(Several, backbone="ppo"), "MultiDiscrete actions; policykd takes continuous"),
        (lambda: TeacherStudent(Largest, expert, config={"divergence": "kl_forward"}), "action probabilities"),
        (lambda: TeacherStudent(Largest, expert, method="entropy_regularised"), "action probabilities"),
        (lambda: TeacherStudent(Largest, expert, config={"divergence": "wasserstein2"}), "compares Gaussians"),
        (lambda: TeacherStudent(Largest, expert, config={"collect_noise_std": 0.1}), "collect_noise_std: adds noise"),
        (lambda: Teacher.load(agent("PPO"), "Pendulum-v1"), "chooses one of 3 actions, Pendulum-v1 has 3 and 1"),
        (lambda: Teacher.load(agent("PPO"), "CartPole-v1"), "chooses one of 3 actions, CartPole-v1 has 4 and a choice"),
        (lambda: Teacher.load(lambda o: np.zeros((2, 2)), Largest), "not numbers of actions"),
        (
            lambda: DualStudent(Largest, config={"divergence": "gaussian_kl_forward"}, backbone="ppo").learn(4096),
            "mean",
        ),
    ],
)
def test_what_cannot_work_on_choices_is_one_line(make, message):
    with pytest.raises(PolicyKDError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


class Several(Largest):
    action_space = gym.spaces.MultiDiscrete([2, 2])
