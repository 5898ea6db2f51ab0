import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from mlflow_server.errors import PromotionError, TrackingError
from mlflow_server.registry import Registry
from search import compare, stored_scores
from search.compare import Question
from search.errors import StudyError
from search.ledger import Ledger
from search.study_folder import StudyFolder
from trainers.evaluation.auroc import auroc
from trainers.evaluation.case_scores import IDENTITY, collect

PATHOLOGIES = ["effusion", "nodule"]
DECLARATION = {"primary_metric": "val/auroc/macro", "direction": "maximize", "targets": PATHOLOGIES}


def scores(strength, *, cases=120, first=0):
    """Case scores of a validation and a test partition; the test half is the second one."""
    labels = np.random.default_rng(1).integers(0, 2, (cases, 2)).astype(float)
    identity = pd.DataFrame({name: [None] * cases for name in IDENTITY})
    identity["case"] = [f"c{first + i}" for i in range(cases)]
    identity["patient"] = [f"p{(first + i) // 2}" for i in range(cases)]
    identity["partition"] = ["val"] * (cases // 2) + ["test"] * (cases // 2)
    noise = np.random.default_rng(int(10 * strength)).normal(size=(cases, 2))
    return collect(identity, noise + strength * labels, labels, pathologies=PATHOLOGIES)


def add_study(storage, name, cells, *, first=0, unit="patient", metric="auroc", seed=3):
    """Write a study whose cells have measured winners: {cell: (trial, strength)}."""
    folder = StudyFolder(storage, name)
    folder.path.mkdir(parents=True)
    content = {"name": name, "evaluation": {"redraws": 200, "unit": unit, "confidence": 0.9, "seed": seed}}
    with Ledger(folder.ledger) as ledger:
        ledger.append({"kind": "study", "study": content, "version": "1", "time_ms": 1})
        declared = DECLARATION | {"primary_metric": f"val/{metric}/macro"}
        ledger.append({"kind": "data", "dataset": "d", "key": "k", "fingerprint": "f", "declaration": declared})
        for cell, (trial, strength) in cells.items():
            ledger.append({"kind": "evaluated", "trial": trial, "cell": cell, "time_ms": 2})
            scores(strength, first=first).save(folder.winner(trial) / "scores.parquet")


@pytest.fixture
def storage(tmp_path):
    add_study(tmp_path, "one", {"d/vit/224": ("aaaaaa0001", 2.0), "d/cnn/224": ("bbbbbb0002", 1.0)})
    add_study(tmp_path, "two", {"d/vit/224": ("cccccc0003", 0.5)})
    add_study(tmp_path, "other", {"e/vit/224": ("dddddd0004", 0.5)}, first=1000)
    return tmp_path


def ask(storage, first, second, **question):
    return compare.compare(first, second, storage=storage, uri=None, question=Question(**question))


def test_the_figures_are_those_of_the_stored_test_scores(storage):
    found = ask(storage, "one/d/vit/224", "bbbbbb0002")
    test = [s.where((s.table["partition"] == "test").to_numpy()) for s in (scores(2.0), scores(1.0))]
    assert found["cases"] == 60
    assert (found["redraws"], found["confidence"], found["metric"]) == (200, 0.9, "auroc")
    nodule = found["rows"][1]
    assert nodule["pathology"] == "nodule"
    assert nodule["first"] == auroc(test[0].labels[:, 1], test[0].scores[:, 1])
    assert nodule["difference"] == pytest.approx(nodule["first"] - nodule["second"])
    assert nodule["low"] <= nodule["difference"] <= nodule["high"]
    assert [row["pathology"] for row in found["rows"]] == [*PATHOLOGIES, "macro"]
    assert found["rows"][-1]["first"] == pytest.approx((found["rows"][0]["first"] + nodule["first"]) / 2)


def test_what_is_redrawn_is_that_of_the_first_ones_study(storage):
    """Two cases of a patient are alike in nothing here; drawn together they are half as many draws."""
    add_study(storage, "cases", {"d/vit/224": ("eeeeee0005", 2.0)}, unit="case")
    by_case, by_patient = (ask(storage, first, "bbbbbb") for first in ("eeeeee", "aaaaaa"))
    assert (by_case["unit"], by_patient["unit"]) == ("case", "patient")
    assert by_case["rows"][0]["difference"] == by_patient["rows"][0]["difference"]
    assert by_case["rows"][0]["low"] != by_patient["rows"][0]["low"]


def test_metric_and_seed_are_those_of_the_first_ones_study(storage):
    add_study(storage, "precise", {"d/vit/224": ("eeeeee0005", 2.0)}, metric="average_precision")
    add_study(storage, "reseeded", {"d/vit/224": ("ffffff0006", 2.0)}, seed=4)
    usual, precise, reseeded = (ask(storage, first, "bbbbbb") for first in ("aaaaaa", "eeeeee", "ffffff"))
    assert (usual["metric"], precise["metric"]) == ("auroc", "average_precision")
    assert ask(storage, "aaaaaa", "eeeeee")["metric"] == "auroc"
    assert usual["rows"][0]["difference"] == reseeded["rows"][0]["difference"]
    assert usual["rows"][0]["low"] != reseeded["rows"][0]["low"]


def test_p_values_are_corrected_over_the_pathologies_asked_for(storage):
    both = ask(storage, "aaaaaa", "cccccc")
    alone = ask(storage, "aaaaaa", "cccccc", pathologies=("nodule",))
    assert [row["pathology"] for row in alone["rows"]] == ["nodule", "macro"]
    assert alone["rows"][0]["adjusted"] == alone["rows"][0]["p_value"] == both["rows"][1]["p_value"]
    assert both["rows"][0]["adjusted"] >= both["rows"][0]["p_value"]


def test_a_trial_that_two_studies_share_is_named_with_its_study(storage):
    add_study(storage, "three", {"d/vit/224": ("aaaaaa0001", 2.0)})
    with pytest.raises(StudyError, match=r"could be any of: .*; give STUDY/CELL or STUDY/TRIAL"):
        ask(storage, "aaaaaa0001", "bbbbbb")
    assert ask(storage, "three/aaaaaa0001", "bbbbbb")["first"]["name"] == "three/d/vit/224"


def test_a_trial_whose_cell_got_a_new_name_is_still_one(storage):
    """An axis that was added renames cells; the ledger has the trial's evaluation under both names."""
    with Ledger(StudyFolder(storage, "one").ledger) as ledger:
        ledger.append({"kind": "evaluated", "trial": "aaaaaa0001", "cell": "d/vit/224/lora", "time_ms": 3})
    names = [ask(storage, ref, "bbbbbb")["first"]["name"] for ref in ("aaaaaa", "one/aaaaaa0001", "d/vit/224/lora")]
    assert names == ["one/d/vit/224/lora"] * 3


def test_a_trial_that_lost_its_cell_to_another_is_found_by_its_identity(storage):
    with Ledger(StudyFolder(storage, "one").ledger) as ledger:
        ledger.append({"kind": "evaluated", "trial": "eeeeee0005", "cell": "d/vit/224", "time_ms": 3})
    scores(1.5).save(StudyFolder(storage, "one").winner("eeeeee0005") / "scores.parquet")
    for reference in ("aaaaaa", "one/aaaaaa0001"):
        assert ask(storage, reference, "bbbbbb")["first"] == {"name": "one/d/vit/224 before", "trial": "aaaaaa0001"}
    assert ask(storage, "one/d/vit/224", "bbbbbb")["first"]["trial"] == "eeeeee0005"


def test_scores_that_were_changed_since_they_were_measured_are_refused(storage):
    folder, event = StudyFolder(storage, "one"), {"kind": "evaluated", "trial": "aaaaaa0001", "cell": "d/vit/224"}
    path = folder.winner("aaaaaa0001") / "scores.parquet"
    measured = {**event, "time_ms": 3, "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}}
    with Ledger(folder.ledger) as ledger:
        ledger.append(measured)
    before = ask(storage, "aaaaaa", "bbbbbb")
    assert stored_scores.are_whole(folder, measured)
    table = pd.read_parquet(path)
    table.assign(label_nodule=1 - table["label_nodule"]).to_parquet(path)
    with pytest.raises(
        StudyError, match=r"d/vit/224: scores.parquet of trial aaaaaa0001 was changed since .*; restore"
    ):
        ask(storage, "aaaaaa", "bbbbbb")
    assert not stored_scores.are_whole(folder, measured)
    table.to_parquet(path, index=False)
    assert ask(storage, "aaaaaa", "bbbbbb") == before
    assert stored_scores.are_whole(folder, measured)
    path.unlink()
    assert not stored_scores.are_whole(folder, measured)


def test_pathologies_in_another_order_are_the_same_ones(storage):
    path = StudyFolder(storage, "two").winner("cccccc0003") / "scores.parquet"
    before = ask(storage, "aaaaaa", "cccccc")
    table = pd.read_parquet(path)
    table[[*table.columns[: len(IDENTITY)], *reversed(table.columns[len(IDENTITY) :])]].to_parquet(path)
    assert ask(storage, "aaaaaa", "cccccc")["rows"] == before["rows"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.assign(partition="val"), "not the same cases"),
        (lambda table: table.assign(patient="p0"), "60 of 60 cases are of different patients"),
        (lambda table: table.assign(case=table["case"].replace("c119", "c118")), "not the same cases: 1 only in"),
    ],
)
def test_tables_of_other_patients_or_cases_are_refused(storage, change, message):
    path = StudyFolder(storage, "two").winner("cccccc0003") / "scores.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(StudyError, match=message):
        ask(storage, "aaaaaa", "cccccc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.assign(partition="val"), "there is no test case"),
        (lambda table: table.assign(case=table["case"].replace("c119", "c118")), "1 rows repeat a case, first c118"),
    ],
)
def test_a_table_that_is_no_test_of_anything_is_refused(storage, change, message):
    for study, trial in (("one", "aaaaaa0001"), ("two", "cccccc0003")):
        path = StudyFolder(storage, study).winner(trial) / "scores.parquet"
        change(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(StudyError, match=message):
        ask(storage, "aaaaaa", "cccccc")


def test_a_pathology_without_positive_cases_is_undefined_and_in_no_mean(storage):
    for study, trial in (("one", "aaaaaa0001"), ("two", "cccccc0003")):
        path = StudyFolder(storage, study).winner(trial) / "scores.parquet"
        pd.read_parquet(path).assign(label_effusion=0.0).to_parquet(path)
    effusion, nodule, macro = ask(storage, "aaaaaa", "cccccc")["rows"]
    assert {name: value for name, value in effusion.items() if value is not None} == {"pathology": "effusion"}
    assert (macro["first"], macro["difference"]) == (nodule["first"], nodule["difference"])


def test_a_pathology_that_is_named_twice_counts_once(storage):
    once, twice = (ask(storage, "aaaaaa", "cccccc", pathologies=named) for named in (["nodule"], ["nodule", "nodule"]))
    assert twice == once


@pytest.mark.parametrize("reference", ["runs:/abc", "models:/m@champion"])
def test_a_store_that_is_not_there_is_told_and_not_made(tmp_path, reference):
    with pytest.raises(TrackingError, match=r"mlflow\.db is missing: no study ran there"):
        ask(tmp_path, reference, reference)
    assert not list(tmp_path.iterdir())


def test_redraws_and_metric_may_be_given(storage):
    found = ask(storage, "aaaaaa", "cccccc", redraws=100, metric="average_precision")
    assert (found["redraws"], found["metric"]) == (100, "average_precision")


@pytest.mark.parametrize(
    ("first", "second", "question", "message"),
    [
        ("d/vit/224", "aaaaaa", {}, r"'d/vit/224' could be any of: one/d/vit/224 \(aaaaaa0001\); two/d/vit/224"),
        ("zzzzzz", "aaaaaa", {}, r"neither a measured trial nor a cell .*Measured: one/d/cnn/224 \(bbbbbb0002\)"),
        ("../one", "aaaaaa", {}, "neither a measured trial"),
        ("aaaaaa", "dddddd", {}, "not the same cases: 60 only in the first, 60 only in the second"),
        ("aaaaaa", "cccccc", {"pathologies": ("hernia",)}, "--pathology hernia: .* it has effusion, nodule"),
        ("aaaaaa", "cccccc", {"metric": "f1"}, "unknown metric 'f1'; comparable: auroc"),
    ],
)
def test_what_cannot_be_compared_is_told(storage, first, second, question, message):
    with pytest.raises(StudyError, match=message):
        ask(storage, first, second, **question)


def test_a_winner_without_its_scores_is_told(storage):
    (StudyFolder(storage, "two").winner("cccccc0003") / "scores.parquet").unlink()
    with pytest.raises(StudyError, match=r"scores\.parquet is missing; `python -m search run` writes it"):
        ask(storage, "cccccc", "aaaaaa")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"PAR1",
        lambda content: content[: len(content) // 2],
        lambda content: content[:40] + bytes(200) + content[240:],
    ],
    ids=["begun", "cut", "corrupt"],
)
def test_damaged_scores_are_told_with_their_file(storage, damage):
    path = StudyFolder(storage, "two").winner("cccccc0003") / "scores.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StudyError, match=r"two/d/vit/224: its scores\.parquet cannot be read, restore the file"):
        ask(storage, "aaaaaa", "cccccc")


def test_runs_and_versions_of_a_registered_model_are_compared_with_cells(storage, tmp_path, store_uri):
    client = MlflowClient(store_uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "a").as_uri())
    tags = {"radsweep.study": "one", "radsweep.identity": "aaaaaa0001"}
    run = client.create_run(experiment, tags=tags).info.run_id
    client.log_artifact(run, str(StudyFolder(storage, "one").winner("aaaaaa0001") / "scores.parquet"), "evaluation")
    registry = Registry(store_uri)
    version = registry.register(
        "m", source=str(tmp_path), run_id=run, tags={"radsweep.study": "one", "radsweep.trial": "aaaaaa0001"}
    )
    registry.crown(version, instead_of=None)
    expected = ask(storage, "aaaaaa", "bbbbbb")
    for reference, name in (
        ("models:/m@champion", "m version 1"),
        ("models:/m/1", "m version 1"),
        (f"runs:/{run}", f"run {run}"),
    ):
        found = ask(storage, reference, "bbbbbb")
        assert found["first"] == {"name": name, "trial": "aaaaaa0001"}
        assert {**found, "first": None} == {**expected, "first": None}  # measured as the study measures
    registry.tag(version, {"radsweep.study": "../one"})
    assert ask(storage, "models:/m/1", "bbbbbb")["redraws"] == 1000
    begun = StudyFolder(storage, "begun")
    begun.path.mkdir()
    with Ledger(begun.ledger) as ledger:  # in this storage it has read no data yet
        ledger.append({"kind": "study", "study": {"evaluation": {"redraws": 300}}, "version": "1", "time_ms": 1})
    registry.tag(version, {"radsweep.study": "begun"})
    found = ask(storage, "models:/m/1", "bbbbbb")
    assert (found["redraws"], found["metric"]) == (300, "auroc")
    for wrong in ("models:/m@nobody", "models:/m/9", "models:/../m/1", "models:/m"):
        with pytest.raises(PromotionError, match="models:/"):
            ask(storage, wrong, "bbbbbb")
    with pytest.raises(PromotionError, match="0" * 32):
        ask(storage, "runs:/" + "0" * 32, "bbbbbb")
    with pytest.raises(StudyError, match="is no run: runs:/ID"):
        ask(storage, "runs:/../mlflow.db", "bbbbbb")
    (storage / "mlflow.db").rename(storage / "server.db")
    for reference in ("models:/m/1", f"runs:/{run}"):
        found = compare.compare(
            reference, "bbbbbb", storage=storage, uri=f"sqlite:///{storage}/server.db", question=Question()
        )
        assert found["first"]["trial"] == "aaaaaa0001"


def test_the_command_prints_both_for_people_and_machines(storage, capsys, monkeypatch):
    import sys

    from search import cli

    for words, expected in (([], "macro"), (["--json"], '"first"')):
        monkeypatch.setattr(sys, "argv", ["search", "compare", "aaaaaa", "cccccc", "--storage", str(storage), *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        told = capsys.readouterr().out
        assert expected in told
    assert json.loads(told)["cases"] == 60


def test_every_figure_is_printed_in_its_column(capsys):
    figures = {"first": 0.9, "second": 0.8, "difference": 0.1, "low": -0.05, "high": 0.25, "p_value": 0.04}
    undefined = dict.fromkeys((*figures, "adjusted")) | {"first": 0.7}
    sides = {"first": {"name": "one/d/vit", "trial": "aaaaaa"}, "second": {"name": "m version 1", "trial": None}}
    found = {"metric": "auroc", "cases": 60, "confidence": 0.9, "redraws": 200, "unit": "case", "correction": "holm"}
    rows = [{"pathology": "nodule", **figures, "adjusted": 0.08}, {"pathology": "macro", **undefined}]
    compare.show({**found, **sides, "rows": rows}, Console(width=120))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["first  one/d/vit (trial aaaaaa)", "second m version 1"]
    assert lines[2].strip() == "first − second, auroc on 60 test cases"
    assert lines[3].split() == ["pathology", "first", "second", "difference", "90%", "interval", "p", "p", "adj."]
    assert lines[4].split() == ["nodule", "0.9000", "0.8000", "+0.1000", "-0.0500", "to", "+0.2500", "0.0400", "0.0800"]
    assert lines[5].split() == ["macro", "0.7000", *["undefined"] * 3, "to", *["undefined"] * 3]
    assert lines[6].startswith("200 paired redraws of cases; two-sided p")


def test_a_table_of_80_columns_breaks_no_number(storage, capsys, monkeypatch):
    found = ask(storage, "aaaaaa", "cccccc")
    found["rows"][0]["pathology"] = "enlarged_cardiomediastinum"
    found["rows"][1] |= {"difference": None, "low": None, "high": None}
    compare.show(found, Console(width=80))
    told = capsys.readouterr().out
    for row in found["rows"]:
        for value, form in ((row["first"], ".4f"), (row["p_value"], ".4f"), (row["difference"], "+.4f")):
            assert ("undefined" if value is None else format(value, form)) in told
