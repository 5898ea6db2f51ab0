"""Runs one study from its file to its report; read `run_study` first."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from datasets.dataset_config import DatasetConfig
from search import (
    checks,
    data_roots,
    estimate,
    grid,
    image_counts,
    ray_backend,
    ray_cluster,
    report,
    sampling,
    worker,
)
from search.budget import Spending
from search.data_roots import Root
from search.desk import Desk, now_ms
from search.feature_stores import store_of
from search.grid import Grid, Trial
from search.identity import entry_event, identified, key_of
from search.images_needed import Needed
from search.ledger import Ledger
from search.plan_warnings import warnings
from search.preparation import Preparation
from search.progress import Progress
from search.resources import Slot
from search.schedule import Assignment, Entry, Schedule
from search.slots import Slots
from search.study_config import StudyConfig
from search.study_delivery import delivered
from search.study_folder import StudyFolder, lock
from search.study_sections import Budget
from search.study_state import StudyState
from search.teachers import teachers
from search.winners import Winners
from search.wording import counted
from trainers import adaptations, checkpoint_files, quota
from trainers.trial import Operation, TrialState

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the command line says about this machine; none of it changes a result."""

    storage: Path
    data_roots: Mapping[str, Root] = field(default_factory=dict)
    weights: Path | None = None
    address: str | None = None
    cpus: int | None = None
    retry_failed: bool = False


def run_study(study: StudyConfig, machine: Machine, progress: Progress) -> StudyState:
    """Run what is missing of a study; a second call finds nothing to do.

    Raises:
        StudyError, DatasetError, TrackingError: bad input, told before any trial starts wherever that is possible.
    """
    folder = StudyFolder(machine.storage.resolve(), study.name)
    wanted = checks.examples(study)
    checks.check_weights(wanted, machine.weights)
    for warning in warnings(study, wanted):
        LOG.warning("warning: %s", warning)
    datasets = (*wanted.datasets, *grid.external_datasets(study).values())
    roots = {key_of(d): data_roots.find(d, machine.data_roots, folder.storage) for d in datasets}
    if unknown := sorted(set(machine.data_roots) - {word for d in datasets for word in (d.name, d.source)}):
        names = ", ".join(dict.fromkeys(d.name for d in datasets))
        LOG.warning("warning: --data-root %s: the study has no such data set; it has %s", ", ".join(unknown), names)
    with lock(folder), Ledger(folder.ledger) as ledger, delivered(study, folder) as delivery:
        desk = Desk(study, ledger, delivery, progress)
        with ray_cluster.cluster(machine.address, cpus=machine.cpus) as resources, desk.closing():
            has_gpus = resources.get("GPU", 0) > 0
            if study.budget.gpu_hours is not None and not has_gpus:
                LOG.warning("warning: budget.gpu_hours never binds here, as this cluster has no GPU")
            images_of = partial(image_counts.whole, state=desk.state)
            slots = Slots(study.resources, has_gpus=has_gpus, images_of=images_of)
            slots.check(wanted.examples)  # what can never fit is told before anything starts
            run = StudyRun(study, machine, folder, roots, slots, desk)
            run.reopen_what_has_room_again()  # with the opening that says so, or a crash would forget it
            checks.check_weight_files(wanted, desk.state, machine.weights)
            run = replace(run, study=run.prepare_data(wanted))
            run.reopen_what_failed()
            wanted, trials = run.search_rounds()
            run.keep_within_budget(trials)
            winners = run.winners(trials)
            while winners.reopen_without_weights(measured=machine.retry_failed) and run.search(trials):
                run.keep_within_budget(trials)
            winners.measure()
            run.measure_baselines(wanted)
            if not report.is_current(study, desk.state, folder):
                report.write(study, sampling.expand(study, desk.state), desk.state, folder)
                desk.record()  # so that the tracker hears of it, too
        return desk.state


@dataclass(frozen=True, slots=True)
class StudyRun:
    """The steps of one run, and what they share."""

    study: StudyConfig
    machine: Machine
    folder: StudyFolder
    roots: Mapping[str, Path]
    slots: Slots
    desk: Desk

    def prepare_data(self, wanted: Grid) -> StudyConfig:
        """Bring and decode every data set once; returns the study without those that cannot be used."""
        return Preparation(self.study, self.folder, self.desk, self._preparation_order).all(wanted)

    def search_rounds(self) -> tuple[Grid, dict[str, Trial]]:
        """Search the grid, or what a sampler draws round by round; returns all trials there are at the end."""
        wanted: Grid | None = sampling.expand(self.study, self.desk.state)
        while wanted is not None:
            self.slots.choose(wanted.trials)
            trials, last = self.enter_trials(wanted), wanted
            finished = self.search(trials)
            has_room = not Spending(self.study.budget, [], self.desk.state, now_ms).exhausted()
            wanted = sampling.draw(self.study, last, self.desk.state) if finished and has_room else None
        if finished and (missing := sampling.to_come(self.study, self.desk.state)):
            told = counted(len(missing), "trial")
            self.desk.progress.note(f"no more is drawn, as the budget had no room: {told} to come; raise it to go on")
        return last, trials

    def reopen_what_has_room_again(self) -> None:
        """Bring trials back that an earlier budget had no room for, if the budget was raised."""
        earlier = Budget(**self.desk.earlier_study.get("budget", {}))
        now = self.study.budget
        limits = [(earlier.gpu_hours, now.gpu_hours), (earlier.wall_clock_hours, now.wall_clock_hours)]
        if any(before is not None and (after is None or after > before) for before, after in limits):
            dropped = [t for t, progress in self.desk.state.trials.items() if progress.dropped]
            reason = "the budget was raised"
            self.desk.record(*({"kind": "reopened", "trial": t, "reason": reason} for t in dropped))

    def reopen_what_failed(self) -> None:
        """Bring the trials back that failed in earlier runs, if the command says so."""
        if self.machine.retry_failed:
            trials = identified(sampling.expand(self.study, self.desk.state), self.desk.state)
            failed = [i for i in trials if i in self.desk.state.trials and self._failed(i)]
            self.desk.record(*({"kind": "reopened", "trial": i, "reason": "run --retry-failed"} for i in failed))

    def enter_trials(self, wanted: Grid) -> dict[str, Trial]:
        """Give every trial its identity, and enter those that are new.

        Returns:
            The study's trials by identity, in the order of the grid.
        """
        trials = identified(wanted, self.desk.state)
        new = [entry_event(i, trial) for i, trial in trials.items() if not self._entered(i, trial)]
        if new:
            self.desk.record(*new)
        return trials

    def search(self, trials: Mapping[str, Trial]) -> bool:
        """Train, prune and finish every trial that is not done; returns whether the budget sufficed."""
        taught = teachers({trial.cell.name: trial.cell for trial in trials.values()}, self.study.pruning)
        datasets = [trial.config.dataset for trial in trials.values()]
        images = image_counts.trained_by_key(datasets, image_counts.recorded([self.desk.state]))
        entries = [
            Entry(
                trial=identity,
                cell=trial.cell.name,
                group=trial.cell.group(self.study.pruning.within),
                searched=dict(trial.searched),
                epochs=trial.config.recipe.epochs,
                cost=estimate.relative_cost(trial.config, images[key_of(trial.config.dataset)]),
                cpus=self.slots.of(trial).cpus,
                gpus=self.slots.of(trial).gpus,
                slot=self.slots.of(trial),
                teachers=taught.get(trial.cell.name, ()),
                store=store_of(trial.config),
            )
            for identity, trial in trials.items()
        ]
        state, record = self.desk.state, self.desk.record
        schedule = Schedule(entries, state=state, pruning=self.study.pruning, budget=self.study.budget, record=record)
        self.desk.progress.searching(entries, state, sampling.to_come(self.study, state))
        if schedule.finished:
            return True
        ray_backend.train_all(
            schedule,
            order=lambda assignment: self._work_order(trials[assignment.trial], assignment),
            slot_of=lambda identity: self.slots.of(trials[identity]),
            after_trial=lambda identity: self._tidy(identity, trials),
            together=self.desk.together,
        )
        if schedule.out_of_budget:
            self.desk.progress.note(f"the search stops here, {schedule.out_of_budget}; raise the budget to go on")
        elif not schedule.finished:
            raise KeyboardInterrupt
        return schedule.finished

    def winners(self, trials: Mapping[str, Trial]) -> Winners:
        """Return the winners among these trials."""
        return Winners(
            self.study,
            self.folder,
            self.desk,
            trials,
            self._place_of,
            operation_of=self._operation,
            slot_of=self.slots.of,
        )

    def measure_baselines(self, wanted: Grid) -> None:
        """Measure what the metadata of each data set tell without an image, if the study asks for it."""
        datasets = {key_of(d): d for d in wanted.datasets} if self.study.evaluation.metadata_baseline else {}
        missing = {key: d for key, d in datasets.items() if not self.desk.state.has_baseline(key)}
        orders = [self._place_of(d) for d in missing.values()]
        for index, found in ray_cluster.each(worker.measure_baseline, orders, [Slot(1)] * len(orders)):
            key = list(missing)[index]
            self.desk.record({"kind": "baseline", "key": key, "data": self.desk.state.data_identity(key), **found})

    def keep_within_budget(self, trials: Mapping[str, Trial]) -> None:
        """Remove the checkpoints of pruned trials, and more if the study's budget of bytes asks for it."""
        state = self.desk.state
        for identity in trials:
            if state.trials[identity].outcome == TrialState.PRUNED.value:  # one that was dropped may come back
                checkpoint_files.drop_trial(self.folder.trial(identity))
        left, limit = self._enforce_quota(trials), self.study.budget.checkpoint_gb
        if limit is not None and left > limit * 1e9:
            LOG.warning(
                "warning: budget.checkpoint_gb: the study takes %.3g GB of %.3g, and nothing more may go: running "
                "trials and the winners' weights",
                left / 1e9,
                limit,
            )

    def _enforce_quota(self, trials: Mapping[str, Trial]) -> int:
        """Remove what the budget of bytes has no room for, also of trials that are asked for no more; return the rest.

        Without such a budget nothing is looked at.
        """
        if self.study.budget.checkpoint_gb is None:
            return 0
        chosen = {winner.trial for winner in self.winners(trials).all()}
        ended = [identity for identity, progress in self.desk.state.trials.items() if progress.done]
        return quota.enforce(
            [quota.Ended(self.folder.trial(identity), identity in chosen) for identity in ended],
            study_folder=self.folder.path,
            limit=int(self.study.budget.checkpoint_gb * 1e9),
        )

    def _tidy(self, trial: str, trials: Mapping[str, Trial]) -> None:
        """Drop what only served to go on training; a pruned trial keeps it for now, since it may come back."""
        if self.desk.state.trials[trial].state is TrialState.COMPLETE:
            checkpoint_files.drop_resume_state(self.folder.trial(trial))
        if self.desk.state.trials[trial].done:
            self._enforce_quota(trials)

    def _entered(self, identity: str, trial: Trial) -> bool:
        """Whether the ledger knows a trial where the study has it: another axis puts it into another cell."""
        known = self.desk.state.trials.get(identity)
        place = (trial.cell.name, dict(trial.cell.axes), dict(trial.searched))
        return known is not None and (known.cell, known.axes, known.searched) == place

    def _failed(self, trial: str) -> bool:
        return self.desk.state.trials[trial].state is TrialState.FAILED

    def _operation(self, trial: Trial, identity: str) -> Operation:
        slot = self.slots.of(trial)
        processes = 1 if adaptations.load(trial.config.adaptation).on_features else slot.processes
        return Operation(
            data_root=self.roots[key_of(trial.config.dataset)],
            fingerprint=self.desk.state.datasets[key_of(trial.config.dataset)]["fingerprint"],
            cache=self.folder.cache,
            key_folder=self.folder.storage,
            trial_folder=self.folder.trial(identity),
            weights=self.machine.weights,
            threads=max(1, slot.cpus // processes),
            loader_workers=self.study.resources.for_setting(trial.setting).loader_workers,
            processes=processes,
        )

    def _preparation_order(self, need: Needed) -> worker.PreparationOrder:
        return worker.PreparationOrder(
            dataset=need.dataset,
            key=key_of(need.dataset),
            task=self.study.task,
            resolutions=need.resolutions,
            data_root=data_roots.find(need.dataset, self.machine.data_roots, self.folder.storage),
            address=data_roots.address_of(need.dataset, self.machine.data_roots),
            cache=self.folder.cache,
            workers=self.slots.most_cpus,
            trained_on=need.trained_on,
        )

    def _work_order(self, trial: Trial, assignment: Assignment) -> worker.WorkOrder:
        return worker.WorkOrder(
            trial=assignment.trial,
            config=trial.config,
            operation=self._operation(trial, assignment.trial),
            until_epoch=assignment.until_epoch,
            told_epochs=assignment.told_epochs,
        )

    def _place_of(self, dataset: DatasetConfig) -> worker.DatasetPlace:
        key = key_of(dataset)
        known = self.desk.state.data_identity(key).get("fingerprint")
        return worker.DatasetPlace(dataset=dataset, data_root=self.roots[key], fingerprint=known)
