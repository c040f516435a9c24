"""What a study compares its trials by, as its journal has it: Optuna's metric name, and Optuna's direction."""

from typing import NamedTuple

from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from search.config.fields import MetricName
from search.config.load import check
from trainables.errors import InputError

ACCURACY = "accuracy"
"""The metric of a journal that names none: an early version wrote it."""
METRIC_NAMES = "study:metric_names"
"""System attribute in which Optuna's `set_metric_names` stores the name of the metric."""


class Metric(NamedTuple):
    """A validation metric and its goal."""

    name: str = ACCURACY
    sign: int = 1
    """1 if larger values are better, -1 if smaller ones are."""

    @property
    def direction(self) -> StudyDirection:
        """Optuna's direction."""
        return StudyDirection.MINIMIZE if self.sign < 0 else StudyDirection.MAXIMIZE


BY_ACCURACY = Metric()


def read_metric(storage: BaseStorage, study_id: int, where: str) -> Metric:
    """Return what a study compares by.

    Raises:
        InputError: If its record is damaged; `where` names the study.
    """
    names = storage.get_study_system_attrs(study_id).get(METRIC_NAMES, [ACCURACY])
    (name,) = check(tuple[MetricName], names, f"the metric of {where}")
    return Metric(name, -1 if storage.get_study_directions(study_id) == [StudyDirection.MINIMIZE] else 1)


def record_metric(storage: BaseStorage, study_id: int, metric: Metric, where: str) -> None:
    """Record the metric of a study that has no trial yet, or compare it with the recorded one.

    Raises:
        InputError: If the study has values of another metric, or another goal; `where` names the study.
    """
    known = storage.get_study_system_attrs(study_id)
    if METRIC_NAMES not in known and not storage.get_n_trials(study_id):
        storage.set_study_system_attr(study_id, METRIC_NAMES, [metric.name])
    recorded = read_metric(storage, study_id, where)
    if recorded != metric:
        told = [f"{name} (the {'smallest' if sign < 0 else 'largest'} is best)" for name, sign in (recorded, metric)]
        raise InputError(f"{where} compares by {told[0]}, not by {told[1]}: undo that, or use another --name")
