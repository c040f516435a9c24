"""Runs jobs on Ray Tune: Tune places, starts and reuses the workers, the source of the jobs makes all decisions.

None of Tune's own state is kept after the run: the source has recorded all facts.
"""

import tempfile
from collections.abc import Callable, Collection, Generator
from typing import Any

from ray import tune

from search.cluster.job import Job, JobSource, Work
from search.cluster.signals import Interrupted, watch_signals
from search.cluster.trials import Trials
from search.cluster.tune_adapters import SchedulerAdapter, SearcherAdapter, StopperAdapter
from search.cluster.tune_patches import patch_tune
from search.config.schema import StudyConfig
from search.record.requests import Inbox
from search.record.trial import State, Trial
from search.study import Study
from trainables.errors import TrainingError


def run_study(
    study: Study, work: Work, make_job: Callable[[Trial], Job], *, slots: int, inbox: Inbox | None = None
) -> str | None:
    """Train trials, as many at a time as there are slots, until the study hands out no more.

    Args:
        study: Makes all decisions.
        work: Runs a trial in a worker.
        make_job: Returns the job of a trial.
        slots: Number of trials at a time.
        inbox: Requests to the search.

    Returns:
        Why the study halted before all of its trials had ended, or None.

    Raises:
        TrainingError: If Tune lost a trial; unfinished trials stay as recorded, and resuming continues them.
        Exception: As `run_jobs`; the trials stay as recorded too.
    """
    trials, timeout_s = Trials(study, make_job, inbox), study.config.search.trial_timeout_s
    run_jobs(trials, work, study.config, slots=slots, timeout_s=timeout_s, look=trials.take_requests)
    if study.is_over:
        return None
    if (reason := study.halt_reason) is None:
        left = [str(trial.number) for trial in study.trials if trial.state is State.RUNNING]
        which = f"trial {', '.join(left)}" if left else "more trials"
        raise TrainingError(f"Ray ended the search before {which} had ended; --resume continues it")
    study.halt(reason)
    return reason


def run_jobs(
    source: JobSource,
    work: Work,
    config: StudyConfig,
    *,
    slots: int,
    timeout_s: float | None = None,
    look: Callable[[], Collection[int]] = tuple,
) -> None:
    """Run the jobs of a source until there are no more, or it halts.

    Args:
        source: Makes all decisions.
        work: Runs a job in a worker.
        config: The study.
        slots: Number of jobs at a time; jobs that fit on no node yet wait for one.
        timeout_s: Seconds without a message after which a job fails; None waits for ever.
        look: Called repeatedly while jobs may come; returns the numbers of the jobs that must end without a message.

    Raises:
        Interrupted: After Ctrl-C, SIGTERM or SIGHUP.
        NodeError, OSError: If no job may run on one of the nodes; if a disk failed or is full.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cifake-search-") as scratch,
        watch_signals() as pressed,
        patch_tune(is_local=config.cluster.address == "local"),
    ):
        proposals = SearcherAdapter(source, look)
        stopping = SchedulerAdapter(source, proposals, max_failures=config.search.max_failures, timeout_s=timeout_s)
        tune.Tuner(
            tune.with_resources(_build_worker(work), lambda config: tune.PlacementGroupFactory([config["bundle"]])),
            tune_config=tune.TuneConfig(
                search_alg=proposals,
                scheduler=stopping,
                num_samples=-1,
                max_concurrent_trials=slots,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=config.name,
                storage_path=scratch,
                stop=StopperAdapter(source, pressed, stopping),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=-1),  # ours counts failures, without lost nodes
                verbose=0,
            ),
        ).fit()
    if pressed:
        raise Interrupted(pressed[0])


def _build_worker(work: Work) -> type[tune.Trainable]:
    class Worker(tune.Trainable):
        """Pulls one message a step. It is a nested class, so that its code is sent to the workers."""

        def setup(self, config: dict[str, Any]) -> None:
            self._messages = work(config["job"])

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            message = next(self._messages, None)
            return {"done": True} if message is None else {"message": message}

        def cleanup(self) -> None:
            if isinstance(self._messages, Generator):  # its last step may be to delete the checkpoint
                self._messages.close()

    return Worker
