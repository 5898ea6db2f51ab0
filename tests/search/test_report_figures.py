"""Figures of cells whose names are long or beyond the font: nothing is cut, hidden or warned of."""

import json
import warnings

import pytest

from search.report.figures import cost, forest, heat_map, results
from search.report.figures.canvas import styled

NAMES = {"paths": "file:/data/weights/mae_cxr_{}_epoch300.safetensors", "chinese": "胸部_{}"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", [cost, forest, heat_map, results], ids=lambda kind: kind.__name__.rpartition(".")[2])
def test_names_stand_whole_inside_their_figures(reported, kind, name, monkeypatch):
    named = json.dumps(reported.found)
    for initialization in ("dinov2", "dinov3"):
        named = named.replace(initialization, name.format(initialization))
    found = json.loads(named)
    found["cells"] = found["cells"][:8]  # of so few each target is drawn
    monkeypatch.setattr(kind, "picture", lambda figure, **_: figure)
    with warnings.catch_warnings(action="error"), styled():
        figures = list(kind.draw(found))
        for figure in figures:
            figure.draw_without_rendering()
            box = figure.get_tightbbox()
            assert 0 <= box.x0 < box.x1 <= figure.get_figwidth()
            for axes in figure.axes:
                assert axes.get_legend() is None
                assert all(key.get_window_extent().y0 >= axes.get_tightbbox().y1 for key in figure.legends)
    assert figures
