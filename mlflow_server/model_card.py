"""The model card (Mitchell et al., FAT* 2019): what a registered model is, how well it does, and what it is not for.

Written from stored figures alone. Nothing of a patient is in it, no path and no option of a data set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainers.evaluation.subgroups import comparable, defined
from trainers.evaluation.summary import MACRO

DESCRIPTION_CHARACTERS = 5000
"""What MLflow's database keeps of a version's description."""
ALSO_SHOWN = ("average_precision", "sensitivity", "specificity", "ece")
"""Columns of the table of results beside the primary metric; the version's run has all metrics."""
LEFT_OUT = "\n*Cut to what the registry keeps; the whole card is `artifacts/MODEL_CARD.md` of the model.*\n"


@dataclass(frozen=True, slots=True)
class Card:
    """What a model card tells.

    Attributes:
        name: of the registered model.
        metric: bare name of the task's primary metric.
        provenance: study, cell, trial, run and version of the code, by their names.
        network: configuration and plan, as the checkpoint's `trial.json` has them.
        data: images by partition, quarantined images by partition and fingerprint, as the study's ledger has them.
        evaluation: rows, subgroups, external and thresholds of the winner, as the ledger has them.
        procedure: how the intervals came about, in words.
        requirements: what has to be installed to use the model.
    """

    name: str
    metric: str
    provenance: Mapping[str, Any]
    network: Mapping[str, Any]
    data: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    procedure: str
    requirements: Sequence[str]

    def markdown(self) -> str:
        """Return the whole card."""
        return "\n".join(self._sections())

    def description(self) -> str:
        """Return as many of the card's sections as the registry keeps, in the order of their weight."""
        whole = self.markdown()
        if len(whole) <= DESCRIPTION_CHARACTERS:
            return whole
        kept = ""
        for section in self._sections():
            if len(kept) + len(section) + len(LEFT_OUT) + 1 <= DESCRIPTION_CHARACTERS:
                kept += section + "\n"
        return kept + LEFT_OUT

    def _sections(self) -> list[str]:
        return [
            f"# {self.name}\n\nProbabilities of {_listed(self.network['pathologies'])} for a chest radiograph.\n",
            self._intended_use(),
            self._licence(),
            self._results(),
            self._use(),
            self._data(),
            self._external(),
            self._subgroups(),
            self._network(),
            _section("Provenance", _items(self.provenance)),
        ]

    def _intended_use(self) -> str:
        return _section(
            "Intended use and limits",
            "Research on radiographs, by people who can judge the results. **It is no medical device and must not "
            "decide about a patient.**\n\n"
            f"- Trained and chosen on {self._dataset()} alone; on films of other hospitals, devices, ages or "
            "projections it may do worse than the figures here, and its thresholds may not hold.\n"
            "- The labels are those of the data set, with its errors; a probability is that of its label, not of a "
            "disease.\n"
            "- It scores single images. A case's score, as evaluated here, is the mean over its images.\n"
            "- Pathologies that are not named are not looked for. What is no radiograph is scored all the same.\n"
            "- A file is decoded in the process that scores it, with its declared size checked first: give files from "
            "strangers to a process whose memory and time are bounded.\n",
        )

    def _licence(self) -> str:
        plan = self.network["plan"]
        weights = "No initial weights, so no licence of theirs."
        if plan["tag"] is not None:
            name, licence = plan["initialization"], plan["licence"]
            weights = f"Initialization `{name}`: weights under **{licence}**, which binds this model too."
        note = f" {plan['note']}" if plan.get("note") else ""
        return _section("Licence", f"{weights} The data set has terms of its own.{note}\n")

    def _results(self) -> str:
        rows = self.evaluation["rows"]
        shown = [name for name in (self.metric, *ALSO_SHOWN) if any(name == row["metric"] for row in rows)]
        table = _metric_table(rows, shown, self.evaluation.get("thresholds", {}), macro=self._macro(rows))
        thresholds = (
            "Thresholds were chosen on validation (Youden), never on the test cases; `decisions` applies them.\n"
        )
        return _section("Results on the test partition", f"{self.procedure}\n\n{table}\n{thresholds}")

    def _use(self) -> str:
        network = self.network["preprocessing"]
        return _section(
            "Use",
            "`mlflow.pyfunc.load_model(URI).predict([pathlib.Path('film.dcm')])`: DICOM, PNG or JPEG as path, bytes "
            "or base64 text, or arrays; `params={'decisions': True}` adds decisions. Over HTTP: "
            '`{"inputs": ["<base64>"]}` or Parquet; other forms (`dataframe_split`, `dataframe_records`, `instances`, '
            "CSV) are answered with status 400.\n\n"
            f"Preprocessing `{network['name']}` (version {network['version']}) is part of the model: "
            + ", ".join(f"{key} {value}" for key, value in network.items() if key not in ("name", "version"))
            + f". Needs mlflow and: {', '.join(self.requirements)}.\n",
        )

    def _data(self) -> str:
        dataset = self.network["trial"]["dataset"]
        images = ", ".join(f"{count} {partition}" for partition, count in self.data.get("images", {}).items())
        quarantined = len(self.data.get("quarantined", {}))
        return _section(
            "Data",
            _items(
                {
                    "data set": self._dataset(),
                    "images": images,
                    "unreadable, left out": quarantined,
                    "labels": f"{dataset['labels']}; uncertain ones: {dataset['uncertain']}",
                    "fingerprint": f"`{self.data.get('fingerprint')}`",
                }
            ),
        )

    def _dataset(self) -> str:
        dataset = self.network["trial"]["dataset"]
        name, source = dataset["name"], dataset["source"]
        return f"`{name}`" if name == source else f"`{name}` (read by {source})"

    def _external(self) -> str:
        rows = self._of_metric(self.evaluation.get("external", []))
        if not rows:
            return _section("Results on other data sets", "None were asked for.\n")
        known = {name: [row for row in rows if row["dataset"] == name] for name in {row["dataset"] for row in rows}}
        named = {name: self._macro(of_dataset) for name, of_dataset in known.items()}
        lines = [
            f"| {r['dataset']} | {named[r['dataset']] if r['target'] == MACRO else r['target']} | {r['cases']} "
            f"| {_figure(r)} |"
            for r in rows
        ]
        return _section("Results on other data sets", _table(("data set", "pathology", "cases", self.metric), lines))

    def _subgroups(self) -> str:
        rows = self._of_metric(comparable(self.evaluation.get("subgroups", [])))
        rows = [row for row in rows if row["target"] == MACRO]
        if not rows:
            return _section("Subgroups", "No group of the test cases was large enough, or none was asked for.\n")
        lines = [
            f"| {r['column']} | {r['group']} | {r['cases']} | {_figure(r)}{_over(r['macro_over'], r['targets'])} |"
            for r in rows
        ]
        return _section("Subgroups", _table(("by", "group", "cases", f"{MACRO} {self.metric}"), lines))

    def _macro(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Name the macro mean of a set of cases, with how many pathologies it is over: it leaves out the undefined."""
        both = defined({row["target"]: row for row in self._of_metric(rows)})
        return f"{MACRO}{_over(len(both), len(self.network['pathologies']))}"

    def _of_metric(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return [row for row in rows if row["metric"] == self.metric]

    def _network(self) -> str:
        trial, plan = self.network["trial"], self.network["plan"]
        recipe = trial["recipe"]
        return _section(
            "Network and training",
            _items(
                {
                    "architecture": f"`{plan['architecture']}`, weights `{plan['tag'] or 'random'}`",
                    "resolution": f"{trial['resolution']} px",
                    "adaptation": trial["adaptation"],
                    "recipe": f"{recipe['name']}, learning rate {recipe['learning_rate']:g}, {recipe['epochs']} epochs "
                    f"of batches of {recipe['batch_size']}; seed {trial['seed']}",
                }
            ),
        )


def _metric_table(
    rows: Sequence[Mapping[str, Any]], shown: Sequence[str], thresholds: Mapping[str, float | None], *, macro: str
) -> str:
    """Write a row for each target; the first metric that is shown says how many cases it counts."""
    by_place = {(row["target"], row["metric"]): row for row in rows}
    targets = list(dict.fromkeys(row["target"] for row in rows))
    lines = []
    for target in targets:
        counts = by_place.get((target, shown[0]), {})
        cases = f"{counts['positives']} / {counts['negatives']}" if counts.get("positives") is not None else ""
        cut = thresholds.get(target)
        cells = [_figure(by_place.get((target, metric), {})) for metric in shown]
        name = macro if target == MACRO else target
        lines.append(f"| {name} | {cases} | {'' if cut is None else f'{cut:.3f}'} | {' | '.join(cells)} |")
    return _table(("pathology", "positive / negative", "threshold", *shown), lines)


def _figure(row: Mapping[str, Any]) -> str:
    if row.get("value") is None:
        return "undefined"
    if row.get("low") is None or row.get("high") is None:
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} ({row['low']:.3f}–{row['high']:.3f})"


def _over(number: int, of: int) -> str:
    return "" if number == of else f", over {number} of {of} pathologies"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _table(columns: Sequence[str], lines: Sequence[str]) -> str:
    return "\n".join([f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *lines]) + "\n"


def _items(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in values.items()) + "\n"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in names)
