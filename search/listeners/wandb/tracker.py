"""Weights & Biases: one process has all runs of a study open. No trial waits for it; the end waits some seconds.

Events go through a queue to one thread, which alone opens runs and logs. If online tracking fails, it continues
offline; if that fails too, it ends. Each of these changes is printed in one sentence; no error reaches the search.
"""

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import partial
from typing import Any, Literal, TypeVar

from search.config.schema import StudyConfig
from search.listeners.wandb.runs import (
    EXIT_CODES,
    Target,
    connect,
    disconnect,
    is_dead,
    kill_service,
    log_in,
    open_run,
    open_sweep,
    open_trial,
    summarize,
)
from search.record.trial import Listener, State, Trial

Mode = Literal["auto", "online", "offline", "off"]
T = TypeVar("T")

PATIENCE_S = 5.0
"""Largest number of seconds that `close` waits for W&B."""


class Tracker(Listener):
    """Records each trial as a run; private methods run in its threads."""

    def __init__(self, mode: Mode, target: Target, warn: Callable[[str], None]) -> None:
        self._mode = mode
        self._target = target
        self._warn = warn
        self._lock = threading.Lock()
        self._runs: dict[str | int, Any] = {}
        self._sweep_id: str | None = None
        self._worker = ThreadPoolExecutor(1, "tracking")
        self._finishers: ThreadPoolExecutor | None = None  # exists while W&B's service runs

    def on_start(self, trial: Trial) -> None:
        """Open the trial's run, or continue that of a resumed trial."""
        self._tell(self._start, _copy(trial))

    def on_epoch(self, trial: Trial) -> None:
        """Log the trial's last epoch."""
        self._tell(self._log, _copy(trial))

    def on_end(self, trial: Trial) -> None:
        """Write the run's summary and finish it."""
        self._tell(self._end, _copy(trial))

    def on_evaluation(self, number: int, log: Callable[[Any], None]) -> None:
        """Record an evaluation, the position of which in study.yaml is given from 1, as a run; `log` fills the run."""
        self._tell(partial(self._evaluate, number), log)

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Finish open runs and stop W&B's service; kill it after `patience_s` seconds."""
        done = wait_for([self._worker.submit(self._disconnect)], patience_s).done
        was_off, self._mode = self._mode == "off", "off"
        if not done:
            if not was_off:
                self._warn(f"Weights & Biases takes too long and was stopped; {self._tell_where()}")
            kill_service()  # otherwise its threads keep the interpreter alive
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _tell(self, do: Callable[[T], None], what: T) -> None:
        if self._mode != "off":
            self._worker.submit(do, what).add_done_callback(self._check)

    def _start(self, trial: Trial) -> None:
        self._open(trial.number, lambda **how: open_trial(self._target, trial, **how))

    def _open(self, key: str | int, opening: Callable[..., Any]) -> None:
        import wandb

        while self._mode != "off" and key not in self._runs:
            try:
                if self._finishers is None:
                    self._connect()
                self._runs[key] = opening(is_online=self._mode == "online", sweep_id=self._sweep_id)
            except (wandb.Error, OSError) as error:
                self._fall_back(self._mode, error)
                self._disconnect()  # W&B's service keeps the id of a run that failed to open

    def _connect(self) -> None:
        import wandb

        connect()
        self._finishers = ThreadPoolExecutor(64, "tracking-finish")
        if self._mode == "offline":
            return
        if not log_in():
            if self._mode == "online":
                self._fall_back("online", "no API key is set")
            self._mode = "offline"
            return
        self._mode = "online"
        try:
            self._sweep_id = _hasten(partial(open_sweep, self._target), self._target.timeout_s)
        except wandb.errors.AuthenticationError:
            raise
        except wandb.Error:
            self._sweep_id = None  # a server without sweeps still takes runs; `search sync` tries again

    def _log(self, trial: Trial) -> None:
        metrics = trial.epochs.pop()
        self._start(trial)
        if trial.number in self._runs:
            # Committed at once: otherwise it follows the summary and overwrites the trial's seconds.
            self._runs[trial.number].log(metrics, step=len(trial.epochs) + 1, commit=True)

    def _end(self, trial: Trial) -> None:
        self._start(trial)
        if trial.number in self._runs:
            summarize(self._runs[trial.number], trial)
            self._finish(trial.number, EXIT_CODES[trial.state])

    def _evaluate(self, number: int, log: Callable[[Any], None]) -> None:
        import wandb

        what = f"evaluation-{number}"

        def opening(*, is_online: bool, **_: Any) -> Any:
            name = what.replace("-", " ")
            run = open_run(self._target, what, is_online=is_online, job_type="evaluation", name=name)
            try:
                log(run)
            except (wandb.Error, OSError, ValueError):
                run.finish(1)
                raise
            return run

        self._open(what, opening)
        if what in self._runs:
            self._finish(what, 0)

    def _finish(self, key: str | int, exit_code: int) -> None:
        assert self._finishers is not None
        run = self._runs.pop(key)
        future = self._finishers.submit(run.finish, exit_code)
        future.add_done_callback(partial(self._check, mode="offline" if run.offline else "online"))

    def _disconnect(self) -> None:
        if self._finishers is not None:
            for key in list(self._runs):
                self._finish(key, EXIT_CODES[State.RUNNING])
            self._finishers.shutdown()
            self._finishers = None
            disconnect()

    def _check(self, future: Future[None], mode: Mode | None = None) -> None:
        if not future.cancelled() and (error := future.exception()):
            self._fall_back(mode or self._mode, error)

    def _fall_back(self, mode: Mode, error: BaseException | str) -> None:
        with self._lock:
            if mode != self._mode or mode == "off":  # already reported, or closed
                return
            self._mode = "off" if mode == "offline" or is_dead(error) else "offline"
        if is_dead(error):
            self._warn(f"Weights & Biases: its service died; tracking ends; {self._tell_where()}")
            return
        reason = str(error).partition("\n")[0] or type(error).__name__
        ending = "tracking ends" if self._mode == "off" else f"tracking continues offline; {self._tell_where()}"
        self._warn(f"Weights & Biases: {reason}; {ending}")

    def _tell_where(self) -> str:
        return f"`python -m search sync {self._target.config.location}` uploads what is missing"


def build_tracker(config: StudyConfig, identity: str, warn: Callable[[str], None]) -> Tracker:
    """Build the listener that records each trial as a W&B run.

    Args:
        config: The study. Its `tracking.mode` auto is online if a key is set (environment, netrc or W&B's settings),
            else offline; off does nothing.
        identity: The id in its study.yaml.
        warn: Receives a sentence when tracking continues offline or ends; called from any thread.
    """
    target = Target(config=config, identity=identity, files=config.directory)
    return Tracker(config.tracking.mode, target, warn)


def _copy(trial: Trial) -> Trial:
    return dataclasses.replace(trial, epochs=list(trial.epochs))


def _hasten(work: Callable[[], T], timeout_s: float) -> T:
    """Return the result of the work; abandon it after too long.

    Raises:
        TimeoutError: If it takes too long.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 the waiting thread raises it again
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(timeout_s)
    except TimeoutError:
        raise TimeoutError(f"no answer within {timeout_s:g} seconds") from None
