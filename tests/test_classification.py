"""The distiller: it learns, leaves the teacher alone, resumes bit by bit, and takes any usual data."""

import dataclasses
import json
import subprocess
import sys
from collections import UserDict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from classifiers import CLASSES, FAST, FEATURES, SIZE, Net, in_a_process, net, problem, same, trained_teacher, weights
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from policykd import Distiller, PolicyKDError
from policykd.classification.distiller import BEST
from policykd.classification.features import FeatureReader
from policykd.classification.metrics import metrics
from policykd.classification.trainer import Trainer
from policykd.distillation.supervised import METHODS
from policykd.distillation.supervised.method import STUDENT, TrainingConfig

CONFIGS = {
    "fitnets": FEATURES,
    "rkd": FEATURES,
    "vid": FEATURES,
    "ted": {**FEATURES, "warm_up_epochs": 1, "filter_epochs": 1},
    "disk": {"teacher_features": ("body",), "warm_up_epochs": 1, "student_passes": 1, "guide_passes": 1},
    "rid": {**FEATURES, "filter_warm_up_epochs": 1, "cycle_epochs": 3},
    "reaugkd": {**FEATURES, "projection_epochs": 1},
}


@pytest.fixture(scope="module")
def teacher():
    return trained_teacher()


def make(method, student, teacher, run_dir=None, **changes):
    config = {**FAST, "epochs": 4, **CONFIGS.get(method, {}), **changes}
    return Distiller(student, teacher, method=method, config=config, device="cpu", run_dir=run_dir)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_teaches_and_leaves_the_teacher_as_it_was(method, teacher):
    before, student = weights(teacher), net(8)
    teacher.train()  # a careless caller
    distiller = make(method, student, teacher, epochs=30).fit(problem(), problem(seed=2))
    assert same(weights(teacher), before)
    result = distiller.evaluate(problem(400, seed=3))
    assert result["accuracy"] > 0.7 and result["agreement"] > 0.7  # chance is 1/3
    assert not any(p.grad is not None for p in teacher.parameters())
    assert not student.body._forward_hooks and not teacher.body._forward_hooks
    assert sum(phase.trains == "student" for phase in distiller.plan) == 30


@pytest.mark.parametrize("method", METHODS)
def test_only_what_a_phase_trains_changes(method, teacher, monkeypatch):
    """In each phase exactly its group is in train mode and changes; the student is frozen while helpers learn."""
    one_pass, seen = Trainer.one_pass, set()

    def watched(self, phase, bar):
        student, helpers = weights(self.distiller.student), weights(self.method)
        one_pass(self, phase, bar)
        seen.add(phase.trains)
        learns = phase.trains == "student"
        assert self.distiller.student.training == learns
        assert same(student, weights(self.distiller.student)) != learns
        mine = {p.data_ptr() for module in self.method.helpers(phase.trains) for p in module.state_dict().values()}
        for name, tensor in self.method.state_dict().items():
            assert tensor.data_ptr() in mine or torch.equal(tensor, helpers[name]), f"{name} changed in {phase.name}"
        moved = [n for n, p in self.method.named_parameters() if not torch.equal(p, helpers[n])]
        assert bool(moved) == any(p.data_ptr() in mine for p in self.method.parameters()) or phase.name == "warm_up"

    monkeypatch.setattr(Trainer, "one_pass", watched)
    make(method, net(8), teacher).fit(problem())
    helpers = {"disk": ["guide"], "ted": ["filters"], "rid": ["filters"], "reaugkd": ["projection"]}
    assert seen == {"student", *helpers.get(method, [])}


def test_teacher_is_in_eval_mode_at_every_step(teacher):
    """Also where something sets it to train in the middle; its dropout and statistics would tell."""
    student, modes = net(8), []

    class Careless(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = teacher

        def forward(self, inputs):
            modes.append(self.inner.training)
            logits = self.inner(inputs)
            self.train()
            return logits

    make("hinton", student, Careless(), cache_megabytes=0).fit(problem())
    assert modes and not any(modes)


@pytest.mark.parametrize("method", ["hinton", "fitnets", "disk", "rid"])
def test_cached_outputs_are_those_of_every_step(method, teacher):
    calls = []
    handle = teacher.register_forward_hook(lambda *_: calls.append(1))
    students, counts = [net(8), net(8)], []
    for student, megabytes in zip(students, (0, 10), strict=True):
        make(method, student, teacher, cache_megabytes=megabytes).fit(problem())
        counts.append(len(calls))
        calls.clear()
    handle.remove()
    for name, tensor in weights(students[0]).items():
        assert torch.allclose(tensor, weights(students[1])[name], atol=1e-5)
    assert counts[1] == 2 < counts[0]  # one look at the shapes, and one batch for all 96 rows


def test_augmented_inputs_are_seen_by_both(teacher):
    seen = {"student": [], "teacher": []}
    student = net(8)
    handles = [
        network.register_forward_pre_hook(lambda module, inputs, name=name: seen[name].append(inputs[0].clone()))
        for name, network in (("student", student), ("teacher", teacher))
    ]
    make("hinton", student, teacher, epochs=1).fit(problem(), augment=lambda x: x + torch.randn_like(x))
    for handle in handles:
        handle.remove()
    assert len(seen["student"]) == 1 + 96 // 16
    for own, target in zip(seen["student"], seen["teacher"], strict=True):
        assert torch.equal(own, target)
    raw = {tuple(row.tolist()) for row in problem()[0]}
    assert not any(tuple(row.tolist()) in raw for row in seen["student"][1])


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", ["hinton", "ted", "disk", "rid"])
@pytest.mark.parametrize("after", [0, 2, 4])
def test_resumed_runs_are_the_uninterrupted_run(method, after, teacher, tmp_path, monkeypatch):
    """Killed in the middle of a pass after 0, 2 or 4 whole ones: weights, log and best student are bit-identical."""
    train, validation = problem(), problem(seed=2)
    whole = make(method, net(8), teacher, tmp_path / "whole").fit(train, validation)
    killed = make(method, net(8), teacher, tmp_path / "killed")
    loss, steps = Trainer._loss, []

    def until(self, phase, batch):
        steps.append(1)
        if len(steps) > after * 6 + 3:
            raise Stop
        return loss(self, phase, batch)

    if after < len(whole.plan):
        monkeypatch.setattr(Trainer, "_loss", until)
        with pytest.raises(Stop):
            killed.fit(train, validation)
        monkeypatch.setattr(Trainer, "_loss", loss)
    else:
        killed.fit(train, validation)
    if after == 0:
        return  # nothing was saved yet, and nothing is there that claims to be
    torch.manual_seed(1234)  # whatever happened in between
    resumed = Distiller.load(tmp_path / "killed", net(8, seed=9), teacher, device="cpu")
    assert resumed.passes == min(after, len(whole.plan))
    resumed.fit(train, validation)
    assert same(weights(resumed.student), weights(whole.student))
    assert same(weights(resumed.method), weights(whole.method))
    assert resumed.history == whole.history
    logs = [
        pd.read_csv(tmp_path / name / "progress.csv", dtype=str).drop(columns="time/fps")
        for name in ("whole", "killed")
    ]
    assert logs[0].equals(logs[1])
    assert (tmp_path / "whole" / BEST).read_bytes() == (tmp_path / "killed" / BEST).read_bytes()


def test_best_student_is_chosen_on_validation_data(teacher, tmp_path):
    validation, rough = problem(60, seed=2), {"learning_rate": 0.3, "learning_rate_schedule": "constant"}
    distiller = make("hinton", net(8), teacher, tmp_path / "run", epochs=12, **rough).fit(problem(), validation)
    scores = [row["accuracy"] for row in distiller.history]
    assert len(scores) == 12 and scores[-1] < max(scores)  # or this test shows nothing: the last is not the best
    assert distiller.evaluate(validation)["accuracy"] == max(scores)
    again = Distiller.load(tmp_path / "run", net(8, seed=5), teacher, device="cpu")
    assert same(weights(again.student), weights(distiller.student))
    import safetensors.torch

    assert same(safetensors.torch.load_file(tmp_path / "run" / BEST), weights(distiller.student))
    last = make("hinton", net(8), teacher, epochs=12, **rough, keep_best=False).fit(problem(), validation)
    assert last.evaluate(validation)["accuracy"] == scores[-1]


def test_rid_validates_only_after_student_passes(teacher):
    distiller = make("rid", net(8), teacher, epochs=4, eval_every=10).fit(problem(), problem(seed=2))
    students = [n + 1 for n, phase in enumerate(distiller.plan) if phase == STUDENT]
    ends = [n for n in students if n == len(distiller.plan) or distiller.plan[n] != STUDENT]
    assert [row["passes"] for row in distiller.history] == ends and len(ends) == 2


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


def test_the_seed_decides_everything(teacher):
    runs = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        student = net(8)
        make("vid", student, teacher, seed=seed).fit(problem())
        runs.append(weights(student))
        assert torch.initial_seed() == noise  # the caller's generators are left as they were
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


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
        "alpha": 0.5,
        "temperature": 2.0,
    },
    "label_smoothing": {"label_smoothing": 0.2},
    "cross_entropy": {"label_smoothing": 0.2},
    "fitnets": {"weight": 1.0, "student_features": ("body.0",), "teacher_features": ("body.0",)},
    "rkd": {"distance_weight": 1.0, "angle_weight": 1.0},
    "vid": {"weight": 9.0},
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
UNSEEN = {"eval_every", "keep_best", "log_freq", "cache_megabytes", "mixup"}
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


class Output(UserDict):
    """Like Hugging Face's ModelOutput: a mapping whose values are attributes, too."""

    def __getattr__(self, name):
        return self.data[name] if name in self.__dict__.get("data", {}) else super().__getattribute__(name)


class Tokens(Net):
    """Takes named inputs and returns an output with logits, as Hugging Face's classifiers do."""

    def forward(self, input_ids, attention_mask):
        return Output(logits=super().forward(input_ids * attention_mask), hidden_states=None)


class Tuples(Net):
    def forward(self, inputs):
        return super().forward(inputs), "more"


def test_batches_of_any_usual_structure(teacher):
    inputs, labels = problem()
    expected = make("hinton", net(8), teacher).fit((inputs, labels)).student

    def student(kind=Net):
        made = kind(8)
        made.load_state_dict(net(8).state_dict())
        return made

    class Items(torch.utils.data.Dataset):
        """Three things per example, as many sets have."""

        def __len__(self):
            return len(labels)

        def __getitem__(self, index):
            return inputs[index], int(labels[index]), f"name {index}"

    ones = torch.ones_like(inputs)
    named = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(inputs, ones, labels, strict=True)]
    taught = Tokens(16, dropout=0.0)
    taught.load_state_dict(teacher.state_dict())
    cases = [
        (student(), teacher, (inputs.double().numpy(), labels.numpy())),
        (student(), teacher, TensorDataset(inputs, labels)),
        (student(), teacher, Items()),
        (student(Tuples), teacher, [inputs, labels]),
        (student(Tokens), taught, named),
    ]
    for network, guide, data in cases:
        make("hinton", network, guide).fit(data)
        for name, tensor in weights(network).items():
            assert torch.allclose(tensor, weights(expected)[name], atol=1e-6), type(data)
        assert Distiller(network, guide, device="cpu").evaluate(data)["accuracy"] > 0.5


def test_users_own_loader(teacher):
    """A DataLoader is used as it is; one that shuffles does so by the run's seed."""
    inputs, labels = problem()
    data = TensorDataset(inputs, labels)
    students = [net(8), net(8), net(8)]
    for student, seed in zip(students, (0, 0, 1), strict=True):
        make("hinton", student, teacher, seed=seed).fit(DataLoader(data, 16, shuffle=True))
    assert same(weights(students[0]), weights(students[1])) and not same(weights(students[0]), weights(students[2]))
    result = make("hinton", students[0], teacher).evaluate(DataLoader(data, 7))
    assert result == pytest.approx(make("hinton", students[0], teacher).evaluate((inputs, labels)), abs=1e-6)


class Stream(torch.utils.data.IterableDataset):
    """Examples without a length."""

    def __iter__(self):
        return iter(zip(*problem(), strict=True))


def test_loader_without_length(teacher):
    with pytest.raises(PolicyKDError, match="the loader has no length"):
        make("hinton", net(8), teacher).fit(DataLoader(Stream(), 16))
    ordered = TensorDataset(*problem())
    students = [net(8), net(8)]
    for student, data in zip(students, (Stream(), ordered), strict=True):
        make("hinton", student, teacher, learning_rate_schedule="constant").fit(DataLoader(data, 16))
    for name, tensor in weights(students[0]).items():
        assert torch.allclose(tensor, weights(students[1])[name], atol=1e-6)


def test_fit_called_again_goes_on(teacher):
    """A finished run stays as it is; an interrupted one keeps helpers and optimisers."""
    distiller = make("rid", net(8), teacher).fit(problem(), problem(seed=2))
    before = weights(distiller.student), weights(distiller.method)
    distiller.fit(problem(), problem(seed=2))
    assert same(before[0], weights(distiller.student)) and same(before[1], weights(distiller.method))


def test_ensemble_of_teachers(teacher):
    other = net(16, seed=4)
    inputs, labels = problem()
    distiller = make("hinton", net(8), [teacher, other]).fit((inputs, labels))
    with torch.no_grad():
        mean = torch.stack([network.eval()(inputs).softmax(1) for network in (teacher, other)]).mean(0)
    assert torch.allclose(distiller.teacher.eval()(inputs).exp(), mean, atol=1e-6)
    assert make("fitnets", net(8), [teacher, other], teacher_features=("members.0.body",)).fit((inputs, labels))


def test_unlabelled_examples_teach_through_the_teacher_alone(teacher):
    inputs, labels = problem()
    some = labels.clone()
    some[48:] = -100
    hard = make("cross_entropy", net(8), None, warm_up_epochs=0)
    hard.fit((inputs, some))
    only = make("hinton", net(8), teacher, alpha=1.0)
    only.fit((inputs,))
    assert only.evaluate((inputs,)).keys() == {"agreement", "kl"}
    assert only.evaluate((inputs, labels))["agreement"] > 0.7


def test_mixup_mixes_inputs_and_keeps_labels_out(teacher):
    seen = []
    student = net(8)
    student.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    make("hinton", student, teacher, alpha=1.0, mixup=1.0, epochs=1).fit(problem())
    inputs = problem()[0]
    for mixed in torch.cat(seen[1:])[:20]:
        a, b = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
        first, second = inputs[a.flatten()], inputs[b.flatten()]
        share = ((mixed - second) * (first - second)).sum(1) / (first - second).square().sum(1).clamp_min(1e-9)
        rest = (share[:, None] * first + (1 - share[:, None]) * second - mixed).norm(dim=1)
        assert rest[(share >= 0) & (share <= 1)].min() < 1e-4


def test_metrics_by_hand():
    own = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.55, 0.45]]).log()
    teacher = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.9, 0.1]]).log()
    labels = torch.tensor([0, 1, 1, -100])
    result = metrics(own, labels, teacher)
    assert result["accuracy"] == pytest.approx(2 / 3) and result["teacher_accuracy"] == 1
    assert result["agreement"] == pytest.approx(3 / 4)
    assert result["ece"] == pytest.approx((0.2 + 0.6 + 0.3) / 3)  # three examples in three bins
    assert result["nll"] == pytest.approx(-np.log([0.8, 0.4, 0.7]).mean())
    kl = 0.4 * np.log(0.4 / 0.6) + 0.6 * np.log(0.6 / 0.4) + 0.9 * np.log(0.9 / 0.55) + 0.1 * np.log(0.1 / 0.45)
    assert result["kl"] == pytest.approx(kl / 4)


def test_features_are_handed_out_once():
    """No graph outlives its step: memory does not grow over the steps."""
    network = net(4)
    with FeatureReader(network, ("body",), "student") as reader:
        network(torch.zeros(2, SIZE))
        assert reader.take()[0].shape == (2, 4)
        assert not reader.seen
    assert not network.body._forward_hooks


def test_precision_and_clipping(teacher):
    plain, half = net(8), net(8)
    make("fitnets", plain, teacher).fit(problem())
    make("fitnets", half, teacher, mixed_precision="bf16", max_grad_norm=1.0).fit(problem())
    assert not same(weights(plain), weights(half))
    assert all(tensor.isfinite().all() for tensor in weights(half).values())


def test_distillers_beside_one_another(teacher):
    """accelerate has one precision per process; distillers of two precisions do not disturb each other."""
    first, second = net(8), net(8)
    half = make("hinton", first, teacher, mixed_precision="bf16")
    whole = make("hinton", second, teacher)
    half.fit(problem())
    whole.fit(problem())
    alone, apart = net(8), net(8)
    make("hinton", alone, teacher, mixed_precision="bf16").fit(problem())
    make("hinton", apart, teacher).fit(problem())
    assert same(weights(first), weights(alone)) and same(weights(second), weights(apart))
    assert not same(weights(first), weights(second))


def test_two_processes_compute_what_one_does(tmp_path):
    """The same batches shared by two CPU processes: losses and weights are equal up to rounding."""
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    in_a_process(paths[0])
    command = [sys.executable, str(Path(__file__).with_name("classifiers.py")), "2", str(paths[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (json.loads(path.read_text()) for path in paths)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["smallest_batch"] == FAST["batch_size"] // 2
    for a, b in zip(one["weights"], two["weights"], strict=True):
        assert np.allclose(a, b, atol=1e-5)
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_base_import_needs_none_of_the_extra():
    code = (
        "import sys\n"
        "for name in ('accelerate', 'torchmetrics', 'sklearn'): sys.modules[name] = None\n"
        "import policykd, policykd.cli.classify\n"
        "try: policykd.Distiller(policykd.classification.models.MLP(2, [2], 2), None, method='cross_entropy')\n"
        "except policykd.PolicyKDError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 'pip install "policykd[classification]"' in done.stdout


def test_classes_are_the_problems():
    assert set(problem(400)[1].tolist()) == set(range(CLASSES))
