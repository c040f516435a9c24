"""Weights & Biases: one process holds the runs of all trials, and the search never waits for it.

What the tracker is told goes through a queue to a thread that alone opens runs and logs. What cannot be tracked online
is tracked offline, and where that fails too tracking ends; either is said in one sentence, nothing is ever raised.
"""

import dataclasses
import logging
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import partial
from pathlib import Path
from typing import Any, Literal

from search.journal import State, Trial

Mode = Literal["auto", "online", "offline", "off"]

PATIENCE_S = 5.0
"""Longest wait for W&B in all; it happens in `close`."""
SERVER_TIMEOUT_S = 3.0
"""Longest time that the server may take to open a run, or to take in the rest of one that ends."""
FREE_BYTES = 16 * 2**20
"""Where the disk has less than this left tracking ends, because W&B's own process drops data without a word."""
EXIT_CODES = {State.COMPLETE: 0, State.PRUNED: 0, State.FAIL: 1, State.RUNNING: 255}
"""W&B shows 0 as finished, 1 as failed and 255 as killed, which is what an interrupted search leaves."""
SETTINGS = {
    "silent": True,
    "console": "off",
    "symlink": False,
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": 1.0,  # what a kill can lose of a run's file; W&B's default is 15 s
    "init_timeout": SERVER_TIMEOUT_S,
    "finish_timeout": SERVER_TIMEOUT_S,
    "finish_timeout_raises": True,
    "stop_fn": lambda: None,  # by default the stop button of one run interrupts the whole search
}
"""Of every run: no output, and nothing gathered beside what is logged."""


class Tracker:
    """Listener that makes a run of each trial; the methods with an underscore run in its threads."""

    def __init__(self, mode: Mode, *, study: str, project: str, directory: Path, warn: Callable[[str], None]) -> None:
        self._mode = mode
        self._study = study
        self._project = project
        self._directory = directory
        self._warn = warn
        self._lock = threading.Lock()
        self._runs: dict[int, Any] = {}
        self._worker = ThreadPoolExecutor(1, "tracking")
        self._finishers: ThreadPoolExecutor | None = None  # there is one while W&B's own process lives

    def on_start(self, trial: Trial) -> None:
        """Open the trial's run; a resumed trial's is continued."""
        self._tell(self._start, trial)

    def on_epoch(self, trial: Trial) -> None:
        """Log the trial's last epoch."""
        self._tell(self._log, trial)

    def on_end(self, trial: Trial) -> None:
        """Write the run's summary and finish it."""
        self._tell(self._end, trial)

    def close(self) -> None:
        """Finish what is open and stop W&B's own process."""
        if not wait_for([self._worker.submit(self._disconnect)], PATIENCE_S).done:
            self._warn(f"Weights & Biases takes too long; {self._directory / 'wandb'} keeps what it did not take in")
        self._mode = "off"
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _tell(self, do: Callable[[Trial], None], trial: Trial) -> None:
        if self._mode != "off":
            snapshot = dataclasses.replace(trial, epochs=list(trial.epochs))
            self._worker.submit(do, snapshot).add_done_callback(self._check)

    def _start(self, trial: Trial) -> None:
        import wandb

        while self._mode != "off" and trial.number not in self._runs:
            try:
                if self._finishers is None:
                    self._connect()
                self._runs[trial.number] = self._open(trial)
            except (wandb.Error, OSError) as error:
                self._fall_back(self._mode, error)
                self._disconnect()  # W&B's process takes the id of a run that failed to open as in use

    def _connect(self) -> None:
        import wandb

        logging.getLogger("wandb").setLevel(logging.CRITICAL)  # its debug.log, and tracebacks where the disk is full
        wandb.setup(wandb.Settings(silent=True))
        self._finishers = ThreadPoolExecutor(64, "tracking-finish")
        if self._mode == "offline":
            return
        if wandb.login(prompt=False, verify=False):
            self._mode = "online"
        else:
            if self._mode == "online":
                self._fall_back("online", "no API key is set")
            self._mode = "offline"

    def _open(self, trial: Trial) -> Any:
        import wandb

        self._directory.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(self._directory).free) < FREE_BYTES:
            raise OSError(f"{free / 2**20:.1f} MiB are free on the disk of {self._directory}")
        run = wandb.init(
            project=self._project,
            group=self._study,
            job_type="trial",
            id=re.sub(r"[^\w.-]", "_", f"{self._study}-{trial.number:04d}"),
            name=f"trial {trial.number} {trial.architecture}",
            tags=[trial.architecture],
            config={"architecture": trial.architecture, **trial.params},
            dir=self._directory,
            mode="online" if self._mode == "online" else "offline",
            reinit="create_new",
            resume="allow" if trial.epochs else None,
            settings=SETTINGS,
        )
        run.define_metric("*", step_metric="epoch")
        run.define_metric("accuracy", step_metric="epoch", summary="max")
        run.define_metric("loss", step_metric="epoch", summary="min")
        if not run.offline:  # the server says how far it got before the search was cut
            for epoch in range(max(run.starting_step, 1), len(trial.epochs) + 1):
                run.log(trial.epochs[epoch - 1], step=epoch)
        return run

    def _log(self, trial: Trial) -> None:
        metrics = trial.epochs.pop()
        self._start(trial)
        if trial.number in self._runs:
            self._runs[trial.number].log(metrics, step=len(trial.epochs) + 1)

    def _end(self, trial: Trial) -> None:
        self._start(trial)
        if trial.number in self._runs:
            summary = {"state": trial.state.value, "reason": trial.reason, **trial.attributes}
            if trial.epochs:
                summary["best_accuracy"] = max(metrics["accuracy"] for metrics in trial.epochs)
            self._runs[trial.number].summary.update(summary)
            self._finish(trial.number, trial.state)

    def _finish(self, number: int, state: State) -> None:
        assert self._finishers is not None
        run = self._runs.pop(number)
        future = self._finishers.submit(run.finish, EXIT_CODES[state])
        future.add_done_callback(partial(self._check, mode="offline" if run.offline else "online"))

    def _disconnect(self) -> None:
        if self._finishers is not None:
            import wandb

            for number in list(self._runs):
                self._finish(number, State.RUNNING)
            self._finishers.shutdown()
            self._finishers = None
            wandb.teardown()

    def _check(self, future: Future[None], mode: Mode | None = None) -> None:
        if not future.cancelled() and (error := future.exception()):
            self._fall_back(mode or self._mode, error)

    def _fall_back(self, mode: Mode, error: BaseException | str) -> None:
        with self._lock:
            if mode != self._mode or mode == "off":  # said already, or closed
                return
            self._mode = "off" if mode == "offline" else "offline"
        reason = str(error).partition("\n")[0] or type(error).__name__
        ending = "ends" if self._mode == "off" else f"goes on offline in {self._directory / 'wandb'}"
        self._warn(f"Weights & Biases: {reason}; tracking {ending}")


def build_tracker(mode: Mode, *, study: str, project: str, directory: Path, warn: Callable[[str], None]) -> Tracker:
    """Build the listener that makes a W&B run of each trial.

    Args:
        mode: auto is online where a key is set (environment, netrc or W&B's settings), else offline; off does nothing.
        study: Group of the runs and first part of their ids.
        project: W&B project.
        directory: The study's folder; the runs' files lie in wandb/ under it.
        warn: Takes one sentence when tracking goes on offline or ends; called from any thread.
    """
    return Tracker(mode, study=study, project=project, directory=directory, warn=warn)
