"""Counterfactuals: what every one of them must be, whoever the teacher is."""

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from cooperating import COLOURS, clouds
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from policykd.cooperation.config import SearchConfig
from policykd.cooperation.cooperative import make_owners
from policykd.cooperation.counterfactuals import CERTAIN, Problem, Space, counterfactuals, gradient_search
from policykd.cooperation.learners import LEARNERS
from policykd.cooperation.torch_classifier import TorchClassifier
from policykd.core.errors import PolicyKDError

TEACHERS = {
    "network": lambda: TorchClassifier(widths=(8,), epochs=10, learning_rate=0.02),
    "tree": lambda: DecisionTreeClassifier(max_depth=3),
    "full tree": DecisionTreeClassifier,
    "forest": lambda: RandomForestClassifier(10, max_depth=4),
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5),
    "line": LEARNERS["logistic"],
}


def owner_of(learner, seed=0):
    table, labels = clouds(60, seed)
    owner = make_owners([learner, learner], [(table, labels)] * 2, seed)[0]
    owner.fit()
    return owner


def right_rows(owner):
    return np.flatnonzero(owner.predict(owner.table.rows) == owner.table.labels)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(sorted(TEACHERS)),
    seed=st.integers(0, 1000),
    hidden=st.sets(st.sampled_from(["x0", "x1", "x2", "colour"]), max_size=3),
    alpha=st.sampled_from([0.1, 0.5, 1.0]),
    least_move=st.sampled_from([0.001, 0.02, 0.1]),
)
def test_every_counterfactual(kind, seed, hidden, alpha, least_move):
    teacher = owner_of(TEACHERS[kind](), seed)
    names = [name for name in teacher.table.names if name.partition("=")[0] not in hidden]
    shared, group = teacher.table.columns(names), teacher.table.columns(COLOURS)
    groups = [] if "colour" in hidden else [group]
    instances = right_rows(teacher)
    config = SearchConfig(alpha=alpha, least_move=least_move, search_steps=6)
    found = counterfactuals(teacher, instances, shared, groups, config, np.random.default_rng(seed))
    rows, usable = teacher.table.rows, found.usable
    sent, originals = found.rows[usable], rows[instances[usable]]
    labels = teacher.table.labels[instances[usable]]
    assert len(found.rows) == len(instances)
    if not len(sent):
        return
    assert (teacher.predict(sent) == labels).all(), "it keeps its label"
    before, after = teacher.proba(originals), teacher.proba(sent)
    place = teacher.class_index(labels), np.arange(len(sent))
    before, after = before[place[1], place[0]], after[place[1], place[0]]
    assert ((after > before) | ((before >= CERTAIN) & (after >= before))).all(), "the teacher is surer"
    assert (sent >= rows.min(0)).all() and (sent <= rows.max(0)).all(), "it lies in the teacher's box"
    assert np.isin(sent[:, group], (0, 1)).all() and (sent[:, group].sum(1) == 1).all(), "one-hot stays one-hot"
    other = np.setdiff1d(np.arange(rows.shape[1]), shared)
    np.testing.assert_array_equal(sent[:, other], originals[:, other], err_msg="what the student lacks stays")
    own = set(map(bytes, np.ascontiguousarray(rows[:, shared])))
    assert not any(bytes(row) in own for row in np.ascontiguousarray(sent[:, shared])), "it is no row of the teacher's"
    width = np.where(np.ptp(rows, axis=0) > 0, np.ptp(rows, axis=0), 1)
    movable = sum(np.ptp(rows[:, column]) > 0 for column in shared)
    moved = (np.abs(sent - originals) / width).sum(1)
    np.testing.assert_allclose(moved, found.distance[usable], atol=1e-9)
    assert (moved >= least_move * movable - 1e-9).all(), "it is far enough from its original"


@pytest.mark.parametrize("kind", sorted(TEACHERS))
def test_most_instances_have_one(kind):
    """So that the properties above are of something."""
    teacher = owner_of(TEACHERS[kind]())
    shared, group = np.arange(len(teacher.table.names)), teacher.table.columns(COLOURS)
    instances = right_rows(teacher)
    found = counterfactuals(teacher, instances, shared, [group], SearchConfig(), np.random.default_rng(0))
    assert found.usable.mean() > 0.6


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_gradient_search_goes_to_the_least_of_its_loss(sparsity):
    """A line with one feature: |f(x') - y'|^2 + sparsity |x' - x|, y' half way to certainty, at every point."""
    network = nn.Linear(1, 2)
    learner = TorchClassifier()
    learner.network_, learner.classes_ = network.requires_grad_(False), np.array([0, 1])
    learner.mean_, learner.std_ = torch.zeros(1), torch.ones(1)
    learner.n_features_in_ = 1
    network.weight.copy_(torch.tensor([[0.0], [1.0]]))
    network.bias.zero_()
    rows = np.linspace(-5, 5, 21)[:, None]
    teacher = make_owners([learner] * 2, [(rows, (rows[:, 0] > 0).astype(int))] * 2, 0)[0]
    teacher.learner = learner
    start = np.array([11, 14])  # x = 0.5 and 2.0, of class 1
    space = Space(rows, np.array([0]), [])
    config = SearchConfig(sparsity=sparsity, gradient_steps=300, step_size=0.005)
    problem = Problem(teacher, space, rows[start], np.array([1, 1]), config)
    reached = space.raw(gradient_search(learner, problem))[:, 0]
    sure = 1 / (1 + np.exp(-rows[start, 0]))
    target = sure + 0.5 * (1 - sure)
    points = np.linspace(-5, 5, 10_001)[:, None]
    losses = 2 * (1 / (1 + np.exp(-points)) - target) ** 2 + sparsity * np.abs(points - rows[start, 0]) / 10
    np.testing.assert_allclose(reached, points[losses.argmin(0), 0], atol=0.06 if sparsity else 0.02)
    if not sparsity:
        np.testing.assert_allclose(reached, np.log(target / (1 - target)), atol=0.02)


@pytest.mark.parametrize("kind", sorted(TEACHERS))
def test_flags_and_counts_stay_whole(kind):
    table, labels = clouds(60)
    draws = np.random.default_rng(0)
    table = table.assign(flag=draws.random(60) < 0.5, count=draws.integers(3, 12, size=60))
    teacher = make_owners([TEACHERS[kind]()] * 2, [(table, labels)] * 2, 0)[0]
    teacher.fit()
    shared = np.arange(table.shape[1])
    found = counterfactuals(teacher, right_rows(teacher), shared, [], SearchConfig(), np.random.default_rng(0))
    flag, count = found.rows[found.usable][:, teacher.table.columns(["flag", "count"])].T
    assert found.usable.mean() > 0.6 and np.isin(flag, (0, 1)).all()
    assert (count == np.round(count)).all() and len(np.unique(count)) > 3


@pytest.mark.parametrize("kind", ["full tree", "line", "network"])
def test_nominal_features_reach_combinations_that_no_row_has(kind):
    """Of 256 combinations of four words, the teacher has at most 150."""
    words = np.random.default_rng(0).integers(4, size=(150, 4))
    rows, labels = np.eye(4)[words].reshape(150, 16), (words[:, 0] + words[:, 1] > 3).astype(int)
    teacher = make_owners([TEACHERS[kind]()] * 2, [(rows, labels)] * 2, 0)[0]
    teacher.fit()
    groups = list(np.arange(16).reshape(4, 4))
    found = counterfactuals(
        teacher, right_rows(teacher), np.arange(16), groups, SearchConfig(), np.random.default_rng(0)
    )
    assert found.usable.mean() > 0.4


def test_sparsity_keeps_counterfactuals_near():
    teacher = owner_of(LEARNERS["logistic"]())
    shared, instances = np.arange(4), right_rows(teacher)
    near, far = (
        counterfactuals(teacher, instances, shared, [], SearchConfig(sparsity=s, alpha=1.0), np.random.default_rng(0))
        for s in (1.0, 0.0)
    )
    both = near.usable & far.usable
    assert near.distance[both].mean() < 0.5 * far.distance[both].mean()


@pytest.mark.parametrize(
    "changes", [{"alpha": 1.5}, {"sparsity": -1.0}, {"least_move": 0.0}, {"step_size": 0.0}, {"search_steps": 0}]
)
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(PolicyKDError, match=f"^config: {next(iter(changes))}="):
        SearchConfig(**changes)


def test_torch_classifier_is_an_estimator():
    weighted = "batches of shuffled rows: a row of weight 2 is not the same as two rows"
    allowed = dict.fromkeys(
        ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data"), weighted
    )
    learner = TorchClassifier(widths=(16,), epochs=30, learning_rate=0.02, random_state=0)
    failed = [check for check in check_estimator(learner, on_fail=None) if check["status"] == "failed"]
    assert not {check["check_name"] for check in failed} - set(allowed), failed


def small_network(features, classes):
    return nn.Sequential(nn.Linear(features, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, classes))


def test_torch_classifier_takes_any_network_and_leaves_torchs_generator_alone():
    table, labels = clouds(60)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    learner = TorchClassifier(small_network, epochs=60, learning_rate=0.02, random_state=1).fit(table, labels)
    assert torch.rand(1) == expected
    assert learner.score(table, labels) > 0.9 and not learner.network_.training
    proba = learner.predict_proba(table)
    np.testing.assert_array_equal(proba, learner.predict_proba(table))
    inputs = torch.tensor(table.to_numpy(), dtype=torch.float32, requires_grad=True)
    logits = learner.logits(inputs)
    np.testing.assert_allclose(logits.softmax(1).detach().numpy(), proba, atol=1e-4)
    logits.sum().backward()
    assert inputs.grad.abs().sum() > 0


def test_large_numbers_of_little_spread_keep_their_digits():
    """Times in seconds since 1970, a minute apart; float32 tells them to 128 seconds."""
    seconds = 1.7e9 + np.repeat([0.0, 60.0], 100) + np.random.default_rng(0).normal(size=200)
    rows, labels = np.stack([seconds, np.random.default_rng(1).normal(size=200)], 1), np.repeat([0, 1], 100)
    learner = TorchClassifier(widths=(8,), epochs=10, learning_rate=0.02, random_state=0)
    assert learner.fit(rows, labels).score(rows, labels) == 1
    teacher = make_owners([learner.set_params(epochs=3)] * 2, [(rows, labels)] * 2, 0)[0]  # not certain of anything
    teacher.fit()
    problem = Problem(teacher, Space(rows, np.arange(2), []), rows, labels, SearchConfig())
    assert problem.found(gradient_search(teacher.learner, problem)).usable.mean() > 0.95


def test_torch_classifier_weighs_rows():
    table, labels = clouds(60)
    only_a = np.where(labels == "a", 1.0, 1e-6)
    learner = TorchClassifier(widths=(8,), epochs=30, learning_rate=0.02, random_state=0).fit(
        table, labels, sample_weight=only_a
    )
    assert (learner.predict(table) == "a").mean() > 0.9
