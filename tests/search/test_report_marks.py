"""What the marks of the report's figures mean: each stands for a value of a small report made by hand."""

from itertools import product

import matplotlib.colors
import numpy as np
import pytest

from search.report.figures import cost, curves, forest, groups, heat_map, hyperparameters, results
from search.report.figures.canvas import INK, errors, styled
from search.report.layout import COLOURS, MARKERS

AXES = {"dataset": ["d"], "initialization": ["random", "imagenet"], "resolution": [64, 32]}
VALUES = {("random", 32): 0.5, ("random", 64): 0.6, ("imagenet", 32): 0.7, ("imagenet", 64): 0.9}
HOURS = {("random", 32): 1.0, ("random", 64): 4.0, ("imagenet", 32): 2.0, ("imagenet", 64): 8.0}


def row(target, value, *, low=None, high=None, **more):
    return {"target": target, "metric": "auroc", "value": value, "low": low, "high": high, **more}


def cell(initialization, resolution):
    at = initialization, resolution
    value = VALUES[at]
    group = {"column": "sex", "group": "F", "cases": 9, "macro_over": 1, "targets": 1}
    return {
        "cell": "/".join(map(str, at)),
        "axes": {"dataset": "d", "initialization": initialization, "resolution": resolution},
        "validation": value,
        "test": [row("nodule", value), row("macro", value, low=value - 0.1, high=value + 0.05)],
        "subgroups": [row("macro", value - 0.01, low=value - 0.2, high=value, **group)],
        "record": {"gpu_seconds": 3600 * HOURS[at]},
    }


def trial(searched, seed, curve, state="COMPLETE"):
    named = {f"{epoch}": value for epoch, value in enumerate(curve, start=1)}
    about = {"cell": "random/32", "axes": cell("random", 32)["axes"], "searched": searched, "seed": seed}
    return {**about, "curve": named, "state": state}


def report(**more):
    cells = [cell(*at) for at in product(AXES["initialization"], AXES["resolution"])]
    metric = {"primary_metric": "val/auroc/macro", "direction": "maximize", "confidence": 0.95}
    return {"axes": AXES, "cells": cells, "trials": [], "targets": ["nodule"], **metric, **more}


@pytest.fixture
def drawn(monkeypatch):
    """Draws a kind of figure and returns the one figure and what is told of it."""

    def draw(kind, found):
        told = []
        monkeypatch.setattr(kind, "picture", lambda figure, **words: told.append((figure, words)))
        with styled():
            list(kind.draw(found))
        return told

    return draw


def markers(axes):
    """Return (x, y, marker, colour, face) of every single point that is marked."""
    lines = [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_marker() != "None"]
    return [
        (*(float(data[0]) for data in line.get_data()), line.get_marker(), line.get_color(), line.get_markerfacecolor())
        for line in lines
    ]


def bars(axes):
    """Return the ends of every drawn interval."""
    return {tuple(np.round(line.get_segments()[0].ravel(), 6)) for line in axes.collections}


def test_an_interval_reaches_from_its_low_to_its_high_end():
    assert errors({"value": 0.5, "low": 0.25, "high": 0.625}) == [[0.25], [0.125]]
    assert errors({"value": 0.5, "low": None, "high": None}) == [[0.0], [0.0]]


def test_results_stand_at_the_rank_of_their_resolution_with_their_interval(drawn):
    (figure, _), *_ = drawn(results, report())
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["32", "64"]
    by_colour = {colour: [y for x, y, _, c, _ in sorted(markers(axes)) if c == colour] for colour in COLOURS[:2]}
    assert set(by_colour[COLOURS[0]]) == {0.5, 0.6}  # the first of the file
    assert set(by_colour[COLOURS[1]]) == {0.7, 0.9}
    heights = sorted(bar[1::2] for bar in bars(axes))
    assert heights == [pytest.approx((v - 0.1, v + 0.05)) for v in sorted(VALUES.values())]
    assert {round(bar[0]) for bar in bars(axes)} == {0, 1}
    assert max(abs(bar[0] - round(bar[0])) for bar in bars(axes)) <= results.SPREAD / 2 + 1e-9


@pytest.mark.parametrize(
    ("holm", "difference", "colour"),
    [(0.01, 0.2, forest.HIGHER), (0.01, -0.2, forest.LOWER), (0.05, 0.2, forest.UNSURE), (None, 0.2, forest.UNSURE)],
)
def test_a_difference_is_coloured_where_it_is_certain_and_by_its_direction(drawn, holm, difference, colour):
    about = {"axis": "resolution", "value": "64", "against": "32", "pairs": 2, "dataset": "d", "context": "random"}
    known = {"difference": difference, "low": difference - 0.1, "high": difference + 0.1, "holm": holm}
    pair = {**about, **known, "benjamini_hochberg": 0.0004, "target": "macro"}
    other = {**pair, "target": "nodule", "difference": difference + 0.3}
    found = report(differences={"pairs": [pair], "averages": [pair, {**pair, "target": "mass"}, other]})
    (by_pair, _), (by_target, words) = drawn(forest, found)
    axes, numbers = by_pair.axes
    ((x, y, _, drawn_in, _),) = markers(axes)
    assert (x, y, drawn_in) == (difference, 0.0, colour)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["d  random"]
    signed = f"{difference:+.4f} ({difference - 0.1:+.4f} to {difference + 0.1:+.4f})"
    p = "–" if holm is None else f"{holm:.3f}".removeprefix("0")
    titles = ["difference (interval)", "p (BH)", "p (Holm)"]
    texts = [text.get_text() for text in numbers.texts]
    assert texts == [titles[0], signed, titles[1], "<.001", titles[2], p]
    assert [label.get_text() for label in by_target.axes[0].get_yticklabels()] == ["nodule (2)", "mass (2)"]
    assert words["name"] == "difference-resolution-64-32-by-target"


def test_a_mean_of_pairs_stands_below_them_as_a_diamond(drawn):
    about = {"axis": "resolution", "value": "64", "against": "32", "pairs": 2, "dataset": "d", "target": "macro"}
    known = {"difference": 0.1, "low": None, "high": None, "holm": 0.01, "benjamini_hochberg": 0.01}
    pairs = [{**about, **known, "context": context} for context in ("random", "imagenet")]
    (figure, _), *_ = drawn(forest, report(differences={"pairs": pairs, "averages": [{**about, **known}]}))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["d  random", "d  imagenet", "mean of 2 pairs"]
    assert [text.get_text() for text in figure.axes[1].texts][1:4] == ["+0.1000"] * 3  # there is no interval
    assert figure.axes[1].texts[5].get_text() == ".010"
    assert [marker for *_, marker, _, _ in sorted(markers(axes), key=lambda one: one[1])] == ["o", "o", "D"]


def test_the_colour_of_a_cell_in_the_map_says_above_or_below_the_mean_of_its_column(drawn):
    found = report()
    found["cells"][0]["test"][0]["value"] = None
    found["cells"].append({**cell("imagenet", 32), "test": []})  # it is not measured yet
    ((figure, _),) = drawn(heat_map, found)
    axes = figure.axes[0]
    shown = np.asarray(axes.images[0].get_array().filled(np.nan))
    macro = [0.6, 0.5, 0.9, 0.7]
    assert shown[:, 1] == pytest.approx(np.array(macro) - np.mean(macro))
    assert shown[1:, 0] == pytest.approx(np.array(macro[1:]) - np.mean(macro[1:]))  # one is undefined
    assert [text.get_text() for text in axes.texts][:2] == ["–", ".600"]
    for text, above in zip(axes.texts, shown.ravel(), strict=True):
        if not np.isnan(above):
            red, green, blue = axes.images[0].to_rgba(above)[:3]
            dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.4
            assert text.get_color() == ("white" if dark else "black")


@pytest.mark.parametrize(
    ("direction", "best"), [("maximize", {0.5, 0.7, 0.9}), ("minimize", {0.5})], ids=["larger", "smaller"]
)
def test_the_cells_that_nothing_cheaper_equals_are_filled(drawn, direction, best):
    ((figure, words),) = drawn(cost, report(direction=direction))
    axes = figure.axes[0]
    points = markers(axes)
    assert {(x, y) for x, y, *_ in points} == {(HOURS[at], VALUES[at]) for at in VALUES}
    sizes = {line.get_ydata()[0]: line.get_markersize() for line in axes.lines if line.get_marker() != "None"}
    assert sizes == {0.5: 4.0, 0.7: 4.0, 0.6: 6.0, 0.9: 6.0}  # larger ones are of the higher resolution
    filled = {y for _, y, _, _, face in points if matplotlib.colors.to_hex(face) != "#ffffff"}
    assert filled == best
    assert axes.get_xlabel() == "GPU-hours of the winner's training"
    assert words["alt"].endswith(f"{', '.join(sorted_names(best))}.")
    without = report()
    without["cells"][0]["record"] = {"train_seconds": 60.0}
    ((figure, _),) = drawn(cost, without)
    assert figure.axes[0].get_xlabel() == "hours of the winner's training"


def sorted_names(values):
    return [f"{at[0]}/{at[1]}" for at in sorted(VALUES, key=HOURS.get) if VALUES[at] in values]


@pytest.mark.parametrize(
    ("state", "line", "marker"),
    [
        ("COMPLETE", "-", None),
        ("PRUNED", ":", "x"),
        ("DROPPED", ":", "+"),
        ("FAILED", ":", "*"),
        ("UNFINISHED", ":", "|"),
    ],
)
def test_a_curve_shows_how_its_trial_ended(drawn, state, line, marker):
    found = report(trials=[trial({"x": 1.0}, 0, [0.5, 0.6], state)])
    ((figure, words),) = drawn(curves, found)
    whole, *ends = figure.axes[0].lines
    assert (whole.get_linestyle(), list(whole.get_xdata()), list(whole.get_ydata())) == (line, [1, 2], [0.5, 0.6])
    assert [(end.get_marker(), *end.get_data()) for end in ends] == ([] if marker is None else [(marker, [2], [0.6])])
    assert f"1 trials (1 {state.lower()})" in words["alt"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["random", "imagenet", *([state.lower()] if marker else [])]


@pytest.mark.parametrize(
    ("direction", "points"),
    [("maximize", [(0.001, 0.7, "o"), (0.1, 0.5, "x")]), ("minimize", [(0.001, 0.25, "o"), (0.1, 0.4, "x")])],
)
def test_sensitivity_is_the_best_over_the_rest_of_the_mean_over_seeds(drawn, direction, points):
    trials = [
        trial({"x": 0.001, "decay": 0}, 0, [0.6, 0.9]),
        trial({"x": 0.001, "decay": 0}, 1, [0.5, 0.3]),
        trial({"x": 0.001, "decay": 1}, 0, [0.2, 0.6]),
        trial({"x": 0.001, "decay": 1}, 1, [0.3, 0.5]),
        trial({"x": 0.1, "decay": 0}, 0, [0.4, 0.5], "PRUNED"),
    ]
    figures = drawn(hyperparameters, report(trials=trials, direction=direction))
    assert [words["name"] for _, words in figures] == ["sensitivity-x", "sensitivity-decay"]
    axes, decay = figures[0][0].axes[0], figures[1][0].axes[0]
    found = [(x, y, marker) for x, y, marker, *_ in markers(axes)]
    assert found == [(x, pytest.approx(y), marker) for x, y, marker in points]
    assert (axes.get_xscale(), decay.get_xscale()) == ("log", "linear")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.001", "0.1"]


@pytest.mark.parametrize(("direction", "best"), [("maximize", 0.9), ("minimize", 0.5)])
def test_groups_show_every_cell_and_the_interval_of_the_one_that_validation_chose(drawn, direction, best):
    ((figure, _),) = drawn(groups, report(direction=direction))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all cases", "sex F (9)"]
    chosen = {(x, y) for x, y, marker, colour, _ in markers(axes) if (marker, colour) == ("d", INK)}
    assert chosen == {(best, 0.0), (best - 0.01, 1.0)}
    cells = {(x, y) for x, y, marker, *_ in markers(axes) if marker == MARKERS[0]}
    assert cells == {(v, 0.0) for v in VALUES.values()} | {(v - 0.01, 1.0) for v in VALUES.values()}
    assert sorted(bar[::2] for bar in bars(axes)) == [
        pytest.approx((best - 0.2, best)),
        pytest.approx((best - 0.1, best + 0.05)),
    ]
