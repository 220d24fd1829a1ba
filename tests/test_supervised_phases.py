"""Plans of passes and the losses of their phases: TED's two stages, RID's Algorithm 1."""

import pytest
import torch

from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import UNLABELLED, hard_loss, soft_loss
from policykd.distillation.supervised import METHODS, rkd
from policykd.distillation.supervised.config import (
    FitNetsConfig,
    HintonConfig,
    ReAugKDConfig,
    RIDConfig,
    RKDConfig,
    TEDConfig,
    VIDConfig,
)
from policykd.distillation.supervised.feature_maps import as_maps
from policykd.distillation.supervised.method import Outputs, Step
from policykd.distillation.supervised.rid import RID, rid_distance, rid_loss
from policykd.distillation.supervised.ted import TED, filter_loss
from policykd.distillation.supervised.vid import vid_loss

B, C = 8, 3
LABELS = torch.arange(B) % C
EXTRA = {"student_features": ("a",), "teacher_features": ("b",)}


def outputs(seed, channels=4):
    """Logits and one image of features; the teacher's is larger."""
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(B, channels, channels, channels, generator=generator)
    return Outputs(torch.randn(B, C, generator=generator), (feature,))


STUDENT, TEACHER = outputs(0), outputs(1, channels=6)


def names(method, config):
    return [phase.name for phase in METHODS[method](config, STUDENT, TEACHER).plan(config)]


def test_plan_of_rid_is_algorithm_1():
    config = RIDConfig(epochs=8, filter_warm_up_epochs=2, cycle_epochs=4, filter_share=0.25, **EXTRA)
    cycle = ["filters", "student", "student", "student"]
    assert names("rid", config) == ["filters_warm_up"] * 2 + cycle + cycle + ["filters", "student", "student"]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_cycle_of_rid_has_both_phases(share):
    config = RIDConfig(epochs=5, filter_warm_up_epochs=0, cycle_epochs=3, filter_share=share, **EXTRA)
    plan = names("rid", config)
    assert plan[0] == "filters" and plan[-1] == "student" and plan.count("student") == 5


def test_plan_of_ted_is_two_stages_after_a_warm_up():
    config = TEDConfig(epochs=5, warm_up_epochs=2, filter_epochs=3, **EXTRA)
    assert names("ted", config) == ["warm_up"] * 2 + ["filters"] * 3 + ["student"] * 3


@pytest.mark.parametrize("method", METHODS)
def test_equal_epochs_are_equal_student_passes(method):
    for epochs, warm in ((1, 0), (1, 1), (7, 0), (7, 3), (7, 7)):
        config = METHODS[method].config_type(epochs=epochs, warm_up_epochs=warm)
        teacher = TEACHER if method != "rkd" else Outputs(TEACHER.logits)
        student = STUDENT if method != "rkd" else Outputs(STUDENT.logits)
        plan = METHODS[method](config, student, teacher).plan(config)
        assert [phase.trains for phase in plan].count("student") == epochs
        assert [phase.name for phase in plan[:warm]] == ["warm_up"] * warm


def test_hintons_alpha_fades_and_the_gate_asks_who_finds_the_label_likelier():
    fading = METHODS["hinton"](HintonConfig(alpha=0.8, alpha_schedule="linear", temperature=2.0), STUDENT, TEACHER)
    loss, _ = fading.loss(Step("student", STUDENT, TEACHER, LABELS, 0.25))
    expected = 0.4 * hard_loss(STUDENT.logits, LABELS) + 0.6 * soft_loss(STUDENT.logits, TEACHER.logits, 2.0)
    assert loss.item() == pytest.approx(expected.item())
    own, target = (outputs.logits.log_softmax(1) for outputs in (STUDENT, TEACHER))
    unknown = (target[:, 0] > own[:, 0]).nonzero()[:2]
    labels, gate = LABELS.clone(), target[range(B), LABELS] > own[range(B), LABELS]
    labels[unknown], gate[unknown] = UNLABELLED, False
    assert 0 < gate.sum() < B - 2
    gated = METHODS["hinton"](HintonConfig(alpha=1.0, example_weight="value_gate"), STUDENT, TEACHER)
    loss, _ = gated.loss(Step("student", STUDENT, TEACHER, labels, 0.25))
    assert loss.item() == pytest.approx((gate * (target.exp() * (target - own)).sum(1)).mean().item())


@pytest.mark.parametrize("value", [-1.0, float("nan"), "half"])
def test_a_schedule_of_alpha_gives_numbers_from_0_up(value):
    config = HintonConfig(epochs=4, alpha_schedule=lambda progress: value if progress == 0.75 else 1.0)
    with pytest.raises(
        PolicyKDError, match=r"config: alpha_schedule\(0.75\) returned .*, but must return a finite number"
    ):
        METHODS["hinton"](config, STUDENT, TEACHER)  # before its first loss


def test_losses_on_two_pairs_of_features_are_weighted_and_added_to_hintons():
    student, teacher = (
        Outputs(first.logits, (first.features[0], outputs(seed, width).features[0]))
        for first, seed, width in ((STUDENT, 2, 5), (TEACHER, 3, 5))
    )
    named = {"student_features": ("a", "b"), "teacher_features": ("c", "d")}
    maps, hard = as_maps(student, teacher), hard_loss(STUDENT.logits, LABELS)
    flat = [(x.flatten(1), t.flatten(1)) for x, t in zip(student.features, teacher.features, strict=True)]
    torch.manual_seed(0)
    hint = METHODS["fitnets"](FitNetsConfig(weight=7.0, **named), student, teacher)
    relate = METHODS["rkd"](RKDConfig(distance_weight=2.0, angle_weight=5.0, **named), student, teacher)
    model = METHODS["vid"](VIDConfig(weight=3.0, **named), student, teacher)
    layers = TED(TEDConfig(kl_alpha=0.0, mse_alpha=7.0, **named), student, teacher)
    filters = layers.student_filters, layers.teacher_filters
    expected = {
        hint: 7.0 * sum((f(x) - t).square().mean() for f, (x, t) in zip(hint.regressors, maps, strict=True)),
        relate: sum(2.0 * rkd.distance_loss(x, t) + 5.0 * rkd.angle_loss(x, t) for x, t in flat),
        model: 3.0 * sum(vid_loss(*f(x), t) for f, (x, t) in zip(model.models, maps, strict=True)),
        layers: 7.0 * sum((f(x) - g(t)).square().mean() for f, g, (x, t) in zip(*filters, maps, strict=True)) / 2,
    }
    for method, beside in expected.items():
        loss, _ = method.loss(Step("student", student, teacher, LABELS, 0.5))
        assert loss.item() == pytest.approx((hard + beside).item(), rel=1e-5), type(method)


def test_loss_of_reaugkd():
    torch.manual_seed(0)
    method = METHODS["reaugkd"](ReAugKDConfig(alpha=3.0, temperature=0.5, **EXTRA), STUDENT, TEACHER)
    own, target = STUDENT.logits.log_softmax(1), TEACHER.logits.softmax(1)
    x, z = (rows / rows.norm(dim=1, keepdim=True) for rows in (STUDENT.features[0].mean((2, 3)), method.keys(TEACHER)))
    seen, wanted = ((rows @ z.T / 0.5).softmax(1) for rows in (x, z))
    relational = (wanted * (wanted / seen).log()).sum(1).mean()
    loss, _ = method.loss(Step("student", STUDENT, TEACHER, LABELS, 0.5))
    assert loss.item() == pytest.approx((-(target * own).sum(1).mean() + 3.0 * relational).item(), rel=1e-5)


def test_losses_of_rid():
    torch.manual_seed(0)
    rid = RID(RIDConfig(hard_weight=0.5, weight=3.0, **EXTRA), STUDENT, TEACHER).eval()
    own = STUDENT.features[0].flatten(2)
    target = torch.nn.functional.adaptive_avg_pool2d(TEACHER.features[0], 4).flatten(2)
    filtered, (mapped, sigma) = rid.teacher_filters[0](target), rid.student_sides[0](own)
    assert filtered.shape == mapped.shape == (B, 4, 16) and sigma.tolist() == pytest.approx([5.0077] * 4, abs=1e-3)
    ce = hard_loss(rid.heads[0](filtered), LABELS)
    expected = {
        "filters_warm_up": ce,
        "filters": ce + rid_distance(mapped, filtered, sigma),
        "student": 0.5 * hard_loss(STUDENT.logits, LABELS) + 3.0 * rid_loss(mapped, filtered, sigma),
    }
    for phase, value in expected.items():
        loss, terms = rid.loss(Step(phase, STUDENT, TEACHER, LABELS, 0.0))
        assert loss.item() == pytest.approx(value.item())
        assert terms.keys() == ({"ce_loss", "rid_loss"} if phase == "student" else {"ce_loss", "distance"})


def test_losses_of_ted():
    torch.manual_seed(0)
    ted = TED(TEDConfig(kl_alpha=2.0, mse_alpha=7.0, temperature=3.0, **EXTRA), STUDENT, TEACHER).eval()
    own = STUDENT.features[0].flatten(2)
    target = torch.nn.functional.adaptive_avg_pool2d(TEACHER.features[0], 4).flatten(2)
    mine, theirs = ted.student_filters[0](own), ted.teacher_filters[0](target)
    heads = sum(hard_loss(head(x), LABELS) for head, x in zip(ted.heads, (mine, theirs), strict=True))
    stage_2 = (
        hard_loss(STUDENT.logits, LABELS)
        + 2.0 * soft_loss(STUDENT.logits, TEACHER.logits, 3.0)
        + 7.0 * filter_loss(mine, theirs)
    )
    for phase, value in (("filters", heads), ("student", stage_2)):
        assert ted.loss(Step(phase, STUDENT, TEACHER, LABELS, 0.0))[0].item() == pytest.approx(value.item(), rel=1e-5)
