"""The model registry: versions, the aliases `challenger` and `champion`, and the evidence on every version."""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mlflow_server import packaged_files
from mlflow_server.database_path import SQLITE
from mlflow_server.errors import PromotionError, TrackingError
from mlflow_server.history import CLAIM, entry_of, who
from mlflow_server.reach import reach

CHAMPION = "champion"
CHALLENGER = "challenger"
CLAIMED = "promotion by"
SCORES = "evaluation/scores.parquet"
SCORES_HASH = "radsweep.scores_sha256"
"""Tag of a version: what its scores were when it was registered; with a dot and a name, those on another data set."""
MADE_OF = "radsweep.made_of"
"""Tag of a version: a hash of its weights and of what was measured; what is measured anew is another version."""
EXTERNAL_SCORES = "evaluation/scores_{}.parquet"
"""Artifacts of a winner's run."""
ENTRY = "radsweep.promotion."
"""Prefix of the tags that mirror the history."""
TAG_CHARACTERS = 50_000
LOGGED_MODEL = re.compile(r"models:/(m-[0-9a-f]+)")
REFERENCE = re.compile(r"models:/([\w.-]+)(?:@([\w.-]+)|/([0-9]+))")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a registered model."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]


class Registry:
    """Reads and writes one tracking server's registry.

    Args:
        uri: MLflow tracking URI.

    Raises:
        TrackingError: nothing listens there, or there is no such database file.
    """

    def __init__(self, uri: str):
        reach(uri)
        if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
            raise TrackingError(f"{uri}: no such database, and asking for it would make an empty one")
        self._client = MlflowClient(tracking_uri=uri)

    def champion(self, name: str) -> Version | None:
        """Return the version that bears the alias, or None."""
        return self._by_alias(name, CHAMPION)

    def find(self, reference: str) -> Version:
        """Return the version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` names.

        Raises:
            PromotionError: it is no such reference, or there is no such version.
        """
        parts = REFERENCE.fullmatch(reference)
        if parts is None:
            raise PromotionError(f"{reference!r} is no model version; write models:/NAME@ALIAS or models:/NAME/3")
        name, alias, number = parts.groups()
        try:
            found = (
                self._client.get_model_version_by_alias(name, alias)
                if alias
                else self._client.get_model_version(name, number)
            )
        except MlflowException as problem:
            raise PromotionError(f"{reference}: {str(problem).splitlines()[0]}") from problem
        return Version(name, str(found.version), str(found.run_id), dict(found.tags))

    def scores(self, version: Version, *, sha256: str | None = None) -> bytes:
        """Return the stored case scores of a version's run, parquet.

        Args:
            version: whose.
            sha256: of the scores, as a history has it; None: as the version's tag has it, if there is one.

        Raises:
            PromotionError: its run has none, it was made from no run, or they are not those it was registered with.
        """
        if version.run_id in {"", "None"}:
            raise PromotionError(f"{version.name} version {version.version} was made from no run: it has no scores")
        return self._unchanged(version, SCORES, sha256 or version.tags.get(SCORES_HASH))

    def external_scores(self, version: Version, dataset: str, *, sha256: str | None = None) -> bytes | None:
        """Return the stored case scores of a version's run on another data set; None: it was registered without any.

        Args:
            version: whose.
            dataset: name of the data set.
            sha256: see `scores`.

        Raises:
            PromotionError: they are not those it was registered with, or cannot be read.
        """
        path = EXTERNAL_SCORES.format(dataset)
        sha256 = sha256 or version.tags.get(f"{SCORES_HASH}.{dataset}")
        if sha256 is None and SCORES_HASH in version.tags:  # measured later: nothing says what was found then
            return None
        there = self._client.list_artifacts(version.run_id, str(Path(path).parent))
        if sha256 is None and all(found.path != path for found in there):
            return None
        return self._unchanged(version, path, sha256)

    def _unchanged(self, version: Version, path: str, sha256: str | None) -> bytes:
        content = self.artifact(version.run_id, path)
        if sha256 and hashlib.sha256(content).hexdigest() != sha256:
            raise PromotionError(
                f"{version.name} version {version.version}: {path} of run {version.run_id} was changed since the "
                "version was registered, nothing can be judged by it; bring it back, or roll back"
            )
        return content

    def register(
        self, name: str, *, source: str, run_id: str, tags: Mapping[str, Any], description: str | None = None
    ) -> Version:
        """Add a version, unless the run has one that is made of the same.

        Args:
            name: of the registered model.
            source: URI of the packaged model.
            run_id: it was made from.
            tags: of the version.
            description: Markdown, shown with the version.
        """
        self._create_registered_model(name)
        if known := self.version_of(name, run_id, tags.get(MADE_OF)):
            return known
        kept = {key: str(value)[:TAG_CHARACTERS] for key, value in tags.items()}
        # A server takes a logged model as a source only if it is also told by its ID.
        logged = LOGGED_MODEL.fullmatch(source)
        created = self._client.create_model_version(
            name,
            source=source,
            run_id=run_id,
            tags=kept,
            description=description,
            model_id=logged.group(1) if logged else None,
        )
        return Version(name, str(created.version), run_id, kept)

    def version_of(self, name: str, run_id: str, made_of: str | None) -> Version | None:
        """Return the version that was made from a run and of this, or None."""
        try:
            found = self._client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
        except MlflowException:
            return None
        same = (one for one in found if one.tags.get(MADE_OF) == made_of)
        return next((Version(name, str(one.version), run_id, dict(one.tags)) for one in same), None)

    def crown(self, version: Version, *, instead_of: Version | None, note: str = "") -> None:
        """Give a version the alias `champion`, and take `challenger` from it.

        Args:
            version: the new champion.
            instead_of: the one that the decision was about.
            note: what the claim can be recognized by, should this process die.

        Raises:
            PromotionError: the champion is no longer the one that the decision was about, or another promotion of
                the same model is being carried out.
        """
        with self.claim(version.name, note):
            present = self.champion(version.name)
            if (present.version if present else None) != (instead_of.version if instead_of else None):
                raise PromotionError(
                    f"{version.name}: the champion changed to version {present.version if present else 'none'} while "
                    "this promotion was judged; run promote again"
                )
            self._client.set_registered_model_alias(version.name, CHAMPION, version.version)
            self.no_challenger(version)

    def no_challenger(self, version: Version) -> None:
        """Take the alias `challenger` from a version, if it has it."""
        challenger = self._by_alias(version.name, CHALLENGER)
        if challenger is not None and challenger.version == version.version:
            self._client.delete_registered_model_alias(version.name, CHALLENGER)

    def challenge(self, version: Version) -> None:
        """Give a version the alias `challenger`, unless it is champion."""
        champion = self.champion(version.name)
        if champion is not None and champion.version == version.version:
            return
        self._client.set_registered_model_alias(version.name, CHALLENGER, version.version)

    @contextmanager
    def claim(self, name: str, note: str = "") -> Iterator[None]:
        """Hold a registered model's aliases alone: MLflow itself can only overwrite them, never compare and set.

        Args:
            name: of the registered model.
            note: see `release`.

        Raises:
            PromotionError: another promotion holds them, or died while it did; says how to go on.
        """
        claim = f"{name}{CLAIM}"
        try:
            self._client.create_registered_model(claim, description=f"{CLAIMED} {who()} {note}")
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            raise PromotionError(
                f"{name}: another promotion is being carried out; run this again in a moment. If that one died, "
                f"`python -m mlflow_server unlock {name}`"
            ) from problem
        try:
            yield
        finally:
            self._client.delete_registered_model(claim)

    def release(self, name: str, note: str) -> None:
        """Take away the claim that bears this note, if there is one: its process is known to be dead."""
        held = self._held(name)
        if held is not None and (held.description or "").endswith(f" {note}"):
            self.unlock(name)

    def unlock(self, name: str) -> bool:
        """Take away the claim that a dead promotion left; returns whether there was one.

        Raises:
            PromotionError: what bears the claim's name is a model of somebody's.
        """
        claim = self._held(name)
        if claim is None:
            return False
        if not (claim.description or "").startswith(CLAIMED):
            raise PromotionError(f"{name}{CLAIM} is a registered model and no claim; it stays")
        self._client.delete_registered_model(claim.name)
        return True

    def tag(self, version: Version, tags: Mapping[str, Any]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(version.name, version.version, key, str(value)[:TAG_CHARACTERS])

    def remember(self, version: Version, entry: Mapping[str, Any]) -> None:
        """Mirror an entry of the history in a tag of its own; the differences stay in the history's file.

        So do the reasons, if a tag has no room for them.
        """
        kept = {key: value for key, value in entry.items() if key != "differences"}
        if len(json.dumps(kept)) > TAG_CHARACTERS:
            kept["reasons"] = []
        self.tag(version, {f"{ENTRY}{entry['time_ms']}": json.dumps(kept)})

    def remembered(self, name: str) -> list[dict[str, Any]]:
        """Return the entries mirrored in the versions' tags, eldest first: the history as the server has it.

        Whoever may write to the registry may set such a tag; what is no entry of its own version is passed over.
        """
        found = self._client.search_model_versions(f"name='{name}'")
        tags = [(v.version, value) for v in found for key, value in v.tags.items() if key.startswith(ENTRY)]
        mirrored = [entry for version, value in tags if (entry := entry_of(value, str(version)))]
        return sorted(mirrored, key=lambda entry: entry["time_ms"])

    def runs(self, name: str) -> dict[str, str]:
        """Return the run of each version of a model that is there, by the version's number."""
        return {str(v.version): str(v.run_id) for v in self._client.search_model_versions(f"name='{name}'")}

    def is_packaged(self, name: str, version: str) -> bool:
        """Say whether a version's files are there, for all that is known: they can be deleted without the version."""
        place = self._client.get_model_version_download_uri(name, version)
        return packaged_files.are_there(place, uri=self._client.tracking_uri)

    def check_files(self, name: str, version: str) -> None:
        """Look whether a version's files are those that were packaged, as far as they can be brought.

        Raises:
            PromotionError: one is not.
        """
        place = self._client.get_model_version_download_uri(name, version)
        packaged_files.check(f"models:/{name}/{version}", place, uri=self._client.tracking_uri)

    def tags_of_run(self, run_id: str) -> dict[str, str]:
        """Return a run's tags."""
        return dict(self._client.get_run(run_id).data.tags)

    def artifact(self, run_id: str, path: str) -> bytes:
        """Return the content of a run's artifact.

        Raises:
            PromotionError: the run has no such artifact.
        """
        with tempfile.TemporaryDirectory(prefix="radsweep-") as folder:
            try:
                local = self._client.download_artifacts(run_id, path, folder)
            except (MlflowException, OSError) as problem:
                raise PromotionError(
                    f"run {run_id}: no artifact {path} ({str(problem).splitlines()[0]}); it is written by `search run`"
                ) from problem
            return Path(local).read_bytes()

    def _held(self, name: str) -> RegisteredModel | None:
        try:
            return self._client.get_registered_model(f"{name}{CLAIM}")
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_DOES_NOT_EXIST" and self._is_there(f"{name}{CLAIM}"):
                raise
            return None

    def _by_alias(self, name: str, alias: str) -> Version | None:
        try:
            found = self._client.get_model_version_by_alias(name, alias)
        except MlflowException as problem:
            if problem.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            if not self._is_there(name):
                return None
            raise
        return Version(name, str(found.version), str(found.run_id), dict(found.tags))

    def _is_there(self, name: str) -> bool:
        """Say whether there is a registered model; of one that is not a server with users says it is forbidden."""
        return bool(self._client.search_registered_models(f"name='{name}'"))

    def _create_registered_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
