"""Names and reasons are printed letter by letter: paths and data sets may have brackets, which rich reads as styles."""

import io
import json

import pytest
from rich.console import Console

from search import compare, plan, progress, promote, report, status
from search.progress import Snapshot

CLOSING = "file:/x/we[/old]/y.safetensors"
"""Rich refuses it: nothing was opened."""
STYLE = "cxr [red]"
"""Rich would leave out what stands in brackets."""

PLANNED = {
    "study": "s", "axes": {"initialization": [CLOSING, STYLE]}, "search": {"recipe": [CLOSING]}, "seeds": [0],
    "cells": 1, "trials": 1, "excluded": 0, "measured": None, "done": None,
    "estimated": {"epochs": 1, "images": None, "basis": f"{STYLE} is not counted"},
    "refused": [{"cell": {}, "reason": f"no weights in {CLOSING}"}], "warnings": [f"{STYLE} is small"],
}  # fmt: skip
COMPARED = {
    "first": {"name": f"s/{CLOSING}", "trial": None}, "second": {"name": f"s/{STYLE}", "trial": "abc"},
    "metric": "auroc", "cases": 2, "redraws": 100, "unit": "patient", "confidence": 0.95, "correction": "holm",
    "rows": [dict.fromkeys(["first", "second", "difference", "low", "high", "p_value", "adjusted"])
             | {"pathology": STYLE}],
}  # fmt: skip
PROMOTED = {
    "dry_run": False, "promoted": True, "version": "1", "champion_before": None, "cell": CLOSING, "trial": "abc",
    "study": "s", "registered_model": STYLE, "reasons": [{"holds": True, "condition": "c", "evidence": CLOSING}],
}  # fmt: skip
ROW = {
    "cell": CLOSING,
    "searched": {"recipe": STYLE},
    "seed": 0,
    "best": None,
    "seconds": 0.0,
    "gpu_seconds": 0.0,
    "log": [],
}
STATED = {
    "study": "s", "cells": 1, "direction": None, "counts": {"FAILED": 1, "DROPPED": 1}, "budget": None,
    "no_longer_asked_for": {"trials": 0}, "to_come": {}, "unusable": {STYLE: STYLE},
    "trials": [ROW | {"state": "FAILED", "reason": f"crashed: {STYLE}"},
               ROW | {"state": "DROPPED", "reason": STYLE}],
}  # fmt: skip
NOW = Snapshot(1, 1, 0, 0, 0, 0, 1, 0, 0.0, 1, 1, 1.0, None, {CLOSING: 0.5, STYLE: 0.4})


def _line(now, console):
    lines = progress.LineProgress(console)
    lines.note(STYLE)
    lines.note(progress._line(now))


@pytest.mark.parametrize(
    ("show", "found"),
    [
        (plan.show, PLANNED),
        (compare.show, COMPARED),
        (promote.show, PROMOTED),
        (status.show, STATED),
        (_line, NOW),
        (lambda now, console: console.print(progress._picture(now)), NOW),
    ],
    ids=["plan", "compare", "promote", "status", "progress lines", "live progress"],
)
def test_a_name_in_brackets_is_printed_as_it_is(show, found):
    console = Console(file=io.StringIO(), width=200)
    show(found, console)
    told = console.file.getvalue()
    assert CLOSING in told
    assert STYLE in told


def test_a_report_prints_names_in_brackets_as_they_are(reported):
    named = json.dumps(reported.found).replace("dinov3", CLOSING).replace("vindr_pcxr", STYLE)
    console = Console(file=io.StringIO(), width=400)
    report.show(json.loads(named), console)
    sentences, _, tables = console.file.getvalue().partition("┏")
    assert f"{STYLE}: " in sentences
    for name in (CLOSING, STYLE):
        assert name in tables
