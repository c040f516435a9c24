"""Facts of the study itself, in addition to those of its trials: changes, openings, halts, stops, artifacts."""

import dataclasses
import json
import math
import mimetypes
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.storages import BaseStorage

from search.config.fields import Count
from search.config.load import check
from search.record.trial_reader import read_changes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A stop of the search by hand."""

    time: str
    """In UTC, ISO 8601."""
    request: str
    """Name of the request for it."""
    budget: dict[str, float | None]
    """Values of the keys of `search` that end a search, at the time of the stop; with other values it continues."""


class Facts:
    """Writes and reads these facts as attributes of the study in the journal."""

    _storage: BaseStorage
    _study_id: int
    _where: str

    def add_change(self, differences: Sequence[str]) -> None:
        """Record that the study continued although something was changed."""
        known = self.list_changes()
        if known and known[-1]["differences"] == list(differences):
            return  # a kill came between this line and study.yaml
        change = {"time": _tell_time(), "differences": list(differences)}
        self._storage.set_study_user_attr(self._study_id, "changes", [*known, change])

    def list_changes(self) -> list[dict[str, Any]]:
        """Return the recorded changes: `time` and `differences` of each."""
        return read_changes(self._read("changes"), self._where)

    def add_opening(self, opening: Mapping[str, Any]) -> None:
        """Record that the test split is about to be opened."""
        self._storage.set_study_user_attr(self._study_id, "openings", [*self.list_openings(), dict(opening)])

    def list_openings(self) -> list[dict[str, Any]]:
        """Return the recorded openings."""
        openings = self._read("openings")
        return list(openings) if isinstance(openings, list) else []

    def add_stop(self, request: str, budget: Mapping[str, float | None]) -> None:
        """Record that the search was stopped by hand, once for each request."""
        known = self.list_stops()
        if request not in {stop.request for stop in known}:
            stops = [*known, Stop(time=_tell_time(), request=request, budget=dict(budget))]
            self._storage.set_study_user_attr(self._study_id, "stops", [dataclasses.asdict(stop) for stop in stops])

    def list_stops(self) -> tuple[Stop, ...]:
        """Return the recorded stops by hand."""
        return check(tuple[Stop, ...], self._read("stops"), f"the record of stops in {self._where}")

    def add_halt(self, elapsed_s: float) -> None:
        """Record after how many seconds of searching, over all resumptions, the search halted; they are rounded up."""
        self._storage.set_study_user_attr(self._study_id, "halts", [*self.list_halts(), math.ceil(elapsed_s)])

    def list_halts(self) -> tuple[int, ...]:
        """Return the recorded halts, in seconds of searching."""
        return check(tuple[Count, ...], self._read("halts"), f"the record of halts in {self._where}")

    def add_artifact(self, artifact_id: str, filename: str) -> None:
        """Record that a file of the artifact store belongs to the study, as Optuna's `upload_artifact` does.

        Its name there is the id, a UUID; `filename` is its name for people.
        """
        from optuna.artifacts import ArtifactMeta  # imports boto3 if it is installed

        kind = mimetypes.guess_type(filename)[0] or "application/octet-stream"
        meta = ArtifactMeta(artifact_id=artifact_id, filename=filename, mimetype=kind, encoding=None)
        key, value = f"artifacts:{artifact_id}", json.dumps(dataclasses.asdict(meta))
        if self._storage.get_study_system_attrs(self._study_id).get(key) != value:
            self._storage.set_study_system_attr(self._study_id, key, value)

    def _read(self, name: str) -> Any:
        return self._storage.get_study_user_attrs(self._study_id).get(name, [])


def _tell_time() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
