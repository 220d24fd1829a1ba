"""A run that was killed goes on as if nothing had happened, bit by bit."""

import contextlib
import io
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
from stable_baselines3 import DDPG, TD3
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import CLOCK, CLOCKS, POINT, TINY, contents, differences, flags, logged_steps, progress, start, unlike

from policykd.cli import main
from policykd.core import checkpoint
from policykd.training.dual_student import DualStudent

# Evaluations are long enough to leave time for the kill between the last row and the end of the run. The replay of
# 200 wraps around. Per group of two: HalfCheetah (horizon 1000) is killed within its first episode.
TASKS = {
    "HalfCheetah-v5": ["--env", "HalfCheetah-v5", "--backbone", "ddpg", "--seeds", "0", "3"],
    POINT: ["--env", POINT, "--backbone", "td3", "--seeds", "1", "0", "7"],
}
EPISODES = {"HalfCheetah-v5": 1, POINT: 40}
TOTAL, SAVED, KILLED = 1000, 600, 750
ON_POLICY = {"net_arch": (8, 8), "n_steps": 20, "batch_size": 10, "n_epochs": 2, "n_eval_episodes": 1, "eval_freq": 40}


@pytest.fixture(scope="module", params=[pytest.param("HalfCheetah-v5", marks=pytest.mark.slow), POINT])
def runs(request, tmp_path_factory):
    """(a run of 1,000 steps, the same run killed after its checkpoint of 600 and resumed), and what the kill left."""
    folder, task = tmp_path_factory.mktemp("resume"), request.param
    settings = flags(
        eval_freq=350,
        checkpoint_freq=SAVED,
        n_eval_episodes=EPISODES[task],
        distill_schedule="linear",  # depends on where in the whole budget a step is
        distill_recent=50,
    )
    command = ["train", *TASKS[task], "--total-timesteps", str(TOTAL), *settings, "--run-dir"]
    main([*command, str(folder / "whole")])

    process = start(*command, str(folder / "killed"))
    while logged_steps(folder / "killed") < KILLED and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"ended before it could be killed: {errors}"
    left = checkpoint.load(folder / "killed" / "checkpoint.safetensors")
    left["logged"] = logged_steps(folder / "killed")

    with contextlib.redirect_stdout(io.StringIO()) as output:
        main([*command, str(folder / "killed"), "--resume"])
    assert f"resuming from {SAVED} steps" in output.getvalue()
    return folder / "whole", folder / "killed", left


def _learner_folders(run):
    return sorted(path.parent for path in run.glob("*/*/monitor.csv"))


def test_the_kill_came_after_the_checkpoint_and_after_more_was_logged(runs):
    _, _, left = runs
    assert left["num_timesteps"] == SAVED
    assert KILLED <= left["logged"] <= TOTAL


def test_weights_replay_generators_and_environments_are_bit_identical(runs):
    whole, killed, left = runs
    states = [checkpoint.load(run / "checkpoint.safetensors") for run in (whole, killed)]
    saved = states[0]["learner"].keys() | {f"distillation {name}" for name in states[0]["distillation"]}
    adam = {f"{owner}_adam.{part}" for owner in ("actor", "critic") for part in ("exp_avg", "exp_avg_sq", "steps")}
    assert {"actor", "critic", "actor_target", "critic_target"} | adam <= saved
    assert {"distillation adam.exp_avg", "distillation adam.exp_avg_sq", "distillation adam.steps"} <= saved
    assert states[0]["replay"]["storage"].shape[1] == 200  # full
    assert [path for path in differences(*states) if not CLOCKS & set(path.split("/"))] == []
    assert any(differences(left["learner"], states[0]["learner"]))  # the 400 steps did something


def test_logs_are_identical(runs):
    whole, killed, _ = runs
    assert len(_learner_folders(whole)) in (4, 6)
    for one, other in zip([whole, *_learner_folders(whole)], [killed, *_learner_folders(killed)], strict=True):
        rows = progress(one)
        assert not set(CLOCK) & set(rows.columns)
        steps = rows["time/total_timesteps"].astype(int).tolist()
        assert steps == sorted([*range(50, TOTAL + 1, 50), 350, 700, TOTAL])  # rows of training and of evaluation
        pd.testing.assert_frame_equal(rows, progress(other))


def test_monitors_are_identical(runs):
    whole, killed, _ = runs
    for one, other in zip(_learner_folders(whole), _learner_folders(killed), strict=True):
        first, second = (pd.read_csv(run / "monitor.csv", skiprows=1, dtype=str) for run in (one, other))
        assert len(first) == (0 if "HalfCheetah" in one.name else 10)  # 500 steps of a learner
        pd.testing.assert_frame_equal(first.drop(columns="t"), second.drop(columns="t"))


def test_evaluations_and_best_models_are_identical(runs):
    whole, killed, _ = runs
    for one, other in zip(_learner_folders(whole), _learner_folders(killed), strict=True):
        first, second = np.load(one / "evaluations.npz"), np.load(other / "evaluations.npz")
        assert first["timesteps"].tolist() == [350, 700, TOTAL]
        assert list(differences(dict(first), dict(second))) == []
        kind = DDPG if "ddpg" in one.parent.name else TD3
        models = [kind.load(folder / "best_model.zip").policy.state_dict() for folder in (one, other)]
        assert list(differences(*(dict(model) for model in models))) == []


def test_tensorboard_holds_each_step_once(runs):
    whole, killed, _ = runs

    def events(folder):
        # without purging: TensorBoard itself would hide steps that were written twice
        accumulator = EventAccumulator(str(folder), purge_orphaned_data=False).Reload()
        names = [name for name in accumulator.Tags()["scalars"] if name not in CLOCK]
        return {name: [(event.step, event.value) for event in accumulator.Scalars(name)] for name in names}

    assert len(list(killed.glob("*tfevents*"))) == 2  # before and after the kill
    for one, other in zip([whole, *_learner_folders(whole)], [killed, *_learner_folders(killed)], strict=True):
        expected = events(one)
        assert [step for step, _ in expected["train/n_updates"]] == list(range(50, TOTAL + 1, 50))
        assert repr(events(other)) == repr(expected)


@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
def test_a_saved_agent_goes_on_exactly(tmp_path, backbone):
    def agent():
        return DualStudent("Pendulum-v1", backbone=backbone, seeds=(2, 5), config={**TINY, "eval_freq": 500})

    whole = agent().learn(1000)
    agent().learn(600).save(tmp_path / "agent", include_replay=True)
    again = DualStudent.load(tmp_path / "agent.safetensors").learn(400)
    assert unlike(tmp_path, whole, again) == []
    assert whole.evaluation_steps == [500, 1000]
    assert again.evaluation_steps == [500, 600, 1000]
    np.testing.assert_array_equal(again.evaluations[-1].returns, whole.evaluations[-1].returns)


@pytest.mark.parametrize("backbone", ["sac", "ppo"])
def test_what_a_callback_saved_before_an_update_goes_on_with_that_update(tmp_path, backbone):
    settings = {**TINY, "eval_freq": 40} if backbone == "sac" else {**ON_POLICY, "n_envs": 2}
    whole = DualStudent(POINT, backbone=backbone, config=settings)

    def save(local_variables, _):  # of PPO at a full rollout
        if whole.num_timesteps == 80:
            whole.save(tmp_path / "agent", include_replay=True)
        return True

    whole.learn(120, callback=save)
    again = DualStudent.load(tmp_path / "agent.safetensors").learn(40)
    assert unlike(tmp_path, whole, again) == []
    assert again.evaluation_steps == whole.evaluation_steps


def test_an_agent_goes_on_after_a_callback_failed_at_a_full_rollout(tmp_path):
    whole, again = (DualStudent(POINT, backbone="ppo", config=ON_POLICY) for _ in range(2))

    def fail(local_variables, _):
        assert again.num_timesteps < 80
        return True

    with pytest.raises(AssertionError):
        again.learn(120, callback=fail)
    assert unlike(tmp_path, whole.learn(120), again.learn(40)) == []


def test_a_file_that_is_called_as_a_runs_checkpoint_makes_no_run_of_its_folder(tmp_path):
    DualStudent(POINT, config=TINY).learn(40).save(tmp_path / "checkpoint.safetensors", include_replay=True)
    for name in ("monitor.csv", "progress.csv", "events.out.tfevents.1"):
        (tmp_path / name).write_text("time/total_timesteps\n500\n")
    before = contents(tmp_path)
    loaded = DualStudent.load(tmp_path / "checkpoint.safetensors").learn(20)
    assert (loaded.num_timesteps, loaded.folder, contents(tmp_path)) == (60, None, before)


def test_a_saved_agent_without_its_replay_is_only_its_policies(tmp_path):
    agent = DualStudent(POINT, config=TINY).learn(100)
    agent.save(tmp_path / "agent")
    loaded = DualStudent.load(tmp_path / "agent.safetensors")
    assert loaded.replay_buffer.size == 0
    assert loaded.num_timesteps == 100


@pytest.mark.parametrize("began", [False, True])
def test_returns_of_a_loaded_replay_do_not_run_into_the_episodes_under_way(tmp_path, began):
    agent = DualStudent(POINT, config=TINY).learn(60)
    agent.save_replay_buffer(tmp_path / "replay")
    other = DualStudent(POINT, config=TINY)
    other.learn(4 if began else 0)
    other.load_replay_buffer(tmp_path / "replay")
    other.learn(2)
    truncated = other.replay_buffer.storage[:, :31, -1]
    assert truncated[:, 29].all() and not truncated[:, 30].any()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 100 steps."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    main(["train", "--env", POINT, "--total-timesteps", "100", *flags(), "--run-dir", str(folder)])
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--alpha", "2.5"], "alpha was 1.0, now 2.5"),
        (["--net-arch", "16"], "net_arch was [8, 8], now [16]"),
        (["--method", "mutual"], "method was 'dpd', now 'mutual'"),
        (["--seeds", "0", "1"], "seeds was [0], now [0, 1]"),
        (["--peers", "3"], "peers was 2, now 3"),
        (["--backbone", "td3"], "backbone was 'ddpg', now 'td3'"),
        (["--env", "Pendulum-v1"], f"env was '{POINT}', now 'Pendulum-v1'"),
        (["--gamma", "0.5", "--tau", "0.5"], "tau was 0.005, now 0.5; gamma was 0.99, now 0.5"),
    ],
)
def test_resuming_with_other_settings_is_refused(finished, capsys, change, named):
    before = contents(finished)
    command = ["train", "--env", POINT, "--total-timesteps", "200", *flags(), "--run-dir", str(finished), "--resume"]
    with pytest.raises(SystemExit) as error:
        main([*command, *change])
    assert error.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert named in line
    assert contents(finished) == before


def test_a_run_that_lost_its_config_is_not_gone_on_with_as_if_it_had_no_folder(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "config.json").unlink()
    before = contents(run)
    with pytest.raises(SystemExit):
        main(["train", "--env", POINT, "--total-timesteps", "300", *flags(), "--run-dir", str(run), "--resume"])
    assert "run has a checkpoint but no config.json: restore that file" in capsys.readouterr().err
    assert contents(run) == before


def test_the_budget_may_grow_and_a_finished_run_stays_as_it_is(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    command = ["train", "--env", POINT, *flags(), "--run-dir", str(run), "--resume", "--total-timesteps"]
    main([*command, "100"])
    assert logged_steps(run) == 100
    main([*command, "160"])
    assert DualStudent.load(run).num_timesteps == 160
    assert DualStudent.load(run).evaluation_steps == [100, 160]
    assert logged_steps(run) == 160
    assert "resuming from 100 steps" in capsys.readouterr().out


def test_looking_at_the_logger_first_does_not_write_to_logs_that_resuming_cuts(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    agent = DualStudent.load(run)
    agent.logger.record("mine/number", 4.0)
    agent.learn(50)
    assert logged_steps(run) == 150
    assert progress(run)["mine/number"].dropna().astype(float).tolist() == [4.0]
