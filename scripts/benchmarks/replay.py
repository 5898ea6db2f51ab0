"""Mean regret of `cell_race` against the best comparator that spends no more, on real recorded curves.

Curves: a study of radsweep's own (`search/studies/pruner_curves.yaml`; its curves lie beside this file), made-up cells
(`_made_up_cells.py`, with other seeds than the ladder's late rungs and the tolerance were chosen on), fine-tuning runs
of six CT and MR data sets (MedQuickTune's portfolio, where RADSWEEP_SHARED_DATA or ../shared/data has it), and LCDB's
learning curves over training-set sizes (the package `lcdb`, where it is installed). The rows are printed for what is
there. Every policy is charged by the same code for the rows that it saw.
"""

import importlib.util
import os
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scripts.benchmarks import _made_up_cells as made_up_cells
from scripts.benchmarks.row import Row
from search.replay import curves
from search.replay import run as replaying
from search.replay.curves import Group

GOAL = 0.5
REPORTED = frozenset({"bflair", "gist", "hcc"})
"""The default settings were chosen on the portfolio's three other data sets (crlm, desmoid, liver)."""
SLACK = 1.02
"""A comparator may spend 2 % more than we did and still count as equal cost."""
CELLS_OF_5 = "cells of 5 learning rates"
ON_TEST = "LCDB, one split, judged on test"
GOING_ON = "LCDB, trainings that go on through all sizes"
Scored = dict[str, Any]
NAMES = [*curves.COLUMNS, "cost", "outcome"]
LCDB_SIZES = tuple(1 / 2**power for power in range(6, -1, -1))


def run(*, quick: bool) -> list[Row]:
    """Replay every table that is at hand."""
    rows = []
    for name, groups, judged in tables(quick=quick):
        ours, peers = _scores(groups, judged, quick=quick)
        rows.append((_choices if name in {ON_TEST, GOING_ON} else _regret)(name, ours, peers))
        if name.endswith(CELLS_OF_5):
            rows.append(_share_of_epochs(name, ours))
    return rows


def _scores(groups: dict[str, Group], judged: frozenset[str], *, quick: bool) -> tuple[Scored, list[Scored]]:
    """Return our score and those of the comparators that spent no more."""
    scores = list(replaying.replay(groups, replaying.asked(["cell_race"]), seeds=1 if quick else 3, judged=judged))
    for score in scores:
        print(replaying.line(score), file=sys.stderr)
    ours, *others = [score.as_json() for score in scores]
    full = next(other for other in others if other["pruner"] == "full_grid")
    if full["regret_mean"] != 0.0 or abs(full["cost"] - 1.0) > 1e-9:
        raise RuntimeError("the full grid must cost all and regret nothing")
    if ours["unfinished_groups"]:
        raise RuntimeError("a group was left without a finished run")
    return ours, [other for other in others if other["cost"] <= ours["cost"] * SLACK]


def _regret(name: str, ours: Scored, peers: list[Scored]) -> Row:
    best = min(peers, key=lambda peer: peer["regret_mean"])
    ratio = ours["regret_mean"] / max(best["regret_mean"], 1e-9)
    told = f"{name}: regret at {ours['cost']:.0%} of the cost, against {best['pruner']} at {best['cost']:.0%}"
    return Row(told, ours["regret_mean"], best["regret_mean"], ratio, "<= 0.5", ratio <= GOAL)


def _share_of_epochs(name: str, ours: Scored) -> Row:
    cost, regret = ours["cost"], ours["regret_mean"]
    met = cost <= 0.45 and regret <= 0.001
    told = f"{name}: share of the full grid's epochs, with regret {regret:.4f}"
    return Row(told, cost, 1.0, cost, "<= 0.45 with regret <= 0.001", met)


def _choices(name: str, ours: Scored, peers: list[Scored]) -> Row:
    """Compare the share of good choices: on a test set, regret may be negative, and then has no ratio."""
    key = "within_0_005"
    best = max(peers, key=lambda peer: peer[key])
    told = (
        f"{name}: share of choices within 0.005 at {ours['cost']:.0%} of the cost, regret {ours['regret_mean']:.4f}, "
        f"worst {ours['regret_worst']:.3f}, against {best['pruner']} at {best['cost']:.0%}"
    )
    aimed = ours["cost"] <= 0.10 and ours["regret_mean"] <= 0.0005 and ours["regret_worst"] <= 0.03
    goal = ">= 0.92 at 10 %, <= 0.0005, <= 0.03"
    return Row(told, ours[key], best[key], ours[key] / best[key], goal, aimed and ours[key] >= 0.92)


def tables(*, quick: bool) -> Iterator[tuple[str, dict[str, Group], frozenset[str]]]:
    """Yield name, groups, and those of them that no setting was chosen on."""
    groups = _own_study()
    yield f"a study of our own, {len(groups)} {CELLS_OF_5}", groups, frozenset(groups)
    for noise in (0.002, 0.004):
        groups = curves.of_table(made_up_cells.table(cells=70, noise=noise, seed=0), name="made up")
        yield f"noise {noise:g}, {len(groups)} made-up {CELLS_OF_5}", groups, frozenset(groups)
    folder = medquicktune_folder()
    if folder is not None:
        whole = curves.of_table(medquicktune(folder), name="medquicktune")
        for size in (5, 12, 30):
            drawn = replaying.equal_groups(whole, size=size, draws=5 if quick else 30, seed=0)
            yield f"fine-tuning curves, {len(drawn)} cells of {size}", drawn, frozenset(drawn)
    lcdb = importlib.util.find_spec("lcdb")
    if lcdb is not None and lcdb.origin is not None:
        scores = pd.read_csv(Path(lcdb.origin).parent / "database-auc.csv")
        groups = curves.of_table(_lcdb(scores), name="lcdb", restarts=True)
        judged = frozenset(groups) - _tuned(groups)
        yield f"LCDB, {len(judged)} of {len(groups)} data sets", groups, judged
        groups = curves.of_table(_lcdb(scores).drop(columns=["cost", "outcome"]), name="lcdb")
        yield GOING_ON, groups, judged
        groups = curves.of_table(_lcdb(_first_split(scores), judged_by="score_test"), name="lcdb", restarts=True)
        yield ON_TEST, groups, frozenset(groups)


def _own_study() -> dict[str, Group]:
    """Read the curves of `pruner_curves.yaml`, each trial at the best epoch that the study chose by."""
    groups = curves.load(Path(__file__).with_name("pruner_curves.csv"))
    return {
        name: {trial: replace(curve, best=float(curve.values.max())) for trial, curve in group.items()}
        for name, group in groups.items()
    }


def _tuned(groups: Collection[str]) -> frozenset[str]:
    """Return the half of LCDB's data sets that the early rungs and their exponents were chosen on."""
    return frozenset(np.random.default_rng(1).permutation(sorted(groups))[: len(groups) // 2].tolist())


def medquicktune_folder() -> Path | None:
    """Return the folder of the portfolio's curves, if they are at hand."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("RADSWEEP_SHARED_DATA", beside)) / "learning_curves" / "medquicktune_portfolio"
    return folder if folder.is_dir() else None


def medquicktune(folder: Path) -> pd.DataFrame:
    """Cut what was not trained: failed runs are all 0, stopped ones repeat their last value or end in zeros."""
    values = pd.read_csv(folder / "curve.csv", index_col=0)
    datasets = pd.read_csv(folder / "config.csv", index_col=0)["dataset"].to_dict()
    rows = []
    for trial, row in values.iterrows():
        if datasets[trial] not in REPORTED:
            continue
        curve = np.trim_zeros(row.to_numpy(float), "b")
        while len(curve) > 1 and curve[-1] == curve[-2]:
            curve = curve[:-1]
        rows += [(datasets[trial], trial, epoch, value / 100) for epoch, value in enumerate(curve, 1)]
    return pd.DataFrame(rows, columns=list(curves.COLUMNS))


def _first_split(scores: pd.DataFrame) -> pd.DataFrame:
    """Keep one split: a choice is made on one validation set and judged on one test set, as in practice."""
    return scores[(scores["outer_seed"] == 0) & (scores["inner_seed"] == 0)]


def _lcdb(scores: pd.DataFrame, judged_by: str = "score_valid") -> pd.DataFrame:
    """Mean validation AUROC over seeds, at the sizes nearest to 1/64, 1/32 … 1 of the largest; costs are sizes."""
    by = ["openmlid", "learner", "size_train"]
    scores = scores.groupby(by)[["score_valid", "score_test"]].mean().reset_index()
    rows = []
    for group, of_group in scores.groupby("openmlid"):
        top = of_group["size_train"].max()
        finished = set(of_group[of_group["size_train"] == top].dropna()["learner"])
        if top < 1024 or len(finished) < 12:
            continue
        for learner, curve in of_group[of_group["learner"].isin(finished)].groupby("learner"):
            sizes = curve["size_train"].to_numpy()
            near = sorted({int(np.abs(np.log(sizes / (share * top))).argmin()) for share in LCDB_SIZES})
            at = curve.iloc[near].assign(group=group, trial=learner)
            rows.append(
                at[["group", "trial", "size_train", "score_valid", "size_train", judged_by]].set_axis(NAMES, axis=1)
            )
    return pd.concat(rows)
