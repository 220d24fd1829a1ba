"""The distiller takes any usual data: arrays, data sets, loaders, dicts, outputs, unlabelled and mixed examples."""

import copy
from collections import UserDict

import pandas as pd
import pytest
import torch
from classifiers import Net, make, net, problem, same, trained_teacher, weights
from torch.utils.data import DataLoader, TensorDataset

from policykd import Distiller, PolicyKDError
from policykd.classification.data.batches import Rows
from policykd.classification.measures.evaluation import Evaluation


@pytest.fixture(scope="module")
def teacher():
    return trained_teacher()


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


def test_labels_that_come_as_lists(teacher):
    """As some collate functions give them; the second pass ended in an AttributeError."""

    def listed(rows):
        return torch.stack([row for row, _ in rows]), [int(label) for _, label in rows]

    data = TensorDataset(*problem())
    loaders = DataLoader(data, 16), DataLoader(data, 16, collate_fn=listed)
    students = [make("hinton", net(8), teacher).fit(loader).student for loader in loaders]
    assert same(weights(students[0]), weights(students[1]))


class Redrawn(torch.utils.data.Dataset):
    """Draws new inputs whenever it is read, as sets that augment themselves do."""

    def __len__(self):
        return 50

    def __getitem__(self, row):
        return torch.randn(6), row % 3


def test_the_teachers_answers_are_kept_for_rows_that_repeat_only(teacher):
    calls, student = [], copy.deepcopy(teacher)
    handle = teacher.register_forward_hook(lambda *_: calls.append(1))
    for data, asked in ((Redrawn(), 2), (problem(50), 1)):
        calls.clear()
        judge = Evaluation(make("hinton", student, teacher), data, "validation")
        assert judge.measure()["agreement"] == judge.measure()["agreement"] == 1 and len(calls) == asked
    handle.remove()


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
    only = make("hinton", net(8), teacher, alpha=1.0, epochs=8)
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


def test_arrays_that_torch_does_not_read_teach_as_their_copies_do(teacher):
    inputs, labels = problem()
    expected = weights(make("hinton", net(8), teacher).fit((inputs, labels)).student)
    rows, codes = inputs.numpy(), labels.numpy()
    frame = pd.DataFrame(rows).astype(object)  # as np.array of a frame with columns of several kinds
    turned = rows[::-1].copy()[::-1], codes[::-1].copy()[::-1]
    for data in ((rows.astype(">f4"), codes.astype(">i2")), turned, (frame, pd.Series(codes, dtype="Int64"))):
        assert same(weights(make("hinton", net(8), teacher).fit(data).student), expected)
    kinds = pd.DataFrame({"yes": [True, False], "number": [0.5, 2.0], "whole": [3, 4]})
    assert Rows((kinds, [0, 1])).arrays[0].tolist() == [[1.0, 0.5, 3.0], [0.0, 2.0, 4.0]]


def test_words_and_gaps_in_a_frame_are_not_read_as_numbers():
    for frame in (pd.DataFrame({"a": ["3.5"], "b": [1.0]}), pd.DataFrame({"a": [None], "b": [True]})):
        with pytest.raises(PolicyKDError, match="data: expected arrays"):
            Rows((frame, [0]))
