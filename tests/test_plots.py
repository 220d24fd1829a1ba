import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from policykd.core.errors import PolicyKDError
from policykd.measure.plots import LABEL_GAP, Curve, _look, _spread, _standard_error, comparison_grid, learning_curves


def curve(label: str, evaluations: int = 5, episodes: int = 3, level: float = 0.0) -> Curve:
    returns = np.random.default_rng(0).normal(level, 1.0, (evaluations, episodes))
    return Curve(label, np.arange(1, evaluations + 1) * 1000, returns)


def test_writes_one_png_without_pyplot_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "new" / "curves.png"
    backend = matplotlib.rcParams["backend"]
    assert learning_curves([curve("a"), curve("b")], path, title="two", threshold=0.5) == path
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]
    assert matplotlib.rcParams["backend"] == backend
    height, width, _ = imread(path).shape
    assert height > 500 and width > 900


def test_same_curves_give_the_same_picture_and_replace_the_old_file(tmp_path):
    path = tmp_path / "curves.png"
    learning_curves([curve("a")], path, title="one")
    first = imread(path)
    learning_curves([curve("a", level=9.0)], path, title="one")
    assert not np.array_equal(first, imread(path))
    learning_curves([curve("a")], path, title="one")
    np.testing.assert_array_equal(first, imread(path))


@pytest.mark.parametrize("threshold", [None, -3.0])
@pytest.mark.parametrize(("evaluations", "episodes"), [(1, 1), (1, 4), (6, 1)])
def test_draws_what_is_short(tmp_path, evaluations, episodes, threshold):
    path = learning_curves([curve("a", evaluations, episodes)], tmp_path / "a.png", title="short", threshold=threshold)
    assert np.isfinite(imread(path)).all()


def test_standard_error_of_known_rows():
    np.testing.assert_allclose(_standard_error(np.array([[1.0, 3.0], [5.0, 5.0]])), [1.0, 0.0])
    np.testing.assert_array_equal(_standard_error(np.array([[1.0], [2.0]])), [0.0, 0.0])


def test_labels_keep_their_order_and_a_gap():
    heights = [0.5, 0.51, 0.5, 0.9, 0.0, 0.86]
    places = np.array(_spread(heights))
    assert np.diff(np.sort(places)).min() >= LABEL_GAP - 1e-9
    np.testing.assert_array_equal(np.argsort(places), np.argsort(heights, kind="stable"))
    assert places[4] == 0.0


@pytest.mark.parametrize(
    ("steps", "returns"),
    [
        (np.arange(3), np.zeros((2, 4))),
        (np.arange(0), np.zeros((0, 4))),
        (np.arange(2), np.zeros((2, 0))),
        (np.arange(2), np.zeros(2)),
    ],
)
def test_refuses_shapes_that_do_not_fit(steps, returns):
    with pytest.raises(PolicyKDError, match=r"'peer 1'.*neither empty"):
        Curve("peer 1", steps, returns)


def test_a_comparison_of_more_sides_than_colours(tmp_path):
    sides = {f"peer {k}": (np.arange(3), np.zeros((3, 1))) for k in range(9)}
    assert comparison_grid([("task", sides)], tmp_path / "grid.png", title="x", columns=1).exists()
    looks = [_look(index) for index in range(9)]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 9


def test_refuses_no_curves(tmp_path):
    with pytest.raises(PolicyKDError, match="nothing to draw"):
        learning_curves([], tmp_path / "a.png", title="none")
    assert not list(tmp_path.iterdir())
