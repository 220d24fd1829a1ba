"""One vocabulary of losses: the same functions compute the losses of policies and of classifiers."""

import math

import pytest
import torch
from classifiers import FAST, net, problem, same, weights
from helpers import make_learner

from policykd import Distiller, PolicyKDError
from policykd.core.networks import PolicyOutput
from policykd.distillation import divergences
from policykd.distillation import weights as weighting
from policykd.distillation.divergences import DIVERGENCES, distance, divergence_of, kl_forward, mse, nll, softened
from policykd.distillation.peer_step import DistillationStep
from policykd.distillation.schedules import SCHEDULES
from policykd.distillation.supervised.config import HintonConfig
from policykd.distillation.supervised.hinton import WEIGHTS, Hinton, hinton_loss, log_likelihood
from policykd.distillation.supervised.method import Outputs, Step
from policykd.learners.config import DDPGConfig

OWN, TARGET = torch.tensor([[0.2, 0.8], [0.5, 0.5]]).log(), torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()


def policies(logits):
    """Two policies that choose one of two actions, of the same logits: (K, B, A)."""
    both = torch.stack((logits, logits.flip(0)))
    return PolicyOutput(both.argmax(-1, keepdim=True).float(), logits=both)


def at_temperature_2():
    """At T = 2 probabilities are those of the roots: (1/5, 4/5) becomes (1/3, 2/3), (9/10, 1/10) (3/4, 1/4)."""
    return (
        4 * (0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)),
        4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
    )


def test_hintons_loss_is_one_function_of_a_policys_logits_and_a_classifiers():
    first, second = at_temperature_2()
    of_classifier = distance(Outputs(OWN), Outputs(TARGET), kl_forward, 2.0)
    assert of_classifier.tolist() == pytest.approx([first, second])  # (B,)
    of_policies = distance(policies(OWN), policies(TARGET), kl_forward, 2.0)
    assert of_policies.tolist() == [pytest.approx([first, second]), pytest.approx([second, first])]  # (K, B)
    loss, terms = hinton_loss(OWN, TARGET, torch.tensor([0, 1]), 1.0, 2.0)
    assert loss.item() == terms["kd_loss"].item() == pytest.approx((first + second) / 2)


def test_every_divergence_of_choices_is_one_of_classifiers():
    """Cross-entropies by hand, and mean actions, which are probabilities."""
    second = -(0.9 * math.log(0.5) + 0.1 * math.log(0.5)), -(0.5 * math.log(0.9) + 0.5 * math.log(0.1))
    expected = {
        "cross_entropy_forward": [-(0.5 * math.log(0.2) + 0.5 * math.log(0.8)), second[0]],
        "cross_entropy_reverse": [math.log(2), second[1]],
        "action_mse": [2 * 0.3**2, 2 * 0.4**2],
        "action_huber": [0.3**2, 0.4**2],
    }
    for name, values in expected.items():
        assert DIVERGENCES[name](Outputs(OWN), Outputs(TARGET)).tolist() == pytest.approx(values), name
        assert DIVERGENCES[name](policies(OWN), policies(TARGET))[0].tolist() == pytest.approx(values), name
        Hinton(HintonConfig(divergence=name), Outputs(OWN), Outputs(TARGET))  # which asks it


def test_rusus_three_losses_by_hand():
    """Policy Distillation (2015), equations 1 to 3, of classifiers and policies."""
    for own, target in ((Outputs(OWN), Outputs(TARGET)), (policies(OWN), policies(TARGET))):
        expected = {
            "nll": [-math.log(0.2), -math.log(0.5)],  # the likeliest class of (1/2, 1/2) is the first
            "mse": [math.log(0.4) ** 2 + math.log(1.6) ** 2, math.log(5 / 9) ** 2 + math.log(5) ** 2],
            "kl_forward": [0.5 * math.log(2.5) + 0.5 * math.log(0.625), 0.9 * math.log(1.8) + 0.1 * math.log(0.2)],
            "kl_reverse": [0.2 * math.log(0.4) + 0.8 * math.log(1.6), 0.5 * math.log(5 / 9) + 0.5 * math.log(5)],
        }
        for name, values in expected.items():
            found = DIVERGENCES[name](own, target)
            found = found if found.ndim == 1 else found[0]
            assert found.tolist() == pytest.approx(values, rel=1e-4), name


def test_gaussians_and_actions_are_compared_by_the_same_names():
    generator = torch.Generator().manual_seed(0)
    mean, other = torch.randn(2, 3, 4, 2, generator=generator)
    std, wide = 0.3 + torch.rand(2, 3, 4, 2, generator=generator)
    own, target = PolicyOutput(mean.tanh(), mean, std), PolicyOutput(other.tanh(), other, wide)
    assert torch.equal(DIVERGENCES["kl_forward"](own, target), divergences.gaussian_kl(mean, std, other, wide))
    assert torch.equal(
        DIVERGENCES["kl_reverse"](own, target), divergences.gaussian_kl(mean, std, other, wide, "reverse")
    )
    assert torch.equal(nll(own, target), divergences.gaussian_nll(mean, std, other))
    assert torch.equal(mse(own, target), divergences.action_mse(own.actions, target.actions))
    actions = PolicyOutput(own.actions), PolicyOutput(target.actions)
    assert torch.equal(mse(*actions), mse(own, target))
    with pytest.raises(PolicyKDError, match="not both outputs have a mean and a standard deviation: use kl_forward of"):
        kl_forward(*actions)
    with pytest.raises(PolicyKDError, match="only one of the two outputs has logits"):
        kl_forward(own, policies(TARGET))
    with pytest.raises(PolicyKDError, match=r"temperature: 2\.0 softens logits"):
        softened(own, 2.0)
    assert softened(own, 1.0) is own


def l1(own, target):
    """A user's own: half the L1 distance of probabilities, or of actions where there are no logits."""
    if getattr(own, "logits", None) is None:
        return (own.actions - target.actions).abs().sum(-1) / 2
    return (own.logits.softmax(-1) - target.logits.softmax(-1)).abs().sum(-1) / 2


def test_a_divergence_of_ones_own_works_in_both_modes():
    for own, target in ((Outputs(OWN), Outputs(TARGET)), (policies(OWN), policies(TARGET))):
        assert distance(own, target, l1).flatten()[:2].tolist() == pytest.approx([0.3, 0.4])
    students = [net(8) for _ in range(2)]
    for student, divergence in zip(students, (l1, "kl_forward"), strict=True):
        config = {**FAST, "epochs": 2, "alpha": 1.0, "divergence": divergence}
        Distiller(student, net(16, seed=1), config=config, device="cpu").fit(problem())
    assert not same(weights(students[0]), weights(students[1]))
    learner = make_learner("ddpg", 2, double=False)
    states, swap, before = torch.randn(2, 5, 4), torch.tensor([1, 0]), learner.actor.clone()
    target = learner.outputs(learner.actor, states).map(lambda part: part[swap])
    step = DistillationStep(None, DDPGConfig(divergence=l1), learner, divergence_of(l1))
    step.copy(states, target, lambda own: pytest.fail("no weight asks"), None, torch.tensor(1e-3), True)
    assert not torch.equal(before, learner.actor)


def test_what_is_no_divergence_is_one_line():
    with pytest.raises(PolicyKDError, match="divergence: 'kl_forwrd' is unknown; nearest: kl_forward"):
        Distiller(net(8), net(16), config=HintonConfig(divergence="kl_forwrd"))
    with pytest.raises(PolicyKDError, match="or a function, not 3"):
        divergence_of(3)
    assert divergence_of(l1) is l1 and divergence_of("mse") is mse
    with pytest.raises(PolicyKDError, match="divergence: compares Gaussians, but"):
        Distiller(net(8), net(16), config={**FAST, "divergence": "wasserstein2"}).fit(problem())
    with pytest.raises(ValueError, match=r"divergence needs one number for each of \(2,\), got \(2, 2\)"):
        distance(Outputs(OWN), Outputs(TARGET), lambda own, target: own.logits)
    with pytest.raises(ValueError, match=r"weight needs one number for each of \(2,\), got \(1,\)"):
        distance(Outputs(OWN), Outputs(TARGET), weight=torch.ones(1))
    with pytest.raises(PolicyKDError, match="unknown key 'divergence' for RIDConfig"):
        Distiller(net(4), net(8), method="rid", config={"divergence": l1})


def test_weights_and_schedules_of_policies_are_those_of_classifiers():
    labels = torch.tensor([1, 0])
    values = log_likelihood(TARGET, labels), log_likelihood(OWN, labels)
    assert values[0].tolist() == [pytest.approx([math.log(0.5), math.log(0.9)])]
    expected = weighting.disadvantage(*values, 1.0)  # exp(xi) is 0.5/0.8 and 0.9/0.5, brought to mean 1
    assert expected[0].tolist() == pytest.approx([2 * 0.625 / 2.425, 2 * 1.8 / 2.425])
    gate = weighting.hard_gate(*values)
    assert gate.tolist() == [[0.0, 2.0]]  # the teacher finds only the second label likelier
    assert WEIGHTS["value_gate"](*values).tolist() == [[0.0, 1.0]]
    _, second = at_temperature_2()
    loss, _ = hinton_loss(OWN, TARGET, labels, 1.0, 2.0, weight=gate[0])
    assert loss.item() == pytest.approx(second)
    assert log_likelihood(TARGET, torch.tensor([1, -100]))[0, 1] == 0


@pytest.mark.parametrize(("alpha", "share"), [(0.8, 0.6), (1.0, 1.0)])
def test_the_teachers_weight_falls_by_a_policys_schedule_but_where_it_speaks_alone(alpha, share):
    method = Hinton(HintonConfig(alpha=alpha, temperature=2.0), Outputs(OWN), Outputs(TARGET))
    loss, terms = method.loss(Step("student", Outputs(OWN), Outputs(TARGET), torch.tensor([0, 1]), 0.25))
    assert share == pytest.approx(alpha * SCHEDULES["linear"](0.25)) or alpha == 1
    hard = -(math.log(0.2) + math.log(0.5)) / 2
    assert loss.item() == pytest.approx(share * sum(at_temperature_2()) / 2 + (1 - share) * hard)
    assert terms.keys() == ({"kd_loss"} if alpha == 1 else {"ce_loss", "kd_loss"})
