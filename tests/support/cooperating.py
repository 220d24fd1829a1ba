"""Small data and learners for the tests of cooperative distillation."""

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

from policykd.cooperation.tables import Dataset
from policykd.cooperation.torch_classifier import TorchClassifier

COLOURS = ["colour=blue", "colour=green", "colour=red"]


def clouds(n, seed=0):
    """Numbers x0 to x3 that tell the class, a one-hot colour that tells some of it, and a constant; and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    table = pd.DataFrame(rng.normal(size=(n, 4)) * 0.6, columns=["x0", "x1", "x2", "x3"])
    table["x0"] += 2.0 * labels
    table["x1"] -= 300.0 * labels  # a feature of another scale
    colour = np.where(rng.random(n) < 0.7, labels, rng.integers(3, size=n))
    for place, name in enumerate(COLOURS):
        table[name] = (colour == place).astype(float)
    table["constant"] = 5.0
    return table, np.array(["a", "b", "c"])[labels]


def two_owners(seed=0):
    """Owners of overlapping features; the first has never seen class a, the second never class c."""
    table, labels = clouds(90, seed)
    half = np.arange(90) < 45
    first, second = half & (labels != "a"), ~half & (labels != "c")
    mine = table.drop(columns=["x3"])
    theirs = table.drop(columns=["x2"])
    return [(mine[first], labels[first]), (theirs[second], labels[second])], [(table, labels)] * 2


def tiny_learners():
    """A network and a tree that take no time."""
    return {"net": TorchClassifier(widths=(8,), epochs=25, learning_rate=0.02), "tree": DecisionTreeClassifier()}


def digit_halves(seed):
    """The issue's case b: an MLP and a tree on half-overlapping columns of digits, each without three classes."""
    inputs, labels = load_digits(return_X_y=True)
    names = [f"row{row}_column{column}" for row in range(8) for column in range(8)]
    pixels = pd.DataFrame(inputs, columns=names)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    own, held = [], []
    for columns, missing in ((range(6), (0, 1, 2)), (range(2, 8), (7, 8, 9))):
        rows = train[~np.isin(labels[train], missing)]
        seen = pixels[[name for name in names if int(name[-1]) in columns]]
        own.append(Dataset(seen.iloc[rows], labels[rows], instances=rows.tolist()))
        held.append((seen.iloc[test], labels[test]))
    return {"mlp": TorchClassifier(epochs=30), "tree": DecisionTreeClassifier()}, own, held


def digit_experts(seed, classes=10):
    """The issue's case a: an MLP for each class, which has never seen it; all rows of the others are shared."""
    inputs, labels = load_digits(n_class=classes, return_X_y=True)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    own = []
    for missing in range(classes):
        rows = train[labels[train] != missing]
        own.append(Dataset(inputs[rows], labels[rows], instances=rows.tolist()))
    learners = {f"without_{k}": TorchClassifier(epochs=30) for k in range(classes)}
    return learners, own, [(inputs[test], labels[test])] * classes


def before_and_after(cooperation):
    """Validation accuracy by learner before the first and after the last round."""
    table = cooperation.accuracy_.pivot(index="learner", columns="round", values="validation")
    return table[0], table[table.columns.max()]
