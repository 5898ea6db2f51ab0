"""What the study file asks of a promotion reaches the judge, and what came of it is told in words."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mlflow_server import registry, succession
from mlflow_server.promotion import Bound, Policy
from search import candidate as candidate_module
from search import promote
from search.candidate import Candidate
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_state import StudyState
from tests.search.recorded import DECLARATION
from trainers.evaluation import case_scores
from trainers.evaluation.redraws import Bootstrap

AXES = {"dataset": "phantom", "initialization": "random", "backbone": "test_vit3", "resolution": 32}


def candidate(folder, promotion=None, evaluation=None, **measured) -> Candidate:
    """A winner with the files of its scores; `measured` is what the ledger has of its evaluation."""
    content = {"name": "s", "axes": AXES, "promotion": promotion or {}, "evaluation": evaluation or {}}
    declaration = DECLARATION | {"primary_metric": "val/average_precision/macro"}
    data = {"kind": "data", "key": "k", "dataset": "phantom", "fingerprint": "f", "declaration": declaration}
    event = {"kind": "evaluated", "trial": "t", "cell": "cell", "time_ms": 1, **measured}
    winner = SimpleNamespace(trial="t", cell="cell", value=0.75, checkpoint="best")
    study = StudyConfig.model_validate(content)
    return Candidate(study, StudyFolder(folder, "s"), StudyState.of([data, event]), winner, "run")


def test_every_condition_of_the_study_file_reaches_the_judge(tmp_path):
    asked = {
        "rule": "non_inferiority",
        "margin": 0.01,
        "per_pathology": 0.03,
        "calibration": 0.2,
        "minimum_positives": 7,
        "external": {"chexpert": {"rule": "superiority", "margin": 0.05}},
    }
    evaluation = {"redraws": 300, "unit": "case", "confidence": 0.9, "seed": 4, "external": {"phantom": ["chexpert"]}}
    assert promote._policy(candidate(tmp_path, asked, evaluation)) == Policy(
        bound=Bound("non_inferiority", 0.01),
        metric="average_precision",
        bootstrap=Bootstrap(300, "case", level=0.9, seed=4),
        per_pathology=0.03,
        calibration=0.2,
        minimum_positives=7,
        external={"chexpert": Bound("superiority", 0.05)},
    )


@pytest.mark.parametrize(
    ("known", "evidence"),
    [
        ({"scores_chexpert.parquet"}, {"chexpert"}),  # a kill left scores of another measurement, never recorded
        (None, {"chexpert", "padchest"}),  # earlier versions wrote down no hashes
    ],
)
def test_scores_on_other_data_are_evidence_as_far_as_they_were_measured(tmp_path, known, evidence):
    external = {"phantom": ["chexpert", "padchest", "mimic_cxr"]}
    asked = {"external": {name: {"margin": 0.1} for name in external["phantom"]}}
    hashes = {} if known is None else {"sha256": {name: hashlib.sha256(name.encode()).hexdigest() for name in known}}
    chosen = candidate(tmp_path, asked, {"external": external}, **hashes)
    place = chosen.folder.winner("t")
    place.mkdir(parents=True)
    for name in ("scores_chexpert.parquet", "scores_padchest.parquet", "scores_vindr_cxr.parquet"):
        (place / name).write_bytes(name.encode())
    files = {name: hashlib.sha256(f"scores_{name}.parquet".encode()).hexdigest() for name in evidence}
    assert chosen.external_sha256 == files
    unasked = candidate(tmp_path, {}, {"external": external}, **hashes)  # what it is champion with, others may ask for
    assert unasked.external_sha256 == files


@pytest.mark.parametrize(
    ("more", "own", "chexpert"),
    [
        ([], "told later", "c"),
        ([{"version": "1", "run_id": "r", "action": "rolled back"}], "told later", "c"),
        ([{"version": "2", "run_id": "r2", "scores_sha256": "another version's"}], "told later", "c"),
        ([{"version": "1", "run_id": "r2", "scores_sha256": "of a model made anew"}], "told later", "c"),
        ([{"version": "1", "scores_sha256": "an earlier radsweep's"}], "an earlier radsweep's", None),
    ],
)
def test_a_champions_scores_are_those_of_its_last_decision_on_record(tmp_path, monkeypatch, more, own, chexpert):
    decided = {"version": "1", "run_id": "r", "scores_sha256": "told first"}
    later = decided | {"scores_sha256": "told later", "external_sha256": {"chexpert": "c"}}
    history = SimpleNamespace(read=lambda: [decided, later, *more])
    registry = SimpleNamespace(
        scores=lambda champion, sha256: f"own {sha256}".encode(),
        external_scores=lambda champion, name, sha256: f"{name} {sha256}".encode() if name == "chexpert" else None,
    )
    monkeypatch.setattr(candidate_module, "_test_scores", bytes.decode)
    monkeypatch.setattr(case_scores, "load", lambda stream: stream.read().decode())
    asked = {"external": {name: {"margin": 0.1} for name in ("chexpert", "padchest")}}
    chosen = candidate(tmp_path, asked, {"external": {"phantom": list(asked["external"])}})
    found = chosen.rival(registry, SimpleNamespace(version="1", run_id="r"), history)
    assert (found.test, found.external) == (f"own {own}", {"chexpert": f"chexpert {chexpert}"})


@pytest.mark.parametrize(
    ("by_hand", "whole", "promoted", "failing"),
    [
        (None, True, True, []),
        ("somebody moved the alias", True, False, ["a promotion or roll-back made it champion"]),
        (None, False, False, ["its files are there"]),
    ],
)
def test_a_winner_that_is_champion_already_is_no_success_where_something_is_wrong(
    tmp_path, by_hand, whole, promoted, failing
):
    chosen = candidate(tmp_path)
    chosen.folder.winner("t").mkdir(parents=True)
    (chosen.folder.winner("t") / "scores.parquet").write_bytes(b"scores")
    champion = SimpleNamespace(version="3")
    outcome = promote._already(chosen, champion, by_hand, whole=whole, dry_run=False)
    assert outcome["promoted"] is promoted
    assert [reason["condition"] for reason in outcome["reasons"] if not reason["holds"]] == failing
    assert (outcome["version"], outcome["champion_before"], outcome["validation"]) == ("3", "3", 0.75)
    assert outcome["scores_sha256"] == hashlib.sha256(b"scores").hexdigest()


@pytest.mark.parametrize(
    ("outcome", "first", "last"),
    [
        ({"promoted": True}, "promoted", "registered model m, version 2, alias champion"),
        ({"promoted": True, "version": "1"}, "champion already", "registered model m, version 1, alias champion"),
        ({"promoted": False}, "not promoted", "  no  margin: too small"),
        ({"promoted": True, "dry_run": True, "version": None}, "would be promoted", "a dry run: nothing was changed"),
        (
            {"promoted": True, "dry_run": True, "version": None, "champion_before": None},
            "would be promoted",
            "a dry run: nothing was changed",
        ),
        ({"promoted": False, "dry_run": True}, "not promoted", "a dry run: nothing was changed"),
    ],
)
def test_a_decision_is_told_for_what_it_is(capsys, outcome, first, last):
    reasons = [{"condition": "margin", "holds": outcome["promoted"], "evidence": "too small"}]
    about = {"cell": "a/b", "trial": "t", "study": "s", "registered_model": "m", "champion_before": "1", "version": "2"}
    promote.show({"dry_run": False, **about, "reasons": reasons, **outcome}, Console(width=200))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{first}: a/b (trial t) of study s"
    assert lines[1].startswith("  yes margin" if outcome["promoted"] else "  no  margin")
    assert lines[-1] == last


@pytest.mark.parametrize(("dry_run", "done"), [(True, []), (False, ["settled", "no challenger"])])
def test_a_dry_run_changes_nothing_where_the_winner_is_champion_already(tmp_path, monkeypatch, dry_run, done):
    chosen, calls = candidate(tmp_path), []
    chosen.folder.winner("t").mkdir(parents=True)
    (chosen.folder.winner("t") / "scores.parquet").write_bytes(b"scores")
    champion = SimpleNamespace(name="s", version="3", run_id="run", tags={registry.MADE_OF: "made of this"})
    known = SimpleNamespace(
        champion=lambda name: champion if name == "s" else None,
        no_challenger=lambda _: calls.append("no challenger"),
        is_packaged=lambda *_: True,
    )
    monkeypatch.setattr(candidate_module, "find", lambda study, storage: chosen)
    monkeypatch.setattr(Candidate, "package", lambda self, weights: SimpleNamespace(made_of=lambda: "made of this"))
    monkeypatch.setattr(registry, "Registry", lambda uri: known)
    monkeypatch.setattr(succession, "settle", lambda name, **_: calls.append("settled"))
    monkeypatch.setattr(succession, "by_hand", lambda *_, **__: None)
    outcome = promote.promote(chosen.study, tmp_path, dry_run=dry_run)
    assert (outcome["promoted"], outcome["version"], outcome["dry_run"]) == (True, "3", dry_run)
    assert calls == done
    assert not chosen.folder.promotions.exists()


def test_evidence_is_of_the_test_partition_and_the_card_says_how_it_was_measured(tmp_path):
    identity = pd.DataFrame({name: [None] * 4 for name in case_scores.IDENTITY})
    identity = identity.assign(case=list("abcd"), patient=list("abcd"), partition=["val", "val", "test", "test"])
    asked = {"redraws": 300, "unit": "case", "confidence": 0.9}
    chosen = candidate(tmp_path, evaluation={"redraws": 900}, asked=asked)
    values = np.array([[0.1], [0.9], [0.2], [0.8]])
    scores = case_scores.collect(identity, values, np.round(values), pathologies=["nodule"])
    scores.save(chosen.folder.winner("t") / "scores.parquet")
    assert chosen.measured().test.table["case"].tolist() == ["c", "d"]
    progress = SimpleNamespace(dataset_key="k", versions=["v1", "v2"])
    chosen.state.trials["t"] = progress
    package = chosen.package()
    assert package.procedure.endswith("In brackets 90% intervals, 300 bootstrap redraws of cases.")
    assert package.facts == {
        "study": "s", "trial": "t", "cell": "cell", "run_id": "run", "data_fingerprint": "f", "code": "v1, v2",
    }  # fmt: skip
    assert package.checkpoint == chosen.folder.trial("t") / "best"
