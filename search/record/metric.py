"""The metric by which a study compares its trials, as the journal has it: Optuna's metric name and direction."""

from typing import NamedTuple

from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from search.config.fields import MetricName
from search.config.load import check
from trainables.errors import InputError

ACCURACY = "accuracy"
"""The metric of a journal that names none, because an early version wrote it."""
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
    """Return the metric by which a study compares its trials.

    Raises:
        InputError: If its record is damaged; `where` names the study.
    """
    names = storage.get_study_system_attrs(study_id).get(METRIC_NAMES, [ACCURACY])
    (name,) = check(tuple[MetricName], names, f"the metric of {where}")
    return Metric(name, -1 if storage.get_study_directions(study_id) == [StudyDirection.MINIMIZE] else 1)


def record_metric(storage: BaseStorage, study: str, metric: Metric) -> None:
    """Create a study with its metric if it is missing; compare the metric with the recorded one if it has trials.

    Raises:
        InputError: If the study has values of another metric, or another goal.
    """
    if study not in [frozen.study_name for frozen in storage.get_all_studies()]:
        storage.create_new_study([metric.direction], study)
    study_id = storage.get_study_id_from_name(study)
    if METRIC_NAMES not in storage.get_study_system_attrs(study_id) and not storage.get_n_trials(study_id):
        storage.set_study_system_attr(study_id, METRIC_NAMES, [metric.name])
    recorded = read_metric(storage, study_id, f"the study {study}")
    if recorded != metric:
        told = [f"{name} (the {'smallest' if sign < 0 else 'largest'} is best)" for name, sign in (recorded, metric)]
        raise InputError(f"the study {study} compares by {told[0]}, not by {told[1]}: undo that, or use another --name")
