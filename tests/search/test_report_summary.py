"""What a report counts, and the sentences it says it in: a small study made by hand, with an end of every kind."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from search import grid
from search.identity import entry_event, identified, key_of
from search.report import differences, files, layout, page, summary, tables, words
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_sections import Evaluation
from search.study_state import OVER_BUDGET, StudyState
from trainers.evaluation import family

AXES = {
    "dataset": "vindr_pcxr",
    "initialization": "dinov2",
    "backbone": ["vit_base", "convnext_base"],  # DINOv2 was published without the second one
    "resolution": [224, 448],
}
RATES = [1e-5, 2e-5, 3e-5, 4e-5]
DECLARATION = {"primary_metric": "val/auroc/macro", "direction": "maximize", "targets": ["nodule"]}
ENDS = {
    1e-5: ("COMPLETE", ""),
    2e-5: ("PRUNED", "stops"),
    3e-5: ("FAILED", "bug: x"),
    4e-5: ("PRUNED", OVER_BUDGET + "no room"),
}
CURVE = {1: 0.5, 2: None, 3: 0.75}


def study(rates=RATES, **more) -> StudyConfig:
    return StudyConfig.model_validate(
        {"name": "s", "axes": AXES, "search": {"learning_rate": rates}, "recipe": {"epochs": 4}, **more}
    )


def reached() -> StudyState:
    """The cell at 224 px has a trial of each end, that at 448 px one that is not finished."""
    asked = study()
    (dataset,) = grid.expand(asked).datasets
    state = StudyState.of([{"kind": "study", "study": {}, "version": "v1", "time_ms": 0}])
    images = {"images": {"train": 30, "val": 20, "test": 10}, "validation": "drawn", "people": "p"}
    quarantined = {"a": "torn", "b": "torn", "c": "empty"}
    data = {"kind": "data", "key": key_of(dataset), "dataset": dataset.name, "fingerprint": "f"}
    state.apply({**data, **images, "quarantined": quarantined, "declaration": DECLARATION})
    for identity, trial in identified(grid.expand(asked), state).items():
        rate = dict(trial.searched)["learning_rate"]
        if trial.setting["resolution"] == 448 and rate != RATES[0]:
            continue
        state.apply(entry_event(identity, trial))
        state.apply({"kind": "started", "trial": identity, "time_ms": 0, "gpus": 0.5})
        for epoch, value in CURVE.items():
            told = {"epoch": epoch, "timestamp_ms": epoch, "metrics": {"val/auroc/macro": value}}
            state.apply({"kind": "epoch", "trial": identity, **told})
        if trial.setting["resolution"] == 224:
            ended, reason = ENDS[rate]
            result = {"state": "COMPLETE", "epochs": 3, "best_epoch": 3, "best_value": 0.75, "checkpoint": "c"}
            about = {"result": result if ended == "COMPLETE" else None, "time_ms": 3_600_000}
            state.apply({"kind": "ended", "trial": identity, "state": ended, "reason": reason, **about})
    return state


def evaluated(state: StudyState, **more) -> None:
    (trial,) = (name for name, progress in state.trials.items() if progress.result)
    row = {"metric": "auroc", "low": None, "high": None, "positives": 20, "negatives": 40}
    rows = [{**row, "target": target, "value": 0.7} for target in ("nodule", "macro")]
    external = [
        {**row, "cases": 40, "dataset": "other", "target": target, "value": 0.6} for target in ("nodule", "macro")
    ]
    place = {"trial": trial, "cell": state.trials[trial].cell}
    state.apply({"kind": "evaluated", **place, "rows": rows, "external": external, "subgroups": [], **more})


def summarized(state, tmp_path, asked=None):
    asked = asked or study()
    return summary.summarize(asked, grid.expand(asked), state, StudyFolder(tmp_path, "s"))


def test_a_report_counts_every_end_and_every_epoch(tmp_path):
    found = summarized(reached(), tmp_path)
    assert found["counts"] == {
        "cells": 2, "trials": 8, "COMPLETE": 1, "PRUNED": 1, "FAILED": 1, "DROPPED": 1, "UNFINISHED": 4,
    }  # fmt: skip
    assert found["epochs"] == {"trained": 5 * 3, "full_grid": 8 * 4}
    small, large = "vindr_pcxr/dinov2/vit_base/224", "vindr_pcxr/dinov2/vit_base/448"
    assert found["cells_without_winner"] == [large]
    assert [(cell["cell"], cell["validation"], cell["epoch"]) for cell in found["cells"]] == [(small, 0.75, 3)]
    assert found["provenance"]["use"] == {
        small: {"hours": 4.0, "gpu_hours": 2.0},
        large: {"hours": 0.0, "gpu_hours": 0.0},
    }
    assert found["trials"][0]["curve"] == {"1": 0.5, "3": 0.75}  # where it is defined
    assert (found["data"][0]["quarantined"], found["data"][0]["reasons"]) == (3, {"torn": 2, "empty": 1})
    assert [refused["cell"]["resolution"] for refused in found["refused"]] == [224, 448]
    assert tables.refused(found)["combinations"].tolist() == [2]
    assert tables.quarantined(found).to_dict("records") == [
        {"data set": "vindr_pcxr", "reason": "torn", "images": 2},
        {"data set": "vindr_pcxr", "reason": "empty", "images": 1},
    ]
    assert tables.failures(found)[["trial", "reason"]].values.tolist() == [["learning_rate=3e-05", "bug: x"]]


def test_its_sentences_have_every_count_in_its_place(tmp_path):
    found = summarized(reached(), tmp_path)
    found["counts"] |= {"PRUNED": 5, "FAILED": 3}
    first, images, *rest = words.sentences(found)
    assert first == (
        "2 cells, 8 trials: 1 complete, 5 pruned, 3 failed, 1 dropped for the budget, 4 not finished. "
        "15 of 32 epochs were trained."
    )
    assert images == "vindr_pcxr: 30 training, 20 validation and 10 test images (drawn); 3 quarantined."
    assert rest[-2:] == [
        "Dropped for the budget: vindr_pcxr/dinov2/vit_base/224 learning_rate=4e-05, seed 0 (no room).",
        "Cell without a finished trial: vindr_pcxr/dinov2/vit_base/448.",
    ]


def test_what_is_asked_for_no_more_is_not_counted(tmp_path):
    found = summarized(reached(), tmp_path, study(RATES[:1]))
    assert found["counts"] == {"cells": 2, "trials": 2, "COMPLETE": 1, "UNFINISHED": 1}
    assert found["epochs"] == {"trained": 2 * 3, "full_grid": 2 * 4}


def test_a_report_is_of_the_settings_that_winners_were_last_measured_with(tmp_path):
    state = reached()
    evaluated(state, time_ms=1, asked={"redraws": 300, "unit": "case", "confidence": 0.9, "seed": 1})
    state.apply({**next(iter(state.evaluated.values())), "cell": "another", "time_ms": 2, "asked": {"redraws": 400}})
    found = summarized(state, tmp_path, study(evaluation={"redraws": 500, "confidence": 0.8}))
    assert (found["redraws"], found["confidence"]) == (
        400,
        0.8,
    )  # and what earlier versions did not write down is as now
    assert [row["value"] for row in found["cells"][0]["external"]] == [0.6, 0.6]


def test_only_cells_that_are_measured_are_paired():
    cells = [
        {"axes": {"dataset": "d", "resolution": side}, "test": test, "trial": str(side), "cell": str(side)}
        for side, test in ((224, [1]), (448, []))
    ]
    assert differences.pairs({"axes": {"dataset": ["d"], "resolution": [224, 448]}, "cells": cells}) == []


def test_a_metric_without_paired_redraws_is_told(tmp_path):
    cells = [
        {"axes": {"dataset": "d", "resolution": side}, "test": [1], "trial": str(side), "cell": str(side)}
        for side in (224, 448)
    ]
    axes = {"dataset": ["d"], "resolution": [224, 448]}
    found = {"axes": axes, "cells": cells, "primary_metric": "val/dice/macro"}
    told = differences.measure(found, StudyFolder(tmp_path, "s"), None, {})
    assert told["not_compared"] == ["dice has no paired redraws; differences are known of auroc, average_precision"]
    assert words.method({**found, "differences": told}) == ""


@pytest.mark.parametrize(("redraws", "least"), [(200, "0.01"), (1000, "0.002")])
def test_the_method_names_what_was_tested_and_what_counting_could_tell(redraws, least):
    families = {"pairs": {"macro": 11, "targets": 22}, "averages": {"macro": 3, "targets": 4}}
    found = {"differences": {"families": families}, "redraws": redraws, "unit": "case", "confidence": 0.9, "trials": []}
    told = words.method(found)
    assert f"the same {redraws} redraws of cases; intervals are percentiles (90%)" in told
    assert f"cannot tell p below {least}. " in told
    assert (
        "tested: 11 macro differences; 22 of single targets; 3 mean macro differences; 4 means of single targets."
        in told
    )


def test_tables_and_files_have_each_figure_in_its_place(tmp_path):
    state = reached()
    evaluated(state, time_ms=1)
    trial = next(iter(state.trials.values()))
    trial.decisions.append({"epoch": 2, "action": "prune", "reason": "=far behind"})
    found = summarized(state, tmp_path)
    assert tables.overview(found).to_dict("records") == [
        {
            "backbone": "vit_base",
            "resolution": 224,
            "winner": "learning_rate=1e-05",
            "epoch": 3,
            "validation auroc": "0.750",
            "test auroc (95% interval)": "0.700",
        }
    ]
    (across,) = tables.external(found).to_dict("records")
    assert (across["tested on"], across["external auroc"], across["internal auroc"]) == ("other", "0.600", "0.700")
    (decided,) = tables.decisions(found).to_dict("records")
    assert (decided["epoch"], decided["decision"], decided["reason"]) == (2, "prune", "=far behind")
    lines = (files.results_csv(found) or "").splitlines()
    assert [line.partition("224,")[2].rpartition(",")[0] for line in lines[1:]] == [
        "internal,nodule,auroc,0.7,,,20,40",
        "internal,macro_avg,auroc,0.7,,,20,40",
        "external: other,nodule,auroc,0.6,,,20,40",
        "external: other,macro_avg,auroc,0.6,,,20,40",
    ]
    paper = [line.split(",") for line in (files.paper_csv(found) or "").splitlines()]
    assert [[row[0], *row[4:7]] for row in paper[1:]] == [
        ["pedi", "internal", "nodule", "70.0"],
        ["pedi", "internal", "macro_avg", "70.0"],
        ["other", "trained on pedi", "nodule", "60.0"],
        ["other", "trained on pedi", "macro_avg", "60.0"],
    ]
    written = files.markdown(found, [("A [b]", "a.png")])
    titles = [line for line in written.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Winners", "## Per target", "## On other data sets", "## Failed trials", "## Images that could not be read"
    ]  # fmt: skip
    assert r"![A \[b\]](a.png)" in written


@pytest.mark.parametrize(
    ("value", "text"), [("=1", "'=1"), ("+1", "'+1"), ("-x", "'-x"), ("@sum", "'@sum"), ("a=1", "a=1"), (-1, -1)]
)
def test_text_that_a_spreadsheet_would_carry_out_is_marked(value, text):
    assert files._as_text(value) == text


@pytest.mark.parametrize(("direction", "best"), [("maximize", "0.800"), ("minimize", "0.600")])
def test_the_best_in_latex_is_the_one_that_the_task_calls_so(direction, best):
    cells = [
        {
            "cell": name,
            "axes": {"dataset": dataset, "backbone": name},
            "test": [{"target": "macro", "metric": "auroc", "value": value, "low": None, "high": None}],
        }
        for name, dataset, value in (("a_b", "d", 0.6), ("c", "d", 0.7), ("c", "e", 0.9), ("f", "d", 0.8))
    ]
    axes = {"dataset": ["d", "e"], "backbone": ["a_b", "c", "f"]}
    about = {"primary_metric": "val/auroc/macro", "confidence": 0.95, "redraws": 100, "unit": "patient"}
    written = files.latex({"axes": axes, "cells": cells, "direction": direction, **about})
    assert re.findall(r"\\textbf\{(.*?)\}", written) == [
        text for text in ("0.600", "0.900", "0.800") if text in (best, "0.900")
    ]
    assert r"a\_b & " in written
    assert written.count("--") >= 2  # nothing of two configurations on the other data set
    assert r"with 95\,\% intervals from 100 redraws of patients" in written


@pytest.mark.parametrize(
    ("value", "text"), [(None, "undefined"), (0.00005, "<0.0001"), (0.0001, "0.0001"), (0.5, "0.5000")]
)
def test_a_small_p_is_told_as_a_bound(value, text):
    assert tables._p(value) == text


@pytest.mark.parametrize(
    ("metric", "said"), [("auroc", "AUROC"), ("dice", "DICE"), ("f1", "F1"), ("average_precision", "average precision")]
)
def test_short_names_of_metrics_are_said_as_acronyms(metric, said):
    assert layout.spoken(metric) == said


def test_shapes_are_told_apart_by_every_axis_and_truths_are_no_numbers():
    axes = {
        "dataset": ["d"],
        "initialization": ["r"],
        "backbone": ["a", "b"],
        "augment": [True, False],
        "labels": ["p", "c"],
    }
    looks = layout.Looks.of({"axes": axes})
    assert (looks.place, looks.colour, looks.shapes) == (None, "backbone", ("augment", "labels"))
    cells = [{"axes": {"augment": one, "labels": other}} for one in axes["augment"] for other in axes["labels"]]
    assert [looks.marker_of(cell) for cell in cells] == list(layout.MARKERS[:4])
    assert [looks.line_of(cell) for cell in cells] == list(layout.LINES[:4])


def test_the_page_says_what_it_was_made_from_and_folds_what_is_long(tmp_path):
    found = summarized(reached(), tmp_path)
    found["provenance"]["written_by"] = "v9"
    facts = page._provenance(found)
    assert facts["code that trained (commit)"] == "v1"
    assert facts["code that wrote this report"] == "v9"
    assert facts["data: vindr_pcxr"] == "f"
    folded = [
        "<details>" in page._table(pd.DataFrame([dict.fromkeys(map(str, range(columns)), "<b>")] * rows), "what")
        for rows, columns in ((12, 9), (13, 9), (12, 10))
    ]
    assert folded == [False, True, True]


def test_means_of_contrasts_are_over_the_pairs_that_are_defined_and_their_redraws_apart(monkeypatch, tmp_path):
    """Both data sets have the same redraws with another sign: beside each other they would cancel out."""
    axes = {"dataset": ["d", "e"], "resolution": [224, 448]}
    cells = [
        {"axes": dict(zip(axes, at, strict=True)), "test": [1], "trial": f"{at[0]}{at[1]}", "cell": ""}
        for at in product(*axes.values())
    ]
    found = {"axes": axes, "cells": cells, "primary_metric": "val/auroc/macro"}
    redraws, none = np.arange(100.0), np.full(100, np.nan)
    zero = family.Redrawn(("nodule", "macro"), np.zeros(2), np.zeros((100, 2)), "same", 9)
    redrawn = {
        "d224": zero,
        "e224": zero,
        "d448": replace(zero, observed=np.array([0.25, 0.5]), values=np.stack([redraws, redraws], axis=1)),
        "e448": replace(zero, observed=np.array([np.nan, 1.5]), values=np.stack([none, -redraws], axis=1)),
    }
    monkeypatch.setattr(differences, "_stored", lambda *_: ({}, ["one was changed"]))
    monkeypatch.setattr(differences, "_redraw", lambda *_: (redrawn, ["one cannot be read"]))
    told = differences.measure(found, StudyFolder(tmp_path, "s"), Evaluation(), {})
    nodule, macro = told["averages"]
    assert (nodule["target"], nodule["difference"], nodule["pairs"]) == ("nodule", 0.25, 1)
    assert (macro["target"], macro["difference"], macro["pairs"]) == ("macro", 1.0, 2)
    assert (macro["low"], macro["high"]) == (-25.0, 25.0)
    assert [row["difference"] for row in told["pairs"]] == [0.25, 0.5, None, 1.5]
    assert told["families"] == {"pairs": {"macro": 2, "targets": 1}, "averages": {"macro": 1, "targets": 1}}
    assert told["not_compared"] == ["one cannot be read", "one was changed"]


def test_what_metadata_tell_stands_beside_their_own_data_set_alone():
    row = {
        "metric": "auroc",
        "low": None,
        "high": None,
        "positives": 20,
        "negatives": 20,
        "macro_over": 1,
        "targets": 1,
    }
    groups = [
        {**row, "column": column, "group": group, "target": "macro", "value": 0.6, "cases": 9}
        for column, group in (("sex", "F"), ("origin", "a"))
    ]
    rows = [{**row, "target": target, "value": 0.7} for target in ("nodule", "macro")]
    cells = [
        {"cell": d, "axes": {"dataset": d, "backbone": "b"}, "test": rows, "subgroups": groups, "external": []}
        | {"searched": {}, "seed": 0, "epoch": 1, "validation": 0.5}
        for d in ("d", "e")
    ]
    baseline = {"dataset": "d", "name": "d", "rows": [{**row, "target": "nodule", "value": 0.55}]}
    about = {
        "axes": {"dataset": ["d", "e"], "backbone": ["b"]},
        "primary_metric": "val/auroc/macro",
        "confidence": 0.95,
    }
    found = {**about, "cells": cells, "trials": [], "targets": ["nodule"], "baselines": [baseline]}
    assert tables.per_target(found, "d")["view, sex, age only (d)"].tolist() == ["0.550", "not measured"]
    assert list(tables.per_target(found, "e")) == ["e"]
    assert tables.by_subgroup(found, "d")["group"].tolist() == ["F", "a"]
    assert [table["group"].tolist() for table in tables._shown(found) if "group" in table] == [["a"], ["a"]]
    assert not any("group" in table for table in tables._shown({**found, "baselines": []}))
