"""What a run leaves on disk: SB3's and the zoo's layout, which their tools read unchanged."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time

import matplotlib
import numpy as np
import pandas as pd
import policykd_envs
import pytest
from stable_baselines3 import DDPG, TD3
from stable_baselines3.common import results_plotter
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.results_plotter import X_TIMESTEPS, ts2xy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import POINT, TINY, differences, flags, logged_steps, progress, start
from zoo import zoo

from policykd.cli import main
from policykd.core import checkpoint, files
from policykd.tasks import Evaluation
from policykd.tasks.vector import LearnerEnvs
from policykd.training.dual_student import DualStudent
from policykd.training.progress import Progress

COMMAND = ["train", "--env", POINT, "--backbone", "td3", "--seeds", "0", "1", "--total-timesteps", "300"]
SETTINGS = {"eval_freq": 100, "n_eval_episodes": 2, "buffer_size": 10_000}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of two groups of two, 300 steps each."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    main([*COMMAND, *flags(**SETTINGS), "--run-dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def learners(run):
    return [run / "dpd-td3" / f"PolicyKD-PointReach-v0_{number}" for number in (1, 2, 3, 4)]


def test_a_run_has_one_folder_per_learner_and_explains_itself(run, learners):
    names = {"progress.csv", "monitor.csv", "evaluations.npz", "best_model.zip", "PolicyKD-PointReach-v0"}
    for folder in learners:
        events = [path.name for path in folder.glob("events.out.tfevents*")]
        assert {path.name for path in folder.iterdir()} == names | set(events)
        assert len(events) == 1
    others = {"config.json", "command.txt", "versions.json", "progress.csv", "checkpoint.safetensors", "dpd-td3"}
    events = [path.name for path in run.glob("events.out.tfevents*")]
    assert {path.name for path in run.iterdir()} == others | {"learning_curves.png"} | set(events)
    assert len(events) == 1


def test_the_commit_is_that_of_the_source_and_results_are_no_changes(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True
        )

    source = tmp_path / "package" / "files.py"
    (tmp_path / "results").mkdir()
    source.parent.mkdir()
    source.write_text("")
    (tmp_path / "README").write_text("")
    git("init", "-q")
    git("add", "README")
    git("commit", "-q", "-m", "another project's")
    monkeypatch.setattr(files, "__file__", str(source))
    found = files.versions()
    assert found["git_commit"] is None and found["git_changed_files"] is None
    git("add", ".")
    git("commit", "-q", "-m", "its source")
    (tmp_path / "results" / "rows.csv").write_text("")
    found = files.versions()
    assert len(found["git_commit"]) == 40 and found["git_changed_files"] == 0
    source.write_text("changed")
    assert files.versions()["git_changed_files"] == 1


def test_settings_command_and_versions_are_kept(run):
    settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
    agent = DualStudent.load(run)
    assert settings == agent.settings
    assert (settings["env"], settings["method"], settings["backbone"]) == (POINT, "dpd", "td3")
    assert (settings["peers"], settings["seeds"]) == (2, [0, 1])
    assert settings["config"]["buffer_size"] == 10_000
    assert settings["config"]["tau"] == 0.005  # a default, resolved
    command = shlex.split((run / "command.txt").read_text(encoding="utf-8"))
    assert command[1:] == sys.argv
    versions = json.loads((run / "versions.json").read_text(encoding="utf-8"))
    assert versions["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert {"torch", "numpy", "gymnasium", "mujoco", "stable-baselines3"} <= versions["packages"].keys()
    assert re.fullmatch("[0-9a-f]{40}", versions["git_commit"] or "0" * 40)


def test_sb3_reads_the_monitors(learners):
    for folder in learners:
        frame = load_results(str(folder))
        steps, returns = ts2xy(frame, X_TIMESTEPS)
        assert steps.tolist() == [50, 100, 150]  # 150 steps of each peer
        assert (returns < 0).all()
        assert json.loads((folder / "monitor.csv").read_text(encoding="utf-8").splitlines()[0][1:])["env_id"] == POINT


def test_a_monitor_itself_remembers_the_latest_episodes_alone(monkeypatch):
    monkeypatch.setattr("policykd.tasks.vector.KEPT_EPISODES", 2)
    envs = LearnerEnvs(lambda: policykd_envs.make(POINT, max_episode_steps=3), 1, None)
    envs.start([0])
    ended = [value for _ in range(12) for value in envs.advance(np.ones((1, 2)), True).ended_returns.values()]
    assert len(ended) == 4 and envs.envs[0].get_episode_rewards() == pytest.approx(ended[2:], abs=1e-5)


def test_sb3_plots_the_monitors(learners, monkeypatch):
    monkeypatch.setattr(matplotlib.pyplot, "show", lambda: None)
    results_plotter.plot_results([str(folder) for folder in learners], 300, X_TIMESTEPS, POINT)
    points = [line.get_offsets() for line in matplotlib.pyplot.gca().collections]
    assert [len(each) for each in points] == [3] * 4
    matplotlib.pyplot.close("all")


def test_evaluations_are_those_of_sb3(learners, tmp_path):
    callback = EvalCallback(
        Monitor(policykd_envs.make(POINT)), n_eval_episodes=2, eval_freq=20, log_path=str(tmp_path), verbose=0
    )
    TD3("MlpPolicy", policykd_envs.make(POINT), learning_starts=1000, buffer_size=100).learn(60, callback=callback)
    theirs = np.load(tmp_path / "evaluations.npz")
    for folder in learners:
        ours = np.load(folder / "evaluations.npz")
        assert sorted(ours.files) == sorted(theirs.files)
        for name in theirs.files:
            assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape), name
        assert ours["timesteps"].tolist() == [100, 200, 300]
        assert ours["ep_lengths"].tolist() == [[50, 50]] * 3
    results = [np.load(folder / "evaluations.npz")["results"] for folder in learners]
    assert len(np.unique(results)) == 4 * 3 * 2


def test_the_zoo_finds_the_evaluations(run):
    """The rule of rl_zoo3.plots.all_plots: <folder>/<algorithm>/<folders with the task in their name>."""
    found = [
        np.load(folder / "evaluations.npz")["results"].mean(axis=1).shape
        for folder in (run / "dpd-td3").iterdir()
        if POINT.replace("/", "-") in folder.name and folder.is_dir()
    ]
    assert found == [(3,)] * 4


def test_the_zoo_plots_a_run(run, tmp_path, monkeypatch):
    all_plots = zoo("rl_zoo3.plots.all_plots")
    task, output = POINT.replace("/", "-"), tmp_path / "results"
    options = ["-a", "dpd-td3", "-e", task, "-f", str(run), "--no-million", "--no-display", "-o", str(output)]
    monkeypatch.setattr(sys, "argv", ["all_plots", *options])
    all_plots.all_plots()
    assert output.with_suffix(".pkl").exists()


def test_log_keys_are_those_of_sb3_and_of_distillation(run, learners):
    sb3 = {
        *("rollout/ep_rew_mean", "rollout/ep_len_mean", "train/actor_loss", "train/critic_loss", "train/n_updates"),
        *("train/learning_rate", "eval/mean_reward", "eval/min_reward", "eval/mean_ep_length"),
        *("time/fps", "time/episodes", "time/time_elapsed", "time/total_timesteps"),
    }
    peers = {"peers/action_distance"}
    for folder in (run, *learners):
        rows = pd.read_csv(folder / "progress.csv")
        assert {key for key in rows.columns if not key.startswith("distill/")} == sb3 | peers
        assert {"distill/loss", "distill/weight_ess", "distill/weight_max", "distill/action_gap"} <= set(rows.columns)
        assert rows["train/n_updates"].dropna().tolist() == [5, 30, 55, 80, 105, 130]
        assert rows["eval/mean_reward"].notna().sum() == 3
        events = EventAccumulator(str(folder)).Reload()
        assert set(events.Tags()["scalars"]) == set(rows.columns)


def test_logs_show_the_learning_rate_that_was_used(tmp_path):
    every = {"log_freq": 40, "eval_freq": 0, "n_eval_episodes": 0, "net_arch": (8,), "n_envs": 1}
    ppo = {**every, "n_steps": 20, "batch_size": 20, "learning_rate": lambda remaining: 1e-3 * remaining}
    ppo |= {"clip_range": 0.4, "clip_range_schedule": "linear"}
    sac = {**every, "vary": {"learning_rate": (1e-3, 3e-4)}, "learning_starts": 10, "batch_size": 8, "buffer_size": 200}
    for name, config in {"ppo": ppo, "sac": sac}.items():
        DualStudent(POINT, backbone=name, config=config, run_dir=tmp_path / name).learn(160)
    rows = pd.read_csv(tmp_path / "ppo" / "progress.csv")
    assert rows["train/learning_rate"].dropna().tolist() == pytest.approx([7.5e-4, 5e-4, 2.5e-4, 0])
    assert rows["train/clip_range"].dropna().tolist() == pytest.approx([0.3, 0.2, 0.1, 0])
    for folder, rate in zip(sorted((tmp_path / "sac").glob("*/*/")), (1e-3, 3e-4), strict=True):
        assert pd.read_csv(folder / "progress.csv")["train/learning_rate"].dropna().unique() == pytest.approx([rate])


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [
        ("td3", {"learning_starts": 21}),
        ("td3", {"distill_freq": 7}),
        ("sac", {"train_freq": 32, "gradient_steps": 32}),
    ],
)
def test_rows_say_the_latest_updates_whichever_step_they_fall_on_and_after_a_resumption(tmp_path, backbone, changes):
    config = {**TINY, "n_eval_episodes": 0, "log_freq": 100, **changes}
    whole, part = (
        DualStudent(POINT, backbone=backbone, method="dpd", config=config, compile=False, run_dir=tmp_path / name)
        for name in ("whole", "part")
    )
    whole.learn(400)
    part.learn(264)
    DualStudent.load(tmp_path / "part").learn(400 - 264)
    rows = progress(tmp_path / "whole")
    assert len(rows) == 4 and progress(tmp_path / "part").equals(rows)
    told = rows[["train/critic_loss", "train/actor_loss", "distill/loss", "peers/action_distance"]]
    assert told.notna().all().all() and told.nunique().min() > 1


def test_the_runs_own_log_is_the_mean_over_learners(run, learners):
    each = [pd.read_csv(folder / "progress.csv") for folder in learners]
    mean = pd.read_csv(run / "progress.csv")
    for key in ("train/critic_loss", "eval/mean_reward", "rollout/ep_rew_mean"):
        values = np.stack([rows[key] for rows in each])
        assert np.nanmax(values.std(axis=0)) > 0
        np.testing.assert_allclose(values.mean(0), mean[key], rtol=1e-6)


def test_episodes_are_counted_by_group_as_steps_are(run, learners):
    played = np.array([len(load_results(str(folder))) for folder in learners]).reshape(2, 2).sum(1)
    told = [pd.read_csv(folder / "progress.csv")["time/episodes"].dropna().iloc[-1] for folder in (run, *learners)]
    assert played.min() > 0 and told == [played.mean(), *played.repeat(2)]


def test_an_older_checkpoint_counts_the_episodes_of_all_groups_alike():
    old, new = (Progress([(0, 0), (0, 1), (1, 0), (1, 1)], 2) for _ in range(2))
    state = {**old.state(), "n_episodes": 10}
    del state["ended"]
    new.restore(state)
    assert (new.n_episodes, sum(new.ended), new.ended[0] + new.ended[1]) == (10, 10, 4)


@pytest.mark.parametrize(("backbone", "kind"), [("ddpg", DDPG), ("td3", TD3)])
def test_best_model_is_the_one_with_the_best_evaluation_so_far(tmp_path, monkeypatch, backbone, kind):
    observations = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    scripted = iter([[1.0, 5.0], [3.0, 4.0], [3.0, 6.0], [2.0, 7.0]])  # of both learners, evaluation by evaluation
    acted = []

    def evaluate(agent):
        acted.append([agent.predict(observations, learner=k)[0] for k in range(2)])
        return Evaluation(np.array(next(scripted))[:, None], np.ones((2, 1), np.int64))

    monkeypatch.setattr(DualStudent, "evaluate", evaluate)
    settings = {**TINY, "eval_freq": 50}
    agent = DualStudent(POINT, backbone=backbone, config=settings, run_dir=tmp_path / "run").learn(200)
    for folder, expected in zip(agent.folder.learner_folders, (acted[1][0], acted[3][1]), strict=True):
        model = kind.load(folder / "best_model.zip")
        np.testing.assert_allclose(model.predict(observations, deterministic=True)[0], expected, atol=1e-6)
    assert np.abs(acted[1][0] - acted[3][0]).max() > 1e-4


def test_evaluation_never_disturbs_training():
    often, never = (
        DualStudent(POINT, config={**TINY, "eval_freq": frequency, "n_eval_episodes": 3}).learn(200)
        for frequency in (20, 0)
    )
    assert len(often.evaluations) == 10
    assert len(never.evaluations) == 1
    assert not {id(env.unwrapped) for env in often.evaluator.envs} & {id(env.unwrapped) for env in often.envs.envs}
    assert list(differences(often.learner.actor, never.learner.actor)) == []
    assert list(differences(often.replay_buffer.observations, never.replay_buffer.observations)) == []
    np.testing.assert_array_equal(often.evaluations[-1].returns, never.evaluations[-1].returns)
    assert len(np.unique([evaluation.returns for evaluation in often.evaluations])) == 10 * 2 * 3  # new starts


def test_capacity_and_bytes_of_the_replay_are_stated_at_the_start(tmp_path, capsys):
    settings = flags(buffer_size=100_000)
    main(["train", "--env", POINT, "--total-timesteps", "20", *settings, "--run-dir", str(tmp_path / "run")])
    first = capsys.readouterr().out.split("run folder")[0]
    stated = re.search(r"replay 100,000 transitions each, ([\d.]+) MB", first)
    assert stated is not None, first
    numbers = 2 * 4 + 2 + 3  # two observations, an action, reward, terminated, truncated
    assert float(stated[1]) == pytest.approx(2 * 100_000 * numbers * 4 / 1e6, rel=0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise")
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, capsys):
    run = tmp_path / "run"
    command = ["train", "--env", POINT, *flags(eval_freq=0, checkpoint_freq=0), "--run-dir", str(run)]
    process = start(*command, "--total-timesteps", "1000000", "--compile", "no")
    while logged_steps(run) < 100 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    saved = checkpoint.load(run / "checkpoint.safetensors")["num_timesteps"]
    expected = f"interrupted at {saved:,} steps, saved to {run / 'checkpoint.safetensors'}; resume with "
    assert f"{expected}DualStudent.load({str(run)!r}) in Python, or --resume of the command policykd" in output
    assert "Traceback" not in errors
    main([*command, "--total-timesteps", str(saved + 60), "--resume"])
    assert f"resuming from {saved:,} steps" in capsys.readouterr().out
    assert DualStudent.load(run).num_timesteps == saved + 60


def test_ctrl_c_lets_torch_import_its_compiler_to_the_end(monkeypatch):
    agent, done = DualStudent(POINT, config=TINY, compile=True), []

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        done.append("compiler")

    monkeypatch.setattr(agent.recipe, "compile", interrupted)
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            agent.learn(200)
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert done == ["compiler"] and agent.num_timesteps == 0
