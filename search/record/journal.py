"""The record of a study: every suggestion, every epoch, every end; the only truth a resumed search reads.

It is an Optuna study, so that plain Optuna and optuna-dashboard open it, written so that each fact is one line of one
append-only file (or one transaction of a database), on the disk before anything acts on it:

- a suggestion is one line that creates the trial with all its parameters;
- an epoch is a line with all its metrics (a system attribute of the trial) and then the line that makes it count: the
  trial's intermediate value;
- an end is the user attributes (seconds, device, ...), then the line that sets the state.

A kill between two lines leaves a fact that does not count yet; it is written again.

Plain Optuna may write there too while no search runs. A trial that its `enqueue_trial` left waits; handing it out is
its attributes, its parameters, and then the line that sets its state. What else it wrote is in `search.record.entry`.
"""

import contextlib
import dataclasses
import enum
import json
import mimetypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.config.urls import JournalLocation
from search.record.entry import (
    ENDED_OUTSIDE,
    FOREIGN,
    METRIC,
    NOT_OURS,
    POINT,
    check_shape,
    is_own,
    list_rows,
    name_epoch,
    read_attributes,
)
from search.record.storage import TrialEnded, check_names, close_storage, open_storage, read_storage
from trainables.errors import InputError


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
    """Key of trainables.config.MODEL_CONFIGS; `foreign` if plain Optuna wrote it, until it is handed out."""
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
    enqueued: dict[str, Any] | None = None
    """The point that plain Optuna's `enqueue_trial` asked for, if it did."""
    waits: bool = False
    """Whether it was enqueued and not handed out yet; its state is RUNNING then, for it has not ended."""
    started: datetime | None = dataclasses.field(default=None, compare=False)
    """When it was proposed, in local time."""
    ended: datetime | None = dataclasses.field(default=None, compare=False)
    """When its state became final, in local time."""

    @property
    def is_foreign(self) -> bool:
        """Whether nothing is known of what it trains."""
        return self.architecture == FOREIGN

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
        self,
        place: JournalLocation,
        study: str,
        *,
        note: Callable[[str], None],
        check: Callable[[], None] | None = None,
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
        check_names(place, known, study)
        if study not in known:
            storage.create_new_study([StudyDirection.MAXIMIZE], study)
        self._use(storage, study, place)

    @classmethod
    def read(cls, place: JournalLocation, study: str) -> Self | None:
        """Open the record without ever writing to it, locking or repairing it; its writer may be at work.

        Returns:
            The record, whose `load` returns what was written by then; None if there is none.

        Raises:
            InputError: If a database cannot be used, or a file is damaged or holds no study of this name.
        """
        storage = read_storage(place)
        known = [frozen.study_name for frozen in storage.get_all_studies()]
        check_names(place, known, study)
        if study not in known:
            close_storage(storage)
            return None
        journal = cls.__new__(cls)
        journal._use(storage, study, place)
        return journal

    def _use(self, storage: BaseStorage, study: str, place: JournalLocation) -> None:
        self._where = str(place) if isinstance(place, Path) else f"the study {study} in the database"
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
        return self.load_between(0, None)

    def load_between(self, start: int, stop: int | None) -> list[Trial]:
        """Return the trials from one number up to, not including, another."""
        return [self._thaw(each) for each in self._storage.get_all_trials(self._study_id, deepcopy=False)[start:stop]]

    def list_epochs(self) -> list[tuple[int, int]]:
        """Return (trial number, epoch) of every recorded epoch in the order in which they were recorded."""
        recorded = [
            (row["order"], frozen.number, epoch)
            for frozen in self._storage.get_all_trials(self._study_id, deepcopy=False)
            for epoch, row in enumerate(list_rows(frozen, f"trial {frozen.number} of {self._where}"), start=1)
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

    def take_up(
        self, trial: Trial, architecture: str, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
    ) -> None:
        """Record, here and in `trial`, that a trial which waits is handed out; its state is the line that counts.

        Args:
            trial: One that waits.
            architecture: Key of trainables.config.MODEL_CONFIGS.
            params: All flat parameters, fixed ones included; those of the trial itself if a kill left some.
            distributions: Optuna's distributions of the searched ones.
        """
        trial_id = self._ids[trial.number]
        written = self._storage.get_trial(trial_id).params
        for key, value in (("architecture", architecture), ("params", dict(params))):
            self._storage.set_trial_user_attr(trial_id, key, value)
        for name, distribution in distributions.items():
            if (full := f"{architecture}.{name}") not in written:
                self._storage.set_trial_param(trial_id, full, distribution.to_internal_repr(params[name]), distribution)
        with self._watch(trial):
            if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                raise InputError(f"another program took trial {trial.number} of {self._where}: stop it, then resume")
        trial.architecture, trial.params, trial.waits = architecture, dict(params), False
        trial.started = self._storage.get_trial(trial_id).datetime_start

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
        with self._watch(trial):
            self._storage.set_trial_system_attr(trial_id, name_epoch(epoch), row)
            self._storage.set_trial_intermediate_value(trial_id, epoch, metrics[METRIC])
        self._order += 1
        trial.epochs.append(dict(metrics))
        trial.attributes["device"] = device

    def end_trial(self, trial: Trial, state: State, reason: str | None, attributes: Mapping[str, Any]) -> None:
        """Record how a trial ended, here and in `trial`; its value is its best epoch's."""
        trial_id = self._ids[trial.number]
        known = trial.attributes | dict(attributes)
        values = None if state is State.FAIL else [trial.get_peak()[0]]
        with self._watch(trial):
            for key, value in known.items():
                self._storage.set_trial_user_attr(trial_id, key, value)
            if reason != trial.reason:  # which an end that a kill cut off may have left
                self._storage.set_trial_user_attr(trial_id, "reason", reason)
            self._storage.set_trial_state_values(trial_id, TrialState[state], values)
        trial.state, trial.reason, trial.attributes, trial.waits = state, reason, known, False
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
        changes = self._storage.get_study_user_attrs(self._study_id).get("changes", [])
        if not isinstance(changes, list) or not all(map(_is_change, changes)):
            raise InputError(f"the changes in {self._where} are damaged: restore the record from a copy")
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
        where = f"trial {frozen.number} of {self._where}"
        check_shape(frozen, where)
        waits, point = frozen.state is TrialState.WAITING, frozen.system_attrs.get(POINT)
        trial = Trial(
            number=frozen.number,
            architecture=FOREIGN,
            params={},
            state=State.RUNNING if waits else State.FAIL,
            enqueued=point if isinstance(point, dict) else {} if waits else None,
            waits=waits,
            started=frozen.datetime_start,
            ended=frozen.datetime_complete,
        )
        if not is_own(frozen):
            trial.reason = None if waits else str(frozen.user_attrs.get("reason", NOT_OURS))
            return trial
        attributes = read_attributes(frozen, where)
        trial.architecture, trial.params = attributes.pop("architecture"), attributes.pop("params")
        trial.reason, trial.attributes = attributes.pop("reason", None), attributes
        rows = list_rows(frozen, where)
        trial.epochs = [dict(row["metrics"]) for row in rows]
        self._order = max([self._order, *(row["order"] + 1 for row in rows)])
        self.elapsed_s = max([self.elapsed_s, *(row["elapsed_s"] for row in rows)])
        if rows:
            attributes["device"] = rows[-1]["device"]
        if frozen.state in (TrialState.COMPLETE, TrialState.PRUNED) and not rows:
            trial.reason = ENDED_OUTSIDE
        elif not waits:
            trial.state = State[frozen.state.name]
        return trial

    @contextlib.contextmanager
    def _watch(self, trial: Trial) -> Iterator[None]:
        """Say in a sentence that another program ended a trial that is being trained."""
        try:
            yield
        except TrialEnded:
            raise InputError(
                f"another program ended trial {trial.number} of {self._where} while it was trained: stop that program, "
                "then resume"
            ) from None


def _is_change(change: Any) -> bool:
    return (
        isinstance(change, dict)
        and isinstance(change.get("time"), str)
        and isinstance(change.get("differences"), list)
        and all(isinstance(each, str) for each in change["differences"])
    )
