"""The distiller: it learns, leaves the teacher alone, and chooses the best student on validation data."""

import numpy as np
import pytest
import torch
from classifiers import CLASSES, SIZE, make, net, problem, same, trained_teacher, weights
from torch import nn

from policykd import Distiller
from policykd.classification.distiller import BEST
from policykd.classification.measures.metrics import metrics
from policykd.classification.outputs import FeatureReader
from policykd.classification.trainer import Trainer
from policykd.distillation.supervised import METHODS
from policykd.distillation.supervised.method import STUDENT


@pytest.fixture(scope="module")
def teacher():
    return trained_teacher()


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
        student, helpers = weights(self.training.student), weights(self.method)
        one_pass(self, phase, bar)
        seen.add(phase.trains)
        learns = phase.trains == "student"
        assert self.training.student.training == learns
        assert same(student, weights(self.training.student)) != learns
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


def test_predictions_are_those_that_are_measured_whatever_the_precision(teacher):
    inputs, labels = problem()
    half = make("hinton", net(8), teacher, mixed_precision="bf16").fit((inputs, labels))
    likelihood = half.predict_proba(inputs).log().gather(1, labels[:, None])
    assert float(-likelihood.mean()) == pytest.approx(half.evaluate((inputs, labels))["nll"], abs=1e-6)


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


def test_classes_are_the_problems():
    assert set(problem(400)[1].tolist()) == set(range(CLASSES))
