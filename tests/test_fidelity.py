"""Fidelity of a student to its teacher: measures by hand, the report, the data that is asked about, near starts."""

import csv
import math

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("torchmetrics")

from policykd.classification.data import views as data
from policykd.classification.measures.fidelity import MEASURES, answers, cka, compare, distance, report
from policykd.classification.measures.near_teacher import between, learning_rate
from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import UNLABELLED


def logits_of(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


class Fixed(nn.Module):
    """A network that answers example i with row i of a table."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table.float())
        self.inner = nn.Identity()

    def forward(self, inputs):
        return self.inner(self.table[inputs])


TEACHER = logits_of([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6], [0.4, 0.35, 0.25]])
STUDENT = logits_of([[0.6, 0.2, 0.2], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
EXAMPLES = (torch.arange(4), torch.tensor([0, 1, 1, 2]))


def test_measures_by_hand():
    found = compare(answers(Fixed(STUDENT), EXAMPLES), answers(Fixed(TEACHER), EXAMPLES))
    p, q = TEACHER.exp().numpy(), STUDENT.exp().numpy()
    confidence, right = q.max(1), np.array([1, 0, 0, 0])
    # One bin of ten for each of 0.6, 0.7 and the two of 0.5.
    ece = (abs(1 - 0.6) + abs(0 - 0.7) + 2 * abs(0 - 0.5)) / 4
    assert confidence.tolist() == pytest.approx([0.6, 0.5, 0.7, 0.5]) and right.sum() == 1
    assert found["accuracy"] == pytest.approx(0.25)
    assert found["agreement"] == pytest.approx(0.75)
    assert found["nll"] == pytest.approx(
        -(math.log(0.6) + math.log(0.3) + math.log(0.2) + math.log(0.25)) / 4, abs=1e-5
    )
    assert found["ece"] == pytest.approx(ece, abs=1e-5)
    assert found["kl"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), abs=1e-5)
    assert found["distance"] == pytest.approx((0.2 + 0.3 + 0.1 + 0.1) / 4, abs=1e-5)


def test_distance_is_total_variation():
    certain = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert distance(certain, certain) == 0
    assert distance(certain, certain.flip(1)) == pytest.approx(1)


def test_cka_by_hand_and_its_invariances():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=rng)
    turned = 3 * x @ torch.linalg.qr(torch.randn(8, 8, generator=rng))[0] + 2
    assert cka(x, x) == pytest.approx(1)
    assert cka(x, turned) == pytest.approx(1, abs=1e-5)
    assert cka(x, torch.randn(60, 5, generator=rng)) < 0.3
    # By definition: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with HSIC = trace(K H L H).
    y = x[:, :3] ** 2
    centring = torch.eye(60, dtype=torch.float64) - 1 / 60

    def kernel(rows):
        squared = torch.cdist(rows.double(), rows.double()) ** 2
        return torch.exp(-squared / (2 * squared.median()))

    def hsic(k, l):  # noqa: E741
        return torch.trace(k @ centring @ l @ centring)

    k, l = kernel(x), kernel(y)  # noqa: E741
    assert cka(x, y) == pytest.approx(float(hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()))
    assert cka(x.view(60, 8, 1, 1).expand(60, 8, 2, 3), x) == pytest.approx(1), "maps are averaged over space"
    assert cka(x.view(60, 1, 8).expand(60, 5, 8), x) == pytest.approx(1), "sequences over their positions"


def test_report_with_control(tmp_path):
    control = logits_of([[0.1, 0.8, 0.1]] * 4)
    rows = report(
        Fixed(STUDENT),
        Fixed(TEACHER),
        {"train": (EXAMPLES[0][:2], EXAMPLES[1][:2]), "test": EXAMPLES},
        control=Fixed(control),
        out=tmp_path,
    )
    assert [(row.split, row.who) for row in rows] == [
        (split, who) for split in ("train", "test") for who in ("student", "control", "teacher")
    ]
    found = {(row.split, row.who): row.measures for row in rows}
    assert found["test", "student"]["agreement"] == 0.75 and found["train", "student"]["agreement"] == 0.5
    assert found["test", "control"]["agreement"] == 0.25, "the control is measured against this teacher"
    assert found["test", "control"]["accuracy"] == 0.5
    assert found["test", "teacher"]["agreement"] == 1 and found["test", "teacher"]["kl"] == pytest.approx(0, abs=1e-6)
    with open(tmp_path / "fidelity.csv", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [float(row["agreement"]) for row in written] == pytest.approx([row.measures["agreement"] for row in rows])
    assert list(written[0]) == ["split", "who", *MEASURES]
    assert (tmp_path / "fidelity.md").read_text(encoding="utf-8").count("\n") == 2 + len(rows)
    assert (tmp_path / "fidelity.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_takes_teachers_as_a_distiller_does():
    """One that ends in a softmax, and several as one."""
    expected, *others = (
        report(Fixed(STUDENT), teacher, {"test": EXAMPLES})[0].measures
        for teacher in (
            Fixed(TEACHER),
            Fixed(TEACHER.exp()),
            [Fixed(TEACHER), Fixed(TEACHER.exp())],
        )
    )
    for found in others:
        assert found == pytest.approx(expected, abs=1e-6)


def test_report_without_labels_says_so():
    rows = report(Fixed(STUDENT), Fixed(TEACHER), {"unlabelled": data.unlabelled(torch.arange(4))})
    assert math.isnan(rows[0].measures["accuracy"]) and rows[0].measures["agreement"] == 0.75


def test_report_compares_named_features_and_keeps_the_mode():
    student = Fixed(STUDENT).train()
    rows = report(student, Fixed(TEACHER), {"test": EXAMPLES}, student_features=("inner",), teacher_features=("inner",))
    assert rows[0].measures["cka"] == pytest.approx(float(cka(STUDENT.float(), TEACHER.float())), abs=1e-5)
    assert student.training and student.table.grad is None


def test_report_refuses_what_does_not_fit():
    with pytest.raises(PolicyKDError, match="differ in examples or classes"):
        report(Fixed(STUDENT), Fixed(TEACHER[:, :2]), {"test": (EXAMPLES[0], EXAMPLES[1].clamp(max=1))})
    with pytest.raises(PolicyKDError, match="must pair up"):
        report(Fixed(STUDENT), Fixed(TEACHER), {"test": EXAMPLES}, student_features=("inner",))
    with pytest.raises(PolicyKDError, match=r"no module 'iner'.*inner"):
        report(
            Fixed(STUDENT), Fixed(TEACHER), {"test": EXAMPLES}, student_features=("iner",), teacher_features=("inner",)
        )
    with pytest.raises(PolicyKDError, match="empty"):
        report(Fixed(STUDENT), Fixed(TEACHER), {"test": (EXAMPLES[0][:0], EXAMPLES[1][:0])})
    with pytest.raises(PolicyKDError, match=r"expected sets by name, .* got tuple"):
        report(Fixed(STUDENT), Fixed(TEACHER), EXAMPLES)
    with pytest.raises(PolicyKDError, match=r"^student: expected a torch module, .* got function"):
        report(lambda inputs: inputs, Fixed(TEACHER), {"test": EXAMPLES})
    with pytest.raises(PolicyKDError, match=r"^control: expected a torch module, .* got str"):
        report(Fixed(STUDENT), Fixed(TEACHER), {"test": EXAMPLES}, control="control")


def test_subsets_are_nested_and_without_repeats():
    examples = torch.arange(50), torch.arange(50) % 5
    small, large = data.subset(examples, 10, seed=3), data.subset(examples, 30, seed=3)
    assert set(small[0].tolist()) < set(large[0].tolist()) and len(set(large[0].tolist())) == 30
    assert torch.equal(large[1], large[0] % 5)
    assert set(data.subset(examples, 10, seed=4)[0].tolist()) != set(small[0].tolist())
    with pytest.raises(PolicyKDError, match="size=51"):
        data.subset(examples, 51)


def test_pooled_sets_keep_labels_and_mark_their_absence():
    images = torch.rand(6, 1, 4, 4) * 3 - 1
    inputs, labels = data.pooled((images, torch.arange(6)), data.uniform_noise(images, 5, seed=1))
    assert inputs.shape == (11, 1, 4, 4) and labels.tolist() == [0, 1, 2, 3, 4, 5] + [UNLABELLED] * 5
    noise = inputs[6:]
    assert noise.min() >= images.min() and noise.max() <= images.max() and noise.std() > 0.5
    assert torch.equal(noise, data.uniform_noise(images, 5, seed=1)[0])
    with pytest.raises(PolicyKDError, match="one shape"):
        data.pooled((images, torch.arange(6)), data.unlabelled(torch.rand(3, 1, 5, 5)))


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(200, 2, 5, 7)


def test_shift_moves_each_image_as_a_whole(images):
    moved = data.shift(images, pixels=1)
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    found = set()
    for image, source in zip(moved, padded, strict=True):
        places = [
            (row, column)
            for row in range(3)
            for column in range(3)
            if torch.equal(image, source[:, row : row + 5, column : column + 7])
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) == 9, "every move occurs among 200 images"


def test_rotation_turns_about_the_centre(images):
    torch.testing.assert_close(data.rotate(images, degrees=0.0), images, atol=1e-5, rtol=0)
    ring = torch.zeros(1, 1, 41, 61)
    ring[0, 0, 20, 45] = 1  # 15 pixels right of the centre
    blurred = nn.functional.avg_pool2d(ring, 5, 1, 2)
    torch.manual_seed(1)
    for _ in range(20):
        turned = data.rotate(blurred, degrees=90.0)[0, 0]
        rows, columns = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(61.0) - 30, indexing="ij")
        centre = (turned * rows).sum() / turned.sum(), (turned * columns).sum() / turned.sum()
        assert math.hypot(*centre) == pytest.approx(15, abs=0.3), "the distance from the centre stays, in pixels"
    angles = [float((data.rotate(blurred, degrees=20.0)[0, 0] * rows).sum() / blurred.sum()) for _ in range(50)]
    assert max(map(abs, angles)) <= 15 * math.sin(math.radians(20)) + 0.3 and min(angles) < 0 < max(angles)


def test_flip_mirrors_about_half(images):
    flipped = data.flip(images)
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(flipped, images, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(flipped, images, strict=True)])
    assert (mirrored ^ kept).all() and 70 < mirrored.sum() < 130


@pytest.mark.parametrize("view", [data.shift, data.rotate, data.flip])
def test_views_repeat_with_torchs_seed_and_need_images(view, images):
    torch.manual_seed(5)
    first = view(images)
    torch.manual_seed(5)
    assert torch.equal(first, view(images)) and first.shape == images.shape and not torch.equal(first, images)
    with pytest.raises(PolicyKDError, match=r"needs images \(B, C, H, W\)"):
        view(images[0])


def network(seed, norm=False):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), *([nn.BatchNorm1d(4)] if norm else []), nn.ReLU(), nn.Linear(4, 2))


def test_a_start_between_student_and_teacher():
    student, teacher = network(0), network(1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    for fraction in (0.0, 0.25, 1.0):
        start = between(student, teacher, fraction).state_dict()
        for name, value in start.items():
            expected = fraction * teacher.state_dict()[name] + (1 - fraction) * before[name]
            torch.testing.assert_close(value, expected)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items()), "a copy"


def test_a_start_with_batch_norm_estimates_its_statistics():
    student, teacher = network(0, norm=True), network(1, norm=True)
    inputs = torch.randn(64, 3) + 5
    start = between(student, teacher, 0.5, [inputs[:32], inputs[32:]])
    hidden = start[0](inputs)
    torch.testing.assert_close(start[1].running_mean, hidden.mean(0))
    with pytest.raises(PolicyKDError, match="batch norm"):
        between(student, teacher, 0.5)


def test_a_start_needs_one_architecture_and_a_fraction():
    with pytest.raises(PolicyKDError, match=r"have different architectures: 0\.weight"):
        between(nn.Sequential(nn.Linear(3, 5)), nn.Sequential(nn.Linear(3, 4)), 0.5)
    with pytest.raises(PolicyKDError, match=r"fraction=1\.5"):
        between(network(0), network(1), 1.5)


def test_learning_rate_of_a_near_start():
    assert learning_rate(0.1, 0.25) == pytest.approx(0.075)
    assert learning_rate(0.1, 1.0) == 1e-6


def test_a_callback_sees_the_training_between_passes():
    pytest.importorskip("accelerate")
    from policykd import Distiller

    torch.manual_seed(0)
    examples = (torch.randn(32, 3), torch.randint(2, (32,)))
    student, seen = network(0), []
    distiller = Distiller(student, network(1), config={"epochs": 3, "batch_size": 16}, device="cpu")
    distiller.fit(examples, callback=lambda now: seen.append((now.passes, student[0].weight.detach().clone())))
    assert [passes for passes, _ in seen] == [1, 2, 3]
    assert not torch.equal(seen[0][1], seen[1][1]) and torch.equal(seen[2][1], student[0].weight)
