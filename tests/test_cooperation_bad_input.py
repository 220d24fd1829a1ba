"""What a user may get wrong with cooperative distillation ends in one line that says what, where and what to do."""

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("joblib")

from cooperating import COLOURS, clouds
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from policykd.cooperation.cooperative import CooperativeDistillation
from policykd.cooperation.tables import Dataset
from policykd.cooperation.torch_classifier import TorchClassifier
from policykd.core.errors import PolicyKDError

TABLE, LABELS = clouds(30)
TREE = DecisionTreeClassifier()
GOOD = (TABLE, LABELS)
ARRAY = TABLE.to_numpy()


def with_hole(value):
    table = TABLE.copy()
    table.loc[3, "x2"] = value
    return table


class Odd(DecisionTreeClassifier):
    """Tells no probabilities that could be used."""

    def predict_proba(self, X, check_input=True):
        return np.full((len(X), len(self.classes_)), np.nan)


class Broken(DecisionTreeClassifier):
    """Fits, and then answers nothing."""

    def predict_proba(self, X, check_input=True):
        raise RuntimeError("two\nlines")


def misshapen(features, classes):
    return nn.Linear(features + 1, classes)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ([GOOD], "2 learners need as many data sets, got 1"),
        ([GOOD, TABLE], "data of 'DecisionTreeClassifier_2': needs (features, labels) or a Dataset, got DataFrame"),
        ([GOOD, (TABLE, LABELS[:-1])], "data of 'DecisionTreeClassifier_2': 30 rows but 29 labels"),
        ([GOOD, Dataset(TABLE, LABELS, instances=[1, 2])], "30 rows but 2 instances"),
        ([GOOD, (TABLE.add_prefix("other_"), LABELS)], "shares no feature name with any other learner's data"),
        ([GOOD, (with_hole(np.nan), LABELS)], "feature 'x2' has missing or infinite values"),
        ([GOOD, (with_hole(np.inf), LABELS)], "feature 'x2' has missing or infinite values"),
        ([GOOD, (TABLE.assign(x2="word"), LABELS)], "feature 'x2' is not numeric: one-hot encode it"),
        ([GOOD, (TABLE, np.arange(30))], "labels are numbers in one data set but strings in another"),
        ([GOOD, (TABLE, [None, *LABELS[1:]])], "some labels are missing"),
        ([GOOD, (TABLE, None)], "labels must be one per row, and at least one, got ()"),
        ([GOOD, (TABLE, "a")], "labels must be one per row, and at least one, got ()"),
        ([GOOD, (pd.concat([TABLE, TABLE["x1"]], axis=1), LABELS)], "9 columns need as many different names, got 8"),
        ([GOOD, (TABLE[:0], LABELS[:0])], "labels must be one per row, and at least one"),
        ([GOOD, (ARRAY, LABELS)], "columns are matched by name: give DataFrames, or Dataset(..., names=...)"),
        ([(ARRAY, LABELS), (ARRAY[:, :3], LABELS)], "columns are matched by name"),
        ([GOOD, Dataset(ARRAY, LABELS, names=["x0", "x0"])], "8 columns need as many different names, got 1"),
        ([GOOD, (TABLE.assign(teacher=1.0), LABELS)], "teacher cannot name a feature"),
        ([GOOD, (ARRAY[0], LABELS)], "features must be (rows, columns), got (8,)"),
        ({"a": GOOD, "b": GOOD}, "needs one data set for each of DecisionTreeClassifier_1"),
    ],
)
def test_data(datasets, message):
    refused(message, lambda: CooperativeDistillation([TREE, TREE]).fit(datasets))


def refused(message, job):
    with pytest.raises(PolicyKDError) as error:
        job()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("learners", "message"),
    [
        ([TREE], "learners: needs two or more with different names, got DecisionTreeClassifier"),
        ([("a", TREE), ("a", TREE)], "two or more with different names"),
        ([TREE, "tree"], "learner 'str': needs fit and predict_proba, got 'tree'"),
        ([TREE, nn.Sequential(nn.Linear(8, 3))], "learner 'Sequential': needs fit and predict_proba, got Sequential("),
        ([TREE, DecisionTreeClassifier], "needs fit and predict_proba"),
        (RandomForestClassifier(), "learners: needs two or more in a list or by name, got RandomForestClassifier()"),
        ([TREE, Broken()], "learner 'Broken': its predict_proba failed: two lines"),
        ([TREE, TorchClassifier(misshapen)], "learner 'TorchClassifier': its fit failed: mat1 and mat2"),
        ([TREE, TorchClassifier(nn.Linear(8, 3))], "its fit failed: network: got a module: pass a function of"),
        ([TREE, TorchClassifier(lambda features, classes: None)], "its fit failed: network: must give a torch module"),
        ([TREE, LinearSVC()], "learner 'LinearSVC': LinearSVC has no predict_proba and classes_: choose one that does"),
        ([TREE, Odd()], "learner 'Odd': predict_proba gave (30, 3) or values that are not finite"),
        ([TREE, DecisionTreeClassifier(max_depth=-1)], "learner 'DecisionTreeClassifier_2': its fit failed"),
    ],
)
def test_learners(learners, message):
    refused(message, lambda: CooperativeDistillation(learners).fit([GOOD, GOOD]))


def test_a_learner_with_one_class_only():
    only = LABELS == "a"
    learners = {"tree": TREE, "line": LogisticRegression()}
    data = [GOOD, (TABLE[only], LABELS[only])]
    refused("learner 'line': its fit failed", lambda: CooperativeDistillation(learners).fit(data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "config: rounds=0 must be an integer >= 1"),
        ({"one_hot": [0, 1]}, "must be a list of groups, each a list of feature names"),
        ({"one_hot": ["red", "blue"]}, "must be a list of groups, each a list of feature names"),
        ({"search_steps": 1.5}, "config: search_steps=1.5 must be int"),
        ({"sparsity": None}, "config: sparsity=None must be float"),
        ({"rounds": 1.5}, "config: rounds=1.5 must be an integer >= 1"),
        ({"rounds": "2"}, "config: rounds='2' must be an integer >= 1"),
        ({"n_jobs": 0}, "config: n_jobs=0 must be None or a nonzero integer"),
        ({"random_state": -1}, "config: random_state=-1 must be an integer >= 0"),
        ({"random_state": None}, "config: random_state=None must be an integer >= 0"),
        ({"alpha": 2.0}, "config: alpha=2.0 must lie in [0, 1]"),
        ({"share": "rows"}, "config: share='rows' must be one of counterfactuals, instances, teacher_labels"),
        ({"one_hot": [["colour=blu"]]}, "one_hot: no learner has a feature 'colour=blu'; nearest: colour=blue"),
        ({"one_hot": [["x0", "x1"]]}, "do not have exactly one 1 in x0, x1"),
    ],
)
def test_settings(changes, message):
    refused(message, lambda: CooperativeDistillation([TREE, TREE], **changes).fit([GOOD, GOOD]))


def test_one_hot_groups_are_had_whole_or_not_at_all():
    part = (TABLE.drop(columns=["colour=red"]), LABELS)
    cooperation = CooperativeDistillation([TREE, TREE], one_hot=[COLOURS])
    refused(
        "has 'colour=blue' without ['colour=red']: give it all of them or none", lambda: cooperation.fit([GOOD, part])
    )


def test_validation_data():
    cooperation = CooperativeDistillation([TREE, TREE])
    lacking = (TABLE.drop(columns="x1"), LABELS)
    refused(
        "validation of 'DecisionTreeClassifier_2': no feature 'x1'",
        lambda: cooperation.fit([GOOD] * 2, [GOOD, lacking]),
    )
    refused("validation: 2 learners need as many data sets, got 1", lambda: cooperation.fit([GOOD] * 2, [GOOD]))
    refused("got DataFrame: give one for each learner", lambda: cooperation.fit([GOOD] * 2, GOOD))
    refused("validation: got one Dataset: give one for each", lambda: cooperation.fit([GOOD] * 2, Dataset(*GOOD)))
    other_kind = (TABLE, np.arange(30) % 3)
    refused("validation: labels are numbers, but strings in", lambda: cooperation.fit([GOOD] * 2, [other_kind] * 2))


def test_whole_numbers_of_numpy_are_numbers():
    cooperation = CooperativeDistillation(
        [TREE, TREE], rounds=np.int64(1), random_state=np.int64(3), n_jobs=np.int64(1)
    )
    assert len(cooperation.fit([GOOD, GOOD]).lessons_) == 2


def test_numbers_among_objects_stay_numbers():
    numbers = np.arange(30) % 3
    cooperation = CooperativeDistillation([TREE, TREE])
    cooperation.fit([(TABLE, numbers.astype(object))] * 2, [(TABLE, numbers)] * 2)
    assert (cooperation.accuracy_["validation"] == 1).all()
    assert cooperation.learners_["DecisionTreeClassifier_1"].classes_.dtype.kind == "i"


def test_arrays_of_equal_width_need_no_names():
    cooperation = CooperativeDistillation([TREE, TREE]).fit([(ARRAY[:20], LABELS[:20]), (ARRAY[10:], LABELS[10:])])
    assert (cooperation.lessons_["shared_features"] == 8).all()
    named = [Dataset(ARRAY, LABELS, names=list(TABLE)), (pd.DataFrame(TABLE[::-1][["x3", "x0"]]), LABELS[::-1])]
    cooperation = CooperativeDistillation([TREE, TREE]).fit(named)
    assert (cooperation.lessons_["shared_features"] == 2).all()
