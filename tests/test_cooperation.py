"""Cooperative distillation: what each learner receives, keeps to itself and learns."""

import itertools
import sys

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("joblib")

from cooperating import before_and_after, clouds, digit_experts, digit_halves, tiny_learners, two_owners
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

import policykd
from policykd.cooperation import picture
from policykd.cooperation.cooperative import CooperativeDistillation, make_owners
from policykd.cooperation.lessons import most_confident, qualified_pairs
from policykd.cooperation.picture import teaching_graph
from policykd.cooperation.tables import Dataset


@pytest.fixture(scope="module")
def fitted():
    """One run with everything in it: two kinds of learners, own features, unseen classes, two rounds."""
    own, held = two_owners()
    groups = [["colour=blue", "colour=green", "colour=red"]]
    return CooperativeDistillation(tiny_learners(), one_hot=groups, rounds=2, random_state=3).fit(own, held)


def same(a, b):
    """Whether two runs left the same tables."""
    pd.testing.assert_frame_equal(a.lessons_, b.lessons_)
    pd.testing.assert_frame_equal(a.accuracy_, b.accuracy_)
    for name in a.received_:
        pd.testing.assert_frame_equal(a.received_[name], b.received_[name])


def test_learners_teach_one_another_classes_they_have_never_seen(fitted):
    before, after = before_and_after(fitted)
    assert (after > before + 0.15).all()
    assert set(fitted.received_["net"]["label"]) >= {"a"} and set(fitted.received_["tree"]["label"]) >= {"c"}
    assert list(fitted.learners_["net"].classes_) == ["a", "b", "c"]


def test_the_report_adds_up(fitted):
    lessons = fitted.lessons_
    assert list(lessons["round"]) == [1, 1, 2, 2]
    assert (lessons["shared_features"] == 6).all()
    assert (lessons["chosen"] <= lessons["qualified"]).all() and (lessons["learned"] <= lessons["qualified"]).all()
    kept_back = lessons["not_surer"] + lessons["not_new"]
    assert (lessons["sent"] == lessons["chosen"] - kept_back).all()
    assert lessons["sent"].iloc[:2].min() > 0 and lessons["learned"].iloc[:2].min() > 0
    taught = lessons[lessons["sent"] > 0]
    assert (taught["after"] >= taught["before"]).all() and (taught["distance"] > 0).all()
    for name, table in fitted.received_.items():
        assert len(table) == lessons.loc[lessons["student"] == name, "sent"].sum()
        assert "x2" in table or name == "tree", "a student sees features of its own"


def rows_in(table, rows):
    """How many rows of an array stand in a table's array."""
    known = set(map(bytes, np.ascontiguousarray(table)))
    return sum(bytes(row) in known for row in np.ascontiguousarray(rows))


class Listed(DecisionTreeClassifier):
    """Its classes are a list."""

    def fit(self, X, y):
        super().fit(X, y)
        self.classes_ = list(self.classes_)
        return self


def test_classes_may_be_a_list():
    own, held = two_owners()
    cooperation = CooperativeDistillation([Listed(), DecisionTreeClassifier()]).fit(own, held)
    assert cooperation.lessons_["sent"].min() > 0


@pytest.mark.parametrize(("share", "leaks"), [("counterfactuals", False), ("instances", True)])
def test_no_row_reaches_another_training_set_unchanged(share, leaks):
    own, _ = two_owners(seed=1)
    tables = {"net": own[0][0], "tree": own[1][0]}
    cooperation = CooperativeDistillation(tiny_learners(), share=share, rounds=2).fit(own)
    shared = [name for name in tables["net"] if name in tables["tree"]]
    for student, teacher in (("net", "tree"), ("tree", "net")):
        received = cooperation.received_[student]
        assert len(received)
        found = rows_in(tables[teacher][shared].to_numpy(), received[shared].to_numpy(float))
        assert found == (len(received) if leaks else 0)


def test_what_discrete_features_cannot_hide_is_kept_back(caplog):
    """All four corners are the teacher's own rows: no counterfactual is new, and nothing is sent."""
    corners = pd.DataFrame([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]] * 5, columns=["a", "b"])
    table = pd.DataFrame({"a=0": 1 - corners["a"], "a=1": corners["a"], "b=0": 1 - corners["b"], "b=1": corners["b"]})
    labels = (corners["a"] != corners["b"]).astype(int).to_numpy()
    groups = [["a=0", "a=1"], ["b=0", "b=1"]]
    learners = {"tree": DecisionTreeClassifier(max_depth=2), "line": LogisticRegression()}
    cooperation = CooperativeDistillation(learners, one_hot=groups).fit([(table, labels), (table, labels)])
    lesson = cooperation.lessons_.set_index("teacher").loc["tree"]
    assert lesson["chosen"] > 0 and lesson["not_new"] > 0 and lesson["sent"] == 0
    assert "no learner found a counterfactual for it" in caplog.text


def test_equal_seeds_are_equal_and_others_differ(fitted):
    own, held = two_owners()
    groups = [["colour=blue", "colour=green", "colour=red"]]
    again = CooperativeDistillation(tiny_learners(), one_hot=groups, rounds=2, random_state=3).fit(own, held)
    same(fitted, again)
    other = CooperativeDistillation(tiny_learners(), one_hot=groups, rounds=2, random_state=4).fit(own, held)
    assert not other.received_["tree"].equals(again.received_["tree"])


class Drawing(DecisionTreeClassifier):
    """Draws from the generators of numpy and torch themselves."""

    def fit(self, X, y):
        rows = np.random.permutation(len(X))[: len(X) // 2 + int(torch.randint(9, ()))]
        return super().fit(X.iloc[rows], np.asarray(y)[rows])


def test_what_learners_draw_from_global_generators_is_equal_too():
    own, held = two_owners()
    learners = [Drawing(max_depth=2), Drawing(max_depth=2)]
    np.random.seed(0)
    torch.manual_seed(0)
    first = CooperativeDistillation(learners).fit(own, held)
    drawn = np.random.random(), float(torch.rand(()))
    same(first, CooperativeDistillation(learners).fit(own, held))
    np.random.seed(0)
    torch.manual_seed(0)
    assert drawn == (np.random.random(), float(torch.rand(()))), "and they go on where they were"


def test_pairs_in_parallel_give_the_same(fitted):
    own, held = two_owners()
    parallel = clone(fitted).set_params(n_jobs=2).fit(own, held)
    same(fitted, parallel)


def test_the_users_learners_stay_as_they_are():
    own, _ = two_owners()
    learners = tiny_learners()
    CooperativeDistillation(learners).fit(own)
    assert not hasattr(learners["net"], "network_") and not hasattr(learners["tree"], "tree_")
    assert learners["tree"].random_state is None


def test_it_is_an_estimator(fitted):
    params = fitted.get_params()
    assert params["rounds"] == 2 and params["alpha"] == 0.5
    assert clone(fitted).get_params()["one_hot"] == params["one_hot"]
    assert policykd.CooperativeDistillation is CooperativeDistillation


def test_an_instance_is_taught_once_by_the_surest_teacher():
    table, labels = clouds(60)
    two = labels != "c"
    vague, sharp = LogisticRegression(C=1e-6), DecisionTreeClassifier(random_state=0)
    student = DecisionTreeClassifier(max_depth=1, random_state=0)
    names = np.arange(60).tolist()
    data = [Dataset(table, labels, instances=names)] * 2 + [(table[two], labels[two])]
    owners = make_owners({"vague": vague, "sharp": sharp, "student": student}, data, 0)
    for owner in owners:
        owner.fit()
    pairs = qualified_pairs(owners)
    chosen = most_confident(pairs, owners)
    by_pair = {(pair.teacher, pair.student): (pair, rows) for pair, rows in zip(pairs, chosen, strict=True)}
    from_vague, from_sharp = by_pair[0, 2], by_pair[1, 2]
    both = set(from_vague[0].qualified) & set(from_sharp[0].qualified)
    assert both and not both & set(from_vague[1]), "the tree is surer of them"
    assert set(from_sharp[1]) == set(from_sharp[0].qualified)
    unnamed = make_owners({"vague": vague, "sharp": sharp, "student": student}, [(table, labels)] * 3, 0)
    for owner in unnamed:
        owner.fit()
    pairs = qualified_pairs(unnamed)
    for pair, rows in zip(pairs, most_confident(pairs, unnamed), strict=True):
        np.testing.assert_array_equal(rows, pair.qualified)


def test_instances_of_a_series_are_taken_by_place():
    own, _ = two_owners()
    runs = []
    for index in (range(len(own[0][0])), range(1000, 1000 + len(own[0][0]))):
        names = pd.Series(np.arange(len(index)), index=index)
        runs.append(CooperativeDistillation(tiny_learners()).fit([Dataset(*own[0], instances=names), own[1]]))
    same(*runs)


def test_one_hot_groups_of_arrays_go_by_place():
    table, labels = clouds(60)
    rows = table[["colour=blue", "colour=green", "colour=red", "x0"]].to_numpy()
    data = [(rows[labels != "a"], labels[labels != "a"]), (rows[labels != "c"], labels[labels != "c"])]
    cooperation = CooperativeDistillation(tiny_learners(), one_hot=[[0, 1, 2]]).fit(data)
    received = cooperation.received_["net"]
    assert len(received) and (received[["0", "1", "2"]].sum(axis=1) == 1).all()


def test_missing_features_are_sampled_from_own_rows_of_the_class():
    table, labels = clouds(60)
    seen = labels != "c"
    tree = DecisionTreeClassifier()
    (_, student) = make_owners([tree, tree], [(table, labels), (table[seen], labels[seen])], 0)
    sent = table[["x0", "x1"]].to_numpy()
    rows = student.complete_for_training(sent, labels, ["x0", "x1"], np.random.default_rng(0))
    np.testing.assert_array_equal(rows[:, student.table.columns(["x0", "x1"])], sent)
    x2 = student.table.columns(["x2"])[0]
    for label in "ab":
        own = student.table.rows[student.table.labels == label, x2]
        assert np.isin(rows[labels == label, x2], own).all()
    unseen = rows[labels == "c", x2]
    assert np.isin(unseen, student.table.rows[:, x2]).all() and len(np.unique(unseen)) > 5


def test_nobody_can_teach_says_so_and_goes_on(caplog):
    table, labels = clouds(40)
    tree = DecisionTreeClassifier()
    cooperation = CooperativeDistillation([tree, tree], rounds=2).fit([(table, labels), (table, labels)])
    assert "no learner is right where it is wrong" in caplog.text
    assert (cooperation.lessons_["qualified"] == 0).all() and len(cooperation.lessons_) == 4
    assert len(cooperation.received_["DecisionTreeClassifier_1"]) == 0
    assert hasattr(cooperation.learners_["DecisionTreeClassifier_2"], "tree_")


def test_pairs_that_share_nothing_are_left_out():
    table, labels = clouds(60)
    tree = DecisionTreeClassifier(max_depth=1)
    columns = (["x0", "x1"], ["x1", "x2"], ["x2", "x3"])
    cooperation = CooperativeDistillation([tree] * 3).fit([(table[names], labels) for names in columns])
    pairs = {(row.teacher[-1], row.student[-1]) for row in cooperation.lessons_.itertuples()}
    assert pairs == {("1", "2"), ("2", "1"), ("2", "3"), ("3", "2")}


def test_the_teaching_graph(fitted, tmp_path):
    path = teaching_graph(fitted.lessons_, fitted.accuracy_, tmp_path / "new" / "graph.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    first = path.read_bytes()
    none = fitted.lessons_.assign(sent=0)
    assert teaching_graph(none, fitted.accuracy_, path).read_bytes() != first


def test_boxes_of_the_teaching_graph_stay_apart_and_show_names_as_they_are(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(picture, "save_figure", lambda figure, path, **options: drawn.append(figure))
    names = [rf"owner $\foo{k}$" for k in range(16)]
    accuracy = pd.DataFrame([{"learner": name, "round": 0, "train": 0.5} for name in names])
    teaching_graph(pd.DataFrame(columns=["teacher", "student", "sent"]), accuracy, tmp_path / "graph.png")
    drawn[0].draw_without_rendering()
    boxes = [text.get_window_extent() for text in drawn[0].axes[0].texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_needs_its_extra(monkeypatch):
    monkeypatch.delattr(policykd, "CooperativeDistillation", raising=False)
    for name in [name for name in sys.modules if name.startswith("policykd.cooperation")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(policykd.PolicyKDError, match=r"^cooperative: sklearn is needed .*policykd\[cooperative\]"):
        _ = policykd.CooperativeDistillation


def test_half_experts_small():
    """Case a with four classes."""
    learners, own, held = digit_experts(seed=0, classes=4)
    before, after = before_and_after(CooperativeDistillation(learners).fit(own, held))
    assert (after > before + 0.15).all()


def test_different_learners_and_features():
    """Case b, the first of its seeds."""
    learners, own, held = digit_halves(seed=0)
    before, after = before_and_after(CooperativeDistillation(learners).fit(own, held))
    assert after["mlp"] > before["mlp"] + 0.2 and after["tree"] > before["tree"] + 0.1


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_half_expert_improves(seed):
    learners, own, held = digit_experts(seed)
    before, after = before_and_after(CooperativeDistillation(learners, random_state=seed).fit(own, held))
    assert len(after) == 10 and (after > before).all()


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_both_halves_improve(seed):
    learners, own, held = digit_halves(seed)
    before, after = before_and_after(CooperativeDistillation(learners, random_state=seed).fit(own, held))
    assert (after > before).all()
