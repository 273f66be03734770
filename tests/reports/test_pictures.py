"""Pictures stay small and legible with any content."""

from __future__ import annotations

import time
import warnings

import matplotlib.image
import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from ecgexp.reports.ecg import ecg_figure
from ecgexp.reports.evaluation import calibration_bins, reliability_figure
from ecgexp.reports.figures import MOST_PIXELS, confusion_figure, heat_map, learning_curves, plain, save_figure
from ecgexp.reports.search import pareto_front, search_figures
from ecgexp.reports.trial import write_confusion
from ecgexp.targets import MultiLabel
from ecgexp.training.predictions import Predictions

LABELS = pytest.mark.parametrize("labels", [2, 30, 300])
LONG = "a rather long setting, as a list is: {}"
NAMES = pytest.mark.parametrize("name", ["L{}", "an exceedingly long name of a label, as diagnoses have, number {}"])


def pixels(figure, tmp_path, **how):
    save_figure(figure, tmp_path / "picture.png", 130, **how)
    return matplotlib.image.imread(tmp_path / "picture.png").shape[:2]


def drawn_by(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def inside(figure):
    """Whether no text reaches out of a figure."""
    renderer, page = drawn_by(figure), figure.bbox
    drawn = [axes for axes in figure.axes if axes.images]
    texts = [text for axes in drawn for text in (axes.title, axes.xaxis.label, axes.yaxis.label)]
    texts += [text for axes in drawn for axis in (axes.xaxis, axes.yaxis) for text in axis.get_ticklabels()]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text() and text.get_visible()]
    return all(box.x0 > -3 and box.y0 > -3 and box.x1 < page.width + 3 and box.y1 < page.height + 3 for box in boxes)


def table(labels, name):
    counts = np.random.default_rng(0).integers(0, 50, (labels + 1, labels + 1))
    names = [name.format(number) for number in range(labels)]
    return pd.DataFrame(counts, index=[*names, "NTL"], columns=[*names, "NPL"])


@pytest.mark.slow
@LABELS
@NAMES
def test_a_confusion_matrix_is_bounded_and_legible(labels, name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that the names leave no room for the cells
        figure = confusion_figure(table(labels, name), "MLCM")
        height, width = pixels(figure, tmp_path)
    assert 300 < height < 2500 and 300 < width < 2500
    (axes, *_) = figure.axes
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert 3 <= len(shown) <= labels + 1 and shown[0] == plain(name.format(0))
    assert len(axes.texts) == ((labels + 1) ** 2 if labels < 25 else 0)
    assert inside(figure)


@pytest.mark.slow
def test_a_confusion_matrix_of_300_labels_takes_seconds(tmp_path):
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(200, 300, generator=generator) < 0.02).int()
    begun = time.process_time()
    names = list(map(str, range(300)))
    probabilities = torch.rand(200, 300, generator=generator).numpy()
    predictions = Predictions(np.arange(200).astype(str), targets.numpy(), probabilities, MultiLabel(names), None)
    write_confusion(tmp_path, "val", predictions)
    assert time.process_time() - begun < 30
    assert pd.read_csv(tmp_path / "mlcm_val.csv").shape == (301, 302)  # of which all is in the table beside it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "keys", "value"),
    [
        ((1, 1), 1, "{}"),
        ((2, 2), 5, "{}"),
        ((2, 2), 5, LONG),
        ((300, 1), 1, "{}"),
        ((2, 300), 2, LONG),
        ((300, 300), 5, LONG),
    ],
)
def test_a_heat_map_is_bounded_and_legible(shape, keys, value, tmp_path):
    axes = [
        pd.MultiIndex.from_tuples(
            [(value.format(number), *["same"] * (keys - 1)) for number in range(size)],
            names=[f"some.configuration.key_{number}" for number in range(keys)],
        )
        for size in shape
    ]
    grid = pd.DataFrame(np.random.default_rng(0).random(shape), index=axes[0], columns=axes[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = heat_map((grid, "val/loss"))
        assert max(pixels(figure, tmp_path)) < 4000
    (drawn, *_) = figure.axes
    for name in grid.index.names:
        assert plain(name, 40) in drawn.get_ylabel() and plain(name, 40) in drawn.get_xlabel()
    assert inside(figure)


def test_panels_of_a_heat_map_have_colours_of_their_own_and_are_bounded(tmp_path):
    grid = pd.DataFrame([[0.1, 0.2], [0.3, 0.4]], index=["a", "b"], columns=["c", "d"])
    figure = heat_map((grid, "one"), (10 * grid, "two"))
    ranges = [image.get_clim() for axes in figure.axes for image in axes.images]
    assert ranges == [pytest.approx((0.1, 0.4)), pytest.approx((1, 4))]
    many = heat_map(*[(grid, f"set {number}") for number in range(100)])
    assert max(pixels(many, tmp_path)) < 4000
    drawn = sum(bool(axes.images) for axes in many.axes)
    last = [axes.get_title() for axes in many.axes if axes.images][-1]
    assert last == f"set {drawn - 1} ({100 - drawn} further panels are not drawn)"


@pytest.mark.parametrize("labels", [2, 300])
@NAMES
def test_a_reliability_plot_is_bounded(labels, name, tmp_path):
    rng = np.random.default_rng(0)
    names = [name.format(number) for number in range(labels)]
    bins = calibration_bins(rng.random((50, labels)), rng.random((50, labels)) < 0.5, names)
    figure = reliability_figure(bins, 0.1, "Reliability")
    assert max(pixels(figure, tmp_path)) < 1000
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["perfect", *([plain(one) for one in names] if labels == 2 else []), "all labels"]


@pytest.mark.slow
@pytest.mark.parametrize(("leads", "seconds"), [(2, 1), (30, 40)])
def test_a_printed_ecg_is_bounded_and_names_what_is_left_out(leads, seconds, tmp_path):
    names = [f"lead with a long name {number}" for number in range(leads)]
    title = "record:  " + ", ".join(f"LABEL{number}" for number in range(300)) + "\nNORM 0.93\nresampled"
    signal = np.random.default_rng(0).normal(size=(seconds * 100, leads))
    figure = ecg_figure(signal, 100, names, title, "not for diagnosis")
    assert max(pixels(figure, tmp_path)) < MOST_PIXELS
    texts = [text.get_text() for text in figure.texts]
    foot = next(text for text in texts if text.endswith("not for diagnosis"))
    assert ("first 16 of" in foot) is (leads > 16) and ("first 30 s of 40 s" in foot) is (seconds == 40)
    assert any(text.endswith("…") for text in texts) and texts.index("NORM 0.93") < texts.index("resampled")
    renderer = drawn_by(figure)
    assert all(text.get_window_extent(renderer).x1 < figure.bbox.width for text in figure.texts)


def test_names_are_no_formulas_and_none_is_left_out_of_a_legend(tmp_path):
    assert plain("a\nb  c") == "a b c"
    assert plain("left bundle branch block, incomplete, transient") == "left bundle branch…transient"
    names = ["$x^$", "_hidden", "100 $"]
    figure = confusion_figure(table(3, "{}").set_axis([*names, "NTL"]).set_axis([*names, "NPL"], axis=1), "three names")
    pixels(figure, tmp_path)
    bins = calibration_bins(np.full((2, 3), 0.5), np.ones((2, 3)), names)
    reliability = reliability_figure(bins, 0.1, "Reliability")
    pixels(reliability, tmp_path)
    assert len(reliability.axes[0].get_legend().get_texts()) == 5


def test_learning_curves_of_many_epochs_are_bounded(tmp_path):
    history = [{"train/loss": 1 / (epoch + 1), "val/loss": 2 / (epoch + 1)} for epoch in range(3000)]
    assert max(pixels(learning_curves(history, "f1/a $ label", 5), tmp_path)) < 1300


# --- searches


def study(directions, values, reported=(), keys=2, choice="adam"):
    found = optuna.create_study(directions=directions)
    for number, value in enumerate(values):
        kinds = {
            f"some.key_{key}": CategoricalDistribution([choice, "sgd"]) if key % 2 else FloatDistribution(0, 1)
            for key in range(keys)
        }
        params = {key: choice if isinstance(kind, CategoricalDistribution) else number / len(values)
                  for key, kind in kinds.items()}  # fmt: skip
        steps = dict(enumerate(reported[number], start=1)) if reported else {}
        found.add_trial(create_trial(values=list(value), params=params, distributions=kinds, intermediate_values=steps))
    return found


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize(
    ("directions", "first"),
    [
        (["minimize", "minimize"], [1, 5, 9]),
        (["maximize", "maximize"], [9, 5, 1]),
        (["minimize", "maximize"], [1]),
    ],
)
def test_the_pareto_front_begins_with_the_best_by_the_first_objective(directions, first):
    found = pareto_front(study(directions, [(5.0, 5.0), (1.0, 9.0), (9.0, 1.0)]))
    assert [trial.values[0] for trial in found] == first


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_what_trials_reported_is_cut_off_on_the_worse_side_only(direction):
    sign = 1 if direction == "minimize" else -1
    losses = [0.3, 0.31, 0.32, 0.4, 0.5, 0.6, 0.7, 0.9, 1.2, 5e7]
    made = study([direction], [[sign * loss] for loss in losses], [[sign * loss] for loss in losses])
    drawn = {}
    for name, figure, caption in search_figures(made, ["objective"], "monitor"):
        low, high = figure.axes[0].get_ylim()
        drawn[name] = sign * low, sign * high, caption
    ends = sorted(drawn["reports"][:2])
    assert ends[0] < 0.3 and 0.9 <= ends[1] < 1.3
    assert drawn["reports"][2].endswith("(cut off above)" if direction == "minimize" else "(cut off below)")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "choice"), [(30, "adam"), (2, "one of the choices is a whole list of settings, such as this one " * 20)]
)
def test_pictures_of_a_search_are_bounded(keys, choice, tmp_path):
    made = study(["minimize"], [[float(number)] for number in range(8)], keys=keys, choice=choice)
    names = set()
    for name, figure, caption in search_figures(made, ["objective"], "monitor"):
        assert max(pixels(figure, tmp_path, bbox_inches="tight")) < 4500
        assert ("first 12 of 30 keys" in caption) is (keys == 30 and name in ("slices", "parallel", "importances"))
        names.add(name)
    assert names == {"history", "importances", "slices", "parallel"}


@pytest.mark.slow
def test_no_picture_has_more_pixels_than_it_may(tmp_path):
    figure = learning_curves([{"train/loss": 1.0}], "loss", None)
    figure.set_size_inches(300, 2)
    assert max(pixels(figure, tmp_path)) <= MOST_PIXELS
    figure.set_size_inches(3, 2)
    figure.text(0.5, 0.5, "long " * 2000)
    assert max(pixels(figure, tmp_path, bbox_inches="tight")) <= MOST_PIXELS + 100
