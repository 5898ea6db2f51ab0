"""Which runs of an experiment are whose: what earlier drivers created, and what somebody deleted since."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

IDENTITY_TAG = "radsweep.identity"
"""Tag that holds the study's name or the trial's identity: what a run is found by."""
ORIGIN_TAG = "radsweep.origin"
"""Tag that holds whose run it is: two groups that search the same on one server have trials of the same identities."""


class KnownRuns:
    """The runs of one origin in an experiment, by the study or trial that they are of.

    A request that was sent again after its answer got lost makes a second run of an identity, of the same time: the one
    that less was logged to is deleted here.

    Args:
        client: of the server.
        experiment: its identifier.
        origin: whose runs; None: those that earlier versions made, which did not say.

    Attributes:
        active: run by identity.
        closed: identities whose run is not RUNNING.
        deleted: run by identity, of those that somebody deleted.
    """

    def __init__(self, client: MlflowClient, experiment: str, origin: str | None):
        self._client = client
        self._experiment = experiment
        self._origin = origin
        kept, others = _told_apart(self._search(ViewType.ACTIVE_ONLY))
        for run in others:
            client.delete_run(run.info.run_id)
        self.active: dict[str, str] = {identity: run.info.run_id for identity, run in kept.items()}
        self.closed = {identity for identity, run in kept.items() if run.info.status != "RUNNING"}
        gone, _ = _told_apart(self._search(ViewType.DELETED_ONLY))
        self.deleted: dict[str, str] = {
            identity: run.info.run_id for identity, run in gone.items() if identity not in self.active
        }

    def find(self, identity: str) -> str | None:
        """Return the run of an identity, a deleted one as well, or None."""
        return self.active.get(identity) or self.deleted.get(identity)

    def restore(self, identity: str) -> None:
        """Restore the run of an identity if it is deleted."""
        if identity in self.deleted:
            self._client.restore_run(self.deleted[identity])
            self.active[identity] = self.deleted.pop(identity)
            self.closed.add(identity)

    def _search(self, view: int) -> Iterator[Run]:
        """Yield the runs of the origin, the eldest first."""
        own = f"tags.`{IDENTITY_TAG}` LIKE '%'" if self._origin is None else f"tags.`{ORIGIN_TAG}` = '{self._origin}'"
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                filter_string=own,
                run_view_type=view,
                order_by=["attributes.start_time ASC"],
                max_results=1000,
                page_token=token,
            )
            yield from (run for run in page if self._is_own(run.data.tags))
            token = page.token
            if not token:
                return

    def _is_own(self, tags: Mapping[str, str]) -> bool:
        """Say whether a run is of the origin; one whose identity somebody took away in the UI is nobody's."""
        return tags.get(ORIGIN_TAG) == self._origin and IDENTITY_TAG in tags


def _told_apart(runs: Iterable[Run]) -> tuple[dict[str, Run], list[Run]]:
    """Return of each identity the run that the most was logged to, and the others."""
    runs = list(runs)
    children = Counter(run.data.tags.get(MLFLOW_PARENT_RUN_ID) for run in runs)
    kept: dict[str, Run] = {}

    def logged(run: Run) -> tuple[int, int]:
        return children[run.info.run_id], len(run.data.params) + len(run.data.metrics) + len(run.data.tags)

    for run in runs:
        identity = run.data.tags[IDENTITY_TAG]
        if identity not in kept or logged(run) > logged(kept[identity]):
            kept[identity] = run
    return kept, [run for run in runs if kept[run.data.tags[IDENTITY_TAG]] is not run]
