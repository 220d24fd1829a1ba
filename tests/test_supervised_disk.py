"""DiSK: its loss by hand, its guide and budget, and its claim on the interval problem of the authors' poster."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from policykd.distillation.categorical import UNLABELLED
from policykd.distillation.supervised.config import DiSKConfig
from policykd.distillation.supervised.disk import DiSK, budget_hinge, helped_classes, scaffolded_loss
from policykd.distillation.supervised.method import Outputs, Step


def logits(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_mask_is_the_top_classes_and_the_true_one():
    teacher = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
    mask = helped_classes(teacher, torch.tensor([3, 3, UNLABELLED]), top_k=2)
    assert mask.tolist() == [[1, 1, 0, 1], [0, 0, 1, 1], [1, 1, 0, 0]]


def test_loss_by_hand():
    student, teacher = logits([0.2, 0.3, 0.5]), logits([0.6, 0.2, 0.2])
    mask, help = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([0.5])
    # the teacher over the mask is (3/4, 1/4); the helped student (0.7, 0.8, 0.5) over 1 + 2 * 0.5
    by_hand = -(0.75 * math.log(0.7 / 2) + 0.25 * math.log(0.8 / 2))
    assert scaffolded_loss(student, teacher, help, mask, 1.0, 1.0).item() == pytest.approx(by_hand)


def test_without_help_it_is_the_cross_entropy_with_the_teacher():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    loss = scaffolded_loss(student, teacher, torch.zeros(6), torch.ones(6, 5), 3.5, 4.0)
    by_hand = -((teacher / 4.0).softmax(1) * (student / 3.5).log_softmax(1)).sum(1).mean() * 3.5 * 4.0
    assert loss.item() == pytest.approx(by_hand.item())


def test_normaliser_is_real():
    """The helped student is a distribution: no help, however large, brings the loss below the teacher's entropy."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 64, 5, generator=generator, dtype=torch.float64)
    mask = helped_classes(teacher, torch.arange(64) % 5, 3)
    target = teacher.masked_fill(mask == 0, -torch.inf).softmax(1)
    entropy = -torch.special.xlogy(target, target).sum(1).mean()
    for help in (0.0, 0.3, 1.0):
        assert scaffolded_loss(student, teacher, torch.full((64,), help), mask, 1.0, 1.0) >= entropy


def test_gradients_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    help = torch.rand(6, generator=generator, dtype=torch.float64)
    mask = helped_classes(teacher, torch.arange(6) % 5, 2)
    inputs = student.requires_grad_(True), help.requires_grad_(True)
    assert gradcheck(lambda s, g: scaffolded_loss(s, teacher, g, mask, 3.5, 4.0), inputs)


def test_help_lets_hopeless_examples_go():
    """Where the student fails, help takes away nearly all of the gradient."""
    student = torch.tensor([[-4.0, 4.0]], requires_grad=True)
    teacher, mask = torch.tensor([[4.0, -4.0]]), torch.ones(1, 2)
    sizes = []
    for help in (0.0, 1.0):
        loss = scaffolded_loss(student, teacher, torch.tensor([help]), mask, 1.0, 1.0)
        sizes.append(torch.autograd.grad(loss, student)[0].norm())
    assert sizes[1] < 0.01 * sizes[0]


def test_budget_by_hand():
    own, labels = logits([0.5, 0.5], [0.01, 0.99]), torch.tensor([0, 0])
    help = torch.tensor([1.0, 0.5])
    used = (math.log(2) + 0.5 * 2.0) / 2  # the second cross-entropy, ln 100, is bounded by 2
    assert budget_hinge(own, labels, help, 0.3, 2.0, per_mistake=False).item() == pytest.approx(used - 0.3)
    assert budget_hinge(own, labels, help, 2.0, 2.0, per_mistake=False) == 0
    # one mistake: the whole sum counts
    assert budget_hinge(own, labels, help, 0.3, 2.0, per_mistake=True).item() == pytest.approx(2 * used - 0.3)


def test_an_example_without_label_is_no_mistake_and_uses_no_help():
    own, help = logits([0.5, 0.5], [0.01, 0.99], [0.2, 0.8]), torch.tensor([1.0, 0.5, 1.0])
    found = budget_hinge(own, torch.tensor([0, 0, UNLABELLED]), help, 0.3, 2.0)
    assert found.item() == pytest.approx(math.log(2) + 0.5 * 2.0 - 0.3)


def test_nothing_is_divided_by_a_count_of_mistakes():
    """A batch that is all right, or has no labels, gives finite numbers (the published code divides by 0)."""
    own = torch.tensor([[9.0, -9.0]] * 4)
    for labels in (torch.zeros(4, dtype=torch.long), torch.full((4,), UNLABELLED)):
        assert budget_hinge(own, labels, torch.ones(4), 0.0, 5.0).isfinite()


@pytest.fixture
def method():
    torch.manual_seed(0)
    outputs = Outputs(torch.randn(8, 4), (torch.randn(8, 6, 3, 3),))
    return DiSK(DiSKConfig(epochs=9, guide_width=5), Outputs(torch.randn(8, 4)), outputs), outputs


def test_phases_take_turns_and_end_with_the_student(method):
    names = [phase.name for phase in method[0].plan(DiSKConfig(epochs=9))]
    assert names == ["warm_up"] * 2 + ["guide"] + ["student"] * 3 + ["guide"] * 3 + ["student"] * 3 + (
        ["guide"] * 3 + ["student"]
    )


def test_who_gets_a_gradient(method):
    disk, teacher = method
    labels = torch.arange(8) % 4
    for phase, learns in (("guide", True), ("student", False)):
        disk.requires_grad_(learns)
        student = torch.randn(8, 4, requires_grad=not learns)
        loss, terms = disk.loss(Step(phase, Outputs(student), teacher, labels, 0.5))
        loss.backward()
        assert (student.grad is None) == learns
        assert all((p.grad is not None) == learns for p in disk.guide.parameters())
        assert ("over_budget" in terms) == learns
        disk.zero_grad()
        for parameter in disk.parameters():
            parameter.grad = None


def test_losses_are_weighted(method):
    settings = DiSKConfig(
        epochs=9, guide_width=5, soft_weight=3.0, hard_weight=0.25, budget=(0.0, 0.0), penalty=(1.0, 7.0)
    )
    disk, teacher = DiSK(settings, Outputs(torch.randn(8, 4)), method[1]).eval(), method[1]
    student, labels = Outputs(torch.randn(8, 4)), torch.arange(8) % 4
    loss, terms = disk.loss(Step("student", student, teacher, labels, 0.5))
    assert loss.item() == pytest.approx((3.0 * terms["kd_loss"] + 0.25 * terms["ce_loss"]).item())
    for progress, penalty in ((0.0, 1.0), (0.5, 4.0), (1.0, 7.0)):
        loss, terms = disk.loss(Step("guide", student, teacher, labels, progress))
        assert terms["over_budget"] > 0
        assert loss.item() == pytest.approx((3.0 * terms["kd_loss"] + penalty * terms["over_budget"]).item(), rel=1e-5)


def test_budget_shrinks_and_its_price_rises(method):
    """The schedules go one way (the published code's budget rises again after four cycles)."""
    disk, teacher = method
    disk.eval()
    student = Outputs(torch.full((8, 4), 0.0))
    over = []
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, terms = disk.loss(Step("guide", student, teacher, torch.arange(8) % 4, progress))
        over.append(terms["over_budget"].item())
    assert over == sorted(over) and over[0] < over[-1]


def local_minima(help_on_the_hard_interval):
    """(a, w, accuracy) of the surface of the interval student's scaffolded loss.

    The poster's problem: class 1 on an interval A of 4 points and one B of 10, a gap of 5 between them and 11 points
    around; the teacher knows both, the student is one soft interval from a of width w. A grid of 121 x 121 starts;
    a minimum is lower than its eight neighbours, and of more than 60 % accuracy.
    """
    x = np.concatenate(
        [
            np.linspace(0.2, 1.7, 6),
            np.linspace(2.05, 3.15, 4),
            np.linspace(3.5, 4.6, 5),
            np.linspace(4.95, 7.05, 10),
            np.linspace(7.4, 9.5, 5),
        ]
    )
    label = np.array([0] * 6 + [1] * 4 + [0] * 5 + [1] * 10 + [0] * 5)
    hard = np.array([0] * 6 + [1] * 4 + [0] * 20)
    a, w = (axis[..., None] for axis in np.meshgrid(np.linspace(0, 9, 121), np.linspace(0.1, 9, 121), indexing="ij"))
    one = 0.1 + 0.8 / (1 + np.exp(-3 * (x - a))) / (1 + np.exp(-3 * (a + w - x)))
    student = torch.from_numpy(np.stack([1 - one, one], -1)).log()
    teacher = torch.tensor([[0.99, 0.01], [0.01, 0.99]], dtype=torch.float64).log()[label]
    help = torch.tensor(help_on_the_hard_interval * hard)
    mask = torch.ones(30, 2, dtype=torch.float64)
    losses = torch.func.vmap(lambda s: scaffolded_loss(s, teacher, help, mask, 1.0, 1.0))(student.reshape(-1, 30, 2))
    surface = losses.reshape(121, 121).numpy()
    padded = np.pad(surface, 1, constant_values=np.inf)
    around = [padded[1 + i : 122 + i, 1 + j : 122 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    lowest = np.all([surface < neighbour for neighbour in around], axis=0)
    accuracy = ((one > 0.5) == (label == 1)).mean(-1)
    return [(a[i, 0, 0], w[0, j, 0], accuracy[i, j]) for i, j in np.argwhere(lowest & (accuracy > 0.6))]


def test_claim_help_on_the_hard_interval_removes_the_bad_minima():
    """Without help the student can end on A, on both merged, or on B; with g >= 0.6 on A, on B alone."""
    without = local_minima(0.0)
    assert len(without) == 3
    assert sorted(round(accuracy, 2) for _, _, accuracy in without) == [0.67, 0.83, 0.87]
    for help in (0.6, 0.8, 1.0):
        ((start, width, accuracy),) = local_minima(help)
        assert accuracy == pytest.approx(26 / 30)
        assert 4.4 < start < 4.95 and 7.05 < start + width < 7.7
