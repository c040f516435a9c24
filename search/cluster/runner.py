"""Runs a study on Ray Tune: Tune places, starts and reuses the workers, the study decides.

Tune asks its searcher for configurations, its scheduler after each result and its stopper between events; all three
are the study. Nothing of Tune's own state outlives the run: the journal does.
"""

import contextlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Self

import ray
from ray import cloudpickle, tune
from ray.tune import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from search.cluster.agreement import NodeError
from search.cluster.job import Failure, Report, Task
from search.cluster.losses import is_node_lost
from search.cluster.signals import Interrupted, watch_signals
from search.cluster.tune_patches import count_every_loss, count_resets, take_waiting_workers, unwrap
from search.record.trial import State, Trial
from search.study import Study
from trainables.errors import TrainingError

MakeTask = Callable[[Trial], Task]
Work = Callable[[Task], Iterator[Report | Failure]]


def run_study(study: Study, work: Work, make_task: MakeTask, *, slots: int) -> str | None:
    """Train trials until the study has no more to hand out.

    Args:
        study: Decides everything.
        work: What a worker does with a task, such as search.run.run_task; anything picklable.
        make_task: Says what a worker needs to know of a trial.
        slots: Trials at a time.

    Returns:
        Why the study halted before all of its trials had ended, or None.

    Raises:
        Interrupted: After Ctrl-C, SIGTERM or SIGHUP; trials under way stay as recorded, to be handed out on resuming.
        TrainingError: If Tune lost a trial, which it should not; likewise.
        NodeError: If a node turned out to be none that trials may run on; likewise.
    """

    class Worker(tune.Trainable):
        """Pulls a message a step; nested, so that it travels to the workers whole."""

        def setup(self, config: dict[str, Any]) -> None:
            self._messages = work(config["task"])

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            message = next(self._messages, None)
            return {"done": True} if message is None else {"message": message}

        def cleanup(self) -> None:
            if isinstance(self._messages, Generator):  # which has a trial's last words, such as deleting its checkpoint
                self._messages.close()

    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="cifake-search-"))
        pressed = stack.enter_context(watch_signals())
        stack.enter_context(unwrap())
        stack.enter_context(count_every_loss())
        stack.enter_context(count_resets())
        if study.config.cluster.address == "local":
            stack.enter_context(take_waiting_workers())
        stopping = _Stopping(study)
        tune.Tuner(
            tune.with_resources(Worker, lambda config: PlacementGroupFactory([config["bundle"]])),
            tune_config=tune.TuneConfig(
                search_alg=_Proposals(study, make_task),
                scheduler=stopping,
                num_samples=-1,
                max_concurrent_trials=slots,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=study.config.name,
                storage_path=scratch,
                stop=_Halting(study, pressed, stopping),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=-1),  # counted below, where lost nodes are not
                verbose=0,
            ),
        ).fit()
    if pressed:
        raise Interrupted(pressed[0])
    if study.is_finished:
        return None
    if (reason := study.halt_reason) is None:
        left = [str(trial.number) for trial in study.trials if trial.state is State.RUNNING]
        which = f"trial {', '.join(left)}" if left else "more trials"
        raise TrainingError(f"Ray ended the search before {which} had ended; --resume goes on")
    study.halt(reason)
    return reason


class _Driver:
    """Stays in the driver's process: Tune's snapshots, which nobody reads, hold an empty shell of it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object.__new__, (type(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class _Proposals(_Driver, Searcher):
    """Tune's view of `Study.ask`."""

    def __init__(self, study: Study, make_task: MakeTask) -> None:
        super().__init__()
        self._study = study
        self._make_task = make_task

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002 Tune's name
        trial = self._study.ask()
        if trial is None:
            return Searcher.FINISHED
        granted = self._study.config.get_resources(trial.architecture)
        bundle = {"CPU": granted.cpus, "GPU": granted.gpus}
        return {"task": self._make_task(trial), "number": trial.number, "bundle": bundle}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: whatever ended the trial has told the study."""

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the journal holds the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the journal holds the state."""


class _Stopping(_Driver, FIFOScheduler):
    """Tune's view of `Study.report`; counts how often a trial's worker broke down."""

    def __init__(self, study: Study) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Tune's own
        self._study = study
        self._errors_seen: dict[str, int] = {}
        self._breakdowns: Counter[str] = Counter()
        self._heard: dict[str, float] = {}
        self._ended: list[Any] = []
        self._controller: Any = None

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Tune calls this in each of its steps: the place to look for trials that hang or broke down.

        None is chosen: Tune starts those that wait by itself, and FIFO would look at all that there ever were.
        """
        self._controller = tune_controller
        self._shrink_ended()
        timeout_s = self._study.config.search.trial_timeout_s or math.inf
        for trial in list(tune_controller.get_live_trials()):  # ending one changes Tune's own set
            if trial.status != "RUNNING":
                self._heard.pop(trial.trial_id, None)
            elif time.monotonic() - self._heard.setdefault(trial.trial_id, time.monotonic()) > timeout_s:
                trial.max_failures = 0  # so that Tune does not start it again
                ray.kill(trial.temporary_state.ray_actor)
                self._study.fail(trial.config["number"], f"no epoch within {timeout_s:g} seconds")
                self._heard[trial.trial_id] = math.inf
            if trial.num_failures > self._errors_seen.get(trial.trial_id, 0):
                self._errors_seen[trial.trial_id] = trial.num_failures
                self._judge(tune_controller, trial)

    def _shrink_ended(self) -> None:
        """Empty the trials that ended: Tune holds every one to the search's end, and then writes all of them down."""
        for trial in self._ended:
            known = trial.run_metadata
            for content in (trial.config, trial.evaluated_params, known.last_result, known.metric_analysis):
                content.clear()
            known.metric_n_steps.clear()
            self._heard.pop(trial.trial_id, None)
        self._ended.clear()

    def kill_workers(self) -> None:
        """End every worker amid its epoch, which Tune would wait for; what it finished is in its checkpoint."""
        for trial in self._controller.get_live_trials():
            if trial.temporary_state.ray_actor is not None:
                ray.kill(trial.temporary_state.ray_actor)

    def _judge(self, tune_controller: Any, trial: Any) -> None:
        """End a trial whose worker broke down too often; a node that vanished is not the trial's fault."""
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        if isinstance(error, NodeError):  # no trial's fault, and the next trial there would meet it too
            raise NodeError(str(error.args[0]))  # without what Ray adds
        if is_node_lost(error):
            return
        self._breakdowns[trial.trial_id] += 1
        times = self._breakdowns[trial.trial_id]
        if times > self._study.config.search.max_failures:
            text = str(error)
            last_line = text.strip().splitlines()[-1]
            self._study.fail(trial.config["number"], f"its worker broke down {times} times, last: {last_line}", text)
            tune_controller.stop_trial(trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002 Tune's
        if "message" not in result:  # the work ended without the study's having ended the trial
            return str(TrialScheduler.STOP)
        self._heard[trial.trial_id] = time.monotonic()
        message: Report | Failure = result["message"]
        number: int = trial.config["number"]
        if isinstance(message, Failure) and message.disk_fault is not None:
            raise OSError(message.disk_fault, f"trial {number}: {message.reason}")
        if isinstance(message, Failure):
            self._study.fail(number, message.reason, message.traceback or None)
            stop = True
        else:
            stop = self._study.report(number, message.metrics, message.device)
        if stop:
            self._ended.append(trial)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class _Halting(_Driver, Stopper):
    """Tune's view of a study that halts, or of a user who wants it to."""

    def __init__(self, study: Study, pressed: list[int], stopping: _Stopping) -> None:
        self._study = study
        self._pressed = pressed
        self._stopping = stopping

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 Tune's names
        return False

    def stop_all(self) -> bool:
        if not self._pressed and self._study.halt_reason is None:
            return False
        self._stopping.kill_workers()
        return True
