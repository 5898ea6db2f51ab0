import copy
import io
import json
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import norm

from search import cli, compare, grid, provenance, report
from search.ledger import Ledger
from search.replay import curves
from search.report import differences, figures, files, page, summary, tables, words
from search.report.figures import cost
from search.report.layout import Looks
from search.study_folder import StudyFolder
from trainers.evaluation import family, processes
from trainers.evaluation.multiplicity import adjust
from trainers.evaluation.redraws import Bootstrap


@pytest.fixture
def again(reported, tmp_path):
    """A copy of the reported study, to change."""
    shutil.copytree(reported.folder.path, tmp_path / "small")
    return type(reported)(reported.study, StudyFolder(tmp_path, "small"))


def rows(found, **wanted):
    return [row for row in found["differences"]["pairs"] if all(row[key] == value for key, value in wanted.items())]


def test_every_axis_is_told_by_the_pairs_that_agree_in_all_others(reported):
    found = reported.found
    macro = rows(found, target="macro")
    counts = pd.Series([f"{r['axis']} {r['value']} {r['against']}" for r in macro]).value_counts()
    # NIH: two resolutions of (vit: 3 initializations, convnext: 2); VinDr-PCXR: two of (vit: 2, convnext: 2).
    assert counts.to_dict() == {
        "initialization dinov3 imagenet": 2 * 2 + 2 * 2,
        "initialization dinov2 imagenet": 2,
        "initialization dinov3 dinov2": 2,
        "backbone convnext_base vit_base": 2 * 2 + 2 * 2,
        "resolution 512 224": 5 + 4,
    }
    axes = {cell["trial"]: cell["axes"] for cell in found["cells"]}
    for row in macro:
        first, second = axes[row["first"]], axes[row["second"]]
        assert [axis for axis in first if first[axis] != second[axis]] == [row["axis"]]


def test_numbers_are_compared_with_their_neighbour_and_names_with_all_before():
    cells = [{"axes": {"dataset": "d", "resolution": r, "adaptation": a}, "test": [1], "trial": f"{r}{a}", "cell": ""}
             for r in (1024, 224, 512) for a in ("finetune", "lora", "probe")]  # fmt: skip
    axes = {"dataset": ["d"], "resolution": [1024, 224, 512], "adaptation": ["finetune", "lora", "probe"]}
    pairs = {(p.value, p.against) for p in differences.pairs({"axes": axes, "cells": cells})}
    assert pairs == {("512", "224"), ("1024", "512"), ("lora", "finetune"), ("probe", "finetune"), ("probe", "lora")}


def test_a_difference_is_what_compare_says_of_the_same_two_cells(reported):
    found = reported.found
    first, second = rows(found, axis="backbone", target="macro")[0]["first"], rows(found, axis="backbone")[0]["second"]
    said = compare.compare(first, second, storage=reported.folder.storage, uri=None, question=compare.Question())
    mine = rows(found, first=first, second=second)
    assert [row["target"] for row in mine] == [row["pathology"] for row in said["rows"]]
    for one, other in zip(mine, said["rows"], strict=True):
        for key in ("difference", "low", "high"):
            assert one[key] == pytest.approx(other[key], abs=1e-12)


def test_p_values_are_corrected_over_the_families_that_are_named(reported):
    found = reported.found["differences"]
    for kind in ("pairs", "averages"):
        for name, targets in (("macro", {"macro"}), ("targets", {r["target"] for r in found[kind]} - {"macro"})):
            members = [row for row in found[kind] if row["target"] in targets]
            assert found["families"][kind][name] == len(members)
            p_values = [row["p_value"] for row in members]
            for method in differences.CORRECTIONS:
                assert [row[method] for row in members] == adjust(p_values, method)
    assert all(row["benjamini_hochberg"] <= row["holm"] for row in found["pairs"])


def test_the_mean_of_a_contrast_is_the_mean_of_its_pairs(reported):
    found = reported.found
    average = next(
        row for row in found["differences"]["averages"] if row["axis"] == "resolution" and row["target"] == "macro"
    )
    pairs = rows(found, axis="resolution", target="macro")
    assert average["pairs"] == len(pairs) == 9
    assert average["difference"] == pytest.approx(np.mean([row["difference"] for row in pairs]))
    assert average["high"] - average["low"] < min(row["high"] - row["low"] for row in pairs)


@pytest.mark.parametrize("unusable", [{}, {"chexpert": "300 of 2000 images cannot be read"}])
def test_images_of_a_data_set_that_could_not_be_used_are_not_said_to_be_readable(reported, unusable):
    data = [{**data, "reasons": {}} for data in reported.found["data"]]
    told = page.render({**reported.found, "data": data, "unusable": unusable}, [])
    assert ("Every image could be read." in told) is not bool(unusable)
    assert ("Data set chexpert could not be used: 300 of 2000 images cannot be read." in told) is bool(unusable)


def test_no_redraw_of_a_data_set_meets_the_same_redraw_of_another():
    names, redraws = ["a", "b", "c"], np.arange(1000.0)
    turned = np.array([differences.apart(redraws, name, names) for name in names])
    assert all(len(set(met)) == len(names) for met in turned.T)
    assert all(sorted(one) == redraws.tolist() for one in turned)


def test_p_value_is_the_normal_one_of_the_redraws_standard_deviation():
    redrawn = np.array([0.0, 0.1, 0.2, np.nan])  # standard deviation 0.1
    assert family.p_value(0.1, redrawn) == pytest.approx(2 * norm.sf(1.0))
    assert family.p_value(-0.196, redrawn) == pytest.approx(0.05, abs=1e-3)
    assert family.p_value(0.0, np.zeros(5)) == 1.0
    assert family.p_value(float("nan"), redrawn) is None
    assert family.p_value(0.1, np.array([0.1])) is None


@pytest.mark.slow
def test_several_processes_redraw_as_one_does(reported, monkeypatch):
    monkeypatch.setattr(family, "BYTES_PER_PROCESS", 1)
    paths = sorted(reported.folder.path.glob("winners/*/scores.parquet"))[:8]
    found = []
    for count in (1, 2):
        monkeypatch.setattr(processes, "processors", lambda count=count: count)
        found.append(family.redraw_files(paths, metric="auroc", bootstrap=Bootstrap(50)))
    for one, other in zip(*found, strict=True):
        assert one.fingerprint == other.fingerprint
        assert np.array_equal(one.values, other.values)


@pytest.mark.slow
def test_several_processes_draw_as_one_does(reported, monkeypatch):
    monkeypatch.setattr(figures, "CELLS_PER_PROCESS", 1)
    drawn = []
    for count in (1, 2):
        monkeypatch.setattr(processes, "processors", lambda count=count: count)
        drawn.append(figures.draw(reported.found))
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) > 5


def test_scores_that_are_gone_or_of_other_cases_cost_only_their_own_pairs(again):
    lost, other, changed = sorted(again.folder.path.glob("winners/*/scores.parquet"))[:3]
    lost.unlink()
    with Ledger(again.folder.ledger) as ledger:  # as versions before told it, whose scores may be any
        event = again.state.evaluations[other.parent.name]
        ledger.append({key: value for key, value in event.items() if key != "sha256"})
    pd.read_parquet(changed).assign(score_nodule=0.5).to_parquet(changed)
    table = pd.read_parquet(other)
    table.assign(label_nodule=0.0).to_parquet(other) if "label_nodule" in table else table.iloc[5:].to_parquet(other)
    before = again.found["differences"]
    found = summary.summarize(again.study, grid.expand(again.study), again.state, again.folder)
    after = found["differences"]
    gone = {lost.parent.name, other.parent.name, changed.parent.name}
    kept = [row for row in before["pairs"] if not {row["first"], row["second"]} & gone]
    assert [(r["first"], r["second"], r["difference"]) for r in after["pairs"]] == [
        (r["first"], r["second"], r["difference"]) for r in kept
    ]
    assert any(lost.parent.name in sentence for sentence in after["not_compared"])
    told = f"scores.parquet of trial {changed.parent.name} was changed since it was measured"
    assert told in after["not_compared"]
    assert any("were not measured on the same cases" in sentence for sentence in after["not_compared"])
    console = Console(file=io.StringIO(), width=200)
    report.show(found, console)
    for told in (page.render(found, []), files.markdown(found, []), console.file.getvalue()):
        assert told.count("Not compared: scores.parquet of trial") == 2


def test_the_recorded_curves_can_be_replayed_from_the_report(reported):
    table = pd.read_csv(io.StringIO(reported.file("curves.csv")))
    trials = reported.state.trials.values()
    assert len(table) == sum(len(trial.curve) for trial in trials)
    complete = table[table["state"] == "COMPLETE"].drop(columns="state")
    of_table, of_study = curves.of_table(complete, name="curves.csv"), curves.load(reported.folder.path)
    assert of_table.keys() == of_study.keys()
    for cell, group in of_study.items():
        assert [curve.values.tolist() for curve in of_table[cell].values()] == [
            group[trial].values.tolist() for trial in of_table[cell]
        ]


def test_a_study_is_replayed_at_the_best_epochs_that_it_chooses_by(reported):
    for cell, group in curves.load(reported.folder.path).items():
        best = {t.result.best_value for t in reported.state.trials.values() if t.cell == cell and t.result}
        assert max(curve.worth for curve in group.values()) == max(best)


def test_the_papers_columns_spellings_and_percent(reported):
    table = pd.read_csv(io.StringIO(reported.file("results_paper.csv")))
    assert list(table.columns) == [
        "dataset", "initialization", "backbone", "image_size", "evaluation_type", "label",
        "AUROC_mean", "AUROC_ci_low", "AUROC_ci_high", "mAP_mean", "mAP_ci_low", "mAP_ci_high",
    ]  # fmt: skip
    assert set(table["dataset"]) == {"cxr14", "pedi"}
    assert set(table["initialization"]) == {"imgnet", "dinov2", "dinov3"}
    assert set(table["backbone"]) == {"vitb", "convnext"}
    assert set(table["label"]) == {"macro_avg", "cardiomegaly", "nodule", "pneumothorax", "no_finding", "pneumonia"}
    cell = reported.found["cells"][0]
    (stored,) = [r["value"] for r in cell["test"] if (r["metric"], r["target"]) == ("average_precision", "macro")]
    (row,) = table.query(
        "dataset == 'cxr14' & initialization == 'imgnet' & backbone == 'vitb' & image_size == 224 "
        "& label == 'macro_avg'"
    ).to_dict("records")
    assert row["mAP_mean"] == pytest.approx(100 * stored)
    assert row["AUROC_ci_low"] < row["AUROC_mean"] < row["AUROC_ci_high"]


def test_the_best_of_each_data_set_is_bold_in_latex(reported):
    lines = [line for line in reported.file("results.tex").splitlines() if line.endswith(r"\\")]
    assert lines[0].split("&")[1:] == [r" nih\_chest\_xray14 ", r" vindr\_pcxr \\"]
    assert [sum(r"\textbf" in line.split("&")[column] for line in lines) for column in (1, 2)] == [1, 1]
    best = max(
        (row["value"], cell["axes"]["resolution"])
        for cell in reported.found["cells"]
        for row in cell["test"]
        if cell["axes"]["dataset"] == "vindr_pcxr" and (row["metric"], row["target"]) == ("auroc", "macro")
    )
    (bold,) = [line for line in lines if r"\textbf" in line.split("&")[2]]
    assert f"{best[0]:.3f}" in bold
    assert bold.split("&")[0].endswith(f" {best[1]} ")
    assert sum("--" in line for line in lines) == 2  # dinov2 was not asked for on vindr_pcxr


def test_what_was_asked_another_question_is_not_ranked_with_it_in_latex(reported):
    found = copy.deepcopy(reported.found)
    for cell in found["cells"]:
        cell["axes"]["labels"] = "paper" if cell["axes"]["resolution"] == 224 else "conventional"
    found["axes"]["labels"] = ["paper", "conventional"]
    lines = [line for line in files.latex(found).splitlines() if line.endswith(r"\\")]
    for column in (1, 2):
        bold = [line.split("&")[0] for line in lines if r"\textbf" in line.split("&")[column]]
        assert sorted("paper" in name for name in bold) == [False, True]


def test_counts_are_whole_numbers_in_the_tables(reported):
    """A macro row has none, which makes floats of a column."""
    for name in ("results.csv", "subgroups.csv"):
        table = pd.read_csv(io.StringIO(reported.file(name)), dtype=str)
        counts = set(table["positives"].dropna()) | set(table["negatives"].dropna())
        assert len(counts) > 5
        assert all(count.isdigit() for count in counts)


def test_the_report_names_the_code_and_libraries_that_trained_and_its_own_apart(again):
    with Ledger(again.folder.ledger) as ledger:
        study = {"kind": "study", "study": again.state.study, "time_ms": 1}
        for version, torch in (("abc", "2.13"), ("def", "2.14"), ("abc", "2.13")):
            ledger.append({**study, "version": version, "libraries": {"torch": torch}})
    found = summary.summarize(again.study, grid.expand(again.study), again.state, again.folder)["provenance"]
    assert (found["version"], found["libraries"]) == ("synthetic, def, abc", {"torch": "2.14, 2.13"})
    assert found["written_by"] == provenance.code_version()


def test_a_winner_is_named_with_its_seed_where_there_are_several(reported):
    found = reported.found
    assert not tables.overview(found)["winner"].str.contains("seed").any()
    found["trials"][0]["seed"], found["cells"][0]["seed"] = 1, 1
    assert tables.overview(found)["winner"][0].endswith(", seed=1")
    assert tables.overview(found)["winner"][1].endswith(", seed=0")


def test_what_seeds_differ_by_stands_beside_the_winner_they_have_in_common(reported):
    found = reported.found
    column = "mean ± sd over seeds"
    assert column not in tables.overview(found)
    assert "stands beside each winner" not in words.method(found)
    first = found["cells"][0]
    same = next(t for t in found["trials"] if t["trial"] == first["trial"])
    same["best"] = 0.7
    found["trials"] += [same | {"seed": 1, "best": 0.8}, same | {"seed": 2, "best": 0.9}]
    found["trials"] += [same | {"seed": 3, "best": 0.1, "state": "PRUNED"}, same | {"seed": 4, "best": None}]
    found["trials"] += [same | {"seed": 1, "best": 0.2, "searched": {"learning_rate": 1.0}}]
    assert list(tables.overview(found)[column][:2]) == ["0.800 ± 0.100 (3)", "one seed"]
    assert words.method(found).endswith(": how far the seeds differ on validation stands beside each winner.")


def test_each_data_set_has_its_own_targets(reported):
    page_, markdown = reported.file("report.html"), reported.file("report.md")
    assert "## Per target (vindr_pcxr)" in markdown
    assert "## Per target (nih_chest_xray14)" in markdown
    section = markdown.partition("## Per target (vindr_pcxr)")[2].partition("##")[0]
    assert "no_finding" in section
    assert "nodule" not in section
    assert 'id="figure-heat-map-vindr_pcxr"' in page_


def test_words_say_what_each_axis_did(reported):
    found = reported.found
    told = words.findings(found)
    macro = {
        " ".join(str(value) for value in list(cell["axes"].values())[1:]): row["value"]
        for cell in found["cells"]
        for row in cell["test"]
        if cell["axes"]["dataset"] == "vindr_pcxr" and (row["metric"], row["target"]) == ("auroc", "macro")
    }
    best = max(macro, key=macro.__getitem__)
    assert told[1].startswith(f"vindr_pcxr: the highest of 8 cells is {best}, {macro[best]:.3f} (")
    (resolution,) = [sentence for sentence in told if sentence.startswith("resolution")]
    average = next(r for r in found["differences"]["averages"] if (r["axis"], r["target"]) == ("resolution", "macro"))
    assert f"512 − 224 is {average['difference']:+.4f} AUROC on average over 9 pairs of cells" in resolution
    assert f"{found['differences']['families']['pairs']['macro']} macro differences" in words.method(found)


def test_figures_are_files_and_stand_in_the_page_with_words(reported):
    page_ = reported.file("report.html")
    images = re.findall(r'<img alt="([^"]+)" width="\d+" src="data:image/svg\+xml;base64,', page_)
    figures_ = sorted(path.stem for path in reported.folder.report.glob("*.svg"))
    assert len(images) == len(figures_) == len(list(reported.folder.report.glob("*.png")))
    assert all(len(alt) > 40 for alt in images)
    ids = re.findall(r' id="([^"]+)"', page_)
    assert len(set(ids)) == len(ids) > len(images)
    assert {"results", "cost", "curves", "subgroups", "sensitivity-learning_rate"} < set(figures_)
    assert {"difference-resolution-512-224", "difference-resolution-512-224-by-target"} < set(figures_)
    assert {f"{name}.png" for name in figures_} == set(re.findall(r"\]\(([^)]+\.png)\)", reported.file("report.md")))


@pytest.mark.slow
def test_the_same_study_gives_the_same_bytes(reported, again):
    again.write()
    for path in reported.folder.report.iterdir():
        assert (again.folder.report / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_figures_of_cells_no_longer_asked_for_go_and_other_files_stay(again):
    (again.folder.report / "mine.png").write_bytes(b"a user's own")
    assert (again.folder.report / "heat-map-vindr_pcxr.png").is_file()
    axes = again.study.axes | {"dataset": ["nih_chest_xray14"]}
    fewer = again.study.model_copy(update={"axes": axes, "exclude": []})
    report.write(fewer, grid.expand(fewer), again.state, again.folder)
    assert not (again.folder.report / "heat-map-vindr_pcxr.png").exists()
    assert (again.folder.report / "mine.png").exists()
    assert "vindr" not in again.file("report.md")


def test_what_stands_in_a_reason_cannot_become_markup(reported):
    found = reported.found
    found["trials"][0] |= {"state": "FAILED", "reason": "<script>alert(1)</script>"}
    found["study"] = "<img src=x onerror=alert(1)>"
    html = page.render(found, [])
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_no_name_becomes_markup_or_another_column_in_markdown(reported):
    named = json.dumps(reported.found).replace("dinov3", "a|b<i>").replace("vindr_pcxr", "x](y)&amp;")
    found = json.loads(named)
    told = files.markdown(found, [("x](y)", "x.png")])
    assert "<i>" not in told
    assert "](y)" not in told.replace(r"\](y)", "")
    for table in re.findall(r"(?:^\|.*\n)+", told, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table


@pytest.mark.parametrize("settled", [0, 1])
def test_a_study_with_nothing_or_one_cell_measured_still_has_a_page(reported, settled):
    found = reported.found
    for cell in found["cells"][settled:]:
        cell |= {"test": [], "subgroups": [], "record": {}}
    found["differences"] = {"pairs": [], "averages": [], "not_compared": [], "families": {}}
    html = page.render(found, figures.draw(found))
    assert "not measured" in html
    assert 'id="differences"' not in html


def test_a_mean_over_fewer_targets_says_so(reported):
    found = reported.found
    assert not any("macro is the mean over" in sentence for sentence in words.sentences(found))
    first = next(row["target"] for row in found["cells"][0]["test"] if row["target"] != "macro")
    for cell in found["cells"]:
        for row in cell["test"]:
            if row["target"] == first:
                row |= {"value": None, "low": None, "high": None, "positives": 0}
    (told,) = [sentence for sentence in words.sentences(found) if "macro is the mean over" in sentence]
    assert told.endswith(f"lack a class among the test cases: {first}.")


@pytest.mark.parametrize(
    ("untested", "told"),
    [
        (slice(0, 0), "lower."),
        (slice(0, 1), "lower (1 could not be tested)."),
        (slice(None), "; no pair could be tested."),
    ],
)
def test_pairs_that_could_not_be_tested_are_not_called_equal(reported, untested, told):
    found = reported.found
    contrast = differences.contrasts(found)[0]
    rows = differences.of_contrast(found["differences"]["pairs"], contrast)
    for row in [row for row in rows if row["target"] == "macro"][untested]:
        row |= {"low": None, "high": None, "p_value": None, "holm": None}
    (sentence,) = [one for one in words.findings(found) if one.startswith("{}: {} − {} is ".format(*contrast))]
    assert sentence.endswith(told)


def test_pairs_differ_after_the_correction_and_in_the_direction_of_the_difference(reported):
    """Of nine pairs three do, one of them upwards; by their own p-values all would."""
    found = reported.found
    for number, row in enumerate(rows(found, axis="resolution", target="macro")):
        row |= {"p_value": 0.001, "holm": 0.01 if number < 3 else 0.05, "difference": 0.1 if number == 0 else -0.1}
    (sentence,) = [one for one in words.findings(found) if one.startswith("resolution: 512 − 224 is ")]
    assert sentence.endswith("pairs that differ after Holm's correction: 1 higher, 2 lower.")


@pytest.mark.parametrize(
    ("pruning", "told"),
    [
        ({"spared": 0}, None),
        ({"spared": 2, "finished": 0}, "2 ran on to find out what it costs; none of them came to its end."),
        (
            {"spared": 3, "finished": 2, "would_have_won": 1, "mean_regret": 0.05, "worst_regret": 0.1},
            "3 ran on to find out what it costs: 1 of 2 would have won their cell, mean regret 0.0500, worst 0.1000 on "
            "validation.",
        ),
    ],
)
def test_what_the_spared_trials_tell_is_said(reported, pruning, told):
    found = {**reported.found, "pruning": pruning}
    sentences = [one for one in words.sentences(found) if "the pruner wanted to stop" in one]
    assert sentences == ([f"Of the trials that the pruner wanted to stop {told}"] if told else [])


ROW = {"value": 0.9, "low": 0.85, "high": 1.0, "positives": 4, "negatives": 5}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (None, "not measured"),
        (ROW, "0.900 (.850-1.000)"),
        (ROW | {"low": None, "high": None}, "0.900"),
        (ROW | {"value": None, "positives": 0}, "undefined (0+ 5-)"),
        (ROW | {"value": None, "positives": None, "negatives": None}, "undefined"),
    ],
)
def test_a_value_stands_with_its_interval_or_with_why_there_is_none(row, text):
    assert tables.interval(row) == text


@pytest.mark.parametrize(
    ("values", "text"), [([0.7], "one seed"), ([0.7, 0.8], "0.750 ± 0.071 (2)"), ([0.6, 0.7, 0.8], "0.700 ± 0.100 (3)")]
)
def test_seeds_have_a_mean_and_the_deviation_of_a_sample(values, text):
    assert tables.mean_and_deviation(values) == text


def test_a_table_of_differences_has_every_figure_of_its_pair(reported):
    found = reported.found
    pairs = rows(found, target="macro")
    pairs[0] |= {"p_value": 0.00005, "benjamini_hochberg": 0.01, "holm": None}
    table = tables.macro_differences(found)
    assert len(table) == len(pairs)
    for told, pair in zip(table.to_dict(orient="records"), pairs, strict=True):
        assert told["difference of"] == f"{pair['value']} − {pair['against']}"
        assert told["auroc"] == f"{pair['difference']:+.4f}"
        assert told["interval"] == f"{pair['low']:+.4f} to {pair['high']:+.4f}"
    assert (table["p"][0], table["p (BH)"][0], table["p (Holm)"][0]) == ("<0.0001", "0.0100", "undefined")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"positives": 40, "negatives": 60}, None),
        ({"positives": 10, "negatives": 10}, None),
        ({"positives": 60, "negatives": 9}, "fewer than 10 test cases of a class for {}; such intervals are narrower"),
        ({"positives": 9, "negatives": 60}, "fewer than 10 test cases of a class for {}; such intervals are narrower"),
        ({"positives": 60, "negatives": 2, "low": None, "high": None}, "no interval for {}, and so none for macro"),
    ],
)
def test_targets_of_few_cases_are_named(reported, changed, told):
    found = reported.found
    for row in (row for cell in found["cells"] for row in cell["test"] if row["target"] != "macro"):
        row.update({"positives": 40, "negatives": 60} | (changed if row["target"] == found["targets"][0] else {}))
    named = [one for one in words.sentences(found) if "no interval for" in one or "fewer than 10" in one]
    assert [told.format(found["targets"][0]) in one for one in named] == ([True] if told else [])


def test_few_cases_of_other_data_sets_and_of_groups_are_told(reported):
    found = copy.deepcopy(reported.found)
    few = {"metric": "auroc", "target": "nodule", "value": 0.6, "low": 0.5, "high": 0.7}
    few |= {"positives": 9, "negatives": 60}
    for cell in found["cells"]:
        cell["external"], cell["subgroups"] = [{**few, "dataset": "theirs"}], []
    assert words.about_groups(found) == ""
    assert "theirs: fewer than 10 test cases of a class for nodule" in " ".join(words.sentences(found))
    left_out = "Groups of fewer than 30 test cases are left out, and so are divisions with a single group."
    cell["subgroups"] = [{**few, "column": "sex", "group": "F", "cases": 69, "positives": 10}]
    assert words.about_groups(found) == left_out
    cell["subgroups"] = [{**few, "column": "sex", "group": "F", "cases": 69}]
    told = words.about_groups(found)
    assert told.startswith(f"{left_out} Fewer than 10 cases carry a class of a target in sex F; intervals there are")


def test_images_of_other_data_sets_that_cannot_be_read_are_listed(reported):
    found = {**reported.found, "data": [], "external_data": [{"name": "theirs", "reasons": {"file is missing": 2}}]}
    assert tables.quarantined(found).values.tolist() == [["theirs", "file is missing", 2]]


def test_how_winners_are_chosen_among_seeds_is_told_where_there_are_several(reported):
    found = copy.deepcopy(reported.found)
    rule = "chosen on validation (the hyperparameters with the best mean over seeds, of these the best seed); the test"
    for seed in (0, 1):
        found["trials"][0]["seed"] = seed
        for trial in found["trials"][1:]:
            trial["seed"] = 0
        assert (rule in " ".join(words.sentences(found))) == (seed == 1)


def test_a_table_with_nothing_to_list_is_no_file(reported):
    found = {**reported.found, "cells": [], "trials": [], "differences": {"pairs": [], "averages": []}}
    tables = (files.results_csv, files.differences_csv, files.averages_csv, files.subgroups_csv, files.curves_csv)
    assert [table(found) for table in tables] == [None] * 5


def test_the_pareto_front_holds_what_nothing_cheaper_equals():
    points = [(1.0, 0.7, {}), (1.0, 0.8, {}), (2.0, 0.8, {}), (3.0, 0.9, {}), (4.0, 0.85, {})]
    assert [point[:2] for point in cost.front(points, maximize=True)] == [(1.0, 0.8), (3.0, 0.9)]
    assert [point[:2] for point in cost.front(points, maximize=False)] == [(1.0, 0.7)]


def test_cost_is_gpu_hours_or_else_hours():
    assert cost.hours({"gpu_seconds": 7200.0, "train_seconds": 1.0}) == 2.0
    assert cost.hours({"train_seconds": 3000.0, "evaluation_seconds": 600.0}) == 1.0
    assert cost.hours({}) is None


def test_cells_are_told_apart_by_place_colour_and_shape(reported):
    found = reported.found
    looks = Looks.of(found)
    assert (looks.place, looks.colour, looks.shapes) == ("resolution", "initialization", ("backbone",))
    here = [cell for cell in found["cells"] if cell["axes"]["dataset"] == "nih_chest_xray14"]
    assert len({(looks.place_of(c), looks.colour_of(c), looks.marker_of(c)) for c in here}) == len(here) == 10


def run(monkeypatch, *words_):
    monkeypatch.setattr(sys, "argv", ["search", "report", *words_])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.slow
def test_the_command_renews_the_report_from_what_is_stored(again, monkeypatch, capsys, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(json.dumps(again.study.model_dump(mode="json")))
    words_ = [str(study), "--storage", str(tmp_path)]
    shutil.rmtree(again.folder.report)
    assert run(monkeypatch, *words_) == 2
    assert "no report yet" in capsys.readouterr().err
    assert run(monkeypatch, *words_, "--renew", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["cells"]) == 18
    (again.folder.report / "report.json").write_text("{}")
    assert run(monkeypatch, *words_) == 2
    assert "another version of radsweep wrote this report; write it again with --renew" in capsys.readouterr().err
    again.folder.ledger.unlink()
    assert run(monkeypatch, *words_, "--renew") == 2
    assert "nothing to report yet" in capsys.readouterr().err


def test_a_table_breaks_no_word_that_has_room_and_into_a_pipe_no_line(reported, monkeypatch, capsys, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(json.dumps(reported.study.model_dump(mode="json")))
    winner = "learning_rate=3e-05"
    for columns, whole in ((40, False), (123, False), (124, True), (None, True)):
        monkeypatch.delenv("COLUMNS", raising=False) if columns is None else monkeypatch.setenv("COLUMNS", str(columns))
        assert run(monkeypatch, str(study), "--storage", str(reported.folder.storage)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert any(winner in line for line in lines) == whole
        assert any("test auroc (95% interval)" in line for line in lines) == (columns is None)
        if columns:
            assert max(len(line) for line in lines if line.startswith("│")) <= columns


def test_the_papers_table_has_noise_in_percent(reported):
    found = copy.deepcopy(reported.found)
    for number, cell in enumerate(found["cells"]):
        cell["axes"]["label_noise"] = (0.0, 0.1, 0.2, 0.3, 0.4)[number % 5]
    told = pd.read_csv(io.StringIO(files.paper_csv(found)))
    assert set(told["noise_ratio"]) == {0, 10, 20, 30, 40}


def test_a_confidence_is_told_to_its_last_digit(reported):
    found = {**reported.found, "confidence": 0.995}
    assert "test auroc (99.5% interval)" in tables.overview(found)
    assert r"99.5\,\% intervals" in files.latex(found)
    assert "percentiles (99.5%)" in words.method(found)


def test_an_axis_of_several_settings_is_told_in_words(reported):
    """Any setting may be an axis, a whole recipe too; tables then say its settings."""
    found = copy.deepcopy(reported.found)
    recipes = [{"learning_rate": 0.01, "optimizer": "sgd"}, {"learning_rate": 0.1}]
    found["axes"]["recipe"] = recipes
    for number, cell in enumerate(found["cells"]):
        cell["axes"]["recipe"] = recipes[number % 2]
    told = {"learning_rate=0.01,optimizer=sgd", "learning_rate=0.1"}
    for written in (files.results_csv, files.paper_csv, files.subgroups_csv):
        assert set(pd.read_csv(io.StringIO(written(found)))["recipe"]) == told
    assert set(tables.overview(found)["recipe"]) == told


def test_a_group_that_a_spreadsheet_would_carry_out_is_text(reported):
    found = reported.found
    rows = [{"group": group, "value": -0.5} for group in ("=1+1", "@sum", "-5", "+5", "a=b", "ü", None)]
    found["cells"] = [found["cells"][0] | {"subgroups": rows}]
    told = pd.read_csv(io.StringIO(files.subgroups_csv(found)))
    assert list(told["group"].fillna("")) == ["'=1+1", "'@sum", "'-5", "'+5", "a=b", "ü", ""]
    assert set(told["value"]) == {-0.5}
