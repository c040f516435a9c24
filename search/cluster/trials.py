"""The trials of a study as jobs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from search.cluster.job import Failure, Finished, Job, Report
from search.config.schema import StudyConfig
from search.record.requests import Inbox
from search.record.trial import Trial
from search.study import Study
from trainables.seed import derive_seed


class Trials:
    """A study as a source of jobs."""

    def __init__(self, study: Study, make_job: Callable[[Trial], Job], inbox: Inbox | None) -> None:
        self._study = study
        self._make_job = make_job
        self._inbox = inbox

    @property
    def halt_reason(self) -> str | None:
        """Why no trial may continue, or None."""
        return self._study.halt_reason

    def ask(self) -> Job | None:
        """Hand out the next trial."""
        trial = self._study.ask()
        return None if trial is None else self._make_job(trial)

    def report(self, number: int, message: Report | Finished) -> bool:
        """Record an epoch and return whether the trial ends with it."""
        if isinstance(message, Finished):
            self._study.complete(number)
            return True
        return self._study.report(number, message.metrics, message.device, message.precision)

    def fail(self, number: int, failure: Failure) -> None:
        """Record that a trial failed."""
        self._study.fail(number, failure.reason, failure.traceback or None)

    def take_requests(self) -> set[int]:
        """Record new requests, and return the numbers of the trials that they end."""
        ended = set()
        for name, request in self._inbox.take() if self._inbox else ():
            if request.ask is not None:
                self._study.enqueue(request.ask, name)
            elif request.trial is None:
                self._study.stop(name)
            elif self._study.stop_trial(request.trial):
                ended.add(request.trial)
        return ended


def build_job(
    config: StudyConfig, trial: Trial, packed: Path | None, checkpoint: Path, *, manifest: Mapping[str, Any], key: bytes
) -> Job:
    """Return the job of a trial.

    Args:
        config: The study.
        trial: As recorded.
        packed: Folder of the packed images; None for a training function of the user.
        checkpoint: File of the trial's newest checkpoint, which need not exist.
        manifest: Its study.yaml.
        key: Key that signs the checkpoints of a training function; else empty.
    """
    granted = config.get_resources(trial.architecture)
    return Job(
        label=f"trial-{trial.number}",
        number=trial.number,
        architecture=trial.architecture,
        params=trial.params,
        seed=derive_seed(config.search.seed, f"trial {trial.number}"),
        max_epochs=config.search.count_epochs(trial.architecture),
        epochs=config.search.count_epochs(trial.architecture),
        metric=config.search.metric,
        epochs_done=len(trial.epochs),
        key=key,
        code=config.code,
        own_hashes=manifest["code"].get("own", {}),
        pack=None if packed is None else str(packed.resolve()),
        val_fraction=config.data.val_fraction,
        max_train_images=config.data.max_train_images,
        split_seed=config.search.seed,
        checkpoint=str(checkpoint) if config.url is None else f"{config.working_folder}/checkpoints/{checkpoint.name}",
        url=config.url,
        cpus=granted.cpus,
        gpus=granted.gpus,
        precision=trial.attributes.get("precision"),
    )
