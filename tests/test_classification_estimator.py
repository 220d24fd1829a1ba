"""A distilled network as a scikit-learn classifier."""

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from policykd import PolicyKDError
from policykd.classification.estimator import DistilledClassifier

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


def test_what_cannot_be_learned_is_one_line():
    with pytest.raises(PolicyKDError, match="labels: one class only, red"):
        DistilledClassifier(**FAST).fit(X, np.full(178, "red"))
    for name in ("teacher", "student"):
        with pytest.raises(PolicyKDError, match=r"expected a function of \(features, classes\) .*, got Linear"):
            DistilledClassifier(**{name: nn.Linear(13, 3)}, **FAST).fit(X, Y)
    own = DistilledClassifier(lambda f, c: nn.Linear(f, c), lambda f, c: nn.Linear(f, c), **FAST).fit(X, Y)
    assert isinstance(own.network_, nn.Linear)


@pytest.mark.nightly
@parametrize_with_checks([DistilledClassifier(random_state=0, device="cpu")])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)
