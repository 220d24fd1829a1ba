"""The command line: one set of dataclasses gives its options, its help and its files, and every one has an effect."""

import dataclasses
import json
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from tiny import POINT, TINY, flags, progress, start
from tiny_benchmark import changed

from policykd.cli import COMMANDS, main
from policykd.cli.evaluate import EvaluateOptions
from policykd.cli.train import TrainOptions
from policykd.cli.video import VideoOptions
from policykd.core import checkpoint
from policykd.learners.config import DDPGConfig, TD3Config
from policykd.learners.presets import PRESETS
from policykd.measure import video
from policykd.training.dual_student import DualStudent


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def said(capsys, *command):
    """What a command prints, as one line of words. ``--help`` ends by leaving."""
    if "--help" in command:
        with pytest.raises(SystemExit) as error:
            main(list(command))
        assert error.value.code in (None, 0)
    else:
        main(list(command))
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A wide terminal: help does not hyphenate."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize(
    ("command", "options", "documentation"),
    [
        (["train"], [TrainOptions, DDPGConfig], ["One group per seed, all trained together.", "Polyak coefficient of"]),
        (["train", "--backbone", "td3"], [TD3Config], ["Critic updates per update of actor and target networks."]),
        (["evaluate"], [EvaluateOptions], ["A run folder or a saved agent.", "Episodes per learner."]),
        (["video"], [VideoOptions], ["Index of the learner, or best.", "Replace an existing file."]),
        (["compare"], [], ["Learners per group; the budget counts all of them.", "--evaluations"]),
    ],
)
def test_help_shows_every_option_and_its_documentation(capsys, command, options, documentation):
    text = said(capsys, *command, "--help")
    for text_of_field in documentation:
        assert text_of_field in text
    for kind in options:
        for field in dataclasses.fields(kind):
            flag = field.name.upper() if field.name == "path" else f"--{field.name.replace('_', '-')}"
            assert field.name == "config" or flag in text
    assert ("--policy-delay" in text) == (command[-1] == "td3")


def test_help_without_a_command_lists_the_commands(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        main(arguments)
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in COMMANDS)


def test_the_installed_command_is_this_one():
    (entry,) = metadata.entry_points(group="console_scripts", name="policykd")
    assert entry.load() is main


def _settings(*options, run="run"):
    """The resolved settings of a short run with these options."""
    main(["train", "--env", POINT, "--total-timesteps", "4", "--n-eval-episodes", "1", "--run-dir", run, *options])
    return json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))


def test_the_config_of_a_run_repeats_it():
    options = ["--backbone", "td3", "--method", "mutual", "--peers", "3", "--seeds", "5", "2", "--policy-delay", "3"]
    main(["train", "--env", POINT, "--total-timesteps", "120", *flags(gamma=0.9), *options, "--run-dir", "first"])
    main(["train", "--config-file", "first/config.json", "--total-timesteps", "120", "--run-dir", "again"])
    assert Path("first/config.json").read_text(encoding="utf-8") == Path("again/config.json").read_text(
        encoding="utf-8"
    )
    first, again = (DualStudent.load(run) for run in ("first", "again"))
    assert (first.method_name, first.peers, first.seeds, first.config.policy_delay) == ("mutual", 3, (5, 2), 3)
    assert first.learner.actor.equal(again.learner.actor)
    assert progress(Path("first")).equals(progress(Path("again")))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_the_fields_of_its_row(name):
    config = _settings("--preset", name)["config"]
    row = PRESETS[name].get(POINT, PRESETS[name]["default"])
    expected = {**dataclasses.asdict(DDPGConfig()), **row, "n_eval_episodes": 1}
    assert {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()} == expected


def test_flags_change_the_file_and_the_file_changes_the_preset():
    changes = {"alpha": 3.0, "learning_starts": 77, "buffer_size": 500}
    Path("file.json").write_text(
        json.dumps({"preset": "quick", "method": "mutual", "config": changes}), encoding="utf-8"
    )
    settings = _settings("--config-file", "file.json", "--alpha", "0.5")
    assert settings["method"] == "mutual"
    config = settings["config"]
    assert (config["alpha"], config["learning_starts"], config["buffer_size"]) == (0.5, 77, 500)
    assert (config["batch_size"], config["net_arch"]) == (64, [64, 64])  # of the preset
    assert config["eval_freq"] == 2000  # of the preset's row for this task


@pytest.mark.parametrize("backbone", [["--backbone", "td3"], ["--backbone=td3"]])
def test_the_settings_of_a_file_hold_for_another_backbone_too(backbone):
    Path("file.json").write_text(
        json.dumps({"backbone": "ddpg", "config": {"alpha": 3.0, "buffer_size": 500}}), encoding="utf-8"
    )
    settings = _settings("--config-file", "file.json", *backbone)
    assert settings["backbone"] == "td3"
    assert (settings["config"]["alpha"], settings["config"]["policy_delay"]) == (3.0, 2)


def test_runs_without_a_folder_get_the_next_free_one(capsys):
    for number in (1, 2):
        main(["train", "--env", POINT, "--total-timesteps", "4", *flags()])
        assert f"run folder runs/PolicyKD-PointReach-v0_dpd-ddpg_{number} " in capsys.readouterr().out
        assert Path(f"runs/PolicyKD-PointReach-v0_dpd-ddpg_{number}/checkpoint.safetensors").exists()


def test_the_command_line_of_a_run_is_kept(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["policykd", "train", "--env", POINT, "--run-dir", "a folder"])
    main(["train", "--env", POINT, "--total-timesteps", "4", *flags(), "--run-dir", "a folder"])
    assert shlex.split(Path("a folder/command.txt").read_text(encoding="utf-8"))[1:] == sys.argv


def test_names_that_are_no_unicode_are_told_and_kept(monkeypatch, capsys):
    odd = "x\udcff"  # what Python makes of a byte that is no UTF-8
    for words, rule in (
        (["--env", odd], "is not registered"),
        (["--env", POINT, "--run-dir", odd], "not a valid UTF-8 name"),
    ):
        with pytest.raises(SystemExit):
            main(["train", *words])
        assert rule in capsys.readouterr().err and not Path(odd).exists()
    monkeypatch.setattr(sys, "argv", ["policykd", odd])
    main(["train", "--env", POINT, "--total-timesteps", "4", *flags(), "--run-dir", "run"])
    assert "x\\udcff" in Path("run/command.txt").read_text(encoding="utf-8")


def test_printed_commands_can_be_pasted(monkeypatch, capsys):
    monkeypatch.setattr("policykd.benchmark.matrix.run_matrix", lambda *_: [])
    monkeypatch.setattr("policykd.benchmark.compare.compare", lambda _: (None, ""))
    Path("spec.yaml").write_text(changed(), encoding="utf-8")
    assert "policykd report 'a folder')" in said(capsys, "benchmark", "spec.yaml", "--out", "a folder")
    assert "policykd report 'a folder/results' --out 'a folder/report.html'" in said(
        capsys, "compare", "--out", "a folder"
    )


def test_evaluate_prints_every_learners_return(capsys):
    DualStudent(POINT, seeds=(4, 6), config=TINY, run_dir="run").learn(40)
    text = said(capsys, "evaluate", "run", "--n-eval-episodes", "3", "--seed", "9")
    returns = DualStudent.load("run").evaluate(3, seed=9).returns.mean(1)
    for k, (seed, peer) in enumerate([(4, 0), (4, 1), (6, 0), (6, 1)]):
        assert f"learner {k} (seed {seed}, peer {peer}): return {returns[k]:,.1f} +/-" in text


def test_ship_distils_every_group_and_says_what_it_and_its_student_return(capsys):
    changes = {"learning_starts": 10, "batch_size": 8, "distill_batch_size": 8, "checkpoint_freq": 0}
    DualStudent(POINT, method="share_replay", seeds=(4, 6), config={**TINY, **changes}, run_dir="run").learn(60)
    words = ["--net-arch", "6", "--gradient-steps", "30", "--n-eval-episodes", "2", "--out", "small"]
    text = said(capsys, "ship", "run", *words)
    students, peers = DualStudent.load("small.safetensors"), DualStudent.load("run")
    assert students.config.net_arch == (6,) and students.learners == [(4, 0), (6, 0)]
    returns = students.evaluate(2, seed=1_000_000).returns
    expected = peers.ship(net_arch=(6,), gradient_steps=30)
    assert torch.equal(students.learner.actor, expected.learner.actor)
    for group, seed in enumerate((4, 6)):
        assert f"group {group} (seed {seed}): its 2 peers, mean action" in text
        assert f"student {returns[group].mean():,.1f} +/-" in text


def test_video_writes_the_file(capsys):
    DualStudent(POINT, config=TINY).save("agent")
    assert said(capsys, "video", "agent.safetensors", "--out", "replay.mp4", "--steps", "5") == "video replay.mp4"
    first = Path("replay.mp4").read_bytes()
    assert first[4:8] == b"ftyp"
    main(["video", "agent.safetensors", "--out", "replay.mp4", "--steps", "9", "--overwrite"])
    assert Path("replay.mp4").read_bytes() != first


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("replay.gif", "must end in .mp4"),
        ("folder.mp4", "is a folder: name the video, such as folder.mp4/replay.mp4"),
        ("file/replay.mp4", "cannot be made: file is a file"),
    ],
)
def test_a_place_where_no_video_can_be_is_told_before_the_agent_is_loaded(capsys, out, says):
    Path("folder.mp4").mkdir()
    Path("file").touch()
    with pytest.raises(SystemExit):
        main(["video", "no_run", "--out", out, "--overwrite"])
    assert says in capsys.readouterr().err


def test_a_reader_that_reads_no_further_is_no_error():
    command = start("--help")
    command.stdout.close()
    assert command.stderr.read() == "" and command.wait() == 141


def test_a_video_that_cannot_be_drawn_is_one_line_and_another_status(capsys, monkeypatch, caplog):
    monkeypatch.setattr(video, "_picture", lambda env: env.no_screen)
    DualStudent(POINT, config=TINY).save("agent")
    with pytest.raises(SystemExit) as error:
        main(["video", "agent.safetensors", "--out", "new/replay.mp4", "--steps", "5"])
    assert error.value.code == 1 and capsys.readouterr().out == ""
    assert caplog.text.count(f"no video of {POINT}: ") == 1 and not Path("new").exists()


def test_learners_that_diverged_are_named_and_not_shipped(capsys):
    DualStudent(POINT, config={**TINY, "learning_starts": 10}, run_dir="run").learn(40)
    state = checkpoint.load(Path("run/checkpoint.safetensors"))
    state["learner"]["actor"][1] = float("nan")
    checkpoint.save(Path("run/checkpoint.safetensors"), state)
    for command, words in (("evaluate", []), ("ship", ["--out", "new/small"])):
        with pytest.raises(SystemExit) as error:
            main([command, "run", "--n-eval-episodes", "1", *words])
        out, line = capsys.readouterr()
        assert error.value.code == 2 and line.count("\n") == 1
        assert f"policykd: error: {command}: learner 1 has weights that are not finite" in line
        assert ("learner 0 (seed 0, peer 0): return" in out) == (command == "evaluate")
    assert not Path("new").exists()


BASE = {**TINY, "distill_recent": 10, "eval_freq": 60, "checkpoint_freq": 80, "learning_starts": 30}
CHANGES = {
    "evaluations": {"eval_freq": 40, "n_eval_episodes": 2},
    "rows": {"log_freq": 20},
    "checkpoints": {"checkpoint_freq": 30},
    "weights": {
        "alpha": 3.0,
        "scale_free": False,
        "weight_ratio": 1.5,
        "distill_recent": None,
        "distill_batch_size": 9,
        "distill_freq": 2,
        "distill_gradient_steps": 2,
        "distill_learning_rate": 1e-3,
        "distill_schedule": "linear",
        "divergence": "action_huber",
        "learning_rate": 1e-2,
        "buffer_size": 40,
        "buffer_dtype": "float16",
        "learning_starts": 10,
        "batch_size": 9,
        "tau": 0.1,
        "gamma": 0.5,
        "n_steps": 3,
        "n_envs": 2,
        "train_freq": 2,
        "gradient_steps": 2,
        "net_arch": (9,),
        "action_noise_std": 0.3,
        "policy_delay": 3,
        "target_policy_noise": 0.5,
        "target_noise_clip": 0.1,
        "activation_fn": "tanh",
        "layer_norm": True,
        "vary": {"tau": (0.005, 0.1)},
    },
}


def _observed(folder, **changes):
    """What can be seen of a run of 160 steps in a new folder."""
    saved = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DualStudent, "save", lambda agent, *_, **__: saved.append(agent.num_timesteps))
        agent = DualStudent(POINT, backbone="td3", config={**BASE, **changes}, run_dir=folder).learn(160)
    return {
        "evaluations": [(n, e.returns.shape) for n, e in zip(agent.evaluation_steps, agent.evaluations, strict=True)],
        "rows": progress(folder)["train/n_updates"].dropna().size,
        "checkpoints": saved,
        "weights": [tensor.numpy().tobytes() for tensor in (agent.learner.actor, agent.learner.critic)],
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The run without a change."""
    return _observed(tmp_path_factory.mktemp("base") / "run")


@pytest.mark.parametrize(("what", "field"), [(what, field) for what, fields in CHANGES.items() for field in fields])
def test_every_setting_has_its_effect(base, tmp_path, what, field):
    changed = _observed(tmp_path / "run", **{field: CHANGES[what][field]})
    assert changed[what] != base[what]
    others = base.keys() - {what}
    if what != "weights":  # what a run measures and keeps never changes what it learns
        assert {name: changed[name] for name in others} == {name: base[name] for name in others}


ELSEWHERE = {
    *("pessimism", "allocation", "allocation_floor", "allocation_episodes"),
    *("distill_coef", "least_proposal", "best_ratio", "best_distance", "best_freq"),
    *("rebirth_freq", "rebirth", "rebirth_gradient_steps", "rebirth_perturbation"),
    *("network", "critic_network", "matmul_precision", "buffer_on_disk", "temperature"),
}
"""Settings of methods with a pooled replay (test_peers, test_peer_methods), own networks (test_own_parts), products
that not every machine has (test_precision), what changes no number (test_replay_storage), choices (test_discrete)."""


def test_no_setting_is_forgotten():
    assert [
        field.name for field in dataclasses.fields(TD3Config) if field.name not in ELSEWHERE.union(*CHANGES.values())
    ] == []


def test_a_checkpoint_is_saved_when_it_is_due():
    DualStudent(POINT, config={**TINY, "checkpoint_freq": 30}, run_dir="run").learn(40)
    assert checkpoint.load(Path("run/checkpoint.safetensors"))["num_timesteps"] == 40


def test_what_gymnasium_warns_of_is_no_second_line():
    """In a new process: gymnasium is imported after the words are understood."""
    command = [sys.executable, "-m", "policykd", "train", "--env", "Hopper-v3"]
    (line,) = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()
    assert line.startswith("policykd: error: environment: Hopper-v3 cannot be made")
