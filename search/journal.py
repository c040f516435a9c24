"""The record of a study: every suggestion, every epoch, every end; the only truth a resumed search reads.

It is an Optuna study, so that plain Optuna and optuna-dashboard open it, written so that each fact is one line of one
append-only file (or one transaction of a database), on the disk before anything acts on it:

- a suggestion is one line that creates the trial with all its parameters;
- an epoch is a line with all its metrics (a system attribute of the trial) and then the line that makes it count: the
  trial's intermediate value;
- an end is the user attributes (seconds, device, ...), then the line that sets the state.

A kill between two lines leaves a fact that does not count yet; it is written again.
"""

import dataclasses
import enum
import json
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.storage import Place, close_storage, open_storage, read_storage
from trainables.errors import InputError

METRIC = "accuracy"
"""The validation metric that is searched for, compared at rungs and journaled; larger is better."""


class State(enum.StrEnum):
    """Where a trial stands; the names are Optuna's."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


@dataclasses.dataclass(slots=True, kw_only=True)
class Trial:
    """One configuration's training, as recorded."""

    number: int
    """Position in the study, from 0."""
    architecture: str
    """Key of trainables.config.MODEL_CONFIGS."""
    params: dict[str, Any]
    """Flat parameters, as trainables.config.build_train_config takes them."""
    epochs: list[dict[str, float]] = dataclasses.field(default_factory=list)
    """Metrics of epoch 1, 2, ... in order."""
    state: State = State.RUNNING
    """RUNNING until it ends."""
    reason: str | None = None
    """Why it is PRUNED, FAIL, or COMPLETE before its last epoch; of a RUNNING one what a kill between reason and state
    left."""
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """seconds, device, images_per_second."""
    started: datetime | None = dataclasses.field(default=None, compare=False)
    """When it was proposed, in local time."""
    ended: datetime | None = dataclasses.field(default=None, compare=False)
    """When its state became final, in local time."""

    def list_values(self) -> list[float]:
        """Return the validation metric of epoch 1, 2, ..."""
        return [metrics[METRIC] for metrics in self.epochs]

    def get_peak(self) -> tuple[float, int]:
        """Return the best of the values and the epoch that first had it; there must be an epoch."""
        values = self.list_values()
        peak = max(values)
        return peak, values.index(peak) + 1


class Journal:
    """Writes and reads the record; one process at a time writes."""

    def __init__(
        self, place: Place, study: str, *, note: Callable[[str], None], check: Callable[[], None] | None = None
    ) -> None:
        """Open the record, or begin it where there is none.

        Args:
            place: The journal's file, or the URL of a database.
            study: Name of the study in it.
            note: Told in a sentence when the file had to be repaired.
            check: Called before each write to a file; does not return if the right to write was lost.

        Raises:
            InputError: If the file is damaged or holds no study of this name, or the database is in use or cannot be.
        """
        storage = open_storage(place, study, note=note, check=check)
        known = [frozen.study_name for frozen in storage.get_all_studies()]
        if isinstance(place, Path) and known and study not in known:
            raise InputError(
                f"{place} holds the study {', '.join(known)}, not {study}: use its name, or another folder"
            )
        if study not in known:
            storage.create_new_study([StudyDirection.MAXIMIZE], study)
        self._use(storage, study)

    @classmethod
    def read(cls, place: Place, study: str) -> Self | None:
        """Open the record without ever writing to it, locking or repairing it; its writer may be at work.

        Returns:
            The record, whose `load` returns what was written by then; None if there is none.

        Raises:
            InputError: If a database cannot be used.
        """
        storage = read_storage(place)
        if study not in [frozen.study_name for frozen in storage.get_all_studies()]:
            close_storage(storage)
            return None
        journal = cls.__new__(cls)
        journal._use(storage, study)
        return journal

    def _use(self, storage: BaseStorage, study: str) -> None:
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study)
        self._ids: dict[int, int] = {}
        self._order = 0
        self.elapsed_s = 0.0
        """Seconds of searching up to the last recorded epoch."""

    def close(self) -> None:
        """Let go of a database; a file needs no closing."""
        close_storage(self._storage)

    def load(self) -> list[Trial]:
        """Return all trials, by number."""
        return [self._thaw(frozen) for frozen in self._storage.get_all_trials(self._study_id, deepcopy=False)]

    def list_epochs(self) -> list[tuple[int, int]]:
        """Return (trial number, epoch) of every recorded epoch in the order in which they were recorded."""
        recorded = [
            (frozen.system_attrs[_epoch_key(epoch)]["order"], frozen.number, epoch)
            for frozen in self._storage.get_all_trials(self._study_id, deepcopy=False)
            for epoch in frozen.intermediate_values
        ]
        return [(number, epoch) for _, number, epoch in sorted(recorded)]

    def add_trial(
        self, architecture: str, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
    ) -> Trial:
        """Record a suggestion.

        Args:
            architecture: Key of trainables.config.MODEL_CONFIGS.
            params: All flat parameters, fixed ones included.
            distributions: Optuna's distributions of the searched ones.
        """
        template = create_trial(
            state=TrialState.RUNNING,
            params={f"{architecture}.{name}": params[name] for name in distributions},
            distributions={f"{architecture}.{name}": distribution for name, distribution in distributions.items()},
            user_attrs={"architecture": architecture, "params": dict(params)},
        )
        trial_id = self._storage.create_new_trial(self._study_id, template)
        return self._thaw(self._storage.get_trial(trial_id))

    def add_epoch(self, trial: Trial, metrics: Mapping[str, float], *, device: str, elapsed_s: float) -> None:
        """Record the next epoch of a trial, here and in `trial`.

        Args:
            trial: Where the epoch belongs.
            metrics: By name.
            device: Name of the GPU or CPU that trained it.
            elapsed_s: Seconds that the study has been searching, over all its resumptions.
        """
        epoch = len(trial.epochs) + 1
        trial_id = self._ids[trial.number]
        row: dict[str, Any] = {"order": self._order, "elapsed_s": round(elapsed_s, 3), "device": device}
        row["metrics"] = dict(metrics)
        self._storage.set_trial_system_attr(trial_id, _epoch_key(epoch), row)
        self._storage.set_trial_intermediate_value(trial_id, epoch, metrics[METRIC])
        self._order += 1
        trial.epochs.append(dict(metrics))
        trial.attributes["device"] = device

    def end_trial(self, trial: Trial, state: State, reason: str | None, attributes: Mapping[str, Any]) -> None:
        """Record how a trial ended, here and in `trial`; its value is its best epoch's."""
        trial_id = self._ids[trial.number]
        known = trial.attributes | dict(attributes)
        for key, value in known.items():
            self._storage.set_trial_user_attr(trial_id, key, value)
        if reason != trial.reason:  # which an end that a kill cut off may have left
            self._storage.set_trial_user_attr(trial_id, "reason", reason)
        values = None if state is State.FAIL else [trial.get_peak()[0]]
        self._storage.set_trial_state_values(trial_id, TrialState[state], values)
        trial.state, trial.reason, trial.attributes = state, reason, known
        trial.ended = self._storage.get_trial(trial_id).datetime_complete

    def add_change(self, differences: Sequence[str]) -> None:
        """Record that the study went on although something was changed by hand."""
        known = self.list_changes()
        if known and known[-1]["differences"] == list(differences):
            return  # a kill came between this and study.yaml
        change = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "differences": list(differences)}
        self._storage.set_study_user_attr(self._study_id, "changes", [*known, change])

    def add_opening(self, opening: Mapping[str, Any]) -> None:
        """Record that the test split is about to be opened."""
        self._storage.set_study_user_attr(self._study_id, "openings", [*self.list_openings(), dict(opening)])

    def list_openings(self) -> list[dict[str, Any]]:
        """Return what `add_opening` recorded."""
        openings = self._storage.get_study_user_attrs(self._study_id).get("openings")
        return list(openings) if isinstance(openings, list) else []

    def list_changes(self) -> list[dict[str, Any]]:
        """Return what `add_change` recorded: `time` and `differences` of each."""
        changes: list[dict[str, Any]] = self._storage.get_study_user_attrs(self._study_id).get("changes", [])
        return list(changes)

    def add_artifact(self, artifact_id: str, filename: str) -> None:
        """Record that a file belongs to the study, as Optuna's `upload_artifact` does; the file is there already.

        Args:
            artifact_id: A UUID, the file's name in the artifact store.
            filename: What to call it.
        """
        from optuna.artifacts import ArtifactMeta  # with boto3, where it is installed

        kind = mimetypes.guess_type(filename)[0] or "application/octet-stream"
        meta = ArtifactMeta(artifact_id=artifact_id, filename=filename, mimetype=kind, encoding=None)
        key, value = f"artifacts:{artifact_id}", json.dumps(dataclasses.asdict(meta))
        if self._storage.get_study_system_attrs(self._study_id).get(key) != value:
            self._storage.set_study_system_attr(self._study_id, key, value)

    def _thaw(self, frozen: FrozenTrial) -> Trial:
        self._ids[frozen.number] = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, frozen.number)
        rows = [frozen.system_attrs[_epoch_key(epoch)] for epoch in sorted(frozen.intermediate_values)]
        self._order = max([self._order, *(row["order"] + 1 for row in rows)])
        self.elapsed_s = max([self.elapsed_s, *(row["elapsed_s"] for row in rows)])
        attributes = dict(frozen.user_attrs)
        if rows:
            attributes["device"] = rows[-1]["device"]
        return Trial(
            number=frozen.number,
            architecture=attributes.pop("architecture"),
            params=attributes.pop("params"),
            epochs=[dict(row["metrics"]) for row in rows],
            state=State[frozen.state.name],
            reason=attributes.pop("reason", None),
            attributes=attributes,
            started=frozen.datetime_start,
            ended=frozen.datetime_complete,
        )


def _epoch_key(epoch: int) -> str:
    return f"epoch:{epoch}"
