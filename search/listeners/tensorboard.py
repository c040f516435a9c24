"""TensorBoard's event files: a folder per trial with its metrics by epoch and its parameters.

A resumed trial is written again from its first epoch, so that no point is missing or there twice.
"""

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter  # the only writer without queue and thread
from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]  # made by protobuf at import
from tensorboardX.summary import hparams, scalar

from search.record.trial import Listener, State, Trial
from trainables.names import shorten

FINISHED = "finished"
"""File that marks the folder of a completely written trial."""


class EventFiles(Listener):
    """Writes event files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writers: dict[int, Any] = {}

    def write_missing(self, trials: Iterable[Trial]) -> None:
        """Write the ended trials whose files a kill left incomplete, or that ended before event files were enabled."""
        for trial in trials:
            if trial.state is not State.RUNNING and not (self._get_folder(trial) / FINISHED).exists():
                self.on_end(trial)

    def on_start(self, trial: Trial) -> None:
        """Start the trial's file with its recorded epochs."""
        folder = self._get_folder(trial)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._writers[trial.number] = EventsWriter(str(folder / "events"))
        for epoch in range(1, len(trial.epochs) + 1):
            self._add_epoch(trial, epoch)

    def on_epoch(self, trial: Trial) -> None:
        """Write the last epoch."""
        self._add_epoch(trial, len(trial.epochs))
        self._writers[trial.number].flush()

    def on_end(self, trial: Trial) -> None:
        """Write the parameters with the best value of the metric, for the page HPARAMS, and close the file."""
        if trial.number not in self._writers:  # it ended without being handed out after a kill
            self.on_start(trial)
        if trial.epochs:
            known = {"architecture": trial.architecture, "state": trial.state.value, **trial.params}
            # TensorBoard uses the first description of columns for all trials, but a trial has only its own
            # architecture's; without a description TensorBoard collects them from all trials.
            _columns, start, end = hparams(known, {f"best_{trial.metric}": trial.get_peak()[0]})
            self._add(trial, start, 0)
            self._add(trial, end, 0)
            self._add_scalar(trial, f"best_{trial.metric}", *trial.get_peak())
        self._writers.pop(trial.number).close()
        (self._get_folder(trial) / FINISHED).touch()

    def close(self) -> None:
        """Close open files; resuming writes these trials again."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _get_folder(self, trial: Trial) -> Path:
        return self._directory / f"trial-{trial.number:04d}-{shorten(trial.architecture)}"

    def _add_epoch(self, trial: Trial, epoch: int) -> None:
        for name, value in trial.epochs[epoch - 1].items():
            if name != "epoch":
                self._add_scalar(trial, name, value, epoch)

    def _add_scalar(self, trial: Trial, name: str, value: float, epoch: int) -> None:
        self._add(trial, scalar(name, value), epoch)

    def _add(self, trial: Trial, summary: Any, step: int) -> None:
        self._writers[trial.number].write_event(Event(wall_time=time.time(), step=step, summary=summary))
