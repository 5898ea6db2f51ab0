"""Macro means that stand beside each other in a report are over the same targets, or the report says so."""

import io

import matplotlib.figure
import pandas as pd
import pytest

from search import grid, report
from search.report import figures, files, layout, page, tables, words
from search.study_folder import StudyFolder


@pytest.fixture
def found(reported):
    return reported.found


def of_metric(rows, metric="auroc"):
    return [row for row in rows if row["metric"] == metric]


def macros(cell, column="sex"):
    rows = of_metric(cell["subgroups"])
    return {row["group"]: row for row in rows if (row["column"], row["target"]) == (column, "macro")}


def without_class(rows, target):
    """Take a target's positive cases away, and average the others, as versions before did in each group."""
    for row in rows:
        if row["target"] == target:
            row |= {"positives": 0, "value": None, "low": None, "high": None}
    for macro in (row for row in rows if row["target"] == "macro"):
        values = [r["value"] for r in rows if r["metric"] == macro["metric"] and r["target"] != "macro"]
        known = [value for value in values if value is not None]
        macro["value"] = sum(known) / len(known) if known else None


@pytest.fixture
def older(reported, tmp_path):
    """A report of a study that was evaluated by a version that let each group average what is defined there."""
    state = reported.state
    for event in state.evaluations.values():
        men = [row for row in event["subgroups"] if (row["column"], row["group"]) == ("sex", "M")]
        without_class(men, next(row["target"] for row in men))
    folder = StudyFolder(tmp_path, "small")
    report.write(reported.study, grid.expand(reported.study), state, folder)
    return type(reported)(reported.study, folder)


@pytest.mark.slow
def test_groups_of_one_division_are_averaged_over_the_same_targets(older, found):
    for cell, before in zip(older.found["cells"], found["cells"], strict=True):
        defined = {"nih_chest_xray14": 2, "vindr_pcxr": 1}[cell["axes"]["dataset"]]
        women, men = (macros(cell)[sex] for sex in "FM")
        assert [row["macro_over"] for row in (women, men)] == [defined, defined]
        shared = [row["value"] for row in of_metric(cell["subgroups"]) if row["group"] == "F"][1:-1]
        assert women["value"] == pytest.approx(sum(shared) / defined)
        assert (women["low"], women["high"]) == (None, None)  # its redraws averaged other targets
        assert macros(cell, "age_band") == macros(before, "age_band")


@pytest.mark.slow
def test_a_mean_within_groups_over_fewer_targets_says_so_wherever_it_stands(older, found, monkeypatch):
    table = tables.by_subgroup(older.found, "nih_chest_xray14").set_index(["division", "group"])["macro over"]
    assert set(table["sex"]) == {"2 of 3 targets"}
    assert set(table["age_band"]) == {""}
    assert "macro over" not in tables.by_subgroup(found, "nih_chest_xray14")
    assert "| macro over |" in older.file("report.md")
    assert "<td>1 of 2 targets</td>" in older.file("report.html")
    rows = pd.read_csv(io.StringIO(older.file("subgroups.csv"))).query("target == 'macro' & column == 'sex'")
    assert set(zip(rows["macro_over"], rows["targets"], strict=True)) == {(2, 3), (1, 2)}
    labels = []
    ticks = matplotlib.axes.Axes.set_yticks
    monkeypatch.setattr(
        matplotlib.axes.Axes, "set_yticks", lambda axes, at, names, **kw: labels.extend(names) or ticks(axes, at)
    )
    list(figures.groups.draw(older.found))
    cases = macros(older.found["cells"][0])["F"]["cases"]
    assert f"sex F ({cases}; 2 of 3 targets)" in labels


@pytest.mark.slow
def test_a_group_is_one_row_though_its_cases_differ_between_cells(found):
    first, *_ = layout.cells_of(found, "nih_chest_xray14")
    cases = macros(first)["F"]["cases"]
    first["subgroups"] = [
        row | {"cases": row["cases"] - 1} for row in first["subgroups"] if (row["column"], row["group"]) != ("sex", "M")
    ]
    table = tables.by_subgroup(found, "nih_chest_xray14")
    assert not table.duplicated(["division", "group"]).any()
    assert not table.isna().any(axis=None)
    rows = table.set_index(["division", "group"])
    assert rows.loc[("sex", "F"), "cases"] == f"{cases - 1}-{cases}"
    assert list(rows.loc[("sex", "M")]).count("not measured") == 1
    assert figures.draw(found)


@pytest.mark.slow
def test_a_macro_without_a_value_is_undefined_without_counts(found):
    for cell in found["cells"]:
        for row in [*cell["test"], *cell["subgroups"]]:
            if row["target"] == "macro":
                row |= {"value": None, "low": None, "high": None}
    for table in (tables.overview(found).iloc[:, -1:], tables.by_subgroup(found, "vindr_pcxr").iloc[:, 3:]):
        assert set(table.to_numpy().flatten()) == {"undefined"}
    assert "None+" not in page.render(found, figures.draw(found)) + files.markdown(found, [])


def elsewhere(targets, values):
    """Rows on another data set that knows these targets; None where a class is missing."""
    known = [value for value in values if value is not None]
    rows = [
        {"target": target, "value": value, "positives": 0 if value is None else 5, "negatives": 45}
        for target, value in zip(targets, values, strict=True)
    ] + [{"target": "macro", "value": sum(known) / len(known), "positives": None, "negatives": None}]
    more = {"dataset": "vindr_cxr", "cases": 50, "metric": "auroc"}
    return [more | row | {"low": row["value"], "high": row["value"]} for row in rows]


def test_the_macro_on_another_data_set_stands_beside_that_of_the_same_targets(found):
    cell = found["cells"][0]
    inside = {row["target"]: row for row in of_metric(cell["test"])}
    cell["external"] = elsewhere(["nodule", "pneumothorax"], [0.6, None])
    (row,) = tables.external(found).to_dict("records")
    assert row["macro over"] == "1 of 3 targets"
    assert row["external auroc"] == "0.600 (.600-.600)"
    assert row["internal auroc"] == f"{inside['nodule']['value']:.3f}"
    assert "1 of 3 targets" in files.markdown(found, [])
    cell["external"] = elsewhere(["cardiomegaly", "nodule", "pneumothorax"], [0.7, 0.6, 0.5])
    (row,) = tables.external(found).to_dict("records")
    assert "macro over" not in row
    assert row["internal auroc"] == tables.interval(inside["macro"])


def test_a_target_that_only_the_other_data_set_defines_is_in_neither_macro(found):
    cell = found["cells"][0]
    without_class(cell["test"], "nodule")
    cell["external"] = elsewhere(["cardiomegaly", "nodule"], [0.7, 0.5])
    (row,) = tables.external(found).to_dict("records")
    assert row["macro over"] == "1 of 3 targets"
    assert row["external auroc"] == "0.700"  # not the stored 0.600


@pytest.mark.parametrize(("direction", "word", "choose"), [("maximize", "highest", max), ("minimize", "lowest", min)])
def test_the_best_cell_is_named_by_the_direction(found, direction, word, choose):
    found["direction"] = direction
    values = [layout.rows_of(found, cell)["macro"]["value"] for cell in layout.cells_of(found, "vindr_pcxr")]
    (told,) = [sentence for sentence in words.findings(found) if sentence.startswith("vindr_pcxr")]
    assert f"the {word} of 8 cells is" in told
    assert f", {choose(values):.3f} (" in told
