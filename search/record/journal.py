"""The journal of a study: every suggestion, every epoch, every end. A resumed search reads nothing else.

It is an Optuna study, so plain Optuna and optuna-dashboard can open it. Each fact is a few lines of one append-only
file, or one transaction of a database, and is on disk before anything acts on it:

- a suggestion is one line that creates the trial with all its parameters;
- an epoch is a line with all its metrics (a system attribute of the trial), then the line that makes it count: the
  trial's intermediate value;
- an end is the user attributes (seconds, device, ...), then the line that sets the state.

A kill between two lines leaves a fact that does not count yet; the next search writes it again.
Plain Optuna may write to the journal while no search runs. A trial that its `enqueue_trial` added waits, and so does a
point of `ask`. When it is started, its attributes, its parameters, and then the line that sets its state are written.
`trial_reader` handles everything else that plain Optuna writes.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.config.urls import JournalLocation
from search.record.facts import Facts
from search.record.journal_file import TrialEnded
from search.record.metric import BY_ACCURACY, Metric, read_metric, record_metric
from search.record.storage import close_storage, has_study, open_storage, read_storage
from search.record.trial import State, Trial
from search.record.trial_reader import EPOCH, POINT, REQUEST, list_rows, read_trial
from trainables.errors import InputError
from trainables.names import shorten


class Journal(Facts):
    """Writes and reads the facts of a study; one process at a time writes."""

    def __init__(
        self,
        place: JournalLocation,
        study: str,
        *,
        note: Callable[[str], None],
        check: Callable[[], None] | None = None,
        metric: Metric = BY_ACCURACY,
    ) -> None:
        """Open the journal for writing; create it if it is missing.

        Args:
            place: The journal's file, or the URL of a database.
            study: Name of the study in it.
            note: Receives a sentence when the file had to be repaired.
            check: Called before each write to a file; does not return if the lease was lost.
            metric: Metric by which the study compares trials; its values are stored as they are.

        Raises:
            InputError: If the file is damaged or lacks a study of this name and metric, or the database is unusable.
        """
        storage = open_storage(place, study, note=note, check=check)
        with contextlib.ExitStack() as stack:
            stack.callback(close_storage, storage)  # if the rest fails: a database would keep its lock
            has_study(storage, place, study)
            record_metric(storage, study, metric)
            self._use(storage, study, place)
            stack.pop_all()

    @classmethod
    def read(cls, place: JournalLocation, study: str) -> Self | None:
        """Open the journal for reading, None if there is none; nothing is written, locked or repaired.

        Another process may be writing it: `load` returns what was written by then.

        Raises:
            InputError: If a database is unusable, or a file is damaged or has no study of this name.
        """
        storage = read_storage(place)
        with contextlib.ExitStack() as stack:
            stack.callback(close_storage, storage)
            if not has_study(storage, place, study):
                return None
            journal = cls.__new__(cls)
            journal._use(storage, study, place)
            stack.pop_all()
            return journal

    def _use(self, storage: BaseStorage, study: str, place: JournalLocation) -> None:
        self._where = str(place) if isinstance(place, Path) else f"the study {study} in the database"
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study)
        self.metric = read_metric(storage, self._study_id, self._where)
        self._ids: dict[int, int] = {}
        self._order = 0
        self.elapsed_s = 0.0
        """Seconds of searching up to the last recorded epoch or halt."""

    def close(self) -> None:
        """Close the connection to a database; a file needs no closing."""
        close_storage(self._storage)

    def load(self) -> list[Trial]:
        """Return all trials, by number."""
        self.elapsed_s = max([self.elapsed_s, *self.list_halts()])
        return self.load_between(0, None)

    def load_between(self, start: int, stop: int | None) -> list[Trial]:
        """Return the trials from number `start` up to, not including, `stop`."""
        return [self._thaw(each) for each in self._storage.get_all_trials(self._study_id, deepcopy=False)[start:stop]]

    def list_epochs(self) -> list[tuple[int, int]]:
        """Return (trial number, epoch) of every recorded epoch in the order in which they were recorded."""
        recorded = [
            (row["order"], frozen.number, epoch)
            for frozen in self._storage.get_all_trials(self._study_id, deepcopy=False)
            for epoch, row in enumerate(list_rows(frozen, self._name(frozen), self.metric.name), start=1)
        ]
        return [(number, epoch) for _, number, epoch in sorted(recorded)]

    def add_trial(
        self,
        architecture: str,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        noted: Mapping[str, Any] | None = None,
    ) -> Trial:
        """Record a suggestion.

        Args:
            architecture: As `Trial.architecture`.
            params: All flat parameters, fixed ones included.
            distributions: Optuna's distributions of the searched parameters, and perhaps of others.
            noted: Attributes that the sampler wrote about it.
        """
        full = {f"{shorten(architecture)}.{name}": name for name in distributions if name in params}
        template = create_trial(
            state=TrialState.RUNNING,
            params={each: params[name] for each, name in full.items()},
            distributions={each: distributions[name] for each, name in full.items()},
            user_attrs={"architecture": architecture, "params": dict(params)},
            system_attrs=dict(noted or {}),
        )
        return self._thaw(self._storage.get_trial(self._storage.create_new_trial(self._study_id, template)))

    def enqueue(self, point: Mapping[str, Any], request: str) -> Trial | None:
        """Record a point of `ask`, as Optuna's `enqueue_trial` does; return None if this request was recorded before.

        Args:
            point: Parameters as cnn.learning_rate, not necessarily all.
            request: Name of the request.
        """
        known = self._storage.get_all_trials(self._study_id, deepcopy=False)
        if any(frozen.system_attrs.get(REQUEST) == request for frozen in known):
            return None
        template = create_trial(state=TrialState.WAITING, system_attrs={POINT: dict(point), REQUEST: request})
        return self._thaw(self._storage.get_trial(self._storage.create_new_trial(self._study_id, template)))

    def note(self, trial: Trial, noted: Mapping[str, Any]) -> None:
        """Record, here and in `trial`, what the sampler wrote about it; a later line makes it count."""
        with self._watch(trial):
            for key, value in noted.items():
                self._storage.set_trial_system_attr(self._ids[trial.number], key, value)
        trial.noted |= noted

    def take_up(
        self, trial: Trial, architecture: str, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
    ) -> None:
        """Record, here and in `trial`, that a waiting trial starts; the line with its state makes that count.

        Args:
            trial: A waiting trial.
            architecture: Name of its architecture.
            params: All flat parameters, fixed ones included; those that a kill left in the trial have priority.
            distributions: Optuna's distributions of the searched parameters.
        """
        trial_id = self._ids[trial.number]
        written = self._storage.get_trial(trial_id).params
        for key, value in (("architecture", architecture), ("params", dict(params))):
            self._storage.set_trial_user_attr(trial_id, key, value)
        for name, distribution in distributions.items():
            if name in params and (full := f"{shorten(architecture)}.{name}") not in written:
                self._storage.set_trial_param(trial_id, full, distribution.to_internal_repr(params[name]), distribution)
        with self._watch(trial):
            if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                raise InputError(f"another program took trial {trial.number} of {self._where}: stop it, then resume")
        trial.architecture, trial.params, trial.waits = architecture, dict(params), False
        trial.started = self._storage.get_trial(trial_id).datetime_start

    def add_epoch(self, trial: Trial, metrics: Mapping[str, float], *, elapsed_s: float, **hardware: str) -> None:
        """Record the next epoch of a trial, here and in `trial`.

        Args:
            trial: The trial.
            metrics: By name.
            elapsed_s: Seconds of searching, over all resumptions.
            hardware: `device` is the name of the GPU or CPU that trained it, `precision` the number type, if known.
        """
        epoch, trial_id = len(trial.epochs) + 1, self._ids[trial.number]
        row: dict[str, Any] = {"order": self._order, "elapsed_s": round(elapsed_s, 3), **hardware}
        row["metrics"] = dict(metrics)
        with self._watch(trial):
            self._storage.set_trial_system_attr(trial_id, f"{EPOCH}{epoch}", row)
            self._storage.set_trial_intermediate_value(trial_id, epoch, metrics[self.metric.name])
        self._order += 1
        trial.epochs.append(dict(metrics))
        trial.attributes |= hardware

    def end_trial(self, trial: Trial, state: State, reason: str | None, attributes: Mapping[str, Any]) -> None:
        """Record, here and in `trial`, how a trial ended; its value is that of its best epoch."""
        trial_id, known = self._ids[trial.number], trial.attributes | dict(attributes)
        values = None if state is State.FAIL else [trial.get_peak()[0]]
        with self._watch(trial):
            for key, value in known.items():
                self._storage.set_trial_user_attr(trial_id, key, value)
            if reason != trial.reason:  # a kill may have left the same reason without its state
                self._storage.set_trial_user_attr(trial_id, "reason", reason)
            self._storage.set_trial_state_values(trial_id, TrialState[state], values)
        trial.state, trial.reason, trial.attributes, trial.waits = state, reason, known, False
        trial.ended = self._storage.get_trial(trial_id).datetime_complete

    def _thaw(self, frozen: FrozenTrial) -> Trial:
        self._ids[frozen.number] = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, frozen.number)
        trial, rows = read_trial(frozen, self._name(frozen), *self.metric)
        self._order = max([self._order, *(row["order"] + 1 for row in rows)])
        self.elapsed_s = max([self.elapsed_s, *(row["elapsed_s"] for row in rows)])
        return trial

    def _name(self, frozen: FrozenTrial) -> str:
        return f"trial {frozen.number} of {self._where}"

    @contextlib.contextmanager
    def _watch(self, trial: Trial) -> Iterator[None]:
        """Raise a sentence if another program ended a trial that is being trained."""
        try:
            yield
        except TrialEnded:
            what = f"another program ended trial {trial.number} of {self._where} while it was trained"
            raise InputError(f"{what}: stop that program, then resume") from None
