"""What a study found, in sentences."""

from collections.abc import Mapping
from typing import Any

from datasets.dataset_config import QUESTION
from search.report import differences
from search.report.layout import (
    MACRO,
    cells_of,
    datasets,
    external_rows_of,
    has_several_seeds,
    primary,
    question,
    rows_of,
    short_name,
    spoken,
)
from search.study_state import OVER_BUDGET, point_of
from search.wording import counted, percent

ALPHA = 0.05
FEW_CASES = 10
"""Below that, 95 % intervals of AUROC cover it in 77 to 87 % of samples (see `trainers.evaluation.ranked`)."""


def sentences(found: dict[str, Any]) -> list[str]:
    """Say what was run and how it was measured."""
    counts, epochs = found["counts"], found["epochs"]
    told = [
        f"{counted(counts['cells'], 'cell')}, {counted(counts['trials'], 'trial')}: "
        f"{counts.get('COMPLETE', 0)} complete, {counts.get('PRUNED', 0)} pruned, {counts.get('FAILED', 0)} failed"
        f"{_others(counts)}. "
        f"{epochs['trained']} of {epochs['full_grid']} epochs were trained.",
    ]
    for data in found["data"]:
        images = data["images"]
        told.append(
            f"{data['name']}: {images['train']} training, {images['val']} validation and {images['test']} "
            f"test images ({data['validation']}); {data['quarantined']} quarantined."
        )
    if found["cells"]:
        rule = " (the hyperparameters with the best mean over seeds, of these the best seed)"
        told.append(
            f"Winners were chosen on validation{rule if has_several_seeds(found) else ''}; the test partition was read "
            "once per winner. Intervals: "
            f"{found['redraws']} bootstrap redraws of {found['unit']}s."
        )
    for dataset in datasets(found):
        measured = [row for cell in cells_of(found, dataset) for row in rows_of(found, cell).values()]
        told += [*_undefined(found, dataset), *_uncertain(found, dataset, measured)]
    told += [one for one in _uncertain_elsewhere(found) if one not in told]
    told += _pruning(found["pruning"], several_seeds=has_several_seeds(found))
    told += [
        f"Dropped for the budget: {trial['cell']} {point_of(trial['searched'])}, seed {trial['seed']} "
        f"({trial['reason'].removeprefix(OVER_BUDGET)})."
        for trial in found["trials"]
        if trial["state"] == "DROPPED"
    ]
    told += [f"Data set {dataset} could not be used: {reason}." for dataset, reason in found["unusable"].items()]
    told += [f"Cell without a finished trial: {cell}." for cell in found["cells_without_winner"]]
    return told


def findings(found: dict[str, Any]) -> list[str]:
    """Say what came of it: the best cell of each data set, what each axis did, and what could not be compared."""
    effects = [_effect(found, contrast) for contrast in differences.contrasts(found)]
    missing = [f"Not compared: {sentence}." for sentence in found["differences"]["not_compared"]]
    return [*_best(found), *effects, *missing]


def method(found: dict[str, Any]) -> str:
    """Say how the differences were tested."""
    families = found["differences"]["families"]
    if not families:
        return ""
    return (
        f"A difference is first minus second of two cells that agree in every other axis, on the same test cases and "
        f"the same {found['redraws']} redraws of {found['unit']}s; intervals are percentiles "
        f"({percent(found['confidence'])}). p-values are two-sided, from the redraws' standard deviation and the "
        f"normal distribution, because counted redraws cannot tell p below {2 / found['redraws']:g}. They are adjusted "
        "by Benjamini-Hochberg (BH, false discovery rate) and Holm (any false finding) over the family that was "
        f"tested: {families['pairs']['macro']} macro differences; {families['pairs']['targets']} of single targets; "
        f"{families['averages']['macro']} mean macro differences; {families['averages']['targets']} means of single "
        "targets. An interval tells what other patients would change; it does not tell what another training seed "
        f"would{_where_seeds_stand(found)}."
    )


def _where_seeds_stand(found: dict[str, Any]) -> str:
    told = ": how far the seeds differ on validation stands beside each winner"
    return told if has_several_seeds(found) else ""


def _others(counts: Mapping[str, int]) -> str:
    words = {"DROPPED": "dropped for the budget", "UNFINISHED": "not finished"}
    return "".join(f", {counts[state]} {word}" for state, word in words.items() if counts.get(state))


def _undefined(found: dict[str, Any], dataset: str) -> list[str]:
    """Say which targets the macro means of a data set leave out."""
    measured = [row for cell in cells_of(found, dataset) for row in rows_of(found, cell).values()]
    targets = {row["target"] for row in measured} - {MACRO}
    without = dict.fromkeys(row["target"] for row in measured if row["target"] in targets and row["value"] is None)
    if not without or len(without) == len(targets):
        return []
    share = f"{len(targets) - len(without)} of {counted(len(targets), 'target')}"
    return [
        f"{dataset}: macro is the mean over {share}, without those that "
        f"lack a class among the test cases: {', '.join(without)}."
    ]


def about_groups(found: dict[str, Any]) -> str:
    """Say which groups of test cases are left out, and whose intervals promise too much; empty where none is shown."""
    from trainers.evaluation.subgroups import FEWEST

    rows = [row for cell in found["cells"] for row in cell["subgroups"] if row["metric"] == primary(found)]
    if not rows:
        return ""
    narrow = dict.fromkeys(f"{row['column']} {row['group']}" for row in rows if row["low"] is not None and _is_few(row))
    told = f"Groups of fewer than {FEWEST} test cases are left out, and so are divisions with a single group."
    if not narrow:
        return told
    return (
        f"{told} Fewer than {FEW_CASES} cases carry a class of a target in {', '.join(narrow)}; intervals there are "
        "narrower than they should be."
    )


def _is_few(row: dict[str, Any]) -> bool:
    return bool(row["target"] != MACRO and min(row["positives"], row["negatives"]) < FEW_CASES)


def _uncertain_elsewhere(found: dict[str, Any]) -> list[str]:
    """The same of the data sets that winners are also measured on."""
    names = dict.fromkeys(row["dataset"] for cell in found["cells"] for row in cell["external"])
    return [
        sentence
        for name in names
        for sentence in _uncertain(
            found, name, [row for cell in found["cells"] for row in external_rows_of(found, cell, name).values()]
        )
    ]


def _uncertain(found: dict[str, Any], dataset: str, measured: list[dict[str, Any]]) -> list[str]:
    """Say which targets have no interval, or one that promises too much, because few cases carry a class."""
    defined = [row for row in measured if row["target"] != MACRO and row["value"] is not None]
    without = dict.fromkeys(row["target"] for row in defined if row["low"] is None)
    few = dict.fromkeys(row["target"] for row in defined if _is_few(row))
    told = []
    if without:
        told.append(
            f"{dataset}: no interval for {', '.join(without)}, and so none for macro: too few {found['unit']}s of a "
            "class among the test cases for redraws to tell how much others would differ."
        )
    if narrow := [name for name in few if name not in without]:
        told.append(
            f"{dataset}: fewer than {FEW_CASES} test cases of a class for {', '.join(narrow)}; such intervals are "
            "narrower than they should be."
        )
    return told


def _pruning(told: dict[str, Any], *, several_seeds: bool) -> list[str]:
    """Say what the spared trials tell of the pruner's mistakes."""
    if not told["spared"]:
        return []
    counting = " (seeds counted as one)" if several_seeds else ""
    ran_on = f"Of the trials that the pruner wanted to stop {told['spared']}{counting} ran on to find out what it costs"
    if not told["finished"]:
        return [f"{ran_on}; none of them came to its end."]
    return [
        f"{ran_on}: "
        f"{told['would_have_won']} of {told['finished']} would have won their cell, mean regret "
        f"{told['mean_regret']:.4f}, worst {told['worst_regret']:.4f} on validation."
    ]


def _best(found: dict[str, Any]) -> list[str]:
    measured: dict[str, list[tuple[float, dict[str, Any], dict[str, Any]]]] = {}
    for dataset in datasets(found):
        for cell in cells_of(found, dataset):
            if (row := rows_of(found, cell).get(MACRO)) and row["value"] is not None:
                measured.setdefault(question(found, cell), []).append((row["value"], cell, row))
    told = []
    for asked, cells in measured.items():
        choose = max if found["direction"] == "maximize" else min
        value, cell, row = choose(cells, key=lambda one: one[0])
        name = short_name(found, cell, without=("dataset", *QUESTION)) or cell["cell"]
        bounds = f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else ""
        end = "highest" if choose is max else "lowest"
        which = "the only cell" if len(cells) == 1 else f"the {end} of {len(cells)} cells"
        told.append(f"{asked}: {which} is {name}, {value:.3f}{bounds}.")
    return told


def _effect(found: dict[str, Any], contrast: tuple[str, str, str]) -> str:
    axis, value, against = contrast
    average = next(
        row for row in differences.of_contrast(found["differences"]["averages"], contrast) if row["target"] == MACRO
    )
    if average["difference"] is None:
        return f"{axis}: {value} − {against} is undefined."
    interval = "" if average["low"] is None else f", interval {average['low']:+.4f} to {average['high']:+.4f}"
    return (
        f"{axis}: {value} − {against} is {average['difference']:+.4f} {spoken(primary(found))} on average over "
        f"{counted(average['pairs'], 'pair')} of cells{interval}; {_tested(found, contrast)}."
    )


def _tested(found: dict[str, Any], contrast: tuple[str, str, str]) -> str:
    """Say how many pairs of cells differ, of those that can be tested."""
    pairs = [row for row in differences.of_contrast(found["differences"]["pairs"], contrast) if row["target"] == MACRO]
    tested = [row for row in pairs if row["holm"] is not None]
    if not tested:
        return "no pair could be tested"
    differing = [row["difference"] for row in tested if row["holm"] < ALPHA]
    higher = sum(difference > 0 for difference in differing)
    left = f" ({len(pairs) - len(tested)} could not be tested)" if len(tested) < len(pairs) else ""
    return f"pairs that differ after Holm's correction: {higher} higher, {len(differing) - higher} lower{left}"
