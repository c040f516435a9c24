"""Adapters between a source of jobs and Ray Tune: a searcher, a scheduler and a stopper.

Tune calls each job a trial, even those of an evaluation. It asks its searcher for configurations, its scheduler after
each result, and its stopper between events.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self

import ray
from ray import cloudpickle
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from search.cluster.job import Failure, Finished, Job, JobSource, NodeError, Report
from trainables.errors import InputError


class _Driver:
    """Stays in the driver's process: Tune's snapshots, which nothing reads, contain an empty object instead of it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object.__new__, (type(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class SearcherAdapter(_Driver, Searcher):
    """Tune's view of `JobSource.ask`."""

    def __init__(self, source: JobSource, look: Callable[[], Collection[int]]) -> None:
        super().__init__()
        self._source = source
        self._look = look
        self._live: set[str] = set()
        self._is_over = False

    def suggest(self, trial_id: str) -> Any:
        """Return the next job as a configuration for Tune, or that none will come.

        While jobs run, a request may add another one: then the answer is that there is none now.
        """
        job = self._source.ask()
        if job is None:
            self._is_over = not self._live
            return Searcher.FINISHED if self._is_over else None
        self._live.add(trial_id)
        return {"job": job, "bundle": {"CPU": job.cpus, "GPU": job.gpus}}

    def look(self) -> Collection[int]:
        """Take in requests as long as jobs may come; return the numbers of the jobs that they end."""
        return () if self._is_over else self._look()

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,  # noqa: ARG002 Tune's names
        error: bool = False,  # noqa: ARG002
    ) -> None:
        """Note that a job no longer runs; the source knows it already."""
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the source keeps the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the source keeps the state."""


class SchedulerAdapter(_Driver, FIFOScheduler):
    """Tune's view of `JobSource.report` and `JobSource.fail`; counts how often the worker of a job broke down."""

    def __init__(
        self, source: JobSource, proposals: SearcherAdapter, *, max_failures: int, timeout_s: float | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Tune's own
        self._source = source
        self._max_failures = max_failures
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self._proposals = proposals
        self._doomed: set[int] = set()  # jobs that a request ended
        self._errors_seen: dict[str, int] = {}
        self._breakdowns: Counter[str] = Counter()
        self._heard: dict[str, float] = {}
        self._ended: list[Trial] = []
        self._controller: Any = None

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Look for jobs that hang, were ended, or whose worker broke down; Tune calls this in each of its steps.

        It chooses no job: Tune starts waiting jobs by itself, and FIFO would search the list of all jobs so far.
        """
        self._controller = tune_controller
        self._shrink_ended()
        self._doomed |= set(self._proposals.look())
        for trial in list(tune_controller.get_live_trials()):  # ending one changes Tune's own set
            if trial.status != "RUNNING":
                self._heard.pop(trial.trial_id, None)
            elif time.monotonic() - self._heard.setdefault(trial.trial_id, time.monotonic()) > self._timeout_s:
                self._kill(trial)
                self._fail(trial, Failure(f"no epoch within {self._timeout_s:g} seconds", ""))
            elif self._doomed and trial.config["job"].number in self._doomed:
                self._doomed.remove(trial.config["job"].number)
                self._kill(trial)
            if trial.num_failures > self._errors_seen.get(trial.trial_id, 0):
                self._errors_seen[trial.trial_id] = trial.num_failures
                self._judge(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:  # noqa: ARG002 Tune's
        """Give a message to the source and return whether the job ends."""
        if "message" not in result:  # the work ended before the source ended the job
            return str(TrialScheduler.STOP)
        self._heard[trial.trial_id] = time.monotonic()
        message: Report | Finished | Failure = result["message"]
        job: Job = trial.config["job"]
        if isinstance(message, Failure):
            if message.disk_fault is not None:
                raise OSError(message.disk_fault, f"{job.label}: {message.reason}")
            if message.blames_function:
                raise InputError(f"{job.label}: {message.reason}")
            self._fail(trial, message)
            stop = True
        else:
            stop = self._source.report(job.number, message)
        if stop:
            self._ended.append(trial)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def kill_workers(self) -> None:
        """End every worker during its epoch, because Tune would wait for it; finished epochs are in its checkpoint."""
        for trial in self._controller.get_live_trials():
            if trial.temporary_state.ray_actor is not None:
                ray.kill(trial.temporary_state.ray_actor)

    def _kill(self, trial: Trial) -> None:
        """End the worker of a job, so that Tune does not start it again."""
        trial.max_failures = 0
        if trial.temporary_state.ray_actor is not None:
            ray.kill(trial.temporary_state.ray_actor)
        self._heard[trial.trial_id] = math.inf

    def _judge(self, tune_controller: Any, trial: Trial) -> None:
        """End a job whose worker broke down too often; a node that vanished does not count."""
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        if isinstance(error, NodeError):  # the next job on that node would get the same error
            raise NodeError(str(error.args[0]))  # without what Ray adds
        if is_node_lost(error):
            return
        self._breakdowns[trial.trial_id] += 1
        times = self._breakdowns[trial.trial_id]
        if times > self._max_failures:
            text = str(error)
            last_line = text.strip().splitlines()[-1]
            reason = f"its worker broke down {times} times, last: {last_line}"
            self._fail(trial, Failure(reason, text, is_breakdown=True))
            tune_controller.stop_trial(trial)

    def _fail(self, trial: Trial, failure: Failure) -> None:
        self._source.fail(trial.config["job"].number, failure)

    def _shrink_ended(self) -> None:
        """Empty the jobs that ended: Tune keeps each until the run ends, and then writes all of them to disk."""
        for trial in self._ended:
            known = trial.run_metadata
            for content in (trial.config, trial.evaluated_params, known.last_result, known.metric_analysis):
                content.clear()
            known.metric_n_steps.clear()
            self._heard.pop(trial.trial_id, None)
        self._ended.clear()


class StopperAdapter(_Driver, Stopper):
    """Tune's view of a source that halts, and of a signal that ends the run."""

    def __init__(self, source: JobSource, pressed: list[int], stopping: SchedulerAdapter) -> None:
        self._source = source
        self._pressed = pressed
        self._stopping = stopping

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 Tune's names
        """Stop no job by itself."""
        return False

    def stop_all(self) -> bool:
        """Return whether the run ends now; then end its workers."""
        if not self._pressed and self._source.halt_reason is None:
            return False
        self._stopping.kill_workers()
        return True


def is_node_lost(error: Exception) -> bool:
    """Return whether a worker was lost with its node: a spot instance was taken back, power or network failed.

    A node that shuts down in good order sends SIGTERM to its processes, and the driver may learn of the worker's end
    before the node's. A training that crashes ends by another signal; if memory is short, Ray and the kernel send
    SIGKILL. If a daemon frees memory by SIGTERM, its trials are restarted without end.
    """
    if not isinstance(error, ray.exceptions.RayActorError):
        return False
    text = str(error)
    signs = ("node has died", "node was terminated", "receives a SIGTERM")
    return isinstance(error, ray.exceptions.ActorUnavailableError) or error.preempted or any(s in text for s in signs)
