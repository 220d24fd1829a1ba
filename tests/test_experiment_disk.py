"""The experiment on DiSK, in small: its stacked students are the Distiller's, and it goes on where it stopped."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

from experiments.disk import run, students
from experiments.measurements import Measurements
from policykd import Distiller
from policykd.classification.data.batches import seeded
from policykd.classification.models import make_model
from policykd.distillation.supervised.hinton import AS_PUBLISHED
from policykd.distillation.supervised.method import Outputs

SEEDS, EPOCHS = (3, 4), 5


@pytest.fixture
def data():
    """Five classes of vectors for two seeds, and teachers that know nothing."""
    generator = torch.Generator().manual_seed(0)
    inputs, held = torch.randn(2, 300, 6, generator=generator), torch.randn(2, 50, 6, generator=generator)
    rule = torch.randn(6, 5, generator=generator)
    teachers = [make_model("mlp", (8,), (6,), 5, 100 + seed) for seed in SEEDS]
    with torch.no_grad():
        features = torch.stack([teacher.hidden(x) for teacher, x in zip(teachers, inputs, strict=True)])
        logits = torch.stack([teacher(x) for teacher, x in zip(teachers, inputs, strict=True)])
    labels, held_labels = ((x @ rule).argmax(-1) for x in (inputs, held))
    return students.Data(SEEDS, inputs, labels, (held, held_labels), Outputs(logits, (features,))), teachers


@contextmanager
def after_a_loader(seed):
    """A Distiller's loader draws one number before the guide's first weights are drawn."""
    with seeded(seed):
        torch.empty((), dtype=torch.int64).random_()
        yield


@pytest.mark.parametrize("method", ["cross_entropy", "hinton", "disk"])
def test_students_in_a_stack_are_those_of_the_distiller(data, method, monkeypatch):
    monkeypatch.setattr(students, "seeded", after_a_loader)
    stacked, teachers = data
    start = run.first(4, stacked)
    temperatures, budgets = [1.0, 4.0], [(0.6, 0.4), (0.1, 0.0)]
    made, own = {
        "cross_entropy": lambda: (students.Students(stacked, start, 2, EPOCHS), {}),
        "hinton": lambda: (students.HintonStudents(stacked, start, EPOCHS, temperatures), AS_PUBLISHED),
        "disk": lambda: (
            students.DiSKStudents(stacked, start, EPOCHS, temperatures, budgets),
            {
                **{name: getattr(students.CONFIG, name) for name in ("warm_up_epochs", "top_k", "teacher_features")},
                **{"student_temperature": 4.0, "teacher_temperature": 4.0, "budget": budgets[1]},
            },
        ),
    }[method]()
    scores = made.fit()
    config = {"epochs": EPOCHS, "batch_size": students.BATCH, "learning_rate": students.RATE, **own}
    config |= {"eval_every": students.EVAL_EVERY, "seed": SEEDS[1]}
    held = tuple(part[1] for part in stacked.validation)
    teacher = None if method == "cross_entropy" else teachers[1]
    student = make_model("mlp", (4,), (6,), 5, SEEDS[1])
    distiller = Distiller(student, teacher, method=method, config=config, device="cpu")
    distiller.fit((stacked.inputs[1], stacked.labels[1]), held)
    for ours, theirs in zip(made.best, student.parameters(), strict=True):
        torch.testing.assert_close(ours[3], theirs.detach(), atol=1e-4, rtol=1e-4)
    assert scores[3] == pytest.approx(distiller.evaluate(held)["accuracy"])
    if method == "disk":
        guided = distiller.method.guide.eval()(stacked.teacher.features[0][1]).detach()
        torch.testing.assert_close(made.help()[3], guided, atol=1e-4, rtol=1e-4)


def test_students_without_help_learn_as_hinton_s_where_all_classes_are_compared(data, monkeypatch):
    monkeypatch.setattr(students, "CONFIG", replace(students.CONFIG, top_k=5))
    stacked = data[0]
    start, each = run.first(4, stacked), [1.0, 4.0]
    unhelped = students.UnhelpedStudents(stacked, start, EPOCHS, each, [(0.0, 0.0)] * 2)
    hinton = students.HintonStudents(stacked, start, EPOCHS, each)
    assert torch.equal(unhelped.fit(), hinton.fit())
    for ours, theirs in zip(unhelped.parameters, hinton.parameters, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_experiment_makes_every_row_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    for name in ("WARM", "PASSES"):
        monkeypatch.setattr(run, name, 1)
    monkeypatch.setattr(run, "LEARN", 200)
    options = run.Options(out=tmp_path, page=tmp_path / "none.md", seeds=(1000, 1001), sets=("digits",))
    run.main(replace(options, seeds=(1001,)))
    run.main(options)
    written = (tmp_path / "rows.csv").read_bytes()
    rows = Measurements(tmp_path / "rows.csv", run.KEYS, run.VALUES)
    assert len(rows.rows) == 2 * (1 + len(run.WIDTHS) * len(run.ROWS))
    assert rows.where(row="hinton")["temperature"].isin(run.TEMPERATURES).all()
    assert rows.where(row="disk")["help"].between(0, 1).all()
    monkeypatch.setattr(run, "one_width", lambda *_: pytest.fail("measured again"))
    run.main(options)
    assert (tmp_path / "rows.csv").read_bytes() == written


def test_training_validation_and_test_examples_are_apart():
    inputs = np.arange(100.0)[:, None]
    found = run.parts(inputs, np.arange(100) % 3, (0,))
    places = [set(part[0].flatten().tolist()) for part in found.values()]
    assert [len(place) for place in places] == [14, 56, 30] and len(set.union(*places)) == 100
