"""Parts of a user's own, handed in as objects or named by a plugin: the installed package stays as it is."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_learner, make_peers

from policykd import DualStudent, PolicyKDError, TeacherStudent
from policykd.cli import main as policykd
from policykd.core import plugins
from policykd.core.networks import MLP
from policykd.distillation.divergences import DIVERGENCES, mse
from policykd.distillation.methods import METHODS, PEER_METHODS, TEACHER_METHODS, PeerMethod, TeacherMethod
from policykd.distillation.teaching_config import TaughtPPOConfig
from policykd.distillation.weights import (
    WEIGHTS,
    Comparison,
    disadvantage,
    hard_gate,
    paired_advantage,
    value_gate,
)
from policykd.learners import LEARNERS
from policykd.learners.settings import NETWORKS
from policykd.teachers import Teacher
from policykd.training.teacher_checks import choose_divergence

EXAMPLES = Path(__file__).parents[1] / "examples"
POINT = "PolicyKD/PointReach-v0"
SMALL = {"net_arch": (8, 8), "batch_size": 16, "learning_starts": 30, "buffer_size": 500, "distill_batch_size": 16}
SMALL |= {"eval_freq": 100, "n_eval_episodes": 1, "log_freq": 100, "checkpoint_freq": 100}
PARTS = ("own_method", "own_network", "own_learner")


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """A folder with the examples, and the tables as they were afterwards."""
    for name in PARTS:
        shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    tables = [PEER_METHODS, TEACHER_METHODS, DIVERGENCES, LEARNERS, NETWORKS]
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)
    for name in (*PARTS, "own_student"):
        sys.modules.pop(name, None)
    monkeypatch.delenv(plugins.VARIABLE, raising=False)


def parts():
    """The examples' parts as objects, out of every table, as if a script had just made them."""
    plugins.load(PARTS)
    found = {name: sys.modules[name] for name in PARTS}
    del PEER_METHODS["curious"], DIVERGENCES["absolute"], LEARNERS["mean_td3"], NETWORKS["residual"]
    own = {"divergence": found["own_method"].absolute, "network": found["own_network"].Residual}
    return found["own_method"].CURIOUS, found["own_learner"].MeanTD3, own


def falling(remaining):
    return 1e-3 * remaining


def test_objects_learn_are_saved_by_name_and_resume_bit_for_bit(tmp_path):
    method, backbone, own = parts()
    own = {**own, "learning_rate": falling, "distill_schedule": lambda progress: 1 - progress}
    arguments = {"method": method, "backbone": backbone, "config": SMALL | own, "compile": False}
    whole = DualStudent(POINT, **arguments).learn(400)
    half = DualStudent(POINT, **arguments, run_dir=tmp_path / "run")
    half.learn(400, callback=lambda local_variables, _: half.num_timesteps < 200)
    assert half.settings["method"] == "own:curious" and half.settings["backbone"] == "own:mean_td3"
    assert half.settings["config"]["network"] == "own:Residual"
    again = DualStudent.load(tmp_path / "run", method=method, backbone=backbone, config=own)
    again.learn(400 - again.num_timesteps)
    assert torch.equal(again.learner.actor, whole.learner.actor)
    folder = tmp_path / "run" / "own_curious-own_mean_td3" / "PolicyKD-PointReach-v0_1"
    assert (folder / "best_model.safetensors").is_file() and not (folder / "best_model.zip").exists()
    with pytest.raises(PolicyKDError, match="has no equivalent in Stable-Baselines3: use onnx or torchscript"):
        again.to_sb3(0)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("method", "method: curious is a custom part: pass it as method="),
        ("backbone", "backbone: mean_td3 is a custom part: pass it as backbone="),
        ("config", r"pass config=\{...\} with divergence \(absolute\), network \(Residual\)"),
    ],
)
def test_loading_without_an_own_part_says_which(tmp_path, missing, words):
    method, backbone, own = parts()
    agent = DualStudent(POINT, method=method, backbone=backbone, config=SMALL | own, compile=False)
    agent.save(tmp_path / "agent")
    given = {"method": method, "backbone": backbone, "config": own}
    del given[missing]
    with pytest.raises(PolicyKDError, match=words):
        DualStudent.load(tmp_path / "agent.safetensors", **given)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": 5}, "method: must be one of dpd, .* or a PeerMethod, not 5"),
        ({"method": TEACHER_METHODS["bc"]}, "or a PeerMethod, not TeacherMethod"),
        ({"method": PeerMethod}, "or a PeerMethod, not <class '.*PeerMethod'>"),
        ({"backbone": dict}, "backbone: must be one of ddpg, .*, not <class 'dict'>"),
        (
            {"backbone": make_learner("td3", 1)},
            "backbone: must be one of ddpg, .* or a class made from .*, not <.*TD3 obj",
        ),
        ({"config": {"divergence": 5}}, "divergence=5 must be"),
        ({"config": {"network": "mine"}}, "network: 'mine' is unknown; none is known by name: pass an object"),
        ({"config": {"learning_rate": "fast"}}, "learning_rate='fast' must be"),
        ({"config": {"divergence": "action_mes"}}, "did you mean action_mse|action_mse"),
    ],
)
def test_wrong_parts_are_one_line(arguments, words):
    with pytest.raises(PolicyKDError, match=words) as caught:
        DualStudent(POINT, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "column", "value", "words"),
    [
        (PeerMethod, "source", "frist", r"nearest: first\b.*; there are peer, first, best, None"),
        (PeerMethod, "states", "poled", r"nearest: pooled\b.*; there are own, peer, pooled"),
        (PeerMethod, "weight", "disadvantag", r"nearest: disadvantage\b.*; there are disadvantage, hard_gate"),
        (PeerMethod, "compares", "x", "there are values, actions"),
        (PeerMethod, "coupling", "jiont", r"nearest: joint\b.*; there are apart, joint"),
        (PeerMethod, "copies", "critic", r"nearest: policy and critics\b.*; there are"),
        (PeerMethod, "replay", "polled", r"nearest: pooled\b.*; there are own, pooled"),
        (PeerMethod, "target", "grp", r"nearest: group\b.*; there are own, group, actors"),
        (PeerMethod, "acting", "x", "there are own, advised"),
        (TeacherMethod, "states", "x", "there are own, teacher, mixed"),
        (TeacherMethod, "weight", "value", r"nearest: value_gate\b.*; there are"),
        (TeacherMethod, "coupling", "jiont", r"nearest: joint\b.*; there are alone, joint, proximal"),
        (TeacherMethod, "divergence", "nope", "there are action_mse"),
        (TeacherMethod, "schedule", "lineer", r"nearest: linear\b.*; there are constant, .*, held_kl"),
        (TeacherMethod, "reward", "x", "there are log_prob, next_distance, next_log_prob, value, None"),
    ],
)
def test_a_mistyped_column_of_an_own_method_is_not_another_choice(kind, column, value, words):
    with pytest.raises(PolicyKDError, match=words) as caught:
        kind("mine", "", **{column: value})
    assert column in str(caught.value) and repr(value) in str(caught.value) and "\n" not in str(caught.value)


def test_flags_and_names_of_an_own_method_are_flags_and_names():
    for wrong in ({"aggregate": 3}, {"name": 5}, {"weight": 5}, {"divergence": 5}):
        with pytest.raises(PolicyKDError):
            TeacherMethod(**{"name": "mine", "summary": "", **wrong})


CONTRADICTIONS = [
    ({"coupling": "alone", "divergence": None}, "copies nothing"),
    ({"divergence": None}, "copies nothing"),
    ({"divergence": None, "reward": "next_distance"}, "copies nothing"),
    ({"divergence": None, "reward": "value", "confident": True}, "copies nothing"),
    ({"divergence": None, "reward": "value", "coupling": "proximal"}, "without a loss to multiply"),
    ({"coupling": "alone", "schedule": "held_kl"}, "coupling='alone' has none"),
    ({"coupling": "alone", "reward": "value"}, "coupling='alone' has none"),
    ({"coupling": "alone", "confident": True}, "coupling='alone' has none"),
    ({"states": "mixed"}, "only one of the two acts"),
    ({"weight": "value_gate", "coupling": "proximal"}, "choose one"),
    ({"weight": "value_gate", "confident": True}, "choose one"),
    ({"confident": True, "coupling": "proximal"}, "choose one"),
]


@pytest.mark.parametrize(("columns", "words"), CONTRADICTIONS)
def test_columns_of_a_teachers_method_that_contradict_one_another_are_one_line(columns, words):
    with pytest.raises(PolicyKDError, match=words) as caught:
        TeacherMethod("mine", "", **columns)
    assert str(caught.value).startswith("method mine: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("columns", [{"reward": "value"}, {"states": "teacher"}, {}])
def test_what_only_rollouts_can_do_is_not_left_out_off_policy(columns):
    method = TeacherMethod("mine", "", environment_reward=True, **columns)
    assert method.on_policy is bool(columns)


OWN_NETWORKS = [
    (torch.nn.Linear, "network: returned a Linear, which has no parameter_count, initialise: docs/extending/network"),
    (lambda inputs: None, "network: called with .4, 2., it raised TypeError"),
    (lambda i, o: MLP((i, 4, o + 1)), r"on inputs .1, 16, 4. must return .1, 16, 2., and returned .1, 16, 3."),
    (lambda i, o: MLP((i + 1, 4, o)), r"network: on inputs .1, 16, 4. raised (Value|Runtime)Error"),
]


@pytest.mark.parametrize(("maker", "words"), OWN_NETWORKS)
def test_a_network_of_ones_own_is_tried_once(maker, words):
    for name in ("network", "critic_network"):
        with pytest.raises(PolicyKDError) as caught:
            DualStudent(POINT, backbone="td3", config=SMALL | {name: maker})
        assert "\n" not in str(caught.value) and name in str(caught.value)
        assert name == "critic_network" or re.search(words, str(caught.value))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"divergence": torch.nn.MSELoss()}, "divergence: raised AttributeError: .*: docs/extending/functions.md has"),
        (
            {"divergence": lambda a, b: (a.actions - b.actions).sum()},
            r"one number per state, .K, B. = .2, 16., and ret",
        ),
        ({"divergence": lambda a, b: 0.0}, "and returned float: docs"),
        (
            {"divergence": lambda a, b: (a.actions - b.actions).sum(-1) / 0},
            "divergence: returned non-fin",
        ),
        ({"distill_schedule": lambda progress: "x"}, r"distill_schedule\(0.5\) returned 'x', but must return"),
        ({"distill_schedule": lambda: 1.0}, "fails at 0.5 .TypeError"),
        ({"distill_schedule": lambda progress: np.nan}, "returned nan, but must return a finite"),
        ({"learning_rate": lambda remaining: "x"}, r"learning_rate\(0.5\) returned 'x', but must return"),
        ({"learning_rate": lambda: 1}, "fails at 0.5 .TypeError"),
    ],
)
@pytest.mark.parametrize("backbone", ["td3", "ppo"])
def test_a_function_of_ones_own_is_tried_once(backbone, config, words):
    small = SMALL if backbone == "td3" else {"net_arch": (8,), "distill_batch_size": 16}
    with pytest.raises(PolicyKDError, match=words) as caught:
        DualStudent(POINT, backbone=backbone, method="mutual", config=small | config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"weight": lambda seen, config: seen.own_value.unsqueeze(-1)}, r"weight: must return .* returned .2, 16, 1."),
        ({"weight": lambda seen: 1}, "weight: raised TypeError"),
        ({"weight": "paired_advantage"}, "weight: raised ValueError: paired advantages must be"),
        ({"weight": "hard_gate", "compares": "actions"}, "weight: raised ValueError: weights need two tensors"),
    ],
)
def test_a_weight_of_ones_own_is_tried_once(columns, words):
    with pytest.raises(PolicyKDError, match=words):
        DualStudent(POINT, backbone="td3", method=PeerMethod("mine", "", **columns), config=SMALL)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"source": None, "weight": "disadvantage"}, "weight sets how to copy, but source=None copies nobody"),
        ({"source": None, "states": "pooled"}, "states sets how to copy"),
        ({"source": None, "copies": "policy and critics"}, "copies sets how to copy"),
        ({"compares": "actions"}, "compares='actions' needs a weight"),
        ({"source": "best", "adaptive": True}, "adaptive=True changes distill_coef"),
        ({"copies": "policy and critics", "coupling": "joint"}, "copies='policy and critics' is a separate step"),
    ],
)
def test_columns_of_a_peer_method_that_would_have_no_effect(columns, words):
    with pytest.raises(PolicyKDError, match=f"^method mine: {words}"):
        PeerMethod("mine", "", **columns)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"states": "pooled"}, "distils on states of the whole group, but rollouts are not shared"),
        ({"copies": "policy and critics"}, r"copies critics Q.s, a., but ppo has none"),
    ],
)
def test_columns_that_rollouts_would_not_follow(columns, words):
    with pytest.raises(PolicyKDError, match=words):
        DualStudent(POINT, backbone="ppo", method=PeerMethod("mine", "", **columns))


def test_a_function_of_a_teachers_student_is_tried_once():
    config = {"net_arch": (8,), "divergence": lambda own, target: own.actions - target.actions}
    with pytest.raises(PolicyKDError, match=r"divergence: must return one number per state, .K, B. = .1, 256., and"):
        TeacherStudent(POINT, lambda observation: np.zeros(2), config=config)
    with pytest.raises(PolicyKDError, match=r"schedule\(0.5\) returned 'x', but must return"):
        TeacherMethod("mine", "", schedule=lambda progress: "x")


def test_weights_have_names():
    config, advantages = LEARNERS["td3"].config_type(), torch.randn(2, 4, 9)
    seen = Comparison(torch.randn(2, 9), torch.randn(2, 9), advantages)
    values = seen.source_value, seen.own_value
    torch.testing.assert_close(WEIGHTS["disadvantage"](seen, config), disadvantage(*values, 1.0, scale_free=True))
    assert torch.equal(WEIGHTS["hard_gate"](seen, config), hard_gate(*values))
    assert torch.equal(WEIGHTS["value_gate"](seen, config), value_gate(*values))
    assert torch.equal(WEIGHTS["paired_advantage"](seen, config), paired_advantage(advantages))
    other = LEARNERS["td3"].config_type(alpha=3.0, scale_free=False, weight_ratio=5.0, pessimism=0.25)
    expected = disadvantage(*values, 3.0, weight_ratio=5.0)
    torch.testing.assert_close(WEIGHTS["disadvantage"](seen, other), expected)
    assert torch.equal(WEIGHTS["paired_advantage"](seen, other), paired_advantage(advantages, 0.25))
    named, function = (PeerMethod("mine", "", weight=weight) for weight in ("hard_gate", WEIGHTS["hard_gate"]))
    agents = [make_peers(method, "td3").learn(100) for method in (named, function)]
    assert torch.equal(agents[0].learner.actor, agents[1].learner.actor)


def test_a_divergence_without_a_gradient_is_refused_before_anything_is_learnt():
    def frozen(own, target):
        return (own.actions.detach() - target.actions).abs().sum(-1)

    with pytest.raises(PolicyKDError, match="divergence: has no gradient in its first argument"):
        DualStudent(POINT, method="mutual", config=SMALL | {"divergence": frozen})


def test_the_divergence_of_an_own_method_may_be_a_function():
    method = TeacherMethod("mine", "", divergence=mse)
    for gaussian, discrete in ((True, False), (False, False), (False, True)):
        assert choose_divergence(method, TaughtPPOConfig(), gaussian, None, discrete) is mse


def test_a_teacher_method_and_a_divergence_of_ones_own(tmp_path):
    _, _, own = parts()
    method = TeacherMethod(
        "watch", "Copy the teacher where it acts", states="teacher", coupling="alone", aggregate=True
    )

    def teacher(observation):
        return np.clip(-np.asarray(observation)[..., :2], -1, 1)

    config = {"round_steps": 40, "round_updates": 5, "net_arch": (8,), "eval_freq": 0, "n_eval_episodes": 1}
    config |= {"allow_weak_teacher": True, "teacher_episodes": 1, "divergence": own["divergence"]}
    students = TeacherStudent(POINT, teacher, method=method, config=config, compile=False).learn(100)
    students.save(tmp_path / "students")
    again = TeacherStudent.load(
        tmp_path / "students.safetensors", method=method, config={"divergence": own["divergence"]}
    )
    assert torch.equal(again.learner.actor, students.learner.actor) and again.method_name == "own:watch"


class Whitening:
    """A linear network that needs real states, and draws from torch's own generator."""

    def __init__(self, inputs, outputs):
        self.shape, self.parameter_count, self.made = (inputs, outputs), inputs * outputs, 0

    def initialise(self, generator):
        self.made += 1
        return torch.randn(self.parameter_count)

    def __call__(self, parameters, x):
        torch.linalg.inv(x.transpose(1, 2) @ x)
        return x @ parameters.view(len(parameters), *self.shape)


def test_what_is_tried_once_is_left_as_it_was_and_may_need_what_a_run_gives():
    """DDPG's pair of critics, values of one sign, schedules without ends, real states; no random number is taken."""

    def both(seen, config):
        mine, theirs = seen.advantages.unbind(1)
        return (torch.rand_like(mine) + (mine > 0) * (theirs > 0)).float()

    own = {"network": Whitening, "distill_schedule": lambda progress: 0.1 / (progress * (1 - progress))}
    torch.manual_seed(3)
    agent = DualStudent(POINT, method=PeerMethod("m", "x", compares="actions", weight=both), config=SMALL | own)
    assert agent.learner.actor_network.made == 2  # once for each learner
    torch.manual_seed(3)
    drawn = [torch.randn(8), torch.randn(6), torch.randn(8), torch.randn(6)]  # each learner's actor, then its critic
    assert torch.equal(agent.learner.actor, torch.stack(drawn[::2]))
    DualStudent(POINT, method=PeerMethod("m", "x", weight=lambda seen, _: seen.own_value.sqrt()), config=SMALL)


def page_learner():
    """The class on the page about learners of one's own."""
    page = (Path(__file__).parents[1] / "docs" / "extending" / "learner.md").read_text(encoding="utf-8")
    scope = {"DualStudent": None}
    exec(page.partition("```python\n")[2].partition("\n\n\nagent")[0], scope)
    return scope["MeanTD3"]


@pytest.mark.parametrize("learner", [page_learner, lambda: parts()[1]], ids=["page", "example"])
def test_the_learner_that_is_shown_distils_in_one_loss_and_follows_every_peers_rate(learner):
    backbone = learner()

    def actor(config, method="mutual_joint"):
        return DualStudent(POINT, backbone=backbone, method=method, config={**SMALL, **config}).learn(120).learner.actor

    assert not torch.equal(actor({"distill_coef": 100.0}), actor({"distill_coef": 0.0}))
    start = DualStudent(POINT, backbone=backbone, config=SMALL).learner.actor
    slow, fast = (actor({"vary": {"learning_rate": (1e-30, 1e-2)}}, "independent") - start).abs().amax(1)
    assert slow < 1e-6 < 1e-3 < fast


def test_tables_are_views_and_take_rows():
    PEER_METHODS["mine"] = PEER_METHODS["dpd"]
    assert METHODS["mine"] is PEER_METHODS["dpd"]
    assert DualStudent(POINT, method="mine", config=SMALL).settings["method"] == "dpd"


FLAGS = ["--batch-size", "16", "--learning-starts", "30", "--buffer-size", "500"]
FLAGS += ["--eval-freq", "100", "--n-eval-episodes", "1"]


@pytest.mark.parametrize(
    ("module", "choice"),
    [
        ("own_method", ["--method", "curious", "--divergence", "absolute"]),
        ("own_network", ["--network", "residual"]),
        ("own_learner", ["--backbone", "mean_td3", "--action-cost", "0.1"]),
    ],
)
def test_a_plugin_makes_parts_known_to_the_command_line(module, choice, capsys):
    train = [
        "--plugins",
        module,
        "train",
        "--env",
        POINT,
        *(["--backbone", "td3"] if "--backbone" not in choice else []),
    ]
    train += [*choice, *FLAGS, "--run-dir", "run"]
    policykd([*train, "--total-timesteps", "100"])
    policykd([*train, "--total-timesteps", "200", "--resume"])
    policykd(["--plugins", module, "evaluate", "run", "--n-eval-episodes", "1"])
    assert "resuming from 100 steps" in capsys.readouterr().out


STUDENT = """
from policykd.distillation.teaching_config import TaughtTD3Config
from policykd.learners import LEARNERS, TD3

class OwnTD3(TD3):
    name, config_type = "own_td3", TaughtTD3Config

LEARNERS["own_td3"] = OwnTD3
"""


@pytest.mark.slow
def test_a_plugins_learner_is_a_student_and_then_a_teacher_on_the_command_line(tmp_path):
    (tmp_path / "own_student.py").write_text(STUDENT)
    TeacherStudent(POINT, lambda seen: seen[:2], config={"net_arch": (8,)}).save("teacher.safetensors")
    distill = ["--plugins", "own_student", "distill", "--env", POINT, "--allow-weak-teacher", "--student", "8"]
    distill += ["--total-timesteps", "40", "--round-steps", "20", "--round-updates", "10", "--n-eval-episodes", "1"]
    distill += ["--final-episodes", "1"]
    student = ["--teacher", "teacher.safetensors", "--backbone", "own_td3", "--run-dir", "student"]
    policykd([*distill, *student])
    policykd([*distill, *student, "--fine-tune", "60", "--resume"])
    assert TeacherStudent.load("student").settings["backbone"] == "own_td3"
    assert Teacher.load("student").predict(np.zeros(4))[0].shape == (2,)


def test_a_learner_without_settings_of_teaching_is_no_student(capsys):
    with pytest.raises(SystemExit):
        policykd(["--plugins", "own_learner", "distill", "--backbone", "mean_td3", "--env", POINT])
    assert "its config_type must be a TeachingConfig" in capsys.readouterr().err


def test_peers_with_settings_of_their_own_on_the_command_line():
    train = ["train", "--env", POINT, "--backbone", "sac", "--method", "mutual_shared", *FLAGS, "--run-dir", "run"]
    train += ["--vary", "learning_rate", "3e-4", "1e-3", "--vary", "gamma", "0.9", "0.99", "--allocation", "best"]
    policykd([*train, "--total-timesteps", "100"])
    agent = DualStudent.load("run")
    assert agent.config.vary == {"learning_rate": [3e-4, 1e-3], "gamma": [0.9, 0.99]}
    for wrong in (["--vary", "gamma"], ["--vary", "gamma", "many"], ["--vary", "gamma", "0.9"]):
        with pytest.raises(SystemExit) as caught:
            policykd(["train", "--env", POINT, *wrong, "--run-dir", "other"])
        assert caught.value.code == 2 and not Path("other").exists()


@pytest.mark.slow
def test_a_plugin_makes_parts_known_to_a_benchmark(capsys):
    Path("spec.yaml").write_text(
        "{name: own, total_timesteps: 200, seeds: 1, evaluations: 1, n_eval_episodes: 1, final_episodes: 1,"
        " settings: {net_arch: [8], batch_size: 16, learning_starts: 30, buffer_size: 500, divergence: absolute},"
        f" tasks: {{{POINT}: {{backbones: [td3], reference: {{low: -53, high: -5, source: test}}}}}},"
        " methods: [curious]}",
        encoding="utf-8",
    )
    with pytest.raises(SystemExit):
        policykd(["benchmark", "spec.yaml", "--plan"])
    assert "use policykd --plugins MODULE" in capsys.readouterr().err
    policykd(["--plugins", "own_method", "benchmark", "spec.yaml", "--jobs", "1"])
    said = capsys.readouterr().out
    assert "1 of 1 cells" in said and "(policykd --plugins own_method report results/own)" in said


def test_plugins_that_cannot_be_imported_are_one_line(capsys):
    Path("broken.py").write_text("raise RuntimeError('on purpose')", encoding="utf-8")
    Path("ends.py").write_text("import sys; sys.exit()", encoding="utf-8")
    for arguments, words in (
        (["--plugins", "no_such_module", "train"], "plugins: no_such_module cannot be imported"),
        (["--plugins", "broken", "train"], "plugins: broken cannot be imported: on purpose"),
        (["--plugins=broken", "train"], "plugins: broken cannot be imported: on purpose"),
        (["--plugins", "ends", "train"], "plugins: ends calls sys.exit"),
        (["--plugins"], "plugins: name a module"),
        (["--plugins=", "train"], "plugins: name a module"),
        (["--plugins", ",", "train"], "plugins: name a module"),
    ):
        with pytest.raises(SystemExit) as caught:
            policykd(arguments)
        error = capsys.readouterr().err
        assert caught.value.code == 2 and words in error and error.count("\n") == 1


@pytest.mark.parametrize("first", [["--plugins", "broken"], ["--plugins=broken"], []])
def test_help_and_version_need_no_plugin_and_no_folder(first, capsys, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    policykd([*first, "--help"])
    policykd([*first, "--version"])
    assert "COMMAND" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        policykd(["evaluate", "run"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "policykd: error: current folder: it was deleted: change to another one\n"
