"""Data and networks that do not fit are right or one line, before anything is trained; nothing teaches wrongly."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from classifiers import CLASSES, FAST, FEATURES, SIZE, net, problem, same, weights
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from policykd import Distiller, PolicyKDError
from policykd.classification import state
from policykd.classification.data import sets
from policykd.classification.data.batches import Batches, Shuffled, loader
from policykd.classification.measures.evaluation import Evaluation
from policykd.classification.measures.fidelity import answers
from policykd.classification.measures.metrics import metrics
from policykd.classification.models import MLP, check_names, from_pretrained, make_model
from policykd.cli import main
from policykd.cli.classify_run import read_teacher
from policykd.distillation.supervised import METHODS
from policykd.distillation.supervised.cross_entropy import CrossEntropy

INPUTS, LABELS = problem(97)
NAMES = np.array(["a", "b", "c"])


def distiller(student=None, teacher=None, method="hinton", **changes):
    given = {"student": student or net(8), "teacher": teacher or net(16, seed=1), "method": method}
    return Distiller(**given, config={**FAST, "epochs": 1, **changes}, device="cpu")


class Ending(nn.Module):
    """A network with a last layer on its logits."""

    def __init__(self, body, last):
        super().__init__()
        self.body, self.last = body, last

    def forward(self, inputs):
        return self.last(self.body(inputs))


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1)])
@pytest.mark.parametrize("members", [1, 2])
def test_a_teacher_of_probabilities_teaches_what_its_logits_would(last, members):
    """Softmax over probabilities would be an almost flat target, which nobody notices."""
    teachers = [net(16, seed=seed, dropout=0.0) for seed in range(1, members + 1)]
    students = []
    for kind in (teachers, [Ending(teacher, last) for teacher in teachers]):
        student = net(8)
        teacher = kind if members > 1 else kind[0]
        made = distiller(student, teacher, alpha=1.0, epochs=2, optimizer="sgd").fit((INPUTS, LABELS))
        students.append(student)
        result = made.evaluate((INPUTS, LABELS))
    for name, tensor in weights(students[0]).items():
        assert torch.allclose(tensor, weights(students[1])[name], atol=1e-5)
    assert result["kl"] < 1


def test_outputs_of_a_sigmoid_are_refused_and_the_user_has_the_last_word():
    teacher = Ending(net(16), nn.Sigmoid())
    with pytest.raises(PolicyKDError, match="do not sum to 1, as after a sigmoid"):
        distiller(teacher=teacher).fit((INPUTS, LABELS))
    assert distiller(teacher=teacher, teacher_outputs="logits").fit((INPUTS, LABELS)).probabilities is False
    for logits in (net(16), [net(16), net(16)]):
        with pytest.raises(PolicyKDError, match=r"teacher: its outputs lie from -.*, which are not probabilities"):
            distiller(teacher=logits, teacher_outputs="probabilities").fit((INPUTS, LABELS))
    early = MLP(SIZE, (8,), CLASSES)  # known to give logits, which may all lie in [0, 1] before it has learnt much
    nn.init.zeros_(early.classifier.weight)
    nn.init.constant_(early.classifier.bias, 0.2)
    for logits in (early, [early, early]):
        assert distiller(teacher=logits).fit((INPUTS, LABELS)).n_updates
    with pytest.raises(
        PolicyKDError, match="student: its outputs are probabilities, but losses need logits: remove its softmax"
    ):
        distiller(Ending(net(8), nn.Softmax(1))).fit((INPUTS, LABELS))
    student = Ending(net(8), nn.Sigmoid())
    with pytest.raises(
        PolicyKDError, match="student: its outputs are probabilities, but losses need logits: remove its sigmoid"
    ):
        distiller(student).fit((INPUTS, LABELS))
    logits = nn.Linear(SIZE, CLASSES)
    nn.init.zeros_(logits.weight)
    nn.init.constant_(logits.bias, 0.2)
    assert distiller(logits).fit((INPUTS, LABELS)).n_updates == 6  # in [0, 1] before it has learned


def test_a_last_batch_of_one_joins_the_one_before():
    """97 examples in batches of 16 or 32: too few for batch normalisation a single one."""
    made = list(Batches(Shuffled(97, 0), 16, processes=1))
    assert [len(batch) for batch in made] == [16] * 5 + [17] and sorted(row for batch in made for row in batch) == list(
        range(97)
    )
    assert (
        len(loader((INPUTS, LABELS), 16, 0, "training")) == 6 and len(loader((INPUTS, LABELS), 96, 0, "training")) == 1
    )
    assert [len(b) for b in Batches(Shuffled(97, 0), 16, processes=2)][-1] == 1  # which accelerate fills up
    student = net(8)
    before = weights(student)
    assert distiller(student).fit((INPUTS, LABELS)).n_updates == 6 and not same(before, weights(student))


@pytest.mark.parametrize("data", [lambda: DataLoader(TensorDataset(INPUTS, LABELS), 16), lambda: (INPUTS, LABELS)])
def test_batches_of_one_are_refused_before_training(data):
    made = distiller(batch_size=1)
    with pytest.raises(PolicyKDError, match="too few for batch normalisation"):
        made.fit(data())
    assert made.n_updates == 0


def test_pixels_and_float64_are_read_in_the_networks_precision():
    pixels = (INPUTS * 20 + 100).clamp(0, 255).to(torch.uint8)
    results = []
    for inputs in (pixels, pixels.float(), pixels.double().numpy()):
        student = net(8)
        distiller(student).fit((inputs, LABELS))
        results.append(weights(student))
    students = [net(8) for _ in range(2)]
    for student, inputs in zip(students, (pixels.double(), pixels.float()), strict=True):
        distiller(student).fit(DataLoader(TensorDataset(inputs, LABELS), 97))
    assert same(results[0], results[1]) and same(results[0], results[2])
    assert same(weights(students[0]), weights(students[1]))


def test_float64_and_float16_are_computed_with_in_the_networks_precision():
    for kind in (torch.float64, torch.float16, torch.float32):
        for student in (net(8), net(8).double()):
            made = distiller(student, net(16), epochs=1).fit((INPUTS.to(kind), LABELS))
            assert made.n_updates == 6 and made.predict(INPUTS.to(kind).numpy()).shape == (97,)


LATE = torch.cat((LABELS[:-1], torch.tensor([7])))
IN_A_LOADER = {
    "words": ([(row, "cat") for row in INPUTS], "labels: 'cat' is a string: number the classes"),
    "mappings": ([(row, {"a": 1}) for row in INPUTS], "labels: need one whole number per example, (16,)"),
    "one class": (TensorDataset(INPUTS, 0 * LABELS), "labels: all examples are of class 0: at least two classes"),
    "late": (TensorDataset(INPUTS, LATE), "labels: 7 is out of range for 3 classes"),
}


@pytest.mark.parametrize("case", IN_A_LOADER)
@pytest.mark.parametrize("shuffle", [True, False])
def test_labels_of_a_loader_are_refused_before_anything_is_trained(case, shuffle):
    data, line = IN_A_LOADER[case]
    for made in (distiller(), distiller(method="cross_entropy")):
        with pytest.raises(PolicyKDError, match=re.escape(line)):
            made.fit(DataLoader(data, 16, shuffle=shuffle))
        with pytest.raises(PolicyKDError, match=re.escape(line)):
            made.check(data)
        assert made.n_updates == 0


def test_words_as_validation_labels_of_a_data_set_are_one_line():
    with pytest.raises(PolicyKDError, match="labels: 'cat' is a string"):
        distiller().fit((INPUTS, LABELS), IN_A_LOADER["words"][0])


def test_labels_that_a_users_sampler_leaves_out_may_be_anything():
    left = DataLoader(TensorDataset(INPUTS, LATE), 16, sampler=SubsetRandomSampler(range(96)))
    assert distiller().fit(left).n_updates == 6


def test_predictions_take_what_training_takes_and_refuse_the_rest_in_one_line():
    data = (pd.DataFrame(INPUTS.numpy().astype(float)), pd.Series(LABELS.numpy(), index=range(97, 0, -1)))
    made, same_made = distiller().fit(data), distiller().fit((INPUTS, LABELS))
    expected = same_made.predict_proba(INPUTS)
    for inputs in (data[0], INPUTS.tolist(), INPUTS.numpy(), data):
        assert torch.equal(made.predict_proba(inputs), expected)
    assert made.score(*data) == same_made.score(INPUTS, LABELS)
    for line, inputs in {
        "(97, 3) torch.float32": INPUTS[:, :3],
        "(97, 6) torch.int64": (10 * INPUTS).long(),
        "(6,) torch.float32": INPUTS[0],
    }.items():
        with pytest.raises(PolicyKDError) as error:
            made.predict(inputs)
        assert str(error.value).startswith(f"prediction data: Net cannot read inputs {line}")
        assert "\n" not in str(error.value)
    for nothing in ([], ()):
        with pytest.raises(PolicyKDError, match="data: the prediction data are empty"):
            made.predict(nothing)
    with pytest.raises(PolicyKDError, match=r"fidelity data: Net cannot read inputs \(97, 3\)"):
        answers(made.student, INPUTS[:, :3])


BEFORE_TRAINING = {
    "words": ((INPUTS, np.array(["cat", "dog"])[LABELS.numpy() % 2]), "labels: 'cat' is a string: number the classes"),
    "one class": ((INPUTS, torch.zeros_like(LABELS)), "labels: all examples are of class 0: at least two classes"),
    "from 1": ((INPUTS, LABELS + 1), "labels: 3 is out of range for 3 classes"),
    "late": ((INPUTS, torch.cat((LABELS[:-1], torch.tensor([7])))), "labels: 7 is out of range"),
    "fractions": ((INPUTS, LABELS + 0.5), "labels: need one whole number per example"),
    "columns": ((INPUTS, LABELS[:, None]), "labels: need one whole number per example, (97,), got torch.int64 (97, 1)"),
    "width": ((INPUTS[:, :-1], LABELS), "student: Net cannot read inputs (16, 5) torch.float32"),
    "whole numbers as inputs": ((INPUTS.long(), LABELS), "student: Net cannot read inputs (16, 6) torch.int64"),
}


@pytest.mark.parametrize("case", BEFORE_TRAINING)
@pytest.mark.parametrize("part", ["train", "validation"])
def test_data_are_refused_before_anything_is_trained(case, part):
    data, line = BEFORE_TRAINING[case]
    if part == "validation" and case == "one class":
        pytest.skip("validation data of one class can be measured")
    made = distiller()
    before = weights(made.student)
    parts = (data, None) if part == "train" else ((INPUTS, LABELS), data)
    with pytest.raises(PolicyKDError) as error:
        made.fit(*parts)
    told = str(error.value)
    if part == "validation":
        line = line.replace("student: Net", "validation data: Net").replace("(16, ", "(97, ")
    assert line in told and "\n" not in told
    assert made.n_updates == 0 and same(before, weights(made.student))


def test_networks_are_refused_before_anything_is_trained():
    cases = {
        "teacher: Sequential cannot read inputs": lambda: distiller(teacher=nn.Sequential(nn.Linear(9, 3))),
        "student: all its parameters are frozen": lambda: distiller(net(8).requires_grad_(False)),
    }
    for line, make in cases.items():
        with pytest.raises(PolicyKDError, match=line):
            make().fit((INPUTS, LABELS))
    student = net(8)
    for line, given in {
        "teacher: shares weights with the student": {"student": student, "teacher": student},
        "student: expected a torch module, got str": {"student": "net"},
        "method: expected a name or a subclass of .*Method, got 3": {"method": 3},
        "optimizer: 'adm' is unknown; nearest: adam": {"config": {"optimizer": "adm"}},
        "learning_rate_schedule: 'cosin' is unknown; nearest: cosine": {"config": {"learning_rate_schedule": "cosin"}},
        "config: optimizer=3 must be": {"config": {"optimizer": 3}},
        "adaptor: expected a function, got str": {"adaptor": "split"},
        "device: 3 is unknown": {"device": 3},
    }.items():
        with pytest.raises(PolicyKDError, match=line) as error:
            Distiller(**{"student": net(8), "teacher": net(16), **given})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_one_logit_is_refused(who):
    """Its softmax is 1, whatever it says: the loss would be 0, and agreement 1."""
    networks = {"student": nn.Linear(SIZE, 1), "teacher": nn.Linear(SIZE, 1), who: nn.Sequential(nn.Linear(SIZE, 1))}
    with pytest.raises(PolicyKDError, match="returns one logit per example; two classes need two"):
        distiller(**networks, alpha=1.0).fit(INPUTS)
    with pytest.raises(PolicyKDError, match="model: Sequential returns one logit"):
        answers(networks[who], INPUTS)


def test_labels_alone_need_a_label():
    """Nothing would be learned; where there is a teacher, it speaks of them."""
    none = INPUTS, torch.full_like(LABELS, -100)
    for method in ("cross_entropy", "label_smoothing"):
        made = Distiller(net(8), None, method=method, config={**FAST, "epochs": 1}, device="cpu")
        with pytest.raises(PolicyKDError, match=r"labels: all are -100 \(unlabelled\), but this method needs labels"):
            made.fit(none)
    assert distiller().fit(none).n_updates > 0


@pytest.mark.parametrize(
    ("method", "settings", "without"),
    [
        ("rid", {}, None),
        ("disk", {}, None),
        ("ted", {}, {"filter_epochs": 0}),
        ("reaugkd", {}, {"projection_epochs": 0}),
        ("hinton", {"warm_up_epochs": 1}, {"warm_up_epochs": 0}),
    ],
)
def test_helpers_and_a_warm_up_that_learn_from_labels_need_one(method, settings, without):
    """The filters, guides and projections would stay as they were drawn, without a word."""
    none = INPUTS, torch.full_like(LABELS, -100)
    features = {} if method in ("hinton", "disk") else FEATURES

    def made(changes):
        config = {**FAST, **features, "epochs": 2, **changes}
        return Distiller(net(8), net(16), method=method, config=config, device="cpu")

    with pytest.raises(PolicyKDError, match=r"labels: all are -100 \(unlabelled\), but this method needs labels: give"):
        made(settings).fit(none)
    one_each = INPUTS, LABELS.where(torch.arange(len(LABELS)) < 8, -100)
    assert made(settings).fit(one_each).n_updates > 0
    if without is not None:
        assert made(without).fit(none).n_updates > 0


@pytest.mark.parametrize(
    ("augment", "got"), [(lambda x: x.numpy(), "ndarray"), (lambda x: torch.cat((x, x)), r"\(32, 6\)")]
)
def test_an_augmentation_gives_back_as_many_inputs(augment, got):
    with pytest.raises(PolicyKDError, match=f"augment: must return a tensor of 16 inputs, as it was given; got {got}"):
        distiller().fit((INPUTS, LABELS), augment=augment)


def test_features_are_those_of_before_what_works_in_place():
    """torchvision's ReLUs and residual sums overwrite what the module before them gave."""
    network = nn.Sequential(nn.Linear(SIZE, 8), nn.ReLU(inplace=True), nn.Linear(8, CLASSES))
    expected = network[0](INPUTS).detach()
    assert (expected < 0).any()
    torch.testing.assert_close(answers(network, INPUTS, ("0",)).features["0"], expected)


def test_labels_with_gaps_are_learned():
    labels = torch.where(LABELS == 1, 2, LABELS)
    assert distiller(epochs=10, alpha=0.0).fit((INPUTS, labels)).evaluate((INPUTS, labels))["accuracy"] > 0.6


def test_balanced_accuracy_and_f1_by_hand():
    """Eight of class 0 and two of class 1, all called 0 but one of class 1: 9 of 10 right, half of the mean recall."""
    logits = torch.tensor([[1.0, 0.0, -9.0]] * 9 + [[0.0, 1.0, -9.0]])
    found = metrics(logits, torch.tensor([0] * 8 + [1, 1]))
    assert found["accuracy"] == pytest.approx(0.9)
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["f1"] == pytest.approx((2 * 8 / (8 + 9) + 2 * 1 / (2 + 1)) / 2)  # class 2 neither occurs nor is named


def test_ece_has_ten_bins_of_which_the_last_holds_certainty():
    """Confidence 1, half of them right, and 0.95, all right, are of one bin: |(1 + 0.95) / 2 - 0.75|."""
    certain, sure = [200.0, 0.0], [float(np.log(0.95 / 0.05)), 0.0]
    found = metrics(torch.tensor([certain] * 2 + [sure] * 2), torch.tensor([0, 1, 0, 0]))
    assert found["ece"] == pytest.approx(0.975 - 0.75, abs=1e-6)
    found = metrics(torch.tensor([certain, [0.0, 0.0]]), torch.tensor([0, 1]))
    assert found["ece"] == pytest.approx((0 + 0.5) / 2)


def test_every_example_is_measured_whatever_makes_the_batches():
    inputs, labels = torch.randn(501, 6), torch.arange(501) % 3
    rows = TensorDataset(inputs[:60], labels[:60])
    loaders = (
        DataLoader(rows, 16, sampler=SubsetRandomSampler(range(30))),  # 60 % 16 = 12 are not its last batch
        DataLoader(rows, batch_sampler=[[0, 1], list(range(2, 30))]),
    )
    for data, count in (((inputs, labels), 501), *((batches, 30) for batches in loaders)):
        logits, teacher_logits, known = Evaluation(Distiller(net(8), net(16)), data, "test").outputs()
        assert len(logits) == len(teacher_logits) == len(known) == count


def test_a_sampler_of_unknown_batches_is_one_line_in_training():
    batches = DataLoader(TensorDataset(INPUTS, LABELS), batch_sampler=[[0, 1, 2], [3, 4]])
    with pytest.raises(PolicyKDError, match="a batch_sampler needs a batch_size"):
        Distiller(net(8), net(16)).fit(batches)


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_answers_of_nan_are_not_measured_as_a_class(whose):
    answers = {"student": torch.zeros(4, 3), "teacher": torch.zeros(4, 3)}
    answers[whose][1, 2] = torch.nan
    with pytest.raises(PolicyKDError, match=f"data: the {whose}'s answers to 1 of 4 examples are NaN"):
        metrics(answers["student"], torch.tensor([0, 2, 0, -100]), answers["teacher"])


def test_what_nothing_can_be_measured_by_is_refused_before_training():
    made = Distiller(net(8), None, method="cross_entropy", config=FAST, device="cpu")
    for unlabelled in ((INPUTS,), (INPUTS, torch.full_like(LABELS, -100))):
        with pytest.raises(PolicyKDError, match="labels: the validation data have none, and there is no teacher"):
            made.fit((INPUTS, LABELS), unlabelled)
    assert made.n_updates == 0
    with pytest.raises(PolicyKDError, match="score: none of the labels names a class"):
        distiller().score(INPUTS, torch.full_like(LABELS, -100))


def save(path, **changes):
    arrays = {
        "train_inputs": INPUTS.numpy(), "train_labels": LABELS.numpy(),
        "test_inputs": INPUTS.numpy(), "test_labels": LABELS.numpy(),
    }  # fmt: skip
    np.savez(path, **{**arrays, **changes})
    return str(path)


def test_features_are_scaled_one_by_one(tmp_path):
    inputs = INPUTS.numpy() * np.array([1, 1e6, 1e-6, 1, 1, 0]) + np.array([0, 1e9, 0, 0, 0, 5])
    splits = sets.load(save(tmp_path / "set.npz", train_inputs=inputs, test_inputs=inputs))
    assert np.allclose(splits.train.inputs.mean(0), 0, atol=1e-4)
    assert np.allclose(splits.train.inputs.std(0), [1, 1, 1, 1, 1, 0], atol=1e-4)
    scaled = sets.load(save(tmp_path / "plain.npz")).test.inputs[:, 1]
    assert np.allclose(splits.test.inputs[:, 1], scaled, atol=1e-3)
    same = np.column_stack([np.full(97, 0.1)] * 2)  # of which rounding makes a deviation of 1e-17
    splits = sets.load(save(tmp_path / "same.npz", train_inputs=same, test_inputs=same + 0.1))
    assert np.allclose(splits.test.inputs, 0.1)


def test_words_gaps_and_whole_fractions_are_classes_with_names(tmp_path):
    words = np.array(["cat", "dog", "ape"])[LABELS.numpy()]
    splits = sets.load(save(tmp_path / "words.npz", train_labels=words, test_labels=words))
    assert splits.names == ("ape", "cat", "dog") and splits.classes == 3
    assert np.array_equal(np.array(splits.names)[splits.test.labels], words)
    odd = np.array([10.0, -3.0, 7.0])[LABELS.numpy()]
    splits = sets.load(save(tmp_path / "gaps.npz", train_labels=odd, test_labels=odd))
    assert splits.names == ("-3", "7", "10") and set(splits.train.labels) == {0, 1, 2}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"train_labels": np.zeros(97, int), "test_labels": np.zeros(97, int)}, "at least two classes are needed"),
        ({"train_labels": LABELS.numpy() + 0.5}, "has labels such as .*: scores, not classes"),
        ({"test_inputs": INPUTS.numpy()[:, :4]}, r"differ in shape: \(6,\) and \(4,\)"),
        ({"train_inputs": np.full((97, 6), np.nan)}, "are not all finite numbers"),
        ({"train_inputs": np.full((97, 6), "x")}, "are not all finite numbers"),
        ({"test_labels": LABELS.numpy()[:5]}, r"inputs \(97, 6\) and labels \(5,\)"),
        (
            {"train_labels": NAMES[LABELS.numpy()]},
            r"the test part of .* has a class '0' that its training part lacks",
        ),
        ({"test_labels": LABELS.numpy() + 1}, "has a class '3' that its training part lacks"),
        ({"train_labels": LABELS.numpy()[:, None]}, r"inputs \(97, 6\) and labels \(97, 1\)"),
    ],
)
def test_files_that_do_not_fit_are_one_line(tmp_path, changes, line):
    with pytest.raises(PolicyKDError, match=line):
        sets.load(save(tmp_path / "set.npz", **changes))


def test_class_names_must_agree():
    check_names({"the data": ["a", "b"], "the student": None, "the teacher": ("a", "b")})
    for names, line in (
        (["b", "a"], "class 0 is 'a' for the data and 'b' for the teacher"),
        (["a"], "the data has 2 classes, the teacher 1"),
    ):
        with pytest.raises(PolicyKDError, match=line):
            check_names({"the data": ["a", "b"], "the teacher": names})
    teacher = net(16)
    teacher.config = type("Config", (), {"id2label": {0: "b", 1: "a", 2: "c"}})
    with pytest.raises(PolicyKDError, match="class 0 is 'a' for the data and 'b' for the teacher"):
        Distiller(net(8), teacher, classes=["a", "b", "c"])
    with pytest.raises(PolicyKDError, match="'a' for the data and 'b' for member 1 of the teacher"):
        Distiller(net(8), [net(16), teacher], classes=["a", "b", "c"])


class Foreign(nn.Linear):
    """Carries and writes names as Hugging Face's models do."""

    def __init__(self):
        super().__init__(SIZE, CLASSES)
        self.config = SimpleNamespace(id2label={n: f"LABEL_{n}" for n in range(CLASSES)}, num_labels=CLASSES)

    def save_pretrained(self, folder):
        (folder / "config.json").write_text(json.dumps(vars(self.config)))


@pytest.mark.parametrize("make", [lambda: make_model("mlp", (8,), (SIZE,), CLASSES, 0), Foreign])
def test_a_student_carries_the_names_of_its_classes(make, tmp_path):
    """In the process and in its folder: as a teacher of classes in another order it would teach wrongly."""
    student, untrained = make(), make()
    made = Distiller(student, None, method="cross_entropy", config={**FAST, "epochs": 1}, classes=NAMES, device="cpu")
    made.fit((INPUTS, LABELS))
    Distiller(untrained, None, method="cross_entropy", classes=NAMES).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["label2id"] == {"a": 0, "b": 1, "c": 2}
    assert Distiller(net(8), student, classes=NAMES).classes == [*NAMES]
    for network in (student, untrained):
        with pytest.raises(PolicyKDError, match="class 0 is 'c' for the data and 'a' for the teacher"):
            Distiller(net(8), network, classes=NAMES[::-1])


def test_a_teacher_of_a_folder_carries_the_names_beside_it(tmp_path):
    def new():
        return make_model("mlp", (8,), (SIZE,), CLASSES, 0)

    Distiller(new(), None, method="cross_entropy", classes=NAMES).save_pretrained(tmp_path)
    weights_of = tmp_path / "model.safetensors"
    read_teacher([new()], [weights_of], NAMES)
    with pytest.raises(PolicyKDError, match=r"class 0 is 'a' for the teacher of .* and 'c' for the data"):
        read_teacher([new()], [weights_of], NAMES[::-1])
    teacher, _ = from_pretrained(tmp_path)
    with pytest.raises(PolicyKDError, match="class 0 is 'c' for the data and 'a' for the teacher"):
        Distiller(new(), teacher, classes=NAMES[::-1])
    Distiller(teacher, None, method="cross_entropy").save_pretrained(tmp_path / "again")
    assert from_pretrained(tmp_path / "again")[1] == ("a", "b", "c")
    Distiller(new(), None, method="cross_entropy").save_pretrained(tmp_path / "unnamed")
    assert Distiller(new(), from_pretrained(tmp_path / "unnamed")[0], classes=NAMES).classes == [*NAMES]
    read_teacher([new()], [tmp_path / "unnamed" / "model.safetensors"], NAMES)
    config = tmp_path / "unnamed" / "config.json"
    config.write_text(
        config.read_text(encoding="utf-8").replace("LABEL_", "")
    )  # as unnamed classes were written before
    assert Distiller(new(), from_pretrained(tmp_path / "unnamed")[0], classes=NAMES).classes == [*NAMES]


COMMAND = ["classify", "--epochs", "2", "--teacher-epochs", "2", "--teacher-widths", "8", "--device", "cpu"]


def test_the_command_trains_labels_alone_beside_and_keeps_class_names(tmp_path, capsys):
    words = np.array(["cat", "dog", "ape"])[LABELS.numpy()]
    data = save(tmp_path / "words.npz", train_labels=words, test_labels=words)
    run = tmp_path / "run"
    main([*COMMAND, "--data", data, "--run-dir", str(run)])
    out = capsys.readouterr().out
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert "labels alone, test data: accuracy" in out and "hinton, test data: accuracy" in out
    assert {"accuracy", "balanced_accuracy", "f1"} <= result["test"].keys() & result["test_of_labels_alone"].keys()
    student, names = from_pretrained(run / "student_model")
    assert names == ("ape", "cat", "dog")
    splits = sets.load(data)
    made = Distiller(student, None, method="cross_entropy", device="cpu")
    assert made.evaluate(splits.test)["accuracy"] == pytest.approx(result["test"]["accuracy"])
    other = save(tmp_path / "other.npz", train_labels=np.char.add("x", words), test_labels=np.char.add("x", words))
    weights_of = str(run / "teacher" / "best_model.safetensors")
    with pytest.raises(SystemExit):
        main([*COMMAND, "--data", other, "--teacher-files", weights_of, "--run-dir", str(tmp_path / "wrong")])
    assert "class 0 is 'ape' for the teacher of" in capsys.readouterr().err and not (tmp_path / "wrong").exists()
    main([*COMMAND, "--data", data, "--teacher-files", weights_of, "--no-baseline", "--run-dir", str(tmp_path / "two")])
    assert "labels alone" not in capsys.readouterr().out
    assert read_teacher([make_model("mlp", (8,), (SIZE,), CLASSES, 0)], [weights_of], names) is not None


class Mine(CrossEntropy):
    """A method of a user's own: half the cross-entropy."""

    def loss(self, step):
        loss, terms = super().loss(step)
        return loss / 2, {**terms, "mine": loss.detach()}


def test_a_method_of_ones_own_is_handed_in_and_resumes(tmp_path, monkeypatch):
    config = {**FAST, "epochs": 2}
    made = Distiller(net(8), None, method=Mine, config=config, device="cpu", run_dir=tmp_path / "run")
    made.fit((INPUTS, LABELS))
    assert made.method_name == "Mine" and "train/mine" in (tmp_path / "run" / "progress.csv").read_text(
        encoding="utf-8"
    )
    with pytest.raises(PolicyKDError, match="method: 'Mine' is unknown"):
        Distiller.load(tmp_path / "run", net(8))
    assert Distiller.load(tmp_path / "run", net(8), method=Mine, device="cpu").passes == 2
    with pytest.raises(PolicyKDError, match="the run's method is Mine, not Hinton"):
        Distiller.load(tmp_path / "run", net(8), method=METHODS["hinton"])
    monkeypatch.setitem(METHODS, "mine", Mine)  # or by name, once it is in the one table
    assert Distiller(net(8), None, method="mine").kind is Mine


@pytest.mark.parametrize(
    "gives",
    [
        lambda logits: None,
        lambda logits: logits.mean(),
        lambda logits: (logits.mean(), None),
        lambda logits: (logits.mean(1), {}),
        lambda logits: (1.0, {}),
        lambda logits: (logits.mean().detach(), {}),
    ],
)
def test_a_method_of_ones_own_without_a_loss_to_learn_from_is_one_line(gives):
    own = type("Own", (CrossEntropy,), {"loss": lambda self, step: gives(step.student.logits)})
    with pytest.raises(PolicyKDError, match=r"method: Own.loss must give \(a scalar with gradient, a dict") as caught:
        Distiller(net(8), None, method=own, config=FAST, device="cpu").fit((INPUTS, LABELS))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"optimizer": lambda parameters: None}, "optimizer: must give a torch optimiser of the parameters, not None"),
        ({"optimizer": lambda parameters: {}["rate"]}, "torch optimiser of the parameters: KeyError: 'rate'"),
        (
            {"alpha_schedule": lambda progress: 3 * progress},
            r"alpha_schedule\(0.75\) gives 2.25, times alpha=0.5 above 1",
        ),
        ({"alpha_schedule": lambda progress: 0.6 - progress}, r"alpha_schedule\(0.75\) returned -0.15.* >= 0"),
    ],
)
def test_parts_of_ones_own_that_cannot_work_are_told_before_anything_is_trained(own, words):
    student = net(8)
    before = weights(student)
    with pytest.raises(PolicyKDError, match=words) as caught:
        Distiller(student, net(16), config={**FAST, "epochs": 4, **own}, device="cpu").fit((INPUTS, LABELS))
    assert "\n" not in str(caught.value) and same(before, weights(student))


def test_an_own_schedule_above_one_counts_while_the_labels_keep_some_weight():
    config = {**FAST, "epochs": 2, "alpha": 0.25, "alpha_schedule": lambda progress: 1 + 2 * progress}
    assert Distiller(net(8), net(16), config=config, device="cpu").fit((INPUTS, LABELS)).epochs == 2


def test_an_optimiser_and_a_schedule_of_ones_own(tmp_path):
    seen = []

    def optimizer(parameters):
        seen.append(len(parameters))
        return torch.optim.RMSprop(parameters, lr=1e-3)

    student, rates = net(8), []
    own = {"optimizer": optimizer, "learning_rate_schedule": lambda progress: 1 - progress / 2}
    made = Distiller(student, net(16), config={**FAST, "epochs": 2, **own}, run_dir=tmp_path / "run", device="cpu")
    made.fit((INPUTS, LABELS), callback=lambda d: rates.append(d.optimizers["student"].param_groups[0]["lr"]))
    assert made.settings["config"]["optimizer"] == "own:optimizer"
    with pytest.raises(PolicyKDError, match=r"with optimizer \(optimizer\), learning_rate_schedule \(<lambda>\)"):
        Distiller.load(tmp_path / "run", net(8), net(16), device="cpu")
    assert Distiller.load(tmp_path / "run", net(8), net(16), device="cpu", config=own).passes == 2
    assert seen == [len(list(student.parameters()))] and isinstance(
        made.optimizers["student"].optimizer, torch.optim.RMSprop
    )
    assert rates == pytest.approx([0.75e-3, 0.5e-3])


def test_predictions_and_folders_of_the_student(tmp_path):
    student, teacher = (make_model("mlp", widths, (SIZE,), CLASSES, 0) for widths in ((8,), (16,)))
    made = Distiller(student, teacher, config={**FAST, "epochs": 2}, classes=["a", "b", "c"], device="cpu")
    made.fit((INPUTS, LABELS))
    probabilities = made.predict_proba(INPUTS)
    assert probabilities.shape == (97, CLASSES) and torch.allclose(probabilities.sum(1), torch.ones(97))
    assert torch.equal(made.predict(INPUTS.numpy()), probabilities.argmax(1))
    assert made.score(INPUTS, LABELS) == pytest.approx(float((made.predict(INPUTS) == LABELS).float().mean()))
    made.save_pretrained(tmp_path / "model")
    again, names = from_pretrained(tmp_path / "model")
    assert names == ("a", "b", "c") and same(weights(again), weights(student))
    image = make_model("cnn", (4, 8), (1, 8, 8), 10, 0)
    Distiller(image, None, method="cross_entropy").save_pretrained(tmp_path / "image")
    again, names = from_pretrained(tmp_path / "image")
    assert names == tuple("0123456789") and same(weights(again), weights(image))
    few = make_model("mlp", (8,), (SIZE,), CLASSES, 0)
    few = Distiller(few, teacher, config={**FAST, "epochs": 2}, classes=["a", "b"], device="cpu")
    with pytest.raises(PolicyKDError, match=r"classes: 2 names, but the student answers \(16, 3\)"):
        few.fit((INPUTS, LABELS))
    with pytest.raises(PolicyKDError, match="classes: 2 names for a network of 3 outputs"):
        few.save_pretrained(tmp_path / "few")
    assert few.n_updates == 0 and not (tmp_path / "few").exists()
    with pytest.raises(PolicyKDError, match="is not a network of policykd"):
        from_pretrained(tmp_path)
    with pytest.raises(PolicyKDError, match="a Net does not have it"):
        Distiller(net(8), None, method="cross_entropy").save_pretrained(tmp_path / "other")


def test_counters_of_a_checkpoint_are_fields_of_a_training():
    assert set(state.COUNTERS) <= {name for name in state.Training.__dataclass_fields__}
