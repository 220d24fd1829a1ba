"""Partial information decomposition: textbook values, the paper's examples, and the estimator's limits."""

import csv
import itertools
import sys

import numpy as np
import pytest
import torch

from policykd import Distiller
from policykd.classification.models import make_model
from policykd.core.errors import PolicyKDError

pytest.importorskip("cvxpy")
pytest.importorskip("sklearn")

from policykd.classification.measures import pid
from policykd.classification.measures.pid import (
    PID,
    decompose,
    discretise,
    estimate,
    histogram,
    least_informative,
    mutual_information,
)
from policykd.classification.measures.pid_curve import PIDCurve


def joint(outcomes):
    """The distribution in which the outcomes (y, t, s) have the given probabilities, or all the same."""
    weights = outcomes if isinstance(outcomes, dict) else dict.fromkeys(outcomes, 1.0)
    table = np.zeros((4, 4, 4))
    for outcome, weight in weights.items():
        table[outcome] += weight
    return table


BITS = list(itertools.product((0, 1), repeat=2))
TEXTBOOK = {
    "and": (joint([(a & b, a, b) for a, b in BITS]), PID(0.311278, 0, 0, 0.5)),
    "xor": (joint([(a ^ b, a, b) for a, b in BITS]), PID(0, 0, 0, 1)),
    "redundant": (joint([(0, 0, 0), (1, 1, 1)]), PID(1, 0, 0, 0)),
    "unique to the teacher": (joint([(a, a, b) for a, b in BITS]), PID(0, 1, 0, 0)),
    "unique to the student": (joint([(b, a, b) for a, b in BITS]), PID(0, 0, 1, 0)),
    "copy": (joint([(2 * a + b, a, b) for a, b in BITS]), PID(0, 1, 1, 0)),
    "nothing": (joint([(y, a, b) for y in (0, 1) for a, b in BITS]), PID(0, 0, 0, 0)),
}


@pytest.mark.parametrize("name", TEXTBOOK)
def test_textbook_values(name):
    table, expected = TEXTBOOK[name]
    assert decompose(table) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("concentration", [0.1, 1.0])
def test_a_general_table_is_solved_to_a_bound_that_the_dual_proves(concentration):
    """No admissible Q beats the bound, and the optimum reaches it."""
    generator = np.random.default_rng(1)
    table = generator.dirichlet(np.full(60, concentration)).reshape(3, 4, 5)
    optimum, gap = least_informative(table)
    assert -1e-8 < gap < 1e-6
    for axis in (1, 2):
        np.testing.assert_allclose(optimum.sum(axis), table.sum(axis), atol=1e-7)
    least = mutual_information(optimum.reshape(3, -1))
    for _ in range(200):  # the solver's optimum, moved along directions that keep both pairs
        y = generator.integers(3)
        (t, t2), (s, s2) = (generator.choice(n, 2, replace=False) for n in table.shape[1:])
        moved = optimum.copy()
        step = min(optimum[y, t, s], optimum[y, t2, s2]) * generator.random()
        moved[y, [t, t2], [s, s2]] -= step
        moved[y, [t, t2], [s2, s]] += step
        assert mutual_information(moved.reshape(3, -1)) >= least - 1e-6


def test_an_optimum_that_is_not_proven_is_refused(monkeypatch):
    monkeypatch.setattr(pid, "TOLERANCE", -1.0)
    with pytest.raises(PolicyKDError, match="bits only: try fewer clusters"):
        decompose(TEXTBOOK["and"][0])


def test_examples_of_the_rid_paper():
    """Section 3: what I(T; S) or I(Y; T | S) would call knowledge transferred or left, and redundancy does not."""
    chances = {(a, b): (0.2 if a else 0.8) * 0.5 for a, b in BITS}
    task = -0.2 * np.log2(0.2) - 0.8 * np.log2(0.8)
    # T = (task, nuisance): keeping the nuisance bit, which has more entropy, transfers nothing.
    keeps_task = joint({(a, 2 * a + b, a): p for (a, b), p in chances.items()})
    keeps_nuisance = joint({(a, 2 * a + b, b): p for (a, b), p in chances.items()})
    assert decompose(keeps_task).redundant == pytest.approx(task, abs=1e-3)
    assert decompose(keeps_nuisance) == pytest.approx(PID(0, task, 0, 0), abs=1e-3)
    # T = Y xor S: given S the teacher tells all of Y, but alone it tells nothing, and nothing is unique to it.
    assert decompose(joint([(a, a ^ b, b) for a, b in BITS])) == pytest.approx(PID(0, 0, 0, 1), abs=1e-3)


def test_parts_add_up_and_sides_are_symmetric():
    table = np.random.default_rng(0).dirichlet(np.full(60, 0.3)).reshape(3, 4, 5)
    found, swapped = decompose(table), decompose(table.swapaxes(1, 2))
    assert min(found) >= 0
    assert sum(found) == pytest.approx(mutual_information(table.reshape(3, -1)), abs=1e-6)
    assert found.teacher == pytest.approx(mutual_information(table.sum(2)), abs=1e-6)
    assert found.student == pytest.approx(mutual_information(table.sum(1)), abs=1e-6)
    assert swapped == pytest.approx(
        PID(found.redundant, found.unique_student, found.unique_teacher, found.synergistic), abs=1e-4
    )


def test_counts_do_as_well_as_probabilities():
    table = TEXTBOOK["and"][0]
    assert decompose(7 * table) == pytest.approx(decompose(table), abs=1e-6)


@pytest.mark.parametrize(
    "table", [np.ones((2, 2)), -np.ones((2, 2, 2)), np.zeros((2, 2, 2)), np.full((2, 2, 2), np.nan)]
)
def test_what_is_no_distribution_is_refused(table):
    with pytest.raises(PolicyKDError, match="pid: needs probabilities"):
        decompose(table)


def blobs(codes, width, seed):
    """Well-parted clouds in ``width`` dimensions, one per code."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(codes.max() + 1, width)) * 5
    return centres[codes] + 0.1 * rng.normal(size=(len(codes), width))


def test_discretise_finds_clusters_repeatably():
    codes = np.random.default_rng(0).integers(6, size=300)
    found = discretise(blobs(codes, 20, 1), clusters=6, components=5, seed=3)
    assert mutual_information(histogram(codes, found) / 300) == pytest.approx(np.log2(6), abs=0.05)
    np.testing.assert_array_equal(found, discretise(blobs(codes, 20, 1), clusters=6, components=5, seed=3))


def test_estimate_from_representations():
    """A teacher that shows both bits of the label, and a student that shows one of them."""
    labels = np.random.default_rng(0).integers(4, size=600)
    teacher, student = blobs(labels, 12, 1), blobs(labels // 2, 7, 2).reshape(-1, 7, 1)
    found = estimate(labels, teacher, student, clusters=4, components=4, seeds=(0, 1))
    assert found.pid == pytest.approx(PID(1, 1, 0, 0), abs=0.02)
    assert max(found.std) < 0.02
    assert sum(found.chance) < 0.05


def test_chance_shows_the_bias_of_few_examples():
    rng = np.random.default_rng(0)
    few = estimate(rng.integers(5, size=100), rng.normal(size=(100, 8)), rng.normal(size=(100, 8)), seeds=(0,))
    assert sum(few.pid) > 0.5, "with 100 examples and 10 x 10 clusters, noise looks like information"
    assert sum(few.chance) == pytest.approx(sum(few.pid), rel=0.3)


def test_a_constant_representation_tells_nothing():
    labels = np.random.default_rng(0).integers(3, size=90)
    found = estimate(labels, blobs(labels, 5, 1), np.ones((90, 4)), clusters=3, seeds=(0,))
    assert found.pid.student == pytest.approx(0, abs=1e-6)
    assert found.pid.unique_teacher == pytest.approx(found.pid.teacher, abs=1e-6)


def test_bad_representations_are_refused():
    labels = np.arange(12) % 3
    with pytest.raises(PolicyKDError, match="same examples"):
        estimate(labels, np.ones((12, 2)), np.ones((11, 2)))
    with pytest.raises(PolicyKDError, match="not finite"):
        discretise(np.full((20, 3), np.nan))
    with pytest.raises(PolicyKDError, match="clusters"):
        discretise(np.ones((5, 3)), clusters=10)


def test_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(PolicyKDError, match=r"^pid: cvxpy is needed .*policykd\[pid\]"):
        decompose(TEXTBOOK["and"][0])


def test_a_curve_over_a_training(tmp_path):
    """The student starts with nothing of a teacher that shows the label, and takes over some of it."""
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    inputs = torch.eye(3)[labels] * 3 + torch.randn(300, 3)
    teacher = make_model("mlp", (8,), (3,), 3, seed=1)
    settings = {"epochs": 30, "batch_size": 50, "learning_rate": 1e-2}
    Distiller(teacher, None, method="cross_entropy", config=settings, device="cpu").fit((inputs, labels))
    student = make_model("mlp", (4,), (3,), 3, seed=2)
    student.hidden[0][0].weight.data.zero_()
    student.hidden[0][0].bias.data.fill_(1.0)
    curve = PIDCurve(teacher, (inputs, labels), "hidden.0", "hidden.0", every=2, clusters=3, components=2, seeds=(0,))
    curve.look(student, 0)
    settings = {"epochs": 5, "batch_size": 50, "learning_rate": 3e-2, "learning_rate_schedule": "constant"}
    settings |= {"filter_warm_up_epochs": 1, "cycle_epochs": 2, "filter_share": 0.5}
    features = {"student_features": ("hidden.0",), "teacher_features": ("hidden.0",)}
    Distiller(student, teacher, method="rid", config={**settings, **features}, device="cpu").fit(
        (inputs, labels), callback=curve
    )
    assert sorted(curve.estimates) == [0, 2, 4], "passes of the filters do not count"
    first, last = curve.estimates[0].pid, curve.estimates[4].pid
    assert first.redundant == pytest.approx(0, abs=1e-6), "the student's layer is constant at first"
    assert last.redundant > 0.5 and last.unique_teacher < first.unique_teacher - 0.5
    assert first.teacher == pytest.approx(last.teacher, abs=1e-6), "the teacher is frozen"
    curve.write(tmp_path)
    with open(tmp_path / "pid.csv", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["epoch"] for row in written] == ["0", "2", "4"]
    assert float(written[2]["redundant"]) == pytest.approx(last.redundant, abs=1e-4)
    assert (tmp_path / "pid.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PolicyKDError, match="every=0"):
        PIDCurve(teacher, (inputs, labels), "hidden.0", "hidden.0", every=0)
