"""A distilled network as a scikit-learn classifier."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from policykd import PolicyKDError
from policykd.classification.estimator import DistilledClassifier
from policykd.cooperation.torch_classifier import TorchClassifier
from policykd.distillation.supervised.config import HintonConfig

X, CODES = load_wine(return_X_y=True)
Y = np.array(["red", "white", "green"])[CODES]
FAST = {"config": {"epochs": 10, "batch_size": 8}, "teacher_epochs": 5, "random_state": 0, "device": "cpu"}


def test_it_learns_labels_that_are_words_and_is_repeatable():
    model = DistilledClassifier(**FAST).fit(X, Y)
    assert model.classes_.tolist() == ["green", "red", "white"] and model.score(X, Y) > 0.9
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (178, 3) and np.allclose(probabilities.sum(1), 1)
    assert (model.predict(X) == model.classes_[probabilities.argmax(1)]).all()
    again = pickle.loads(pickle.dumps(DistilledClassifier(**FAST).fit(X, Y)))
    assert np.array_equal(again.predict_proba(X), probabilities)
    other = DistilledClassifier(**{**FAST, "random_state": 1}).fit(X, Y)
    assert not np.array_equal(other.predict_proba(X), probabilities)


def test_it_is_a_part_of_pipelines():
    pipeline = make_pipeline(MinMaxScaler(), DistilledClassifier(**FAST))
    assert cross_val_score(pipeline, X, Y, cv=2).mean() > 0.8


def test_a_forest_teaches_and_its_classes_must_be_those_of_the_labels():
    forest = RandomForestClassifier(20, random_state=0)
    alone = {**FAST, "config": {"epochs": 20, "batch_size": 16, "alpha": 1.0}}
    unfitted = DistilledClassifier(forest, **alone).fit(X, Y)
    assert not hasattr(forest, "classes_")
    forest.fit(X, Y)
    fitted = DistilledClassifier(forest, **alone).fit(X, Y)
    assert np.array_equal(unfitted.predict_proba(X), fitted.predict_proba(X))
    assert (fitted.predict(X) == forest.predict(X)).mean() > 0.9
    forest.classes_ = forest.classes_[::-1]  # what its columns mean, not where they stand, is taught
    turned = DistilledClassifier(forest, **alone).fit(X, Y)
    assert (turned.predict(X) == forest.predict(X)).mean() > 0.9
    with pytest.raises(PolicyKDError, match="classes: class 0 is '0' for the labels and 'green' for the teacher"):
        DistilledClassifier(forest, **FAST).fit(X, CODES)


def test_a_teacher_is_asked_about_the_very_rows():
    """Scaled and scaled back, 3 / 7 is a category that no encoder has seen, and a column has lost its name."""
    table = pd.DataFrame({"grade": np.arange(210) % 7 / 7, "more": np.arange(210.0)})
    labels = np.where(table["grade"] > 0.5, "high", "low")
    teacher = make_pipeline(make_column_transformer((OneHotEncoder(), ["grade"])), LogisticRegression())
    alone = {**FAST, "config": {"epochs": 10, "batch_size": 8, "alpha": 1.0}}
    unfitted = DistilledClassifier(teacher, **alone).fit(table, labels)
    fitted = DistilledClassifier(teacher.fit(table, labels), **alone).fit(table, labels)
    assert fitted.score(table, labels) > 0.9
    assert np.array_equal(fitted.predict_proba(table), unfitted.predict_proba(table))
    with pytest.raises(PolicyKDError, match="mixup: a scikit-learn teacher cannot label mixed rows"):
        DistilledClassifier(teacher, config={"mixup": 1.0, "alpha": 1.0}).fit(table, labels)


def test_random_state_seeds_a_teacher_that_leaves_its_own_unset():
    first, second = (DistilledClassifier(RandomForestClassifier(3), **FAST).fit(X, Y) for _ in range(2))
    assert np.array_equal(first.predict_proba(X), second.predict_proba(X))


def test_a_column_of_one_value_is_not_scaled_by_its_rounding():
    """150 times 0.1 have a standard deviation of 3e-17 by rounding: 0.2 would be read as 4e15."""
    rows = np.column_stack((X[:150, 0], np.full(150, 0.1)))
    assert rows.std(0)[1] > 0
    for model in (DistilledClassifier(**FAST), TorchClassifier(epochs=1)):
        model.fit(rows, Y[:150])
        assert model.std_[0] == pytest.approx(rows[:, 0].std()) and model.std_[1] == 1


def test_what_cannot_be_learned_is_one_line():
    with pytest.raises(PolicyKDError, match="labels: one class only, red"):
        DistilledClassifier(**FAST).fit(X, np.full(178, "red"))
    for name in ("teacher", "student"):
        with pytest.raises(PolicyKDError, match=r"expected a function of \(features, classes\) .*, got Linear"):
            DistilledClassifier(**{name: nn.Linear(13, 3)}, **FAST).fit(X, Y)
    with pytest.raises(PolicyKDError, match="teacher: LinearSVC has no predict_proba: choose one that does"):
        DistilledClassifier(LinearSVC(), **FAST).fit(X, Y)
    for config, line in (({"lr": 1}, "unknown key 'lr'"), (HintonConfig(), "changed settings as a dict, got Hinton")):
        with pytest.raises(PolicyKDError, match=line):  # before a teacher is made
            DistilledClassifier(lambda *sizes: pytest.fail("trained"), **{**FAST, "config": config}).fit(X, Y)
    own = DistilledClassifier(lambda f, c: nn.Linear(f, c), lambda f, c: nn.Linear(f, c), **FAST).fit(X, Y)
    assert isinstance(own.network_, nn.Linear)


@pytest.mark.nightly
@parametrize_with_checks([DistilledClassifier(random_state=0, device="cpu")])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)
