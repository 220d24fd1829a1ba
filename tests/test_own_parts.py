"""Parts of a user's own, handed in as objects or named by a plugin: the installed package stays as it is."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from policykd import DualStudent, PolicyKDError, TeacherStudent
from policykd.cli import main as policykd
from policykd.core import plugins
from policykd.distillation.divergences import DIVERGENCES
from policykd.distillation.methods import METHODS, PEER_METHODS, TEACHER_METHODS, TeacherMethod
from policykd.learners import LEARNERS
from policykd.learners.settings import NETWORKS

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
    for name in PARTS:
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
    with pytest.raises(PolicyKDError, match="has no twin in Stable-Baselines3"):
        again.to_sb3(0)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("method", "method: this is an own part, curious: hand it in as method="),
        ("backbone", "backbone: this is an own part, mean_td3: hand it in as backbone="),
        ("config", r"hand in config=\{...\} with divergence \(absolute\), network \(Residual\)"),
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
        ({"method": 5}, "method: takes one of dpd, .* or a PeerMethod, not 5"),
        ({"method": TEACHER_METHODS["bc"]}, "or a PeerMethod, not TeacherMethod"),
        ({"backbone": dict}, "backbone: takes one of ddpg, .*, not <class 'dict'>"),
        ({"config": {"divergence": 5}}, "divergence=5 must be"),
        ({"config": {"network": "mine"}}, "network: 'mine' is unknown"),
        ({"config": {"learning_rate": "fast"}}, "learning_rate='fast' must be"),
        ({"config": {"divergence": "action_mes"}}, "did you mean action_mse|action_mse"),
    ],
)
def test_wrong_parts_are_one_line(arguments, words):
    with pytest.raises(PolicyKDError, match=words) as caught:
        DualStudent(POINT, **arguments)
    assert "\n" not in str(caught.value)


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


def page_learner():
    """The class on the page about learners of one's own."""
    page = (Path(__file__).parents[1] / "docs" / "extending" / "learner.md").read_text()
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
    assert "going on from 100 steps" in capsys.readouterr().out


def test_peers_with_settings_of_their_own_on_the_command_line(capsys):
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
        " methods: [curious]}"
    )
    with pytest.raises(SystemExit):
        policykd(["benchmark", "spec.yaml", "--plan"])
    assert "method: 'curious' is unknown" in capsys.readouterr().err
    policykd(["--plugins", "own_method", "benchmark", "spec.yaml", "--jobs", "1"])
    assert "1 of 1 cells" in capsys.readouterr().out


def test_plugins_that_cannot_be_imported_are_one_line(capsys):
    Path("broken.py").write_text("raise RuntimeError('on purpose')")
    Path("ends.py").write_text("import sys; sys.exit()")
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
