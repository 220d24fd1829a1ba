"""Every setting of every method has an effect, and every schedule is stepped."""

import dataclasses
import importlib

import numpy as np
import pandas as pd
import pytest
from classifiers import FAST, make, net, problem, same, trained_teacher, weights

from policykd.cli import main
from policykd.cli.options import method_settings
from policykd.distillation import supervised
from policykd.distillation.supervised import METHODS, Hinton, feature_maps
from policykd.distillation.supervised.config import FeatureConfig
from policykd.distillation.supervised.training_config import FeaturePaths, TrainingConfig


@pytest.fixture(scope="module")
def teacher():
    return trained_teacher()


@pytest.mark.parametrize("method", ["hinton", "ted", "disk", "rid"])
def test_every_schedule_is_stepped_to_its_end(method, teacher, tmp_path):
    """The learning rate of every group falls over its own passes (RID's released code never steps its schedules)."""
    distiller = make(method, net(8), teacher, tmp_path / "run", learning_rate_schedule="linear", log_freq=1)
    distiller.fit(problem())
    log = pd.read_csv(tmp_path / "run" / "progress.csv")
    for group, optimizer in distiller.optimizers.items():
        phases = {phase.name for phase in distiller.plan if phase.trains == group}
        columns = ["train/learning_rate"] if group == "student" else [f"{name}/learning_rate" for name in phases]
        rates = log[columns].max(axis=1).dropna().to_numpy()
        steps = 6 * sum(phase.trains == group for phase in distiller.plan)
        assert rates == pytest.approx(np.linspace(FAST["learning_rate"], 0, steps, endpoint=False), rel=1e-6)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


EFFECTS = {
    "hinton": {
        "epochs": 5,
        "warm_up_epochs": 2,
        "batch_size": 32,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "learning_rate_schedule": "linear",
        "weight_decay": 0.1,
        "max_grad_norm": 0.1,
        "mixed_precision": "bf16",
        "seed": 5,
        "alpha": 0.2,
        "temperature": 2.0,
        "alpha_schedule": "constant",
        "divergence": "kl_reverse",
        "example_weight": "disadvantage",
    },
    "label_smoothing": {"label_smoothing": 0.2},
    "cross_entropy": {"label_smoothing": 0.2},
    "fitnets": {"weight": 1.0, "student_features": ("body.0",), "teacher_features": ("body.0",)},
    "rkd": {"distance_weight": 1.0, "angle_weight": 1.0},
    "vid": {"weight": 9.0, "reduction": "sum"},
    "ted": {"filter_epochs": 3, "filter_width": 5, "kl_alpha": 1.0, "mse_alpha": 1.0, "temperature": 1.0},
    "disk": {
        "student_temperature": 1.0,
        "teacher_temperature": 1.0,
        "hard_weight": 0.9,
        "soft_weight": 0.1,
        "top_k": 1,
        "guide_width": 5,
        "guide_warm_up_epochs": 2,
        "student_passes": 2,
        "guide_passes": 2,
        "budget": (500.0, 500.0),
        "budget_per": "example",
        "penalty": (50.0, 50.0),
        "largest_cross_entropy": 0.1,
    },
    "rid": {
        "filter_warm_up_epochs": 2,
        "cycle_epochs": 4,
        "filter_share": 0.6,
        "hard_weight": 0.1,
        "weight": 0.1,
        "reduction": "sum",
    },
    "reaugkd": {
        "projection_epochs": 2,
        "projection_learning_rate": 1e-3,
        "contrastive_temperature": 1.0,
        "alpha": 1.0,
        "temperature": 1.0,
        "keep_diagonal": False,
    },
}


UNSEEN = {"eval_every", "keep_best", "log_freq", "cache_megabytes", "mixup", "teacher_outputs"}
"""Settings that do not change the last student's weights, or need other data; each has a test of its own."""


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_has_an_effect(method, teacher):
    names = {field.name for field in dataclasses.fields(METHODS[method].config_type)}
    common = {field.name for field in dataclasses.fields(TrainingConfig)}
    known = set().union(*(EFFECTS[name] for name in ("hinton", "fitnets", method)))
    assert names - common <= known and common <= known | UNSEEN

    def trained(**changes):
        start = {"budget": (0.1, 0.1)} if method == "disk" else {}  # a budget that binds
        student = net(8)
        make(method, student, teacher, keep_best=False, **{**start, **changes}).fit(problem())
        return weights(student)

    usual = trained()
    for name, value in EFFECTS[method].items():
        assert not same(usual, trained(**{name: value})), name


@pytest.mark.parametrize("name", METHODS)
def test_methods_and_their_settings_are_found_together(name):
    kind = METHODS[name]
    assert getattr(supervised, kind.__name__) is kind
    assert getattr(importlib.import_module(kind.__module__), kind.config_type.__name__) is kind.config_type
    assert (feature_maps.FeatureConfig, feature_maps.FeaturePaths) == (FeatureConfig, FeaturePaths)


@pytest.mark.parametrize("command", ["classify --method fitnets --data nothing.npz", "text --data no --teacher no"])
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--optimizer adm", "optimizer: 'adm' is unknown; nearest: adam"),
        ("--optimizer None", "config: optimizer=None must be str | function"),
        ("--learning-rate-schedule cos", "learning_rate_schedule: 'cos' is unknown"),
    ],
)
def test_a_wrong_name_is_told_before_data_and_teachers_are_read(command, words, line, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), *words.split()])
    error = capsys.readouterr().err
    assert error.startswith(f"policykd: error: {line}") and error.count("\n") == 1


def test_the_command_line_asks_the_settings_of_the_method_that_stands_in_the_table(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class OwnConfig(Hinton.config_type):
        sharpness: float = 1.0

    own = type("Own", (Hinton,), {"config_type": OwnConfig})
    monkeypatch.setitem(METHODS, "hinton", own)
    assert method_settings(["--method", "hinton"], "rkd") == ("hinton", OwnConfig)
