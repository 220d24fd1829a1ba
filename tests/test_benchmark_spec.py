"""A benchmark is a file; whatever is wrong with it is told in one line before anything runs."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from tiny import POINT
from tiny_benchmark import REFERENCE, TINY, changed

from policykd.benchmark.matrix import plan
from policykd.benchmark.results import Results
from policykd.benchmark.rows import group_updates
from policykd.benchmark.spec import Cell
from policykd.benchmark.spec_file import load_spec, parse_spec
from policykd.core.errors import PolicyKDError

ROOT = Path(__file__).parents[1]
SPECS = sorted([*ROOT.glob("benchmarks/*.yaml"), *ROOT.glob("experiments/*/*.yaml")])


def test_cells_are_tasks_times_backbones_times_methods_but_those_left_out():
    tasks = {
        POINT: {"backbones": ["ddpg", "td3"], "reference": REFERENCE},
        "HalfCheetah-v5": {
            "backbones": ["td3"],
            "reference": REFERENCE,
            "without": ["dpd"],
            "settings": {"gamma": 0.9},
        },
    }
    methods = {"sb3": {"seeds": 1}, "dpd": {}, "dpd_bold": {"method": "dpd", "settings": {"alpha": 3.0}}}
    cells = {cell.name: cell for cell in parse_spec(changed(tasks=tasks, methods=methods)).cells}
    assert list(cells) == [
        *(f"PolicyKD-PointReach-v0/{m}-{b}" for b in ("ddpg", "td3") for m in methods),
        "HalfCheetah-v5/sb3-td3",
        "HalfCheetah-v5/dpd_bold-td3",
    ]
    bold, sb3 = cells["HalfCheetah-v5/dpd_bold-td3"], cells["HalfCheetah-v5/sb3-td3"]
    assert (bold.base, bold.peers, bold.seeds, bold.settings.alpha, bold.settings.gamma) == ("dpd", 2, (0, 1), 3.0, 0.9)
    assert (sb3.base, sb3.peers, sb3.seeds, sb3.settings.alpha, sb3.steps) == ("sb3", 1, (0,), 1.0, 200)
    assert (bold.settings.eval_freq, bold.settings.n_eval_episodes, bold.settings.checkpoint_freq) == (100, 2, 40)
    assert Cell.from_plain(json.loads(json.dumps(bold.plain()))) == bold


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seedz": 3}, "unknown key 'seedz'; nearest: seeds"),
        (
            {"tasks": {"HalfChetah-v5": TINY["tasks"][POINT]}},
            "'HalfChetah-v5' is not registered; nearest: HalfCheetah-v5",
        ),
        ({"methods": ["dpdd"]}, "method: 'dpdd' is unknown; nearest: dpd"),
        ({"methods": []}, "methods={} is an empty matrix"),
        ({"methods": ["sb3", {"dpd": {"peers": 3}}]}, "must be names; methods with settings are keys"),
        ({"methods": {"dpd": 0}}, "method dpd: must hold keys and values, not 0"),
        ({"random_steps": -20}, "random_steps=-20 must not be negative"),
        (
            {"tasks": {POINT: {**TINY["tasks"][POINT], "backbones": ["td3", "td3"]}}},
            "name a backbone once",
        ),
        ({"tasks": {}}, "tasks={} is an empty matrix"),
        ({"tasks": {POINT: {**TINY["tasks"][POINT], "without": TINY["methods"]}}}, f"task {POINT}: no method runs"),
        ({"tasks": {**TINY["tasks"], "Hopper-v5": {"backbones": [], "reference": REFERENCE}}}, "task Hopper-v5: no me"),
        ({"tasks": {POINT: {**TINY["tasks"][POINT], "without": ["dqn"]}}}, "without='dqn' is not one of methods: "),
        (
            {"tasks": {POINT: {**TINY["tasks"][POINT], "backbones": ["td4"]}}},
            "backbone: 'td4' is unknown; nearest: td3",
        ),
        ({"tasks": {POINT: {"backbones": ["td3"]}}}, "key 'reference' is missing"),
        ({"tasks": {POINT: 3}}, "must hold keys and values, not 3"),
        ({"tasks": {POINT: {"backbones": ["td3"], "reference": {**REFERENCE, "low": 0}}}}, "high=-5.2 must be above"),
        ({"settings": {"alhpa": 1.0}}, "unknown key 'alhpa' for TD3Config; nearest: alpha"),
        ({"settings": {"divergence": "action_msee"}}, "divergence: 'action_msee' is unknown; nearest: action_mse"),
        ({"settings": {"distill_schedule": "liner"}}, "distill_schedule: 'liner' is unknown; nearest: linear"),
        ({"settings": {"network": "resnet"}, "methods": ["single"]}, "network: 'resnet' is unknown"),
        ({"settings": {"critic_network": "resnet"}, "methods": ["single"]}, "critic_network: 'resnet' is unknown"),
        ({"settings": {"eval_freq": 10}}, "eval_freq=10 follows from"),
        ({"total_timesteps": 1e5 + 0.5}, "total_timesteps=100000.5 must be int"),
        ({"total_timesteps": 201}, "must divide total_timesteps=201"),
        ({"total_timesteps": 202}, "must be a multiple of 2"),
        ({"peers": 1}, "peers: dpd needs at least 2 learners per group, got 1"),
        ({"settings": {"allocation": "best"}, "methods": ["dpd"]}, "allocation: best needs a pooled replay; dpd"),
        ({"settings": {"vary": {"gamma": [0.9, 0.99]}}, "methods": ["single"]}, "vary: gamma has 2 values for 1 peer:"),
        ({"settings": {"vary": {"gamma": [0.9, 0.99]}}, "methods": ["sb3"]}, "give one each (PolicyKD-PointReach"),
        ({"settings": {"vary": {"tau": [0.1, 0.2]}}, "peers": 4, "methods": ["dpd"]}, "tau has 2 values for 4 peers"),
        (
            {"settings": {"vary": {"observations": [[0, 1], [2, 9]]}}, "methods": ["dpd"]},
            "vary.observations: columns must lie between 0 and 3, got [2, 9]",
        ),
        ({"seeds": 0}, "seeds=0 must be positive"),
        ({"seeds": 10_001}, "seeds=10001 must be at most 10,000"),
        ({"methods": ["dpd", "sb3"], "first_seed": 2**32 - 1, "seeds": 2}, "seed=4294967296 is too large for SB3"),
        ({"utd": 0}, "utd=0 must be positive"),
        ({"utd": 1, "tasks": {POINT: {**TINY["tasks"][POINT], "backbones": ["ppo"]}}}, "leave them out for ppo"),
        ({"methods": {"dpd": {"utd": 0}}}, "utd=0 must be positive"),
        ({"methods": {"dpd": {"peers": 0}}}, "peers=0 must be positive"),
        ({"methods": {"dpd": {"peers": 1_001}}}, "peers=1001 must be at most 1,000"),
        ({"methods": {"single": {"peers": 4}}}, "peers=4 is too many for single"),
        (
            {"tasks": {POINT: {"backbones": ["td3"], "reference": {**REFERENCE, "low": -np.inf}}}},
            "low=-inf must be finite",
        ),
        ({"name": "../up"}, "name: '../up' cannot name a file"),
    ],
)
def test_a_wrong_spec_is_one_line(tmp_path, changes, says):
    file = tmp_path / "spec.yaml"
    file.write_text(changed(**changes))
    with pytest.raises(PolicyKDError) as error:
        load_spec(file)
    assert says in str(error.value)
    assert str(error.value).startswith(f"benchmark: {file}: ") and "\n" not in str(error.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "spec.yaml")
    with pytest.raises(PolicyKDError, match="is a pipe"):
        load_spec(tmp_path / "spec.yaml")


@pytest.mark.parametrize("pace", [{}, {"train_freq": 4}, {"n_envs": 2}, {"train_freq": 2, "n_envs": 2}])
def test_utd_is_updates_per_environment_step_of_a_group_however_often_updates_come(pace):
    settings = {"net_arch": [8, 8], "batch_size": 8, **pace}
    text = changed(utd=2, random_steps=96, total_timesteps=800, settings=settings, methods=["single", "dpd"])
    assert [group_updates(cell, 800) / cell.peers for cell in parse_spec(text).cells] == [2 * (800 - 96)] * 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"learning_starts": 30}, "learning_starts=30 follows from random_steps"),
        ({"gradient_steps": 7}, "gradient_steps=7 follows from random_steps and utd"),
        ({"vary": {"gradient_steps": [1, 3]}}, "utd=1 applies to the whole group"),
    ],
)
def test_budgets_do_not_override_a_tasks_own_settings(settings, says):
    tasks = {POINT: {**TINY["tasks"][POINT], "settings": settings}}
    with pytest.raises(PolicyKDError, match=says):
        parse_spec(changed(tasks=tasks, utd=1, random_steps=20, settings={}, methods=["dpd"]))


def test_numbers_are_written_as_in_python():
    text = changed(methods=["dpd"]).replace(
        "learning_starts: 20", "learning_rate: 1e-3\n  vary: {gamma: [9e-1, 99E-02]}"
    )
    (cell,) = parse_spec(text.replace("total_timesteps: 200", "total_timesteps: 2e2")).cells
    assert (cell.settings.learning_rate, cell.settings.vary) == (0.001, {"gamma": [0.9, 0.99]})
    assert cell.total_timesteps == 200 and isinstance(cell.total_timesteps, int)


def test_a_file_that_is_no_spec(tmp_path):
    file = tmp_path / "spec.yaml"
    for text, says in (
        ("a: [", "is not YAML"),
        ("- 1", "must hold keys"),
        ("!!python/object:os.system x", "is not YAML"),
    ):
        file.write_text(text)
        with pytest.raises(PolicyKDError, match=says) as error:
            load_spec(file)
        assert "\n" not in str(error.value)
    with pytest.raises(PolicyKDError, match="cannot read"):
        load_spec(tmp_path / "none.yaml")


def test_ppo_refuses_budgets_that_sb3_would_exceed_and_pooled_replays():
    ppo = {POINT: {"backbones": ["ppo"], "reference": REFERENCE}}
    fits = {"total_timesteps": 256, "tasks": ppo, "settings": {"n_steps": 32, "batch_size": 16}}
    assert len(parse_spec(changed(**fits)).cells) == 4
    with pytest.raises(PolicyKDError, match="must be whole rollouts: a multiple of 32"):
        parse_spec(changed(**{**fits, "total_timesteps": 240}))
    with pytest.raises(PolicyKDError, match="share_replay pools the replays of a group, but ppo does not use a replay"):
        parse_spec(changed(**fits, methods=["share_replay"]))


def test_the_file_of_the_page_is_sound(tmp_path):
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    assert len(load_spec(tmp_path / "mine.yaml").cells) == 6


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_the_specs_of_this_repository_are_sound(file):
    spec = load_spec(file)
    assert spec.name in (file.stem, f"{file.parent.name}_{file.stem}")
    for task in spec.tasks.values():
        assert task.reference.source


def test_planning_500_cells_reads_what_is_done(tmp_path):
    """The time that it takes is measured by experiments/benchmark_size/run.py."""
    methods = {f"dpd_{n}": {"method": "dpd", "settings": {"alpha": n / 100}} for n in range(250)}
    tasks = {POINT: {"backbones": ["ddpg", "td3"], "reference": REFERENCE}}
    spec = parse_spec(changed(tasks=tasks, methods=methods))
    planned = plan(spec, Results(tmp_path), ["*/dpd_1?-td3"])
    assert len(spec.cells) == 500 and len(planned.missing) == 10 and not planned.done
    for pattern in (f"{POINT}/dpd_1?-td3", "PolicyKD-PointReach-v0/dpd_1?-td3"):
        assert len(plan(spec, Results(tmp_path), [pattern]).missing) == 10
    with pytest.raises(PolicyKDError, match=r"--only '\*/dqn-td3' matches no cell"):
        plan(spec, Results(tmp_path), ["*/dqn-td3"])
