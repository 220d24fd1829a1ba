import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from policykd.core.errors import PolicyKDError
from policykd.measure import pictures, plots
from policykd.measure.pictures import Panel, Series, fidelity_picture, seed_panels
from policykd.measure.plots import (
    LABEL_GAP,
    Curve,
    _line_style,
    _spread,
    _standard_error,
    comparison_grid,
    learning_curves,
)


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
    looks = [_line_style(index) for index in range(9)]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 9


def test_refuses_no_curves(tmp_path):
    with pytest.raises(PolicyKDError, match="nothing to draw"):
        learning_curves([], tmp_path / "a.png", title="none")
    assert not list(tmp_path.iterdir())


# What a reader sees


@pytest.fixture
def drawn(monkeypatch):
    """Figures instead of files."""
    figures = []

    def keep(figure, path, **options):
        figure.draw_without_rendering()
        figures.append(figure)
        return path

    monkeypatch.setattr(plots, "save_figure", keep)
    monkeypatch.setattr(pictures, "save_figure", keep)
    return figures


def test_steps_are_whole_and_those_of_a_group(drawn):
    learning_curves([Curve("a", np.arange(2), np.ones((2, 3)))], "x.png", title="x")
    (axes,) = drawn[0].axes
    assert axes.get_xlabel() == "environment steps of a group"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1"]


def test_a_picture_says_whose_steps_and_what_its_means_are_over(drawn):
    curves = [Curve("a", np.arange(2), np.ones((2, 3)))]
    learning_curves(curves, "x.png", title="x", xlabel="environment steps of a student", over="seeds")
    assert drawn[0].axes[0].get_xlabel() == "environment steps of a student"
    assert drawn[0].texts[-1].get_text() == "Line: mean over the 3 seeds. Band: one standard error to each side."


@pytest.mark.filterwarnings("error")
def test_a_learner_that_diverged_is_named_where_it_was_last_finite(drawn):
    late, never = np.arange(15.0).reshape(5, 3), np.full((5, 3), np.nan)
    late[2:] = np.nan
    steps = np.arange(1, 6) * 1000
    learning_curves([Curve("late", steps, late), Curve("never", steps, never), curve("good")], "x.png", title="x")
    labels = {text.get_text(): text for text in drawn[0].axes[0].texts}
    assert set(labels) == {"late: ends in nan", "never: ends in nan", "good"}
    assert labels["late: ends in nan"].xy == (2000, 4.0)
    assert all(np.isfinite(text.xyann).all() and np.isfinite(text.xy).all() for text in labels.values())


def test_names_are_shown_as_they_are(drawn):
    name = r"_100% $\foo$"
    learning_curves([curve(name)], "a.png", title=name, threshold=0.0, mark=name)
    comparison_grid([(name, {"a": (np.arange(3), np.zeros((3, 1)))})], "b.png", title=name)
    texts = [[text.get_text() for text in figure.findobj(Text)] for figure in drawn]
    assert [each.count(name) for each in texts] == [2, 2] and f"{name} 0" in texts[0]


@pytest.mark.parametrize("level", [1e6, 1e300])
def test_the_power_of_ten_of_an_axis_stands_left_of_the_title(drawn, level):
    learning_curves([curve("a", level=level)], "x.png", title="a title of some length")
    power = drawn[0].axes[0].yaxis.get_offset_text()
    assert power.get_text()
    assert power.get_window_extent().x1 <= drawn[0].texts[0].get_window_extent().x0


def test_a_comparison_of_one_evaluation_shows_points(drawn):
    comparison_grid([("task", {"a": (np.array([9]), np.zeros((1, 3)))})], "x.png", title="x", columns=1)
    assert drawn[0].axes[0].lines[0].get_marker() == "o"


def test_legends_cover_nothing(drawn):
    sides = {f"peer {k}": (np.arange(3), np.full((3, 1), k)) for k in range(13)}
    comparison_grid([("task", sides)], "x.png", title="x", columns=1)
    full = {name: 1.0 for name in ("agreement", "accuracy")}
    measures = {split: {who: full for who in ("student", "teacher")} for split in ("train", "test")}
    fidelity_picture(measures, {name: "share" for name in full}, "x.png")
    assert drawn[1].get_suptitle() == "Fidelity: student beside the teacher"
    for figure in drawn:
        (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
        assert not any(legend.get_window_extent().overlaps(axes.bbox) for axes in figure.axes)
        assert not legend.get_window_extent().overlaps(figure._suptitle.get_window_extent())
    assert [text.get_text() for text in legend.get_texts()] == ["student", "teacher"]


@pytest.mark.parametrize(("seeds", "caption"), [(1, "steps"), (2, "steps   (large: mean; small: each seed)")])
def test_a_caption_speaks_of_seeds_where_there_are_several(drawn, seeds, caption):
    seed_panels([Panel("x", "x", "y", {"a": Series([1, 2], np.zeros((2, seeds)))})], "x.png", "x", "steps")
    assert drawn[0].get_supxlabel() == caption
