"""Bringing and decoding the data sets of a study, before anything is trained."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import cleaning
from datasets.errors import DatasetError
from search import checks, ray_cluster, worker
from search.desk import Desk, now_ms
from search.errors import StudyError
from search.grid import Grid, external_datasets
from search.identity import key_of
from search.images_needed import Needed, needed
from search.ledger import Event
from search.resources import Slot
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.wording import counted

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Preparation:
    """The preparation of a study's data.

    Attributes:
        study: what is asked for.
        folder: of the study.
        desk: records what the data hold.
        order_of: returns what a worker is told of a data set.
    """

    study: StudyConfig
    folder: StudyFolder
    desk: Desk
    order_of: Callable[[Needed], worker.PreparationOrder]

    def all(self, wanted: Grid) -> StudyConfig:
        """Prepare every data set once; record what it holds, and which caches `datasets gc` must keep.

        Returns:
            The study without the data sets that cannot be used: their cells stop, the others go on.

        Raises:
            DatasetError: one that winners are measured on cannot be used.
            StudyError: none can be used, or an external data set has no pathology that is learned.
        """
        before, caches = cleaning.recorded_uses(self.folder.path), set[str]()
        targets: dict[str, set[str]] = {}
        problems: dict[str, DatasetError] = {}
        for need in needed(self.study, wanted):
            name = need.dataset.name
            try:
                for message in self._told(need):
                    if "caches" in message:
                        caches |= set(message["caches"])
                        cleaning.record_uses(self.folder.path, before | caches)
                    else:
                        targets.setdefault(name, set()).update(message["data"]["declaration"]["targets"])
                        if need.trained_on:
                            self.record(key_of(need.dataset), message["data"])
                        else:
                            self.record_external(message["data"])
            except DatasetError as problem:
                if self._measures_others(need):
                    raise _named(problem, name) from None
                problems[name] = _named(problem, name)
        self._record_unusable(problems)
        if problems and not {dataset.name for dataset in wanted.datasets} - set(problems):
            raise StudyError("no data set can be used:\n" + "\n".join(f"- {one}" for one in problems.values()))
        external = {name: others for name, others in self.study.evaluation.external.items() if name in targets}
        checks.check_shared_targets(external, targets)  # or it would be told after all training
        cleaning.record_uses(self.folder.path, before | caches if problems else caches)
        return self._without(problems)

    def record(self, key: str, data: Event) -> None:
        """Record what a data set holds, and say where trials of this study have seen other images of it."""
        before = self.desk.state.datasets.get(key)
        if before == data and data["dataset"] not in self.desk.state.unusable:
            return
        changed = set(data["quarantined"]) ^ set(before["quarantined"]) if before else set()
        seen = any(known.dataset_key == key and known.epochs for known in self.desk.state.trials.values())
        if before and seen and before["fingerprint"] == data["fingerprint"] and changed:
            LOG.warning(
                "warning: %s: %s can be read now and could not before, or the reverse; trials of this study that are "
                "trained already saw the others",
                data["dataset"],
                counted(len(changed), "image"),
            )
        self.desk.record(data)

    def record_external(self, data: Event) -> None:
        """Record of what data winners are also measured on; however their images are prepared, they are the same."""
        key = key_of(external_datasets(self.study)[data["dataset"]])
        told = {name: data[name] for name in ("dataset", "fingerprint", "people", "images", "quarantined")}
        found = {"kind": "external", "key": key, **told}
        if self.desk.state.externals.get(key) != found:
            self.desk.record(found)

    def _told(self, need: Needed) -> Iterator[dict[str, Any]]:
        """Prepare one data set; yield what it used and what it holds, and show what a worker does meanwhile."""
        for message in ray_cluster.stream(worker.prepare, self.order_of(need), Slot(1)):
            if "note" in message:
                self.desk.progress.note(message["note"])
            else:
                yield message

    def _measures_others(self, need: Needed) -> bool:
        """Say whether winners of other data sets are measured on this one."""
        return not need.trained_on or any(need.dataset.name in o for o in self.study.evaluation.external.values())

    def _record_unusable(self, problems: Mapping[str, DatasetError]) -> None:
        for name, problem in problems.items():
            if self.desk.state.unusable.get(name) != str(problem):
                self.desk.record({"kind": "unusable", "dataset": name, "reason": str(problem), "time_ms": now_ms()})

    def _without(self, problems: Mapping[str, DatasetError]) -> StudyConfig:
        """Return the study without these data sets, and tell so."""
        for name, problem in problems.items():
            LOG.warning("warning: data set %s cannot be used, its cells stop: %s", name, problem)
        left_out = [{"dataset": list(problems)}] if problems else []
        return self.study.model_copy(update={"exclude": [*self.study.exclude, *left_out]})


def _named(problem: DatasetError, name: str) -> DatasetError:
    """Return a problem with the name of its data set: of several tables `labels.csv` says nothing."""
    if name in problem.where:
        return problem
    where = f"data set {name}, {problem.where}" if problem.where else f"data set {name}"
    return DatasetError(problem.what, where, problem.expected, problem.fix)
