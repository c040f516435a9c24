"""The checkpoints of trials under way: one file each and the one before, deleted when the trial ends.

So a study never holds more than two checkpoints, and one being written, per trial that runs or waits to be resumed.
Winners are retrained, so an ended trial's weights are of no use to anybody.
"""

from pathlib import Path

from search.record.checkpoints import delete_files
from search.record.journal import State, Trial


class Checkpoints:
    """Listener that deletes what an ended trial leaves."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get_path(self, number: int) -> Path:
        """Return the file of a trial's newest checkpoint."""
        return self._directory.resolve() / f"trial-{number}.ckpt"

    def sweep(self, trials: list[Trial]) -> None:
        """Delete what a kill between a trial's end and the deletion left."""
        for trial in trials:
            if trial.state is not State.RUNNING:
                self.on_end(trial)

    def on_start(self, trial: Trial) -> None:
        """The worker writes the file."""

    def on_epoch(self, trial: Trial) -> None:
        """The worker has written the file."""

    def on_end(self, trial: Trial) -> None:
        """Delete the trial's checkpoint, the one before, and a half-written one."""
        delete_files(self.get_path(trial.number))

    def close(self) -> None:
        """Delete the folder if nothing is left in it."""
        if self._directory.is_dir() and not any(self._directory.iterdir()):
            self._directory.rmdir()
