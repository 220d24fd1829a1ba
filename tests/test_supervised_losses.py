"""Losses of the supervised methods against values worked out by hand, gradients by finite differences."""

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from policykd.distillation.categorical import UNLABELLED, categorical_kl, ensemble_logits, hard_loss, soft_loss
from policykd.distillation.divergences import DIVERGENCES
from policykd.distillation.supervised import fitnets, rid, rkd, ted, vid
from policykd.distillation.supervised.hinton import hinton_loss

LN2 = math.log(2)


def logits(*probabilities):
    """Logits whose softmax is these probabilities."""
    return torch.tensor(probabilities, dtype=torch.float64).log()


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_kl_by_hand():
    # KL((1/2, 1/2) || (1/4, 3/4)) = 1/2 ln(2) + 1/2 ln(2/3)
    student, teacher = logits([0.25, 0.75], [0.5, 0.5]), logits([0.5, 0.5], [0.5, 0.5])
    by_hand = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert categorical_kl(student, teacher).tolist() == pytest.approx([by_hand, 0.0])
    assert categorical_kl(teacher, student)[0].item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_a_class_that_the_teacher_rules_out_adds_nothing_to_the_kl():
    """Of -inf, as the logarithm of a tree's 0 has: 0 log 0 is 0, whatever the student says of it."""
    teacher, student = logits([0.5, 0.5, 0.0]), logits([0.25, 0.25, 0.5]).requires_grad_()
    found = categorical_kl(student, teacher)
    found.sum().backward()
    assert found.item() == pytest.approx(LN2)
    assert student.grad.squeeze().tolist() == pytest.approx([-0.25, -0.25, 0.5])
    assert categorical_kl(teacher, teacher).item() == 0
    assert math.isnan(categorical_kl(teacher * math.nan, teacher).item())  # of who has diverged, all the same


def test_kl_refuses_other_shapes():
    with pytest.raises(ValueError, match="equal shape"):
        categorical_kl(random(4, 3), random(4, 1))


def test_temperature_by_hand():
    # At T = 2 the probabilities are those of the roots: (1/5, 4/5) becomes (1/3, 2/3); the factor is 4.
    student, teacher = logits([0.2, 0.8]), logits([0.5, 0.5])
    by_hand = 4 * (0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4))
    assert soft_loss(student, teacher, 2.0).item() == pytest.approx(by_hand)


def test_temperature_keeps_the_gradient_scale():
    """Of small logits the gradient is that of matched logits, (z - v) / C, at any high temperature (Hinton, eq. 4)."""
    student, teacher = (0.01 * random(6, 5, seed=s) for s in (1, 2))
    student.requires_grad_(True)
    target = (student.detach() - student.detach().mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    for temperature in (1.0, 10.0, 100.0):
        (gradient,) = torch.autograd.grad(soft_loss(student, teacher, temperature), student)
        assert torch.allclose(gradient, target / 5 / 6, rtol=0.05, atol=1e-6)


def test_hard_loss_by_hand():
    own = logits([0.25, 0.75], [0.5, 0.5], [0.9, 0.1])
    labels = torch.tensor([0, 1, UNLABELLED])
    assert hard_loss(own, labels).item() == pytest.approx((math.log(4) + LN2) / 2)
    smooth = (0.9 * math.log(4) + 0.1 * (math.log(4) + math.log(4 / 3)) / 2 + LN2) / 2
    assert hard_loss(own, labels, label_smoothing=0.1).item() == pytest.approx(smooth)


def test_hard_loss_of_a_batch_without_labels_is_0():
    own = random(3, 4).requires_grad_(True)
    loss = hard_loss(own, torch.full((3,), UNLABELLED))
    loss.backward()
    assert loss == 0 and torch.equal(own.grad, torch.zeros_like(own))


def test_ensemble_is_the_log_of_the_mean_probability():
    members = torch.stack([logits([0.2, 0.8]), 3 + logits([0.6, 0.4])])  # logits may be shifted
    assert ensemble_logits(members).softmax(1).flatten().tolist() == pytest.approx([0.4, 0.6])
    assert torch.allclose(ensemble_logits(members).exp().sum(1), torch.ones(1, dtype=torch.float64))


def test_hinton_extremes():
    student, teacher, labels = random(8, 5), random(8, 5, seed=1), torch.arange(8) % 5
    hard, terms = hinton_loss(student, teacher, labels, alpha=0.0, temperature=4.0)
    assert hard.item() == pytest.approx(F.cross_entropy(student, labels).item()) and set(terms) == {"ce_loss"}
    soft, terms = hinton_loss(student, teacher, torch.full((8,), UNLABELLED), alpha=1.0, temperature=1.0)
    by_hand = (teacher.softmax(1) * (teacher.log_softmax(1) - student.log_softmax(1))).sum(1).mean()
    assert soft.item() == pytest.approx(by_hand.item()) and set(terms) == {"kd_loss"}
    both, _ = hinton_loss(student, teacher, labels, alpha=0.3, temperature=1.0)
    assert both.item() == pytest.approx(0.7 * hard.item() + 0.3 * soft.item())


def test_distances_of_softened_probabilities_are_a_divergence_of_hintons_loss():
    """KD_Lib's loss: T^2 times the mean squared error of softened probabilities, here summed over the 5 classes."""
    own, target = random(6, 5), random(6, 5, seed=1)
    apart = (own / 4).softmax(1).numpy() - (target / 4).softmax(1).numpy()
    found, _ = hinton_loss(own, target, torch.zeros(6, dtype=torch.long), 1.0, 4.0, DIVERGENCES["action_mse"])
    assert found.item() == pytest.approx(4**2 * 5 * (apart**2).mean())


def test_fitnets_by_hand():
    assert fitnets.hint_loss(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[0.0], [1.0]]])).item() == 2.5


def test_rkd_by_hand():
    """A 3-4-5 triangle against an equilateral one, in any unit."""
    right = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    equal = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
    # distances over their mean 4: 3/4, 1, 5/4 against 1, 1, 1; smooth L1 of 1/4 is 1/32; 4 of 9 entries differ
    assert rkd.distance_loss(right, equal).item() == pytest.approx(4 / 32 / 9)
    assert rkd.distance_loss(10 * right, equal).item() == pytest.approx(4 / 32 / 9)
    # cosines at the corners: 0, 3/5, 4/5 against 1/2 thrice, each found twice among 27
    by_hand = 2 * sum((cosine - 0.5) ** 2 / 2 for cosine in (0.0, 0.6, 0.8)) / 27
    assert rkd.angle_loss(right, equal).item() == pytest.approx(by_hand)
    assert rkd.angle_loss(right, right @ torch.tensor([[0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)) < 1e-12


def test_rkd_of_examples_that_coincide_is_finite():
    same = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    loss = rkd.distance_loss(same, random(4, 3)) + rkd.angle_loss(same, random(4, 3))
    loss.backward()
    assert loss.isfinite() and same.grad.isfinite().all()


@pytest.mark.parametrize("loss", [rkd.distance_loss, rkd.angle_loss])
def test_rkd_of_students_that_coincide_pulls_at_nothing_by_rounding(loss):
    hidden = random(8, 3).float().relu() * (torch.arange(8) < 4)[:, None]  # four examples whose units are all dead
    last = torch.nn.Linear(3, 5)
    loss(last(hidden), random(8, 6, seed=1).float()).backward()
    assert last.bias.grad.abs().max() < 1e-5  # neither distances nor angles change when all examples are shifted


def test_vid_by_hand():
    mean, target = torch.zeros(1, 2, 1), torch.tensor([[[2.0], [1.0]]])
    by_hand = 0.5 * ((4 / 2 + LN2) + (1 / 1 + 0)) / 2
    assert vid.vid_loss(mean, torch.tensor([2.0, 1.0]), target).item() == pytest.approx(by_hand)
    batch = [tensor.expand(3, 2, 5) for tensor in (mean, target)]  # a sum over 2 channels x 5 positions, not the batch
    assert vid.vid_loss(batch[0], torch.tensor([2.0, 1.0]), batch[1], "sum").item() == pytest.approx(10 * by_hand)


def test_vid_starts_with_variance_5():
    model = vid.GaussianModel(3, 7)
    mean, variance = model(torch.zeros(2, 3, 4))
    assert mean.shape == (2, 7, 4) and variance.tolist() == pytest.approx([5.0] * 7)


def test_ted_by_hand():
    assert ted.filter_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0, 0.0]]])).item() == 2.0


def test_rid_by_hand():
    student, teacher = torch.zeros(1, 2, 1), torch.tensor([[[2.0], [3.0]]])
    sigma = torch.tensor([2.0, 1.0])
    assert rid.rid_distance(student, teacher, sigma).item() == pytest.approx((4 / 2 + 9 / 1) / 2)
    assert rid.rid_loss(student, teacher, sigma).item() == pytest.approx((4 / 2 + 9 / 1) / 2 + (4 + 1) / 2)
    batch = [tensor.expand(3, 2, 5) for tensor in (student, teacher)]  # the norm of sigma has no positions
    assert rid.rid_loss(*batch, sigma, "sum").item() == pytest.approx(5 * (4 / 2 + 9 / 1) + (4 + 1))


def test_rid_variance_follows_the_error():
    """At fixed V the best sigma solves 2 sigma^3 = V^2: channels that cannot be copied are let go."""
    error = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
    sigma = (error.square() / 2) ** (1 / 3)
    sigma.requires_grad_(True)
    rid.rid_loss(torch.zeros(1, 3, 1, dtype=torch.float64), error.view(1, 3, 1), sigma).backward()
    assert torch.allclose(sigma.grad, torch.zeros(3, dtype=torch.float64), atol=1e-12)


MAP = (4, 3, 2)
SMOOTH = {
    "hinton": lambda x: hinton_loss(x, random(4, 3, seed=1), torch.arange(4) % 3, 0.4, 3.0)[0],
    "fitnets": lambda x: fitnets.hint_loss(x, random(*MAP, seed=1)),
    "rkd_distance": lambda x: rkd.distance_loss(x, random(4, 3, seed=1)),
    "rkd_angle": lambda x: rkd.angle_loss(x, random(4, 3, seed=1)),
    "vid": lambda x: vid.vid_loss(x, torch.tensor([1.0, 2.0, 3.0]), random(*MAP, seed=1)),
    "ted": lambda x: ted.filter_loss(x, random(*MAP, seed=1)),
    "rid": lambda x: rid.rid_loss(x, random(*MAP, seed=1), torch.tensor([1.0, 2.0, 3.0])),
    "vid_sum": lambda x: vid.vid_loss(x, torch.tensor([1.0, 2.0, 3.0]), random(*MAP, seed=1), "sum"),
    "rid_sum": lambda x: rid.rid_loss(x, random(*MAP, seed=1), torch.tensor([1.0, 2.0, 3.0]), "sum"),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_by_finite_differences(name):
    shape = (4, 3) if name.startswith(("hinton", "rkd")) else MAP
    assert gradcheck(SMOOTH[name], random(*shape).requires_grad_(True))


def test_gradients_of_variances_by_finite_differences():
    raw = random(3).exp().requires_grad_(True)
    own, target = random(*MAP), random(*MAP, seed=1)
    assert gradcheck(lambda variance: vid.vid_loss(own, variance, target), raw)
    assert gradcheck(lambda sigma: rid.rid_loss(own, target, sigma), raw)


def test_losses_like_torchdistill():
    """The same numbers as torchdistill's, where it is installed (pip install torchdistill)."""
    losses = pytest.importorskip("torchdistill.losses.mid_level", reason="torchdistill is not installed")
    student, teacher = random(6, 5).float(), random(6, 5, seed=1).float()
    labels = torch.arange(6) % 5

    def io(name, value):
        return {name: {"output": value}}

    kd = losses.KDLoss("s", "output", "t", "output", temperature=4.0, alpha=0.1, beta=0.9, reduction="batchmean")
    theirs = kd(io("s", student), io("t", teacher), labels)
    assert hinton_loss(student, teacher, labels, 0.9, 4.0)[0].item() == pytest.approx(theirs.item(), rel=1e-5)
    relational = losses.RKDLoss("s", "t", 25.0, 50.0, "mean")
    ours = 25 * rkd.distance_loss(student, teacher) + 50 * rkd.angle_loss(student, teacher)
    theirs = relational(io("s", student), io("t", teacher))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
    maps = random(2, 3, 4, 4).float(), random(2, 3, 4, 4, seed=1).float()
    mean, variance, target = maps[0].flatten(2), torch.tensor([1.0, 2.0, 3.0]), maps[1].flatten(2)
    pair = {"student": {"io": "output", "path": "s"}, "teacher": {"io": "output", "path": "t"}}
    theirs = losses.VIDLoss({"pair": pair})(io("s", (mean, variance.view(1, 3, 1))), io("t", target))
    assert vid.vid_loss(mean, variance, target).item() == pytest.approx(theirs.item(), rel=1e-5)
    ends = {
        name: {"io": "output", "module_path": path, "is_from_teacher": path == "t"}
        for name, path in (("input", "s"), ("target", "t"))
    }
    hint = losses.SimpleLossWrapper(torch.nn.MSELoss(), **ends)
    ours = fitnets.hint_loss(maps[0].flatten(2), maps[1].flatten(2))
    assert ours.item() == pytest.approx(hint(io("s", maps[0]), io("t", maps[1]), None).item())


def test_every_pair_of_methods_has_its_own_config():
    from policykd.distillation.supervised import METHODS

    kinds = [method.config_type for method in METHODS.values()]
    assert all(first is not second for first, second in itertools.combinations(kinds, 2))
